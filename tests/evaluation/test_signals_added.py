"""Does adding synthetic records help: cases with a known answer."""

import numpy as np
import polars as pl
import pytest
from ecg_clinic import cohort_of, schema

from cohortloom.evaluation import signals_added
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.signals_added import _ridge, transformed
from cohortloom.evaluation.signals_sides import prepare_signal
from cohortloom.evaluation.verdict import verdict

FS, SECONDS = 64, 3


def waves(draw, label, overlap=0.5):
    """Sines in noise; those with the label are a little faster."""
    t = np.arange(FS * SECONDS) / FS
    rate = np.where(label, 6.0, 5.0) + overlap * draw.standard_normal(len(label))
    x = np.sin(2 * np.pi * rate[:, None] * t + draw.uniform(0, 6.3, (len(label), 1)))
    return (x + 1.8 * draw.standard_normal(x.shape))[:, None]


def cohort(x, label, kind="real"):
    none = pl.Series([None] * len(x), dtype=pl.Float64)
    patients = pl.DataFrame(
        {"subject_id": np.arange(1, len(x) + 1), "age": none, "sex": ["F"] * len(x), "potassium": none,
         "heart_rate": none, "qt_drug": [False] * len(x), "effusion": [False] * len(x)}
    )  # fmt: skip
    return cohort_of(
        schema("other", FS, SECONDS, ("x",)), x, patients, np.where(label, "rare", "usual").tolist(), kind=kind
    )


def case(made, seed=100, n_rare=6):
    """Training patients of whom few have the label, held-out ones, and synthetic records of three kinds."""
    draw = np.random.default_rng(seed)
    rare, held, more = np.arange(150) < n_rare, np.arange(160) < 40, np.arange(160) < 80
    train, tested, x = (waves(draw, label) for label in (rare, held, more))
    if made == "wrong":
        more = ~more
    if made == "noise":  # a label that nothing of the record tells
        train, tested, x = (waves(draw, np.zeros(len(label), bool)) for label in (rare, held, more))
    made_of = cohort(x, more, "synthetic")
    return (made_of, cohort(train, rare), cohort(tested, held)), answers(made_of, train, rare, tested, held, seed)


def answers(synthetic, train, rare, tested, held, seed):
    ctx = prepare(synthetic, train=cohort(train, rare), held_out=cohort(tested, held), seed=seed, fast=True)
    return signals_added.scores(prepare_signal(ctx, "other"))


@pytest.mark.parametrize(("made", "answer"), [("right", "helped"), ("wrong", "harmed"), ("noise", "can't be told")])
def test_the_answer_is_what_was_planted(made, answer):
    _, (score,) = case(made)
    assert score.details["answer"] == answer
    assert '"rare"' in score.name and "6 training patients" in score.reason and "Transformed copies" in score.reason
    arms = {row["trained on"]: row for row in score.details["arms"]}
    assert tuple(arms) == signals_added.ARMS
    base = next(arms[arm] for arm in ("real", "copies") if arms[arm]["gain"] == 0)
    assert score.value == pytest.approx(base["AUROC"] - arms["synthetic"]["AUROC"], abs=2e-4)
    assert score.interval[0] < score.value < score.interval[1] and score.passed is not True


@pytest.mark.slow
@pytest.mark.parametrize("n_rare", [6, 30])
@pytest.mark.parametrize("made", ["noise", "right"])
def test_intervals_are_as_wide_as_answers_differ(made, n_rare):
    found = [case(made, seed, n_rare)[1][0] for seed in range(2000, 2030)]
    gain = np.array([-s.value for s in found])
    error = np.array([(s.interval[1] - s.interval[0]) / 3.92 for s in found])
    assert 0.6 < error.mean() / gain.std() < 2.2  # 30 draws tell a spread to a seventh
    answers = [s.details["answer"] for s in found]
    assert "harmed" not in answers if made == "right" else answers.count("helped") + answers.count("harmed") <= 4


def test_the_report_says_it():
    sides, scores = case("wrong")
    ctx = prepare(sides[0], train=sides[1], held_out=sides[2], seed=0, fast=True)
    assert any("harmed a classifier" in sentence for sentence in verdict(ctx, scores))


def test_without_labels_or_patients_enough_nothing_is_said():
    assert case("right", n_rare=3)[1] == []
    draw = np.random.default_rng(0)
    sides = [cohort(waves(draw, np.zeros(30, bool)), np.zeros(30, bool)) for _ in range(3)]
    ctx = prepare(sides[0], train=sides[1], held_out=sides[2], seed=0, fast=True)
    assert signals_added.scores(prepare_signal(ctx, "other")) == []


def test_ridge_is_the_least_squares_solution():
    draw = np.random.default_rng(0)
    for n, p in ((40, 5), (8, 20)):
        x, y, w = draw.normal(3, 2, (n, p)), draw.normal(size=n), draw.uniform(0.2, 2, n)
        whole = _ridge(np.c_[x, np.ones(n)], y, w, 0.7)
        mean, sd = w @ x / w.sum(), np.sqrt(w @ np.square(x - w @ x / w.sum()) / w.sum())
        z = (x - mean) / sd
        slope = np.linalg.solve(z.T * w @ z + 0.7 * np.eye(p), z.T * w @ (y - w @ y / w.sum()))
        np.testing.assert_allclose(np.c_[x, np.ones(n)] @ whole, z @ slope + w @ y / w.sum(), atol=1e-8)


def test_transformed_copies_are_near_their_record():
    draw = np.random.default_rng(0)
    x = waves(draw, np.arange(20) < 10).astype(np.float32).cumsum(axis=2)
    made, of = transformed(x, 50, draw)
    assert made.shape == (50, 1, FS * SECONDS) and np.isfinite(made).all() and set(of) <= set(range(20))
    size = made.std(axis=(1, 2)) / x[of].std(axis=(1, 2))
    assert size.min() > 0.5 and size.max() < 2.0
