"""Weekdays of starts and visits."""

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec
from cohortloom.codec.clock import DAY
from cohortloom.codec.steps import Steps
from cohortloom.codec.tensors import Layout
from cohortloom.codec.weekdays import Weekdays
from cohortloom.cohort import Cohort
from cohortloom.generators import create
from cohortloom.rng import Rng
from cohortloom.schema.text import parse_schema
from cohortloom.training.settings import Training

SCHEMA = parse_schema(
    """
name = "clinic"
clock = "timestamp"
[tables.people]
role = "static"
[tables.people.columns.born]
kind = "timestamp"
missing = true
[tables.visits]
role = "visit"
[tables.visits.columns.weight]
kind = "number"
missing = true
"""
)


def _weekday(day: np.ndarray) -> np.ndarray:
    """Monday is 0."""
    return np.array([np.datetime64(int(d), "D").astype(object).weekday() for d in day])


def _steps(day: np.ndarray, length: np.ndarray) -> Steps:
    return Steps(pl.Series(np.arange(len(length))), length, day * DAY, None)


def _courses(n: int, rng: np.random.Generator, *, open_days: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Days of five visits a month or so apart, moved on to the next open day."""
    day = 18_000 + rng.integers(0, 1_000, n)[:, None] + np.cumsum(rng.integers(20, 60, (n, 5)), 1)
    late = _weekday(day.ravel()).reshape(day.shape) - open_days + 1
    return (day + np.where(late > 0, 7 - open_days - late + 1, 0)).ravel(), np.full(n, 5)


def test_shares_are_learned_and_drawn():
    rng = np.random.default_rng(0)
    law = Weekdays.fit(_steps(*_courses(400, rng, open_days=5)), np.arange(18_000, 19_000))
    drawn = _steps(*_courses(4_000, rng))
    share = lambda day: np.bincount(_weekday(day), minlength=7) / len(day)  # noqa: E731
    real = share(_courses(4_000, rng, open_days=5)[0])
    assert np.abs(share(drawn.time // DAY) - real).sum() / 2 > 0.25
    moved = law.moved(drawn, rng, courses=True)
    for part in (drawn.first, ~drawn.first):
        got = share(moved[part] // DAY)
        assert got[5:].sum() < 0.01
        assert np.abs(got - real).sum() / 2 < 0.09  # a last visit only goes back in time, seldom to Monday


def test_moves_are_short_and_keep_order():
    rng = np.random.default_rng(1)
    law = Weekdays.fit(_steps(*_courses(400, rng, open_days=5)), np.arange(18_000, 19_000))
    length = rng.integers(0, 6, 500)
    gap = np.where(rng.random(length.sum()) < 0.5, 0, rng.integers(0, 12, length.sum()))
    day = np.concatenate([18_000 + np.cumsum(part) for part in np.split(gap, np.cumsum(length)[:-1])])
    steps = _steps(day, length)
    moved = law.moved(steps, rng, courses=False)
    assert np.array_equal(moved[steps.first], steps.time[steps.first])
    assert (np.abs(moved - steps.time) <= 3 * DAY).all() and (moved != steps.time).any()
    same = steps.subject[1:] == steps.subject[:-1]
    before, after = np.diff(steps.time)[same], np.diff(moved)[same]
    assert np.array_equal(before == 0, after == 0) and (after >= 0).all()  # days shared and order
    ends = np.cumsum(length)[length > 1] - 1
    assert (moved[ends] <= steps.time[ends]).all()


def test_even_weeks_are_left_alone():
    rng = np.random.default_rng(2)
    steps = _steps(*_courses(400, rng))
    law = Weekdays.fit(steps, np.arange(18_000, 19_000))
    assert law == Weekdays() == Weekdays.from_json(law.to_json())
    assert np.array_equal(law.moved(steps, rng, courses=True), steps.time)
    months = np.arange("2019-01", "2023-01", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int64)
    registry = _steps(np.sort(rng.choice(months, (900, 5)), axis=1).ravel(), np.full(900, 5))
    assert np.ptp(np.bincount(_weekday(registry.time // DAY), minlength=7)) > 200  # uneven, by the calendar alone
    assert Weekdays.fit(registry, registry.time[registry.first] / DAY) == Weekdays()
    nobody = _steps(np.zeros(0, np.int64), np.zeros(3, np.int64))
    assert Weekdays.fit(nobody, np.zeros(0)) == Weekdays()


@pytest.fixture(scope="module")
def weekday_clinic() -> Cohort:
    rng = np.random.default_rng(3)
    day, length = _courses(150, rng, open_days=5)
    who = np.repeat(np.arange(len(length)), length)
    weight = rng.normal(size=len(day))
    visits = pl.DataFrame({"subject_id": who, "visit_id": np.arange(len(day)), "time": day * DAY, "weight": weight})
    people = pl.DataFrame({"subject_id": np.arange(len(length)), "born": rng.integers(0, 9_000, len(length)) * DAY})
    return Cohort.build(
        SCHEMA,
        {
            "people": people.with_columns(pl.col("born").cast(pl.Datetime("us"))),
            "visits": visits.with_columns(pl.col("time").cast(pl.Datetime("us"))),
        },
    )


def test_what_is_encoded_comes_back_on_its_day(weekday_clinic):
    codec = Codec.fit(weekday_clinic, Layout(scale="raw"))
    assert codec.times.weekdays.later_keep
    encoded = codec.encode(weekday_clinic, rng=Rng(0))
    again = codec.decode(encoded, Rng(1), ids=np.arange(150))
    assert again.tables["visits"]["time"].equals(weekday_clinic.tables["visits"]["time"])
    assert Codec.from_json(SCHEMA, codec.to_json()).times.weekdays == codec.times.weekdays


def test_drawn_patients_come_on_weekdays_and_given_dates_stay(weekday_clinic):
    model = create("columnar-ar", training=Training(steps=60), members=1).fit(weekday_clinic, seed=0)
    weekend = lambda cohort: (cohort.tables["visits"]["time"].dt.weekday() > 5).mean()  # noqa: E731
    assert weekend(weekday_clinic) == 0
    drawn = model.sample(400, seed=1)
    assert weekend(drawn) < 0.1  # two days of seven without the law
    given = model.sample(given=weekday_clinic, seed=1)
    assert given.tables["people"]["born"].equals(weekday_clinic.tables["people"]["born"])
