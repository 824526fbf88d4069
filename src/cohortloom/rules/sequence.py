"""Rules about the rows of one subject in order: monotone, no repeat, order of events, constant, no overlap,
baseline.

Rows stand in canonical order (subject, time, visit), so a subject's rows are next to each other and "previous" is one
shift away. Missing cells are skipped.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem
from cohortloom.rng import Rng
from cohortloom.rules.base import (
    REDRAW,
    REPAIR,
    Finding,
    Rule,
    change,
    column_of,
    drop_rows,
    empty,
    place_problem,
    put,
    split_path,
)
from cohortloom.rules.spread import spread
from cohortloom.rules.value import level_problems
from cohortloom.schema import Ordinal, Schema

__all__ = ["Baseline", "Constant", "EventOrder", "Monotone", "NoOverlap", "NoRepeat"]


class _Sequence(Rule):
    family: ClassVar[str] = "sequence"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    column: str = Field(description="table.column")

    def _remove(self, cohort: Cohort, finding: Finding) -> Cohort:
        """An event that must not be there goes as a row; in other tables the cell is emptied where it may be."""
        if cohort.schema.tables[finding.table].role == "event":
            return drop_rows(cohort, finding.table, finding.broken)
        return empty(cohort, finding)


class Monotone(_Sequence):
    """A value never falls (or never rises) within a subject; ordinals by the order of their levels."""

    kind: ClassVar[str] = "monotone"
    direction: Literal["up", "down"] = "up"
    strict: bool = Field(False, description="Equal neighbours break the rule too.")
    code: str | None = Field(None, description="Long table: only rows of this code.")

    @property
    def words(self) -> str:
        verb = {("up", False): "never falls", ("down", False): "never rises", ("up", True): "always rises"}
        of = f" of {self.code}" if self.code else ""
        return f"{self.column}{of} {verb.get((self.direction, self.strict), 'always falls')}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule monotone {self.column}"
        kinds = ("number", "count", "ordinal", "flag", "timestamp")
        problem = place_problem(schema, self.column, where, *kinds)
        if problem:
            return [problem]
        if self.code and schema.tables[split_path(self.column)[0]].code is None:
            return [Problem("not-long", where, "names a code, but the table has no code column", "Remove code.")]
        return []

    def _known(self, cohort: Cohort) -> pl.DataFrame:
        """row, subject_id and rank of the cells that count, in order."""
        table, column = split_path(self.column)
        frame, spec = cohort.tables[table], column_of(cohort.schema, self.column)
        rank = pl.col(column)
        if isinstance(spec, Ordinal):
            rank = rank.replace_strict(
                list(spec.levels), list(range(len(spec.levels))), default=None, return_dtype=pl.Int64
            )
        elif spec is not None and spec.kind == "flag":
            rank = rank.cast(pl.Int64)
        kept = pl.col("rank").is_not_null()
        code = cohort.schema.tables[table].code
        picked = frame.with_row_index("row").with_columns(rank.alias("rank"))
        if self.code and code:
            kept = kept & (pl.col(code) == self.code)
        return picked.filter(kept).select("row", "subject_id", "rank", pl.col(column).alias("value"))

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        known = self._known(cohort)
        x, before = pl.col("rank"), pl.col("rank").shift(1)
        wrong = {
            ("up", False): x < before,
            ("down", False): x > before,
            ("up", True): x <= before,
            ("down", True): x >= before,
        }[(self.direction, self.strict)]
        same = pl.col("subject_id") == pl.col("subject_id").shift(1)
        rows = known.filter((wrong & same).fill_null(False))["row"]
        yield Finding(table, column, rows_mask(rows, cohort.tables[table].height), known.height)

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        known = self._known(cohort)
        subjects = cohort.tables[finding.table]["subject_id"].filter(finding.broken).unique()
        known = known.filter(pl.col("subject_id").is_in(subjects.implode()))
        down = self.direction == "down"
        ordered = known.sort("subject_id", "rank", descending=[False, down], maintain_order=True)["value"]
        return put(cohort, finding.table, _write(cohort.tables[finding.table], finding.column, known["row"], ordered))


class NoRepeat(_Sequence):
    """A value occurs at most once per subject (or per visit): a diagnosis that is made once, an operation done once."""

    kind: ClassVar[str] = "no_repeat"
    within: Literal["subject", "visit"] = "subject"
    levels: tuple[str, ...] = Field((), description="Only these may not repeat; empty: none may.")

    @property
    def words(self) -> str:
        what = f"{len(self.levels)} listed values" if self.levels else "a value"
        return f"{what} of {self.column} {'occur' if self.levels else 'occurs'} at most once per {self.within}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule no_repeat {self.column}"
        problem = place_problem(schema, self.column, where)
        if problem:
            return [problem]
        if self.within == "visit" and not schema.has_visit_id(split_path(self.column)[0]):
            return [Problem("no-visits", where, "rows of the table do not belong to visits", 'Set within = "subject".')]
        return level_problems(schema, self.column, self.levels, where)

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        frame = cohort.tables[table]
        keys = ["subject_id", "visit_id"] if self.within == "visit" else ["subject_id"]
        counts = pl.all_horizontal(pl.col(c).is_not_null() for c in (column, *keys))
        if self.levels:
            counts = counts & pl.col(column).is_in(list(self.levels))
        known = frame.with_row_index("row").filter(counts).select("row", *keys, pl.col(column).alias("value"))
        again = known.filter(~pl.struct(*keys, "value").is_first_distinct())["row"]
        yield Finding(table, column, rows_mask(again, frame.height), known.height)

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        return self._remove(cohort, finding)


class EventOrder(_Sequence):
    """Events come in a given order: no later one before the first of an earlier one.

    With `needed` a later event also needs the one just before it in the list ever to have happened.
    """

    kind: ClassVar[str] = "order"
    sequence: tuple[str, ...] = Field(min_length=2)
    needed: bool = False

    @property
    def words(self) -> str:
        return f"{self.column} keeps the order {' < '.join(self.sequence)}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule order {self.column}"
        problem = place_problem(schema, self.column, where, "code", "category", "ordinal")
        if problem:
            return [problem]
        if len(set(self.sequence)) < len(self.sequence):
            return [Problem("listed-twice", where, "the sequence names a value twice", "Name each once.")]
        return level_problems(schema, self.column, self.sequence, where)

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        frame, m = cohort.tables[table], len(self.sequence)
        ranks = pl.col(column).replace_strict(list(self.sequence), list(range(m)), default=None, return_dtype=pl.Int64)
        place = pl.col("time").cast(pl.Int64) if cohort.schema.has_time(table) else pl.col("row").cast(pl.Int64)
        known = frame.with_row_index("row").select("row", "subject_id", ranks.alias("rank"), place.alias("place"))
        known = known.filter(pl.col("rank").is_not_null() & pl.col("place").is_not_null())
        firsts = known.group_by("subject_id").agg(
            pl.col("place").filter(pl.col("rank") == j).min().alias(f"first_{j}") for j in range(m)
        )
        rows = known.join(firsts, on="subject_id", how="left", maintain_order="left")
        bad = pl.lit(False)
        for k in range(1, m):
            earlier = [pl.col(f"first_{j}") for j in range(k)]
            wrong = (pl.col("place") < pl.max_horizontal(earlier)).fill_null(False)
            wrong = wrong | earlier[-1].is_null() if self.needed else wrong
            bad = bad | ((pl.col("rank") == k) & wrong)
        yield Finding(table, column, rows_mask(rows.filter(bad)["row"], frame.height), rows.height)

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        # taking away one event may uncover the next: at most as often as the sequence is long
        for _ in self.sequence:
            if not finding.count:
                break
            mended = self._remove(cohort, finding)
            if mended is cohort:
                break
            cohort, finding = mended, next(self.find(mended))
        return cohort


class Constant(_Sequence):
    """A value never changes within a subject (sex or a genotype repeated at every visit), a visit, or a moment.

    Rows of one moment are those of a subject with one time: who charted, say.
    """

    kind: ClassVar[str] = "constant"
    within: Literal["subject", "visit", "moment"] = "subject"

    @property
    def words(self) -> str:
        return f"{self.column} never changes within a {self.within}"

    @property
    def _keys(self) -> list[str]:
        return ["subject_id", *{"visit": ["visit_id"], "moment": ["time"]}.get(self.within, [])]

    def problems(self, schema: Schema) -> list[Problem]:
        where, table = f"rule constant {self.column}", split_path(self.column)[0]
        if problem := place_problem(schema, self.column, where):
            return [problem]
        if self.within == "visit" and not schema.has_visit_id(table):
            return [Problem("no-visits", where, "rows of the table do not belong to visits", 'Set within = "subject".')]
        if self.within == "moment" and not schema.has_time(table):
            return [Problem("no-time", where, "rows of the table have no time", 'Set within = "subject".')]
        return []

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        frame = cohort.tables[table]
        known = frame.select(*self._keys, pl.col(column).alias("v")).with_row_index("row").drop_nulls()
        changed = known.filter(pl.col("v") != pl.col("v").first().over(self._keys))["row"]
        yield Finding(table, column, rows_mask(changed, frame.height), known.height)

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        x = pl.col(finding.column)
        placed = pl.all_horizontal(pl.col(key).is_not_null() for key in self._keys) & x.is_not_null()
        return change(
            cohort,
            finding.table,
            finding.column,
            pl.when(placed).then(x.drop_nulls().first().over(self._keys)).otherwise(x),
        )


class NoOverlap(_Sequence):
    """What lasts from a row's time to `column` has ended when the subject's next row begins: lines of therapy, stays.

    Rows without an end are passed over.
    """

    kind: ClassVar[str] = "no_overlap"

    @property
    def words(self) -> str:
        return f"{self.column} is not after the next row's time"

    def problems(self, schema: Schema) -> list[Problem]:
        where, table = f"rule no_overlap {self.column}", split_path(self.column)[0]
        if problem := place_problem(schema, self.column, where, "timestamp"):
            return [problem]
        if schema.tables[table].role == "static" or not schema.has_time(table):
            return [Problem("no-time", where, "rows of the table have no time", "Name a table of visits or events.")]
        return []

    def _next(self, cohort: Cohort) -> pl.Series:
        """Time of the next row of the same subject that has one."""
        frame = cohort.tables[split_path(self.column)[0]]
        return frame.select(pl.col("time").shift(-1).over("subject_id"))["time"]

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        end, following = cohort.tables[table][column], self._next(cohort)
        both = end.is_not_null() & following.is_not_null()
        yield Finding(table, column, (end > following).fill_null(False), int(both.sum()))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        sooner = pl.when(pl.lit(finding.broken)).then(pl.lit(self._next(cohort))).otherwise(pl.col(finding.column))
        return change(cohort, finding.table, finding.column, sooner)


class Baseline(_Sequence):
    """A static value is the first known one of a column of visits or events: birth weight, the score at enrolment.

    Both must be of one kind. A patient in whom one of them is missing breaks nothing.
    """

    kind: ClassVar[str] = "baseline"
    of: str = Field(description="table.column of a visit or event table, or its time for a date.")

    @property
    def words(self) -> str:
        return f"{self.column} is the first value of {self.of}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule baseline {self.column}"
        problems = [p for path in (self.column, self.of) if (p := place_problem(schema, path, where))]
        if problems:
            return problems
        (own, _), (other, _) = split_path(self.column), split_path(self.of)
        if schema.tables[own].role != "static" or schema.tables[other].role == "static":
            fix = "Name a static column, and one of a table with many rows per patient."
            return [Problem("wrong-role", where, "column is not static, or of is", fix)]
        kinds = [getattr(column_of(schema, path), "kind", "timestamp") for path in (self.column, self.of)]
        if kinds[0] != kinds[1]:
            return [
                Problem("wrong-kind", where, f"the columns are of kinds {' and '.join(kinds)}", "Name equal kinds.")
            ]
        return []

    def _wanted(self, cohort: Cohort) -> pl.Series:
        """The static value at the row with the patient's first known one, null at all others."""
        (own, static), (table, column) = split_path(self.column), split_path(self.of)
        value = spread(cohort, own, cohort.tables[own][static], table, "first", "subject")
        known = pl.col("x").is_not_null()
        first = known & (known.cum_sum().over("s") == 1)
        rows = pl.DataFrame({"s": cohort.tables[table]["subject_id"], "x": cohort.tables[table][column], "v": value})
        return rows.select(pl.when(first).then("v"))["v"]

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.of)
        wanted = self._wanted(cohort)
        broken = (cohort.tables[table][column] != wanted).fill_null(False)
        yield Finding(table, column, broken, wanted.len() - wanted.null_count())

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        new = pl.when(pl.lit(finding.broken)).then(pl.lit(self._wanted(cohort))).otherwise(pl.col(finding.column))
        return change(cohort, finding.table, finding.column, new, sort=finding.column == "time")


def rows_mask(rows: pl.Series, height: int) -> pl.Series:
    """True at the given row numbers."""
    import numpy as np

    mask = np.zeros(height, dtype=bool)
    mask[rows.to_numpy()] = True
    return pl.Series("broken", mask)


def _write(frame: pl.DataFrame, column: str, rows: pl.Series, values: pl.Series) -> pl.DataFrame:
    """Values written to some rows of a column."""
    patch = pl.DataFrame({"row": rows, "new": values, "hit": True})
    patched = frame.with_row_index("row").join(patch, on="row", how="left", maintain_order="left")
    new = pl.when("hit").then("new").otherwise(pl.col(column)).alias(column)
    return patched.with_columns(new).drop("row", "new", "hit")
