"""Scarcity: which of the scores could have told a good cohort from a useless one at this number of patients?

A score can tell if its limit lies between the floor (real patients) and the independent anchor (columns drawn apart):
real patients pass and useless ones fail. Where the anchor passes too, the score is silent, whatever it says. Noise of a
score shrinks with 1 / sqrt(n), so the limit would lie at the anchor with about

    n * ((limit - floor) / (anchor - floor))^2   patients
"""

from __future__ import annotations

from collections.abc import Sequence

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import not_computed
from cohortloom.report import Figure, Goal, Score

__all__ = ["figures", "needed", "scores"]


def scores(ctx: Context, found: Sequence[Score]) -> list[Score]:
    """Share of the scores that could tell."""
    key, name = "scarcity.telling", f"scores that can tell a good cohort from a useless one with {ctx.n:,} patients"
    judged = [s for s in found if s.value is not None and s.limit is not None]
    if not judged:
        return [not_computed(ctx, key, name, "no other score with a limit was measured")]
    groups = {}
    for s in judged:
        tells, of = groups.get(s.group, (0, 0))
        groups[s.group] = (tells + int(bool(s.measurable)), of + 1)
    table = [{"group": g, "tell": a, "of": b} for g, (a, b) in groups.items()]
    share = sum(bool(s.measurable) for s in judged) / len(judged)
    return [
        Score(name=name, group="scarcity", key=key, value=share, n=ctx.n, goal=Goal.HIGH, details={"groups": table})
    ]


def needed(score: Score) -> int | None:
    """Patients with which the score could tell, roughly; None if no number would do, or anchors are missing."""
    useless = score.anchors.get("independent")
    if useless is None or score.floor is None or score.limit is None or useless == score.floor:
        return None
    ratio = (score.limit - score.floor) / (useless - score.floor)
    return round(score.n * ratio**2) if 0 < ratio < 30 else None


def figures(ctx: Context, found: Sequence[Score]) -> list[Figure]:
    """A table of the scores that are silent."""
    silent = [s for s in found if s.value is not None and s.limit is not None and not s.measurable]
    if not silent:
        return []
    rows = []
    for s in silent:
        numbers = [s.floor, s.anchors.get("independent"), s.limit]
        rows.append([s.name, s.group, *(None if x is None else round(float(x), 4) for x in numbers), needed(s)])
    columns = ["score", "group", "real patients", "independent", "limit", "patients needed, roughly"]
    note = (
        "Real and useless patients both lie within the limit; a value here is no good news. Empty: no number is known."
    )
    return [Figure("table", "What this many patients can't tell", {"columns": columns, "rows": rows}, note, "scarcity")]
