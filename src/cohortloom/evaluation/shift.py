"""Shift: how scores change when the held-out patients come from another site or period.

For each level L of the site column, held-out patients of L are compared with patients of all *other* sites:

    real        d(training patients outside L, held-out patients of L)
    synthetic   d(synthetic patients outside L, held-out patients of L)
    excess      synthetic - real

d is one of the summaries of `parts.py`. Real patients of another site differ too; what is asked is whether synthetic
ones are worse. The largest excess over sites is reported.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import ALPHA, not_computed, not_measurable
from cohortloom.evaluation.parts import Part, Summary, parts_of, summaries_of
from cohortloom.report import Figure, Goal, Score

__all__ = ["figures", "scores"]

FEWEST = 20
TOLERANCE = 0.05
MOST_SITES = 12


def scores(ctx: Context) -> list[Score]:
    """Largest excess over sites, one score per summary."""
    key, name = "shift.marginal", "error against another site, more than that of real patients"
    if not ctx.site:
        return [not_computed(ctx, key, name, "the schema declares no site column (shift= names one)")]
    sites = _sites(ctx)
    if not sites:
        why = f"no level of {ctx.site} has {FEWEST} held-out patients and {FEWEST} training patients elsewhere"
        return [not_computed(ctx, key, name, why)]
    return [_excess(ctx, s, sites) for s in summaries_of(ctx)]


def _sites(ctx: Context) -> list[Part]:
    found = []
    for p in parts_of(ctx, ctx.site or ""):
        inside = p.member(ctx.views["held_out"]).sum()
        outside = (~p.member(ctx.views["train"])).sum()
        if min(inside, outside) >= FEWEST:
            found.append(p)
    return sorted(found, key=lambda p: -int(p.member(ctx.views["held_out"]).sum()))[:MOST_SITES]


def _excess(ctx: Context, summary: Summary, sites: list[Part]) -> Score:
    from scipy.stats import norm  # heavy

    draws = ctx.draws
    copies = {"train": ctx.rng.child("shift").numpy}
    groups = ctx.views["train"].n_groups
    train_draws = copies["train"].multinomial(groups, np.full(groups, 1 / groups), len(draws.synthetic)).astype(float)
    rows = []
    for p in sites:
        out = {k: summary.sums(v, ~p.member(v)) for k, v in ctx.views.items()}
        held = summary.sums(ctx.views["held_out"], p.member(ctx.views["held_out"]))
        whole = held.sum(0)
        real = float(summary.distance(out["train"].sum(0), whole))
        made = {k: float(summary.distance(out[k].sum(0), whole)) for k in ("synthetic", "independent")}
        made["bootstrap"] = float(summary.distance((draws.copies @ out["train"])[0], whole))
        again = draws.held_out @ held
        made_draws = summary.distance(draws.synthetic @ out["synthetic"], again)
        real_draws = summary.distance(train_draws @ out["train"], again)
        spread = made_draws - real_draws
        null = real_draws - summary.distance(train_draws[::-1] @ out["train"], again)
        rows.append((p, real, made, spread - spread.mean(), max(spread.std(), null.std())))
    excess = np.array([m["synthetic"] - r for _, r, m, _, _ in rows])
    limits = np.maximum(TOLERANCE, float(norm.ppf(1 - ALPHA / len(rows))) * np.array([r[4] for r in rows]))
    w = int(np.argmax(excess - limits))
    p, real, made, spread, _ = rows[w]
    value, limit = float(excess[w]), float(limits[w])
    low, high = value + np.percentile(spread, [2.5, 97.5])
    useless = made["independent"] - real
    measurable = value > limit or bool((np.array([m["independent"] - r for _, r, m, _, _ in rows]) > limits).any())
    table = [
        {
            "site": q.label,
            "real": round(r, 5),
            "synthetic": round(m["synthetic"], 5),
            "limit of excess": round(float(x), 5),
        }
        for (q, r, m, _, _), x in zip(rows, limits, strict=True)
    ]
    return Score(
        name=f"{summary.name} error against another site, more than that of real patients, worst: {p.label}",
        group="shift", key=f"shift.{summary.name}", value=value, interval=(float(low), float(high)), n=ctx.n,
        goal=Goal.LOW, limit=limit, floor=0.0,
        anchors={"bootstrap": made["bootstrap"] - real, "independent": useless}, measurable=measurable,
        reason="" if measurable else not_measurable(ctx.n), details={"sites": table},
    )  # fmt: skip


def figures(ctx: Context) -> list[Figure]:
    """Errors against each site."""
    sites = _sites(ctx) if ctx.site else []
    panels = []
    for summary in summaries_of(ctx) if sites else []:
        series = {"real train": [], "synthetic": []}
        for p in sites:
            whole = summary.sums(ctx.views["held_out"], p.member(ctx.views["held_out"])).sum(0)
            for label, k in (("real train", "train"), ("synthetic", "synthetic")):
                view = ctx.views[k]
                d = summary.distance(summary.sums(view, ~p.member(view)).sum(0), whole)
                series[label].append(round(float(d), 5))
        panels.append(
            {
                "title": summary.name,
                "labels": [p.field.levels[p.level] for p in sites],
                "series": [{"name": k, "values": v} for k, v in series.items()],
            }
        )
    if not panels:
        return []
    note = "Patients of all other sites against held-out patients of the named one."
    return [Figure("bars", "Another site", {"y_label": "error", "panels": panels}, note, "shift")]
