"""Every reading of a sensor is a step; a patient's few findings of a day share one."""

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
