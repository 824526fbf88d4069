"""Is the synthetic cohort as useful as the real one? Train on it, test on real held-out patients.

    TRTR    trained on n real training patients, tested on held-out ones
    TSTR    trained on n synthetic patients, tested on the same held-out ones
    loss  = TRTR - TSTR

For a classification task the measure is AUROC; survival is taken as a classification of its event here. Two families
of models (boosting, logistic regression) see the patient summaries without the target, its follow-up time and declared
leaks. A positive loss has to exceed what training on another real sample costs: its noise is the bootstrap spread of
the paired difference over held-out patients, and of refits on resampled training patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import auc, boosting, one_thread, summaries
from cohortloom.evaluation.intervals import ALPHA, not_computed, not_measurable
from cohortloom.report import Goal, Score
from cohortloom.schema import Task

__all__ = ["labels", "scores"]

TOLERANCE = 0.05
MOST_PATIENTS = 4000


def labels(cohort: Cohort, task: Task, subjects: pl.Series) -> np.ndarray:
    """1 where the target is one of the event's levels (or true), 0 elsewhere, NaN where missing."""
    table, _, column = task.target.partition(".")
    frame = cohort.tables[table].select("subject_id", pl.col(column)).unique("subject_id", keep="first")
    frame = pl.DataFrame({"subject_id": subjects}).join(frame, on="subject_id", how="left", maintain_order="left")
    x = frame[column]
    hit = x if x.dtype == pl.Boolean else x.is_in(pl.Series(list(task.event), dtype=x.dtype).implode())
    return pl.select(pl.when(x.is_not_null()).then(hit.cast(pl.Float64))).to_series().to_numpy()


def logistic(seed: int) -> object:
    from sklearn.impute import SimpleImputer  # heavy
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        QuantileTransformer(output_distribution="normal", n_quantiles=100, random_state=seed % 2**31),
        LogisticRegression(C=0.05, max_iter=300),
    )


def scores(ctx: Context) -> list[Score]:
    """TSTR scores of the declared tasks."""
    if not ctx.schema.tasks:
        return [not_computed(ctx, "utility.tstr", "train on synthetic, test on real", "the schema declares no task")]
    found = []
    for task in ctx.schema.tasks:
        key, name = f"utility.{task.name}", f"{task.name}: AUROC lost by training on synthetic patients"
        static = ctx.schema.tables[task.target.partition(".")[0]].role == "static"
        if task.kind not in ("classification", "survival") or not static:
            found.append(not_computed(ctx, key, name, "only classification of static targets is measured so far"))
            continue
        found.append(_loss(ctx, task, key, name))
    return found


def _loss(ctx: Context, task: Task, key: str, name: str) -> Score:
    from scipy.stats import norm  # heavy

    hidden = [task.target, *([task.time] if task.time else []), *task.leaks]
    x, y = {}, {}
    for k in ("synthetic", "train", "held_out", "independent"):
        view = ctx.views[k]
        target = labels(ctx.cohorts[k], task, view.subjects)
        keep = np.flatnonzero(np.isfinite(target))[:MOST_PATIENTS]
        x[k], y[k] = summaries(ctx)[k].without(hidden).values[keep], target[keep].astype(int)
    few = [k for k in ("train", "held_out") if min(y[k].sum(), (1 - y[k]).sum()) < 8]
    if few:
        return not_computed(ctx, key, name, f"fewer than 8 patients with or without the event in {', '.join(few)}")
    lacking = [k for k in ("synthetic",) if min(y[k].sum(), (1 - y[k]).sum()) < 4]
    draw = ctx.rng.child("utility", task.name).numpy
    picks = draw.integers(0, len(y["train"]), len(y["train"]))
    x["bootstrap"], y["bootstrap"] = x["train"][picks], y["train"][picks]
    seed = ctx.rng.integer("utility", task.name)
    families: dict[str, Callable] = {"boosting": lambda n: boosting(seed, n=n), "logistic": lambda n: logistic(seed)}
    predicted: dict[str, dict[str, np.ndarray]] = {}
    with one_thread():
        for family, make in families.items():
            predicted[family] = {}
            for k in ("synthetic", "train", "bootstrap", "independent"):
                if len(np.unique(y[k])) < 2 or (k == "synthetic" and lacking):
                    predicted[family][k] = np.zeros(len(y["held_out"]))
                    continue
                model = make(len(y[k])).fit(x[k], y[k])
                predicted[family][k] = model.predict_proba(x["held_out"])[:, 1]
    truth = y["held_out"]
    area = {f: {k: auc(s, truth) for k, s in p.items()} for f, p in predicted.items()}
    family = max(area, key=lambda f: area[f]["train"])  # the family that does best on real data
    mine, real, copy = (predicted[family][k] for k in ("synthetic", "train", "bootstrap"))
    draws = []
    for _ in range(60 if ctx.fast else 200):
        rows = draw.integers(0, len(truth), len(truth))
        if 0 < truth[rows].sum() < len(rows):
            t = truth[rows]
            draws.append((auc(real[rows], t) - auc(mine[rows], t), auc(real[rows], t) - auc(copy[rows], t)))
    spread = np.array(draws)
    value = area[family]["train"] - area[family]["synthetic"]
    refit = abs(area[family]["train"] - area[family]["bootstrap"])
    noise = float(np.hypot(max(spread[:, 0].std(), spread[:, 1].std()), refit))
    limit = max(TOLERANCE, float(norm.ppf(1 - ALPHA)) * noise)
    useless = area[family]["train"] - 0.5
    measurable = value > limit or useless > limit
    low, high = np.percentile(spread[:, 0], [2.5, 97.5])
    return Score(
        name=name,
        group="utility",
        key=key,
        value=value,
        interval=(float(low), float(high)),
        n=ctx.n,
        goal=Goal.LOW,
        limit=limit,
        floor=0.0,
        anchors={k: area[family]["train"] - area[family][k] for k in ("bootstrap", "independent")},
        measurable=measurable,
        reason="" if measurable else not_measurable(ctx.n),
        details={"auroc": area, "family": family, "n_held_out": len(truth), "events_held_out": int(truth.sum())},
    )
