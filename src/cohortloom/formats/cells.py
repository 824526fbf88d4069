"""From what a file holds to what a cohort holds, one column at a time.

A cell passes these steps, all as polars expressions, so that a table is read, converted and checked in one lazy query:

    text or native value -> marks for missing -> value map -> type -> scale and shift -> decimals -> levels and bounds

Each step that can fail gives a `Fault`: a boolean expression that is true in the rows where it did. Numbers written as
"4.0" meet the mark, key or level "4", as files that went through floats are common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from cohortloom.schema import Code, Column, Count, Number
from cohortloom.schema.dates import ISO, plain_iso, read_date
from cohortloom.schema.profile import PAIR, is_number, number_in
from cohortloom.schema.source import TIME_UNITS

__all__ = ["Cell", "Fault", "Reading", "as_float_text", "cell", "layouts_in", "moment", "text_of"]

FLAGS = {"1": True, "0": False, "true": True, "false": False, "t": True, "f": False, "yes": True, "no": False}
FLAGS |= {"y": True, "n": False, "1.0": True, "0.0": False}

#: Date layouts that are tried where the schema names none; day-first and month-first dates need `format`.
DATES = (*ISO, "%Y%m%d", "%Y-%m", "%Y")


@dataclass(frozen=True)
class Fault:
    """Where cells can't be used.

    Args:
        code: "not-a-number", "out-of-range", ...
        broken: Boolean expression over the raw table, null counts as false.
        what: End of the sentence "<n> of <rows> cells ...".
        fix: What to do.
        lost: Is the cell unreadable (it can't be kept), or only against the schema?
    """

    code: str
    broken: pl.Expr
    what: str
    fix: str
    lost: bool


@dataclass(frozen=True)
class Cell:
    """The typed column, and where it went wrong. `rounded` is true where decimals were cut."""

    typed: pl.Expr
    faults: list[Fault] = field(default_factory=list)
    rounded: pl.Expr | None = None


@dataclass(frozen=True)
class Reading:
    """How one column is written: marks, value map, linear change of unit, policy for bounds, time unit and format.

    `mixed` ("numbers", "words", "above", "below") is the part of its cells that is read.
    """

    marks: tuple[str, ...] = ("",)
    values: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    shift: float = 0.0
    out_of_range: str = "fail"
    extract: bool = False
    mixed: str | None = None
    unit: str | None = None
    format: str | None = None
    origin: str = "subject"
    layouts: tuple[str, ...] = DATES


def cell(
    column: Column,
    name: str,
    dtype: pl.DataType,
    reading: Reading,
    clock: str,
    beside: tuple[pl.Expr, Code] | None = None,
) -> Cell:
    """Expressions for one column.

    Args:
        column: What the schema says.
        name: The column in the raw table, already under our name.
        dtype: Its type in the raw table.
        reading: How it is written.
        clock: Clock of the schema, for timestamps.
        beside: Long tables: the code in the same row, and its column, whose items bound the number.
    """
    if column.kind == "timestamp":
        return moment(name, dtype, reading, clock)
    if column.kind in ("number", "count"):
        return _number(column, name, dtype, reading, beside)
    if "" in (getattr(column, "levels", None) or ()):  # an empty text is a level here, an empty cell is still missing
        reading = replace(reading, marks=tuple(m for m in reading.marks if m))
    text = text_of(name, dtype, reading)
    if column.kind == "flag":
        typed = text.str.to_lowercase().replace_strict(FLAGS, default=None, return_dtype=pl.Boolean)
        fix = 'Flags are 0/1, true/false or yes/no; map others, e.g. values.{column} = { "2" = "1" }.'
        return Cell(typed, [Fault("not-a-flag", text.is_not_null() & typed.is_null(), "are no flags", fix, True)])
    levels: Sequence[str] = getattr(column, "levels", None) or ()
    if not levels:
        return Cell(_whole_text(text) if isinstance(column, Code) and dtype.is_float() else text)
    written = {f"{level}.0": level for level in levels if level.lstrip("-").isdigit() and f"{level}.0" not in levels}
    typed = text.replace(written) if written else text
    shown = ", ".join(levels[:12]) + (", ..." if len(levels) > 12 else "")
    fix = f'The levels are {shown}. Add them to the schema, or map them: values.{{column}} = {{ "theirs" = "ours" }}.'
    fault = Fault("unknown-level", ~typed.is_in(list(levels)), "hold levels the schema does not list", fix, False)
    return Cell(typed, [fault])


def text_of(name: str, dtype: pl.DataType, reading: Reading) -> pl.Expr:
    """Trimmed text with marks turned to null and values mapped."""
    text = pl.col(name).str.strip_chars() if dtype == pl.String else pl.col(name).cast(pl.String)
    marks = list(dict.fromkeys([*reading.marks, *(as_float_text(m) for m in reading.marks)]))
    if marks and (dtype == pl.String or marks != [""]):
        text = pl.when(text.is_in(marks)).then(None).otherwise(text)
    if reading.mixed in ("above", "below"):
        text = text.str.extract(PAIR, 1 if reading.mixed == "above" else 2)
    elif reading.mixed:
        number = text.cast(pl.Float64, strict=False).is_not_null() | number_in(text).is_not_null()
        text = pl.when(number if reading.mixed == "numbers" else ~number).then(text)
    if reading.values:
        text = text.replace({**{as_float_text(k): v for k, v in reading.values.items()}, **reading.values})
        marks_again = [v for v in reading.values.values() if v in reading.marks]
        if marks_again:
            text = pl.when(text.is_in(marks_again)).then(None).otherwise(text)
    return text


def as_float_text(text: str) -> str:
    """ "4" -> "4.0"; anything else stays."""
    return f"{text}.0" if text.lstrip("-").isdigit() else text


def _whole_text(text: pl.Expr) -> pl.Expr:
    return text.str.strip_suffix(".0")


def _number(
    column: Number | Count, name: str, dtype: pl.DataType, reading: Reading, beside: tuple[pl.Expr, Code] | None
) -> Cell:
    number, faults = _parsed(name, dtype, reading)
    if (reading.scale, reading.shift) != (1.0, 0.0):
        number = number * reading.scale + reading.shift
    if isinstance(column, Count):
        fix = 'Counts are whole; use kind = "number" for a quantity.'
        faults.append(Fault("not-whole", number != number.round(), "are no whole numbers", fix, True))
        number = pl.when(number == number.round()).then(number)
    low, high, grid = _limits(column, beside)
    fix = f"The schema allows {_bounds(column, beside)}. Widen it, or set out_of_range in the source of the table."
    outside = (number < low).fill_null(False) | (number > high).fill_null(False)
    faults.append(Fault("out-of-range", outside, "lie outside the schema's bounds", fix, False))
    if reading.out_of_range == "clip":
        number = pl.min_horizontal(pl.max_horizontal(number, low), high) + 0 * number
    if isinstance(column, Count):
        return Cell(number.cast(pl.Int64, strict=False), faults)
    if grid is None:
        return Cell(number, faults)
    shorter = pl.when(grid.is_null()).then(number).otherwise((number * grid).round() / grid)
    off = ((number - shorter).abs() > 1e-6 / grid + number.abs() * 1e-12).fill_null(False)
    return Cell(pl.when(off).then(shorter).otherwise(number), faults, off)


def _parsed(name: str, dtype: pl.DataType, reading: Reading) -> tuple[pl.Expr, list[Fault]]:
    """Finite numbers, or null."""
    faults = []
    if dtype.is_numeric() and not [m for m in reading.marks if m] and not reading.values and not reading.mixed:
        number = pl.col(name).cast(pl.Float64)
    else:
        text = text_of(name, dtype, reading)
        parsed = text.cast(pl.Float64, strict=False)
        parsed = pl.coalesce(parsed, number_in(text)) if reading.extract else parsed
        fix = "If they mean missing, add them to missing_in.{column} of the source; a decimal comma needs a point."
        faults.append(Fault("not-a-number", text.is_not_null() & parsed.is_null(), "are no numbers", fix, True))
        odd = [float(m) for m in reading.marks if is_number(m)]  # "-1" is also written "-1.00"
        number = pl.when(parsed.is_in(odd)).then(None).otherwise(parsed) if odd else parsed
    if dtype.is_float():  # pandas says missing by NaN; in text a NaN means missing only where the source says so
        number = pl.when(number.is_nan()).then(None).otherwise(number)
    fix = 'If NaN or inf means missing, add it to the marks of the source: missing = ["", "NaN"].'
    faults.append(Fault("not-finite", ~number.is_finite(), "are NaN or infinite", fix, True))
    return pl.when(number.is_finite()).then(number), faults


def _limits(column: Number | Count, beside: tuple[pl.Expr, Code] | None) -> tuple[pl.Expr, pl.Expr, pl.Expr | None]:
    """Lower bound, upper bound, and 10^decimals, of every row."""
    decimals = getattr(column, "decimals", None)
    low, high = (pl.lit(b, dtype=pl.Float64) for b in (column.low, column.high))
    grid = None if decimals is None else pl.lit(10.0**decimals)
    if beside is None:
        return low, high, grid
    code, items = beside[0], beside[1].items

    def by_code(key: str, rest: pl.Expr) -> pl.Expr:
        known = {c: float(getattr(i, key)) for c, i in items.items() if getattr(i, key) is not None}
        if not known:
            return rest
        return pl.coalesce(code.replace_strict(known, default=None, return_dtype=pl.Float64), rest)

    steps = {c: 10.0**i.decimals for c, i in items.items() if i.decimals is not None}
    if steps:
        rest = pl.lit(None, dtype=pl.Float64) if grid is None else grid
        grid = pl.coalesce(code.replace_strict(steps, default=None, return_dtype=pl.Float64), rest)
    return by_code("low", low), by_code("high", high), grid


def _bounds(column: Number | Count, beside: object) -> str:
    if beside is not None:
        return "what its items say by code"
    unit = f" {column.unit}" if column.unit != "1" else ""
    parts = [f"at least {column.low:g}{unit}"] if column.low is not None else []
    parts += [f"at most {column.high:g}{unit}"] if column.high is not None else []
    return " and ".join(parts) or "any number"


# -- time ------------------------------------------------------------------------------------------------------------


def moment(name: str, dtype: pl.DataType, reading: Reading, clock: str) -> Cell:
    """A time on the clock of the schema.

    A number needs a unit unless the clock is "order"; our own files write offsets in seconds. Dates under an offset
    clock come back as Datetime, to be counted from the subject's first row (`origin = "first"`).
    """
    if clock == "order":
        number, faults = _parsed(name, dtype, reading)
        faults.append(
            Fault("not-whole", number != number.round(), "are no whole numbers", "An order is 0, 1, 2, ...", True)
        )
        return Cell(pl.when(number == number.round()).then(number).cast(pl.Int64, strict=False), faults)
    if dtype == pl.Duration and clock == "offset":
        return Cell(pl.col(name).cast(pl.Duration("us")))
    unit = reading.unit or ("s" if clock == "offset" and reading.origin == "subject" else None)
    if unit is not None:
        number, faults = _parsed(name, dtype, reading)
        ticks = (number * (TIME_UNITS[unit] * 86400e6)).round()
        faults.append(
            Fault("not-a-time", ticks.abs() > 9e18, "are too large for a time", "Check the unit of the time.", True)
        )
        offset = pl.when(ticks.abs() <= 9e18).then(ticks).cast(pl.Int64, strict=False).cast(pl.Duration("us"))
        if clock == "offset":
            return Cell(offset, faults)
        return Cell(pl.lit(reading.origin).str.to_datetime(time_unit="us", strict=False) + offset, faults)
    return _date(name, dtype, reading)


def _date(name: str, dtype: pl.DataType, reading: Reading) -> Cell:
    if dtype == pl.Date:
        return Cell(pl.col(name).cast(pl.Datetime("us")))
    if isinstance(dtype, pl.Datetime):
        when = pl.col(name)
        when = when.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if dtype.time_zone else when
        return Cell(when.cast(pl.Datetime("us")))
    text = text_of(name, dtype, reading)
    if reading.format:
        text = plain_iso(text) if "|" in reading.format else text
        when = read_date(text, reading.format)
    else:
        when = pl.coalesce(read_date(plain_iso(text), layout) for layout in reading.layouts)
    fix = 'Name the layout, e.g. time = { column = "...", format = "%d.%m.%Y" }, or a unit if it is a number.'
    return Cell(when, [Fault("not-a-date", text.is_not_null() & when.is_null(), "are no dates", fix, True)])


def layouts_in(sample: pl.Series, reading: Reading) -> tuple[str, ...]:
    """Those of the layouts that some cell of a sample has; trying all of them on every row is slow."""
    frame = sample.rename("x").to_frame()
    found = [
        layout
        for layout in DATES
        if frame.select(_date("x", sample.dtype, replace(reading, layouts=(layout,))).typed.is_not_null().any()).item()
    ]
    return tuple(found) or DATES
