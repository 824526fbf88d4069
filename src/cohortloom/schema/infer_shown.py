"""What sheets show that a draft tells or leaves out: copies, strangers, columns that repeat others, untimed rows."""

from __future__ import annotations

import re

import polars as pl

from cohortloom.schema.infer_life import moments
from cohortloom.schema.profile import Profile, decimals_of, number_in, snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.side_by_side import side_by_side
from cohortloom.schema.source import TIME_UNITS

__all__ = [
    "abreast",
    "copied",
    "counts_from",
    "episodes",
    "from_first_value",
    "is_waveform",
    "names_one_to_one",
    "names_rows",
    "strangers",
    "twin_of",
    "unnamed",
    "without_time",
]


#: A list is one of episodes where so many times as many wide rows name it, most of them so many days apart.
MORE, APART = 5, 3.0
UNITS = ("min", "h", "d", "wk", "mo", "a")


def copied(sheet: Sheet) -> str:
    n = f"{about(sheet.copies)} row{'s' * (sheet.copies > 1)} of {sheet.file} {'are' if sheet.copies > 1 else 'is'}"
    return f"{n} an exact copy of another; one of each patient is read (repeated = true)."


def strangers(other: Sheet, theirs: pl.Series, sheet: Sheet, known: pl.Series, n: int) -> str:
    """What is said where most patients of a file are not in another."""
    bare, own = (ids.cast(pl.String).str.strip_chars_start("0") for ids in (theirs, known))
    why = " until leading zeros are left out" if 2 * bare.is_in(own.implode()).sum() > theirs.len() else ""
    who = "no patient" if n == theirs.n_unique() else "hardly a patient"
    same = "Unless they are other people, make the ids alike in the files first."
    return f"LOOK HERE: {who} of {other.file} is in {sheet.file}{why}. {same}"


def from_first_value(sheet: Sheet, theirs: str) -> str:
    """Is it a patient's first value of the code, or the change or change in percent since then (BASE, CHG, PCHG)?"""
    p = sheet.profiles[theirs]
    if not (sheet.code and sheet.value and sheet.time and sheet.subject) or theirs == sheet.value:
        return ""
    if p.kind != "number" or p.distinct < 8 or sheet.profiles[sheet.value].kind != "number":
        return ""
    number = (pl.col(c).cast(pl.Float64, strict=False).alias(a) for c, a in ((sheet.value, "v"), (theirs, "x")))
    rows = sheet.frame.select(*number, pl.col(sheet.time).cast(pl.String).alias("t"))
    rows = rows.with_columns(s=sheet.ids(sheet.subject), c=sheet.ids(sheet.code)).sort("t", maintain_order=True)
    first = pl.col("v").drop_nulls().first().over("s", "c")
    rows = rows.with_columns(f=first).drop_nulls(["v", "x", "f"])
    if rows.height < 20 or rows.filter(pl.col("v") != pl.col("f")).height < 10:
        return ""
    grain = 0.51 * 10.0 ** -(decimals_of(rows["x"]) or 0) + 1e-9
    forms = (
        (pl.col("f"), "the first value of each code"),
        (pl.col("v") - pl.col("f"), "the change since the first value of each code"),
        (100 * (pl.col("v") / pl.col("f") - 1), "the change since the first value of each code, in percent"),
    )
    for form, said in forms:
        if float(rows.select(((form - pl.col("x")).abs() <= grain).mean()).item() or 0.0) > 0.98:
            return f'{said}: follows from "{sheet.value}"'
    return ""


def is_waveform(sheet: Sheet) -> bool:
    """One sample per row: a first column that grows in even steps, beside columns of numbers?"""
    if sheet.frame.height < 200 or any(p.kind != "number" for p in sheet.profiles.values()):
        return False
    step = sheet.frame[sheet.frame.columns[0]].cast(pl.Float64, strict=False).diff().drop_nulls()
    return bool(step.len()) and bool((step > 0).all()) and float(step.max() - step.min()) < 0.01 * float(step.max())  # type: ignore[operator,arg-type]


def unnamed(sheet: Sheet, theirs: str) -> str:
    """Is it a column without a name, or one that only numbers the rows?"""
    if re.fullmatch(r"|_duplicated_\d+|Unnamed: \d+", theirs.strip()):
        return "a column without a name"
    p = sheet.profiles[theirs]
    if p.kind == "number" and p.whole and not p.missing and not p.signs and p.distinct == p.rows >= 20:
        rows = sheet.frame[theirs].cast(pl.Float64, strict=False)
        if p.low in (0, 1) and bool((rows.diff().drop_nulls() == 1).all()):
            return "it numbers the rows"
    for whose, ids in (("patient", sheet.subject), ("visit", sheet.visit)):
        if ids and numbers_rows(sheet, theirs, ids):
            return f"it numbers the rows of each {whose}"
    return ""


def numbers_rows(sheet: Sheet, theirs: str, of: str) -> bool:
    """Does it count 1, 2, 3, ... in the rows of each patient or visit of a table that is no list of visits?"""
    p = sheet.profiles[theirs]
    if sheet.role != "event" or p.kind != "number" or p.missing or p.low != 1 or p.distinct < 3:
        return False
    if not re.search(r"seq(uence)?$|(^|_)(line|row|record|instance|item|no|nr|num|number)$", snake(theirs)):
        return False
    rows = pl.DataFrame({"s": sheet.ids(of), "v": sheet.frame[theirs].cast(pl.Float64, strict=False)})
    per = rows.group_by("s").agg(n=pl.len(), u=pl.col("v").n_unique(), top=pl.col("v").max())
    return bool(((per["n"] == per["u"]) & (per["n"] == per["top"])).all())


def episodes(home: Sheet, sheets: list[Sheet]) -> Sheet | None:
    """Is a list of visits one of episodes (grafts, pregnancies), as rows that name them are months of visits each?

    Returns:
        The sheet of wide rows, days apart and five times as many; None if the list is one of visits.
    """
    for sheet in sheets:
        if sheet is home or sheet.visit is None or sheet.code or not sheet.time or sheet.time_unit == "order":
            continue
        if sheet.frame.height < MORE * home.frame.height or len(sheet.profiles) < 6:
            continue
        rows = pl.DataFrame({"s": sheet.ids(sheet.subject or ""), "v": sheet.ids(sheet.visit)})
        rows = rows.with_columns(t=sheet.frame.select(moments(sheet, sheet.time, sheet.time_unit)).to_series())
        rows = rows.drop_nulls().sort("s", "v", "t")
        gap = rows.select(pl.col("t").diff().over("s", "v")).to_series().drop_nulls()
        if gap.len() and float((gap >= APART).mean() or 0.0) > 0.75:  # type: ignore[arg-type]
            return sheet
    return None


def counts_from(sheet: Sheet, theirs: str, sheets: list[Sheet]) -> str:
    """Does a number of rows count the time since a date of the row of another file that they name?"""
    p = sheet.profiles[theirs]
    if sheet.role == "static" or p.kind != "number" or p.distinct < 8 or not sheet.time or sheet.time_unit:
        return ""
    x = sheet.frame[theirs].cast(pl.Float64, strict=False)
    if x.null_count() > p.missing:
        return ""
    when = sheet.frame.select(moments(sheet, sheet.time)).to_series()
    step = 10.0 ** -(decimals_of(x.drop_nulls()) or 0)
    for other in sheets:
        shared = [c for c in other.profiles if c in sheet.profiles and other.profiles[c].distinct == other.frame.height]
        if other is sheet or other.role == "static" or not shared:
            continue
        for date in (c for c, q in other.profiles.items() if q.kind == "date"):
            own = other.frame.select(moments(other, date).alias("d")).with_columns(k=other.ids(shared[0]))
            rows = (
                pl.DataFrame({"k": sheet.ids(shared[0]), "x": x, "t": when}).join(own, on="k", how="left").drop_nulls()
            )
            for unit in UNITS if rows.height >= 20 else ():
                off = (rows["t"] - rows["d"]) / TIME_UNITS[unit] - rows["x"]
                if float(((off > -step) & (off < 2 * step)).mean() or 0.0) > 0.99 and rows["x"].std() > 3 * step:  # type: ignore[operator]
                    return f'counts the time since "{date}" of {other.file}'
    return ""


def names_rows(sheet: Sheet, theirs: str, sheets: list[Sheet]) -> str:
    """Does a column of ids name the rows of another file, told apart there by a column of the same name?"""
    p = sheet.profiles[theirs]
    if theirs in (sheet.subject, sheet.visit, sheet.code) or p.kind not in ("number", "text") or p.distinct < 20:
        return ""
    if not re.search(r"(id|key|nr|no|num|number)$", snake(theirs)):
        return ""
    for other in sheets:
        q = other.profiles.get(theirs)
        if other is sheet or q is None or theirs == other.subject or q.missing or q.distinct < q.rows:
            continue
        if p.distinct < p.rows and bool(
            sheet.ids(theirs).drop_nulls().unique().is_in(other.ids(theirs).implode()).all()
        ):
            return f"names rows of {other.file}"
    return ""


def names_one_to_one(sheet: Sheet, a: str, b: str) -> bool:
    """Does each value of one column stand beside one value of another, and the other way round?"""
    p, q = sheet.profiles[a], sheet.profiles[b]
    if p.distinct != q.distinct or bool(p.missing) != bool(q.missing) or p.rows < 10 * p.distinct:
        return False
    often = p.values["count"].sum() - p.values["count"].max() >= 20  # type: ignore[operator]
    return p.distinct >= 2 and often and sheet.frame.select(a, b).n_unique() == p.distinct + bool(p.missing)


def twin_of(sheet: Sheet, theirs: str, others: list[str]) -> str:
    """Does a column hold the same as one before it, row by row, or name the same things one to one?

    Drawn apart, they would contradict each other.
    """
    p = sheet.profiles[theirs]
    if "_duplicated_" in theirs or p.distinct < 2 or p.rows < 20:
        return ""
    mine = sheet.frame[theirs]
    for other in others:
        q = sheet.profiles[other]
        if q.distinct != p.distinct or q.missing != p.missing:
            continue
        if p.kind == "text" and names_one_to_one(sheet, theirs, other):
            return f'names the same as "{other}", one to one'
        if q.kind != p.kind:
            continue
        same = mine.equals(sheet.frame[other])
        if not same and p.kind == "number" and _total(p) == _total(q):
            both = sheet.frame.select(
                pl.coalesce(pl.col(c).cast(pl.Float64, strict=False), number_in(pl.col(c).cast(pl.String))).alias(c)
                for c in (theirs, other)
            )
            same = both[theirs].equals(both[other])
        if same:
            return f'the same as "{other}" in every row'
    return ""


def _total(p: Profile) -> float:
    """Sum of a column of numbers, to nine digits."""
    return float(f"{(p.values['number'] * p.values['count']).sum():.9g}")


def abreast(sheet: Sheet) -> str:
    stems, turn, numbers = side_by_side(sheet.profiles)
    if not stems:
        return ""
    some = ", ".join(stems[:3]) + (", ..." if len(stems) > 3 else "")
    return (
        f"LOOK HERE: {sheet.file} has {len(numbers)} visits side by side ({some} with {turn}{numbers[0]} to "
        f"{turn}{numbers[-1]}), read as statics. For a course write a row per visit first (pandas.wide_to_long)."
    )


def without_time(sheet: Sheet, source: dict) -> str:
    """Leave out rows without a time where the table has times, and say so."""
    if "time" not in source or not sheet.time or not sheet.subject:
        return ""
    p = sheet.profiles[sheet.time]
    marks = ["", *p.marks, *p.sentinels]
    time = sheet.frame[sheet.time].cast(pl.String).str.strip_chars().fill_null("")
    n = int((time.is_in(marks) & sheet.ids(sheet.subject).is_not_null()).sum())  # rows that hold nothing go anyway
    if not n:
        return ""
    source["where"] = [*source.get("where", []), {"column": sheet.time, "exclude": marks}]
    return f" {about(n)} rows without a time are left out; give them a table of their own if they matter."


def about(n: int) -> str:
    return f"{n:,}" if n < 100 else f"about {round(n, -len(str(n)) + 2):,}"
