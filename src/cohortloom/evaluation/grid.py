"""Patients as series on a grid: the rows of the busiest table by their number, all channels side by side.

    values      normal scores of numbers, level numbers of ordinals and flags (centred); 0 where missing
    seen        1 where the value is recorded, one channel per column that is sometimes missing
    gap         normal score of the days since the previous row
    there       1 while the patient has rows

The grid has as many steps as 90 % of the real patients have rows, at most 32. Nothing is interpolated, so irregular
times are told by the gap channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.views import View

__all__ = ["Grid", "gridded"]

MOST_STEPS = 32
MOST_COLUMNS = 10


@dataclass(frozen=True)
class Grid:
    """Series of the patients that have rows.

    Args:
        patient: Patient of each series, as numbered in the view.
        x: patient x channel x step.
        values: How many of the first channels are values.
    """

    patient: np.ndarray
    x: np.ndarray
    values: int
    length: np.ndarray


def gridded(ctx: Context) -> dict[str, Grid] | None:
    """Series of every cohort, made once; None if no table has a column over time."""
    if "grid" not in ctx.cache:
        ctx.cache["grid"] = _gridded(ctx)
    return ctx.cache["grid"]


def _gridded(ctx: Context) -> dict[str, Grid] | None:
    axes = [a for a in ctx.tables if any(_ordered(f) for f in ctx.rows(a))]
    if not axes:
        return None
    held = ctx.views["held_out"]
    axis = max(axes, key=lambda a: (sum(_ordered(f) for f in ctx.rows(a)), len(held.axes[a].patient)))
    fields = [f for f in ctx.rows(axis) if _ordered(f)]
    ctx.leave_out(
        f"Judges of series and kinds of courses: {MOST_COLUMNS} columns", (f.name for f in fields[MOST_COLUMNS:])
    )
    fields = fields[:MOST_COLUMNS]
    real = [ctx.views[k] for k in ("train", "held_out")]
    counts = np.concatenate([v.axes[axis].count for v in real])
    if not counts.any():
        return None
    steps = int(np.clip(np.quantile(counts[counts > 0], 0.9), 2, MOST_STEPS))
    gaps = np.sort(np.concatenate([v.axes[axis].gap for v in real]))
    gaps = gaps[np.isfinite(gaps)]
    masked = [f for f in fields if any((~v.seen(f)).any() for v in real)]
    return {k: _of(v, axis, fields, masked, gaps, steps) for k, v in ctx.views.items()}


def _ordered(f) -> bool:
    """Numbers, flags and short lists of levels (whose order is taken as given)."""
    return f.is_number or len(f.levels) <= 8


def _of(view: View, axis: str, fields, masked, gaps: np.ndarray, steps: int) -> Grid:
    rows = view.axes[axis]
    keep = rows.position < steps
    who = np.unique(rows.patient[keep])
    index = np.searchsorted(who, rows.patient[keep])
    at = rows.position[keep]
    x = np.zeros((len(who), len(fields) + len(masked) + 2, steps), dtype=np.float32)
    for c, f in enumerate(fields):
        v = view.rank(f) if f.is_number else view.columns[f.name] - (len(f.levels) - 2) / 2
        x[index, c, at] = np.where(view.seen(f), np.nan_to_num(v), 0)[keep]
    for c, f in enumerate(masked, start=len(fields)):
        x[index, c, at] = view.seen(f)[keep]
    gap = rows.gap[keep]
    rank = (np.searchsorted(gaps, gap) + np.searchsorted(gaps, gap, side="right")) / (2 * max(len(gaps), 1)) - 0.5
    x[index, -2, at] = np.where(np.isfinite(gap), rank * np.sqrt(12), 0)
    x[index, -1, at] = 1
    return Grid(who, x, len(fields), np.bincount(index, minlength=len(who)))
