"""Every rule catches its plant, passes the clean cohort, and is clean after repair."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.errors import SchemaError
from cohortloom.rng import Rng
from cohortloom.rules import KINDS, broken_subjects, check, compile_rules, repair, rule_problems
from cohortloom.schema import Schema

START = datetime(2020, 1, 1)

CLINIC = {
    "name": "clinic",
    "tables": {
        "patients": {
            "role": "static",
            "columns": {
                "sex": {"kind": "category", "levels": ["F", "M"]},
                "birth": {"kind": "timestamp", "granularity": "day"},
                "died": {"kind": "flag"},
                "death": {"kind": "timestamp"},
                "followup": {"kind": "number", "unit": "d"},
                "status": {"kind": "category", "levels": ["alive", "dead"]},
            },
        },
        "visits": {
            "role": "visit",
            "parent": "patients",
            "columns": {
                "discharge": {"kind": "timestamp"},
                "weight": {"kind": "number", "unit": "kg", "low": 2.05, "high": 300, "decimals": 1},
                "stage": {"kind": "ordinal", "levels": ["I", "II", "III"]},
                "n_drugs": {"kind": "count", "high": 30},
                "dose": {"kind": "number", "unit": "mg"},
                "pregnant": {"kind": "flag"},
                "ward": {"kind": "category", "levels": ["icu", "ward"], "missing": False},
                "genotype": {"kind": "category", "levels": ["a", "b"]},
            },
        },
        "labs": {
            "role": "event",
            "parent": "visits",
            "code": "code",
            "value": "value",
            "columns": {
                "code": {"kind": "code", "items": {"K": {"low": 1, "high": 10, "decimals": 1}, "HR": {"decimals": 0}}},
                "value": {"kind": "number"},
            },
        },
        "events": {"role": "event", "code": "code", "columns": {"code": {"kind": "code"}}},
    },
}


def clinic(*rules, **changes):
    """Schema with rules; `changes` replaces tables."""
    return Schema.model_validate({**CLINIC, "tables": {**CLINIC["tables"], **changes}, "rules": list(rules)})


def days(*numbers):
    return [None if d is None else START + timedelta(days=d) for d in numbers]


def tables():
    """Three subjects: three visits, one visit, none. All rules of the table below hold."""
    return {
        "patients": pl.DataFrame(
            {
                "subject_id": [1, 2, 3],
                "sex": ["F", "M", None],
                "birth": days(-9000, -20000, None),
                "died": [True, False, None],
                "death": days(50, None, None),
                "followup": [50.0, 400.0, None],
                "status": ["dead", "alive", None],
            }
        ),
        "visits": pl.DataFrame(
            {
                "subject_id": [1, 1, 1, 2],
                "visit_id": [10, 11, 12, 20],
                "time": days(0, 10, 20, 5),
                "discharge": days(2, 12, None, 6),
                "weight": [70.1, None, 71.0, 90.5],
                "stage": ["I", None, "II", "III"],
                "n_drugs": [0, 3, 4, None],
                "dose": [2.5, 5.0, None, 7.5],
                "pregnant": [True, False, None, False],
                "ward": ["icu", "ward", "ward", "ward"],
                "genotype": ["a", None, "a", "b"],
            }
        ),
        "labs": pl.DataFrame(
            {
                "subject_id": [1, 1, 1, 2, 2],
                "visit_id": [10, 11, None, 20, 20],
                "time": days(1, 11, 15, 5, 6),
                "code": ["K", "K", "HR", "K", "Z33"],
                "value": [4.0, 4.5, 80.0, None, 1.25],
            }
        ),
        "events": pl.DataFrame(
            {
                "subject_id": [1, 1, 1, 2],
                "time": days(0, 4, 30, 8),
                "code": ["referral", "diagnosis", "surgery", "diagnosis"],
            }
        ),
    }


def cohort_of(schema, frames=None):
    return Cohort.build(schema, frames or tables())


def spoil(table, column, row, value):
    """A plant: one cell replaced."""

    def plant(frames):
        frame = frames[table]
        values = frame[column].to_list()
        values[row] = value
        return {**frames, table: frame.with_columns(pl.Series(column, values, dtype=frame[column].dtype))}

    return plant


def add(table, **row):
    """A plant: one row more."""

    def plant(frames):
        frame = frames[table]
        empty = {c: None for c in frame.columns}
        extra = pl.DataFrame({c: [v] for c, v in {**empty, **row}.items()}, schema=frame.schema)
        return {**frames, table: pl.concat([frame, extra])}

    return plant


# name: (rule or None if implied, plant, table of the violation, subject that breaks it, is it repaired)
PLANTS = {
    "range low": (None, spoil("visits", "weight", 0, 1.0), "visits", 1, True),
    "range high": (None, spoil("visits", "weight", 3, 301.0), "visits", 2, True),
    "range nan": (None, spoil("visits", "weight", 3, float("nan")), "visits", 2, True),
    "range inf": (None, spoil("visits", "dose", 3, float("inf")), "visits", 2, True),
    "range count": (None, spoil("visits", "n_drugs", 0, -1), "visits", 1, True),
    "range written": (
        {"kind": "range", "column": "visits.dose", "high": 10},
        spoil("visits", "dose", 0, 11.0),
        "visits",
        1,
        True,
    ),
    "levels": (None, spoil("patients", "sex", 0, "X"), "patients", 1, True),
    "levels required": (None, spoil("visits", "ward", 0, "X"), "visits", 1, False),
    "levels of a code": (
        {"kind": "levels", "column": "events.code", "levels": ["referral", "diagnosis", "surgery"]},
        spoil("events", "code", 3, "party"),
        "events",
        2,
        True,
    ),
    "decimals": (None, spoil("visits", "weight", 0, 70.123), "visits", 1, True),
    "decimals at the edge": (None, spoil("visits", "weight", 0, 2.07), "visits", 1, True),
    "step": (
        {"kind": "step", "column": "visits.dose", "step": 2.5},
        spoil("visits", "dose", 0, 2.6),
        "visits",
        1,
        True,
    ),
    "required": (None, spoil("visits", "ward", 3, None), "visits", 2, False),
    "items high": (None, spoil("labs", "value", 0, 11.0), "labs", 1, True),
    "items decimals": (None, spoil("labs", "value", 2, 80.5), "labs", 1, True),
    "items nan": (None, spoil("labs", "value", 4, float("nan")), "labs", 2, True),
    "granularity": (None, spoil("patients", "birth", 0, START - timedelta(days=900, hours=1)), "patients", 1, True),
    "granularity of times": (
        {"kind": "granularity", "column": "visits.time", "to": "hour"},
        spoil("visits", "time", 3, START + timedelta(days=5, minutes=1)),
        "visits",
        2,
        True,
    ),
    "one row": (None, add("patients", subject_id=2, sex="M"), "patients", 2, True),
    "unique visits": (None, add("visits", subject_id=1, visit_id=10, time=START, ward="icu"), "visits", 1, True),
    "unique null key": (None, add("visits", subject_id=1, visit_id=None, time=START, ward="icu"), "visits", 1, True),
    "unique written": (
        {"kind": "unique", "table": "labs", "columns": ["subject_id", "time", "code"]},
        add("labs", subject_id=2, visit_id=20, time=START + timedelta(days=5), code="K", value=3.0),
        "labs",
        2,
        True,
    ),
    "parent unknown visit": (None, spoil("labs", "visit_id", 0, 99), "labs", 1, True),
    "parent visit of another subject": (None, spoil("labs", "visit_id", 0, 20), "labs", 1, True),
    "parent no static row": (
        None,
        add("visits", subject_id=9, visit_id=90, time=START, ward="icu"),
        "visits",
        9,
        False,
    ),
    "before, static and event": (
        {"kind": "before", "first": "patients.birth", "then": "labs.time"},
        spoil("patients", "birth", 1, START + timedelta(days=6)),
        "labs",
        2,
        True,
    ),
    "before, event and static": (
        {"kind": "before", "first": "labs.time", "then": "patients.death"},
        spoil("labs", "time", 2, START + timedelta(days=51)),
        "labs",
        1,
        True,
    ),
    "before, one row": (
        {"kind": "before", "first": "visits.time", "then": "visits.discharge", "strict": True},
        spoil("visits", "discharge", 3, START + timedelta(days=4)),
        "visits",
        2,
        True,
    ),
    "before, one row, equal": (
        {"kind": "before", "first": "visits.time", "then": "visits.discharge", "strict": True},
        spoil("visits", "discharge", 3, START + timedelta(days=5)),
        "visits",
        2,
        True,
    ),
    "before, visit and event": (
        {"kind": "before", "first": "visits.time", "then": "labs.time"},
        spoil("labs", "time", 1, START + timedelta(days=9)),
        "labs",
        1,
        True,
    ),
    "before, strict, across tables": (
        {"kind": "before", "first": "patients.birth", "then": "labs.time", "strict": True},
        spoil("patients", "birth", 1, START + timedelta(days=5)),
        "labs",
        2,
        False,
    ),
    "after": (
        {"kind": "after", "column": "events.time", "of": "patients.birth"},
        spoil("patients", "birth", 1, START + timedelta(days=9)),
        "events",
        2,
        True,
    ),
    "nothing after death": (
        {"kind": "nothing_after", "end": "patients.death"},
        spoil("events", "time", 2, START + timedelta(days=51)),
        "events",
        1,
        True,
    ),
    "nothing after death, visit": (
        {"kind": "nothing_after", "end": "patients.death", "tables": ["visits"]},
        spoil("visits", "time", 2, START + timedelta(days=51)),
        "visits",
        1,
        True,
    ),
    "nothing after, flag and number": (
        {"kind": "nothing_after", "end": "patients.followup", "flag": "patients.died", "origin": "visits.time"},
        spoil("patients", "followup", 0, 29.0),
        "events",
        1,
        True,
    ),
    "nothing after, level and number": (
        {
            "kind": "nothing_after",
            "end": "patients.followup",
            "flag": "patients.status",
            "levels": ["dead"],
            "origin": "visits.time",
        },
        spoil("patients", "followup", 0, 29.0),
        "events",
        1,
        True,
    ),
    "nothing after a code": (
        {"kind": "nothing_after", "end": "events.time", "flag": "events.code", "levels": ["surgery"]},
        spoil("visits", "time", 2, START + timedelta(days=31)),
        "visits",
        1,
        True,
    ),
    "nothing after, grace": (
        {"kind": "nothing_after", "end": "patients.death", "grace_days": 2},
        spoil("events", "time", 2, START + timedelta(days=53)),
        "events",
        1,
        True,
    ),
    "nothing after, further column": (
        {"kind": "nothing_after", "end": "patients.death", "columns": ["visits.discharge"]},
        spoil("visits", "discharge", 2, START + timedelta(days=60)),
        "visits",
        1,
        True,
    ),
    "inside visit, early": (
        {"kind": "inside_visit", "column": "labs.time"},
        spoil("labs", "time", 1, START + timedelta(days=9)),
        "labs",
        1,
        True,
    ),
    "inside visit, late": (
        {"kind": "inside_visit", "column": "labs.time", "end": "visits.discharge"},
        spoil("labs", "time", 1, START + timedelta(days=13)),
        "labs",
        1,
        True,
    ),
    "monotone number": (
        {"kind": "monotone", "column": "visits.n_drugs"},
        spoil("visits", "n_drugs", 0, 9),
        "visits",
        1,
        True,
    ),
    "monotone ordinal over a gap": (
        {"kind": "monotone", "column": "visits.stage"},
        spoil("visits", "stage", 0, "III"),
        "visits",
        1,
        True,
    ),
    "monotone down": (
        {"kind": "monotone", "column": "visits.pregnant", "direction": "down"},
        spoil("visits", "pregnant", 2, True),
        "visits",
        1,
        True,
    ),
    "monotone strict": (
        {"kind": "monotone", "column": "visits.n_drugs", "strict": True},
        spoil("visits", "n_drugs", 0, 3),
        "visits",
        1,
        False,
    ),
    "monotone of a code": (
        {"kind": "monotone", "column": "labs.value", "code": "K"},
        spoil("labs", "value", 1, 3.0),
        "labs",
        1,
        True,
    ),
    "no repeat": (
        {"kind": "no_repeat", "column": "events.code"},
        spoil("events", "code", 2, "referral"),
        "events",
        1,
        True,
    ),
    "no repeat of one": (
        {"kind": "no_repeat", "column": "labs.code", "levels": ["HR"]},
        add("labs", subject_id=1, time=START + timedelta(days=16), code="HR", value=70.0),
        "labs",
        1,
        True,
    ),
    "no repeat in a visit": (
        {"kind": "no_repeat", "column": "labs.code", "within": "visit"},
        add("labs", subject_id=2, visit_id=20, time=START + timedelta(days=6), code="Z33"),
        "labs",
        2,
        True,
    ),
    "no repeat in visits": (
        {"kind": "no_repeat", "column": "visits.stage"},
        spoil("visits", "stage", 1, "II"),
        "visits",
        1,
        True,
    ),
    "order": (
        {"kind": "order", "column": "events.code", "sequence": ["referral", "diagnosis", "surgery"]},
        spoil("events", "time", 1, START + timedelta(days=-1)),
        "events",
        1,
        True,
    ),
    "order, needed": (
        {"kind": "order", "column": "events.code", "sequence": ["diagnosis", "surgery"], "needed": True},
        spoil("events", "code", 3, "surgery"),
        "events",
        2,
        True,
    ),
    "constant": (
        {"kind": "constant", "column": "visits.genotype"},
        spoil("visits", "genotype", 2, "b"),
        "visits",
        1,
        True,
    ),
    "constant within a visit": (
        {"kind": "constant", "column": "labs.value", "within": "visit"},
        add("labs", subject_id=2, visit_id=20, time=START + timedelta(days=6), code="Z33", value=2.5),
        "labs",
        2,
        True,
    ),
    "constant within a moment": (
        {"kind": "constant", "column": "labs.value", "within": "moment"},
        add("labs", subject_id=1, visit_id=11, time=START + timedelta(days=11), code="K", value=7.0),
        "labs",
        1,
        True,
    ),
    "until": (
        {"kind": "until", "date": "2020-02-20"},
        add("events", subject_id=2, time=START + timedelta(days=51), code="surgery"),
        "events",
        2,
        True,
    ),
    "until, a date of the patient": (
        {"kind": "until", "date": "2020-02-20"},
        spoil("patients", "death", 0, START + timedelta(days=51)),
        "patients",
        1,
        False,
    ),
    "at most": (
        {"kind": "at_most", "column": "visits.n_drugs", "of": "visits.dose"},
        spoil("visits", "n_drugs", 0, 3),
        "visits",
        1,
        True,
    ),
    "same day": (  # as its own day: a time of day is cut off
        {"kind": "same_day", "column": "patients.death", "of": "patients.death"},
        spoil("patients", "death", 0, START + timedelta(days=50, hours=3)),
        "patients",
        1,
        True,
    ),
    "baseline": (
        {"kind": "baseline", "column": "patients.died", "of": "visits.pregnant"},
        spoil("visits", "pregnant", 0, False),
        "visits",
        1,
        True,
    ),
    "no overlap": (
        {"kind": "no_overlap", "column": "visits.discharge"},
        spoil("visits", "discharge", 0, START + timedelta(days=11)),
        "visits",
        1,
        True,
    ),
    "implies, static and code": (
        {
            "kind": "implies",
            "if": {"column": "patients.sex", "in": ["F"]},
            "then": {"column": "labs.code", "not_in": ["C61"]},
        },
        spoil("labs", "code", 0, "C61"),
        "labs",
        1,
        True,
    ),
    "implies, prefix": (
        {
            "kind": "implies",
            "if": {"column": "patients.sex", "in": ["M"]},
            "then": {"column": "labs.code", "not_starts_with": ["O"]},
        },
        spoil("labs", "code", 3, "O80"),
        "labs",
        2,
        True,
    ),
    "implies missing": (
        {
            "kind": "implies",
            "if": {"column": "patients.sex", "in": ["M"]},
            "then": {"column": "visits.stage", "in": ["III"]},
        },
        spoil("visits", "stage", 3, "I"),
        "visits",
        2,
        True,
    ),
    "implies, then missing": (
        {
            "kind": "implies",
            "if": {"column": "patients.died", "in": [False]},
            "then": {"column": "patients.death", "missing": True},
        },
        spoil("patients", "death", 1, START + timedelta(days=99)),
        "patients",
        2,
        True,
    ),
    "implies, then present": (
        {
            "kind": "implies",
            "if": {"column": "patients.died", "in": [True]},
            "then": {"column": "patients.death", "missing": False},
        },
        spoil("patients", "death", 0, None),
        "patients",
        1,
        False,
    ),
    "implies, bounds": (
        {
            "kind": "implies",
            "if": {"column": "visits.ward", "in": ["icu"]},
            "then": {"column": "visits.dose", "high": 4},
        },
        spoil("visits", "dose", 0, 4.5),
        "visits",
        1,
        True,
    ),
    "implies, two conditions": (
        {
            "kind": "implies",
            "if": [{"column": "patients.sex", "in": ["F"]}, {"column": "visits.weight", "high": 71}],
            "then": {"column": "labs.value", "high": 5},
        },
        spoil("labs", "value", 0, 6.0),
        "labs",
        1,
        True,
    ),
    "combinations allowed": (
        {
            "kind": "combinations",
            "columns": ["visits.ward", "visits.genotype"],
            "allowed": [["icu", "a"], ["ward", "a"], ["ward", "b"]],
        },
        spoil("visits", "genotype", 0, "b"),
        "visits",
        1,
        True,
    ),
    "combinations forbidden, two tables": (
        {"kind": "combinations", "columns": ["patients.sex", "visits.pregnant"], "forbidden": [["M", True]]},
        spoil("visits", "pregnant", 3, True),
        "visits",
        2,
        True,
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_clean_cohort_keeps_the_rule(name):
    rule = PLANTS[name][0]
    cohort = cohort_of(clinic(*([rule] if rule else [])))
    assert check(cohort) == []
    assert broken_subjects(cohort).is_empty()
    assert repair(cohort, Rng(0)) is cohort


@pytest.mark.parametrize("name", PLANTS)
def test_plant_is_found_where_it_is(name):
    rule, plant, table, subject, _ = PLANTS[name]
    cohort = cohort_of(clinic(*([rule] if rule else [])), plant(tables()))
    found = check(cohort)
    assert found, "the plant was missed"
    assert {v.table for v in found} == {table}
    assert sum(v.count for v in found) == 1
    for violation in found:
        rows = cohort.tables[table]["subject_id"].gather(list(violation.rows)).to_list()
        assert rows == [subject]
        assert 1 <= violation.count <= violation.n <= cohort.tables[table].height
    assert broken_subjects(cohort).to_list() == [subject]


@pytest.mark.parametrize("name", PLANTS)
def test_repair_is_clean_or_names_the_subject(name):
    rule, plant, _, subject, repaired = PLANTS[name]
    cohort = cohort_of(clinic(*([rule] if rule else [])), plant(tables()))
    before = {n: t.clone() for n, t in cohort.tables.items()}
    mended = repair(cohort, Rng(7))
    assert all(before[n].equals(cohort.tables[n]) for n in before), "the input was changed"
    if repaired:
        assert check(mended) == []
    else:
        assert broken_subjects(mended).to_list() == [subject]
    again = Cohort.build(cohort.schema, dict(mended.tables))
    assert all(again.tables[n].equals(mended.tables[n]) for n in before), "not in canonical form"
    other = repair(cohort, Rng(7))
    assert all(other.tables[n].equals(mended.tables[n]) for n in before)
    # the smallest change: other subjects stay as they are
    rest = [s for s in (1, 2, 3) if s != subject]
    for n in before:
        assert mended.select(rest).tables[n].equals(cohort.select(rest).tables[n])


def test_every_kind_has_a_plant():
    implied = {"range", "levels", "decimals", "required", "items", "granularity", "one_row", "unique", "parent"}
    assert {rule["kind"] for rule, *_ in PLANTS.values() if rule} | implied == set(KINDS)


def test_messages_hold_no_value_and_no_id():
    schema = clinic()
    cohort = cohort_of(schema, spoil("visits", "weight", 3, 98765.4)(tables()))
    text = " ".join(map(str, check(cohort))) + " ".join(str(v.to_problem()) for v in check(cohort))
    assert "98765" not in text and "visits.weight" in text and "row 3" in text


def test_dropped_visit_takes_its_events_along():
    rule = {"kind": "nothing_after", "end": "patients.death", "tables": ["visits"]}
    frames = spoil("visits", "time", 1, START + timedelta(days=51))(tables())
    mended = repair(cohort_of(clinic(rule), frames), Rng(0))
    assert 11 not in mended.tables["visits"]["visit_id"].to_list()
    assert mended.tables["labs"].filter(subject_id=1)["visit_id"].to_list() == [10, None]


def test_clipping_lands_on_the_grid_inside_the_bounds():
    # bounds 2.05 .. 300 with one decimal: the smallest value there is 2.1
    mended = repair(cohort_of(clinic(), spoil("visits", "weight", 0, 0.5)(tables())), Rng(0))
    assert mended.tables["visits"]["weight"][0] == pytest.approx(2.1)


@pytest.mark.parametrize("decimals", range(0, 7))
def test_rounded_numbers_are_on_their_grid(decimals):
    rng = np.random.default_rng(decimals)
    table = {"role": "static", "columns": {"x": {"kind": "number", "decimals": decimals}}}
    schema = Schema.model_validate({"name": "s", "tables": {"t": table}})
    x = np.concatenate([rng.normal(0, s, 300) for s in (1, 1e3, 1e6)])
    raw = Cohort.build(schema, {"t": pl.DataFrame({"subject_id": np.arange(900), "x": x})})
    rounded = Cohort.build(schema, {"t": pl.DataFrame({"subject_id": np.arange(900), "x": np.round(x, decimals)})})
    assert check(rounded) == []
    assert check(raw)[0].count > 400
    assert check(repair(raw, Rng(0))) == []


BAD_RULES = {
    "unknown kind": ({"kind": "befor", "first": "a", "then": "b"}, "unknown-rule", 'Did you mean "before"?'),
    "unknown setting": (
        {"kind": "before", "first": "labs.time", "than": "visits.time"},
        "unknown-setting",
        'Did you mean "then"?',
    ),
    "missing setting": ({"kind": "before", "first": "labs.time"}, "missing-setting", "then"),
    "unknown table": ({"kind": "constant", "column": "visit.stage"}, "unknown-table", 'Did you mean "visits"?'),
    "unknown column": ({"kind": "constant", "column": "visits.stag"}, "unknown-column", 'Did you mean "stage"?'),
    "no moment": ({"kind": "before", "first": "visits.weight", "then": "visits.time"}, "wrong-kind", "timestamp"),
    "no number": ({"kind": "range", "column": "visits.stage", "low": 0}, "wrong-kind", "number"),
    "swapped bounds": ({"kind": "range", "column": "visits.dose", "low": 2, "high": 1}, "bad-range", "Swap"),
    "bad type": ({"kind": "range", "column": "visits.dose", "low": "much"}, "bad-setting", "number"),
    "bad direction": ({"kind": "monotone", "column": "visits.dose", "direction": "sideways"}, "bad-setting", "up"),
    "unknown level": ({"kind": "levels", "column": "patients.sex", "levels": ["W"]}, "unknown-level", "F, M"),
    "bad granularity": ({"kind": "granularity", "column": "visits.time", "to": "week"}, "bad-granularity", "day"),
    "empty condition": (
        {"kind": "implies", "if": {"column": "patients.sex"}, "then": {"column": "labs.code", "not_in": ["X"]}},
        "bad-setting",
        "says nothing",
    ),
    "unknown condition": (
        {
            "kind": "implies",
            "if": {"column": "patients.sex", "is": ["M"]},
            "then": {"column": "labs.code", "not_in": ["X"]},
        },
        "unknown-setting",
        "not_in",
    ),
    "condition on words": (
        {
            "kind": "implies",
            "if": {"column": "patients.sex", "low": 1},
            "then": {"column": "labs.code", "not_in": ["X"]},
        },
        "wrong-kind",
        "number",
    ),
    "flag as word": (
        {
            "kind": "implies",
            "if": {"column": "patients.died", "in": ["yes"]},
            "then": {"column": "labs.code", "not_in": ["X"]},
        },
        "wrong-type",
        "flag",
    ),
    "both lists": (
        {"kind": "combinations", "columns": ["visits.ward", "visits.genotype"]},
        "no-list",
        "allowed",
    ),
    "short tuple": (
        {"kind": "combinations", "columns": ["visits.ward", "visits.genotype"], "allowed": [["icu"]]},
        "wrong-length",
        "2",
    ),
    "many to many": (
        {"kind": "combinations", "columns": ["events.code", "labs.code"], "allowed": [["a", "b"]]},
        "many-to-many",
        "many rows",
    ),
    "number without origin": ({"kind": "nothing_after", "end": "patients.followup"}, "no-origin", "origin"),
    "category without levels": (
        {"kind": "nothing_after", "end": "patients.death", "flag": "patients.status"},
        "bad-levels",
        "levels",
    ),
    "not in visits": ({"kind": "inside_visit", "column": "events.time"}, "no-visits", "parent"),
    "no visits to repeat in": (
        {"kind": "no_repeat", "column": "events.code", "within": "visit"},
        "no-visits",
        "subject",
    ),
    "no visits to be constant in": (
        {"kind": "constant", "column": "events.code", "within": "visit"},
        "no-visits",
        "subject",
    ),
    "no moments to be constant in": (
        {"kind": "constant", "column": "patients.sex", "within": "moment"},
        "no-time",
        "subject",
    ),
    "no date": ({"kind": "until", "date": "2020-02-31"}, "bad-date", "2023-12-31"),
    "baseline of a static": (
        {"kind": "baseline", "column": "patients.followup", "of": "patients.followup"},
        "wrong-role",
        "static",
    ),
    "baseline of another kind": (
        {"kind": "baseline", "column": "patients.followup", "of": "visits.stage"},
        "wrong-kind",
        "ordinal",
    ),
    "at most, of two tables": (
        {"kind": "at_most", "column": "patients.followup", "of": "visits.dose"},
        "other-table",
        "one table",
    ),
    "statics do not overlap": ({"kind": "no_overlap", "column": "patients.death"}, "no-time", "visits"),
    "code in a wide table": ({"kind": "monotone", "column": "visits.dose", "code": "K"}, "not-long", "code"),
    "twice in sequence": ({"kind": "order", "column": "events.code", "sequence": ["a", "a"]}, "listed-twice", "once"),
    "items of a wide table": ({"kind": "items", "table": "visits"}, "not-long", "value"),
}


@pytest.mark.parametrize("name", BAD_RULES)
def test_bad_rule_is_refused_with_place_and_help(name):
    rule, code, said = BAD_RULES[name]
    schema = clinic({"kind": "constant", "column": "visits.genotype"}, rule)
    with pytest.raises(SchemaError) as raised:
        compile_rules(schema)
    assert code in {p.code for p in raised.value.problems}
    assert all(p.where.startswith("rules[1]") for p in raised.value.problems)
    assert said in str(raised.value)


def test_all_bad_rules_come_at_once():
    schema = clinic(*(rule for rule, *_ in BAD_RULES.values()))
    assert len({p.where for p in rule_problems(schema)}) == len(BAD_RULES)


def test_empty_cohort_breaks_nothing():
    rules = [rule for rule, *_ in PLANTS.values() if rule]
    cohort = Cohort.build(clinic(*rules), {})
    assert check(cohort) == [] and broken_subjects(cohort).is_empty()
    assert repair(cohort, Rng(0)) is cohort


def test_warnings_are_reported_but_not_drawn_again():
    rule = {"kind": "range", "column": "visits.dose", "high": 5, "severity": "warning"}
    cohort = cohort_of(clinic(rule))
    assert [v.severity for v in check(cohort)] == ["warning"]
    assert broken_subjects(cohort).is_empty()
    assert compile_rules(cohort.schema)[-1].label == "visits.dose is at most 5"


@pytest.mark.parametrize("clock", ["offset", "order"])
def test_rules_about_time_work_on_every_clock(clock):
    def moment(*numbers):
        return [None if d is None else (timedelta(days=d) if clock == "offset" else d) for d in numbers]

    schema = Schema.model_validate(
        {
            "name": "s",
            "clock": clock,
            "tables": {
                "p": {"role": "static", "columns": {"end": {"kind": "number", "unit": "d"}, "dead": {"kind": "flag"}}},
                "v": {"role": "visit", "columns": {"until": {"kind": "timestamp"}}},
                "e": {"role": "event", "parent": "v", "columns": {"x": {"kind": "flag"}}},
            },
            "rules": [
                {"kind": "nothing_after", "end": "p.end", "flag": "p.dead"},
                {"kind": "before", "first": "v.time", "then": "v.until"},
                {"kind": "inside_visit", "column": "e.time", "end": "v.until", "slack_days": 1},
            ],
        }
    )
    frames = {
        "p": pl.DataFrame({"subject_id": [1, 2], "end": [5.0, 5.0], "dead": [True, False]}),
        "v": pl.DataFrame(
            {"subject_id": [1, 1, 2], "visit_id": [1, 2, 3], "time": moment(0, 6, 9), "until": moment(1, 7, 8)}
        ),
        "e": pl.DataFrame({"subject_id": [1, 1], "visit_id": [1, 1], "time": moment(2, 4), "x": [True, True]}),
    }
    cohort = Cohort.build(schema, frames)
    # 1: a visit on day 6 after death on day 5, and a row on day 4 of a visit until day 1 (+ 1); 2: until before time
    assert sorted((v.kind, v.table, v.count) for v in check(cohort)) == [
        ("before", "v", 1),
        ("inside_visit", "e", 1),
        ("nothing_after", "v", 1),
    ]
    assert check(repair(cohort, Rng(0))) == []


def test_two_numbers_in_the_wrong_order_are_exchanged_on_their_own_grids():
    schema = clinic({"kind": "at_most", "column": "visits.n_drugs", "of": "visits.dose"})
    mended = repair(cohort_of(schema, spoil("visits", "n_drugs", 0, 3)(tables())), Rng(0)).tables["visits"]
    assert mended["n_drugs"].to_list() == [2, 3, 4, None] and mended["dose"].to_list() == [3.0, 5.0, None, 7.5]


def test_what_ends_too_late_ends_when_the_next_begins():
    schema = clinic({"kind": "no_overlap", "column": "visits.discharge"})
    mended = repair(cohort_of(schema, spoil("visits", "discharge", 0, START + timedelta(days=11))(tables())), Rng(0))
    assert mended.tables["visits"]["discharge"].to_list() == days(10, 12, None, 6)


def test_rows_of_a_moment_take_its_first_value_and_others_keep_theirs():
    schema = clinic({"kind": "constant", "column": "labs.value", "within": "moment"})
    plant = add("labs", subject_id=1, visit_id=11, time=START + timedelta(days=11), code="K", value=7.0)
    labs = repair(cohort_of(schema, plant(tables())), Rng(0)).tables["labs"]
    assert labs["value"].to_list() == [4.0, 4.5, 4.5, 80.0, None, 1.25]


def test_a_date_is_set_to_the_day_of_the_moment_it_says_again():
    """Patient 1 died at a known moment on day 50; the date is another, or missing; that of patient 2 has no moment."""
    schema = clinic({"kind": "same_day", "column": "patients.birth", "of": "events.time"})
    died = pl.DataFrame({"subject_id": [1], "time": [START + timedelta(days=50, hours=7)], "code": ["death"]})
    for date, broken in ((50, 0), (49, 1), (None, 1)):
        patients = tables()["patients"].with_columns(birth=pl.Series(days(date, 8, None)))
        cohort = cohort_of(schema, tables() | {"patients": patients, "events": died})
        assert [v.count for v in check(cohort)] == [1] * broken
        mended = repair(cohort, Rng(0))
        assert not check(mended) and mended.tables["patients"]["birth"].to_list() == days(50, 8, None)
    twice = pl.concat([died, died.with_columns(pl.col("time") + timedelta(days=3))])
    cohort = cohort_of(schema, tables() | {"events": twice})
    assert broken_subjects(repair(cohort, Rng(0))).to_list() == [1]


def test_no_moment_of_the_day_of_death_comes_after_it():
    """Birth stands for a date that has no time of day."""
    schema = clinic({"kind": "before", "first": "events.time", "then": "patients.birth"})
    patients = tables()["patients"].with_columns(birth=pl.Series(days(30, 8, None)))
    for hours, broken in ((0, 0), (13, 0), (24, 1)):
        events = tables()["events"].with_columns(time=pl.Series(days(0, 4, 30, 8)) + timedelta(hours=hours))
        cohort = cohort_of(schema, tables() | {"patients": patients, "events": events})
        assert [v.count for v in check(cohort)] == [2] * broken
        assert not check(repair(cohort, Rng(0)))


def test_a_stay_that_outlasts_the_data_has_no_end_yet():
    schema = clinic({"kind": "until", "date": "2020-01-12"})
    visits = repair(cohort_of(schema), Rng(0)).tables["visits"]
    assert visits["time"].to_list() == days(0, 10, 5) and visits["discharge"].to_list() == days(2, None, 6)


def test_the_first_known_value_is_that_of_enrolment_and_later_ones_stay():
    """Enrolled with 71.3 and 5.0 (the first dose of patient 2 is 7.5); a first visit without a dose is passed over."""
    schema = clinic({"kind": "baseline", "column": "patients.followup", "of": "visits.dose"})
    patients = tables()["patients"].with_columns(followup=pl.Series([71.3, 5.0, 9.0]))
    visits = tables()["visits"].with_columns(dose=pl.Series([None, 5.0, 2.5, 7.5]))
    cohort = cohort_of(schema, tables() | {"patients": patients, "visits": visits})
    assert [v.count for v in check(cohort)] == [2]
    assert repair(cohort, Rng(0)).tables["visits"]["dose"].to_list() == [None, 71.3, 2.5, 5.0]


def test_the_date_of_death_is_the_end_of_the_stay_that_says_so():
    rule = {"kind": "same_day", "column": "patients.birth", "of": "visits.discharge"}
    schema = clinic(rule | {"flag": "visits.ward", "levels": ["icu"]})
    patients = repair(cohort_of(schema), Rng(0)).tables["patients"]
    assert patients["birth"].to_list() == days(2, -20000, None)
    other = clinic(rule | {"flag": "patients.died"})
    assert {p.code for p in rule_problems(other)} == {"other-table"}
