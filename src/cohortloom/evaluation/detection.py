"""Judges: can boosting tell synthetic patients from held-out ones?

Two judges look at one cohort in two ways: at patients (rich summaries, `cohort/features.py`) and at visit pairs
(values, the previous values, the running mean of the patient, the gap, the statics). Each is trained on some patients
and asked about others, so that rows of one patient (and copies of one patient, in the bootstrap anchor) never stand on
both sides.

    AUC = P(score of a synthetic patient > score of a held-out patient) + 1/2 P(equal)

.5 is a draw. The limit is the AUC that two real samples would stay under, not less than .60. Rows of the second judge
are averaged per patient before the AUC is taken: the patient is the unit.

scikit-learn's boosting starts OpenMP threads that a busy machine can bring to a standstill; every call runs on one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cohortloom.cohort.features import Features, Vocabulary, patient_features
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import ALPHA, not_computed, not_measurable
from cohortloom.report import Figure, Goal, Score

__all__ = ["Opinion", "asked", "auc", "auc_interval", "boosting", "judge", "one_thread", "scores", "summaries"]

MOST_PATIENTS = 2000
MOST_IN_ANCHOR = 600
ROWS_PER_PATIENT = 5
TOLERANCE = 0.60


def one_thread():
    """Context manager: native thread pools of this process use one thread."""
    import sklearn.ensemble  # noqa: F401 (its OpenMP library must be loaded before it can be limited)
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    return threadpool_limits(1)


@dataclass(frozen=True)
class Opinion:
    """What a judge said of two cohorts, by patients it was not trained on.

    Args:
        score: Cross-validated score of each patient; higher is more synthetic.
        label: 1 for patients of the compared cohort, 0 for held-out ones.
        patient: Number of each patient in the view of its own cohort.
        fall: Fall of the AUC when a feature is shuffled, if it was asked for.
    """

    score: np.ndarray
    label: np.ndarray
    patient: np.ndarray
    fall: np.ndarray | None = None

    @property
    def auc(self) -> float:
        return auc(self.score, self.label)

    @property
    def sizes(self) -> tuple[int, int]:
        """Compared and held-out patients."""
        return int(self.label.sum()), int((1 - self.label).sum())


@dataclass
class Boosting:
    """A boosting classifier that leaves out features without two distinct values."""

    model: Any
    alive: np.ndarray | None = None

    def fit(self, x: np.ndarray, y: np.ndarray) -> Boosting:
        known = np.isfinite(x)
        least = np.where(known, x, np.inf).min(0)
        greatest = np.where(known, x, -np.inf).max(0)
        self.alive = greatest > least
        if self.alive.any():
            self.model.fit(x[:, self.alive], y)
        self.share = float(np.mean(y))
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        if self.alive is None or not self.alive.any():
            p = np.full(len(x), self.share)
            return np.stack([1 - p, p], axis=1)
        return self.model.predict_proba(x[:, self.alive])


def boosting(seed: int, *, n: int, fast: bool = False) -> Boosting:
    """The judge: gradient boosting, more cautious where there are few patients."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # heavy

    model = HistGradientBoostingClassifier(
        max_iter=40 if fast else 80,
        learning_rate=0.1 if n >= 600 else 0.06,
        max_leaf_nodes=15 if n >= 600 else 6,
        min_samples_leaf=20 if n >= 600 else 10,
        l2_regularization=1.0,
        early_stopping=False,
        max_features=0.5,
        random_state=seed % 2**31,
    )
    return Boosting(model)


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve, ties by half (Mann-Whitney); NaN if a class is absent."""
    from scipy.stats import rankdata  # heavy

    ones = int(label.sum())
    zeros = len(label) - ones
    if not ones or not zeros:
        return float("nan")
    return float((rankdata(score)[label == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def auc_interval(score: np.ndarray, label: np.ndarray) -> tuple[float, float, float]:
    """Standard error and 95 % interval of an AUC from the variance of placements (DeLong).

    Returns:
        se, low, high.

    References:
        DeLong, DeLong, Clarke-Pearson (1988). Comparing the areas under two or more correlated ROC curves.
    """
    from scipy.stats import rankdata  # heavy

    value, x, y = auc(score, label), score[label == 1], score[label == 0]
    both = rankdata(np.concatenate([x, y]))
    place_x = (both[: len(x)] - rankdata(x)) / max(len(y), 1)
    place_y = 1 - (both[len(x) :] - rankdata(y)) / max(len(x), 1)
    var = sum(p.var(ddof=1) / len(p) if len(p) > 1 else 0.25 for p in (place_x, place_y))
    se = float(np.sqrt(var))
    return se, max(0.0, value - 1.96 * se), min(1.0, value + 1.96 * se)


def judge(
    x: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    seed: int,
    folds: int = 3,
    fast: bool = False,
    explain: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Cross-validated judge, folds by patient.

    Args:
        x: row x feature.
        label: 1 synthetic, 0 real, per row.
        patient: Patient of each row; rows of one patient share a label and a fold.
        explain: Also say how much the held-out AUC falls when a feature is shuffled.

    Returns:
        Score, label and number of each patient, and the importance of features (None unless asked).
    """
    draw = np.random.default_rng(seed % 2**63)
    who, index = np.unique(patient, return_inverse=True)
    of = np.zeros(len(who), dtype=int)
    of[index] = label
    fold = np.zeros(len(who), dtype=int)
    for value in (0, 1):
        members = draw.permutation(np.flatnonzero(of == value))
        fold[members] = np.arange(len(members)) % folds
    out = np.zeros(len(label))
    fall = np.zeros(x.shape[1])
    with one_thread():
        for k in range(folds):
            test = fold[index] == k
            if test.all() or not test.any() or len(np.unique(label[~test])) < 2:
                continue
            model = boosting(seed + k, n=len(who), fast=fast).fit(x[~test], label[~test])
            out[test] = model.predict_proba(x[test])[:, 1]
            if explain:
                fall += _importance(model, x[test], label[test], draw) / folds
    n = np.bincount(index)
    return np.bincount(index, weights=out) / n, of, who, fall if explain else None


def _importance(model: Any, x: np.ndarray, label: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Fall of the AUC when one feature is shuffled, on at most 400 rows."""
    rows = draw.permutation(len(x))[:400]
    x, label = x[rows], label[rows]
    whole = auc(model.predict_proba(x)[:, 1], label)
    fall = np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        if np.isnan(x[:, j]).all() or np.nanmin(x[:, j]) == np.nanmax(x[:, j]):
            continue
        kept = x[:, j].copy()
        x[:, j] = kept[draw.permutation(len(x))]
        fall[j] = whole - auc(model.predict_proba(x)[:, 1], label)
        x[:, j] = kept
    return fall


# -- what the judges look at -----------------------------------------------------------------------------------------


def summaries(ctx: Context) -> dict[str, Features]:
    """Summaries of the patients of each compared cohort, in the order of its view."""
    if "summaries" not in ctx.cache:
        vocabulary = Vocabulary.of([ctx.cohorts["train"], ctx.cohorts["held_out"]])
        ctx.cache["summaries"] = {
            k: patient_features(ctx.cohorts[k], vocabulary, v.subjects) for k, v in ctx.views.items()
        }
    return ctx.cache["summaries"]


def patient_rows(ctx: Context, name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Features and patient of each row for the patient judge."""
    f = summaries(ctx)[name]
    return f.values, np.arange(len(f.values)), f.names


def visit_rows(ctx: Context, name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Values, previous values, running means, gap and statics at up to 5 rows per patient of the busiest table."""
    axis = max(ctx.tables, key=lambda a: (len(ctx.rows(a)), len(ctx.views["held_out"].axes[a].patient)))
    view = ctx.views[name]
    rows = view.axes[axis]
    columns, names = [rows.gap, np.log1p(rows.position.astype(float))], ["gap", "row number"]
    for f in ctx.rows(axis):
        raw = view.columns[f.name].astype(float)
        x = raw if f.is_number else np.where(raw < 0, np.nan, raw)
        before = np.full(len(x), np.nan)
        before[1:] = np.where(rows.follows[1:], x[:-1], np.nan)
        columns += [x, before]
        names += [f.name, f"{f.name}: previous"]
        if f.is_number:
            columns += [_running_mean(x, rows.patient, rows.position), x - before]
            names += [f"{f.name}: mean so far", f"{f.name}: change"]
    for f in ctx.statics:
        raw = view.columns[f.name].astype(float)
        columns.append(np.where(raw < 0, np.nan, raw)[rows.patient] if not f.is_number else raw[rows.patient])
        names.append(f.name)
    x = np.stack(columns, axis=1).astype(np.float32)
    draw = ctx.rng.child("rows", name).numpy
    order = np.lexsort((draw.random(len(x)), rows.patient))
    rank = np.arange(len(x)) - np.concatenate([[0], np.cumsum(rows.count)[:-1]])[rows.patient[order]]
    keep = np.sort(order[rank < ROWS_PER_PATIENT])
    return x[keep], rows.patient[keep], tuple(names)


def _running_mean(x: np.ndarray, patient: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Mean of the patient's recorded values before this row; NaN without one."""
    seen = np.isfinite(x)
    total = np.concatenate([[0.0], np.cumsum(np.where(seen, x, 0.0))])
    count = np.concatenate([[0], np.cumsum(seen)])
    row = np.arange(len(x))
    start = row - position
    n = count[row] - count[start]
    return np.where(n > 0, (total[row] - total[start]) / np.maximum(n, 1), np.nan)


# -- scores --------------------------------------------------------------------------------------------------------


JUDGES = {
    "detection.patients": "judge on patient summaries, AUC",
    "detection.visits": "judge on pairs of visits, AUC",
    "detection.convolutions": "judge of series by random convolutions, AUC",
    "detection.recurrent": "judge of series by a recurrent network, AUC",
}


def asked(ctx: Context) -> dict[str, dict[str, Opinion] | str]:
    """What each judge says of every cohort against held-out patients (asked once), or why it was not asked."""
    from cohortloom.evaluation import judges

    if "opinions" not in ctx.cache:
        found: dict[str, dict[str, Opinion] | str] = {"detection.patients": _heard(ctx, "patients", patient_rows)}
        some = any(ctx.rows(a) for a in ctx.tables)
        found["detection.visits"] = _heard(ctx, "visits", visit_rows) if some else "no table over time"
        ctx.cache["opinions"] = found | judges.asked(ctx)
    return ctx.cache["opinions"]


def scores(ctx: Context) -> list[Score]:
    """These two judges, those of whole series (`judges.py`), and the worst of all."""
    found = []
    for key, heard in asked(ctx).items():
        if isinstance(heard, str):
            found.append(not_computed(ctx, key, JUDGES[key], heard))
        else:
            found.append(verdict_of(ctx, key, JUDGES[key], heard))
    telling = [s for s in found if s.details.get("gives_away")]
    ctx.cache["gives_away"] = max(telling, key=lambda s: s.value or 0).details["gives_away"] if telling else []
    valued = [s for s in found if s.value is not None]
    if valued:
        worst = max(valued, key=lambda s: (s.passed is False, s.value))
        name = f"worst judge: {worst.name.split(',')[0]}"
        found.append(replace(worst, name=name, key="detection.worst", details={"judge": worst.key}))
    return found


def verdict_of(
    ctx: Context, key: str, name: str, heard: dict[str, Opinion], *, alpha: float = ALPHA, tolerance: float = TOLERANCE
) -> Score:
    """The AUC between synthetic and held-out patients, with a limit that two real samples keep."""
    from scipy.stats import norm  # heavy

    mine = heard["synthetic"]
    n, held = mine.sizes
    null_se = np.sqrt((n + held + 1) / (12 * n * held))
    limit = min(1.0, max(tolerance, 0.5 + 1.15 * float(norm.ppf(1 - alpha)) * null_se))
    value, useless = mine.auc, heard["independent"].auc
    _, low, high = auc_interval(mine.score, mine.label)
    measurable = value > limit or useless > limit
    details: dict[str, Any] = {"chance": 0.5, "n_held_out": held}
    if mine.fall is not None:
        names, fall = ctx.cache[("features", key)], mine.fall
        order = np.argsort(-fall)[:10]
        details["gives_away"] = [
            {"feature": names[i], "fall": round(float(fall[i]), 4)} for i in order if fall[i] > 0.003
        ]
    return Score(
        name=name, group="detection", key=key, value=value, interval=(low, high), n=n, goal=Goal.NEAR, limit=limit,
        floor=heard["train"].auc, anchors={k: heard[k].auc for k in ("bootstrap", "independent") if k in heard},
        measurable=measurable, reason="" if measurable else not_measurable(n), details=details,
    )  # fmt: skip


def _heard(ctx: Context, name: str, look) -> dict[str, Opinion] | str:
    key, most = f"detection.{name}", MOST_PATIENTS // (3 if ctx.fast else 1)
    held = look(ctx, "held_out")
    ctx.cache[("features", key)] = held[2]
    cohorts = {k: look(ctx, k) for k in ("synthetic", "train", "independent")}
    source = ctx.views["train"].n
    picks = ctx.rng.child("judges", key).numpy.integers(0, source, source)
    found: dict[str, Opinion] = {}
    for k in ("synthetic", "train", "bootstrap", "independent"):
        x, patient, _ = cohorts["train" if k == "bootstrap" else k]
        copies = np.bincount(picks, minlength=source) if k == "bootstrap" else None
        most_here = min(most, MOST_IN_ANCHOR) if k in ("bootstrap", "independent") else most
        one = _compare((x, patient), held[:2], most_here, ctx, f"{key}.{k}", copies, explain=k == "synthetic")
        if one is None:
            return "fewer than 15 patients with rows on a side"
        found[k] = one
    return found


def _compare(
    left, right, most: int, ctx: Context, stream: str, copies: np.ndarray | None, *, explain: bool
) -> Opinion | None:
    """Opinion of one judge on two cohorts of equal size."""
    (x, p), (y, q) = left, right
    draw = ctx.rng.child("compare", stream).numpy
    n = min(most, len(np.unique(p)), len(np.unique(q)))
    if n < 15:
        return None
    some = draw.permutation(np.unique(p))[:n]
    others = draw.permutation(np.unique(q))[:n]
    in_p, in_q = np.isin(p, some), np.isin(q, others)
    times = np.ones(int(in_p.sum()), dtype=int) if copies is None else copies[p[in_p]]
    rows = np.repeat(np.flatnonzero(in_p), times)
    values = np.concatenate([x[rows], y[in_q]])
    label = np.concatenate([np.ones(len(rows), int), np.zeros(int(in_q.sum()), int)])
    shift = int(p.max()) + 1
    patient = np.concatenate([p[rows], q[in_q] + shift])
    seed = ctx.rng.integer("judge", stream)
    score, of, who, fall = judge(values, label, patient, seed=seed, fast=ctx.fast, explain=explain)
    return Opinion(score, of, np.where(of == 1, who, who - shift), fall)


def figures(ctx: Context) -> list[Figure]:
    """What gives the cohort away."""
    away = ctx.cache.get("gives_away") or []
    if not away:
        return []
    content = {
        "y_label": "fall of the judge's AUC without it",
        "panels": [
            {
                "title": "What gives it away",
                "labels": [a["feature"] for a in away],
                "series": [{"name": "synthetic", "values": [a["fall"] for a in away]}],
            }
        ],
    }
    note = "Features the worst judge needs: shuffling one of them lowers its AUC by so much."
    return [Figure("bars", "What gives the synthetic patients away", content, note, "detection")]
