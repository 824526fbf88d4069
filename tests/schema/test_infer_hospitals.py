"""Drafts of the ways in which hospitals and registries lay out their files."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from cohortloom.formats.frames import from_frames
from cohortloom.schema import Number, Schema
from cohortloom.schema.column import Ordinal, Timestamp
from cohortloom.schema.infer import infer_schema
from cohortloom.simulation import simulate


def kinds(schema: Schema, table: str) -> dict[str, str]:
    return {name: column.kind for name, column in schema.tables[table].columns.items()}


def test_an_admission_is_the_patient_where_most_files_name_no_other():
    """AmsterdamUMCdb's way: milliseconds since admission in big whole numbers, items that name the admission alone."""
    draw = np.random.default_rng(1)
    n = 80
    left = draw.integers(20, 200, n) * 3_600_000
    admissions = {"patientid": np.arange(n) // 2, "admissionid": np.arange(n) + 100, "admittedat": np.zeros(n, int)}
    admissions |= {"dischargedat": left, "gender": draw.choice(["Man", "Vrouw"], n)}
    files = {"admissions": pl.DataFrame(admissions)}
    who = np.repeat(np.arange(n), 20)
    for name, item in (("numericitems", 6640), ("moreitems", 6642), ("lessitems", 6643)):
        at = (draw.random(len(who)) * left[who] // 60_000).astype(int) * 60_000
        rows = {"admissionid": who + 100, "itemid": item + draw.integers(0, 3, len(who)) * 10}
        files[name] = pl.DataFrame(rows | {"value": draw.normal(80, 9, len(who)).round(1), "measuredat": at})
    draft = infer_schema(files, name="x")
    assert set(draft.schema.tables) == set(files) and draft.schema.clock == "offset"
    assert '"patientid" is in fewer' in draft.text and "--group admissions.patientid" in draft.text
    cohort = from_frames(draft.schema, files)
    assert cohort.n_subjects == n
    assert cohort.tables["admissions"]["dischargedat"].to_list() == [timedelta(milliseconds=int(x)) for x in left]
    ends = {(r.settings["first"], r.settings["then"]) for r in draft.schema.rules}
    assert ("numericitems.time", "admissions.dischargedat") in ends


def test_variables_and_drugs_by_number_are_codes():
    """HiRID's way."""
    draw = np.random.default_rng(2)
    who = np.repeat(np.arange(1, 41), 60)
    start = np.datetime64("2132-01-01T00:00:00.000")
    seen = {
        "patientid": who,
        "datetime": start + np.tile(np.arange(60) * 120_000, 40),
        "variableid": draw.choice([110, 200], 2400),
    }
    seen |= {"status": 8, "value": draw.normal(80, 9, 2400).round(1), "type": draw.choice(["n", "m"], 2400)}
    given = {"patientid": who[::12], "pharmaid": draw.choice([426, 1000656], 200), "recordstatus": 780}
    given |= {"givenat": (start + draw.integers(0, 9000, 200) * 60_000), "givendose": draw.gamma(2, 5, 200).round(2)}
    given |= {"rate": draw.gamma(2, 5, 200).round(1)}
    files = {"observations": pl.DataFrame(seen), "pharma": pl.DataFrame(given)}
    schema = infer_schema(files, name="x").schema
    assert (schema.tables["observations"].code, schema.tables["observations"].value) == ("variableid", "value")
    assert (schema.tables["pharma"].role, schema.tables["pharma"].code) == ("event", "pharmaid")


def test_codes_without_a_result_are_not_lost():
    """A general practice: diagnoses stand among results."""
    code = ["246..", "42W5.", "G20..", "H33.."] * 60
    value = [{"246..": 135.0, "42W5.": 7.1}.get(c) for c in code]
    value = [v and round(v + i / 100, 2) for i, v in enumerate(value)]
    day = pl.date_range(pl.date(2010, 1, 1), pl.date(2010, 8, 28), eager=True)
    rows = {"patid": np.repeat(np.arange(1, 41), 6), "eventdate": day, "readcode": code, "value": value}
    files = {"clinical": pl.DataFrame(rows)}
    draft = infer_schema(files, name="x")
    read = from_frames(draft.schema, files).tables["clinical"]
    assert read.height == 240 and set(read["readcode"]) == set(code)


def test_months_stay_months_and_their_order_is_a_rule():
    draw = np.random.default_rng(3)
    first = draw.integers(0, 100, 80)
    last = first + draw.exponential(20, 80).astype(int)
    month = lambda x: [f"{2005 + m // 12}-{m % 12 + 1:02d}" for m in x]  # noqa: E731
    cases = {"patient_id": np.arange(80), "diagnosis_date": month(first), "last_seen_date": month(last)}
    schema = infer_schema({"cases": pl.DataFrame(cases)}, name="x").schema
    columns = schema.tables["cases"].columns
    seen = columns["last_seen_date"]
    assert isinstance(seen, Timestamp) and seen.granularity == "month"
    orders = {(r.settings["first"], r.settings["then"]) for r in schema.rules}
    assert orders == {("cases.diagnosis_date", "cases.last_seen_date")}


@pytest.mark.parametrize("cells, grain", [(["2012-05", "2013-11"], "month"), ([2012, 2015], "year")])
def test_rows_dated_by_month_or_year_keep_that_by_a_rule(cells, grain):
    people = pl.DataFrame({"patient_id": range(40), "sex": ["f", "m"] * 20})
    visits = {"patient_id": np.repeat(np.arange(40), 2), "visit_date": cells * 40, "weight": np.arange(80) / 8 + 60.0}
    schema = infer_schema({"people": people, "visits": pl.DataFrame(visits)}, name="x").schema
    rules = [(r.kind, r.settings["column"], r.settings["to"]) for r in schema.rules if r.kind == "granularity"]
    assert rules == [("granularity", "visits.time", grain)]
    drawn = simulate(schema, 30, seed=1).tables["visits"]["time"]
    assert (drawn == drawn.dt.truncate("1mo" if grain == "month" else "1y")).all()


def test_a_blood_pressure_in_one_cell_is_two_numbers():
    draw = np.random.default_rng(4)
    above, below = draw.integers(100, 180, 60), draw.integers(50, 99, 60)
    cells = [f"{a}/{b}" for a, b in zip(above, below)]
    cells[7] = ""
    files = {"runs": pl.DataFrame({"patient_id": range(60), "bp": cells, "urgent": ["y", "n"] * 30})}
    draft = infer_schema(files, name="x")
    high = draft.schema.tables["runs"].columns["bp_systolic"]
    assert isinstance(high, Number) and high.unit == "mm[Hg]"
    read = from_frames(draft.schema, files).tables["runs"]
    assert read["bp_systolic"].to_list() == [None if i == 7 else a for i, a in enumerate(above)]
    assert read["bp_diastolic"].to_list() == [None if i == 7 else b for i, b in enumerate(below)]


def test_who_is_who_in_a_pedigree():
    people = [(f, k) for f in range(40) for k in (1, 2, 3, 4)]  # father, mother, two children
    rows = [(f"F{f:02d}", 4 * f + k, (4 * f + 1) * (k > 2), (4 * f + 2) * (k > 2)) for f, k in people]
    frame = pl.DataFrame(rows, schema=["FID", "IID", "PID", "MID"], orient="row").with_columns(pheno=pl.lit("case"))
    draft = infer_schema({"pedigree": frame.with_columns(sex=pl.col("IID") % 2 + 1)}, name="x")
    source = draft.schema.tables["pedigree"].source
    assert source is not None and source.subject == "IID"
    assert "--group pedigree.fid" in draft.text


def test_visits_side_by_side_in_instances_and_answers_below_zero():
    draw = np.random.default_rng(5)
    frame = {"eid": np.arange(100) + 1000, "20116-0.0": draw.choice([-3, 0, 1, 2], 100)}
    frame |= {f"{field}-{i}.0": draw.normal(130, 9, 100).round() for field in (4080, 4079) for i in (0, 1)}
    draft = infer_schema({"ukb": pl.DataFrame(frame)}, name="x")
    assert "2 visits side by side (4080, 4079 with -0 to -1)" in draft.text
    assert kinds(draft.schema, "ukb")["20116_0_0"] == "category"


def test_items_of_questionnaires_are_steps():
    answers = ["Not difficult at all", "Somewhat difficult", "Very difficult"]
    frame = pl.DataFrame({"patient_id": range(60), "phq9_1": [0, 1, 2, 3] * 15, "hard": answers * 20})
    hard = infer_schema({"asked": frame}, name="x").schema.tables["asked"].columns
    assert isinstance(hard["phq9_1"], Ordinal) and isinstance(hard["hard"], Ordinal)
    assert hard["hard"].levels == tuple(answers)


def test_months_with_a_point_are_no_numbers():
    """03.1957 in a German registry; beside it a dose of 1.2025 stays one."""
    month = [f"{1 + i % 12:02d}.{1930 + i % 60}" for i in range(80)]
    cases = {"Patient_ID": np.arange(80), "Geburtsdatum": month, "Dosis": [f"{1 + i / 7:.4f}" for i in range(80)]}
    files = {"patient": pl.DataFrame(cases)}
    draft = infer_schema(files, name="x")
    columns = draft.schema.tables["patient"].columns
    birth = columns["geburtsdatum"]
    assert isinstance(birth, Timestamp) and birth.granularity == "month" and columns["dosis"].kind == "number"
    read = from_frames(draft.schema, files).tables["patient"]["geburtsdatum"]
    assert read.dt.strftime("%m.%Y").to_list() == month


def test_what_ends_in_a_row_is_before_the_death_of_its_patient():
    draw = np.random.default_rng(6)
    start = np.repeat(draw.integers(14_000, 16_000, 60), 2) + np.tile([0, 60], 60)
    end = start + draw.integers(1, 50, 120)
    died = end.reshape(60, 2).max(1) + draw.integers(0, 30, 60)
    day = lambda x: pl.Series(x).cast(pl.Int32).cast(pl.Date)  # noqa: E731
    files = {
        "people": pl.DataFrame({"patient_id": np.arange(60), "death_date": day(died)}),
        "courses": pl.DataFrame(
            {"patient_id": np.arange(60).repeat(2), "start_date": day(start), "end_date": day(end)}
        ),
    }
    schema = infer_schema(files, name="x").schema
    orders = {(r.settings["first"], r.settings["then"]) for r in schema.rules if r.kind == "before"}
    assert ("courses.end_date", "people.death_date") in orders


def test_relatives_and_families_are_no_numbers():
    """PLINK's columns: family, father, mother (0: not in the file)."""
    own = np.arange(1, 301)
    father = np.where(own % 3 == 0, own - 2, 0)
    people = {
        "FID": [f"F{i // 3:03d}" for i in range(300)],
        "IID": own,
        "PID": father,
        "MID": np.where(father, own - 1, 0),
    }
    height = np.random.default_rng(7).normal(170, 8, 300).round(1)
    draft = infer_schema({"family": pl.DataFrame(people | {"SEX": [1, 2, 1] * 100, "height": height})}, name="x")
    found = kinds(draft.schema, "family")
    assert {found[name] for name in ("fid", "pid", "mid")} == {"identifier"}


def test_the_event_of_a_survival_pair_is_death_and_no_receptor():
    """A status of a receptor, known of few, stands before the one of life; the old draft took it for the event."""
    draw = np.random.default_rng(0)
    dead = draw.random(200) < 0.4
    patients = {
        "patient_id": [f"P{i:03d}" for i in range(200)],
        "er_status": ["positive" if i % 3 else "negative" if i % 5 else None for i in range(200)],
        "os_months": draw.exponential(30, 200).round(1) + 0.1,
        "vital_status": np.where(dead, "Dead", "Alive"),
    }
    schema = infer_schema({"patients": pl.DataFrame(patients)}, name="x").schema
    assert [(s.time, s.event, s.levels) for s in schema.survival] == [
        ("patients.os_months", "patients.vital_status", ("Dead",))
    ]
    without = pl.DataFrame(patients).drop("vital_status")
    assert not infer_schema({"patients": without}, name="x").schema.survival


def test_a_column_that_numbers_the_diagnoses_of_a_stay_is_left_out():
    """Drawn beside codes it gave single diagnoses the number 3; a rank that repeats within stays is kept."""
    draw = np.random.default_rng(0)
    stay = np.arange(120)
    times = [f"2020-{1 + i % 12:02d}-{1 + i % 28:02d} 08:00" for i in stay]
    stays = {"subject_id": stay // 2, "hadm_id": 1000 + stay, "admittime": times}
    n = draw.integers(1, 6, 120)
    owner = np.repeat(stay, n)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(n) - n, n) + 1
    found = {"subject_id": owner // 2, "hadm_id": 1000 + owner, "seq_num": place, "grade_num": (place + 1) // 2}
    found["icd9_code"] = draw.choice(["4019", "25000", "5859", "0389", "42731"], len(owner))
    frames = {"admissions": pl.DataFrame(stays), "diagnoses_icd": pl.DataFrame(found)}
    draft = infer_schema(frames, name="x")
    table = draft.schema.tables["diagnoses_icd"]
    assert "seq_num" not in table.columns and "grade_num" in table.columns
    assert "numbers the rows of each visit" in draft.text


def test_infusions_of_one_drug_are_no_visits_and_a_number_written_twice_is_read_once():
    """AmsterdamUMCdb's drug table, and MIMIC's value beside valuenum: "88" and 88.0."""
    draw = np.random.default_rng(3)
    who = np.repeat(np.arange(80), 6)
    begin = draw.integers(0, 4000, len(who)) * 60_000
    given = {"admissionid": who, "item": "Noradrenaline", "rate": draw.gamma(2, 0.1, len(who)).round(3)}
    given |= {"start": begin, "stop": begin + 3_600_000, "dose": draw.gamma(2, 1, len(who)).round(2)}
    number = draw.normal(80, 9, len(who)).round()
    seen = {"admissionid": who, "itemid": draw.choice([6640, 6642], len(who)), "measuredat": begin}
    seen |= {"value": [f"{x:.0f}" for x in number], "valuenum": number, "nurse": draw.integers(0, 9, len(who))}
    files = {"drugitems": pl.DataFrame(given), "numericitems": pl.DataFrame(seen)}
    files["admissions"] = pl.DataFrame({"admissionid": np.arange(80), "gender": draw.choice(["Man", "Vrouw"], 80)})
    draft = infer_schema(files, name="x")
    assert draft.schema.visit_table is None and draft.schema.tables["drugitems"].role == "event"
    assert {*kinds(draft.schema, "numericitems")} == {"itemid", "value", "nurse"}
    assert 'the same as "value" in every row' in draft.text


def test_doses_that_each_drug_has_of_its_own_stand_at_the_drug():
    """Vitamin K of 1 mg and surfactant of 300: drawn as one column of numbers, doses changed hands."""
    draw = np.random.default_rng(4)
    who = np.repeat(np.arange(60), 4)
    which = draw.integers(0, 2, len(who))
    start = np.datetime64("2021-01-01T08:00") + draw.integers(0, 500_000, len(who)) * np.timedelta64(1, "m")
    given = {"patient_id": who, "given_at": [str(t).replace("T", " ") for t in start]}
    given |= {"drug": np.array(["vitamin K", "surfactant"])[which], "dose_unit": "mg"}
    people = pl.DataFrame(
        {"patient_id": np.arange(60), "sex": ["f", "m"] * 30, "height": draw.normal(50, 2, 60).round()}
    )
    for far, value in ((300, "dose"), (2, None)):
        dose = np.where(which, far, 1) * draw.uniform(0.9, 1.1, len(who))
        frames = {
            "patients": people,
            "given": pl.DataFrame(given | {"dose": dose.round(2), "line": draw.normal(0, 1, 240)}),
        }
        table = infer_schema(frames, name="x").schema.tables["given"]
        assert (table.code, table.value, table.columns["dose"].kind) == ("drug", value, "number")
        if value:
            items = table.code_column().items
            assert items["vitamin K"].high < 2 < items["surfactant"].low
            assert items["surfactant"].unit == "mg"
