"""MEDS in and out beyond the round trip: what other tools find in the rows, and datasets that others made."""

from datetime import datetime, timedelta

import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.errors import DataError, FileFormatError
from cohortloom.formats import read, write
from cohortloom.formats.meds import read_splits
from cohortloom.formats.meds import write as write_meds
from cohortloom.schema import Category, Code, Count, Number, Schema, Source, SourceTime, Table


def clinic(clock: str = "timestamp") -> Schema:
    return Schema(
        name="clinic",
        clock=clock,
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"), code="LOINC:46098-0")}),
            "visits": Table(role="visit", columns={"sbp": Number(unit="mm[Hg]", decimals=1, description="pressure")}),
            "diagnoses": Table(role="event", parent="visits", timed=False, code="icd", columns={"icd": Code()}),
            "labs": Table(role="event", code="test", value="v", columns={"test": Code(), "v": Number()}),
        },
    )


def cohort(ids=(4, 9), clock="timestamp") -> Cohort:
    at = {"timestamp": datetime(2020, 5, 1, 8), "offset": timedelta(hours=8), "order": 3}[clock]
    tables = {
        "patients": pl.DataFrame({"subject_id": ids, "sex": ["F", None]}),
        "visits": pl.DataFrame({"subject_id": [ids[0]], "visit_id": [77], "time": [at], "sbp": [120.3]}),
        "diagnoses": pl.DataFrame({"subject_id": [ids[0]], "visit_id": [77], "icd": ["I50"]}),
        "labs": pl.DataFrame({"subject_id": [ids[1]], "time": [at], "test": ["K"], "v": [1 / 3]}),
    }
    return Cohort.build(clinic(clock), tables)


def rows(folder) -> list[tuple]:
    return pl.read_parquet(folder / "data/0.parquet").select("subject_id", "time", "code", "numeric_value").rows()


def test_rows_are_those_a_reader_of_meds_expects(tmp_path):
    write(cohort(), tmp_path / "m", format="meds")
    at = datetime(2020, 5, 1, 8)
    found = rows(tmp_path / "m")
    assert found[0] == (4, None, "patients//sex//F", None), "statics have no time and come first"
    assert sorted(found[1:4], key=str) == [
        (4, at, "diagnoses//icd//I50", None),
        (4, at, "visits", None),
        (4, at, "visits//sbp", pytest.approx(120.3, abs=1e-4)),
    ], "an untimed event stands at its visit"
    assert found[4:] == [(9, None, "patients", None), (9, at, "labs//test//K", pytest.approx(1 / 3))]


def test_codes_carry_words_units_and_standard_codes(tmp_path):
    write(cohort(), tmp_path / "m", format="meds")
    codes = {r[0]: r[1:] for r in pl.read_parquet(tmp_path / "m/metadata/codes.parquet").rows()}
    assert codes["visits//sbp"] == ("pressure [mm[Hg]]", None)
    assert codes["patients//sex//F"] == ("sex", ["LOINC/46098-0"])


@pytest.mark.parametrize("clock", ["offset", "order"])
def test_times_that_are_no_dates_are_dates_in_the_file(tmp_path, clock):
    write(cohort(clock=clock), tmp_path / "m", format="meds")
    expected = {"offset": datetime(2000, 1, 1, 8), "order": datetime(2000, 1, 4)}[clock]
    assert {r[1] for r in rows(tmp_path / "m")} == {None, expected}
    assert read(tmp_path / "m", format="meds").tables["visits"].equals(cohort(clock=clock).tables["visits"])


def test_ids_that_are_words_are_numbered_and_come_back(tmp_path):
    words = cohort(ids=("a", "b"))
    parts = words.split(seed=0, train=0.5, held_out=0.5)
    write_meds(words, tmp_path / "m", splits=parts)
    assert {r[0] for r in rows(tmp_path / "m")} == {1, 2}
    back = read(tmp_path / "m", format="meds")
    assert back.tables["labs"].equals(words.tables["labs"]), "a third is not a float32 and still comes back"
    splits = read_splits(tmp_path / "m")
    assert {k: v.to_list() for k, v in splits.items()} == {k: p.subjects.to_list() for k, p in parts.items()}


def foreign(folder):
    """A small dataset as another tool writes it."""
    (folder / "data").mkdir()
    frame = pl.DataFrame(
        {
            "subject_id": [1, 1, 1, 1, 2, 2],
            "time": [
                None,
                datetime(1950, 1, 1),
                datetime(2020, 1, 1),
                datetime(2020, 1, 2),
                None,
                datetime(2020, 1, 5),
            ],
            "code": ["GENDER//F", "MEDS_BIRTH", "LAB//K//mmol/L", "ICD//I50", "GENDER//M", "LAB//K//mmol/L"],
            "numeric_value": pl.Series([None, None, 4.5, None, None, 5.0], dtype=pl.Float32),
        },
        schema_overrides={"time": pl.Datetime("us")},
    )
    frame[:4].write_parquet(folder / "data/0.parquet")
    frame[4:].write_parquet(folder / "data/1.parquet")
    return folder


def test_dataset_of_others_without_a_schema(tmp_path):
    got = read(foreign(tmp_path), format="meds")
    assert got.tables["subjects"].rows() == [(1, "F", datetime(1950, 1, 1)), (2, "M", None)]
    assert got.tables["events"].drop("text_value").rows() == [
        (1, datetime(2020, 1, 1), "LAB//K//mmol/L", 4.5),
        (1, datetime(2020, 1, 2), "ICD//I50", None),
        (2, datetime(2020, 1, 5), "LAB//K//mmol/L", 5.0),
    ]
    assert got.schema.problems() == []


def test_dataset_of_others_by_the_sources_of_a_schema(tmp_path):
    long = {"file": "data/*.parquet", "layout": "long", "code": "code", "value": "numeric_value"}
    names = {"code": "code", "value": "numeric_value"}
    lab = Source(file="data/*.parquet", time=SourceTime(column="time"), columns=names, codes={"LAB//*": "*"})
    born = Source(**long, codes={"GENDER//*": "sex"})
    schema = Schema(
        name="s",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}, source=born),
            "labs": Table(
                role="event", code="code", value="value", source=lab, columns={"code": Code(), "value": Number()}
            ),
        },
    )
    got = read(foreign(tmp_path), format="meds", schema=schema)
    assert got.tables["patients"].rows() == [(1, "F"), (2, "M")]
    assert got.tables["labs"].rows() == [
        (1, datetime(2020, 1, 1), "K//mmol/L", 4.5),
        (2, datetime(2020, 1, 5), "K//mmol/L", 5.0),
    ]


def test_folders_that_are_not_meds(tmp_path):
    with pytest.raises(FileFormatError, match="no MEDS data"):
        read(tmp_path, format="meds")
    (tmp_path / "data").mkdir()
    pl.DataFrame({"subject_id": [1]}).write_parquet(tmp_path / "data/0.parquet")
    with pytest.raises(FileFormatError, match=r"data\.code"):
        read(tmp_path, format="meds")
    (tmp_path / "data/0.parquet").write_bytes(b"PAR1")
    with pytest.raises(FileFormatError, match="file 1 of 1"):
        read(tmp_path, format="meds")
    with pytest.raises(DataError, match="which MEDS codes"):
        read(foreign_again(tmp_path), format="meds", schema=clinic())


def foreign_again(folder):
    (folder / "x").mkdir()
    return foreign(folder / "x")


def test_names_that_part_codes_are_refused(tmp_path):
    schema = Schema(name="s", tables={"t": Table(role="static", columns={"a//b": Count()})})
    with pytest.raises(DataError, match="Rename"):
        write(Cohort.build(schema, {}), tmp_path / "m", format="meds")
