"""Polars dtypes of columns, fixed by kind and clock."""

import polars as pl

from cohortloom.schema import Schema

__all__ = ["clock_dtype", "dtypes"]

_BY_KIND = {
    "number": pl.Float64,
    "count": pl.Int64,
    "category": pl.String,
    "ordinal": pl.String,
    "code": pl.String,
    "identifier": pl.String,
    "flag": pl.Boolean,
}


def clock_dtype(schema: Schema) -> pl.DataType:
    """Dtype of every time of the schema."""
    return {"timestamp": pl.Datetime("us"), "offset": pl.Duration("us"), "order": pl.Int64()}[schema.clock]


def dtypes(schema: Schema, table: str) -> dict[str, pl.DataType | type[pl.DataType] | None]:
    """Column -> dtype of a frame, keys first; None for ids, which keep Int64 or String as they come."""
    found: dict = {key: clock_dtype(schema) if key == "time" else None for key in schema.keys(table)}
    for name, column in schema.tables[table].columns.items():
        found[name] = clock_dtype(schema) if column.kind == "timestamp" else _BY_KIND[column.kind]
    return found
