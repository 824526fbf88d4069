"""Reading by ranges of patients gives the bytes of reading whole."""

import gzip
import json

import numpy as np
import polars as pl
import pytest

from cohortloom import simulate
from cohortloom.cohort.summary import summary_text
from cohortloom.formats import in_ranges, meds, read, write
from cohortloom.schema import Category, Code, Number, Schema, Source, Table

MESSY = {
    "patients": Table(
        role="static",
        columns={"sex": Category(levels=("F", "M"))},
        source=Source(file="all.csv", subject="id", repeated=True),
    ),
    "visits": Table(
        role="visit",
        columns={"weight": Number(unit="kg", low=0, high=300, decimals=1)},
        source=Source(file="all.csv", subject="id", time="day", where=({"column": "kind", "exclude": ("test",)},)),
    ),
    "labs": Table(
        role="event",
        parent="patients",
        code="item",
        value="value",
        columns={"item": Code(system="local"), "value": Number(unit="1")},
        source=Source(file="labs.csv.gz", subject="who", time="when", missing=("-1",)),
    ),
}


def from_first_row():
    """The same tables, their dates counted from the patient's first row."""
    tables = dict(MESSY)
    for name in ("visits", "labs"):
        told = MESSY[name].source.model_dump(exclude_none=True)
        told["time"] = {"column": MESSY[name].source.when.column, "origin": "first"}
        tables[name] = MESSY[name].model_copy(update={"source": Source(**told)})
    return tables


def files(folder, ids, seed=1):
    """A folder with interleaved patients, double and faulty rows, one patient in labs alone and rows of nobody."""
    rng, n = np.random.default_rng(seed), 3000
    folder.mkdir()
    who = rng.integers(0, 150, n)
    day = pl.Series(rng.integers(0, 900, n)).cast(pl.String)
    days = (pl.lit("2020-01-01").str.to_date() + pl.duration(days=day.cast(pl.Int64))).cast(pl.String)
    frame = pl.DataFrame({"id": [ids(i) for i in who], "sex": np.where(who % 3 == 0, "F", "M")})
    frame = frame.with_columns(days.alias("day"), pl.Series("weight", rng.normal(70, 20, n).round(1)).cast(pl.String))
    frame = frame.with_columns(pl.Series("kind", rng.choice(["seen", "test"], n, p=[0.95, 0.05])))
    frame = _spoilt(_spoilt(frame, "weight", "heavy", 97), "sex", "M", 211)
    frame.write_csv(folder / "all.csv")
    at = rng.permutation(n)
    labs = pl.DataFrame({"who": [ids(i) for i in rng.integers(0, 160, n)], "when": frame["day"].gather(at)})
    labs = labs.with_columns(pl.Series("item", rng.choice(["K", "Na"], n)), pl.Series("value", rng.integers(-1, 9, n)))
    _gz(_spoilt(labs, "who", "", 301), folder / "labs.csv.gz")


def _spoilt(frame, column, word, every):
    """One in `every` cells of a column replaced by a word."""
    here = pl.int_range(pl.len()) % every == 5
    return frame.with_columns(pl.when(here).then(pl.lit(word)).otherwise(column).alias(column))


def _gz(frame, path):
    path.write_bytes(gzip.compress(frame.write_csv().encode()))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(in_ranges, "LARGE", 1)
    monkeypatch.setattr(in_ranges, "CELLS", 2000)


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


IDS = {"int": str, "text": "P{}".format, "float": "{}.0".format, "backwards": lambda i: f" {1000 - i}"}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
@pytest.mark.parametrize("clock", ["timestamp", "offset"])
def test_bytes_and_notes_are_those_of_reading_whole(tmp_path, small, ids, clock):
    schema = Schema(name="messy", clock=clock, tables=MESSY if clock == "timestamp" else from_first_row())
    files(tmp_path / "in", ids)
    whole = read(tmp_path / "in", format="tabular", schema=schema, on_error="drop")
    write(whole, tmp_path / "whole")
    said = in_ranges.convert(tmp_path / "in", tmp_path / "ranges", schema=schema, on_error="drop")
    assert said == summary_text(whole)
    assert manifest(tmp_path / "ranges") == manifest(tmp_path / "whole")
    assert {p.name for p in (tmp_path / "ranges").iterdir()} == {"manifest.json", "schema.json", "tables"}
    for word in ("rows dropped (no-subject)", "left out", "cells made missing", "in order of time"):
        assert any(word in note for note in whole.origin.notes), word


def test_a_folder_of_ours_is_read_the_same_way(tmp_path, small, schema_dir):
    cohort = simulate(Schema.from_file(schema_dir / "pbc.toml"), 200, seed=1)
    write(cohort, tmp_path / "csv", format="tabular")
    write(read(tmp_path / "csv", format="tabular"), tmp_path / "whole")
    assert in_ranges.convert(tmp_path / "csv", tmp_path / "ranges")
    assert manifest(tmp_path / "ranges") == manifest(tmp_path / "whole")


def test_what_is_to_be_told_of_files_leaves_nothing_behind(tmp_path, small):
    schema = Schema(name="messy", clock="timestamp", tables=MESSY)
    files(tmp_path / "in", str)
    assert in_ranges.convert(tmp_path / "in", tmp_path / "out", schema=schema) is None  # faulty cells, on_error="fail"
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_ids_that_are_numbers_in_one_range_and_text_in_another_are_read_whole(tmp_path, small):
    schema = Schema(name="messy", clock="timestamp", tables=MESSY)
    files(tmp_path / "in", lambda i: f"{i}" if i < 75 else f"P{i}")
    assert in_ranges.convert(tmp_path / "in", tmp_path / "out", schema=schema, on_error="drop") is None


def test_small_files_are_left_to_reading_whole(tmp_path):
    schema = Schema(name="messy", clock="timestamp", tables=MESSY)
    files(tmp_path / "in", str)
    assert in_ranges.convert(tmp_path / "in", tmp_path / "out", schema=schema, on_error="drop") is None


def test_a_table_without_rows_is_told_once(tmp_path, small):
    schema = Schema(name="messy", clock="timestamp", tables=MESSY)
    files(tmp_path / "in", str)
    _gz(pl.DataFrame(schema=dict.fromkeys(("who", "when", "item", "value"), pl.String)), tmp_path / "in/labs.csv.gz")
    write(read(tmp_path / "in", format="tabular", schema=schema, on_error="drop"), tmp_path / "whole")
    assert in_ranges.convert(tmp_path / "in", tmp_path / "ranges", schema=schema, on_error="drop")
    assert manifest(tmp_path / "ranges")["origin"]["notes"]["labs: rows"] == 0
    assert manifest(tmp_path / "ranges") == manifest(tmp_path / "whole")


def test_patients_marked_synthetic_stay_so(tmp_path, small):
    schema = Schema(name="messy", clock="timestamp", tables=MESSY)
    files(tmp_path / "in", str)
    assert in_ranges.convert(tmp_path / "in", tmp_path / "out", schema=schema, on_error="drop", synthetic=True)
    assert manifest(tmp_path / "out")["origin"]["kind"] == "synthetic"


@pytest.mark.parametrize("ids", [str, "P{}".format], ids=["int", "text"])
@pytest.mark.parametrize("on_error", ["fail", "drop"])
def test_meds_of_ours(tmp_path, small, monkeypatch, ids, on_error):
    monkeypatch.setattr(meds, "CELLS", 5000)
    files(tmp_path / "in", ids)
    schema = Schema(name="messy", clock="timestamp", tables=MESSY)
    whole = read(tmp_path / "in", format="tabular", schema=schema, on_error="drop")
    write(whole, tmp_path / "meds", format="meds")
    assert len(list((tmp_path / "meds/data").iterdir())) > 2
    write(read(tmp_path / "meds", format="meds", on_error=on_error), tmp_path / "whole")
    said = in_ranges.convert(tmp_path / "meds", tmp_path / "ranges", read_as="meds", on_error=on_error)
    assert said == summary_text(whole)
    assert manifest(tmp_path / "ranges") == manifest(tmp_path / "whole")


def test_meds_of_others(tmp_path, small):
    """Shards in no order of subjects, statics without a time, births; with and without sources."""
    rng, n = np.random.default_rng(2), 4000
    days = pl.Series(rng.integers(0, 900, n))
    frame = pl.DataFrame({"subject_id": rng.integers(0, 120, n), "code": rng.choice(["LAB//K", "LAB//Na"], n)})
    frame = frame.with_columns((pl.lit("2020-01-01").str.to_datetime() + pl.duration(days=days)).alias("time"))
    frame = frame.with_columns(pl.Series("numeric_value", rng.normal(size=n), dtype=pl.Float32))
    born = pl.DataFrame({"subject_id": range(130), "code": "MEDS_BIRTH", "time": frame["time"].min()})
    sex = pl.DataFrame({"subject_id": range(0, 130, 2), "code": "GENDER//F"})
    frame = pl.concat([frame, born, sex], how="diagonal").sort("subject_id", "time", nulls_last=False)
    (tmp_path / "meds/data").mkdir(parents=True)
    for k, rest in enumerate((1, 0)):
        frame.filter(pl.col("subject_id") % 2 == rest).write_parquet(tmp_path / f"meds/data/{k}.parquet")
    labs = Table(
        role="event",
        columns={"K": Number(unit="mmol/L")},
        source=Source(
            file="data/*.parquet",
            subject="subject_id",
            time="time",
            layout="long",
            code="code",
            value="numeric_value",
            codes={"LAB//K": "K"},
        ),
    )
    for name, schema in (("plain", None), ("sourced", Schema(name="k", clock="timestamp", tables={"labs": labs}))):
        whole = read(tmp_path / "meds", format="meds", schema=schema, on_error="drop")
        write(whole, tmp_path / name)
        said = in_ranges.convert(
            tmp_path / "meds", tmp_path / "ranges", read_as="meds", schema=schema, on_error="drop", force=True
        )
        assert said == summary_text(whole)
        assert manifest(tmp_path / "ranges") == manifest(tmp_path / name)
