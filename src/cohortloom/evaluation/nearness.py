"""Near copies: training patients that lie nearer to a synthetic patient than held-out patients do.

A copy whose values were moved a little is no literal copy, and twenty of them among thousands move no mean. So each of
n training and n held-out patients x is asked how much nearer the nearest synthetic patient is than the nearest other
real one among the 2 n,

    s(x) = log d(x, nearest other real patient) - log d(x, nearest synthetic patient)

and only the far end counts: of the training patients, k lie above the j-th greatest score of the held-out ones. Where
the synthetic cohort knows no more of training than of held-out patients, the two are exchangeable and

    P(k) = C(k + j - 1, k) C(2 n - k - j, n - k) / C(2 n, n)    (negative hypergeometric)

for each of a few j (1, .5, 1, 5 and 10 % of n), which share the level of the test. All synthetic patients are used
(up to 20,000): a copy counts however many others stand beside it. Scales are those of both real cohorts together, so
that neither is nearer by construction.

This is one attack of many (calibrated nearest neighbour); it does not prove that nothing leaked.
"""

from __future__ import annotations

import numpy as np

from cohortloom.cohort.features import Features, Vocabulary, patient_features
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import not_computed
from cohortloom.evaluation.models import Normaliser
from cohortloom.evaluation.space import distances, weights
from cohortloom.report import Goal, Score

__all__ = ["calibrated", "chance", "near", "scores", "tail"]

MOST_REAL, MOST_FAST, MOST_SYNTHETIC = 5000, 2000, 20_000
FEWEST = 30
TAILS = (0.005, 0.01, 0.05, 0.1)
BLOCK = 500
KEY = "copies.near"
NAME = "training patients nearer to a synthetic patient than all but a few held-out patients are"


def near(points: np.ndarray, among: np.ndarray, *, itself: bool = False) -> np.ndarray:
    """Distance of each point to the nearest of some others, by blocks of rows.

    Args:
        points, among: point x feature.
        itself: The points are the others: each leaves itself out.
    """
    out = np.empty(len(points))
    for first in range(0, len(points), BLOCK):
        d = distances(points[first : first + BLOCK], among)
        if itself:
            rows = np.arange(len(d))
            d[rows, first + rows] = np.inf
        out[first : first + BLOCK] = d.min(axis=1)
    return out


def calibrated(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """s(x) of each real patient; +inf where a synthetic patient is the same."""
    least = 1e-4  # below it, distances are rounding
    to_real, to_made = near(real, real, itself=True), near(real, made)
    return np.where(to_made > least, np.log(np.maximum(to_real, least)) - np.log(np.maximum(to_made, least)), np.inf)


def tail(mine: np.ndarray, theirs: np.ndarray, level: float) -> tuple[int, int, int, float]:
    """The place where training patients stand out most.

    Args:
        mine, theirs: Scores of as many training and held-out patients.
        level: Of the whole test.

    Returns:
        j, training patients above the j-th held-out score, how many would be too many, P(as many or more). j is 0 where
        no held-out score is finite enough to be exceeded.
    """
    n, ordered = len(theirs), np.sort(theirs)[::-1]
    best = (0, 0, 0, 1.0)
    places = [j for j in sorted({1, *(max(1, round(t * n)) for t in TAILS)}) if np.isfinite(ordered[j - 1])]
    for j in places:
        k = int((mine > ordered[j - 1]).sum())
        p = chance(n, j)
        if p[k] < best[3] or not best[0]:
            too_many = int(np.argmax(p < level / len(places)))  # 0: n of n would not be enough
            best = (j, k, too_many or n + 1, float(p[k]))
    return best


def chance(n: int, j: int) -> np.ndarray:
    """P(k or more of n lie above the j-th greatest of n others), all 2 n exchangeable, for k = 0 to n."""
    from scipy.special import gammaln  # heavy

    def log_choose(a, b):
        return gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1)

    k = np.arange(n + 1)
    exactly = np.exp(log_choose(k + j - 1, k) + log_choose(2 * n - k - j, n - k) - log_choose(2 * n, n))
    return np.cumsum(exactly[::-1])[::-1]


def scores(ctx: Context) -> list[Score]:
    """The score of near copies."""
    n = min(ctx.cohorts["train"].n_subjects, ctx.cohorts["held_out"].n_subjects, MOST_FAST if ctx.fast else MOST_REAL)
    if n < FEWEST:
        return [not_computed(ctx, KEY, NAME, f"fewer than {FEWEST} real patients on a side")]
    made = _summaries(ctx, n)
    real = np.concatenate([made["train"].values, made["held_out"].values])
    scale = Normaliser().fit(real)
    if not scale.columns:
        return [not_computed(ctx, KEY, NAME, "real patients do not differ in anything recorded")]
    weight = weights(scale, made["train"].columns)
    points = {k: (scale.transform(f.values) * weight).astype(np.float32) for k, f in made.items()}
    both = np.concatenate([points["train"], points["held_out"]])
    found = calibrated(both, points["synthetic"])
    j, k, too_many, p = tail(found[:n], found[n:], ctx.alpha)
    if not j:
        return [not_computed(ctx, KEY, NAME, "records are so coarse that held-out patients repeat synthetic ones")]
    apart = calibrated(both, points["independent"])
    same = tail(apart[:n], apart[n:], ctx.alpha)
    copied = 1 - (1 - 1 / ctx.cohorts["train"].n_subjects) ** len(points["synthetic"])
    return [_score(ctx, n, (j, k, too_many, p), {"bootstrap": copied, "independent": same[1] / n})]


def _summaries(ctx: Context, n: int) -> dict[str, Features]:
    """Of n training and n held-out patients, of the synthetic and the independent cohort."""
    vocabulary = Vocabulary.of([ctx.cohorts["train"], ctx.cohorts["held_out"]])
    most = {"train": n, "held_out": n, "synthetic": MOST_SYNTHETIC, "independent": n}
    made = {}
    for name, limit in most.items():
        subjects = ctx.cohorts[name].subjects
        if len(subjects) > limit:
            draw = ctx.rng.child("nearness", name).numpy
            subjects = subjects[np.sort(draw.choice(len(subjects), limit, replace=False))]
        made[name] = patient_features(ctx.cohorts[name], vocabulary, subjects)
    return made


def _score(ctx: Context, n: int, found: tuple[int, int, int, float], anchors: dict[str, float | None]) -> Score:
    from scipy.stats import beta  # heavy

    j, k, too_many, p = found
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    measurable = too_many <= n / 2
    return Score(
        name=NAME, group="copies", key=KEY, value=k / n, interval=(low, high), n=n, goal=Goal.LOW,
        limit=(too_many - 1) / n, floor=j / n, anchors=anchors, measurable=measurable or k >= too_many,
        reason="" if measurable else f"{n} held-out patients tell too little",
        details={"training patients": k, "held-out patients": j, "p": p},
    )  # fmt: skip
