"""Cells within something that is not there: no cells to draw, to learn from, or to count."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import logsumexp

from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort
from cohortloom.generators import create
from cohortloom.generators.base import Generator
from cohortloom.generators.cells import ABSENT, raw_values
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.columnar_sampling import log_likelihood
from cohortloom.rng import Rng
from cohortloom.schema.text import parse_schema

SCHEMA = parse_schema(
    """
name = "gates"
version = "1"
clock = "order"
[tables.patients]
role = "static"
columns.sex = { kind = "flag", missing = false }
[tables.visits]
role = "visit"
parent = "patients"
columns.mood = { kind = "category", levels = ["a", "b"] }
[tables.findings]
role = "event"
parent = "visits"
timed = false
code = "item"
value = "value"
columns.item = { kind = "code" }
columns.value = { kind = "number", decimals = 0 }
"""
)
NO, YES = 2.0, 3.0


def cohort(n: int = 300) -> Cohort:
    """Two visits at most; half of them without findings, else A with .95 and B with .92 and a number of 1, 2 or 3."""
    draw = np.random.default_rng(0)
    sex = draw.random(n) < 0.5
    visits = [(i, 10 * i + k, k, "ab"[int(draw.random() < 0.4)]) for i in range(n) for k in range(draw.integers(0, 3))]
    rows = []
    for i, visit, _, _ in visits:
        if draw.random() < 0.5:
            b = draw.random() < 0.92
            rows += [(i, visit, "B", float(draw.integers(1, 4)))] if b else []
            rows += [(i, visit, "A", None)] if draw.random() < 0.95 or not b else []
    tables = {
        "patients": pl.DataFrame({"subject_id": range(n), "sex": sex}),
        "visits": pl.DataFrame(visits, schema=["subject_id", "visit_id", "time", "mood"], orient="row"),
        "findings": pl.DataFrame(rows, schema=["subject_id", "visit_id", "item", "value"], orient="row"),
    }
    return Cohort.build(SCHEMA, tables)


@pytest.fixture(scope="module")
def fitted():
    return create("columnar-ar", members=2, training={"steps": 60}).fit(cohort(), seed=0)


def everyone(fitted) -> Encoded:
    """Every patient the arrays can tell of, once."""
    one = fitted.codec_.encode(cohort(), rng=Rng(0))
    assert [f.name for f in one.sequence.features] == ["visits.mood", "findings#any", "findings.B", "findings.A"]
    inside = [(YES, b, a) for b in (np.nan, 1.0, 2.0, 3.0) for a in (NO, YES)]
    visit = [(mood, *rest) for mood in (2.0, 3.0) for rest in [(NO, np.nan, NO), *inside]]
    courses = [(), *((v,) for v in visit), *product(visit, visit)]
    statics = np.repeat(np.unique(one.static.values), len(courses))[:, None]
    values = np.array([v for course in courses * 2 for v in course])
    length = np.array([len(course) for course in courses * 2])
    static = replace(one.static, values=statics, observed=np.ones(statics.shape, bool))
    known = ~np.isnan(values)
    return Encoded(static, replace(one.sequence, values=np.where(known, values, 0), observed=known,
                                   gap=np.zeros(len(values)), length=length))  # fmt: skip


def test_probabilities_of_all_arrays_sum_to_one(fitted):
    encoded, net = everyone(fitted), fitted.net_
    for member in range(2):
        assert logsumexp(log_likelihood(net.alphabet, net.member(member), encoded)) == pytest.approx(0, abs=1e-4)


def test_what_is_drawn_says_the_same_of_a_table_and_of_what_lies_within(fitted):
    part = fitted._draw(2000, None, Rng(1), {}).sequence
    values, (fold,) = raw_values(part), fitted.codec_.folds
    shut = values[:, 1] == NO
    assert 0.4 < shut.mean() < 0.6
    assert np.isnan(values[shut, 2]).all() and (values[shut, 3] == NO).all()
    within = values[~shut]
    assert np.mean(~np.isnan(within[:, 2])) == pytest.approx(0.92, abs=0.04)
    assert np.mean(within[:, 3] == YES) == pytest.approx(0.95, abs=0.04)
    told = {f.name: (part.values[:, j], part.observed[:, j]) for j, f in enumerate(part.features)}
    assert np.array_equal(fold.present(told)["findings.B"][1], part.observed[:, 2])


def test_coders_learn_from_the_rows_in_which_a_cell_is_there(fitted):
    """An ungated alphabet has B missing where nothing is looked for; gated, those cells are no cells."""
    encoded = fitted.codec_.encode(cohort(), rng=Rng(0))
    gated, plain = (Alphabet.fit(encoded, gated=gated) for gated in (True, False))
    assert gated.gates.keys() == {2, 3} and not plain.gates
    tokens = [alphabet.visit_cells(encoded)[1].token[:, 2:] for alphabet in (gated, plain)]
    shut = raw_values(encoded.sequence)[:, 1] == NO
    assert ((tokens[0] == ABSENT).all(1) == shut).all() and (tokens[1] >= 0).all()
    assert Alphabet.from_json(gated.to_json()).gates == gated.gates


def continues_fills_and_comes_back(fitted: Generator, real: Cohort, until: int, folder: Path) -> None:
    """What every gated model can do."""
    more = fitted.extend(real, until=until, seed=3).tables
    assert more["visits"].height > real.tables["visits"].height
    assert more["findings"].height > real.tables["findings"].height
    visits = real.tables["visits"]
    holes = visits.with_columns(mood=pl.when(pl.col("visit_id") % 7 != 0).then("mood"))
    filled = fitted.impute(Cohort.build(SCHEMA, dict(real.tables) | {"visits": holes}), seed=4)
    assert filled.tables["visits"]["mood"].null_count() == 0
    assert filled.tables["findings"].equals(real.tables["findings"])
    fitted.save(folder)
    again = type(fitted).load(folder).sample(50, seed=2).tables
    for table, frame in fitted.sample(50, seed=2).tables.items():
        assert frame.equals(again[table])


def test_a_gated_model_continues_fills_and_comes_back_from_disk(fitted, tmp_path):
    continues_fills_and_comes_back(fitted, cohort(), 1, tmp_path / "model")
