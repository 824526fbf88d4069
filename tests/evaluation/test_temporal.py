"""Temporal statistics against closed forms and slow loops."""

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cohortloom import simulate
from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.fields import Field
from cohortloom.evaluation.temporal import (
    GAP_BINS,
    autocorrelation,
    pair_statistics,
    slopes,
    sojourn_times,
    spreads,
    variogram,
)
from cohortloom.evaluation.views import Axis, View
from cohortloom.schema import Category, Number, Schema, Table

X = Field("rows.x", "rows", "rows", "x")


class Plain(Field):
    """A field whose ranks are its values."""

    def ranks(self, values):
        return values


def view_of(patient, time, **columns):
    n = int(patient.max()) + 1
    axis = Axis(patient, time, np.arange(len(patient)), n)
    return View(n, 1, {"rows": axis}, columns, None, None)


def test_autocorrelation_of_an_irregular_ar1_process_decays_with_the_gap():
    # x(t) stationary with correlation exp(-u / 10) at gap u, seen at irregular times
    draw = np.random.default_rng(0)
    patient, time, x = [], [], []
    for i in range(600):
        t = np.cumsum(draw.exponential(4, 12))
        v = [draw.normal()]
        for gap in np.diff(t):
            rho = np.exp(-gap / 10)
            v.append(rho * v[-1] + np.sqrt(1 - rho**2) * draw.normal())
        patient += [i] * 12
        time += list(t)
        x += v
    view = view_of(np.array(patient), np.array(time), **{"rows.x": np.array(x)})
    field = Plain("rows.x", "rows", "rows", "x")
    cuts = np.array([2.0, 5.0, 8.0, 12.0, 18.0])
    s = pair_statistics(view, field, cuts, clocked=True).sum(0).reshape(6, -1)
    # the expected value in a bin is the mean of exp(-u / 10) over its pairs
    t, p = np.array(time), np.array(patient)
    expected = np.zeros(6)
    count = np.zeros(6)
    for lag in range(1, 6):
        same = p[lag:] == p[:-lag]
        u = (t[lag:] - t[:-lag])[same]
        b = np.searchsorted(cuts, u)
        expected += np.bincount(b, weights=np.exp(-u / 10), minlength=6)
        count += np.bincount(b, minlength=6)
    assert autocorrelation(s) == pytest.approx(expected / count, abs=0.05)
    assert variogram(s) == pytest.approx(1 - expected / count, abs=0.06)
    assert GAP_BINS == 6


def test_pairs_never_cross_patients_or_missing_values():
    patient = np.array([0, 0, 0, 1, 1])
    x = np.array([1.0, np.nan, 3.0, 10.0, 20.0])
    view = view_of(patient, np.arange(5.0), **{"rows.x": x})
    s = pair_statistics(view, Plain("rows.x", "rows", "rows", "x"), np.array([1.0]), clocked=True)
    n, xy = s.reshape(2, 6, 2)[:, 0], s.reshape(2, 6, 2)[:, 5]
    assert n.tolist() == [[0, 1], [1, 0]]  # patient 0: 1 and 3, two days apart; patient 1: 10 and 20, one day
    assert xy.tolist() == [[0, 3], [200, 0]]


def test_sojourns_are_the_completed_stays():
    # patient 0: A A B A, times 0 2 5 9; the last stay is cut off; patient 1: A only
    view = view_of(np.array([0, 0, 0, 0, 1]), np.array([0.0, 2, 5, 9, 0]), **{"rows.s": np.array([0, 0, 1, 0, 0])})
    field = Field("rows.s", "rows", "rows", "s", levels=("A", "B", "(other)"))
    patient, state, length = sojourn_times(view, field, clocked=True)
    assert (patient.tolist(), state.tolist(), length.tolist()) == ([0, 0], [0, 1], [5.0, 4.0])


def test_slopes_equal_polyfit():
    draw = np.random.default_rng(1)
    patient = np.repeat(np.arange(5), [1, 2, 3, 6, 9])
    time, x = draw.random(21) * 10, draw.normal(size=21)
    found = slopes(patient, time, x, 6)
    assert np.isnan(found[[0, 1, 5]]).all()
    for p in (2, 3, 4):
        assert found[p] == pytest.approx(np.polyfit(time[patient == p], x[patient == p], 1)[0])


def test_spread_within_patients_equals_numpy():
    patient, x = np.array([0, 0, 0, 2]), np.array([1.0, 2.0, 6.0, 5.0])
    mean, sd = spreads(patient, x, 3)
    assert mean == pytest.approx([3.0, np.nan, 5.0], nan_ok=True)
    assert sd == pytest.approx([np.std([1, 2, 6], ddof=1), np.nan, np.nan], nan_ok=True)


STATES = ("married", "single", "widowed", "divorced", "other")


def married(n: int, seed: int, change: float) -> Cohort:
    """Patients of 3.5 visits whose marital status becomes another one from visit to visit with a chance."""
    draw, rows = np.random.default_rng(seed), []
    for i in range(n):
        state, time = draw.choice(5, p=[0.4, 0.3, 0.15, 0.1, 0.05]), dt.datetime(2020, 1, 1)
        for _ in range(1 + draw.poisson(2.5)):
            rows.append((i, len(rows), time, STATES[state], float(draw.gamma(2, 2))))
            state = (state + draw.integers(1, 5)) % 5 if draw.random() < change else state
            time += dt.timedelta(days=int(draw.integers(5, 200)))
    columns = {"status": Category(levels=STATES), "stay": Number(unit="d")}
    schema = Schema(name="m", tables={"visits": Table(role="visit", columns=columns)})
    frame = pl.DataFrame(rows, schema=["subject_id", "visit_id", "time", "status", "stay"], orient="row")
    return Cohort.build(schema, {"visits": frame})


@pytest.mark.parametrize("seed", range(3))
def test_a_lasting_category_that_changes_is_seen_with_forty_patients(seed):
    train, held_out = married(60, 10 * seed + 1, 0.02), married(40, 10 * seed + 2, 0.02)

    def kept(change: float):
        drawn = married(100, 10 * seed + 3, change)
        report = evaluate(drawn, train=train, held_out=held_out, seed=seed, only=["temporal"], fast=True)
        return next(s for s in report.scores if s.key == "temporal.kept")

    bad, good = kept(0.5), kept(0.02)
    assert bad.value > bad.limit and good.value < good.limit


def test_shares_that_are_kept_are_compared_on_the_arcsine_scale():
    """All of the one cohort keep their status and three quarters of the other: 1 - 2 / pi arcsin(sqrt .75) = 1 / 3."""
    times = [dt.datetime(2020, 1, 1) + k * dt.timedelta(days=30) for k in range(5)]

    def cohort(states: str) -> Cohort:
        rows = [(i, 5 * i + k, times[k], STATES[int(s)], float(k)) for i in range(40) for k, s in enumerate(states)]
        schema = married(1, 0, 0).schema
        frame = pl.DataFrame(rows, schema=["subject_id", "visit_id", "time", "status", "stay"], orient="row")
        return Cohort.build(schema, {"visits": frame})

    real, drawn = cohort("00000"), cohort("00011")
    report = evaluate(drawn, train=real, held_out=real, seed=0, only=["temporal"], fast=True)
    score = next(s for s in report.scores if s.key == "temporal.kept")
    assert score.value == pytest.approx(1 / 3)


def test_a_drawn_patient_is_shown_with_dates_and_names_of_codes(schema_dir):
    """Dates of the static table as dates, codes as the schema calls them, and every event of the course."""
    cohort = simulate(Schema.from_file(schema_dir / "heart_failure_clinic.toml"), 60, seed=1)
    synthetic = replace(cohort, origin=replace(cohort.origin, kind="synthetic"))
    report = evaluate(synthetic, train=cohort, held_out=cohort, only=["temporal"], fast=True, seed=0)
    (shown,) = [f.content["patients"] for f in report.figures if f.kind == "timeline"]
    births = set(cohort.tables["patients"]["birth_date"].dt.date().cast(pl.String))
    assert len(shown) == 6
    for patient in shown:
        (born,) = [fact.removeprefix("birth_date ") for fact in patient["facts"] if fact.startswith("birth_date")]
        assert born in births
        assert {"creatinine"} <= {one["name"] for one in patient["series"]} | {e["label"] for e in patient["events"]}
        assert not [e for e in patient["events"] if e["label"] == "2160-0"]
    times = [(max(e["time"] for e in p["events"]), max(max(s["time"]) for s in p["series"])) for p in shown]
    assert all(abs(last - end) < 200 for last, end in times)
