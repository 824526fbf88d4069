"""Kaplan-Meier distances against closed forms."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.metrics import kaplan_meier
from cohortloom.evaluation.survival import curves, integrated_difference, restricted_mean
from cohortloom.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "name": "trial",
        "tables": {
            "p": {
                "role": "static",
                "columns": {
                    "days": {"kind": "number"},
                    "died": {"kind": "flag"},
                    "arm": {"kind": "category", "levels": ["a", "b"]},
                },
            }
        },
        "survival": [{"time": "p.days", "event": "p.died", "strata": ["p.arm"]}],
    }
)


def trial(n, seed, rates=(1.0, 2.0)):
    g = np.random.default_rng(seed)
    arm = g.integers(0, 2, n)
    life, censored = g.exponential(1 / np.array(rates)[arm]), g.uniform(0, 2, n)
    frame = {
        "subject_id": np.arange(n),
        "days": np.round(np.minimum(life, censored), 3),
        "died": life < censored,
        "arm": np.array(["a", "b"])[arm],
    }
    return Cohort.build(SCHEMA, {"p": pl.DataFrame(frame)})


def test_distance_of_two_step_curves():
    # S_a = 1, 1/2, 1/2 and S_b = 1, 1, 1/2 falling at 1 and 2 of 4: they differ by 1/2 from 1 to 2, 1/8 of the horizon
    edges = np.array([1.0, 2, 4])
    assert integrated_difference(np.array([0.5, 0.5, 0.5]), np.array([1.0, 0.5, 0.5]), edges) == pytest.approx(1 / 8)
    assert restricted_mean(np.array([0.5, 0.5, 0.0]), edges) == pytest.approx((1 + 0.5 * 3) / 4)


def test_curve_from_counts_is_kaplan_meier():
    from cohortloom.evaluation.context import prepare
    from cohortloom.evaluation.survival import follows_of

    ctx = prepare(trial(60, 3), train=trial(60, 1), held_out=trial(60, 2))
    follow = follows_of(ctx)[0]
    view = ctx.views["held_out"]
    time, event = follow.pair(view)
    exact = kaplan_meier(time, event, follow.edges)
    assert curves(follow.counts(view).sum(0))[0] == pytest.approx(exact)


def test_person_time_and_events_give_the_hazard():
    # exponential lives: hazard 1 and 2
    from cohortloom.evaluation.context import prepare
    from cohortloom.evaluation.survival import follows_of

    ctx = prepare(trial(50, 3), train=trial(50, 1), held_out=trial(20000, 2))
    follow = follows_of(ctx)[0]
    c = follow.counts(ctx.views["held_out"]).sum(0)
    by_label = dict(zip([p for p, _ in follow.parts], c.sum(-1), strict=True))
    for label, hazard in (("p.arm = a", 1), ("p.arm = b", 2)):
        events, _, person_time = by_label[label]
        assert events / person_time == pytest.approx(hazard, rel=0.08)


def test_second_sample_passes_and_faults_fail():
    train, held_out = trial(1500, 1), trial(1500, 2)

    def report(cohort):
        return evaluate(cohort, train=train, held_out=held_out, only="survival", fast=True)

    good = report(trial(1500, 3))
    assert good.failed == ()
    assert good.score("survival.curve").passed is True
    assert report(trial(1500, 3, rates=(0.6, 1.2))).score("survival.curve").passed is False
    assert report(trial(1500, 3, rates=(0.6, 1.2))).score("survival.restricted_mean").passed is False
    assert report(trial(1500, 3, rates=(2.0, 1.0))).score("survival.hazard").passed is False  # arms swapped


def test_nobody_died():
    c = trial(50, 1)
    alive = Cohort.build(SCHEMA, {"p": c.tables["p"].with_columns(died=pl.lit(False))})
    score = evaluate(alive, train=alive, held_out=alive, only="survival", fast=True).scores[0]
    assert score.value is None
    assert "event" in score.reason
