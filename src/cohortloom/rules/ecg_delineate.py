"""Waves of the average beat: where P, QRS and T begin and end, and how large they are.

QRS. The spatial velocity v(t) = sqrt(sum over leads (dx/dt)^2), smoothed over 10 ms, is large only in the QRS; the QRS
reaches from the R peak outwards to where v stays below a share of its largest value for 14 ms.
T. The leads are projected on their main direction between QRS and the next beat; the T wave is its largest deflection,
and ends where the tangent at its steepest descent meets the level after it (Lepeschkin).
P. The same before the QRS, on a line from the level before to the level just ahead of the QRS; present if it stands out
of the noise of the average by a factor and is one hump.

QTc = QT / RR^(1/3) (Fridericia). The frontal axis comes from the net area of the QRS in I and aVF. ST is the level
60 ms after the end of the QRS.

References:
    Lepeschkin, Surawicz (1952). The measurement of the Q-T interval of the electrocardiogram. Circulation 6:378.
    Fridericia (1920). Acta Med Scand 53:469. Macfarlane et al. (2010). Comprehensive Electrocardiology, chapter 5.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cohortloom.rules.ecg_beats import Beats

__all__ = ["Waves", "delineate"]


#: Average beats are brought to at least this sampling frequency [Hz].
FINE = 400
#: A P wave is this many times higher than the noise of the average beat; the largest of noise alone reaches about 3.
CLEAR = 4.5


@dataclass(frozen=True)
class Waves:
    """What the average beat shows; NaN where it can't be measured.

    Args:
        pr, qrs, qt: Intervals [s].
        p_size, r_size, t_size: Largest deflection over the leads [unit of the signal]; `p_size` also where no P wave is
            held to be present.
        p_noise: Noise of the average beat before the QRS [unit].
        p_present: Is there a P wave?
        st: Level 60 ms after the QRS, per lead [unit].
        t, p: Deflection of the T and the P wave, per lead [unit].
        net: Net area of the QRS, per lead [unit s].
        onset, offset: Of the QRS, samples of the window.
        steepness: Largest slope of the QRS over its peak-to-peak [1/s].
    """

    pr: float
    qrs: float
    qt: float
    p_size: float
    r_size: float
    t_size: float
    p_noise: float
    p_present: bool
    st: Float[np.ndarray, "channel"]
    t: Float[np.ndarray, "channel"]
    p: Float[np.ndarray, "channel"]
    net: Float[np.ndarray, "channel"]
    onset: int
    offset: int
    steepness: float


def delineate(beats: Beats, fs: float, rr: float) -> Waves:
    """Measure the average beat.

    Args:
        beats: Of one record.
        fs: Sampling frequency [Hz].
        rr: Median RR interval [s]; waves are looked for within it.
    """
    from scipy.ndimage import uniform_filter1d  # heavy

    here = np.isfinite(beats.average).all(axis=1)
    x, odd_even = beats.average[here], _odd_even(beats, here)
    times = max(1, -(-FINE // int(fs)))
    if times > 1:  # ends of waves fall between samples
        x, odd_even = _finer(x, times), _finer(odd_even, times)
    fs, r, n = fs * times, beats.r * times, x.shape[1]
    width = max(1, round(0.01 * fs))
    velocity = np.sqrt(np.square(uniform_filter1d(np.gradient(x, axis=1), width, axis=1)).sum(axis=0)) * fs
    onset, offset = _qrs(velocity, r, fs)
    size = np.ptp(x[:, onset : offset + 1], axis=1)
    steepness = float(velocity[onset : offset + 1].max() / max(np.linalg.norm(size), 1e-12))
    level = np.median(x[:, max(0, onset - round(0.02 * fs)) : onset + 1], axis=1, keepdims=True)
    y = x - level

    stop = min(n, r + round(min(0.9 * rr - 0.12, 0.64) * fs))
    t_end, t = _t_wave(y, offset, stop, fs)
    start = max(0, r - round(min(rr - 0.30 if t_end is None else rr - (t_end - r) / fs, 0.40) * fs), 0)
    pr, p, noise, present = _p_wave(y, odd_even, start, onset, fs)

    def spread(values: np.ndarray) -> np.ndarray:
        out = np.full(len(here), np.nan)
        out[here] = values
        return out

    at = min(n - 1, offset + round(0.06 * fs))
    st = np.median(y[:, max(offset, at - round(0.008 * fs)) : at + round(0.008 * fs) + 1], axis=1)
    return Waves(
        pr=pr if present else float("nan"),
        qrs=(offset - onset) / fs,
        qt=(t_end - onset) / fs if t_end is not None else float("nan"),
        p_size=float(np.abs(p).max()) if len(p) and np.isfinite(p).any() else float("nan"),
        r_size=float(size.max()) if len(size) else float("nan"),
        t_size=float(np.abs(t).max()) if len(t) else float("nan"),
        p_noise=noise,
        p_present=present,
        st=spread(st),
        t=spread(t),
        p=spread(p),
        net=spread(y[:, onset : offset + 1].sum(axis=1) / fs),
        onset=onset // times,
        offset=-(-offset // times),
        steepness=steepness,
    )


def _odd_even(beats: Beats, here: np.ndarray) -> Float[np.ndarray, "channel window"]:
    """Half the difference between the averages of odd and even beats: the noise of the average; NaN below 4 beats."""
    main = beats.windows[beats.main][:, here]
    if len(main) < 4:
        return np.full(main.shape[1:], np.nan)
    return (np.median(main[::2], axis=0) - np.median(main[1::2], axis=0)) / 2


def _finer(x: np.ndarray, times: int) -> np.ndarray:
    from scipy.signal import resample_poly  # heavy

    return resample_poly(x, times, 1, axis=1, padtype="line") if np.isfinite(x).all() else np.repeat(x, times, axis=1)


def _qrs(velocity: np.ndarray, r: int, fs: float) -> tuple[int, int]:
    near = velocity[max(0, r - round(0.06 * fs)) : r + round(0.06 * fs) + 1]
    quiet = np.concatenate([velocity[r - round(0.30 * fs) : r - round(0.12 * fs)], velocity[r + round(0.12 * fs) :]])
    floor = np.median(quiet) if len(quiet) else 0.0
    hold = max(2, round(0.014 * fs))
    ends = []
    for way, share in ((-1, 0.07), (1, 0.10)):
        limit = max(share * near.max(), min(2.5 * floor, 0.3 * near.max()))
        reach = round(0.16 * fs)
        line = velocity[r : r + reach] if way > 0 else velocity[r : max(r - reach, 0) : -1]
        low = line < limit
        run = np.convolve(low, np.ones(hold), "valid") == hold
        steepest = int(line[: max(1, round(0.08 * fs))].argmax())
        first = np.flatnonzero(run & (np.arange(len(run)) >= min(steepest, round(0.03 * fs))))
        ends.append(r + way * (int(first[0]) if len(first) else len(line) - 1))
    return max(ends[0], 0), min(ends[1], len(velocity) - 1)


def _main_direction(y: np.ndarray) -> np.ndarray:
    """The leads' first principal component, signed so that its largest deflection is positive."""
    u, _, _ = np.linalg.svd(y, full_matrices=False)
    line = u[:, 0] @ y
    return line if line[np.abs(line).argmax()] > 0 else -line


def _t_wave(y: np.ndarray, offset: int, stop: int, fs: float) -> tuple[int | None, np.ndarray]:
    from scipy.ndimage import uniform_filter1d  # heavy

    start = offset + round(0.05 * fs)
    nothing = np.zeros(len(y))
    if stop - start < 0.12 * fs:
        return None, nothing
    part = y[:, start:stop]
    level = np.median(part[:, -max(2, round(0.03 * fs)) :], axis=1, keepdims=True)
    line = uniform_filter1d(_main_direction(part - level), max(1, round(0.024 * fs)))
    peak = int(line[: len(line) - round(0.02 * fs)].argmax())
    near = slice(max(0, peak - round(0.02 * fs)), peak + round(0.02 * fs) + 1)
    t = np.median((part - level)[:, near], axis=1)
    fall = -np.gradient(line)[peak : peak + round(0.16 * fs)]
    if len(fall) < 3 or fall.max() <= 0 or line[peak] <= 0:
        return None, t
    steep = peak + int(fall.argmax())
    end = steep + line[steep] / fall.max()
    if end > len(line) + 0.04 * fs:
        return None, t
    return start + round(end), t


def _p_wave(
    y: np.ndarray, odd_even: np.ndarray, start: int, onset: int, fs: float
) -> tuple[float, np.ndarray, float, bool]:
    """PR [s], deflection per lead, noise, present."""
    from scipy.ndimage import uniform_filter1d  # heavy

    nan = float("nan")
    stop = onset - round(0.012 * fs)
    if stop - start < 0.06 * fs:
        return nan, np.full(len(y), nan), nan, False
    part = y[:, start:stop]
    edge = max(1, round(0.02 * fs))
    left, right = part[:, :edge].mean(axis=1, keepdims=True), part[:, -edge:].mean(axis=1, keepdims=True)
    ramp = np.linspace(0, 1, part.shape[1])
    hump = part - left * (1 - ramp) - right * ramp
    smooth = uniform_filter1d(hump, max(1, round(0.02 * fs)), axis=1)
    line = _main_direction(smooth)
    peak = int(line.argmax())
    deflection = smooth[:, max(0, peak - 1) : peak + 2].mean(axis=1)
    size = float(np.abs(deflection).max())
    half = odd_even[:, start:stop]
    half = uniform_filter1d(half - half.mean(axis=1, keepdims=True), max(1, round(0.02 * fs)), axis=1)
    noise = float(np.sqrt(np.square(half).mean(axis=1)).max())
    far = line[peak] / max(float(np.median(np.abs(line))), 1e-12)
    stands = size > CLEAR * noise if np.isfinite(noise) else True
    inside = round(0.02 * fs) < peak < len(line) - round(0.012 * fs)
    present = bool(stands and inside and far > 1.6 and line[peak] > 0)
    rise = np.gradient(line)[max(0, peak - round(0.09 * fs)) : peak + 1]
    if not present or not len(rise) or rise.max() <= 0:
        return nan, deflection, noise, False
    steep = peak - len(rise) + 1 + int(rise.argmax())
    begin = steep - line[steep] / rise.max()
    return (onset - start - begin) / fs, deflection, noise, True
