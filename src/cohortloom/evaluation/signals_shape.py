"""Distances between waveforms that are sums over patients: intervals, spectra, autocorrelation, coherence, beats.

Each is a `Measure` (see `intervals.py`), with floor, anchors, interval, and a limit that two real samples keep.

    intervals     Wasserstein distance of every feature of a record (heart rate, PR, QRS, QTc, RR variation, HRV, ...),
                  in standard deviations of the real records, 10 at most
    measured      share of records on which a feature can be measured at all
    spectrum      mean log10 power in bands equally wide in log frequency, |difference|; .3 is a factor of two
    coherence     mean squared coherence of each pair of channels in four bands, |difference|
    autocorrelation, correlation    |difference| of the mean function, of the mean of each pair of channels
    template      average beat per channel (whole record if it is one beat): root mean square difference over the real
                  template's root mean square; and its spread between records
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.intervals import Measure, assess, not_computed
from cohortloom.evaluation.signals_sides import Side, SignalContext
from cohortloom.report import Score

__all__ = ["filled", "scores", "templates"]

GRID = 64
BANDS = 20
LAGS = 30
TEMPLATE = 60
MOST_PAIRS = 66
SECONDS = 30.0
FARTHEST = 10.0


def scores(ctx: SignalContext) -> list[Score]:
    """All of them."""
    found: list[Score] = []
    for make in (intervals, measured, spectrum, autocorrelation, correlation, coherence, template):
        key = f"signals.{ctx.name}.{make.__name__}"
        measure = make(ctx, key)
        found += assess(ctx, measure) if isinstance(measure, Measure) else [not_computed(ctx, key, *measure)]
    return [_grouped(ctx, s) for s in found]


def _grouped(ctx: SignalContext, score: Score) -> Score:
    from dataclasses import replace

    return replace(score, group="signals", name=f"{ctx.name}: {score.name}")


def _names(ctx: SignalContext) -> list[str]:
    return [c for c in ctx.views["train"].features.columns if c != "row"]


def _pooled(ctx: SignalContext, name: str) -> np.ndarray:
    x = np.concatenate([ctx.views[k].column(name) for k in ("train", "held_out")])
    return x[np.isfinite(x)]


def intervals(ctx: SignalContext, key: str) -> Measure | tuple[str, str]:
    words = "intervals and rhythm, Wasserstein distance"
    names = [n for n in _names(ctx) if len(_pooled(ctx, n)) >= 20]
    if not names:
        return words, "no interval can be measured on enough real records"
    grids = np.stack([_grid(_pooled(ctx, n)) for n in names])
    spread = np.array([_spread(_pooled(ctx, n)) for n in names])
    width = np.diff(grids, axis=1) / spread[:, None]

    def statistic(side: Side) -> np.ndarray:
        x = np.stack([side.column(n) for n in names], axis=1)
        known = np.isfinite(x)
        below = (x[:, :, None] <= grids[None, :, :-1]) & known[:, :, None]
        return side.per_patient(np.concatenate([below, known[:, :, None]], axis=2).astype(float))

    def curve(s: np.ndarray) -> np.ndarray:
        s = s.reshape(*s.shape[:-1], len(names), GRID)
        return s[..., :-1] / np.maximum(s[..., -1:], 1e-9)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.minimum((np.abs(a - b) * width).sum(axis=-1), FARTHEST)

    sums = ctx.sums(statistic)
    counts = np.min([sums[k].reshape(len(sums[k]), len(names), GRID)[:, :, -1].astype(bool).sum(0)
                     for k in ("train", "held_out")], axis=0)  # fmt: skip
    return Measure(key, words, tuple(names), sums, curve, distance, (counts >= 10) & (spread > 0), (0.15, 0.3),
                   ceiling=FARTHEST)  # fmt: skip


def _grid(x: np.ndarray) -> np.ndarray:
    """Quantiles of the real values, two standard deviations on to either side for what lies beyond."""
    s = _spread(x)
    inner = np.quantile(x, np.linspace(0, 1, GRID - 4))
    return np.concatenate([inner[0] - s * np.array([3, 1]), inner, inner[-1] + s * np.array([1, 3])])


def _spread(x: np.ndarray) -> float:
    """Standard deviation without the outer 2 %."""
    low, high = np.quantile(x, [0.01, 0.99])
    s = float(np.clip(x, low, high).std())
    return s if s > 1e-9 * max(abs(low), abs(high), 1e-9) else 0.0


def measured(ctx: SignalContext, key: str) -> Measure | tuple[str, str]:
    words = "share of records on which it can be measured"
    names = _names(ctx)
    if not names:
        return words, "no feature is known for this kind of signal"

    def statistic(side: Side) -> np.ndarray:
        known = np.stack([np.isfinite(side.column(n)) for n in names], axis=1).astype(float)
        return side.per_patient(np.concatenate([known, np.ones((len(known), 1))], axis=1))

    sums = ctx.sums(statistic)
    some = sums["held_out"][:, :-1].any(axis=0)
    return Measure(key, words, tuple(names), sums, lambda s: s[..., :-1] / np.maximum(s[..., -1:], 1e-9),
                   lambda a, b: np.abs(a - b), some, (0.05, 0.15), useless=0.5)  # fmt: skip


def filled(side: Side) -> list[tuple[np.ndarray, np.ndarray]]:
    """Samples of each record without gaps, at most 30 s, and which channels are there."""
    if "filled" not in side.memo:
        out = []
        for r in side:
            some = r.present
            x = r.filled[:, : round(SECONDS * r.fs)]
            out.append((x - x.mean(axis=1, keepdims=True), some))
        side.memo["filled"] = out
    return side.memo["filled"]


def _segments(x: np.ndarray, size: int) -> np.ndarray:
    """Hann-windowed Fourier components, channel x segment x frequency."""
    step = max(1, size // 2)
    starts = np.arange(0, x.shape[1] - size + 1, step)
    parts = x[:, starts[:, None] + np.arange(size)[None]]
    parts = parts - parts.mean(axis=2, keepdims=True)
    return np.fft.rfft(parts * np.hanning(size), axis=2)


def _size(ctx: SignalContext) -> int:
    shortest = min(int(s.signal.records["n_samples"].min()) for s in ctx.views.values())
    return min(shortest, round(2 * ctx.spec.fs))


def spectrum(ctx: SignalContext, key: str) -> Measure | tuple[str, str]:
    words = "power spectrum, log10"
    size, fs, channels = _size(ctx), ctx.spec.fs, ctx.spec.channels
    if size < 16:
        return words, "records are too short"
    f = np.fft.rfftfreq(size, 1 / fs)
    edges = np.geomspace(max(0.5, f[1]), fs / 2 * 1.0001, BANDS + 1)
    band = np.digitize(f, edges) - 1
    used = [b for b in range(BANDS) if (band == b).any()]

    def statistic(side: Side) -> np.ndarray:
        rows = []
        for x, some in filled(side):
            p = np.square(np.abs(_segments(x, size))).mean(axis=1) * 2 / (fs * np.square(np.hanning(size)).sum())
            level = np.stack([np.log10(p[:, band == b].mean(axis=1) + 1e-12) for b in used], axis=1)
            rows.append(np.concatenate([np.where(some[:, None], level, 0.0), some[:, None]], axis=1))
        return side.per_patient(np.stack(rows))

    def curve(s: np.ndarray) -> np.ndarray:
        s = s.reshape(*s.shape[:-1], len(channels), len(used) + 1)
        return s[..., :-1] / np.maximum(s[..., -1:], 1e-9)

    sums = ctx.sums(statistic)
    there = _there(sums, len(channels))
    return Measure(key, words, channels, sums, curve, _mean_gap, there, (0.06, 0.10), useless=0.5)


def _mean_gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b).mean(axis=-1)


def _there(sums: dict[str, np.ndarray], n_components: int) -> np.ndarray:
    """Components (channels, pairs) with at least four patients on the real sides; the last statistic is their count."""
    counts = [(sums[k].reshape(len(sums[k]), n_components, -1)[:, :, -1] > 0).sum(0) for k in ("train", "held_out")]
    return np.min(counts, axis=0) >= 4


def autocorrelation(ctx: SignalContext, key: str) -> Measure | tuple[str, str]:
    words = "autocorrelation"
    channels, fs = ctx.spec.channels, ctx.spec.fs
    shortest = min(int(s.signal.records["n_samples"].min()) for s in ctx.views.values())
    reach = min(1.5, 0.4 * shortest / fs)
    lags = np.unique(np.round(np.linspace(1, reach * fs, LAGS)).astype(int))
    if shortest < 16:
        return words, "records are too short"

    def statistic(side: Side) -> np.ndarray:
        rows = []
        for x, some in filled(side):
            n = 1 << int(np.ceil(np.log2(2 * x.shape[1])))
            a = np.fft.irfft(np.square(np.abs(np.fft.rfft(x, n, axis=1))), axis=1)
            a = a[:, lags] / np.maximum(a[:, :1], 1e-12)
            rows.append(np.concatenate([np.where(some[:, None], a, 0.0), some[:, None]], axis=1))
        return side.per_patient(np.stack(rows))

    def curve(s: np.ndarray) -> np.ndarray:
        s = s.reshape(*s.shape[:-1], len(channels), len(lags) + 1)
        return s[..., :-1] / np.maximum(s[..., -1:], 1e-9)

    sums = ctx.sums(statistic)
    there = _there(sums, len(channels))
    return Measure(key, words, channels, sums, curve, _mean_gap, there, (0.03, 0.05), useless=0.2)


def _pairs(ctx: SignalContext) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    i, j = np.triu_indices(len(ctx.spec.channels), 1)
    keep = np.unique(np.linspace(0, len(i) - 1, min(len(i), MOST_PAIRS)).round().astype(int)) if len(i) else []
    i, j = i[keep], j[keep]
    return i, j, tuple(f"{ctx.spec.channels[a]} and {ctx.spec.channels[b]}" for a, b in zip(i, j, strict=True))


def correlation(ctx: SignalContext, key: str) -> Measure | tuple[str, str]:
    words = "correlation of channels"
    if len(ctx.spec.channels) < 2:
        return words, "the signal has one channel"
    i, j, labels = _pairs(ctx)

    def statistic(side: Side) -> np.ndarray:
        rows = []
        for x, some in filled(side):
            unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
            both = some[i] & some[j]
            rows.append(np.stack([np.where(both, (unit @ unit.T)[i, j], 0.0), both], axis=1))
        return side.per_patient(np.stack(rows))

    def curve(s: np.ndarray) -> np.ndarray:
        s = s.reshape(*s.shape[:-1], len(i), 2)
        return s[..., 0] / np.maximum(s[..., 1], 1e-9)

    sums = ctx.sums(statistic)
    return Measure(key, words, labels, sums, curve, lambda a, b: np.abs(a - b), _there(sums, len(i)), (0.05, 0.1))


def coherence(ctx: SignalContext, key: str) -> Measure | tuple[str, str]:
    words = "coherence of channels"
    if len(ctx.spec.channels) < 2:
        return words, "the signal has one channel"
    size, fs = min(_size(ctx), round(ctx.spec.fs)), ctx.spec.fs
    shortest = min(int(s.signal.records["n_samples"].min()) for s in ctx.views.values())
    if shortest < 3 * size:
        return words, "records are too short"
    i, j, labels = _pairs(ctx)
    f = np.fft.rfftfreq(size, 1 / fs)
    top = min(0.45 * fs, 60.0)
    bands = [(f >= a) & (f < b) for a, b in ((1, 5), (5, 12), (12, 25), (25, top)) if b > a]
    bands = [b for b in bands if b.any()]

    def statistic(side: Side) -> np.ndarray:
        rows = []
        for x, some in filled(side):
            z = _segments(x, size)
            cross = np.einsum("csf,dsf->cdf", z, z.conj(), optimize=True)
            power = np.real(np.einsum("ccf->cf", cross))
            c = np.square(np.abs(cross[i, j])) / np.maximum(power[i] * power[j], 1e-30)
            both = some[i] & some[j]
            level = np.stack([c[:, b].mean(axis=1) for b in bands], axis=1)
            rows.append(np.concatenate([np.where(both[:, None], level, 0.0), both[:, None]], axis=1))
        return side.per_patient(np.stack(rows))

    def curve(s: np.ndarray) -> np.ndarray:
        s = s.reshape(*s.shape[:-1], len(i), len(bands) + 1)
        return s[..., :-1] / np.maximum(s[..., -1:], 1e-9)

    sums = ctx.sums(statistic)
    return Measure(key, words, labels, sums, curve, _mean_gap, _there(sums, len(i)), (0.02, 0.05))


def templates(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Average beat (ECG; the whole record if it is at most 1.5 s long) of each record: record x channel x 60, and
    whether there is one. Missing channels are zero."""
    if "templates" not in side.memo:
        out, some = [], []
        for r in side:
            if r.duration <= 1.5:
                x = r.filled - np.median(r.filled, axis=1, keepdims=True)
            else:
                x = r.beats.average if r.spec.kind == "ecg" and r.beats is not None else None
            some.append(x is not None)
            out.append(_thin(np.nan_to_num(x)) if x is not None else np.zeros((len(r.channels), TEMPLATE)))
        side.memo["templates"] = np.stack(out), np.array(some)
    return side.memo["templates"]


def _thin(x: np.ndarray) -> np.ndarray:
    """Brought to TEMPLATE samples, by means over each."""
    n = x.shape[1]
    edges = np.linspace(0, n, TEMPLATE + 1)
    total = np.concatenate([np.zeros((len(x), 1)), np.cumsum(x, axis=1)], axis=1)
    at = np.stack([np.interp(edges, np.arange(n + 1), row) for row in total])
    return np.diff(at, axis=1) * TEMPLATE / n


def template(ctx: SignalContext, key: str) -> Measure | tuple[str, str]:
    words = "average beat"
    held, some = templates(ctx.views["held_out"])
    if ctx.spec.kind != "ecg" or some.sum() < 10:
        return words, "fewer than 10 held-out records with beats"
    channels = ctx.spec.channels
    size = np.sqrt(np.square(held[some]).mean(axis=(0, 2))) + 1e-12

    def statistic(side: Side) -> np.ndarray:
        x, known = templates(side)
        row = np.concatenate([x, np.square(x), np.repeat(known[:, None, None], len(channels), axis=1)], axis=2)
        return side.per_patient(row * known[:, None, None])

    def curve(s: np.ndarray) -> np.ndarray:
        s = s.reshape(*s.shape[:-1], len(channels), 2 * TEMPLATE + 1)
        count = np.maximum(s[..., -1:], 1e-9)
        mean, square = s[..., :TEMPLATE] / count, s[..., TEMPLATE:-1] / count
        return np.concatenate([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=-1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(a - b).mean(axis=-1)) / size

    sums = ctx.sums(statistic)
    there = _there(sums, len(channels))
    return Measure(key, words, channels, sums, curve, distance, there, (0.1, 0.2))
