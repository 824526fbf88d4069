"""What generators see: arrays of numbers and category ids.

Sequences are ragged: the steps of all subjects stand one after the other in `values`, and `length` says how many belong
to each subject. Nothing is padded until a network needs it (`padded`), so one patient with 400 visits costs nothing to
the 70,000 with one.

A feature is one logical column. With scale "raw" a number is in its own unit (times in days); with scale "normal" it is
a normal score (randomised quantile transform). A category is its integer id as a float in both: 0 is MISSING, 1 is
RARE, levels follow.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["MISSING", "RARE", "Encoded", "Feature", "Layout", "SequenceArrays", "StaticArrays", "holds"]

MISSING, RARE = 0, 1


@dataclass(frozen=True)
class Layout:
    """Which parts a generator reads and writes, and on which scale its numbers are."""

    static: bool = True
    sequence: bool = True
    events: bool = False
    signals: bool = False
    scale: Literal["raw", "normal"] = "normal"


@dataclass(frozen=True)
class Feature:
    """One logical column of an array.

    Args:
        name: "table.column" of the schema; made-up ones: "<visits>.gap" [d], "labs.50912" (value of a folded code),
            "labs.50912#n" (rows of that code in the step), "labs#n" (rows in the step).
        kind: "number" or "category".
        levels: Levels of a category in id order, starting with the reserved "<missing>", "<rare>".
        decimals: Grid of a number: 0 for counts, None if unknown.
        low, high: Bounds of a number, None if open.
        always: The value is never missing (so no MISSING token is needed).
        within: An earlier feature that says whether this one has anything to tell: it has its `absent` value where that
            one is missing, 0, "no", or absent itself; "" for none.
        absent: Raw value that says so, 0 for missing in a category, NaN for missing in a number.
    """

    name: str
    kind: Literal["number", "category"]
    levels: tuple[str, ...] = ()
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    always: bool = False
    within: str = ""
    absent: float = 0.0


def holds(values: np.ndarray, absent: float) -> np.ndarray:
    """Which raw values of a feature say that what lies within it is there; one that may be missing only has to be
    there."""
    return ~np.isnan(values) if np.isnan(absent) else values > absent


@dataclass(frozen=True)
class StaticArrays:
    """One row per subject."""

    features: tuple[Feature, ...]
    values: Float[np.ndarray, "subject feature"]
    observed: Bool[np.ndarray, "subject feature"]

    def take(self, index: np.ndarray) -> "StaticArrays":
        return StaticArrays(self.features, self.values[index], self.observed[index])


@dataclass(frozen=True)
class SequenceArrays:
    """One row per step, subjects one after the other.

    `gap` is the time since the previous step [d]; for a subject's first step it is the time since the subject's origin
    (clock "offset"), 0 for clock "order", and for clock "timestamp" 0 too (the calendar time of the first step is a
    static feature "<visits>.start" [d since 1970-01-01]).
    """

    features: tuple[Feature, ...]
    values: Float[np.ndarray, "step feature"]
    observed: Bool[np.ndarray, "step feature"]
    gap: Float[np.ndarray, "step"]
    length: Int[np.ndarray, "subject"]

    @property
    def starts(self) -> Int[np.ndarray, "subject"]:
        """Row of each subject's first step."""
        return np.concatenate([[0], np.cumsum(self.length)[:-1]]).astype(np.int64) if len(self.length) else self.length

    @property
    def subject(self) -> Int[np.ndarray, "step"]:
        """Subject of each step."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def position(self) -> Int[np.ndarray, "step"]:
        """0 for a subject's first step, 1 for the second, ..."""
        return np.arange(int(self.length.sum())) - np.repeat(self.starts, self.length)

    @property
    def time(self) -> Float[np.ndarray, "step"]:
        """Time of each step since the subject's origin [d]: running sum of the gaps."""
        total = np.cumsum(self.gap)
        before = np.concatenate([[0.0], total])[self.starts] if len(self.length) else total
        return total - np.repeat(before, self.length)

    def take(self, index: np.ndarray) -> "SequenceArrays":
        rows = _rows(self.starts, self.length, index)
        return SequenceArrays(self.features, self.values[rows], self.observed[rows], self.gap[rows], self.length[index])

    def padded(self, array: np.ndarray, *, n_steps: int | None = None) -> np.ndarray:
        """A per-step array as subject x step (x feature), zeros behind the end; longer subjects are cut."""
        n_steps = n_steps or int(self.length.max(initial=0))
        out = np.zeros((len(self.length), n_steps, *array.shape[1:]), dtype=array.dtype)
        keep = self.position < n_steps
        out[self.subject[keep], self.position[keep]] = array[keep]
        return out


@dataclass(frozen=True)
class Encoded:
    """Parts a layout has; None where it has none. All parts list the same subjects in the same order."""

    static: StaticArrays | None = None
    sequence: SequenceArrays | None = None

    @property
    def n_subjects(self) -> int:
        part = (
            self.static.values if self.static is not None else self.sequence.length if self.sequence is not None else ()
        )
        return len(part)

    def take(self, index: np.ndarray) -> "Encoded":
        """Some subjects, in the order of the index (repeats allowed)."""
        index = np.asarray(index)
        return Encoded(
            self.static.take(index) if self.static else None, self.sequence.take(index) if self.sequence else None
        )


def _rows(starts: np.ndarray, length: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of the chosen subjects, one after the other, without a loop."""
    n = length[index]
    total = int(n.sum())
    if total == 0:
        return np.zeros(0, dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(n)[:-1]])
    return np.arange(total) - np.repeat(first, n) + np.repeat(starts[index], n)
