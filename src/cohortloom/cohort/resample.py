"""The two trivial cohorts every figure is shown beside.

`bootstrap` copies whole training patients under new ids: it keeps every association and no privacy. `independent` draws
every column apart: it keeps the marginals and no association. A generator that does not lie between them (closer to
reality than `independent`, without copying like `bootstrap`) has not earned its keep.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from cohortloom.cohort.cohort import Cohort
from cohortloom.cohort.origin import Origin
from cohortloom.errors import DataError, Problem
from cohortloom.rng import Rng

__all__ = ["bootstrap", "independent", "relabel"]


def relabel(cohort: Cohort, plan: pl.DataFrame) -> Cohort:
    """Copies of subjects under new ids; visits are numbered anew so that links hold.

    Args:
        cohort: Where the subjects come from.
        plan: Columns `subject_id` (may repeat) and `new_id` (Int64, distinct).

    Returns:
        Cohort with one subject per row of the plan. Identifier columns, which name real people, are emptied,
        or numbered anew where they may not be empty.
    """
    schema = cohort.schema
    tables: dict[str, pl.DataFrame] = {}
    plan = plan.rename({"new_id": "__id"})
    renumber: pl.DataFrame | None = None
    visits = schema.visit_table
    if visits is not None:
        copied = plan.join(cohort.tables[visits], on="subject_id", how="inner", maintain_order="left_right")
        copied = copied.with_row_index("__new", offset=1).with_columns(pl.col("__new").cast(pl.Int64))
        renumber = copied.select("__id", "visit_id", "__new")
        tables[visits] = copied.drop("subject_id", "visit_id").rename({"__id": "subject_id", "__new": "visit_id"})
    for name, frame in cohort.tables.items():
        if name == visits:
            continue
        copied = plan.join(frame, on="subject_id", how="inner", maintain_order="left_right")
        if schema.has_visit_id(name) and renumber is not None:
            copied = copied.join(renumber, on=["__id", "visit_id"], how="left", maintain_order="left")
            copied = copied.drop("visit_id").rename({"__new": "visit_id"})
        tables[name] = copied.drop("subject_id").rename({"__id": "subject_id"})
    for name, table in schema.tables.items():
        for c, column in table.columns.items():
            if column.kind == "identifier":
                made = pl.lit(None) if column.missing else pl.int_range(1, pl.len() + 1)
                tables[name] = tables[name].with_columns(made.cast(pl.String).alias(c))
    return Cohort.build(schema, tables, origin=cohort.origin)


def bootstrap(cohort: Cohort, n: int, rng: Rng) -> Cohort:
    """`n` subjects drawn with replacement, whole, under new ids 1..n.

    Raises:
        DataError: the cohort has no subject.
    """
    plan = _draw_subjects(cohort, n, rng)
    origin = Origin("synthetic", "bootstrap", seed=rng.seed)
    return replace(relabel(cohort, plan), origin=origin)


def independent(cohort: Cohort, n: int, rng: Rng) -> Cohort:
    """`n` subjects whose columns are drawn apart, missing cells included.

    The skeleton (who has how many rows, and the order of times) is that of resampled subjects; then every column of
    every table (a code and its value count as one) and the gaps between rows are permuted over the whole cohort.
    Marginals and row counts survive, every association but that of row counts between tables is gone.
    """
    base = relabel(cohort, _draw_subjects(cohort, n, rng))
    schema, tables = cohort.schema, {}
    for name, frame in base.tables.items():
        draw = rng.child("independent", name).numpy
        table = schema.tables[name]
        order = {column: draw.permutation(frame.height) for column in table.columns}
        if table.code and table.value:
            order[table.value] = order[table.code]
        frame = frame.with_columns(frame[column].gather(rows) for column, rows in order.items())
        if schema.has_time(name) and schema.clock != "order" and frame.height:
            frame = _permute_gaps(frame, draw)
        tables[name] = frame
    return Cohort.build(schema, tables, origin=Origin("synthetic", "independent", seed=rng.seed))


def _draw_subjects(cohort: Cohort, n: int, rng: Rng) -> pl.DataFrame:
    subjects = cohort.subjects
    if subjects.is_empty():
        raise DataError(
            "",
            [
                Problem(
                    "no-subjects", cohort.schema.name, "the cohort has no subject to draw from", "Read some data first."
                )
            ],
        )
    chosen = rng.child("bootstrap").numpy.integers(0, subjects.len(), n)
    return pl.DataFrame({"subject_id": subjects.gather(chosen), "new_id": np.arange(1, n + 1, dtype=np.int64)})


def _permute_gaps(frame: pl.DataFrame, draw: np.random.Generator) -> pl.DataFrame:
    """Starts are permuted among starts and gaps among gaps, then summed up again within each subject."""
    frame = frame.sort("subject_id", "time", maintain_order=True, nulls_last=True)
    ticks = frame["time"].cast(pl.Int64)
    known = frame["time"].is_not_null().to_numpy()
    rows = np.flatnonzero(known)
    if not len(rows):
        return frame
    time = ticks.gather(rows).to_numpy().astype(np.int64)
    subject = frame["subject_id"].rle_id().gather(rows).to_numpy()
    first = np.concatenate([[True], subject[1:] != subject[:-1]])
    gap = np.where(first, time, time - np.concatenate([[0], time[:-1]]))
    for part in (first, ~first):
        gap[part] = gap[part][draw.permutation(int(part.sum()))]
    total = np.cumsum(gap)
    start = np.flatnonzero(first)
    before = (total - gap)[start]
    new = total - np.repeat(before, np.diff(np.append(start, len(gap))))
    full = np.zeros(frame.height, dtype=np.int64)
    full[rows] = new
    return frame.with_columns(pl.when(pl.Series(known)).then(pl.Series(full).cast(frame["time"].dtype)).alias("time"))
