"""What columns of an event table say of each other in one row: a claim's parts and its sum, a dose and a total; and
what its time says with the dates of the patient: day of the study, age at the event.

The laws are those of `derived` and `labels`, among the columns of one row. Cells of events are drawn in panels and
courses, so nothing is left out of them: what follows is written over what was drawn, where there is a cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from cohortloom.codec.clock import ticks_of, ticks_per_day
from cohortloom.codec.derived import ITEM, Column, Derived, find_derived
from cohortloom.codec.labels import find_labels, label_ids
from cohortloom.schema import Category, Code, Count, Flag, Number, Ordinal, Schema, Timestamp

__all__ = ["between_moments", "event_laws", "with_laws"]

_MOST_LEVELS, _ROWS = 200, 200_000


def event_laws(schema: Schema, name: str, tables: Mapping[str, pl.DataFrame]) -> tuple[Derived, ...]:
    """Laws among the columns of an event table's rows, and dates of their patients.

    Args:
        name: The table; the first 200,000 of its rows are looked at.
        tables: It, and the static tables.
    """
    frame = tables[name].head(_ROWS)
    columns, levels = _columns(schema, name, frame, _dates(schema, frame, tables)), _levels(schema, name, frame)
    if frame.is_empty() or len(columns) + len(levels) < 2:
        return ()
    subject = frame["subject_id"].rank("dense").cast(pl.Int64).to_numpy()
    found = find_derived(columns, {}, subject)
    taken = {path for law in found for path, _ in law.terms}
    code = f"{name}.{schema.tables[name].code}"
    found += find_labels([path for path in levels if path != code], levels, columns, subject, taken)
    sources = {path: names for path, (_, names) in levels.items()}
    return tuple(
        replace(law, dropped=False, shown=False, level=None, moved=None, sources=sources.get(law.terms[0][0], ()))
        for law in found
    )


def between_moments(schema: Schema, laws: tuple[Derived, ...], name: str) -> tuple[Derived, ...]:
    """Of some laws those of a table's numbers that count the time between its own moments and dates of patients."""
    here = {f"{name}.time"} | {
        f"{table}.{column}"
        for table, spec in schema.tables.items()
        if table == name or spec.role == "static"
        for column, kind in spec.columns.items()
        if isinstance(kind, Timestamp)
    }
    return tuple(
        law
        for law in laws
        if law.path.partition(".")[0] == name
        and law.path not in here
        and not law.names
        and len(law.terms) > 1
        and {path for path, _ in law.terms} <= here
    )


def with_laws(
    schema: Schema,
    laws: tuple[Derived, ...],
    name: str,
    frame: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
    draw: np.random.Generator,
) -> pl.DataFrame:
    """Rows in which the laws of their table hold; `tables` holds the static ones, as far as they are drawn."""
    dates = _dates(schema, frame, tables)
    for law in laws:
        column = law.path.partition(".")[2]
        known = frame[column].is_not_null().to_numpy()
        if law.names:
            source = law.terms[0][0].partition(".")[2]
            if law.form == "cut":
                place = label_ids(law, frame[source].cast(pl.Float64).fill_null(float("nan")).to_numpy())
            else:
                at = {level: i for i, level in enumerate(law.sources)}
                text = frame[source].cast(pl.String)
                place = text.replace_strict(at, default=-1, return_dtype=pl.Int64).fill_null(-1).to_numpy()
            words = pl.Series(column, [*law.names, law.absent or None], dtype=pl.String)
            words = words.gather(np.where(place < 0, len(law.names), place))
            ours = words == "true" if frame[column].dtype == pl.Boolean else words
            known &= (place >= 0) | bool(law.absent)
        else:
            spec = schema.tables[name].columns[column]
            values = {c.path: c.values for c in _columns(schema, name, frame, dates)}
            if any(path not in values for path, _ in law.terms):
                continue
            numbers = law.near(values, values[law.path], draw)
            known &= np.isfinite(numbers)
            low = -np.inf if getattr(spec, "low", None) is None else spec.low  # type: ignore[union-attr]
            high = np.inf if getattr(spec, "high", None) is None else spec.high  # type: ignore[union-attr]
            rounded = (
                np.round(np.where(known, numbers, 0.0), getattr(spec, "decimals", 0) or 0) if law.step else numbers
            )
            ours = pl.Series(column, np.clip(np.nan_to_num(rounded), low, high)).cast(frame[column].dtype)
        frame = frame.with_columns(pl.when(pl.Series(known)).then(ours).otherwise(pl.col(column)).alias(column))
    return frame


def _columns(schema: Schema, name: str, frame: pl.DataFrame, dates: list[Column]) -> list[Column]:
    """Times and numbers of the rows, and where rows have a time the dates of their patients."""
    table, found = schema.tables[name], []
    dated = schema.clock != "order"
    if dated and table.timed and "time" in frame.columns:
        found += dates
        found.append(Column(f"{name}.time", True, _days(schema, frame["time"])))
    for column, spec in table.columns.items():
        path = f"{name}.{column}"
        if isinstance(spec, Timestamp) and dated:
            found.append(Column(path, True, _days(schema, frame[column])))
        elif isinstance(spec, (Number, Count)):
            decimals = 0 if isinstance(spec, Count) else spec.decimals
            step = 0.0 if decimals is None else 10.0**-decimals
            values = frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            found.append(Column(path, False, values, step, spec.unit, wanted=bool(step) and column != table.value))
        elif isinstance(spec, Flag) or (isinstance(spec, (Category, Ordinal)) and _are_numbers(spec.levels)):
            values = frame[column].cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
            found.append(Column(path, False, values, 1.0, ITEM))
    return found


def _dates(schema: Schema, frame: pl.DataFrame, tables: Mapping[str, pl.DataFrame]) -> list[Column]:
    """Dates of each row's patient; none where time is an order."""
    found = []
    if schema.clock == "order":
        return found
    for name, table in schema.tables.items():
        dates = [c for c, spec in table.columns.items() if isinstance(spec, Timestamp)]
        if table.role != "static" or name not in tables or not dates:
            continue
        own = tables[name].select("subject_id", *dates).unique("subject_id", keep="first", maintain_order=True)
        beside = frame.select("subject_id").join(own, on="subject_id", how="left", maintain_order="left")
        found += [Column(f"{name}.{c}", True, _days(schema, beside[c])) for c in dates]
    return found


def _levels(schema: Schema, name: str, frame: pl.DataFrame) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    found = {}
    for column, spec in schema.tables[name].columns.items():
        if not isinstance(spec, (Category, Ordinal, Flag, Code)):
            continue
        text = frame[column].cast(pl.String)
        names = ("false", "true") if isinstance(spec, Flag) else spec.levels or tuple(text.drop_nulls().unique().sort())
        if 1 < len(names) <= _MOST_LEVELS:
            at = {level: i for i, level in enumerate(names)}
            ids = text.replace_strict(at, default=-1, return_dtype=pl.Int64).fill_null(-1).to_numpy()
            found[f"{name}.{column}"] = (ids, tuple(names))
    return found


def _are_numbers(levels: tuple[str, ...]) -> bool:
    return not pl.Series(levels).cast(pl.Float64, strict=False).null_count()


def _days(schema: Schema, times: pl.Series) -> np.ndarray:
    ticks, known = ticks_of(times)
    return np.where(known, ticks / ticks_per_day(schema), np.nan)
