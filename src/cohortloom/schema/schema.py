"""The schema of a cohort, and its consistency as a whole."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from cohortloom.errors import Problem, SchemaError, nearest
from cohortloom.schema.column import Category, Code, Column, Flag, Number, Ordinal, Strict
from cohortloom.schema.priors import Simulation
from cohortloom.schema.signals import Signal
from cohortloom.schema.table import Table

__all__ = ["RuleSpec", "Schema", "Survival", "Task"]


class RuleSpec(Strict):
    """One rule as written in a schema; `rules/engine.py` compiles it. Keys beyond these belong to the kind."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str
    name: str = ""
    severity: Literal["error", "warning"] = "error"

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that belong to the kind."""
        return dict(self.__pydantic_extra__ or {})


class Task(Strict):
    """Something people predict with this cohort; `evaluate` measures TSTR on it."""

    name: str
    kind: Literal["classification", "regression", "survival", "next_visit"] = "classification"
    target: str = Field(description="table.column that is predicted.")
    time: str | None = Field(
        None, description="Survival: table.column with the follow-up time; target is the event flag."
    )
    event: tuple[str, ...] = Field(
        (), description="Levels of the target that count as the event (classification, survival)."
    )
    leaks: tuple[str, ...] = Field(
        (), description="table.column that would give the answer away, kept out of the inputs."
    )


class Survival(Strict):
    """A time-to-event pair for Kaplan-Meier curves."""

    time: str = Field(description="table.column with the follow-up time (a number, or a timestamp).")
    event: str = Field(description="table.column that says what happened.")
    levels: tuple[str, ...] = Field((), description="Levels that count as the event; a flag needs none.")
    strata: tuple[str, ...] = Field((), description="table.column by which curves and hazards are shown apart.")


class Schema(Strict):
    """Tables, signals, rules and tasks of one kind of cohort.

    `clock` says what a time is in every table: "timestamp" (a date and time), "offset" (since the subject's own origin)
    or "order" (only the order of the rows is known; stored as 0, 1, 2, ...).
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_\-]*$")
    version: str = "1"
    description: str = ""
    clock: Literal["timestamp", "offset", "order"] = "timestamp"
    tables: dict[str, Table] = Field(default_factory=dict)
    signals: dict[str, Signal] = Field(default_factory=dict)
    rules: tuple[RuleSpec, ...] = ()
    tasks: tuple[Task, ...] = ()
    survival: tuple[Survival, ...] = ()
    subgroups: tuple[str, ...] = Field((), description="table.column by which fairness is reported.")
    site: str | None = Field(None, description="table.column with the hospital or period, for splits and shift.")
    simulation: Simulation | None = Field(None, description="Course of illness and visit process without data.")

    @classmethod
    def from_file(cls, path: str | Path) -> "Schema":
        """Read a schema from TOML (people) or JSON (us); all problems of the file come at once."""
        from cohortloom.schema.text import read_schema

        return read_schema(path)

    def to_file(self, path: str | Path) -> None:
        """Write the schema as TOML or JSON, by the suffix."""
        from cohortloom.schema.text import write_schema

        write_schema(self, path)

    # -- looking things up ---------------------------------------------------------------------------------------

    def by_role(self, role: str) -> dict[str, Table]:
        return {name: table for name, table in self.tables.items() if table.role == role}

    @property
    def statics(self) -> dict[str, Table]:
        return self.by_role("static")

    @property
    def events(self) -> dict[str, Table]:
        return self.by_role("event")

    @property
    def visit_table(self) -> str | None:
        """Name of the visit table, None if the schema has none."""
        return next(iter(self.by_role("visit")), None)

    def has_visit_id(self, table: str) -> bool:
        """Does the frame of this table hold `visit_id`?"""
        t = self.tables[table]
        return t.role == "visit" or (t.role == "event" and t.parent is not None and t.parent == self.visit_table)

    def has_time(self, table: str) -> bool:
        """Does the frame of this table hold `time`?"""
        t = self.tables[table]
        return t.role == "visit" or (t.role == "event" and t.timed)

    def keys(self, table: str) -> list[str]:
        """The implied columns of the frame, in order: subject_id, visit_id, time."""
        return (
            ["subject_id"]
            + (["visit_id"] if self.has_visit_id(table) else [])
            + (["time"] if self.has_time(table) else [])
        )

    def column(self, path: str) -> Column:
        """Column of "table.column".

        Raises:
            SchemaError: no such table or column.
        """
        problem = self._missing_path(path, "schema")
        if problem:
            raise SchemaError("", [problem])
        table, column = path.split(".", 1)
        return self.tables[table].columns[column]

    def granularity(self, table: str, column: str) -> str:
        """The finest that moments of a column (or "time") are recorded to, by the column or a rule of that kind."""
        own = getattr(self.tables[table].columns.get(column), "granularity", "exact")
        said = [r.settings for r in self.rules if r.kind == "granularity"]
        return next((str(s["to"]) for s in said if s.get("column") == f"{table}.{column}" and "to" in s), own)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON form, without the sources: where a cohort was read from does not tell it from
        another of the same tables."""
        sources = {part: {"__all__": {"source"}} for part in ("tables", "signals")}
        return hashlib.sha256(self.model_dump_json(exclude_none=True, exclude=sources).encode()).hexdigest()

    # -- consistency ---------------------------------------------------------------------------------------------

    def problems(self) -> list[Problem]:
        """Everything that contradicts itself; empty for a sound schema."""
        found: list[Problem] = []

        def bad(where: str, what: str, fix: str = "", code: str = "schema") -> None:
            found.append(Problem(code, where, what, fix))

        if not self.tables and not self.signals:
            bad("schema", "has neither tables nor signals", 'Add [tables.patients] with role = "static".', "no-tables")
        visits = list(self.by_role("visit"))
        if len(visits) > 1:
            bad(
                "tables",
                f'{len(visits)} tables have role "visit" ({", ".join(visits)}); one is possible',
                'Give the others role = "event" and parent = the visit table.',
                "two-visit-tables",
            )
        for name, table in self.tables.items():
            here = f"tables.{name}"
            if table.parent is not None and table.parent not in self.tables:
                bad(
                    here,
                    f'parent "{table.parent}" is not a table; the tables are {", ".join(self.tables)}',
                    nearest(table.parent, self.tables).strip(),
                    "unknown-parent",
                )
            elif table.parent is not None:
                allowed = {"static": (), "visit": ("static",), "event": ("static", "visit")}[table.role]
                role = self.tables[table.parent].role
                if role not in allowed:
                    bad(
                        here,
                        f'a table of role "{table.role}" can\'t hang on "{table.parent}" of role "{role}"',
                        "Hang it on the patient table or the visit table.",
                        "bad-parent",
                    )
            if not table.columns:
                bad(here, "has no columns", "List at least one column.", "no-columns")
            if (table.code is None) and (table.value is not None):
                bad(here, "names a value column but no code column", 'Add code = "...".', "value-without-code")
            for key, kind, type_ in (("code", "code", Code), ("value", "number", Number)):
                wanted = getattr(table, key)
                if wanted is None:
                    continue
                if wanted not in table.columns:
                    bad(
                        here,
                        f'{key} = "{wanted}" is not one of its columns',
                        nearest(wanted, table.columns).strip(),
                        "unknown-column",
                    )
                elif not isinstance(table.columns[wanted], type_):
                    bad(
                        here,
                        f'{key} = "{wanted}" is of kind "{table.columns[wanted].kind}", it must be "{kind}"',
                        "",
                        "wrong-kind",
                    )
            if table.code is not None and table.role != "event":
                bad(here, "has a code column but is not an event table", 'Set role = "event".', "code-outside-event")
            if table.source:
                self._check_source(name, table, bad)
        for i, task in enumerate(self.tasks):
            for path in (task.target, task.time, *task.leaks):
                if path:
                    found.extend(filter(None, [self._missing_path(path, f"tasks[{i}]")]))
            self._check_levels(task.target, task.event, f"tasks[{i}]", bad)
        for i, survival in enumerate(self.survival):
            for path in (survival.time, survival.event, *survival.strata):
                found.extend(filter(None, [self._missing_path(path, f"survival[{i}]")]))
            self._check_levels(survival.event, survival.levels, f"survival[{i}]", bad)
        for path in (*self.subgroups, *([self.site] if self.site else [])):
            found.extend(filter(None, [self._missing_path(path, "subgroups" if path in self.subgroups else "site")]))
        for name, signal in self.signals.items():
            if signal.parent is not None and signal.parent not in self.tables:
                bad(
                    f"signals.{name}",
                    f'parent "{signal.parent}" is not a table',
                    nearest(signal.parent, self.tables).strip(),
                    "unknown-parent",
                )
            if signal.source is not None and (index := signal.source.index) is not None:
                found.extend(filter(None, [self._missing_path(f"{index.table}.{index.record}", f"signals.{name}")]))
                if index.table in self.tables and self.tables[index.table].source is None:
                    bad(
                        f"signals.{name}",
                        f'the index table "{index.table}" has no source',
                        "Say where it is.",
                        "no-source",
                    )
            if len(set(signal.channels)) < len(signal.channels):
                bad(f"signals.{name}", "channels are listed twice", "List each channel once.", "duplicate-channel")
            if name in self.tables:
                bad(f"signals.{name}", "a table has the same name", "Rename one of them.", "duplicate-name")
        return found

    def _check_source(self, name: str, table: Table, bad: Any) -> None:
        source, here = table.source, f"tables.{name}.source"
        assert source is not None
        targets = {c.column if not isinstance(c, str) else c for c in source.codes.values()}
        targets = set() if table.is_long else targets  # a long table keeps codes, so they map to codes of ours
        for what, names in (
            ("columns", source.columns),
            ("values", source.values),
            ("missing_in", source.missing_in),
            ("scale", source.scale),
            ("codes", targets),
            ("grid.aggregate", set(source.grid.aggregate) - {"*"} if source.grid else ()),
        ):
            for column in names:
                if column not in table.columns:
                    bad(
                        here,
                        f'{what} names "{column}", which is not a column of the table',
                        nearest(column, table.columns).strip(),
                        "unknown-column",
                    )
        if source.time is None and self.has_time(name) and self.clock != "order":
            bad(
                here,
                "the rows have times but the source names no time column",
                'Add time = "their column", or timed = false to an event table without times.',
                "no-time",
            )
        if source.repeated and table.role != "static" and not (table.role == "visit" and source.visit):
            what = "repeated = true is for static tables, and for visit tables whose source names the visit"
            bad(here, what, "Remove it.", "repeated-outside-static")
        if source.grid and table.role != "visit":
            bad(
                here,
                "a grid makes visits; this table is not the visit table",
                'Set role = "visit".',
                "grid-outside-visit",
            )

    def _check_levels(self, path: str, levels: tuple[str, ...], where: str, bad: Any) -> None:
        if self._missing_path(path, where):
            return
        column = self.column(path)
        if isinstance(column, (Category, Ordinal)):
            if not levels:
                bad(
                    where,
                    f'"{path}" is a category; which of its levels are the event?',
                    f'Add event/levels = ["{column.levels[-1]}"].',
                    "no-event-level",
                )
            for level in levels:
                if level not in column.levels:
                    bad(
                        where,
                        f'"{level}" is not a level of "{path}"',
                        nearest(level, column.levels).strip(),
                        "unknown-level",
                    )
        elif isinstance(column, Flag) and levels:
            bad(where, f'"{path}" is a flag; levels do not apply', "Remove them.", "levels-of-flag")

    def _missing_path(self, path: str, where: str) -> Problem | None:
        table, _, column = path.partition(".")
        if table not in self.tables:
            return Problem(
                "unknown-table", where, f'"{path}" names no table of the schema', nearest(table, self.tables).strip()
            )
        if column not in self.tables[table].columns:
            return Problem(
                "unknown-column",
                where,
                f'"{path}" names no column of table "{table}"',
                nearest(column, self.tables[table].columns).strip(),
            )
        return None
