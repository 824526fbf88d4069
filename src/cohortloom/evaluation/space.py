"""Patients as points: summaries brought to normal scores of the real patients, every column with the same weight.

Distances between raw summaries would be ruled by units and outliers. Each feature becomes the normal score of its rank
among training patients; missing features take the middle, with a mark of their own; the features made of one column are
divided by the root of their number. Nothing is fitted to held-out patients: these and synthetic ones must lie among the
training patients by the same rule (two patients that both gave ranks are a rank apart at least; a third one may fall
between them, and would look like a copy). No axes are fitted: principal components of some patients spread these wider
than any others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import summaries
from cohortloom.evaluation.models import Normaliser

__all__ = ["distances", "points", "weights"]


def points(ctx: Context) -> dict[str, np.ndarray] | None:
    """Points of all cohorts, patient x feature in the order of the views; None if real patients do not differ."""
    if "space" not in ctx.cache:
        ctx.cache["space"] = _points(ctx)
    return ctx.cache["space"]


def _points(ctx: Context) -> dict[str, np.ndarray] | None:
    made = summaries(ctx)
    scale = Normaliser().fit(made["train"].values)
    if not scale.columns:
        return None
    weight = weights(scale, made["train"].columns)
    return {k: scale.transform(f.values) * weight for k, f in made.items()}


def weights(scale: Normaliser, columns: Sequence[str]) -> np.ndarray:
    """Weight of each normal score and mark: features made of one column share the weight of one."""
    source = np.array([columns[j] for j in [*(j for j, _ in scale.columns), *scale.marks]])
    _, index, count = np.unique(source, return_inverse=True, return_counts=True)
    return 1 / np.sqrt(count[index])


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances, row of a x row of b."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))
