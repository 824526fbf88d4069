"""Simulated EEG: coloured background, alpha, spindles, spike-and-wave seizures, artefacts.

Each rhythm is drawn in the frequency domain. The background of channel c has the power law P(f) ~ f^-chi above 1 Hz and
neighbouring channels are coherent: sources with covariance exp(-d_ij / .35) (d: distance on the unit head) are mixed by
its Cholesky factor. Alpha is a narrow band around the subject's own peak, strongest at the back, and grows when the
eyes are shut. Spindles (11 to 15 Hz, .5 to 2 s, central) and spike-and-wave discharges (a sharp spike and a slow wave,
about 3 per second, slowing, frontal) come as events with known times. Units are microvolts.

References:
    Klimesch (1999). EEG alpha and theta oscillations. Brain Res Rev 29:169. De Gennaro, Ferrara (2003). Sleep spindles:
    an overview. Sleep Med Rev 7:423. Sadleir et al. (2006). Electroclinical features of absence seizures. Neurology
    67:413. He (2014). Scale-free brain activity. Trends Cogn Sci 18:480.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import polars as pl
from jaxtyping import Float

from cohortloom.errors import Problem, SchemaError, nearest
from cohortloom.rng import Rng

__all__ = ["POSITIONS", "EegTraits", "draw_eeg_traits", "simulate_eeg"]

#: Positions of the 10-20 and 10-10 systems on the unit head: x to the right ear, y to the nose.
POSITIONS = {
    "Fp1": (-0.29, 0.88), "Fp2": (0.29, 0.88), "F7": (-0.75, 0.54), "F3": (-0.39, 0.49), "Fz": (0.0, 0.46),
    "F4": (0.39, 0.49), "F8": (0.75, 0.54), "T3": (-0.92, 0.0), "C3": (-0.46, 0.0), "Cz": (0.0, 0.0),
    "C4": (0.46, 0.0), "T4": (0.92, 0.0), "T5": (-0.75, -0.54), "P3": (-0.39, -0.49), "Pz": (0.0, -0.46),
    "P4": (0.39, -0.49), "T6": (0.75, -0.54), "O1": (-0.29, -0.88), "Oz": (0.0, -0.92), "O2": (0.29, -0.88),
}  # fmt: skip
POSITIONS |= {"T7": POSITIONS["T3"], "T8": POSITIONS["T4"], "P7": POSITIONS["T5"], "P8": POSITIONS["T6"]}


def _ten_ten() -> dict[str, tuple[float, float]]:
    """The other positions of the 10-10 system: rows from ear to ear, bent towards nose or inion at their ends."""
    rows = {"AF": (0.69, 0.54, 0.75), "F": (0.46, 0.75, 0.54), "FC": (0.23, 0.88, 0.28), "C": (0.0, 0.92, 0.0),
            "CP": (-0.23, 0.88, -0.28), "P": (-0.46, 0.75, -0.54), "PO": (-0.69, 0.54, -0.75)}  # fmt: skip
    found = {"Fpz": (0.0, 0.92), "Oz": (0.0, -0.92)}
    for row, (middle, end_x, end_y) in rows.items():
        found[f"{row}z"] = (0.0, middle)
        for number in range(1, 9):
            way = (number + 1) // 2 / 4  # 1 and 2: a quarter of the way from the midline to the end of the row
            name = {"FC7": "FT7", "FC8": "FT8", "CP7": "TP7", "CP8": "TP8"}.get(f"{row}{number}", f"{row}{number}")
            side = -1.0 if number % 2 else 1.0
            found[name] = (side * way * end_x, middle + (end_y - middle) * way**2)
    return {name: place for name, place in found.items() if name not in ("C7", "C8")}


POSITIONS = {**_ten_ten(), **POSITIONS}


@dataclass(frozen=True)
class EegTraits:
    """What makes one record's EEG; every field is an array with one entry per record.

    Args:
        slope: Exponent chi of the background's power law.
        background: Root mean square of the background [uV].
        alpha_peak: Frequency of alpha [Hz].
        alpha: Root mean square of alpha at the back with the eyes open [uV].
        eyes_closed: Share of the record with the eyes shut: 0 or 1; alpha is 2.5 times larger then, blinks stop.
        spindle_rate: Spindles per minute (sleep stage 2: 2 to 8).
        seizure_start, seizure_length: Of a spike-and-wave seizure [s]; length 0: none.
        blink_rate: Blinks per minute with the eyes open.
        muscle: Root mean square of muscle artefact at the temples [uV].
    """

    slope: np.ndarray
    background: np.ndarray
    alpha_peak: np.ndarray
    alpha: np.ndarray
    eyes_closed: np.ndarray
    spindle_rate: np.ndarray
    seizure_start: np.ndarray
    seizure_length: np.ndarray
    blink_rate: np.ndarray
    muscle: np.ndarray

    def __len__(self) -> int:
        return len(self.slope)

    def take(self, index: np.ndarray | slice) -> "EegTraits":
        return EegTraits(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def draw_eeg_traits(
    n: int, rng: Rng, *, age: Float[np.ndarray, "record"] | None = None, **fixed: np.ndarray
) -> EegTraits:
    """Traits of n awake adults without seizures; the alpha peak slows with age by .02 Hz a year above 50.

    Args:
        n: Number of records.
        rng: Random stream.
        age: Age [a].
        **fixed: Any field of `EegTraits`, overriding the draw.
    """
    draw = rng.numpy
    age = draw.uniform(20, 80, n) if age is None else np.asarray(age, dtype=float)
    traits = EegTraits(
        slope=draw.normal(1.4, 0.2, n) - 0.004 * (age - 50),
        background=draw.lognormal(np.log(11), 0.25, n),
        alpha_peak=draw.normal(10.2, 0.6, n) - 0.02 * np.clip(age - 50, 0, None),
        alpha=draw.lognormal(np.log(5), 0.4, n),
        eyes_closed=np.ones(n),
        spindle_rate=np.zeros(n),
        seizure_start=np.zeros(n),
        seizure_length=np.zeros(n),
        blink_rate=draw.uniform(8, 20, n),
        muscle=draw.lognormal(np.log(1.2), 0.5, n),
    )
    return replace(traits, **{name: np.asarray(value, dtype=float) for name, value in fixed.items()})


def simulate_eeg(
    traits: EegTraits, *, fs: float, duration: float, channels: tuple[str, ...], rng: Rng, mains: float = 50.0
) -> tuple[Float[np.ndarray, "record channel sample"], pl.DataFrame]:
    """Waveforms and the truth of every event.

    Args:
        traits: One entry per record.
        fs: Sampling frequency [Hz].
        duration: Length [s].
        channels: 10-20 names; anything else is put at the vertex if only one channel is asked for.
        rng: Random stream; records come in batches of 64 with a stream each.
        mains: Mains frequency [Hz].

    Returns:
        Samples [uV], float32; table of events: record, time [s], duration [s], kind (spindle, seizure, blink).

    Raises:
        SchemaError: a channel has no known position.
    """
    place = _places(channels)
    n_samples = round(duration * fs)
    out = np.empty((len(traits), len(channels), n_samples), dtype=np.float32)
    events: list[pl.DataFrame] = []
    for start in range(0, len(traits), 64):
        part = traits.take(slice(start, start + 64))
        out[start : start + 64], found = _batch(part, place, n_samples, fs, rng.child("eeg", start), mains)
        events.append(found.with_columns(pl.col("record") + start))
    empty = {"record": pl.Int64, "time": pl.Float64, "duration": pl.Float64, "kind": pl.String}
    return out, pl.concat(events) if events else pl.DataFrame(schema=empty)


def _places(channels: tuple[str, ...]) -> Float[np.ndarray, "channel 2"]:
    known = {name.lower(): xy for name, xy in POSITIONS.items()}
    found = [known.get(name.strip(". ").split("-")[0].lower()) for name in channels]
    if len(channels) == 1 and found[0] is None:
        found = [POSITIONS["Cz"]]
    unknown = [name for name, xy in zip(channels, found) if xy is None]
    if unknown:
        raise SchemaError("", [Problem("unknown-channel", f"channel \"{name}\"", "has no known place on the head",
                                       f"Use 10-10 names.{nearest(name, POSITIONS)}") for name in unknown])  # fmt: skip
    return np.array(found)


def _coloured(
    power: Float[np.ndarray, "record frequency"],
    mix: Float[np.ndarray, "channel channel"],
    n: int,
    draw: np.random.Generator,
) -> Float[np.ndarray, "record channel sample"]:
    """Gaussian processes of unit mean square with these power spectra, coherent between channels by `mix`."""
    shape = (len(power), len(mix), power.shape[1])
    noise = draw.standard_normal(shape, dtype=np.float32) + 1j * draw.standard_normal(shape, dtype=np.float32)
    x = np.fft.irfft(np.sqrt(power)[:, None] * noise, n=n, axis=-1)
    x /= np.sqrt(2 * power.sum(axis=1) * 2)[:, None, None] / n  # mean square of irfft: sum of 2 P |noise|^2 / n^2
    return np.einsum("cd,rds->rcs", mix, x).astype(np.float32)


def _batch(
    traits: EegTraits, place: np.ndarray, n: int, fs: float, rng: Rng, mains: float
) -> tuple[Float[np.ndarray, "record channel sample"], pl.DataFrame]:
    draw = rng.numpy
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    mix = np.linalg.cholesky(np.exp(-distance / 0.35) + 1e-6 * np.eye(len(place)))
    f = np.fft.rfftfreq(n, 1 / fs)
    with np.errstate(divide="ignore"):
        law = np.where(f > 0, np.maximum(f, 1.0)[None] ** -traits.slope[:, None], 0.0) * (f > 0.3)
    x = traits.background[:, None, None] * _coloured(law, mix, n, draw)
    bump = np.exp(-0.5 * ((f - traits.alpha_peak[:, None]) / 0.7) ** 2) + 0.08 * np.exp(
        -0.5 * ((f - 2 * traits.alpha_peak[:, None]) / 1.4) ** 2
    )
    back = np.clip(0.55 - 0.75 * place[:, 1], 0.1, 1.3)
    smooth = np.linalg.cholesky(np.exp(-distance / 0.9) + 1e-6 * np.eye(len(place)))
    size = traits.alpha * np.where(traits.eyes_closed > 0.5, 2.5, 1.0)
    x += size[:, None, None] * back[:, None].astype(np.float32) * _coloured(bump, smooth, n, draw)
    muscle = np.where((f > 25) & (f < 100), 1.0, 1e-6)[None].repeat(len(traits), axis=0)
    side = np.clip(np.abs(place[:, 0]) + 0.2, 0.2, 1.2)[:, None]
    x += traits.muscle[:, None, None] * side.astype(np.float32) * _coloured(muscle, np.eye(len(place)), n, draw)
    if 2 * mains < fs:
        hum = draw.lognormal(-1.0, 0.7, (len(traits), len(place), 1))
        x += hum * np.sin(2 * np.pi * mains * np.arange(n) / fs + draw.uniform(0, 2 * np.pi, (len(traits), 1, 1)))
    events = _add_events(x, traits, place, fs, draw)
    return x.astype(np.float32), events


def _add_events(
    x: np.ndarray, traits: EegTraits, place: np.ndarray, fs: float, draw: np.random.Generator
) -> pl.DataFrame:
    """Spindles, blinks and seizures, written into x; a loop over events, which are few."""
    duration = x.shape[2] / fs
    rows: list[tuple[int, float, float, str]] = []
    central = np.exp(-(np.linalg.norm(place, axis=1) ** 2) / 0.5)
    frontal = np.exp(-((place[:, 1] - 0.9) ** 2) / 0.25)
    spread = np.exp(-((place[:, 1] - 0.4) ** 2) / 0.9)
    n_spindles = draw.poisson(traits.spindle_rate * duration / 60)
    n_blinks = draw.poisson(np.where(traits.eyes_closed > 0.5, 0, traits.blink_rate) * duration / 60)
    for r in range(len(traits)):
        for _ in range(n_spindles[r]):
            length = draw.uniform(0.5, min(2.0, duration / 2))
            start = draw.uniform(0, duration - length)
            i = slice(int(start * fs), int((start + length) * fs))
            t = np.arange(i.stop - i.start) / fs
            turn = 2 * np.pi * (draw.uniform(11.5, 14.5) * t - 0.25 * t**2) + draw.uniform(0, 2 * np.pi)
            wave = draw.uniform(15, 35) * np.sin(turn) * np.sin(np.pi * t / length) ** 2
            x[r, :, i] += central[:, None] * wave
            rows.append((r, start, length, "spindle"))
        for _ in range(n_blinks[r]):
            start = draw.uniform(0, duration)
            t = np.arange(x.shape[2]) / fs - start - 0.12
            x[r] += frontal[:, None] * draw.uniform(60, 140) * np.exp(-0.5 * (t / 0.06) ** 2)
            rows.append((r, start, 0.3, "blink"))
        if traits.seizure_length[r] > 0:
            start, length = traits.seizure_start[r], min(traits.seizure_length[r], duration - traits.seizure_start[r])
            t = np.arange(x.shape[2]) / fs - start
            inside = (t >= 0) & (t < length)
            rate = 3.3 - 0.7 * np.clip(t / max(length, 1e-6), 0, 1)
            phase = np.cumsum(np.where(inside, rate, 0.0)) / fs % 1.0
            knots = np.arange(-1, duration + 1, 0.3)
            jitter = 1 + 0.15 * np.interp(t, knots, draw.standard_normal(len(knots)))
            spike = np.exp(-0.5 * ((phase - 0.12) / 0.035) ** 2) - 0.35 * np.exp(-0.5 * ((phase - 0.2) / 0.03) ** 2)
            slow = -0.75 * np.sin(np.pi * np.clip((phase - 0.28) / 0.72, 0, 1)) ** 1.5
            ramp = np.clip(t / 0.5, 0, 1) * np.clip((length - t) / 0.3, 0, 1)
            x[r] += spread[:, None] * draw.uniform(130, 260) * (inside * ramp * jitter * (spike - slow))
            rows.append((r, float(start), float(length), "seizure"))
    kinds = {"record": pl.Int64, "time": pl.Float64, "duration": pl.Float64, "kind": pl.String}
    return pl.DataFrame(rows, schema=kinds, orient="row").sort("record", "time")
