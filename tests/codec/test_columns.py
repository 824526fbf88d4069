"""Facts of the randomised quantile transform."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortloom.codec.columns import QuantileTransform, decimals_of
from cohortloom.rng import Rng


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of two empirical distribution functions (slow reference)."""
    grid = np.unique(np.concatenate([a, b]))
    return max(abs((a <= g).mean() - (b <= g).mean()) for g in grid)


def samples() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "normal": np.round(draw.normal(120, 20, 4000), 1),
        "heavy tail": np.round(draw.lognormal(0, 2, 4000), 3),
        "no grid": draw.normal(0, 1, 4000),
        "integers": draw.poisson(3, 4000).astype(float),
        "detection limit": np.maximum(np.round(draw.normal(0.5, 0.5, 4000), 2), 0.3),
        "zero or dose": np.where(draw.random(4000) < 0.6, 0.0, draw.choice([25.0, 50.0, 100.0], 4000)),
        "two clouds": np.concatenate([np.round(draw.normal(-50, 1, 2000), 2), np.round(draw.normal(50, 1, 2000), 2)]),
    }


@pytest.mark.parametrize("name", samples())
def test_scores_are_standard_normal(name):
    # 4,000 values: the 99.9 % bound of the one-sample Kolmogorov-Smirnov distance is 1.95 / sqrt(4000) = 0.031
    from scipy.stats import norm

    values = samples()[name]
    z = np.sort(QuantileTransform.fit(values).encode(values, Rng(1)))
    distance = np.abs(norm.cdf(z) - (np.arange(len(z)) + 0.5) / len(z)).max()
    assert distance < 0.031


@pytest.mark.parametrize("name", samples())
def test_normal_draws_decode_to_the_column(name):
    # two samples of 4,000: 99.9 % bound 1.95 * sqrt(2 / 4000) = 0.044
    values = samples()[name]
    drawn = QuantileTransform.fit(values).decode(np.random.default_rng(2).normal(size=4000))
    assert ks(values, drawn) < 0.044


@pytest.mark.parametrize("name", samples())
def test_values_between_the_ends_come_back(name):
    values = samples()[name]
    law = QuantileTransform.fit(values)
    back = law.decode(law.encode(values, Rng(3)))
    low, high = law.ends
    inside = (values > low) & (values < high) | np.isin(values, law.spikes)
    if decimals_of(values) is None or (law.n and len(law.u) > 300):
        assert np.abs(back - values)[inside].max() < 1e-6 * np.ptp(values) + 10.0 ** -(law.decimals or 9)
    else:
        assert np.array_equal(back[inside], values[inside])


def test_spikes_are_exact():
    values = samples()["detection limit"]
    law = QuantileTransform.fit(values)
    drawn = law.decode(np.random.default_rng(4).normal(size=20_000))
    share = (values == 0.3).mean()
    assert 0.3 in law.spikes
    assert (drawn == 0.3).mean() == pytest.approx(share, abs=4 * np.sqrt(share / 4000))
    assert drawn.min() == 0.3


def test_no_extreme_is_told():
    values = np.concatenate([np.random.default_rng(5).normal(size=500), [40.0, 41.0, 42.0, 43.0]])
    law = QuantileTransform.fit(values, k=5)
    drawn = law.decode(np.random.default_rng(6).normal(size=10_000))
    assert law.ends[1] == np.sort(values)[-5] and drawn.max() <= np.sort(values)[-5]


def test_extremes_are_counted_over_patients():
    values = np.concatenate([np.linspace(0, 1, 100), np.full(50, 99.0)])
    subject = np.concatenate([np.arange(100), np.full(50, 100)])
    law = QuantileTransform.fit(values, k=5, subject=subject)
    assert law.ends[1] <= 1.0 and 99.0 not in law.spikes


@pytest.mark.parametrize("n", range(1, 11))
def test_few_values_give_values_among_them(n):
    values = np.random.default_rng(n).normal(size=n)
    law = QuantileTransform.fit(values)
    drawn = law.decode(np.linspace(-4, 4, 101))
    assert np.isfinite(drawn).all()
    assert values.min() <= drawn.min() and drawn.max() <= values.max()
    if n >= 3:
        assert drawn.max() < values.max() and drawn.min() > values.min()


def test_constant_column_stays_constant():
    law = QuantileTransform.fit(np.full(30, 7.5))
    assert set(law.decode(law.encode(np.full(30, 7.5), Rng(0)))) == {7.5}


def test_a_column_without_values_gives_none():
    law = QuantileTransform.fit(np.full(5, np.nan))
    assert np.isnan(law.decode(np.zeros(3))).all()
    assert np.array_equal(law.encode(np.array([np.nan, 1.0]), Rng(0)), [np.nan, 0.0], equal_nan=True)


def test_missing_stays_missing():
    law = QuantileTransform.fit(np.arange(50.0))
    z = law.encode(np.array([np.nan, 20.0]), Rng(0))
    assert np.isnan(z[0]) and np.isnan(law.decode(z)[0]) and law.decode(z)[1] == 20.0


def test_bounds_and_decimals_are_kept():
    values = np.round(np.random.default_rng(7).exponential(size=300), 1)
    law = QuantileTransform.fit(values, low=0.0, high=2.0)
    drawn = law.decode(np.random.default_rng(8).normal(size=2000))
    assert drawn.min() >= 0 and drawn.max() <= 2 and law.decimals == 1
    assert np.allclose(drawn, np.round(drawn, 1))


def test_a_dose_off_the_common_grid_is_not_told():
    # 25, 50 and 100 share the step 25; the one 60 among 1,000 comes out as 50 or 75
    values = np.concatenate([np.random.default_rng(9).choice([25.0, 50.0, 100.0], 999), [60.0]])
    law = QuantileTransform.fit(values)
    assert law.step == 25 and set(law.decode(np.linspace(-3.5, 3.5, 5001))) <= {25.0, 50.0, 75.0, 100.0}
    assert QuantileTransform.fit(np.repeat([2.0, 3.0, 5.0], 50)).step == 0


def test_score_is_the_middle_of_a_spike():
    # u of the spike 0 is uniform on [0, 0.5]: its middle is 0.25
    from scipy.stats import norm

    law = QuantileTransform.fit(np.concatenate([np.zeros(100), np.linspace(1, 2, 100)]))
    assert law.score(np.array([0.0]))[0] == pytest.approx(norm.ppf(0.25))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False, width=32), min_size=1, max_size=60), st.integers(0, 2**31))
def test_any_column_goes_there_and_back(values, seed):
    x = np.asarray(values, dtype=float)
    law = QuantileTransform.from_json(json.loads(json.dumps(QuantileTransform.fit(x).to_json())))
    z = law.encode(x, Rng(seed))
    back = law.decode(z)
    assert np.isfinite(z).all() and np.isfinite(back).all()
    low, high = law.ends
    assert back.min() >= low - 1e-6 and back.max() <= high + 1e-6
    spike = np.isin(x, law.spikes)
    assert np.allclose(back[spike], x[spike], rtol=1e-12, atol=1e-9)  # what counts as on the grid


def test_state_comes_back_to_the_last_bit():
    values = np.random.default_rng(0).normal(4, 0.5, 200)  # no grid: any rounding of the state would show
    law = QuantileTransform.fit(values)
    again = QuantileTransform.from_json(law.to_json())
    u = np.linspace(0, 1, 997)
    assert law.quantile(u).tobytes() == again.quantile(u).tobytes()
