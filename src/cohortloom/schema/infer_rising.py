"""What never falls in a patient, or never rises (a sum so far, a functional score, a lasting diagnosis): for a draft.

A model of single rows lets a sum fall in half of its rows. So a number, ordinal or flag of a visit or event table that
falls (rises) in no patient of the files is drafted with a rule `monotone`, where that would have been seen: it goes the
other way in 30 patients, and in .3 of all steps from row to row, or 100 steps begin where it had already moved.
Levels that are numbers and go one way stand in order, so such a category becomes an ordinal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from cohortloom.schema.drafted import column_of, row_times
from cohortloom.schema.guess import names_things
from cohortloom.schema.infer_order import FEWEST
from cohortloom.schema.profile import snake
from cohortloom.schema.sheets import Sheet

__all__ = ["add_rising"]

RISES = 0.3  #: Share of the steps from row to row.
AFTER = 100  #: Steps after the first rise of a patient.
_YES, _NO = ("1", "yes", "y", "true", "t"), ("0", "no", "n", "false", "f")


def add_rising(data: dict[str, Any], sheets: Mapping[str, Sheet], notes: dict[tuple, str], head: list[str]) -> None:
    """Add `rules` to a drafted schema, and make categories of levels that go one way ordinals.

    Args:
        data: The schema as plain data, with clock "timestamp" or "offset" (else nothing is done).
        sheets: Table -> its file.
        notes: Takes comments of columns.
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
            if column == table.get("value") or (ranks := _ranks(sheet, table, column, spec)) is None:
                continue
            rows = clock.with_columns(x=ranks)
            for direction, way in (("up", rows), ("down", rows.with_columns(-pl.col("x")))):
                if not _rises(way):
                    continue
                said = {} if direction == "up" else {"direction": direction}
                rules.append({"kind": "monotone", "column": f"{name}.{column}", **said})
                if spec["kind"] == "category":
                    spec["kind"] = "ordinal"
                    place = "tables", name, "columns", column
                    notes[place] = f"Levels that only {'rise' if direction == 'up' else 'fall'}. {notes.get(place, '')}"
    if rules:
        data["rules"] = data.get("rules", []) + rules
        head.append(
            "What falls (or rises) in no patient of the files (sums so far) is a rule: look whether it never does."
        )


def _ranks(sheet: Sheet, table: dict[str, Any], column: str, spec: dict[str, Any]) -> pl.Series | None:
    """The cells of a column as numbers that can be compared; None where they can't."""
    theirs = column_of(table, column)
    if theirs not in sheet.frame.columns:
        return None
    if spec["kind"] in ("number", "count"):
        known = sheet.profiles[theirs].kind == "number"
        return sheet.frame[theirs].cast(pl.Float64, strict=False) if known else None
    words = sheet.ids(theirs).replace(table["source"].get("values", {}).get(column, {}))
    if spec["kind"] == "flag":
        read = dict.fromkeys(_YES, 1.0) | dict.fromkeys(_NO, 0.0)
        return words.str.to_lowercase().replace_strict(read, default=None, return_dtype=pl.Float64)
    levels = spec.get("levels", ())
    if len(levels) < 3:
        return None
    if spec["kind"] == "ordinal":
        return words.replace_strict(list(levels), list(range(len(levels))), default=None, return_dtype=pl.Float64)
    if (
        spec["kind"] == "category"
        and not names_things(snake(theirs))
        and not pl.Series(levels).cast(pl.Float64, strict=False).null_count()
    ):
        return words.cast(pl.Float64, strict=False)
    return None


def _rises(rows: pl.DataFrame) -> bool:
    """Does x of columns s, t, x fall in no patient, and rise often in enough of them?"""
    steps = rows.drop_nulls().sort("s", "t", maintain_order=True)
    steps = steps.with_columns(step=pl.col("x").diff().over("s"), first=pl.col("x").first().over("s"))
    steps = steps.drop_nulls("step")
    if (steps["step"] < 0).any():
        return False
    up = steps.filter(pl.col("step") > 0)
    after = steps.filter(pl.col("x") - pl.col("step") > pl.col("first")).height
    return up["s"].n_unique() >= FEWEST and (up.height >= RISES * steps.height or after >= AFTER)
