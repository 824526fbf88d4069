"""Time of day as a clock that runs with the work of the ward.

Rounds are at six, orders at eight, charts at the full hour. With F the share of a table's moments before each time of
day, the *busy clock* shows

    W(t) = day of t + F(time of day of t)

Laws of times between moments are learned and drawn on it: uniform there is the table's own profile of the day, and a
sample every morning is a sample every unit. F is the product of an hour's share and, on grids of minutes, a minute's
share within the hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from cohortloom.codec.clock import DAY, floor_to

__all__ = ["MOMENTS", "Daytime"]

_HOUR, _MINUTE = DAY // 24, DAY // 1440
_EVEN = 0.05  # share spread evenly over the day
MOMENTS = 50  # fewer tell no profile


@dataclass(frozen=True)
class Daytime:
    """Profile of the day. Make one with `fit`.

    Args:
        hours: Share of each hour; empty: times have no hour (dates, places in an order), and the clock is the usual.
        minutes: Share of each minute of the hour; empty: not told apart.
        per_day: Ticks in a day.
    """

    hours: tuple[float, ...] = ()
    minutes: tuple[float, ...] = ()
    per_day: int = DAY

    @classmethod
    def fit(cls, dated: bool, ticks: np.ndarray, grid: int, per_day: int = DAY) -> Daytime:
        """Learn from distinct moments [ticks]; `dated`: they have a time of day."""
        if not dated or grid % DAY == 0 or len(ticks) < MOMENTS:
            return cls(per_day=per_day)
        hours = _shares(ticks % DAY // _HOUR, 24)
        minutes = _shares(ticks % _HOUR // _MINUTE, 60) if grid % _MINUTE == 0 and grid % _HOUR else ()
        return cls(hours, minutes, per_day)

    @cached_property
    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Times of day [ticks] and shares before them."""
        share = np.asarray(self.hours)
        if self.minutes:
            share = np.outer(share, self.minutes).ravel()
        return np.arange(len(share) + 1) * (DAY // len(share)), np.append(0.0, np.cumsum(share) / share.sum())

    def busy(self, ticks: np.ndarray, grid: int = 1) -> np.ndarray:
        """W of times; the middle of what a recorded time on a grid stands for."""
        if not self.hours:
            return ticks / self.per_day
        at, share = self._curve
        day = floor_to(ticks, DAY)
        half = min(grid, int(at[1])) / 2 if grid > 1 else 0.0
        return day / DAY + np.interp(ticks - day + half, at, share)

    def ticks(self, busy: np.ndarray) -> np.ndarray:
        """The way back, to the start of the hour or minute where its share is one moment."""
        if not self.hours:
            return np.round(busy * self.per_day).astype(np.int64)
        at, share = self._curve
        day = np.floor(busy)
        inside = np.interp(busy - day, share, at)
        return (day.astype(np.int64) * DAY) + np.clip(inside, 0, DAY - 1).astype(np.int64)

    def without_full_hours(self) -> Daytime:
        """The same profile with the full hour a minute like others."""
        return replace(self, minutes=(sum(self.minutes[1:]) / 59, *self.minutes[1:]))

    def to_json(self) -> list:
        return [list(self.hours), list(self.minutes), self.per_day]

    @classmethod
    def from_json(cls, state: Mapping[str, Any] | list) -> Daytime:
        return cls(tuple(state[0]), tuple(state[1]), state[2])


def _shares(place: np.ndarray, n: int) -> tuple[float, ...]:
    count = np.bincount(place, minlength=n) / max(len(place), 1)
    return tuple(np.round((1 - _EVEN) * count + _EVEN / n, 6).tolist())
