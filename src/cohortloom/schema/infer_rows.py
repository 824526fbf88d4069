"""What rows of a patient, a visit or a moment share, and what has ended when the next row begins: rules for a draft.

A model of single rows draws a caregiver for each number that one nurse charted at one moment, a line of therapy that
goes on when the next has begun, and a day of death beside another moment of it. So

    constant     a column has one value in all rows of each patient (else visit, else moment) of the files, where values
                 dealt at random would have differed in 15 groups or more, and 100 rows say it again
    no_overlap   a moment of a row is never after the patient's next row, and close to it: the 5 % quantile of the time
                 between lies within a tenth of the range of these times, or of what rows last
    baseline     a static number or level is the first known one of a column of rows in every patient
    nothing_after   a visit that ends with death, by a word for it
    same_day     a date of the patient is the day of a moment in rows of others, wherever that is known
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from cohortloom.schema.drafted import column_of, row_times
from cohortloom.schema.guess import FEW
from cohortloom.schema.infer_order import DEATH, FEWEST, NEAR, dates_of
from cohortloom.schema.sheets import Sheet

__all__ = ["add_rows"]

#: Rows that say a value again (exceptions are below 3 %), and groups that would differ by chance.
AGAIN, EXPECTED = 100, 15.0
DAYS = 8  #: Different days of a date.
_DEAD = re.compile(
    r"^(hospital |in-hospital )?(dead|died|death|deceased|expired|exitus|tod$|tot$|verstorben|gestorben)|"
    r"^(falleci|muert|exitus|d[ée]c[èe]s|d[ée]c[ée]d[ée])"
)


def add_rows(data: dict[str, Any], sheets: Mapping[str, Sheet], head: list[str]) -> None:
    """Add `rules` to a drafted schema.

    Args:
        data: The schema as plain data.
        sheets: Table -> its file.
        head: Takes comments.
    """
    rows = {name: table for name, table in data["tables"].items() if table["role"] != "static" and _plain(table)}
    constant = [rule for name, table in rows.items() for rule in _constant(data["clock"], name, table, sheets[name])]
    after = [rule for name, table in rows.items() for rule in _apart(data["clock"], name, table, sheets[name])]
    same = _last_stays(data, sheets) + (_same_days(data, sheets) if data["clock"] == "timestamp" else [])
    first = _baselines(data, sheets, rows) + _first_dates(data, sheets)
    if same or first:
        head.append("Dates and values that agree in every patient of the files (the day of death, say) are rules.")
    if constant:
        head.append("What never differs in rows of a patient, visit or moment is a rule: look whether it never can.")
    if after:
        head.append("What never goes on when the patient's next row begins is a rule: look whether it can.")
    if constant or after or first or same:  # dates are set before others are held against them
        data["rules"] = same + data.get("rules", []) + constant + after + first


def _plain(table: dict[str, Any]) -> bool:
    """Is a row of the file a row of the table?"""
    return "layout" not in table["source"] and not table["source"].get("repeated")


def _constant(clock: str, name: str, table: dict[str, Any], sheet: Sheet) -> list[dict[str, Any]]:
    keys = {"s": sheet.ids(sheet.subject or "")}
    within = {"subject": ["s"]}
    if table["role"] == "event" and "visit" in table["source"]:
        keys["v"], within["visit"] = sheet.ids(sheet.visit or ""), ["s", "v"]
    if table["role"] == "event" and clock != "order" and (times := row_times(sheet, table)) is not None:
        keys["t"] = times
        within["moment"] = ["s", "t"]
    rules = []
    for column in table["columns"]:
        theirs = column_of(table, column)
        if column in (table.get("code"), table.get("value")) or theirs not in sheet.frame.columns:
            continue
        cells = sheet.frame[theirs].cast(pl.String).replace("", None)
        known = pl.DataFrame(keys | {"x": cells}).drop_nulls("x")
        for span, by in within.items():
            if _never_differs(known, by):
                said = {} if span == "subject" else {"within": span}
                rules.append({"kind": "constant", "column": f"{name}.{column}", **said})
                break
    return rules


def _never_differs(known: pl.DataFrame, by: list[str]) -> bool:
    """Is x one value in each group, though chance would have shown others?"""
    groups = known.drop_nulls(by).group_by(by).agg(n=pl.len(), u=pl.col("x").n_unique()).filter(pl.col("n") > 1)
    if (groups["n"] - 1).sum() < AGAIN or groups["s"].n_unique() < FEWEST or (groups["u"] > 1).any():
        return False
    share = known["x"].value_counts()["count"] / known.height
    return groups.height * (1 - float((share**2).sum())) >= EXPECTED


def _apart(clock: str, name: str, table: dict[str, Any], sheet: Sheet) -> list[dict[str, Any]]:
    if clock == "order":
        return []
    found = dates_of(sheet, name, table)
    ends = [c for c, spec in table["columns"].items() if spec["kind"] == "timestamp" and f"{name}.{c}" in found.columns]
    if f"{name}.time" not in found.columns or not ends:
        return []
    found = found.drop_nulls(f"{name}.time").sort("s", f"{name}.time", maintain_order=True)
    found = found.with_columns(b=pl.col(f"{name}.time").shift(-1).over("s"))
    held = [c for c in ends if _end_before(found.select("s", "b", t=f"{name}.time", a=f"{name}.{c}"))]
    return [{"kind": "no_overlap", "column": f"{name}.{c}"} for c in held]


def _end_before(rows: pl.DataFrame) -> bool:
    """Does what lasts from t to a end before b, the next row, and not long before?"""
    both = rows.drop_nulls()
    if (rows["a"] < rows["t"]).any() or both["s"].n_unique() < FEWEST:
        return False
    gap, lasts = ((both[y] - both[x]).to_numpy() for x, y in (("a", "b"), ("t", "a")))
    (low, high), usual = np.quantile(gap, [0.05, 0.95]), np.quantile(lasts, 0.95)
    return bool(gap.min() >= 0 and usual > 0 and low <= NEAR * max(high - low, usual))


def _baselines(data: dict[str, Any], sheets: Mapping[str, Sheet], rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Statics that are the first known value of a column of visits or events, one column for each."""
    if data["clock"] == "order":
        return []
    firsts = {}
    for name, table in rows.items():
        if table.get("code") or (clock := row_times(sheets[name], table)) is None:
            continue
        for column, (kind, cells) in _cells(sheets[name], table).items():
            known = pl.DataFrame({"s": sheets[name].ids(sheets[name].subject or ""), "t": clock, "v": cells})
            known = known.drop_nulls().sort("s", "t", maintain_order=True)
            firsts[f"{name}.{column}"] = kind, known.group_by("s", maintain_order=True).first().drop("t")
    rules = []
    for name, table in data["tables"].items():
        for column, (kind, cells) in _cells(sheets[name], table).items() if table["role"] == "static" else ():
            own = pl.DataFrame({"s": sheets[name].ids(sheets[name].subject or ""), "w": cells}).drop_nulls().unique("s")
            of = next(
                (path for path, (k, found) in firsts.items() if k == kind and _same(found.join(own, on="s"))), None
            )
            if of is not None:
                rules.append({"kind": "baseline", "column": f"{name}.{column}", "of": of})
    return rules


def _first_dates(data: dict[str, Any], sheets: Mapping[str, Sheet]) -> list[dict[str, Any]]:
    """Dates of patients on which their first event of a table lies (the first transplantation).

    Those of first visits are laws of the codec.
    """
    if data["clock"] != "timestamp":
        return []
    found = {n: dates_of(sheets[n], n, table) for n, table in data["tables"].items()}
    roles = {n: table["role"] for n, table in data["tables"].items()}
    rules = []
    for name in (n for n in found if roles[n] == "event" and f"{n}.time" in found[n].columns):
        first = found[name].group_by("s").agg(v=pl.col(f"{name}.time").min())
        for static in (n for n in found if roles[n] == "static"):
            for day in (c for c in found[static].columns if c != "s"):
                both = first.join(found[static].select("s", w=day).unique("s"), on="s").drop_nulls()
                if both.height >= FEWEST and both["v"].n_unique() >= DAYS and (both["v"] == both["w"]).all():
                    rules.append({"kind": "baseline", "column": day, "of": f"{name}.time"})
    return rules


def _cells(sheet: Sheet, table: dict[str, Any]) -> dict[str, tuple[str, pl.Series]]:
    """Kind and cells of a table's columns of numbers and levels, numbers as numbers."""
    found = {}
    for column, spec in table["columns"].items():
        theirs = column_of(table, column)
        if theirs not in sheet.frame.columns or column in table["source"].get("mixed", {}):
            continue
        cells = sheet.frame[theirs]
        if spec["kind"] in ("number", "count"):
            found[column] = spec["kind"], cells.cast(pl.Float64, strict=False)
        elif spec["kind"] in ("category", "ordinal", "flag"):
            found[column] = spec["kind"], cells.cast(pl.String).replace("", None)
    return found


def _same(both: pl.DataFrame) -> bool:
    """Do v and w agree in every patient, where patients differ?"""
    if both.height < FEWEST or not (both["v"] == both["w"]).all():
        return False
    share = both["v"].value_counts()["count"] / both.height
    return both.height * (1 - float((share**2).sum())) >= EXPECTED


def _same_days(data: dict[str, Any], sheets: Mapping[str, Sheet]) -> list[dict[str, Any]]:
    """Dates of patients that are the day of a moment in rows of visits or events."""
    found = {name: dates_of(sheets[name], name, table) for name, table in data["tables"].items()}
    static = [name for name, table in data["tables"].items() if table["role"] == "static"]
    rules = []
    for one in static:
        days = [c for c in found[one].columns if c != "s" and _whole(data, c)]
        for other in (name for name in found if name not in static):
            for moment in (c for c in found[other].columns if c not in ("s", f"{other}.time")):
                rows = found[other].select("s", t=pl.col(moment).floor()).drop_nulls()
                same = [day for day in days if _agree(found[one].select("s", d=day).unique("s"), rows)]
                rules += [{"kind": "same_day", "column": day, "of": moment} for day in same[:1]]
            for day in (d for d in days if DEATH.search(d.partition(".")[2])):
                dates = found[one].select("s", d=day).unique("s")
                rules += _of_deaths(dates, day, other, data["tables"][other], sheets[other], found[other])
    return rules


def _deadly(table: dict[str, Any], sheet: Sheet, found: pl.DataFrame) -> list[tuple[str, list[str], pl.DataFrame]]:
    """Columns of a table, their levels that tell of a death (discharged: dead), and the dates of such rows."""
    told = []
    for column, (_, cells) in _cells(sheet, table).items():
        levels = [v for v in table["columns"][column].get("levels", ()) if _DEAD.search(str(v).lower())]
        if levels:
            told.append((column, levels, found.filter(cells.is_in(levels).fill_null(False))))
    return told


def _last_stays(data: dict[str, Any], sheets: Mapping[str, Sheet]) -> list[dict[str, Any]]:
    """Nothing comes after a visit that ends with death, as far as that holds."""
    if data["clock"] == "order":
        return []
    found = {n: dates_of(sheets[n], n, table) for n, table in data["tables"].items() if table["role"] != "static"}
    name = next((n for n in found if data["tables"][n]["role"] == "visit"), "")
    for column, levels, rows in _deadly(data["tables"][name], sheets[name], found[name]) if name else ():
        for end in (c for c in rows.columns if c not in ("s", f"{name}.time")):
            last = rows.group_by("s").agg(b=pl.col(end).min()).drop_nulls()
            timed = {n: frame.select("s", a=f"{n}.time") for n, frame in found.items() if f"{n}.time" in frame.columns}
            late = {n: frame.join(last, on="s").filter(pl.col("a") > pl.col("b")).height for n, frame in timed.items()}
            held = [n for n in late if not late[n]]
            if last.height >= FEW and name in held and (rows[end] >= rows[f"{name}.time"]).all():
                told = {"flag": f"{name}.{column}", "levels": levels, "tables": held}
                return [{"kind": "nothing_after", "end": end, **told}]
    return []


def _of_deaths(
    dates: pl.DataFrame, day: str, name: str, table: dict[str, Any], sheet: Sheet, found: pl.DataFrame
) -> list[dict[str, Any]]:
    """The rule that a date of death is the day of a moment in rows that tell of a death (discharged: dead)."""
    for column, levels, rows in _deadly(table, sheet, found):
        for of in (c for c in found.columns if c not in ("s", f"{name}.time")):
            if _agree(dates, rows.select("s", t=pl.col(of).floor()).drop_nulls(), FEW, FEW):
                told = {"flag": f"{name}.{column}", "levels": levels}
                return [{"kind": "same_day", "column": day, "of": of, **told}]
    return []


def _whole(data: dict[str, Any], path: str) -> bool:
    table, _, column = path.partition(".")
    return data["tables"][table]["columns"].get(column, {}).get("granularity") == "day"


def _agree(days: pl.DataFrame, rows: pl.DataFrame, fewest: int = FEWEST, different: int = DAYS) -> bool:
    both = rows.join(days, on="s", how="left")
    enough = both["s"].n_unique() >= fewest and both["t"].n_unique() >= different
    return bool(enough and (both["t"] == both["d"]).fill_null(False).all())
