"""Is the cohort as good for every declared subgroup?

    shares       patients of each subgroup, relative difference |a - b| / (a + b): 1 if a rare group is lost
    marginal, missingness, association, temporal, codes, calendar
                 summaries (`parts.py`) of each subgroup, synthetic against held-out patients of the same subgroup
    survival     Kaplan-Meier curves, restricted means and hazards of each subgroup (`survival.py`)
    detection, utility, realism
                 judges, models and neighbours within each subgroup (`subgroups.py`)
    waveforms    every waveform score of each subgroup's records (`signals_subgroups.py`)
    copies       share of each subgroup that repeats a training patient
    equalised odds
                 largest difference between subgroups in true or false positive rate of a model trained on synthetic
                 patients, less that of the same model trained on real ones; both cut where the share of predicted
                 events is that of real events

The worst subgroup is named. A subgroup with few patients has a wide law between two real samples, hence a high limit;
with fewer than ten on a real side it is "not measurable", and the report says so.

References:
    Hardt, Price, Srebro (2016). Equality of opportunity in supervised learning.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation import subgroups, survival
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import ALPHA, Measure, assess, not_computed, not_measurable
from cohortloom.evaluation.parts import Part, parts_of, summaries_of
from cohortloom.evaluation.signals_subgroups import waveforms
from cohortloom.evaluation.tasks import slug
from cohortloom.evaluation.utility import Fitted, fitted
from cohortloom.evaluation.views import View
from cohortloom.report import Figure, Goal, Score
from cohortloom.schema import Task

__all__ = ["figures", "odds_gap", "scores"]

MOST_PARTS = 40
FEWEST = 10
FEWEST_OF_CLASS = 8
LAWS = ("marginal", "missingness", "codes", "calendar")


def scores(ctx: Context) -> list[Score]:
    """Scores by declared subgroup."""
    key, name = "fairness.shares", "subgroups, relative difference of their shares"
    if not ctx.schema.subgroups:
        return [not_computed(ctx, key, name, "the schema declares no subgroups")]
    parts = _parts(ctx)
    if not parts:
        return [not_computed(ctx, key, name, "no declared subgroup is a static category that occurs")]
    few = [p for p, n in zip(parts, _smallest(ctx, parts), strict=True) if n < FEWEST]
    ctx.leave_out(f"Subgroups with fewer than {FEWEST} real patients on a side", (p.label for p in few))
    found = [*_shares(ctx, key, name, parts), *_summaries(ctx, parts), *_survival(ctx, parts)]
    found += waveforms(ctx, parts)
    found += [*subgroups.detection(ctx, parts), *subgroups.utility(ctx, parts), *subgroups.realism(ctx, parts)]
    ctx.cache["fairness"] = found = [*found, *subgroups.copies(ctx, parts), *_odds(ctx)]
    return found


def _parts(ctx: Context) -> list[Part]:
    return [p for column in ctx.schema.subgroups for p in parts_of(ctx, column)][:MOST_PARTS]


def _smallest(ctx: Context, parts: list[Part]) -> np.ndarray:
    """Patients of each subgroup on the poorer real side."""
    return np.min([_patients(ctx.views[k], parts).sum(0)[1:] for k in ("train", "held_out")], axis=0)


def _patients(view: View, parts: list[Part]) -> np.ndarray:
    """Patients, and patients of each part, by group of the view."""
    marks = np.stack([np.ones(view.n), *(p.member(view) for p in parts)], axis=1)
    out = np.zeros((view.n_groups, marks.shape[1]))
    np.add.at(out, np.arange(view.n) // view.size, marks)
    return out


def _shares(ctx: Context, key: str, name: str, parts: list[Part]) -> list[Score]:
    def curve(s: np.ndarray) -> np.ndarray:
        return s[..., 1:] / np.maximum(s[..., :1], 1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(a - b) / np.maximum(a + b, 1e-12)

    sums = ctx.sums(lambda view: _patients(view, parts))
    keep = np.minimum(sums["train"].sum(0), sums["held_out"].sum(0))[1:] >= 5
    labels = tuple(p.label for p in parts)
    found = assess(ctx, Measure(key, name, labels, sums, curve, distance, keep, (0.1, 0.2), useless=1.0, ceiling=1.0))
    table = [
        {"subgroup": p.label, **{k: int(sums[k].sum(0)[i + 1]) for k in ("train", "held_out", "synthetic")}}
        for i, p in enumerate(parts)
    ]
    lost = [row["subgroup"] for row in table if not row["synthetic"] and row["train"]]
    for s in found:
        s.details.update({"subgroups": table, "lost": lost})
    return found


def _survival(ctx: Context, parts: list[Part]) -> list[Score]:
    """Survival scores with the subgroups in the place of strata."""
    follows = survival.follows_of(ctx, [(p.label, p.member) for p in parts]) if ctx.schema.survival else []
    return survival.compared(ctx, follows, "fairness.survival_", " by subgroup") if follows else []


def _summaries(ctx: Context, parts: list[Part]) -> list[Score]:
    smallest = _smallest(ctx, parts)
    found = []
    for summary in summaries_of(ctx):
        key, name = f"fairness.{summary.name}", f"{summary.name} error by subgroup"
        width = len(summary.labels)
        labels = tuple(p.label if width == 1 else f"{p.label}: {c}" for p in parts for c in summary.labels)

        def sums(view: View, summary=summary) -> np.ndarray:
            return np.stack([summary.sums(view, p.member(view)) for p in parts], axis=1)

        made = ctx.sums(sums)
        shape = made["held_out"].shape[1:]
        real = summary.each(made["train"].sum(0), made["held_out"].sum(0))
        own = np.array([[c == p.field.name for c in summary.labels] for p in parts])  # the same for all of a subgroup
        keep = ((smallest >= FEWEST)[:, None] & np.isfinite(real) & ~own).ravel()
        if not keep.any():
            found.append(not_computed(ctx, key, name, f"no subgroup has {FEWEST} patients on both real sides"))
            continue

        def curve(s: np.ndarray, shape=shape) -> np.ndarray:
            return s.reshape(*s.shape[:-1], *shape)

        def distance(a: np.ndarray, b: np.ndarray, summary=summary) -> np.ndarray:
            d = summary.each(a, b)
            return np.nan_to_num(d.reshape(*d.shape[:-2], -1), nan=1.0)  # nothing left of a column: all is lost

        flat = {k: s.reshape(len(s), -1) for k, s in made.items()}
        useless = 0.2 if summary.name in LAWS else None  # independent columns keep overall laws
        found += assess(
            ctx,
            Measure(key, name, labels, flat, curve, distance, keep, (0.05, 0.1), useless=useless),
        )
    return found


# -- models ------------------------------------------------------------------------------------------------------------


def odds_gap(p: np.ndarray, y: np.ndarray, part: np.ndarray, weight: np.ndarray, cut: float) -> np.ndarray:
    """Largest difference between parts in true or false positive rate, per weighting; NaN with fewer than two parts.

    Args:
        p, y: Predictions and truth.
        part: Number of each row's part; -1 for none.
        weight: draw x row.
        cut: A prediction above it is an event.
    """
    hit, rates = (p > cut).astype(float), []
    for truth in (1, 0):
        rate = []
        for k in range(part.max(initial=-1) + 1):
            of = (part == k) & (y == truth)
            if of.sum() >= FEWEST_OF_CLASS:
                rate.append(weight[:, of] @ hit[of] / np.maximum(weight[:, of].sum(1), 1e-12))
        if len(rate) > 1:
            rates.append(np.max(rate, axis=0) - np.min(rate, axis=0))
    return np.max(rates, axis=0) if rates else np.full(len(weight), np.nan)


def _classified(ctx: Context) -> list[tuple[Task, Fitted]]:
    fits = [(t, fitted(ctx, t)) for t in ctx.schema.tasks if t.kind in ("classification", "next_visit")]
    return [(t, f) for t, f in fits if isinstance(f, Fitted) and f.kind == "classification"]


def _odds(ctx: Context) -> list[Score]:
    fits, found = _classified(ctx), []
    if not fits:
        name = "equalised odds of models trained on synthetic patients"
        return [not_computed(ctx, "fairness.odds", name, "no classification task could be measured")]
    for task, fit in fits:
        for column in ctx.schema.subgroups:
            parts = parts_of(ctx, column)
            if parts:
                found.append(_odds_of(ctx, task, fit, column, parts))
    return found


def _odds_of(ctx: Context, task: Task, fit: Fitted, column: str, parts: list[Part]) -> Score:
    from scipy.stats import norm  # heavy

    key = f"fairness.odds_{slug(task.name)}_{slug(column)}"
    name = f"{task.name}: equalised-odds difference by {column} added by training on synthetic patients"
    held = fit.data["held_out"]
    part = np.full(len(held.y), -1)
    for k, p in enumerate(parts):
        part[p.member(ctx.views["held_out"])[held.patient]] = k
    gap = {}
    for k, p in fit.predicted[fit.family].items():
        gap[k] = odds_gap(p, held.y, part, fit.weight, float(np.quantile(p, 1 - held.y.mean())))
    if not np.isfinite(gap["train"]).all():
        return not_computed(ctx, key, name, f"fewer than two subgroups have {FEWEST_OF_CLASS} held-out rows of a class")
    more = gap["synthetic"] - gap["train"]
    refits = [gap[f"refit {i}"][0] for i in range(3)]
    noise = np.hypot(max(more[1:].std(), (gap["bootstrap"] - gap["train"])[1:].std()), np.std(refits, ddof=1) * 1.6)
    limit = max(0.1, float(norm.ppf(1 - ALPHA)) * float(noise))
    low, high = np.percentile(more[1:], [2.5, 97.5])
    value = float(more[0])
    measurable = value > limit or limit < 0.5
    return Score(
        name=name, group="fairness", key=key, value=value, interval=(float(low), float(high)), n=ctx.n, goal=Goal.LOW,
        limit=limit, floor=0.0, anchors={k: float((gap[k] - gap["train"])[0]) for k in ("bootstrap", "independent")},
        measurable=measurable, reason="" if measurable else not_measurable(ctx.n),
        details={"real": round(float(gap["train"][0]), 5), "synthetic": round(float(gap["synthetic"][0]), 5)},
    )  # fmt: skip


WITHIN = {
    "detection": "judges' AUC, greatest",
    "precision": "precision",
    "coverage": "coverage",
    "copies": "share copied",
}


def figures(ctx: Context) -> list[Figure]:
    """Tables of subgroups: how many and how near, and the tasks."""
    found: list[Score] = ctx.cache.get("fairness", [])
    if not found:
        return []
    by_key = {s.key: s for s in found}
    summaries = summaries_of(ctx)
    within = {k: w for k, w in WITHIN.items() if f"fairness.{k}" in by_key}
    views, rows, near = ctx.views, [], []
    for p in _parts(ctx):
        member = {k: p.member(v) for k, v in views.items()}
        n, made = int(member["held_out"].sum()), int(member["synthetic"].sum())
        row: list = [p.label, n, *(round(float(member[k].mean()), 4) for k in ("held_out", "synthetic"))]
        for s in summaries:
            a, b = (s.sums(views[k], member[k]).sum(0) for k in ("synthetic", "held_out"))
            row.append(round(float(s.distance(a, b)), 4) if min(n, made) >= FEWEST else None)
        rows.append(row)
        near.append([p.label, n, made, *(_of(by_key[f"fairness.{k}"], p.label) for k in within)])
    columns = ["subgroup", "held-out patients", "share, held-out", "share, synthetic"]
    content = {"columns": [*columns, *(f"{s.name} error" for s in summaries)], "rows": rows}
    note = "Errors against held-out patients of the same subgroup; 0 is best, empty where it has too few patients."
    drawn = [Figure("table", "Subgroups", content, note, "fairness")]
    if within:
        content = {"columns": ["subgroup", "held-out patients", "synthetic patients", *within.values()], "rows": near}
        note = "Within each subgroup: .5 is best for judges, 1 for precision and coverage, 0 for copies; empty: few."
        drawn.append(Figure("table", "Judges and neighbours by subgroup", content, note, "fairness"))
    tasks = []
    for task in ctx.schema.tasks:
        score = by_key.get(f"fairness.utility_{slug(task.name)}")
        for r in score.details.get("subgroups", []) if score else []:
            numbers = [r.get(k) for k in ("patients", "real", "synthetic", "value", "limit")]
            tasks.append([task.name, r["subgroup"], *(x if x is None else round(x, 3) for x in numbers), r["verdict"]])
    if tasks:
        columns = ["task", "subgroup", "held-out patients", "trained on real", "trained on synthetic", "lost", "limit"]
        note = "The metric on held-out patients of the subgroup, by what the model was trained on."
        content = {"columns": [*columns, "verdict"], "rows": tasks}
        drawn.append(Figure("table", "Usefulness by subgroup", content, note, "fairness"))
    return drawn


def _of(score: Score, label: str) -> float | None:
    """The value of a subgroup (the greatest, of several judges)."""
    rows = [r for r in score.details.get("subgroups", []) if r["subgroup"].split(" (")[0] == label]
    values = [r["value"] for r in rows if r.get("value") is not None]
    return round(max(values), 4) if values else None
