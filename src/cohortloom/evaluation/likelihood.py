"""Memorisation by likelihood: does a generator find its training patients more likely than held-out ones?

Distances between patients miss a model that has memorised; its own likelihood does not. With l the log-likelihood of a
patient under the generator,

    membership AUROC = P(l of a training patient > l of a held-out one) + 1/2 P(equal)
    gap              = (mean l of training - mean l of held-out) / sd of l of held-out

.5 and 0 are a draw; an AUROC of 1 means that anybody who has the generator can tell who was in it. Beyond .6 is a fault
whatever n is. A generator of copies would reach 1, one of independent columns .5 (of many patients). Any object with
`score(cohort)` can be asked.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from cohortloom.cohort import Cohort
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import auc, auc_interval
from cohortloom.evaluation.intervals import ALPHA, not_computed, not_measurable
from cohortloom.report import Figure, Goal, Score

__all__ = ["Scorer", "figures", "scores"]

MOST_PATIENTS = 2000
LIMIT = 0.6
FEWEST = 10


@runtime_checkable
class Scorer(Protocol):
    """Whatever can say how likely patients are, such as a fitted generator."""

    def score(self, cohort: Cohort) -> np.ndarray:
        """Log-likelihood (or a bound of it) of each patient, in the order of `cohort.subjects`."""
        ...


def scores(ctx: Context) -> list[Score]:
    """Membership AUROC and likelihood gap of the scorer that `evaluate` was given."""
    key, name = "likelihood.membership", "training patients found more likely than held-out ones, AUROC"
    if ctx.scorer is None:
        return [not_computed(ctx, key, name, "no generator that can score patients was given (scorer=)")]
    train, held = _likelihoods(ctx)
    if min(len(train), len(held)) < FEWEST:
        return [not_computed(ctx, key, name, f"fewer than {FEWEST} patients with a finite likelihood on a side")]
    return [_membership(ctx, key, name, train, held), _gap(ctx, train, held)]


def _likelihoods(ctx: Context) -> tuple[np.ndarray, np.ndarray]:
    if "likelihoods" not in ctx.cache:
        most = MOST_PATIENTS // (4 if ctx.fast else 1)
        found = []
        for k in ("train", "held_out"):
            chosen = ctx.views[k].subjects.head(most)
            x = np.asarray(ctx.scorer.score(ctx.cohorts[k].select(chosen)), dtype=float).ravel()
            found.append(x[np.isfinite(x)])
        ctx.cache["likelihoods"] = tuple(found)
    return ctx.cache["likelihoods"]


def _membership(ctx: Context, key: str, name: str, train: np.ndarray, held: np.ndarray) -> Score:
    from scipy.stats import norm  # heavy

    both = np.concatenate([train, held])
    label = np.concatenate([np.ones(len(train), int), np.zeros(len(held), int)])
    value = auc(both, label)
    se, low, high = auc_interval(both, label)
    null = np.sqrt((len(both) + 1) / (12 * len(train) * len(held)))
    limit = max(LIMIT, 0.5 + float(norm.ppf(1 - ALPHA)) * float(null))
    measurable = value > limit or limit < 0.9
    return Score(
        name=name, group="likelihood", key=key, value=value, interval=(low, high), n=len(train), goal=Goal.NEAR,
        limit=limit, floor=0.5, anchors={"bootstrap": 1.0, "independent": 0.5}, measurable=measurable,
        reason="" if measurable else not_measurable(len(train)), details={"n_held_out": len(held), "se": round(se, 5)},
    )  # fmt: skip


def _gap(ctx: Context, train: np.ndarray, held: np.ndarray) -> Score:
    draw = ctx.rng.child("likelihood").numpy
    scale = max(float(held.std()), 1e-12)

    def resample(x: np.ndarray) -> np.ndarray:
        return x[draw.integers(0, len(x), (200, len(x)))].mean(axis=1)

    low, high = np.percentile((resample(train) - resample(held)) / scale, [2.5, 97.5])
    return Score(
        name="likelihood of training less held-out patients, in standard deviations", group="likelihood",
        key="likelihood.gap", value=float((train.mean() - held.mean()) / scale), interval=(float(low), float(high)),
        n=len(train), goal=Goal.LOW, floor=0.0, details={"n_held_out": len(held)},
    )  # fmt: skip


def figures(ctx: Context) -> list[Figure]:
    """Laws of the likelihood of training and held-out patients."""
    if ctx.scorer is None:
        return []
    train, held = _likelihoods(ctx)
    if min(len(train), len(held)) < FEWEST:
        return []
    low, high = np.quantile(np.concatenate([train, held]), [0.01, 0.99])
    edges = np.linspace(low, max(high, low + 1e-9), 31)
    series = []
    for label, x in (("real train", train), ("real held-out", held)):
        share = np.histogram(np.clip(x, low, high), edges)[0] / len(x)
        y = [round(float(v), 5) for v in (*share, share[-1])]
        series.append({"name": label, "x": [round(float(v), 5) for v in edges], "y": y, "step": True})
    content = {
        "x_label": "log-likelihood of a patient", "y_label": "share of patients",
        "panels": [{"title": "Likelihood under the generator", "series": series}],
    }  # fmt: skip
    note = "The two should lie on one another; training patients to the right are remembered."
    return [Figure("curves", "Memorisation", content, note, "likelihood")]
