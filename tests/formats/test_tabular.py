"""What a source says is what happens: layouts, units, times, grids, repeated statics, filters."""

from dataclasses import replace
from datetime import date, datetime, timedelta

import polars as pl
import pytest

from cohortloom.cohort import Origin
from cohortloom.errors import DataError, FileFormatError, SettingsError
from cohortloom.formats import read, write
from cohortloom.schema import (
    Category,
    Code,
    CodeMap,
    Count,
    Filter,
    Flag,
    Grid,
    Item,
    Number,
    RuleSpec,
    Schema,
    Source,
    SourceTime,
    Table,
    Timestamp,
)


def of(columns: dict, source: Source, *, role: str = "visit", clock: str = "offset", **table) -> Schema:
    return Schema(name="s", clock=clock, tables={"t": Table(role=role, columns=columns, source=source, **table)})


def put(folder, text: str, name: str = "t.csv"):
    (folder / name).write_text(text)
    return folder


def rows(folder, schema: Schema, **options) -> pl.DataFrame:
    return read(folder, format="tabular", schema=schema, **options).tables["t"]


LONG = """id,minute,what,value
1,5,HR,80
1,20,HR,90
1,59,HR,100
1,10,Temp,98.6
1,12,TempC,37.5
1,70,HR,-1
1,130,Vent,1
2,0,HR,60
2,1,Unknown,4
"""
LONG_COLUMNS = {"hr": Number(decimals=1), "temp": Number(decimals=1), "vent": Flag()}
LONG_SOURCE = {
    "file": "t.csv",
    "layout": "long",
    "subject": "id",
    "time": SourceTime(column="minute", unit="min"),
    "code": "what",
    "value": "value",
    "missing_in": {"hr": ("-1",)},
    "codes": {"HR": "hr", "Temp": CodeMap(column="temp", scale=5 / 9, shift=-160 / 9), "TempC": "temp", "Vent": "vent"},
}


def test_long_file_on_an_hourly_grid(tmp_path):
    """Hour 0 of patient 1: mean of 80, 90, 100; last of 98.6 F and 37.5 C. The mark -1 leaves hour 1 without a row."""
    grid = Grid(every="1h", aggregate={"hr": "mean", "vent": "any", "*": "last"})
    schema = of(LONG_COLUMNS, Source(**LONG_SOURCE, grid=grid))
    cohort = read(put(tmp_path, LONG), format="tabular", schema=schema)
    assert cohort.tables["t"].drop("visit_id").rows() == [
        (1, timedelta(0), 90.0, 37.5, None),
        (1, timedelta(hours=2), None, None, True),
        (2, timedelta(0), 60.0, None, None),
    ]
    assert cohort.origin.notes == {"t: rows passed over, as the source does not map their code": 1}


@pytest.mark.parametrize(
    ("how", "expected"),
    [("last", 100), ("first", 80), ("mean", 90), ("median", 90), ("min", 80), ("max", 100), ("sum", 270), ("count", 3)],
)
def test_aggregates(tmp_path, how, expected):
    schema = of(LONG_COLUMNS, Source(**LONG_SOURCE, grid=Grid(every="60min", aggregate={"hr": how})))
    assert rows(put(tmp_path, LONG), schema)["hr"][0] == expected


def test_empty_bins_reach_from_the_origin_to_the_last_record(tmp_path):
    schema = of(LONG_COLUMNS, Source(**LONG_SOURCE, grid=Grid(every="1h", empty_bins=True)))
    frame = rows(put(tmp_path, LONG), schema)
    assert frame.filter(pl.col("subject_id") == 1)["time"].to_list() == [timedelta(hours=h) for h in (0, 1, 2)]
    assert frame.filter(pl.col("subject_id") == 1)["hr"].to_list() == [100, None, None]


def test_long_file_without_a_grid_has_a_row_per_time(tmp_path):
    frame = rows(put(tmp_path, LONG), of(LONG_COLUMNS, Source(**LONG_SOURCE)))
    assert frame.height == 7 and frame["temp"].drop_nulls().to_list() == [37.0, 37.5]


def test_sum_of_a_bin_is_held_against_the_bounds(tmp_path):
    columns = {**LONG_COLUMNS, "hr": Number(high=120)}
    grid = Grid(every="1h", aggregate={"hr": "sum"})
    with pytest.raises(DataError, match=r"t\.hr: 1 of"):
        rows(put(tmp_path, LONG), of(columns, Source(**LONG_SOURCE, grid=grid)))


@pytest.mark.parametrize(("policy", "expected"), [("missing", [None, 50]), ("clip", [100, 50]), ("keep", [700, 50])])
def test_out_of_range_policy_is_carried_out_and_counted(tmp_path, policy, expected):
    columns, source = {"x": Number(low=0, high=100)}, Source(file="t.csv", out_of_range=policy)
    schema = of(columns, source, role="static")
    cohort = read(put(tmp_path, "subject_id,x\n1,700\n2,50\n"), format="tabular", schema=schema)
    assert cohort.tables["t"]["x"].to_list() == expected
    assert list(cohort.origin.notes.values()) == [1]


REPEATED = "id,sex,age,day\n1,f,40,0\n1,m,40,10\n1,m,41,20\n2,,50,0\n2,f,,5\n"


@pytest.mark.parametrize(
    ("how", "sex", "age"), [("most", "m", 40), ("first", "f", 40), ("last", "m", 41), ("missing", None, None)]
)
def test_statics_repeated_on_every_row(tmp_path, how, sex, age):
    source = Source(file="t.csv", subject="id", repeated=True, contradiction=how)
    schema = of({"sex": Category(levels=("f", "m")), "age": Count()}, source, role="static")
    cohort = read(put(tmp_path, REPEATED), format="tabular", schema=schema)
    assert cohort.tables["t"].rows() == [(1, sex, age), (2, "f", 50)]
    assert sorted(cohort.origin.notes.values()) == [1, 1], "patient 1 contradicts itself in both columns"


def test_contradictions_can_be_refused(tmp_path):
    source = Source(file="t.csv", subject="id", repeated=True, contradiction="fail")
    with pytest.raises(DataError, match="1 of 2 patients have several values"):
        rows(put(tmp_path, REPEATED), of({"sex": Category(levels=("f", "m"))}, source, role="static"))


def test_marks_maps_filters_and_units(tmp_path):
    text = "p,s,w,use\n1,1.0,176.4,y\n2,2,?,y\n3,9,-1.00,y\n4,1,100,n\n"
    source = Source(
        file="t.csv",
        subject="p",
        columns={"sex": "s", "weight": "w"},
        missing=("", "?"),
        missing_in={"sex": ("9",), "weight": ("-1",)},
        values={"sex": {"1": "M", "2": "F"}},
        scale={"weight": (0.45359237, 0)},
        where=(Filter(column="use", include=("y",)),),
    )
    schema = of({"sex": Category(levels=("F", "M")), "weight": Number(unit="kg", decimals=1)}, source, role="static")
    assert rows(put(tmp_path, text), schema).rows() == [(1, "M", 80.0), (2, "F", None), (3, None, None)]


def test_order_by_a_number_that_grows(tmp_path):
    schema = of({"x": Count()}, Source(file="t.csv", visit="enc", time="enc"), clock="order")
    frame = rows(put(tmp_path, "subject_id,enc,x\n1,900,3\n2,50,1\n1,17,2\n"), schema)
    assert frame.rows() == [(1, 17, 0, 2), (1, 900, 1, 3), (2, 50, 0, 1)]


def test_dates_become_offsets_from_the_first_row_of_any_table(tmp_path):
    when = SourceTime(column="time", origin="first")
    tables = {
        "t": Table(role="visit", columns={"out": Timestamp()}, source=Source(file="t.csv", time=when)),
        "e": Table(role="event", columns={"x": Count()}, source=Source(file="e.csv", time=when)),
    }
    put(tmp_path, "subject_id,time,out\n1,2020-01-03,2020-01-05\n2,2021-05-01,\n")
    put(tmp_path, "subject_id,time,x\n1,2020-01-01T12:00:00,4\n", "e.csv")
    cohort = read(tmp_path, format="tabular", schema=Schema(name="s", clock="offset", tables=tables))
    assert cohort.tables["t"]["time"].to_list() == [timedelta(hours=36), timedelta(0)]
    assert cohort.tables["t"]["out"].to_list() == [timedelta(hours=84), None]
    assert cohort.tables["e"]["time"].to_list() == [timedelta(0)]


def test_numbers_since_a_day_become_dates(tmp_path):
    source = Source(file="t.csv", time=SourceTime(column="d", unit="d", origin="1960-01-01"))
    frame = rows(put(tmp_path, "subject_id,d,x\n1,366.5,1\n"), of({"x": Count()}, source, clock="timestamp"))
    assert frame["time"].to_list() == [datetime(1961, 1, 1, 12)]  # 1960 had 366 days


@pytest.mark.parametrize(
    ("written", "layout"),
    [
        ("2020-02-03 04:05:06", None),
        ("2020-02-03T04:05:06Z", None),
        ("2020-02-03T06:05:06+02:00", None),
        ("2020-02-03 04:05:06.000", None),
        ("03.02.2020 04:05:06", "%d.%m.%Y %H:%M:%S"),
        ("02/03/20 4:05:06 AM", "%m/%d/%y %I:%M:%S %p"),
    ],
)
def test_ways_to_write_a_moment(tmp_path, written, layout):
    source = Source(file="t.csv", time=SourceTime(column="d", format=layout))
    frame = rows(put(tmp_path, f"subject_id,d,x\n1,{written},1\n"), of({"x": Count()}, source, clock="timestamp"))
    assert frame["time"].to_list() == [datetime(2020, 2, 3, 4, 5, 6)]


def test_long_table_keeps_codes_under_our_names_and_units(tmp_path):
    text = "subject_id,time,item,v\n1,2020-01-01,223761,98.6\n1,2020-01-02,223762,37.5\n1,2020-01-03,9,1\n"
    text += "1,2020-01-04,ICD//10//I50,\n"
    codes = {
        "223761": CodeMap(column="temperature", scale=5 / 9, shift=-160 / 9),
        "223762": "temperature",
        "ICD//10//*": "icd10:*",
    }
    source = Source(file="t.csv", time="time", columns={"code": "item", "value": "v"}, codes=codes)
    columns = {"code": Code(items={"temperature": Item(low=30, high=45, decimals=1)}), "value": Number()}
    schema = of(columns, source, role="event", clock="timestamp", code="code", value="value")
    assert schema.problems() == []
    assert rows(put(tmp_path, text), schema).drop("time").rows() == [
        (1, "temperature", 37.0),
        (1, "temperature", 37.5),
        (1, "icd10:I50", None),
    ]


def test_codes_by_their_beginning_fill_a_column_of_words(tmp_path):
    text = "subject_id,code,numeric_value\n1,GENDER//F,\n1,AGE,40\n2,GENDER//M,\n"
    codes = {"GENDER//*": "sex", "AGE": "age"}
    source = Source(file="t.csv", layout="long", code="code", value="numeric_value", codes=codes)
    schema = of({"sex": Category(levels=("F", "M")), "age": Count()}, source, role="static")
    assert rows(put(tmp_path, text), schema).rows() == [(1, "F", 40), (2, "M", None)]


def test_globs_parquet_and_ids_of_one_type(tmp_path):
    pl.DataFrame({"subject_id": ["1", "02"], "x": [1, 2]}).write_parquet(tmp_path / "a1.parquet")
    pl.DataFrame({"subject_id": ["7"], "x": [3]}).write_parquet(tmp_path / "a2.parquet")
    frame = rows(tmp_path, of({"x": Count()}, Source(file="a*.parquet"), role="static"))
    assert frame["subject_id"].to_list() == ["02", "1", "7"], "02 is no number, so no id is"
    put(tmp_path, "subject_id,x\n1,1\n7.0,2\n")
    assert rows(tmp_path, of({"x": Count()}, Source(file="t.csv"), role="static"))["subject_id"].to_list() == [1, 7]


def test_file_is_found_with_or_without_gz_and_may_be_given_itself(tmp_path):
    schema = of({"x": Count()}, Source(file="t.csv.gz"), role="static")
    assert rows(put(tmp_path, "subject_id,x\n1,1\n"), schema).height == 1
    assert rows(tmp_path / "t.csv", schema).height == 1


def test_latin1_and_semicolons(tmp_path):
    (tmp_path / "t.csv").write_bytes("subject_id;x\n1;Grün\n".encode("latin1"))
    source = Source(file="t.csv", separator=";", encoding="latin1")
    assert rows(tmp_path, of({"x": Category(levels=("Grün",))}, source, role="static"))["x"].to_list() == ["Grün"]


def test_native_dates_and_floats_of_parquet(tmp_path):
    frame = pl.DataFrame({"subject_id": [1.0, 2.0], "born": [date(1950, 1, 2), None], "x": [1.0, float("nan")]})
    frame.write_parquet(tmp_path / "t.parquet")
    schema = of({"born": Timestamp(), "x": Number()}, Source(file="t.parquet"), role="static", clock="timestamp")
    assert rows(tmp_path, schema).rows() == [(1, datetime(1950, 1, 2), 1.0), (2, None, None)]


def test_schema_is_needed_unless_the_folder_has_one(tmp_path):
    with pytest.raises(SettingsError, match="schema infer"):
        read(put(tmp_path, "subject_id,x\n1,1\n"), format="tabular")
    cohort = read(tmp_path, format="tabular", schema=of({"x": Count()}, Source(file="t.csv"), role="static"))
    write(cohort, tmp_path / "out", format="tabular")
    assert read(tmp_path / "out", format="tabular").tables["t"].rows() == [(1, 1)]


def test_reading_twice_gives_equal_bytes(tmp_path):
    schema = of(LONG_COLUMNS, Source(**LONG_SOURCE, grid=Grid(every="1h")))
    put(tmp_path, LONG)
    for name in "ab":
        write(read(tmp_path, format="tabular", schema=schema), tmp_path / name)
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_layout_of_dates_may_change_far_down_the_file(tmp_path):
    lines = ["2020-01-01"] * 300 + ["2020-01-02 03:04:05"]
    text = "subject_id,d,x\n" + "".join(f"{i},{when},1\n" for i, when in enumerate(lines))
    schema = of({"x": Count()}, Source(file="t.csv", time="d"), clock="timestamp")
    assert rows(put(tmp_path, text), schema)["time"][-1] == datetime(2020, 1, 2, 3, 4, 5)


def test_required_cells_are_asked_for_after_rows_are_put_together(tmp_path):
    """Row 1 of patient 1 is empty, which is fine; patient 3 has no value on any row, which is not."""
    text = "subject_id,sex\n1,\n1,f\n2,f\n3,\n"
    columns = {"sex": Category(levels=("f", "m"), missing=False)}
    schema = of(columns, Source(file="t.csv", repeated=True), role="static")
    with pytest.raises(DataError, match=r"missing-value\] t\.sex: 1 of 3 cells are empty \(row 3\)"):
        rows(put(tmp_path, text), schema)
    assert rows(tmp_path, schema, on_error="drop").rows() == [(1, "f"), (2, "f")]
    long = of({**LONG_COLUMNS, "hr": Number(missing=False)}, Source(**LONG_SOURCE, grid=Grid(every="1h")))
    with pytest.raises(DataError, match=r"missing-value\] t\.hr: 1 of 3"):
        rows(put(tmp_path, LONG), long)


def test_dates_are_written_as_precisely_as_they_are_recorded(tmp_path):
    """A column by its granularity, the time of rows by a rule; what is finer than that keeps its hours."""
    schema = of(
        {"told": Timestamp(granularity="year"), "seen": Timestamp(granularity="day")},
        Source(file="t.csv", visit="visit_id", time="time"),
        clock="timestamp",
    )
    schema = schema.model_copy(update={"rules": (RuleSpec(kind="granularity", column="t.time", to="month"),)})
    text = "subject_id,visit_id,time,told,seen\n1,1,2012-05,2011,2012-05-07\n1,2,2012-11,2012,2012-11-30 07:00:00\n"
    cohort = read(put(tmp_path, text), format="tabular", schema=schema, on_error="keep")
    write(cohort, tmp_path / "out", format="tabular")
    lines = (tmp_path / "out" / "t.csv").read_text().splitlines()
    assert lines[1:] == ["1,1,2012-05,2011,2012-05-07 00:00:00", "1,2,2012-11,2012,2012-11-30 07:00:00"]
    assert read(tmp_path / "out", format="tabular", on_error="keep").tables["t"].equals(cohort.tables["t"])


@pytest.mark.parametrize("format", ["tabular", "parquet"])
def test_a_synthetic_cohort_is_written_as_one_and_stays_so(tmp_path, format):
    """The files that leave the house say that they are synthetic and that nobody has released them."""
    schema = of({"x": Count()}, Source(file="t.csv"), role="static")
    cohort = read(put(tmp_path, "subject_id,x\n1,1\n"), format="tabular", schema=schema)
    drawn = replace(cohort, origin=Origin("synthetic", "columnar-ar", seed=7))
    write(drawn, tmp_path / "out", format=format)
    assert '"UNREVIEWED"' in (tmp_path / "out" / "origin.json").read_text()
    back = read(tmp_path / "out", format=format).origin
    assert (back.kind, back.source, back.seed, back.release) == ("synthetic", "columnar-ar", 7, "UNREVIEWED")
    write(drawn, tmp_path / "out", format=format, force=True)
    (tmp_path / "out" / "origin.json").write_text("{}")
    with pytest.raises(FileFormatError, match="origin"):
        read(tmp_path / "out", format=format)
