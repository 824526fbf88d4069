"""Laws against closed forms. Tolerances are about four standard errors at the n used."""
# ruff: noqa: E501 (schemas stand as people write them)

import numpy as np
import polars as pl
import pytest

from cohortloom.schema.text import parse_schema
from cohortloom.simulation import simulate, simulate_with_truth

BASE = """
name = "tiny"
clock = "offset"
[tables.p]
role = "static"
columns.sex = {{ kind = "category", levels = ["F", "M"], missing = false, prior = {{ weights = {{ F = 0.3, M = 0.7 }} }} }}
columns.size = {{ kind = "number", missing = false, prior = {{ typical = 10, sd = 2, noise = 0 }} }}
columns.mark = {{ kind = "number", missing = false, prior = {{ typical = 0, sd = 1, noise = 0 }} }}
columns.smoker = {{ kind = "flag", missing = false, prior = {{ chance = 0.3, effects = {{ "p.sex" = {{ M = 0.8 }} }} }} }}
[tables.v]
role = "visit"
parent = "p"
{columns}
[simulation]
unit = "d"
resolution = "s"
correlations = [["p.size", "p.mark", 0.6], ["p.size", "v.a", -0.5]]
{simulation}
"""
PLAIN = 'columns.a = { kind = "number", missing = false, prior = { typical = 5, sd = 2, between = 1, noise = 0 } }'


def schema(columns: str = PLAIN, simulation: str = ""):
    return parse_schema(BASE.format(columns=columns, simulation=simulation))


def test_statics_keep_their_declared_correlation_and_moments():
    p = simulate(schema(), 8_000, seed=1).tables["p"]
    assert np.corrcoef(p["size"], p["mark"])[0, 1] == pytest.approx(0.6, abs=4 * (1 - 0.36) / np.sqrt(8_000))
    assert p["size"].mean() == pytest.approx(10, abs=4 * 2 / np.sqrt(8_000))
    assert p["size"].std() == pytest.approx(2, rel=0.04)


def test_level_weights_and_odds_ratio_of_a_flag_are_recovered():
    p = simulate(schema(), 20_000, seed=2).tables["p"]
    assert (p["sex"] == "M").mean() == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 20_000))
    women, men = (p.filter(pl.col("sex") == s)["smoker"].mean() for s in "FM")
    assert women == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 6_000))
    assert np.log(men / (1 - men) * (1 - women) / women) == pytest.approx(0.8, abs=0.14)


def test_a_static_correlates_with_a_timed_variables_own_level():
    cohort = simulate(schema(simulation="visits.x = { at_start = 1.0 }"), 8_000, seed=3)
    both = cohort.tables["v"].join(cohort.tables["p"], on="subject_id")
    assert np.corrcoef(both["size"], both["a"])[0, 1] == pytest.approx(-0.5, abs=4 * 0.75 / np.sqrt(8_000))


def test_the_process_has_autocorrelation_exp_minus_gap_over_memory():
    columns = 'columns.a = { kind = "number", prior = { typical = 0, sd = 1, between = 0.3, noise = 0.2, memory = 40, missing = 0 } }'
    life = 'visits.x = { every = 20, at_start = 1.0 }\nfollow_up.length = { mean = 400, law = "fixed" }'
    truth = simulate_with_truth(schema(columns, life), 3_000, seed=4)[1].moments
    pairs = truth.with_columns(
        gap=pl.col("time").diff().over("subject_id"), before=pl.col("v.a").shift(1).over("subject_id")
    ).drop_nulls()
    for low, high in ((0, 5), (20, 30), (60, 90)):
        part = pairs.filter(pl.col("gap").is_between(low, high))
        # true values: between .3 and within .5 of a variance of 1; noise is not in them
        expected = (0.3 + 0.5 * np.exp(-part["gap"].to_numpy() / 40)).mean() / 0.8
        assert np.corrcoef(part["v.a"], part["before"])[0, 1] == pytest.approx(expected, abs=5 / np.sqrt(part.height))


def test_measurement_noise_has_its_share_of_the_variance():
    columns = 'columns.a = { kind = "number", prior = { typical = 0, sd = 3, noise = 0.25, missing = 0 } }'
    cohort, truth = simulate_with_truth(schema(columns, "visits.x = { at_start = 1.0 }"), 6_000, seed=5)
    error = cohort.tables["v"]["a"] - truth.moments["v.a"]
    assert error.var() == pytest.approx(0.25 * 9, rel=0.08)


def test_processes_of_equal_memory_keep_their_cross_correlation():
    columns = "\n".join(
        f'columns.{c} = {{ kind = "number", prior = {{ typical = 0, sd = 1, between = 0, noise = 0, memory = 30, missing = 0 }} }}'
        for c in "ab"
    )
    text = BASE.format(columns=columns, simulation="visits.x = { every = 15, at_start = 1.0 }")
    text = text.replace('["p.size", "v.a", -0.5]', '["v.a", "v.b", 0.7]')
    visits = simulate(parse_schema(text), 400, seed=6).tables["v"]
    last = visits.group_by("subject_id", maintain_order=True).last()
    assert np.corrcoef(visits["a"], visits["b"])[0, 1] == pytest.approx(0.7, abs=0.03)
    assert np.corrcoef(last["a"], last["b"])[0, 1] == pytest.approx(0.7, abs=4 * 0.51 / 20)


def test_missingness_has_the_declared_log_odds():
    columns = """columns.a = { kind = "number", prior = { typical = 0, sd = 1, missing = 0.2, missing_effects = { "p.sex" = { M = 1.0 } } } }
columns.b = { kind = "number", prior = { typical = 0, sd = 1, noise = 0, between = 1, missing = 0.3, missing_effects = { self = 1.5 } } }"""
    cohort, truth = simulate_with_truth(schema(columns, "visits.x = { at_start = 1.0 }"), 20_000, seed=7)
    v = cohort.tables["v"].join(cohort.tables["p"], on="subject_id")
    women, men = (v.filter(pl.col("sex") == s)["a"].is_null().mean() for s in "FM")
    assert women == pytest.approx(0.2, abs=0.02)
    assert men == pytest.approx(1 / (1 + 4 * np.exp(-1.0)), abs=0.016)
    hidden, high = cohort.tables["v"]["b"].is_null(), truth.moments["v.b"].is_between(0.9, 1.1)
    assert hidden.filter(high).mean() == pytest.approx(1 / (1 + 0.7 / 0.3 * np.exp(-1.5)), abs=0.06)


def test_counts_have_the_declared_mean():
    columns = 'columns.a = { kind = "count", missing = false, prior = { typical = 3, sd = 0.6 } }'
    visits = simulate(schema(columns, "visits.x = { at_start = 1.0 }"), 8_000, seed=8).tables["v"]
    within = 9 * (np.exp(0.36) - 1)  # variance of the log-normal mean
    assert visits["a"].mean() == pytest.approx(3, abs=4 * np.sqrt((3 + within) / 8_000))


def test_at_most_keeps_one_column_below_another():
    columns = """columns.a = { kind = "number", decimals = 0, prior = { typical = 120, sd = 20 } }
columns.b = { kind = "number", decimals = 0, prior = { typical = 110, sd = 20, at_most = { "v.a" = -15 } } }"""
    v = simulate(schema(columns, "visits.x = { at_start = 1.0 }"), 3_000, seed=9).tables["v"].drop_nulls()
    assert (v["a"] - v["b"]).min() == 15


def test_a_treatment_moves_what_it_is_said_to_move():
    life = "visits.x = { every = 30, at_start = 1.0 }\ntreatments.drug = { initial = 0.5, start = 0.2, stop = 0.2 }"
    columns = 'columns.a = { kind = "number", prior = { typical = 70, sd = 5, effects = { "treatment.drug" = -8 } } }'
    truth = simulate_with_truth(schema(columns, life), 500, seed=10)[1].moments
    on, off = (truth.filter(pl.col("treatment.drug") == x)["v.a"] for x in (True, False))
    assert on.mean() - off.mean() == pytest.approx(-8, abs=0.5)


def test_a_treatment_stops_where_its_limit_is_passed():
    life = """visits.x = { every = 30, at_start = 1.0 }
treatments.drug = { initial = 0.5, start = 0.3, stop = 0.1, avoid_above = { "v.a" = 6 } }"""
    columns = 'columns.a = { kind = "number", missing = false, prior = { typical = 5, sd = 1 } }'
    cohort, truth = simulate_with_truth(schema(columns, life), 300, seed=11)
    seen = cohort.tables["v"].with_columns(
        next=pl.Series(truth.moments["treatment.drug"]).shift(-1), last=pl.col("subject_id") != pl.col("subject_id").shift(-1)
    ).filter(~pl.col("last"))  # fmt: skip
    assert seen.filter(pl.col("a") > 6)["next"].sum() == 0
    assert seen.filter(pl.col("a") <= 6)["next"].mean() > 0.3
