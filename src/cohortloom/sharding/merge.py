"""Cohorts of disjoint subjects put together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort, Origin, SignalSet
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
    names = [name for name in schema.signals if any(name in part.signals for part in parts)]
    signals = {name: _joined([part.signals[name] for part in parts if name in part.signals]) for name in names}
    return Cohort.build(schema, tables, signals=signals, origin=origin or (parts[0].origin if parts else Origin()))


def _joined(parts: list[SignalSet]) -> SignalSet:
    """Records of all parts by subject (a subject's records keep their order), padded to the longest."""
    records = pl.concat([part.records for part in parts], how="vertical_relaxed")
    place = records["subject_id"].rank("ordinal").to_numpy().astype(int) - 1
    order = np.argsort(place)
    if len(parts) == 1 and (np.diff(order) > 0).all():
        return parts[0]
    longest = max(part.samples.shape[2] for part in parts)
    samples = np.full((records.height, parts[0].samples.shape[1], longest), np.nan, dtype=np.float32)
    start = 0
    for part in parts:
        n = len(part.samples)
        samples[place[start : start + n], :, : part.samples.shape[2]] = part.samples
        start += n
    notes = [part.annotations for part in parts if part.annotations is not None]
    joined = pl.concat(notes, how="vertical_relaxed") if notes else None
    if joined is not None:
        rank = records[order].select("record_id").with_row_index("rank")
        joined = joined.join(rank, on="record_id", how="left", maintain_order="left")
        joined = joined.sort("rank", "sample", maintain_order=True).drop("rank")
    return SignalSet(parts[0].spec, records[order], samples, joined)


def add_notes(notes: Iterable[dict]) -> dict:
    """Counts of the parts summed up by name."""
    total: dict = {}
    for part in notes:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))
