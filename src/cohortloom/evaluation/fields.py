"""What is measured: the fields of a schema on scales that real patients fix.

A *field* is one column as the measures see it. Numbers, counts and timestamps become numbers; categories, ordinals,
flags and codes become levels. A long table (code + value) gives one field for its codes and one numeric field for the
values of each frequent code. Cut points, ranks and code lists come from the real patients (training and held-out
together), so that every cohort is measured with one ruler and no choice depends on the cohort under test.

An *axis* is a run of rows per patient on which fields live: a visit table, an event table, or the rows of one code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema import Schema

__all__ = ["MAX_CODE_SERIES", "OTHER", "Field", "plan_fields", "unmeasured_codes"]

OTHER = "(other)"
MAX_CODES = 100
MAX_CODE_SERIES = 30
MAX_LEVELS = 40
MAX_CUTS = 64
_NUMBERS = ("number", "count", "timestamp")


@dataclass(frozen=True)
class Field:
    """One measured column.

    Args:
        name: "table.column", or "table[code]" for the values beside one code.
        axis: Rows it lives on (a table, or "table[code]"); None for a static column.
        table: Table of the schema.
        column: Column of that table.
        code: Only rows with this code.
        levels: Levels of a category, the last one being "(other)"; empty for a number.
        unit: UCUM unit of a number.
        reference: Sorted real values of a number (empty until `with_reference`).
    """

    name: str
    axis: str | None
    table: str
    column: str
    code: str | None = None
    levels: tuple[str, ...] = ()
    unit: str = "1"
    reference: np.ndarray | None = None

    @property
    def is_number(self) -> bool:
        return not self.levels

    def with_reference(self, values: np.ndarray) -> Field:
        """The same field, with real values to rank against."""
        known = np.sort(values[np.isfinite(values)])
        if len(known) > 50_000:
            known = known[np.linspace(0, len(known) - 1, 50_000).round().astype(int)]
        return replace(self, reference=known)

    def cuts(self, most: int = MAX_CUTS) -> np.ndarray:
        """Right edges of bins with about equal real counts; every value if there are at most `most` of them."""
        assert self.reference is not None
        return cut_points(self.reference, most)

    @cached_property
    def _sorted(self) -> np.ndarray:
        assert self.reference is not None
        return self.reference

    def ranks(self, values: np.ndarray) -> np.ndarray:
        """Mid-rank among real values, centred and scaled to unit variance of a uniform; NaN stays NaN."""
        known = self._sorted
        if not len(known):
            return np.full(len(values), np.nan)
        low = np.searchsorted(known, values, side="left")
        high = np.searchsorted(known, values, side="right")
        z = ((low + high) / (2 * len(known)) - 0.5) * np.sqrt(12)
        return np.where(np.isfinite(values), z, np.nan)


def cut_points(values: np.ndarray, most: int) -> np.ndarray:
    """Right edges that cut sorted values into at most `most` parts of about equal counts (last edge left open)."""
    if not len(values):
        return np.zeros(0)
    distinct = np.unique(values)
    if len(distinct) > most:
        distinct = np.unique(np.quantile(values, np.arange(1, most) / most, method="inverted_cdf"))
        return distinct
    return distinct[:-1]


def plan_fields(schema: Schema, real: Iterable[Cohort]) -> tuple[Field, ...]:
    """Fields of a schema; code lists are those most real patients have."""
    cohorts = list(real)
    found: list[Field] = []
    for table, spec in schema.tables.items():
        axis = None if spec.role == "static" else table
        for name, column in spec.columns.items():
            if column.kind == "identifier" or (spec.is_long and name == spec.value):
                continue
            field = Field(f"{table}.{name}", axis, table, name, unit=getattr(column, "unit", "1"))
            if column.kind in _NUMBERS:
                found.append(replace(field, unit="d" if column.kind == "timestamp" else field.unit))
            elif column.kind == "flag":
                found.append(replace(field, levels=("false", "true", OTHER)))
            elif column.kind == "code":
                found.append(replace(field, levels=(*frequent(cohorts, table, name, MAX_CODES), OTHER)))
            elif len(column.levels) <= MAX_LEVELS:
                found.append(replace(field, levels=(*column.levels, OTHER)))
            else:
                found.append(replace(field, levels=(*frequent(cohorts, table, name, MAX_LEVELS), OTHER)))
        if spec.is_long and spec.value:
            items = spec.code_column().items
            for code in frequent(cohorts, table, spec.code or "", MAX_CODE_SERIES, valued=spec.value):
                key = f"{table}[{code}]"
                unit = items[code].unit if code in items else spec.value_column().unit
                found.append(Field(key, key, table, spec.value, code=code, unit=unit))
    return tuple(found)


def unmeasured_codes(schema: Schema, real: Iterable[Cohort]) -> dict[str, list[str]]:
    """Table: codes whose values are not measured by themselves, as others are more frequent."""
    cohorts = list(real)
    return {
        table: frequent(cohorts, table, spec.code or "", 10**6, valued=spec.value)[MAX_CODE_SERIES:]
        for table, spec in schema.tables.items()
        if spec.is_long and spec.value
    }


def frequent(cohorts: list[Cohort], table: str, column: str, most: int, valued: str | None = None) -> list[str]:
    """Levels of a column by the number of real patients who have them, most first; ties by name."""
    frames = []
    for k, cohort in enumerate(cohorts):
        frame = cohort.tables[table]
        if valued:
            frame = frame.filter(pl.col(valued).is_not_null())
        frames.append(
            frame.select(pl.lit(k).alias("k"), pl.col("subject_id").cast(pl.String), pl.col(column).alias("level"))
        )
    rows = pl.concat(frames).drop_nulls("level").unique()
    counts = rows.group_by("level").len().sort(["len", "level"], descending=[True, False])
    if valued:
        counts = counts.filter(pl.col("len") >= 5)
    return counts["level"].head(most).to_list()
