"""Beats of an ECG: where the R peaks are, and what the average beat looks like.

Detection looks at all leads at once. Each lead is band-passed (5 to 20 Hz), scaled by its own large values, and

    e(t) = mean over leads of (d x / dt)^2,   averaged over 120 ms,

so one bad lead does not decide. Peaks of sqrt(e) above .35 of the usual peak are beats; a smaller one within 360 ms of
a larger one is its T wave. Beats are then moved to where they agree best with the median beat, which is what makes the
average sharp. Intervals are measured on the average beat of the main morphology (`ecg_delineate.py`): ten beats have a
third of the noise of one, and a record has one PR and one QT unless its rhythm says otherwise.

With the extra `signals`, neurokit2 can detect instead (one lead at a time).

References:
    Pan, Tompkins (1985). A real-time QRS detection algorithm. IEEE Trans Biomed Eng 32:230.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cohortloom.errors import SettingsError

__all__ = ["AFTER", "BEFORE", "Beats", "average_beats", "find_peaks_neurokit", "find_r_peaks"]

BEFORE, AFTER = 0.40, 0.65
SAME = 0.8
LEAST = 1.5


@dataclass(frozen=True)
class Beats:
    """Beats of one record, cut around their R peaks and levelled before the QRS.

    Args:
        peaks: Samples of all R peaks.
        used: Indices into `peaks` of the beats that lie wholly inside the record.
        windows: beat x channel x sample of the used beats, BEFORE to AFTER seconds about the peak; NaN in absent leads.
        average: Median of the main morphology, channel x sample.
        likeness: Correlation of each used beat's QRS and T with the median beat, over all leads.
        main: Which used beats are of the main morphology.
        r: Sample of the R peak in a window.
    """

    peaks: Int[np.ndarray, "beat"]
    used: Int[np.ndarray, "used"]
    windows: Float[np.ndarray, "used channel window"]
    average: Float[np.ndarray, "channel window"]
    likeness: Float[np.ndarray, "used"]
    main: np.ndarray
    r: int


def find_r_peaks(x: Float[np.ndarray, "channel sample"], fs: float) -> Int[np.ndarray, "beat"]:
    """R peaks of one record, from all leads without gaps.

    Args:
        x: Samples; leads that are flat or mostly missing are left out.
        fs: Sampling frequency [Hz], at least 50.

    Returns:
        Samples, ascending; empty if the record is shorter than 1.5 s or nothing stands out.
    """
    from scipy.ndimage import uniform_filter1d  # heavy
    from scipy.signal import butter, find_peaks, sosfiltfilt

    n = x.shape[1]
    if n < LEAST * fs or fs < 50:
        return np.zeros(0, dtype=np.int64)
    known = np.isfinite(x)
    good = (known.mean(axis=1) > 0.5) & (np.nanstd(np.where(known, x, 0.0), axis=1) > 0)
    if not good.any():
        return np.zeros(0, dtype=np.int64)
    filled = fill_gaps(x[good])
    sos = butter(2, [5.0, min(20.0, 0.45 * fs)], "bandpass", fs=fs, output="sos")
    y = sosfiltfilt(sos, filled, axis=1, padlen=min(n - 1, int(fs)))
    slope = np.gradient(y, axis=1)
    slope /= np.maximum(np.quantile(np.abs(slope), 0.98, axis=1, keepdims=True), 1e-12)
    e = np.sqrt(uniform_filter1d(np.square(np.clip(slope, -6, 6)).mean(axis=0), max(3, round(0.12 * fs))))
    found, _ = find_peaks(e, distance=max(1, round(0.2 * fs)))
    if not len(found):
        return found
    pieces = np.array_split(e, max(1, int(n / (1.5 * fs))))
    usual = np.median([p.max() for p in pieces])
    found = found[e[found] > 0.35 * usual]
    found = _without_t_waves(found, e, fs)
    strength = np.abs(y).max(axis=1)
    lead = np.abs(y[np.argsort(-strength)[:4]]).sum(axis=0)
    half = round(0.06 * fs)
    moved = [max(0, p - half) + int(lead[max(0, p - half) : p + half + 1].argmax()) for p in found]
    return np.unique(np.array(moved, dtype=np.int64))


def fill_gaps(x: Float[np.ndarray, "channel sample"]) -> Float[np.ndarray, "channel sample"]:
    """Missing samples bridged by straight lines; a wholly missing lead becomes zero."""
    known = np.isfinite(x)
    if known.all():
        return x.astype(float)
    out = x.astype(float)
    at = np.arange(x.shape[1])
    for c in np.flatnonzero(~known.all(axis=1)):
        out[c] = np.interp(at, at[known[c]], out[c, known[c]]) if known[c].any() else 0.0
    return out


def _without_t_waves(found: np.ndarray, e: np.ndarray, fs: float) -> np.ndarray:
    kept: list[int] = []
    for p in found:
        if kept and p - kept[-1] < 0.36 * fs and e[p] < 0.6 * e[kept[-1]]:
            continue
        if kept and p - kept[-1] < 0.28 * fs and e[p] > e[kept[-1]] / 0.6:
            kept.pop()
        kept.append(int(p))
    return np.array(kept, dtype=np.int64)


def find_peaks_neurokit(x: Float[np.ndarray, "channel sample"], fs: float) -> Int[np.ndarray, "beat"]:
    """R peaks by neurokit2, in the lead with the largest deflections.

    Raises:
        SettingsError: the extra `signals` is not installed.
    """
    try:
        import neurokit2
    except ImportError:
        raise SettingsError(
            'detector "neurokit2" needs the extra "signals": pip install cohortloom[signals]. '
            'The detector "own" works without it.'
        ) from None
    filled = fill_gaps(x)
    if filled.shape[1] < LEAST * fs:
        return np.zeros(0, dtype=np.int64)
    lead = filled[np.ptp(filled, axis=1).argmax()]
    try:
        clean = neurokit2.ecg_clean(lead, sampling_rate=round(fs))
        peaks = neurokit2.ecg_peaks(clean, sampling_rate=round(fs))[1]["ECG_R_Peaks"]
    except (ValueError, IndexError, ZeroDivisionError):
        return np.zeros(0, dtype=np.int64)
    return np.asarray(peaks, dtype=np.int64)


def average_beats(x: Float[np.ndarray, "channel sample"], peaks: Int[np.ndarray, "beat"], fs: float) -> Beats | None:
    """The median beat of the main morphology, after aligning; None without two whole beats."""
    before, after = round(BEFORE * fs), round(AFTER * fs)
    n = x.shape[1]
    slack = max(1, round(0.03 * fs))
    used = np.flatnonzero((peaks - before - slack >= 0) & (peaks + after + slack < n))
    if len(used) < 2:
        return None
    peaks = peaks.copy()
    absent = ~np.isfinite(x).any(axis=1)
    filled = fill_gaps(x)
    wide = _cut(filled, peaks[used], before + slack, after + slack)
    core = slice(before + slack - round(0.1 * fs), before + slack + round(0.1 * fs))
    size = np.maximum(np.median(np.ptp(wide[:, :, core], axis=2), axis=0), 1e-9)
    sharp = np.diff(wide, axis=2)
    shift = _best_shift(sharp / size[:, None], core, slack)
    peaks[used] += shift
    windows = _level(_cut(filled, peaks[used], before, after), before, fs)
    body = slice(before - round(0.06 * fs), before + round(0.35 * fs))
    likeness, main = _likeness(windows[:, :, body])
    average = np.median(windows[main], axis=0)
    r = _fiducial(average, before, fs)
    peaks[used] += r - before
    windows = _level(_cut(filled, np.clip(peaks[used], before, n - after - 1), before, after), before, fs)
    average = np.median(windows[main], axis=0)
    windows[:, absent], average[absent] = np.nan, np.nan
    return Beats(peaks, used, windows, average, likeness, main, before)


def _cut(x: np.ndarray, at: np.ndarray, before: int, after: int) -> Float[np.ndarray, "beat channel window"]:
    return x[:, at[:, None] + np.arange(-before, after)[None]].transpose(1, 0, 2)


def _level(windows: np.ndarray, r: int, fs: float) -> np.ndarray:
    """Take off the level between P wave and QRS."""
    return windows - np.median(windows[:, :, r - round(0.09 * fs) : r - round(0.045 * fs)], axis=2, keepdims=True)


def _best_shift(windows: np.ndarray, core: slice, slack: int) -> np.ndarray:
    """Shift of each beat that agrees best with the median beat (slopes, so that the baseline does not matter)."""
    middle = np.median(windows[:, :, core], axis=0)
    scores = [
        np.einsum("bcs,cs->b", windows[:, :, core.start + d : core.stop + d], middle) for d in range(-slack, slack + 1)
    ]
    return np.argmax(scores, axis=0) - slack


def _likeness(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of each beat with the median beat, over leads and time, and which beats are of the main shape.

    Where beats disagree with the median of all, the beat that most others resemble leads instead.
    """
    flat = windows - np.median(windows, axis=2, keepdims=True)
    flat = flat.reshape(len(flat), -1)
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    alike = unit @ unit.T
    leader = int((alike > SAME).sum(axis=1).argmax())
    main = alike[leader] > SAME
    middle = np.median(flat[main], axis=0)
    likeness = unit @ (middle / max(float(np.linalg.norm(middle)), 1e-12))
    main = likeness > SAME
    return likeness, main if main.any() else np.arange(len(flat)) == leader


def _fiducial(average: np.ndarray, middle: int, fs: float) -> int:
    """The largest deflection of the average QRS, over the leads."""
    reach = round(0.05 * fs)
    part = average[:, middle - reach : middle + reach + 1]
    return middle - reach + int(np.sqrt(np.square(part).sum(axis=0)).argmax())
