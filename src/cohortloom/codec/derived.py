"""Columns that say again what other columns say.

Tables of patients are full of them: the date of death is the date last seen, follow-up is the time between two dates,
age is counted from a date of birth. A model that draws both sides draws contradictions. So for each number and
timestamp T of a static or visit table we look, among the columns before it, for

    T = x                               the same number or time
    T = round or floor of u (x - y)     time between two others, in days or another unit u, or day 1, 2, ... of a study
    T = x + y / u,  x - y / u           a time, and so many units later or before
    T = x + y,  x - y                   numbers of one unit

and sums and products of several columns (`formulas`), up to the grid of T. It is a law if it holds in 99.5 % of the
rows where all is known, in either half of at least 20 patients, with at least 8 different values of T; and T is then
not modelled but computed, if it is known exactly where the others are, or where a category has certain levels (died).
Where T is far coarser than what it is made of (age in years), T is modelled, and the time it came from is moved by
whole units until both agree, so that a user may still ask for an age. Where T is one grid step off now and then (a
follow-up counted in hours and two dates; an age beside a year of birth), the shares of -1, 0 and 1 steps are learned
and drawn. Words that follow from other columns are found last (`labels`).

Beside the columns there are "<visits>.start" and "<visits>.last" (day of the first and of the last visit),
"<visits>.count" (number of visits), and for visit columns "<visits>.time" and "<visits>.(number)", the visit's place in
the course: a column that counts visits from a number on follows from it where it has 3 values or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from cohortloom.codec.formulas import formulas
from cohortloom.codec.pairs import SHARE, screened

__all__ = ["ALWAYS", "ITEM", "PATIENTS", "Column", "Derived", "find_derived"]

#: Unit of levels that are numbers: they are terms of sums and products alone.
ITEM = "{level}"

#: A law holds in this share of the rows, of at least so many patients.
ALWAYS, PATIENTS = 0.995, 20
_DISTINCT, _SAMPLE = 8, 96
#: Units of time in days: day, hour, minute, second, week, month, year.
_UNITS = (1.0, 24.0, 1440.0, 86400.0, 1 / 7, 1 / 30.4375, 1 / 365.25)
_EXACT = 1e-6
#: A time is moved only by steps of at least so many days: an age in years fits a birth, not months a diagnosis.
_YEAR = 300
#: Beside dates that name no day an age in years may be a year less.
_MONTH = 28
#: A law with slack needs a T whose sd is this many steps.
_WIDE = 20


@dataclass(frozen=True)
class Column:
    """A column as the search sees it.

    Args:
        path: "table.column".
        time: Is it a time (values in days since 1970-01-01 or since the origin)?
        values: Numbers, NaN where missing.
        step: Grid of its values (days for times), 0 if there is none.
        unit: Unit of a number.
        wanted: May it be computed from others?
        free: May it be moved, if it is a time?
    """

    path: str
    time: bool
    values: np.ndarray
    step: float = 0.0
    unit: str = ""
    wanted: bool = False
    free: bool = False


@dataclass(frozen=True)
class Derived:
    """One law T = rounding(sum of coefficient x source).

    Args:
        path: T, as "table.column".
        terms: (path of a source, coefficient).
        rounding: "days": sources are cut to whole days before, and nothing is rounded; "count": so, and the first day
            is day 1, the one before it day -1.
        step: Grid to round to, 0: none.
        dropped: T is computed whatever was drawn for it.
        level: (category, its levels for which T is known); None: known where its sources are (if dropped), or as
            modelled.
        moved: Source that is moved so that the law holds, instead of computing T.
        shown: T is computed, but stays among the features: a time between two dates says what a network would have to
            work out from both.
        slack: Shares of T one step below, at, and one step above the sum; empty: always at it.
        form: A "product" is constant x product of source^coefficient.
            "cut" and "map" give levels of words, see `labels`; "so far" and "before" sum a column over the visits
            of a patient, see `running`.
        constant: Added to the sum, or times the product.
        cuts: Where the next interval of a number begins ("cut").
        names: Level of each interval, or of each level of the source.
        sources: Levels of the source, where no cell of the codec knows them.
        absent: Level where the number is missing ("cut"); empty: none.
    """

    path: str
    terms: tuple[tuple[str, float], ...]
    rounding: Literal["round", "floor", "days", "count"] = "round"
    step: float = 0.0
    dropped: bool = True
    level: tuple[str, tuple[str, ...]] | None = None
    moved: str | None = None
    shown: bool = False
    slack: tuple[float, ...] = ()
    form: Literal["sum", "product", "cut", "map", "so far", "before"] = "sum"
    constant: float = 0.0
    cuts: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    absent: str = ""

    def value(self, columns: Mapping[str, np.ndarray], draw: np.random.Generator | None = None) -> np.ndarray:
        """T of given sources; NaN where one is missing."""
        value = _rounded(self.raw(columns), self.rounding, self.step)
        if not self.slack or draw is None:
            return value
        return value + self.step * (np.searchsorted(np.cumsum(self.slack)[:2], draw.random(len(value))) - 1)

    def near(self, columns: Mapping[str, np.ndarray], wanted: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """T of given sources; with slack the wanted one where it lies within."""
        value, exact = self.value(columns, draw), self.value(columns)
        if not self.slack:
            return value
        off = np.nan_to_num((wanted - exact) / self.step, nan=9.0).round()
        within = (np.abs(off) <= 1) & (np.array(self.slack)[np.clip(off + 1, 0, 2).astype(int)] > 0)
        return np.where(within, wanted, value)

    def raw(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The sum or product before rounding."""
        if self.form == "product":
            logs = (c * np.log(np.where(columns[p] > 0, columns[p], np.nan)) for p, c in self.terms)
            return self.constant * np.exp(sum(logs, np.zeros(1)))
        cut = np.floor if self.rounding in ("days", "count") else np.asarray
        return self.constant + sum((c * cut(columns[path]) for path, c in self.terms), np.zeros(1))

    def shift(self, columns: Mapping[str, np.ndarray], wanted: np.ndarray) -> np.ndarray:
        """The moved source after moving: by as many units as T is off; as it was where T is missing."""
        name = self.moved or ""
        raw = self.raw(columns)
        off = np.nan_to_num(wanted - _rounded(raw, self.rounding, self.step))
        after = np.where((raw >= 0) & (raw + off < 0), -raw, raw + off)
        return columns[name] + np.nan_to_num(after - raw) / dict(self.terms)[name]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        level = [self.level[0], list(self.level[1])] if self.level else None
        return dict(self.__dict__) | {
            "terms": [list(t) for t in self.terms],
            "level": level,
            **{key: list(getattr(self, key)) for key in ("slack", "cuts", "names", "sources")},
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Derived:
        """The law of a state written by `to_json`."""
        level = (state["level"][0], tuple(state["level"][1])) if state["level"] else None
        state = dict(state) | {key: tuple(state.get(key, ())) for key in ("slack", "cuts", "names", "sources")}
        terms = tuple((path, float(c)) for path, c in state["terms"])
        return cls(**(dict(state) | {"terms": terms, "level": level}))


def find_derived(
    columns: list[Column], levels: Mapping[str, tuple[np.ndarray, tuple[str, ...]]], subject: np.ndarray
) -> list[Derived]:
    """Laws of the columns that are `wanted`, each in terms of columns before it.

    Args:
        columns: Columns in the order in which they may be computed.
        levels: Categories: path -> (id of the level of each row, -1 where missing; names of the levels).
        subject: Patient of each row.
    """
    found: list[Derived] = []
    for i, target in enumerate(columns):
        if not target.wanted or not _enough(target, subject):
            continue
        law = _law_of(target, columns[:i], subject, found) or _formula_of(target, columns[:i], subject, found)
        if law is not None:
            found.append(_with_presence(law, target, columns[:i], levels, subject))
    for target in columns:  # totals that stand before what they are made of
        known = {law.path for law in found} | {path for law in found for path, _ in law.terms}
        if target.path in known or not target.wanted or target.time or not _enough(target, subject):
            continue
        law = _formula_of(target, [c for c in columns if c is not target], subject, found, total=True)
        if law is not None:
            found.append(_with_presence(law, target, columns, levels, subject))
    return found


def _enough(target: Column, subject: np.ndarray) -> bool:
    known = np.isfinite(target.values)
    return len(np.unique(subject[known])) >= PATIENTS and len(np.unique(target.values[known][:10_000])) >= _DISTINCT


def _formula_of(
    target: Column, others: list[Column], subject: np.ndarray, found: list[Derived], *, total: bool = False
) -> Derived | None:
    """A sum or product of numbers; with `total` only a sum with nothing taken away."""
    if target.time:
        return None
    computed, near = {law.path for law in found}, None
    numbers = {c.path: c.values for c in others if not c.time}
    own = {path: values for path, values in numbers.items() if path not in computed}
    for known in (own, numbers) if len(own) < len(numbers) and not total else (own,):
        for terms, constant, form in formulas(target.values, target.step, known, products=not total):
            if total and (len(terms) < 2 or min(c for _, c in terms) < 0):
                return near
            law = Derived(target.path, terms, "round", target.step, form=form, constant=constant)
            value = law.value(numbers)
            if _holds(value, target, subject, 0.0):
                return law
            if _wide(target) and _holds(value, target, subject, 1.0):  # an index of weights before they were rounded
                slack = _slack(value, target)
                better = near is None or slack[1] > near.slack[1] + 0.01
                near = replace(law, slack=slack) if better else near
    return near


def _law_of(target: Column, others: list[Column], subject: np.ndarray, found: list[Derived]) -> Derived | None:
    """The simplest law that holds, exact ones first."""
    known = np.flatnonzero(np.isfinite(target.values))
    _, first = np.unique(subject[known], return_index=True)
    sample = known[first][:: max(1, len(first) // _SAMPLE)][:_SAMPLE]
    by_path = {c.path: c.values for c in others}
    small = {path: values[sample] for path, values in by_path.items()}
    coarse = near = None
    wide = _wide(target)
    coarse_dates = {c.path for c in others if c.time and c.step >= _MONTH}
    for terms, roundings in _forms(target, others, sample, 1.0 if wide else 0.0):
        aged = not target.time and target.step >= _YEAR * min(abs(c) for _, c in terms)
        aged = aged and any(path in coarse_dates for path, _ in terms)
        for rounding in roundings:
            law = Derived(target.path, terms, rounding, target.step)
            loose = rounding == "floor" if aged else wide and rounding == "round"
            far = 1.0 if loose and near is None else 0.0
            if not _agree(law.value(small), target.values[sample], target.step, SHARE, 8, far):
                continue
            value = law.value(by_path)
            if not _holds(value, target, subject, far):
                continue
            if not _holds(value, target, subject, 0.0):
                near = near or replace(law, slack=_slack(value, target))
            elif rounding == "count" or _agree(law.raw(by_path), target.values, 0.0, ALWAYS, 1):
                return law
            else:
                coarse = coarse or law
    if coarse is None or target.time:
        return coarse or near
    fixed = {law.path for law in found if law.dropped} | {law.moved for law in found}
    free = {c.path for c in others if c.time and c.free} - fixed
    years = target.step >= _YEAR * min(abs(c) for _, c in coarse.terms)
    moved = next((path for path, _ in reversed(coarse.terms) if path in free), None) if years else None
    return replace(coarse, dropped=moved is None, moved=moved)


def _forms(
    target: Column, others: list[Column], sample: np.ndarray, far: float
) -> Iterator[tuple[tuple[tuple[str, float], ...], tuple[Literal["round", "floor", "days", "count"], ...]]]:
    """(terms, roundings) worth a look, simple ones first; of the many of numbers those that `screened` lets pass."""
    times, numbers = [c for c in others if c.time], [c for c in others if not c.time and c.unit != ITEM]
    both: tuple[Literal["round", "floor"], ...] = ("round", "floor")
    same = times if target.time else [c for c in numbers if c.unit == target.unit or not c.unit]
    singles, pairs = screened(
        target.values[sample], [c.values[sample] for c in same], target.step, far, not target.time
    )
    for i in singles:
        yield ((same[i].path, 1.0),), both
    if target.time:
        for c in times:
            for n in numbers:
                for unit in _UNITS:
                    for sign in (1.0, -1.0):
                        yield ((c.path, 1.0), (n.path, sign / unit)), both
        return
    for b in times:
        for a in times:
            if a is not b:
                for unit in _UNITS:
                    yield ((a.path, unit), (b.path, -unit)), (*both, "days", "count") if unit == 1 else both
    for i, j, sign in pairs:
        yield ((same[i].path, 1.0), (same[j].path, sign)), ("round",)


def _rounded(raw: np.ndarray, rounding: str, step: float) -> np.ndarray:
    if rounding == "count":
        return raw + (raw >= 0)
    if not step or rounding == "days":
        return raw
    if rounding == "floor":
        return np.floor(raw / step + _EXACT) * step
    return np.round(raw / step) * step


def _agree(value: np.ndarray, target: np.ndarray, step: float, share: float, least: int, far: float = 0.0) -> bool:
    """Do both agree, up to `far` steps, where both are known?"""
    both = np.isfinite(value) & np.isfinite(target)
    if both.sum() < least:
        return False
    limit = max(_EXACT, (far + 1e-3) * step) * np.maximum(1, np.abs(target[both]) * 1e-6)
    return bool((np.abs(value[both] - target[both]) <= limit).mean() >= share)


def _holds(value: np.ndarray, target: Column, subject: np.ndarray, far: float) -> bool:
    """Is it a law: in either half of the patients, of enough patients, with enough values?"""
    both = np.isfinite(value) & np.isfinite(target.values)
    if len(np.unique(subject[both])) < PATIENTS or len(np.unique(target.values[both])) < _DISTINCT:
        return False
    halves = (subject % 2 == half for half in (0, 1))
    return all(_agree(value[h], target.values[h], target.step, ALWAYS, PATIENTS // 2, far) for h in halves)


def _wide(target: Column) -> bool:
    return bool(target.step > 0 and np.nanstd(target.values) > _WIDE * target.step)


def _slack(value: np.ndarray, target: Column) -> tuple[float, ...]:
    off = np.round((target.values - value)[np.isfinite(value) & np.isfinite(target.values)] / target.step)
    share = np.array([(off == k).mean() for k in (-1, 0, 1)])
    return tuple((share / share.sum()).tolist())


def _with_presence(
    law: Derived,
    target: Column,
    others: list[Column],
    levels: Mapping[str, tuple[np.ndarray, tuple[str, ...]]],
    subject: np.ndarray,
) -> Derived:
    """The law with what says whether T is known; modelled where nothing does."""
    if not law.dropped:
        return law
    law = replace(law, shown=not target.time and {c.path for c in others if c.time} >= {path for path, _ in law.terms})
    known, able = np.isfinite(target.values), np.isfinite(law.value({c.path: c.values for c in others}))

    def holds(guess: np.ndarray) -> bool:
        return all((guess == known)[subject % 2 == half].mean() >= ALWAYS for half in (0, 1))

    if holds(able):
        return law
    for path, (ids, names) in levels.items():
        n = np.bincount(ids[ids >= 0], minlength=len(names))
        yes = np.bincount(ids[(ids >= 0) & known], minlength=len(names)) > 0.5 * np.maximum(n, 1)
        if holds(np.where(ids >= 0, yes[ids], False) & able):
            level = (path, tuple(name for name, y in zip(names, yes) if y))
            return replace(law, level=level)
    return replace(law, dropped=False)
