"""Checks for waveforms of any kind: gaps, flat lines, clipping, mains, seams, resampling.

A check fails what no recorder of this kind gives, and warns of what is rare. The thresholds were set on real records
(see docs/concepts/waveforms.md for how often real records fail) and stand here with their units.
"""

import numpy as np

from cohortloom.rules.waveform_record import FAIL, PASS, WARN, Check, Record, Verdict

__all__ = ["CHECKS", "longest_run", "seam_strength"]


def graded(value: float, warn: float, fail: float, reason: str, **place) -> Verdict:
    """Pass, warn or fail by how large a value is."""
    verdict = FAIL if value > fail else WARN if value > warn else PASS
    return Verdict(verdict, float(value), reason if verdict != PASS else "", **(place if verdict != PASS else {}))


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of True; (0, 0) without one."""
    padded = np.concatenate([[False], flags, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    if not len(edges):
        return 0, 0
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(starts[longest]), int(lengths[longest])


def _worst_run(record: Record, flags: np.ndarray, rows: np.ndarray) -> tuple[int, int, int]:
    """Channel, start and length of the longest run over some channels."""
    runs = [(longest_run(flags[c]), c) for c in rows]
    (start, length), channel = max(runs, key=lambda r: r[0][1], default=((0, 0), 0))
    return channel, start, length


def _at(record: Record, channel: int, start: int, length: int) -> dict:
    return {"lead": record.channels[channel], "start": start / record.fs, "stop": (start + length) / record.fs}


def missing_lead(record: Record) -> Verdict:
    absent = [c for c, k in zip(record.channels, record.known) if not k.any()]
    if len(absent) == len(record.channels):
        return Verdict(FAIL, 1.0, "no sample in any lead")
    return graded(len(absent) / len(record.channels), 0, 1, "a lead has no sample", lead=absent[0] if absent else "")


def gaps(record: Record) -> Verdict | None:
    """Missing samples between known ones fail if they last .1 s; a record that ends early is a warning."""
    rows = np.flatnonzero(record.known.any(axis=1))
    if not len(rows):
        return None
    inner = np.zeros_like(record.known)
    early = 0
    for c in rows:
        at = np.flatnonzero(record.known[c])
        inner[c, at[0] : at[-1] + 1] = ~record.known[c, at[0] : at[-1] + 1]
        early = max(early, record.n - 1 - at[-1], at[0])
    c, start, length = _worst_run(record, inner, rows)
    if length:
        reason = "samples are missing within the record"
        return graded(length / record.fs, 0, 0.1, reason, **_at(record, c, start, length))
    return graded(early / record.fs, 1 / record.fs, np.inf, "the record is shorter than the schema says")


def flat(record: Record) -> Verdict | None:
    """The same value over and over: fails from 1 s in a row."""
    rows = np.flatnonzero(record.known.any(axis=1))
    if not len(rows) or record.n < 3:
        return None
    dead = [c for c in rows if not record.present[c]]
    if dead:
        return Verdict(FAIL, record.duration, "a lead never changes", lead=record.channels[dead[0]])
    c, start, length = _worst_run(record, np.diff(record.x, axis=1) == 0, rows)
    most = min(1.0, 0.5 * record.duration)
    return graded(length / record.fs, 0.3 * most, most, "a lead stands still", **_at(record, c, start, length))


def dropout(record: Record) -> Verdict | None:
    """A stretch of .5 s or more in which a lead all but vanishes: its swing is below 1.5 % of the usual."""
    size = round(0.5 * record.fs)
    if record.n < 6 * size or not record.present.any():
        return None
    pieces = record.n // size
    y = record.filled[record.present][:, : pieces * size].reshape(-1, pieces, size)
    swing = np.ptp(y, axis=2) / np.maximum(np.median(np.ptp(y, axis=2), axis=1, keepdims=True), 1e-12)
    lead, at = np.unravel_index(swing.argmin(), swing.shape)
    value = 1 / max(float(swing.min()), 1e-6)
    place = {
        "lead": record.channels[int(np.flatnonzero(record.present)[lead])],
        "start": at * 0.5,
        "stop": at * 0.5 + 0.5,
    }
    return graded(value, 1 / 0.03, 1 / 0.015, "the signal all but vanishes for a while", **place)


def clipping(record: Record) -> Verdict | None:
    """Plateaus of equal samples at a lead's largest or smallest value."""
    if not record.present.any() or record.n < 20:
        return None
    least = max(3, round(0.008 * record.fs))
    worst, place = 0.0, {}
    for c in np.flatnonzero(record.present):
        x = record.x[c]
        for extreme in (np.nanmax(x), np.nanmin(x)):
            top = np.abs(x - extreme) <= 1e-7 * max(abs(extreme), 1e-12)
            padded = np.concatenate([[False], top, [False]])
            edges = np.flatnonzero(padded[1:] != padded[:-1])
            lengths = edges[1::2] - edges[::2]
            long = lengths >= least
            share = float(lengths[long].sum()) / record.n
            if long.sum() >= 2 and share > worst and share < 0.5:
                first = int(edges[::2][long][0])
                worst, place = share, _at(record, c, first, int(lengths[long][0]))
    return graded(worst, 0.0, 0.004, "a lead sticks at its largest or smallest value", **place)


def mains(record: Record) -> Verdict | None:
    """Amplitude of a steady line at 50 or 60 Hz, against the lead's standard deviation."""
    if record.duration < 2 or record.fs < 105 or not record.present.any():
        return None
    y = record.filled[record.present]
    t = np.arange(record.n) / record.fs
    window = np.hanning(record.n)
    worst, lead = 0.0, 0
    for line in (50.0, 60.0):
        if line > 0.49 * record.fs:
            continue
        # the line's amplitude less that at 3 Hz to either side: muscle noise is broad, mains is not
        waves = np.exp(-2j * np.pi * (line + np.array([0, -0.2, 0.2, -3, 3]))[:, None] * t) * window
        size = np.abs((y - y.mean(axis=1, keepdims=True)) @ waves.T) * 2 / window.sum()
        height = (size[:, :3].max(axis=1) - 1.5 * size[:, 3:].max(axis=1)) / np.maximum(y.std(axis=1), 1e-12)
        if height.max() > worst:
            worst, lead = float(height.max()), int(height.argmax())
    return graded(worst, 0.25, 0.6, "mains hum", lead=record.channels[int(np.flatnonzero(record.present)[lead])])


NEAR, SHORTEST_PATCH, LONGEST_PATCH = 25, 6, 128


def seam_strength(x: np.ndarray) -> tuple[float, int]:
    """How much sharper the signal turns at every p-th sample than elsewhere; strength and p, best over p = 6 to 128.

    Recorders that resample 4 to 5 leave a pattern of 5, so shorter pieces can't be told.

    |second difference| is set against its neighbourhood (so that a QRS counts no more than the rest), folded modulo p,
    and the highest phase is set against the spread of the others. A sinusoid raises many phases, a seam one or two.
    """
    from scipy.ndimage import uniform_filter1d  # heavy

    turn = np.abs(np.diff(x, n=2, axis=1))
    usual = uniform_filter1d(turn, NEAR, axis=1) + 1e-3 * turn.mean(axis=1, keepdims=True) + 1e-12
    line = np.minimum(turn / usual, 4.0).mean(axis=0)
    best, period = 0.0, 0
    for p in range(SHORTEST_PATCH, min(LONGEST_PATCH, len(line) // 16) + 1):
        fold = line[: len(line) // p * p].reshape(-1, p)
        mean = fold.mean(axis=0)
        top = int(mean.argmax())
        others = np.delete(mean, [(top - 2) % p, (top - 1) % p, top, (top + 1) % p, (top + 2) % p][: min(5, p - 2)])
        if len(others) < 2:
            continue
        error = max(fold.std() / np.sqrt(len(fold)), 1e-9)
        middle = float(np.median(others))
        runner_up = float(others.max())
        strength = min((mean[top] - middle) / error, 3 * (mean[top] - runner_up) / error)
        if strength > best:
            best, period = float(strength), p
    return best, period


def _without_mains(x: np.ndarray, fs: float) -> np.ndarray:
    """Steady lines at 50 and 60 Hz and their harmonics taken off: hum is periodic too, but no seam."""
    lines = np.array([k * f for f in (50.0, 60.0) for k in range(1, 9) if k * f < 0.49 * fs])
    if not len(lines):
        return x
    turn = 2 * np.pi * lines[:, None] * np.arange(x.shape[1]) / fs
    waves = np.concatenate([np.cos(turn), np.sin(turn)])
    return x - (x - x.mean(axis=1, keepdims=True)) @ waves.T @ waves * (2 / x.shape[1])


def seams(record: Record) -> Verdict | None:
    if record.duration < 2 or not record.present.any():
        return None
    value, _ = seam_strength(_without_mains(record.filled[record.present], record.fs))
    return graded(value, 13, 20, "the signal breaks at regular distances, as if put together from pieces")


def resampled(record: Record) -> Verdict | None:
    """A cliff in the spectrum: power falls by 30 dB within a tenth of the band and stays below what rounding leaves.

    A record brought to its sampling frequency from a lower one has nothing above the old half frequency. Filters of
    recorders fall slowly, and their converters leave rounding noise up to the top.
    """
    if record.duration < 2 or not record.present.any():
        return None
    p = record.spectrum[1][record.present]
    level = np.log10(np.median(p / np.maximum(p.sum(axis=1, keepdims=True), 1e-300), axis=0) + 1e-30)
    n = len(level)
    step = max(2, n // 20)
    low = [float(np.median(level[i : i + step])) for i in range(0, n - step + 1, step)]
    drop = 0.0
    for i in range(3, len(low) - 3):
        drop = max(drop, min(low[i - 3 : i]) - max(low[i + 1 : len(low) - 1]))
    reason = "the top of the spectrum is empty: the record seems to come from a lower sampling frequency"
    return graded(drop * 10, 25, 32, reason)


def in_range(record: Record) -> Verdict | None:
    """Samples within the schema's bounds."""
    low, high = record.spec.low, record.spec.high
    if low is None and high is None:
        return None
    out = np.zeros_like(record.known)
    if low is not None:
        out |= record.raw < low
    if high is not None:
        out |= record.raw > high
    c, start, length = _worst_run(record, out, np.arange(len(out)))
    return graded(float(out.mean()), 0, 0.001, "samples beyond the schema's bounds", **_at(record, c, start, length))


def same_leads(record: Record) -> Verdict | None:
    """Two leads must not be copies of one another."""
    rows = np.flatnonzero(record.present)
    if len(rows) < 2 or record.n < 20:
        return None
    y = record.filled[rows]
    y = y - y.mean(axis=1, keepdims=True)
    y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)
    alike = np.abs(np.triu(y @ y.T, 1))
    i, j = np.unravel_index(alike.argmax(), alike.shape)
    lead = f"{record.channels[rows[i]]} and {record.channels[rows[j]]}"
    return graded(float(alike.max()), 0.999999, 0.9999999, "two leads hold the same signal", lead=lead)


CHECKS = (
    Check("missing_lead", "every lead has samples", "1", missing_lead),
    Check("gaps", "no samples are missing within a record", "s", gaps),
    Check("flat", "no lead stands still", "s", flat),
    Check("dropout", "no lead vanishes for a while", "1", dropout),
    Check("clipping", "no lead is clipped", "1", clipping),
    Check("mains", "no mains hum", "1", mains),
    Check("seams", "no breaks at regular distances", "1", seams),
    Check("resampled", "the spectrum fills the declared sampling frequency", "dB", resampled),
    Check("in_range", "samples keep the schema's bounds", "1", in_range),
    Check("same_leads", "no lead is a copy of another", "1", same_leads),
)
