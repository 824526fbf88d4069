"""Waveforms <-> arrays a network sees.

Each channel is centred and divided by its standard deviation over the training records, and held within +-12 of them.
(A robust scale would measure the isoelectric line of an ECG and cut off nearly every R peak.) Of the standard 12 leads
eight are independent; the other four are

    III = II - I,   aVR = -(I + II) / 2,   aVL = I - II / 2,   aVF = II - I / 2

so only I, II and V1..V6 are modelled and the rest is computed on the way back: lead identities hold to rounding.
Recordings come in whole steps of a converter (1 or 5 microvolts, say). Where training samples of a channel do, drawn
ones are rounded to the same steps: equal neighbours are as frequent as in real records. Where each training record has
the same mean and standard deviation (z-normalised tables), so has each drawn one.
Records are read row by row from the (memory-mapped) samples, so nothing here grows with their number. What lies behind
a record's end, and gaps, are unobserved: 0 in the array, False in the mask, NaN on the way back.
"""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cohortloom.cohort import SignalSet
from cohortloom.errors import DataError, Problem
from cohortloom.schema import Signal

__all__ = ["CLIP", "SignalCodec"]

#: Largest scaled value; beyond it lies an artefact.
CLIP = 12.0
_CHUNK = 256
_DERIVED = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


@dataclass(frozen=True)
class SignalCodec:
    """Scales, and the channels that are modelled.

    Args:
        channels: All channels, in the schema's order.
        modelled: Places of the channels a generator draws.
        centre, scale: Of each modelled channel, in the signal's unit.
        low, high: Bounds of the signal's samples, None if open.
        step, zero: Of each modelled channel, samples are whole steps from zero; step 0: they are not.
        level, size: Mean and standard deviation that every record has, by modelled channel; empty if records differ.
    """

    channels: tuple[str, ...]
    modelled: tuple[int, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    step: tuple[float, ...] = ()
    zero: tuple[float, ...] = ()
    level: tuple[float, ...] = ()
    size: tuple[float, ...] = ()

    @classmethod
    def fit(cls, signals: SignalSet) -> "SignalCodec":
        """Centre and scale from all records, a chunk at a time.

        Raises:
            DataError: a channel has no sample at all.
        """
        spec, samples = signals.spec, signals.samples
        modelled = _modelled(spec)
        count, total, square = (np.zeros(len(modelled)) for _ in range(3))
        for start in range(0, len(samples), _CHUNK):
            x = np.asarray(samples[start : start + _CHUNK], dtype=np.float64)[:, modelled]
            seen = np.isfinite(x)
            x = np.where(seen, x, 0.0)
            count += seen.sum(axis=(0, 2))
            total += x.sum(axis=(0, 2))
            square += np.square(x).sum(axis=(0, 2))
        empty = [spec.channels[m] for m, n in zip(modelled, count) if n == 0]
        if empty:
            what = f"channel {', '.join(empty)} has no sample in any record"
            raise DataError("", [Problem("empty-channel", "signals", what, "Drop it from the schema.", len(empty))])
        mean = total / count
        spread = np.sqrt(np.maximum(square / count - np.square(mean), 0.0))
        spread = np.where(spread > 1e-9, spread, 1.0)  # a flat channel
        some = np.asarray(samples[:: max(1, len(samples) // 64)][:64], dtype=np.float64)[:, modelled]
        step, zero = zip(*(_steps_of(some[:, k], s) for k, s in enumerate(spread))) if modelled else ((), ())
        scales = tuple(mean.tolist()), tuple(spread.tolist())
        level, size = _same_in_all(some, spread)
        return cls(spec.channels, tuple(modelled), *scales, spec.low, spec.high, step, zero, level, size)

    @property
    def n_modelled(self) -> int:
        return len(self.modelled)

    def encode(
        self, samples: Float[np.ndarray, "record channel sample"]
    ) -> tuple[Float[np.ndarray, "record modelled sample"], Bool[np.ndarray, "record modelled sample"]]:
        """Scaled samples of the modelled channels (0 where unobserved), and which are observed."""
        x = np.asarray(samples, dtype=np.float32)[:, self.modelled]
        x = (x - np.float32(self.centre)[:, None]) / np.float32(self.scale)[:, None]
        seen = np.isfinite(x)
        return np.clip(np.where(seen, x, 0.0), -CLIP, CLIP).astype(np.float32), seen

    def decode(
        self,
        x: Float[np.ndarray, "record modelled sample"],
        n_samples: Int[np.ndarray, "record"] | None = None,
        *,
        drawn: bool = False,
    ) -> Float[np.ndarray, "record channel sample"]:
        """Physical samples of all channels, NaN behind each record's end.

        Args:
            x: Scaled samples.
            n_samples: Length of each record.
            drawn: Nothing of the records was observed, so what all records share is given to them.
        """
        x = np.clip(x, -CLIP, CLIP) * np.float32(self.scale)[:, None] + np.float32(self.centre)[:, None]
        if drawn and self.level:
            x = _brought_to(x, n_samples, self.level, self.size)
        if any(self.step):
            step, zero = (np.asarray(v, np.float64)[:, None] for v in (self.step, self.zero))
            whole = np.rint((x - zero) / np.where(step > 0, step, 1.0)) * step + zero
            x = np.where(step > 0, whole, x).astype(np.float32)
        if self.low is not None or self.high is not None:
            x = np.clip(x, self.low, self.high)
        out = np.empty((len(x), len(self.channels), x.shape[2]), dtype=np.float32)
        out[:, self.modelled] = x
        if len(self.modelled) < len(self.channels):
            place = {c.lower(): i for i, c in enumerate(self.channels)}
            one, two = out[:, place["i"]], out[:, place["ii"]]
            for name, (a, b) in _DERIVED.items():
                out[:, place[name.lower()]] = a * one + b * two
        if n_samples is not None:
            behind = np.arange(out.shape[2]) >= np.asarray(n_samples)[:, None]
            out[np.broadcast_to(behind[:, None], out.shape)] = np.nan
        return out

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "SignalCodec":
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in state.items()})


def _modelled(spec: Signal) -> list[int]:
    """Places of the independent channels."""
    if not spec.is_standard_12:
        return list(range(len(spec.channels)))
    derived = {name.lower() for name in _DERIVED}
    return [i for i, c in enumerate(spec.channels) if c.lower() not in derived]


def _same_in_all(x: np.ndarray, spread: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel if all of at least ten records have them alike."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # records without a sample
        mean, sd = np.nanmean(x, axis=2), np.nanstd(x, axis=2)
    if len(x) < 10 or not (np.nanstd(mean, axis=0) < 1e-3 * spread).all():
        return (), ()
    if not (np.nanstd(sd, axis=0) < 1e-2 * spread).all():  # 1e-2: some divide by n, some by n - 1
        return (), ()
    return tuple(np.nanmean(mean, axis=0).tolist()), tuple(np.nanmean(sd, axis=0).tolist())


def _brought_to(x: np.ndarray, n_samples: np.ndarray | None, level: tuple[float, ...], size: tuple[float, ...]) -> Any:
    """Records of these means and standard deviations."""
    n = np.full(len(x), x.shape[2]) if n_samples is None else np.asarray(n_samples)
    inside = (np.arange(x.shape[2]) < n[:, None])[:, None]
    count = np.maximum(n, 1)[:, None, None]
    x = x - np.where(inside, x, 0.0).sum(axis=2, keepdims=True) / count
    sd = np.sqrt(np.square(np.where(inside, x, 0.0)).sum(axis=2, keepdims=True) / count)
    return (x / np.maximum(sd, 1e-9) * np.asarray(size)[:, None] + np.asarray(level)[:, None]).astype(np.float32)


def _steps_of(x: np.ndarray, spread: float) -> tuple[float, float]:
    """(step, zero) of a channel whose samples are whole steps of a converter, (0, 0) for one whose are not."""
    seen = x[np.isfinite(x)]
    if len(seen) < 100:
        return 0.0, 0.0
    values, counts = np.unique(seen, return_counts=True)
    gaps = np.diff(values)
    gaps = gaps[gaps > 1e-6 * max(abs(values[0]), abs(values[-1]))]  # smaller ones are rounding of float32
    if len(values) > 0.5 * len(seen) or not len(gaps):
        return 0.0, 0.0
    zero, step = float(values[counts.argmax()]), float(gaps.min())
    if step < 1e-4 * spread:
        return 0.0, 0.0
    for reach in (1.5, 20, 400, 8000):  # samples are float32: the farther from zero, the better the step is known
        near = values[np.abs(values - zero) <= reach * step] - zero
        number = np.rint(near / step)
        step = float(near @ number / max(number @ number, 1.0)) or step
    off = np.abs((values - zero) / step - np.rint((values - zero) / step))
    return (step, zero) if np.average(off < 0.1, weights=counts) > 0.999 else (0.0, 0.0)
