"""Which numbers never fall in a patient (a cumulative dose, a line of therapy): rules for a draft.

A model of single rows lets a sum fall in half of its rows. So a number of a visit or event table that falls in no
patient of the files, and rises often enough that falls would have been seen, is drafted with a rule `monotone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from cohortloom.schema.drafted import column_of, row_times
from cohortloom.schema.infer_order import FEWEST
from cohortloom.schema.sheets import Sheet

__all__ = ["add_rising"]

RISES = 0.3  #: Share of the steps from row to row.


def add_rising(data: dict[str, Any], sheets: Mapping[str, Sheet], head: list[str]) -> None:
    """Add `rules` to a drafted schema.

    Args:
        data: The schema as plain data, with clock "timestamp" or "offset" (else nothing is done).
        sheets: Table -> its file.
        head: Takes a comment.
    """
    if data["clock"] == "order":
        return
    rules = []
    for name, table in data["tables"].items():
        sheet = sheets[name]
        if table["role"] == "static" or not sheet.subject or (times := row_times(sheet, table)) is None:
            continue
        clock = pl.DataFrame({"s": sheet.ids(sheet.subject), "t": times})
        for column, spec in table["columns"].items():
            theirs = column_of(table, column)
            if spec["kind"] not in ("number", "count") or column == table.get("value"):
                continue
            if theirs not in sheet.frame.columns or sheet.profiles[theirs].kind != "number":
                continue
            if _rises(clock.with_columns(x=sheet.frame[theirs].cast(pl.Float64, strict=False))):
                rules.append({"kind": "monotone", "column": f"{name}.{column}"})
    if rules:
        data["rules"] = data.get("rules", []) + rules
        head.append("Numbers that fall in no patient of the files (sums so far) are rules: look whether they never do.")


def _rises(rows: pl.DataFrame) -> bool:
    """Does x of columns s, t, x fall in no patient, and rise often in enough of them?"""
    steps = rows.drop_nulls().sort("s", "t", maintain_order=True)
    steps = steps.with_columns(step=pl.col("x").diff().over("s")).drop_nulls("step")
    up = steps.filter(pl.col("step") > 0)
    enough = up["s"].n_unique() >= FEWEST and up.height >= RISES * steps.height
    return bool(enough and not (steps["step"] < 0).any())
