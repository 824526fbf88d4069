"""What the patients' tables say at the time of a waveform: one number per record and column.

    static tables             numbers and flags; level by level where there are few; a moment (birth) as years before
    visit table               the record's own visit, else the last one before it
    long event tables         the value of each frequent code at that visit, else the last one before
    codes                     has the patient the code at that visit or before? (drugs, diagnoses)

Names are "table.column", "table.column = level", or "table.code" with the code's name if the schema gives one.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from cohortloom.evaluation.signals_sides import Side
from cohortloom.schema import Schema

__all__ = ["record_columns", "unit_of"]

MOST_LEVELS, MOST_CODES, FEWEST_HOLDERS = 4, 24, 5
_YEAR = 365.25 * 86_400e6


def record_columns(side: Side) -> dict[str, np.ndarray]:
    """Numbers per record, NaN where the tables do not say."""
    schema, records = side.cohort.schema, side.signal.records.with_row_index("row")
    out: dict[str, np.ndarray] = {}
    for table in schema.statics:
        frame = side.cohort.tables[table].unique("subject_id", keep="first")
        joined = records.select("row", "subject_id", "time").join(
            frame, on="subject_id", how="left", maintain_order="left", suffix="_"
        )
        out |= _numbers(schema, table, joined)
    if schema.visit_table is not None:
        out |= _numbers(schema, schema.visit_table, _at_visit(side, records))
    for table, spec in schema.tables.items():
        if spec.role == "event":
            out |= _codes(side, table, records)
    return out


def unit_of(schema: Schema, name: str) -> str:
    """Unit of one of the names above, "" if it has none."""
    table, _, rest = name.partition(".")
    spec = schema.tables.get(table)
    if spec is None:
        return ""
    if rest.endswith(" (years before)"):
        return "a"
    if rest in spec.columns:
        return getattr(spec.columns[rest], "unit", None) or ""
    for column in spec.columns.values():
        for code, item in getattr(column, "items", {}).items():
            if rest in (code, item.name) and not _is_presence(name):
                return item.unit or ""
    return ""


def _is_presence(name: str) -> bool:
    return name.endswith(" present")


def _at_visit(side: Side, records: pl.DataFrame) -> pl.DataFrame:
    table = side.cohort.schema.visit_table
    frame = side.cohort.tables[table]
    if "visit_id" in records.columns and records["visit_id"].null_count() < records.height:
        right = frame.unique(["subject_id", "visit_id"], keep="first")
        keys = ["subject_id", "visit_id"]
        return records.select("row", *keys).join(right, on=keys, how="left", maintain_order="left")
    if "time" in records.columns and records["time"].dtype == frame["time"].dtype and frame.height:
        left = records.select("row", "subject_id", "time").sort("time", nulls_last=True)
        right = frame.drop_nulls("time").sort("time")
        found = left.join_asof(right, on="time", by="subject_id", strategy="backward", check_sortedness=False)
        return found.sort("row")
    first = frame.unique("subject_id", keep="first", maintain_order=True)
    return records.select("row", "subject_id").join(first, on="subject_id", how="left", maintain_order="left")


def _numbers(schema: Schema, table: str, frame: pl.DataFrame) -> dict[str, np.ndarray]:
    out = {}
    for name, column in schema.tables[table].columns.items():
        if name not in frame.columns:
            continue
        x = frame[name]
        if x.dtype.is_numeric() or x.dtype == pl.Boolean:
            out[f"{table}.{name}"] = _plain(x)
        elif x.dtype.is_temporal() and "time" in frame.columns and frame["time"].dtype == x.dtype:
            gap = frame["time"].cast(pl.Int64) - x.cast(pl.Int64)
            if schema.tables[table].role == "static" and gap.min() is not None and gap.min() > 0:  # type: ignore
                out[f"{table}.{name} (years before)"] = _plain(gap / _YEAR)
        elif x.dtype == pl.String and getattr(column, "levels", None) and len(column.levels) <= MOST_LEVELS:
            for level in column.levels[1:]:
                out[f"{table}.{name} = {level}"] = _plain(x == level)
    return out


def _codes(side: Side, table: str, records: pl.DataFrame) -> dict[str, np.ndarray]:
    """Values and presence of the frequent codes of an event table."""
    spec, frame = side.cohort.schema.tables[table], side.cohort.tables[table]
    column = spec.code or next((n for n, c in spec.columns.items() if c.kind == "code"), None)
    if column is None or not frame.height or column not in frame.columns:
        return {}
    counts = frame.group_by(column).agg(pl.col("subject_id").n_unique().alias("n")).drop_nulls()
    counts = counts.filter(pl.col("n") >= FEWEST_HOLDERS).sort(["n", column], descending=[True, False])
    items = getattr(spec.columns[column], "items", {})
    numeric = spec.value if spec.value and frame[spec.value].dtype.is_numeric() else None
    out = {}
    for code in counts[column].head(MOST_CODES):
        rows = frame.filter(pl.col(column) == code)
        name = f"{table}.{items[code].name or code}" if code in items else f"{table}.{code}"
        if numeric is not None:
            out[name] = _plain(_last(records, rows.drop_nulls(numeric), pl.col(numeric)))
        out[f"{name} present"] = np.nan_to_num(_plain(_last(records, rows, pl.lit(1.0))))
    return out


def _last(records: pl.DataFrame, rows: pl.DataFrame, value: pl.Expr) -> pl.Series:
    """The first value at the record's visit, else the last one before it; without times the patient's first."""
    kept = [k for k in ("subject_id", "visit_id", "time") if k in rows.columns]
    rows = rows.select(*kept, value.alias("value"))
    if "time" in rows.columns and rows["time"].dtype == records["time"].dtype:
        left = records.select("row", "subject_id", "time").sort("time", nulls_last=True)
        right = rows.drop_nulls("time").sort("time")
        met = left.join_asof(right.select("subject_id", "time", "value"), on="time", by="subject_id",
                             check_sortedness=False).sort("row")["value"]  # fmt: skip
    else:
        first = rows.unique("subject_id", keep="first", maintain_order=True).select("subject_id", "value")
        met = records.join(first, on="subject_id", how="left", maintain_order="left")["value"]
    if "visit_id" not in rows.columns or "visit_id" not in records.columns:
        return met
    own = rows.drop_nulls("visit_id").unique(["subject_id", "visit_id"], keep="first", maintain_order=True)
    own = own.select("subject_id", pl.col("visit_id").cast(records["visit_id"].dtype), "value")
    same = records.join(own, on=["subject_id", "visit_id"], how="left", maintain_order="left")["value"]
    return pl.select(pl.coalesce(same, met)).to_series()


def _plain(x: pl.Series) -> np.ndarray:
    return x.cast(pl.Float64).fill_null(float("nan")).to_numpy()
