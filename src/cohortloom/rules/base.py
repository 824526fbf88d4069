"""Rules and what they find.

A rule looks at a cohort and says which rows break it. Everything else follows from that one answer: the list of
violations people read, the subjects a generator draws again, the rows a repair touches. A rule is settings only (a
frozen pydantic model), so the same object reads the TOML, checks and repairs.

A generator holds a rule in one of three ways, best first:

    encoding   the codec can't express a breach (levels, bounds, decimals, keys)
    repair     a breach is mended with the smallest change (clip, round, sort, drop)
    redraw     the subject is drawn again
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import polars as pl

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import Problem, nearest, rows_text
from cohortloom.rng import Rng
from cohortloom.schema import Column, Schema
from cohortloom.schema.column import Strict

__all__ = ["Finding", "Rule", "Violation"]

ENCODING, REPAIR, REDRAW = "encoding", "repair", "redraw"


@dataclass(frozen=True)
class Finding:
    """Which rows of one table break a rule.

    Args:
        table: Name of the table.
        column: The column that is wrong; empty if it is the row as such.
        broken: Boolean, one per row of the table, no nulls.
        n: Number of rows the rule applied to.
    """

    table: str
    column: str
    broken: pl.Series
    n: int

    @property
    def count(self) -> int:
        return int(self.broken.sum() or 0)


@dataclass(frozen=True)
class Violation:
    """A broken rule in words and counts; never a value and never an id.

    Args:
        rule: Name of the rule.
        kind: Kind of the rule, as written in a schema.
        table: Table of the rows.
        column: Column that is wrong; empty if it is the row as such.
        count: Rows that break the rule.
        n: Rows the rule applied to.
        rows: First few row numbers (0-based, canonical order).
        severity: "error" or "warning".
        what: What the rule says.
    """

    rule: str
    kind: str
    table: str
    column: str
    count: int
    n: int
    rows: tuple[int, ...]
    severity: str
    what: str

    @property
    def where(self) -> str:
        return f"{self.table}.{self.column}" if self.column else self.table

    def __str__(self) -> str:
        return f'{self.where}: {self.count:,} of {self.n:,} rows break "{self.what}"{rows_text(self.rows, self.count)}'

    def to_problem(self) -> Problem:
        """The same as an entry of an error message."""
        what = f'{self.count:,} of {self.n:,} rows break "{self.what}"'
        return Problem(f"rule-{self.kind}", self.where, what, "Values are not shown.", self.count, self.rows)


class Rule(Strict, ABC):
    """One thing that must hold in a cohort.

    A subclass lists its settings as fields, and writes `words`, `find`, `problems` and, if `holds_by` has "repair",
    `mend`. Missing cells and subjects without rows never break a rule unless the rule is about missing.
    """

    kind: ClassVar[str] = ""
    family: ClassVar[str] = ""
    holds_by: ClassVar[frozenset[str]] = frozenset({REDRAW})

    name: str = ""
    severity: Literal["error", "warning"] = "error"

    @property
    @abstractmethod
    def words(self) -> str:
        """What the rule says, in one phrase."""

    @abstractmethod
    def find(self, cohort: Cohort) -> Iterator[Finding]:
        """One finding per table and column the rule looks at, also where nothing is broken."""

    def problems(self, schema: Schema) -> list[Problem]:
        """What in the settings doesn't fit the schema."""
        return []

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        """The cohort with the rows of one finding put right; only called where some are broken."""
        return cohort

    @property
    def label(self) -> str:
        """The name given in the schema, or else what the rule says."""
        return self.name or self.words

    def check(self, cohort: Cohort) -> list[Violation]:
        """Violations, one per table and column; empty if the rule holds."""
        return [self.violation(f) for f in self.find(cohort) if f.count]

    def violation(self, finding: Finding) -> Violation:
        rows = tuple(finding.broken.arg_true()[:5].to_list())
        return Violation(
            self.label,
            self.kind,
            finding.table,
            finding.column,
            finding.count,
            finding.n,
            rows,
            self.severity,
            self.words,
        )

    def repair(self, cohort: Cohort, rng: Rng) -> Cohort:
        """The smallest change after which the rule holds; the same object if nothing was broken.

        A rule that can't repair, or can't in this place (a cell that must not be missing), leaves the rows as they are:
        `broken_subjects` then names them.
        """
        if REPAIR not in self.holds_by:
            return cohort
        findings = list(self.find(cohort))
        first = True
        for i in range(len(findings)):
            if not findings[i].count:
                continue
            if not first:  # a repair may have moved rows: look again
                findings = list(self.find(cohort))
            if findings[i].count:
                cohort = self.mend(cohort, findings[i], rng.child(self.kind, i))
            first = False
        return cohort

    def broken_subjects(self, cohort: Cohort) -> pl.Series:
        """Ids of subjects with a row that breaks the rule, sorted, each once."""
        ids = [cohort.tables[f.table]["subject_id"].filter(f.broken) for f in self.find(cohort) if f.count]
        empty = pl.Series("subject_id", [], dtype=cohort.subjects.dtype)
        return pl.concat([empty, *ids]).drop_nulls().unique().sort()


# -- places ----------------------------------------------------------------------------------------------------------


def split_path(path: str) -> tuple[str, str]:
    """ "table.column" -> (table, column)."""
    table, _, column = path.partition(".")
    return table, column


def column_of(schema: Schema, path: str) -> Column | None:
    """Column of a path; None for the implied ones (time, subject_id, visit_id)."""
    table, column = split_path(path)
    return schema.tables[table].columns.get(column)


def nullable(schema: Schema, path: str) -> bool:
    """May the cell be emptied?"""
    column = column_of(schema, path)
    return column is not None and column.missing


def place_problem(schema: Schema, path: str, where: str, *kinds: str) -> Problem | None:
    """Why a path can't be used here, if so. `kinds` lists what it may be ("time" is the implied time)."""
    table, column = split_path(path)
    if table not in schema.tables:
        known = ", ".join(schema.tables)
        what = f'"{path}" names no table of the schema; the tables are {known}'
        return Problem("unknown-table", where, what, nearest(table, schema.tables).strip())
    known = [*schema.keys(table), *schema.tables[table].columns]
    if column not in known:
        what = f'"{path}" names no column of table "{table}"; its columns are {", ".join(known)}'
        return Problem("unknown-column", where, what, nearest(column, known).strip())
    found = column_of(schema, path)
    kind = found.kind if found is not None else column
    if kinds and kind not in kinds:
        wanted = " or ".join(kinds)
        return Problem(
            "wrong-kind", where, f'"{path}" is of kind "{kind}", the rule needs {wanted}', "Name another column."
        )
    return None


def bounds_text(low: float | None, high: float | None) -> str:
    """Bounds in words; empty if there are none."""
    said = [] if low is None else [f"at least {low:g}"]
    return " and ".join(said if high is None else [*said, f"at most {high:g}"])


# -- changes ---------------------------------------------------------------------------------------------------------


def put(cohort: Cohort, table: str, frame: pl.DataFrame, *, sort: bool = False) -> Cohort:
    """The cohort with one frame replaced; `sort` if times or ids were touched."""
    if sort:
        from cohortloom.cohort.order import sort_keys

        frame = frame.sort(sort_keys(cohort.schema, table), maintain_order=True, nulls_last=True)
    return replace(cohort, tables={**cohort.tables, table: frame})


def change(cohort: Cohort, table: str, column: str, new: pl.Expr, *, sort: bool = False) -> Cohort:
    """The cohort with one column computed anew from its table."""
    return put(cohort, table, cohort.tables[table].with_columns(new.alias(column)), sort=sort)


def empty(cohort: Cohort, finding: Finding) -> Cohort:
    """The cohort with the broken cells emptied, where the schema lets them be missing."""
    if not nullable(cohort.schema, f"{finding.table}.{finding.column}"):
        return cohort
    kept = pl.when(~pl.lit(finding.broken)).then(pl.col(finding.column))
    return change(cohort, finding.table, finding.column, kept)


def drop_rows(cohort: Cohort, table: str, broken: pl.Series) -> Cohort:
    """Without some rows; rows and records that hung on a dropped visit go with it."""
    frame = cohort.tables[table]
    kept, gone = frame.filter(~broken), frame.filter(broken)
    cohort = put(cohort, table, kept)
    if table != cohort.schema.visit_table:
        return cohort
    keys = ["subject_id", "visit_id"]
    lost = gone.select(keys).join(kept.select(keys), on=keys, how="anti").unique()
    tables, signals = dict(cohort.tables), dict(cohort.signals)
    for name in cohort.schema.events:
        if cohort.schema.has_visit_id(name) and tables[name].height:
            tables[name] = tables[name].join(lost, on=keys, how="anti", maintain_order="left")
    for name, signal in signals.items():
        signals[name] = _without_visits(signal, lost)
    return replace(cohort, tables=tables, signals=signals)


def _without_visits(signal: SignalSet, lost: pl.DataFrame) -> SignalSet:
    rows = signal.records.with_row_index("row")
    if lost.is_empty() or "visit_id" not in rows.columns or rows["visit_id"].dtype != lost["visit_id"].dtype:
        return signal
    kept = rows.join(lost, on=["subject_id", "visit_id"], how="anti", maintain_order="left")
    if kept.height == rows.height:
        return signal
    notes = signal.annotations
    if notes is not None:
        notes = notes.join(kept.select("record_id"), on="record_id", how="semi")
    return SignalSet(signal.spec, kept.drop("row"), signal.samples[kept["row"].to_numpy()], notes)
