"""The four committed schemas on the files they were written for. Skipped where the files are absent."""

from pathlib import Path

import polars as pl
import pytest

from cohortloom.formats import read, write
from cohortloom.rules import check
from cohortloom.schema import Schema

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared/data"
FOLDERS = {
    "icu_48h": "physionet2012-set-a",
    "pbc": "rare-disease-cohorts",
    "mimic_iv_demo": "mimic-iv-demo",
    "diabetes_encounters": "diabetes-130-hospitals",
}
pytestmark = [pytest.mark.real, pytest.mark.skipif(not DATA.is_dir(), reason="the real data folder is absent")]


@pytest.fixture(scope="module")
def cohorts():
    made = {}

    def get(name: str):
        if name not in made:
            schema = Schema.from_file(ROOT / f"schemas/{name}.toml")
            made[name] = read(DATA / FOLDERS[name], format="tabular", schema=schema)
        return made[name]

    return get


@pytest.mark.parametrize("name", FOLDERS)
def test_schema_reads_its_files_and_every_implied_rule_holds(cohorts, name):
    assert check(cohorts(name)) == []


@pytest.mark.parametrize("name", FOLDERS)
def test_no_column_came_out_empty(cohorts, name):
    cohort = cohorts(name)
    empty = {f"{t}.{c}" for t, f in cohort.tables.items() for c in f.columns if f[c].null_count() == f.height}
    assert not empty


def test_icu_hours_against_the_raw_file(cohorts):
    """Patients, outcomes, and three columns (mean, last, sum) recomputed from the file in another way."""
    cohort = cohorts("icu_48h")
    raw = pl.read_csv(DATA / "physionet2012-set-a/measurements.csv.gz")
    assert cohort.n_subjects == 4000
    assert cohort.tables["outcomes"]["in_hospital_death"].mean() == pytest.approx(0.1385)
    hours = cohort.tables["hours"].with_columns(pl.col("time").dt.total_hours().alias("hour"))
    for theirs, ours, low, high, how in (
        ("HR", "heart_rate", 15, 300, pl.col("Value").mean().round(1)),
        ("K", "potassium", 1, 15, pl.col("Value").last()),
        ("Urine", "urine", 0, 12000, pl.col("Value").sum()),
    ):
        kept = raw.filter((pl.col("Parameter") == theirs) & pl.col("Value").is_between(low, high))
        kept = kept.with_columns((pl.col("minutes") // 60).alias("hour")).sort("minutes", maintain_order=True)
        wanted = kept.group_by(pl.col("RecordID").alias("subject_id"), "hour").agg(how.alias("wanted"))
        both = (
            hours.select("subject_id", "hour", ours)
            .drop_nulls(ours)
            .join(wanted, on=["subject_id", "hour"], how="full")
        )
        assert both.height == wanted.height and both["subject_id"].null_count() == 0
        assert (both[ours] - both["wanted"]).abs().max() < 0.51  # urine is rounded to whole mL
    dropped = sum(n for note, n in cohort.origin.notes.items() if "out of range" in note)
    assert 0 < dropped < 0.002 * raw.height


def test_pbc_counts(cohorts):
    tables = cohorts("pbc").tables
    assert tables["patients"].height == 312 and tables["visits"].height == 1945
    assert tables["visits"]["cholesterol"].null_count() == 821
    assert tables["visits"]["platelets"].null_count() == 73
    assert cohorts("pbc").origin.notes == {"patients.age: values rounded to the schema's decimals": 1945}, (
        "the file's rows, before one is kept per patient"
    )


def test_mimic_counts_and_links(cohorts):
    tables = cohorts("mimic_iv_demo").tables
    assert tables["patients"].height == 100 and tables["admissions"].height == 275
    assert tables["diagnoses"].height == 4506 and tables["prescriptions"].height == 14180
    assert tables["admissions"]["died"].sum() == 15 and tables["patients"]["death_date"].drop_nulls().len() == 31
    fever = tables["vitals"].filter(pl.col("item") == "temperature")
    assert fever["value"].median() == pytest.approx(36.9, abs=0.3), "Fahrenheit became Celsius"


def test_diabetes_counts(cohorts):
    tables = cohorts("diabetes_encounters").tables
    assert tables["patients"].height == 71518 and tables["encounters"].height == 101766
    assert dict(tables["encounters"]["readmitted"].value_counts().rows()) == {"NO": 54864, ">30": 35545, "<30": 11357}
    per = tables["encounters"].group_by("subject_id").agg(pl.len().alias("n"), pl.col("time").max().alias("last"))
    assert (per["last"] == per["n"].cast(pl.Int64) - 1).all() and per["n"].max() == 40


@pytest.mark.parametrize("name", ["pbc", "mimic_iv_demo"])
def test_meds_and_back(cohorts, name, tmp_path):
    write(cohorts(name), tmp_path / "m", format="meds")
    back = read(tmp_path / "m", format="meds")
    for table, frame in cohorts(name).tables.items():
        order = frame.columns
        assert back.tables[table].sort(order).equals(frame.sort(order)), table


def test_meds_of_the_relational_demo():
    cohort = read(DATA / "mimic-iv-demo/meds", format="meds")
    assert cohort.n_subjects == 100
    static = cohort.tables["subjects"]
    assert static["death"].drop_nulls().len() == 31
    assert dict(static["GENDER"].value_counts().rows()) == {"M": 57, "F": 43}
    raw = pl.scan_parquet(DATA / "mimic-iv-demo/meds/data.parquet").filter(pl.col("time").is_not_null())
    timed = raw.filter(~pl.col("code").is_in(["MEDS_BIRTH", "MEDS_DEATH"])).select(pl.len()).collect().item()
    assert cohort.tables["events"].height == timed
