"""Any sound schema simulates: right form, rules kept, same bytes, odd sizes."""
# ruff: noqa: E501 (schemas stand as people write them)

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohortloom.errors import SamplingError, SchemaError, SettingsError
from cohortloom.rules import check
from cohortloom.schema import Number, Schema, Table, Timestamp
from cohortloom.schema.text import parse_schema, read_schema
from cohortloom.simulation import simulate, simulate_with_truth

COMMITTED = ("heart_failure_clinic", "heart_failure_ecg", "icu_48h", "pbc", "mimic_iv_demo", "diabetes_encounters")


def same(a, b) -> bool:
    return all(a.tables[name].equals(b.tables[name]) for name in a.schema.tables)


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_schemas_simulate_and_keep_their_rules(name, schema_dir):
    cohort = simulate(read_schema(schema_dir / f"{name}.toml"), 120, seed=1)
    assert cohort.n_subjects == 120
    assert check(cohort) == []
    assert all(frame.height for frame in cohort.tables.values())
    assert cohort.origin.kind == "synthetic"
    assert cohort.origin.seed == 1


@pytest.mark.parametrize("name", COMMITTED)
@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one_patient(name, n, schema_dir):
    schema = read_schema(schema_dir / f"{name}.toml")
    cohort, truth = simulate_with_truth(schema, n, seed=3)
    assert cohort.n_subjects == n
    assert truth.patients.height == n


def test_worker_count_changes_no_byte(schema_dir, monkeypatch):
    schema = read_schema(schema_dir / "heart_failure_clinic.toml")
    one = simulate(schema, 1_100, seed=5)
    assert same(one, simulate(schema, 1_100, seed=5, workers=2))
    assert not same(one, simulate(schema, 1_100, seed=6))


def test_the_first_shard_does_not_depend_on_how_many_follow(schema_dir):
    schema = read_schema(schema_dir / "heart_failure_clinic.toml")
    small, large = simulate(schema, 1_000, seed=5), simulate(schema, 1_030, seed=5)
    assert small.tables["labs"].equals(large.select(range(1, 1_001)).tables["labs"])


def test_truth_changes_nothing_and_fits_the_cohort(schema_dir):
    schema = read_schema(schema_dir / "heart_failure_clinic.toml")
    cohort, truth = simulate_with_truth(schema, 80, seed=2)
    assert same(cohort, simulate(schema, 80, seed=2))
    assert set(truth.moments["visit_id"]) == set(cohort.tables["visits"]["visit_id"])
    dead = cohort.tables["patients"].filter("died")["subject_id"].to_list()
    assert truth.patients.drop_nulls("death")["subject_id"].to_list() == dead
    seen = cohort.tables["visits"].join(truth.moments.unique("visit_id", keep="first"), on="visit_id")
    assert np.abs(seen["weight"] - seen["visits.weight"]).drop_nulls().median() < 2  # scale noise, kg


def test_global_random_state_is_not_touched(schema_dir):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate(read_schema(schema_dir / "pbc.toml"), 5, seed=1)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_nothing_happens_after_death(schema_dir):
    cohort, truth = simulate_with_truth(read_schema(schema_dir / "heart_failure_clinic.toml"), 400, seed=4)
    dead = truth.patients.drop_nulls("death").select(
        "subject_id", last=pl.from_epoch(((pl.col("start") + pl.col("death")) * 86_400e6).cast(pl.Int64), "us")
    )
    for name in ("visits", "labs", "medications", "diagnoses"):
        both = cohort.tables[name].join(dead, on="subject_id")
        assert both.height
        assert (both["time"] <= both["last"]).all()


def test_planned_visits_lie_in_working_hours(schema_dir):
    visits = simulate(read_schema(schema_dir / "heart_failure_clinic.toml"), 100, seed=4).tables["visits"]
    planned = visits.filter(pl.col("kind") == "planned")["time"]
    assert planned.dt.weekday().max() <= 5
    assert planned.dt.hour().is_between(8, 15).all()
    acute = visits.filter(pl.col("kind") == "acute")["time"]
    assert acute.dt.weekday().max() == 7


def test_codes_limited_by_sex_never_cross(schema_dir):
    cohort = simulate(read_schema(schema_dir / "heart_failure_clinic.toml"), 600, seed=4)
    codes = cohort.tables["diagnoses"].join(cohort.tables["patients"].select("subject_id", "sex"), on="subject_id")
    assert set(codes.filter(pl.col("icd") == "N40")["sex"]) == {"M"}
    assert set(codes.filter(pl.col("icd") == "N95.1")["sex"]) == {"F"}


def test_a_chronic_code_never_comes_before_its_onset():
    schema = parse_schema("""
name = "x"
clock = "offset"
[tables.p]
role = "static"
columns.sex = { kind = "category", levels = ["F", "M"] }
[tables.d]
role = "event"
parent = "p"
columns.icd = { kind = "code", levels = ["A"], missing = false, prior = { codes.A = { chance = 0.0, chronic = true, incidence = 0.4 } } }
[simulation]
visits.x = { every = 20, at_start = 1.0, regularity = 9 }
follow_up.length = { mean = 730.5, law = "fixed" }
""")
    cohort = simulate(schema, 2_000, seed=1)
    first = cohort.tables["d"].group_by("subject_id").agg(pl.col("time").min())
    assert first.height / 2_000 == pytest.approx(1 - np.exp(-0.8), abs=0.05)  # two years at 0.4 a year


def test_more_patients_than_a_shard_have_distinct_ids(schema_dir):
    cohort = simulate(read_schema(schema_dir / "pbc.toml"), 1_500, seed=1)
    assert cohort.subjects.to_list() == list(range(1, 1_501))
    assert cohort.tables["visits"]["visit_id"].is_unique().all()


ODD = {
    "no visits, events only": """
clock = "timestamp"
[tables.e]
role = "event"
columns.x = { kind = "number", low = 1, high = 1000 }
columns.k = { kind = "category", levels = ["a"] }
""",
    "order clock with events of visits": """
clock = "order"
[tables.v]
role = "visit"
columns.f = { kind = "flag" }
[tables.e]
role = "event"
parent = "v"
code = "c"
value = "y"
columns.c = { kind = "code", items = { a = { low = 1, high = 5, decimals = 1 }, b = {} } }
columns.y = { kind = "number" }
""",
    "statics alone": """
clock = "timestamp"
[tables.p]
role = "static"
columns.birth_date = { kind = "timestamp", granularity = "year" }
columns.death_date = { kind = "timestamp", granularity = "month" }
columns.name = { kind = "identifier" }
columns.children = { kind = "count", high = 3 }
columns.age = { kind = "count", low = 40, high = 45, missing = false }
""",
    "a grid": """
clock = "offset"
[tables.v]
role = "visit"
columns.x = { kind = "number", low = 0, high = 1, decimals = 2 }
source = { file = "x.csv", time = "t", grid = { every = "15min" } }
""",
    "open codes, untimed events, constant and point columns": """
clock = "offset"
[tables.v]
role = "visit"
columns.left = { kind = "timestamp", granularity = "hour" }
columns.point = { kind = "number", low = 2, high = 2 }
columns.one = { kind = "ordinal", levels = ["only"] }
[tables.d]
role = "event"
parent = "v"
timed = false
code = "c"
columns.c = { kind = "code" }
[tables.o]
role = "event"
columns.drug = { kind = "code", system = "ATC" }
columns.stop = { kind = "timestamp" }
columns.note = { kind = "identifier" }
""",
    "priors that meet nobody": """
clock = "offset"
[tables.p]
role = "static"
columns.a = { kind = "flag" }
[tables.v]
role = "visit"
columns.a = { kind = "flag" }
[simulation]
no_visit = 1.0
""",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_schemas_simulate_and_keep_their_rules(text):
    schema = parse_schema('name = "odd"\n' + text)
    cohort, truth = simulate_with_truth(schema, 70, seed=2)
    assert cohort.n_subjects == truth.patients.height == 70
    assert check(cohort) == []


def test_a_grid_gives_one_row_per_bin():
    cohort = simulate(parse_schema('name = "g"\n' + ODD["a grid"]), 20, seed=1)
    ticks = cohort.tables["v"]["time"].dt.total_seconds()
    assert (ticks % 900 == 0).all()
    assert cohort.tables["v"].select("subject_id", "time").is_unique().all()


def test_age_and_birth_agree():
    cohort = simulate(parse_schema('name = "s"\n' + ODD["statics alone"].replace('"year"', '"day"')), 200, seed=1)
    assert cohort.tables["p"]["age"].is_between(40, 45).all()


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_drawn_schema_simulates(data):
    strategies = pytest.importorskip("cohortloom.testing.strategies")
    schema = data.draw(strategies.schemas()).model_copy(update={"rules": (), "signals": {}})
    cohort = simulate(schema, 12, seed=data.draw(st.integers(0, 99)))
    assert cohort.n_subjects == 12
    assert check(cohort) == []


WRONG = {
    "unknown-source": 'columns.x = { kind = "number", prior = { effects = { "p.agee" = 1.0 } } }',
    "effect-without-level": 'columns.x = { kind = "number", prior = { effects = { "p.sex" = 1.0 } } }',
    "unknown-level": 'columns.x = { kind = "number", prior = { effects = { "p.sex" = { X = 1.0 } } } }',
    "effect-by-level": 'columns.x = { kind = "number", prior = { effects = { age = { X = 1.0 } } } }',
    "circular-prior": 'columns.x = { kind = "flag", prior = { effects = { "v.y" = 1 } } }\n'
    'columns.y = { kind = "flag", prior = { effects = { "v.x" = 1 } } }',
}


@pytest.mark.parametrize("code", WRONG)
def test_priors_that_name_what_is_not_there_are_refused(code):
    text = f"""
name = "w"
clock = "offset"
[tables.p]
role = "static"
columns.sex = {{ kind = "category", levels = ["F", "M"] }}
[tables.v]
role = "visit"
{WRONG[code]}
"""
    with pytest.raises(SchemaError) as error:
        simulate(parse_schema(text), 5, seed=1)
    assert [p.code for p in error.value.problems] == [code]


def test_a_negative_number_of_patients_is_refused(schema_dir):
    with pytest.raises(SettingsError):
        simulate(read_schema(schema_dir / "pbc.toml"), -1, seed=1)


CHILDREN = """
name = "children"
clock = "timestamp"
[tables.patients]
role = "static"
columns.born = { kind = "timestamp", granularity = "day", missing = false, prior = { takes = "birth" } }
columns.gestational_age = { kind = "number", unit = "wk", low = 23, high = 43, decimals = 0, missing = false }
columns.year = { kind = "count", low = 1990, high = 2020, missing = false }
columns.operation = { kind = "timestamp" }
columns.referral = { kind = "timestamp", missing = false }
columns.discharge = { kind = "timestamp" }
[tables.visits]
role = "visit"
columns.age_months = { kind = "number", unit = "mo", low = 0, high = 216, decimals = 1, missing = false }
columns.nth = { kind = "count", low = 1, high = 60, missing = false }
[[rules]]
kind = "monotone"
column = "visits.nth"
strict = true
[[rules]]
kind = "before"
first = "visits.time"
then = "patients.discharge"
"""


def test_defaults_tell_one_story_of_children():
    """Without a prior: ages at visits follow the date of birth, weeks of pregnancy are nobody's age, a count between
    bounds is no Poisson at its lower one, visits are numbered, and dates stand where bounds and rules put them."""
    cohort = simulate(parse_schema(CHILDREN), 300, seed=1)
    patients, visits = (
        cohort.tables["patients"],
        cohort.tables["visits"].join(cohort.tables["patients"], on="subject_id"),
    )
    months = (visits["time"] - visits["born"]).dt.total_days() / 30.4375
    grown = visits["age_months"] == 216  # held by the bound
    assert (months - visits["age_months"]).filter(~grown).abs().max() < 0.2 and grown.mean() < 0.15
    assert 100 < visits["age_months"].mean() < 180
    assert abs(patients["gestational_age"].mean() - 33) < 1
    assert 2000 < patients["year"].mean() < 2010 and patients["year"].n_unique() > 10
    assert visits["nth"].equals(
        visits.select(pl.int_range(1, pl.len() + 1).over("subject_id")).to_series().alias("nth")
    )
    first, last = (visits.group_by("subject_id").agg(getattr(pl.col("time"), f)()) for f in ("min", "max"))
    assert (
        patients.join(first, on="subject_id")
        .filter((pl.col("referral") - pl.col("time")).abs() > pl.duration(days=1))
        .is_empty()
    )
    late = patients.join(last, on="subject_id").filter(pl.col("discharge") < pl.col("time"))
    assert late.is_empty() and first["time"].n_unique() > 290  # not all visits squeezed into one date
    assert 0.4 < patients["operation"].is_null().mean() < 0.6
    assert patients.filter(pl.col("operation") < pl.col("referral").dt.truncate("1d")).is_empty()


def test_a_rule_that_no_draw_keeps_is_named():
    text = CHILDREN + '[[rules]]\nkind = "range"\ncolumn = "patients.gestational_age"\nlow = 42.5\nhigh = 42.6\n'
    with pytest.raises(SamplingError, match=r"patients.gestational_age.*rows"):
        simulate(parse_schema(text), 20, seed=1)


def test_a_date_of_death_that_everyone_has_is_the_end_of_follow_up():
    schema = Schema(
        name="deaths",
        clock="timestamp",
        tables={
            "death": Table(role="static", columns={"death_date": Timestamp(granularity="day", missing=False)}),
            "visits": Table(role="visit", columns={"x": Number(unit="1", low=0, high=9)}),
        },
    )
    cohort = simulate(schema, 300, seed=0)
    last = cohort.tables["visits"].group_by("subject_id").agg(pl.col("time").max().dt.truncate("1d"))
    both = cohort.tables["death"].join(last, on="subject_id")
    assert both.height == 300 and (both["death_date"] >= both["time"]).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_laboratory_rows_lie_inside_their_stays(schema_dir, seed):
    """Also where an admission that ends in death begins as a visit does: nothing is left of that visit."""
    from cohortloom.schema.text import read_schema

    drawn = simulate(read_schema(schema_dir / "heart_failure_clinic.toml"), 300, seed=seed)
    visits = drawn.tables["visits"].select("visit_id", "end", begin="time")
    labs = drawn.tables["labs"].join(visits, on="visit_id")
    assert labs.height > 1000
    assert labs.filter((pl.col("time") < pl.col("begin")) | (pl.col("time") > pl.col("end"))).is_empty()
