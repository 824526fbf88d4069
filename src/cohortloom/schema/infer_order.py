"""Which date of a patient never comes after another: rules for a draft.

No model of two dates holds their order in every patient: one drawn registry in twelve saw people before they fell ill.
So an order that holds in the files without exception is drafted as a rule, where it is close enough to be broken: the
5 % quantile of the distance lies within a tenth of its usual range (5 to 95 %) of zero. That a birth precedes every
visit by decades needs no rule. An order that follows from two others is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl

from cohortloom.schema.infer_life import moments
from cohortloom.schema.sheets import Sheet

__all__ = ["add_order"]

FEWEST = 30  #: Patients in whom an order must hold: one broken in 10 % of them would be seen with a chance of 96 %.
NEAR = 0.1


def add_order(data: dict[str, Any], sheets: Mapping[str, Sheet], head: list[str]) -> None:
    """Add `rules` to a drafted schema.

    Args:
        data: The schema as plain data, with clock "timestamp" (else nothing is done).
        sheets: Table -> its file.
        head: Takes a comment.
    """
    if data["clock"] != "timestamp":
        return
    once, often, within = {}, {}, []
    for name, table in data["tables"].items():
        found = _dates(sheets[name], table)
        if table["role"] == "static":
            once |= {f"{name}.{c}": found.select("s", t=c).drop_nulls().unique("s") for c in _columns(table)}
        elif "time" in found.columns:
            often[f"{name}.time"] = found.select("s", t="time").drop_nulls()
            within += [
                (f"{name}.{a}", f"{name}.{b}")
                for a, b in permutations(["time", *_columns(table)], 2)
                if _ordered(found.select("s", a=a, b=b))
            ]
    pairs = [*permutations(once, 2), *((a, b) for a in once for b in often), *((b, a) for a in once for b in often)]
    moments_of = once | often
    across = [(a, b) for a, b in pairs if _ordered(_joined(moments_of[a], moments_of[b]))]
    orders = _shortest(across) + _shortest(within)
    if orders:
        data["rules"] = [{"kind": "before", "first": a, "then": b} for a, b in orders]
        head.append("Orders of dates that hold in every patient of the files are rules: look whether they always hold.")


def _columns(table: dict[str, Any]) -> list[str]:
    return [name for name, column in table["columns"].items() if column["kind"] == "timestamp"]


def _dates(sheet: Sheet, table: dict[str, Any]) -> pl.DataFrame:
    """Patient `s`, and `time` and timestamp columns [d] of each row, as far as they are columns of the file."""
    source = table["source"]
    theirs = {c: source.get("columns", {}).get(c, c) for c in _columns(table)}
    time = source.get("time")
    if time is not None:
        theirs["time"] = time if isinstance(time, str) else time["column"]
    known = {c: moments(sheet, name) for c, name in theirs.items() if name in sheet.frame.columns}
    absent = {c: pl.lit(None, dtype=pl.Float64) for c in _columns(table) if c not in known}
    frame = sheet.frame.select(**known, **absent) if known else pl.DataFrame(schema=dict.fromkeys(absent, pl.Float64))
    ids = sheet.ids(sheet.subject) if known and sheet.subject else pl.Series([], dtype=pl.String)
    return frame.head(len(ids)).with_columns(s=ids)


def _joined(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    return a.rename({"t": "a"}).join(b.rename({"t": "b"}), on="s")


def _ordered(pairs: pl.DataFrame) -> bool:
    """Is a never after b, and close to it?"""
    known = pairs.drop_nulls()
    if known["s"].n_unique() < FEWEST:
        return False
    gap = (known["b"] - known["a"]).to_numpy()
    low, high = np.quantile(gap, [0.05, 0.95])
    return bool(gap.min() >= 0 and gap.max() > 0 and low <= NEAR * (high - low))


def _shortest(orders: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that follow from two others."""
    known = set(orders)
    places = {place for pair in orders for place in pair}
    return [(a, b) for a, b in orders if not any((a, c) in known and (c, b) in known for c in places - {a, b})]
