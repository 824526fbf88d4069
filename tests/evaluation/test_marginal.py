"""Marginal distances, missing runs, codes, and limits against closed forms."""

import numpy as np
import polars as pl
import pytest
from clinic import SCHEMA

from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.codes import unexplained
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.detection import auc, auc_interval
from cohortloom.evaluation.intervals import centred_interval, upper_quantile
from cohortloom.evaluation.missingness import run_lengths


def statics(age, sex="F"):
    n = len(age)
    ages = pl.Series(np.asarray(age, dtype=float)).fill_nan(None)
    frame = {"subject_id": np.arange(n), "sex": [sex] * n, "age": ages, "diabetes": [True] * n, "site": ["a"] * n}
    return Cohort.build(SCHEMA, {"patients": pl.DataFrame(frame)})


def component(report_score, name):
    return next(c for c in report_score.details["components"] if c["of"] == name)


def test_ks_distance_of_two_uniforms():
    # F(x) = x on [0, 1], G(x) = x / 2 on [0, 2]: they differ most at x = 1, by 1/2
    one, two = np.linspace(0, 1, 2000), np.linspace(0, 2, 2000)
    report = evaluate(statics(two), train=statics(one), held_out=statics(one), only="marginal", fast=True)
    age = component(report.score("marginal.values"), "patients.age")
    assert age["value"] == pytest.approx(0.5, abs=0.02)  # 64 cut points
    assert age["floor"] == pytest.approx(0, abs=0.002)


def test_total_variation_of_a_lost_level_is_its_share():
    age = np.linspace(50, 80, 400)
    real = statics(age)
    mixed = real.tables["patients"].with_columns(
        sex=pl.when(pl.int_range(400) % 4 == 0).then(pl.lit("M")).otherwise("sex")
    )
    real = Cohort.build(SCHEMA, {"patients": mixed})
    report = evaluate(statics(age), train=real, held_out=real, only="marginal", fast=True)
    assert component(report.score("marginal.values"), "patients.sex")["value"] == pytest.approx(0.25)


def test_a_column_that_is_all_missing_in_the_synthetic_cohort_is_as_far_as_can_be():
    age = np.linspace(50, 80, 400)
    report = evaluate(
        statics(np.full(400, np.nan)), train=statics(age), held_out=statics(age), only="marginal", fast=True
    )
    assert component(report.score("marginal.values"), "patients.age")["value"] == 1


def test_run_lengths_by_hand():
    patient = np.array([0, 0, 0, 0, 1, 1])
    mark = np.array([1, 1, 0, 1, 1, 1], dtype=bool)
    who, length = run_lengths(patient, mark)
    assert (who.tolist(), length.tolist()) == ([0, 0, 1], [2, 1, 2])


def test_unexplained_share_is_one_minus_r2():
    real = np.array([0.1, 0.2, 0.3])
    assert unexplained(real, real) == 0
    assert unexplained(real, np.full(3, 0.2)) == pytest.approx(1)
    assert unexplained(real, real + [0.01, 0, 0]) == pytest.approx(0.0001 / 0.02)


def test_auc_equals_the_share_of_pairs():
    score, label = np.array([0.1, 0.4, 0.4, 0.8, 0.2]), np.array([0, 0, 1, 1, 1])
    pairs = [(s > t) + 0.5 * (s == t) for s in score[label == 1] for t in score[label == 0]]
    assert auc(score, label) == pytest.approx(np.mean(pairs))


def test_auc_standard_error_matches_repeated_samples():
    draw = np.random.default_rng(0)
    areas, errors = [], []
    for _ in range(300):
        score = np.concatenate([draw.normal(0.7, 1, 80), draw.normal(0, 1, 60)])
        label = np.repeat([1, 0], [80, 60])
        areas.append(auc(score, label))
        errors.append(auc_interval(score, label)[0])
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.12)


def test_quantiles_of_known_laws():
    draw = np.random.default_rng(1)
    # of the gamma law by its definition: chi2(8) / 4, skewness 1
    assert upper_quantile(draw.gamma(4, 0.5, 200_000), 0.999) == pytest.approx(6.53, rel=0.03)
    # of a normal law on the safe side: skewness is taken to be .6
    assert upper_quantile(draw.normal(size=200_000), 0.999) == pytest.approx(3.96, rel=0.02)
    assert upper_quantile(np.full(20, 0.3), 0.999) == pytest.approx(0.3)


def test_interval_holds_its_value():
    low, high = centred_interval(0.1, 0.2 + 0.01 * np.random.default_rng(0).normal(size=1000))
    assert low < 0.1 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.01, rel=0.1)


def test_an_interval_holds_its_value_where_hardly_a_draw_differs():
    low, high = centred_interval(0.0, np.where(np.arange(1000) < 5, 1.0, 0.0))
    assert low == high == 0.0


def test_dealing_keeps_sizes(samples):
    train, held_out, good = samples
    ctx = prepare(good.select(good.subjects.head(400)), train=train, held_out=held_out, fast=True)
    d = ctx.draws
    assert set(np.unique(d.dealt)) == {0, 1}
    assert d.dealt.shape[1] == ctx.views["synthetic"].n_groups + ctx.views["held_out"].n_groups
    assert (d.dealt.sum(1) == ctx.views["synthetic"].n_groups).all()
    assert (d.synthetic.sum(1) == ctx.views["synthetic"].n_groups).all()


def test_one_patient_unlike_all_others_does_not_fail_a_cohort(samples):
    # a patient with 400 rows rules every column over time; a second real sample may hold one
    train, held_out, good = samples
    few = {k: c.select(c.subjects.head(200)) for k, c in (("train", train), ("held_out", held_out), ("good", good))}
    frame = few["good"].tables["visits"]
    who = frame["subject_id"][0]
    mine = frame.filter(pl.col("subject_id") == who)
    many = pl.concat([mine] * (400 // mine.height))
    many = many.with_columns(
        visit_id=pl.int_range(pl.len()) + 10**6, time=pl.col("time").min() + pl.duration(days=pl.int_range(pl.len()))
    )
    heavy = Cohort.build(good.schema, {**few["good"].tables, "visits": pl.concat([frame, many.select(frame.columns)])})
    report = evaluate(heavy, train=few["train"], held_out=few["held_out"], only=["marginal", "missingness"], fast=True)
    assert [s.key for s in report.failed if s.key.endswith("_worst")] == []
