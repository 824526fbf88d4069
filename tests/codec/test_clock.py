"""Facts of days, times of day and dates."""

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec, Layout
from cohortloom.codec.clock import MONTH, YEAR, floor_to, place_of, round_to, time_of
from cohortloom.cohort import Cohort
from cohortloom.generators import create
from cohortloom.rng import Rng
from cohortloom.schema import Category, Number, Schema, Table, Timestamp

RAW = Layout(scale="raw")
DAY = dt.timedelta(days=1)


def clinic(n: int = 60, *, hourly: bool = False, midnight: bool = False, seed: int = 0) -> Cohort:
    """Visits of patients; dates of the first and last visit, and of the end of the study (one for most patients)."""
    schema = Schema(
        name="clinic",
        tables={
            "patients": Table(
                role="static",
                columns={
                    "first_seen": Timestamp(granularity="day"),
                    "closed": Timestamp(granularity="day"),
                },
            ),
            "visits": Table(
                role="visit", columns={"kind": Category(levels=("a", "b")), "due": Timestamp(granularity="day")}
            ),
        },
    )
    draw = np.random.default_rng(seed)
    patients: list[tuple] = []
    visits: list[tuple] = []
    for i in range(n):
        day = dt.datetime(2020, 1, 1) + int(draw.integers(0, 300)) * DAY
        patients.append(
            (i, day, dt.datetime(2023, 6, 30) if draw.random() < 0.7 else day + int(draw.integers(800)) * DAY)
        )
        time = day
        for _ in range(int(draw.integers(1, 6))):
            time += dt.timedelta(hours=1) if hourly else int(draw.integers(0, 40)) * DAY
            clock = dt.timedelta(0) if hourly or midnight else dt.timedelta(minutes=int(draw.integers(480, 960)))
            visits.append((i, time + clock, "a", time + int(draw.integers(0, 3)) * DAY))
    frame = pl.DataFrame(visits, schema=["subject_id", "time", "kind", "due"], orient="row").sort("subject_id", "time")
    frame = frame.with_row_index("visit_id")
    names = ["subject_id", "first_seen", "closed"]
    return Cohort.build(schema, {"patients": pl.DataFrame(patients, schema=names, orient="row"), "visits": frame})


def trip(cohort: Cohort, *, nudge: float = 0.0) -> tuple[Codec, Cohort]:
    codec = Codec.from_json(cohort.schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    encoded = codec.encode(cohort, rng=Rng(0))
    encoded.static.values[:] += nudge
    return codec, codec.decode(encoded, Rng(1), ids=np.arange(cohort.n_subjects))


def test_visits_on_several_days_have_whole_gaps_and_a_time_of_day():
    cohort = clinic()
    codec, back = trip(cohort)
    sequence = codec.encode(cohort, rng=Rng(0)).sequence
    assert codec.sequence_features[0].name == "visits.clock"
    time = cohort.tables["visits"]["time"]
    assert np.allclose(sequence.values[:, 0], time.dt.hour() + time.dt.minute() / 60)
    assert (sequence.gap == np.round(sequence.gap)).all() and sequence.gap.max() > 1
    assert back.tables["visits"].drop("visit_id").equals(cohort.tables["visits"].drop("visit_id"))


@pytest.mark.parametrize("grain", ["hourly", "midnight"])
def test_hours_and_dates_have_no_time_of_day(grain):
    cohort = clinic(**{grain: True})
    codec, back = trip(cohort)
    assert "visits.clock" not in {f.name for f in codec.sequence_features}
    assert back.tables["visits"]["time"].equals(cohort.tables["visits"]["time"])


def test_the_day_of_the_first_visit_is_that_day():
    """A static date on the day of a visit in the afternoon counts 0 days from it, and small noise does not move it."""
    cohort = clinic()
    codec = Codec.fit(cohort, RAW)
    encoded = codec.encode(cohort, rng=Rng(0))
    at = [f.name for f in codec.static_features].index("patients.first_seen")
    first = (
        cohort.tables["visits"].group_by("subject_id").agg(pl.col("time").min().dt.truncate("1d")).sort("subject_id")
    )
    days = (cohort.tables["patients"]["first_seen"] - first["time"]).dt.total_days()
    assert np.array_equal(encoded.static.values[:, at], days) and (days == 0).any()
    _, back = trip(cohort, nudge=0.4)
    assert back.tables["patients"].equals(cohort.tables["patients"])


def test_dates_within_a_visit_count_from_its_day():
    cohort = clinic()
    codec = Codec.fit(cohort, RAW)
    encoded = codec.encode(cohort, rng=Rng(0)).sequence
    at = [f.name for f in codec.sequence_features].index("visits.due")
    assert set(encoded.values[:, at]) == {0.0, 1.0, 2.0}


def test_the_end_of_a_study_stays_one_date():
    """Most patients share it: who has it began as long before it as the arrays say."""
    cohort = clinic(200)
    codec = Codec.fit(cohort, RAW)
    names = [f.name for f in codec.static_features]
    assert "patients.closed.shared" in names
    encoded = codec.encode(cohort, rng=Rng(0))
    encoded.static.values[:, names.index("patients.closed")] += 17  # everybody stays 17 days longer
    back = codec.decode(encoded, Rng(1), ids=np.arange(200)).tables["patients"]
    true = cohort.tables["patients"]
    end = true["closed"] == dt.datetime(2023, 6, 30)
    assert 100 < end.sum() < 180 and back["closed"].filter(end).equals(true["closed"].filter(end))
    assert ((back["first_seen"] - true["first_seen"]).filter(end) == -17 * DAY).all()
    assert ((back["closed"] - true["closed"]).filter(~end) == 17 * DAY).all()


def test_visits_of_one_day_stay_in_order():
    """A generator may write the second visit of a day earlier than the first."""
    cohort = clinic()
    codec = Codec.fit(cohort, RAW)
    encoded = codec.encode(cohort, rng=Rng(0))
    sequence = encoded.sequence
    sequence.gap[:] = 0
    back = codec.decode(encoded, Rng(1), ids=np.arange(60)).tables["visits"]
    for (subject,), own in back.group_by("subject_id"):
        assert own.sort("visit_id")["time"].is_sorted() and own["time"].dt.date().n_unique() == 1
        hours = np.sort(own["time"].dt.hour() + own["time"].dt.minute() / 60)
        assert np.allclose(hours, np.sort(sequence.values[sequence.subject == subject, 0]))


def test_months_and_years_are_those_of_the_calendar():
    """Beside Python's own dates, before and after 1970."""
    days = [dt.datetime(1890, 1, 1) + k * 37 * DAY + dt.timedelta(hours=k % 24) for k in range(2000)]
    ticks = np.array([round((day - dt.datetime(1970, 1, 1)) / dt.timedelta(microseconds=1)) for day in days])
    for grid, first, unit in (
        (MONTH, lambda d: d.replace(day=1), "1mo"),
        (YEAR, lambda d: d.replace(month=1, day=1), "1y"),
    ):
        low = [first(day.replace(hour=0)) for day in days]
        assert pl.Series(floor_to(ticks, grid)).cast(pl.Datetime("us")).to_list() == low
        high = pl.Series(low).dt.offset_by(unit).to_list()
        near = [a if day - a < b - day else b for a, day, b in zip(low, days, high)]
        assert pl.Series(round_to(ticks, grid)).cast(pl.Datetime("us")).to_list() == near
        assert np.array_equal(time_of(place_of(ticks, grid) + 1, grid), pl.Series(high).to_physical().to_numpy())


def by_month(n: int = 200, seed: int = 0) -> Cohort:
    """Visits and drugs of registry patients by the month, every one, three or six months; births by the year."""
    schema = Schema(
        name="registry",
        tables={
            "patients": Table(role="static", columns={"birth": Timestamp(granularity="year")}),
            "visits": Table(role="visit", columns={"egfr": Number(decimals=1)}),
            "drugs": Table(role="event", columns={"dose": Number(decimals=1)}),
        },
    )
    draw = np.random.default_rng(seed)
    births, visits, drugs = [], [], []
    for i in range(n):
        month = int(draw.integers(0, 60))
        births.append((i, dt.datetime(1930 + int(draw.integers(0, 50)), 1, 1)))
        for _ in range(int(draw.integers(1, 9))):
            when = dt.datetime(2010 + month // 12, month % 12 + 1, 1)
            visits.append((i, when, float(draw.normal())))
            drugs += [(i, when, float(draw.normal()))] * int(draw.integers(0, 2))
            month += int(draw.choice([1, 3, 6], p=[0.3, 0.5, 0.2]))
    frame = pl.DataFrame(visits, schema=["subject_id", "time", "egfr"], orient="row").with_row_index("visit_id")
    tables = {"patients": pl.DataFrame(births, schema=["subject_id", "birth"], orient="row"), "visits": frame}
    tables["drugs"] = pl.DataFrame(drugs, schema=["subject_id", "time", "dose"], orient="row")
    return Cohort.build(schema, tables)


@pytest.mark.parametrize("name", ["columnar-ar", "event-transformer"])
def test_rows_dated_by_the_month_are_drawn_so(name):
    cohort = by_month()
    drawn = create(name, **({"training": {"steps": 40}} if name == "event-transformer" else {})).fit(cohort, seed=1)
    drawn = drawn.sample(300, seed=1).tables
    for table in ("visits", "drugs"):
        assert drawn[table].height > 100
        assert (drawn[table]["time"] == drawn[table]["time"].dt.truncate("1mo")).all()
    assert (drawn["patients"]["birth"] == drawn["patients"]["birth"].dt.truncate("1y")).all()
    if name == "event-transformer":
        return
    when = drawn["visits"].sort("subject_id", "time")["time"]
    months = (
        drawn["visits"]
        .sort("subject_id", "time")
        .select("subject_id", m=when.dt.year() * 12 + when.dt.month().cast(pl.Int32))
    )
    gap = months.select(pl.col("m").diff().over("subject_id"))["m"].drop_nulls()
    for length, share in ((1, 0.3), (3, 0.5), (6, 0.2)):
        assert (gap == length).mean() == pytest.approx(share, abs=0.06)


def test_rows_that_name_the_day_alone_stay_on_the_days_of_their_visit():
    """Samples of visits with a time of day, by date: of the day or the one after, never the day before."""
    draw, visits, labs = np.random.default_rng(2), [], []
    for i in range(200):
        day = dt.datetime(2020, 1, 1) + int(draw.integers(0, 700)) * DAY
        for _ in range(int(draw.integers(1, 6))):
            visits.append((i, len(visits), day + dt.timedelta(minutes=int(draw.integers(360, 1320)))))
            labs += [(i, len(visits) - 1, day + k * DAY, 1.0) for k in range(1 + int(draw.random() < 0.4))]
            day += int(draw.integers(5, 60)) * DAY
    tables = {
        "visits": Table(role="visit", columns={}),
        "labs": Table(role="event", parent="visits", columns={"crp": Number(unit="mg/L")}),
    }
    keys = ["subject_id", "visit_id", "time"]
    frames = {"visits": pl.DataFrame(visits, schema=keys, orient="row")}
    frames["labs"] = pl.DataFrame(labs, schema=[*keys, "crp"], orient="row")
    model = create("columnar-ar").fit(Cohort.build(Schema(name="d", tables=tables), frames), seed=1)
    drawn = model.sample(300, seed=1).tables
    both = drawn["labs"].join(drawn["visits"].select("visit_id", start=pl.col("time").dt.truncate("1d")), on="visit_id")
    late = (both["time"] - both["start"]).dt.total_days()
    assert late.is_in([0, 1]).all() and (late == 1).mean() == pytest.approx(0.4 / 1.4, abs=0.06)
