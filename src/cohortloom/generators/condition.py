"""Conditions on a sample: fixed values of statics and of the first visit.

A condition is met by the model (which draws the rest given the value) and then written into the table as it was asked
for, so a value is exact even where the arrays hold a rounded normal score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema import Count, Flag, Number, Schema

if TYPE_CHECKING:
    from cohortloom.generators.base import Generator

__all__ = ["Condition"]


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
        """Check the values and encode them.

        Raises:
            SettingsError: the generator has no such ability, or values do not fit; all of them.
        """
        if not where:
            return cls()
        features = generator._encode_where(where)
        return cls({path: _cell(generator.schema_, path, value) for path, value in where.items()}, features)

    def part(self, tables: Iterable[str]) -> Condition:
        """The conditions on some tables."""
        keep = [path for path in self.values if path.partition(".")[0] in tables]
        return Condition({p: self.values[p] for p in keep}, {p: self.features[p] for p in keep})

    def _of_tables(self, schema: Schema) -> list[tuple[str, Any]]:
        """The conditions on table columns; those on a signal are kept by the generator that draws it."""
        return [(path, value) for path, value in self.values.items() if path.partition(".")[0] not in schema.signals]

    def write_into(self, cohort: Cohort) -> Cohort:
        """Put the values where they belong: static rows, and each patient's first visit."""
        tables = dict(cohort.tables)
        for path, value in self._of_tables(cohort.schema):
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
        for path, value in self._of_tables(cohort.schema):
            name, _, column = path.partition(".")
            rows = cohort.tables[name].unique("subject_id", keep="first", maintain_order=True)
            keep = rows.filter(pl.col(column).eq_missing(pl.lit(value, dtype=rows.schema[column])))["subject_id"]
            met = met.filter(met.is_in(keep.implode()))
        return cohort.subjects.filter(~cohort.subjects.is_in(met.implode()))


def _cell(schema: Schema, path: str, value: Any) -> Any:
    """The value in the type of the table's column; it has been checked before."""
    if path.partition(".")[0] in schema.signals:
        return value
    column = schema.column(path)
    if value is None:
        return None
    if isinstance(column, Number):
        return float(value) if column.decimals is None else round(float(value), column.decimals)
    if isinstance(column, Count):
        return int(float(value))
    if isinstance(column, Flag):
        return str(value).lower() in ("true", "1", "yes")
    return str(value)
