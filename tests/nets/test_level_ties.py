"""What statics say of the levels of a large category."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.generators import create
from cohortloom.nets.static_ties import static_ties
from cohortloom.schema.text import parse_schema

CODES = 60


def pairs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sex and token: 1 belongs to the first sex alone, 2 is three times as frequent in it, the others are even."""
    rng = np.random.default_rng(seed)
    sex = (rng.random(n) < 0.4).astype(int)
    weight = np.ones((2, CODES))
    weight[1, 1], weight[0, 1:3] = 0.0, (6.0, 3.0)
    cut = np.cumsum(weight / weight.sum(1, keepdims=True), 1)
    return sex, (rng.random(n)[:, None] > cut[sex]).sum(1)


def shares(ties: np.ndarray, features: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Of each token in each sex, as the ties have it."""
    usual = np.log(np.bincount(token, minlength=CODES) + 1e-3)
    logit = usual + np.unique(features, axis=0)[::-1] @ ties
    mass = np.exp(logit)
    return mass / mass.sum(1, keepdims=True)


def test_ties_give_back_what_was_counted():
    sex, token = pairs(20_000)
    features = np.eye(2, dtype=np.float32)[sex]
    found = shares(static_ties(features, token, CODES, [np.arange(2)]), features, token)
    real = np.stack([np.bincount(token[sex == s], minlength=CODES) / (sex == s).sum() for s in (0, 1)])
    np.testing.assert_allclose(found[:, 2], real[:, 2], rtol=0.1)
    assert found[0, 1] == pytest.approx(real[0, 1], rel=0.1) and real[1, 1] == 0
    assert found[1, 1] < 0.0005  # 6 in 62 expected


def test_what_two_statics_say_alike_counts_once():
    sex, token = pairs(20_000)
    once = np.eye(2, dtype=np.float32)[sex]
    twice = np.concatenate([once, once], 1)
    one = shares(static_ties(once, token, CODES, [np.arange(2)]), once, token)
    both = shares(static_ties(twice, token, CODES, [np.arange(2), np.arange(2, 4)]), twice, token)
    np.testing.assert_allclose(both[:, 2], one[:, 2], rtol=0.05)


def test_chance_says_nothing():
    sex, token = pairs(3_000)
    dealt = np.random.default_rng(1).permutation(token)
    assert np.abs(static_ties(np.eye(2, dtype=np.float32)[sex], dealt, CODES, [np.arange(2)])).max() < 0.1
    assert static_ties(np.zeros((0, 2), np.float32), np.zeros(0, int), CODES, [np.arange(2)]).shape == (2, CODES)
    assert not static_ties(np.ones((9, 1), np.float32), np.ones(9, int), CODES, []).any()


@pytest.fixture(scope="module")
def clinic() -> Cohort:
    codes = ", ".join(f'"C{k}"' for k in range(CODES))
    schema = parse_schema(f"""
        name = "clinic"
        clock = "order"
        [tables.patients]
        role = "static"
        [tables.patients.columns.sex]
        kind = "category"
        levels = ["w", "m"]
        [tables.visits]
        role = "visit"
        [tables.visits.columns.code]
        kind = "category"
        levels = [{codes}]
    """)
    n = 1_500
    who = np.repeat(np.arange(n), 2)
    sex, token = pairs(n)
    second = pairs(n, 1)[1]
    again = np.where((second == 1) & (sex == 1), 3, second)
    code = np.stack([token, again], 1).ravel()
    visits = {"subject_id": who + 1, "visit_id": np.arange(2 * n) + 1, "time": np.tile([0, 1], n)}
    tables = {
        "patients": pl.DataFrame({"subject_id": np.arange(n) + 1, "sex": [["w", "m"][s] for s in sex]}),
        "visits": pl.DataFrame(visits | {"code": [f"C{k}" for k in code]}),
    }
    return Cohort.build(schema, tables)


def given_wrongly(cohort: Cohort) -> float:
    """Share of visits with the code of the one sex that patients of the other hold."""
    visits = cohort.tables["visits"].filter(pl.col("code") == "C1").join(cohort.tables["patients"], on="subject_id")
    assert visits.height > 100
    return float((visits["sex"] == "m").mean())


def test_a_code_of_one_sex_is_drawn_for_that_sex(clinic, monkeypatch):
    short = {"members": 1, "candidates": 1, "training": {"steps": 10}}
    assert given_wrongly(clinic) == 0
    assert given_wrongly(create("columnar-ar", **short).fit(clinic, seed=0).sample(1_500, seed=1)) < 0.03
    monkeypatch.setattr("cohortloom.generators.columnar_training.tell_large", lambda *_: None)
    assert given_wrongly(create("columnar-ar", **short).fit(clinic, seed=0).sample(1_500, seed=1)) > 0.15
