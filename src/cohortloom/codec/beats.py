"""Heartbeats of records: where the R peaks are, and the averaged beat of each record.

Peaks come from annotations where a record has them, else from a detector: power of the steep 5 to 25 Hz part over all
leads, local maxima above a share of the record's own typical peak, .25 s apart. Every peak is then aligned to its
record's mean QRS by cross-correlation, so the same point of the complex is meant in each beat, to a fraction of a
sample (parabola through the three best shifts). A beat is odd if its annotation says so (ventricular, fusion, paced),
else if its QRS does not correlate with the record's mean.

Beat k owns the span from R_k - a_k to R_(k+1) - a_(k+1), a = min(.35 s, .4 RR): P wave to the end of its diastole. The
averaged beat is the mean over a record's own normal beats of what each owns, on a grid around R. `render` in
`nets/beat_train.py` is the way back.

Beats may stretch with the intervals beside them: a T wave is early and narrow behind a short interval, a long breath is
a slow one.

References:
    Pan, Tompkins (1985). A real-time QRS detection algorithm. IEEE Trans Biomed Eng 32:230.
    Fridericia (1920). Acta Med Scand 53:469 (QT in proportion to the cube root of the interval before).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from cohortloom.cohort import SignalSet

__all__ = [
    "AFTER", "BEFORE", "Beats", "aligned", "averaged_beats", "band_passed", "find_beats", "pulse_stretches",
    "recovery_stretches", "template_grid",
]  # fmt: skip

#: Span of an averaged beat around R [s].
BEFORE, AFTER = 0.35, 0.65
#: Beats that stretch do so from here on, on both sides of R [s]: pulses with an interval over this one [s], the T wave
#: with one over its record's mean, both within bounds.
CORE, USUAL, LEAST_MOST, SHORT_LONG = 0.05, 0.8, (0.3, 3.0), (0.4, 2.0)
_NORMAL = frozenset("NLRejAaSJB.n")
_CHUNK = 256
#: Samples on each side that a value between samples is made from.
_TAPS = 4


@dataclass(frozen=True)
class Beats:
    """R peaks of records, padded to the longest.

    Args:
        place: R peak [samples], a fraction of a sample is meant; 0 behind the last.
        odd: Ventricular or otherwise unlike the record's own beats.
        count: Beats of each record.
    """

    place: Float[np.ndarray, "record beat"]
    odd: Bool[np.ndarray, "record beat"]
    count: Int[np.ndarray, "record"]

    @property
    def real(self) -> Bool[np.ndarray, "record beat"]:
        return np.arange(self.place.shape[1]) < self.count[:, None]

    def take(self, rows: np.ndarray) -> "Beats":
        return Beats(self.place[rows], self.odd[rows], self.count[rows])

    def padded(self, n_beats: int) -> "Beats":
        """The same with room for n beats."""
        wide = ((0, 0), (0, n_beats - self.place.shape[1]))
        return Beats(np.pad(self.place, wide), np.pad(self.odd, wide), self.count)


def find_beats(signals: SignalSet, channels: tuple[int, ...]) -> "Beats":
    """R peaks of all records, from annotations where there are any, else detected.

    Args:
        signals: The records.
        channels: Channels to look at.
    """
    known = _annotated(signals)
    ids = signals.records["record_id"].to_list()
    parts = []
    for start in range(0, len(ids), _CHUNK):
        x = np.asarray(signals.samples[start : start + _CHUNK])[:, channels]
        parts.append(_beats_of(x, signals.spec.fs, [known.get(i) for i in ids[start : start + _CHUNK]]))
    if not parts:
        return Beats(np.zeros((0, 1)), np.zeros((0, 1), bool), np.zeros(0, int))
    width = max(p.place.shape[1] for p in parts)
    parts = [p.padded(width) for p in parts]
    return Beats(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("place", "odd", "count")))


def template_grid(fs: float) -> Float[np.ndarray, "point"]:
    """Times of an averaged beat's points around R [s], at most 125 per second."""
    rate = min(fs, 125.0)
    return np.arange(-round(BEFORE * rate), round(AFTER * rate) + 1) / rate


def averaged_beats(
    x: Float[np.ndarray, "record channel sample"], seen: np.ndarray, beats: Beats, fs: float,
    stretches: tuple[Float[np.ndarray, "record beat"], Float[np.ndarray, "record beat"]] | None = None,
) -> tuple[Float[np.ndarray, "record channel point"], Bool[np.ndarray, "record channel"]]:  # fmt: skip
    """Mean over each record's normal beats, each relative to its own median; and which could be formed.

    Args:
        x: Samples (any scale), 0 where unobserved.
        seen: Observed samples, same shape.
        beats: R peaks of these records.
        fs: Sampling frequency [Hz].
        stretches: How far each beat is stretched before and behind R; None: none is.
    """
    grid = template_grid(fs)
    n, n_channels, n_samples = x.shape
    total = np.zeros((n, n_channels, len(grid)))
    weight = np.zeros((n, n_channels, len(grid)))
    use = beats.real & ~beats.odd
    use |= beats.real & ~use.any(axis=1, keepdims=True)  # nothing but odd beats: then they are what there is
    lead = _lead_in(beats.place / fs, beats.real)
    following = np.append(beats.place[:, 1:] / fs, np.full((n, 1), np.inf), axis=1)
    following = np.where(np.append(beats.real[:, 1:], np.zeros((n, 1), bool), axis=1), following, np.inf)
    next_lead = np.append(lead[:, 1:], np.full((n, 1), BEFORE), axis=1)
    before, behind = (np.ones(beats.place.shape),) * 2 if stretches is None else stretches
    for k in np.flatnonzero(use.any(axis=0)):
        rows = np.flatnonzero(use[:, k])
        time = np.broadcast_to(np.clip(grid, -CORE, CORE), (len(rows), len(grid)))
        time = (
            time
            + np.maximum(grid - CORE, 0) * behind[rows, k, None]
            + np.minimum(grid + CORE, 0) * before[rows, k, None]
        )
        place = beats.place[rows, k][:, None] + time * fs
        owned = (time >= -lead[rows, k][:, None]) & (
            time < (following[rows, k] - beats.place[rows, k] / fs - next_lead[rows, k])[:, None]
        )
        inside = owned & (place >= 1) & (place <= n_samples - 3)
        value = _between(x[rows], np.where(inside, place, 1.0))
        near = np.clip(np.rint(place).astype(int), 0, n_samples - 1)
        good = inside[:, None] & np.take_along_axis(seen[rows], np.broadcast_to(near[:, None], value.shape), axis=2)
        base = np.ma.median(np.ma.masked_array(value, ~good), axis=2).filled(0.0)
        total[rows] += np.where(good, value - base[..., None], 0.0)
        weight[rows] += good
    mean = total / np.maximum(weight, 1)
    return _held(mean, weight > 0).astype(np.float32), (weight > 0).mean(axis=2) > 0.5


def pulse_stretches(
    place: Float[np.ndarray, "record beat"], real: Bool[np.ndarray, "record beat"], fs: float, power: float
) -> tuple[Float[np.ndarray, "record beat"], Float[np.ndarray, "record beat"]]:
    """How far pulses are stretched before and behind R: by the intervals there, at the ends by the mean."""
    rr, mean = _intervals(place, real, fs)
    stretch = np.clip(np.where(rr > 0, rr, mean) / USUAL, *LEAST_MOST) ** power
    end = np.clip(mean / USUAL, *LEAST_MOST) ** power
    return np.append(end, stretch, axis=1), np.append(stretch, end, axis=1)


def recovery_stretches(
    place: Float[np.ndarray, "record beat"], real: Bool[np.ndarray, "record beat"], fs: float, power: float
) -> tuple[Float[np.ndarray, "record beat"], Float[np.ndarray, "record beat"]]:
    """How far beats are stretched before R (not at all) and behind: by the interval before over the record's mean."""
    rr, mean = _intervals(place, real, fs)
    stretch = np.clip(np.where(rr > 0, rr, mean) / np.maximum(mean, 1e-6), *SHORT_LONG) ** power
    stretch = np.where(mean > 0, stretch, 1.0)
    return np.ones(place.shape), np.append(np.ones_like(mean), stretch, axis=1)


# -- parts -----------------------------------------------------------------------------------------------------------


def _intervals(place: np.ndarray, real: np.ndarray, fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval before each beat but the first (0 where there is none) and the record's mean [s]."""
    rr = np.where(real[:, 1:], np.diff(place, axis=1), 0.0) / fs
    return rr, rr.sum(axis=1, keepdims=True) / np.maximum(real.sum(axis=1, keepdims=True) - 1, 1)


def _lead_in(r: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Span each beat owns before its R [s]."""
    rr = np.diff(r, axis=1, prepend=r[:, :1] - 1.0)
    rr[:, 0] = rr[:, 1] if r.shape[1] > 1 else 1.0
    return np.where(real, np.minimum(BEFORE, 0.4 * np.maximum(rr, 0.1)), BEFORE)


def _held(mean: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Points no beat owns take the nearest known value of their channel."""
    n = mean.shape[-1]
    index = np.where(known, np.arange(n), -1)
    left = np.maximum.accumulate(index, axis=-1)
    right = np.flip(np.maximum.accumulate(np.flip(np.where(known, n - 1 - np.arange(n), -1), -1), axis=-1), -1)
    right = np.where(right >= 0, n - 1 - right, -1)
    pick = np.where(left >= 0, left, right)
    return np.where(pick >= 0, np.take_along_axis(mean, np.maximum(pick, 0), axis=-1), 0.0)


def _between(x: Float[np.ndarray, "record channel sample"], place: Float[np.ndarray, "record point"]) -> np.ndarray:
    """Values between samples by a sinc under a Lanczos window; a cubic would take a fifth off a QRS's fast part."""
    i = np.floor(place).astype(int)
    away = (place - i)[..., None] - np.arange(1 - _TAPS, _TAPS + 1)
    weight = np.sinc(away) * np.sinc(away / _TAPS)
    weight = (weight / weight.sum(axis=-1, keepdims=True)).astype(x.dtype)
    out = np.zeros((*x.shape[:2], place.shape[1]), x.dtype)
    for k in range(2 * _TAPS):
        at = np.clip(i + k + 1 - _TAPS, 0, x.shape[2] - 1)[:, None]
        out += weight[:, None, :, k] * np.take_along_axis(x, np.broadcast_to(at, out.shape), axis=2)
    return out


def _annotated(signals: SignalSet) -> dict:
    """Record id -> (samples, odd) of its beat annotations."""
    notes = signals.annotations
    if notes is None or not notes.height:
        return {}
    notes = notes.filter(pl.col("kind") == "beats").sort("record_id", "sample")
    odd = pl.col("symbol").str.head(1).is_in(list(_NORMAL)).not_()
    rows = notes.with_columns(odd.alias("odd")).group_by("record_id", maintain_order=True).agg("sample", "odd")
    return {i: (np.array(s, dtype=float), np.array(o, dtype=bool)) for i, s, o in rows.iter_rows()}


def _beats_of(x: np.ndarray, fs: float, known: list) -> "Beats":
    """Beats of a chunk of records."""
    from scipy.signal import find_peaks  # heavy

    n, _, n_samples = x.shape
    seen = np.isfinite(x)
    middle = np.ma.median(np.ma.masked_array(x, ~seen), axis=2, keepdims=True).filled(0.0)
    band = band_passed(np.where(seen, x - middle, 0.0), fs, 5.0, 25.0)
    size = np.sqrt(np.square(band).mean(axis=2, keepdims=True))
    steep = np.square(np.gradient(band / np.maximum(size, 1e-9), axis=2)).sum(axis=1)
    width = max(3, round(0.1 * fs))
    power = np.sqrt(np.maximum(_moving(steep, width), 0))
    found: list[tuple[np.ndarray, np.ndarray | None]] = []
    for i in range(n):
        if known[i] is not None:
            found.append(known[i])
            continue
        block = max(round(2 * fs), 1)
        tops = [power[i, s : s + block].max() for s in range(0, n_samples, block)]
        typical = float(np.median(tops)) if tops else 0.0
        peaks = (
            find_peaks(power[i], height=0.4 * typical, distance=max(1, round(0.25 * fs)))[0] if typical > 1e-6 else []
        )
        found.append((np.asarray(peaks, dtype=float), None))
    width = max([len(p) for p, _ in found] + [1])
    place, odd = np.zeros((n, width)), np.zeros((n, width), bool)
    count = np.array([len(p) for p, _ in found], dtype=int)
    for i, (peaks, flags) in enumerate(found):
        place[i, : len(peaks)] = peaks
        if flags is not None:
            odd[i, : len(peaks)] = flags
    return aligned(band, fs, place, odd, count, np.array([o is not None for _, o in found], dtype=bool))


def aligned(
    band: np.ndarray, fs: float, place: np.ndarray, odd: np.ndarray, count: np.ndarray, flagged: np.ndarray
) -> "Beats":
    """Peaks moved to the same point of the QRS, and odd beats marked where no annotation says."""
    n, n_channels, n_samples = band.shape
    half, reach = max(2, round(0.08 * fs)), max(2, round(0.06 * fs))
    rows, columns = np.nonzero(np.arange(place.shape[1]) < count[:, None])
    if not len(rows):
        return Beats(place, odd, count)
    strength = np.sqrt(np.square(band).sum(axis=1))
    start = np.rint(place[rows, columns]).astype(int)
    near = np.clip(start[:, None] + np.arange(-half, half + 1), 0, n_samples - 1)
    start = near[np.arange(len(rows)), strength[rows[:, None], near].argmax(axis=1)]
    span = np.arange(-half - reach, half + reach + 1)
    shift = np.zeros(len(rows))
    for _ in range(2):
        at = np.clip(start[:, None] + span, 0, n_samples - 1)
        piece = band[rows[:, None], :, at].transpose(0, 2, 1)  # beat x channel x point
        centre = piece[:, :, reach : reach + 2 * half + 1]
        centre = np.where(odd[rows, columns][:, None, None], 0.0, centre)
        mean = np.zeros((n, n_channels, 2 * half + 1))
        np.add.at(mean, rows, centre)
        mean /= np.maximum(np.linalg.norm(mean, axis=(1, 2), keepdims=True), 1e-9)
        windows = np.lib.stride_tricks.sliding_window_view(piece, 2 * half + 1, axis=2)
        match = np.einsum("bcsp,bcp->bs", windows, mean[rows], optimize=True)
        norm = np.sqrt(np.square(windows).sum(axis=(1, 3)))
        match = match / np.maximum(norm, 1e-9)
        best = np.where(odd[rows, columns], reach, match.argmax(axis=1))
        start = np.clip(start + best - reach, 0, n_samples - 1)
        shift = _top(match, best)
        quality = match[np.arange(len(rows)), best]
    unlike = (quality < 0.6) & ~flagged[rows]
    share = np.bincount(rows, unlike, minlength=n) / np.maximum(np.bincount(rows, minlength=n), 1)
    odd[rows, columns] |= unlike & (share[rows] < 0.5)
    place[rows, columns] = start + np.where(odd[rows, columns], 0.0, shift)
    order = np.argsort(np.where(np.arange(place.shape[1]) < count[:, None], place, np.inf), axis=1, kind="stable")
    return Beats(np.take_along_axis(place, order, axis=1), np.take_along_axis(odd, order, axis=1), count)


def _top(match: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Vertex of the parabola through the best shift and its neighbours, within half a sample."""
    inner = np.clip(best, 1, match.shape[1] - 2)
    row = np.arange(len(best))
    a, b, c = match[row, inner - 1], match[row, inner], match[row, inner + 1]
    bend = a - 2 * b + c
    vertex = np.where(bend < -1e-9, 0.5 * (a - c) / np.where(bend < -1e-9, bend, -1.0), 0.0)
    return np.where(inner == best, np.clip(vertex, -0.5, 0.5), 0.0)


def band_passed(x: np.ndarray, fs: float, low: float, high: float) -> np.ndarray:
    """Band-pass without phase, with soft edges, by FFT over a mirrored record."""
    n = x.shape[-1]
    rate = np.fft.rfftfreq(2 * n, 1 / fs)
    high = min(high, 0.45 * fs)
    gain = 1 / (1 + (low / np.maximum(rate, 1e-6)) ** 8) / (1 + (rate / high) ** 8)
    return np.fft.irfft(np.fft.rfft(np.concatenate([x, x[..., ::-1]], axis=-1)) * gain, n=2 * n)[..., :n]


def _moving(x: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean along the last axis."""
    left = width // 2
    total = np.cumsum(np.pad(x, ((0, 0), (left + 1, width - left - 1)), mode="edge"), axis=1)
    return (total[:, width:] - total[:, :-width]) / width
