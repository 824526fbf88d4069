"""Course of illness, death and visits against closed forms."""
# ruff: noqa: E501 (schemas stand as people write them)

import numpy as np
import polars as pl
import pytest

from cohortloom.schema.text import parse_schema
from cohortloom.simulation import simulate, simulate_with_truth

YEAR = 365.25
BASE = """
name = "tiny"
clock = "offset"
[tables.p]
role = "static"
columns.arm = {{ kind = "category", levels = ["a", "b"], missing = false }}
columns.days = {{ kind = "number", missing = false, prior = {{ takes = "follow_up" }} }}
columns.how = {{ kind = "category", levels = ["lost", "dead", "transplant"], missing = false, prior = {{ takes = "status", levels = {{ censored = "lost", death = "dead" }} }} }}
[tables.v]
role = "visit"
parent = "p"
columns.died = {{ kind = "flag", missing = false }}
columns.end = {{ kind = "timestamp", missing = false }}
[simulation]
unit = "d"
resolution = "s"
{simulation}
"""


def schema(simulation: str):
    return parse_schema(BASE.format(simulation=simulation))


def test_survival_follows_the_declared_hazard_and_its_ratio():
    life = """follow_up.length = { mean = 1461, law = "fixed" }
[simulation.course]
states.ill = { start = 1.0, death_rate = 0.2 }
death_effects = { "p.arm" = { b = 0.7 } }"""
    p = simulate(schema(life), 6_000, seed=1).tables["p"]
    for arm, rate in (("a", 0.2), ("b", 0.2 * np.exp(0.7))):
        part = p.filter(pl.col("arm") == arm)
        for years in (1, 2, 3.9):  # nobody is lost before: Kaplan-Meier is the share still followed
            alive = (part["days"] > years * YEAR).mean()
            assert alive == pytest.approx(np.exp(-rate * years), abs=4 * 0.5 / np.sqrt(part.height))
        assert (part["how"] == "dead").sum() / (part["days"].sum() / YEAR) == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize(("law", "shape"), [("exponential", 1), ("weibull", 1.7), ("gamma", 3), ("lognormal", 0.5)])
def test_sojourns_have_their_mean(law, shape):
    life = f"""follow_up.length = {{ mean = 3000, law = "fixed" }}
[simulation.course.states]
well = {{ start = 1.0, stay = {{ mean = 40, law = "{law}", shape = {shape} }}, moves = {{ ill = 1.0 }} }}
ill = {{ stay = {{ mean = 15, law = "fixed" }}, moves = {{ well = 1.0 }} }}"""
    path = simulate_with_truth(schema(life), 200, seed=2)[1].path.filter(pl.col("to") < 2_500)
    length = (path["to"] - path["from"]).rename("x")
    well = length.filter(path["state"] == "well")
    assert well.mean() == pytest.approx(40, abs=4 * well.std() / np.sqrt(well.len()) + 0.6)
    assert length.filter(path["state"] == "ill").max() == pytest.approx(15, abs=1e-6)


def test_moves_and_their_effects_are_recovered():
    life = """follow_up.length = { mean = 100, law = "fixed" }
[simulation.course.states]
well = { start = 1.0, stay = { mean = 10, law = "fixed" }, moves = { x = 3.0, y = 1.0 }, move_effects = { y = { "p.arm" = { b = 1.2 } } } }
x = {}
y = {}"""
    cohort, truth = simulate_with_truth(schema(life), 4_000, seed=3)
    ends = truth.path.group_by("subject_id").agg(pl.col("state").sort_by("from").last()).join(
        cohort.tables["p"], on="subject_id"
    )  # fmt: skip
    odds = {}
    for arm in "ab":
        share = (ends.filter(pl.col("arm") == arm)["state"] == "y").mean()
        odds[arm] = share / (1 - share)
    assert odds["a"] == pytest.approx(1 / 3, rel=0.15)
    assert np.log(odds["b"] / odds["a"]) == pytest.approx(1.2, abs=0.3)


def test_a_terminal_state_ends_follow_up_and_names_the_status():
    life = """follow_up.length = { mean = 1000, law = "fixed" }
[simulation.course.states]
ill = { start = 1.0, stay = { mean = 300 }, moves = { transplant = 1.0 }, death_rate = 0.3 }
transplant = { terminal = true }"""
    cohort, truth = simulate_with_truth(schema(life), 3_000, seed=4)
    p = cohort.tables["p"]
    assert (p.filter(pl.col("how") == "lost")["days"] > 999.9).all()
    # competing exponential risks: transplants against deaths as their rates
    counts = {row["how"]: row["count"] for row in p["how"].value_counts().to_dicts()}
    assert counts["transplant"] / counts["dead"] == pytest.approx(YEAR / 300 / 0.3, rel=0.2)
    assert (truth.patients["terminal"].is_not_null() == (p["how"] == "transplant")).all()


def test_visit_rates_have_the_declared_ratio_and_level():
    life = """follow_up.length = { mean = 1000, law = "fixed" }
visits.x = { every = 50, effects = { "p.arm" = { b = 0.6 } }, frailty = 0.5 }
course.states.well = { start = 1.0 }"""
    cohort = simulate(schema(life), 4_000, seed=5)
    counts = cohort.tables["v"].group_by("subject_id").len()
    p = cohort.tables["p"].join(counts, on="subject_id", how="left").with_columns(pl.col("len").fill_null(0))
    a, b = (p.filter(pl.col("arm") == x)["len"] for x in "ab")
    assert a.mean() == pytest.approx(20, rel=0.06)  # frailty keeps the mean
    assert np.log(b.mean() / a.mean()) == pytest.approx(0.6, abs=0.07)
    # Poisson with log-normal rate: variance = mean + mean^2 (exp(sd^2) - 1)
    assert a.var() == pytest.approx(20 + 400 * (np.exp(0.25) - 1), rel=0.25)


def test_visits_come_faster_in_a_state_that_says_so():
    life = """follow_up.length = { mean = 400, law = "fixed" }
visits.x = { every = 20, effects = { state = { ill = 1.0 } } }
[simulation.course.states]
well = { start = 1.0, stay = { mean = 30 }, moves = { ill = 1.0 } }
ill = { stay = { mean = 30 }, moves = { well = 1.0 } }"""
    truth = simulate_with_truth(schema(life), 1_000, seed=6)[1]
    time = {s: (x["to"] - x["from"]).sum() for (s,), x in truth.path.group_by("state")}
    seen = {s: x.height for (s,), x in truth.moments.group_by("state")}
    rate = {s: seen[s] / time[s] for s in time}
    assert rate["well"] == pytest.approx(1 / 20, rel=0.06)
    assert np.log(rate["ill"] / rate["well"]) == pytest.approx(1.0, abs=0.06)


def test_regular_gaps_have_the_gamma_spread():
    life = (
        'follow_up.length = { mean = 2000, law = "fixed" }\nvisits.x = { every = 30, regularity = 9, at_start = 1.0 }'
    )
    visits = simulate(schema(life), 300, seed=7).tables["v"]
    gap = visits.select(pl.col("time").diff().over("subject_id").dt.total_seconds() / 86400)["time"].drop_nulls()
    assert gap.mean() == pytest.approx(30, rel=0.02)
    assert gap.std() / gap.mean() == pytest.approx(1 / 3, rel=0.05)


def test_entering_a_state_brings_a_visit_and_ties_are_kept():
    life = """follow_up.length = { mean = 300, law = "fixed" }
visits.x = { on_entry = { ill = 1.0 }, repeat = 0.5 }
[simulation.course.states]
well = { start = 1.0, stay = { mean = 50 }, moves = { ill = 1.0 } }
ill = { stay = { mean = 10 }, moves = { well = 1.0 } }"""
    cohort, truth = simulate_with_truth(schema(life), 300, seed=8)
    entries = truth.path.filter(pl.col("state") == "ill").height
    visits = cohort.tables["v"]
    assert visits.select("subject_id", "time").unique().height == entries
    assert visits.height / entries == pytest.approx(1.5, abs=0.1)  # gaps of zero are real gaps


def test_death_in_a_visit_ends_it_and_follow_up():
    life = """follow_up.length = { mean = 1461, law = "fixed" }
visits.x = { every = 100, at_death = 0.6, stay = { mean = 5 } }
course.states.ill = { start = 1.0, death_rate = 0.3 }"""
    cohort, truth = simulate_with_truth(schema(life), 2_000, seed=9)
    dead = truth.patients.drop_nulls("death")
    inside = cohort.tables["v"].filter("died").join(dead, on="subject_id")
    late = inside["end"].dt.total_seconds() / 86400 - inside["death"]
    assert late.abs().max() < 2 / 86400
    assert inside["subject_id"].n_unique() / dead.height == pytest.approx(0.6, abs=0.09)
    ends = cohort.tables["v"].join(truth.patients, on="subject_id", suffix="_fu")
    assert (ends["end"].dt.total_seconds() / 86400 <= ends["end_fu"] + 1e-6).all()
