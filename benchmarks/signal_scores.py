"""Numbers that say whether a multi-beat record holds together, and a judge of texture. Real records give the floor.

heart rate        60 / mean RR [1/min]
RR variation      sd / mean of a record's RR intervals
beat correlation  mean correlation of a record's normal beats (-.25 to .4 s around R) with their average
R ratio           90 % / 10 % quantile of |R| over a record's normal beats, in the lead with the largest R
spectrum          mean |log10 ratio| of the power spectra of two sets of records, above .7 Hz
judge             AUC of a logistic regression on random-convolution features (ROCKET-like), real against synthetic
"""

from __future__ import annotations

import numpy as np

from cohortloom.codec.beats import averaged_beats, find_beats, template_grid
from cohortloom.cohort import SignalSet

__all__ = ["coherence", "features", "judge", "per_record", "quantile_distance", "spectrum_gap"]


def per_record(signals: SignalSet, channels: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
    """Heart rate, RR variation, beat correlation and R ratio of each record (NaN where there are too few beats).

    Beats are detected from the samples alone: annotations, which a generator writes itself, are not looked at.
    """
    channels = channels or tuple(range(len(signals.spec.channels)))
    bare = SignalSet(signals.spec, signals.records, signals.samples)
    beats, fs = find_beats(bare, channels), signals.spec.fs
    n = len(beats.count)
    real = beats.real[:, 1:]
    rr = np.where(real, np.diff(beats.place, axis=1) / fs, np.nan)
    enough = beats.count >= 4
    with np.errstate(all="ignore"):
        rate = np.where(enough, 60 / np.nanmean(np.where(enough[:, None], rr, 1.0), axis=1), np.nan)
        variation = np.where(enough, np.nanstd(rr, axis=1) / np.nanmean(rr, axis=1), np.nan)
    correlation, ratio, t_peak = (np.full(n, np.nan) for _ in range(3))
    x = np.nan_to_num(np.asarray(signals.samples)[:, channels])
    grid = np.arange(-round(0.25 * fs), round(0.4 * fs))
    shapes, _ = averaged_beats(x, np.isfinite(np.asarray(signals.samples)[:, channels]), beats, fs)
    points = template_grid(fs)
    tail = (points > 0.15) & (points < 0.45)
    for i in range(n):
        place = np.rint(beats.place[i, : beats.count[i]]).astype(int)[~beats.odd[i, : beats.count[i]]]
        place = place[(place + grid[0] >= 0) & (place + grid[-1] < x.shape[2])]
        if len(place) < 3:
            continue
        pieces = x[i][:, place[:, None] + grid].transpose(1, 0, 2)  # beat x channel x sample
        flat = (pieces - pieces.mean(axis=2, keepdims=True)).reshape(len(place), -1)
        others = (flat.sum(axis=0) - flat) / (len(place) - 1)  # each beat against the mean of the others
        correlation[i] = np.mean(
            (flat * others).sum(1) / np.maximum(np.linalg.norm(flat, axis=1) * np.linalg.norm(others, axis=1), 1e-9)
        )
        near = pieces[:, :, -grid[0] - max(2, round(0.05 * fs)) : -grid[0] + max(2, round(0.05 * fs)) + 1]
        height = near.max(axis=2) - near.min(axis=2)
        lead = height.mean(axis=0).argmax()
        ratio[i] = np.quantile(height[:, lead], 0.9) / max(np.quantile(height[:, lead], 0.1), 1e-6)
        shape = shapes[i][:, tail]
        t_peak[i] = np.abs(shape - shapes[i][:, [np.searchsorted(points, -0.33)]]).max(axis=1).mean()
    return {"heart_rate": rate, "rr_variation": variation, "beat_correlation": correlation, "r_ratio": ratio,
            "t_peak": t_peak}  # fmt: skip


def coherence(signals: SignalSet, channels: tuple[int, ...] | None = None) -> dict[str, list[float]]:
    """10 %, 50 % and 90 % quantiles of the four numbers."""
    found = per_record(signals, channels)
    return {
        name: [round(float(q), 4) for q in np.nanquantile(values, [0.1, 0.5, 0.9])] if np.isfinite(values).any() else []
        for name, values in found.items()
    }


def quantile_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein distance of two samples in units of the first one's spread (10 to 90 %)."""
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a) or not len(b):
        return float("nan")
    q = np.linspace(0.005, 0.995, 199)
    spread = max(np.quantile(a, 0.9) - np.quantile(a, 0.1), 1e-9)
    return float(np.abs(np.quantile(a, q) - np.quantile(b, q)).mean() / spread)


def spectrum_gap(a: np.ndarray, b: np.ndarray, fs: float) -> float:
    """Mean |log10 ratio| of mean power spectra of two arrays record x channel x sample."""

    def power(x: np.ndarray) -> np.ndarray:
        x = np.nan_to_num(x)
        window = np.hanning(x.shape[-1])
        return np.square(np.abs(np.fft.rfft((x - x.mean(axis=-1, keepdims=True)) * window))).mean(axis=0)

    rate = np.fft.rfftfreq(a.shape[-1], 1 / fs)
    keep = (rate >= 0.7) & (rate < 0.48 * fs)
    return float(np.abs(np.log10(power(a)[:, keep] + 1e-12) - np.log10(power(b)[:, keep] + 1e-12)).mean())


def judge(real: np.ndarray, other: np.ndarray, *, seed: int = 0, n_filters: int = 300, length: int = 1000) -> float:
    """AUC of telling two sets of records apart (3-fold); 0.5: not at all."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n = min(len(real), len(other))
    x = np.nan_to_num(np.concatenate([real[:n], other[:n]]))[..., :length].astype(np.float32)
    sd = np.nanstd(np.nan_to_num(real[:n])[..., :length], axis=(0, 2), keepdims=True) + 1e-6
    y = np.repeat([0, 1], n)
    features = _rocket(x / sd, np.random.default_rng(seed), n_filters)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=500))
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    score = cross_val_predict(model, features, y, cv=folds, method="decision_function")
    return float(roc_auc_score(y, score))


def features(x: np.ndarray, *, seed: int = 1, n_filters: int = 200) -> np.ndarray:
    """Random-convolution features of records, each scaled by the spread of all."""
    x = np.nan_to_num(x).astype(np.float32)
    return _rocket(x / (x.std(axis=2, keepdims=True).mean(axis=0) + 1e-6), np.random.default_rng(seed), n_filters)


def _rocket(x: np.ndarray, draw: np.random.Generator, n_filters: int) -> np.ndarray:
    """Share positive, mean positive part, maximum, and standard deviation of random dilated convolutions."""
    import torch

    _, c, length = x.shape
    out, series = [], torch.from_numpy(x)
    deepest = max(np.log2((length - 1) / 8), 0.0)
    for _ in range(n_filters):
        dilation = int(2 ** draw.uniform(0, min(deepest, 5)))
        some = draw.choice(c, size=min(c, int(draw.integers(1, 4))), replace=False)
        weight = draw.standard_normal((1, len(some), 9)).astype(np.float32)
        weight -= weight.mean(axis=2, keepdims=True)
        bias = float(draw.uniform(-1, 1))
        y = torch.nn.functional.conv1d(series[:, some], torch.from_numpy(weight), dilation=dilation)[:, 0] + bias
        out.append(torch.stack([(y > 0).float().mean(1), y.clamp(min=0).mean(1), y.amax(1), y.std(1)], dim=1))
    return torch.cat(out, dim=1).numpy()
