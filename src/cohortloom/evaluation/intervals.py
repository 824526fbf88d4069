"""From group sums to scores: value, interval, floor, anchors and a limit that two real samples keep.

Each measure is a sum of statistics over patients, S = sum_i s_i, a curve f(S) (shares, correlations, ...) and a
distance d(f(S_a), f(S_b)) with one component per column or pair of columns. Because S is a sum, a resample is a
weighted sum of group sums, and the law of d between two cohorts of one kind follows from dealing: synthetic and
held-out patients are pooled and dealt anew into two parts of the same sizes, 400 times.

Limits. A score fails beyond

    max(tolerance, share x independent anchor, q),      q = upper quantile of d between two dealt parts

`tolerance` is the difference nobody needs to mind, however many patients there are; `share x anchor` is the loss of
association nobody needs to mind, as a share of losing all of it. q makes this a permutation test: were the synthetic
patients a second sample of real ones, each way of dealing would be as likely as the one at hand, so that the test is
exact whatever the laws are, heavy tails and patients with a thousand rows included (dealing training and held-out
patients would not be: a second sample may hold a patient unlike all of them). q lies at 1 - .05/200, so that all scores
of a report together stay quiet for a second real sample in 95 of 100 cases (Bonferroni, and room for what follows). 400
dealings do not reach so far; q is that of the gamma law with their mean, variance and skewness (at least .6, of the
worst component .8: few draws show too little of it), and the way from the mean to q is lengthened by 1 + 10 / groups.
For the worst component the largest standardised component takes the place of d: it needs no correction for the number
of components, as the largest one is what was dealt as well. Columns that fewer than ten groups of patients have are
left out.

Verdicts. A value beyond its limit is a fault whatever n is. A value within it is only good news if a useless cohort
would have failed: where the useless value (that of the independent anchor, or a fixed one for marginals) lies within
the limit too, the score says "not measurable with n patients".

Intervals. Resampling adds its own noise to a distance, so bootstrap distances are centred on the value before the 2.5
and 97.5 percentiles are taken.

References:
    Westfall, Young (1993). Resampling-based multiple testing (the largest standardised component).
    Knijnenburg et al. (2009). Fewer permutations, more accurate P-values. doi:10.1093/bioinformatics/btp211
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.context import ALPHA, Context
from cohortloom.report import Goal, Score

__all__ = [
    "ALPHA",
    "Measure",
    "assess",
    "centred_interval",
    "enough",
    "not_computed",
    "not_measurable",
    "support_of",
]

AT_ONCE = 100
FEWEST = 10
FEWEST_GROUPS = 10
SHARE_OF_MEAN, SHARE_OF_WORST = 0.1, 0.2


@dataclass(frozen=True)
class Measure:
    """A distance with components.

    Args:
        key: "group.name"; the worst component is reported as "group.name_worst".
        name: In words.
        labels: One per component.
        sums: Cohort -> group x statistic.
        curve: Statistics (..., m) -> curve (..., k).
        distance: Curve, reference curve -> (..., component), each in [0, 1] or so.
        keep: Components with enough real data; others are left out.
        tolerance: Differences nobody minds: of the mean, of one component.
        useless: Value of a cohort that tells nothing; None: that of the independent anchor.
        ceiling: Largest value the distance can take; None: none. A limit beyond it would be none: it ends at .98 of the
            ceiling, or at the largest dealt value if that is larger.
    """

    key: str
    name: str
    labels: tuple[str, ...]
    sums: dict[str, np.ndarray]
    curve: Callable[[np.ndarray], np.ndarray]
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    keep: np.ndarray
    tolerance: tuple[float, float] = (0.02, 0.05)
    useless: float | None = None
    ceiling: float | None = None
    unit: str = "1"


def support_of(sides: Sequence[np.ndarray]) -> np.ndarray:
    """Groups with any count, on the poorer side, for each component."""
    return np.min([(n > 0).sum(0) for n in sides], axis=0)


@dataclass(frozen=True)
class Result:
    """Distances by component; rows are draws where there are any."""

    value: np.ndarray
    floor: np.ndarray
    bootstrap: np.ndarray
    independent: np.ndarray
    null: np.ndarray
    resampled: np.ndarray


def compute(ctx: Context, measure: Measure) -> Result:
    """All distances of a measure."""
    s, draws = measure.sums, ctx.draws

    def flat(name: str) -> np.ndarray:
        return s[name].reshape(len(s[name]), -1)

    def far(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return measure.distance(measure.curve(a), measure.curve(b))[..., measure.keep]

    def drawn(left: np.ndarray, a: np.ndarray, right: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances of all draws, a hundred at once to keep memory small."""
        cuts = range(0, len(left), AT_ONCE)
        return np.concatenate([far(left[i : i + AT_ONCE] @ a, right[i : i + AT_ONCE] @ b) for i in cuts])

    held = flat("held_out").sum(0)
    pool = np.concatenate([flat("synthetic"), flat("held_out")])
    return Result(
        far(flat("synthetic").sum(0), held),
        far(flat("train").sum(0), held),
        far((draws.copies @ flat("train"))[0], held),
        far(flat("independent").sum(0), held),
        drawn(draws.dealt, pool, 1 - draws.dealt, pool),
        drawn(draws.synthetic, flat("synthetic"), draws.held_out, flat("held_out")),
    )


def assess(ctx: Context, measure: Measure) -> list[Score]:
    """The mean over components and the worst component, each a score."""
    group = measure.key.split(".")[0]
    n_kept = int(measure.keep.sum())
    if not n_kept:
        return [not_computed(ctx, measure.key, measure.name, "no column has enough real data for it")]
    r = compute(ctx, measure)
    labels = [label for label, k in zip(measure.labels, measure.keep, strict=True) if k]
    center, spread = r.null.mean(0), np.maximum(r.null.std(0, ddof=1), 1e-9)
    few = 1 + 10 / min(ctx.views[k].n_groups for k in ("synthetic", "held_out"))
    high = few * upper_quantile(np.max((r.null - center) / spread, axis=1), 1 - ctx.alpha, 0.8)
    limits = np.maximum(measure.tolerance[1], center + max(high, 0.0) * spread)
    if measure.ceiling is not None:
        limits = np.minimum(limits, np.maximum(0.98 * measure.ceiling, r.null.max(0)))
    useless = r.independent if measure.useless is None else np.full(n_kept, measure.useless)
    if measure.useless is None:
        limits = np.maximum(limits, SHARE_OF_WORST * r.independent)
    telling = (r.value > limits) | (useless > limits)  # components that could have failed a useless cohort come first
    order = np.lexsort((-r.value / limits, ~telling))
    table = [
        {
            "of": labels[i],
            "value": _plain(r.value[i]),
            "limit": _plain(limits[i]),
            "floor": _plain(r.floor[i]),
            "bootstrap": _plain(r.bootstrap[i]),
            "independent": _plain(r.independent[i]),
        }
        for i in order[:40]
    ]
    scores = []
    w = int(order[0])
    if n_kept > 1:
        middle = float(center.mean())
        limit = max(measure.tolerance[0], middle + few * (upper_quantile(r.null.mean(1), 1 - ctx.alpha) - middle))
        blank = float(useless.mean())
        if measure.useless is None:
            limit = max(limit, SHARE_OF_MEAN * float(r.independent.mean()))
        scores.append(
            _score(ctx, measure, group, measure.key, f"{measure.name}, mean of {n_kept}", limit, blank,
                   [float(a.mean()) for a in (r.value, r.floor, r.bootstrap, r.independent)],
                   r.resampled.mean(1), {"components": table})
        )  # fmt: skip
    key = measure.key if n_kept == 1 else f"{measure.key}_worst"
    name = f"{measure.name}: {labels[w]}" if n_kept == 1 else f"{measure.name}, worst: {labels[w]}"
    blank = float(useless[w])
    scores.append(
        _score(ctx, measure, group, key, name, float(limits[w]), blank,
               [float(a[w]) for a in (r.value, r.floor, r.bootstrap, r.independent)],
               r.resampled[:, w], {"worst": labels[w], "components": table})
    )  # fmt: skip
    return scores


def _score(ctx, measure, group, key, name, limit, useless, numbers, resampled, details) -> Score:
    value, floor, bootstrap, independent = numbers
    nothing_to_lose = "real columns hardly depend on one another: even independent columns would pass"
    measurable = enough(ctx) and (value > limit or useless > limit)
    return Score(
        name=name,
        group=group,
        key=key,
        value=value,
        interval=centred_interval(value, resampled),
        n=ctx.n,
        goal=Goal.LOW,
        limit=limit,
        unit=measure.unit,
        floor=floor,
        anchors={"bootstrap": bootstrap, "independent": independent},
        measurable=measurable,
        reason="" if measurable else nothing_to_lose if limit in measure.tolerance else not_measurable(ctx.n),
        details=details,
    )


def enough(ctx: Context) -> bool:
    """Are there enough patients on both sides for a law of real-against-real distances?"""
    return min(ctx.n, ctx.views["held_out"].n) >= FEWEST


def centred_interval(value: float, draws: np.ndarray) -> tuple[float, float]:
    """Bootstrap percentiles, moved so that the draws have their mean at the value; around it, and not below 0."""
    low, high = np.percentile(draws, [2.5, 97.5]) - draws.mean()
    return max(0.0, float(value + min(low, 0.0))), float(value + max(high, 0.0))


def upper_quantile(draws: np.ndarray, p: float, least_skew: float = 0.6) -> float:
    """Quantile of the gamma law with the draws' mean, variance and skewness (taken to be at most 2)."""
    from scipy.stats import gamma  # heavy

    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    if sd <= 1e-12:
        return mean
    skew = float(np.clip(((draws - mean) ** 3).mean() / sd**3, least_skew, 2.0))
    shape = 4 / skew**2
    return float(mean + sd * (gamma.ppf(p, shape) - shape) / np.sqrt(shape))


def not_measurable(n: int) -> str:
    return f"not measurable with {n:,} patients"


def not_computed(ctx: Context, key: str, name: str, reason: str) -> Score:
    """A score without a value, and why."""
    return Score(name=name, group=key.split(".")[0], key=key, value=None, n=ctx.n, reason=reason)


def _plain(x: float) -> float:
    return round(float(x), 6)
