"""Numbers and categories as tokens: the way there and back, and what is hidden."""

import numpy as np
import pytest
from scipy.special import ndtri

from cohortloom.nets.tokens import CONT, CategoryCoder, NumberCoder, carried


def fitted(values: np.ndarray, **settings) -> NumberCoder:
    return NumberCoder.fit(values, np.arange(len(values)), **settings)


def scores(coder: NumberCoder, values: np.ndarray) -> np.ndarray:
    """z drawn within the interval of each value."""
    left, right = coder.interval(values)
    u = left + (right - left) * np.random.default_rng(0).uniform(0.01, 0.99, len(values))
    return np.nan_to_num(ndtri(u))


def there_and_back(coder: NumberCoder, values: np.ndarray, last: np.ndarray) -> np.ndarray:
    token = coder.token(values, last)
    return coder.decode(token, scores(coder, values), last)


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_snapped_values_come_back_exactly(decimals):
    rng = np.random.default_rng(decimals)
    values = np.round(rng.lognormal(3, 1, 800), decimals)
    values[rng.random(800) < 0.2] = 0.0
    values[rng.random(800) < 0.1] = np.nan
    coder = fitted(values, decimals=decimals)
    snapped = coder.snap(values)
    none = np.full(800, np.nan)
    np.testing.assert_array_equal(there_and_back(coder, snapped, none), snapped)


def test_zero_is_a_spike_and_its_share_is_kept():
    values = np.concatenate([np.zeros(300), np.random.default_rng(0).normal(5, 1, 700).round(3)])
    coder = fitted(values)
    assert coder.spikes == (0.0,)
    assert np.mean(coder.token(values, np.full(1000, np.nan)) == 1) == pytest.approx(0.3)


def test_normal_scores_are_standard_normal_whatever_the_column():
    values = np.random.default_rng(1).pareto(1.5, 5000).round(4)
    coder = fitted(values)
    z = scores(coder, coder.snap(values))
    z = z[np.isfinite(z)]
    assert abs(z.mean()) < 0.05 and z.std() == pytest.approx(1, abs=0.05)


def test_intervals_of_a_grid_partition_the_unit_line():
    values = np.random.default_rng(3).poisson(4, 500).astype(float)
    for share in (0.08, 0.9):  # with spikes, and without any
        coder = fitted(values, decimals=0, spike_share=share)
        support = coder.x if coder.exact else np.arange(coder.x[0], coder.x[-1] + 1)
        left, right = coder.interval(support)
        assert left[0] == 0 and right[-1] == pytest.approx(1)
        np.testing.assert_allclose(left[1:], right[:-1])


def test_a_verbatim_repeat_has_a_token_and_chance_repeats_of_integers_have_none():
    rng = np.random.default_rng(4)
    subject = np.repeat(np.arange(100), 10)
    fresh = rng.normal(10, 3, 1000).round(2)
    repeated = fresh.copy()
    for i in np.flatnonzero((rng.random(1000) < 0.3) & (np.arange(1000) % 10 > 0)):
        repeated[i] = repeated[i - 1]
    coder = NumberCoder.fit(repeated, subject)
    assert coder.repeat
    last = carried(coder.snap(repeated), subject)
    share = np.mean(coder.token(coder.snap(repeated), last) == coder.repeat_token)
    assert share == pytest.approx(0.27, abs=0.04)
    assert not NumberCoder.fit(rng.poisson(60, 1000).astype(float), subject, spike_share=0.5).repeat


def test_extremes_of_fewer_than_k_subjects_never_leave():
    values = np.concatenate([np.random.default_rng(5).normal(0, 1, 500), [40.0, 41.0, 42.0, 43.0]]).round(2)
    coder = fitted(values, k_min=5)
    out = coder.decode(np.zeros(2000, int), np.random.default_rng(0).normal(0, 3, 2000), np.full(2000, np.nan))
    assert out.max() < 10 and out.max() == np.sort(values)[-5]


def test_one_subject_with_many_extremes_counts_once():
    values = np.concatenate([np.random.default_rng(6).normal(0, 1, 500).round(2), np.full(50, 99.0)])
    subject = np.concatenate([np.arange(500), np.full(50, 500)])
    coder = NumberCoder.fit(values, subject, k_min=5)
    assert 99.0 not in coder.spikes and coder.x[-1] < 10


def test_exact_values_are_shared_by_k_subjects():
    values = np.concatenate([np.repeat([1.0, 2.0, 5.0, 7.0], 60), [3.0, 3.0, 4.0]])
    coder = fitted(values, decimals=0, spike_share=0.5, k_min=5)
    assert coder.exact and set(coder.x) == {1.0, 2.0, 5.0, 7.0}


@pytest.mark.parametrize("odd", [0.0, 0.03])
def test_tail_of_a_skewed_column_is_no_pile(odd):
    """Nine tenths of the values are shared by five subjects, of the upper tail hardly any; some hourly means lie off
    the whole numbers."""
    rng = np.random.default_rng(5)
    values = np.round(rng.lognormal(4.8, 0.5, 6_000)) + 0.5 * (rng.random(6_000) < odd)
    coder = NumberCoder.fit(values, np.repeat(np.arange(2_000), 3), decimals=1 if odd else 0)
    assert coder.exact and np.all(np.diff(coder.x) > 0)
    drawn = coder.decode(np.full(40_000, CONT), rng.normal(size=40_000), np.full(40_000, np.nan))
    levels = [0.005, 0.02, 0.5, 0.95, 0.98, 0.995]
    np.testing.assert_allclose(np.quantile(drawn, levels), np.quantile(values, levels), rtol=0.1)
    above = drawn[drawn > np.quantile(values, 0.98)]
    assert np.unique(above, return_counts=True)[1].max() < 0.1 * len(above)  # nearest shared value: half of them
    np.testing.assert_array_equal(coder.snap(drawn), drawn)


def test_doses_stay_among_those_that_are_shared():
    rng = np.random.default_rng(6)
    values = rng.choice([2.5, 12.5, 25.0, 37.5, 50.0, 75.0], 3_000, p=[0.28, 0.3, 0.2, 0.015, 0.2, 0.005])
    subject = np.where(values == 37.5, 0, np.where(values == 75, 1, np.arange(3_000)))
    assert set(NumberCoder.fit(values, subject, decimals=1, spike_share=0.5).x) == {2.5, 12.5, 25, 50}


def test_values_of_every_second_step_repeat_by_chance_only():
    rng = np.random.default_rng(1)
    subject = np.repeat(np.arange(200), 20)
    pressure = 2 * np.round(60 + 4 * rng.normal(size=200)[subject] + 4 * rng.normal(size=len(subject)))
    assert not NumberCoder.fit(pressure, subject, decimals=0).repeat
    sticky = np.where(rng.random(len(subject)) < 0.15, np.roll(pressure, 1), pressure)
    assert NumberCoder.fit(sticky, subject, decimals=0).repeat


@pytest.mark.parametrize(
    "values",
    [
        np.full(30, np.nan),
        np.full(30, 4.0),
        np.array([3.0]),
        np.array([1.0, np.nan]),
        np.array([2.0, 8.0]),
        np.zeros(0),
    ],
    ids=["all missing", "constant", "one value", "one and missing", "two values", "no rows"],
)
def test_degenerate_columns_come_back(values):
    coder = fitted(values)
    snapped = coder.snap(values)
    np.testing.assert_array_equal(there_and_back(coder, snapped, np.full(len(values), np.nan)), snapped)
    assert coder.allowed.any()
    again = NumberCoder.from_json(coder.to_json())
    np.testing.assert_array_equal(again.snap(values), snapped)


def test_carried_is_the_last_recorded_value_of_the_same_subject():
    values = np.array([1, np.nan, 3, np.nan, np.nan, 5, np.nan, 7.0])
    subject = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    expected = [np.nan, 1, 1, 3, np.nan, np.nan, 5, np.nan]
    np.testing.assert_array_equal(carried(values, subject), expected)


def test_unseen_category_is_rare_if_rare_was_seen():
    assert CategoryCoder.fit(np.array([0, 1, 4])).token(np.array([4, 9])).tolist() == [2, 1]
    assert CategoryCoder.fit(np.array([2, 4])).token(np.array([4, 9])).tolist() == [1, -1]


def test_missing_is_possible_only_where_it_was_seen():
    assert not fitted(np.arange(50.0)).allowed[-1]
    assert fitted(np.array([*np.arange(50.0), np.nan])).allowed[-1]
    assert fitted(np.arange(50.0)).token(np.array([5.0]), np.array([np.nan]))[0] == CONT


def test_a_common_value_among_common_neighbours_is_no_spike():
    rng = np.random.default_rng(7)
    sodium = rng.normal(138, 2, 2000).round()  # every tenth value or more is 138, but so are 137 and 139
    assert np.mean(sodium == 138) > 0.15 and fitted(sodium).spikes == ()
    ceiling = np.minimum(rng.normal(97, 4, 2000).round(), 100)
    assert fitted(np.where(rng.random(2000) < 0.3, 100, ceiling)).spikes == (100.0,)


def test_a_spike_that_comes_again_is_a_repeat_and_no_other_token_says_so():
    rng = np.random.default_rng(8)
    subject = np.repeat(np.arange(200), 10)
    fresh = np.where(rng.random(2000) < 0.4, 0.0, rng.lognormal(2, 1, 2000).round(2))
    sticky = fresh.reshape(200, 10)
    for k in range(1, 10):
        again = rng.random(200) < 0.7
        sticky[again, k] = sticky[again, k - 1]
    coder = NumberCoder.fit(sticky.ravel(), subject)
    assert coder.repeat and coder.spikes == (0.0,)
    values, last = np.array([0.0, 0.0, 5.0, 0.0]), np.array([0.0, 5.0, 5.0, np.nan])
    last, values = coder.snap(last), coder.snap(values)
    assert coder.token(values, last).tolist() == [coder.repeat_token, 1, coder.repeat_token, 1]
    assert coder.hidden(last).tolist() == [1, -1, -1, coder.repeat_token]
