"""Choosing among candidates by weight."""

import numpy as np
import pytest

from cohortloom.generators.cell_drawing import Fixed, one_of, renewed


def test_one_option_comes_by_its_share():
    rng, share = np.random.default_rng(0), np.array([0.1, 0.6, 0.0, 0.3])
    with np.errstate(divide="ignore"):
        rows = np.tile(np.log(share) - 700, (40_000, 1))
    found = np.bincount(one_of(rows, rng), minlength=4) / len(rows)
    assert found[2] == 0
    np.testing.assert_allclose(found, share, atol=4 * 0.5 / 200)
    none = one_of(np.full((4_000, 4), -np.inf), rng)
    np.testing.assert_allclose(np.bincount(none, minlength=4) / 4_000, 0.25, atol=0.03)


@pytest.mark.parametrize("systematic", [True, False])
def test_candidates_are_renewed_in_proportion_to_weight(systematic):
    share = np.array([0.05, 0.55, 0.4, 0.0])
    patients, k = 3_000, 4
    with np.errstate(divide="ignore"):
        weight = np.tile(np.log(share), (patients, 1))
    weight[1] = -np.inf
    active = np.arange(patients) % 2 == 1
    place = renewed(weight, active, np.random.default_rng(1), systematic=systematic).reshape(patients, k)
    assert (place // k == np.arange(patients)[:, None]).all()  # nobody gets another patient's candidate
    np.testing.assert_array_equal(place[~active] % k, np.tile(np.arange(k), (active.size - active.sum(), 1)))
    copies = (place[active][1:, :, None] % k == np.arange(k)).sum(1)
    np.testing.assert_allclose(copies.mean(0), k * share, atol=0.12)
    if systematic:
        assert (np.floor(k * share) <= copies).all() and (copies <= np.ceil(k * share)).all()
        np.testing.assert_array_equal(place[1] % k, np.arange(k))  # no weight at all: all the same


def test_a_fixed_column_tells_about_free_ones_before_it():
    value = np.zeros((2, 3))
    assert not Fixed(value, np.array([[True, True, False]] * 2)).tells_back
    assert Fixed(value, np.array([[True, True, False], [False, False, True]])).tells_back
