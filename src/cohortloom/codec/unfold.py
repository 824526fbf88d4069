"""Rows of child events made from the features of a step.

For each table: how many rows each step has (of each code), the moments at which they were recorded and whether those
belong to the visit (`laws.TimeLaw`), which rows fall on which moment, and what they say. The last row of a column or
code says what the feature says; the earlier ones are drawn by `laws.Repeats`.

The n rows of a code are dealt evenly over the m moments of its step, row i at moment floor((i + u) m / n). With
probability (most rows of any code) / m the code takes the uniform u of its step, else one of its own: where moments are
few, codes with as many rows as each other were recorded together, as panels are; where they are many, apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from cohortloom.codec.cells import Cell, draw_levels
from cohortloom.codec.clock import series_of
from cohortloom.codec.fold import CodeFold, Fold
from cohortloom.codec.laws import CellLaw, Ends, Repeats, repeated_scores
from cohortloom.codec.precedence import moments
from cohortloom.codec.steps import Steps
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["unfold"]

Columns = Mapping[str, tuple[np.ndarray, np.ndarray]]


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
        rng: Stream of this table.
    """
    rng = rng.child("unfold", fold.table)
    groups = _code_groups(fold, features, rng) if fold.long else _wide_groups(fold, features)
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
    frame |= (_code_cells if fold.long else _wide_cells)(schema, fold, groups, features, time, rng)
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


def _wide_groups(fold: Fold, features: Columns) -> _Groups:
    n = _as_count(features[f"{fold.table}#n"])
    for cell in fold.cells:
        n = np.maximum(n, features[f"{fold.table}.{cell.column}"][1])
    owner = np.flatnonzero(n)
    return _Groups(owner, np.zeros(len(owner), np.int64), n[owner])


def _code_groups(fold: Fold, features: Columns, rng: Rng) -> _Groups:
    """Rows of each (step, code): frequent codes by their features, rare ones drawn."""
    owners, codes, counts = [], [], []
    for i, code in enumerate(fold.codes):
        n = _code_count(fold, code, features)
        at = np.flatnonzero(n)
        owners.append(at)
        codes.append(np.full(len(at), i))
        counts.append(n[at])
    if fold.rare:
        n = _as_count(features[f"{fold.table}.#rare"])
        owner = np.repeat(np.arange(len(n)), n)
        owner, drawn = _draw_rare(owner, np.asarray(fold.rare_share), fold.once, rng.child("rare").numpy)
        pairs, n = np.unique(owner * len(fold.rare) + drawn, return_counts=True)
        owners.append(pairs // len(fold.rare))
        codes.append(len(fold.codes) + pairs % len(fold.rare))
        counts.append(n)
    if not owners:
        none = np.zeros(0, np.int64)
        return _Groups(none, none, none)
    owner, code, count = (np.concatenate(x).astype(np.int64) for x in (owners, codes, counts))
    order = np.lexsort((code, owner))
    return _Groups(owner[order], code[order], count[order])


def _code_count(fold: Fold, code: CodeFold, features: Columns) -> np.ndarray:
    """Rows of one code: a number needs a row, and a row of a code that always has a number needs one."""
    name = f"{fold.table}.{code.code}"
    if code.cell is None:
        if code.counted:
            return _rows(fold, name, features)
        values, observed = features[name]
        return (observed & (np.nan_to_num(values) >= 2.5)).astype(np.int64)
    _, observed = features[name]
    if not code.counted:
        return observed.astype(np.int64)
    n = np.maximum(_rows(fold, name, features), observed)
    return n if code.bare else np.where(observed, n, 0)


def _rows(fold: Fold, name: str, features: Columns) -> np.ndarray:
    if not fold.panel:
        return _as_count(features[f"{name}#n"])
    return (_as_count(features[f"{fold.table}#n"]) - _as_count(features[f"{name}#less"])).clip(0)


def _draw_rare(
    owner: np.ndarray, share: np.ndarray, once: bool, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A rare code for each row; where a step holds a code once, doubles are drawn again, and then dropped."""
    drawn = draw_levels(share, len(owner), draw)
    for _ in range(8 if once else 0):
        _, first = np.unique(owner * len(share) + drawn, return_index=True)
        again = np.ones(len(owner), bool)
        again[first] = False
        if not again.any():
            break
        drawn[again] = draw_levels(share, int(again.sum()), draw)
    if once:
        _, first = np.unique(owner * len(share) + drawn, return_index=True)
        owner, drawn = owner[first], drawn[first]
    return owner, drawn


def _moments(
    fold: Fold, groups: _Groups, features: Columns, steps: Steps, ends: Ends, rng: Rng
) -> tuple[np.ndarray, np.ndarray]:
    """Time of each row [ticks] and whether it names its visit."""
    n_rows = int(groups.n.sum())
    draw = rng.child("time").numpy
    if fold.times is None:
        return np.zeros(n_rows, np.int64), draw.random(n_rows) >= fold.open_share
    most = np.zeros(len(steps.time), np.int64)
    np.maximum.at(most, groups.owner, groups.n)
    if fold.panel:
        count = np.where(most > 0, np.maximum(_as_count(features[f"{fold.table}#n"]), most), 0)
    else:
        count = fold.times.moments(most, draw)
    step = np.repeat(np.arange(len(count)), count)
    time, linked = fold.times.draw(steps, step, ends, draw)
    order = np.lexsort((~linked, time, step))
    time, linked = time[order], linked[order]
    start, shared = np.cumsum(count) - count, draw.random(len(count))[groups.owner]
    together = draw.random(len(groups.n)) * count[groups.owner] < most[groups.owner]
    u = np.where(together, shared, draw.random(len(groups.n)))[groups.row]
    owner = groups.owner[groups.row]
    slot = np.floor((groups.place + u) * count[owner] / groups.n[groups.row]).astype(np.int64)
    at = start[owner] + np.minimum(slot, count[owner] - 1)
    return time[at], linked[at]


def _wide_cells(
    schema: Schema, fold: Fold, groups: _Groups, features: Columns, time: np.ndarray, rng: Rng
) -> dict[str, pl.Series]:
    columns = {}
    for cell, repeats in zip(fold.cells, fold.repeats):
        draw = rng.child("cells", cell.column).numpy
        values, observed = (part[groups.owner] for part in features[f"{fold.table}.{cell.column}"])
        if cell.kind == "category":
            marginal = fold.code_laws[cell.column][""]
            x, seen = _earlier_levels(values, observed, groups, repeats, marginal, draw)
        else:
            x, seen = _earlier_numbers(cell, values, observed, groups, repeats, draw)
        columns[cell.column] = cell.decode(schema, x, seen, time, draw)
    return columns


def _code_cells(
    schema: Schema, fold: Fold, groups: _Groups, features: Columns, time: np.ndarray, rng: Rng
) -> dict[str, pl.Series]:
    spec = schema.tables[fold.table]
    names = np.array([c.code for c in fold.codes] + list(fold.rare), dtype=object)
    code = groups.code[groups.row]
    columns = {spec.code or "": pl.Series(spec.code or "", names[code].tolist(), dtype=pl.String)}
    order = np.argsort(code, kind="stable")
    edge = np.searchsorted(code[order], np.arange(len(names) + 1))
    parts = {name: order[edge[i] : edge[i + 1]] for i, name in enumerate(names)}
    for cell in fold.cells:
        laws, draw = fold.code_laws[cell.column], rng.child("cells", cell.column).numpy
        x, seen = np.zeros(len(code)), np.zeros(len(code), bool)
        for name, at in parts.items():
            if len(at):
                x[at], seen[at] = laws.get(name, laws[""]).draw(len(at), draw)
        columns[cell.column] = cell.decode(schema, x, seen, time, draw)
    if spec.value is not None:
        draw = rng.child("cells", spec.value).numpy
        columns[spec.value] = _code_numbers(fold, groups, features, parts, fold.code_laws[spec.value], draw)
    return columns


def _code_numbers(
    fold: Fold,
    groups: _Groups,
    features: Columns,
    parts: Mapping[str, np.ndarray],
    laws: Mapping[str, CellLaw],
    draw: np.random.Generator,
) -> pl.Series:
    """The value column of a long table."""
    x, seen = np.zeros(int(groups.n.sum())), np.zeros(int(groups.n.sum()), bool)
    start = np.cumsum(groups.n) - groups.n
    for i, code in enumerate(fold.codes):
        at = parts[code.code]
        if code.cell is None or not len(at):
            continue
        own = np.flatnonzero(groups.code == i)
        part = _Groups(groups.owner[own], groups.code[own], groups.n[own])
        values, observed = (c[part.owner] for c in features[f"{fold.table}.{code.code}"])
        rows = np.repeat(start[own] - (np.cumsum(part.n) - part.n), part.n) + np.arange(int(part.n.sum()))
        x[rows], seen[rows] = _earlier_numbers(code.cell, values, observed, part, code.repeats, draw)
        x[rows] = _on_grid(code.cell, x[rows])
    for name in fold.rare:
        at = parts[name]
        if len(at) and name in laws:
            x[at], seen[at] = laws[name].draw(len(at), draw)
    return pl.select(pl.when(pl.Series(seen)).then(pl.Series("value", x))).to_series()


def _on_grid(cell: Cell, x: np.ndarray) -> np.ndarray:
    x = x if cell.decimals is None else np.round(x, cell.decimals)
    return np.clip(x, -np.inf if cell.low is None else cell.low, np.inf if cell.high is None else cell.high)


def _earlier_numbers(
    cell: Cell,
    last: np.ndarray,
    observed: np.ndarray,
    groups: _Groups,
    repeats: Repeats,
    draw: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of all rows of each group, the last as given; a group without a last number has none at all."""
    seen = observed[groups.row].copy()
    if groups.n.max(initial=1) == 1 or cell.law is None or not cell.law.n:
        return last[groups.row].astype(float), seen
    sd, correlation = (np.full(len(groups.n), v) for v in (repeats.sd, repeats.correlation))
    score = np.nan_to_num(cell.law.score(np.where(observed, last, np.nan)))
    x = np.nan_to_num(cell.law.decode(repeated_scores(score, groups.n, sd, correlation, draw)))
    seen &= draw.random(len(x)) >= repeats.empty
    x[groups.last], seen[groups.last] = last, observed
    return x, seen


def _earlier_levels(
    last: np.ndarray,
    observed: np.ndarray,
    groups: _Groups,
    repeats: Repeats,
    marginal: CellLaw,
    draw: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Level ids of all rows of each group: the last one's with the learned share, else drawn."""
    ids, seen = last[groups.row].astype(float), observed[groups.row].copy()
    if groups.n.max(initial=1) == 1:
        return ids, seen
    other, other_seen = marginal.draw(len(ids), draw)
    change = (draw.random(len(ids)) >= repeats.same) & other_seen & seen
    seen &= draw.random(len(ids)) >= repeats.empty
    ids = np.where(change, other, ids)
    ids[groups.last], seen[groups.last] = last, observed
    return ids, seen
