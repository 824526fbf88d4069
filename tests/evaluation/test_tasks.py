"""Utility, subgroups, shift, likelihood, judges and strata: planted faults fail, a second real sample passes."""

import json

import numpy as np
import polars as pl
import pytest
from clinic import clinic
from ward import TASKS, changed, ward

from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.fairness import odds_gap
from cohortloom.evaluation.suite import MEASURES
from cohortloom.evaluation.tasks import hidden_columns, task_data

MINE = ["utility", "survival", "realism", "fairness", "shift", "likelihood", "scarcity"]


@pytest.fixture(scope="module")
def wards():
    return ward(500, 1), ward(500, 2), ward(500, 3)


@pytest.fixture(scope="module")
def good(wards):
    train, held_out, other = wards
    return evaluate(other, train=train, held_out=held_out, only=MINE, fast=True)


def test_second_real_sample_passes(good):
    assert [s.key for s in good.failed] == []
    assert sum(s.passed is True for s in good.scores) > 25
    for s in good.scores:
        assert s.reason if s.value is None else np.isfinite(s.value), s.key
        json.dumps(s.details, allow_nan=False)
    for f in good.figures:
        json.dumps(f.content, allow_nan=False)


def test_every_task_is_measured(good):
    for key in ("diabetes", "edema_now", "bad_next", "age", "weight_next", "survival"):
        score = good.score(f"utility.{key}")
        assert score.value is not None, score.reason
        assert score.interval[0] <= score.value <= score.interval[1]
        assert score.anchors["independent"] > score.anchors["bootstrap"]


@pytest.mark.slow
def test_independent_columns_fail_utility(wards):
    from cohortloom.cohort.resample import independent
    from cohortloom.rng import Rng

    train, held_out, _ = wards
    useless = independent(train, 500, Rng(9))
    report = evaluate(useless, train=train, held_out=held_out, only=["utility", "realism"], fast=True)
    failed = {s.key for s in report.failed}
    assert {"utility.bad_next", "utility.weight_next", "realism.precision", "realism.coverage"} <= failed
    assert "realism.strata" in failed


def test_swapped_risk_fails_survival_utility(wards):
    train, held_out, _ = wards
    report = evaluate(ward(500, 3, flip=True), train=train, held_out=held_out, only="utility", fast=True)
    assert report.score("utility.survival").passed is False
    assert report.score("utility.survival_trts").passed is False


def test_copies_fail_authenticity_and_ten_patients_fail_coverage(wards):
    from cohortloom.cohort.resample import bootstrap
    from cohortloom.rng import Rng

    train, held_out, other = wards
    copied = evaluate(bootstrap(train, 500, Rng(1)), train=train, held_out=held_out, only="realism", fast=True)
    assert {"realism.authenticity", "realism.near_copies"} <= {s.key for s in copied.failed}
    few = bootstrap(other.select(other.subjects.head(10)), 500, Rng(1))
    report = evaluate(few, train=train, held_out=held_out, only="realism", fast=True)
    assert {"realism.coverage", "realism.recall"} <= {s.key for s in report.failed}


@pytest.mark.slow
def test_a_lost_group_is_named(wards):
    train, held_out, other = wards
    lost = changed(other, patients=other.tables["patients"].with_columns(pl.col("site").replace({"rare": "a"})))
    score = evaluate(lost, train=train, held_out=held_out, only="fairness", fast=True).score("fairness.shares_worst")
    assert score.passed is False
    assert "site = rare" in score.name


@pytest.mark.slow
def test_women_with_mens_values_are_named(wards):
    train, held_out, other = wards
    frame = other.tables["visits"].join(other.tables["patients"].select("subject_id", "sex"), on="subject_id")
    moved = frame.with_columns(pl.when(pl.col("sex") == "F").then(pl.col("weight") + 14).otherwise("weight"))
    report = evaluate(changed(other, visits=moved), train=train, held_out=held_out, only="fairness", fast=True)
    score = report.score("fairness.marginal_worst")
    assert score.passed is False
    assert "sex = F" in score.name


def test_shift_asks_for_more_than_real_patients_lose(wards):
    train, held_out, other = wards
    noise = pl.Series(np.random.default_rng(0).permutation(other.tables["visits"]["weight"].to_numpy()))
    broken = changed(other, visits=other.tables["visits"].with_columns(weight=noise))
    report = evaluate(broken, train=train, held_out=held_out, only="shift", fast=True)
    assert report.score("shift.temporal").passed is False
    with pytest.raises(SettingsError, match=r"patients\.site"):
        evaluate(other, train=train, held_out=held_out, only="shift", shift="patients.sites")


class Remembers:
    """A scorer that knows some patients."""

    def __init__(self, known, strength):
        self.known, self.strength = known, strength

    def score(self, cohort):
        frame = cohort.tables["patients"].sort("subject_id")
        key = frame["days"].to_numpy() + frame["age"].to_numpy()
        known = self.known.tables["patients"].select(pl.col("days") + pl.col("age")).to_series().to_numpy()
        hit = np.isin(key, known)
        return self.strength * hit + np.random.default_rng(0).normal(size=len(key))


def test_memorisation_shows_in_the_likelihood(wards):
    train, held_out, other = wards
    for strength, passed in ((0.0, True), (3.0, False)):
        report = evaluate(
            other, train=train, held_out=held_out, only="likelihood", fast=True, scorer=Remembers(train, strength)
        )
        assert report.score("likelihood.membership").passed is passed
    assert report.score("likelihood.membership").value > 0.6
    assert evaluate(other, train=train, held_out=held_out, only="likelihood").scores[0].value is None


def test_judges_of_series_see_shuffled_visits():
    from cohortloom.evaluation import judges
    from cohortloom.evaluation.detection import verdict_of

    train, held_out, good = clinic(250, 1), clinic(250, 2), clinic(250, 3)
    frame = good.tables["visits"]
    u = pl.Series(np.random.default_rng(0).random(frame.height))
    columns = ["creatinine", "weight", "pressure", "state", "edema"]
    mixed = frame.with_columns(_u=u).with_columns(pl.col(c).shuffle(seed=1) for c in columns).drop("_u")
    for cohort, passed in ((good, True), (changed(good, visits=mixed), False)):
        ctx = prepare(cohort, train=train, held_out=held_out, fast=True)
        heard = judges.asked(ctx)
        assert [verdict_of(ctx, k, k, h).passed for k, h in heard.items()] == [passed, passed]


def test_torch_is_left_as_found():
    import torch

    from cohortloom.evaluation.judges import recurrent, torch_apart
    from cohortloom.rng import Rng

    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    x = np.random.default_rng(0).normal(size=(40, 3, 5)).astype(np.float32)
    with torch_apart():
        one, two = (recurrent(x, np.arange(40) % 2, x, Rng(1), steps=3) for _ in range(2))
    assert (one == two).all()
    assert (torch.get_rng_state() == before).all()
    assert torch.get_num_threads() == threads


def test_ridge_has_the_closed_form():
    from cohortloom.evaluation.judges import _ridge

    g = np.random.default_rng(0)
    for n, p in ((30, 8), (8, 30)):
        a, b, y = g.normal(size=(n, p)), g.normal(size=(5, p)), g.normal(size=n)
        candidates = [b @ np.linalg.solve(a.T @ a + k * np.eye(p), a.T @ y) for k in np.logspace(1, 5, 5)]
        assert min(np.abs(_ridge(a, y, b) - c).max() for c in candidates) < 1e-8


def test_odds_gap_by_hand():
    # part 0: 8 of 8 events found, part 1: 4 of 8; no false alarm in either
    y = np.concatenate([np.ones(8), np.zeros(8), np.ones(8), np.zeros(8)])
    p = np.concatenate([np.ones(8), np.zeros(8), np.ones(4), np.zeros(12)])
    part = np.repeat([0, 1], 16)
    assert odds_gap(p, y, part, np.ones((1, 32)), 0.5).tolist() == [0.5]
    assert np.isnan(odds_gap(p, y, np.zeros(32, int), np.ones((1, 32)), 0.5)[0])


def test_features_never_hold_the_answer(wards):
    train, held_out, other = wards
    ctx = prepare(other, train=train, held_out=held_out, fast=True)
    for task in TASKS:
        data = task_data(ctx, task, "train", 200)
        if task.kind != "next_visit":
            assert task.target not in data.columns or task.name == "edema now"
        assert "patients.days" not in data.columns or task.name in ("diabetes", "age")
    assert {"patients.days", "patients.died"} <= hidden_columns(ctx.schema, TASKS[2])


def test_next_visit_rows_know_the_past_only(wards):
    train, held_out, other = wards
    ctx = prepare(other, train=train, held_out=held_out, fast=True)
    data = task_data(ctx, TASKS[4], "train", 500)
    view = ctx.views["train"]
    rows, w = view.axes["visits"], view.columns["visits.weight"]
    now = data.x[:, data.columns.index("visits.weight")]
    follows = {(int(p), np.float32(a), b) for p, a, b in zip(rows.patient[:-1], w[:-1], w[1:], strict=True)}
    assert all((int(p), a, b) in follows for p, a, b in zip(data.patient, now, data.y, strict=True))


def test_legacy_scores_only_when_asked_for(wards):
    train, held_out, other = wards
    assert "legacy" in MEASURES
    report = evaluate(other, train=train, held_out=held_out, only="legacy", fast=True)
    score = report.score("legacy.discriminative")
    assert score.passed is None
    assert "comparison with papers" in score.name
    assert 0 < score.details["chance"] < score.details["below this a tie"]


def test_scarcity_names_what_sixty_patients_cannot_tell():
    report = evaluate(
        clinic(60, 3), train=clinic(60, 1), held_out=clinic(60, 2), only=["association", "scarcity"], fast=True
    )
    assert report.score("scarcity.telling").value < 1
    table = next(f for f in report.figures if f.group == "scarcity").content
    assert any("static" in row[0] for row in table["rows"])


def test_models_are_ranked_on_synthetic_patients_alone(wards):
    """Nothing of the models trained on real patients is left where synthetic ones teach nothing."""
    train, held_out, other = wards
    task = next(t for t in TASKS if t.name == "weight next")
    visits = other.tables["visits"].with_columns(weight=70.0)
    alike = changed(other, visits=visits)
    cohorts = [Cohort.build(c.schema.model_copy(update={"tasks": (task,)}), c.tables) for c in (alike, train, held_out)]
    report = evaluate(cohorts[0], train=cohorts[1], held_out=cohorts[2], only=["utility"], fast=True)
    score = report.score("utility.weight_next_ranking")
    assert score.value == 0.0
    assert score.floor > 0.5
    assert set(score.anchors) == {"bootstrap", "independent"}
