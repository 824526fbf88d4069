"""Weekdays: few clinics see patients on a Sunday.

Starts and gaps are drawn in days, and days know no week. With q the shares of Monday to Sunday that such draws give and
p those of the training steps, a step on weekday w stays with probability min(1, p_w / q_w) and is moved otherwise, by
at most three days, to a weekday drawn in proportion to (p - q)+: the shares become p, and as few dates as can be are
touched. A first step takes its whole course along. A later step moves alone, and only where no other stands near; the
last one only back in time, because what ends a course (death, the end of a study) is not moved.

Starts alone give q their own law; later steps give it the law of first steps, turned by the days elapsed since. Where p
and q are as near as chance has them (a chi-squared test with dates, not steps, drawn at random), nothing is moved:
shifted dates have no week, and a registry that writes the first of the month has few dates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortloom.codec.clock import DAY, floor_to
from cohortloom.codec.steps import Steps

__all__ = ["Weekdays"]

_UNEVEN = 22.46  # chi-squared with 6 degrees of freedom, .999 point
_FARTHEST = 3  # days
_MONDAY = 3  # 1 January 1970 was a Thursday


@dataclass(frozen=True)
class Weekdays:
    """Probability of staying (keep) and of each target (to), Monday first, for first and for later steps; () where
    nothing is moved. Make one with `fit`."""

    first_keep: tuple[float, ...] = ()
    first_to: tuple[float, ...] = ()
    later_keep: tuple[float, ...] = ()
    later_to: tuple[float, ...] = ()

    @classmethod
    def fit(cls, steps: Steps, starts: np.ndarray) -> Weekdays:
        """Learn from training steps [ticks]; `starts`: days of first steps as the codec's law draws them."""
        day, first = floor_to(steps.time, DAY) // DAY, steps.first
        begun = np.repeat(day[first], steps.length[steps.length > 0])
        drawn = _counts(np.round(starts[np.isfinite(starts)]).astype(np.int64))
        one = _moves(day[first], _shares(drawn))
        elapsed = _shares(np.bincount((day - begun)[~first] % 7, minlength=7))
        start = _shares(_counts(day[first]))
        q_later = np.array([sum(elapsed[k] * start[(w - k) % 7] for k in range(7)) for w in range(7)])
        return cls(*one, *_moves(day[~first], q_later))

    def moved(self, steps: Steps, draw: np.random.Generator, *, courses: bool) -> np.ndarray:
        """Times of the steps [ticks] on their weekdays; `courses`: whole courses may be moved."""
        time, first, (following, has_next) = steps.time, steps.first, steps.following
        u, v = draw.random((2, len(time)))
        if courses and self.first_keep:
            shift = _shift(time, self.first_keep, self.first_to, np.zeros(len(time), bool), u, v)[first]
            time = time + np.repeat(shift, steps.length[steps.length > 0]) * DAY
        if self.later_keep:
            shift = _shift(time, self.later_keep, self.later_to, ~has_next, u, v)
            before = np.where(first, 0, np.diff(steps.time, prepend=0))
            ahead = np.where(has_next, following - steps.time, before)
            room = np.minimum(before, ahead) // DAY > np.abs(shift) + _FARTHEST  # neighbours may come nearer
            time = time + np.where(room, shift, 0) * DAY
        return time

    def to_json(self) -> dict[str, Any]:
        return {name: list(shares) for name, shares in vars(self).items()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Weekdays:
        return cls(**{name: tuple(shares) for name, shares in state.items()})


def _weekday(day: np.ndarray) -> np.ndarray:
    return (day + _MONDAY) % 7


def _counts(day: np.ndarray) -> np.ndarray:
    return np.bincount(_weekday(day), minlength=7)


def _shares(count: np.ndarray) -> np.ndarray:
    return (count + 1.0) / (count.sum() + 7.0)


def _moves(day: np.ndarray, q: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Probability of staying and of each target, for steps on these days."""
    date, n = np.unique(day, return_counts=True)
    count, spread = (np.bincount(_weekday(date), w, minlength=7) for w in (n, n**2))
    expected = count.sum() * q
    if not len(day) or ((count - expected) ** 2 / np.maximum(expected, spread)).sum() < _UNEVEN:
        return (), ()
    p = _shares(count)
    to = np.maximum(p - q, 0.0) + 0.01 * p  # where all excess is out of reach, any usual day will do
    return tuple(np.minimum(p / q, 1.0).round(6).tolist()), tuple((to / to.sum()).round(6).tolist())


def _shift(
    time: np.ndarray, keep: tuple[float, ...], to: tuple[float, ...], back: np.ndarray, u: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """Days each time is moved by, 0 if it stays; `back`: it may only go back in time."""
    weekday = _weekday(floor_to(time, DAY) // DAY)
    nearest = (np.arange(7) - weekday[:, None] + _FARTHEST) % 7 - _FARTHEST
    mass = np.cumsum(np.where(back[:, None] & (nearest > 0), 0.0, to), 1)
    target = np.minimum((mass <= v[:, None] * mass[:, -1:]).sum(1), 6)
    goes = (u >= np.asarray(keep)[weekday]) & (mass[:, -1] > 0)
    return np.where(goes, nearest[np.arange(len(time)), target], 0)
