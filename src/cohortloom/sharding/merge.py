"""Cohorts of disjoint subjects put together."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from cohortloom.cohort import Cohort, Origin
from cohortloom.schema import Schema

__all__ = ["add_notes", "merge"]


def merge(schema: Schema, parts: Iterable[Cohort], *, origin: Origin | None = None) -> Cohort:
    """One cohort of all parts' subjects, in canonical order, so the order of the parts does not matter.

    Args:
        schema: Schema of every part.
        parts: Cohorts without a common subject id or visit id.
        origin: Origin of the whole; None: that of the first part.
    """
    parts = list(parts)
    tables = {name: pl.concat([part.tables[name] for part in parts], how="vertical") for name in schema.tables if parts}
    return Cohort.build(schema, tables, origin=origin or (parts[0].origin if parts else Origin()))


def add_notes(notes: Iterable[dict]) -> dict:
    """Counts of the parts summed up by name."""
    total: dict = {}
    for part in notes:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))
