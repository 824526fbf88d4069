"""Conditions on a sample: fixed values of statics and of the first visit.

A condition is met by the model (which draws the rest given the value) and then written into the table as it was asked
for, so a value is exact even where the arrays hold a rounded normal score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem, SettingsError, nearest
from cohortloom.rng import Rng
from cohortloom.schema import Category, Code, Count, Flag, Number, Ordinal, Schema

if TYPE_CHECKING:
    from cohortloom.generators.base import Generator

__all__ = ["Condition", "encoded_condition"]


@dataclass(frozen=True)
class Condition:
    """Fixed values.

    Args:
        values: "table.column" -> value as it stands in the table.
        features: Feature -> encoded value, for the model.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, generator: Generator, where: Mapping[str, Any] | None) -> Condition:
        """Check the values against the schema and encode them.

        Raises:
            SettingsError: the generator has no such ability, or values do not fit; all of them.
        """
        if not where:
            return cls()
        generator._require_condition()
        schema, values, problems = generator.schema_, {}, []
        for path, value in where.items():
            values[path], problem = _fitting(schema, path, value)
            problems += [problem] if problem else []
        if problems:
            raise SettingsError("where", problems)
        condition = cls(values)
        features = generator._encode_condition(condition)
        return cls(values, features)

    def part(self, paths: set[str]) -> Condition:
        """The conditions on some paths."""
        return Condition(
            {p: v for p, v in self.values.items() if p in paths},
            {p: v for p, v in self.features.items() if p in paths},
        )

    def probe(self, schema: Schema) -> Cohort:
        """One patient who has the values and nothing else."""
        tables: dict[str, pl.DataFrame] = {}
        for name, table in schema.tables.items():
            fixed = {p.partition(".")[2]: v for p, v in self.values.items() if p.partition(".")[0] == name}
            if not fixed and table.role != "static":
                continue
            row = {key: 0 for key in schema.keys(name)} | {c: fixed.get(c) for c in table.columns}
            frame = pl.DataFrame({c: [v] for c, v in row.items()})
            if "time" in frame.columns:
                frame = frame.with_columns(pl.lit(0, dtype=pl.Int64).alias("time"))
            tables[name] = frame
        return Cohort.build(schema, tables)

    def write_into(self, cohort: Cohort) -> Cohort:
        """Put the values where they belong: static rows, and each patient's first visit."""
        tables = dict(cohort.tables)
        for path, value in self.values.items():
            name, _, column = path.partition(".")
            frame = tables[name]
            fixed = pl.lit(value, dtype=frame.schema[column])
            if cohort.schema.tables[name].role == "visit":
                fixed = pl.when(pl.col("subject_id").is_first_distinct()).then(fixed).otherwise(pl.col(column))
            tables[name] = frame.with_columns(fixed.alias(column))
        return replace(cohort, tables=tables) if self.values else cohort

    def unmet(self, cohort: Cohort) -> pl.Series:
        """Patients who lack one of the values (a repair changed it, or there is no row to hold it)."""
        met = cohort.subjects
        for path, value in self.values.items():
            name, _, column = path.partition(".")
            rows = cohort.tables[name].unique("subject_id", keep="first", maintain_order=True)
            keep = rows.filter(pl.col(column) == pl.lit(value, dtype=rows.schema[column]))["subject_id"]
            met = met.filter(met.is_in(keep.implode()))
        return cohort.subjects.filter(~cohort.subjects.is_in(met.implode()))


def _fitting(schema: Schema, path: str, value: Any) -> tuple[Any, Problem | None]:
    """(the value in the column's type, what is wrong with it)."""
    name, _, column_name = path.partition(".")
    places = [f"{t}.{c}" for t, table in schema.tables.items() if table.role != "event" for c in table.columns]
    if path not in places:
        what = "events can't be fixed" if name in schema.events else "is no static or visit column of the schema"
        return None, Problem("unknown-condition", path, what, nearest(path, places).strip())
    column = schema.tables[name].columns[column_name]
    if isinstance(column, (Number, Count)):
        return _number(path, column, value)
    if isinstance(column, Flag):
        value = {"true": True, "false": False}.get(str(value).lower())
        wrong = None if value is not None else Problem("condition", path, "is a flag", "Give true or false.")
        return value, wrong
    if isinstance(column, (Category, Ordinal, Code)):
        levels = column.levels
        if levels is not None and str(value) not in levels:
            return None, Problem("condition", path, "has no such level", f"The levels are {', '.join(levels[:12])}.")
        return str(value), None
    return None, Problem(
        "condition", path, f'columns of kind "{column.kind}" can\'t be fixed', "Fix another column, such as an age."
    )


def _number(path: str, column: Number | Count, value: Any) -> tuple[Any, Problem | None]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    decimals = 0 if isinstance(column, Count) else column.decimals
    low, high = column.low, column.high
    if not math.isfinite(number) or isinstance(value, bool):
        return None, Problem("condition", path, "is a number", "Give a number.")
    if (low is not None and number < low) or (high is not None and number > high):
        return None, Problem("condition", path, "lies outside the schema's bounds", f"Keep to [{low}, {high}].")
    if decimals is not None and abs(round(number, decimals) - number) > 1e-9:
        return None, Problem("condition", path, f"the schema allows {decimals} decimals", "Round the value.")
    return (int(number) if isinstance(column, Count) else number), None


def encoded_condition(codec: Any, condition: Condition) -> dict[str, float]:
    """Feature -> encoded value of the conditions, by encoding a patient who has them.

    Raises:
        SettingsError: the arrays have no feature or no id of its own for a value.
    """
    encoded = codec.encode(condition.probe(codec.schema), rng=Rng(0).child("where"))
    found, problems = {}, []
    for path in condition.values:
        for part in (encoded.static, encoded.sequence):
            names = [f.name for f in part.features] if part is not None else []
            if path in names and len(part.values):
                j = names.index(path)
                if part.features[j].kind == "number" or part.values[0, j] >= 2:
                    found[path] = float(part.values[0, j])
        if path not in found:
            problems.append(
                Problem("condition", path, "this generator has not learned that value", "It is absent or too rare.")
            )
    if problems:
        raise SettingsError("where", problems)
    return found
