"""Faults of one subgroup only: the scores of everybody pass, those of the subgroup fail and name it."""

import numpy as np
import polars as pl
import pytest
from ward import changed, ward

from cohortloom.cohort import Cohort
from cohortloom.cohort.resample import bootstrap
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.detection import asked, auc
from cohortloom.evaluation.fairness import _parts
from cohortloom.evaluation.subgroups import _within, subgroup_marks, worst
from cohortloom.evaluation.utility import fitted
from cohortloom.report import Goal, Score
from cohortloom.rng import Rng

VALUES = ["creatinine", "weight", "pressure", "state", "edema"]
FAULTS = {}


@pytest.fixture(scope="module")
def wards():
    return ward(900, 1), ward(900, 2), ward(900, 3)


def fault(key, name, overall):
    """Register a fault: the subgroup's score that must fail, the subgroup it must name, the scores of everybody that
    must pass (a group, or one score)."""

    def register(make):
        FAULTS[make.__name__] = (make, key, name, overall)
        return make

    return register


def declaring(cohort, overall):
    """The cohort, declaring the one task in question or none, as models take time."""
    tasks = tuple(t for t in cohort.schema.tasks if overall == f"utility.{t.name}")
    schema = cohort.schema.model_copy(update={"tasks": tasks})
    return Cohort.build(schema, dict(cohort.tables))


def only(cohort, column, level):
    """Rows of the patients of one subgroup."""
    who = cohort.tables["patients"].filter(pl.col(column) == level)["subject_id"]
    return pl.col("subject_id").is_in(who.implode())


def visits(cohort, here, **values):
    exprs = [pl.when(here).then(x).otherwise(pl.col(name)).alias(name) for name, x in values.items()]
    return changed(cohort, visits=cohort.tables["visits"].with_columns(exprs))


@fault("fairness.temporal_worst", "site = c", "temporal.")
def visits_of_one_site_shuffled(cohort, draw):
    u = pl.Series("_u", draw.random(cohort.tables["visits"].height))
    put = changed(cohort, visits=cohort.tables["visits"])
    frame = put.tables["visits"].with_columns(u)
    here = only(cohort, "site", "c")
    mixed = [
        pl.when(here).then(pl.col(x).sort_by("_u").over("subject_id")).otherwise(pl.col(x)).alias(x) for x in VALUES
    ]
    return changed(cohort, visits=frame.with_columns(mixed).drop("_u"))


@fault("fairness.missingness_worst", "site = rare", "missingness.")
def a_rare_sites_weights_lost(cohort, draw):
    gone = pl.Series(draw.random(cohort.tables["visits"].height) < 0.35)
    return visits(cohort, only(cohort, "site", "rare") & gone, weight=pl.lit(None, dtype=pl.Float64))


@fault("fairness.marginal_worst", "site = rare", "marginal.")
def a_rare_site_weighs_in_pounds(cohort, draw):
    return visits(cohort, only(cohort, "site", "rare"), weight=pl.col("weight") * 1.35)


@fault("fairness.codes_worst", "site = rare", "codes.")
def a_rare_site_without_diuretics(cohort, draw):
    gone = only(cohort, "site", "rare") & (pl.col("code") == "diuretic")
    return changed(cohort, events=cohort.tables["events"].filter(~gone))


@fault("fairness.calendar_worst", "site = rare", "marginal.")
def a_rare_site_open_on_mondays(cohort, draw):
    monday = pl.col("time").dt.truncate("1w") + (pl.col("time") - pl.col("time").dt.truncate("1d"))
    return visits(cohort, only(cohort, "site", "rare"), time=monday)


@fault("fairness.association_worst", "site = c", "association.")
def healthy_where_ill_at_one_site(cohort, draw):
    x = pl.col("pressure")
    return visits(cohort, only(cohort, "site", "c"), pressure=2 * x.median() - x)


@fault("fairness.detection", "site = rare", "detection.")
def weights_of_a_rare_site_rounded(cohort, draw):
    return visits(cohort, only(cohort, "site", "rare"), weight=(pl.col("weight") / 5).round() * 5)


@fault("fairness.utility_diabetes", "site = c", "utility.diabetes")
def diabetes_more_often_wrong_than_right_at_one_site(cohort, draw):
    there = (pl.col("site") == "c") & pl.Series(draw.random(cohort.n_subjects) < 0.65)
    patients = cohort.tables["patients"].with_columns(diabetes=pl.col("diabetes") ^ there)
    return changed(cohort, patients=patients)


@fault("fairness.survival_hazard_worst", "site = c", "survival.")
def short_lives_at_one_site(cohort, draw):
    days = pl.when(pl.col("site") == "c").then((pl.col("days") * 0.35).ceil()).otherwise(pl.col("days"))
    return changed(cohort, patients=cohort.tables["patients"].with_columns(days=days))


@fault("fairness.recall", "site = rare", "realism.")
def three_patients_over_and_over_at_a_rare_site(cohort, draw):
    people = cohort.tables["patients"].filter(pl.col("site") == "rare")["subject_id"]
    return _joined(
        cohort.select(_others(cohort, people)), bootstrap(cohort.select(people.head(3)), people.len(), Rng(1))
    )


@fault("fairness.copies", "site = rare", "detection.")
def copies_at_a_rare_site(cohort, draw, train):
    people = cohort.tables["patients"].filter(pl.col("site") == "rare")["subject_id"]
    theirs = train.tables["patients"].filter(pl.col("site") == "rare")["subject_id"]
    copied = bootstrap(train.select(theirs), people.len(), Rng(1))
    return _joined(cohort.select(_others(cohort, people)), copied)


def _others(cohort, people):
    return cohort.subjects.filter(~cohort.subjects.is_in(people.implode()))


def _joined(one, two):
    """Patients of both, those of the second under new numbers."""
    shift = 10**6
    tables = {}
    for name, frame in one.tables.items():
        more = two.tables[name]
        keys = [k for k in ("subject_id", "visit_id") if k in frame.columns]
        more = more.with_columns((pl.col(k).cast(pl.Int64) + shift).cast(frame[k].dtype) for k in keys)
        tables[name] = pl.concat([frame, more.select(frame.columns)])
    return Cohort.build(one.schema, tables)


FAST = ("visits_of_one_site_shuffled",)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in FAULTS])
def test_a_fault_of_one_subgroup_is_seen_and_named(name, wards):
    make, key, named, overall = FAULTS[name]
    train, held_out, good = (declaring(w, overall) for w in wards)
    more = {"train": train} if name.startswith("copies") else {}
    spoiled = make(good, np.random.default_rng(0), **more)
    groups = [overall.split(".")[0], "fairness"]
    report = evaluate(spoiled, train=train, held_out=held_out, only=groups, fast=True)
    score = report.score(key)
    assert score.passed is False, f"{score.value:.3f} lies within {score.limit:.3f}"
    assert named in score.name
    assert [s.key for s in report.failed if s.key == overall or s.key.startswith(f"{overall.rstrip('.')}.")] == []
    assert any(named in line for line in report.verdict)


def test_a_lost_group_is_said_even_where_it_is_too_small_to_judge(wards):
    train, held_out, good = (w.select(w.subjects.head(70)) for w in wards)
    assert 0 < (train.tables["patients"]["site"] == "rare").sum() < 10
    lost = changed(good, patients=good.tables["patients"].with_columns(pl.col("site").replace({"rare": "a"})))
    report = evaluate(lost, train=train, held_out=held_out, only=["fairness"], fast=True)
    assert any("no synthetic patient belongs to patients.site = rare" in line for line in report.verdict)
    assert any("patients.site = rare" in line for line in report.not_tested)
    rows = report.score("fairness.precision").details["subgroups"]
    assert any(r["subgroup"] == "patients.site = rare" and "not measurable with" in r["verdict"] for r in rows)


def test_judges_scores_within_a_subgroup_are_theirs(wards):
    ctx = prepare(wards[2], train=wards[0], held_out=wards[1], fast=True)
    part = next(p for p in _parts(ctx) if p.label == "patients.site = c")
    whole = asked(ctx)["detection.patients"]["synthetic"]
    some = _within(ctx, part, "synthetic", whole)
    # by hand: the site of each patient, looked up by id
    site = [dict(w.tables["patients"].select("subject_id", "site").iter_rows()) for w in (wards[1], wards[2])]
    subjects = [ctx.views[k].subjects.to_list() for k in ("held_out", "synthetic")]
    of = [site[label][subjects[label][p]] == "c" for label, p in zip(whole.label, whole.patient, strict=True)]
    assert some.label.tolist() == whole.label[of].tolist()
    assert some.auc == auc(whole.score[of], whole.label[of])


def test_subgroup_metric_is_that_of_its_rows(wards):
    ctx = prepare(wards[2], train=wards[0], held_out=wards[1], fast=True)
    fit = fitted(ctx, ctx.schema.tasks[0])
    held = fit.data["held_out"]
    of = next(p for p in _parts(ctx) if p.label == "patients.sex = F").member(ctx.views["held_out"])[held.patient]
    marks = subgroup_marks(fit, of)
    assert marks["train"][0] == pytest.approx(auc(fit.predicted[fit.family]["train"][of], held.y[of].astype(int)))
    assert subgroup_marks(fit, np.cumsum(of) <= 3) == len(np.unique(held.patient[np.cumsum(of) <= 3]))


def test_worst_prefers_a_failure_to_a_narrow_pass_and_names_who_has_too_few(wards):
    ctx = prepare(wards[2], train=wards[0], held_out=wards[1], fast=True)

    def score(value, limit, *, measurable=True):
        return Score("x", "g", value, goal=Goal.HIGH, limit=limit, measurable=measurable, n=50)

    found = [("a", score(0.9, 0.89)), ("b", score(0.7, 0.8)), ("c", score(0.1, 0.2, measurable=False))]
    s = worst(ctx, "fairness.x", "x", found, {"d": 3})
    assert (s.key, s.value, s.name, s.passed) == ("fairness.x", 0.7, "x, worst: b", False)
    assert [r["verdict"] for r in s.details["subgroups"]] == ["fails", "passes", "", "not measurable with 3 patients"]
    assert worst(ctx, "fairness.x", "x", [], {"d": 3}).value is None
