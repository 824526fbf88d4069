"""Numbers of rows that grow with the length of their visit, told per day of it.

Twice as long a stay has twice as many laboratory moments. A model that draws the number beside the length has to learn
that from few visits; one that draws the number per day has it for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortloom.codec.steps import Steps
from cohortloom.codec.times import Ends

__all__ = ["Stay"]

_FEWEST = 30  # visits with rows
_CLOSER = 0.9  # spread of the logarithms per day, as a share of the spread without it
_SHORT = 0.1  # share of visits that count as longer than they are


@dataclass(frozen=True)
class Stay:
    """How long visits are.

    Args:
        end: Timestamp of the visit table at which a visit ends.
        per_day: Ticks of a day.
        least: Days that a shorter visit counts as.
        usual: Days of a visit whose end is not known.
    """

    end: str
    per_day: int
    least: float
    usual: float

    @classmethod
    def fit(cls, counts: Mapping[str, np.ndarray], steps: Steps, ends: Ends, per_day: int) -> tuple[Stay | None, tuple]:
        """The end to which the first of the counts goes best, and which of them are told per day.

        Args:
            counts: Feature -> number of rows of each step.
            steps: The steps.
            ends: Timestamps of the visit table [ticks] and whether they are known.
            per_day: Ticks of a day.
        """
        best, least = None, _CLOSER
        first = next(iter(counts.values()), None)
        for end, (stop, known) in ends.items():
            days = (stop - steps.time) / per_day
            there = known & (days > 0)
            if first is None or (there & (first > 0)).sum() < _FEWEST:
                continue
            short, usual = np.quantile(days[there], [_SHORT, 0.5])
            stay = cls(end, per_day, float(short), float(usual))
            left = _left(first, stay.days(steps, ends), there)
            best, least = (stay, left) if left < least else (best, least)
        if best is None:
            return None, ()
        days, there = best.days(steps, ends), ends[best.end][1]
        return best, tuple(name for name, n in counts.items() if _left(n, days, there) < _CLOSER)

    def days(self, steps: Steps, ends: Ends) -> np.ndarray:
        """Length of the visit of each step [d], never 0."""
        if self.end not in ends:
            return np.full(len(steps.time), self.usual)
        stop, known = ends[self.end]
        days = (stop - steps.time) / self.per_day
        return np.maximum(np.where(known & (days > 0), days, self.usual), self.least)

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def _left(n: np.ndarray, days: np.ndarray, there: np.ndarray) -> float:
    """Spread of the logarithm of numbers per day, as a share of that of the numbers."""
    there = there & (n > 0)
    if there.sum() < _FEWEST or not np.ptp(n[there]):
        return 1.0
    log = np.log(n[there])
    return float((log - np.log(days[there])).std() / log.std())
