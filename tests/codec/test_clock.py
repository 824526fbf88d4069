"""Facts of days, times of day and dates."""

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec, Layout
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.schema import Category, Schema, Table, Timestamp

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
