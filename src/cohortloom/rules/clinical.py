"""Rules between columns: if this, then that; and combinations that may or may not occur.

Columns may stand in different tables; rows are then linked as in `spread`. A condition of the "if" part that meets a
missing cell doesn't hold. A "then" part about values says nothing about a missing cell; use `missing = false` to
demand one.
"""

from collections.abc import Iterator
from typing import ClassVar

import polars as pl
from pydantic import ConfigDict, Field, field_validator, model_validator

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem
from cohortloom.rng import Rng
from cohortloom.rules.base import (
    REDRAW,
    REPAIR,
    Finding,
    Rule,
    bounds_text,
    change,
    column_of,
    drop_rows,
    empty,
    place_problem,
    put,
    split_path,
)
from cohortloom.rules.spread import Link, spread
from cohortloom.rules.value import level_problems, on_grid
from cohortloom.schema import Number, Schema
from cohortloom.schema.column import Strict

__all__ = ["Combinations", "Condition", "Implies"]

VERBS = {
    "among": "in",
    "not_in": "not in",
    "starts_with": "starts with",
    "not_starts_with": "doesn't start with",
}
Cell = bool | int | float | str


class Condition(Strict):
    """What one cell must be like. All given settings must hold together."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    column: str = Field(description="table.column")
    among: tuple[Cell, ...] | None = Field(None, alias="in")
    not_in: tuple[Cell, ...] | None = None
    starts_with: tuple[str, ...] | None = Field(None, description="Code begins with one of these.")
    not_starts_with: tuple[str, ...] | None = None
    low: float | None = Field(None, description="At least.")
    high: float | None = Field(None, description="At most.")
    missing: bool | None = Field(None, description="true: the cell is missing; false: it is there.")

    @model_validator(mode="after")
    def _says_something(self) -> "Condition":
        if all(getattr(self, f) is None for f in type(self).model_fields if f != "column"):
            raise ValueError("says nothing; add in, not_in, starts_with, not_starts_with, low, high or missing")
        return self

    @property
    def says_only_bounds(self) -> bool:
        return self.model_fields_set <= {"column", "low", "high"}

    @property
    def words(self) -> str:
        said = []
        for field, verb in VERBS.items():
            values = getattr(self, field)
            if values is not None:
                listed = ", ".join(map(_say, values[:4])) + (f", ... ({len(values)})" if len(values) > 4 else "")
                said.append(f"{verb} {listed}")
        said += [text] if (text := bounds_text(self.low, self.high)) else []
        said += ["missing" if self.missing else "present"] * (self.missing is not None)
        return f"{self.column} {' and '.join(said)}"

    def problems(self, schema: Schema, where: str) -> list[Problem]:
        problem = place_problem(schema, self.column, where)
        if problem:
            return [problem]
        found = level_problems(schema, self.column, (*(self.among or ()), *(self.not_in or ())), where)
        column = column_of(schema, self.column)
        kind = column.kind if column is not None else "time"
        if (self.low is not None or self.high is not None) and kind not in ("number", "count"):
            found.append(
                Problem("wrong-kind", where, f'low and high need a number; "{self.column}" is of kind "{kind}"')
            )
        if (self.starts_with or self.not_starts_with) and kind not in ("code", "category", "identifier"):
            found.append(Problem("wrong-kind", where, f'starts_with needs words; "{self.column}" is of kind "{kind}"'))
        wanted = {"flag": bool, "number": (int, float), "count": int}.get(kind, str)
        listed = (*(self.among or ()), *(self.not_in or ()))
        if any(not isinstance(v, wanted) or isinstance(v, bool) != (kind == "flag") for v in listed):
            what = f'the listed values do not fit "{self.column}" of kind "{kind}"'
            found.append(Problem("wrong-type", where, what))
        return found

    def holds(self, x: pl.Expr, dtype: pl.DataType) -> pl.Expr:
        """True, false, or null where the cell is missing and the condition is about its value."""
        parts = []
        if self.among is not None:
            parts.append(x.is_in(pl.Series(list(self.among), dtype=dtype).implode()))
        if self.not_in is not None:
            parts.append(~x.is_in(pl.Series(list(self.not_in), dtype=dtype).implode()))
        for prefixes, wanted in ((self.starts_with, True), (self.not_starts_with, False)):
            if prefixes is not None:
                begins = pl.any_horizontal(x.str.starts_with(p) for p in prefixes)
                parts.append(begins if wanted else ~begins)
        if self.low is not None:
            parts.append(x >= self.low)
        if self.high is not None:
            parts.append(x <= self.high)
        if self.missing is not None:
            parts.append(x.is_null() if self.missing else x.is_not_null())
        return pl.all_horizontal(parts)


class Implies(Rule):
    """If all of some conditions hold, another one holds too."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    kind: ClassVar[str] = "implies"
    family: ClassVar[str] = "clinical"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    given: tuple[Condition, ...] = Field(alias="if", min_length=1)
    then: Condition
    link: Link | None = Field(None, description="How rows of two tables belong together, where not the obvious way.")

    @field_validator("given", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    @property
    def words(self) -> str:
        return f"if {' and '.join(c.words for c in self.given)} then {self.then.words}"

    def problems(self, schema: Schema) -> list[Problem]:
        found = [p for c in self.given for p in c.problems(schema, "rule implies, if")]
        found += self.then.problems(schema, "rule implies, then")
        tables = [split_path(c.column)[0] for c in (*self.given, self.then)]
        if not found and self.link == "visit" and not all(schema.has_visit_id(t) for t in tables):
            found.append(
                Problem("no-visits", "rule implies", 'link = "visit" needs tables with visits', "Remove link.")
            )
        if not found and self.link == "row" and len(set(tables)) > 1:
            found.append(
                Problem("other-table", "rule implies", 'link = "row" needs columns of one table', "Remove link.")
            )
        return found

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.then.column)
        frame = cohort.tables[table]
        asked = pl.Series([True], dtype=pl.Boolean).new_from_index(0, frame.height)
        for condition in self.given:
            source, name = split_path(condition.column)
            there = cohort.tables[source]
            holds = there.select(condition.holds(pl.col(name), there[name].dtype).fill_null(False).alias("x"))["x"]
            asked = asked & spread(cohort, source, holds, table, "any", self.link).fill_null(False)
        fine = frame.select(self.then.holds(pl.col(column), frame[column].dtype).fill_null(True).alias("x"))["x"]
        yield Finding(table, column, asked & ~fine, int(asked.sum() or 0))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        then, column = self.then, column_of(cohort.schema, self.then.column)
        if then.missing is False:
            return cohort
        if then.says_only_bounds and column is not None:
            low, high = on_grid(then.low, then.high, column.decimals if isinstance(column, Number) else 0)
            x = pl.col(finding.column)
            clipped = x.clip(low, high).cast(cohort.tables[finding.table][finding.column].dtype)
            return change(
                cohort, finding.table, finding.column, pl.when(pl.lit(finding.broken)).then(clipped).otherwise(x)
            )
        table = cohort.schema.tables[finding.table]
        if table.role == "event" and finding.column == table.code:
            return drop_rows(cohort, finding.table, finding.broken)
        return empty(cohort, finding)


class Combinations(Rule):
    """Values of some columns occur together only as listed, or never as listed.

    A missing cell makes a row exempt. Columns come from one table, and further ones from tables that have one row for
    each of its rows (its visits, the static tables).
    """

    kind: ClassVar[str] = "combinations"
    family: ClassVar[str] = "clinical"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    columns: tuple[str, ...] = Field(min_length=2)
    allowed: tuple[tuple[Cell, ...], ...] = ()
    forbidden: tuple[tuple[Cell, ...], ...] = ()

    @property
    def words(self) -> str:
        n = len(self.allowed or self.forbidden)
        kind = "one of the" if self.allowed else "none of the"
        return f"{' + '.join(self.columns)} is {kind} {n} {'listed' if self.allowed else 'forbidden'} combinations"

    def problems(self, schema: Schema) -> list[Problem]:
        where = "rule combinations"
        found = [p for path in self.columns if (p := place_problem(schema, path, where))]
        if bool(self.allowed) == bool(self.forbidden):
            found.append(Problem("no-list", where, "give either allowed or forbidden", 'allowed = [["F", "yes"]]'))
        wrong = sum(len(row) != len(self.columns) for row in self.allowed or self.forbidden)
        if wrong:
            what = f"{wrong} combinations have not {len(self.columns)} values"
            found.append(Problem("wrong-length", where, what, "Give one value per column."))
        if found:
            return found
        for i, path in enumerate(self.columns):
            found += level_problems(
                schema, path, tuple(dict.fromkeys(row[i] for row in self.allowed or self.forbidden)), where
            )
        return found + self._linked(schema, where)

    def _linked(self, schema: Schema, where: str) -> list[Problem]:
        base = self._base(schema)
        visits = schema.visit_table if schema.has_visit_id(base) else None
        for path in self.columns:
            table = split_path(path)[0]
            if table != base and table != visits and schema.tables[table].role != "static":
                what = f'rows of "{base}" have many rows in "{table}"'
                return [Problem("many-to-many", where, what, "Use columns of one table, its visits and static tables.")]
        return []

    def _base(self, schema: Schema) -> str:
        """The table with the most rows per subject among those named."""
        depth = {"static": 0, "visit": 1, "event": 2}
        return max((split_path(p)[0] for p in self.columns), key=lambda t: depth[schema.tables[t].role])

    def _together(self, cohort: Cohort) -> pl.DataFrame:
        base = self._base(cohort.schema)
        series = []
        for i, path in enumerate(self.columns):
            table, column = split_path(path)
            series.append(spread(cohort, table, cohort.tables[table][column], base, "first").alias(f"c{i}"))
        return pl.DataFrame(series)

    def _listed(self, together: pl.DataFrame) -> pl.DataFrame:
        rows = self.allowed or self.forbidden
        listed = [
            pl.Series(f"c{i}", [row[i] for row in rows], dtype=dtype, strict=False)
            for i, dtype in enumerate(together.dtypes)
        ]
        return pl.DataFrame(listed).unique(maintain_order=True)

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        together = self._together(cohort)
        listed = self._listed(together).with_columns(pl.lit(True).alias("hit"))
        hit = together.join(listed, on=together.columns, how="left", maintain_order="left")["hit"].fill_null(False)
        known = together.select(pl.all_horizontal(pl.all().is_not_null()).alias("x"))["x"]
        base = self._base(cohort.schema)
        column = next(c for t, c in map(split_path, reversed(self.columns)) if t == base)
        yield Finding(base, column, known & (~hit if self.allowed else hit), int(known.sum() or 0))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        base, frame = finding.table, cohort.tables[finding.table]
        own = [i for i, path in enumerate(self.columns) if split_path(path)[0] == base]
        if self.forbidden:
            return empty(cohort, finding)
        return put(cohort, base, self._nearest(cohort, frame, finding, own, rng))

    def _nearest(self, cohort: Cohort, frame: pl.DataFrame, finding: Finding, own: list[int], rng: Rng) -> pl.DataFrame:
        """Rows changed to the listed combination that agrees in most columns; ties are drawn."""
        together = self._together(cohort)
        listed = self._listed(together)
        distinct = together.filter(finding.broken).unique(maintain_order=True)
        draw, foreign = rng.numpy, [c for c in range(len(self.columns)) if c not in own]
        choice = []
        for row in distinct.iter_rows():  # distinct broken combinations, not patients
            agree = [
                sum(a == b for a, b in zip(row, other)) if all(row[i] == other[i] for i in foreign) else -1
                for other in listed.iter_rows()
            ]
            best = max(agree)
            options = [j for j, a in enumerate(agree) if a == best]
            choice.append(options[int(draw.integers(len(options)))] if best >= 0 else None)
        names = {f"c{i}": f"n{i}" for i in own}
        picks = pl.DataFrame({"pick": choice}, schema={"pick": pl.UInt32})
        target = listed.with_row_index("pick").rename(names).select("pick", *names.values())
        plan = pl.concat([distinct, picks], how="horizontal").join(target, on="pick", how="inner")
        new = together.join(plan, on=together.columns, how="left", maintain_order="left")
        hit = finding.broken & new["pick"].is_not_null()
        columns = {split_path(self.columns[i])[1]: new[f"n{i}"] for i in own}
        return frame.with_columns(
            pl.when(pl.lit(hit)).then(pl.lit(v)).otherwise(pl.col(c)).alias(c) for c, v in columns.items()
        )


def _say(value: Cell) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
