"""Rules about single cells: range, levels, decimals, steps, required.

Numbers must be finite as well: missing is null, never NaN. Bounds are inclusive. A cell is on its grid of d decimals if
|x - round(x, d)| is below 1e-6 of a grid step or below what a float can tell apart. Clipping goes to the outermost grid
point inside the bounds, so that clipping and rounding never undo each other.
"""

from collections.abc import Iterator
from math import ceil, floor
from typing import ClassVar

import polars as pl
from pydantic import Field

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem, nearest
from cohortloom.rng import Rng
from cohortloom.rules.base import (
    ENCODING,
    REDRAW,
    REPAIR,
    Finding,
    Rule,
    bounds_text,
    change,
    column_of,
    empty,
    nullable,
    place_problem,
    put,
    split_path,
)
from cohortloom.schema import Number, Schema

__all__ = ["Decimals", "Items", "Levels", "Range", "Required", "Step"]

ALL = frozenset({ENCODING, REPAIR, REDRAW})


class _Cell(Rule):
    """A rule about the cells of one column."""

    family: ClassVar[str] = "values"
    column: str = Field(description="table.column")

    def broken(self, schema: Schema) -> pl.Expr:
        """True where a cell breaks the rule; null counts as fine."""
        raise NotImplementedError

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        frame = cohort.tables[table]
        broken = frame.select(self.broken(cohort.schema).fill_null(False).alias("broken"))["broken"]
        yield Finding(table, column, broken, frame.height - frame[column].null_count())


class Range(_Cell):
    """Numbers lie between two bounds, both inclusive, and are finite."""

    kind: ClassVar[str] = "range"
    holds_by: ClassVar[frozenset[str]] = ALL
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        return f"{self.column} is {bounds_text(self.low, self.high) or 'finite'}"

    def problems(self, schema: Schema) -> list[Problem]:
        problem = place_problem(schema, self.column, f"rule range {self.column}", "number", "count")
        if problem is None and self.low is not None and self.high is not None and self.low > self.high:
            problem = Problem("bad-range", f"rule range {self.column}", "low lies above high", "Swap them.")
        return [problem] if problem else []

    def broken(self, schema: Schema) -> pl.Expr:
        x = pl.col(split_path(self.column)[1])
        bad = ~x.is_finite() if isinstance(column_of(schema, self.column), Number) else pl.lit(False)
        if self.low is not None:
            bad = bad | (x < self.low)
        return bad | (x > self.high) if self.high is not None else bad

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        column = column_of(cohort.schema, self.column)
        x = pl.col(finding.column)
        low, high = on_grid(self.low, self.high, column.decimals if isinstance(column, Number) else 0)
        if isinstance(column, Number):
            finite = pl.when(x.is_infinite()).then(pl.when(x < 0).then(low).otherwise(high)).otherwise(x)
            clipped = _clip(finite, low, high)
            # not a number: unknown, so missing; where missing isn't allowed the subject is drawn again
            new = pl.when(x.is_nan()).then(None if nullable(cohort.schema, self.column) else x).otherwise(clipped)
        else:
            new = _clip(x, low, high).cast(pl.Int64)
        return change(cohort, finding.table, finding.column, new)


class Levels(_Cell):
    """Words come from a closed list."""

    kind: ClassVar[str] = "levels"
    holds_by: ClassVar[frozenset[str]] = ALL
    levels: tuple[str, ...] = Field(min_length=1)

    @property
    def words(self) -> str:
        return f"{self.column} is one of {len(self.levels)} levels"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule levels {self.column}"
        problem = place_problem(schema, self.column, where, "category", "ordinal", "code")
        if problem:
            return [problem]
        return level_problems(schema, self.column, self.levels, where)

    def broken(self, schema: Schema) -> pl.Expr:
        return ~pl.col(split_path(self.column)[1]).is_in(list(self.levels))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        return empty(cohort, finding)


class Decimals(_Cell):
    """Numbers are recorded to so many decimals."""

    kind: ClassVar[str] = "decimals"
    holds_by: ClassVar[frozenset[str]] = ALL
    decimals: int = Field(ge=0, le=12)

    @property
    def words(self) -> str:
        return f"{self.column} has at most {self.decimals} decimals"

    def problems(self, schema: Schema) -> list[Problem]:
        problem = place_problem(schema, self.column, f"rule decimals {self.column}", "number")
        return [problem] if problem else []

    def broken(self, schema: Schema) -> pl.Expr:
        return off_grid(pl.col(split_path(self.column)[1]), pl.lit(10.0**-self.decimals))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        column = column_of(cohort.schema, self.column)
        assert isinstance(column, Number)
        rounded = pl.col(finding.column).round(self.decimals)
        new = _clip(rounded, *on_grid(column.low, column.high, self.decimals))
        return change(
            cohort, finding.table, finding.column, pl.when(finding.broken).then(new).otherwise(pl.col(finding.column))
        )


class Step(_Cell):
    """Numbers are whole multiples of a step: tablets of 2.5 mg, a scale read to the nearest 5."""

    kind: ClassVar[str] = "step"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    step: float = Field(gt=0)

    @property
    def words(self) -> str:
        return f"{self.column} comes in steps of {self.step:g}"

    def problems(self, schema: Schema) -> list[Problem]:
        problem = place_problem(schema, self.column, f"rule step {self.column}", "number", "count")
        return [problem] if problem else []

    def broken(self, schema: Schema) -> pl.Expr:
        return off_grid(pl.col(split_path(self.column)[1]).cast(pl.Float64), pl.lit(self.step))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        column = column_of(cohort.schema, self.column)
        low, high = getattr(column, "low", None), getattr(column, "high", None)
        low = None if low is None else ceil(low / self.step - 1e-9) * self.step
        high = None if high is None else floor(high / self.step + 1e-9) * self.step
        old = pl.col(finding.column)
        new = _clip((old.cast(pl.Float64) / self.step).round() * self.step, low, high)
        if isinstance(column, Number) and column.decimals is not None:
            new = new.round(column.decimals)
        dtype = cohort.tables[finding.table][finding.column].dtype
        return change(
            cohort, finding.table, finding.column, pl.when(finding.broken).then(new.cast(dtype)).otherwise(old)
        )


class Required(_Cell):
    """A cell is never missing."""

    kind: ClassVar[str] = "required"
    holds_by: ClassVar[frozenset[str]] = frozenset({ENCODING, REDRAW})

    @property
    def words(self) -> str:
        return f"{self.column} is never missing"

    def problems(self, schema: Schema) -> list[Problem]:
        problem = place_problem(schema, self.column, f"rule required {self.column}")
        return [problem] if problem else []

    def broken(self, schema: Schema) -> pl.Expr:
        return pl.col(split_path(self.column)[1]).is_null()

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        for finding in super().find(cohort):
            yield Finding(finding.table, finding.column, finding.broken, finding.broken.len())


class Items(Rule):
    """In a long table the number beside each code keeps the bounds and decimals of that code."""

    kind: ClassVar[str] = "items"
    family: ClassVar[str] = "values"
    holds_by: ClassVar[frozenset[str]] = ALL
    table: str

    @property
    def words(self) -> str:
        return f"values of {self.table} keep the bounds and decimals of their codes"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule items {self.table}"
        if self.table not in schema.tables:
            return [
                Problem(
                    "unknown-table", where, f'"{self.table}" is not a table', nearest(self.table, schema.tables).strip()
                )
            ]
        if schema.tables[self.table].value is None:
            return [Problem("not-long", where, "the table has no code and value columns", "Set code = and value =.")]
        return []

    def _limits(self, schema: Schema, frame: pl.DataFrame) -> pl.DataFrame:
        """low, high, step and value at each row."""
        table = schema.tables[self.table]
        items = table.code_column().items
        rows = []
        for code, item in items.items():
            low, high = on_grid(item.low, item.high, item.decimals)
            rows.append((code, item.low, item.high, low, high, None if item.decimals is None else 10.0**-item.decimals))
        names = ("low", "high", "grid_low", "grid_high", "step")
        limits = pl.DataFrame(rows, schema={"code": pl.String, **dict.fromkeys(names, pl.Float64)}, orient="row")
        picked = frame.select(pl.col(table.code).alias("code"), pl.col(table.value).alias("value"))  # type: ignore[arg-type]
        return picked.join(limits, on="code", how="left", maintain_order="left")

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        frame = cohort.tables[self.table]
        x = pl.col("value")
        bad = ~x.is_finite() | (x < pl.col("low")).fill_null(False) | (x > pl.col("high")).fill_null(False)
        bad = bad | off_grid(x, pl.col("step")).fill_null(False)
        limits = self._limits(cohort.schema, frame)
        n = frame.height - limits["value"].null_count()
        value = cohort.schema.tables[self.table].value or ""
        yield Finding(self.table, value, limits.select(bad.fill_null(False).alias("broken"))["broken"], n)

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        frame = cohort.tables[self.table]
        x, step = pl.col("value"), pl.col("step")
        inverse = (1 / step).round()
        finite = pl.when(x.is_finite()).then(x)
        rounded = pl.when(step.is_null()).then(finite).otherwise((finite * inverse).round() / inverse)
        new = pl.min_horizontal(pl.max_horizontal(rounded, pl.col("grid_low")), pl.col("grid_high"))
        new = pl.when(pl.lit(finding.broken) & rounded.is_not_null()).then(new)
        new = new.when(pl.lit(finding.broken)).then(None).otherwise(x)
        limits = self._limits(cohort.schema, frame)
        return put(cohort, self.table, frame.with_columns(limits.select(new.alias(finding.column))))


# -- grids -----------------------------------------------------------------------------------------------------------


def off_grid(x: pl.Expr, step: pl.Expr) -> pl.Expr:
    """True where a number is no multiple of the step, up to what a float can tell apart."""
    near = (x / step).round() * step
    return x.is_finite() & ((x - near).abs() > step * 1e-6 + x.abs() * 1e-12)


def on_grid(low: float | None, high: float | None, decimals: int | None) -> tuple[float | None, float | None]:
    """The outermost grid points inside bounds; the bounds themselves if there is no grid, or no point between them."""
    if decimals is None:
        return low, high
    scale = 10**decimals
    inner_low = None if low is None else ceil(low * scale - 1e-9) / scale
    inner_high = None if high is None else floor(high * scale + 1e-9) / scale
    if inner_low is not None and inner_high is not None and inner_low > inner_high:
        return low, high
    return inner_low, inner_high


def _clip(x: pl.Expr, low: float | None, high: float | None) -> pl.Expr:
    return x.clip(low, high) if (low is not None or high is not None) else x


def level_problems(schema: Schema, path: str, values: tuple, where: str) -> list[Problem]:
    """Values that a column with a closed list can't hold."""
    known = getattr(column_of(schema, path), "levels", None)
    if not known:
        return []
    listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    what = f'is not a level of "{path}"; they are {listed}'
    unknown = [value for value in values if value not in known]
    return [Problem("unknown-level", where, f'"{v}" {what}', nearest(f"{v}", known).strip()) for v in unknown]
