"""Drafts say how long patients are followed and how often they come: simulated ones do as those in the files."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.schema.infer import Draft, infer_schema
from cohortloom.simulation import simulate

DAY = dt.timedelta(days=1)


DAY = dt.timedelta(days=1)


def frames(gap: dt.timedelta, mean_visits: float, n: int = 80) -> dict[str, pl.DataFrame]:
    """Patients seen every `gap`, some longer than others, from 2010 to 2012; half a drug a visit, of two."""
    rng = np.random.default_rng(0)
    seen = np.repeat(np.arange(n), 1 + rng.poisson(mean_visits - 1, n))
    place = np.concatenate([np.arange(k) for k in np.bincount(seen)])
    start = dt.datetime(2010, 1, 1) + rng.integers(0, 700, n) * dt.timedelta(days=1)
    jitter = rng.uniform(0, 0.1, len(seen))
    when = [start[i] + float(k + j) * gap for i, k, j in zip(seen, place, jitter)]
    visits = pl.DataFrame({"patient_id": seen, "charted": when, "pulse": rng.integers(50, 120, len(seen))})
    visits = visits.with_columns(pl.Series("weight", rng.normal(70, 9, len(seen)).round(1)), lactate=pl.lit(1.5))
    visits = visits.with_columns(
        pl.when(pl.Series(rng.random(len(seen)) < 0.3)).then(pl.col("pulse") / 50).alias("lactate")
    )
    taken = np.flatnonzero(rng.random(len(seen)) < 0.5)
    drug = np.where(rng.random(len(taken)) < 0.8, "aspirin", "heparin")
    drugs = pl.DataFrame({"patient_id": seen[taken], "given_at": [when[i] for i in taken], "drug": drug})
    people = pl.DataFrame({"patient_id": np.arange(n), "sex": rng.choice(["F", "M"], n)})
    return {"people": people, "visits": visits, "drugs": drugs}


def spacing(cohort: Cohort) -> tuple[float, float, float]:
    """Visits per patient, median gap [h], drugs per visit."""
    visits = cohort.tables["visits"].sort("subject_id", "time")
    gap = visits.select(pl.col("time").diff().over("subject_id").dt.total_seconds()).to_series().drop_nulls()
    return visits.height / cohort.n_subjects, float(gap.median()) / 3600, cohort.tables["drugs"].height / visits.height  # type: ignore[arg-type]


@pytest.mark.parametrize(("gap", "visits"), [(dt.timedelta(hours=1), 30), (dt.timedelta(days=91), 6)])
def test_simulated_visits_come_as_often_as_those_in_the_files(gap, visits):
    draft = infer_schema(frames(gap, visits), name="mine")
    many, median, drugs = spacing(simulate(draft.schema, 400, seed=1))
    assert many == pytest.approx(visits, rel=0.15)
    assert median == pytest.approx(gap.total_seconds() / 3600, rel=0.15)
    assert drugs == pytest.approx(0.5, abs=0.1)


def test_enrolment_codes_and_empty_cells_are_those_of_the_files():
    cohort = simulate(infer_schema(frames(dt.timedelta(days=91), 6), name="mine").schema, 400, seed=1)
    first = cohort.tables["visits"].group_by("subject_id").agg(pl.col("time").min())["time"]
    assert dt.datetime(2010, 1, 1) <= first.min() and first.max() < dt.datetime(2012, 1, 1)  # type: ignore[operator]
    assert (cohort.tables["drugs"]["drug"] == "aspirin").mean() == pytest.approx(0.8, abs=0.05)
    assert cohort.tables["visits"]["lactate"].is_null().mean() == pytest.approx(0.7, abs=0.05)


def test_dates_of_patients_are_not_in_the_draft():
    draft: Draft = infer_schema(frames(dt.timedelta(days=91), 6), name="mine")
    follow = draft.schema.simulation.follow_up  # type: ignore[union-attr]
    assert (follow.opens, follow.closes) == ("2010-01-01", "2011-12-31")  # whole months


def test_too_few_patients_say_nothing_of_follow_up():
    assert infer_schema(frames(dt.timedelta(days=91), 6, n=4), name="mine").schema.simulation is None


def stays(again: int, n: int = 60) -> dict[str, pl.DataFrame]:
    """Admissions of 4 days on average, with a pulse every two hours, potassium a day, and 3 diagnoses of 300 codes.

    Some patients come again after a year.
    """
    rng = np.random.default_rng(2)
    who = np.concatenate([np.arange(n), np.arange(again)])
    days = rng.integers(0, 300, len(who)) + 400 * (np.arange(len(who)) >= n)
    start = np.array([dt.datetime(2010, 1, 1) + int(d) * DAY for d in days])
    length = rng.gamma(4, 1, len(who)).clip(0.5)
    admissions = pl.DataFrame(
        {"patient_id": who, "admission_id": 100 + np.arange(len(who)), "admitted": start.tolist()}
    )
    admissions = admissions.with_columns(pl.Series("ward", rng.choice(["A", "B"], len(who))))
    charted = [
        (who[i], 100 + i, start[i] + k * DAY / steps, code, float(rng.integers(low, 2 * low)))
        for i in range(len(who))
        for code, steps, low in (("pulse", 12, 60), ("potassium", 1, 3))
        for k in range(int(length[i] * steps) + 1)
    ]
    charts = pl.DataFrame(charted, schema=["patient_id", "admission_id", "charted", "item", "value"], orient="row")
    charts = charts.with_columns(note=pl.Series(rng.choice(["ok", "late"], charts.height)))
    coded = np.repeat(np.arange(len(who)), 3)
    codes = [f"K{k:03d}" for k in rng.integers(0, 300, len(coded))]
    coding = pl.DataFrame({"patient_id": who[coded], "admission_id": 100 + coded, "icd_code": codes})
    return {"admissions": admissions, "charts": charts, "diagnoses": coding}


@pytest.mark.parametrize("again", [0, 3, 60])
def test_rows_of_a_stay_are_as_many_as_in_the_files(again):
    frames = stays(again)
    schema = infer_schema(frames, name="mine").schema
    cohort = simulate(schema, 400, seed=1)
    admissions = cohort.tables["admissions"].height
    assert admissions / 400 == pytest.approx(1 + again / 60, rel=0.15)
    for code in ("pulse", "potassium"):
        real = (frames["charts"]["item"] == code).sum() / frames["admissions"].height
        drawn = (cohort.tables["charts"]["item"] == code).sum() / admissions
        assert drawn == pytest.approx(real, rel=0.2)
    assert cohort.tables["diagnoses"].height / admissions == pytest.approx(3, rel=0.1)
    if again:  # else an admission is the patient
        rows = cohort.tables["charts"].join(cohort.tables["admissions"], on="visit_id")
        length = rows.group_by("visit_id").agg((pl.col("time") - pl.col("time_right")).max())["time"]
        assert length.mean() / DAY == pytest.approx(4, rel=0.2)  # type: ignore[operator]


def test_a_table_of_those_who_died_has_as_many_patients_as_in_the_files():
    files = frames(dt.timedelta(days=91), 6)
    died = pl.DataFrame({"patient_id": range(0, 80, 8), "cause": ["heart", "cancer"] * 5})
    died = died.with_columns(death_date=pl.Series([dt.datetime(2014, 1, 1) + i * 40 * DAY for i in range(10)]))
    draft = infer_schema(files | {"deaths": died}, name="mine")
    cohort = simulate(draft.schema, 1000, seed=1)
    assert cohort.tables["people"].height == 1000
    assert cohort.tables["deaths"].height == pytest.approx(125, abs=4 * np.sqrt(1000 * 0.125 * 0.875))
    assert cohort.tables["deaths"]["subject_id"].is_unique().all()
    assert cohort.tables["deaths"]["cause"].null_count() == 0


def test_codes_are_as_many_as_in_the_files_with_and_without_numbers():
    """A result of every day, three of another, one that is a word, and 200 rare ones: none lost, none thinned."""
    rng = np.random.default_rng(1)
    rows = []
    for i in range(60):
        for day in range(20):
            when = dt.datetime(2020, 1, 1) + (i + 7 * day) * DAY
            rows += [(i, when, "hb", str(round(rng.normal(13, 1), 1)))]
            rows += [(i, when + k * DAY, "crp", str(round(rng.gamma(2, 10), 1))) for k in range(3)]
            rows += [(i, when, "smear", "")] * (day % 2)
            rows += [(i, when, f"rare{(i + 3 * day) % 200:03d}", str(round(rng.normal(5, 1), 1)))]
    labs = pl.DataFrame(rows, schema=["patient_id", "taken_at", "test", "result"], orient="row")
    people = pl.DataFrame({"patient_id": range(60), "sex": ["F", "M"] * 30})
    seen = labs.filter(pl.col("test") == "hb").select("patient_id", "taken_at")
    visits = seen.with_columns(weight=pl.Series(rng.normal(70, 9, seen.height).round(1)), pulse=70, sys=120)
    draft = infer_schema(
        {"people": people, "visits": visits.rename({"taken_at": "visit_date"}), "labs": labs}, name="m"
    )
    drawn = simulate(draft.schema, 200, seed=1).tables["labs"]
    per = drawn.height / 200
    assert per == pytest.approx(labs.height / 60, rel=0.1)
    many = dict(drawn["test"].value_counts().rows())
    assert many["smear"] / 200 == pytest.approx(10, rel=0.25)
    assert drawn.filter(pl.col("test") == "smear")["result"].null_count() == many["smear"]
    assert many["crp"] / many["hb"] == pytest.approx(3, rel=0.25)
