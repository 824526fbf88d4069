"""Whether records fit their schema: cells, keys and links, in that order.

`typed` converts and checks the cells of one table in one lazy query; `linked` looks at all tables together: rows
without a patient, double keys, events whose visit or patient does not exist, times out of order. `check_frames` does
both for frames that already have our column names. What is found is settled by `on_error` (see `formats/base.py`).

While a table is checked it carries `ROW`, the 0-based number of each row as read, so that messages name rows of the
user's file even after filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from cohortloom.cohort.dtypes import clock_dtype
from cohortloom.errors import Problem, nearest
from cohortloom.formats.base import Findings
from cohortloom.formats.cells import DATES, Cell, Reading, cell, layouts_in
from cohortloom.schema import Code, Column, Schema, Timestamp
from cohortloom.schema.profile import bare

__all__ = ["ROW", "Spec", "check_frames", "linked", "nothing", "one_type", "read_types", "typed"]

ROW = "__row__"

_KNOWN = (pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Duration, pl.Categorical, pl.Enum, pl.Null, pl.Decimal)


#: Cells as our own files write them.
PLAIN = Reading()


@dataclass(frozen=True)
class Spec:
    """One column of a table on its way in: what the schema says, how it is written, and (long tables) its code."""

    column: Column
    reading: Reading = PLAIN
    beside: tuple[str, Code] | None = None


def check_frames(
    schema: Schema, tables: Mapping[str, pl.DataFrame], findings: Findings, *, whole: bool = True
) -> dict[str, pl.DataFrame]:
    """Frames with our column names, in any dtype -> frames a cohort can be built of.

    Args:
        schema: What they should fit.
        tables: Table -> frame; absent tables are empty. A visit table without `visit_id` gets numbers.
        findings: Takes problems and notes; call `raise_if_any` afterwards.
        whole: All patients are there, see `linked`.
    """
    for name in tables:
        if name not in schema.tables:
            findings.stop("unknown-table", name, "is not a table of the schema", nearest(name, schema.tables).strip())
    out = {}
    for name, frame in tables.items():
        if name not in schema.tables:
            continue
        wanted = [*schema.keys(name), *schema.tables[name].columns]
        optional = {"visit_id"} | ({"time"} if schema.clock == "order" else set())
        absent = [c for c in wanted if c not in frame.columns and c not in optional]
        for column in absent:
            hint = nearest(column, frame.columns).strip()
            findings.stop("missing-column", f"{name}.{column}", "the column is absent", hint)
        if not absent:
            raw = frame.lazy().select(c for c in wanted if c in frame.columns).with_row_index(ROW)
            read = typed(raw, name, specs(schema, name), schema.clock, findings)
            if read is not None:
                out[name] = read
    return linked(schema, out, findings, parse_ids=False, whole=whole)


def specs(schema: Schema, name: str, readings: Mapping[str, Reading] | None = None) -> dict[str, Spec]:
    """Spec of every column of a table and of its time."""
    readings, table = readings or {}, schema.tables[name]
    found = {"time": Spec(Timestamp(), readings.get("time", Reading()))} if schema.has_time(name) else {}
    for column, what in table.columns.items():
        beside = (table.code, table.code_column()) if table.code and column == table.value else None
        found[column] = Spec(what, readings.get(column, Reading()), beside)
    return found


def read_types(raw: pl.LazyFrame, where: str, findings: Findings) -> tuple[pl.LazyFrame, dict[str, pl.DataType]]:
    """The frame with odd but harmless dtypes made plain, and the dtypes; nested ones are a problem."""
    plain, types = [], dict(raw.collect_schema())
    for column, dtype in types.items():
        if not (dtype.is_numeric() or isinstance(dtype, _KNOWN) or dtype in _KNOWN):
            findings.stop("wrong-type", f"{where}.{column}", f"is of type {dtype.base_type().__name__}", "Flatten it.")
        elif isinstance(dtype, (pl.Categorical, pl.Enum)) or dtype == pl.Null:
            plain.append(pl.col(column).cast(pl.String))
            types[column] = pl.String()
        elif isinstance(dtype, pl.Decimal):
            plain.append(pl.col(column).cast(pl.Float64))
            types[column] = pl.Float64()
    return raw.with_columns(plain), types


def typed(
    raw: pl.LazyFrame, name: str, wanted: Mapping[str, Spec], clock: str, findings: Findings
) -> pl.DataFrame | None:
    """Convert and check the cells of one table.

    Args:
        raw: `ROW`, then columns under our names in any dtype. Columns that `wanted` does not list pass through.
        name: Table, for messages.
        wanted: Column -> spec; columns absent from `raw` are skipped.
        clock: Clock of the schema.
        findings: Takes problems and notes.

    Returns:
        The typed frame in the order of `raw`, without rows that were dropped; None if a dtype can't be used.
    """
    before = len(findings.problems)
    raw, types = read_types(raw, name, findings)
    if len(findings.problems) > before:
        return None
    cells = {}
    given, wanted = wanted, _dated(raw, types, wanted, clock)
    for column, spec in wanted.items():
        if column not in types:
            continue
        beside = None
        if spec.beside is not None:
            code = cell(spec.beside[1], spec.beside[0], types[spec.beside[0]], wanted[spec.beside[0]].reading, clock)
            beside = (code.typed, spec.beside[1])
        cells[column] = cell(spec.column, column, types[column], spec.reading, clock, beside)
    flags = {f"__{c}__{i}": f.broken for c, one in cells.items() for i, f in enumerate(one.faults)}
    flags |= {f"__{c}__off": one.rounded for c, one in cells.items() if one.rounded is not None}
    passed = [c for c in types if c not in cells]
    query = raw.select(
        *passed,
        *(one.typed.alias(c) for c, one in cells.items()),
        *(e.fill_null(False).alias(n) for n, e in flags.items()),
    )
    frame = query.collect(engine="streaming")
    if wanted != given and _other_dates(frame, cells):
        return typed(raw, name, {c: _every_layout(s) for c, s in given.items()}, clock, findings)
    frame = _without_blank(frame, name, list(flags), findings)
    counts = frame.select(pl.col(n).sum() for n in flags).row(0) if flags else ()
    hit = {n: int(k or 0) for n, k in zip(flags, counts)}
    empty = {}
    drop = pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
    for column, one in cells.items():
        where, spoilt = f"{name}.{column}", pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
        for i, fault in enumerate(one.faults):
            n = hit[f"__{column}__{i}"]
            if not n:
                continue
            mask = frame[f"__{column}__{i}"]
            policy = wanted[column].reading.out_of_range if fault.code == "out-of-range" else "fail"
            if policy != "fail":
                words = {"missing": "made missing", "clip": "clipped", "keep": "kept"}[policy]
                findings.note(f"{where}: values out of range {words}", n)
                spoilt = spoilt | mask if policy == "missing" else spoilt
                continue
            what = f"{n:,} of {frame.height:,} cells {fault.what}"
            rows = tuple(frame[ROW].filter(mask)[:5].to_list())
            problem = Problem(fault.code, where, what, fault.fix.replace("{column}", column), n, rows)
            kept = "cells made missing" if fault.lost else "cells kept"
            if findings.settle(problem, drop="cells made missing", keep=kept) or fault.lost:
                spoilt = spoilt | mask
        if one.rounded is not None:
            findings.note(f"{where}: values rounded to the schema's decimals", hit[f"__{column}__off"])
        if spoilt.any():
            empty[column] = spoilt
        if not wanted[column].column.missing:
            drop = drop | _absent(frame, column, where, spoilt, findings)
    if empty:
        frame = frame.with_columns(pl.when(mask).then(None).otherwise(pl.col(c)).alias(c) for c, mask in empty.items())
    frame = frame.drop(list(flags))
    return frame.filter(~drop) if drop.any() else frame


def _without_blank(frame: pl.DataFrame, name: str, flags: list[str], findings: Findings) -> pl.DataFrame:
    """Without rows that hold nothing at all, as spreadsheets leave behind."""
    if "subject_id" not in frame.columns or not frame["subject_id"].null_count():
        return frame
    blank = pl.all_horizontal(pl.exclude(ROW, *flags).is_null()) & ~pl.any_horizontal(pl.lit(False), *flags)
    kept = frame.filter(~blank)
    if kept.height < frame.height:
        findings.note(f"{name}: empty rows passed over", frame.height - kept.height)
    return kept


def _dated(
    raw: pl.LazyFrame, types: Mapping[str, pl.DataType], wanted: Mapping[str, Spec], clock: str
) -> Mapping[str, Spec]:
    """Specs whose dates are tried in the layouts of the first rows only."""
    out = dict(wanted)
    for column, spec in wanted.items():
        dated = spec.column.kind == "timestamp" and clock == "timestamp" and types.get(column) == pl.String
        if dated and spec.reading.layouts == DATES and not spec.reading.format and not spec.reading.unit:
            sample = raw.select(column).head(200).collect()[column]
            layouts = layouts_in(sample, spec.reading)
            out[column] = replace(spec, reading=replace(spec.reading, layouts=layouts))
    return out


def _other_dates(frame: pl.DataFrame, cells: Mapping[str, Cell]) -> bool:
    """Did the layouts of the first rows not do for all?"""
    flags = [f"__{c}__{i}" for c, one in cells.items() for i, f in enumerate(one.faults) if f.code == "not-a-date"]
    return any(frame[flag].any() for flag in flags)


def _every_layout(spec: Spec) -> Spec:
    """The spec with all layouts, told from the default by one more, so that no sample is taken again."""
    return replace(spec, reading=replace(spec.reading, layouts=(*DATES, DATES[0])))


def _absent(frame: pl.DataFrame, column: str, where: str, spoilt: pl.Series, findings: Findings) -> pl.Series:
    """Rows to drop because a cell that must not be missing is."""
    void = frame[column].is_null() & ~spoilt
    n = int(void.sum())
    gone = spoilt if findings.on_error == "drop" else pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
    if findings.on_error == "drop":
        findings.note(f"{where}: rows dropped (unusable in a column that must not be missing)", int(spoilt.sum()))
    if n:
        rows = tuple(frame[ROW].filter(void)[:5].to_list())
        fix = "Set missing = true for the column if it may be absent."
        problem = Problem("missing-value", where, f"{n:,} of {frame.height:,} cells are empty", fix, n, rows)
        if findings.settle(problem, drop="rows dropped", keep="rows kept"):
            gone = gone | void
    return gone


# -- keys and links --------------------------------------------------------------------------------------------------


def linked(
    schema: Schema,
    tables: Mapping[str, pl.DataFrame],
    findings: Findings,
    *,
    parse_ids: bool = True,
    whole: bool = True,
) -> dict[str, pl.DataFrame]:
    """Typed tables with sound keys, links and times; `ROW` is removed.

    Ids that are text become whole numbers if all of them are (`parse_ids`, for files without types). Of a range of
    patients (`whole` is false) a table may be empty.
    """
    frames = {n: _with_keys(schema, n, f, findings) for n, f in one_type(dict(tables), parse_ids).items()}
    frames = one_type(frames, parse_ids)
    visits = schema.visit_table
    order = sorted(frames, key=lambda n: {"static": 0, "visit": 1, "event": 2}[schema.tables[n].role])
    for name in order:
        frame = _without(frames[name], name, pl.col("subject_id").is_null(), "no-subject", "name no patient", findings)
        role = schema.tables[name].role
        if role == "visit" and "visit_id" in frame.columns:
            frame = _without(frame, name, pl.col("visit_id").is_null(), "no-visit-id", "name no visit", findings)
        if role in ("static", "visit"):
            key = ["subject_id"] if role == "static" else ["subject_id", "visit_id"]
            again = ~(pl.col(key[0]) if len(key) == 1 else pl.struct(key)).is_first_distinct()
            frame = _without(frame, name, again, "duplicate-key", f"repeat a {' + '.join(key)}", findings)
        if schema.has_time(name):
            frame = _times(schema, name, frame, findings)
        parent = schema.tables[name].parent
        if parent == visits and schema.has_visit_id(name) and visits in frames:
            frame = _visits_exist(frame, name, frames[visits], findings)
        elif parent in frames:
            orphan = ~pl.col("subject_id").is_in(frames[parent]["subject_id"].unique().implode())
            frame = _orphans(frame, name, orphan, f"belong to nobody in {parent}", findings)
        if whole and frame.is_empty():
            nothing(name, role, findings)
        frames[name] = frame
    if visits in frames:
        known = pl.concat([f["subject_id"] for f in frames.values()]).unique()
        findings.note("patients without a visit", known.len() - frames[visits]["subject_id"].n_unique())
    return {n: frames[n].drop(ROW) for n in tables}


def nothing(name: str, role: str, findings: Findings) -> None:
    """Say that a table has no rows."""
    if role == "event":
        findings.notes[f"{name}: rows"] = 0
        return
    fix = "Check the file, the filters of its source, and the other problems."
    findings.settle(Problem("empty-table", name, "has no rows", fix), drop="empty table", keep="empty table")


def _with_keys(schema: Schema, name: str, frame: pl.DataFrame, findings: Findings) -> pl.DataFrame:
    """Visits without an id are numbered in order of subject and time; events without one lie outside any visit."""
    if schema.has_time(name) and "time" not in frame.columns:
        frame = frame.with_columns(pl.lit(None, dtype=clock_dtype(schema)).alias("time"))
    if not schema.has_visit_id(name) or "visit_id" in frame.columns:
        return frame
    if schema.tables[name].role != "visit":
        return frame.with_columns(pl.lit(None, dtype=pl.Int64).alias("visit_id"))
    frame = frame.sort("subject_id", "time", maintain_order=True, nulls_last=True)
    first = findings.numbered + 1
    findings.numbered += frame.height
    return frame.with_columns(pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias("visit_id"))


def one_type(frames: dict[str, pl.DataFrame], parse: bool) -> dict[str, pl.DataFrame]:
    """Ids of one type in every table: Int64, or text as written."""
    for key in ("subject_id", "visit_id"):
        found = {n: f[key] for n, f in frames.items() if key in f.columns}
        text = {s.dtype == pl.String for s in found.values() if s.dtype != pl.Null}
        found = {n: bare(s) if s.dtype == pl.String else s for n, s in found.items()}
        found = {n: _as_ids(s) if parse or text != {True} else s.cast(pl.String) for n, s in found.items()}
        if any(s.dtype == pl.String for s in found.values()):
            found = {n: s.cast(pl.String) for n, s in found.items()}
        frames = {n: f.with_columns(found[n].alias(key)) if n in found else f for n, f in frames.items()}
    return frames


def _as_ids(ids: pl.Series) -> pl.Series:
    if ids.dtype == pl.Int64 or ids.dtype == pl.Null:
        return ids.cast(pl.Int64)
    if ids.dtype.is_numeric():
        whole = ids.cast(pl.Int64, strict=False)
        return whole if bool((whole.is_null() == ids.is_null()).all()) and _same(whole, ids) else ids.cast(pl.String)
    text = ids.cast(pl.String).str.strip_chars()
    text = text.set(text == "", None)
    for tried in (text, text.str.replace(r"\.0+$", "")):
        whole = tried.cast(pl.Int64, strict=False)
        if whole.null_count() == text.null_count() and bool((whole.cast(pl.String) == tried).all()):
            return whole
    return text


def _same(whole: pl.Series, ids: pl.Series) -> bool:
    return bool((whole.cast(pl.Float64) == ids.cast(pl.Float64)).all())


def _mask(frame: pl.DataFrame, expression: pl.Expr) -> pl.Series:
    return frame.select(expression.fill_null(False).alias("m"))["m"]


def _rows(frame: pl.DataFrame, mask: pl.Series) -> tuple[int, ...]:
    return tuple(frame[ROW].filter(mask)[:5].to_list())


def _without(frame: pl.DataFrame, name: str, broken: pl.Expr, code: str, what: str, findings: Findings) -> pl.DataFrame:
    """Without rows no cohort can hold: they go under "drop" and under "keep"."""
    mask = _mask(frame, broken)
    if not (n := int(mask.sum())):
        return frame
    fix = {
        "duplicate-key": "Keep one row per key; statics repeated on every row need repeated = true in the source.",
        "no-subject": "Fill the patient column, or filter the rows out.",
    }.get(code, "Fill the column, or filter the rows out.")
    problem = Problem(code, name, f"{n:,} of {frame.height:,} rows {what}", fix, n, _rows(frame, mask))
    findings.settle(problem, drop="rows dropped", keep="rows dropped")
    return frame.filter(~mask)


def _orphans(frame: pl.DataFrame, name: str, orphan: pl.Expr, what: str, findings: Findings) -> pl.DataFrame:
    mask = _mask(frame, orphan)
    if not (n := int(mask.sum())):
        return frame
    fix = "Add the rows they belong to, or remove parent from the table."
    problem = Problem("orphan", name, f"{n:,} of {frame.height:,} rows {what}", fix, n, _rows(frame, mask))
    return frame.filter(~mask) if findings.settle(problem, drop="rows dropped", keep="rows kept") else frame


def _visits_exist(frame: pl.DataFrame, name: str, visits: pl.DataFrame, findings: Findings) -> pl.DataFrame:
    key = ["subject_id", "visit_id"]
    known = visits.select(key).unique().with_columns(pl.lit(True).alias("known"))
    there = frame.select(key).join(known, on=key, how="left", maintain_order="left")["known"].fill_null(False)
    mask = ~there & frame["visit_id"].is_not_null()
    if not (n := int(mask.sum())):
        return frame
    what = f"{n:,} of {frame.height:,} rows name a visit their patient does not have"
    fix = "Add the visits, or leave the visit empty for events outside any visit."
    problem = Problem("orphan", f"{name}.visit_id", what, fix, n, _rows(frame, mask))
    if findings.settle(problem, drop="rows dropped", keep="links cut"):
        return frame.filter(~mask)
    return frame.with_columns(pl.when(mask).then(None).otherwise(pl.col("visit_id")).alias("visit_id"))


def _times(schema: Schema, name: str, frame: pl.DataFrame, findings: Findings) -> pl.DataFrame:
    """Rows without a time are a problem; rows out of order and ties are put in order and counted."""
    if schema.clock == "order" and frame["time"].null_count() == frame.height:
        frame = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over("subject_id").alias("time"))
    void = frame["time"].is_null()
    if n := int(void.sum()):
        what = f"{n:,} of {frame.height:,} rows have no time"
        problem = Problem("no-time", name, what, "Fill the time, or filter the rows out.", n, _rows(frame, void))
        if findings.settle(problem, drop="rows dropped", keep="rows kept") or schema.tables[name].role == "visit":
            if findings.on_error == "keep":
                findings.note(f"{name}: rows dropped, as a visit needs a time", n)
            frame = frame.filter(~void)
    before = pl.col("time").shift(1).over("subject_id")
    findings.note(f"{name}: rows put in order of time", _mask(frame, pl.col("time") < before).sum())
    if schema.tables[name].role == "visit":
        tied = ~pl.struct("subject_id", "time").is_first_distinct()
        findings.note(f"{name}: visits at the time of another of the same patient", _mask(frame, tied).sum())
    return frame
