"""Static and visit columns as numbers on one clock, and what other columns say written back.

Inside the codec a date counts from an origin that differs by subject; laws between columns (`derived`) hold on the
calendar. Here each column is days since 1970-01-01 (or since the origin of the clock) or the number it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from cohortloom.codec.cells import Cell
from cohortloom.codec.clock import DAY, floor_to, ticks_of, ticks_per_day
from cohortloom.codec.derived import ALWAYS, ITEM, PATIENTS, Column, Derived, find_derived
from cohortloom.codec.labels import find_labels, label_ids
from cohortloom.codec.running import FORMS, find_running, running
from cohortloom.codec.steps import Steps, step_table
from cohortloom.schema import Schema

__all__ = ["derived_statics", "derived_visits", "rewrite_statics", "write_statics", "write_visits"]

#: Least number of values of a column that counts visits.
_NUMBERS = 3

Frames = dict[str, dict[str, pl.Series]]


def derived_statics(
    schema: Schema,
    cells: tuple[Cell, ...],
    frames: Frames,
    steps: Steps,
    start: np.ndarray,
    *,
    whole: bool,
    course: bool,
) -> tuple[Derived, ...]:
    """Laws of static columns.

    Args:
        frames: Table -> column -> cells, one row per subject.
        start: First step of each subject [d], NaN if it has none.
        whole: Do visits have a day and a time of day?
        course: Are visits part of the arrays?
    """
    columns = [*_course(schema, steps, start, whole, course), *_columns(schema, cells, frames)]
    return _laws(columns, cells, frames, np.arange(len(steps.length)))


def derived_visits(
    schema: Schema, cells: tuple[Cell, ...], statics: tuple[Cell, ...], frames: Frames, steps: Steps
) -> tuple[Derived, ...]:
    """Laws of visit columns; `frames` holds the static tables and the visit table."""
    if schema.visit_table is None:
        return ()
    table = schema.visit_table
    columns = _beside(schema, statics, frames, steps)
    own = _columns(schema, cells, {table: frames[table]})
    counted = tuple(law for c in own if (law := _counted(c, columns[0], steps)) is not None)
    known = {law.path for law in counted}
    summed = find_running([replace(c, wanted=c.wanted and c.path not in known) for c in own], steps)
    known |= {law.path for law in summed}
    columns += [replace(c, wanted=c.wanted and c.path not in known) for c in own]
    return counted + _laws(columns, cells, frames, steps.subject) + summed


def _counted(column: Column, number: Column, steps: Steps) -> Derived | None:
    """The law of a column that numbers a patient's visits 1, 2, 3, ... (or from another number on)."""
    known = np.isfinite(column.values)
    if not column.wanted or column.time or not known.any() or known.mean() < ALWAYS:
        return None
    off = column.values - number.values
    law = Derived(column.path, ((number.path, 1.0),), step=column.step, constant=float(np.median(off[known])))
    again, holds = ~steps.first & known, np.abs(off - law.constant) < 1e-6
    enough = len(np.unique(steps.subject[again])) >= PATIENTS and len(np.unique(column.values[known])) >= _NUMBERS
    halves = [steps.subject % 2 == half for half in (0, 1)]
    return law if enough and all(holds[h & known].mean() >= ALWAYS for h in halves) else None


def _laws(columns: list[Column], cells: tuple[Cell, ...], frames: Frames, subject: np.ndarray) -> tuple[Derived, ...]:
    """Laws of numbers and times, then those of words."""
    levels = _levels(cells, frames)
    found = find_derived(columns, levels, subject)
    taken = {path for law in found for path, _ in law.terms} | {law.level[0] for law in found if law.level}
    return (*found, *find_labels(list(levels), levels, columns, subject, taken))


def write_statics(
    schema: Schema,
    laws: tuple[Derived, ...],
    cells: tuple[Cell, ...],
    frames: Frames,
    steps: Steps,
    start: np.ndarray,
    *,
    whole: bool,
    course: bool,
    draw: np.random.Generator,
) -> None:
    """Compute derived static columns in place."""
    if laws:
        _write(schema, laws, cells, frames, _course(schema, steps, start, whole, course), draw)


def rewrite_statics(
    schema: Schema, laws: tuple[Derived, ...], cells: tuple[Cell, ...], frames: Frames, draw: np.random.Generator
) -> None:
    """Compute derived static columns in place, those that follow from static columns alone."""
    own = {f"{cell.table}.{cell.column}" for cell in cells if cell.table in frames}
    _write(schema, tuple(w for w in laws if {w.path, *(p for p, _ in w.terms)} <= own), cells, frames, [], draw)


def write_visits(
    schema: Schema,
    laws: tuple[Derived, ...],
    cells: tuple[Cell, ...],
    statics: tuple[Cell, ...],
    frames: Frames,
    steps: Steps,
    draw: np.random.Generator,
    *,
    earlier: np.ndarray | float = 0.0,
) -> None:
    """Compute derived visit columns in place; `earlier` visits of each step's subject come before those of `steps`."""
    summed = tuple(law for law in laws if law.form in FORMS)
    rest = tuple(law for law in laws if law.form not in FORMS)
    if rest:
        _write(schema, rest, cells, frames, _beside(schema, statics, frames, steps, earlier), draw)
    at = {f"{cell.table}.{cell.column}": cell for cell in cells}
    whole = np.broadcast_to(earlier, len(steps.time)) == 0  # whose first visits are not here keeps what was drawn
    for law in summed:
        cell, (source, _) = at[law.path], law.terms[0]
        columns = {c.path: c.values for c in _columns(schema, (at[source], cell), {cell.table: frames[cell.table]})}
        values = np.where(whole, law.constant + running(columns[source], steps, law.form), columns[law.path])
        frames[cell.table][cell.column] = cell.of(schema, values, np.isfinite(values))
    sums = {law.path for law in summed}
    again = tuple(law for law in rest if sums & {path for path, _ in law.terms})
    if again:
        _write(schema, again, cells, frames, _beside(schema, statics, frames, steps, earlier), draw)


def _write(
    schema: Schema,
    laws: tuple[Derived, ...],
    cells: tuple[Cell, ...],
    frames: Frames,
    more: list[Column],
    draw: np.random.Generator,
) -> None:
    """What is computed, then what is moved, then again what is computed from what was moved."""
    at = {f"{cell.table}.{cell.column}": cell for cell in cells}
    columns = {c.path: c.values for c in more}
    columns |= {c.path: c.values for c in _columns(schema, cells, frames)}
    moves = [law for law in laws if law.moved]
    for law in (*laws, *moves, *(laws if moves else ())):
        if not {path for path, _ in law.terms} <= columns.keys() | at.keys():  # statics that are not decoded here
            continue
        cell = at[law.path]
        if law.names:
            _write_label(law, at, frames, columns)
            continue
        known = np.isfinite(columns[law.path])
        if law.moved:
            path, values = law.moved, law.shift(columns, columns[law.path])
            cell, known = at[path], np.isfinite(columns[path])
        else:
            path, values = law.path, law.near(columns, columns[law.path], draw)
            able = np.isfinite(values)
            if law.level is not None:
                name, levels = law.level
                table, _, column = name.partition(".")
                able &= _text(frames[table][column]).is_in(list(levels)).fill_null(False).to_numpy()
            values = np.where(able, values, columns[path])
            known = able if law.dropped else known
        table, _, column = path.partition(".")
        series = cell.of(schema, values, known & np.isfinite(values))
        frames[table][column] = series
        columns[path] = _natural(schema, series, cell.kind == "time")


def _write_label(law: Derived, at: Mapping[str, Cell], frames: Frames, columns: Mapping[str, np.ndarray]) -> None:
    """Compute a column of words in place."""
    source = law.terms[0][0]
    if law.form == "cut":
        place = label_ids(law, sum((c * columns[p] for p, c in law.terms), np.zeros(1)))
    else:
        other, _, column = source.partition(".")
        place = label_ids(law, at[source].ids(frames[other][column]) - 2)
    table, _, column = law.path.partition(".")
    words = pl.Series(column, [*law.names, law.absent or None], dtype=pl.String).gather(
        np.where(place < 0, len(law.names), place)
    )
    frames[table][column] = words == "true" if frames[table][column].dtype == pl.Boolean else words


def _course(schema: Schema, steps: Steps, start: np.ndarray, whole: bool, course: bool) -> list[Column]:
    """Days of the first and of the last step, and the number of steps."""
    n, name = len(steps.length), step_table(schema)
    if name is None or schema.clock == "order":
        return []
    found = [Column(f"{name}.start", True, start)] if schema.clock == "timestamp" else []
    if course:
        has, last = steps.length > 0, np.full(n, np.nan)
        time = floor_to(steps.time, DAY) if whole else steps.time
        last[has] = time[(steps.starts + steps.length - 1)[has]] / ticks_per_day(schema)
        found.append(Column(f"{name}.last", True, last))
        found.append(Column(f"{name}.count", False, steps.length.astype(float)))
    return found


def _beside(
    schema: Schema, statics: tuple[Cell, ...], frames: Frames, steps: Steps, earlier: np.ndarray | float = 0.0
) -> list[Column]:
    """What a visit knows beside its columns: its number, its time, and the subject's statics."""
    own = {name: columns for name, columns in frames.items() if name != schema.visit_table}
    dated = schema.clock != "order"
    place = 1.0 + earlier + np.arange(len(steps.time)) - np.repeat(steps.starts, steps.length)
    found = [Column(f"{schema.visit_table}.(number)", False, place, 1.0, ITEM)]
    if dated:
        found.append(Column(f"{schema.visit_table}.time", True, steps.time / ticks_per_day(schema)))
    for c in _columns(schema, statics, own):
        found.append(Column(c.path, c.time, c.values[steps.subject], c.step, c.unit))
    return found


def _columns(schema: Schema, cells: tuple[Cell, ...], frames: Frames) -> list[Column]:
    found = []
    for cell in cells:
        if cell.part in ("days", "shared") or cell.table not in frames:
            continue
        if cell.kind == "category":  # items of a score, flags that are counted
            if (values := _numeric(cell, frames[cell.table][cell.column])) is not None:
                found.append(Column(f"{cell.table}.{cell.column}", False, values, 1.0, ITEM))
            continue
        time = cell.kind == "time"
        if time and schema.clock == "order":
            continue
        values = _natural(schema, frames[cell.table][cell.column], time)
        if time:
            step = cell.grid / ticks_per_day(schema)
        else:
            step = 10.0**-cell.decimals if cell.decimals is not None else 0.0
        unit = "" if time else getattr(schema.tables[cell.table].columns[cell.column], "unit", "")
        free = time and cell.shared is None
        found.append(Column(f"{cell.table}.{cell.column}", time, values, step, unit, True, free))
    return found


def _levels(cells: tuple[Cell, ...], frames: Frames) -> Mapping[str, tuple[np.ndarray, tuple[str, ...]]]:
    found = {}
    for cell in cells:
        if cell.kind == "category" and cell.levels and not cell.part and cell.table in frames:
            ids = cell.ids(frames[cell.table][cell.column]) - 2
            found[f"{cell.table}.{cell.column}"] = (np.maximum(ids, -1), cell.levels)
    return found


def _numeric(cell: Cell, series: pl.Series) -> np.ndarray | None:
    """Levels that are numbers, and flags, as numbers; None for words."""
    if series.dtype == pl.Boolean:
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if not cell.levels or pl.Series(cell.levels).cast(pl.Float64, strict=False).null_count():
        return None
    return series.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def _text(series: pl.Series) -> pl.Series:
    return series.cast(pl.String)


def _natural(schema: Schema, series: pl.Series, time: bool) -> np.ndarray:
    if time:
        ticks, known = ticks_of(series)
        return np.where(known, ticks / ticks_per_day(schema), np.nan)
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
