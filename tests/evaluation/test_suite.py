"""The suite as a whole: messy cohorts, determinism, choices, errors."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from clinic import clinic

from cohortloom.cohort import Cohort
from cohortloom.errors import DataError, SettingsError
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.suite import MEASURES
from cohortloom.evaluation.verdict import verdict
from cohortloom.report import Goal, Score
from cohortloom.schema import Number, Schema, Table

ORDER = Schema.model_validate(
    {
        "name": "order",
        "clock": "order",
        "tables": {
            "p": {"role": "static", "columns": {"x": {"kind": "number"}, "born": {"kind": "timestamp"}}},
            "e": {
                "role": "event",
                "columns": {
                    "v": {"kind": "number"},
                    "k": {"kind": "category", "levels": ["a", "b"]},
                    "c": {"kind": "code"},
                },
            },
            "u": {"role": "event", "timed": False, "columns": {"w": {"kind": "count"}, "f": {"kind": "flag"}}},
        },
    }
)
STATICS = Schema.model_validate(
    {
        "name": "statics",
        "tables": {
            "p": {
                "role": "static",
                "columns": {
                    "x": {"kind": "number"},
                    "k": {"kind": "category", "levels": ["a", "b"]},
                    "d": {"kind": "timestamp"},
                    "i": {"kind": "identifier"},
                },
            }
        },
    }
)


def changed(cohort, **tables):
    return Cohort.build(cohort.schema, {**cohort.tables, **tables})


def without_visits(c):
    return changed(c, visits=c.tables["visits"].head(0), events=c.tables["events"].head(0))


def all_missing(c):
    columns = ["creatinine", "weight", "pressure", "state", "edema"]
    visits = c.tables["visits"].with_columns(pl.lit(None).alias(x) for x in columns)
    patients = c.tables["patients"].with_columns(pl.lit(None).alias(x) for x in ["sex", "age", "diabetes", "site"])
    return changed(c, visits=visits, patients=patients)


def constant(c):
    visits = c.tables["visits"].with_columns(creatinine=1.0, weight=2.0, pressure=3.0, state=pl.lit("bad"), edema=True)
    return changed(
        c, visits=visits, patients=c.tables["patients"].with_columns(sex=pl.lit("F"), age=50.0, diabetes=False)
    )


def foreign_codes(c):
    return changed(c, events=c.tables["events"].with_columns(code=pl.lit("zzz")))


def one_visit(c):
    return changed(c, visits=c.tables["visits"].unique("subject_id", keep="first"), events=c.tables["events"].head(0))


def no_times(c):
    return changed(c, visits=c.tables["visits"].with_columns(time=pl.lit(None, dtype=pl.Datetime("us"))))


def no_statics(c):
    return changed(c, patients=c.tables["patients"].head(0))


def one_patient(c):
    return c.select(c.subjects.head(1))


def ordered(n, seed):
    g = np.random.default_rng(seed)
    s = np.repeat(np.arange(n), g.integers(1, 8, n))
    m = len(s)
    e = {
        "subject_id": s,
        "time": np.arange(m),
        "v": g.normal(size=m),
        "k": g.choice(["a", "b"], m),
        "c": g.choice([*"xyz"], m),
    }
    u = {"subject_id": s, "w": g.integers(0, 9, m), "f": g.random(m) < 0.5}
    p = {"subject_id": np.arange(n), "x": g.normal(size=n), "born": g.integers(0, 3, n)}
    return Cohort.build(ORDER, {"p": pl.DataFrame(p), "e": pl.DataFrame(e), "u": pl.DataFrame(u)})


def statics(n, seed):
    g = np.random.default_rng(seed)
    day = pl.Series(g.integers(0, 10**15, n)).cast(pl.Datetime("us"))
    p = {"subject_id": np.arange(n), "x": g.normal(size=n), "k": g.choice(["a", "b"], n), "d": day, "i": ["n"] * n}
    return Cohort.build(STATICS, {"p": pl.DataFrame(p)})


def sound(report):
    """Numbers are finite, gaps have reasons, everything can be written as JSON."""
    for s in report.scores:
        assert s.reason if s.value is None else np.isfinite(s.value), s.key
        json.dumps(s.details, allow_nan=False)
    for figure in report.figures:
        json.dumps(figure.content, allow_nan=False)
    assert report.verdict
    return report


SPOILERS = [without_visits, all_missing, constant, foreign_codes, one_visit, no_times, no_statics, one_patient]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_messy_cohorts_are_measured_or_said_not_to_be(spoil):
    train, held_out, good = clinic(40, 1), clinic(35, 2), clinic(45, 3)
    some = ["marginal", "missingness", "association", "temporal", "codes", "copies"]
    sound(evaluate(spoil(good), train=train, held_out=held_out, fast=True, only=some))
    sound(evaluate(spoil(good), train=spoil(train), held_out=spoil(held_out), fast=True))


def test_cohorts_without_clock_or_without_visits_are_measured():
    report = sound(evaluate(ordered(50, 1), train=ordered(60, 2), held_out=ordered(70, 3), fast=True))
    assert report.score("temporal.gaps").value is None
    assert "order" in report.score("temporal.gaps").reason
    assert report.score("temporal.autocorrelation").value is not None
    report = sound(evaluate(statics(50, 1), train=statics(60, 2), held_out=statics(70, 3), fast=True))
    assert report.score("marginal.values").value is not None


def test_one_patient_gets_no_verdict():
    report = evaluate(one_patient(clinic(9, 3)), train=clinic(30, 1), held_out=clinic(30, 2), fast=True)
    assert [s.key for s in report.scores if s.passed is not None and s.group != "copies"] == []


def test_same_seed_same_report():
    one, two = (
        evaluate(clinic(60, 3), train=clinic(60, 1), held_out=clinic(60, 2), seed=5, fast=True).scores for _ in range(2)
    )
    assert one == two


def test_progress_counts_every_stage_once():
    told = []
    evaluate(
        clinic(20, 3), train=clinic(20, 1), held_out=clinic(20, 2), only=["marginal", "codes"], fast=True,
        progress=lambda *a: told.append(a),
    )  # fmt: skip
    assert [done for done, _, _ in told] == list(range(8))
    assert {total for _, total, _ in told} == {8}
    assert told[5][2] == "measuring marginal"


def test_only_does_not_change_a_score():
    cohorts = {"train": clinic(80, 1), "held_out": clinic(80, 2)}
    some = evaluate(clinic(80, 3), **cohorts, only="temporal", fast=True)
    assert {s.group for s in some.scores} == {"temporal"}
    whole = evaluate(clinic(80, 3), **cohorts, only=["marginal", "temporal"], fast=True)
    assert [s for s in whole.scores if s.group == "temporal"] == list(some.scores)


def test_a_hundred_patients_cannot_tell_weak_static_associations():
    report = evaluate(clinic(60, 3), train=clinic(60, 1), held_out=clinic(60, 2), only="association", fast=True)
    score = report.score("association.static_static")
    assert score.passed is None
    assert score.reason == "not measurable with 60 patients"


def test_an_interval_shrinks_with_patients():
    def width(n):
        report = evaluate(clinic(n, 3), train=clinic(n, 1), held_out=clinic(n, 2), only="temporal", fast=True)
        low, high = report.score("temporal.autocorrelation").interval
        return high - low

    assert width(1000) < 0.6 * width(150)


def test_unknown_group_names_the_nearest():
    with pytest.raises(SettingsError, match='Did you mean "temporal"'):
        evaluate(clinic(5, 3), train=clinic(5, 1), held_out=clinic(5, 2), only="tempral")
    assert "temporal" in MEASURES


def test_cohorts_of_other_schemas_and_empty_ones_are_refused_together():
    with pytest.raises(DataError) as caught:
        evaluate(statics(5, 1), train=clinic(5, 1), held_out=clinic(5, 2).select([]))
    assert {p.code for p in caught.value.problems} == {"other-schema", "no-subjects"}


def widened(cohort):
    """The same patients under a schema with more columns and tables, columns and levels in another order."""
    table = STATICS.tables["p"]
    columns = dict(reversed({**table.columns, "more": Number()}.items()))
    columns["k"] = columns["k"].model_copy(update={"levels": ("c", "b", "a")})
    tables = {"q": Table(role="static", columns={"y": Number()}), "p": table.model_copy(update={"columns": columns})}
    schema = STATICS.model_copy(update={"tables": tables})
    frame = cohort.tables["p"]
    return Cohort.build(schema, {"p": frame.with_columns(more=1.0), "q": frame.select("subject_id", y="x")})


def test_what_else_a_cohort_has_makes_no_difference():
    train, held_out, made = (statics(80, seed) for seed in (1, 2, 3))
    one, two = (
        evaluate(m, train=train, held_out=held_out, fast=True).to_dict()["scores"] for m in (made, widened(made))
    )
    assert one == two


@pytest.mark.parametrize(("change", "code"), [("clock", "other-schema"), ("unit", "other-unit")])
def test_other_clocks_and_units_are_refused(change, code):
    train, held_out, made = (clinic(5, seed) for seed in (1, 2, 3))
    schema, tables = made.schema, dict(made.tables)
    if change == "clock":
        schema = schema.model_copy(update={"clock": "order"})
        tables = {t: f.with_columns(time=pl.lit(0)) if "time" in f.columns else f for t, f in tables.items()}
    else:
        visits = schema.tables["visits"]
        columns = {**visits.columns, "weight": visits.columns["weight"].model_copy(update={"unit": "[lb_av]"})}
        visits = visits.model_copy(update={"columns": columns})
        schema = schema.model_copy(update={"tables": {**schema.tables, "visits": visits}})
    with pytest.raises(DataError) as caught:
        evaluate(Cohort.build(schema, tables), train=train, held_out=held_out)
    assert {p.code for p in caught.value.problems} == {code}


def test_the_verdict_names_the_subgroup_that_most_scores_find_worst():
    failed = [
        Score(f"error {k}", "fairness", 0.3, limit=0.1, goal=Goal.LOW, details={"worst": f"p.sex = {sex}: lab"})
        for k, sex in enumerate("MFF")
    ]
    ctx = SimpleNamespace(n=90, views={"held_out": SimpleNamespace(n=80)})
    said = [sentence for sentence in verdict(ctx, failed) if sentence.startswith("By subgroup")]
    assert said == ["By subgroup, it is worst for p.sex = F."]
    tied = [replace(failed[0], value=0.4), *failed[1:2]]  # one score each: the one further beyond its limit
    assert verdict(ctx, tied)[-1] == "By subgroup, it is worst for p.sex = M."


def test_few_judged_scores_are_no_proof_of_likeness():
    def scores(judged, n):
        base = Score("values", "marginal", 0.1, limit=0.2)
        return [base] * judged + [replace(base, value=None, limit=None, reason="few patients")] * (n - judged)

    ctx = SimpleNamespace(n=11, views={"held_out": SimpleNamespace(n=8)})
    assert verdict(ctx, scores(2, 40))[0].startswith("Only 2 of 40 scores could be judged with 11 synthetic and 8")
    assert verdict(ctx, scores(20, 40))[0].startswith("All 20 scores that could be judged")


def test_that_no_copies_were_found_is_said_to_prove_no_privacy():
    ctx = SimpleNamespace(n=90, views={"held_out": SimpleNamespace(n=80)})
    copies = Score("copies", "copies", 0.0, limit=0.1, goal=Goal.LOW)
    said = "That no copies of training patients were found is no evidence of privacy."
    assert said in verdict(ctx, [copies])
    assert said not in verdict(ctx, [replace(copies, value=0.5)]) and said not in verdict(
        ctx, [replace(copies, group="codes")]
    )


def test_with_few_patients_the_verdict_says_what_the_judge_would_have_let_pass():
    ctx = SimpleNamespace(n=24, views={"held_out": SimpleNamespace(n=16)})
    judge = Score("judge", "detection", 0.6, limit=0.81, goal=Goal.LOW, key="detection.patients")
    said = "Patients are few: a cohort whose patients a judge picks out beside real ones 81 times in 100"
    assert verdict(ctx, [judge])[1].startswith(said)
    for other in (replace(judge, value=0.9), replace(judge, limit=0.6)):
        assert not [sentence for sentence in verdict(ctx, [other]) if sentence.startswith("Patients are few")]
