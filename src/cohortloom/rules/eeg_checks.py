"""Checks for electroencephalograms: amplitude, spectrum, coherence, spikes.

The spectrum of a living brain falls with frequency like f^-chi, chi about .5 to 3 between 2 and 40 Hz, with a hump near
10 Hz in most awake adults with their eyes shut; neighbouring electrodes see much of the same.

References:
    He (2014). Scale-free brain activity: past, present, and future. Trends Cogn Sci 18:480. Klimesch (1999). EEG alpha
    and theta oscillations. Brain Res Rev 29:169.
"""

import numpy as np

from cohortloom.rules.ecg_checks import between
from cohortloom.rules.waveform_checks import graded
from cohortloom.rules.waveform_record import PASS, WARN, Check, Record, Verdict

__all__ = ["BANDS", "CHECKS", "eeg_features"]

#: Frequency bands [Hz].
BANDS = {"delta": (0.5, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30), "gamma": (30, 45)}


def amplitude(record: Record) -> Verdict | None:
    """Root mean square [uV] of the middle channel."""
    if not record.scaled or not record.present.any() or record.n < 20:
        return None
    size = record.filled[record.present].std(axis=1)
    lead = record.channels[int(np.flatnonzero(record.present)[size.argmax()])]
    return between(float(np.median(size)), (0.5, 1500.0), (2.0, 300.0), "amplitude does not fit the unit", lead=lead)


def _slope(record: Record) -> float:
    """Exponent chi of P(f) ~ f^-chi from 2 to 40 Hz, alpha left out; median over channels."""
    if record.duration < 1 or record.fs < 40 or not record.present.any():
        return float("nan")
    f, p = record.spectrum
    use = (f >= 2) & (f <= min(40, 0.4 * record.fs)) & ~((f > 7) & (f < 14))
    if use.sum() < 5:
        return float("nan")
    x = np.log10(f[use])
    y = np.log10(np.maximum(p[record.present][:, use], 1e-30))
    return float(np.median(-np.polyfit(x, y.T, 1)[0]))


def slope(record: Record) -> Verdict | None:
    """The spectrum falls."""
    return between(_slope(record), (0.05, 6.0), (0.3, 4.5), "the spectrum does not fall like an EEG's")


def _bands(record: Record) -> dict[str, float]:
    """Share of the power from .5 to 45 Hz in each band, mean over channels."""
    if record.duration < 1 or not record.present.any():
        return {}
    f, p = record.spectrum
    p = p[record.present]
    whole = p[:, (f >= 0.5) & (f <= 45)].sum(axis=1)
    share = {k: (p[:, (f >= a) & (f < b)].sum(axis=1) / np.maximum(whole, 1e-30)).mean() for k, (a, b) in BANDS.items()}
    return {k: float(v) for k, v in share.items()}


def band_power(record: Record) -> Verdict | None:
    """No band of 30 to 45 Hz holds most of an EEG."""
    share = _bands(record)
    if not share:
        return None
    fast = share["beta"] + share["gamma"]
    return graded(fast, 0.6, 0.85, "most power lies above 13 Hz: muscle, noise or a wrong sampling frequency")


def _alpha(record: Record) -> tuple[float, float]:
    """Frequency [Hz] and height (over the power law, factor) of the largest hump from 6 to 14 Hz."""
    if record.duration < 2 or record.fs < 40 or not record.present.any():
        return float("nan"), float("nan")
    f, p = record.spectrum
    use, wide = (f >= 6) & (f <= 14), (f >= 2) & (f <= min(40, 0.4 * record.fs))
    y = np.log10(np.maximum(p[record.present], 1e-30)).mean(axis=0)
    line = np.polyfit(np.log10(f[wide]), y[wide], 1)
    over = y[use] - np.polyval(line, np.log10(f[use]))
    return float(f[use][over.argmax()]), float(10 ** over.max())


def alpha(record: Record) -> Verdict | None:
    """Where alpha stands out, it does so once; shown, not judged, as many people lack it."""
    _, height = _alpha(record)
    return Verdict(PASS, height) if np.isfinite(height) else None


def _coherence(record: Record) -> float:
    """Mean correlation of channels, broadband, over pairs (absolute)."""
    rows = np.flatnonzero(record.present)
    if len(rows) < 2 or record.n < 20:
        return float("nan")
    c = np.corrcoef(record.filled[rows])
    return float(np.abs(c[np.triu_indices(len(rows), 1)]).mean())


def coherence(record: Record) -> Verdict | None:
    """Channels of one head are related, but not the same."""
    value = _coherence(record)
    return between(value, (0.0, 0.995), (0.02, 0.97), "channels are all but the same, or unrelated")


def spikes(record: Record) -> Verdict | None:
    """Samples beyond 12 robust standard deviations of their channel's first difference."""
    if record.n < 50 or not record.present.any():
        return None
    d = np.diff(record.filled[record.present], axis=1)
    scale = np.maximum(1.4826 * np.median(np.abs(d), axis=1, keepdims=True), 1e-12)
    height = np.abs(d) / scale
    lead, at = np.unravel_index(height.argmax(), height.shape)
    share = float((height > 12).mean())
    place = {"lead": record.channels[int(np.flatnonzero(record.present)[lead])], "start": at / record.fs}
    return graded(share, 0.002, 0.05, "spikes: jumps far beyond the usual", **place)


def steps(record: Record) -> Verdict | None:
    """One or few jumps of the whole level: electrodes that came off, or pieces put together."""
    if record.n < 50 or not record.present.any():
        return None
    d = np.abs(np.diff(record.filled[record.present], axis=1))
    scale = np.maximum(record.filled[record.present].std(axis=1, keepdims=True), 1e-12)
    value = float((d / scale).max())
    return Verdict(
        WARN if value > 5 else PASS, value, "a jump larger than five standard deviations" if value > 5 else ""
    )


CHECKS = tuple(
    Check(name, words, unit, look, ("eeg",))
    for name, words, unit, look in (
        ("amplitude", "amplitude fits the unit", "uV", amplitude),
        ("slope", "the spectrum falls with frequency", "1", slope),
        ("band_power", "slow bands hold most of the power", "1", band_power),
        ("alpha", "alpha peak", "1", alpha),
        ("coherence", "channels are related but not the same", "1", coherence),
        ("spikes", "few jumps", "1", spikes),
        ("steps", "no jump of the level", "1", steps),
    )
)


def eeg_features(record: Record) -> dict[str, float]:
    """Amplitude, band shares, slope, alpha and coherence of a record; NaN where they can't be measured."""
    nan = float("nan")
    share = _bands(record)
    peak, height = _alpha(record)
    some = record.present.any() and record.n >= 20
    y = record.filled[record.present] if some else np.zeros((1, 1))
    z = (y - y.mean(axis=1, keepdims=True)) / np.maximum(y.std(axis=1, keepdims=True), 1e-12)
    d = np.diff(y, axis=1)
    return {
        "amplitude": float(np.median(y.std(axis=1))) if some else nan,
        **{f"{k} share": share.get(k, nan) for k in BANDS},
        "slope": _slope(record),
        "alpha peak": peak,
        "alpha height": height,
        "channel correlation": _coherence(record),
        "kurtosis": float(np.median((z**4).mean(axis=1))) if some else nan,
        "skewness": float(np.median((z**3).mean(axis=1))) if some else nan,
        "activity": float(np.median(d.std(axis=1) / np.maximum(y.std(axis=1), 1e-12))) if some else nan,
    }
