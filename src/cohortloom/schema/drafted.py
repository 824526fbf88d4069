"""What a drafted table says of its file: which column is whose, and when a row was."""

from __future__ import annotations

from typing import Any

import polars as pl

from cohortloom.schema.dates import ISO, plain_iso, read_date
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import TIME_UNITS

__all__ = ["column_of", "moments", "row_times", "time_of"]


def column_of(table: dict[str, Any], ours: str) -> str:
    """Name in the file of a column of a drafted table."""
    return table["source"].get("columns", {}).get(ours, ours)


def row_times(sheet: Sheet, table: dict[str, Any]) -> pl.Series | None:
    """Time of each row [d]; None where the table has none, or its file knows only an order."""
    time, unit = time_of(table)
    if time is None or time not in sheet.frame.columns:
        return None
    return sheet.frame.select(moments(sheet, time, unit if unit in TIME_UNITS else None)).to_series()


def time_of(table: dict[str, Any]) -> tuple[str | None, str | None]:
    """Column of a file with the time of a table's rows, and the unit it counts in; None: no time, dates."""
    time = table["source"].get("time")
    return (time["column"], time.get("unit")) if isinstance(time, dict) else (time, None)


def moments(sheet: Sheet, name: str, unit: str | None = None) -> pl.Expr:
    """Dates of a column of a file, or with a unit numbers since the origin [d]; null where one can't be read."""
    if unit is not None:
        return pl.col(name).cast(pl.Float64, strict=False) * TIME_UNITS[unit]
    if sheet.frame.schema[name].is_temporal():
        moment = pl.col(name)
    elif sheet.profiles[name].kind == "number":  # years of the calendar
        moment = read_date(pl.col(name).cast(pl.Float64, strict=False).cast(pl.Int64).cast(pl.String), "%Y")
    else:
        layout = sheet.profiles[name].format or "|".join((*ISO, "%Y-%m", "%Y"))
        moment = read_date(plain_iso(pl.col(name).cast(pl.String).str.strip_chars()), layout)
    return moment.cast(pl.Datetime("us")).cast(pl.Int64) / 86_400e6
