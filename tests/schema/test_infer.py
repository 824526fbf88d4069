"""Drafts: planted keys, links, kinds, marks and layouts are found again, and no extreme of a patient is printed."""

import gzip
import os
from datetime import date, datetime, timedelta
from datetime import time as dtime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortloom.errors import FileFormatError
from cohortloom.formats import read
from cohortloom.formats.frames import from_frames
from cohortloom.schema.infer import infer_schema
from cohortloom.schema.profile import outward, profile, snake, with_points
from cohortloom.schema.text import parse_schema

DATA = Path(os.path.abspath(__file__)).parents[2].parent / "shared" / "data"


def clinic(n: int = 60) -> dict[str, pl.DataFrame]:
    """Patients, admissions, labs in long form with units, and a dictionary of the labs."""
    rng = np.random.default_rng(0)
    ids = np.arange(1000, 1000 + n)
    patients = pl.DataFrame({"subject_id": ids, "sex": rng.choice(["F", "M"], n), "birth_date": ["1950-03-01"] * n})
    per = rng.integers(0, 4, n)
    owner = np.repeat(ids, per)
    hadm = rng.permutation(np.arange(50_000, 50_000 + len(owner)))
    day = [f"2020-01-{d:02} 0{d % 10}:30:00" for d in rng.integers(1, 28, len(owner))]
    admissions = pl.DataFrame(
        {
            "subject_id": owner,
            "hadm_id": hadm,
            "admittime": day,
            "ward": rng.choice(["A", "B"], len(owner)),
            "los": rng.gamma(2, 2, len(owner)).round(1),
        }
    )
    which = rng.integers(0, len(owner), 600)
    item = rng.choice([50971, 50983], 600)
    item[:3] = 51003
    labs = pl.DataFrame(
        {
            "subject_id": owner[which],
            "hadm_id": hadm[which],
            "charttime": ["2020-02-01 08:00:00"] * 600,
            "itemid": item,
            "valuenum": np.where(item == 50971, rng.normal(4, 0.5, 600), rng.normal(140, 4, 600)).round(1),
            "uom": np.where(item == 50971, "mEq/L", "mmol/L"),
            "flag_text": rng.choice(["H", "L"], 600),
        }
    )
    names = pl.DataFrame({"itemid": [50971, 50983, 51003, 1], "label": ["Potassium", "Sodium", "Troponin", "Other"]})
    return {"patients": patients, "admissions": admissions, "labs": labs, "d_items": names}


def one_file(n: int = 50) -> pl.DataFrame:
    """The commonest research file: statics repeated on every row of a visit."""
    rng = np.random.default_rng(1)
    per = rng.integers(1, 7, n)
    who = np.repeat(np.arange(1, n + 1), per)
    rows = len(who)
    return pl.DataFrame(
        {
            "id": who,
            "trt": np.repeat(rng.integers(0, 2, n), per),
            "age": np.repeat(rng.uniform(30, 70, n), per),
            "day": np.concatenate([np.sort(rng.choice(2000, k, replace=False)) for k in per]),
            "bili": np.where(rng.random(rows) < 0.2, -1, rng.gamma(2, 2, rows).round(1)),
            "chol": rng.normal(200, 30, rows).round(0),
            "edema": rng.choice([0.0, 0.5, 1.0], rows),
            "stage": rng.integers(1, 5, rows),
        }
    )


def test_keys_links_and_roles_of_a_folder_of_tables():
    draft = infer_schema(clinic(), name="clinic")
    schema = draft.schema
    assert schema.problems() == [] and parse_schema(draft.text) == schema
    assert {n: t.role for n, t in schema.tables.items()} == {
        "patients": "static",
        "admissions": "visit",
        "labs": "event",
    }
    assert schema.clock == "timestamp"
    assert schema.tables["admissions"].source.visit == "hadm_id"
    assert schema.tables["admissions"].source.when.column == "admittime"
    assert schema.tables["labs"].parent == "admissions" and schema.has_visit_id("labs")


def test_a_long_table_gets_items_with_name_unit_and_bounds():
    labs = infer_schema(clinic(), name="clinic").schema.tables["labs"]
    assert (labs.code, labs.value) == ("itemid", "valuenum")
    item = labs.code_column().items["50971"]
    assert (item.name, item.unit, item.decimals) == ("Potassium", "meq/L", 1)
    assert "uom" not in labs.columns and "flag_text" in labs.columns


def test_a_code_of_few_patients_is_not_listed():
    frames = clinic()
    few = frames["labs"].filter(pl.col("itemid") == 51003)["subject_id"].n_unique()
    assert 0 < few < 5
    assert "51003" not in infer_schema(frames, name="x").text


def test_the_one_file_of_research_is_split_into_statics_and_visits():
    schema = infer_schema({"pbc": one_file()}, name="pbc").schema
    assert {n: t.role for n, t in schema.tables.items()} == {"patients": "static", "pbc": "visit"}
    assert set(schema.tables["patients"].columns) == {"trt", "age"}
    assert schema.tables["patients"].source.repeated
    assert schema.clock == "offset" and schema.tables["pbc"].source.when.unit == "d"
    kinds = {c: k.kind for c, k in schema.tables["pbc"].columns.items()}
    assert kinds == {"bili": "number", "chol": "number", "edema": "ordinal", "stage": "ordinal"}
    assert schema.column("pbc.edema").levels == ("0", "0.5", "1")


def test_minus_one_is_taken_as_missing_where_nothing_else_is_negative():
    schema = infer_schema({"pbc": one_file()}, name="pbc").schema
    assert schema.tables["pbc"].source.missing_in == {"bili": ("-1",)}
    assert schema.column("pbc.bili").low == 0


def test_a_few_numeric_codes_alone_become_columns():
    rng = np.random.default_rng(2)
    rows = 900
    frame = pl.DataFrame(
        {
            "RecordID": rng.integers(1, 40, rows),
            "minutes": rng.integers(0, 2880, rows),
            "Parameter": rng.choice(["HR", "NISysABP", "FiO2"], rows),
            "Value": rng.uniform(20, 90, rows).round(0),
        }
    )
    table = infer_schema({"icu": frame}, name="icu").schema.tables["icu"]
    assert table.source.layout == "long" and table.source.codes == {
        "HR": "hr",
        "NISysABP": "ni_sys_abp",
        "FiO2": "fio2",
    }
    assert table.source.when.unit == "min" and table.columns["hr"].unit == "/min"


def test_visits_with_an_id_and_no_time_are_ordered():
    rng = np.random.default_rng(3)
    who = rng.integers(1, 80, 200)
    frame = pl.DataFrame(
        {
            "encounter_id": np.arange(5000, 5200),
            "patient_nbr": who,
            "race": rng.choice(["?", "A", "B"], 200),
            "num_labs": rng.integers(0, 90, 200),
            "readmitted": rng.choice(["NO", ">30"], 200),
        }
    )
    schema = infer_schema({"enc": frame}, name="enc").schema
    assert schema.clock == "order" and schema.visit_table == "enc"
    assert "?" in schema.tables["enc"].source.missing and schema.column("enc.race").levels in (("A", "B"), ("B", "A"))
    assert schema.column("enc.num_labs").kind == "count"


def test_a_rare_drug_is_not_taken_for_a_static():
    frame = one_file(200)
    frame = frame.with_columns(rare=pl.Series(np.where(np.arange(frame.height) == 3, "Steady", "No")))
    schema = infer_schema({"pbc": frame}, name="pbc").schema
    assert "rare" in schema.tables["pbc"].columns


def test_levels_of_few_patients_are_named_in_the_comment():
    frame = one_file().with_columns(site=pl.Series(["north"] * (one_file().height - 1) + ["oslo"]))
    text = infer_schema({"pbc": frame}, name="pbc").text
    comment = text[: text.index("columns.site")].rsplit("\n# ", 1)[1]
    assert (
        "fewer than 5 patients" in " ".join(text[: text.index("columns.site")].split("\n#")[-3:]) and "oslo" in comment
    )


def test_free_text_is_not_read_and_ids_are_identifiers():
    frame = one_file()
    n = frame.height
    frame = frame.with_columns(
        note=pl.Series([f"Patient {i} was seen by doctor number {i} today and felt well" for i in range(n)]),
        accession=pl.Series([f"A{i:06}" for i in range(n)]),
    )
    draft = infer_schema({"pbc": frame}, name="pbc")
    columns = draft.schema.tables["pbc"].columns
    assert "note" not in columns and columns["accession"].kind == "identifier"
    assert "was seen by" not in draft.text and "A000001" not in draft.text


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
@settings(max_examples=300, deadline=None)
def test_bounds_hold_the_data_and_are_not_the_data(low, span):
    high = low + span
    down, up = outward(low, high)
    assert down <= low and high <= up
    assert down < low or down == 0
    assert up > high or up == 0


def test_no_extreme_value_stands_in_the_draft():
    frame = one_file().with_columns(
        dose=pl.Series(np.random.default_rng(5).uniform(11.37, 88.93, one_file().height).round(2))
    )
    text = infer_schema({"pbc": frame}, name="pbc").text
    for column in ("dose", "age"):
        for value in (frame[column].min(), frame[column].max()):
            assert f"{value:.2f}" not in text


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "tsv", "pandas", "semicolon"])
def test_every_container_gives_the_same_columns(tmp_path, kind):
    frame = one_file()
    if kind == "pandas":
        found = infer_schema({"pbc": pd.DataFrame(frame.to_dict(as_series=False))}, name="x")
    else:
        path = tmp_path / f"pbc.{'csv' if kind == 'semicolon' else kind}"
        if kind == "parquet":
            frame.write_parquet(path)
        elif kind == "csv.gz":
            path.write_bytes(gzip.compress(frame.write_csv().encode()))
        else:
            frame.write_csv(path, separator={"csv": ",", "tsv": "\t", "semicolon": ";"}[kind])
        found = infer_schema(tmp_path, name="x")
    base = infer_schema({"pbc": frame}, name="x").schema
    assert {n: t.columns for n, t in found.schema.tables.items()} == {n: t.columns for n, t in base.tables.items()}
    if kind in ("tsv", "semicolon"):
        assert all(t.source.separator == {"tsv": "\t", "semicolon": ";"}[kind] for t in found.schema.tables.values())


def test_files_that_cannot_be_read_are_all_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    (tmp_path / "b.csv.gz").write_bytes(b"\x1f\x8b\x08\x00broken")
    with pytest.raises(FileFormatError) as caught:
        infer_schema(tmp_path, name="x")
    assert {p.where for p in caught.value.problems} == {"a.parquet", "b.csv.gz"}


def test_nothing_to_read_and_no_patients_are_answered(tmp_path):
    with pytest.raises(FileFormatError, match="no-file"):
        infer_schema(tmp_path, name="x")
    with pytest.raises(FileFormatError, match="patients apart"):
        infer_schema({"x": pl.DataFrame({"a": [0.5, 0.7], "b": [1.5, 1.5]})}, name="x")


@pytest.mark.parametrize(
    "frame",
    [one_file().head(1), one_file().head(2), pl.concat([one_file().head(0), one_file().filter(pl.col("id") == 1)])],
)
def test_a_cohort_of_one_gives_a_sound_draft(frame):
    assert infer_schema({"pbc": frame}, name="x").schema.problems() == []


def test_empty_files_are_left_out():
    frames = {**clinic(), "procedures": pl.DataFrame(schema={"subject_id": pl.Int64, "code": pl.String})}
    draft = infer_schema(frames, name="x")
    assert "procedures" not in draft.schema.tables and "procedures.parquet (no rows)" in draft.text


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("SAPS-I", "saps_i"),
        ("alk.phos", "alk_phos"),
        ("NISysABP", "ni_sys_abp"),
        ("FiO2", "fio2"),
        ("pH", "ph"),
        ("RecordID", "record_id"),
        ("time", "time_"),
        ("A1Cresult", "a1cresult"),
        ("größe (cm)", "größe_cm"),
    ],
)
def test_names_read_as_the_clinic_says_them(theirs, ours):
    assert snake(theirs) == ours


@pytest.mark.parametrize(
    ("cells", "kind", "missing"),
    [
        (["1", "2", "NA", "?"], "number", 2),
        (["1.5", " 2 ", "", None], "number", 2),
        (["2020-01-01", "2021-02-03T04:05:06", ""], "date", 1),
        (["18:30", "07:15"], "text", 0),
        (["03.04.2020", "25.12.2020"], "date", 0),
        (["a", "1", "2"], "text", 0),
        ([None, ""], "empty", 2),
    ],
)
def test_cells_are_told_apart(cells, kind, missing):
    p = profile(pl.Series("x", cells, dtype=pl.String))
    assert (p.kind, p.missing) == (kind, missing)


FOLDERS = [
    "physionet2012-set-a",
    "rare-disease-cohorts",
    "mimic-iv-demo/tables",
    "nafld-events",
    "cgm-hall",
    "synthea27-omop",
    "diabetes-130-hospitals",
]


@pytest.mark.real
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_draft_of_a_real_folder_reads_it_without_a_fault(folder):
    if not (DATA / folder).is_dir():
        pytest.skip("real data absent")
    from cohortloom.formats import read

    draft = infer_schema(DATA / folder, name="draft")
    assert draft.schema.problems() == []
    cohort = read(DATA / folder, format="tabular", schema=draft.schema)
    assert all(not f.is_empty() for f in cohort.tables.values())


def test_a_european_export_is_read_as_it_is(tmp_path):
    """Semicolons, decimal commas, day-first dates, a Windows encoding, limits of detection and empty last lines."""
    folder = tmp_path / "export"
    folder.mkdir()
    people = [f"{k:06d};{'männlich' if k % 3 else 'weiblich'};{k % 28 + 1:02d}.05.1950;17{k % 10},5" for k in range(40)]
    visits = [f"{k:06d};{d:02d}.01.2020;{'<0,5' if (k + d) % 4 == 0 else f'{k % 7},{d % 10}'}" for k in range(40)
              for d in (1, 9, 23)]  # fmt: skip
    head = "PatientenNr;Geschlecht;Geburtsdatum;Größe (cm)"
    (folder / "patienten.csv").write_bytes("\r\n".join([head, *people, ""]).encode("cp1252"))
    (folder / "labor.csv").write_bytes("\n".join(["PatientenNr;Datum;CRP", *visits, ";;", ""]).encode("cp1252"))
    draft = infer_schema(folder, name="klinik")
    source = draft.schema.tables["patienten"].source
    assert (source.separator, source.decimal, source.encoding) == (";", ",", "cp1252")
    assert source.formats == {"geburtsdatum": "%d.%m.%Y"}
    cohort = read(folder, format="tabular", schema=draft.schema)
    assert cohort.tables["patienten"]["größe_cm"].to_list() == [170.5 + k % 10 for k in range(40)]
    assert cohort.tables["patienten"]["geschlecht"][:2].to_list() == ["weiblich", "männlich"]
    assert cohort.tables["patienten"]["geburtsdatum"][3] == datetime(1950, 5, 4)
    want = [0.5 if (k + d) % 4 == 0 else k % 7 + d % 10 / 10 for k in range(40) for d in (1, 9, 23)]
    assert cohort.tables["labor"]["crp"].to_list() == pytest.approx(want)
    assert cohort.origin.notes["labor: empty rows passed over"] == 1


def test_numbers_with_decimal_commas_only():
    cells = ["12,5", "<0,5", "1.234,5", "1.234", "12.5", "a,b", "-3,0", "01.02.2020", None, "7"]
    found = pl.DataFrame({"x": cells}).select(with_points(pl.col("x")))["x"].to_list()
    assert found == ["12.5", "<0.5", "1234.5", "1234", "12.5", "a,b", "-3.0", "01.02.2020", None, "7"]


@pytest.mark.parametrize(
    ("written", "moment", "word"),
    [
        ("%Y%m%d", "%Y-%m-%d", "digits"),
        ("%Y%m%d%H%M%S", "%Y-%m-%d %H:%M:%S", "digits"),
        ("%m/%d/%Y %I:%M %p", "%Y-%m-%d %H:%M:00", "%I"),
        ("%d/%m/%y", "%Y-%m-%d", "%y"),
        ("%b %d, %Y", "%Y-%m-%d", "%b"),
        ("%d%b%Y:%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%d%b%Y:%H:%M:%S"),
        ("%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%d %H:%M:%S", "UTC"),
        ("excel", "%Y-%m-%d", "spreadsheet"),
        ("mixed", "%Y-%m-%d", "2 layouts"),
    ],
)
def test_dates_are_known_however_they_are_written(tmp_path, written, moment, word):
    """The draft reads the file as it is, and each visit stands on its day, whatever the hospital's habit."""
    days = [datetime(2018 + i % 4, 1 + i % 12, 1 + i % 28, 1 + i % 22, i % 60) for i in range(120)]
    form = {
        "excel": lambda t, i: str((t - datetime(1899, 12, 30)).days),
        "mixed": lambda t, i: t.strftime("%Y-%m-%d" if i % 5 else "%d.%m.%Y"),
    }.get(written, lambda t, i: t.strftime(written))
    frame = pl.DataFrame(
        {
            "patient_id": [i // 3 for i in range(120)],
            "visit_date": [form(t, i) for i, t in enumerate(days)],
            "dob": ["1950-03-01"] * 120,
            "crp": [i % 13 + 0.5 for i in range(120)],
            "hb": [10 + i % 5 for i in range(120)],
            "wt": [60 + i % 30 for i in range(120)],
        }
    )
    frame.write_csv(tmp_path / "visits.csv")
    draft = infer_schema(tmp_path, name="dated")
    assert draft.schema.clock == "timestamp" and word in " ".join(draft.text.replace("\n#", "").split())
    cohort = read(tmp_path, format="tabular", schema=draft.schema)
    expected = sorted((i // 3, t.strftime(moment)) for i, t in enumerate(days))
    found = cohort.tables["visits"].select("subject_id", pl.col("time").dt.strftime(moment)).rows()
    assert sorted(found) == expected


def test_a_two_digit_year_is_not_the_year_of_the_romans(tmp_path):
    (tmp_path / "t.csv").write_text("patient_id,seen,crp\n1,01/02/20,1\n1,13/02/20,2\n2,25/03/21,3\n")
    draft = infer_schema(tmp_path, name="short")
    cohort = read(tmp_path, format="tabular", schema=draft.schema)
    assert {t.year for t in cohort.tables["t"]["time"]} == {2020, 2021}


def read_as_drafted(folder: Path):
    draft = infer_schema(folder, name="odd")
    return draft, read(folder, format="tabular", schema=draft.schema)


def test_numbers_with_signs_around_them_are_numbers(tmp_path):
    """A platelet count of "1,234" is no 1.234, and limits of single patients do not stand in the draft."""
    lines = [
        f'{i},"{1 + i % 4},{100 + i}",{i % 90}.5%,"$ {i}.25",{"<" if i % 9 == 0 else ""}{5 + i}.37' for i in range(60)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["patient_id,plt,share,paid,crp", *lines]))
    draft, cohort = read_as_drafted(tmp_path)
    frame = cohort.tables["t"].sort("subject_id")
    assert frame["plt"].to_list() == [1000 * (1 + i % 4) + 100 + i for i in range(60)]
    assert frame["share"].to_list() == [i % 90 + 0.5 for i in range(60)]
    assert frame["paid"].to_list() == [i + 0.25 for i in range(60)]
    assert frame["crp"].to_list() == pytest.approx([i + 5.37 for i in range(60)])
    assert "5.37" not in draft.text and "lie beyond" in draft.text


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["(4.50)", "$3.00", "-$2.00"], [-4.5, -2, 3]),
        (["70 kg", "81.5 kg", "NA"], [70, 81.5]),
        (["1+", "2+", "3+"], None),
        (["5-10", "10-20"], None),
        (["P1", "P2"], None),
        (["10 mg", "5 g", "3 mg"], None),
        (["99213", "0001F", "99214"], None),
        (["007", "008", "113"], None),
    ],
)
def test_what_is_a_number_and_what_a_name(cells, numbers):
    p = profile(pl.Series("x", cells, dtype=pl.String))
    assert (p.values["number"].sort().to_list() if p.kind == "number" else None) == numbers


def test_types_no_column_can_hold_are_left_out_in_words():
    n = 30
    frame = pl.DataFrame(
        {
            "patient_id": range(n),
            "age": range(20, 20 + n),
            "stay": [timedelta(hours=3)] * n,
            "tags": [["a", "b"]] * n,
            "at": [dtime(8, 30)] * n,
        }
    )
    codes = pl.DataFrame({"code": ["a", "b"], "parents": [["x"], ["y"]]})  # no patients: looked through as a lookup
    rows = pl.DataFrame({"patient_id": [i // 3 for i in range(3 * n)], "stay": [timedelta(hours=3)] * 3 * n})
    draft = infer_schema({"people": frame, "codes": codes, "rows": rows}, name="odd")
    assert set(draft.schema.tables["people"].columns) == {"age"}
    assert all(word in draft.text for word in ("lengths of time", "lists", "times of day"))


def test_unicode_text_of_a_spreadsheet_is_read(tmp_path):
    text = "patient_id\tage\tsex\n" + "".join(f"{i}\t{20 + i % 50}\t{'mf'[i % 2]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(text, encoding="utf-16")
    _, cohort = read_as_drafted(tmp_path)
    assert cohort.tables["t"]["age"].to_list() == [20 + i % 50 for i in range(60)]


def test_uneven_rows_are_named_by_their_line(tmp_path):
    rows = [f"{i},{20 + i},{i}.5" for i in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["Export of the laboratory", "", "patient_id,age,crp", *rows]))
    (tmp_path / "b.csv").write_text("\n".join(["patient_id,age,crp", *rows[:7], "7,27,1.5,more"]))
    with pytest.raises(FileFormatError) as caught:
        infer_schema(tmp_path, name="odd")
    assert "row 3?" in str(caught.value) and "row 9 has more cells" in str(caught.value)


def test_columns_without_a_name_and_names_that_come_twice(tmp_path):
    rows = [f"{i},{100 + i},{20 + i},{40 + i},{i % 3}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join([",patient_id,age,age,", *rows]))
    draft, cohort = read_as_drafted(tmp_path)
    assert cohort.tables["t"].columns == ["subject_id", "age", "age_duplicated_0"]
    assert cohort.tables["t"]["age_duplicated_0"][0] == 40
    assert 'The file has "age" more than once' in draft.text and "without a name" in draft.text


def test_an_export_of_redcap_is_cut_into_statics_visits_and_repeated_forms(tmp_path):
    lines = ["record_id,redcap_event_name,redcap_repeat_instrument,dob,race___1,visit_date,sbp,hb,wt,ae_term,ae_start"]
    for i in range(40):
        lines += [
            f"{i},base,,19{50 + i % 40}-01-02,{i % 2},2021-01-{1 + i % 28:02d},{120 + i},{10 + i % 5},{60 + i % 9},,"
        ]
        lines += [f"{i},month_3,,,,2021-04-{1 + i % 28:02d},{118 + i},{11 + i % 4},{61 + i % 8},,"] * (i % 3 > 0)
        lines += [f"{i},baseline,adverse_events,,,,,,,{['rash', 'fever'][i % 4 // 2]},2021-02-03"] * (i % 2)
    (tmp_path / "redcap.csv").write_text("\n".join(lines))
    draft, cohort = read_as_drafted(tmp_path)
    tables = {t.role: n for n, t in draft.schema.tables.items()}
    assert cohort.tables[tables["static"]].height == 40
    assert cohort.tables[tables["static"]].select(pl.col("dob", "race_1").null_count()).row(0) == (0, 0)
    assert cohort.tables[tables["visit"]].height == 40 + sum(i % 3 > 0 for i in range(40))
    assert cohort.tables[tables["event"]].height == 20


def test_rows_without_a_time_are_left_out_and_counted(tmp_path):
    rows = [
        f"{i // 3},{'' if i % 10 == 0 else f'2020-0{1 + i % 9}-11'},{i % 7}.5,{i % 5},{60 + i % 9}" for i in range(150)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["patient_id,seen,crp,score,wt", *rows]))
    draft, cohort = read_as_drafted(tmp_path)
    assert cohort.tables["t"].height == 135
    assert "15 rows without a time" in " ".join(draft.text.replace("\n#", "").split())


def test_units_of_one_code_are_kept_apart_or_changed(tmp_path):
    """Glucose in mmol/L and mg/dL is no variable: drawn together, 5.2 mg/dL comes out."""
    rows = [f"{i // 4},2020-0{1 + i % 4}-01,{'glucose' if i % 2 else 'sodium'}," for i in range(160)]
    rows = [
        r + ("140,mmol/L,x" if "sodium" in r else "5.5,mmol/L,x" if i // 4 % 4 else "99,mg/dL,y")
        for i, r in enumerate(rows)
    ]
    (tmp_path / "labs.csv").write_text("\n".join(["patient_id,date,test,value,unit,site", *rows]))
    draft, cohort = read_as_drafted(tmp_path)
    found = cohort.tables["labs"].group_by("test").agg(pl.col("value").unique()).rows()
    assert dict(found) == {"sodium": [140], "glucose": [5.5], "glucose mg/dL": [99]}
    items = draft.schema.tables["labs"].columns["test"].items
    assert (items["glucose"].unit, items["glucose mg/dL"].unit) == ("mmol/L", "mg/dL")
    text = draft.text.replace('= "glucose mg/dL"', '= { column = "glucose", scale = 0.0555 }')
    one = read(tmp_path, format="tabular", schema=parse_schema(text)).tables["labs"].filter(pl.col("test") == "glucose")
    assert one["value"].min() == pytest.approx(5.5) and one.height == 80


def test_stays_of_one_person_are_pointed_out():
    n = 60
    frame = pl.DataFrame(
        {
            "stayid": range(1000, 1000 + n),
            "uniquepid": [f"p-{i * 2 // 3}" for i in range(n)],
            "age": [30 + i % 50 for i in range(n)],
        }
    )
    labs = pl.DataFrame(
        {
            "stayid": [1000 + i % n for i in range(300)],
            "labresultoffset": [i * 7 - 90 for i in range(300)],
            "labname": ["k", "na", "cl"] * 100,
            "labresult": [float(i % 40) for i in range(300)],
            "labresultrevisedoffset": [i * 7 - 60 for i in range(300)],
        }
    )
    draft = infer_schema({"patient": frame, "lab": labs}, name="odd")
    assert "cohortloom split --group patient.uniquepid" in " ".join(draft.text.replace("\n#", "").split())
    assert draft.schema.tables["patient"].columns["uniquepid"].kind == "identifier"
    assert draft.schema.clock == "offset" and draft.schema.tables["lab"].source.when.unit == "min"
    revised = from_frames(draft.schema, {"patient": frame, "lab": labs}).tables["lab"]
    assert (revised["labresultrevisedoffset"] - revised["time"]).unique().to_list() == [timedelta(minutes=30)]


def test_columns_that_say_the_same_are_read_once(tmp_path):
    """Drawn apart, a code and its words would contradict each other."""
    names = [("I10", "hypertension"), ("E11", "diabetes"), ("N18", "kidney"), ("J44", "lungs"), ("I50", "heart")]
    rows = [
        f"{i // 3},2020-0{1 + i % 9}-05,{names[i % 5][1]},{names[i % 5][0]},{i % 40},{'>' * (i % 11 == 0)}{i % 40}"
        for i in range(150)
    ]
    (tmp_path / "dx.csv").write_text("\n".join(["patient_id,when_date,words,icd,crp,crp_text", *rows]))
    draft = infer_schema(tmp_path, name="odd")
    assert set(draft.schema.tables["dx"].columns) == {"words", "crp"}
    assert "one to one" in " ".join(draft.text.replace("\n#", "").split())


def test_notes_are_never_listed_as_levels(tmp_path):
    rows = [f'{i},{20 + i % 50},"{"seen by Dr. A at noon" if i % 8 == 0 else ""}"' for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["patient_id,age,notes", *rows]))
    assert "Dr. A" not in infer_schema(tmp_path, name="odd").text


def test_a_table_of_some_patients_is_nobodys_parent(tmp_path):
    """Deaths list those who died only; visits of the others are no orphans."""
    rows = [f"{i // 3},2020-0{1 + i % 9}-05,{i % 40},{i % 7},{i % 11}" for i in range(150)]
    (tmp_path / "visits.csv").write_text("\n".join(["patient_id,seen,crp,score,wt", *rows]))
    (tmp_path / "deaths.csv").write_text("\n".join(["patient_id,died", *(f"{i},2021-01-0{1 + i}" for i in range(8))]))
    draft, cohort = read_as_drafted(tmp_path)
    assert cohort.n_subjects == 50 and draft.schema.tables["visits"].parent is None


def test_a_code_nobody_shares_is_not_promised_to_be_filled():
    """Codes of few patients are never told: a draft that says "never missing" could not be sampled from."""
    n = 100
    frame = pl.DataFrame(
        {
            "patient_id": range(n),
            "town": [f"t{i // 3}" for i in range(n)],
            "ward": [["A", "B"][i % 2] if i % 5 else f"w{i}" for i in range(n)],
        }
    )
    columns = infer_schema({"p": frame}, name="odd").schema.tables["p"].columns
    assert columns["town"].kind == "code" and columns["town"].missing
    assert columns["ward"].kind == "code" and not columns["ward"].missing


def test_a_stream_of_drug_fills_is_no_table_of_visits(tmp_path):
    """Claims of patients who never filled a drug would hang on no visit, and be left out by every generator."""
    fills = [
        f"{i // 6},2019{1 + i % 12:02d}1{i % 9},{10**9 + i % 150:011d},{30 * (1 + i % 3)},{30 * (1 + i % 2)},{i % 97}.5"
        for i in range(600)
    ]
    claims = [
        f"{i // 6},2019{1 + i // 2 % 12:02d}0{1 + i // 2 % 3 * 3},{99201 + i % 90},{i % 83}.25" for i in range(900)
    ]
    (tmp_path / "fills.csv").write_text("\n".join(["member_id,fill_dt,ndc,qty,days_supply,paid", *fills]))
    (tmp_path / "claims.csv").write_text("\n".join(["member_id,from_dt,cpt_cd,paid", *claims]))
    draft, cohort = read_as_drafted(tmp_path)
    assert {t.role for t in draft.schema.tables.values()} == {"event"}
    assert draft.schema.tables["claims"].columns["cpt_cd"].kind == "code"
    assert draft.schema.tables["fills"].columns["ndc"].system == "NDC"
    assert cohort.n_subjects == 150


@pytest.mark.parametrize("shape", ["columns", "index", "polars", "objects"])
def test_frames_of_a_draft_are_read_as_they_are(shape):
    """infer_schema, then from_frames with the same frames; keys in a pandas index are keys, not rows to be lost."""
    n, rng = 60, np.random.default_rng(0)
    patients = pd.DataFrame(
        {
            "record_id": pd.array(np.arange(n), dtype="Int64"),
            "Sex": pd.Categorical(rng.choice(["m", "f"], n)),
            "smoker": pd.array([True, False, None] * (n // 3), dtype="boolean"),
            "DOB": pd.to_datetime(rng.integers(0, 10**9, n), unit="s")
            .tz_localize("UTC")
            .tz_convert("America/New_York"),
        }
    )
    visits = pd.DataFrame(
        {
            "record_id": np.repeat(np.arange(n), 4),
            "seen": pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(4 * n) % 29, unit="D"),
            "crp": rng.gamma(2, 3, 4 * n).astype("float32"),
            "hb": pd.array(rng.normal(13, 1, 4 * n).round(1), dtype="Float64"),
            "wt": rng.normal(70, 9, 4 * n).round(1),
        }
    )
    frames = {"patients": patients, "visits": visits}
    if shape == "index":
        frames = {"patients": patients.set_index("record_id"), "visits": visits.set_index(["record_id", "seen"])}
    elif shape == "polars":
        frames = {name: pl.from_pandas(frame) for name, frame in frames.items()}
    elif shape == "objects":
        frames = {name: frame.astype(object) for name, frame in frames.items()}
    cohort = from_frames(infer_schema(frames, name="frames").schema, frames)
    assert {name: frame.height for name, frame in cohort.tables.items()} == {"patients": n, "visits": 4 * n}
    assert cohort.tables["patients"]["sex"].to_list() == patients["Sex"].to_list()
    assert cohort.tables["patients"]["smoker"].to_list() == [True, False, None] * (n // 3)
    assert cohort.tables["visits"]["hb"].sum() == pytest.approx(visits["hb"].sum())


@pytest.mark.parametrize(("longest", "unit"), [(900, "d"), (90_000, "h"), (5e6, "min"), (6e8, "s"), (5e11, "ms")])
def test_no_course_is_longer_than_a_life(longest, unit):
    """Seconds in a column called time were read as days: 16,000 centuries."""
    n = 120
    frame = pl.DataFrame(
        {
            "patient_id": [i // 4 for i in range(n)],
            "time": [round(longest * (i % 4) / 3) for i in range(n)],
            "crp": [i % 13 + 0.5 for i in range(n)],
            "hb": [10 + i % 5 for i in range(n)],
            "wt": [60 + i % 30 for i in range(n)],
        }
    )
    draft = infer_schema({"visits": frame}, name="long")
    assert draft.schema.tables["visits"].source.when.unit == unit


def test_a_severity_of_a_group_is_no_code_and_an_unknown_unit_no_unit():
    n = 200
    frame = pl.DataFrame(
        {"patient_id": range(n), "drg_severity": [1 + i % 4 for i in range(n)], "drg": [100 + i % 50 for i in range(n)]}
    )
    columns = infer_schema({"p": frame}, name="odd").schema.tables["p"].columns
    assert (columns["drg_severity"].kind, columns["drg"].kind) == ("ordinal", "code")
    labs = pl.DataFrame(
        {
            "patient_id": [i // 2 for i in range(n)],
            "seen": [f"2020-01-0{1 + i % 2}" for i in range(n)],
            "test": ["k", "na"] * (n // 2),
            "value": [float(i % 9) for i in range(n)],
            "unit": [["mmol/L", "UNK"][i // 2 % 2] for i in range(n)],
            "site": ["a", "b"] * (n // 2),
        }
    )
    assert infer_schema({"labs": labs}, name="odd").schema.tables["labs"].source.unit is None


# -- exports of trials, of FHIR, of spreadsheets ---------------------------------------------------------------------


def trial(folder: Path, n: int = 48) -> Path:
    """SDTM: long files with partial dates, results in words, and visits numbered within each patient."""
    draw = np.random.default_rng(0)
    dm, vs, lb = [], [], []
    for i in range(n):
        who, start = f"T-{i:03d}", date(2020, 1, 1) + timedelta(days=int(draw.integers(0, 300)))
        dm.append({"USUBJID": who, "ARMCD": "AB"[i % 2], "ARM": ["Active", "Blind"][i % 2], "SEX": "FM"[i // 2 % 2]})
        for v, (name, day) in enumerate([("SCREENING", -7), ("BASELINE", 0), ("WEEK 4", 28)]):
            when = start + timedelta(days=day)
            written = f"{when:%Y-%m}" if i == 3 and v == 2 else str(when)
            row = {"USUBJID": who, "VISITNUM": v + 1, "VISIT": name}
            for code, unit in (("SYSBP", "mmHg"), ("WEIGHT", "kg")):
                x = str(round(float(draw.normal(100, 10)), 1))
                vs.append({**row, "VSSEQ": 2 * v + len(vs) % 2 + 1, "VSTESTCD": code, "VSORRES": x, "VSSTRESN": x})
                vs[-1] |= {
                    "VSSTRESU": unit,
                    "EPOCH": "TREATMENT" if v else "SCREENING",
                    "ARM": dm[-1]["ARM"],
                    "VSDTC": written,
                }
            for code in ("CRP", "UPROT"):
                x = str(round(float(draw.uniform(1, 90)), 1))
                x = x if code == "CRP" and len(lb) % 5 else "<1.0" if code == "CRP" else ["NEGATIVE", "TRACE"][i % 2]
                number = x if code == "CRP" and x != "<1.0" else ""
                lb.append({**row, "LBTESTCD": code, "LBSTRESC": x, "LBSTRESN": number, "LBDTC": written})
                lb[-1] |= {"LBBLFL": "Y" if v == 1 else None}
    folder.mkdir(exist_ok=True)
    for name, rows in (("dm", dm), ("vs", vs), ("lb", lb)):
        pl.DataFrame(rows).write_csv(folder / f"{name}.csv")
    return folder


def test_a_trial_in_sdtm_has_visits_codes_and_all_its_results(tmp_path):
    draft = infer_schema(trial(tmp_path / "t"), name="trial")
    tables = draft.schema.tables
    assert draft.schema.clock == "timestamp"
    assert {n: (t.role, t.parent) for n, t in tables.items()} == {
        "dm": ("static", None), "visits": ("visit", "dm"), "vs": ("event", "visits"), "lb": ("event", "visits"),
    }  # fmt: skip
    assert set(tables["dm"].columns) == {"armcd", "sex"}  # the arm in words is the arm again
    assert set(tables["visits"].columns) == {"visit", "epoch"}
    assert set(tables["vs"].columns) == {"vstestcd", "vsstresn"}
    assert tables["vs"].columns["vstestcd"].items["SYSBP"].unit == "mm[Hg]"
    assert set(tables["lb"].columns) == {"lbtestcd", "lbstresc", "lbstresc_words"}
    cohort = read(tmp_path / "t", format="tabular", schema=draft.schema)
    visits, lb = cohort.tables["visits"], cohort.tables["lb"]
    assert visits.height == 144 and cohort.tables["vs"].height == lb.height == 288
    assert visits.group_by("visit", "epoch").len().height == 3
    assert lb.select("subject_id", "visit_id").unique().height == 144
    at = lb.filter(pl.col("lbtestcd") == "UPROT")
    assert at["lbstresc"].null_count() == 144 and set(at["lbstresc_words"]) == {"NEGATIVE", "TRACE"}
    crp = lb.filter(pl.col("lbtestcd") == "CRP")
    assert crp["lbstresc"].null_count() == 0 and (crp["lbstresc"] == 1.0).sum() >= 28  # "<1.0" is kept, as the limit
    partial = visits.filter(pl.col("subject_id") == "T-003")["time"].max()
    assert partial.day == 1


def test_every_table_of_fhir_has_an_id_and_patients_are_those_of_the_references(tmp_path):
    draw = np.random.default_rng(1)
    people = [f"p{i:04x}-{i * 7919 % 65536:04x}" for i in range(40)]
    stays = [f"e{i:04x}-{i * 104729 % 65536:04x}" for i in range(100)]
    of = [people[i % 40] for i in range(100)]
    pl.DataFrame({"id": people, "gender": ["male", "female"] * 20}).write_csv(tmp_path / "Patient.csv")
    start = [f"2021-0{1 + i % 9}-11T08:{i % 60:02d}:00Z" for i in range(100)]
    encounters = {"id": stays, "class.code": ["AMB", "IMP"] * 50, "subject.reference": [f"Patient/{p}" for p in of]}
    pl.DataFrame(encounters | {"period.start": start}).write_csv(tmp_path / "Encounter.csv")
    rows = {
        "id": [f"o{i:05d}x" for i in range(200)],
        "code.coding[0].code": ["8480-6", "2160-0"] * 100,
        "subject.reference": [f"Patient/{of[i % 100]}" for i in range(200)],
        "encounter.reference": [f"Encounter/{stays[i % 100]}" for i in range(200)],
        "effectiveDateTime": [start[i % 100] for i in range(200)],
        "valueQuantity.value": draw.normal(100, 9, 200).round(1),
    }
    pl.DataFrame(rows).write_csv(tmp_path / "Observation.csv")
    draft = infer_schema(tmp_path, name="fhir")
    tables = draft.schema.tables
    assert {n: (t.role, t.parent) for n, t in tables.items()} == {
        "patient": ("static", None), "encounter": ("visit", "patient"), "observation": ("event", "encounter"),
    }  # fmt: skip
    assert tables["observation"].code == "code_coding_0_code" and tables["observation"].value == "value_quantity_value"
    cohort = read(tmp_path, format="tabular", schema=draft.schema)
    assert sorted(cohort.subjects) == sorted(people)
    assert cohort.tables["observation"].join(cohort.tables["encounter"], on=["subject_id", "visit_id"]).height == 200


def test_rows_of_headers_and_totals_are_no_patients(tmp_path):
    head = "Pat-Nr.;Geschlecht;Aufnahme;Hb [g/dl];CRP (mg/l);Altersgruppe;Nachname"
    rows = [
        f"{i:04d};{'mwmMmw'[i % 6]};{1 + i % 28:02d}.03.2021;{10 + i % 7},{i % 10};{'<5' if i % 4 else '7,5'};"
        f"{['<40', '40-59', '60+'][i % 3]};{['Maier', 'Huber', 'Kurz'][i // 7 % 3]}"
        for i in range(60)
    ]
    rows[7] = rows[7].replace(rows[7].split(";")[3], "k.A.")
    text = [head, *rows[:30], head, *rows[30:], "Summe;;;700,0;;;", "Stand: 01.04.2021;;;;;;"]
    (tmp_path / "k.csv").write_text("\r\n".join(text), encoding="cp1252")
    draft = infer_schema(tmp_path, name="k")
    columns = draft.schema.tables["k"].columns
    assert draft.schema.tables["k"].role == "static" and columns["aufnahme"].kind == "timestamp"
    assert columns["geschlecht"].levels == ("m", "w")
    assert (columns["hb_g_dl"].unit, columns["crp_mg_l"].unit) == ("g/dL", "mg/L")
    assert columns["altersgruppe"].kind == "ordinal" and columns["altersgruppe"].levels == ("<40", "40-59", "60+")
    assert columns["nachname"].kind == "identifier" and "Maier" not in draft.text
    kept = read(tmp_path, format="tabular", schema=draft.schema).tables["k"]
    assert kept.height == 60 and kept["hb_g_dl"].null_count() == 1
    assert kept["geschlecht"].value_counts(sort=True).rows() == [("m", 40), ("w", 20)]


@pytest.mark.parametrize(
    ("words", "lowest", "highest"),
    [
        (["Agree", "Strongly disagree", "Neutral", "Disagree"], "Strongly disagree", "Agree"),
        (["IV", "IIIA", "II", "IIIB"], "II", "IV"),
        (["severe", "minimal", "moderately severe", "moderate"], "minimal", "severe"),
        (["often", "never", "sometimes", "always"], "never", "always"),
    ],
)
def test_scales_in_words_are_ordered(words, lowest, highest):
    frame = pl.DataFrame({"patient_id": range(40), "x": [words[i % len(words)] for i in range(40)]})
    column = infer_schema({"p": frame}, name="x").schema.tables["p"].columns["x"]
    assert column.kind == "ordinal" and (column.levels[0], column.levels[-1]) == (lowest, highest)


def test_codes_with_hyphens_are_no_intervals():
    frame = pl.DataFrame({"patient_id": range(40), "x": [["2160-0", "8480-6", "8867-4"][i % 3] for i in range(40)]})
    assert infer_schema({"p": frame}, name="x").schema.tables["p"].columns["x"].kind != "ordinal"


def test_ages_and_calendar_years_are_clocks():
    ages = {"child_id": [i // 4 for i in range(80)], "age_months": [i % 4 * 3 + 0.5 for i in range(80)]}
    more = {"length_cm": [50 + i % 9 for i in range(80)], "weight_kg": [5 + i % 7 for i in range(80)]}
    more |= {"head_cm": [33 + i % 5 for i in range(80)]}
    table = infer_schema({"growth": pl.DataFrame(ages | more)}, name="g").schema.tables["growth"]
    assert (table.role, table.source.when.column, table.source.when.unit) == ("visit", "age_months", "mo")
    years = {"child_id": ages["child_id"], "exam_year": [2008 + i % 4 * 2 for i in range(80)]}
    draft = infer_schema({"growth": pl.DataFrame(years | more)}, name="g")
    assert draft.schema.clock == "timestamp" and draft.schema.tables["growth"].source.when.format == "%Y"


def test_what_follows_from_the_first_value_of_a_code_is_left_out():
    """BASE, CHG and PCHG of a trial; a number of its own stays."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(25):
        for code in ("HBA1C", "WEIGHT"):
            base = 0.0
            for v in range(3):
                x = round(float(draw.normal(80, 9)), 1)
                base = x if v == 0 else base
                change = {"CHG": round(x - base, 1), "PCHG": round(100 * (x - base) / base, 2)} if v else {}
                rows.append({"USUBJID": f"u{i}", "PARAMCD": code, "ADT": f"2020-0{1 + v}-01", "AVAL": x, "BASE": base})
                rows[-1] |= {"CHG": None, "PCHG": None, "OWN": round(float(draw.normal()), 2)} | change
    draft = infer_schema({"advs": pl.DataFrame(rows, infer_schema_length=None)}, name="adam")
    assert set(draft.schema.tables["advs"].columns) == {"paramcd", "aval", "own"}


def test_a_few_slips_in_dates_cost_their_rows_and_not_the_clock(tmp_path):
    """Three wrong dates and one empty in 120 rows: dates all the same, and the four rows are counted when read."""
    (tmp_path / "patients.csv").write_text("pid,sex\n" + "".join(f"{i},{'FM'[i % 2]}\n" for i in range(100, 140)))
    rows = [[100 + i % 40, f"2021-0{1 + i // 40}-{1 + i % 28:02d}", 60 + i % 17] for i in range(120)]
    for i, slip in zip((3, 7, 8, 9), ("2021-13-45", "", "0000-00-00", "31/02/2021")):
        rows[i][1] = slip
    (tmp_path / "visits.csv").write_text("pid,visit_date,weight\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    schema = infer_schema(tmp_path, name="slips").schema
    assert schema.clock == "timestamp"
    cohort = read(tmp_path, format="tabular", schema=schema)
    assert cohort.tables["visits"].height == 116
    assert cohort.origin.notes["visits: rows left out, as the source asks (exclude)"] == 4


@pytest.mark.parametrize(("written", "why"), [("{:08d}", "leading zeros"), ("X{}", "no patient of visits.csv")])
def test_patients_that_no_file_shares_are_told(tmp_path, written, why):
    people = "".join(f"{written.format(i)},{'FM'[i % 2]}\n" for i in range(100, 140))
    (tmp_path / "patients.csv").write_text("pid,sex\n" + people)
    rows = "".join(f"{100 + i % 40},2021-0{1 + i // 40}-{1 + i % 28:02d},{60 + i % 17}\n" for i in range(120))
    (tmp_path / "visits.csv").write_text("pid,visit_date,weight\n" + rows)
    draft = infer_schema(tmp_path, name="apart")
    assert "LOOK HERE" in draft.text and why in " ".join(draft.text.split("\n# "))
    from cohortloom.cohort.summary import summary_text

    cohort = read(tmp_path, format="tabular", schema=draft.schema)
    assert "40 patients of other tables have none" in summary_text(cohort)
