"""Pulses of records that are no ECG: arterial pressure, photoplethysmogram, breathing.

The period of a record is the first high peak of its autocorrelation. Pulses are where the record rises most steeply,
about a period apart; each is then aligned to its record's mean rise, as R peaks are (`codec/beats.py`). Channels are
added up along their first principal axis, turned so that rises are steeper than falls.

Averaged beats span a second around R. Pulses are wider and breaths far longer, so their time runs faster: with a pace
of 5 a breath of 4 s is a beat of .8 s, and all that is known of beats holds. One pace holds for all records: that at
which nine tenths of the periods are below .9 s.

References:
    Elgendi et al. (2013). Systolic peak detection in acceleration photoplethysmograms. PLoS ONE 8:e76585.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cohortloom.codec.beats import Beats, aligned, band_passed
from cohortloom.cohort import SignalSet

__all__ = ["KINDS", "Pulse", "find_pulses", "pulse_of"]

#: Kinds of signals that are looked at, and the shortest and longest period [s].
KINDS = {"ppg": (0.3, 2.0), "resp": (1.2, 12.0), "other": (0.3, 2.0)}
#: A peak of the autocorrelation is the period if it is so high, and so high beside the highest.
LEAST_PEAK, BESIDE_BEST = 0.3, 0.75
#: A record holds so many periods at least.
LEAST_PERIODS = 4
#: A rise this near to the end of a record is not looked at [s at the pulses' pace].
EDGE = 0.14
#: Most records that pace and axis are found from.
_MOST, _CHUNK = 512, 256


@dataclass(frozen=True)
class Pulse:
    """What is found of all records at once.

    Args:
        pace: How much faster time runs, so that a period is about a beat.
        axis: What each channel counts.
    """

    pace: float
    axis: tuple[float, ...]


def pulse_of(signals: SignalSet, channels: tuple[int, ...]) -> Pulse | None:
    """Pace and axis; None where records have no rhythm."""
    rows = np.unique(np.linspace(0, len(signals.samples) - 1, min(len(signals.samples), _MOST)).round().astype(int))
    if signals.spec.kind not in KINDS or not len(rows) or not channels:
        return None
    fs, limits = signals.spec.fs, KINDS[signals.spec.kind]
    x = _between(np.asarray(signals.samples[rows])[:, channels], fs, limits)
    size = np.maximum(np.sqrt(np.square(x).mean(axis=(0, 2))), 1e-9)
    axis = np.linalg.eigh(np.einsum("rcs,rds->cd", x, x, optimize=True) / np.outer(size, size))[1][:, -1] / size
    y = np.einsum("c,rcs->rs", axis, x)
    axis = axis if (np.diff(y, axis=1) ** 3).sum() >= 0 else -axis
    period = _periods(y, fs, limits)
    if np.isfinite(period).mean() < 0.5:
        return None
    return Pulse(round(float(np.nanquantile(period, 0.9)) / 0.9, 3), tuple(axis.tolist()))


def find_pulses(signals: SignalSet, channels: tuple[int, ...], pulse: Pulse) -> Beats:
    """Steepest rises of all records.

    Args:
        signals: The records, of a kind in `KINDS`.
        channels: Channels to look at.
        pulse: Of such records.
    """
    fs, limits, parts = signals.spec.fs, KINDS[signals.spec.kind], []
    for start in range(0, len(signals.samples), _CHUNK):
        x = _between(np.asarray(signals.samples[start : start + _CHUNK])[:, channels], fs, limits)
        y = np.einsum("c,rcs->rs", np.array(pulse.axis), x)
        parts.append(_pulses(y, fs, _periods(y, fs, limits), pulse.pace))
    width = max([p.place.shape[1] for p in parts] + [1])
    parts = [p.padded(width) for p in parts]
    if not parts:
        return Beats(np.zeros((0, 1)), np.zeros((0, 1), bool), np.zeros(0, int))
    return Beats(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("place", "odd", "count")))


def _between(x: np.ndarray, fs: float, limits: tuple[float, float]) -> Float[np.ndarray, "record channel sample"]:
    """Records without their slow and their fastest parts; 0 in gaps."""
    seen = np.isfinite(x)
    middle = np.ma.median(np.ma.masked_array(x, ~seen), axis=2, keepdims=True).filled(0.0)
    return band_passed(np.where(seen, x - middle, 0.0), fs, 0.6 / limits[1], 4.0 / limits[0])


def _periods(y: Float[np.ndarray, "record sample"], fs: float, limits: tuple[float, float]) -> np.ndarray:
    """Period of each record [s]; NaN where there is none."""
    n = y.shape[1]
    power = np.square(np.abs(np.fft.rfft(y, n=2 * n)))
    acf = np.fft.irfft(power)[:, : n // 2] / np.maximum(n - np.arange(n // 2), 1)
    acf = acf / np.maximum(acf[:, :1], 1e-12)
    low, high = max(2, round(limits[0] * fs)), min(n // LEAST_PERIODS, n // 2 - 1, round(limits[1] * fs))
    out = np.full(len(y), np.nan)
    if high <= low:
        return out
    inner = acf[:, low:high]
    top = (inner > acf[:, low - 1 : high - 1]) & (inner >= acf[:, low + 1 : high + 1])
    best = np.where(top, inner, -1.0).max(axis=1)
    good = top & (inner >= np.maximum(LEAST_PEAK, BESIDE_BEST * best)[:, None])
    found = good.any(axis=1)
    out[found] = (low + good[found].argmax(axis=1)) / fs
    return out


def _pulses(y: np.ndarray, fs: float, period: np.ndarray, pace: float) -> Beats:
    """Steepest rises, about a period apart."""
    from scipy.ndimage import gaussian_filter1d  # heavy
    from scipy.signal import find_peaks

    usual = float(np.nanmedian(period)) if np.isfinite(period).any() else 0.8 * pace
    steep = np.zeros(y.shape)
    found = []
    for i, row in enumerate(y):
        own = (period[i] if np.isfinite(period[i]) else usual) * fs
        steep[i] = gaussian_filter1d(row, max(0.04 * own, 0.5), order=1)
        block = max(round(2 * own), 1)
        typical = float(np.median([steep[i, s : s + block].max() for s in range(0, len(row), block)]))
        peaks = find_peaks(steep[i], height=0.35 * typical, distance=max(1, round(0.55 * own)))[0]
        whole = (peaks >= EDGE * fs * pace) & (peaks < len(row) - EDGE * fs * pace)  # else a cut rise would be odd
        found.append(peaks[whole] if typical > 1e-9 else np.zeros(0, int))
    count = np.array([len(p) for p in found], dtype=int)
    place = np.zeros((len(y), max(int(count.max(initial=0)), 1)))
    for i, peaks in enumerate(found):
        place[i, : len(peaks)] = peaks
    return aligned(steep[:, None], fs * pace, place, np.zeros(place.shape, bool), count, np.zeros(len(y), bool))
