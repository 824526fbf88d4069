"""One waveform record and what is measured on it, each thing once.

Checks look at a `Record`; measurements they share (beats, waves, spectrum) are made when first asked for. Samples are
brought to mV (ECG) or uV (EEG) where the schema's unit tells how; in any other unit, amplitudes are not judged.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float

from cohortloom.rules.ecg_beats import Beats, average_beats, fill_gaps, find_peaks_neurokit, find_r_peaks
from cohortloom.rules.ecg_delineate import Waves, delineate
from cohortloom.schema import Signal

__all__ = ["FAIL", "PASS", "WARN", "Check", "Record", "Verdict"]

PASS, WARN, FAIL = "pass", "warn", "fail"

_VOLT = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "µv": 1e-6, "μv": 1e-6, "nv": 1e-9}
_WANTED = {"ecg": 1e-3, "eeg": 1e-6}


@dataclass(frozen=True)
class Verdict:
    """What a check says of a record.

    Args:
        verdict: "pass", "warn" or "fail".
        value: The number judged; NaN if the check counts nothing.
        reason: What is wrong, in words, without the record's numbers.
        lead: Worst channel; empty if it is the record as a whole.
        start, stop: Where [s]; NaN if everywhere.
    """

    verdict: str
    value: float = float("nan")
    reason: str = ""
    lead: str = ""
    start: float = float("nan")
    stop: float = float("nan")


@dataclass(frozen=True)
class Check:
    """One question asked of each record.

    Args:
        name: Machine name, unique.
        words: What holds in a good record.
        unit: UCUM unit of the value.
        look: Record -> verdict; None where it can't be judged.
        kinds: Kinds of signal it is for; empty: all.
    """

    name: str
    words: str
    unit: str
    look: Callable[["Record"], Verdict | None] = field(repr=False)
    kinds: tuple[str, ...] = ()


class Record:
    """Samples of one record with what is measured on them.

    Args:
        samples: channel x sample, cut to the record's length; NaN where missing.
        spec: The signal.
        detector: "own" (all leads at once) or "neurokit2".
    """

    def __init__(self, samples: Float[np.ndarray, "channel sample"], spec: Signal, detector: str = "own") -> None:
        self.raw = np.asarray(samples, dtype=np.float64)
        self.spec, self.fs, self.channels, self.detector = spec, float(spec.fs), spec.channels, detector
        volt = _VOLT.get(spec.unit.strip().lower())
        wanted = _WANTED.get(spec.kind)
        self.scaled = volt is not None and wanted is not None
        self.x = self.raw * (volt / wanted) if self.scaled and volt != wanted else self.raw

    @property
    def n(self) -> int:
        return self.x.shape[1]

    @property
    def duration(self) -> float:
        return self.n / self.fs

    @cached_property
    def known(self) -> np.ndarray:
        return np.isfinite(self.x)

    @cached_property
    def present(self) -> np.ndarray:
        """Channels with any sample that change at all."""
        some = self.known.sum(axis=1) >= 2
        out = np.zeros(len(self.x), dtype=bool)
        for c in np.flatnonzero(some):
            v = self.x[c, self.known[c]]
            out[c] = v.max() > v.min()
        return out

    @cached_property
    def filled(self) -> Float[np.ndarray, "channel sample"]:
        return fill_gaps(self.x)

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies [Hz] and power density of each channel: Hann windows of 2 s (or the record), half overlapping."""
        from scipy.signal import welch  # heavy

        size = min(self.n, round(2 * self.fs))
        return welch(self.filled, self.fs, nperseg=size, axis=1)

    def index(self, name: str) -> int | None:
        """Place of a lead by name, whatever its case; None if the signal has no such lead or it is missing here."""
        for i, channel in enumerate(self.channels):
            if channel.strip(". ").lower() == name.lower():
                return i if self.present[i] else None
        return None

    @cached_property
    def peaks(self) -> np.ndarray:
        find = find_peaks_neurokit if self.detector == "neurokit2" else find_r_peaks
        return find(self.x, self.fs)

    @cached_property
    def rr(self) -> np.ndarray:
        """RR intervals [s]."""
        return np.diff(self.peaks) / self.fs

    @cached_property
    def rate(self) -> float:
        """Heart rate from the median RR [1/min]; NaN below three beats."""
        return 60.0 / float(np.median(self.rr)) if len(self.rr) >= 2 else float("nan")

    @cached_property
    def rr_variation(self) -> float:
        """Standard deviation of RR over its mean; NaN below four beats."""
        return float(self.rr.std() / self.rr.mean()) if len(self.rr) >= 3 else float("nan")

    @cached_property
    def beats(self) -> Beats | None:
        return average_beats(self.x, self.peaks, self.fs) if len(self.peaks) >= 2 else None

    @cached_property
    def waves(self) -> Waves | None:
        if self.beats is None or not self.present.any() or not len(self.rr):
            return None
        return delineate(self.beats, self.fs, float(np.median(self.rr)))

    @cached_property
    def steady(self) -> bool:
        """Is the rhythm regular and slow enough for the T wave to end before the next P?"""
        return self.rr_variation < 0.15 and self.rate < 120
