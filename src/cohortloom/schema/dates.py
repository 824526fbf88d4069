"""How dates are written: the layouts that are tried on a column, and how a cell is read in one.

A layout is a strptime format, or a word for numbers that count from a day ("excel": days since 1899-12-30, as
spreadsheets save them; "unix", "unix_ms": since 1970). Several layouts in one column are joined by "|": the first that
fits a cell reads it. Years have four digits where a layout says so (%Y alone would take 20 for the year 20).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

__all__ = ["ISO", "Layout", "few", "layout_of", "numbered", "plain_iso", "pointed_months", "read_date"]

_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S%.f")
_ZONE = "%Y-%m-%d %H:%M:%S%.f%:z"
_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y")
_YEAR_FIRST = ("%Y年%m月%d日", "%Y.%m.%d", "%Y. %m. %d", "%Y. %m. %d.")
_SHORT = ("%d.%m.%y", "%d/%m/%y", "%m/%d/%y")
_HOURS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_WORDS = ("%d-%b-%Y", "%d%b%Y", "%d %b %Y", "%d %B %Y", "%b %d %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%y")
#: Layouts the reader of tables knows without being told.
ISO = (*_ISO, _ZONE)
_LAYOUTS = (
    *ISO,
    *(day + hour for day in (*_DAYS, *_YEAR_FIRST, *_SHORT, *_WORDS) for hour in _HOURS),
    "%d%b%Y:%H:%M:%S",
)
_MONTHS = ("%m/%Y", "%m.%Y", "%b-%Y", "%b %Y", "%b%Y", "%B %Y")
#: A year, or a month of one, where the day is not known.
_PARTIAL = r"^(1[89]|20|21)\d\d(-(0[1-9]|1[0-2]))?$"
_COUNTED = {"excel": ("1899-12-30", 86400e6), "unix": ("1970-01-01", 1e6), "unix_ms": ("1970-01-01", 1e3)}
_DATED = re.compile(
    r"(^|_)(date|dat|datum|dt|day|dob|dod|birth_?date|time|timestamp|ts|on|from|thru|to|start|end|stop|created|updated)"
    r"(_|$)|(date|dt|time)$"
)
_NO_DATE = re.compile(r"diff|since|until|interval|days|_to_|elapsed|^(day|to|from|on|start|end|stop)$")


@dataclass(frozen=True)
class Layout:
    """What a column of dates is written in ("" where it need not be said), its moments, and what to say about it."""

    layout: str
    moments: pl.Series
    said: str = ""
    unread: tuple[str, ...] = ()


def few(rows: int) -> float:
    """So many rows may hold slips of the pen: 2 %, or five where that is not a tenth."""
    return max(0.02 * rows, min(5, 0.1 * rows))


def plain_iso(text: pl.Expr) -> pl.Expr:
    """2020-01-31T08:30Z as 2020-01-31 08:30."""
    return text.str.replace(r"(\d)T(\d)", "${1} ${2}").str.strip_suffix("Z")


def read_date(text: pl.Expr, layout: str) -> pl.Expr:
    """Datetime [us] of text in a layout, null where it does not fit."""
    if "|" in layout:
        return pl.coalesce(read_date(text, one) for one in layout.split("|"))
    if layout in _COUNTED:
        origin, ticks = _COUNTED[layout]
        number = text.cast(pl.Float64, strict=False)
        since = pl.when(number.abs() < 9e18 / ticks).then((number * ticks).round()).cast(pl.Int64)
        return pl.lit(origin).str.to_datetime(time_unit="us") + since.cast(pl.Duration("us"))
    if layout in ("%Y", "%Y-%m"):  # the first day of what is named
        whole = text.str.contains(r"^\d{4}$" if layout == "%Y" else r"^\d{4}-\d\d$")
        text = pl.when(whole).then(text + ("-01-01" if layout == "%Y" else "-01"))
        layout = "%Y-%m-%d"
    elif layout in _MONTHS:
        text, layout = pl.lit("01 ") + text, f"%d {layout}"
    if layout.startswith("%Y%m%d"):
        text = text.str.strip_suffix(".0")
        digits = 8 + 2 * layout.count("%", 6)
        text = pl.when(text.str.contains(rf"^\d{{{digits}}}$")).then(text)
    if layout.endswith("z"):
        zoned = text.str.to_datetime(layout, time_unit="us", time_zone="UTC", strict=False)
        return zoned.dt.replace_time_zone(None)
    if any(mark in layout for mark in ("%H", "%I", "%T", "%R")):
        when = text.str.to_datetime(layout, time_unit="us", strict=False)
    else:
        when = text.str.to_date(layout, strict=False).cast(pl.Datetime("us"))
    return pl.when(when.dt.year() >= 1000).then(when) if "%Y" in layout else when


def pointed_months(text: pl.Series) -> Layout | None:
    """The layout of months that read as numbers (03.1957); no number of four decimals has a 0 before."""
    alike = text.str.contains(r"^(0[1-9]|1[0-2])\.(1[89]|20|21)\d\d$").all() and text.str.starts_with("0").any()
    return layout_of(text, pl.Series([1]).new_from_index(0, text.len())) if alike and text.len() >= 5 else None


def numbered(name: str, numbers: pl.Series) -> Layout | None:
    """The layout of dates that are written as whole numbers (20240131, 45322), by size, validity and name; or None.

    Eight digits that are all days of a calendar are dates under any name, if there are ten of them.
    """
    low, high = float(numbers.min()), float(numbers.max())  # type: ignore[arg-type]
    by_name = bool(_DATED.search(name)) and not _NO_DATE.search(name)
    whole = bool((numbers == numbers.round()).all())
    tries = []
    if whole and low >= 0:
        for layout, digits in (("%Y%m%d", 8), ("%Y%m%d%H%M", 12), ("%Y%m%d%H%M%S", 14)):
            inside = low >= 1850 * 10 ** (digits - 4) and high < 2200 * 10 ** (digits - 4)
            tries += [layout] if inside and (by_name or numbers.len() >= 10) else []
    if by_name:  # a course in days, minutes or seconds begins near 0
        named = re.search(r"dat(e|um)|(^|_)(dt|dob|dod)(_|$)|birth", name)
        tries += ["excel"] if named and low >= 3000 and 20000 < high < 80000 else []
        tries += ["unix"] if low > 5e8 and high < 4.2e9 else []
        tries += ["unix_ms"] if low > 5e11 and high < 4.2e12 else []
    text = numbers.cast(pl.Int64, strict=False).cast(pl.String) if whole else numbers.cast(pl.String)
    for layout in tries:
        moments = pl.DataFrame({"x": text}).select(read_date(pl.col("x"), layout)).to_series()
        if not moments.null_count():
            said = {"excel": "days as a spreadsheet counts them (a guess, by name and size)"}.get(layout, "")
            said = said or ("seconds since 1970 (a guess)" if layout in _COUNTED else "dates in digits alone")
            return Layout(layout, moments, said)
    return None


def layout_of(values: pl.Series, rows: pl.Series) -> Layout | None:
    """The layout that reads a column of text, tried on 2,000 values, then on all; None if they are no dates.

    One layout for all comes first; then up to three, none of which could be mistaken for another; then one that leaves
    at most five values, in few rows, unread.

    Args:
        values: Distinct texts.
        rows: Number of rows of each.
    """
    plain = pl.DataFrame({"x": values}).select(plain_iso(pl.col("x"))).to_series()
    partial = plain.str.contains(_PARTIAL)
    if partial.any():
        return _with_partial(values, plain, rows, partial)
    head = plain.head(2000)
    months = next((one for one in _MONTHS if not _all_of(plain, [one]).null_count()), "")  # type: ignore[union-attr]
    if months:
        return Layout(months, _all_of(plain, [months]), "months, read as their first day")  # type: ignore[arg-type]
    if head.str.contains(r"^(\w{1,9}[-/., ]+\w{1,9}[-/., ]+|\d{1,2}[A-Za-z]{3})\d{1,4}\b|^\d{4}年").mean() < 0.9:  # type: ignore[operator]
        return None
    frame = pl.DataFrame({"x": head})
    found = {one: frame.select(read_date(pl.col("x"), one)).to_series() for one in _LAYOUTS}
    found = {one: moments for one, moments in found.items() if moments.null_count() < head.len()}
    whole = [one for one, moments in found.items() if not moments.null_count()]
    if not whole:
        whole = _together(found) or sorted(found, key=lambda one: found[one].null_count())[:1]
    best = _all_of(plain, whole[:1])
    for one in whole[1:]:
        if best is not None and not best.null_count():
            break
        tried = _all_of(plain, [one])
        best, whole = (tried, [one, *whole]) if tried is not None and not tried.null_count() else (best, whole)
    if best is None:
        return None
    layout, other = whole[0], whole[1:]
    lost = best.is_null()
    if lost.any() and (int(lost.sum()) > 5 or rows.filter(lost).sum() > few(rows.sum()) or lost.mean() > 0.5):
        return None
    said = []
    if "|" in layout:
        said.append(f"written in {layout.count('|') + 1} layouts")
    if layout.startswith("%d") and any(one == "%m" + layout[2:3] + "%d" + layout[5:] for one in other):
        said.append(f"day first is a guess: {other[0]} would read them too")
    if _ZONE in layout:
        said.append("times with a zone are read as UTC")
    native = all(one in ISO for one in layout.split("|"))
    return Layout("" if native else layout, best, "; ".join(said), tuple(values.filter(lost)))


def _with_partial(values: pl.Series, plain: pl.Series, rows: pl.Series, partial: pl.Series) -> Layout | None:
    """Dates of which some name only a month or a year: the first day of what is named."""
    whole = layout_of(values.filter(~partial), rows.filter(~partial)) if not partial.all() else None
    if whole is None and not (partial.all() and plain.str.contains("-", literal=True).any()):
        return None
    layout = "" if whole is None else whole.layout
    first = pl.coalesce(read_date(pl.col("x"), one) for one in ("%Y-%m", "%Y"))
    moments = pl.DataFrame({"x": plain}).select(first).to_series()
    if whole is not None:
        moments = moments.set(~partial, None).scatter((~partial).arg_true(), whole.moments)
    said = "those that name only a month or a year are read as its first day"
    said = "; ".join(filter(None, [whole.said if whole else "", said]))
    return Layout(f"{layout}|%Y-%m|%Y" if layout else "", moments, said, whole.unread if whole else ())


def _all_of(plain: pl.Series, layouts: list[str]) -> pl.Series | None:
    if not layouts:
        return None
    return pl.DataFrame({"x": plain}).select(read_date(pl.col("x"), layouts[0])).to_series()


def _together(found: dict[str, pl.Series]) -> list[str]:
    """Up to three layouts that read every value between them, each value in one of them only."""
    chosen: list[str] = []
    left: pl.Series | None = None
    for _ in range(3):
        best = max(
            found, key=lambda o: int((found[o].is_not_null() & (True if left is None else left)).sum()), default=""
        )
        if not best:
            return []
        chosen.append(best)
        left = found[best].is_null() if left is None else left & found[best].is_null()
        if not left.any():
            break
    if left is None or left.any() or len(chosen) < 2:
        return []
    read = sum(found[one].is_not_null().cast(pl.Int32) for one in chosen)
    return ["|".join(chosen)] if bool((read == 1).all()) else []  # type: ignore[union-attr]
