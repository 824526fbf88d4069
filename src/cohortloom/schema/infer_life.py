"""Who is followed how long, and how often something is recorded: what `simulate` needs of a draft beyond its columns.

    occasions of a patient = distinct times of the table of visits, or of all event tables where there are no visits
    every, regularity      = mean and 1 / cv^2 of the gaps between them (gamma)
    length                 = span and half a gap, gamma with the mean and cv of the patients
    stay                   = last row of a visit since its start, where rows name the visit they belong to (a stay)
    draws_every            = so that the most frequent code of a visit comes about once a moment
    rows of statics        = share of patients with one, in tables that few have
    rows of events         = rows, or rows of each code, per occasion, or per moment of a stay

All are means over patients in two digits; months of enrolment go outwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cohortloom.schema.drafted import column_of, moments, time_of
from cohortloom.schema.guess import FEW
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import TIME_UNITS

__all__ = ["add_life"]

_MOST_CODES = 150
_MOST_MOMENTS = 200
_FEWEST_MOMENTS = 1.5  #: Rows of the most frequent code per visit, from which visits last.


def add_life(data: dict[str, Any], sheets: Mapping[str, Sheet], notes: dict[tuple, str]) -> None:
    """Add `simulation`, and priors of codes and of missing cells, to a drafted schema.

    Args:
        data: The schema as plain data.
        sheets: Table -> its file.
        notes: Takes the comments.
    """
    shares = _shares(data, sheets)
    if shares:
        data["simulation"] = {"rows": shares}
    times = {}
    for name, table in data["tables"].items():
        if table["role"] != "static" and (found := _times(sheets[name], table, data["clock"])) is not None:
            times[name] = found
    spine = next((times[n] for n, t in data["tables"].items() if t["role"] == "visit" and n in times), None)
    spine = spine if spine is not None else pl.concat(times.values()) if times else None
    if spine is None:
        return
    spine = spine.unique().sort("s", "t")
    stay = _stay(data, sheets)
    per = spine.group_by("s").agg(n=pl.len(), first=pl.col("t").min(), span=pl.col("t").max() - pl.col("t").min())
    gaps = spine.select(pl.col("t").diff().over("s").alias("g")).drop_nulls().filter(pl.col("g") > 0)["g"].to_numpy()
    often = per.filter(pl.col("n") > 1).height >= FEW
    if per.height < FEW or not (often or stay):
        return
    shortest = np.median(gaps) if often else stay.mean  # type: ignore[union-attr]
    unit = "min" if shortest < 1 / 144 else "h" if shortest < 0.5 else "d"
    day = TIME_UNITS[unit]
    if often:
        usual = gaps[np.abs(np.log(gaps / np.median(gaps))) < 0.5]
        if len(usual) > 0.9 * len(gaps):  # a recorder, its pauses left out
            gaps = usual
            per = per.with_columns(span=(pl.col("n") - 1) * gaps.mean())
    gap = float(gaps.mean()) if often else stay.mean  # type: ignore[union-attr]
    length = (per["span"] + 0.5 * gap).to_numpy()
    if stay:
        length = np.maximum(length, stay.mean)
    follow: dict[str, Any] = {"length": _sojourn(length, day, 1.0 if stay else 0.3)}  # no end within most stays
    if data["clock"] == "timestamp":
        first = pl.Series([per["first"].min(), per["first"].max()]).cast(pl.Int32).cast(pl.Date)
        follow |= {"opens": str(first.dt.month_start()[0]), "closes": str(first.dt.month_end()[1])}
    visit: dict[str, Any] = {"at_start": 1.0}
    if often:
        regular = float(np.clip((gap / max(gaps.std(), 1e-9)) ** 2, 0.3, 1000))
        visit = {"every": _two(gap / day), "regularity": _two(regular)} | visit
    if stay:
        visit |= {"stay": stay.law(day), "draws_every": _two(stay.every / day)}
    rows = dict(shares)
    for name, table in data["tables"].items():
        if table["role"] != "event" or "layout" in table["source"]:
            continue
        if name in times:
            rows |= _rows(name, table, sheets[name], times[name], spine, gap / day, stay)
        elif "visit" in table["source"]:
            untimed = pl.DataFrame({"s": sheets[name].ids(sheets[name].visit or ""), "t": 0.0})
            rows |= _rows(name, table, sheets[name], untimed, spine, gap / day, None)
        elif not table.get("timed", True) and not table.get("value"):
            rows[name] = {"at": "patient", "count": _two(sheets[name].frame.height / per.height)}
    said: dict[str, Any] = {"unit": unit}
    if (spine["t"] == spine["t"].floor()).all() and not stay:
        said["resolution"] = "d"
    data["simulation"] = said | {"follow_up": follow, "visits": {"visit": visit}} | ({"rows": rows} if rows else {})
    notes["simulation",] = "For simulate: follow-up, gaps and rows per visit are on average as in the files."
    for name in times:
        _missing(data["tables"][name], sheets[name])


def _shares(data: dict[str, Any], sheets: Mapping[str, Sheet]) -> dict[str, Any]:
    """Static tables in which many patients have no row (those who died), and the share of those who have one."""
    ids = {n: sheets[n].ids(sheets[n].subject or "").drop_nulls().unique() for n in data["tables"] if sheets[n].subject}
    if not ids:
        return {}
    n = pl.concat(list(ids.values())).n_unique()
    few = {name: ids[name].len() / n for name, table in data["tables"].items() if table["role"] == "static"}
    return {name: {"chance": _two(share)} for name, share in few.items() if share < 0.98}


@dataclass(frozen=True)
class _Stay:
    """Visits that last: lengths [d], the gap between moments in them [d], and moments of a visit on average."""

    lengths: np.ndarray
    every: float
    moments: float

    @property
    def mean(self) -> float:
        return float(self.lengths.mean())

    def law(self, day: float) -> dict[str, Any]:
        return _sojourn(self.lengths, day)


def _stay(data: dict[str, Any], sheets: Mapping[str, Sheet]) -> _Stay | None:
    """How long visits last, by the rows that name them; None where rows of a visit come at its start alone."""
    home = next((n for n, t in data["tables"].items() if t["role"] == "visit" and "visit" in t["source"]), None)
    if home is None or (start := _of_visits(sheets[home], data["tables"][home], data["clock"])) is None:
        return None
    start = start.group_by("v").agg(start=pl.col("t").min())
    lasts, most = [], 1.0
    for name, table in data["tables"].items():
        if table["role"] != "event" or "visit" not in table["source"]:
            continue
        if (rows := _of_visits(sheets[name], table, data["clock"])) is None:
            continue
        rows = rows.join(start, on="v")
        lasts.append(rows.select("v", last=pl.col("t") - pl.col("start")))
        sheet, code = sheets[name], sheets[name].code if table.get("value") else None
        busiest = (
            rows.group_by("v", "t").len().height if code is None else sheet.ids(code).value_counts()["count"].max()
        )
        most = max(most, int(busiest or 0) / start.height)  # type: ignore[arg-type]
    if not lasts or most < _FEWEST_MOMENTS:
        return None
    lengths = pl.concat(lasts).group_by("v").agg(pl.col("last").max())["last"].to_numpy()
    lengths = lengths[lengths > 0]
    moments = min(most, _MOST_MOMENTS)
    return _Stay(lengths, float(lengths.mean()) / (moments - 0.5), moments) if len(lengths) >= FEW else None


def _of_visits(sheet: Sheet, table: dict[str, Any], clock: str) -> pl.DataFrame | None:
    """Visit `v` and time `t` [d] of each row."""
    if sheet.visit is None or (found := _when(sheet, table, clock)) is None:
        return None
    return sheet.frame.select(t=found).with_columns(v=sheet.ids(sheet.visit)).drop_nulls()


def _sojourn(lengths: np.ndarray, day: float, least: float = 0.3) -> dict[str, Any]:
    """A law of lengths [d] by their mean and cv, the shape `least` or more."""
    cv = lengths.std() / lengths.mean()
    law = {"law": "fixed"} if cv < 0.02 else {"law": "gamma", "shape": _two(float(np.clip(1 / cv**2, least, 1000)))}
    return {"mean": _two(lengths.mean() / day), **law}


def _times(sheet: Sheet, table: dict[str, Any], clock: str) -> pl.DataFrame | None:
    """Patient `s` and time `t` [d] of each row; None where the table has no times."""
    if sheet.subject is None or (when := _when(sheet, table, clock)) is None:
        return None
    found = sheet.frame.select(when.alias("t")).with_columns(s=sheet.ids(sheet.subject)).select("s", "t").drop_nulls()
    return found if 2 * found.height > sheet.frame.height else None


def _when(sheet: Sheet, table: dict[str, Any], clock: str) -> pl.Expr | None:
    """Time of each row [d]; None where the table has none."""
    name, unit = time_of(table)
    if clock == "order" or name not in sheet.frame.columns:
        return None
    return moments(sheet, name, unit)  # type: ignore[arg-type]


def _rows(
    name: str,
    table: dict[str, Any],
    sheet: Sheet,
    times: pl.DataFrame,
    spine: pl.DataFrame,
    gap: float,
    stay: _Stay | None,
) -> dict[str, Any]:
    """Rows of an event table by its `times`, beside the occasions `spine`; codes get a chance, or a weight, each."""
    n_rows = times.height
    apart = table.get("parent") is None or "visit" not in table["source"]
    strewn = apart and times.join(spine, on=["s", "t"], how="semi").height < 0.5 * n_rows
    spread: dict[str, Any] = {"delay": _two(gap), "batch": False} if strewn else {}
    per = float(spine.height)
    if stay and not apart:
        spread, per = {"at": "moment"}, per * stay.moments
    once = apart and not strewn and times.n_unique() > 0.98 * n_rows <= 0.98 * per
    usual = {"chance" if once else "count": _two(n_rows / per), **spread}
    code = table.get("code")
    if code is None:
        return {name: usual}
    column = table["columns"][code]
    known = set(column.get("items", column.get("levels", ())))
    held = pl.DataFrame({"c": sheet.ids(sheet.code or ""), "s": sheet.ids(sheet.subject or sheet.visit or "")})
    codes = (
        held.drop_nulls("c").group_by("c").agg(n=pl.len(), who=pl.col("s").n_unique()).sort("n", "c", descending=True)
    )
    if not table.get("value"):
        counts = [(c, n) for c, n, _ in codes.rows() if c in known][:_MOST_CODES]
        if counts:
            column["prior"] = {"weights": {c: _two(n / n_rows) for c, n in counts}}
        return {name: usual}
    counts = [(c, n) for c, n, who in codes.rows() if c in known or who >= FEW][:_MOST_CODES]
    if not counts:
        return {name: usual}
    each = n_rows / sum(n for _, n in counts) / per  # those left out are shared among the others
    samples = max(counts[0][1] * each, 1.0)
    chances = {c: _two(min(0.99, n * each / samples)) for c, n in counts}
    bare = {c: {} if c in known else {"missing": 1.0} for c in chances}  # no number stands beside it
    column["prior"] = {"codes": {c: {"chance": chance, **bare[c]} for c, chance in chances.items()}}
    if samples > 1:
        spread = {k: v for k, v in spread.items() if k != "batch"} | {"count": _two(samples)}
    return {name: spread} if spread else {}


def _missing(table: dict[str, Any], sheet: Sheet) -> None:
    """How often a cell of a wide table is empty, where that is more than now and then."""
    if table.get("code") or "layout" in table["source"]:
        return
    for ours, column in table["columns"].items():
        p = sheet.profiles.get(column_of(table, ours))
        if p is not None and p.share_missing >= 0.05 and column["kind"] in ("number", "count", "flag", "category"):
            column["prior"] = {"missing": round(p.share_missing, 2)}


def _two(value: float) -> float:
    return float(f"{value:.2g}")
