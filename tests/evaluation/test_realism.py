"""Precision, recall, density, coverage, authenticity: small sets by hand, and slow references."""

import numpy as np
import pytest
from registry import registry

from cohortloom.cohort.resample import bootstrap
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.realism import alpha_precision, authentic, balls, prdc, scores
from cohortloom.evaluation.space import distances
from cohortloom.rng import Rng


def gaps(x, y):
    return np.abs(np.asarray(x, float)[:, None] - np.asarray(y, float)[None])


def test_balls_reach_to_the_kth_neighbour():
    assert balls(gaps([0, 1, 3, 7], [0, 1, 3, 7]), 2).tolist() == [3, 2, 3, 6]


def test_prdc_of_four_points_on_a_line():
    # k = 1: real balls 0 +- 1, 1 +- 1, 5 +- 4; synthetic points 0.5 (in balls 0 and 1), 20 (in none), 21
    real, made = [0, 1, 5], [0.5, 20, 21]
    p = prdc(gaps(real, real), gaps(made, made), gaps(real, made), k=1)
    assert p["precision"].tolist() == [1, 0, 0]
    assert p["density"].tolist() == [2, 0, 0]
    assert p["coverage"].tolist() == [1, 1, 0]
    assert p["recall"].tolist() == [1, 1, 1]  # the ball of 0.5 reaches to 20


def test_distances_are_euclidean():
    g = np.random.default_rng(0)
    a, b = g.normal(size=(5, 3)), g.normal(size=(4, 3))
    slow = [[np.sqrt(((x - y) ** 2).sum()) for y in b] for x in a]
    assert distances(a, b) == pytest.approx(np.array(slow))


def test_alpha_precision_of_the_same_radii_is_one_and_of_none_within_zero():
    r = np.random.default_rng(0).random(4000)
    assert alpha_precision(r, r) == pytest.approx(1, abs=0.01)
    assert alpha_precision(r, r + 10) == pytest.approx(0, abs=0.02)  # P = 0 everywhere: 1 - 2 x 1/2


def test_alpha_precision_of_a_collapse_to_the_centre_is_zero():
    r = np.random.default_rng(0).random(4000)
    assert alpha_precision(r, np.zeros(100)) == pytest.approx(0, abs=0.02)


def test_authenticity_uses_the_nearest_real_patients_own_neighbour():
    # real 0, 1, 10, 14; synthetic 0.2 (nearest 0, whose neighbour is 1 away: copy), 12.5 (nearest 14, 4 away: copy),
    # 3 (nearest 1, 2 away; 1's neighbour is 1 away: authentic). The number of the synthetic patient must not matter.
    real, made = [0, 1, 10, 14], [0.2, 12.5, 3]
    assert authentic(gaps(made, real), gaps(real, real)).tolist() == [False, False, True]
    assert authentic(gaps(made[::-1], real), gaps(real, real)).tolist() == [True, False, False]


def test_with_few_columns_a_second_sample_is_not_taken_for_copies():
    """Two patients that both gave ranks lie a rank apart; a third may fall between them."""
    found = []
    for seed in range(0, 60, 3):
        train, held_out, made = (registry(150, 500 + seed + i) for i in range(3))
        ctx = prepare(made, train=train, held_out=held_out, fast=True)
        found.append({s.key: s for s in scores(ctx)})
    assert [f["realism.near_copies"].passed for f in found] == [True] * 20
    # 1 % is asked of the k-th nearest: the mean of so many samples is near it
    assert np.mean([f["realism.near_copies"].value for f in found]) == pytest.approx(2 / 150, abs=0.01)
    near = bootstrap(train, 150, Rng(1))
    ctx = prepare(near, train=train, held_out=held_out, fast=True)
    failed = {s.key for s in scores(ctx) if s.passed is False}
    assert {"realism.near_copies", "realism.authenticity"} <= failed
