"""Repair of cohorts with many faults at once, and the page that documents the rules."""

import re
import tomllib
from datetime import timedelta
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.rules import KINDS, broken_subjects, check, repair
from cohortloom.schema import Schema

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "rules.md"

SCHEMA = Schema.model_validate(
    {
        "name": "s",
        "clock": "offset",
        "tables": {
            "p": {
                "role": "static",
                "columns": {"sex": {"kind": "category", "levels": ["F", "M"]}, "end": {"kind": "timestamp"}},
            },
            "v": {
                "role": "visit",
                "columns": {
                    "x": {"kind": "number", "low": 0.05, "high": 9.95, "decimals": 1},
                    "n": {"kind": "count", "low": 1, "high": 5},
                    "until": {"kind": "timestamp"},
                },
            },
            "e": {"role": "event", "parent": "v", "code": "c", "columns": {"c": {"kind": "code"}}},
        },
        "rules": [
            {"kind": "nothing_after", "end": "p.end"},
            {"kind": "before", "first": "v.time", "then": "v.until"},
            {"kind": "inside_visit", "column": "e.time"},
            {"kind": "monotone", "column": "v.n"},
            {"kind": "no_repeat", "column": "e.c", "levels": ["once"]},
            {"kind": "order", "column": "e.c", "sequence": ["a", "b", "c"]},
            {"kind": "implies", "if": {"column": "p.sex", "in": ["M"]}, "then": {"column": "e.c", "not_in": ["f"]}},
            {"kind": "implies", "if": {"column": "v.n", "high": 1}, "then": {"column": "v.x", "high": 5}},
        ],
    }
)

moments = st.none() | st.integers(-3, 12).map(lambda d: timedelta(days=d))
numbers = st.none() | st.floats(-20, 20) | st.sampled_from([float("nan"), float("inf"), float("-inf")])
visits = st.fixed_dictionaries(
    {"subject_id": st.integers(1, 4), "visit_id": st.integers(0, 6), "time": moments, "x": numbers}
    | {"n": st.none() | st.integers(-2, 9), "until": moments}
)
events = st.fixed_dictionaries(
    {"subject_id": st.integers(1, 4), "visit_id": st.none() | st.integers(0, 6), "time": moments}
    | {"c": st.none() | st.sampled_from(["once", "a", "b", "c", "f", "other"])}
)
statics = st.fixed_dictionaries(
    {"subject_id": st.integers(1, 4), "sex": st.sampled_from(["F", "M", "X", None]), "end": moments}
)
TYPES = {
    "p": {"subject_id": pl.Int64, "sex": pl.String, "end": pl.Duration("us")},
    "v": {"subject_id": pl.Int64, "visit_id": pl.Int64, "time": pl.Duration("us"), "x": pl.Float64}
    | {"n": pl.Int64, "until": pl.Duration("us")},
    "e": {"subject_id": pl.Int64, "visit_id": pl.Int64, "time": pl.Duration("us"), "c": pl.String},
}


@settings(max_examples=120, deadline=None)
@given(st.lists(statics, max_size=5), st.lists(visits, max_size=8), st.lists(events, max_size=10))
def test_any_mess_is_clean_after_repair(p, v, e):
    rows = {"p": p, "v": v, "e": e}
    cohort = Cohort.build(SCHEMA, {name: pl.DataFrame(rows[name], schema=TYPES[name]) for name in rows})
    mended = repair(cohort, Rng(0))
    assert [str(found) for found in check(mended)] == []
    assert broken_subjects(mended).is_empty()
    assert repair(mended, Rng(1)) is mended
    # nothing is invented: no subject, no row
    assert set(mended.subjects) <= set(cohort.subjects)
    assert all(mended.tables[n].height <= cohort.tables[n].height for n in rows)
    # and who broke nothing stays as he was
    sound = cohort.subjects.filter(~cohort.subjects.is_in(broken_subjects(cohort).implode()))
    for name in rows:
        assert mended.select(sound).tables[name].equals(cohort.select(sound).tables[name])


def test_every_kind_is_documented_by_an_example_that_reads():
    shown = set()
    for block in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S):
        for rule in tomllib.loads(block)["rules"]:
            kind = rule.pop("kind")
            KINDS[kind].model_validate(rule)
            shown.add(kind)
    written = {kind for kind, rule in KINDS.items() if rule.__module__ != "cohortloom.rules.waveform"}
    assert written <= shown


def test_a_course_that_outlasts_its_end_is_cut_there_and_does_not_pile_up():
    """Visits and what hangs on them on days 0, 10, ..., 50; born on day 15 and dead on day 32: the nearest moments move
    to these days, those beyond are dropped."""
    schema = Schema.model_validate(
        {
            "name": "s",
            "clock": "offset",
            "tables": {
                "p": {"role": "static", "columns": {"birth": {"kind": "timestamp"}, "death": {"kind": "timestamp"}}},
                "v": {"role": "visit", "columns": {"n": {"kind": "count"}}},
                "e": {"role": "event", "parent": "v", "columns": {"n": {"kind": "count"}}},
            },
            "rules": [
                {"kind": "before", "first": "p.birth", "then": "v.time"},
                {"kind": "before", "first": "v.time", "then": "p.death"},
                {"kind": "before", "first": "e.time", "then": "p.death"},
                {"kind": "before", "first": "p.birth", "then": "e.time"},
            ],
        }
    )
    day = timedelta(days=1)
    birth, death = [15 * day, None], [32 * day, None]
    patients = pl.DataFrame(
        {"subject_id": [1, 2], "birth": birth, "death": death}, schema_overrides={"birth": pl.Duration}
    )
    time = [k * 10 * day for k in range(6)] * 2
    visits = pl.DataFrame({"subject_id": [1] * 6 + [2] * 6, "visit_id": range(12), "time": time, "n": [*range(6)] * 2})
    cohort = Cohort.build(schema, {"p": patients, "v": visits, "e": visits})
    mended = repair(cohort, Rng(0))
    assert not check(mended)
    for name in ("v", "e"):
        mine = mended.tables[name].filter(pl.col("subject_id") == 1)
        assert mine["n"].to_list() == [1, 2, 3, 4]
        assert mine["time"].to_list() == [15 * day, 20 * day, 30 * day, 32 * day]
        assert mended.tables[name].filter(pl.col("subject_id") == 2).height == 6
