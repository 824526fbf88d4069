"""Hypothesis strategies: random sound schemas, and small messy cohorts that are valid under them.

The shape of a case (tables, kinds, clock, rows per subject, constant and empty columns) is drawn by hypothesis, so it
shrinks; the cells are filled from one drawn seed, so a case costs milliseconds.

    @given(cohorts(schemas()))
    def test_round_trip(cohort): ...

Messy and valid at once: subjects without a static row or without visits, single visits, tied times, events outside any
visit, values on the bounds, constant and empty columns, empty tables, cohorts of nobody or of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from cohortloom.cohort import Cohort
from cohortloom.cohort.dtypes import clock_dtype
from cohortloom.schema import (
    Category,
    Code,
    Column,
    Count,
    Flag,
    Identifier,
    Item,
    Number,
    Ordinal,
    Schema,
    Table,
    Task,
    Timestamp,
)

__all__ = ["KINDS", "cohorts", "columns", "names", "schemas"]

KINDS = ("number", "count", "category", "ordinal", "flag", "code", "timestamp", "identifier")

_UNITS = ("1", "mg/dL", "mm[Hg]", "/min", "kg", "d", "Cel", "%")
_WORDS = (
    "age",
    "sex",
    "sodium",
    "lactate",
    "stage",
    "ward",
    "dose",
    "note_id",
    "x1",
    "alk.phos",
    "A b",
    "größe",
    "type",
)
_LEVELS = ("F", "M", "", "0", "1", ">= 3", "[10-20)", "None", "NA", "groß", 'say "x"', "a|b", "true", "-1")
_CODES = ("E11.9", "I50", "v1", "250.83", "NA")
_DAY = 86_400_000_000


def names() -> st.SearchStrategy[str]:
    """Column names: plain ones, and such as real files have (dots, blanks, umlauts)."""
    return st.sampled_from(_WORDS)


def _levels(least: int = 1) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(_LEVELS), min_size=least, max_size=5, unique=True).map(tuple)


@st.composite
def columns(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> Column:
    """One column of one of the kinds, with every setting that a schema file may hold."""
    kind = draw(st.sampled_from(kinds))
    common: dict[str, Any] = {
        "missing": draw(st.booleans()),
        "sensitive": draw(st.booleans()),
        "quasi_identifier": draw(st.booleans()),
        "description": draw(st.sampled_from(["", 'first "value"\nof the day', "größte Höhe"])),
    }
    if kind in ("number", "count"):
        low = draw(st.sampled_from([None, -40, 0, 3] if kind == "number" else [0, 2]))
        high = draw(st.sampled_from([None, 3, 7, 250]))
        unit = draw(st.sampled_from(_UNITS))
        if kind == "number":
            decimals = draw(st.sampled_from([None, 0, 1, 3]))
            return Number(unit=unit, low=low, high=high, decimals=decimals, **common)
        return Count(unit=unit, low=low, high=high, **common)
    if kind in ("category", "ordinal"):
        levels = draw(_levels())
        labels = {levels[0]: "the first"} if draw(st.booleans()) else {}
        return (Category if kind == "category" else Ordinal)(levels=levels, labels=labels, **common)
    if kind == "code":
        return Code(
            system=draw(st.sampled_from(["", "ICD-10"])), levels=draw(st.sampled_from([None, _CODES])), **common
        )
    if kind == "timestamp":
        return Timestamp(granularity=draw(st.sampled_from(["day", "minute", "exact"])), **common)
    return {"flag": Flag, "identifier": Identifier}[kind](**common)


@st.composite
def _tables(draw: st.DrawFn, role: str, kinds: tuple[str, ...], parent: str | None, long: bool) -> Table:
    timed = draw(st.booleans()) if role == "event" else True
    if role == "event" and long and draw(st.booleans()):
        items = {code: Item(unit=draw(st.sampled_from(_UNITS)), low=0, high=9, decimals=1) for code in _CODES[:2]}
        both = {
            "code": Code(system="local", levels=draw(st.sampled_from([None, _CODES])), items=items, missing=False),
            "value": Number(),
        }
        return Table(role="event", parent=parent, timed=timed, columns=both, code="code", value="value")
    found = draw(st.dictionaries(names(), columns(kinds), min_size=1, max_size=5))
    return Table(role=role, parent=parent, timed=timed, columns=found)


@st.composite
def schemas(
    draw: st.DrawFn,
    *,
    clocks: tuple[str, ...] = ("timestamp", "offset", "order"),
    kinds: tuple[str, ...] = KINDS,
    visits: bool | None = None,
    max_events: int = 2,
    long: bool = True,
) -> Schema:
    """A sound schema.

    Args:
        clocks: Clocks to choose from.
        kinds: Column kinds to choose from.
        visits: Must there be a visit table? None: sometimes.
        max_events: Largest number of event tables.
        long: May event tables be in long form?
    """
    tables: dict[str, Table] = {}
    if draw(st.booleans()) or visits is False:
        tables["patients"] = draw(_tables("static", kinds, None, False))
        if draw(st.integers(0, 3)) == 3:
            tables["genes"] = draw(_tables("static", kinds, None, False))
    if visits or (visits is None and draw(st.booleans())) or not tables:
        tables["visits"] = draw(_tables("visit", kinds, draw(st.sampled_from([None, *list(tables)[:1]])), False))
    parents = [None, *[n for n in ("patients", "visits") if n in tables]]
    for i in range(draw(st.integers(0, max_events))):
        tables[f"events_{i}"] = draw(_tables("event", kinds, draw(st.sampled_from(parents)), long))
    extra: dict[str, Any] = {}
    if "patients" in tables:
        statics = tables["patients"].columns
        extra["subgroups"] = tuple(f"patients.{c}" for c, k in statics.items() if k.kind == "category")
        extra["tasks"] = tuple(
            Task(name=f"t_{i}", target=f"patients.{c}") for i, (c, k) in enumerate(statics.items()) if k.kind == "flag"
        )
    return Schema(name="drawn", clock=draw(st.sampled_from(clocks)), tables=tables, **extra)


@st.composite
def cohorts(
    draw: st.DrawFn,
    schema: Schema | st.SearchStrategy[Schema],
    *,
    min_subjects: int = 0,
    max_subjects: int = 8,
    max_rows: int = 5,
    ties: bool = True,
) -> Cohort:
    """A small cohort that is valid under the schema, as messy as valid data are.

    Args:
        schema: A schema, or a strategy of schemas.
        min_subjects: Smallest number of subjects.
        max_subjects: Largest number of subjects.
        max_rows: Most visits, and most events per table, of one subject.
        ties: May two visits of a subject have the same time?
    """
    if not isinstance(schema, Schema):
        schema = draw(schema)
    n = draw(st.integers(min_subjects, max_subjects))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    text_ids = draw(st.booleans())
    ids = pl.Series(
        "subject_id",
        [f"p-{i:03}" for i in range(n)] if text_ids else list(range(11, 11 + n)),
        dtype=pl.String if text_ids else pl.Int64,
    )
    # With several tables a subject may be absent from any of them; with one it would vanish.
    alone = len(schema.tables) == 1
    visits: pl.DataFrame | None = None
    tables: dict[str, pl.DataFrame] = {}
    for name in sorted(schema.tables, key=lambda t: schema.tables[t].role != "visit"):
        table = schema.tables[name]
        if table.role == "static":
            present = rng.random(n) < (1.0 if alone or draw(st.booleans()) else 0.7)
            frame = pl.DataFrame({"subject_id": ids.filter(pl.Series(present, dtype=pl.Boolean))})
        else:
            shape = draw(st.sampled_from(["some", "one", "none", "some"]))
            most = {"some": max_rows + 1, "one": 2, "none": 1}[shape]
            least = 1 if alone else 0
            rows = rng.integers(min(least, most - 1) if shape != "one" else 1, most, n)
            frame = pl.DataFrame({"subject_id": ids.gather(np.repeat(np.arange(n), rows))})
            frame = _times(schema, name, frame, visits, rng, ties)
            if table.role == "visit":
                numbers = pl.Series("visit_id", np.arange(1, frame.height + 1) * 7, dtype=pl.Int64)
                frame = frame.with_columns(numbers.cast(pl.String) if text_ids else numbers)
                visits = frame
        cells = {}
        for c, column in table.columns.items():
            mess = draw(st.sampled_from(["plain", "plain", "constant", "empty"]))
            cells[c] = _cells(schema, column, frame.height, rng, mess)
        if table.code and table.value and table.code_column().items:
            cells[table.value] = _item_values(table, cells[table.code], rng)
        tables[name] = frame.with_columns(s.alias(c) for c, s in cells.items())
    return Cohort.build(schema, tables)


def _times(
    schema: Schema, name: str, frame: pl.DataFrame, visits: pl.DataFrame | None, rng: np.random.Generator, ties: bool
) -> pl.DataFrame:
    """Add visit_id (of events) and time, as the schema asks."""
    n, keys = frame.height, schema.keys(name)
    gaps = np.exp(rng.normal(1, 3, n)) if schema.clock != "order" else np.ones(n)
    if ties and schema.clock != "order":
        gaps[rng.random(n) < 0.15] = 0.0
    frame = frame.with_columns(gap=gaps)
    tick = pl.col("gap").cum_sum().over("subject_id")
    if schema.clock == "order":
        frame = frame.with_columns(time=(tick - 1).cast(pl.Int64))
    else:
        start = 1_600_000_000_000_000 if schema.clock == "timestamp" else 0
        frame = frame.with_columns(time=(tick * _DAY).round(0).cast(pl.Int64) + start)
    if schema.tables[name].role == "event" and schema.has_visit_id(name):
        assert visits is not None
        own = visits.select("subject_id", "visit_id", visit_time=pl.col("time").to_physical())
        own = own.group_by("subject_id", maintain_order=True).agg(pl.all())
        frame = frame.with_columns(pick=pl.Series(rng.random(n), dtype=pl.Float64)).join(
            own, on="subject_id", how="left", maintain_order="left"
        )
        length = pl.col("visit_id").list.len().fill_null(0)
        at = (pl.col("pick") * 1.25 * length).floor().cast(pl.Int64)  # a fifth lies outside any visit
        inside = pl.when((length > 0) & (at < length)).then(at)
        frame = frame.with_columns(
            visit_id=pl.col("visit_id").list.get(inside, null_on_oob=True),
            time=pl.coalesce(pl.col("visit_time").list.get(inside, null_on_oob=True), "time"),
        )
    frame = frame.with_columns(pl.col("time").cast(clock_dtype(schema)))
    return frame.select(k for k in ("subject_id", "visit_id", "time") if k in keys and k in frame.columns)


def _cells(schema: Schema, column: Column, n: int, rng: np.random.Generator, mess: str) -> pl.Series:
    """Cells of one column; `mess` "constant" repeats one value, "empty" leaves none (where that is allowed)."""
    if isinstance(column, Number):
        values = pl.Series(_numbers(column.low, column.high, column.decimals, n, rng))
    elif isinstance(column, Count):
        top = column.high if column.high is not None else column.low + 30
        values = pl.Series(rng.integers(column.low, top + 1, n))
    elif isinstance(column, Flag):
        values = pl.Series(rng.random(n) < 0.3)
    elif isinstance(column, Timestamp):
        unit = {"year": 365, "month": 30}.get(column.granularity, 1) * _DAY
        days = rng.integers(0, 4000, n)
        values = pl.Series(days if schema.clock == "order" else days * unit).cast(clock_dtype(schema))
    elif isinstance(column, Identifier):
        values = pl.Series([f"id{i}" for i in rng.permutation(n)], dtype=pl.String)
    else:
        levels = column.levels or _CODES
        values = pl.Series([levels[i] for i in rng.integers(0, len(levels), n)], dtype=pl.String)
    if mess == "constant" and n:
        values = values.gather(np.zeros(n, int))
    if column.missing:
        gone = np.ones(n, bool) if mess == "empty" else rng.random(n) < rng.choice([0.0, 0.2, 0.8])
        values = values.zip_with(pl.Series(~gone, dtype=pl.Boolean), pl.Series([None] * n, dtype=values.dtype))
    return values


def _numbers(
    low: float | None, high: float | None, decimals: int | None, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Skewed values within the bounds, one in eight on a bound, rounded as the schema says."""
    spread = np.exp(rng.normal(0, 1.5, n))
    if low is not None and high is not None:
        values = low + (high - low) * spread / (1 + spread)
    elif high is not None:
        values = high - spread
    else:
        values = (low or 0.0) + spread * (1 if low is not None else rng.choice([-1, 1]))
    edge = rng.random(n) < 0.125
    values = np.where(edge & (low is not None), low if low is not None else 0.0, values)
    if decimals is not None:
        values = np.round(values, decimals) + 0.0
    return np.clip(values, -np.inf if low is None else low, np.inf if high is None else high)


def _item_values(table: Table, codes: pl.Series, rng: np.random.Generator) -> pl.Series:
    """Numbers beside codes, within the bounds of each code's item; none for a code without item."""
    items = table.code_column().items
    values: list[float | None] = []
    for code in codes:
        item = items.get(code)
        if item is None or rng.random() < 0.1:
            values.append(None)
        else:
            values.append(float(_numbers(item.low, item.high, item.decimals, 1, rng)[0]))
    return pl.Series(values, dtype=pl.Float64)
