"""Rules about keys and links between tables; a schema implies them all.

The key of a visit is the pair (subject_id, visit_id). An event row without visit_id lies outside any visit, which is
allowed; one that names a visit must name one of its own subject. Where a table declares a static parent, each of its
subjects has a row there.
"""

from collections.abc import Iterator
from typing import ClassVar

import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem, nearest
from cohortloom.rng import Rng
from cohortloom.rules.base import ENCODING, REDRAW, REPAIR, Finding, Rule, drop_rows
from cohortloom.schema import Schema

__all__ = ["OneRow", "Parent", "Unique"]


class _Table(Rule):
    family: ClassVar[str] = "links"
    table: str

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule {self.kind} {self.table}"
        if self.table in schema.tables:
            return []
        what = f'"{self.table}" is not a table; the tables are {", ".join(schema.tables)}'
        return [Problem("unknown-table", where, what, nearest(self.table, schema.tables).strip())]


class Unique(_Table):
    """No two rows agree in all the named columns; keys are never missing."""

    kind: ClassVar[str] = "unique"
    holds_by: ClassVar[frozenset[str]] = frozenset({ENCODING, REPAIR, REDRAW})
    columns: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"{' + '.join(self.columns)} is unique in {self.table}"

    def problems(self, schema: Schema) -> list[Problem]:
        found = super().problems(schema)
        if found:
            return found
        known = [*schema.keys(self.table), *schema.tables[self.table].columns]
        where = f"rule unique {self.table}"
        return [
            Problem("unknown-column", where, f'"{c}" is not a column of {self.table}', nearest(c, known).strip())
            for c in self.columns
            if c not in known
        ]

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        frame = cohort.tables[self.table].select(self.columns)
        keys = [c for c in self.columns if c in ("subject_id", "visit_id")]
        null = frame.select(pl.any_horizontal(pl.col(c).is_null() for c in self.columns).alias("x"))["x"]
        lost = frame.select(pl.any_horizontal([pl.col(c).is_null() for c in keys] or [pl.lit(False)]).alias("x"))["x"]
        first = frame.select(_first_of(self.columns).alias("x"))["x"]
        if lost.len() != frame.height:  # no key among the columns: a literal has one row
            lost = pl.Series([False] * frame.height, dtype=pl.Boolean)
        yield Finding(self.table, "", lost | (~first & ~null), frame.height)

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        return drop_rows(cohort, self.table, finding.broken)


class OneRow(_Table):
    """A static table has at most one row per subject."""

    kind: ClassVar[str] = "one_row"
    holds_by: ClassVar[frozenset[str]] = frozenset({ENCODING, REPAIR, REDRAW})

    @property
    def words(self) -> str:
        return f"{self.table} has one row per subject"

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        ids = cohort.tables[self.table]["subject_id"]
        yield Finding(self.table, "", ids.is_null() | ~ids.is_first_distinct(), ids.len())

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        return drop_rows(cohort, self.table, finding.broken)


class Parent(_Table):
    """Every row's parent exists: the visit it names, of the same subject, or the subject's row in a static table."""

    kind: ClassVar[str] = "parent"
    holds_by: ClassVar[frozenset[str]] = frozenset({ENCODING, REPAIR, REDRAW})
    parent: str

    @property
    def words(self) -> str:
        return f"each row of {self.table} has its row in {self.parent}"

    def problems(self, schema: Schema) -> list[Problem]:
        found = super().problems(schema)
        if not found and self.parent not in schema.tables:
            what = f'"{self.parent}" is not a table; the tables are {", ".join(schema.tables)}'
            where = f"rule parent {self.table}"
            found = [Problem("unknown-table", where, what, nearest(self.parent, schema.tables).strip())]
        return found

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        frame, parent = cohort.tables[self.table], cohort.tables[self.parent]
        by_visit = self._by_visit(cohort.schema)
        keys = ["subject_id", "visit_id"] if by_visit else ["subject_id"]
        known = parent.select(keys).unique().with_columns(pl.lit(True).alias("found"))
        linked = frame.select(keys).join(known, on=keys, how="left", maintain_order="left")["found"].fill_null(False)
        asked = frame["visit_id"].is_not_null() if by_visit else frame["subject_id"].is_not_null()
        yield Finding(self.table, "visit_id" if by_visit else "subject_id", asked & ~linked, int(asked.sum() or 0))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        # A row without its visit goes. A subject without its static row stays: dropping it would lose a patient.
        return drop_rows(cohort, self.table, finding.broken) if self._by_visit(cohort.schema) else cohort

    def _by_visit(self, schema: Schema) -> bool:
        return self.parent == schema.visit_table and schema.has_visit_id(self.table)


def _first_of(columns: tuple[str, ...]) -> pl.Expr:
    return (pl.col(columns[0]) if len(columns) == 1 else pl.struct(columns)).is_first_distinct()
