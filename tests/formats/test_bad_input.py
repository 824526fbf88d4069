"""Each kind of bad input gives one message that names table, column, rows and counts, and never a value.

A case spoils a sound clinic (patients, visits, labs) in one way. Ids and cells of the clinic are words that occur
nowhere else ("SECRET..."), or odd numbers, so that a leak into a message can't hide.
"""

import gzip
from pathlib import Path

import polars as pl
import pytest

from cohortloom.errors import CohortloomError, DataError, FileFormatError
from cohortloom.formats import read
from cohortloom.formats.frames import from_frames
from cohortloom.schema import (
    Category,
    Code,
    Count,
    Filter,
    Flag,
    Grid,
    Item,
    Number,
    Ordinal,
    Schema,
    Source,
    Table,
    Timestamp,
)

PATIENTS = "pid,sex,born,weight,children,smoker\nS7701,F,1950-02-03,70.5,2,0\nS7702,M,1961-05-06,81.25,0,1\n"
VISITS = (
    "pid,vid,when,sbp,stage\nS7701,V8801,2020-01-01 10:00:00,121.5,I\nS7701,V8802,2020-02-01 10:00:00,133.5,II\n"
    "S7702,V8803,2020-03-01 10:00:00,144.5,I\n"
)
LABS = (
    "pid,vid,when,test,result\nS7701,V8801,2020-01-01 11:00:00,K,4.25\nS7701,V8801,2020-01-01 11:00:00,Na,141.5\n"
    "S7702,,2020-04-01 11:00:00,K,5.125\n"
)


def clinic(**changes) -> Schema:
    """The schema; `changes` go into the source of the table named by the key."""

    def source(name: str, **own) -> Source:
        return Source(**{"subject": "pid", **own, **changes.get(name, {})})

    return Schema(
        name="clinic",
        tables={
            "patients": Table(
                role="static",
                columns={
                    "sex": Category(levels=("F", "M"), missing=False),
                    "born": Timestamp(),
                    "weight": Number(unit="kg", low=1, high=300),
                    "children": Count(high=20),
                    "smoker": Flag(),
                },
                source=source("patients", file="patients.csv"),
            ),
            "visits": Table(
                role="visit",
                parent="patients",
                columns={"sbp": Number(unit="mm[Hg]", low=30, high=300), "stage": Ordinal(levels=("I", "II"))},
                source=source("visits", file="visits.csv", visit="vid", time="when"),
            ),
            "labs": Table(
                role="event",
                parent="visits",
                code="test",
                value="result",
                columns={"test": Code(items={"K": Item(low=1, high=10)}, levels=("K", "Na")), "result": Number()},
                source=source("labs", file="labs.csv", visit="vid", time="when"),
            ),
        },
    )


def lay(folder: Path, **files) -> Path:
    """The sound clinic with some files replaced (None: absent; bytes as they are)."""
    content = {"patients.csv": PATIENTS, "visits.csv": VISITS, "labs.csv": LABS}
    content |= {name.replace("__", "."): text for name, text in files.items()}
    for name, text in content.items():
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def parquet(folder: Path, text: str, cut: int = 0, middle: bool = False) -> None:
    """A table as Parquet, damaged."""
    pl.read_csv(text.encode()).write_parquet(folder / "labs.parquet")
    content = (folder / "labs.parquet").read_bytes()
    content = content[: len(content) - cut] if cut else content
    content = b"PAR1" + b"\0" * (len(content) - 8) + b"PAR1" if middle else content
    (folder / "labs.parquet").write_bytes(content)


def first(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


GZ = gzip.compress(LABS.encode() * 50)

# name -> (files, changes of sources, code of the problem, where it lies)
FILES = {
    "a file is absent": ({"labs__csv": None}, {}, "no-file", "labs"),
    "a pattern matches nothing": ({}, {"labs": {"file": "ward_*.csv"}}, "no-file", "labs"),
    "a source leaves the folder": ({}, {"labs": {"file": "../labs.csv"}}, "outside-folder", "labs"),
    "a source is absolute": ({}, {"labs": {"file": "/labs.csv"}}, "outside-folder", "labs"),
    "a file of no bytes": ({"labs__csv": b""}, {}, "empty-file", "labs (labs.csv)"),
    "a cut gzip file": ({"labs__csv": None, "labs__csv__gz": GZ[:-40]}, {}, "unreadable-file", "labs (labs.csv.gz)"),
    "not UTF-8": ({"labs__csv": first(LABS, "Na", "M\xfc").encode("latin1")}, {}, "not-text", "labs (labs.csv)"),
    "UTF-16": ({"labs__csv": LABS.encode("utf16")}, {}, "not-text", "labs (labs.csv)"),
    "an encoding nobody knows": ({}, {"labs": {"encoding": "klingon"}}, "not-text", "labs (labs.csv)"),
    "random bytes": ({"labs__csv": bytes(range(256)) * 4}, {}, None, "labs"),
    "another separator": ({"labs__csv": LABS.replace(",", ";")}, {}, "wrong-separator", "labs (labs.csv)"),
    "tabs": ({"labs__csv": LABS.replace(",", "\t")}, {}, "wrong-separator", "labs (labs.csv)"),
    "no header": ({"labs__csv": "".join(LABS.splitlines(True)[1:])}, {}, "no-header", "labs (labs.csv)"),
    "a row with more cells": ({"labs__csv": first(LABS, "4.25", "4.25,9.75,x")}, {}, "ragged-rows", "labs (labs.csv)"),
    "an open quote": ({"labs__csv": first(LABS, "4.25", '"4.25')}, {}, None, "labs"),
    "a column is absent": ({"labs__csv": first(LABS, "result", "outcome")}, {}, "missing-column", "labs.result"),
    "the patient column is absent": ({"labs__csv": first(LABS, "pid", "who")}, {}, "missing-column", "labs.subject_id"),
    "the time column is absent": ({"labs__csv": first(LABS, "when", "at")}, {}, "missing-column", "labs.time"),
    "a column stands twice": (
        {"labs__csv": first(LABS, "vid", "test")},
        {"labs": {"visit": None}},
        "duplicate-column",
        "labs.test",
    ),
    "a filter names no column": (
        {},
        {"labs": {"where": (Filter(column="ward", include=("x",)),)}},
        "missing-column",
        "labs.where",
    ),
    "an empty static table": ({"patients__csv": PATIENTS.splitlines()[0] + "\n"}, {}, "empty-table", "patients"),
    "an empty visit table": ({"visits__csv": VISITS.splitlines()[0] + "\n"}, {}, "empty-table", "visits"),
    "the mean of words": (
        {},
        {"visits": {"grid": Grid(every="1d", aggregate={"stage": "mean"})}},
        "bad-aggregate",
        "visits.stage",
    ),
}
RECORDS = {
    "two static rows of a patient": (first(PATIENTS, "S7702", "S7701"), "patients", "duplicate-key", "patients", 1),
    "a row without patient": (first(PATIENTS, "S7702", ""), "patients", "no-subject", "patients", 1),
    "an unknown level": (first(PATIENTS, ",F,", ",SECRETX,"), "patients", "unknown-level", "patients.sex", 0),
    "a level in other case": (first(PATIENTS, ",F,", ",f,"), "patients", "unknown-level", "patients.sex", 0),
    "a required cell is empty": (first(PATIENTS, ",F,", ",,"), "patients", "missing-value", "patients.sex", 0),
    "a date that is none": (first(PATIENTS, "1950-02-03", "1950-02-31"), "patients", "not-a-date", "patients.born", 0),
    "a date laid out otherwise": (
        first(PATIENTS, "1950-02-03", "3.2.1950"),
        "patients",
        "not-a-date",
        "patients.born",
        0,
    ),
    "a word for a number": (first(PATIENTS, "70.5", "SECRETY"), "patients", "not-a-number", "patients.weight", 0),
    "a decimal comma": (first(PATIENTS, "70.5", '"70,5"'), "patients", "not-a-number", "patients.weight", 0),
    "a number with its unit": (first(PATIENTS, "70.5", "70.5kg"), "patients", "not-a-number", "patients.weight", 0),
    "NaN": (first(PATIENTS, "70.5", "NaN"), "patients", "not-finite", "patients.weight", 0),
    "infinity": (first(PATIENTS, "70.5", "-inf"), "patients", "not-finite", "patients.weight", 0),
    "a number beyond floats": (first(PATIENTS, "70.5", "7e999"), "patients", "not-finite", "patients.weight", 0),
    "a number too high": (first(PATIENTS, "70.5", "7071.5"), "patients", "out-of-range", "patients.weight", 0),
    "a number too low": (first(PATIENTS, "70.5", "-70.5"), "patients", "out-of-range", "patients.weight", 0),
    "a negative count": (first(PATIENTS, ",2,0\n", ",-7,0\n"), "patients", "out-of-range", "patients.children", 0),
    "a broken count": (first(PATIENTS, ",2,0\n", ",2.25,0\n"), "patients", "not-whole", "patients.children", 0),
    "a flag that is neither": (first(PATIENTS, ",2,0\n", ",2,7\n"), "patients", "not-a-flag", "patients.smoker", 0),
    "a visit twice": (first(VISITS, "V8802", "V8801"), "visits", "duplicate-key", "visits", 1),
    "a visit without id": (first(VISITS, "V8802", ""), "visits", "no-visit-id", "visits", 1),
    "a visit without time": (first(VISITS, "2020-02-01 10:00:00", ""), "visits", "no-time", "visits", 1),
    "a visit of nobody": (first(VISITS, "S7702", "S9909"), "visits", "orphan", "visits", 2),
    "a time of day that is none": (first(VISITS, "10:00:00", "25:61:00"), "visits", "not-a-date", "visits.time", 0),
    "an ordinal level nobody knows": (first(VISITS, ",II", ",SECRETZ"), "visits", "unknown-level", "visits.stage", 1),
    "an event of an unknown visit": (first(LABS, "V8801", "V9909"), "labs", "orphan", "labs.visit_id", 0),
    "an event of another's visit": (first(LABS, "S7701,V8801", "S7702,V8801"), "labs", "orphan", "labs.visit_id", 0),
    "an event without time": (first(LABS, "2020-01-01 11:00:00", ""), "labs", "no-time", "labs", 0),
    "a code outside its list": (first(LABS, ",K,", ",SECRETQ,"), "labs", "unknown-level", "labs.test", 0),
    "a value outside the bounds of its code": (first(LABS, "4.25", "47.75"), "labs", "out-of-range", "labs.result", 0),
    "text among numbers": (first(LABS, "141.5", "SECRETP"), "labs", "not-a-number", "labs.result", 1),
}


def words(*texts) -> set[str]:
    """Ids and cells of an input that must not appear in a message (short ones could be part of a word)."""
    found = set()
    for text in texts:
        text = text.decode("latin1") if isinstance(text, bytes) else text
        for line in (text or "").splitlines()[1:]:
            found |= {c.strip('"') for c in line.replace(";", ",").replace("\t", ",").split(",")}
    return {w for w in found if len(w) >= 3} - {"NaN"}


def message_of(folder: Path, schema: Schema, on_error: str = "fail") -> CohortloomError:
    with pytest.raises((DataError, FileFormatError)) as caught:
        read(folder, format="tabular", schema=schema, on_error=on_error)
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_file_that_can_not_be_read(tmp_path, name):
    files, changes, code, where = FILES[name]
    error = message_of(lay(tmp_path, **files), clinic(**changes))
    assert any(p.where.startswith(where) and (code is None or p.code == code) for p in error.problems), str(error)
    assert all(p.fix for p in error.problems), "every problem says what to do"
    leaked = [w for w in words(PATIENTS, VISITS, LABS, *files.values()) if w in str(error)]
    assert not leaked


@pytest.mark.parametrize("damage", [{"cut": 30}, {"middle": True}], ids=["cut", "zeroed"])
def test_damaged_parquet(tmp_path, damage):
    lay(tmp_path, labs__csv=None)
    parquet(tmp_path, LABS, **damage)
    error = message_of(tmp_path, clinic(labs={"file": "labs.parquet"}))
    assert isinstance(error, FileFormatError) and error.problems[0].code == "unreadable-file"


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_do_not_fit(tmp_path, name):
    text, table, code, where, row = RECORDS[name]
    lay(tmp_path, **{f"{table}__csv": text})
    error = message_of(tmp_path, clinic())
    found = [p for p in error.problems if p.where == where and p.code == code]
    assert found, str(error)
    assert found[0].rows[0] == row and found[0].count == 1 and found[0].fix
    assert "on_error" in str(error), "the way on is named"
    leaked = [w for w in words(PATIENTS, VISITS, LABS, text) if w in str(error)]
    assert not leaked


@pytest.mark.parametrize("on_error", ["drop", "keep"])
@pytest.mark.parametrize("name", RECORDS)
def test_the_way_on_is_counted(tmp_path, name, on_error):
    """What "drop" and "keep" leave is a cohort; what they did is in its notes, with a count and without values."""
    text, table, code, where, _ = RECORDS[name]
    lay(tmp_path, **{f"{table}__csv": text})
    cohort = read(tmp_path, format="tabular", schema=clinic(), on_error=on_error)
    notes = cohort.origin.notes
    assert any(where in note and code in note and n >= 1 for note, n in notes.items()), notes
    assert not [w for w in words(PATIENTS, VISITS, LABS, text) if w in str(notes)]
    if on_error == "drop":
        from cohortloom.rules import check

        assert not check(cohort), "what is left keeps every rule the schema implies"


def test_the_sound_clinic_reads_without_a_word(tmp_path):
    cohort = read(lay(tmp_path), format="tabular", schema=clinic())
    assert cohort.n_subjects == 2 and cohort.origin.notes == {}
    assert cohort.tables["labs"]["visit_id"].to_list() == ["V8801", "V8801", None]


def test_all_problems_come_in_one_message(tmp_path):
    bad = first(first(first(PATIENTS, ",F,", ",X,"), "70.5", "heavy"), "1961-05-06", "later")
    lay(tmp_path, patients__csv=bad, labs__csv=first(LABS, "141.5", "high"))
    error = message_of(tmp_path, clinic())
    assert {p.where for p in error.problems} >= {"patients.sex", "patients.weight", "patients.born", "labs.result"}


def test_file_problems_are_never_passed_over(tmp_path):
    lay(tmp_path, labs__csv=b"")
    for on_error in ("drop", "keep"):
        message_of(tmp_path, clinic(), on_error)


def test_unsorted_and_tied_times_are_put_in_order_and_counted(tmp_path):
    head, one, two, three = VISITS.splitlines(True)
    cohort = read(lay(tmp_path, visits__csv=head + two + one + three), format="tabular", schema=clinic())
    assert cohort.origin.notes == {"visits: rows put in order of time": 1}
    assert cohort.tables["visits"]["visit_id"].to_list() == ["V8801", "V8802", "V8803"]
    tied = VISITS.replace("2020-02-01", "2020-01-01")
    cohort = read(lay(tmp_path, visits__csv=tied), format="tabular", schema=clinic())
    assert cohort.origin.notes == {"visits: visits at the time of another of the same patient": 1}


def test_patient_without_a_visit_is_a_patient(tmp_path):
    lines = VISITS.splitlines(True)
    cohort = read(lay(tmp_path, visits__csv="".join(lines[:3])), format="tabular", schema=clinic())
    assert cohort.n_subjects == 2 and cohort.origin.notes == {"patients without a visit": 1}


def test_dropping_a_patient_drops_what_hangs_on_it(tmp_path):
    lay(tmp_path, patients__csv=first(PATIENTS, ",F,", ",,"))
    cohort = read(tmp_path, format="tabular", schema=clinic(), on_error="drop")
    assert cohort.tables["visits"].height == 1 and cohort.tables["patients"].height == 1
    assert cohort.tables["labs"].filter(pl.col("visit_id").is_not_null()).is_empty()


def test_patient_files_are_named_by_number(tmp_path):
    """The name of a file found by a pattern may be that of a patient."""
    lay(tmp_path, labs__csv=None)
    (tmp_path / "SECRET17.txt").write_text(LABS)
    (tmp_path / "SECRET18.txt").write_bytes(b"")
    error = message_of(tmp_path, clinic(labs={"file": "SEC*.txt"}))
    assert "file 2 of 2" in str(error) and "SECRET18" not in str(error)
    (tmp_path / "SECRET18.txt").write_text("pid,vid,when\nS7701,,2020-01-01\n")
    assert "other columns" in str(message_of(tmp_path, clinic(labs={"file": "SEC*.txt"})))


FRAMES = {
    "mixed types": ({"x": [1.5, "SECRETM", 2.5]}, "not-a-number"),
    "a list in a cell": ({"x": pl.Series([[1.0], [2.0], [3.0]])}, "wrong-type"),
    "a column too few": ({}, "missing-column"),
    "infinite": ({"x": [1.0, float("inf"), 2.0]}, "not-finite"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_do_not_fit(name):
    import pandas as pd

    columns, code = FRAMES[name]
    make = pl.DataFrame if name == "a list in a cell" else pd.DataFrame
    schema = Schema(name="s", tables={"patients": Table(role="static", columns={"x": Number()})})
    with pytest.raises(DataError) as caught:
        from_frames(schema, {"patients": make({"subject_id": [1, 2, 3], **columns})})
    assert caught.value.problems[0].code == code and "SECRETM" not in str(caught.value)


def test_unknown_table_and_format():
    schema = Schema(name="s", tables={"patients": Table(role="static", columns={"x": Number()})})
    with pytest.raises(DataError, match='Did you mean "patients"'):
        from_frames(schema, {"patient": pl.DataFrame({"subject_id": [1], "x": [1.0]})})
    with pytest.raises(CohortloomError, match='Did you mean "tabular"'):
        read(".", format="tabula")


def test_there_are_at_least_forty_named_bad_inputs():
    assert len(FILES) + len(RECORDS) + len(FRAMES) >= 40
