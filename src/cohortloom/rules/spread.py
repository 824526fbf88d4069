"""Bringing a column of one table to the rows of another.

Rules speak of two tables at once ("birth before every lab"). Rows are linked by the row itself (same table), by visit
(one of the two is the visit table and the other names visits), or else by subject. Where several rows of the source
meet one row of the target, `how` says what counts: the smallest, the largest, the first, or whether any is true.
"""

from typing import Literal

import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema import Schema

__all__ = ["Link", "link_of", "spread"]

Link = Literal["row", "visit", "subject"]


def link_of(schema: Schema, source: str, target: str) -> Link:
    """How rows of two tables belong together."""
    if source == target:
        return "row"
    by_visit = schema.has_visit_id(source) and schema.has_visit_id(target)
    return "visit" if by_visit and schema.visit_table in (source, target) else "subject"


def spread(
    cohort: Cohort,
    source: str,
    values: pl.Series,
    target: str,
    how: Literal["min", "max", "first", "any"],
    link: Link | None = None,
) -> pl.Series:
    """Values of a source table at the rows of a target table.

    Args:
        cohort: Where both tables are.
        source: Table `values` has one entry per row of.
        values: What is brought over; nulls don't count.
        target: Table whose rows are asked for.
        how: What counts if several source rows meet one target row.
        link: How rows belong together; None: by `link_of`.

    Returns:
        One entry per row of the target; null where nothing is linked.
    """
    link = link or link_of(cohort.schema, source, target)
    if link == "row":
        return values
    keys = ["subject_id", "visit_id"] if link == "visit" else ["subject_id"]
    frame = cohort.tables[source].select(keys).with_columns(values.alias("value")).filter(pl.col("value").is_not_null())
    value = pl.col("value")
    chosen = {"min": value.min(), "max": value.max(), "first": value.first(), "any": value.any()}[how]
    grouped = frame.group_by(keys, maintain_order=True).agg(chosen)
    joined = cohort.tables[target].select(keys).join(grouped, on=keys, how="left", maintain_order="left")
    return joined["value"]
