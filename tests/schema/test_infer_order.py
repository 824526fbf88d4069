"""Orders of dates in drafts: planted ones are rules, broken, distant, implied and thin ones are not."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.formats.frames import from_frames
from cohortloom.rules import broken_subjects, compile_rules
from cohortloom.schema.infer import infer_schema


def registry(n: int = 60, *, broken: int = 0) -> dict[str, pl.DataFrame]:
    """Born, diagnosed decades later, recurrences before the last contact; admissions that end."""
    draw = np.random.default_rng(4)
    start = pl.Series([0] * n).cast(pl.Date).dt.offset_by("0d")
    day = lambda x: (pl.lit(start) + pl.Series(x.astype(int)) * timedelta(days=1)).alias  # noqa: E731
    diagnosis = draw.integers(14_000, 18_000, n)
    follow = draw.exponential(500, n).astype(int)
    last = diagnosis + follow
    last[:broken] = diagnosis[:broken] - 5
    birth = diagnosis - draw.integers(40 * 365, 80 * 365, n)
    who = np.repeat(np.arange(n), 3)
    when = diagnosis[who] + (draw.random(3 * n) * np.maximum(last - diagnosis, 0)[who]).astype(int)
    stay = draw.exponential(4, 3 * n).astype(int)
    cases = pl.select(
        patient_id=pl.Series(np.arange(n)), birth_date=day(birth)("b"), diagnosis_date=day(diagnosis)("d"),
        last_contact=day(last)("l"), sex=pl.Series(draw.choice(["f", "m"], n)),
    )  # fmt: skip
    start = pl.Series([0] * 3 * n).cast(pl.Date)
    admissions = pl.select(
        patient_id=pl.Series(who), admission_date=day(when)("a"), discharge_date=day(when + stay)("e"),
        weight_kg=pl.Series(draw.normal(70, 9, 3 * n).round(1)),
    )  # fmt: skip
    return {"cases": cases, "admissions": admissions.sort("patient_id", "admission_date")}


def orders(frames: dict[str, pl.DataFrame]) -> set[tuple[str, str]]:
    return {(r.settings["first"], r.settings["then"]) for r in infer_schema(frames, name="x").schema.rules}


def test_orders_that_always_hold_are_rules():
    assert orders(registry()) == {
        ("cases.diagnosis_date", "admissions.time"),  # and with the next one: diagnosis before last contact
        ("admissions.time", "cases.last_contact"),
        ("admissions.time", "admissions.discharge_date"),
    }


@pytest.mark.parametrize("layout", ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.250", "%Y/%m/%d"])
def test_orders_are_found_however_dates_are_written(layout):
    dates = pl.col("admission_date", "discharge_date").cast(pl.Datetime).dt.strftime(layout)
    frames = registry()
    written = frames | {"admissions": frames["admissions"].with_columns(dates)}
    assert ("admissions.time", "admissions.discharge_date") in orders(written)
    assert ("admissions.time", "cases.last_contact") in orders(written)


def test_a_broken_order_is_none():
    found = orders(registry(broken=1))
    assert ("admissions.time", "cases.last_contact") not in found
    assert ("cases.diagnosis_date", "cases.last_contact") not in found
    assert ("admissions.time", "admissions.discharge_date") in found


def test_few_patients_say_nothing():
    assert not orders(registry(29))


def test_the_files_keep_the_drafted_rules():
    frames = registry()
    draft = infer_schema(frames, name="x")
    assert "look whether they always hold" in draft.text
    cohort = from_frames(draft.schema, frames)
    assert isinstance(cohort, Cohort)
    assert not broken_subjects(cohort).len()


def test_offsets_of_patients_are_moments_that_bound_their_rows():
    """eICU's way: minutes since admission to the unit, discharges on the row of the patient."""
    draw = np.random.default_rng(6)
    who, left = np.repeat(np.arange(40), 30), 60 * 30 + draw.integers(0, 90, 40)
    patient = {"stayid": np.arange(40), "sex": draw.choice(["f", "m"], 40), "dischargeoffset": left}
    vital = {"stayid": who, "observationoffset": np.tile(np.arange(30) * 60 + 40, 40)}
    vital |= {c: draw.normal(80, 9, 1200).round() for c in ("hr", "sbp", "rr")}
    frames = {"patient": pl.DataFrame(patient), "vital": pl.DataFrame(vital)}
    draft = infer_schema(frames, name="x")
    assert orders(frames) == {("vital.time", "patient.dischargeoffset")}
    read = from_frames(draft.schema, frames).tables["patient"]["dischargeoffset"]
    assert read.to_list() == [timedelta(minutes=int(m)) for m in left]


def test_a_table_that_numbers_its_rows_is_no_waveform(tmp_path):
    who = np.repeat(np.arange(7000, 7040), 30)
    rows = {"vitalid": np.arange(1200), "patientstayid": who, "observationoffset": np.tile(np.arange(30) * 60, 40)}
    rows |= {c: np.arange(1200) % k for c, k in (("hr", 70), ("sbp", 90), ("rr", 11))}
    pl.DataFrame(rows).write_csv(tmp_path / "vital.csv")
    schema = infer_schema(tmp_path, name="x").schema
    assert not schema.signals and set(schema.tables) == {"vital"}


def test_years_of_the_calendar_are_dates_and_keep_their_order():
    """A year of birth stood as a number beside dates, so one in nine drawn patients registered before being born. On
    the clock of days since an entry a year has no place as a date and stays a number."""
    draw = np.random.default_rng(0)
    born = draw.integers(1930, 2000, 200)
    entered = [f"{max(year, 1960) + later}-03-01" for year, later in zip(born, draw.integers(1, 5, 200))]
    table = {"patient_id": range(200), "yob": born, "registered": entered}
    schema = infer_schema({"patients": pl.DataFrame(table)}, name="x").schema
    born_in = schema.tables["patients"].columns["yob"]
    assert born_in.kind == "timestamp" and born_in.granularity == "year" and born_in.quasi_identifier
    assert [(r.first, r.then) for r in compile_rules(schema) if r.kind == "before"] == [
        ("patients.yob", "patients.registered")
    ]
    people = {"patient_id": range(200), "yob": born}
    visits = {"patient_id": np.repeat(range(200), 3), "days_since_entry": np.tile([0, 30, 60], 200)}
    visits["weight"] = draw.normal(70, 9, 600).round(1)
    schema = infer_schema({"patients": pl.DataFrame(people), "visits": pl.DataFrame(visits)}, name="x").schema
    assert schema.clock == "offset" and schema.tables["patients"].columns["yob"].kind == "number"


def test_a_moment_on_the_day_of_death_is_not_after_it():
    draw = np.random.default_rng(0)
    n = 80
    admitted = np.datetime64("2020-01-01T08:00") + draw.integers(0, 500, n) * np.timedelta64(1, "D")
    left = admitted + draw.integers(60, 9000, n) * np.timedelta64(1, "m")
    death = left.astype("datetime64[D]") + draw.integers(0, 9, n) * draw.integers(0, 2, n)
    people = pl.DataFrame({"subject_id": range(n), "sex": ["f", "m"] * (n // 2), "dod": [str(d) for d in death]})
    text = {c: [str(t).replace("T", " ") for t in v] for c, v in (("admittime", admitted), ("dischtime", left))}
    stays = pl.DataFrame(
        {"subject_id": range(n), "hadm_id": range(900, 900 + n), **text, "ward": ["a", "b"] * (n // 2)}
    )
    again = stays.head(20).with_columns(hadm_id=pl.col("hadm_id") + 500, admittime=pl.lit("2019-05-01 10:00"))
    again = again.with_columns(dischtime=pl.lit("2019-05-03 11:00"))
    schema = infer_schema({"patients": people, "admissions": pl.concat([stays, again])}, name="x").schema
    orders = {(r.settings["first"], r.settings["then"]) for r in schema.rules if r.kind == "before"}
    assert ("admissions.dischtime", "patients.dod") in orders


def followed(end: np.ndarray, dead: np.ndarray) -> dict[str, pl.DataFrame]:
    """Visits each 60 days from a day between 2010 and 2013 to the given end of each patient."""
    n = len(end)
    draw = np.random.default_rng(0)
    start = np.datetime64("2010-01-01") + draw.integers(0, 1000, n) * np.timedelta64(1, "D")
    rows = [(i, t) for i in range(n) for t in np.arange(start[i], end[i], np.timedelta64(60, "D"))]
    visits = {"patient_id": [i for i, _ in rows], "visit_date": [str(t) for _, t in rows]}
    visits |= {c: draw.normal(50, 9, len(rows)).round(1) for c in ("fvc", "weight_kg", "pulse")}
    people = {"patient_id": range(n), "sex": draw.choice(["f", "m"], n), "height_cm": draw.normal(170, 9, n).round()}
    people |= {"death_date": [str(e) if d else None for e, d in zip(end, dead)]}
    return {"patients": pl.DataFrame(people), "visits": pl.DataFrame(visits)}


def test_data_that_were_cut_end_there_and_others_where_each_patient_ends():
    draw = np.random.default_rng(1)
    cut = np.full(60, np.datetime64("2020-06-11"))
    gone = cut - draw.integers(0, 2000, 60) * np.timedelta64(1, "D")
    some = np.where(np.arange(60) % 3 == 0, cut, gone)
    for end, last in ((some, ["2020-06-30"]), (gone, [])):
        rules = infer_schema(followed(end, gone < end), name="x").schema.rules
        assert [r.settings["date"] for r in rules if r.kind == "until"] == last


def test_nothing_comes_after_the_death_of_six_patients():
    end = np.datetime64("2015-01-01") + np.arange(60) * np.timedelta64(20, "D")
    for n, found in ((6, True), (3, False)):
        rules = infer_schema(followed(end, np.arange(60) < n), name="x").schema.rules
        assert (
            ("visits.time", "patients.death_date") in [(r.settings.get("first"), r.settings.get("then")) for r in rules]
        ) == found
