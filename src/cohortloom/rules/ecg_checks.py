"""Checks for electrocardiograms: lead identities, units, beats, intervals, waves, electrodes.

Limits are wide: they fail what no living heart and no recorder gives, or what contradicts the rest of the record so
much that one of them must be wrong. Unusual findings, which patients do have, are warnings. Intervals that depend on
the T wave are judged only where the rhythm is regular and below 120 per minute.

Electrodes. A heart vector (three numbers at each time) explains eight independent leads through Dower's matrix. If the
leads make better sense after swapping two electrodes, they were probably swapped.

References:
    Kors, van Herpen (2001). Accurate automatic detection of electrode interchange in the electrocardiogram. Am J
    Cardiol 88:396. Dower, Machado, Osborne (1980). Clin Cardiol 3:87. Rautaharju et al. (2009). AHA/ACCF/HRS
    recommendations, part IV. Circulation 119:e241.
"""

from functools import cache

import numpy as np

from cohortloom.rules.waveform_checks import graded
from cohortloom.rules.waveform_record import FAIL, PASS, WARN, Check, Record, Verdict

__all__ = ["CHECKS", "ecg_features"]

INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
#: Heart vector (x left, y down, z back) -> I, II, V1..V6.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
#: Derived lead -> weights of I and II.
DERIVED = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


def between(value: float, fail: tuple[float, float], warn: tuple[float, float], reason: str, **place) -> Verdict | None:
    """Pass, warn or fail by two nested ranges; None for NaN."""
    if not np.isfinite(value):
        return None
    if not fail[0] <= value <= fail[1]:
        return Verdict(FAIL, value, reason, **place)
    return Verdict(
        PASS if warn[0] <= value <= warn[1] else WARN, value, reason if not warn[0] <= value <= warn[1] else ""
    )


def identities(record: Record) -> Verdict | None:
    """Einthoven (III = II - I) and Goldberger (aVR, aVL, aVF): residual against the limb leads."""
    one, two = record.index("I"), record.index("II")
    if one is None or two is None:
        return None
    x = record.x
    worst, place = -1.0, {}
    usual = np.sqrt(0.5 * (np.nanvar(x[one]) + np.nanvar(x[two])))
    for name, (a, b) in DERIVED.items():
        i = record.index(name)
        if i is None:
            continue
        off = np.abs(x[i] - a * x[one] - b * x[two])
        off = off - np.nanmedian(off) if np.nanmedian(off) < 0.05 * usual else off
        value = float(np.sqrt(np.nanmean(np.square(off))) / max(usual, 1e-12))
        if value > worst:
            at = int(np.nanargmax(off))
            worst, place = value, {"lead": name, "start": at / record.fs, "stop": (at + 1) / record.fs}
    if worst < 0:
        return None
    return graded(worst, 0.05, 0.15, "a limb lead does not follow from I and II", **place)


def amplitude(record: Record) -> Verdict | None:
    """Largest deflection [mV]: tells mV from uV and from converter units."""
    if not record.scaled or not record.present.any() or record.duration < 0.5:
        return None
    y = record.filled[record.present]
    size = np.quantile(y, 0.995, axis=1) - np.quantile(y, 0.005, axis=1)
    lead = record.channels[int(np.flatnonzero(record.present)[size.argmax()])]
    return between(float(size.max()), (0.08, 15.0), (0.3, 7.0), "deflections do not fit the unit", lead=lead)


def baseline(record: Record) -> Verdict | None:
    """Wander below .5 Hz against the size of the QRS."""
    from scipy.ndimage import uniform_filter1d  # heavy

    if record.duration < 4 or record.waves is None:
        return None
    y = record.filled[record.present]
    size = round(record.fs)
    slow = uniform_filter1d(uniform_filter1d(y, size, axis=1), size, axis=1)[:, size // 2 : -size // 2]
    # what a QRS and a T wave leave in a mean over 1 s is little; the rest is wander
    swing = np.ptp(slow, axis=1) / max(record.waves.r_size, 1e-12)
    lead = record.channels[int(np.flatnonzero(record.present)[swing.argmax()])]
    return graded(float(swing.max()), 0.7, 2.0, "the baseline wanders more than the QRS is high", lead=lead)


def noise(record: Record) -> Verdict | None:
    """What is left between the beats and their average, against the size of the QRS."""
    value = _residual(record)
    if not np.isfinite(value):
        return None
    return graded(value, 0.12, 0.3, "beats drown in noise")


def repeated(record: Record) -> Verdict | None:
    """Real beats differ: a residual below a thousandth of the QRS is one template, copied."""
    value = _residual(record)
    if not np.isfinite(value) or record.beats.main.sum() < 3:
        return None
    if value < 0.0005:
        return Verdict(FAIL, value, "all beats are copies of one template")
    return Verdict(PASS, value)


def _residual(record: Record) -> float:
    """Median spread of the main beats about their average over the lead's QRS size, in the middle lead."""
    if record.beats is None or record.beats.main.sum() < 2:
        return float("nan")
    here = record.present & np.isfinite(record.beats.average).all(axis=1)
    if not here.any():
        return float("nan")
    b = record.beats
    left = b.windows[b.main][:, here] - b.average[here]
    left = left - left.mean(axis=2, keepdims=True)
    size = np.maximum(np.ptp(b.average[here], axis=1), 1e-12)
    return float(np.median(np.median(np.abs(left), axis=(0, 2)) * 1.48 / size))


def beats_found(record: Record) -> Verdict | None:
    """Something that repeats like a heartbeat, at least every 3 s."""
    if record.duration < 4 or record.fs < 50 or not record.present.any():
        return None
    if len(record.peaks) < max(1, record.duration / 3 - 1) or record.beats is None:
        return Verdict(FAIL, float(len(record.peaks)), "no heartbeats are found")
    return Verdict(PASS, float(len(record.peaks)))


def heart_rate(record: Record) -> Verdict | None:
    return between(record.rate, (25, 250), (40, 140), "heart rate")


def rr_regularity(record: Record) -> Verdict | None:
    """RR variation: far beyond fibrillation, or irregular although every beat has its P wave."""
    value = record.rr_variation
    if not np.isfinite(value):
        return None
    if value > 0.6:
        return Verdict(FAIL, value, "RR intervals vary more than in any rhythm")
    if value > 0.35:
        return Verdict(WARN, value, "RR intervals vary much")
    return Verdict(PASS, value)


def time_scale(record: Record) -> Verdict | None:
    """Rate, QRS and QTc must fit one another: a wrong sampling frequency moves all three."""
    w = record.waves
    if w is None or not np.isfinite(w.qt) or not record.rr_variation < 0.2:
        return None
    qtc = _qtc(record)
    slow = w.qrs > 0.15 and qtc > 0.53 and record.rate < 55
    fast = w.qrs < 0.06 and qtc < 0.33 and record.rate > 95
    if slow or fast:
        return Verdict(FAIL, qtc, "heart rate, QRS and QT are all too " + ("slow" if slow else "fast"))
    return Verdict(PASS, qtc)


def _qtc(record: Record) -> float:
    if record.waves is None or not len(record.rr):
        return float("nan")
    return record.waves.qt / float(np.median(record.rr)) ** (1 / 3)


def qtc(record: Record) -> Verdict | None:
    if not record.steady:
        return None
    return between(_qtc(record), (0.30, 0.60), (0.34, 0.48), "QTc (Fridericia)")


def pr(record: Record) -> Verdict | None:
    if record.waves is None or not record.steady:
        return None
    return between(record.waves.pr, (0.06, 0.45), (0.11, 0.22), "PR interval")


def qrs(record: Record) -> Verdict | None:
    if record.waves is None:
        return None
    return between(record.waves.qrs, (0.04, 0.24), (0.06, 0.125), "QRS duration")


def p_wave(record: Record) -> Verdict | None:
    """A regular rhythm of ordinary rate has P waves before its QRS."""
    if record.waves is None or not record.rr_variation < 0.06 or not 45 < record.rate < 115:
        return None
    if not np.isfinite(record.waves.p_size) or record.beats.main.sum() < 4:
        return None
    value = record.waves.p_size / max(record.waves.r_size, 1e-12)
    if record.waves.p_present:
        return Verdict(PASS, value)
    return Verdict(WARN, value, "no P wave before the QRS although the rhythm is regular")


def st_level(record: Record) -> Verdict | None:
    if record.waves is None or not record.scaled or not np.isfinite(record.waves.st).any():
        return None
    st = np.abs(record.waves.st)
    lead = record.channels[int(np.nanargmax(st))]
    return graded(float(np.nanmax(st)), 0.25, 1.5, "ST is shifted", lead=lead)


def _axis(record: Record) -> float:
    one, two = record.index("I"), record.index("II")
    if record.waves is None or one is None or two is None:
        return float("nan")
    a, b = record.waves.net[one], record.waves.net[two]
    return float(np.degrees(np.arctan2((2 * b - a) / np.sqrt(3), a)))


def axis(record: Record) -> Verdict | None:
    value = _axis(record)
    return between(value, (-180, 180), (-45, 110), "frontal axis") if np.isfinite(value) else None


def morphology(record: Record) -> Verdict | None:
    """Beats that do not look like the record's main beat."""
    b = record.beats
    if b is None or len(b.used) < 4:
        return None
    value = float(1 - b.main.mean())
    at = record.peaks[b.used[int(b.likeness.argmin())]] / record.fs
    return graded(value, 0.35, 0.7, "beats change their shape from one to the next", start=at - 0.3, stop=at + 0.5)


def _direction(record: Record) -> float:
    """Mean square of the average beat before the QRS over that behind it, at equal distances."""
    b = record.beats
    if b is None or not len(record.rr):
        return float("nan")
    fs, r = record.fs, b.r
    near, far = round(0.10 * fs), round(min(0.38, 0.47 * float(np.median(record.rr))) * fs)
    if far - near < 0.08 * fs:
        return float("nan")
    x = b.average[np.isfinite(b.average).all(axis=1)]
    before, after = x[:, r - far : r - near], x[:, r + near : r + far]
    level = np.median(np.concatenate([before, after], axis=1), axis=1, keepdims=True)
    return float(np.square(before - level).sum() / max(np.square(after - level).sum(), 1e-12))


def time_direction(record: Record) -> Verdict | None:
    """More happens after the QRS (T wave) than before it (P wave)."""
    value = _direction(record)
    if not np.isfinite(value) or not record.rr_variation < 0.1 or not record.rate < 90:
        return None
    return graded(value, 1.0, 2.0, "more happens before the QRS than after it: time may run backwards")


def polarity(record: Record) -> Verdict | None:
    """P, QRS and T all point away from where they do in I and II together."""
    one, two, w = record.index("I"), record.index("II"), record.waves
    if one is None or two is None or w is None or not w.p_present:
        return None
    rows = [one, two]
    sides = [np.sign(part[rows].sum()) for part in (w.p, w.net, w.t)]
    if all(s < 0 for s in sides) and w.p[rows].max() < 0:
        return Verdict(FAIL, -1.0, "P, QRS and T are upside down in I and II", lead="I and II")
    return Verdict(PASS, 1.0)


@cache
def _swaps() -> tuple[tuple[str, np.ndarray], ...]:
    """Name and 8 x 8 matrix of each swap of two electrodes, on the independent leads."""
    eye = np.eye(8)
    arms, right_foot, left_foot = eye.copy(), eye.copy(), eye.copy()
    arms[:2] = [[-1, 0, *[0] * 6], [-1, 1, *[0] * 6]]  # I = -I, II = III
    right_foot[:2] = [[1, -1, *[0] * 6], [0, -1, *[0] * 6]]  # I = -III, II = -II
    left_foot[:2] = [[0, 1, *[0] * 6], [1, 0, *[0] * 6]]  # I = II, II = I
    found = [("right and left arm", arms), ("right arm and foot", right_foot), ("left arm and foot", left_foot)]
    flip = eye.copy()
    flip[0, 0] = -1
    found.append(("poles of I", flip))
    for i in range(2, 8):
        for j in range(i + 1, 8):
            swap = eye.copy()
            swap[[i, j]] = swap[[j, i]]
            found.append((f"{INDEPENDENT[i]} and {INDEPENDENT[j]}", swap))
    return tuple(found)


def electrodes(record: Record) -> Verdict | None:
    """Would the leads make better sense with two electrodes swapped?"""
    rows = [record.index(name) for name in INDEPENDENT]
    if record.beats is None or any(r is None for r in rows) or record.beats.main.sum() < 3:
        return None
    fs, r = record.fs, record.beats.r
    y = record.beats.average[rows][:, r - round(0.25 * fs) : r + round(0.45 * fs)]
    y = y - np.median(y, axis=1, keepdims=True)
    size = np.linalg.norm(y, axis=1)
    if size.min() <= 0.01 * size.max():
        return None
    keep = np.eye(8) - DOWER @ np.linalg.pinv(DOWER)
    c = y @ y.T

    def lost(g: np.ndarray) -> float:
        turned = g @ c @ g.T
        return float(np.trace(keep @ turned) / max(np.trace(turned), 1e-12))

    now = lost(np.eye(8))
    gains = [(now - lost(g), name) for name, g in _swaps()]
    gain, name = max(gains)
    return graded(gain, 0.08, 0.12, f"the leads make better sense with {name} exchanged", lead=name)


CHECKS = tuple(
    Check(name, words, unit, look, ("ecg",))
    for name, words, unit, look in (
        ("identities", "limb leads follow Einthoven and Goldberger", "1", identities),
        ("amplitude", "deflections fit the unit", "mV", amplitude),
        ("baseline", "the baseline is quiet", "1", baseline),
        ("noise", "beats stand out of the noise", "1", noise),
        ("beats_found", "heartbeats are found", "1", beats_found),
        ("heart_rate", "heart rate of 25 to 250", "/min", heart_rate),
        ("rr_regularity", "RR intervals are those of a rhythm", "1", rr_regularity),
        ("time_scale", "rate, QRS and QT fit one another", "s", time_scale),
        ("p_wave", "P waves stand before the QRS of a regular rhythm", "1", p_wave),
        ("pr", "PR of 60 to 450 ms", "s", pr),
        ("qrs", "QRS of 40 to 240 ms", "s", qrs),
        ("qtc", "QTc of 300 to 600 ms", "s", qtc),
        ("st_level", "ST within 1.5 mV", "mV", st_level),
        ("axis", "frontal axis", "deg", axis),
        ("morphology", "beats resemble one another", "1", morphology),
        ("repeated", "beats are not copies of one template", "1", repeated),
        ("time_direction", "the T wave follows the QRS", "1", time_direction),
        ("polarity", "P, QRS and T point the usual way", "1", polarity),
        ("electrodes", "electrodes are where they belong", "1", electrodes),
    )
)


def ecg_features(record: Record) -> dict[str, float]:
    """Interval, rhythm and voltage features of a record; NaN where they can't be measured.

    Seconds for intervals, 1/min for rates, the signal's unit (mV where known) for sizes.
    """
    nan = float("nan")
    rr, w, b = record.rr, record.waves, record.beats
    step = np.diff(rr)
    out = {
        "heart rate": record.rate,
        "RR variation": record.rr_variation,
        "SDNN": float(rr.std()) if len(rr) >= 3 else nan,
        "RMSSD": float(np.sqrt(np.mean(step**2))) if len(step) >= 2 else nan,
        "pNN50": float(np.mean(np.abs(step) > 0.05)) if len(step) >= 2 else nan,
        "RR correlation": _lag_one(rr),
        "PR": w.pr if w else nan,
        "QRS": w.qrs if w else nan,
        "QT": w.qt if w else nan,
        "QTc": _qtc(record),
        "axis": _axis(record),
        "P present": float(w.p_present) if w and np.isfinite(w.p_size) else nan,
        "P size": w.p_size if w else nan,
        "R size": w.r_size if w else nan,
        "T size": w.t_size if w else nan,
        "ST": float(np.nanmax(np.abs(w.st))) if w and np.isfinite(w.st).any() else nan,
        "QRS steepness": w.steepness if w else nan,
        "before over after QRS": float(np.log10(max(_direction(record), 1e-6))),
        "beat likeness": float(np.median(b.likeness)) if b is not None else nan,
        "main beats": float(b.main.mean()) if b is not None else nan,
        "beat noise": _residual(record),
        "R size variation": _size_variation(record),
        "voltage": float(np.mean(np.ptp(b.average[record.present], axis=1)))
        if b is not None and record.present.any()
        else nan,
    }
    for name in ("V2", "V5"):
        i = record.index(name)
        out[f"T in {name}"] = float(w.t[i]) if w and i is not None else nan
    return out


def _voltage(record: Record) -> float:
    """Mean over the leads of the average beat's peak to peak."""
    if record.beats is None or not record.present.any():
        return float("nan")
    return float(np.mean(np.ptp(record.beats.average[record.present], axis=1)))


def _lag_one(rr: np.ndarray) -> float:
    if len(rr) < 6 or rr.std() <= 0:
        return float("nan")
    return float(np.corrcoef(rr[:-1], rr[1:])[0, 1])


def _size_variation(record: Record) -> float:
    """Coefficient of variation of the beats' size over all leads."""
    b = record.beats
    if b is None or len(b.used) < 3:
        return float("nan")
    here = np.isfinite(b.average).all(axis=1)
    reach = round(0.06 * record.fs)
    size = np.sqrt(np.square(np.ptp(b.windows[:, here, b.r - reach : b.r + reach + 1], axis=2)).sum(axis=1))
    return float(size.std() / max(size.mean(), 1e-12))
