"""Association measures against closed forms."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.association import Block, _entries, corrected_eta, corrected_v, gram
from cohortloom.evaluation.views import Axis, View
from cohortloom.schema import Category, Code, Schema, Table, Timestamp


def view_of(n, **columns):
    axes = {"rows": Axis(np.arange(n), np.zeros(n), np.arange(n), n)}
    return View(n, 1, axes, columns, None, None)


def matrix_of(view, a, b):
    blocks = [a, b]
    entries = _entries(blocks, blocks, 0, [(0, 1, 0)])
    return entries.matrix(gram(view, blocks, blocks).sum(0))


def number(name):
    return Block(name, "rows", lambda v: v.columns[name])


def category(name, levels):
    return Block(name, "rows", lambda v: v.columns[name], levels)


def test_two_numbers_give_their_correlation_over_complete_pairs():
    draw = np.random.default_rng(0)
    x = draw.normal(size=300)
    y = 0.5 * x + draw.normal(size=300)
    y[:40] = np.nan
    x[30:60] = np.nan
    both = np.isfinite(x) & np.isfinite(y)
    found = matrix_of(view_of(300, x=x, y=y), number("x"), number("y"))
    assert found[0] == pytest.approx(np.corrcoef(x[both], y[both])[0, 1])


def test_number_and_category_give_the_correlation_ratio():
    draw = np.random.default_rng(1)
    k = draw.integers(0, 3, 400)
    x = np.array([0.0, 1.0, 3.0])[k] + draw.normal(size=400)
    means = np.array([x[k == j].mean() for j in range(3)])
    eta2 = (((means - x.mean()) ** 2) * np.bincount(k)).sum() / ((x - x.mean()) ** 2).sum()
    found = matrix_of(view_of(400, x=x, k=k), number("x"), category("k", 3))
    assert (found**2).sum() == pytest.approx(eta2)


def test_two_categories_give_cramers_v():
    from scipy.stats.contingency import association

    draw = np.random.default_rng(2)
    a = draw.integers(0, 3, 500)
    b = np.where(draw.random(500) < 0.5, a, draw.integers(0, 4, 500))
    table = np.zeros((3, 4), int)
    np.add.at(table, (a, b), 1)
    found = matrix_of(view_of(500, a=a, b=b), category("a", 3), category("b", 4))
    assert np.sqrt((found**2).sum()) == pytest.approx(association(table, method="cramer"))


def test_corrected_v_is_zero_for_independence_and_one_for_identity():
    assert corrected_v(np.full((3, 4), 25)) == 0
    assert corrected_v(np.diag([50, 50, 50])) == pytest.approx(1, abs=1e-6)
    assert corrected_v(np.array([[10, 10]])) == 0


def test_corrected_v_has_little_bias_where_the_plain_one_is_far_off():
    from scipy.stats.contingency import association

    draw = np.random.default_rng(3)
    plain, corrected = [], []
    for _ in range(200):
        table = np.zeros((5, 5), int)
        np.add.at(table, (draw.integers(0, 5, 60), draw.integers(0, 5, 60)), 1)
        table += 0
        if (table.sum(0) > 0).all() and (table.sum(1) > 0).all():
            plain.append(association(table, method="cramer"))
            corrected.append(corrected_v(table))
    assert np.mean(plain) > 0.2
    assert np.mean(corrected) < 0.09


def test_corrected_eta_of_equal_groups_is_near_zero_and_of_apart_groups_near_one():
    draw = np.random.default_rng(4)
    x, k = draw.normal(size=90), np.arange(90) % 30
    sums = [np.bincount(k, weights=w) for w in (np.ones(90), x, x * x)]
    assert corrected_eta(*sums) < 0.5  # the plain ratio is sqrt(29 / 89) = .57 on average
    x = k + 1e-6 * x
    assert corrected_eta(*[np.bincount(k, weights=w) for w in (np.ones(90), x, x * x)]) == pytest.approx(1, abs=1e-3)


def stays(seed, n=400, dealt=False, events="codes"):
    """One stay each of half a day to three weeks with six rows a day, which `dealt` gives to other stays."""
    draw = np.random.default_rng(seed)
    days = np.exp(draw.uniform(np.log(0.5), np.log(21), n))
    rows = 1 + draw.poisson(6 * days)
    rows = draw.permutation(rows) if dealt else rows
    begun = np.datetime64("2024-01-01", "us") + (draw.uniform(0, 300, n) * 86_400e6).astype("timedelta64[us]")
    left = begun + (days * 86_400e6).astype("timedelta64[us]")
    ward = draw.choice(["A", "B"], n)
    visits = pl.DataFrame({"subject_id": range(n), "visit_id": range(n), "time": begun, "left": left, "ward": ward})
    who = np.repeat(np.arange(n), rows)
    codes = pl.DataFrame({"subject_id": who, "visit_id": who, "code": draw.choice(list("abc"), len(who))})
    schema = Schema(
        name="ward",
        tables={
            "stays": Table(role="visit", columns={"left": Timestamp(), "ward": Category(levels=("A", "B"))}),
            events: Table(role="event", parent="stays", timed=False, columns={"code": Code()}, code="code"),
        },
    )
    return Cohort.build(schema, {"stays": visits, events: codes})


@pytest.mark.parametrize("events", ["codes", "left"], ids=["a name of its own", "named like a timestamp"])
def test_rows_that_do_not_follow_the_length_of_their_visit_are_named(events):
    def worst(synthetic):
        train, held_out = stays(1, events=events), stays(2, events=events)
        report = evaluate(synthetic, train=train, held_out=held_out, only=["association"], seed=0)
        return next(s for s in report.scores if s.key == "association.temporal_temporal_worst")

    found, fine = worst(stays(3, dealt=True, events=events)), worst(stays(3, events=events))
    assert not found.passed and found.name.endswith(f"rows of {events} in a visit ~ time to stays.left")
    assert fine.passed
