"""SDV metadata: read in its three forms, written so that SDV itself takes it."""

# ruff: noqa: E501 (texts of files)

import json

import pytest
from hypothesis import HealthCheck, given, settings

from cohortloom.errors import FileFormatError, SchemaError
from cohortloom.schema.infer import infer_schema
from cohortloom.schema.sdv_metadata import from_sdv_metadata, to_sdv_metadata
from cohortloom.testing.strategies import schemas

SEQUENCE_V2 = {
    "tables": {
        "visits": {
            "columns": {
                "patient_id": {"sdtype": "id"},
                "visit_date": {"sdtype": "datetime", "range_is_nullable": False, "range_min": "a", "range_max": "b"},
                "sex": {"sdtype": "categorical", "range_is_nullable": False, "range_values": ["M", "F"]},
                "hr": {"sdtype": "numerical", "range_min": 41.2, "range_max": 113.7, "decimal_places": 15},
                "email": {"sdtype": "email", "pii": True},
            },
            "sequence_key": "patient_id",
            "sequence_index": "visit_date",
        }
    },
    "relationships": [],
    "METADATA_SPEC_VERSION": "V2",
}

SINGLE_V1 = {
    "columns": {
        "pid": {"sdtype": "id", "regex_format": "P[0-9]{3}"},
        "age": {"sdtype": "numerical", "computer_representation": "Int64"},
        "stage": {"sdtype": "categorical", "order": ["I", "II", "III"]},
        "smoker": {"sdtype": "boolean"},
        "town": {"sdtype": "categorical"},
    },
    "primary_key": "pid",
    "METADATA_SPEC_VERSION": "SINGLE_TABLE_V1",
}


def _link(parent, child, key):
    return {"parent_table_name": parent, "child_table_name": child, "parent_primary_key": key, "child_foreign_key": key}


MULTI_V1 = {
    "tables": {
        "patients": {"columns": {"pid": {"sdtype": "id"}, "dead": {"sdtype": "boolean"}}, "primary_key": "pid"},
        "stays": {
            "columns": {
                "pid": {"sdtype": "id"},
                "sid": {"sdtype": "id"},
                "Start Date": {"sdtype": "datetime", "datetime_format": "%d.%m.%Y"},
                "Ward No": {"sdtype": "numerical"},
            },
            "primary_key": "sid",
        },
        "labs": {"columns": {"sid": {"sdtype": "id"}, "k": {"sdtype": "numerical"}}},
        "phones": {"columns": {"pid": {"sdtype": "id"}, "phone": {"sdtype": "phone_number"}}},
    },
    "relationships": [
        _link("patients", "stays", "pid"),
        _link("stays", "labs", "sid"),
        _link("patients", "phones", "pid"),
    ],
    "METADATA_SPEC_VERSION": "V1",
}


def test_a_sequence_becomes_the_visit_table():
    schema = from_sdv_metadata(SEQUENCE_V2, "clinic")
    table = schema.tables["visits"]
    assert (table.role, schema.clock) == ("visit", "timestamp")
    assert (table.source.subject, table.source.when.column) == ("patient_id", "visit_date")
    assert {c: k.kind for c, k in table.columns.items()} == {"sex": "category", "hr": "number", "email": "identifier"}
    assert not table.columns["sex"].missing and table.columns["hr"].missing


def test_the_extremes_of_real_people_do_not_enter_the_schema():
    hr = from_sdv_metadata(SEQUENCE_V2).column("visits.hr")
    assert hr.low < 41.2 and hr.high > 113.7
    assert hr.low % 10 == 0 and hr.high % 10 == 0
    assert hr.decimals is None


def test_a_lone_table_with_a_primary_key_is_static():
    schema = from_sdv_metadata(SINGLE_V1)
    (table,) = schema.tables.values()
    assert table.role == "static" and table.source.subject == "pid"
    assert (
        schema.column("records.stage").levels == ("I", "II", "III") and schema.column("records.stage").kind == "ordinal"
    )
    assert schema.column("records.age").decimals == 0 and schema.column("records.town").kind == "code"


def test_relationships_give_roles_and_parents():
    schema = from_sdv_metadata(MULTI_V1)
    assert {n: t.role for n, t in schema.tables.items()} == {
        "patients": "static",
        "stays": "visit",
        "labs": "event",
        "phones": "event",
    }
    assert schema.tables["labs"].parent == "stays" and schema.has_visit_id("labs") and not schema.has_time("labs")
    stays = schema.tables["stays"].source
    assert (stays.visit, stays.when.column, stays.when.format) == ("sid", "Start Date", "%d.%m.%Y")
    assert stays.columns == {"ward_no": "Ward No"}
    assert schema.tables["labs"].source is None


def test_a_file_is_read_and_drafted(tmp_path):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(MULTI_V1))
    draft = infer_schema(path, name="clinic")
    assert draft.schema.tables.keys() == from_sdv_metadata(MULTI_V1, "clinic").tables.keys()
    assert draft.text.startswith("# Drafted from SDV metadata")
    assert infer_schema(MULTI_V1, name="clinic").schema == draft.schema


@pytest.mark.parametrize("broken", [{}, {"tables": []}, {"tables": {"a": {}}}, []])
def test_other_json_is_refused_with_a_way_on(broken, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(SchemaError, match=r"not-sdv-metadata.*save_to_json"):
        from_sdv_metadata(path)


def test_no_key_no_patient():
    with pytest.raises(SchemaError, match="patients can't be told apart"):
        from_sdv_metadata({"tables": {"a": {"columns": {"x": {"sdtype": "numerical"}}}}})


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"tables": {')
    with pytest.raises(FileFormatError, match="is not JSON"):
        from_sdv_metadata(path)


@given(schemas())
@settings(max_examples=60, deadline=None)
def test_roles_and_kinds_survive_the_way_there_and_back(schema):
    written = to_sdv_metadata(schema)
    json.dumps(written)
    for name, table in schema.tables.items():
        assert list(written["tables"][name]["columns"]) == [*schema.keys(name), *table.columns]
    parents = {link["child_table_name"]: link["parent_table_name"] for link in written["relationships"]}
    assert len(parents) == len(written["tables"]) - 1
    again = from_sdv_metadata(written)
    assert again.problems() == []
    for name, table in schema.tables.items():
        if schema.statics and table.role == "static" and name == next(iter(schema.statics)):
            assert again.tables[name].role == "static"


@given(schemas())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_sdv_takes_what_we_write(schema):
    metadata = pytest.importorskip("sdv.metadata")
    metadata.Metadata.load_from_dict(to_sdv_metadata(schema)).validate()


def test_sdv_does_refuse_what_is_wrong():
    metadata = pytest.importorskip("sdv.metadata")
    from cohortloom.schema.text import parse_schema

    tables = '[tables.p]\nrole = "static"\ncolumns.a = { kind = "flag" }\n[tables.v]\nrole = "visit"\ncolumns.b = { kind = "flag" }'
    written = to_sdv_metadata(parse_schema(f'name = "x"\n{tables}'))
    written["relationships"][0]["child_foreign_key"] = "b"
    with pytest.raises(metadata.errors.InvalidMetadataError if hasattr(metadata, "errors") else Exception):
        metadata.Metadata.load_from_dict(written).validate()
