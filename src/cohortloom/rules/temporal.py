"""Rules about time: order of moments, the end of follow-up, granularity, events inside their visit.

A moment is the `time` of a row or a column of kind timestamp, on the clock of the schema. A missing moment breaks
nothing. Time that lies too early or late is moved to the bound (the smallest change). Of several moments of a patient
beyond a date of theirs only the nearest is moved, since a course that outlasts a drawn death ends there and does not
pile up on that day. What happens after the end of follow-up goes: a dead patient's record at the moment of death would
be a new fact, not a repaired one.
"""

from collections.abc import Iterator
from datetime import date, datetime, time
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from cohortloom.cohort import Cohort
from cohortloom.cohort.dtypes import clock_dtype
from cohortloom.errors import Problem, nearest
from cohortloom.rng import Rng
from cohortloom.rules.base import (
    ENCODING,
    REDRAW,
    REPAIR,
    Finding,
    Rule,
    change,
    column_of,
    drop_rows,
    empty,
    nullable,
    place_problem,
    put,
    split_path,
)
from cohortloom.rules.spread import link_of, spread
from cohortloom.rules.value import level_problems
from cohortloom.schema import Flag, Schema

__all__ = ["After", "Before", "Granularity", "InsideVisit", "NothingAfter", "SameDay", "Until"]

MOMENT = ("time", "timestamp")
CALENDAR = {"day": "1d", "month": "1mo", "year": "1y"}
MICROSECONDS = {"second": 10**6, "minute": 60 * 10**6, "hour": 3600 * 10**6, "day": 86400 * 10**6}
UNIT_DAYS = {"s": 1 / 86400, "min": 1 / 1440, "h": 1 / 24, "d": 1.0, "wk": 7.0, "mo": 30.4375, "a": 365.25}


class Before(Rule):
    """One moment is not later than another, wherever both are known.

    Rows are linked as in `spread`: same row, same visit, or same subject. If both sides have many rows per subject,
    every `first` comes before every `then`. Where `then` names a day (month, year) alone, no moment of that day is
    later; with `strict` its first moment counts.
    """

    kind: ClassVar[str] = "before"
    family: ClassVar[str] = "time"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    first: str
    then: str
    strict: bool = Field(False, description="Equal moments break the rule too.")

    @property
    def words(self) -> str:
        return f"{self.first} is before {self.then}" if self.strict else f"{self.first} is not after {self.then}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule {self.kind}"
        return [p for path in (self.first, self.then) if (p := place_problem(schema, path, where, *MOMENT))]

    def _judged(self, schema: Schema) -> tuple[str, str, bool]:
        """The path whose rows are judged, the path that bounds them, and whether the bound is an upper one."""
        first, then = split_path(self.first)[0], split_path(self.then)[0]
        link = link_of(schema, first, then)
        then_is_one = schema.tables[then].role == "static" if link == "subject" else then == schema.visit_table
        first_is_one = schema.tables[first].role == "static" if link == "subject" else first == schema.visit_table
        if link != "row" and then_is_one and not first_is_one:
            return self.first, self.then, True
        return self.then, self.first, False

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        judged, _, upper = self._judged(cohort.schema)
        table, column = split_path(judged)
        x = cohort.tables[table][column]
        bound = self._bound(cohort)
        first, then = (x, bound) if upper else (bound, x)
        grain = getattr(column_of(cohort.schema, self.then), "granularity", "")
        if cohort.schema.clock == "timestamp" and grain in CALENDAR and not self.strict:
            first = first.dt.truncate(CALENDAR[grain])
        late = first - then
        late = late.cast(pl.Int64)
        broken = (late >= 0 if self.strict else late > 0).fill_null(False)
        yield Finding(table, column, broken, late.len() - late.null_count())

    def _bound(self, cohort: Cohort) -> pl.Series:
        judged, other, upper = self._judged(cohort.schema)
        source, column = split_path(other)
        return spread(cohort, source, cohort.tables[source][column], split_path(judged)[0], "min" if upper else "max")

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        judged, other, _ = self._judged(cohort.schema)
        table, x, broken = finding.table, pl.col(finding.column), pl.lit(finding.broken)
        if split_path(other)[0] == table:  # two moments of one row: swapped, or the later one emptied if they are equal
            y = pl.col(split_path(other)[1])
            later = pl.when(x != y).then(y) if nullable(cohort.schema, judged) else y
            pair = (
                pl.when(broken).then(later).otherwise(x).alias(finding.column),
                pl.when(broken).then(x).otherwise(y).alias(split_path(other)[1]),
            )
            return put(cohort, table, cohort.tables[table].with_columns(pair), sort=True)
        if self.strict:
            return empty(cohort, finding)
        if (beyond := self._beyond(cohort, finding)).any():
            cohort = drop_rows(cohort, table, beyond)
            return self.mend(cohort, next(self.find(cohort)), rng)
        new = pl.when(broken).then(pl.lit(self._bound(cohort))).otherwise(x)
        return change(cohort, table, finding.column, new, sort=True)

    def _beyond(self, cohort: Cohort, finding: Finding) -> pl.Series:
        """Of rows beyond a date of the patient, those at other moments than the nearest: moved there they would all
        stand on one day."""
        judged, other, upper = self._judged(cohort.schema)
        if judged != f"{finding.table}.time" or cohort.schema.tables[split_path(other)[0]].role != "static":
            return finding.broken & False
        out = pl.when("out").then("time")
        nearest_out = (out.max() if not upper else out.min()).over("subject_id")
        frame = cohort.tables[finding.table].select("subject_id", "time", out=finding.broken)
        return frame.select((pl.col("out") & (pl.col("time") != nearest_out)).fill_null(False)).to_series()


class After(Before):
    """`column` is not earlier than `of`: the same rule as `before`, said the other way round."""

    kind: ClassVar[str] = "after"
    first: str = Field(alias="of")
    then: str = Field(alias="column")

    @property
    def words(self) -> str:
        return f"{self.then} is after {self.first}" if self.strict else f"{self.then} is not before {self.first}"


class NothingAfter(Rule):
    """Nothing is recorded after the end of follow-up.

    The end is a moment, or a number that counts from `origin` (on the offset clock: from the origin of time). With
    `flag` the end applies only where the flag is true or, with `levels`, where the column holds one of them: "died and
    follow-up time", or a death code in an event table. The earliest end of a subject counts.
    """

    kind: ClassVar[str] = "nothing_after"
    family: ClassVar[str] = "time"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    end: str
    flag: str | None = None
    levels: tuple[str, ...] = ()
    origin: str | None = Field(None, description="Moment a number counts from.")
    tables: tuple[str, ...] = Field((), description="Tables whose rows are judged; empty: all with times.")
    columns: tuple[str, ...] = Field((), description="Further moments that are judged: table.column.")
    grace_days: float = Field(0.0, ge=0, description="How long after the end a record may still come [d].")

    @property
    def words(self) -> str:
        grace = f" + {self.grace_days:g} d" if self.grace_days else ""
        return f"nothing comes after {self.end}{grace}" + (f" where {self.flag}" if self.flag else "")

    def problems(self, schema: Schema) -> list[Problem]:
        where = "rule nothing_after"
        found = [place_problem(schema, self.end, where, *MOMENT, "number", "count")]
        for path in (*([self.origin] if self.origin else []), *self.columns):
            found.append(place_problem(schema, path, where, *MOMENT))
        if self.flag:
            found.append(place_problem(schema, self.flag, where, "flag", "category", "ordinal", "code"))
        for table in self.tables:
            if table not in schema.tables or not schema.has_time(table):
                timed = [t for t in schema.tables if schema.has_time(t)]
                what = f'"{table}" is not a table with times; those are {", ".join(timed)}'
                found.append(Problem("unknown-table", where, what, nearest(table, timed).strip()))
        problems = [p for p in found if p]
        return problems or self._deeper(schema, where)

    def _deeper(self, schema: Schema, where: str) -> list[Problem]:
        found = []
        column = column_of(schema, self.end)
        if column is not None and column.kind in ("number", "count") and schema.clock != "order":
            if getattr(column, "unit", "1") not in UNIT_DAYS:
                what = f'the unit of "{self.end}" is no time; known are {", ".join(UNIT_DAYS)}'
                found.append(Problem("unknown-unit", where, what, 'Set unit = "d".'))
            if schema.clock == "timestamp" and self.origin is None:
                what = f'"{self.end}" is a number, but from when does it count?'
                found.append(Problem("no-origin", where, what, 'Add origin = "table.column".'))
        if self.flag and split_path(self.flag)[0] != split_path(self.end)[0]:
            found.append(
                Problem("other-table", where, "flag and end stand in different tables", "Name both from one table.")
            )
        if self.flag and isinstance(column_of(schema, self.flag), Flag) == bool(self.levels):
            what = f'"{self.flag}" needs levels that mean the end' if not self.levels else "a flag has no levels"
            found.append(Problem("bad-levels", where, what, 'levels = ["dead"] for a category; none for a flag.'))
        elif self.flag and self.levels:
            found += level_problems(schema, self.flag, self.levels, where)
        return found

    def _ends(self, cohort: Cohort) -> tuple[str, pl.Series]:
        """Table and, per row of it, the moment of the end (null: none)."""
        table, column = split_path(self.end)
        frame, schema = cohort.tables[table], cohort.schema
        end = frame[column]
        if end.dtype.is_numeric() and schema.clock != "order":
            days = UNIT_DAYS[getattr(column_of(schema, self.end), "unit", "d")]
            end = (end.cast(pl.Float64) * days * 86400e6).round().cast(pl.Int64, strict=False).cast(pl.Duration("us"))
            if self.origin:
                source, name = split_path(self.origin)
                end = spread(cohort, source, cohort.tables[source][name], table, "min") + end
        if self.flag:
            flag = frame[split_path(self.flag)[1]]
            holds = flag.is_in(list(self.levels)) if self.levels else flag
            end = frame.select(pl.when(pl.lit(holds.fill_null(False))).then(pl.lit(end)).alias("end"))["end"]
        if not self.grace_days:
            return table, end
        grace = (
            self.grace_days if schema.clock == "order" else pl.duration(microseconds=round(self.grace_days * 86400e6))
        )
        return table, pl.select((pl.lit(end) + grace).alias("end"))["end"]

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        schema = cohort.schema
        source, end = self._ends(cohort)
        places = [f"{t}.time" for t in (self.tables or schema.tables) if schema.has_time(t)] + list(self.columns)
        for path in places:
            table, column = split_path(path)
            x = cohort.tables[table][column]
            # by subject even within one table: rows after the row that holds the end
            last = spread(cohort, source, end, table, "min", "subject")
            broken = (x > last).fill_null(False)
            yield Finding(table, column, broken, int((x.is_not_null() & last.is_not_null()).sum() or 0))

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        if finding.column == "time":
            return drop_rows(cohort, finding.table, finding.broken)
        return empty(cohort, finding)


class InsideVisit(Rule):
    """A row of an event table happens during its visit: from its time to `end`, a column of the visit table."""

    kind: ClassVar[str] = "inside_visit"
    family: ClassVar[str] = "time"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    column: str = Field(description="Moment of an event table: labs.time")
    end: str | None = Field(None, description="Moment of the visit table at which a visit ends.")
    slack_days: float = Field(0.0, ge=0, description="How far outside is still accepted [d].")

    @property
    def words(self) -> str:
        return f"{self.column} lies inside its visit" + (f" up to {self.end}" if self.end else "")

    def problems(self, schema: Schema) -> list[Problem]:
        where = "rule inside_visit"
        found = [place_problem(schema, self.column, where, *MOMENT)]
        found += [place_problem(schema, self.end, where, *MOMENT)] if self.end else []
        problems = [p for p in found if p]
        if problems:
            return problems
        table = split_path(self.column)[0]
        if not schema.has_visit_id(table) or table == schema.visit_table:
            what = f'rows of "{table}" do not belong to visits'
            problems.append(Problem("no-visits", where, what, "Name an event table whose parent is the visit table."))
        if self.end and split_path(self.end)[0] != schema.visit_table:
            problems.append(
                Problem("other-table", where, "end is not a column of the visit table", "Name one of its columns.")
            )
        return problems

    def _span(self, cohort: Cohort) -> pl.DataFrame:
        table, visits = split_path(self.column)[0], cohort.schema.visit_table or ""
        slack = (
            self.slack_days
            if cohort.schema.clock == "order"
            else pl.duration(microseconds=round(self.slack_days * 86400e6))
        )
        start = spread(cohort, visits, cohort.tables[visits]["time"], table, "min")
        end = start.clear(len(start))
        if self.end:
            end = spread(cohort, visits, cohort.tables[visits][split_path(self.end)[1]], table, "max")
        span = pl.DataFrame({"x": cohort.tables[table][split_path(self.column)[1]], "start": start, "end": end})
        return span.with_columns(pl.col("start") - slack, pl.col("end") + slack) if self.slack_days else span

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        span = self._span(cohort)
        bad = (pl.col("x") < pl.col("start")).fill_null(False) | (pl.col("x") > pl.col("end")).fill_null(False)
        n = span.select((pl.col("x").is_not_null() & pl.col("start").is_not_null()).sum()).item()
        yield Finding(table, column, span.select(bad.alias("broken"))["broken"], n)

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        frame = cohort.tables[finding.table]
        moved = pl.max_horizontal("start", pl.min_horizontal("x", "end"))
        new = self._span(cohort).select(
            pl.when(pl.lit(finding.broken)).then(moved).otherwise(pl.col("x")).alias(finding.column)
        )
        return put(cohort, finding.table, frame.with_columns(new), sort=True)


class Granularity(Rule):
    """Moments are recorded no finer than a day, hour, ... (on the offset clock: whole ones since the origin)."""

    kind: ClassVar[str] = "granularity"
    family: ClassVar[str] = "time"
    holds_by: ClassVar[frozenset[str]] = frozenset({ENCODING, REPAIR, REDRAW})
    column: str
    to: str

    @property
    def words(self) -> str:
        return f"{self.column} is recorded to the {self.to}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule granularity {self.column}"
        problem = place_problem(schema, self.column, where, *MOMENT)
        if problem:
            return [problem]
        known = [*MICROSECONDS, *(["month", "year"] if schema.clock == "timestamp" else [])]
        if schema.clock == "order" or self.to not in known:
            what = f'"{self.to}" is not possible on the clock "{schema.clock}"'
            fix = f"Possible: {', '.join(known)}." if schema.clock != "order" else "Remove the rule."
            return [Problem("bad-granularity", where, what, fix)]
        return []

    def _truncated(self) -> pl.Expr:
        x = pl.col(split_path(self.column)[1])
        if self.to in ("month", "year"):
            return x.dt.truncate("1mo" if self.to == "month" else "1y")
        ticks, unit = x.cast(pl.Int64), MICROSECONDS[self.to]
        return ticks - ticks % unit

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        frame = cohort.tables[table]
        whole = self._truncated().cast(clock_dtype(cohort.schema))
        broken = frame.select((pl.col(column) != whole).fill_null(False).alias("broken"))["broken"]
        yield Finding(table, column, broken, frame.height - frame[column].null_count())

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        whole = self._truncated().cast(clock_dtype(cohort.schema)).alias(finding.column)
        return put(
            cohort, finding.table, cohort.tables[finding.table].with_columns(whole), sort=finding.column == "time"
        )


class SameDay(Rule):
    """A date is the day of a moment of the subject (or visit, or row), wherever that moment is known: of death, say.

    With `flag` only moments of rows count in which that column of their table is true or, with `levels`, one of them.
    """

    kind: ClassVar[str] = "same_day"
    family: ClassVar[str] = "time"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    column: str
    of: str
    flag: str | None = None
    levels: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return f"{self.column} is the day of {self.of}" + (f" by {self.flag}" if self.flag else "")

    def problems(self, schema: Schema) -> list[Problem]:
        where = f"rule same_day {self.column}"
        found = [place_problem(schema, self.column, where, "timestamp"), place_problem(schema, self.of, where, *MOMENT)]
        kinds = ("category", "ordinal", "code") if self.levels else ("flag",)
        found += [place_problem(schema, self.flag, where, *kinds)] if self.flag else []
        if problems := [p for p in found if p]:
            return problems
        if schema.clock != "timestamp":
            return [Problem("no-dates", where, f'the clock "{schema.clock}" has no days', "Remove the rule.")]
        if self.flag and split_path(self.flag)[0] != split_path(self.of)[0]:
            return [Problem("other-table", where, "flag and of stand in different tables", "Name both from one table.")]
        return level_problems(schema, self.flag, self.levels, where) if self.flag else []

    def _days(self, cohort: Cohort, how: Literal["min", "max"]) -> pl.Series:
        (source, name), target = split_path(self.of), split_path(self.column)[0]
        moment = pl.col(name)
        if self.flag:
            flag = pl.col(split_path(self.flag)[1])
            moment = pl.when(flag.is_in(list(self.levels)) if self.levels else flag).then(moment)
        moments = cohort.tables[source].select(m=moment)["m"]
        return spread(cohort, source, moments, target, how).dt.truncate("1d")

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        table, column = split_path(self.column)
        ours, first, last = cohort.tables[table][column], self._days(cohort, "min"), self._days(cohort, "max")
        right = (ours == first).fill_null(False) & (ours == last).fill_null(False)
        yield Finding(table, column, first.is_not_null() & ~right, first.len() - first.null_count())

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        new = pl.when(pl.lit(finding.broken)).then(pl.lit(self._days(cohort, "min"))).otherwise(pl.col(finding.column))
        return change(cohort, finding.table, finding.column, new)


class Until(Rule):
    """Nothing is dated after the day on which the data end: who is still followed then is followed no longer.

    Rows after it are dropped and dates after it emptied; a patient with a static date after it is drawn again.
    """

    kind: ClassVar[str] = "until"
    family: ClassVar[str] = "time"
    holds_by: ClassVar[frozenset[str]] = frozenset({REPAIR, REDRAW})
    date: str = Field(description="The last day, such as 2023-12-31.", pattern=r"^\d{4}-\d\d-\d\d$")

    @property
    def words(self) -> str:
        return f"nothing is dated after {self.date}"

    def problems(self, schema: Schema) -> list[Problem]:
        where = "rule until"
        if schema.clock != "timestamp":
            return [Problem("no-dates", where, f'the clock "{schema.clock}" has no dates', "Remove the rule.")]
        try:
            date.fromisoformat(self.date)
        except ValueError:
            return [Problem("bad-date", where, f'"{self.date}" is no date', 'Write it like "2023-12-31".')]
        return []

    def find(self, cohort: Cohort) -> Iterator[Finding]:
        end = datetime.combine(date.fromisoformat(self.date), time.max)
        for table, spec in cohort.schema.tables.items():
            moments = [c for c, column in spec.columns.items() if column.kind == "timestamp"]
            for column in (["time"] if cohort.schema.has_time(table) else []) + moments:
                x = cohort.tables[table][column]
                yield Finding(table, column, (x > end).fill_null(False), x.len() - x.null_count())

    def mend(self, cohort: Cohort, finding: Finding, rng: Rng) -> Cohort:
        if finding.column == "time":
            return drop_rows(cohort, finding.table, finding.broken)
        return cohort if cohort.schema.tables[finding.table].role == "static" else empty(cohort, finding)


def length(schema: Schema, days: float) -> pl.Expr:
    """A length of time on the clock of the schema; where only the order is known, a number of places."""
    return pl.lit(days) if schema.clock == "order" else pl.duration(microseconds=round(days * 86400e6))
