"""Precision, recall, density, coverage, authenticity: small sets by hand, and slow references."""

import numpy as np
import pytest

from cohortloom.evaluation.realism import alpha_precision, authentic, balls, prdc
from cohortloom.evaluation.space import distances


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
