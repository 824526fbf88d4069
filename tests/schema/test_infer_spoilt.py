"""Drafts of files with rows copied, cut or put together from two exports, and of numbers with words among them."""

import gzip
from pathlib import Path

import polars as pl
import pytest

import cohortloom as cl
from cohortloom.errors import FileFormatError
from cohortloom.schema.infer import Draft, infer_schema
from cohortloom.schema.text_files import decoded, is_cut


def patients(n: int = 40) -> list[str]:
    return [f"{i},{'F' if i % 3 else 'M'},{20 + i}" for i in range(1, n + 1)]


def visits(n: int = 40) -> list[str]:
    return [f"{i},2020-0{v}-{1 + i % 28:02d},{60 + i + v},{5 + v}" for i in range(1, n + 1) for v in (1, 3, 5)]


def folder(path: Path, first: list[str], second: list[str]) -> Path:
    (path / "patients.csv").write_text("\n".join(["patient_id,sex,age", *first]) + "\n")
    (path / "visits.csv").write_text("\n".join(["patient_id,visit_date,weight,score", *second]) + "\n")
    return path


def read(path: Path, draft: Draft | None = None) -> cl.Cohort:
    draft = draft or infer_schema(path, name="mine")
    return cl.read(path, format="tabular", schema=draft.schema)


def test_rows_copied_exactly_leave_patients_static(tmp_path):
    rows = patients()
    folder(tmp_path, [*rows, rows[4], rows[4], rows[20]], visits())
    draft = infer_schema(tmp_path, name="mine")
    assert draft.schema.tables["patients"].role == "static"
    assert draft.schema.tables["visits"].parent == "patients"
    assert "3 rows of patients.csv are an exact copy of another" in " ".join(draft.text.replace("#", "").split())
    assert read(tmp_path, draft).tables["patients"].height == 40


def test_rows_of_one_patient_that_differ_are_no_copies(tmp_path):
    folder(tmp_path, [*patients(), "5,F,26"], visits())
    assert "exact copy" not in infer_schema(tmp_path, name="mine").text


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_file_cut_in_its_last_row_is_reported(tmp_path, end):
    folder(tmp_path, patients(), visits())
    text = (tmp_path / "visits.csv").read_bytes()
    (tmp_path / "visits.csv").unlink()
    file, squeeze = tmp_path / f"visits.csv{end}", gzip.compress if end else bytes
    file.write_bytes(squeeze(text))
    assert not is_cut(file, ",")
    whole = read(tmp_path).schema
    file.write_bytes(squeeze(text[:-5]))  # "...,105" of "...,105,10\n"
    assert is_cut(file, ",")
    assert f"LOOK HERE: visits.csv{end} ends within its last row" in infer_schema(tmp_path, name="mine").text
    with pytest.raises(FileFormatError, match="in the middle of its last row"):
        cl.read(tmp_path, format="tabular", schema=whole)


@pytest.mark.parametrize("end", ["1,2,3\n", "1,2,3", '1,2,"a\nb"', "1,2\n"])
def test_files_that_end_otherwise_are_not_cut(tmp_path, end):
    file = tmp_path / "a.csv"
    file.write_text(f"a,b,c\n4,5,6\n7,8,9\n{end}")
    assert not is_cut(file, ",")


def test_lines_of_two_encodings_give_one_spelling(tmp_path):
    rows = [f"{i},{'Köln' if i % 2 else 'Bonn'},{20 + i}" for i in range(1, 41)]
    lines = [row.encode("utf8" if i < 20 else "cp1252") for i, row in enumerate(rows)]
    (tmp_path / "patients.csv").write_bytes(b"\n".join([b"patient_id,city,age", *lines]) + b"\n")
    draft = infer_schema(tmp_path, name="mine")
    assert draft.schema.tables["patients"].columns["city"].levels == ("Bonn", "Köln")  # type: ignore[union-attr]
    assert read(tmp_path, draft).tables["patients"]["city"].value_counts().sort("city")["count"].to_list() == [20, 20]
    assert decoded("ü\n".encode() + "ü".encode("cp1252"), "utf8|cp1252") == "ü\nü"


def test_the_line_a_spreadsheet_puts_before_the_header_is_passed_over(tmp_path):
    for start in ("sep=;\n", "\ufeffsep=;\r\n", '"sep=;"\n'):
        rows = [row.replace(",", ";") for row in patients()]
        (tmp_path / "patients.csv").write_text(start + "\n".join(["patient_id;sex;age", *rows]), encoding="utf8")
        found = read(tmp_path).tables["patients"]
        assert (found.height, found["age"].sum()) == (40, sum(range(21, 61)))


def test_a_devices_word_for_no_number_is_missing(tmp_path):
    rows = [row if i % 8 else row.rsplit(",", 2)[0] + ",ERR,5" for i, row in enumerate(visits())]
    folder(tmp_path, patients(), rows)
    draft = infer_schema(tmp_path, name="mine")
    assert draft.schema.tables["visits"].columns["weight"].kind == "number"
    assert read(tmp_path, draft).tables["visits"]["weight"].null_count() == 15


def test_numbers_words_and_a_lone_limit_become_two_columns(tmp_path):
    # of 120 results 30 are words, one is below what can be measured, the rest are numbers
    rows = [row if i % 4 else row.rsplit(",", 2)[0] + ",negative,5" for i, row in enumerate(visits())]
    rows[1] = rows[1].rsplit(",", 2)[0] + ",<5,5"
    folder(tmp_path, patients(), rows)
    draft = infer_schema(tmp_path, name="mine")
    columns = draft.schema.tables["visits"].columns
    assert columns["weight"].kind == "number"
    assert columns["weight_words"].levels == ("negative",)  # type: ignore[union-attr]
    found = read(tmp_path, draft).tables["visits"]
    assert found["weight"].is_not_null().sum() == 90 and found["weight"].min() == 5
    assert found["weight_words"].is_not_null().sum() == 30
    assert found.filter(pl.col("weight").is_null() == pl.col("weight_words").is_null()).is_empty()


def test_whole_numbers_of_a_place_of_service_name_places(tmp_path):
    rows = [f"{row.rsplit(',', 1)[0]},{(11, 21, 23)[i % 3]}" for i, row in enumerate(visits())]
    folder(tmp_path, patients(), rows)
    file = tmp_path / "visits.csv"
    file.write_text(file.read_text().replace("score", "place_of_service"))
    draft = infer_schema(tmp_path, name="mine")
    assert draft.schema.tables["visits"].columns["place_of_service"].kind == "category"
