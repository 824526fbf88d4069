"""Schema files: what is written is read back, and lines are found wherever TOML lets a key stand."""

# ruff: noqa: E501 (texts of files)

import functools
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortloom.errors import SchemaError
from cohortloom.schema import Schema
from cohortloom.schema.lines import lines_of
from cohortloom.schema.text import (
    dump_schema,
    json_schema,
    parse_schema,
    read_schema,
    schema_problems,
    show,
    write_schema,
)
from cohortloom.testing.strategies import schemas

ROOT = Path(__file__).parents[2]

RICH = """
name = "clinic"
description = \"\"\"
two lines, one # no comment
[not.a.table]
\"\"\"
clock = "offset"
subgroups = ["patients.sex"]

[tables.patients]
role = "static"
columns.sex = { kind = "category", levels = ["F", "M"], labels = { F = "female" } }
columns."alk.phos" = { kind = "number", unit = "U/L", low = 0, high = 1e4, prior = { typical = 80.0, sd = 0.4, scale = "log" } }

[tables.labs] # a comment
role = "event"
parent = "patients"
code = "item"
value = "value"

[tables.labs.columns]
value = { kind = "number" }

[tables.labs.columns.item]
kind = "code"
items.HR = { unit = "/min", low = 0 }
items."a b" = { name = "A" }

[tables.labs.source]
file = "labs.csv.gz"
time = { column = "minutes", unit = "min" }
values.item = { HR = "heart rate" }
missing_in = { value = ["-1"] }

[[rules]]
kind = "before"
first = "labs.time"
since = 2020-01-01
limits = [{ a = 1 }, { a = 2 }]

[[tasks]]
name = "death"
target = "patients.sex"
event = ["M"]

[simulation]
visits.planned = { every = 90.0, at_start = 1.0 }
course.states.well = { start = 1.0, death_rate = 0.02 }
"""


@given(schemas())
@settings(max_examples=150, deadline=None)
def test_any_schema_survives_toml_and_json(schema):
    for kind in ("toml", "json"):
        again = parse_schema(dump_schema(schema, kind), kind=kind)
        assert again == schema
        assert [list(t.columns) for t in again.tables.values()] == [list(t.columns) for t in schema.tables.values()]


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_rich_schema_survives_a_file(tmp_path, suffix):
    schema = parse_schema(RICH)
    write_schema(schema, tmp_path / f"clinic{suffix}")
    assert read_schema(tmp_path / f"clinic{suffix}") == schema
    assert Schema.from_file(tmp_path / f"clinic{suffix}").digest == schema.digest


def test_columns_stand_on_one_line_each():
    text = dump_schema(parse_schema(RICH))
    assert 'columns.sex = { kind = "category", levels = ["F", "M"], labels = { F = "female" } }' in text
    assert max(map(len, text.splitlines())) <= 150


def _paths(value, path=()):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key), inner
        if isinstance(inner, (dict, list)):
            yield from _paths(inner, (*path, key))


def test_every_key_has_the_line_on_which_it_stands():
    lines, rows = lines_of(RICH, "toml"), RICH.split("\n")
    paths = dict(_paths(tomllib.loads(RICH)))
    assert set(lines) == set(paths)
    for path in paths:
        named = [part for part in path if isinstance(part, str)][-1]
        assert named in rows[lines[path] - 1]
    assert (
        lines["tables", "labs", "columns", "item", "items", "a b", "name"]
        == rows.index('items."a b" = { name = "A" }') + 1
    )
    assert lines["tasks", 0, "event", 0] == rows.index('event = ["M"]') + 1


_KEYS = st.sampled_from(["a", "b-1", "c d", 'q"', "ü", "", "x.y", "#", "]"])
_VALUES = st.recursive(
    st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x\ny", "'", '"""', "\\", "# ]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=4), st.sampled_from(["toml", "multiline", "json"]))
@settings(max_examples=300, deadline=None)
def test_the_scanner_finds_every_path_of_any_document(data, kind):
    if kind == "json":
        text = json.dumps(data, indent=1)
    else:
        import tomli_w

        text = tomli_w.dumps(data, multiline_strings=kind == "multiline")
    assert set(lines_of(text, "json" if kind == "json" else "toml")) == {p for p, _ in _paths(data)}


def test_the_json_schema_in_the_repository_is_the_current_one():
    committed = json.loads((ROOT / "schemas/cohortloom.schema.json").read_text())
    assert committed == json_schema(), "run: cohortloom schema json-schema -o schemas/cohortloom.schema.json --force"


@given(schemas())
@settings(max_examples=15, deadline=None)
def test_the_json_schema_accepts_what_we_write(schema):
    assert list(_editor().iter_errors(json.loads(dump_schema(schema, "json")))) == []


@functools.cache
def _editor():
    import jsonschema

    return jsonschema.Draft202012Validator(json_schema())


def test_the_json_schema_refuses_an_unknown_key():
    assert not _editor().is_valid({"name": "x", "tabels": {}})


def test_a_summary_names_tables_columns_units_and_marks():
    text = show(parse_schema(RICH))
    assert "clinic (version 1): 1 static, 1 event tables; clock: offset" in text
    assert "alk.phos  number     0..10000 U/L" in text
    assert "labs: event, of patients, one row per code (item, value); keys subject_id, time" in text


def test_an_unknown_unit_is_reported_but_stops_nothing(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(RICH.replace('"U/L"', '"flubs/L"'))
    (problem,) = schema_problems(path)
    assert problem.code == "unknown-unit" and ":13: tables.patients" in problem.where
    assert read_schema(path).column("patients.alk.phos").unit == "flubs/L"


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + RICH.replace("\n", "\r\n").encode())
    assert read_schema(path).name == "clinic"


def test_null_has_no_place_in_toml_and_other_suffixes_are_refused(tmp_path):
    schema = parse_schema(
        '{"name": "x", "rules": [{"kind": "x", "a": [null]}], "tables": {"p": {"role": "static", "columns": {"a": {"kind": "flag"}}}}}',
        kind="json",
    )
    with pytest.raises(SchemaError, match="can't be written as TOML"):
        dump_schema(schema)
    with pytest.raises(SchemaError, match=r"ends in .toml or .json"):
        write_schema(schema, tmp_path / "x.yaml")


def test_the_digest_tells_tables_apart_and_not_where_they_were_read_from():
    schema = read_schema(Path(__file__).parents[2] / "schemas" / "pbc.toml")
    plain = schema.model_dump(mode="json")
    moved = Schema.model_validate({**plain, "tables": {n: {**t, "source": None} for n, t in plain["tables"].items()}})
    assert schema.tables["patients"].source is not None and moved.digest == schema.digest
    table = plain["tables"]["patients"]
    fewer = {**table, "columns": dict(list(table["columns"].items())[1:])}
    assert Schema.model_validate({**plain, "tables": {**plain["tables"], "patients": fewer}}).digest != schema.digest
