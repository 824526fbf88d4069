"""The codec on real records; skipped where they are absent."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec, Layout
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.schema import Category, Code, Flag, Number, Schema, Table, Timestamp

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
pytestmark = [pytest.mark.real, pytest.mark.skipif(not DATA.exists(), reason="real data folder is absent")]


def read(path: str) -> pl.DataFrame:
    return pl.read_csv(DATA / path, infer_schema_length=None)


@pytest.fixture(scope="module")
def mimic() -> Cohort:
    folder = "mimic-iv-demo/tables/"

    def at(name: str) -> pl.Expr:
        return pl.col(name).str.to_datetime()

    visit = pl.col("hadm_id").cast(pl.Int64).alias("visit_id")
    code, number = pl.col("itemid").cast(pl.String).alias("code"), pl.col("valuenum").alias("value")
    frames = {
        "patients": read(folder + "patients.csv.gz").select(
            "subject_id", sex="gender", age="age_at_first_admission", death=at("death_date")
        ),
        "admissions": read(folder + "admissions.csv.gz").select(
            "subject_id",
            visit,
            time=at("admittime"),
            end=at("dischtime"),
            race="race",
            died=pl.col("hospital_expire_flag") == 1,
        ),
        "labs": read(folder + "labevents.csv.gz").select("subject_id", visit, code, number, time=at("charttime")),
        "diagnoses": read(folder + "diagnoses_icd.csv.gz").select("subject_id", visit, code="icd_code"),
        "drugs": read(folder + "prescriptions_start.csv.gz").select(
            "subject_id", time=at("starttime"), code="drug", route="route"
        ),
    }
    codes = {"code": Code(), "value": Number()}
    schema = Schema(
        name="mimic",
        tables={
            "patients": Table(
                role="static",
                columns={
                    "sex": Category(levels=("F", "M")),
                    "age": Number(decimals=0),
                    "death": Timestamp(granularity="day"),
                },
            ),
            "admissions": Table(role="visit", columns={"end": Timestamp(), "race": Code(), "died": Flag()}),
            "labs": Table(role="event", parent="admissions", columns=codes, code="code", value="value"),
            "diagnoses": Table(role="event", parent="admissions", timed=False, columns={"code": Code()}, code="code"),
            "drugs": Table(role="event", columns={"code": Code(), "route": Code()}, code="code"),
        },
    )
    return Cohort.build(schema, frames)


def test_mimic_demo_unfolds_with_its_volumes_and_links(mimic):
    codec = Codec.fit(mimic, Layout(scale="raw"))
    back = codec.decode(codec.encode(mimic, rng=Rng(0)), Rng(1), ids=np.arange(100))
    for name, frame in mimic.tables.items():
        assert back.tables[name].height == frame.height
    labs = back.tables["labs"].drop_nulls("visit_id")
    assert labs.join(back.tables["admissions"], on=["subject_id", "visit_id"], how="anti").is_empty()
    true, made = (c.tables["labs"]["visit_id"].is_null().mean() for c in (mimic, back))
    assert made == pytest.approx(true, abs=0.04)
    # potassium: same number of values, quartiles within 0.2 mmol/L
    values = [c.tables["labs"].filter(pl.col("code") == "50971")["value"] for c in (mimic, back)]
    assert values[0].len() == values[1].len()
    for share in (0.25, 0.5, 0.75):
        assert values[0].quantile(share) == pytest.approx(values[1].quantile(share), abs=0.201)


def test_mimic_demo_tells_no_code_of_fewer_than_five_patients(mimic):
    codec = Codec.fit(mimic, Layout(scale="raw"))
    back = codec.decode(codec.encode(mimic, rng=Rng(0)), Rng(1), ids=np.arange(100))
    for name in ("labs", "diagnoses", "drugs"):
        held = mimic.tables[name].group_by("code").agg(pl.col("subject_id").n_unique())
        few = held.filter(pl.col("subject_id") < 5)["code"]
        assert few.len() > 100 and not back.tables[name]["code"].is_in(few.implode()).any()


def test_hourly_stays_come_back_by_their_scores():
    folder = "physionet2012-set-a/"
    stays, rows = read(folder + "static.csv.gz"), read(folder + "measurements.csv.gz")
    rows = rows.filter(pl.col("RecordID").is_in(stays["RecordID"][:400].implode()))
    grid = (
        rows.with_columns(hour=pl.col("minutes") // 60)
        .group_by("RecordID", "hour", "Parameter")
        .agg(pl.col("Value").last())
        .pivot("Parameter", index=["RecordID", "hour"], values="Value")
        .rename({"RecordID": "subject_id"})
        .with_row_index("visit_id")
        .with_columns(time=pl.duration(hours="hour"))
    )
    names = sorted(rows["Parameter"].unique())
    tables = {"hours": Table(role="visit", columns={name: Number() for name in names})}
    cohort = Cohort.build(Schema(name="icu", clock="offset", tables=tables), {"hours": grid})
    codec = Codec.fit(cohort, Layout(scale="normal"))
    encoded = codec.encode(cohort, rng=Rng(0))
    back = codec.decode(encoded, Rng(1), ids=np.arange(encoded.n_subjects))
    for name in names:
        true, made = cohort.tables["hours"][name], back.tables["hours"][name]
        assert (true.is_null() == made.is_null()).all()
        law = codec.transforms[f"hours.{name}"]
        inside = true.is_between(*law.ends, closed="none").fill_null(False)
        if len(law.u) < 400 and inside.any():  # no knot was thinned out: the grid's values come back
            assert (true.filter(inside) == made.filter(inside)).mean() > 0.99, name
