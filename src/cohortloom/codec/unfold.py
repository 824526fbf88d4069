"""Rows of child events made from the features of a step.

For each table: how many rows each step has (of each code), the moments at which they were recorded and whether those
belong to the visit (`times`), which rows fall on which moment (`panels`), and what they say. The last row of a column
or code says what the feature says; the earlier ones run there from the step before (`course`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from cohortloom.codec.cells import Cell
from cohortloom.codec.clock import series_of, ticks_per_day
from cohortloom.codec.course import Course
from cohortloom.codec.fold import CodeFold, Columns, Fold, place_of, value_ids
from cohortloom.codec.laws import CellLaw, Repeats
from cohortloom.codec.panels import deal, moment_class
from cohortloom.codec.precedence import moments
from cohortloom.codec.rare import NO_CODE
from cohortloom.codec.steps import Steps
from cohortloom.codec.tensors import RARE
from cohortloom.codec.times import Ends
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["unfold"]

_NOISE = 65_521
_TOGETHER = 0.9  # share of what codes of a panel have in common of a moment
_SURELY = 5  # rows of a code before a level it never had is taken for impossible


@dataclass(frozen=True)
class _Groups:
    """Rows of one code in one step (of a wide table: all rows of a step), one after the other.

    Args:
        owner: Step (subject) of each group, ascending.
        code: Place in the fold's codes, then in its rare ones; 0 for wide tables.
        n: Rows of each group, at least 1.
    """

    owner: np.ndarray
    code: np.ndarray
    n: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """Group of each row."""
        return np.repeat(np.arange(len(self.n)), self.n)

    @property
    def place(self) -> np.ndarray:
        """0 for a group's first row, 1 for the second, ..."""
        return np.arange(int(self.n.sum())) - np.repeat(np.cumsum(self.n) - self.n, self.n)

    @property
    def last(self) -> np.ndarray:
        """Last row of each group."""
        return np.cumsum(self.n) - 1


@dataclass(frozen=True)
class _Rows:
    """Rows of all groups.

    Args:
        groups: The groups.
        step, subject, days: Step, number of the patient, and time [d] of each row.
    """

    groups: _Groups
    step: np.ndarray
    subject: np.ndarray
    days: np.ndarray


def unfold(
    schema: Schema,
    fold: Fold,
    features: Columns,
    *,
    steps: Steps,
    origin: np.ndarray,
    visits: pl.DataFrame | None,
    ends: Ends,
    ids: np.ndarray,
    about: np.ndarray,
    rng: Rng,
) -> pl.DataFrame:
    """The rows of one event table.

    Args:
        fold: How the table was folded.
        features: Feature -> raw values and observed, one per step (or per subject).
        steps: Decoded steps.
        origin: Origin of each subject [ticks].
        visits: Decoded visit table, one row per step.
        ends: Timestamps of the visit table [ticks] and whether they are known.
        ids: Subject ids.
        about: Subject x what is known of the patient, for the law of rare codes.
        rng: Stream of this table.
    """
    rng = rng.child("unfold", fold.table)
    whose = np.arange(len(ids)) if fold.per_subject else steps.subject
    features = fold.in_all(fold.present(features), steps, ends)
    features = features if fold.long else _whole(fold, features, rng)
    groups = _code_groups(fold, features, whose, about, rng) if fold.long else _wide_groups(fold, features)
    owner = groups.owner[groups.row]
    subject = owner if fold.per_subject else steps.subject[owner]
    time, linked = _moments(fold, groups, features, steps, ends, rng)
    if fold.times is None:
        time = origin[subject] if fold.per_subject else steps.time[owner]
    frame = {"subject_id": pl.Series("subject_id", ids[subject])}
    if schema.has_visit_id(fold.table):
        visit = pl.Series("visit_id", visits["visit_id"].to_numpy()[owner] if visits is not None else owner)
        frame["visit_id"] = pl.select(pl.when(pl.Series(linked)).then(visit).alias("visit_id")).to_series()
    if fold.times is not None:
        frame["time"] = series_of(schema, time)
    days = time / ticks_per_day(schema) if fold.times is not None else place_of(subject)
    rows = _Rows(groups, owner, subject, days)
    frame |= (_code_cells if fold.long else _wide_cells)(schema, fold, rows, features, time, rng)
    for column, spec in schema.tables[fold.table].columns.items():
        if column not in frame:  # identifiers
            name = pl.int_range(1, len(owner) + 1, eager=True).cast(pl.String) if not spec.missing else None
            made = [None] * len(owner) if name is None else frame["subject_id"].cast(pl.String) + "-" + name
            frame[column] = pl.Series(column, made, dtype=pl.String)
    if fold.order is None:
        return pl.DataFrame(frame)
    moment = moments(owner, time)
    key = fold.order.arrange(moment, groups.code[groups.row], rng.child("order").numpy)
    return pl.DataFrame(frame)[np.lexsort((key, moment))]


def _as_count(column: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    values, observed = column
    return np.where(observed & np.isfinite(values), np.round(np.nan_to_num(values)), 0).clip(0).astype(np.int64)


def _counted(fold: Fold, features: Columns, name: str) -> np.ndarray:
    """Rows of a code or moments of a group, told as a number or as a share of the moments."""
    if not name.endswith("#share"):
        return _as_count(features[name])
    values, observed = features[name]
    return _as_count((values * _as_count(features[f"{fold.table}#n"]), observed))


def _whole(fold: Fold, features: Columns, rng: Rng) -> Columns:
    """Features of a wide table in which every cell that must be filled is, if need be from the law of its column."""
    there, made = _as_count(features[f"{fold.table}#n"]) > 0, dict(features)
    for cell in fold.cells:
        values, observed = features[f"{fold.table}.{cell.column}"]
        observed = observed & ((cell.law is not None) | (values > 0))  # level 0 is no level
        hole = there & ~observed
        if cell.always and hole.any():
            draw, values = rng.child("filled", cell.column).numpy, values.copy()
            if cell.law is not None:
                values[hole] = cell.law.quantile(draw.random(int(hole.sum())))
            else:
                drawn, seen = fold.code_laws[cell.column][""].draw(int(hole.sum()), draw)
                values[hole] = np.where(seen, drawn, RARE)
            observed = observed | hole
        made[f"{fold.table}.{cell.column}"] = values, observed
    return made


def _wide_groups(fold: Fold, features: Columns) -> _Groups:
    n = _as_count(features[f"{fold.table}#n"])
    owner = np.flatnonzero(n)
    return _Groups(owner, np.zeros(len(owner), np.int64), n[owner])


def _code_groups(fold: Fold, features: Columns, subject: np.ndarray, about: np.ndarray, rng: Rng) -> _Groups:
    """Rows of each (step, code): frequent codes by their features, rare ones drawn."""
    grouped, levels = fold.grouped, {name: _level(features[f"{fold.table}.{name}"]) for name in fold.fixed}
    present = np.zeros((len(subject), len(fold.codes)), np.int64)
    for i, code in enumerate(fold.codes):
        n = _code_count(fold, code, features, grouped.get(i))
        for name, ids in levels.items():  # a code that never stands beside the step's level
            share = fold.code_laws[name].get(code.code)
            if share is not None and len(share.share):
                able = np.append(share.share, np.zeros(max(int(ids.max(initial=0)) + 1 - len(share.share), 0)))
                n = np.where((ids >= 2) & (able[ids] == 0) & (able.sum() >= _SURELY), 0, n)
        present[:, i] = n
    owner, code = np.nonzero(present)
    count = present[owner, code]
    if fold.rare and fold.rare_law is not None:
        n = _as_count(features[f"{fold.table}.#rare"])
        facts = fold.facts(present > 0, levels, about[subject])
        share = np.asarray(fold.rare_share)
        at, drawn = fold.rare_law.draw(share, n, facts, subject, fold.once, rng.child("rare").numpy)
        pairs, n = np.unique(at * len(share) + drawn, return_counts=True)
        owner, code = np.append(owner, pairs // len(share)), np.append(code, len(fold.codes) + pairs % len(share))
        count = np.append(count, n)
    order = np.lexsort((code, owner))
    return _Groups(owner[order], code[order].astype(np.int64), count[order].astype(np.int64))


def _level(column: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    values, observed = column
    return np.where(observed & np.isfinite(values), np.round(np.nan_to_num(values)), 0).astype(np.int64)


def _code_count(fold: Fold, code: CodeFold, features: Columns, group: str | None) -> np.ndarray:
    """Rows of one code: a number needs a row, and a row of a code that always has a number needs one."""
    name = f"{fold.table}.{code.code}"
    if code.cell is None and not code.counted:
        values, observed = features[name]
        return (observed & (np.nan_to_num(values) >= 2.5)).astype(np.int64)
    if not code.counted:
        return features[name][1].astype(np.int64)
    if group is None:
        n = _counted(fold, features, fold.counted(name))
    else:
        n = (_counted(fold, features, group) - _as_count(features[f"{name}#less"])).clip(0)
    if code.cell is None:
        return n
    _, observed = features[name]
    n = np.maximum(n, observed)
    return n if code.bare else np.where(observed, n, 0)


def _moments(
    fold: Fold, groups: _Groups, features: Columns, steps: Steps, ends: Ends, rng: Rng
) -> tuple[np.ndarray, np.ndarray]:
    """Time of each row [ticks] and whether it names its visit."""
    n_rows = int(groups.n.sum())
    draw = rng.child("time").numpy
    if fold.times is None:
        return np.zeros(n_rows, np.int64), draw.random(n_rows) >= fold.open_share
    count = _moment_count(fold, groups, features, len(steps.time), draw)
    step = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(step)) - (np.cumsum(count) - count)[step]
    if fold.opens:
        linked = place >= _as_count(features[f"{fold.table}#open"])[step]
    else:
        linked = np.full(len(step), fold.times.open_share < 0.5)
    time, linked = fold.times.draw(steps, step, linked, ends, draw)
    if fold.panels is not None:
        at = _deal(fold, groups, features, count, step, time, linked, rng.child("panels"))
    else:
        owner, start = groups.owner[groups.row], np.cumsum(count) - count
        u = draw.random(len(count))[owner]
        slot = np.floor((groups.place + u) * count[owner] / groups.n[groups.row]).astype(np.int64)
        at = start[owner] + np.minimum(slot, count[owner] - 1)
    return time[at], linked[at]


def _moment_count(
    fold: Fold, groups: _Groups, features: Columns, n_steps: int, draw: np.random.Generator
) -> np.ndarray:
    """Moments of each step: as many as its features say, none of them without a row."""
    assert fold.times is not None
    most = np.zeros(n_steps, np.int64)
    np.maximum.at(most, groups.owner, groups.n)
    rows = np.bincount(groups.owner, groups.n, n_steps).astype(np.int64)
    if not fold.long:
        return fold.times.moments(most, draw)
    count = np.ones(n_steps, np.int64)
    if fold.several:
        count = np.maximum(_as_count(features[f"{fold.table}#n"]), most if fold.times.once else 1)
    for group in fold.groups if not fold.panel else ():
        count = np.maximum(count, _counted(fold, features, fold.count_of(group)))
    return rows if fold.times.alone else np.minimum(count, rows)


def _deal(
    fold: Fold,
    groups: _Groups,
    features: Columns,
    count: np.ndarray,
    step: np.ndarray,
    time: np.ndarray,
    linked: np.ndarray,
    rng: Rng,
) -> np.ndarray:
    """Moment of each row: units take theirs, then the codes of a group those of the group."""
    panels = fold.panels
    assert panels is not None
    n_codes, n_units = len(fold.codes), len(panels.favour)
    of = np.full(n_codes + len(fold.rare), n_units - 1)
    of[:n_codes] = panels.unit
    # pairs of step and unit; rare codes are pairs of their own
    alone = np.where(groups.code < n_codes, of[groups.code], n_units + groups.code)
    key, pair = np.unique(groups.owner * (n_units + len(of)) + alone, return_inverse=True)
    pair = pair.reshape(-1)
    owner = key // (n_units + len(of))
    unit = np.minimum(key % (n_units + len(of)), n_units - 1)
    most, total = np.zeros(len(key), np.int64), np.bincount(pair, groups.n, len(key)).astype(np.int64)
    np.maximum.at(most, pair, groups.n)
    size = most.copy()
    shared = np.zeros(n_units, bool)
    for group in fold.groups:
        one = of[group[0]]
        shared[one] = True
        mine = unit == one
        size[mine] = np.maximum(most, _counted(fold, features, fold.count_of(group))[owner])[mine]
    size = np.where(shared[unit], np.minimum(np.minimum(size, total), np.maximum(count[owner], most)), size)
    draw = rng.numpy
    noise = panels.noise(step, draw)
    own = draw.standard_normal(_NOISE)
    kind, rare = moment_class(step, linked, time), n_units - 1
    favour = panels.favour[:, kind]

    def of_unit(slot: np.ndarray, one: np.ndarray) -> np.ndarray:
        u = unit[one]
        apart = np.where(u == rare, 1.0, 0.1) * own[(slot * 31 + one * 7919) % _NOISE]
        return favour[u, slot] + noise[slot, u] + apart

    least = panels.least_gaps(count, time, kind, owner, unit, size, draw)
    taken = deal(count, owner, size, of_unit, time, least)
    begin = np.cumsum(size) - size
    order = np.argsort(pair, kind="stable")
    inner = np.vstack([panels.inner, np.zeros((len(fold.rare), panels.inner.shape[1]))])

    def of_code(slot: np.ndarray, one: np.ndarray) -> np.ndarray:
        code = groups.code[order[one]]
        apart = np.sqrt(_TOGETHER) * own[(slot * 17) % _NOISE]
        apart += np.sqrt(1 - _TOGETHER) * own[(slot * 17 + one * 6361) % _NOISE]
        return inner[code, kind[taken[slot]]] + apart

    within = deal(size, pair[order], groups.n[order], of_code)  # places in `taken`
    n = groups.n[order]
    goal = np.repeat((np.cumsum(groups.n) - groups.n)[order] - (np.cumsum(n) - n), n) + np.arange(int(n.sum()))
    out = np.empty(int(n.sum()), np.int64)
    out[goal] = taken[within] if len(begin) else within
    return out


def _wide_cells(
    schema: Schema, fold: Fold, rows: _Rows, features: Columns, time: np.ndarray, rng: Rng
) -> dict[str, pl.Series]:
    columns, groups = {}, rows.groups
    every, told = np.arange(len(groups.n)), []
    for cell, repeats in zip(fold.cells, fold.repeats):
        if cell.law is not None:
            values, observed = (part[groups.owner] for part in features[f"{fold.table}.{cell.column}"])
            told.append(_Told(cell, repeats, every, values, observed))
    scale = _scales(fold.course, rows, rng)
    free, moment = _free_courses(fold.course, rows, every[:0], scale, rng.child("free").numpy)
    numbers = iter(_numbers(fold.course, rows, told, free, moment, scale, rng.child("course")))
    for cell, repeats in zip(fold.cells, fold.repeats):
        draw = rng.child("cells", cell.column).numpy
        if cell.law is not None:
            _, x, seen = next(numbers)
        else:
            values, observed = (part[groups.owner] for part in features[f"{fold.table}.{cell.column}"])
            marginal = fold.code_laws[cell.column][""]
            x, seen = _earlier_levels(values, observed, groups, repeats, marginal, draw)
        columns[cell.column] = cell.decode(schema, x, seen, time, draw)
    return columns


def _code_cells(
    schema: Schema, fold: Fold, rows: _Rows, features: Columns, time: np.ndarray, rng: Rng
) -> dict[str, pl.Series]:
    spec, groups = schema.tables[fold.table], rows.groups
    names = np.array([c.code for c in fold.codes] + list(fold.rare), dtype=object)
    code = groups.code[groups.row]
    written = np.where(names == NO_CODE, None, names)
    columns = {spec.code or "": pl.Series(spec.code or "", written[code].tolist(), dtype=pl.String)}
    order = np.argsort(code, kind="stable")
    edge = np.searchsorted(code[order], np.arange(len(names) + 1))
    parts = {name: order[edge[i] : edge[i + 1]] for i, name in enumerate(names)}
    others: dict[str, np.ndarray] = {}
    if spec.value is not None:
        columns[spec.value] = _code_numbers(fold, rows, features, parts, fold.code_laws[spec.value], rng)
        if fold.values:
            numbers = columns[spec.value].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            others[""] = value_ids(numbers, fold.values)
    for cell in fold.cells:
        laws, draw = fold.code_laws[cell.column], rng.child("cells", cell.column).numpy
        x, seen = np.zeros(len(code)), np.zeros(len(code), bool)
        if cell.column in fold.fixed:
            values, observed = features[f"{fold.table}.{cell.column}"]
            x, seen = values[rows.step].astype(float), observed[rows.step]
        law = fold.beside.get(cell.column)
        for name, at in parts.items() if cell.column not in fold.fixed else ():
            if len(at):
                own = laws.get(name, laws[""])
                x[at], seen[at] = law.draw(own, others, at, draw) if law else own.draw(len(at), draw)
        if law is not None:
            x, seen = _kept(rows, code, x, seen, law.same, others, draw)
            others[cell.column] = np.where(seen, x, 0).astype(np.int64)
        columns[cell.column] = cell.decode(schema, x, seen, time, draw)
    return columns


def _kept(
    rows: _Rows,
    code: np.ndarray,
    x: np.ndarray,
    seen: np.ndarray,
    same: float,
    others: Mapping[str, np.ndarray],
    draw: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Levels, with the learned share those of the patient's row before of the code, if its other cells are the same."""
    order = np.lexsort((np.arange(len(code)), rows.days, code, rows.subject))
    keep = draw.random(len(code)) < same
    keep[0:1] = False
    keep[1:] &= (np.diff(code[order]) == 0) & (np.diff(rows.subject[order]) == 0)
    for other in others.values():
        keep[1:] &= np.diff(other[order]) == 0
    source = order[np.maximum.accumulate(np.where(keep, 0, np.arange(len(code))))]
    out, known = x.copy(), seen.copy()
    out[order], known[order] = x[source], seen[source]
    return out, known


def _code_numbers(
    fold: Fold, rows: _Rows, features: Columns, parts: Mapping[str, np.ndarray], laws: Mapping[str, CellLaw], rng: Rng
) -> pl.Series:
    """The value column of a long table."""
    groups = rows.groups
    x, seen = np.zeros(int(groups.n.sum())), np.zeros(int(groups.n.sum()), bool)
    order = np.argsort(groups.code, kind="stable")
    edge = np.searchsorted(groups.code[order], np.arange(len(fold.codes) + 1))
    told = []
    for i, code in enumerate(fold.codes):
        if code.cell is not None:
            own = order[edge[i] : edge[i + 1]]
            values, observed = (c[groups.owner[own]] for c in features[f"{fold.table}.{code.code}"])
            told.append(_Told(code.cell, code.repeats, own, values, observed))
    untold = np.flatnonzero(groups.code >= len(fold.codes))
    scale, untold = _scales(fold.course, rows, rng), untold if fold.free else untold[:0]
    free, moment = _free_courses(fold.course, rows, untold, scale, rng.child("free").numpy)
    for at, values, observed in _numbers(fold.course, rows, told, free, moment, scale, rng.child("course")):
        x[at], seen[at] = values, observed
    draw, column = rng.child("cells", "rare").numpy, {name: len(told) + i for i, name in enumerate(fold.free)}
    for name in fold.rare:
        at, law = parts[name], laws.get(name)
        if not len(at) or law is None:
            continue
        x[at], seen[at] = law.draw(len(at), draw)
        if name in column and law.law is not None:
            x[at] = np.nan_to_num(law.law.decode(free[moment[at], column[name]]))
    return pl.select(pl.when(pl.Series(seen)).then(pl.Series("value", x))).to_series()


@dataclass(frozen=True)
class _Told:
    """What the steps tell of one column (of one code).

    Args:
        cell: Its numbers.
        repeats: Its rows beside the last ones.
        groups: Its groups.
        last, observed: Last number of each of them, and whether there is one; without a last one there is none at all.
    """

    cell: Cell
    repeats: Repeats
    groups: np.ndarray
    last: np.ndarray
    observed: np.ndarray


def _scales(course: Course | None, rows: _Rows, rng: Rng) -> np.ndarray:
    """How much each patient moves, column by column."""
    n = int(rows.subject.max(initial=-1)) + 1
    return np.ones((n, 0)) if course is None else course.scales(n, rng.child("scales").numpy)


def _numbers(
    course: Course | None,
    rows: _Rows,
    told: list[_Told],
    free: np.ndarray,
    moment: np.ndarray,
    scale: np.ndarray,
    rng: Rng,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, numbers and whether there is one, of each column; the last of a group as told."""
    groups, found = rows.groups, []
    start = np.cumsum(groups.n) - groups.n
    for c, one in enumerate(told):
        n = groups.n[one.groups]
        row = np.repeat(np.arange(len(n)), n)
        at = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n) + np.repeat(start[one.groups], n)
        x, seen = one.last[row].astype(float), one.observed[row].copy()
        last = np.cumsum(n) - 1
        draw = rng.child("cells", one.cell.column, c).numpy
        if course is not None and one.cell.law is not None and one.cell.law.n and n.max(initial=1) > 1:
            inner = np.flatnonzero(seen & (np.arange(len(row)) != last[row]))
            score = one.cell.law.encode(np.where(one.observed, one.last, np.nan), draw)
            z = _led(course, c, rows, at, row, last, inner, score, one.observed, free, moment, scale)
            if one.repeats.equal < 1:
                z = _apart(one.repeats, z, score, row, rows.days[at], inner, last, draw)
            x[inner] = _on_grid(one.cell, np.nan_to_num(one.cell.law.decode(z)))
            seen[inner] &= draw.random(len(inner)) >= one.repeats.empty
        x[last] = _on_grid(one.cell, x[last])
        found.append((at, x, seen))
    return found


def _apart(
    repeats: Repeats,
    z: np.ndarray,
    told: np.ndarray,
    row: np.ndarray,
    days: np.ndarray,
    inner: np.ndarray,
    last: np.ndarray,
    draw: np.random.Generator,
) -> np.ndarray:
    """Scores of the rows `inner` in which rows of one moment hold numbers of their own, as often as in training.

    The last row of a moment stays as it is, the others are drawn beside it.
    """
    full = np.zeros(len(row))
    full[last], full[inner] = told, z
    ends = np.append((row[1:] != row[:-1]) | (days[1:] != days[:-1]), True)
    lead = np.minimum.accumulate(np.where(ends, np.arange(len(row)), len(row))[::-1])[::-1][inner]
    own = (lead != inner) & (draw.random(len(z)) >= repeats.equal)
    beside = repeats.alike * full[lead] + np.sqrt(1 - repeats.alike**2) * draw.standard_normal(len(z))
    return np.where(own, beside, z)


def _free_courses(
    course: Course | None, rows: _Rows, untold: np.ndarray, scale: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Free courses at the moments of patients with something to draw, and the moment of each row (-1: none).

    Args:
        untold: Groups no step tells a number of.
        scale: How much each patient moves, column by column.
    """
    groups, moment = rows.groups, np.full(len(rows.subject), -1)
    several = groups.n > 1
    several[untold] = True
    if course is None or not several.any():
        return np.zeros((0, 0), np.float32), moment
    wanted = np.zeros(int(rows.subject.max()) + 1, bool)
    wanted[rows.subject[several[groups.row]]] = True
    at = np.flatnonzero(wanted[rows.subject])
    order = at[np.lexsort((rows.days[at], rows.step[at], rows.subject[at]))]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(rows.step[order]) != 0) | (np.diff(rows.days[order]) != 0)
    moment[order] = np.cumsum(new) - 1
    first = order[new]
    return course.draw(rows.subject[first], rows.step[first], rows.days[first], scale, draw), moment


def _led(
    course: Course,
    column: int,
    rows: _Rows,
    at: np.ndarray,
    row: np.ndarray,
    last: np.ndarray,
    inner: np.ndarray,
    score: np.ndarray,
    observed: np.ndarray,
    free: np.ndarray,
    moment: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """Scores of the rows `inner`, between the last number of the patient's group before and that of their own."""
    who, when = rows.subject[at[last]], rows.days[at[last]]
    pull = np.where(observed, score - free[moment[at[last]], column], 0.0)
    number = np.arange(len(last))
    before = np.maximum.accumulate(np.where(observed, number, -1)) if len(last) else number
    before = np.concatenate([[-1], before[:-1]])
    told = (before >= 0) & (who[np.maximum(before, 0)] == who)
    before = np.maximum(before, 0)
    group = row[inner]
    t, prior = rows.days[at[inner]], told[group]
    back = np.where(prior, np.maximum(t - when[before[group]], 0.0), np.inf)
    ahead = np.maximum(when[group] - t, 0.0)
    across = np.where(prior, np.maximum(when[group] - when[before[group]], 0.0), np.inf)
    pulls = (np.where(prior, pull[before[group]], 0.0), pull[group])
    own, begin = scale[rows.subject[at[inner]], column], np.full(len(last), np.inf)
    np.minimum.at(begin, row, rows.days[at])
    since = np.maximum(t - begin[group], 0.0)
    return course.led(column, free[moment[at[inner]], column], (back, ahead, across), pulls, own, since)


def _on_grid(cell: Cell, x: np.ndarray) -> np.ndarray:
    x = x if cell.decimals is None else np.round(x, cell.decimals)
    return np.clip(x, -np.inf if cell.low is None else cell.low, np.inf if cell.high is None else cell.high)


def _earlier_levels(
    last: np.ndarray,
    observed: np.ndarray,
    groups: _Groups,
    repeats: Repeats,
    marginal: CellLaw,
    draw: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Level ids of all rows of each group: going back, that of the row after with the learned share, else drawn."""
    ids, seen = last[groups.row].astype(float), observed[groups.row].copy()
    if groups.n.max(initial=1) == 1:
        return ids, seen
    other, other_seen = marginal.draw(len(ids), draw)
    fresh = (draw.random(len(ids)) >= repeats.same) & other_seen & seen
    ids = np.where(fresh, other, ids)
    ids[groups.last], fresh[groups.last] = last, True
    source = np.minimum.accumulate(np.where(fresh, np.arange(len(ids)), len(ids))[::-1])[::-1]
    ids = ids[source] if len(ids) else ids
    seen &= draw.random(len(ids)) >= repeats.empty
    seen[groups.last] = observed
    return ids, seen
