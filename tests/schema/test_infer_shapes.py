"""Drafts of a file per patient, and of names and dates that say what they hold."""

import numpy as np
import polars as pl
import pytest

import cohortloom as cl
from cohortloom.formats.frames import from_frames
from cohortloom.schema import Number
from cohortloom.schema.column import Ordinal
from cohortloom.schema.infer import infer_schema
from cohortloom.schema.side_by_side import side_by_side
from cohortloom.schema.units import guess_unit


def write_files(folder, ids, inside=None):
    """A file per patient with 40 hourly readings, the patient's number in `inside` if it is given."""
    rng = np.random.default_rng(0)
    for i in ids:
        hours = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 2, 15), "1h", eager=True)
        frame = pl.DataFrame({"timestamp": hours.dt.strftime("%Y-%m-%d %H:%M"), "hr": rng.integers(50, 120, 40)})
        frame = frame if inside is None else frame.with_columns(pl.lit(i).alias(inside))
        frame.write_csv(folder / f"person_{i:02d}.csv")


def source_of(draft, table):
    """Where a table of a draft stands in the files."""
    source = draft.schema.tables[table].source
    assert source is not None
    return source


def test_a_file_per_patient_is_one_table_and_its_name_the_patient(tmp_path):
    write_files(tmp_path, range(1, 13))
    draft = infer_schema(tmp_path, name="worn")
    assert list(draft.schema.tables) == ["person"]
    source = source_of(draft, "person")
    assert (source.file, source.subject) == ("person_*.csv", "(file)")
    (tmp_path / "mine.toml").write_text(draft.text)
    cohort = cl.read(tmp_path, format="tabular", schema=tmp_path / "mine.toml")
    assert cohort.subjects.to_list() == [f"person_{i:02d}" for i in range(1, 13)]
    assert cohort.tables["person"].group_by("subject_id").len()["len"].unique().to_list() == [40]


def test_a_column_that_names_the_patient_in_each_file_comes_first(tmp_path):
    write_files(tmp_path, range(1, 13), inside="pid")
    source = source_of(infer_schema(tmp_path, name="worn"), "person")
    assert (source.file, source.subject) == ("person_*.csv", "pid")


def test_a_folder_per_patient_is_a_table_for_each_kind_of_file(tmp_path):
    for i in range(1, 13):
        own = tmp_path / f"people/p{i:02d}"
        own.mkdir(parents=True)
        pl.DataFrame({"age": [40 + i], "sex": ["fm"[i % 2]]}).write_csv(own / "static.csv")
        rows = {"hours": [i, i + 3, i + 9], "hr": [60 + i, 70, 71], "sbp": [120, 119, 117], "rr": [12 + i, 14, 15]}
        pl.DataFrame(rows).write_csv(own / f"p{i:02d}_vitals.csv")
    draft = infer_schema(tmp_path, name="folders")
    assert {(t.source.file, t.source.subject) for t in draft.schema.tables.values() if t.source} == {
        ("people/*/static.csv", "(folder)"),
        ("people/*/*_vitals.csv", "(folder)"),
    }
    assert "Patients are told apart by the folders' names" in draft.text
    (tmp_path / "mine.toml").write_text(draft.text)
    cohort = cl.read(tmp_path, format="tabular", schema=tmp_path / "mine.toml")
    assert dict(cohort.tables["static"].select("subject_id", "age").rows()) == {
        f"p{i:02d}": 40 + i for i in range(1, 13)
    }
    assert cohort.tables["vitals"].group_by("subject_id").len()["len"].unique().to_list() == [3]


def test_weeks_and_days_are_read_in_days():
    weeks = [(24 + i % 17, i % 7) for i in range(60)]
    for written in ("{}+{}", "{}w{}d", "{} {}/7"):
        cells = [written.format(*w) for w in weeks]
        frame = pl.DataFrame({"baby_id": range(60), "gestational_age": cells, "protein": ["1+", "neg", "2+"] * 20})
        draft = infer_schema({"babies": frame}, name="ga")
        columns = draft.schema.tables["babies"].columns
        age, protein = columns["gestational_age"], columns["protein"]
        assert isinstance(age, Number) and age.unit == "d"
        assert isinstance(protein, Ordinal) and protein.levels == ("neg", "1+", "2+")
        read = from_frames(draft.schema, {"babies": frame}).tables["babies"]["gestational_age"]
        assert [divmod(int(days), 7) for days in read] == weeks


def test_four_files_of_one_kind_stay_tables_of_their_own(tmp_path):
    write_files(tmp_path, range(1, 5), inside="pid")
    assert len(infer_schema(tmp_path, name="few").schema.tables) == 4


def test_hours_since_birth_are_a_time(tmp_path):
    rng = np.random.default_rng(0)
    infant = np.repeat(np.arange(40), 4)
    frame = pl.DataFrame({"infant": infant, "hours_since_birth": rng.uniform(0, 900, 160).round(1)})
    frame.with_columns(pl.Series("event", rng.choice(["apnoea", "desaturation"], 160))).write_csv(tmp_path / "e.csv")
    when = source_of(infer_schema(tmp_path, name="nicu"), "e").when
    assert when is not None and (when.column, when.unit) == ("hours_since_birth", "h")


@pytest.mark.parametrize("layout", ["{y}年{m}月{d}日", "{y}. {m}. {d}.", "{y}.{m:02d}.{d:02d}"])
def test_dates_that_begin_with_the_year_are_dates(tmp_path, layout):
    rng = np.random.default_rng(0)
    dates = [layout.format(y=2019 + k % 3, m=1 + k % 12, d=int(rng.integers(13, 29))) for k in range(90)]
    frame = pl.DataFrame({"patient_id": np.repeat(np.arange(30), 3), "day": dates, "x": rng.normal(size=90).round(2)})
    frame.write_csv(tmp_path / "v.csv")
    draft = infer_schema(tmp_path, name="east")
    assert draft.schema.clock == "timestamp" and source_of(draft, "v").time is not None
    (tmp_path / "mine.toml").write_text(draft.text)
    times = cl.read(tmp_path, format="tabular", schema=tmp_path / "mine.toml").tables["v"]["time"]
    assert times.dt.year().is_in([2019, 2020, 2021]).all() and (times.dt.day() >= 13).all()


def test_a_family_is_a_group_of_people_not_a_diagnosis(tmp_path):
    family = [f"F{i:03d}" for i in range(80) for _ in range(3)]
    frame = pl.DataFrame({"family_id": family, "person_id": np.arange(240), "bmi": np.linspace(18, 35, 240).round(1)})
    frame.write_csv(tmp_path / "members.csv")
    draft = infer_schema(tmp_path, name="kin")
    assert draft.schema.tables["members"].columns["family_id"].kind == "identifier"
    assert "--group members.family_id" in " ".join(draft.text.replace("#", "").split())


def test_the_unit_a_name_ends_in_comes_before_the_usual_one():
    units = {"weight_g": "g", "weight_kg": "kg", "weight": "kg", "weight_lb": "[lb_av]", "height_in": "[in_i]"}
    assert {name: guess_unit(name) for name in units} == units


def test_visits_side_by_side_are_pointed_at_and_items_of_a_score_are_not(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{what}_v{k}" for k in (1, 2, 3) for what in ("sbp", "crp")]
    items = {f"q{k}": rng.integers(0, 5, 60) for k in range(1, 9)}
    frame = pl.DataFrame({"patient_id": np.arange(60), **{n: rng.normal(9, 1, 60).round(2) for n in names}, **items})
    frame.write_csv(tmp_path / "study.csv")
    said = " ".join(infer_schema(tmp_path, name="wide").text.replace("#", "").split())
    assert "LOOK HERE: study.csv has 3 visits side by side (sbp, crp with _v1 to _v3)" in said
    assert side_by_side(items) == side_by_side(["a_1", "a_2", "a_3"]) == ([], "", [])
