"""What a column of somebody's file seems to hold.

Parsing is done on distinct values with their counts, so a million rows cost little more than their distinct values:

    cells -> marks of missing taken out -> number? date? -> sentinels (-1, 999) -> text

Bounds go outwards to round numbers: a draft must read its data, and must not print the extreme value of a patient.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

import polars as pl

from cohortloom.schema.dates import Layout, few, layout_of, numbered, pointed_months

__all__ = [
    "LIMIT",
    "MARKS",
    "NUMBER_MARKS",
    "PAIR",
    "Profile",
    "bare",
    "decimals_of",
    "is_number",
    "number_in",
    "outward",
    "profile",
    "snake",
    "with_points",
]

MARKS = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "?", ".", "<NA>", "n.a.", "N.A.", "#N/A", "#NV", "NaT")
MARKS = (*MARKS, "#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "\\N", "(null)", "k.A.", "k. A.")
NUMBER_MARKS = ("None", "none", "-", "--", "unknown", "Unknown", "UNK", "missing", "Missing", "nd", "ND", "*")
#: Words of a device or laboratory for a number that is not there.
NO_NUMBER = (
    r"(?i)^(err(or)?|fail(ed|ure)?|invalid|pending|refused|declined|clotted|unable|un(obtain|read)able|n/?[adm]|"
    r"(not|no|in)[ _-]?(done|avail\w*|measur\w*|known|recorded|performed|tested|applicable|evaluable|sample|result|"
    r"data|sufficient.*)|h(a?e)molyz?s?ed|nicht .*|fehlt|fehler|ausstehend|folgt|hämolytisch)$"
)
#: How laboratories write a value beyond what they can measure: <5.
LIMIT = r"^[<>≤≥]=?\s*"
_SIGNED = (
    r"^\(?\s*(?:[<>≤≥]=?)?\s*(-?\s*[$€£]?\s*-?)\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"\s*(%|[A-Za-zµ°][A-Za-z0-9µ°/%^]{0,9})?\s*\)?$"
)
#: A pressure as people write it: 120/80.
PAIR = r"^\s*(\d{2,3})\s*/\s*(\d{2,3})\s*(?:mm\s*Hg)?\s*$"
#: Weeks and days of a pregnancy: 29+3, 29w3d, 29 3/7.
_WEEKS = r"(?i)^(\d{1,2})\s*(?:\+|w(?:k|ks|eeks?)?\s*\+?)\s*([0-6])\s*(?:d|days?|/7)?$|^(\d{1,2})\s+([0-6])/7$"
SENTINELS = (-1, -9, -99, -999, -9999, 99, 999, 9999, 99999, -88, -77, 888, 777)


@dataclass
class Profile:
    """Facts about one column.

    Args:
        name: Its name in the file.
        kind: "empty", "number", "date" or "text".
        rows: Rows of the file.
        missing: Rows without a value, marks and sentinels included.
        distinct: Distinct values, marks and sentinels not counted.
        values: Distinct values (text as written, `number` where it is one) and their counts, most frequent first.
        marks: Words that mean missing here ("" not listed).
        sentinels: Numbers that mean missing here.
        whole: Are all numbers whole?
        format: Date layout; "" for native dates and ISO.
        said: What else is to be said of the dates.
        clock_time: Do dates carry a time of day?
        signs: Words on signs around the numbers (<5, 12 %); empty for plain numbers.
        unit: Unit the numbers are read in, where the cells say so (29+3 in days); else empty.
    """

    name: str
    kind: str
    rows: int
    missing: int
    distinct: int
    values: pl.DataFrame = field(repr=False)
    marks: tuple[str, ...] = ()
    sentinels: tuple[str, ...] = ()
    whole: bool = False
    format: str = ""
    said: str = ""
    clock_time: bool = False
    signs: str = ""
    unit: str = ""

    @property
    def share_missing(self) -> float:
        return self.missing / max(self.rows, 1)

    @property
    def texts(self) -> list[str]:
        """Distinct values as a cohort would hold them: whole numbers without decimals."""
        if self.kind == "number" and self.whole:
            return [str(int(v)) for v in self.values["number"]]
        return self.values["value"].to_list()

    @property
    def low(self) -> float:
        return float(self.values["number"].min())  # type: ignore[arg-type]

    @property
    def high(self) -> float:
        return float(self.values["number"].max())  # type: ignore[arg-type]


def with_points(cells: pl.Expr) -> pl.Expr:
    """Text in which numbers with a decimal comma (1.234,5) are written with a point (1234.5); other text stays."""
    start = r"^(\s*(?:[<>]=?\s*)?[-+]?"
    grouped = cells.str.contains(start + r"\d{1,3}(\.\d{3})+)(,\d+)?\s*$")
    cells = pl.when(grouped).then(cells.str.replace_all(".", "", literal=True)).otherwise(cells)
    return cells.str.replace(start + r"\d+),(\d+\s*)$", "${1}.${2}")


def bare(ids: pl.Series) -> pl.Series:
    """Ids as text without what FHIR writes before them: Patient/7, urn:uuid:7."""
    return ids.str.replace(r"^(?:urn:uuid:|(?:https?://.*/)?(?:Patient|Encounter)/)", "")


def is_number(text: str) -> bool:
    """Does the text of a cell read as a number?"""
    try:
        float(text)
    except ValueError:
        return False
    return True


def snake(name: str) -> str:
    """A name for a column: lower case, words joined by underscores; never one that is reserved."""
    joints = r"(?<=[a-z])(?=[A-Z][a-z]|[A-Z]{2,}(?![0-9A-Z]))|(?<=[A-Z])(?=[A-Z][a-z]{2})"  # NISysABP, but FiO2, pH
    text = re.sub(joints, "_", str(name).strip())
    text = re.sub(r"\W+", "_", text).strip("_").lower() or "column"
    text = re.sub(r"_+", "_", text)
    return f"{text}_" if text in ("subject_id", "visit_id", "time") else text


def profile(series: pl.Series) -> Profile:
    """Look at one column, as text (CSV) or typed (Parquet, frames)."""
    name, rows = series.name, series.len()
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        return _dates(name, rows, series)
    if series.dtype.is_temporal() or series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
        none = pl.DataFrame(schema={"value": pl.String, "count": pl.UInt32})
        return Profile(name, "empty", rows, rows, 0, none, said=f"holds {_in_words(series.dtype)}; that is not read")
    if series.dtype == pl.Boolean:
        series = series.cast(pl.Int8)
    typed = series.dtype.is_numeric()
    if series.dtype.is_float():
        series = series.fill_nan(None)
    counts = series.alias("value").to_frame().group_by("value").len("count").drop_nulls("value")
    if typed:
        counts = counts.with_columns(number=pl.col("value").cast(pl.Float64)).with_columns(
            pl.col("value").cast(pl.String)
        )
    else:
        counts = counts.with_columns(pl.col("value").cast(pl.String).str.strip_chars())
        counts = counts.group_by("value").agg(pl.col("count").sum())
        counts = counts.with_columns(number=pl.col("value").cast(pl.Float64, strict=False))
        counts = counts.with_columns(number=pl.when(pl.col("number").is_finite()).then("number"))
    counts, signs, unit = (counts, "", "") if typed else _extracted(counts)
    words = set(counts["value"].head(200_000)) & {*MARKS}
    counts = counts.filter(~pl.col("value").is_in(list(words)))
    counts = counts.sort("count", "value", descending=[True, False])
    if counts.is_empty():
        return Profile(name, "empty", rows, rows, 0, counts)
    bad = counts.filter(pl.col("number").is_null())
    numeric = bad.is_empty() or (
        bad["count"].sum() <= 0.3 * counts["count"].sum()
        and (_mean_missing(bad["value"]) or (bad.height <= 5 and bad["count"].sum() <= few(rows)))
        and bad.height < counts.height / 2
    )
    if numeric and (typed or not _is_padded(counts)):
        words |= set(bad["value"])
        counts, marks = counts.drop_nulls("number"), tuple(sorted(words - {""}))
        dates = None if typed else pointed_months(counts["value"].str.strip_chars())
        dates = dates or numbered(snake(name), counts["number"])
        if dates is not None:
            return _dated(name, rows, counts.drop("number"), dates, marks)
        return replace(_numbers(name, rows, counts, marks), signs=signs, unit=unit)
    found = None if series.dtype != pl.String else layout_of(counts["value"], counts["count"])
    if found is not None:
        counts = counts.filter(~pl.col("value").is_in(list(found.unread)))
        return _dated(name, rows, counts, found, tuple(sorted({*words, *found.unread} - {""})))
    marks = tuple(sorted(words - {""}))
    return Profile(name, "text", rows, rows - int(counts["count"].sum()), counts.height, counts, marks)


def _mean_missing(words: pl.Series) -> bool:
    return (words.is_in(NUMBER_MARKS) | words.str.contains(NO_NUMBER)).all()


def number_in(text: pl.Expr) -> pl.Expr:
    """The number in a cell with signs around it (<5, 1,234, 12 %, $3.50, (3.50) for -3.50, 29+3 in days); else null."""
    number = text.str.extract(_SIGNED, 2).str.replace_all(",", "", literal=True).cast(pl.Float64, strict=False)
    less = text.str.extract(_SIGNED, 1).str.contains("-", literal=True) | text.str.contains(r"^\(.*\)$")
    return pl.coalesce(_days_in(text), pl.when(less).then(-number).otherwise(number))


def _days_in(text: pl.Expr) -> pl.Expr:
    """29+3, weeks and days, as days (206); else null."""
    week, day = (pl.coalesce(text.str.extract(_WEEKS, k), text.str.extract(_WEEKS, k + 2)) for k in (1, 2))
    return 7 * week.cast(pl.Float64) + day.cast(pl.Float64)


def _extracted(counts: pl.DataFrame) -> tuple[pl.DataFrame, str, str]:
    """Numbers with the same sign behind nearly all of them, limits and parted thousands read; words on it, and a unit.

    No value of a patient is in the words.
    """
    value = pl.col("value")
    cells = counts.filter(pl.col("number").is_null() & ~value.is_in([*MARKS, *NUMBER_MARKS]))
    if counts["number"].null_count() < 0.5 * counts.height:  # words beside numbers are not asked for signs
        cells = cells.filter(value.str.contains(r"\d"))
    read = cells.select(number_in(value).is_not_null()).to_series()
    if not read.any() or read.mean() < 0.9:  # type: ignore[operator]
        return counts, "", ""
    weeks = cells.select(_days_in(value).is_not_null()).to_series()
    if weeks.mean() >= 0.9 and not counts["number"].is_not_null().any():  # type: ignore[operator]
        return counts.with_columns(number=_days_in(value)), "weeks and days (29+3), read in days", "d"
    plain = counts["number"].is_not_null().sum()
    text = cells["value"].filter(read)
    behind = text.str.extract(_SIGNED, 3).fill_null("")
    usual = behind.mode().sort()[-1]
    limits = text.filter(text.str.contains(LIMIT)).str.slice(0, 1)
    whole = not usual or (behind == usual).sum() >= 0.9 * (plain + cells.height)
    if not whole or (not usual and 2 * limits.len() > counts.height):
        return counts, "", ""
    kept = text.filter(behind.is_in([usual, ""]))
    said = [f"values like {sign}... lie beyond what was measured and are read as the limit" for sign in limits[:1]]
    said += [f'read without the "{usual}" behind it'] * bool(usual)
    said += ["commas part thousands"] * bool(kept.str.contains(r"\d,\d").any())
    said += ["money without its sign"] * bool(kept.str.contains(r"[$€£]").any())
    said += ["brackets mean less than zero"] * bool(kept.str.contains(r"^\(").any())
    number = pl.when(value.is_in(kept.implode())).then(number_in(value))
    return counts.with_columns(number=pl.coalesce("number", number)), "; ".join(said), ""


def _is_padded(counts: pl.DataFrame) -> bool:
    """Numbers such as 007 and 01234 are names: codes, postcodes, ids."""
    padded = counts["value"].str.contains(r"^0\d+$")
    return bool(counts["count"].filter(padded).sum() > 0.02 * counts["count"].sum())


def _in_words(dtype: pl.DataType) -> str:
    if dtype == pl.Duration:
        return "lengths of time (write them as numbers in one unit)"
    if dtype == pl.Time:
        return "times of day without a date"
    return "lists or records" if dtype.is_nested() else "bytes or objects"


def _dated(name: str, rows: int, counts: pl.DataFrame, found: Layout, marks: tuple[str, ...]) -> Profile:
    """A column of dates that are written as text or numbers."""
    has_time = bool((found.moments.dt.truncate("1d") != found.moments).any())
    missing = rows - int(counts["count"].sum())
    dated = Profile(name, "date", rows, missing, counts.height, counts, marks, format=found.layout)
    return replace(dated, clock_time=has_time, said=found.said)


def _dates(name: str, rows: int, series: pl.Series) -> Profile:
    counts = series.alias("value").to_frame().group_by("value").len("count").drop_nulls()
    has_time = False
    if isinstance(series.dtype, pl.Datetime):
        has_time = bool((series.drop_nulls().dt.date().cast(series.dtype) != series.drop_nulls()).any())
    counts = counts.with_columns(pl.col("value").cast(pl.String))
    return Profile(name, "date", rows, series.null_count(), counts.height, counts, clock_time=has_time)


def _numbers(name: str, rows: int, counts: pl.DataFrame, marks: tuple[str, ...]) -> Profile:
    numbers = counts["number"]
    gone: list[float] = []
    for mark in map(float, SENTINELS):
        at = numbers == mark
        rest = counts.filter(~at & ~numbers.is_in(gone))["number"]
        if not at.any() or rest.len() < 2 or int(counts.filter(at)["count"].sum()) < 2:
            continue
        low, high = float(rest.min()), float(rest.max())  # type: ignore[arg-type]
        below = mark < 0 and low >= 0 and (mark != -1 or rest.len() > 1)
        above = mark > 0 and high < mark / 5 and low >= 0 and rest.len() > 3
        if below or above:
            gone.append(mark)
    kept = counts.filter(~numbers.is_in(gone))
    numbers = kept["number"]
    missing = rows - int(kept["count"].sum())
    sentinels = tuple(f"{int(g)}" for g in gone)
    whole = bool((numbers == numbers.round()).all()) and float(numbers.abs().max()) < 2**53  # type: ignore[arg-type]
    kept = kept.group_by("number").agg(pl.col("value").first(), pl.col("count").sum())
    kept = kept.sort("count", "number", descending=[True, False])
    return Profile(name, "number", rows, missing, kept.height, kept, marks, sentinels, whole)


def decimals_of(numbers: pl.Series) -> int | None:
    """Smallest number of decimals (up to 6) that writes 99.9 % of distinct values exactly; None if there is none."""
    for places in range(7):
        off = (numbers - numbers.round(places)).abs() > 1e-9 * numbers.abs().clip(1.0)
        if off.mean() <= 1e-3:  # type: ignore[operator]
            return places
    return None


def outward(low: float, high: float, unit: str = "1") -> tuple[float, float]:
    """Round bounds that lie outside the data; 0 and 100 % are natural ends and may be touched."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span))
    step = step / 2 if span < 3 * step else step
    places = max(0, 1 - math.floor(math.log10(step)))
    down, up = math.floor(low / step) * step, math.ceil(high / step) * step
    down = down - step if low - down < 0.02 * step else down
    up = up + step if up - high < 0.02 * step else up
    if low >= 0:
        down = max(down, 0.0)
    if high <= 0:
        up = min(up, 0.0)
    if unit == "%" and high <= 100 < up:
        up = 100.0
    return round(down, places) + 0.0, round(up, places) + 0.0
