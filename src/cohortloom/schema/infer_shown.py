"""What sheets show that a draft tells: copies, strangers, visits side by side, untimed rows."""

from __future__ import annotations

import polars as pl

from cohortloom.schema.drafted import moments
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.side_by_side import side_by_side

__all__ = ["about", "abreast", "copied", "episodes", "is_waveform", "strangers", "without_time"]


#: A list is one of episodes where so many times as many wide rows name it, most of them so many days apart.
MORE, APART = 5, 3.0


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


def is_waveform(sheet: Sheet) -> bool:
    """One sample per row: a first column that grows in even steps, beside columns of numbers?"""
    if sheet.frame.height < 200 or any(p.kind != "number" for p in sheet.profiles.values()):
        return False
    step = sheet.frame[sheet.frame.columns[0]].cast(pl.Float64, strict=False).diff().drop_nulls()
    return bool(step.len()) and bool((step > 0).all()) and float(step.max() - step.min()) < 0.01 * float(step.max())  # type: ignore[operator,arg-type]


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
