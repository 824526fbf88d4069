"""Filling holes with columnar-ar: against enumeration and against the Gaussian smoother."""

from itertools import product

import columnar_cohorts as known
import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.generators import create


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2])
def two_visits(request):
    return create("columnar-ar", members=request.param, training={"steps": 150}).fit(known.holed_patients(), seed=0)


@pytest.mark.parametrize(
    "start",
    [
        (None, None, 1, "b", 3),
        (None, "a", None, None, 0),
        pytest.param((None, "b", 3, "b", 2), marks=pytest.mark.slow),
        pytest.param((False, None, None, None, 3), marks=pytest.mark.slow),
    ],
)
def test_holes_follow_bayes(two_visits, start):
    """All ways to fill the holes are listed and weighed by the model's own likelihood."""
    options = [[True, False], ["a", "b"], range(4), ["a", "b"], range(4)]
    ways = list(product(*[o if v is None else [v] for v, o in zip(start, options)]))
    exact = np.exp(two_visits.score(known.tiny_patients(ways)))
    exact /= exact.sum()
    draws = 1_500
    full = two_visits.impute(known.tiny_patients([start]), draws=draws, seed=0)
    sex = full.tables["patients"]["sex"].to_list()
    visits = full.tables["visits"].select("stage", "points").rows()
    found = [(s, *visits[2 * i], *visits[2 * i + 1]) for i, s in enumerate(sex)]
    share = np.array([found.count(way) for way in ways]) / draws
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(share, exact, atol=0.05)
    # drawing forward alone would miss this: the last cell tells about the first
    assert np.abs(exact - 1 / len(ways)).max() > 0.02


def conditional(severity: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of the holes (NaN) of one record of `ordered`, exactly: severity first, then the visits."""
    known_x = np.concatenate([[severity], x])
    n = len(x)
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    cov = np.ones((n + 1, n + 1))  # severity has variance 1 and is part of every x
    cov[1:, 1:] = 1 + known.PHI**lag
    hole = np.isnan(known_x)
    inside = np.linalg.solve(cov[np.ix_(~hole, ~hole)], cov[np.ix_(~hole, hole)])
    rest = cov[np.ix_(hole, hole)] - cov[np.ix_(hole, ~hole)] @ inside
    return known_x[~hole] @ inside, np.sqrt(np.diag(rest))


@pytest.fixture(scope="module")
def autoregression():
    return create("columnar-ar", training={"steps": 600}).fit(known.ordered(1_500, seed=0), seed=0)


@pytest.mark.slow
def test_holes_in_an_autoregression_follow_the_smoother(autoregression):
    whole = known.ordered(150, seed=5)
    rng = np.random.default_rng(1)
    visits = whole.tables["visits"].with_columns(
        pl.when(pl.Series(rng.random(whole.tables["visits"].height) < 0.3)).then(None).otherwise("x").alias("x")
    )
    patients = whole.tables["patients"].with_columns(
        pl.when(pl.Series(rng.random(150) < 0.3)).then(None).otherwise("severity").alias("severity")
    )
    holed = Cohort.build(whole.schema, {"patients": patients, "visits": visits})
    draws = 8
    full = autoregression.impute(holed, draws=draws, seed=0)
    severity = full.tables["patients"]["severity"].to_numpy().reshape(150, draws)
    lists = full.tables["visits"].group_by("subject_id", maintain_order=True).agg("x")["x"].to_list()
    z = []
    for i in range(150):
        before = visits.filter(pl.col("subject_id") == i)["x"].to_numpy().astype(float)
        first = patients["severity"].to_numpy().astype(float)[i]
        hole = np.isnan(np.concatenate([[first], before]))
        if not hole.any():
            continue
        mean, sd = conditional(first, before)
        drawn = np.array([[severity[i, d], *lists[i * draws + d]] for d in range(draws)])[:, hole]
        z.append(((drawn - mean) / sd).ravel())
    z = np.concatenate(z)
    assert len(z) > 1_500
    assert abs(z.mean()) < 0.12 and z.std() == pytest.approx(1, abs=0.12)


@pytest.mark.slow
def test_the_future_counts(autoregression):
    """The same hole between two high and two low neighbours: E = m + PHI / (1 + PHI^2) (left + right - 2 m)."""
    n = 60

    def middle(level: float) -> np.ndarray:
        x = [0.0, None, level] * n
        visits = pl.DataFrame(
            {"subject_id": np.repeat(np.arange(n), 3), "visit_id": range(3 * n), "time": [0, 1, 2] * n, "x": x}
        )
        patients = pl.DataFrame({"subject_id": np.arange(n), "severity": [0.0] * n})
        cohort = Cohort.build(known.ORDERED, {"patients": patients, "visits": visits})
        parts = [autoregression.impute(cohort, seed=seed, draws=4).tables["visits"] for seed in range(3)]
        return np.concatenate([part.filter(pl.col("time") == 1)["x"].to_numpy() for part in parts])

    share = known.PHI / (1 + known.PHI**2)
    high, low = middle(1.5), middle(-1.5)
    assert high.mean() - low.mean() == pytest.approx(3 * share, abs=0.3)


def test_observed_cells_and_everything_else_stay():
    real = known.clinic(40, seed=1)
    model = create("columnar-ar", members=1, training={"steps": 20}).fit(real, seed=0)
    full = model.impute(real, seed=0)
    before, after = real.tables["visits"], full.tables["visits"]
    seen = before["patchy"].is_not_null()
    assert after.drop("patchy").equals(before.drop("patchy"))
    assert after.filter(seen).equals(before.filter(seen)) and after["patchy"].null_count() == 0
    assert full.origin.notes["imputed cells"] == (~seen).sum()
    assert model.impute(real, seed=0).tables["visits"].equals(after)
    assert not model.impute(real, seed=1).tables["visits"].equals(after)


def test_a_column_that_was_never_recorded_stays_empty():
    real = known.clinic(30, seed=1)
    nothing = real.tables["visits"].with_columns(pl.lit(None, pl.Float64).alias("patchy"))
    empty = Cohort.build(real.schema, {**real.tables, "visits": nothing})
    model = create("columnar-ar", members=1, training={"steps": 20}).fit(empty, seed=0)
    assert model.impute(empty, seed=0).tables["visits"]["patchy"].null_count() == nothing.height
