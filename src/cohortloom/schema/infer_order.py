"""Which date of a patient never comes after another, and which rows are dated by month or year: rules for a draft.

No model of two dates holds their order in every patient: one drawn registry in twelve saw people before they fell ill.
So an order that holds in the files without exception is drafted as a rule, where it is close enough to be broken: the
5 % quantile of the distance lies within a tenth of its usual range (5 to 95 %) of zero. That a birth precedes every
visit by decades needs no rule. An order that follows from two others is left out. That nothing comes after a date of
death is believed of any five patients.

Where a quarter of the patients have their last date within the last 5 % of the calendar of rows, the data were cut
there: models follow patients for decades beyond. The end of that month is drafted as a rule `until`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl

from cohortloom.schema.drafted import column_of, moments, time_of
from cohortloom.schema.guess import FEW, grain_of
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import TIME_UNITS

__all__ = ["DEATH", "FEWEST", "NEAR", "add_order", "dates_of", "shortest"]

FEWEST = 30  #: Patients in whom an order must hold: one broken in 10 % of them would be seen with a chance of 96 %.
NEAR = 0.1
#: Share of patients that have their last date in the last part of the calendar [share of its length].
PILE, LATE = 0.25, 0.05
DEATH = re.compile(r"death|died|dod$|deceased|sterbe|todes|fallec|defunc|deces|d[ée]c[èe]s")


def add_order(data: dict[str, Any], sheets: Mapping[str, Sheet], head: list[str]) -> None:
    """Add `rules` to a drafted schema.

    Args:
        data: The schema as plain data, with clock "timestamp" or "offset" (else nothing is done).
        sheets: Table -> its file.
        head: Takes a comment.
    """
    if data["clock"] == "order":
        return
    coarse = _coarse(data, sheets) if data["clock"] == "timestamp" else []
    once, often, within = {}, {}, []
    for name, table in data["tables"].items():
        found = dates_of(sheets[name], name, table)
        places = [place for place in found.columns if place != "s"]
        if table["role"] == "static":
            once |= {place: found.select("s", t=place).drop_nulls().unique("s") for place in places}
        elif f"{name}.time" in places:
            often |= {place: found.select("s", t=place).drop_nulls() for place in places}
            pairs = ((a, b, _by_day(data, found.select("s", a=a, b=b), b)) for a, b in permutations(places, 2))
            within += [(a, b) for a, b, rows in pairs if _ordered(rows)]
    pairs = [*permutations(once, 2), *((a, b) for a in once for b in often), *((b, a) for a in once for b in often)]
    moments_of = once | often
    across = [(a, b) for a, b in pairs if _ordered(_by_day(data, _joined(moments_of[a], moments_of[b]), b))]
    rare = {place for place in often if not place.endswith(".time")}  # may be empty, so that nothing follows from them
    main = [pair for pair in across if not rare & {*pair}]
    rest = [pair for pair in across if rare & {*pair} and not _follows(pair, {*main, *within})]
    orders = shortest(main) + rest + shortest(within)
    deaths = [(a, b) for b in once if DEATH.search(b) for a in often if (a, b) not in {*orders, *across}]
    orders += [(a, b) for a, b in deaths if _none_after(_by_day(data, _joined(often[a], once[b]), b))]
    if data["clock"] == "timestamp" and (last := _end_of_data([*once.values()], [*often.values()])):
        coarse = [*coarse, {"kind": "until", "date": last}]
        head.append(f"A quarter of the patients or more are followed to the end of the data: nothing is after {last}.")
    if orders or coarse:
        data["rules"] = coarse + [{"kind": "before", "first": a, "then": b} for a, b in orders]
    if orders:
        head.append("Orders of dates that hold in every patient of the files are rules: look whether they always hold.")


def _coarse(data: dict[str, Any], sheets: Mapping[str, Sheet]) -> list[dict[str, Any]]:
    """A rule for each table whose rows name a month or a year alone; columns of dates say so themselves."""
    rules = []
    for name, table in data["tables"].items():
        time, unit = time_of(table)
        profile = sheets[name].profiles.get(time or "")
        if profile is None or unit is not None or profile.kind != "date" or profile.clock_time:
            continue
        if table["role"] != "static" and (grain := grain_of(profile)) != "day":
            rules.append({"kind": "granularity", "column": f"{name}.time", "to": grain})
    return rules


def dates_of(sheet: Sheet, name: str, table: dict[str, Any]) -> pl.DataFrame:
    """Patient `s`, and "table.time" and "table.column" [d] of each row, as far as they are columns of the file."""
    source = table["source"]
    dates = [c for c, column in table["columns"].items() if column["kind"] == "timestamp"]
    theirs = {c: column_of(table, c) for c in dates}
    time, unit = time_of(table)
    if time is not None:
        theirs = {"time": time} | theirs
    layouts = {c: source.get("formats", {}).get(c, unit) for c in theirs}
    known = {
        f"{name}.{c}": moments(sheet, cell, layouts[c] if layouts[c] in TIME_UNITS else None)
        for c, cell in theirs.items()
        if cell in sheet.frame.columns
    }
    if not known or not sheet.subject:
        return pl.DataFrame(schema={"s": pl.String})
    return sheet.frame.select(**known).with_columns(s=sheet.ids(sheet.subject))


def _by_day(data: dict[str, Any], pairs: pl.DataFrame, then: str) -> pl.DataFrame:
    """Moments a by their day where b, which is to come after them, is a date: of death, say."""
    table, _, column = then.partition(".")
    day = data["tables"][table]["columns"].get(column, {}).get("granularity") == "day"
    return pairs.with_columns(pl.col("a").floor()) if day else pairs


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


def _none_after(pairs: pl.DataFrame) -> bool:
    known = pairs.drop_nulls()
    return known["s"].n_unique() >= FEW and bool((known["a"] <= known["b"]).all())


def _end_of_data(once: list[pl.DataFrame], often: list[pl.DataFrame]) -> str | None:
    """Last day of the month in which the data were cut; None where they end for each patient in its own time."""
    rows = pl.concat(often).drop_nulls() if often else pl.DataFrame()
    if rows.is_empty():
        return None
    per = pl.concat([*once, *often]).drop_nulls().group_by("s").agg(last=pl.col("t").max())["last"].to_numpy()
    low, high = np.quantile(rows["t"].to_numpy(), 0.01), per.max()
    if len(per) < FEWEST or high - low < 100 or (per >= high - LATE * (high - low)).mean() < PILE:
        return None
    return str(pl.Series([high]).cast(pl.Int32).cast(pl.Date).dt.month_end()[0])


def shortest(orders: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that follow from two others."""
    known = set(orders)
    return [pair for pair in orders if not _follows(pair, known)]


def _follows(pair: tuple[str, str], known: set[tuple[str, str]]) -> bool:
    a, b = pair
    return any((a, c) in known and (c, b) in known for c in {place for one in known for place in one} - {a, b})
