"""When the rows of a step were recorded.

The rows of one table in one step share few distinct times (a panel is one sample of blood). Times t_1 < ... < t_n that
name their visit, of length L if its end is known, are points on the table's busy clock (`daytime`)

    t_1 - start          or (t_1 - start) / L if that grows with the visit
    t_(i+1) - t_i        or (t_(i+1) - t_i) n / L if that varies less (on the log scale)

where what lies between two times goes with what lies between the next two (a Gaussian copula of order one: whoever is
sampled often is sampled often again), squeezed where they would leave the visit. Where charts are kept by the hour, t_i
are the first times of hours, on the full hour as often as in training; how many more an hour holds is a Markov chain,
and each lies at a share of what the time before it leaves of the hour. Times without a visit are drawn apart from each
other, counted from the end of the visit if that is known, else from its start:

    shortly before the next step      next start - t, at most a day (the emergency room before the admission)
    elsewhere before the next step    (t - end) / (next start - end) if times stretch with the gap, else t - end
    before the first step             start - t

all as quantile functions that end at the k-th patient's extreme. Distinct times stay distinct.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortloom.codec.clock import DAY, floor_to, place_of, round_to, time_of
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.daytime import MOMENTS, Daytime
from cohortloom.codec.laws import quantiles, remembered
from cohortloom.codec.steps import Steps

__all__ = ["Ends", "TimeLaw"]

Ends = Mapping[str, tuple[np.ndarray, np.ndarray]]
_HOUR = DAY // 24
_OWN = 20.0  # hours that weigh as much as the shares of all
_NEAR = 1.0  # days before the next step
_NEVER = 2**62
_FEWEST_STEPS, _ALONE = 10, 0.995


@dataclass(frozen=True)
class TimeLaw:
    """Law of the times of one table's rows within a step.

    Args:
        grid: Grid of the times [ticks].
        per_day: Ticks in a day.
        open_share: Share of moments that belong to no visit (1 for tables that name none).
        end: Column of the visit table that ends a visit, if one holds the times.
        relative: Do times without a visit stretch with the gap to the next step?
        before_share: Share of the first step's times without a visit that lie before it.
        once: Do steps have at least as many distinct times as rows of any one code?
        near_share: Share of times without a visit that lie shortly before the next step, where there is one.
        limit: Width of a step where there is no visit table [d].
        first_grows, gap_grows: Do the first time in a visit and the times between stretch with the visit?
        laws: "first", "gap" [busy d] and "first share", "gap share" of visits; "near", "between", "after", "before" of
            other times; "ratio" of distinct times to most rows of one code; with full hours "second" and "further",
            where in the rest of an hour the time after its first one lies, and those after that.
        full: Share of hours with a time of a visit that have one on the full hour; 0 where that is nothing special.
        more: With full hours, how many times an hour holds beside its first one: shares, then those after an hour that
            held 0, 1, ... of them.
        memory: Correlation of the normal scores of a gap and the next one within a visit.
        alone: Does every row have a time of its own?
        inside, outside: Time of day of moments of visits, and of others.
    """

    grid: int
    per_day: int
    open_share: float
    end: str | None
    relative: bool
    before_share: float
    once: bool
    near_share: float
    limit: float | None
    first_grows: bool
    gap_grows: bool
    laws: Mapping[str, QuantileTransform]
    full: float
    inside: Daytime
    outside: Daytime
    more: tuple[tuple[float, ...], ...] = ()
    memory: float = 0.0
    alone: bool = False

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
        dated: bool = False,
    ) -> TimeLaw:
        """Learn from the rows of one table.

        Args:
            step, time, linked: Step, time [ticks] and visit link of each row.
            most: Most rows of one code in each step (of the table if it is wide).
            ends: Timestamp columns of the visit table [ticks] and whether they are known.
            has_link: Does the table name visits?
            dated: Do times have a time of day?
        """
        order = np.lexsort((linked, time, step))
        step, time, linked = step[order], time[order], linked[order]
        rows = np.bincount(step, minlength=len(steps.time))
        new = np.ones(len(step), bool)
        new[1:] = (np.diff(step) != 0) | (np.diff(time) != 0) | (linked[1:] != linked[:-1])
        step, time, linked = step[new], time[new], linked[new]
        open_share = float((~linked).mean()) if has_link and len(linked) else float(not has_link)
        distinct = np.bincount(step, minlength=len(steps.time))
        used, several = distinct > 0, rows > 1
        lone = bool(several.sum() >= _FEWEST_STEPS and (distinct == rows)[several].mean() >= _ALONE)
        owner = steps.subject[step]
        start, (following, has_next) = _begun(steps, grid)[step], steps.following
        end = _best_end(ends, step, time, start, linked)
        later = time[linked][~_runs(step[linked])[0]]  # the first moment of a visit follows the hour of its start
        inside = Daytime.fit(dated, later if len(later) >= MOMENTS else time[linked], grid, per_day)
        outside = Daytime.fit(dated, time[~linked], grid, per_day)
        full = _full_hours(step[linked], time[linked], inside)
        inside = inside.without_full_hours() if full else inside
        laws = {"ratio": quantiles(distinct[used] / np.maximum(most[used], 1), k_min, steps.subject[used])}
        alone, more = linked.copy(), ()
        if full:
            alone[linked], more, rest = _hours(step[linked], time[linked], owner[linked], k_min)
            laws |= rest
        size = _length(ends[end] if end else None, step[alone], start[alone], inside)
        busy = inside.busy(time, grid) - inside.busy(start)
        within, first_grows, gap_grows, memory = _fit_inside(step[alone], busy[alone], size, owner[alone], k_min)
        laws |= within
        before = ~linked & (time < floor_to(start, grid))
        at_first = ~linked & steps.first[step]
        rest = ~linked & ~before
        left = _left(ends, end, step, start)
        days, gap = (time - left) / per_day, (following[step] - left) / per_day
        ahead = rest & has_next[step]
        near = ahead & (gap - days <= _NEAR) & (gap - days >= 0) & (end is not None)
        between = ahead & ~near & (gap > 0)
        share = np.clip(days / np.where(between, gap, 1.0), 0.0, 1.0)
        laws["near"] = quantiles((gap - days)[near], k_min, owner[near])
        laws["between"] = quantiles(share[between], k_min, owner[between])
        laws["after"] = quantiles(np.maximum(days[rest & ~near], 0.0), k_min, owner[rest & ~near])
        laws["before"] = quantiles((start - time)[before] / per_day, k_min, owner[before])
        return cls(
            grid,
            per_day,
            open_share,
            end,
            _stretches(days[between], gap[between]),
            float(before.sum() / max(at_first.sum(), 1)),
            bool((distinct < most)[used].mean() < 0.01) if used.any() else True,
            float(near.sum() / max(ahead.sum(), 1)),
            limit,
            first_grows,
            gap_grows,
            laws,
            full,
            inside,
            outside,
            more,
            memory,
            lone,
        )

    def draw(
        self, steps: Steps, step: np.ndarray, linked: np.ndarray, ends: Ends, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Times [ticks] of moments, ascending within each step, and whether they belong to the visit.

        Args:
            step, linked: Step of each moment (those of one step stand together), and whether it belongs to the visit.
        """
        time = np.zeros(len(step), np.int64)
        time[linked] = self._of_visits(steps, step[linked], ends, draw)
        time[~linked] = self._of_none(steps, step[~linked], ends, draw)
        order = np.lexsort((~linked, time, step))
        time, linked = time[order], linked[order]
        following, has_next = steps.following
        last = np.where(has_next, _before(following, self.grid), _NEVER)[step]
        if self.end in ends:
            stop, known = ends[self.end]
            last = np.where(linked & known[step], stop[step], last)
        return _apart(step, time, steps.time[step], self.grid, last), linked

    def _of_visits(self, steps: Steps, step: np.ndarray, ends: Ends, draw: np.random.Generator) -> np.ndarray:
        if not self.full or not len(step):
            return self._alone(steps, step, ends, draw)
        first, n = _runs(step)
        at = step[first]
        visit, held = self._held(n[first], draw)
        owner = at[visit]
        time = self._alone(steps, owner, ends, draw)
        stop, known = ends.get(self.end or "", (steps.time, np.zeros(len(steps.time), bool)))
        start, drawn = steps.time[owner], time
        time = _apart(owner, time, start, _HOUR, np.where(known, stop, _NEVER)[owner])
        time = np.where(drawn >= start, np.maximum(time, start), time)  # the hour of the start begins before it
        full = floor_to(time, _HOUR)
        time = np.where((full >= steps.time[owner]) & (draw.random(len(time)) < self.full), full, time)
        times, owners = [time], [owner]
        for place in range(1, int(held.max())):
            time, owner, held = (part[held > place] for part in (time, owner, held))
            share = self.laws["second" if place == 1 else "further"].quantile(draw.random(len(time)))
            left = floor_to(time, _HOUR) + _HOUR - time
            time = time + np.maximum(round_to((share * left).astype(np.int64), self.grid), self.grid)
            times.append(time), owners.append(owner)
        return np.concatenate(times)[np.argsort(np.concatenate(owners), kind="stable")]

    def _held(self, n: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Visit of each hour with times, in order, and how many it holds, until the visit's number is used up."""
        shares = np.cumsum(self.more, 1)
        live, rest, hours = np.arange(len(n)), n.copy(), [(np.zeros(0, np.int64),) * 2]
        state = np.zeros(len(n), np.int64)
        while len(live):
            state = (shares[state, :-1] <= draw.random(len(live))[:, None]).sum(1)
            held = np.minimum(state + 1, rest[live])
            hours.append((live, held))
            rest[live] -= held
            live, state = live[rest[live] > 0], state[rest[live] > 0] + 1
        visit, held = (np.concatenate(part) for part in zip(*hours))
        order = np.argsort(visit, kind="stable")
        return visit[order], held[order]

    def _alone(self, steps: Steps, step: np.ndarray, ends: Ends, draw: np.random.Generator) -> np.ndarray:
        """Times of visits but for more than one of an hour where charts are kept by it."""
        start = _begun(steps, self.grid)[step]
        length = _length(ends.get(self.end or ""), step, start, self.inside)
        busy = self._inside(step, length, draw)
        ticks = self.inside.ticks(self.inside.busy(start) + busy)
        early = ticks < start
        ticks = floor_to(ticks, self.grid) if self.inside.hours else round_to(ticks, self.grid)
        return np.where((ticks < start) & ~early, -floor_to(-start, self.grid), ticks)

    def _of_none(self, steps: Steps, step: np.ndarray, ends: Ends, draw: np.random.Generator) -> np.ndarray:
        """Times that belong to no visit."""
        n, per_day, laws = len(step), self.per_day, self.laws
        start, (following, has_next) = _begun(steps, self.grid)[step], steps.following
        left, has_next, following = _left(ends, self.end, step, start), has_next[step], following[step]
        gap = np.where(has_next, np.maximum(following - left, 0) / per_day, np.inf)
        u = draw.random(n)
        apart = laws["after"].quantile(u)
        if self.relative:
            finite = np.where(has_next, gap, 0.0)
            apart = np.where(has_next, laws["between"].quantile(u) * finite, apart)
        again = draw.random(n)
        apart = np.where(apart >= gap, again * np.where(has_next, gap, 0.0), apart)
        near = has_next & (draw.random(n) < self.near_share)
        apart = np.where(near, np.maximum(np.where(has_next, gap, 0.0) - laws["near"].quantile(u), 0.0), apart)
        if self.limit is not None:
            apart = np.minimum(apart, self.limit - 1 / per_day)
        early = steps.first[step] & (draw.random(n) < self.before_share)
        apart = np.where(early, -laws["before"].quantile(u), apart)
        begin = np.where(early, start, left)
        ticks = np.round(np.nan_to_num(apart) * per_day).astype(np.int64) + begin
        if self.outside.hours and (self.limit is None or self.limit * per_day > self.grid):  # a step is no moment
            moved = floor_to(ticks, DAY) + self.outside.ticks(draw.random(n))
            fits = (moved > begin) & (~has_next | (moved < following)) & (ticks != begin)  # what shares a time does so
            ticks = np.where(~near & np.where(early, moved < start, fits), moved, ticks)
        ticks = floor_to(ticks, self.grid)
        late = has_next & (ticks >= floor_to(following, self.grid))
        ticks = np.where(late, _before(following, self.grid), ticks)
        return np.where(early, ticks, np.maximum(ticks, floor_to(start, self.grid)))

    def _inside(self, step: np.ndarray, length: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Times since the start of the visit [busy d], ascending within each step.

        Args:
            step: Step of each time; times of one step stand together.
            length: Length of its visit [busy d], infinite if unknown.
        """
        from scipy.special import ndtr  # heavy

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
        u = ndtr(remembered(draw.standard_normal(len(step)), step, self.memory))
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
        state |= {"inside": self.inside.to_json(), "outside": self.outside.to_json()}
        return state | {"laws": {name: law.to_json() for name, law in self.laws.items()}}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TimeLaw:
        laws = {name: QuantileTransform.from_json(law) for name, law in state["laws"].items()}
        clocks = {name: Daytime.from_json(state[name]) for name in ("inside", "outside")}
        fields: dict[str, Any] = dict(state) | {"more": tuple(tuple(row) for row in state["more"])}
        return cls(**(fields | clocks | {"laws": laws}))


def _begun(steps: Steps, grid: int) -> np.ndarray:
    """Start of each step [ticks]; its day (month, year) beside times that name no hour."""
    return floor_to(steps.time, grid) if grid % DAY == 0 else steps.time


def _before(ticks: np.ndarray, grid: int) -> np.ndarray:
    """Place on the grid before that of each time [ticks]."""
    return time_of(place_of(ticks, grid) - 1, grid)


def _full_hours(step: np.ndarray, time: np.ndarray, clock: Daytime) -> float:
    """Share of hours with a time that have one on the full hour, if minutes are told and it is above a third."""
    if not clock.minutes or not len(step):
        return 0.0
    hour = time // _HOUR
    key = (step - step.min()) * (int(hour.max() - hour.min()) + 1) + hour - hour.min()
    share = len(np.unique(key[time % _HOUR == 0])) / len(np.unique(key))
    return float(share) if share > 1 / 3 else 0.0


def _hours(
    step: np.ndarray, time: np.ndarray, owner: np.ndarray, k_min: int
) -> tuple[np.ndarray, tuple[tuple[float, ...], ...], dict[str, QuantileTransform]]:
    """Which times, ascending within each step, are the first of their hour; laws of how many others there are (as
    `TimeLaw.more`, up to the most that `k_min` patients reach) and of where they lie."""
    hour, (first, _) = floor_to(time, _HOUR), _runs(step)
    alone = first.copy()
    alone[1:] |= hour[1:] != hour[:-1]
    block = np.cumsum(alone) - 1
    place = np.arange(len(block)) - np.flatnonzero(alone)[block]
    before = np.concatenate([time[:1], time[:-1]])
    share = (time - before) / np.where(alone, 1, hour + _HOUR - before)
    rest = {
        name: quantiles(share[at], k_min, owner[at])
        for name, at in (("second", place == 1), ("further", place > 1 if (place > 1).any() else place == 1))
    }
    n, who = np.bincount(block) - 1, owner[alone]
    most = np.zeros(int(who.max(initial=0)) + 1, np.int64)
    np.maximum.at(most, who, n)
    size = int(np.sort(most)[-min(k_min, len(np.unique(who)))]) + 1
    n = np.minimum(n, size - 1)
    share = np.bincount(n, minlength=size) / len(n)
    after = np.zeros((size, size))
    follows = ~first[alone][1:]
    np.add.at(after, (n[:-1][follows], n[1:][follows]), 1.0)
    after = (after + _OWN * share) / (after.sum(1, keepdims=True) + _OWN)
    more = tuple(tuple(row) for row in np.vstack([share, after]).round(6).tolist())
    return alone, more, rest


def _runs(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Does a step begin here, and how many rows it has."""
    first = np.ones(len(step), bool)
    first[1:] = step[1:] != step[:-1]
    run = np.cumsum(first) - 1
    return first, np.bincount(run)[run] if len(step) else np.zeros(0, np.int64)


def _left(ends: Ends, end: str | None, step: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Time at which the visit was left [ticks]: its end, or its start where that is unknown."""
    if end is None or end not in ends:
        return start
    stop, known = ends[end]
    return np.where(known[step], np.maximum(stop[step], start), start)


def _length(
    end: tuple[np.ndarray, np.ndarray] | None, step: np.ndarray, start: np.ndarray, clock: Daytime
) -> np.ndarray:
    """Length of the visit of each row [busy d]; infinite if unknown or none."""
    if end is None:
        return np.full(len(step), np.inf)
    stop, known = end
    length = clock.busy(stop[step]) - clock.busy(start)
    return np.where(known[step] & (length > 0), length, np.inf)


def _apart(step: np.ndarray, time: np.ndarray, start: np.ndarray, grid: int, last: np.ndarray) -> np.ndarray:
    """Ascending times of each step moved onto places of the grid of their own, none beyond its last one if there is
    room."""
    if grid <= 1000 or not len(step):
        return time
    first, _ = _runs(step)
    run, at = np.cumsum(first) - 1, np.flatnonzero(first)
    place = np.arange(len(step)) - at[run]
    origin = place_of(start, grid)
    rel = place_of(time, grid) - origin
    rest = time - time_of(origin + rel, grid)
    low, high = int(rel.min()), int(rel.max() + place.max() + 1)
    width = high - low + int(place.max()) + 2
    if width * len(at) > 2**62:
        return time
    free = np.maximum.accumulate(rel - place + run * width) - run * width + place
    stop = np.clip(place_of(last, grid) - origin, low, high)
    limit = np.minimum.accumulate((stop - place + run * width)[::-1])[::-1] - run * width + place
    moved = np.maximum(np.minimum(free, limit), np.minimum(rel, 0))
    return time_of(origin + np.where(free > rel, moved, np.minimum(rel, moved)), grid) + rest


def _fit_inside(
    step: np.ndarray, days: np.ndarray, length: np.ndarray, owner: np.ndarray, k_min: int
) -> tuple[dict[str, QuantileTransform], bool, bool, float]:
    """Laws of the first time and of the times between, whether either grows with the visit, and how a time between
    goes with the next one."""
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
    drawn = share if narrower else gap
    pairs = later[1:] & later[:-1] & (known[1:] | (not narrower))
    memory = _alike(drawn[:-1][pairs], drawn[1:][pairs])
    return laws, _stretches(days[first & known], size[first & known]), narrower, memory


def _alike(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of normal scores, shrunk where there are few; 0 where either does not vary."""
    from scipy.special import ndtri  # heavy
    from scipy.stats import rankdata

    if not len(x) or not np.ptp(x) or not np.ptp(y):
        return 0.0
    a, b = (ndtri((rankdata(part) - 0.5) / len(part)) for part in (x, y))
    return float(np.clip(np.corrcoef(a, b)[0, 1] * len(x) / (len(x) + 50.0), -0.9, 0.9))


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
