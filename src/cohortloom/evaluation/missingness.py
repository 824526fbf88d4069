"""Missing cells: how many, in which runs, together with what, and what they tell.

A cell is missing for a reason, and the reason shows in its neighbours: creatinine is not measured in those who looked
well. Generators that impute first, or drop cells at random, lose it.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.association import Block, moments
from cohortloom.evaluation.cells import Cells
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field
from cohortloom.evaluation.intervals import assess, not_computed
from cohortloom.evaluation.views import View
from cohortloom.report import Score

__all__ = ["run_lengths", "scores"]

RUNS = np.array([1, 2, 3, 5, 9])


def scores(ctx: Context) -> list[Score]:
    """Missingness scores."""
    return [*rates(ctx), *runs(ctx), *together(ctx), *next_missing(ctx)]


def rates(ctx: Context) -> list[Score]:
    """Share of missing cells by column, and of patients without any row by table."""
    cells = Cells()
    for f in ctx.fields:
        if f.code is None:
            cells.add(f.name, 2, lambda v, f=f: (v.patient_of(f), v.seen(f).astype(int)), ordered=False)
    for axis in ctx.tables:
        cells.add(
            f"any {axis}",
            2,
            lambda v, a=axis: (np.arange(v.n), (v.axes[a].count > 0).astype(int)),
            ordered=False,
        )
    return assess(ctx, cells.measure(ctx, "missingness.rates", "share of missing cells", tolerance=(0.01, 0.03)))


def sometimes(ctx: Context, axis: str | None = None) -> list[Field]:
    """Row fields that are missing in 1 to 99 % of real rows, and in 20 rows (and not in 20) on either real side."""
    found = []
    for f in ctx.rows(axis):
        if f.code is not None:
            continue
        sides = [ctx.views[k].seen(f) for k in ("train", "held_out")]
        seen = np.concatenate(sides)
        fewest = min(min(s.sum(), (~s).sum()) for s in sides)
        if len(seen) and 0.01 <= seen.mean() <= 0.99 and fewest >= 20:
            found.append(f)
    return found


def run_lengths(patient: np.ndarray, mark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patient and length of each run of consecutive marked rows of a patient."""
    if not len(mark):
        return np.zeros(0, int), np.zeros(0, int)
    new = np.ones(len(mark), dtype=bool)
    new[1:] = (patient[1:] != patient[:-1]) | (mark[1:] != mark[:-1])
    start = np.flatnonzero(new)
    length = np.diff(np.append(start, len(mark)))
    marked = mark[start]
    return patient[start][marked], length[marked]


def runs(ctx: Context) -> list[Score]:
    """Lengths of runs of missing and of recorded rows."""
    cells, key, name = Cells(), "missingness.runs", "lengths of runs of missing cells"
    for f in sometimes(ctx):

        def find(view: View, f: Field = f) -> tuple[np.ndarray, np.ndarray]:
            missing = ~view.seen(f)
            gone, long = run_lengths(view.patient_of(f), missing)
            here, short = run_lengths(view.patient_of(f), ~missing)
            bins = len(RUNS) + 1
            cell = np.concatenate([np.searchsorted(RUNS, long), bins + np.searchsorted(RUNS, short)])
            return np.concatenate([gone, here]), cell

        cells.add(f.name, len(RUNS) + 1, find, ordered=True, cells=2)
    if not cells.parts:
        return [not_computed(ctx, key, name, "no column over time is missing often enough")]
    return assess(ctx, cells.measure(ctx, key, name, tolerance=(0.03, 0.06)))


def together(ctx: Context) -> list[Score]:
    """Are cells missing together, and what do the recorded cells of a row say about the missing ones?"""
    found, name = [], "cells missing together"
    blocks = []
    for axis in ctx.tables:
        fields = sometimes(ctx, axis)
        if len(fields) >= 2:
            blocks.append(([_missing_block(f) for f in fields], [_missing_block(f) for f in fields]))
    key = "missingness.together"
    found += (
        assess(ctx, moments(ctx, key, name, blocks, symmetric=True, tolerance=(0.02, 0.06)))
        if blocks
        else [not_computed(ctx, key, name, "fewer than two columns of a table are missing often enough")]
    )
    key, name = "missingness.depends", "missing cells against recorded ones"
    blocks = []
    for axis in ctx.tables:
        fields = sometimes(ctx, axis)
        others = [f for f in ctx.rows(axis)]
        if fields and len(others) >= 2:
            blocks.append(([_missing_block(f) for f in fields], [Block.of(f) for f in others]))
    found += (
        assess(ctx, moments(ctx, key, name, blocks, tolerance=(0.02, 0.06)))
        if blocks
        else [not_computed(ctx, key, name, "no column over time is missing often enough")]
    )
    return found


def next_missing(ctx: Context) -> list[Score]:
    """Informative missingness: the value of a column given that it is missing at the next row."""
    key, name = "missingness.informative", "value given that the next is missing"
    blocks = []
    for axis in ctx.tables:
        for f in sometimes(ctx, axis):
            blocks.append(([Block.of(f)], [_missing_block(f, ahead=True)]))
    if not blocks:
        return [not_computed(ctx, key, name, "no column over time is missing often enough")]
    return assess(ctx, moments(ctx, key, name, blocks, tolerance=(0.02, 0.06)))


def _missing_block(f: Field, *, ahead: bool = False) -> Block:
    """The flag "is missing" (at the next row) as a two-valued number."""

    def find(view: View) -> np.ndarray:
        flag = (~view.seen(f)).astype(float)
        if not ahead:
            return flag
        later = np.full(len(flag), np.nan)
        follows = view.axes[f.axis or ""].follows[1:]
        later[:-1] = np.where(follows, flag[1:], np.nan)
        return later

    return Block(f"{f.name} missing{' next' if ahead else ''}", f.axis, find)
