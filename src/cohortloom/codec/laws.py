"""Laws of what folding leaves out: when the rows of a step were recorded, and what the earlier of them said.

**Times.** The rows of one table in one step share few distinct times (a panel is one sample of blood). We keep the law
of their number relative to the most rows any code has in the step. Times t_1 < ... < t_n that name their visit, of
length L if its end is known, are a renewal process

    t_1 - start          or (t_1 - start) / L if that grows with the visit
    t_(i+1) - t_i        or (t_(i+1) - t_i) n / L if that varies less (on the log scale)

squeezed where it would leave the visit. Times without a visit are drawn apart from each other:

    a next step follows     (t - start) / (next start - start) if times stretch with the gap, else t - start
    before the first step   start - t

all as quantile functions that end at the k-th patient's extreme.

**Repeats.** Of several values in a step the last is the feature. On the scale of normal scores the values of a step are
m + x_i with Var(m) = 1 - s^2 and x an autoregression with variance s^2 and correlation r, so given the last score z

    m | z ~ Normal((1 - s^2) z, s^2 (1 - s^2)),   x_n = z - m,   x_(i-1) | x_i ~ Normal(r x_i, (1 - r^2) s^2)

and earlier values stay in the range and on the grid of the column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cohortloom.codec.cells import draw_levels
from cohortloom.codec.clock import floor_to, round_to
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.steps import Steps

__all__ = ["CellLaw", "Repeats", "TimeLaw", "quantiles", "repeated_scores"]

Ends = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class CellLaw:
    """Law of one column that depends on the code only: shares of level ids, or numbers and the empty share."""

    share: tuple[float, ...] = ()
    empty: float = 0.0
    law: QuantileTransform | None = None

    @classmethod
    def fit(
        cls, values: np.ndarray, observed: np.ndarray, subject: np.ndarray, *, category: bool, k_min: int
    ) -> CellLaw:
        """Learn from encoded cells; a level held by fewer than `k_min` patients beside this code is left out."""
        if category:
            ids, span = values.astype(np.int64), int(subject.max(initial=0)) + 1
            patients = np.bincount(np.unique(ids * span + subject) // span)
            rows = np.bincount(ids).astype(float)
            return cls(tuple(np.where(patients >= k_min, rows, 0.0)))
        empty = float(1 - observed.mean()) if len(observed) else 1.0
        return cls(empty=empty, law=quantiles(values[observed], k_min, subject[observed]))

    @property
    def known(self) -> bool:
        """Can anything be drawn?"""
        return sum(self.share) > 0 or self.law is not None

    def draw(self, n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Encoded cells and whether they hold a value."""
        if self.law is None:
            ids = draw_levels(self.share, n, draw) if sum(self.share) > 0 else np.zeros(n)
            return ids.astype(float), ids > 0
        values = self.law.quantile(draw.random(n))
        observed = (draw.random(n) >= self.empty) & np.isfinite(values)
        return np.nan_to_num(values), observed

    def to_json(self) -> dict[str, Any]:
        return {"share": list(self.share), "empty": self.empty, "law": self.law.to_json() if self.law else None}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> CellLaw:
        law = state["law"]
        return cls(tuple(state["share"]), state["empty"], QuantileTransform.from_json(law) if law else None)


@dataclass(frozen=True)
class Repeats:
    """Variation of a column within a step: sd and correlation of scores, share of empty cells and of equal levels."""

    sd: float = 0.0
    correlation: float = 0.0
    empty: float = 0.0
    same: float = 1.0

    @classmethod
    def fit(cls, step: np.ndarray, values: np.ndarray, observed: np.ndarray, law: QuantileTransform | None) -> Repeats:
        """Learn from the rows of one column (of one code), in the order of time within each step.

        Args:
            step: Step of each row, in any order.
            values: Numbers, or level ids if there is no law.
            observed: Whether there is a value.
            law: Law of the numbers.
        """
        rows = np.bincount(step)
        with_value = np.bincount(step[observed], minlength=len(rows))
        several = (rows > 1) & (with_value > 0)
        others = (rows[several] - 1).sum()
        empty = float((rows[several] - with_value[several]).sum() / others) if others else 0.0
        order = np.argsort(step[observed], kind="stable")
        at, x = step[observed][order], values[observed][order]
        pair = at[1:] == at[:-1]
        if not pair.any():
            return cls(empty=empty)
        same = float((x[1:] == x[:-1])[pair].mean())
        if law is None:
            return cls(empty=empty, same=same)
        z = law.score(x)
        n = np.bincount(at)
        mean = np.bincount(at, z) / np.maximum(n, 1)
        within = float(((z - mean[at]) ** 2).sum() / max((n[n > 1] - 1).sum(), 1))
        step_variance = float(np.mean((z[1:] - z[:-1])[pair] ** 2)) / 2
        sd = min(np.sqrt(max(within, step_variance)), 1.0)
        correlation = float(np.clip(1 - step_variance / max(sd**2, 1e-9), 0.0, 0.95))
        return cls(float(sd), correlation, empty, same)

    def to_json(self) -> list[float]:
        return [self.sd, self.correlation, self.empty, self.same]


def repeated_scores(
    last: np.ndarray, n: np.ndarray, sd: np.ndarray, correlation: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """Scores of the values of each group, earliest first; the last one is given.

    Args:
        last: Score of each group's last value.
        n: Values of each group (at least 1).
        sd, correlation: Variation within each group.
    """
    out = np.empty(int(n.sum()))
    end = np.cumsum(n) - 1
    out[end] = last
    variance = sd**2
    mean = (1 - variance) * last + np.sqrt(variance * (1 - variance)) * draw.normal(size=len(n))
    residual = last - mean
    left, back = np.flatnonzero(n > 1), 1
    while len(left):  # once per row of the longest group
        noise = draw.normal(size=len(left)) * sd[left] * np.sqrt(1 - correlation[left] ** 2)
        residual[left] = correlation[left] * residual[left] + noise
        out[end[left] - back] = mean[left] + residual[left]
        back += 1
        left = left[n[left] > back]
    return out


@dataclass(frozen=True)
class TimeLaw:
    """Law of the times of one table's rows within a step.

    Args:
        grid: Grid of the times [ticks].
        per_day: Ticks in a day.
        open_share: Share of rows that belong to no visit (1 for tables that name none).
        end: Column of the visit table that ends a visit, if one holds the times.
        relative: Do times without a visit stretch with the gap to the next step?
        before_share: Share of the first step's times without a visit that lie before it.
        limit: Width of a step where there is no visit table [d].
        first_grows, gap_grows: Do the first time in a visit and the times between stretch with the visit?
        laws: "first", "gap" [d] and "first share", "gap share" of visits; "between", "after", "before" of other times;
            "ratio" of distinct times to most rows of one code.
    """

    grid: int
    per_day: int
    open_share: float
    end: str | None
    relative: bool
    before_share: float
    limit: float | None
    first_grows: bool
    gap_grows: bool
    laws: Mapping[str, QuantileTransform]

    @classmethod
    def fit(
        cls,
        steps: Steps,
        step: np.ndarray,
        time: np.ndarray,
        linked: np.ndarray,
        most: np.ndarray,
        ends: Ends,
        *,
        has_link: bool,
        grid: int,
        per_day: int,
        limit: float | None,
        k_min: int,
    ) -> TimeLaw:
        """Learn from the rows of one table.

        Args:
            step, time, linked: Step, time [ticks] and visit link of each row.
            most: Most rows of one code in each step (of the table if it is wide).
            ends: Timestamp columns of the visit table [ticks] and whether they are known.
            has_link: Does the table name visits?
        """
        open_share = float((~linked).mean()) if has_link and len(linked) else float(not has_link)
        order = np.lexsort((linked, time, step))
        step, time, linked = step[order], time[order], linked[order]
        new = np.ones(len(step), bool)
        new[1:] = (np.diff(step) != 0) | (np.diff(time) != 0) | (linked[1:] != linked[:-1])
        step, time, linked = step[new], time[new], linked[new]
        distinct = np.bincount(step, minlength=len(steps.time))
        used = distinct > 0
        owner = steps.subject[step]
        start, (following, has_next) = steps.time[step], steps.following
        days = (time - start) / per_day
        end = _best_end(ends, step, time, start, linked)
        laws = {"ratio": quantiles(distinct[used] / np.maximum(most[used], 1), k_min, steps.subject[used])}
        length = _length(ends[end] if end else None, step[linked], start[linked], per_day)
        inside, first_grows, gap_grows = _fit_inside(step[linked], days[linked], length, owner[linked], k_min)
        laws |= inside
        before = ~linked & (time < floor_to(start, grid))
        at_first = ~linked & steps.first[step]
        rest = ~linked & ~before
        gap = (following[step] - start) / per_day
        between = rest & has_next[step] & (gap > 0)
        share = np.clip(days / np.where(between, gap, 1.0), 0.0, 1.0)
        laws["between"] = quantiles(share[between], k_min, owner[between])
        laws["after"] = quantiles(np.maximum(days[rest], 0.0), k_min, owner[rest])
        laws["before"] = quantiles(-days[before], k_min, owner[before])
        return cls(
            grid,
            per_day,
            open_share,
            end,
            _stretches(days[between], gap[between]),
            float(before.sum() / max(at_first.sum(), 1)),
            limit,
            first_grows,
            gap_grows,
            laws,
        )

    def draw(
        self, steps: Steps, step: np.ndarray, ends: Ends, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Times [ticks] of moments in given steps, and whether they belong to the visit."""
        n, per_day, laws = len(step), self.per_day, self.laws
        start, (following, has_next) = steps.time[step], steps.following
        u, linked = draw.random(n), draw.random(n) >= self.open_share
        days = np.zeros(n)
        length = _length(ends.get(self.end or ""), step[linked], start[linked], per_day)
        days[linked] = self._inside(step[linked], length, draw)
        gap = np.where(has_next[step], (following[step] - start) / per_day, np.inf)
        apart = laws["after"].quantile(u)
        if self.relative:
            finite = np.where(np.isfinite(gap), gap, 0.0)
            apart = np.where(np.isfinite(gap), laws["between"].quantile(u) * finite, apart)
        again = draw.random(n)
        apart = np.where(apart >= gap, again * np.where(np.isfinite(gap), gap, 0.0), apart)
        if self.limit is not None:
            apart = np.minimum(apart, self.limit - 1 / per_day)
        early = steps.first[step] & (draw.random(n) < self.before_share)
        apart = np.where(early, -laws["before"].quantile(u), apart)
        ticks = np.round(np.nan_to_num(np.where(linked, days, apart)) * per_day).astype(np.int64) + start
        lowest = floor_to(start, self.grid)
        outside = floor_to(ticks, self.grid)
        late = has_next[step] & (outside >= floor_to(following[step], self.grid))
        outside = np.where(late, floor_to(following[step], self.grid) - self.grid, outside)
        outside = np.where(early, outside, np.maximum(outside, lowest))
        return np.where(linked, round_to(ticks, self.grid), outside), linked

    def _inside(self, step: np.ndarray, length: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Times since the start of the visit [d], ascending within each step.

        Args:
            step: Step of each time; times of one step stand together.
            length: Length of its visit [d], infinite if unknown.
        """
        first, n = _runs(step)
        known, size, u = np.isfinite(length), np.where(np.isfinite(length), length, 0.0), draw.random(len(step))
        law = self.laws
        begin = np.nan_to_num(law["first"].quantile(u))
        for _ in range(4):  # a first time beyond the visit's end is drawn again
            late = known & (begin > size)
            begin = np.where(late, np.nan_to_num(law["first"].quantile(draw.random(len(step)))), begin)
        begin = np.where(known & (begin > size), u * size, begin)
        if self.first_grows:
            begin = np.where(known, np.nan_to_num(law["first share"].quantile(u)) * size, begin)
        u = draw.random(len(step))
        gap = np.nan_to_num(law["gap"].quantile(u))
        if self.gap_grows:
            gap = np.where(known, np.nan_to_num(law["gap share"].quantile(u)) * size / n, gap)
        at = np.flatnonzero(first)
        rank = np.cumsum(first) - 1
        begin, spare = begin[at][rank], gap[at][rank]  # the gap of the first place is the one behind the last time
        walk = np.cumsum(np.where(first, 0.0, gap))
        walk -= walk[at][rank]
        total = np.maximum.reduceat(walk, at)[rank] if len(at) else walk
        room = np.maximum(np.where(known, size - begin, np.inf), 0.0)
        squeeze = np.where(total > room, room / np.maximum(total + spare, 1e-12), 1.0)
        return begin + walk * squeeze

    def moments(self, most: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Number of distinct times in each step, given the most rows of one code in it."""
        ratio = self.laws["ratio"].quantile(draw.random(len(most)))
        n = np.maximum(1, np.round(np.where(np.isfinite(ratio), ratio, 1.0) * most)).astype(np.int64)
        return np.where(most > 0, n, 0)

    def to_json(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        return state | {"laws": {name: law.to_json() for name, law in self.laws.items()}}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TimeLaw:
        laws = {name: QuantileTransform.from_json(law) for name, law in state["laws"].items()}
        fields: dict[str, Any] = dict(state)
        return cls(**(fields | {"laws": laws}))


def quantiles(values: np.ndarray, k: int, subject: np.ndarray) -> QuantileTransform:
    """Law without a grid (times, shares)."""
    return replace(QuantileTransform.fit(values, k, subject=subject), decimals=None)


def _runs(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Does a step begin here, and how many rows it has."""
    first = np.ones(len(step), bool)
    first[1:] = step[1:] != step[:-1]
    run = np.cumsum(first) - 1
    return first, np.bincount(run)[run] if len(step) else np.zeros(0, np.int64)


def _length(end: tuple[np.ndarray, np.ndarray] | None, step: np.ndarray, start: np.ndarray, per_day: int) -> np.ndarray:
    """Length of the visit of each row [d]; infinite if unknown or none."""
    if end is None:
        return np.full(len(step), np.inf)
    stop, known = end
    length = (stop[step] - start) / per_day
    return np.where(known[step] & (length > 0), length, np.inf)


def _fit_inside(
    step: np.ndarray, days: np.ndarray, length: np.ndarray, owner: np.ndarray, k_min: int
) -> tuple[dict[str, QuantileTransform], bool, bool]:
    """Laws of the first time and of the times between, and whether either grows with the visit."""
    first, n = _runs(step)
    known = np.isfinite(length)
    size = np.where(known, length, 1.0)
    later = ~first
    gap = np.concatenate([[0.0], np.diff(days)]) if len(days) else days
    share = gap * n / size
    laws = {
        "first": quantiles(days[first], k_min, owner[first]),
        "first share": quantiles((days / size)[first & known], k_min, owner[first & known]),
        "gap": quantiles(gap[later], k_min, owner[later]),
        "gap share": quantiles(share[later & known], k_min, owner[later & known]),
    }
    both = later & known & (gap > 0)
    narrower = bool(both.sum() >= 10 and np.log(share[both]).std() < np.log(gap[both]).std())
    return laws, _stretches(days[first & known], size[first & known]), narrower


def _best_end(ends: Ends, step: np.ndarray, time: np.ndarray, start: np.ndarray, linked: np.ndarray) -> str | None:
    """The timestamp of the visit table before which most linked times lie, if it is at least half of them."""
    best, most = None, 0.5
    for name, (stop, known) in ends.items():
        held = linked & known[step] & (stop[step] > start) & (time <= stop[step])
        share = float(held.sum() / max(linked.sum(), 1))
        if share > most:
            best, most = name, share
    return best


def _stretches(days: np.ndarray, gap: np.ndarray) -> bool:
    """Rank correlation of offset and gap above one half."""
    if len(days) < 30 or not np.ptp(days) or not np.ptp(gap):
        return False
    rank = [np.argsort(np.argsort(x)) for x in (days, gap)]
    return bool(np.corrcoef(rank[0], rank[1])[0, 1] > 0.5)
