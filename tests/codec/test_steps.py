"""Every reading of a sensor is a step; a patient's few findings of a day share one."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec
from cohortloom.codec.clock import DAY
from cohortloom.codec.steps import usual_width
from cohortloom.codec.tensors import Layout
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.schema import Schema

MINUTES = 5


def sensor(every: timedelta, *, clock="timestamp", n=8, readings=60):
    columns = {"glucose": {"kind": "number", "unit": "mg/dL", "decimals": 0}}
    table = {"role": "event", "columns": columns}
    schema = Schema.model_validate({"name": "sensor", "clock": clock, "tables": {"readings": table}})
    draw = np.random.default_rng(0)
    start = datetime(2024, 3, 1, 7, 3) if clock == "timestamp" else timedelta(days=-1)
    rows = [
        {"subject_id": k, "time": start + timedelta(days=k) + r * every, "glucose": 100 + 10 * draw.normal()}
        for k in range(n)
        for r in range(readings)
    ]
    return Cohort.build(schema, {"readings": pl.DataFrame(rows)})


@pytest.mark.parametrize("clock", ["timestamp", "offset"])
def test_readings_of_a_sensor_keep_their_times(clock):
    cohort = sensor(timedelta(minutes=MINUTES), clock=clock)
    codec = Codec.fit(cohort, Layout())
    encoded = codec.encode(cohort, rng=Rng(0))
    assert (encoded.sequence.length == 60).all()
    later = encoded.sequence.position > 0
    np.testing.assert_allclose(encoded.sequence.gap[later], MINUTES / 1440)
    again = codec.decode(encoded, Rng(1), ids=np.arange(1, 9)).tables["readings"]
    real = cohort.tables["readings"]
    since = pl.col("time") - pl.col("time").min().over("subject_id")  # the date a course begins is drawn from its law
    assert again.select(since)["time"].to_list() == real.select(since)["time"].to_list()
    assert np.corrcoef(again["glucose"], real["glucose"])[0, 1] > 0.95


def test_days_stay_steps_where_little_is_recorded_on_them():
    assert usual_width(sensor(timedelta(hours=15))) == DAY
    assert usual_width(sensor(timedelta(minutes=MINUTES))) == DAY // 1440
    assert usual_width(sensor(timedelta(minutes=MINUTES), readings=2)) == DAY


def test_days_stay_steps_of_streams_of_many_codes():
    table = {"role": "event", "code": "code", "columns": {"code": {"kind": "code"}}}
    schema = Schema.model_validate({"name": "stream", "clock": "timestamp", "tables": {"events": table}})
    plain = sensor(timedelta(minutes=MINUTES)).tables["readings"].drop("glucose")
    for codes, width in ((20, DAY // 1440), (80, DAY)):
        stream = plain.with_columns(code=pl.Series([f"c{k % codes}" for k in range(plain.height)]))
        assert usual_width(Cohort.build(schema, {"events": stream})) == width


def index_cohort(n=60):
    """Histories of irregular length that all end in a diagnosis on day 0, then a few later findings."""
    table = {"role": "event", "code": "event", "columns": {"event": {"kind": "code"}}}
    schema = Schema.model_validate({"name": "index", "clock": "offset", "tables": {"events": table}})
    draw, rows = np.random.default_rng(0), []
    for k in range(n):
        before = sorted(draw.choice(np.arange(1, 3000), draw.integers(1, 4), replace=False).tolist(), reverse=True)
        after = sorted(draw.choice(np.arange(1, 900), draw.integers(0, 3), replace=False).tolist())
        days = [-d for d in before] + [0] + after
        rows += [{"subject_id": k, "time": timedelta(days=d), "event": "index" if d == 0 else "other"} for d in days]
    return Cohort.build(schema, {"events": pl.DataFrame(rows)})


def test_the_day_of_the_index_is_met_exactly():
    cohort = index_cohort()
    codec = Codec.fit(cohort, Layout())
    encoded = codec.encode(cohort, rng=Rng(0))
    assert encoded.sequence.features[0].name == "steps.index" and codec.times.index
    again = Codec.from_json(cohort.schema, codec.to_json()).decode(encoded, Rng(1), ids=np.arange(60))
    assert again.tables["events"]["time"].to_list() == cohort.tables["events"]["time"].to_list()
    off = replace(encoded.sequence, gap=encoded.sequence.gap * np.linspace(0.9, 1.1, len(encoded.sequence.gap)))
    drawn = codec.decode(replace(encoded, sequence=off), Rng(1), ids=np.arange(60)).tables["events"]
    met = drawn.filter(pl.col("event") == "index")
    assert met.height == 60 and (met["time"] == timedelta()).all()
    assert drawn.filter(pl.col("time").diff().over("subject_id") < timedelta()).is_empty()


def test_a_course_that_never_passes_its_origin_has_no_index():
    assert not Codec.fit(sensor(timedelta(hours=15), clock="offset"), Layout()).times.index
