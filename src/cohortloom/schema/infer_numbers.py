"""Which number of a row is never above another (two Apgar scores, doses taken and due): rules for a draft.

No model of two numbers holds their order in every row. So an order of two numbers of one unit that holds in all rows of
the files in which both are known, of 30 patients or more, is drafted as a rule `at_most` where they go together
(correlation .3 or more), overlap, and lie close enough for it to be broken: the 5 % quantile of what is between them is
within a tenth of its usual range (5 to 95 %) of zero, and of the range of either number. An order that follows from two
others is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from cohortloom.schema.drafted import column_of
from cohortloom.schema.infer_order import FEWEST, NEAR, shortest
from cohortloom.schema.sheets import Sheet

__all__ = ["add_numbers"]

_MOST, _SAMPLE = 120, 200
_ALIKE = 0.3  #: Least correlation.


def add_numbers(data: dict[str, Any], sheets: Mapping[str, Sheet], head: list[str]) -> None:
    """Add `rules` to a drafted schema.

    Args:
        data: The schema as plain data.
        sheets: Table -> its file.
        head: Takes a comment.
    """
    rules = []
    for name, table in data["tables"].items():
        if "layout" in table["source"] or table["source"].get("repeated"):
            continue
        orders = _orders(sheets[name], table)
        rules += [{"kind": "at_most", "column": f"{name}.{a}", "of": f"{name}.{b}"} for a, b in shortest(orders)]
    if rules:
        data["rules"] = data.get("rules", []) + rules
        head.append("Numbers that are above another of their row in no row of the files are rules: look at each.")


def _orders(sheet: Sheet, table: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of columns of which the first is never above the second, and close to it."""
    numbers = {}
    for column, spec in table["columns"].items():
        theirs = column_of(table, column)
        known = theirs in sheet.frame.columns and sheet.profiles[theirs].kind == "number"
        if spec["kind"] in ("number", "count") and known and column != table.get("value"):
            unit = "1" if spec["kind"] == "count" else spec.get("unit", "1")
            numbers[column] = unit, sheet.frame[theirs].cast(pl.Float64, strict=False).to_numpy()
    if len(numbers) > _MOST or not sheet.subject:
        return []
    subject = sheet.ids(sheet.subject).to_numpy()
    found = []
    for a, b in combinations(numbers, 2):
        (unit, x), (other, y) = numbers[a], numbers[b]
        if unit != other:
            continue
        few = slice(None, None, max(1, len(x) // _SAMPLE))
        gap = (y - x)[few]
        if np.nanmin(gap, initial=np.inf) < 0 < np.nanmax(gap, initial=-np.inf):
            continue
        for first, then, below, above in ((a, b, x, y), (b, a, y, x)):
            if _never_above(below, above, subject):
                found.append((first, then))
    return found


def _never_above(below: np.ndarray, above: np.ndarray, subject: np.ndarray) -> bool:
    known = np.isfinite(below) & np.isfinite(above)
    x, y = below[known], above[known]
    gap = y - x
    if not len(gap) or gap.min() < 0 or np.ptp(gap) == 0 or len(np.unique(subject[known])) < FEWEST:
        return False
    (low, high), of_x, of_y = (np.quantile(v, [0.05, 0.95]) for v in (gap, x, y))
    near = low <= NEAR * min(high - low, np.ptp(of_x), np.ptp(of_y))
    return bool(near and of_x[1] > of_y[0] and np.corrcoef(x, y)[0, 1] > _ALIKE)
