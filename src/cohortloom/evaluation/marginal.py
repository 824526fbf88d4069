"""Marginal laws: each column by itself, by visit number, and by time since the start.

Numbers are compared by the Kolmogorov-Smirnov distance on at most 64 cut points of the real values, categories by total
variation. A cohort may have the right overall law and the wrong one at the first visit; hence the strata.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.cells import Cells
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field, cut_points
from cohortloom.evaluation.intervals import assess, not_computed
from cohortloom.evaluation.views import View
from cohortloom.report import Score

__all__ = ["binned", "scores"]

POSITIONS = np.array(
    [0, 1, 2, 4, 8, 16]
)  # last visit number of each stratum: first, second, third, 4-5, 6-9, 10-17, later


def scores(ctx: Context) -> list[Score]:
    """Marginal scores."""
    return [*values(ctx), *by_position(ctx), *by_window(ctx)]


def binned(f: Field, view: View, most: int = 64) -> np.ndarray:
    """Bin of each value, -1 where missing."""
    x = view.columns[f.name]
    if not f.is_number:
        return x.astype(int)
    return np.where(np.isfinite(x), np.searchsorted(f.cuts(most), x, side="left"), -1)


def n_bins(f: Field, most: int = 64) -> int:
    return len(f.cuts(most)) + 1 if f.is_number else len(f.levels)


def values(ctx: Context) -> list[Score]:
    """Every column by itself."""
    cells = Cells()
    for f in ctx.fields:
        cells.add(f.name, n_bins(f), lambda v, f=f: (v.patient_of(f), binned(f, v)), ordered=f.is_number)
    return assess(ctx, cells.measure(ctx, "marginal.values", "values of each column, KS or TV distance"))


def stratified(ctx: Context, key: str, name: str, n_strata: int, stratum) -> list[Score]:
    """Every row column within strata of its rows."""
    cells = Cells()
    for f in ctx.rows():
        size = n_bins(f, 16)

        def find(view: View, f: Field = f, size: int = size) -> tuple[np.ndarray, np.ndarray]:
            b, s = binned(f, view, 16), stratum(view, f.axis)
            return view.patient_of(f), np.where((b >= 0) & (s >= 0), s * size + b, -1)

        cells.add(f.name, size, find, ordered=f.is_number, cells=n_strata)
    return assess(ctx, cells.measure(ctx, key, name, tolerance=(0.03, 0.08)))


def by_position(ctx: Context) -> list[Score]:
    """Every column at the first, second, third, ... row of a patient."""

    def stratum(view: View, axis: str) -> np.ndarray:
        return np.searchsorted(POSITIONS, view.axes[axis].position, side="left")

    return stratified(ctx, "marginal.by_visit", "values by visit number", len(POSITIONS) + 1, stratum)


def by_window(ctx: Context) -> list[Score]:
    """Every column by time since the patient's start, in five windows of equal real counts."""
    key, name = "marginal.by_time", "values by time window"
    if not ctx.clocked:
        return [not_computed(ctx, key, name, "the schema knows the order of rows only, not their times")]
    cuts = {}
    for axis in ctx.axes:
        time = np.concatenate([ctx.views[k].axes[axis].time for k in ("train", "held_out")])
        cuts[axis] = cut_points(np.sort(time[np.isfinite(time)]), 5)

    def stratum(view: View, axis: str) -> np.ndarray:
        time = view.axes[axis].time
        return np.where(np.isfinite(time), np.searchsorted(cuts[axis], time, side="left"), -1)

    return stratified(ctx, key, name, 5, stratum)
