"""The cohort: the only currency between packages.

Frames are polars, one per table of the schema, in canonical form: columns are the implied keys (`Schema.keys`) and then
the schema's columns in the schema's order, with the dtypes of `cohort/dtypes`; rows are sorted by subject, then time,
then visit. The subject list is the sorted union of subjects, so a patient without a visit is a patient all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from cohortloom.cohort.origin import Origin
from cohortloom.schema import Schema

if TYPE_CHECKING:
    from cohortloom.cohort.signals import SignalSet
    from cohortloom.cohort.split import Splits

__all__ = ["Cohort"]


@dataclass(frozen=True)
class Cohort:
    """Tables and signals of a set of subjects.

    Build one with `Cohort.build`, which brings frames to the canonical form, or read one with `cohortloom.read`.
    """

    schema: Schema
    tables: Mapping[str, pl.DataFrame]
    signals: Mapping[str, SignalSet] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    @classmethod
    def build(
        cls,
        schema: Schema,
        tables: Mapping[str, pl.DataFrame],
        *,
        signals: Mapping[str, SignalSet] | None = None,
        origin: Origin | None = None,
    ) -> Cohort:
        """Bring frames to the canonical form: column order, dtypes, row order, empty frames for absent tables.

        Raises:
            DataError: a column is missing or can't take its dtype (all of them listed).
        """
        from cohortloom.cohort.order import canonical

        return cls(schema, canonical(schema, tables), dict(signals or {}), origin or Origin())

    @cached_property
    def subjects(self) -> pl.Series:
        """All subject ids, sorted, each once."""
        parts = [t["subject_id"] for t in self.tables.values()]
        parts += [s.records["subject_id"] for s in self.signals.values()]
        if not parts:
            return pl.Series("subject_id", [], dtype=pl.Int64)
        return pl.concat(parts).unique().sort().alias("subject_id")

    @property
    def n_subjects(self) -> int:
        return self.subjects.len()

    def select(self, subjects: Iterable | pl.Series) -> Cohort:
        """The cohort of some subjects (ids not present are ignored)."""
        wanted = (
            subjects
            if isinstance(subjects, pl.Series)
            else pl.Series("subject_id", list(subjects), dtype=self.subjects.dtype)
        )
        wanted = wanted.unique()
        tables = {n: t.filter(pl.col("subject_id").is_in(wanted.implode())) for n, t in self.tables.items()}
        return replace(self, tables=tables, signals={n: s.select(wanted) for n, s in self.signals.items()})

    def split(self, *, seed: int, group: str | None = None, **shares: float) -> Splits:
        """Disjoint parts by subject; subjects that share a value of `group` ("table.column") stay together."""
        from cohortloom.cohort.split import split

        return split(self, seed=seed, group=group, **shares)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a folder of Parquet files, manifest last."""
        from cohortloom.cohort.store import save

        save(self, path, force=force)

    @classmethod
    def load(cls, path: str | Path) -> Cohort:
        """Read a folder written by `save`; hashes and rows are checked."""
        from cohortloom.cohort.store import load

        return load(path)

    def __repr__(self) -> str:
        rows = ", ".join(f"{n} {t.height:,}" for n, t in self.tables.items())
        made = f"{self.origin.kind}, {self.origin.source}".rstrip(", ")
        seed = f", seed {self.origin.seed}" if self.origin.seed is not None else ""
        waves = [f"{n} {s.records.height:,} records" for n, s in self.signals.items()]
        held = "; ".join(part for part in (rows, *waves) if part) or "no table"
        return f"Cohort {self.schema.name}: {self.n_subjects:,} subjects ({held}) ({made}{seed})"
