"""Marginal laws: each column by itself, by visit number, and by time since the start.

Numbers are compared by the Kolmogorov-Smirnov distance on at most 64 cut points of the real values, categories by total
variation. A cohort may have the right overall law and the wrong one at the first visit; hence the strata.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.cells import Cells
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import OTHER, Field, cut_points
from cohortloom.evaluation.intervals import Measure, assess, not_computed
from cohortloom.evaluation.views import View, tally
from cohortloom.report import Score

__all__ = ["binned", "n_bins", "patients_with", "scores"]

POSITIONS = np.array(
    [0, 1, 2, 4, 8, 16]
)  # last visit number of each stratum: first, second, third, 4-5, 6-9, 10-17, later


def scores(ctx: Context) -> list[Score]:
    """Marginal scores."""
    return [*values(ctx), *rare_levels(ctx), *by_position(ctx), *by_window(ctx)]


def binned(f: Field, view: View, most: int = 64) -> np.ndarray:
    """Bin of each value, -1 where missing."""
    key = ("binned", f.name, most)
    if key not in view.cache:
        x = view.columns[f.name]
        if f.is_number:
            x = np.where(np.isfinite(x), np.searchsorted(f.cuts(most), x, side="left"), -1)
        view.cache[key] = x.astype(int)
    return view.cache[key]


def n_bins(f: Field, most: int = 64) -> int:
    return len(f.cuts(most)) + 1 if f.is_number else len(f.levels)


def values(ctx: Context) -> list[Score]:
    """Every column by itself."""
    cells = Cells()
    for f in ctx.fields:
        cells.add(f.name, n_bins(f), lambda v, f=f: (v.patient_of(f), binned(f, v)), ordered=f.is_number)
    return assess(ctx, cells.measure(ctx, "marginal.values", "values of each column, KS or TV distance"))


def rare_levels(ctx: Context) -> list[Score]:
    """Share of patients with a rare level (0.5 to 10 % of real patients have it) that is lost: 1 - sqrt(p / p_real).

    The total variation of a column hardly moves when a level of 4 % vanishes; its loss is 1. Square roots of counts
    have equal noise whatever the count.
    """
    key, name = "marginal.rare_levels", "rare levels lost, 1 - sqrt(share of patients / real share)"
    items = []
    for f in ctx.fields:
        if f.is_number:
            continue
        shares = [patients_with(ctx.views[k], f).mean(0) for k in ("train", "held_out")]
        for k in np.flatnonzero((np.mean(shares, axis=0) >= 0.005) & (np.mean(shares, axis=0) <= 0.1)):
            if f.levels[k] != OTHER:
                items.append((f, int(k)))
    if not items:
        return [not_computed(ctx, key, name, "no level belongs to 0.5 to 10 % of real patients")]

    def count(view: View) -> np.ndarray:
        marks = [np.ones(view.n), *(patients_with(view, f)[:, k].astype(float) for f, k in items)]
        zero = np.zeros(view.n, dtype=int)
        return np.concatenate([tally(view, np.arange(view.n), zero, 1, m) for m in marks], axis=1)

    def curve(s: np.ndarray) -> np.ndarray:
        return s[..., 1:] / np.maximum(s[..., :1], 1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(1 - np.sqrt(a / np.where(b > 0, b, 1)), 0) * (b > 0)

    sums = ctx.sums(count)
    keep = np.minimum(sums["train"].sum(0), sums["held_out"].sum(0))[1:] >= 5
    labels = tuple(f"{f.name} = {f.levels[k]}" for f, k in items)
    return assess(ctx, Measure(key, name, labels, sums, curve, distance, keep, (0.08, 0.16), useless=1.0))


def patients_with(view: View, f: Field) -> np.ndarray:
    """Has a patient a level at any time? patient x level."""
    key = ("patients with", f.name)
    if key not in view.cache:
        out = np.zeros((view.n, len(f.levels)), dtype=bool)
        x = view.columns[f.name]
        keep = x >= 0
        out[view.patient_of(f)[keep], x[keep]] = True
        view.cache[key] = out
    return view.cache[key]


def stratified(ctx: Context, key: str, name: str, words: list[str], stratum) -> list[Score]:
    """Every row column within strata of its rows."""
    cells = Cells()
    for f in ctx.rows():
        for k, where in enumerate(words):

            def find(view: View, f: Field = f, k: int = k) -> tuple[np.ndarray, np.ndarray]:
                return view.patient_of(f), np.where(stratum(view, f.axis) == k, binned(f, view, 16), -1)

            cells.add(f"{f.name} {where}", n_bins(f, 16), find, ordered=f.is_number)
    if not cells.parts:
        return [not_computed(ctx, key, name, "nothing over time")]
    return assess(ctx, cells.measure(ctx, key, name, at_least=40, tolerance=(0.03, 0.08)))


def by_position(ctx: Context) -> list[Score]:
    """Every column at the first, second, third, ... row of a patient."""

    def stratum(view: View, axis: str) -> np.ndarray:
        return np.searchsorted(POSITIONS, view.axes[axis].position, side="left")

    words = ["at visit 1", "at visit 2", "at visit 3", "at visits 4-5", "at visits 6-9", "at visits 10-17", "later"]
    return stratified(ctx, "marginal.by_visit", "values by visit number", words, stratum)


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

    words = ["in the earliest fifth", "in fifth 2", "in fifth 3", "in fifth 4", "in the latest fifth"]
    return stratified(ctx, key, name, words, stratum)
