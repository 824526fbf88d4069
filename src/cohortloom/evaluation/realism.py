"""Realism against variability: is every synthetic patient possible, and is every real patient represented?

Patients are points (`space.py`); R are n held-out, S n synthetic patients, T training patients; k = 5, and the ball of
a point reaches to its k-th neighbour within its own cohort.

    precision     share of S inside any ball of R                               low: impossible patients
    recall        share of R inside any ball of S                               low: kinds of patients are missing
    density       1/(k n) sum over S of the number of balls of R it lies in     above 1: crowded where R is crowded
    coverage      share of balls of R with a point of S in them
    alpha-prec.   1 - 2 integral over alpha of |P(alpha) - alpha|, P(alpha) the share of S within the distance from
                  the centre of R that holds a share alpha of R
    beta-recall   the same with R and S exchanged
    authenticity  share of S further from its nearest real patient x in T than x is from its own nearest in T
    diversity     mean distance between two synthetic patients, relative to real ones: |ratio - 1|
    near copies   share of S nearer to T than 99 % of held-out patients are

In authenticity, x is the nearest real patient of each synthetic one and nothing else: an implementation in wide use
looks x's own distance up by the number of the synthetic patient.

Limits come from synthetic and held-out patients dealt anew into two cohorts of n (`intervals.py` says why), the
quantile from the gamma law with the mean, variance and skewness of these dealings. Authenticity is a share of patients,
with a binomial limit; of near copies the law is known (beta-binomial).

References:
    Kynkäänniemi et al. (2019). Improved precision and recall metric for assessing generative models.
    Naeem et al. (2020). Reliable fidelity and diversity metrics for generative models.
    Alaa et al. (2022). How faithful is your synthetic data?
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import ALPHA, not_computed, not_measurable, upper_quantile
from cohortloom.evaluation.space import distances, points
from cohortloom.report import Goal, Score

__all__ = ["alpha_precision", "authentic", "balls", "compared", "prdc", "scores"]

MOST_PATIENTS = 800
NEIGHBOURS = 5
FEWEST = 20
TOLERANCE = 0.05
LEAST_SKEW = 0.2
HIGH = {
    "precision": "precision: synthetic patients near real ones",
    "recall": "recall: real patients near synthetic ones",
    "density": "density of real patients around synthetic ones",
    "coverage": "coverage: real patients with a synthetic neighbour",
    "alpha_precision": "alpha-precision: synthetic patients are as typical as real ones",
    "beta_recall": "beta-recall: real patients are as typical as synthetic ones",
}


def balls(d: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Distance of each point to its k-th neighbour; d holds distances within one cohort, 0 on the diagonal."""
    k = min(k, len(d) - 1)
    return np.partition(d, k, axis=1)[:, k]


def prdc(rr: np.ndarray, ss: np.ndarray, rs: np.ndarray, k: int = NEIGHBOURS) -> dict[str, np.ndarray]:
    """Parts of precision, recall, density and coverage, one per point: their means are the scores.

    Args:
        rr, ss, rs: Distances real-real, synthetic-synthetic, real x synthetic.
    """
    real, made = balls(rr, k), balls(ss, k)
    inside = rs <= real[:, None]
    return {
        "precision": inside.any(axis=0).astype(float),
        "recall": (rs <= made[None]).any(axis=1).astype(float),
        "density": inside.sum(axis=0) / min(k, len(rr) - 1),
        "coverage": inside.any(axis=1).astype(float),
    }


def alpha_precision(real: np.ndarray, made: np.ndarray) -> float:
    """1 - 2 integral |P(alpha) - alpha| from distances to the centre of the real patients."""
    alpha = np.linspace(0.0, 1.0, 101)[1:-1]
    radius = np.quantile(real, alpha)
    held = np.searchsorted(np.sort(made), radius, side="right") / len(made)
    return float(1 - 2 * np.abs(held - alpha).mean())


def authentic(to_train: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Is each synthetic patient further from its nearest real one than that one is from its nearest real neighbour?

    Args:
        to_train: Distances synthetic x train.
        within: Distances train x train.
    """
    nearest = to_train.argmin(axis=1)
    own = within + np.where(np.eye(len(within), dtype=bool), np.inf, 0)
    return to_train.min(axis=1) > own.min(axis=1)[nearest]


def scores(ctx: Context) -> list[Score]:
    """Scores of realism and variability."""
    space = points(ctx)
    key, name = "realism.precision", HIGH["precision"]
    if space is None:
        return [not_computed(ctx, key, name, "real patients do not differ in anything recorded")]
    most = MOST_PATIENTS // (2 if ctx.fast else 1)
    n = min(most, *(len(space[k]) for k in ("synthetic", "train", "held_out")))
    if n < FEWEST:
        return [not_computed(ctx, key, name, f"fewer than {FEWEST} patients on a side")]
    return compared(ctx, {k: v[:n] for k, v in space.items()}, ctx.rng.child("realism").numpy)


def compared(ctx: Context, some: dict[str, np.ndarray], draw: np.random.Generator, alpha: float = ALPHA) -> list[Score]:
    """All scores of equally many points of each cohort."""
    n = len(some["synthetic"])
    some = {**some, "bootstrap": some["train"][draw.integers(0, n, n)]}
    pool = np.concatenate([some["synthetic"], some["held_out"]])
    inner = distances(pool, pool)
    np.fill_diagonal(inner, 0)
    null = _null(pool, inner, n, draw, 50 if ctx.fast else 80)
    made = {k: _summary(some["held_out"], v, inner[n:, n:]) for k, v in some.items() if k != "held_out"}
    found = [_high(k, words, made, null, draw, n, alpha) for k, words in HIGH.items()]
    found.append(_diversity(made, null, some["synthetic"], draw, n, alpha))
    within = distances(some["train"], some["train"])
    np.fill_diagonal(within, 0)
    found += _copies(some, within, distances(some["held_out"], some["train"]), n, alpha)
    return found


def _summary(real: np.ndarray, made: np.ndarray, rr: np.ndarray) -> dict[str, np.ndarray]:
    """All measures of one cohort against the real one; parts per point where the measure is a mean."""
    ss, rs = distances(made, made), distances(real, made)
    np.fill_diagonal(ss, 0)
    out = prdc(rr, ss, rs)
    out["alpha_precision"] = np.array([_typical(real, made)])
    out["beta_recall"] = np.array([_typical(made, real)])
    out["diversity"] = np.array([_ratio(ss, rr)])
    return out


def _typical(center_of: np.ndarray, other: np.ndarray) -> float:
    c = np.median(center_of, axis=0)
    return alpha_precision(np.linalg.norm(center_of - c, axis=1), np.linalg.norm(other - c, axis=1))


def _ratio(ss: np.ndarray, rr: np.ndarray) -> float:
    """Mean distance between two patients, relative to the real one."""
    far = rr.sum() / (len(rr) * (len(rr) - 1))
    return float(ss.sum() / (len(ss) * (len(ss) - 1)) / max(far, 1e-12))


def _null(pool: np.ndarray, inner: np.ndarray, n: int, draw: np.random.Generator, times: int) -> dict[str, np.ndarray]:
    """The measures between two cohorts of one kind, over dealings of the pooled patients."""
    rows = []
    for _ in range(times):
        order = draw.permutation(len(pool))
        a, b = order[:n], order[n:]
        part = prdc(inner[np.ix_(a, a)], inner[np.ix_(b, b)], inner[np.ix_(a, b)])
        row = {k: v.mean() for k, v in part.items()}
        row["alpha_precision"] = _typical(pool[a], pool[b])
        row["beta_recall"] = _typical(pool[b], pool[a])
        row["diversity"] = _ratio(inner[np.ix_(b, b)], inner[np.ix_(a, a)])
        rows.append(row)
    return {k: np.array([r[k] for r in rows]) for k in rows[0]}


def _farthest(null: np.ndarray, n: int, alpha: float) -> float:
    """How far above their mean dealings reach in a share alpha of cases; the way is longer where patients are few."""
    return (1 + 10 / n) * (upper_quantile(null, 1 - alpha, LEAST_SKEW) - float(null.mean()))


def _high(k: str, words: str, made: dict, null: dict, draw, n: int, alpha: float) -> Score:
    value, floor = float(made["synthetic"][k].mean()), float(made["train"][k].mean())
    anchors = {a: float(made[a][k].mean()) for a in ("bootstrap", "independent")}
    limit = float(null[k].mean()) - max(TOLERANCE, _farthest(-null[k], n, alpha))
    parts = made["synthetic"][k]
    if len(parts) > 1:
        draws = draw.choice(parts, (200, len(parts))).mean(axis=1)
    else:
        draws = value + null[k] - null[k].mean()
    low, high = np.percentile(draws, [2.5, 97.5])
    # useless: the independent cohort, or ten patients over and over (which keep 10 balls of n)
    useless = min(anchors["independent"], 50 / n if k in ("coverage", "recall") else 1.0)
    measurable = value < limit or useless < limit
    return Score(
        name=words, group="realism", key=f"realism.{k}", value=value, interval=(float(low), float(high)), n=n,
        goal=Goal.HIGH, limit=limit, floor=floor, anchors=anchors, measurable=measurable,
        reason="" if measurable else not_measurable(n),
    )  # fmt: skip


def _diversity(made: dict, null: dict, points_made: np.ndarray, draw, n: int, alpha: float) -> Score:
    value = abs(float(made["synthetic"]["diversity"][0]) - 1)
    gone = np.abs(null["diversity"] - 1)
    limit = max(TOLERANCE, float(gone.mean()) + _farthest(gone, n, alpha))
    few = draw.integers(0, n, (60, n))
    half = points_made[: min(n, 300)]
    d = distances(half, half)
    np.fill_diagonal(d, 0)
    base, m = d.sum() / (len(d) * (len(d) - 1)), len(d)
    ratios = [d[np.ix_(r[:m] % m, r[:m] % m)].sum() / (m * (m - 1)) / max(base, 1e-12) for r in few]
    sd = float(np.std(ratios)) * np.sqrt(m / n)
    ratio = float(made["synthetic"]["diversity"][0])
    return Score(
        name="diversity: mean distance between two synthetic patients, relative to real ones, less 1",
        group="realism", key="realism.diversity", value=value,
        interval=(max(0.0, value - 1.96 * sd), value + 1.96 * sd), n=n, goal=Goal.LOW, limit=limit,
        floor=abs(float(made["train"]["diversity"][0]) - 1),
        anchors={a: abs(float(made[a]["diversity"][0]) - 1) for a in ("bootstrap", "independent")},
        measurable=value > limit or limit < 0.5, reason="" if limit < 0.5 else not_measurable(n),
        details={"ratio": round(ratio, 5)},
    )  # fmt: skip


def _copies(some: dict, within, held_to_train, n: int, alpha: float) -> list[Score]:
    """Authenticity and near copies; both ask how synthetic patients lie beside training patients."""
    from scipy.stats import norm  # heavy

    to = {k: distances(some[k], some["train"]) for k in ("synthetic", "bootstrap", "independent")}
    to["held_out"] = held_to_train
    real = {k: authentic(d, within) for k, d in to.items()}
    p = float(real["held_out"].mean())
    se = np.sqrt(max(p * (1 - p), 0.01) * 2 / n)
    value = float(real["synthetic"].mean())
    limit = p - max(TOLERANCE, (1 + 10 / n) * float(norm.ppf(1 - alpha)) * float(se))
    measurable = value < limit or limit > 0
    own = 1.96 * np.sqrt(max(value * (1 - value), 1 / n) / n)
    first = Score(
        name="authenticity: synthetic patients that are no near copy of their nearest training patient",
        group="realism", key="realism.authenticity", value=value,
        interval=(max(0.0, value - own), min(1.0, value + own)), n=n, goal=Goal.HIGH, limit=float(limit), floor=p,
        anchors={a: float(real[a].mean()) for a in ("bootstrap", "independent")}, measurable=measurable,
        reason="" if measurable else not_measurable(n),
    )  # fmt: skip
    return [first, _near(to, n, alpha)]


def _near(to: dict, n: int, alpha: float) -> Score:
    from scipy.stats import beta, betabinom  # heavy

    k = max(1, round(0.01 * n))
    threshold = np.sort(to["held_out"].min(axis=1))[k - 1]
    share = {k: float((d.min(axis=1) < threshold).mean()) for k, d in to.items()}
    hits = round(share["synthetic"] * n)
    # of n patients like the held-out ones, so many lie below the k-th smallest of n distances
    limit = max(0.03, float(betabinom.ppf(1 - alpha, n, k, n - k + 1)) / n)
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return Score(
        name="near copies: synthetic patients nearer to training patients than 99 % of held-out patients",
        group="realism", key="realism.near_copies", value=share["synthetic"], interval=(low, high), n=n,
        goal=Goal.LOW, limit=limit, floor=share["held_out"],
        anchors={a: share[a] for a in ("bootstrap", "independent")}, measurable=threshold > 0,
        reason="" if threshold > 0 else "held-out patients repeat training patients; nothing can be nearer",
    )  # fmt: skip
