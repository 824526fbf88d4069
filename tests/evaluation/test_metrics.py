"""Metrics of predictions against closed forms and slow references."""

import numpy as np
import pytest
from scipy.stats import rankdata

from cohortloom.evaluation.metrics import (
    auroc,
    brier_rows,
    calibration_error,
    calibration_line,
    concordance,
    kaplan_meier,
    patient_weights,
    skill,
)
from cohortloom.evaluation.models import Hazards, Normaliser, cox


def test_auroc_with_weights_is_auroc_of_repeated_rows():
    g = np.random.default_rng(0)
    s, y, w = g.integers(0, 6, 50).astype(float), g.integers(0, 2, 50).astype(float), g.integers(0, 4, 50)
    again_s, again_y = np.repeat(s, w), np.repeat(y, w)
    ones, zeros = again_y.sum(), (1 - again_y).sum()
    slow = (rankdata(again_s)[again_y == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros)
    assert auroc(s, y, w[None].astype(float))[0] == pytest.approx(slow)


def test_auroc_without_a_class_is_unknown():
    assert np.isnan(auroc(np.arange(4.0), np.ones(4), np.ones((1, 4)))[0])


def test_concordance_counts_comparable_pairs():
    # times 1 (event), 2 (censored), 3 (event), 4 (censored): pairs (1,2), (1,3), (1,4), (3,4); (3,4) is wrong
    time, event, risk = np.array([1.0, 2, 3, 4]), np.array([1.0, 0, 1, 0]), np.array([9.0, 5, 1, 2])
    assert concordance(risk, time, event, np.ones((1, 4)))[0] == pytest.approx(3 / 4)


def test_skill_of_the_median_is_zero_and_of_the_truth_one():
    y = np.array([1.0, 2, 3, 10])
    assert skill(np.full(4, np.median(y)), y, np.ones((1, 4)))[0] == 0
    assert skill(y, y, np.ones((1, 4)))[0] == 1


def test_kaplan_meier_of_the_textbook():
    # deaths at 1 and 3 of 4, one censored at 2: S = 3/4 from 1, 3/4 x 1/2 from 3
    s = kaplan_meier(np.array([1.0, 2, 3, 4]), np.array([1.0, 0, 1, 0]), np.array([0.5, 1, 2.5, 3, 9]))
    assert s == pytest.approx([1, 0.75, 0.75, 0.375, 0.375])


def test_brier_without_censoring_is_the_squared_error():
    g = np.random.default_rng(1)
    time, grid = g.exponential(1, 40), np.linspace(0.1, 2, 7)
    p = g.random((40, 7))
    assert brier_rows(p, grid, time, np.ones(40)).mean() == pytest.approx((((time[:, None] > grid) - p) ** 2).mean())


def test_calibration_of_true_probabilities_and_of_doubled_logits():
    g = np.random.default_rng(2)
    logit = g.normal(0, 1.5, 20000)
    y = (g.random(20000) < 1 / (1 + np.exp(-logit))).astype(float)
    p = 1 / (1 + np.exp(-logit))
    assert calibration_error(p, y, np.ones((1, 20000)))[0] < 0.015
    assert calibration_line(p, y) == pytest.approx((1, 0), abs=0.06)
    slope, _ = calibration_line(1 / (1 + np.exp(-2 * logit)), y)
    assert slope == pytest.approx(0.5, abs=0.04)


def test_rows_of_a_patient_are_drawn_together():
    patient = np.array([3, 3, 7, 7, 7, 9])
    w = patient_weights(patient, 20, np.random.default_rng(0))
    assert (w[0] == 1).all()
    assert (w[:, 0] == w[:, 1]).all()
    assert (w[:, 2] == w[:, 4]).all()
    assert len(np.unique(w[1:, 0])) > 1


def test_cox_with_two_groups_solves_the_breslow_equation():
    # Freireich-like data by hand: maximise the partial likelihood on a fine grid
    g = np.random.default_rng(3)
    z = g.integers(0, 2, 60).astype(float)
    time = np.ceil(10 * g.exponential(1 / np.exp(0.8 * z)))
    event = (g.random(60) < 0.8).astype(float)

    def slow(beta):
        return sum(beta * z[i] - np.log(np.exp(beta * z[time >= time[i]]).sum()) for i in np.flatnonzero(event))

    grid = np.linspace(-1, 3, 4001)
    best = grid[np.argmax([slow(b) for b in grid])]
    model = cox(z[:, None], time, event)
    assert model.beta[0] == pytest.approx(best, abs=1e-3)


def test_cox_without_features_is_nelson_aalen():
    time, event = np.array([1.0, 2, 2, 3, 5]), np.array([1.0, 1, 1, 0, 1])
    model = cox(np.zeros((5, 0)), time, event)
    assert model.times.tolist() == [1, 2, 5]
    assert model.hazard == pytest.approx(np.cumsum([1 / 5, 2 / 4, 1]))


def test_discrete_hazards_without_features_follow_kaplan_meier():
    g = np.random.default_rng(4)
    time = g.exponential(1, 3000)
    y = np.stack([np.minimum(time, 2.0), (time < 2).astype(float)], axis=1)
    grid = np.array([0.3, 0.7, 1.2])
    s = Hazards(0, grid).fit(g.normal(size=(3000, 1)), y).predict(np.zeros((1, 1)))[0]
    assert s == pytest.approx(np.exp(-grid), abs=0.06)


def test_normaliser_puts_missing_in_the_middle_with_a_mark():
    x = np.array([[1.0], [2.0], [3.0], [np.nan], [np.nan]])
    z = Normaliser().fit(x).transform(x)
    assert z.shape == (5, 2)
    assert z[1, 0] == pytest.approx(0)
    assert z[3].tolist() == [0, 1]
    assert Normaliser().fit(np.full((5, 1), 2.0)).transform(x).shape == (5, 0)
