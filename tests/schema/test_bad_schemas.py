"""Schema files people get wrong: each answer names the code, the line and the way on."""

import pytest

# ruff: noqa: E501 (a case is a line)
from cohortloom.errors import SchemaError
from cohortloom.schema.text import parse_schema, read_schema, schema_problems

HEAD = """name = "clinic"
clock = "offset"
[tables.patients]
role = "static"
columns.sex = { kind = "category", levels = ["F", "M"] }
columns.dead = { kind = "flag" }
[tables.visits]
role = "visit"
parent = "patients"
columns.sbp = { kind = "number", unit = "mm[Hg]", low = 40, high = 300 }
"""

# name: (what is added to or replaced in HEAD, line, code, words of what was found, words of the fix)
ADDED = {
    "unknown key of a column": ('columns.a = { kind = "number", lo = 1, low = 0 }', 11, "unknown-key", 'key "lo" is unknown', '"low"'),
    "other library's key": ('columns.a = { kind = "number", maximum = 1 }', 11, "unknown-key", "maximum", 'Write "high"'),
    "keys are implied": ('key = "subject_id"', 11, "unknown-key", 'key "key"', "every table has subject_id"),
    "source key in the table": ('file = "x.csv"', 11, "unknown-key", 'key "file"', "under [tables.visits.source]"),
    "key of a stream of visits": ("[simulation.visits.session]\ngap = 2.3", 12, "unknown-key", 'key "gap"', "every"),
    "unknown top-level key": ("[tabels.x]\nrole = 'event'", 11, "unknown-key", "tabels", '"tables"'),
    "kind of another world": ('columns.a = { kind = "float" }', 11, "unknown-kind", 'kind "float" is unknown', 'Write "number"'),
    "misspelt kind": ('columns.a = { kind = "categry" }', 11, "unknown-kind", "categry", '"category"'),
    "no kind": ('columns.a = { unit = "kg" }', 11, "no-kind", "says no kind", "Add kind"),
    "column is a word": ('columns.a = "number"', 11, "wrong-type", "is not a column", "{ kind ="),
    "category without levels": ('columns.a = { kind = "category" }', 11, "missing-key", 'key "levels" is missing', "Add levels = ["),
    "no levels at all": ('columns.a = { kind = "category", levels = [] }', 11, "empty-list", "the list is empty", "at least one"),
    "level twice": ('columns.a = { kind = "category", levels = ["x", "x"] }', 11, "contradiction", "levels listed twice: x", "List each once"),
    "numbers as levels": ('columns.a = { kind = "category", levels = [0, 1] }', 11, "wrong-type", "0 is of the wrong type", 'Write "0".'),
    "label of no level": ('columns.a = { kind = "ordinal", levels = ["x"], labels = { y = "Y" } }', 11, "contradiction", "do not exist: y", ""),
    "bounds swapped": ('columns.a = { kind = "number", low = 3, high = 1 }', 11, "contradiction", "low 3 lies above high 1", "Swap them"),
    "number in quotes": ('columns.a = { kind = "number", low = "0.5" }', 11, "wrong-type", "must be a number", "Remove the quotes: low = 0.5"),
    "bound is nan": ('columns.a = { kind = "number", low = nan }', 11, "not-finite", "nan is not a number", "Leave the key out"),
    "half a decimal": ('columns.a = { kind = "number", decimals = 1.5 }', 11, "wrong-type", "must be a whole number", ""),
    "too many decimals": ('columns.a = { kind = "number", decimals = 13 }', 11, "out-of-range", "at most 12", ""),
    "reserved name": ('columns.time = { kind = "timestamp" }', 10, "contradiction", "time: reserved", "Remove it from columns"),
    "unit with blanks": ('columns.a = { kind = "number", unit = "mg / dL" }', 11, "bad-unit", "is not a UCUM code", 'Write "mg/dL"'),
    "unit left open": ('columns.a = { kind = "number", unit = "mm[Hg" }', 11, "bad-unit", "is not a UCUM code", ""),
    "unknown role": ('[tables.labs]\nrole = "events"\ncolumns.k = { kind = "number" }', 12, "not-one-of", '"events" is not one of static, visit, event', '"event"'),
    "table without role": ('[tables.labs]\ncolumns.k = { kind = "number" }', 11, "missing-key", 'key "role" is missing', 'role = "static"'),
    "unknown parent": ('[tables.labs]\nrole = "event"\nparent = "visit"\ncolumns.k = { kind = "number" }', 13, "unknown-parent", 'parent "visit" is not a table', '"visits"'),
    "parent of wrong role": ('[tables.labs]\nrole = "event"\ncolumns.k = { kind = "number" }\n[tables.x]\nrole = "event"\nparent = "labs"\ncolumns.k = { kind = "flag" }', 16, "bad-parent", "can't hang on", "patient table or the visit table"),
    "two visit tables": ('[tables.stays]\nrole = "visit"\ncolumns.k = { kind = "number" }', 12, "two-visit-tables", "2 tables have role", 'role = "event"'),
    "table without columns": ('[tables.labs]\nrole = "event"', 11, "no-columns", "has no columns", "at least one column"),
    "code column absent": ('[tables.labs]\nrole = "event"\ncode = "itm"\ncolumns.item = { kind = "code" }', 13, "unknown-column", 'code = "itm"', '"item"'),
    "code column of other kind": ('[tables.labs]\nrole = "event"\ncode = "item"\ncolumns.item = { kind = "flag" }', 13, "wrong-kind", 'must be "code"', ""),
    "value without code": ('[tables.labs]\nrole = "event"\nvalue = "v"\ncolumns.v = { kind = "number" }', 13, "value-without-code", "no code column", "Add code"),
    "source without file": ('[tables.visits.source]\ntime = "t"', 11, "missing-key", 'key "file" is missing', "Add file"),
    "source without time": ('[tables.visits.source]\nfile = "v.csv"', 11, "no-time", "names no time column", "Add time"),
    "source names no column": ('[tables.visits.source]\nfile = "v.csv"\ntime = "t"\ncolumns.spb = "SBP"', 14, "unknown-column", 'columns names "spb"', '"sbp"'),
    "source time unit": ('[tables.visits.source]\nfile = "v.csv"\ntime = { column = "t", unit = "hours" }', 13, "not-one-of", '"hours" is not one of', ""),
    "source time is a number": ('[tables.visits.source]\nfile = "v.csv"\ntime = 3', 13, "wrong-type", "3 is of the wrong type", '{ column = "..."'),
    "marks as one word": ('[tables.visits.source]\nfile = "v.csv"\ntime = "t"\nmissing = "?"', 14, "wrong-type", "must be a list", 'Write missing = ["?"]'),
    "long layout half said": ('[tables.visits.source]\nfile = "v.csv"\ntime = "t"\nlayout = "long"', 11, "contradiction", "needs code, value and codes", ""),
    "grid of no width": ('[tables.visits.source]\nfile = "v.csv"\ntime = "t"\ngrid = { every = "hourly" }', 14, "bad-text", "is not a bin width", '"1h"'),
    "task on no column": ('[[tasks]]\nname = "t"\ntarget = "patients.died"', 13, "unknown-column", "names no column", '"dead"'),
    "task on a level that is none": ('[[tasks]]\nname = "t"\ntarget = "patients.sex"\nevent = ["W"]', 14, "unknown-level", '"W" is not a level', ""),
    "rule without kind": ('[[rules]]\nfirst = "a"', 11, "missing-key", 'key "kind" is missing', "Add kind"),
    "signal without frequency": ('[signals.ecg]\nkind = "ecg"\nchannels = ["I"]', 11, "missing-key", 'key "fs" is missing', "Add fs = 500"),
    "signal frequency zero": ('[signals.ecg]\nkind = "ecg"\nchannels = ["I"]\nfs = 0', 14, "out-of-range", "must be above 0", ""),
    "signal without channels": ('[signals.ecg]\nkind = "ecg"\nchannels = []\nfs = 1', 13, "empty-list", "the list is empty", ""),
    "subgroup on no table": ('[tables.x]\nrole = "event"\ncolumns.k = { kind = "flag" }\n[[survival]]\ntime = "patent.t"\nevent = "patients.dead"', 15, "unknown-table", "names no table", '"patients"'),
}  # fmt: skip

WHOLE = {
    "quote left open": ('name = "clinic\n', 1, "not-toml", "is not TOML", "A quote is open"),
    "table twice": (HEAD + "[tables.patients]\n", 11, "not-toml", "is not TOML", "twice"),
    "text without quotes": (HEAD.replace('"static"', "static"), 4, "not-toml", "is not TOML", "in quotes"),
    "Python's True": (HEAD + "timed = True\n", 11, "not-toml", "is not TOML", "small letters"),
    "null": (HEAD + "value = null\n", 11, "not-toml", "is not TOML", "leave the key out"),
    "inline table over lines": (HEAD + 'columns.a = { kind = "flag",\n  missing = true }\n', 11, "not-toml", "is not TOML", "must end on its line"),
    "no name": (HEAD.replace('name = "clinic"', ""), 1, "missing-key", 'key "name" is missing', "Add name"),
    "name with a blank": (HEAD.replace('"clinic"', '"my clinic"'), 1, "bad-text", "can't be used here", "letters, digits"),
    "unknown clock": (HEAD.replace('"offset"', '"relative"'), 2, "not-one-of", "not one of timestamp, offset, order", ""),
    "nothing in it": ('name = "x"\n', 1, "no-tables", "neither tables nor signals", "[tables.patients]"),
}  # fmt: skip

CASES = {name: (HEAD + case[0] + "\n", *case[1:]) for name, case in ADDED.items()} | WHOLE


@pytest.mark.parametrize("name", CASES)
def test_a_bad_schema_is_answered_with_code_line_and_fix(name):
    text, line, code, what, fix = CASES[name]
    with pytest.raises(SchemaError) as caught:
        parse_schema(text, name="clinic.toml")
    (problem,) = caught.value.problems
    assert problem.code == code
    assert problem.where.split(": ")[0] == f"clinic.toml:{line}"
    assert what in problem.what
    assert fix in problem.fix


def test_the_file_that_all_cases_start_from_is_sound():
    assert parse_schema(HEAD).problems() == []


def test_all_problems_come_at_once_in_the_order_of_lines(tmp_path):
    wanted = [n for n in ADDED if ADDED[n][0].startswith("columns.a") and ADDED[n][2] != "not-finite"]
    text = HEAD + "".join(ADDED[n][0].replace("columns.a", f"columns.a{i}") + "\n" for i, n in enumerate(wanted))
    text += '[tables.labs]\nrole = "event"\nparent = "visit"\ncolumns.k = { kind = "number" }\n'
    path = tmp_path / "clinic.toml"
    path.write_text(text)
    problems = schema_problems(path)
    lines = [int(p.where.split(":")[1]) for p in problems]
    assert lines == sorted(lines)
    assert {p.code for p in problems} == {ADDED[n][2] for n in wanted} | {"unknown-parent"}
    with pytest.raises(SchemaError) as caught:
        read_schema(path)
    assert caught.value.problems == tuple(problems)


def test_a_later_task_keeps_its_line_when_an_earlier_one_is_broken():
    text = HEAD + '[[tasks]]\nname = "a"\n[[tasks]]\nname = "b"\ntarget = "patients.nobody"\n'
    with pytest.raises(SchemaError) as caught:
        parse_schema(text, name="x")
    assert [(p.code, p.where.split(": ")[0]) for p in caught.value.problems] == [
        ("missing-key", "x:11"),
        ("unknown-column", "x:15"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("x.yaml", b"name: x", "unknown-suffix"),
        ("absent.toml", None, "no-file"),
        ("latin.toml", 'name = "x"\ndescription = "größe"'.encode("latin1"), "not-utf8"),
        ("half.json", b'{"name": "x", "tables": {', "not-json"),
        ("list.json", b"[1, 2]", "not-a-schema"),
        ("twice.json", b'{"name": "x", "name": "y", "tables": {}}', "duplicate-key"),
        ("empty.json", b"", "not-json"),
        ("empty.toml", b"", "missing-key"),
    ],
)
def test_a_bad_file_is_answered(tmp_path, name, content, code):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert schema_problems(path)[0].code == code
    with pytest.raises(SchemaError, match=code):
        read_schema(path)


def test_json_problems_have_lines_too(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        '{\n "name": "x",\n "tables": {\n  "p": {\n   "role": "static",\n   "columns": {"a": {"kind": "number", "lo": 1}}}}}'
    )
    (problem,) = schema_problems(path)
    assert problem.where == "x.json:6: tables.p.columns.a.lo"
