"""Waveforms by subgroup: every waveform score again, on the records of one subgroup at a time.

What was made of the records (intervals, spectra, average beats) is kept; anchors, draws, judges and classifiers of
labels are those of the subgroup. The level of a test is shared by the subgroups; each score is the worst subgroup's.
"""

from __future__ import annotations

import polars as pl

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.parts import Part
from cohortloom.evaluation.signals import measures_of, prepared
from cohortloom.evaluation.signals_judge import series
from cohortloom.evaluation.signals_shape import filled, templates
from cohortloom.evaluation.signals_sides import Side, SignalContext, made_of
from cohortloom.evaluation.subgroups import FEWEST, worst
from cohortloom.evaluation.views import values
from cohortloom.report import Score

__all__ = ["waveforms"]


def waveforms(ctx: Context, parts: list[Part]) -> list[Score]:
    """Each waveform score of its worst subgroup."""
    return [
        s for signal in prepared(ctx).values() if isinstance(signal, SignalContext) for s in _of(ctx, signal, parts)
    ]


def _of(ctx: Context, signal: SignalContext, parts: list[Part]) -> list[Score]:
    cases, few = [], {}
    for part in parts:
        views = {k: _among(signal, side, part) for k, side in signal.views.items()}
        n = min(side.n for side in views.values())
        if n < FEWEST:
            few[part.label] = n
        else:
            cases.append((part, views))
    if not cases:
        return [worst(ctx, f"fairness.{signal.name}", f"{signal.name}: waveforms within subgroups", [], few)]
    table: dict[str, list[tuple[str, Score]]] = {}
    for part, views in cases:
        rng = signal.rng.child("subgroups", part.label)
        one = made_of(signal.name, signal.spec, views, rng, fast=ctx.fast, alpha=signal.alpha / len(cases))
        for s in measures_of(one, lambda words, part=part: ctx.tell(f"{words} of {part.label}")):
            what = s.details.get("worst")
            table.setdefault(s.key, []).append((f"{part.label}: {what}" if what else part.label, s))
    found = []
    for key, mine in table.items():
        name = f"{mine[0][1].name.split(', worst')[0]} within subgroups"
        found.append(worst(ctx, f"fairness.{key.split('.', 1)[1].replace('.', '_')}", name, mine, few))
    return found


def _among(signal: SignalContext, side: Side, part: Part) -> Side:
    """The records of a subgroup's patients."""
    filled(side), templates(side), series(signal, side)  # made once, for all subgroups
    frame = side.cohort.tables[part.field.table].unique("subject_id", keep="first")
    of = pl.DataFrame({"subject_id": side.subjects}).join(frame, on="subject_id", how="left", maintain_order="left")
    return side.among(values(of, part.field, side.cohort.schema.clock) == part.level)
