"""A rule about two numbers of one row: diastolic pressure is at most systolic, doses taken at most those due."""

from collections.abc import Iterator
from typing import ClassVar

import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem
from cohortloom.rng import Rng
from cohortloom.rules.base import REDRAW, REPAIR, Finding, Rule, column_of, place_problem, put, split_path
from cohortloom.rules.value import on_grid
from cohortloom.schema import Number, Schema

__all__ = ["AtMost"]


class AtMost(Rule):
    """A number is not above another one of its row, wherever both are known; repair exchanges them."""

    kind: ClassVar[str] = "at_most"
    family: ClassVar[str] = "values"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    column: str
    of: str

    @property
    def words(self) -> str:
        return f"{self.column} is at most {self.of}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule at_most {self.column}"
        found = [place_problem(schema, path, where, "number", "count") for path in (self.column, self.of)]
        if problems := [p for p in found if p]:
            return problems
        if split_path(self.column)[0] != split_path(self.of)[0] or self.column == self.of:
            return [Problem("other-table", where, "needs two columns of one table", "Name both from one table.")]
        return []

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        (table, column), other = split_path(self.column), split_path(self.of)[1]
        both = cohort.tables[table].select(x=pl.col(column) > pl.col(other))["x"]
        yield Finding(table, column, both.fill_null(False), both.len() - both.null_count())

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        """Each takes the other's number, as far as its own bounds and decimals allow."""
        frame, broken = cohort.tables[finding.table], pl.lit(finding.broken)
        new = []
        for ours, theirs in ((self.column, self.of), (self.of, self.column)):
            name = split_path(ours)[1]
            fitted = _fitted(cohort.schema, ours, theirs).cast(frame[name].dtype)
            new.append(pl.when(broken).then(fitted).otherwise(pl.col(name)).alias(name))
        return put(cohort, finding.table, frame.with_columns(new))


def _fitted(schema: Schema, ours: str, theirs: str) -> pl.Expr:
    """The numbers of one column on the grid and within the bounds of another."""
    spec, x = column_of(schema, ours), pl.col(split_path(theirs)[1]).cast(pl.Float64)
    decimals = spec.decimals if isinstance(spec, Number) else 0
    low, high = on_grid(getattr(spec, "low", None), getattr(spec, "high", None), decimals)
    x = x if decimals is None else x.round(decimals)
    return x if low is None and high is None else x.clip(low, high)
