"""The canonical form of frames: columns, dtypes and row order."""

from collections.abc import Mapping

import polars as pl

from cohortloom.cohort.dtypes import dtypes
from cohortloom.errors import DataError, Problem, nearest
from cohortloom.schema import Schema

__all__ = ["canonical", "sort_keys"]


def sort_keys(schema: Schema, table: str) -> list[str]:
    """Subject, then time, then visit: ties keep the order in which they came."""
    return [k for k in ("subject_id", "time", "visit_id") if k in schema.keys(table)]


def canonical(schema: Schema, tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Frames in the schema's column order, with its dtypes, sorted; absent tables become empty frames.

    Raises:
        DataError: unknown tables, missing columns, or values that can't take the dtype, all listed.
    """
    problems = [
        Problem("unknown-table", name, "is not a table of the schema", nearest(name, schema.tables).strip())
        for name in tables
        if name not in schema.tables
    ]
    id_types = {f["subject_id"].dtype for f in tables.values() if "subject_id" in f.columns}
    ids = pl.Int64 if all(t.is_integer() for t in id_types) else pl.String
    visit_types = {
        f["visit_id"].dtype for f in tables.values() if "visit_id" in f.columns and f["visit_id"].dtype != pl.Null
    }
    visits = pl.Int64 if all(t.is_integer() for t in visit_types) else pl.String
    out: dict[str, pl.DataFrame] = {}
    for name in schema.tables:
        wanted = {c: t or (ids if c == "subject_id" else visits) for c, t in dtypes(schema, name).items()}
        if name not in tables:
            out[name] = pl.DataFrame(schema=wanted)
            continue
        frame = tables[name]
        absent = [c for c in wanted if c not in frame.columns]
        for column in absent:
            problems.append(
                Problem(
                    "missing-column", f"{name}.{column}", "the column is absent", nearest(column, frame.columns).strip()
                )
            )
        if absent:
            continue
        casts, frame = [], frame.select(list(wanted))
        for column, dtype in wanted.items():
            if frame[column].dtype == dtype:
                continue
            cast = frame[column].cast(dtype, strict=False)
            lost = (cast.is_null() & frame[column].is_not_null()).arg_true()
            if lost.len():
                problems.append(
                    Problem(
                        "wrong-type",
                        f"{name}.{column}",
                        f"{lost.len()} of {frame.height} values can't be read as {dtype}",
                        "Values are not shown.",
                        lost.len(),
                        tuple(lost[:5].to_list()),
                    )
                )
            casts.append(cast)
        out[name] = frame.with_columns(casts).sort(sort_keys(schema, name), maintain_order=True, nulls_last=True)
    if problems:
        raise DataError(f'the tables do not fit schema "{schema.name}"', problems)
    return out
