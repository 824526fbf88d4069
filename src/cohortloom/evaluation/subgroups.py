"""Judges, models and neighbours by subgroup, from what was measured for everybody: nothing is fitted again.

    detection   AUC of each judge among the synthetic and held-out patients of one subgroup, from the scores that the
                judge gave them by cross-validation. A fault of one patient in ten moves the whole AUC by a tenth only
    utility     metric lost by training on synthetic patients, on held-out rows of one subgroup
    realism     precision, recall, ..., near copies among the patients of one subgroup (`realism.py`)
    copies      share of a subgroup's patients that are whole training patients

Each score is the worst subgroup's, its name told; all subgroups stand in the details. The level of a test is shared by
the subgroups (and judges) it is taken for. A subgroup with too few patients, or where a useless cohort would pass too,
is "not measurable with n patients".

The noise of refits on other training patients is known from three refits only. In a subgroup it is taken to be at least
the part of the noise of testing that it is over all subgroups and tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.copies import patient_prints
from cohortloom.evaluation.detection import JUDGES, Opinion, asked, verdict_of
from cohortloom.evaluation.intervals import ALPHA, not_computed, not_measurable
from cohortloom.evaluation.parts import Part
from cohortloom.evaluation.realism import compared
from cohortloom.evaluation.space import points
from cohortloom.evaluation.tasks import slug
from cohortloom.evaluation.utility import BLANK, METRIC, REFITS, TOLERANCE, Fitted, fitted
from cohortloom.report import Goal, Score

__all__ = ["copies", "detection", "realism", "subgroup_marks", "utility", "worst"]

FEWEST = 15
FEWEST_POINTS = 20
FEWEST_OF_CLASS = 8
FEWEST_ROWS = 30
MOST_POINTS = 400


def worst(ctx: Context, key: str, name: str, found: Sequence[tuple[str, Score]], few: dict[str, int]) -> Score:
    """The worst subgroup's score: a failed one before one that passed, before one without a verdict.

    Args:
        found: Subgroup (and judge) in words, its score.
        few: Patients of the subgroups that have too few.
    """
    table: list[dict] = [{"subgroup": label, "verdict": not_measurable(n)} for label, n in few.items()]
    if not found:
        most = max(few.values(), default=0)
        return replace(
            not_computed(ctx, key, name, f"{not_measurable(most)} in the largest subgroup"),
            details={"subgroups": table},
        )

    def rank(item: tuple[str, Score]) -> tuple[bool, bool, float]:
        s = item[1]
        over = (s.value or 0) - (s.limit or 0)
        return s.passed is False, s.passed is not None, -over if s.goal is Goal.HIGH else over

    order = sorted(found, key=rank, reverse=True)
    rows = [
        {
            "subgroup": label, "value": _plain(s.value), "limit": _plain(s.limit), "floor": _plain(s.floor),
            "independent": _plain(s.anchors.get("independent")), "patients": s.n,
            **s.details.get("shown", {}), "verdict": {None: s.reason, True: "passes", False: "fails"}[s.passed],
        }
        for label, s in order
    ]  # fmt: skip
    label, s = order[0]
    return replace(
        s,
        key=key,
        group="fairness",
        name=f"{name}, worst: {label}",
        details={"worst": label, "subgroups": rows + table},
    )


def _plain(x: float | None) -> float | None:
    return None if x is None else round(float(x), 5)


# -- judges ------------------------------------------------------------------------------------------------------------


def detection(ctx: Context, parts: list[Part]) -> list[Score]:
    """The judge and the subgroup with the greatest AUC beyond its limit."""
    key, name = "fairness.detection", "judges within subgroups, AUC"
    heard = {k: h for k, h in asked(ctx).items() if not isinstance(h, str)}
    if not heard:
        return [not_computed(ctx, key, name, "no judge was asked: see the detection scores")]
    cases, few = [], {}
    for part in parts:
        for judge, opinions in heard.items():
            inside = {k: _within(ctx, part, k, o) for k, o in opinions.items()}
            fewest = min(min(inside[k].sizes) for k in ("synthetic", "train", "independent"))
            if not min(inside["bootstrap"].sizes):
                del inside["bootstrap"]
            words = f"{part.label} ({JUDGES[judge].split(',')[0]})"
            if fewest < FEWEST:
                few[words] = fewest
            else:
                cases.append((words, inside))
    made = [(words, verdict_of(ctx, key, name, o, alpha=ALPHA / len(cases))) for words, o in cases]
    return [worst(ctx, key, name, made, few)]


def _within(ctx: Context, part: Part, name: str, o: Opinion) -> Opinion:
    """The opinion on the patients of a subgroup."""
    mine, held = (part.member(ctx.views[k]) for k in ("train" if name == "bootstrap" else name, "held_out"))
    keep = np.empty(len(o.label), dtype=bool)
    for label, member in ((1, mine), (0, held)):
        rows = o.label == label
        keep[rows] = member[o.patient[rows]]
    return Opinion(o.score[keep], o.label[keep], o.patient[keep])


# -- models ------------------------------------------------------------------------------------------------------------


def subgroup_marks(fit: Fitted, of: np.ndarray) -> dict[str, np.ndarray] | int:
    """Metric per draw on some held-out rows, by what the model was trained on; their patients if they are too few."""
    held = fit.data["held_out"]
    y, patients = held.y[of], len(np.unique(held.patient[of]))
    if fit.kind == "regression":
        if len(y) < FEWEST_ROWS or patients < FEWEST_POINTS or np.ptp(y) == 0:
            return patients
    elif min(len(np.unique(held.patient[of & (held.event == c)])) for c in (0, 1)) < FEWEST_OF_CLASS:
        return patients
    return {k: fit.metric(p[of], y, fit.weight[:, of]) for k, p in fit.predicted[fit.family].items()}


def utility(ctx: Context, parts: list[Part]) -> list[Score]:
    """One score per task: the subgroup that loses most by training on synthetic patients."""
    fits = [(t, f) for t in ctx.schema.tasks if isinstance(f := fitted(ctx, t), Fitted)]
    cases, few = [], {}
    for task, fit in fits:
        for part in parts:
            held = fit.data["held_out"]
            marks = subgroup_marks(fit, part.member(ctx.views["held_out"])[held.patient])
            if isinstance(marks, int):
                few.setdefault(task.name, {})[part.label] = marks
            else:
                cases.append((task, fit, part, marks))
    # refits move a metric by so many standard deviations of testing
    noise = [(_refits(marks), _tests(marks)) for *_, marks in cases]
    ratio = float(np.sqrt(np.mean([(a / b) ** 2 for a, b in noise if b > 0]))) if any(b > 0 for _, b in noise) else 0.0
    found = []
    for task, fit in fits:
        key = f"fairness.utility_{slug(task.name)}"
        name = f"{task.name}: {METRIC[fit.kind]} lost within subgroups by training on synthetic patients"
        mine = [(p.label, _lost(ctx, fit, p, m, ratio, ALPHA / len(parts))) for t, _, p, m in cases if t is task]
        found.append(worst(ctx, key, name, mine, few.get(task.name, {})))
    return found


def _refits(marks: dict[str, np.ndarray]) -> float:
    return float(np.std([marks[f"refit {i}"][0] for i in range(REFITS)], ddof=1) * np.sqrt(2) / 0.886)  # c4(3)


def _tests(marks: dict[str, np.ndarray]) -> float:
    return float(max((marks["train"] - marks[k])[1:].std() for k in ("synthetic", "bootstrap")))


def _lost(ctx: Context, fit: Fitted, part: Part, marks: dict[str, np.ndarray], ratio: float, alpha: float) -> Score:
    from scipy.stats import norm  # heavy

    gap = {k: marks["train"] - marks[k] for k in ("synthetic", "bootstrap", "independent")}
    test = _tests(marks)
    noise = float(np.hypot(test, max(_refits(marks), ratio * test)))
    limit = max(TOLERANCE, float(norm.ppf(1 - alpha)) * noise)
    value, able = float(gap["synthetic"][0]), float(marks["train"][0]) - BLANK[fit.kind]
    low, high = np.percentile(gap["synthetic"][1:], [2.5, 97.5])
    of = part.member(ctx.views["held_out"])[fit.data["held_out"].patient]
    n = len(np.unique(fit.data["held_out"].patient[of]))
    measurable = value > limit or able > limit
    return Score(
        name="", group="fairness", key="fairness.", value=value, interval=(float(low), float(high)), n=n,
        goal=Goal.LOW, limit=limit, floor=0.0, anchors={k: float(gap[k][0]) for k in ("bootstrap", "independent")},
        measurable=measurable, reason="" if measurable else not_measurable(n),
        details={"shown": {k: _plain(marks[t][0]) for k, t in (("real", "train"), ("synthetic", "synthetic"))}},
    )  # fmt: skip


# -- neighbours --------------------------------------------------------------------------------------------------------


def realism(ctx: Context, parts: list[Part]) -> list[Score]:
    """Scores of realism and variability, each of its worst subgroup."""
    space = points(ctx)
    key, name = "fairness.precision", "precision within subgroups"
    if space is None:
        return [not_computed(ctx, key, name, "real patients do not differ in anything recorded")]
    cases, few = [], {}
    for part in parts:
        some = {k: v[part.member(ctx.views[k])] for k, v in space.items()}
        n = min(MOST_POINTS // (2 if ctx.fast else 1), *(len(v) for v in some.values()))
        if n < FEWEST_POINTS:
            few[part.label] = n
        else:
            cases.append((part, {k: v[:n] for k, v in some.items()}))
    if not cases:
        return [worst(ctx, key, name, [], few)]
    table: dict[str, list[tuple[str, Score]]] = {}
    for part, some in cases:
        draw = ctx.rng.child("subgroups", part.label).numpy
        for s in compared(ctx, some, draw, ALPHA / len(cases)):
            table.setdefault(s.key.split(".")[1], []).append((part.label, s))
    return [
        worst(ctx, f"fairness.{k}", f"{mine[0][1].name.split(':')[0]} within subgroups", mine, few)
        for k, mine in table.items()
    ]


def copies(ctx: Context, parts: list[Part]) -> list[Score]:
    """Whole patients copied from training data, in the subgroup with most of them."""
    from scipy.stats import beta, binom  # heavy

    key, name = "fairness.copies", "whole patients copied from training data within subgroups"
    prints = {k: patient_prints(v) for k, v in ctx.views.items()}
    among = prints["train"][0]
    telling = {k: rows >= 2 for k, (_, rows) in prints.items()}
    hit = {k: np.isin(p, among) for k, (p, _) in prints.items()}
    real = hit["held_out"][telling["held_out"]]
    if not len(real):
        return [not_computed(ctx, key, name, "no patient has two rows")]
    chance = float(beta.ppf(0.99, real.sum() + 1, max(len(real) - real.sum(), 1e-9))) if real.any() else 0.0
    found, few = [], {}
    for part in parts:
        mine = {k: part.member(ctx.views[k]) & telling[k] for k in hit}
        n = int(mine["synthetic"].sum())
        if n < FEWEST:
            few[part.label] = n
            continue
        hits = int(hit["synthetic"][mine["synthetic"]].sum())
        most = float(binom.ppf(1 - ALPHA / len(parts), n, chance)) if chance else 0.0
        limit = max(1.0, most) / n
        low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
        high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
        floor = float(hit["held_out"][mine["held_out"]].mean()) if mine["held_out"].any() else None
        useless = float(hit["independent"][mine["independent"]].mean()) if mine["independent"].any() else None
        measurable = hits / n > limit or limit < 0.9
        found.append((part.label, Score(
            name="", group="fairness", key=key, value=hits / n, interval=(low, high), n=n, goal=Goal.LOW, limit=limit,
            floor=floor, anchors={"bootstrap": 1.0, "independent": useless}, measurable=measurable,
            reason="" if measurable else not_measurable(n),
        )))  # fmt: skip
    return [worst(ctx, key, name, found, few)]
