"""Rows put together: the bins of a regular grid, codes of a long file, statics repeated on every row.

All three turn several records into one cell. `AGGREGATES` says how; missing cells never count, and a cell without any
record is missing. A number that comes out of a mean is rounded to the decimals of its column.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cohortloom.formats.base import Findings
from cohortloom.formats.check import ROW
from cohortloom.schema import Column, Count, Flag, Number, Source, Table
from cohortloom.schema.source import TIME_UNITS

__all__ = ["aggregate", "binned", "fill_bins", "one_per_key"]

_NUMERIC = ("mean", "median", "sum")


def _expression(how: str, name: str, column: Column) -> pl.Expr:
    x = pl.col(name)
    if how in _NUMERIC and isinstance(column, Flag):
        x = x.cast(pl.Float64)
    known = x.drop_nulls()
    found = {
        "last": lambda: known.last(),
        "first": lambda: known.first(),
        "mean": lambda: x.mean(),
        "median": lambda: x.median(),
        "min": lambda: x.min(),
        "max": lambda: x.max(),
        "any": lambda: x.max(),
        "sum": lambda: pl.when(x.count() > 0).then(x.sum()),
        "count": lambda: x.count(),
    }[how]()
    if isinstance(column, Number):
        found = found.cast(pl.Float64)
        return found if column.decimals is None else found.round(column.decimals)
    if isinstance(column, Count):
        return found.round().cast(pl.Int64) if how in ("mean", "median") else found.cast(pl.Int64)
    return (found >= 0.5) if isinstance(column, Flag) and how in _NUMERIC else found


def problem_of(source: Source, table: Table, where: str, findings: Findings) -> bool:
    """Is an aggregate asked for that words can't have?"""
    before = len(findings.problems)
    for name, how in (source.grid.aggregate if source.grid else {}).items():
        column = table.columns.get(name)
        if column is not None and column.kind not in ("number", "count", "flag") and how in (*_NUMERIC, "any", "count"):
            findings.stop(
                "bad-aggregate", f"{where}.{name}", f"{how} of a {column.kind}", 'Use "last", "first" or "max".'
            )
    return len(findings.problems) > before


def _how(source: Source, name: str, column: Column) -> str:
    chosen = source.grid.aggregate if source.grid else {}
    how = chosen.get(name) or chosen.get("*", "last")
    words = column.kind not in ("number", "count", "flag")
    return "last" if words and how in (*_NUMERIC, "any", "count") else how


def aggregate(frame: pl.DataFrame, keys: list[str], columns: Mapping[str, Column], source: Source) -> pl.DataFrame:
    """One row per key; records are taken in the order of time, then of the file."""
    chosen = [_expression(_how(source, n, c), n, c).alias(n) for n, c in columns.items() if n in frame.columns]
    order = [c for c in ("at", "time") if c in frame.columns][:1]
    frame = frame.sort(*order, ROW, nulls_last=True) if order else frame
    return frame.group_by(keys).agg(pl.col(ROW).min(), *chosen)


def binned(frame: pl.DataFrame, every: str) -> pl.DataFrame:
    """`time` moved to the start of its bin; the time itself stays as `at`.

    Bins of offsets start at the origin; bins of dates at 1970-01-01, so that hours and days are those of the clock.
    """
    width = _width(every)
    ticks = pl.col("time").cast(pl.Int64)
    start = (ticks.floordiv(width) * width).cast(frame["time"].dtype)
    return frame.with_columns(start.alias("time"), pl.col("time").alias("at"))


def fill_bins(frame: pl.DataFrame, every: str) -> pl.DataFrame:
    """Rows for the bins without a record, from the origin (offsets) or the first bin (dates) to the last one."""
    width, dtype = _width(every), frame["time"].dtype
    ticks = pl.col("time").cast(pl.Int64)
    first = pl.min_horizontal(ticks.min(), pl.lit(0)) if dtype == pl.Duration else ticks.min()
    spans = frame.drop_nulls("time").group_by("subject_id").agg(first.alias("first"), ticks.max().alias("last"))
    bins = spans.select("subject_id", pl.int_ranges("first", pl.col("last") + width, width).alias("time")).explode(
        "time"
    )
    bins = bins.with_columns(pl.col("time").cast(dtype))
    return bins.join(frame, on=["subject_id", "time"], how="left").with_columns(
        pl.col(ROW).fill_null(strategy="forward")
    )


def _width(every: str) -> int:
    unit = every.lstrip("0123456789.")
    return max(round(float(every.removesuffix(unit)) * TIME_UNITS[unit] * 86400e6), 1)


def one_per_key(
    frame: pl.DataFrame, keys: list[str], columns: list[str], source: Source, where: str, findings: Findings
) -> pl.DataFrame:
    """Statics repeated on every row -> one row per subject, visits repeated -> one row per visit.

    What differs within one is settled and counted; the time is the first.
    """
    firsts = frame.group_by(keys, maintain_order=True).agg(
        pl.col(ROW).first(),
        *([pl.col("time").min()] if "time" in frame.columns else []),
        *(pl.col(c).drop_nulls().first() for c in columns),
        *((pl.col(c).min() != pl.col(c).max()).fill_null(False).alias(f"__{c}") for c in columns),
    )
    people = "visits" if "visit_id" in keys else "patients"
    for c in columns:
        torn = firsts.filter(pl.col(f"__{c}")).select(keys)
        if torn.is_empty():
            continue
        place, how = f"{where}.{c}", source.contradiction
        if how == "fail":
            rows = tuple(firsts[ROW].filter(firsts[f"__{c}"])[:5].to_list())
            fix = 'Set contradiction = "most", "first", "last" or "missing", or move the column to the visit table.'
            what = f"{torn.height:,} of {firsts.height:,} {people} have several values on their rows"
            findings.stop("contradiction", place, what, fix, torn.height, rows)
            continue
        findings.note(f"{place}: {people} with contradicting rows, settled by {how}", torn.height)
        if how == "first":
            continue
        settled = _settle(frame.join(torn, on=keys, how="semi", maintain_order="left"), keys, c, how)
        firsts = firsts.join(settled, on=keys, how="left", maintain_order="left")
        firsts = firsts.with_columns(pl.when(f"__{c}").then("settled").otherwise(c).alias(c)).drop("settled")
    return firsts.drop(f"__{c}" for c in columns)


def _settle(frame: pl.DataFrame, keys: list[str], column: str, how: str) -> pl.DataFrame:
    known = frame.drop_nulls(column)
    if how == "last":
        return known.group_by(keys).agg(pl.col(column).last().alias("settled"))
    if how == "missing":
        return known.group_by(keys).agg(pl.lit(None, dtype=frame[column].dtype).first().alias("settled"))
    counted = known.group_by(*keys, column).agg(pl.len().alias("n"), pl.col(ROW).min())
    counted = counted.sort("n", ROW, descending=[True, False])
    return counted.group_by(keys, maintain_order=True).agg(pl.col(column).first().alias("settled"))
