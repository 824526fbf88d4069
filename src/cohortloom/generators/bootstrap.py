"""Training patients drawn again, whole, under new ids.

The upper anchor of every table: all associations, no privacy. THE MODEL FILE HOLDS THE TRAINING DATA, row by row, and
every sample hands out real patients. It is for comparison inside the place where the data may be; share neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from cohortloom.codec.tensors import Encoded, Layout
from cohortloom.cohort import Cohort
from cohortloom.cohort.resample import relabel
from cohortloom.generators.base import Ability, Generator, Run
from cohortloom.generators.condition import Condition
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["Bootstrap", "Resampled", "with_ids"]

WARNING = "this model holds its training patients; do not share it, nor what it draws"


@dataclass(kw_only=True)
class Resampled(Generator):
    """Base of generators whose model is the training cohort itself."""

    layout: ClassVar[Layout] = Layout()
    abilities: ClassVar[frozenset[Ability]] = frozenset({Ability.COPIES})
    files: ClassVar[frozenset[str]] = frozenset({"training_patients"})

    def _learn(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        self.cohort_ = cohort

    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        raise NotImplementedError("rows are kept as they are")

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        raise NotImplementedError("rows are kept as they are")

    def _write(self, folder: Path) -> dict[str, Any]:
        self.cohort_.save(folder / "training_patients")
        return {"warning": WARNING}

    def _read(self, folder: Path, facts: Mapping[str, Any], schema: Schema) -> None:
        self.cohort_ = Cohort.load(folder / "training_patients")


@dataclass(kw_only=True)
class Bootstrap(Resampled):
    """Training patients drawn with replacement: every association, no privacy. The model is the data."""

    name: ClassVar[str] = "bootstrap"

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        subjects = self.cohort_.subjects
        chosen = subjects.gather(rng.child("bootstrap").numpy.integers(0, subjects.len(), len(ids)))
        return with_ids(self.cohort_, chosen, ids)


def with_ids(cohort: Cohort, subjects: pl.Series, ids: np.ndarray) -> Cohort:
    """Copies of patients under new ids, with visit ids that are distinct over all shards."""
    copied = relabel(cohort, pl.DataFrame({"subject_id": subjects, "new_id": ids}))
    schema, visits = cohort.schema, cohort.schema.visit_table
    if visits is None:
        return copied
    place = pl.col("visit_id").rank("ordinal").over("subject_id").cast(pl.Int64)
    links = copied.tables[visits].select("visit_id", (pl.col("subject_id") * 1_000_000 + place).alias("__new"))
    tables = dict(copied.tables)
    for name in schema.tables:
        if schema.has_visit_id(name):
            frame = tables[name].join(links, on="visit_id", how="left", maintain_order="left")
            tables[name] = frame.drop("visit_id").rename({"__new": "visit_id"})
    return Cohort.build(schema, tables, origin=copied.origin)
