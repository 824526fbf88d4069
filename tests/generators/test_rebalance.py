"""Exact shares of levels, and conditions that are rare."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import SettingsError
from cohortloom.generators import columnar_sampling, create
from cohortloom.generators.rebalance import _fitted, _largest_remainder, _rounded, shuffled
from cohortloom.rng import Rng
from cohortloom.schema import Schema

RARE = Schema.model_validate(
    {
        "name": "rare",
        "clock": "order",
        "tables": {
            "people": {
                "role": "static",
                "columns": {
                    "age": {"kind": "number", "low": 0, "high": 100, "decimals": 0},
                    "sex": {"kind": "category", "levels": ["F", "M", "X"]},
                    "disease": {"kind": "category", "levels": ["common", "uncommon", "rare"]},
                    "smoker": {"kind": "flag"},
                },
            },
            "visits": {
                "role": "visit",
                "columns": {
                    "pressure": {"kind": "number", "low": 60, "high": 240, "decimals": 0},
                    "ward": {"kind": "category", "levels": ["a", "b"]},
                },
            },
        },
    }
)


def cohort(n: int = 4_000) -> Cohort:
    """Disease by age, one in a thousand rare; pressure by disease and age; nobody has sex X."""
    rng = np.random.default_rng(0)
    age = np.clip(rng.normal(50, 12, n).round(), 0, 100)
    uncommon, rare = rng.random(n) < 0.2, np.zeros(n, bool)
    # six rare patients, all old; "uncommon" goes with smoking
    rare[np.argsort(-age)[:60:10]] = True
    disease = np.where(rare, "rare", np.where(uncommon, "uncommon", "common"))
    smoker = rng.random(n) < np.where(uncommon, 0.7, 0.2)
    length = rng.integers(1, 4, n)
    owner = np.repeat(np.arange(n), length)
    pressure = np.clip((100 + 0.5 * age + 40 * rare)[owner] + rng.normal(0, 8, len(owner)), 60, 240).round()
    time = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    people = pl.DataFrame(
        {"subject_id": np.arange(n), "age": age, "sex": np.where(rng.random(n) < 0.5, "F", "M"), "disease": disease,
         "smoker": smoker}
    )  # fmt: skip
    visits = pl.DataFrame(
        {"subject_id": owner, "visit_id": np.arange(len(owner)), "time": time, "pressure": pressure,
         "ward": np.where(rng.random(len(owner)) < 0.3, "b", "a")}
    )  # fmt: skip
    return Cohort.build(RARE, {"people": people, "visits": visits})


@pytest.fixture(scope="module")
def fitted():
    return create("columnar-ar", candidates=1, training={"steps": 120}).fit(cohort(), seed=0)


def counts(frame: pl.DataFrame, column: str) -> dict:
    return dict(frame[column].cast(pl.String).value_counts().iter_rows())


def first(drawn: Cohort) -> pl.DataFrame:
    return drawn.tables["visits"].unique("subject_id", keep="first", maintain_order=True)


def test_shares_are_met_exactly_and_told(fitted):
    drawn = fitted.sample(101, seed=1, rebalance={"people.disease": "uniform"})
    assert drawn.n_subjects == 101
    assert sorted(counts(drawn.tables["people"], "disease").values()) == [33, 34, 34]
    assert drawn.origin.notes["rebalanced"] == {"people.disease": counts(drawn.tables["people"], "disease")}
    again = fitted.sample(101, seed=1, rebalance={"people.disease": "uniform"})
    assert all(again.tables[name].equals(drawn.tables[name]) for name in drawn.tables)
    blocks = (drawn.tables["people"]["disease"] != drawn.tables["people"]["disease"].shift(1)).sum()
    assert blocks > 20, "patients stand in blocks of one level"


def test_several_columns_are_exact_at_once_and_stay_associated(fitted):
    wanted = {
        "people.disease": {"common": 0.5, "uncommon": 0.5},
        "people.smoker": {True: 0.4, False: 0.6},
        "visits.ward": "uniform",
    }
    drawn = fitted.sample(1_000, seed=2, rebalance=wanted)
    people = drawn.tables["people"]
    assert counts(people, "disease") == {"common": 500, "uncommon": 500}
    assert counts(people, "smoker") == {"true": 400, "false": 600}
    assert counts(first(drawn), "ward") == {"a": 500, "b": 500}
    share = people.group_by("disease").agg(pl.col("smoker").mean())
    smokes = dict(share.iter_rows())
    assert smokes["uncommon"] - smokes["common"] > 0.3  # .7 and .2 in the training patients


def test_what_is_not_balanced_follows_from_what_is(fitted):
    drawn = fitted.sample(400, seed=3, rebalance={"people.disease": {"rare": 0.5, "common": 0.5}})
    pressure = first(drawn).join(drawn.tables["people"], on="subject_id").group_by("disease").agg(
        pl.col("pressure").mean()
    )  # fmt: skip
    mean = dict(pressure.iter_rows())
    assert mean["rare"] - mean["common"] > 15  # 40 and the age; six patients are not much to learn from


@pytest.mark.slow
def test_processes_draw_the_same(fitted):
    wanted = {"people.disease": "uniform"}
    one = fitted.sample(30, seed=4, rebalance=wanted)
    two = fitted.sample(30, seed=4, rebalance=wanted, workers=2)
    assert all(one.tables[name].equals(two.tables[name]) for name in one.tables)


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"people.disease": {"common": 0.5, "rare": 0.4}}, "add up to 1"),
        ({"people.disease": {"comon": 1.0}}, "common"),
        ({"people.sex": {"X": 1.0}}, "X"),  # declared, but no patient holds it
        ({"people.age": "uniform"}, "no category"),
        ({"people.nothing": "uniform"}, "no category"),
        ({"people.sex": "even"}, "uniform"),
    ],
)
def test_shares_that_can_not_be_met_are_refused(fitted, wanted, match):
    with pytest.raises(SettingsError, match=match):
        fitted.sample(10, seed=0, rebalance=wanted)


def test_a_stream_is_balanced_like_a_table():
    model = create("event-transformer", width=16, layers=1, training={"steps": 2}).fit(cohort(60), seed=0)
    drawn = model.sample(9, seed=1, rebalance={"people.disease": {"common": 1 / 3, "uncommon": 2 / 3}})
    assert counts(drawn.tables["people"], "disease") == {"common": 3, "uncommon": 6}


def test_waveforms_stay_with_their_patients():
    """The first sample of a record is the patient's number."""
    schema = {"name": "waves", "clock": "order", "signals": {"w": {"kind": "other", "channels": ["a"], "fs": 1}},
              "tables": {"people": {"role": "static", "columns": {"x": {"kind": "number"}}}}}  # fmt: skip
    schema = Schema.model_validate(schema)
    ids = np.arange(1, 13)
    owner = np.repeat(ids, 2)
    records = {"record_id": np.arange(24), "subject_id": owner, "visit_id": None, "time": None, "n_samples": 3}
    records = pl.DataFrame({**records, "label": None})
    notes = pl.DataFrame({"record_id": np.arange(24), "sample": 1, "kind": "beat", "symbol": "N"})
    samples = np.repeat(owner[:, None, None], 3, axis=2).astype(np.float32)
    waves = {"w": SignalSet(schema.signals["w"], records, samples, notes)}
    people = pl.DataFrame({"subject_id": ids, "x": ids.astype(float)})
    mixed = shuffled(Cohort.build(schema, {"people": people}, signals=waves), Rng(0))
    x = dict(mixed.tables["people"].iter_rows())
    assert list(x.values()) != sorted(x.values())
    found = mixed.signals["w"]
    assert found.records["subject_id"].is_sorted()
    assert [x[s] for s in found.records["subject_id"]] == found.samples[:, 0, 0].tolist()
    assert found.annotations["record_id"].to_list() == found.records["record_id"].to_list()


def test_a_column_can_not_be_fixed_and_balanced(fitted):
    with pytest.raises(SettingsError, match="where too"):
        fitted.sample(10, seed=0, where={"people.sex": "F"}, rebalance={"people.sex": "uniform"})
    drawn = fitted.sample(10, seed=0, where={"people.sex": "F"}, rebalance={"people.disease": "uniform"})
    assert counts(drawn.tables["people"], "sex") == {"F": 10}


def test_rounding_keeps_both_margins():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, levels = rng.integers(1, 7, 2)
        n = int(rng.integers(1, 60))
        row = _largest_remainder(rng.dirichlet(np.ones(rows)), n)
        column = _largest_remainder(rng.dirichlet(np.ones(levels)), n)
        table = _fitted(rng.random((rows, levels)) ** 4 + 1e-3, row, column)
        whole = _rounded(table, row, column)
        assert (whole.sum(1) == row).all() and (whole.sum(0) == column).all() and (whole >= 0).all()
        assert np.abs(whole - table).max() < 2


def test_fitting_a_table_to_its_margins():
    # a table that has the margins already stays; with uniform pattern the fit is the product of the margins
    kept = np.array([[2.0, 1.0], [3.0, 4.0]])
    np.testing.assert_allclose(_fitted(kept, kept.sum(1), kept.sum(0)), kept, atol=1e-6)
    np.testing.assert_allclose(_fitted(np.ones((2, 2)), np.array([4, 6]), np.array([3, 7])), [[1.2, 2.8], [1.8, 4.2]])


# --- conditions ---


def test_rare_conditions_need_no_redraws(fitted):
    """One patient in a thousand, three statics, a number and a first visit at once: every patient at the first try."""
    where = {"people.disease": "rare", "people.sex": "F", "people.age": 30, "visits.pressure": 150, "visits.ward": "b"}
    drawn = fitted.sample(300, seed=5, where=where)
    people, visit = drawn.tables["people"], first(drawn)
    assert drawn.n_subjects == 300 and drawn.origin.notes == {}
    assert people.select("age", "sex", "disease").unique().rows() == [(30.0, "F", "rare")]
    assert visit.select("pressure", "ward").unique().rows() == [(150.0, "b")] and visit.height == 300


def test_columns_before_a_rare_level_follow_from_it(fitted, monkeypatch):
    """Age stands before the disease, and the rare one is a disease of the old; many candidates say the same as few."""
    where = {"people.disease": "rare", "visits.pressure": 150}
    free = fitted.sample(3_000, seed=6).tables["people"]["age"].mean()
    few = fitted.sample(300, seed=6, where=where).tables["people"]["age"]
    monkeypatch.setattr(columnar_sampling, "PARTICLES", 1024)
    many = fitted.sample(300, seed=7, where=where).tables["people"]["age"]
    assert few.mean() > free + 5
    assert few.mean() == pytest.approx(many.mean(), abs=3 * few.std() * np.sqrt(2 / 300))
    assert few.std() == pytest.approx(many.std(), rel=0.2)
