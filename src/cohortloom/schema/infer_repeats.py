"""Which columns only say again what others say, so that a draft leaves them out."""

from __future__ import annotations

import re

import polars as pl

from cohortloom.schema.drafted import moments
from cohortloom.schema.profile import Profile, decimals_of, number_in, snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import TIME_UNITS

__all__ = ["names_one_to_one", "repeats", "says_static", "twin_of", "unnamed"]

UNITS = ("min", "h", "d", "wk", "mo", "a")
_OTHER_VISIT = r"(^|_)(preceding|previous|prev|prior|parent|next|linked|related|index)_|part_?of"


def repeats(sheet: Sheet, theirs: str, patients: list[Sheet], at_visit: set[str]) -> str:
    """Does the column only say again what another says?"""
    n = snake(theirs)
    home = next((s for s in patients if s.role == "visit" and s.visit), None)
    if home is not None and sheet.visit and theirs != sheet.visit and re.search(_OTHER_VISIT, n):
        ids = sheet.ids(theirs).drop_nulls()
        if ids.len() >= 20 and float(ids.is_in(home.ids(home.visit or "").implode()).mean() or 0.0) > 0.9:
            return "names another visit"
    if said := from_first_value(sheet, theirs) or names_rows(sheet, theirs, patients):
        return said
    if said := counts_from(sheet, theirs, patients):
        return said
    if sheet.role == "event" and sheet.visit and theirs not in (sheet.code, sheet.value, *at_visit):
        p, visits = sheet.profiles[theirs], sheet.ids(sheet.visit)
        few = visits.n_unique() * 5 < sheet.ids(sheet.subject or "").n_unique()
        if few and theirs != sheet.visit and p.distinct + bool(p.missing) > 1:  # the baseline's flag, say
            at = pl.DataFrame({"v": visits, "x": sheet.frame[theirs]}).group_by("v").agg(pl.col("x").n_unique())
            if at["x"].max() == 1:
                return f'follows from "{sheet.visit}"'
    if theirs in sheet.again:
        return f'the numbers of "{sheet.again[theirs]}"'
    if theirs.endswith("date") and f"{theirs}time" in sheet.profiles:
        day, exact = (sheet.frame[c].cast(pl.String).str.slice(0, 10) for c in (theirs, f"{theirs}time"))
        if day.equals(exact):
            return f'says "{theirs}time" again'
    if (
        sheet.time
        and theirs != sheet.time
        and sheet.profiles[theirs].kind == "date"
        and sheet.profiles[sheet.time].kind == "date"
    ):
        mine, time = (sheet.frame[c].cast(pl.String).str.slice(0, 10) for c in (theirs, sheet.time))
        if (mine == time).all() and not sheet.profiles[theirs].clock_time:
            return "repeats the time"
    if re.search("stres[nc]$", snake(sheet.value or "")) and re.search("orresu?(_words)?$", n):
        return f'the result as reported; "{sheet.value}" is read'
    if sheet.code and theirs != sheet.code and re.search(r"desc|name|label|title|source_value|source_concept", n):
        pairs = sheet.frame.select(sheet.code, theirs).n_unique()
        if pairs <= 1.1 * sheet.profiles[sheet.code].distinct + 1:
            return f'says "{sheet.code}" again'
    return ""


def says_static(sheet: Sheet, theirs: str, patients: list[Sheet]) -> str:
    """Is a column of a table with many rows per patient one of a table of patients, written out on every row?"""
    p = sheet.profiles[theirs]
    if sheet.role == "static" or p.distinct < 2 or p.kind == "empty" or not sheet.subject:
        return ""
    mine = pl.DataFrame({"s": sheet.ids(sheet.subject), "v": sheet.frame[theirs].cast(pl.String)}).unique()
    if mine.height != mine["s"].n_unique():
        return ""
    for other in patients:
        for name, q in other.profiles.items() if other.role == "static" and other.subject else ():
            if q.kind != p.kind or name == other.subject or q.distinct < p.distinct:
                continue
            known = pl.DataFrame({"s": other.ids(other.subject), "w": other.frame[name].cast(pl.String)})
            both = mine.join(known, on="s")
            if both.height > 0.9 * mine.height and both["v"].eq_missing(both["w"]).all():
                return f'says "{name}" of {other.file} again'
    return ""


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
