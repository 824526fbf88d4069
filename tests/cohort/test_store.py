"""A folder gives back what was saved, and nothing that was touched since."""

import json
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cohortloom.cohort import Cohort, Origin, SignalSet
from cohortloom.errors import FileFormatError
from cohortloom.schema import Category, Flag, Number, Schema, Signal, Table


def schema(clock: str = "timestamp", signals: bool = True) -> Schema:
    return Schema(
        name="clinic",
        clock=clock,
        tables={
            "visits": Table(role="visit", columns={"weight": Number(unit="kg", decimals=1), "fever": Flag()}),
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
        },
        signals={"ecg": Signal(kind="ecg", channels=("II", "I"), fs=10.0)} if signals else {},
    )


def cohort(clock: str = "timestamp") -> Cohort:
    times = {
        "timestamp": [datetime(2024, 1, 1), datetime(2024, 1, 2), datetime(2023, 1, 1)],
        "offset": [timedelta(hours=1), timedelta(hours=2), timedelta(0)],
        "order": [0, 1, 0],
    }[clock]
    tables = {
        "visits": pl.DataFrame(
            {
                "subject_id": [1, 1, 7],
                "visit_id": [11, 12, 13],
                "time": times,
                "weight": [70.5, None, 80.0],
                "fever": [True, None, False],
            }
        ),
        "patients": pl.DataFrame({"subject_id": [1, 7, 9], "sex": ["F", None, "M"]}),
    }
    ecg = SignalSet(
        schema().signals["ecg"],
        pl.DataFrame({"record_id": [0, 1], "subject_id": [1, 9], "n_samples": [5, 4], "label": ["NORM", None]}),
        np.arange(20, dtype=np.float32).reshape(2, 2, 5),
        pl.DataFrame({"record_id": [0], "sample": [2], "kind": ["beats"], "symbol": ["N"]}),
    )
    origin = Origin("synthetic", "simulate", seed=4, notes={"dropped": {"visits": 2}})
    return Cohort.build(schema(clock), tables, signals={"ecg": ecg}, origin=origin)


@pytest.mark.parametrize("clock", ["timestamp", "offset", "order"])
def test_what_is_saved_comes_back(tmp_path, clock):
    before = cohort(clock)
    before.save(tmp_path / "c")
    after = Cohort.load(tmp_path / "c")
    assert after.schema == before.schema
    assert list(after.schema.tables) == ["visits", "patients"], "the order of tables is part of a schema"
    for name in before.tables:
        assert_frame_equal(after.tables[name], before.tables[name])
    assert after.origin.notes == before.origin.notes and after.origin.seed == 4 and after.origin.version
    assert isinstance(after.signals["ecg"].samples, np.memmap)
    np.testing.assert_array_equal(after.signals["ecg"].samples, before.signals["ecg"].samples)
    assert_frame_equal(after.signals["ecg"].annotations, before.signals["ecg"].annotations)


def test_empty_cohort_comes_back(tmp_path):
    empty = Cohort.build(schema(signals=False), {})
    empty.save(tmp_path / "c")
    assert Cohort.load(tmp_path / "c").n_subjects == 0


def test_equal_cohorts_give_equal_bytes(tmp_path):
    whole = cohort()
    chunked = Cohort(
        whole.schema,
        {n: pl.concat([t[:1], t[1:]], rechunk=False) for n, t in whole.tables.items()},
        whole.signals,
        whole.origin,
    )
    whole.save(tmp_path / "a")
    chunked.save(tmp_path / "b")
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_existing_folder_is_kept_without_force(tmp_path):
    cohort().save(tmp_path / "c")
    with pytest.raises(FileFormatError, match="force"):
        cohort("order").save(tmp_path / "c")
    assert Cohort.load(tmp_path / "c").schema.clock == "timestamp"
    cohort("order").save(tmp_path / "c", force=True)
    assert Cohort.load(tmp_path / "c").schema.clock == "order"


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


FAULTS = {
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "not-a-cohort"),
    "manifest cut": (lambda p: _cut(p / "manifest.json"), "not-json"),
    "manifest of something else": (lambda p: (p / "manifest.json").write_text("[1]"), "foreign"),
    "manifest without files": (lambda p: _edit(p / "manifest.json", lambda m: m.pop("files")), "foreign"),
    "newer format": (lambda p: _edit(p / "manifest.json", lambda m: m.update(format=99)), "format-number"),
    "table cut": (lambda p: _cut(p / "tables/visits.parquet"), "changed"),
    "table gone": (lambda p: (p / "tables/visits.parquet").unlink(), "no-file"),
    "table swapped": (lambda p: (p / "tables/visits.parquet").replace(p / "tables/patients.parquet"), "changed"),
    "schema changed": (lambda p: _edit(p / "schema.json", lambda s: s.update(version="2")), "changed"),
    "samples changed": (lambda p: _cut(p / "signals/ecg/samples.npy"), "changed"),
    "path out of the folder": (
        lambda p: _edit(p / "manifest.json", lambda m: m["files"].update({"../x": {"sha256": "", "rows": 0}})),
        "foreign",
    ),
    "table not listed": (
        lambda p: _edit(p / "manifest.json", lambda m: m["files"].pop("tables/visits.parquet")),
        "no-file",
    ),
    "other digest": (lambda p: _edit(p / "manifest.json", lambda m: m.update(schema_digest="0")), "schema-digest"),
    "rows": (
        lambda p: _edit(p / "manifest.json", lambda m: m["files"]["tables/visits.parquet"].update(rows=2)),
        "rows",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_touched_folder_is_refused(tmp_path, name):
    spoil, code = FAULTS[name]
    cohort().save(tmp_path / "c")
    spoil(tmp_path / "c")
    with pytest.raises(FileFormatError) as caught:
        Cohort.load(tmp_path / "c")
    assert code in {p.code for p in caught.value.problems}


def test_all_findings_come_at_once(tmp_path):
    cohort().save(tmp_path / "c")
    _cut(tmp_path / "c/tables/visits.parquet")
    (tmp_path / "c/tables/patients.parquet").unlink()
    with pytest.raises(FileFormatError) as caught:
        Cohort.load(tmp_path / "c")
    assert len(caught.value.problems) == 2


def test_absent_folder(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        Cohort.load(tmp_path / "nothing")


def test_samples_are_never_unpickled(tmp_path):
    from cohortloom.files import sha256

    cohort().save(tmp_path / "c")
    file = tmp_path / "c/signals/ecg/samples.npy"
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    _edit(tmp_path / "c/manifest.json", lambda m: m["files"]["signals/ecg/samples.npy"].update(sha256=sha256(file)))
    with pytest.raises(FileFormatError, match="not an array"):
        Cohort.load(tmp_path / "c")
