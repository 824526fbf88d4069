"""Who is followed how long, and how often something is recorded: what `simulate` needs of a draft beyond its columns.

    occasions of a patient = distinct times of the table of visits, or of all event tables where there are no visits
    every, regularity      = mean and 1 / cv^2 of the gaps between them (gamma)
    length                 = span and half a gap, gamma with the mean and cv of the patients
    rows of events         = rows, or rows of each code, per occasion

All are means over patients in two digits; months of enrolment go outwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from cohortloom.schema.dates import read_date
from cohortloom.schema.guess import FEW
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import TIME_UNITS

__all__ = ["add_life", "counted", "moments"]

_MOST_CODES = 60


def add_life(data: dict[str, Any], sheets: Mapping[str, Sheet], notes: dict[tuple, str]) -> None:
    """Add `simulation`, and priors of codes and of missing cells, to a drafted schema.

    Args:
        data: The schema as plain data.
        sheets: Table -> its file.
        notes: Takes the comments.
    """
    times = {}
    for name, table in data["tables"].items():
        if table["role"] != "static" and (found := _times(sheets[name], table, data["clock"])) is not None:
            times[name] = found
    spine = next((times[n] for n, t in data["tables"].items() if t["role"] == "visit" and n in times), None)
    spine = spine if spine is not None else pl.concat(times.values()) if times else None
    if spine is None:
        return
    spine = spine.unique().sort("s", "t")
    per = spine.group_by("s").agg(n=pl.len(), first=pl.col("t").min(), span=pl.col("t").max() - pl.col("t").min())
    gaps = spine.select(pl.col("t").diff().over("s").alias("g")).drop_nulls().filter(pl.col("g") > 0)["g"].to_numpy()
    if per.height < FEW or per.filter(pl.col("n") > 1).height < FEW:
        return
    unit = "min" if np.median(gaps) < 1 / 144 else "h" if np.median(gaps) < 0.5 else "d"
    day = TIME_UNITS[unit]
    usual = gaps[np.abs(np.log(gaps / np.median(gaps))) < 0.5]
    if len(usual) > 0.9 * len(gaps):  # a recorder, its pauses left out
        gaps = usual
        per = per.with_columns(span=(pl.col("n") - 1) * gaps.mean())
    length = (per["span"] + 0.5 * gaps.mean()).to_numpy()
    cv = length.std() / length.mean()
    law = {"law": "fixed"} if cv < 0.02 else {"law": "gamma", "shape": _two(float(np.clip(1 / cv**2, 0.3, 1000)))}
    follow: dict[str, Any] = {"length": {"mean": _two(length.mean() / day), **law}}
    if data["clock"] == "timestamp":
        first = pl.Series([per["first"].min(), per["first"].max()]).cast(pl.Int32).cast(pl.Date)
        follow |= {"opens": str(first.dt.month_start()[0]), "closes": str(first.dt.month_end()[1])}
    regular = float(np.clip((gaps.mean() / max(gaps.std(), 1e-9)) ** 2, 0.3, 1000))
    visit = {"every": _two(gaps.mean() / day), "regularity": _two(regular), "at_start": 1.0}
    rows = {}
    for name, part in times.items():
        if data["tables"][name]["role"] == "event" and "layout" not in data["tables"][name]["source"]:
            rows |= _rows(name, data["tables"][name], sheets[name], part, spine, gaps.mean() / day)
    said: dict[str, Any] = {"unit": unit}
    if (spine["t"] == spine["t"].floor()).all():
        said["resolution"] = "d"
    data["simulation"] = said | {"follow_up": follow, "visits": {"visit": visit}} | ({"rows": rows} if rows else {})
    notes["simulation",] = "For simulate: follow-up, gaps and rows per visit are on average as in the files."
    for name in times:
        _missing(data["tables"][name], sheets[name])


def _times(sheet: Sheet, table: dict[str, Any], clock: str) -> pl.DataFrame | None:
    """Patient `s` and time `t` [d] of each row; None where the table has no times."""
    time = table["source"].get("time")
    if time is None or clock == "order" or sheet.subject is None:
        return None
    name = time if isinstance(time, str) else time["column"]
    if name not in sheet.frame.columns:
        return None
    if clock == "offset":
        when = counted(name, time.get("unit", "d") if isinstance(time, dict) else "d")
    else:
        when = moments(sheet, name)
    found = sheet.frame.select(when.alias("t")).with_columns(s=sheet.ids(sheet.subject)).select("s", "t").drop_nulls()
    return found if 2 * found.height > sheet.frame.height else None


def counted(name: str, unit: str) -> pl.Expr:
    """Numbers of a column of a file, in a unit since the origin [d]."""
    return pl.col(name).cast(pl.Float64, strict=False) * TIME_UNITS[unit]


def moments(sheet: Sheet, name: str) -> pl.Expr:
    """Dates of a column of a file [d]; null where one can't be read."""
    if sheet.frame.schema[name].is_temporal():
        moment = pl.col(name)
    else:
        layout = sheet.profiles[name].format or "%Y-%m-%d|%Y-%m-%d %H:%M:%S|%Y-%m-%d %H:%M"
        moment = read_date(pl.col(name).cast(pl.String).str.strip_chars(), layout)
    return moment.cast(pl.Datetime("us")).cast(pl.Int64) / 86_400e6


def _rows(
    name: str, table: dict[str, Any], sheet: Sheet, part: pl.DataFrame, spine: pl.DataFrame, gap: float
) -> dict[str, Any]:
    """Rows of an event table; codes get a chance, or a weight, each."""
    occasions = spine.height
    apart = table.get("parent") is None or "visit" not in table["source"]
    spread: dict[str, Any] = {"delay": _two(gap), "batch": False} if apart else {}
    code = table.get("code")
    if code is None:
        return {name: {"count": _two(part.height / occasions), **spread}}
    column = table["columns"][code]
    known = set(column.get("items", column.get("levels", ())))
    counts = sheet.ids(sheet.code or "").drop_nulls().value_counts(sort=True, name="n").rows()
    counts = [(c, n) for c, n in counts if c in known][:_MOST_CODES]
    if not counts:
        return {}
    if table.get("value"):
        column["prior"] = {"codes": {c: {"chance": min(0.99, _two(n / occasions))} for c, n in counts}}
        return {name: spread} if spread else {}
    column["prior"] = {"weights": {c: _two(n / part.height) for c, n in counts}}
    return {name: {"count": _two(part.height / occasions), **spread}}


def _missing(table: dict[str, Any], sheet: Sheet) -> None:
    """How often a cell of a wide table is empty, where that is more than now and then."""
    if table.get("code") or "layout" in table["source"]:
        return
    for ours, column in table["columns"].items():
        p = sheet.profiles.get(table["source"].get("columns", {}).get(ours, ours))
        if p is not None and p.share_missing >= 0.05 and column["kind"] in ("number", "count", "flag", "category"):
            column["prior"] = {"missing": round(p.share_missing, 2)}


def _two(value: float) -> float:
    return float(f"{value:.2g}")
