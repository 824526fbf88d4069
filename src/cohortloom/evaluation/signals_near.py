"""Neighbours: how far synthetic waveforms lie from real ones, from one another, and whether training records come back.

    dtw, soft_dtw   median distance to the nearest training beat (or stretch of 2 s), synthetic over held-out, log2;
                    dynamic time warping forgives small shifts in time. 0 is as far as real ones, above: farther.
    copies          share of records whose largest normalised cross-correlation with a training record, over all lags,
                    exceeds what (nearly) no held-out record reaches
    diversity       the same among synthetic records of different patients: near-duplicates

References:
    Sakoe, Chiba (1978). IEEE Trans Acoust Speech Signal Process 26:43. Cuturi, Blondel (2017). Soft-DTW: a
    differentiable loss function for time series. ICML.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.intervals import not_computed, not_measurable
from cohortloom.evaluation.signals_judge import series
from cohortloom.evaluation.signals_shape import templates
from cohortloom.evaluation.signals_sides import Side, SignalContext
from cohortloom.report import Score

__all__ = ["cross_correlation", "scores"]

MOST = 200
MOST_DTW = 60
LENGTH = 30


def scores(ctx: SignalContext) -> list[Score]:
    return [*_warped(ctx), *_copies(ctx)]


# -- time warping ----------------------------------------------------------------------------------------------------


def _shapes(ctx: SignalContext, name: str) -> np.ndarray:
    """record x sample x channel: average beats, or the first 2 s; one record per patient, all in real units."""
    side = ctx.views[name]
    if ctx.spec.kind == "ecg":
        x, some = templates(side)
    else:
        x = series(ctx, side)[:, :, :256]
        some = np.ones(len(x), bool)
    first = np.zeros(len(some), bool)
    first[np.unique(side.patient, return_index=True)[1]] = True
    x = x[some & first][:MOST_DTW]
    step = max(1, x.shape[2] // LENGTH)
    n = x.shape[2] // step
    return x[:, :, : n * step].reshape(len(x), x.shape[1], n, step).mean(axis=3).transpose(0, 2, 1)


def _warped(ctx: SignalContext) -> list[Score]:
    names = {"dtw": "distance to the nearest training beat (DTW), log2 ratio", "soft_dtw": "the same by soft-DTW"}
    shapes = {k: _shapes(ctx, k) for k in ctx.views}
    if min(len(shapes[k]) for k in ("synthetic", "train", "held_out")) < 10:
        reason = "fewer than 10 patients with beats on a side"
        return [not_computed(ctx, f"signals.{ctx.name}.{k}", f"{ctx.name}: {v}", reason) for k, v in names.items()]
    scale = np.sqrt(np.square(shapes["train"]).mean(axis=(0, 1))) + 1e-9
    shapes = {k: x / scale for k, x in shapes.items()}
    return [_nearest(ctx, kind, f"{ctx.name}: {words}", shapes) for kind, words in names.items()]


def _distances(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    from tslearn.metrics import cdist_dtw, cdist_soft_dtw_normalized  # heavy

    if kind == "dtw":
        return cdist_dtw(a, b, global_constraint="sakoe_chiba", sakoe_chiba_radius=max(1, a.shape[1] // 10))
    # the soft minimum can fall below zero; normalised, it is zero for equal series
    return np.maximum(cdist_soft_dtw_normalized(a, b, gamma=1.0), 0.0)


def _nearest(ctx: SignalContext, kind: str, name: str, shapes: dict[str, np.ndarray]) -> Score:
    from scipy.stats import norm  # heavy

    draw = ctx.rng.child("near", kind).numpy
    train = shapes["train"]
    half = len(train) // 2
    # references are one half of the training patients, so that the other half and copies of it can be anchors
    reference, rest = train[:half], train[half:]
    near = {k: _distances(kind, shapes[k], reference).min(axis=1) for k in ("synthetic", "held_out", "independent")}
    near["train"] = _distances(kind, rest, reference).min(axis=1)
    near["bootstrap"] = _distances(kind, reference[draw.integers(0, half, half)], reference).min(axis=1)

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.log2((np.median(a) + 1e-6) / (np.median(b) + 1e-6)))

    value = ratio(near["synthetic"], near["held_out"])
    real = np.concatenate([near["train"], near["held_out"]])
    null = []
    for _ in range(300):
        mixed = draw.permutation(real)
        cut = min(len(near["synthetic"]), len(real) // 2)
        null.append(ratio(mixed[:cut], mixed[cut:]))
    picks = [ratio(draw.choice(near["synthetic"], len(near["synthetic"])),
                   draw.choice(near["held_out"], len(near["held_out"]))) for _ in range(200)]  # fmt: skip
    limit = max(0.3, float(norm.ppf(1 - ctx.alpha)) * float(np.std(null)))
    floor = ratio(near["train"], near["held_out"])
    blank = ratio(near["independent"], near["held_out"])
    measurable = value > limit or blank > limit
    low, high = np.percentile(picks, [2.5, 97.5])
    return Score(
        name=name, group="signals", key=f"signals.{ctx.name}.{kind}", value=value, interval=(float(low), float(high)),
        n=len(near["synthetic"]), limit=limit, floor=floor,
        anchors={"bootstrap": ratio(near["bootstrap"], near["held_out"]), "independent": blank},
        measurable=measurable, reason="" if measurable else not_measurable(len(near["synthetic"])),
    )  # fmt: skip


# -- copies ----------------------------------------------------------------------------------------------------------


def cross_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest normalised cross-correlation over all lags: a x b, for records of channel x sample.

    The sum over channels of the correlation at a lag, divided by both norms; 1 only for shifted copies (up to gain).
    """
    length = a.shape[2] + b.shape[2]
    n = 1 << int(np.ceil(np.log2(length)))
    unit = [x / np.maximum(np.sqrt(np.square(x).sum(axis=(1, 2), keepdims=True)), 1e-9) for x in (a, b)]
    fa, fb = (np.fft.rfft(x, n, axis=2).astype(np.complex64) for x in unit)
    out = np.empty((len(a), len(b)), dtype=np.float32)
    for i in range(len(a)):
        out[i] = np.fft.irfft((fa[i] * fb.conj()).sum(axis=1), n, axis=1).max(axis=1)
    return out


def _prints(ctx: SignalContext, side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Up to 200 records (one per patient), at most 3 channels, at about 64 Hz, without level; and their patients."""
    first = np.sort(np.unique(side.patient, return_index=True)[1])[:MOST]
    x = series(ctx, side)[first]
    spread = np.unique(np.linspace(0, x.shape[1] - 1, min(3, x.shape[1])).round().astype(int))
    x = x[:, spread]
    if x.shape[2] >= 256:
        x = x[:, :, : x.shape[2] // 2 * 2].reshape(*x.shape[:2], -1, 2).mean(axis=3)
    # slow waves would make everything alike
    x = np.diff(x, axis=2)
    return x, side.patient[first]


def _copies(ctx: SignalContext) -> list[Score]:
    base = f"signals.{ctx.name}"
    prints = {k: _prints(ctx, s)[0] for k, s in ctx.views.items()}
    if min(len(prints[k]) for k in ("synthetic", "train", "held_out")) < 10:
        words = {"copies": "copies of training records", "diversity": "near-duplicates among records"}
        reason = "fewer than 10 patients on a side"
        return [not_computed(ctx, f"{base}.{k}", f"{ctx.name}: {w}", reason) for k, w in words.items()]
    train = prints["train"]
    real = cross_correlation(prints["held_out"], train).max(axis=1)
    found = {k: cross_correlation(prints[k], train).max(axis=1) for k in ("synthetic", "independent")}
    draw = ctx.rng.child("copies").numpy
    copied = train[draw.integers(0, len(train), len(train))]
    found["bootstrap"] = cross_correlation(copied, train).max(axis=1)
    found["train"] = _others(train)
    # twice as near to a copy as the nearest of the held-out records: few real ones lie beyond
    threshold = 1 - 0.5 * (1 - float(np.quantile(real, 0.99)))
    within = {k: _others(prints[k]) for k in ("synthetic", "held_out", "independent", "train")}
    within["bootstrap"] = _others(copied)
    line = 1 - 0.5 * (1 - float(np.quantile(within["held_out"], 0.99)))
    return [
        _share(ctx, f"{base}.copies", f"{ctx.name}: copies of training records", found, threshold),
        _share(ctx, f"{base}.diversity", f"{ctx.name}: near-duplicates among records", within, line),
    ]


def _others(x: np.ndarray) -> np.ndarray:
    c = cross_correlation(x, x)
    np.fill_diagonal(c, -1)
    return c.max(axis=1)


def _share(ctx: SignalContext, key: str, name: str, near: dict[str, np.ndarray], threshold: float) -> Score:
    from scipy.stats import beta, binom  # heavy

    hits = near["synthetic"] > threshold
    n, k = len(hits), int(hits.sum())
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    limit = max(0.02, float(binom.ppf(1 - ctx.alpha, n, 0.01)) / n)
    return Score(
        name=name, group="signals", key=key, value=k / n, interval=(low, high), n=n, limit=limit,
        floor=float((near["train"] > threshold).mean()),
        anchors={a: float((near[a] > threshold).mean()) for a in ("bootstrap", "independent")},
        details={"median of the nearest": round(float(np.median(near["synthetic"])), 4),
                 "threshold": round(threshold, 4)},
    )  # fmt: skip
