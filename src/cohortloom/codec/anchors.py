"""Dates of patients that lie close to other dates of theirs.

A date counts from the patient's first step. Where there is none (a registry of one row per patient), or where it lies
far from it, two dates days apart (admission and discharge) would be two numbers of years, whose difference no model of
noisy numbers keeps: people would leave before they came. So a static date that lies nearer to an earlier column's date
than to the origin counts from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from cohortloom.codec.cells import Cell
from cohortloom.codec.clock import ticks_of, ticks_per_day
from cohortloom.schema import Schema

__all__ = ["anchored", "reference_of"]

_LEAST, _NEARER, _KNOWN = 20, 0.5, 0.98
Frames = Mapping[str, Mapping[str, pl.Series]]


def anchored(
    schema: Schema, cells: tuple[Cell, ...], frames: Frames, origin: np.ndarray, fixed: set[str], *, k_min: int
) -> tuple[Cell, ...]:
    """The cells, dates counting from others where they lie nearer to them.

    Args:
        cells: Static cells, in the order in which they are decoded.
        frames: Table -> column -> training cells, one row per subject.
        origin: Of each subject [ticks].
        fixed: "table.column" of columns that are computed or moved after decoding; they are left alone.
        k_min: As in `Cell.fit`.
    """
    found: list[Cell] = []
    earlier: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for cell in cells:
        path = f"{cell.table}.{cell.column}"
        if cell.kind != "time" or cell.part or path in fixed:
            found.append(cell)
            continue
        series = frames[cell.table][cell.column]
        ticks, known = ticks_of(series)
        if cell.shared is None and known.sum() >= _LEAST:
            best, least = "", _NEARER * _spread(ticks - origin, known)
            for other, (theirs, seen) in earlier.items():
                both = known & seen
                if both.sum() >= max(_LEAST, _KNOWN * known.sum()) and (apart := _spread(ticks - theirs, both)) < least:
                    best, least = other, apart
            if best:
                theirs, seen = earlier[best]
                usual = float(np.median((theirs - origin)[seen])) / ticks_per_day(schema)
                reference = _reference(theirs, seen, origin, usual, schema)
                again = Cell.fit(
                    schema, cell.table, cell.column, series, np.arange(len(known)), reference,
                    k_min=k_min, max_levels=1, bounds="schema",
                )  # fmt: skip
                cell = replace(again, beside=best, usual=usual) if again and again.shared is None else cell
        found.append(cell)
        earlier[path] = ticks, known
    return tuple(found)


def reference_of(schema: Schema, cell: Cell, frames: Frames, origin: np.ndarray) -> np.ndarray:
    """What the dates of a cell count from [ticks]: the origin, or the date of another column."""
    if not cell.beside:
        return origin
    table, _, column = cell.beside.partition(".")
    ticks, known = ticks_of(frames[table][column])
    return _reference(ticks, known, origin, cell.usual, schema)


def _reference(ticks: np.ndarray, known: np.ndarray, origin: np.ndarray, usual: float, schema: Schema) -> np.ndarray:
    return np.where(known, ticks, origin + round(usual * ticks_per_day(schema)))


def _spread(apart: np.ndarray, known: np.ndarray) -> float:
    low, high = np.quantile(apart[known], (0.1, 0.9))
    return float(high - low)
