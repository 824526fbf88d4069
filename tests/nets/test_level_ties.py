"""What other categories say of the levels of a large one."""

import numpy as np
import polars as pl
import pytest
import torch

from cohortloom.cohort import Cohort
from cohortloom.generators import create, redraw
from cohortloom.nets.column_cursor import Cursor
from cohortloom.nets.columnar import FEW, ColumnNet, ColumnShape, Rows
from cohortloom.nets.level_ties import level_ties, tell_large
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
    found = shares(level_ties(features, token, CODES, [np.arange(2)]), features, token)
    real = np.stack([np.bincount(token[sex == s], minlength=CODES) / (sex == s).sum() for s in (0, 1)])
    np.testing.assert_allclose(found[:, 2], real[:, 2], rtol=0.1)
    assert found[0, 1] == pytest.approx(real[0, 1], rel=0.1) and real[1, 1] == 0
    assert found[1, 1] < 0.0005  # 6 in 62 expected


def test_what_two_statics_say_alike_counts_once():
    sex, token = pairs(20_000)
    once = np.eye(2, dtype=np.float32)[sex]
    twice = np.concatenate([once, once], 1)
    one = shares(level_ties(once, token, CODES, [np.arange(2)]), once, token)
    both = shares(level_ties(twice, token, CODES, [np.arange(2), np.arange(2, 4)]), twice, token)
    np.testing.assert_allclose(both[:, 2], one[:, 2], rtol=0.05)


def test_chance_says_nothing():
    sex, token = pairs(3_000)
    dealt = np.random.default_rng(1).permutation(token)
    assert np.abs(level_ties(np.eye(2, dtype=np.float32)[sex], dealt, CODES, [np.arange(2)])).max() < 0.1
    assert level_ties(np.zeros((0, 2), np.float32), np.zeros(0, int), CODES, [np.arange(2)]).shape == (2, CODES)
    assert not level_ties(np.ones((9, 1), np.float32), np.ones(9, int), CODES, []).any()


def clinic(sex_is: str) -> Cohort:
    """Two visits with a code; sex is told of the patient, or at each visit, or the code is of the patient too."""
    codes = ", ".join(f'"C{k}"' for k in range(CODES))
    of_code, of_sex = (
        ("patients" if sex_is == "beside a static" else "visits"),
        ("visits" if sex_is == "at each visit" else "patients"),
    )
    schema = parse_schema(f"""
        name = "clinic"
        clock = "order"
        [tables.patients]
        role = "static"
        columns.dead = {{ kind = "flag" }}
        [tables.visits]
        role = "visit"
        columns.fasting = {{ kind = "flag" }}
        [tables.{of_sex}.columns.sex]
        kind = "category"
        levels = ["w", "m"]
        [tables.{of_code}.columns.code]
        kind = "category"
        levels = [{codes}]
    """)
    n = 1_500
    who = np.repeat(np.arange(n), 2)
    sex, token = pairs(n)
    second = pairs(n, 1)[1]
    again = np.where((second == 1) & (sex == 1), 3, second)
    visits = {
        "subject_id": who + 1,
        "visit_id": np.arange(2 * n) + 1,
        "time": np.tile([0, 1], n),
        "fasting": who % 2 == 0,
    }
    patients = {"subject_id": np.arange(n) + 1, "dead": np.arange(n) % 3 == 0}
    if of_sex == "patients":
        patients["sex"] = np.array(["w", "m"])[sex]
    else:
        visits["sex"] = np.array(["w", "m"])[sex[who]]
    if of_code == "patients":
        patients["code"] = [f"C{k}" for k in token]
    else:
        visits["code"] = [f"C{k}" for k in np.stack([token, again], 1).ravel()]
    return Cohort.build(schema, {"patients": pl.DataFrame(patients), "visits": pl.DataFrame(visits)})


def given_wrongly(cohort: Cohort) -> float:
    """Share of rows with the code of the one sex that patients of the other hold."""
    patients, visits = cohort.tables["patients"], cohort.tables["visits"]
    rows = patients if "code" in patients.columns else visits.join(patients, on="subject_id")
    rows = rows.filter(pl.col("code") == "C1")
    assert rows.height > 50
    return float((rows["sex"] == "m").mean())


@pytest.mark.parametrize("sex_is", ["of the patient", "at each visit", "beside a static"])
def test_a_code_of_one_sex_is_drawn_for_that_sex(sex_is, monkeypatch):
    monkeypatch.setattr(redraw, "AVOIDING", 0)  # what the network says by itself
    real, short = clinic(sex_is), {"members": 1, "candidates": 1, "training": {"steps": 10}}
    assert given_wrongly(real) == 0
    assert given_wrongly(create("columnar-ar", **short).fit(real, seed=0).sample(1_500, seed=1)) < 0.03
    monkeypatch.setattr("cohortloom.generators.columnar_training.tell_large", lambda *_: None)
    assert given_wrongly(create("columnar-ar", **short).fit(real, seed=0).sample(1_500, seed=1)) > 0.15


@pytest.mark.parametrize("low_rank", [False, True])
def test_column_by_column_is_the_law_of_all_at_once(low_rank):
    """The cursor's logits are the network's, with statics and a category of the row telling the large one."""
    rng = np.random.default_rng(0)
    n, even = 300, (True,) * CODES
    columns = [
        ColumnShape("category", 3, (True,) * 3, (1 / 3,) * 3),
        ColumnShape("category", CODES, even, (1 / CODES,) * CODES),
    ]
    net = ColumnNet(columns, 2, low_rank=low_rank, n_told=2).eval()
    stream = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        weight.data = torch.randn(weight.shape, generator=stream) * 0.3
    level = rng.integers(0, 3, n)
    token = np.stack([level, np.where(level == 2, rng.integers(0, 9, n), rng.integers(9, CODES, n))], 1)
    features = torch.from_numpy(np.eye(2, dtype=np.float32)[rng.integers(0, 2, n)])
    nothing = torch.zeros(n, 0, dtype=torch.long)
    tell_large(net, lambda i: (features[i], nothing[i]), token, np.arange(n), np.arange(n), [np.arange(2)])
    assert net.beside_1.tolist() == [0, -1, -1]
    assert net.told_1[2 + 2, 9:].mean() < -0.5  # never with the third level
    assert not net.told_1[2 + FEW :].any()
    told = torch.from_numpy(token)
    told[:5, 0] = -1  # not there
    rows = Rows(features, nothing, told, torch.zeros(n, 2), torch.zeros(n, 2), torch.full((n, 2), -1))
    cursor = Cursor(net, features, nothing)
    found = []
    for j in range(2):
        logits, _ = cursor.column(j, rows.hidden[:, j])
        found.append(torch.log_softmax(logits, 1).gather(1, told[:, j, None].clamp_min(0))[:, 0])
        cursor.push(j, told[:, j], rows.score[:, j])
    whole = net.log_prob(rows)
    here = torch.stack(found, 1)
    here[:5, 0] = 0.0
    torch.testing.assert_close(here, whole, rtol=2e-3, atol=2e-3)
