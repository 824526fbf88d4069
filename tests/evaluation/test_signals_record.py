"""What tables say at the time of a record, read against a hand-made patient; lost ties to the record are seen."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from ecg_clinic import ecg_clinic

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.evaluation import evaluate, signals_record
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.signals_chart import record_columns, unit_of
from cohortloom.evaluation.signals_sides import Side, prepare_signal
from cohortloom.schema import Schema


def chart():
    """Five patients, two visits a day apart with a pulse; a lab value and a drug; a record at the second visit."""
    number = {"kind": "number", "unit": "/min"}
    items = {"K": {"name": "potassium", "unit": "mmol/L"}}
    tables = {
        "patients": {"role": "static", "columns": {"birth": {"kind": "timestamp"}}},
        "visits": {"role": "visit", "parent": "patients", "columns": {"pulse": number}},
        "labs": {"role": "event", "parent": "visits", "code": "test", "value": "value",
                 "columns": {"test": {"kind": "code", "items": items}, "value": {"kind": "number", "unit": "1"}}},
        "drugs": {"role": "event", "parent": "visits", "columns": {"drug": {"kind": "code"}}},
    }  # fmt: skip
    signal = {"kind": "ecg", "channels": ["II"], "fs": 100, "duration": 1, "parent": "visits"}
    schema = Schema.model_validate({"name": "chart", "tables": tables, "signals": {"ecg": signal}})
    ids = np.arange(1, 6)
    day = pl.datetime(2020, 1, 1, time_unit="us")
    base = pl.DataFrame({"subject_id": np.repeat(ids, 2), "visit_id": np.arange(10), "late": np.tile([0, 1], 5)})
    base = base.with_columns(time=day + pl.duration(days=pl.col("late")))
    visits = base.with_columns(pulse=pl.Series(np.arange(10) * 10.0)).drop("late")
    first = base.filter(pl.col("late") == 0).drop("late")
    later = base.filter(pl.col("late") == 1).drop("late")
    labs = first.with_columns(test=pl.lit("K"), value=pl.Series([4.0, 4.1, 4.2, 4.3, 4.4]))
    # the drug is written an hour after the record's visit began; the fifth patient got it a day too late
    hours = pl.Series([1, 1, 1, 1, 48])
    drugs = later.with_columns(time=pl.col("time") + pl.duration(hours=hours), drug=pl.lit("A"))
    drugs = drugs.with_columns(visit_id=pl.when(pl.col("subject_id") < 5).then("visit_id").cast(pl.Int64))
    birth = pl.datetime(1950, 1, 1, time_unit="us")
    patients = pl.DataFrame({"subject_id": ids}).with_columns(birth=birth)
    records = later.with_columns(
        record_id=pl.col("visit_id"), n_samples=pl.lit(100, pl.Int64), label=pl.lit(None, pl.String)
    )
    waves = SignalSet(schema.signals["ecg"], records, np.zeros((5, 1, 100), np.float32))
    cohort = Cohort.build(
        schema, {"patients": patients, "visits": visits, "labs": labs, "drugs": drugs}, signals={"ecg": waves}
    )
    return Side(waves, np.arange(5), records["subject_id"], cohort)


def test_each_table_is_read_at_the_time_of_the_record():
    found = record_columns(chart())
    assert found["visits.pulse"].tolist() == [10, 30, 50, 70, 90]  # of the second visit, not the first
    assert found["labs.potassium"].tolist() == [4.0, 4.1, 4.2, 4.3, 4.4]  # the last one before
    assert found["drugs.A present"].tolist() == [1, 1, 1, 1, 0]  # at the visit counts, after it does not
    assert found["patients.birth (years before)"] == pytest.approx(70.0, abs=0.02)


def test_units_follow_the_schema():
    schema = chart().cohort.schema
    names = ("visits.pulse", "labs.potassium", "labs.potassium present", "patients.birth (years before)", "other.x")
    assert [unit_of(schema, n) for n in names] == ["/min", "mmol/L", "", "a", ""]


@pytest.fixture(scope="module")
def context():
    train, held_out = ecg_clinic(150, 1), ecg_clinic(150, 2)
    synthetic = ecg_clinic(150, 3, kind="synthetic")
    return prepare_signal(prepare(synthetic, train=train, held_out=held_out, seed=0, fast=True), "ecg")


def by_key(ctx):
    with np.errstate(all="ignore"):
        return {s.key: s for s in signals_record.scores(ctx)}


def test_known_associations_pass_for_a_second_real_sample(context):
    found = by_key(context)
    assert {"signals.ecg.record_known", "signals.ecg.record_known_worst"} <= set(found)
    assert all(s.passed for k, s in found.items() if "known" in k)
    pairs = {c["of"] for c in found["signals.ecg.record_known"].details["components"]}
    assert "patients.heart_rate and heart rate" in pairs
    assert len(pairs) <= signals_record.MOST_KNOWN


def test_known_associations_fail_if_records_are_dealt_out_among_patients(context):
    side = context.views["synthetic"]
    order = np.random.default_rng(0).permutation(len(side.patient))
    dealt = SignalSet(side.signal.spec, side.signal.records, side.signal.samples[order])
    views = {**context.views, "synthetic": Side(dealt, side.patient, side.subjects, side.cohort)}
    found = by_key(replace(context, views=views))
    assert found["signals.ecg.record_known"].passed is False
    assert found["signals.ecg.record_known_worst"].passed is False


def test_without_associations_the_score_says_so(context):
    order = np.random.default_rng(1).permutation(150)
    views = dict(context.views)
    for k in ("train", "held_out"):
        side = views[k]
        dealt = SignalSet(side.signal.spec, side.signal.records, side.signal.samples[order])
        views[k] = Side(dealt, side.patient, side.subjects, side.cohort)
    score = by_key(replace(context, views=views))["signals.ecg.record_known"]
    assert score.value is None and "no pair" in score.reason


def test_figures_show_what_follows_what_and_no_single_real_record(context):
    drawn = {f.kind: f for f in signals_record.figures(context)}
    assert set(drawn) == {"matrix", "curves"}
    panels = drawn["matrix"].content["panels"]
    assert [p["title"] for p in panels] == ["real held-out", "synthetic", "independent"]
    row, column = panels[0]["rows"].index("heart rate"), panels[0]["columns"].index("heart rate")
    real, synthetic, dealt = (p["values"][row][column] for p in panels)
    assert real > 0.9 and synthetic > 0.9 and abs(dealt) < 0.4
    for panel in drawn["curves"].content["panels"]:
        assert all(len(s["x"]) <= 5 for s in panel["series"])  # fifths of the records, never one
    facts = signals_record.told(context, 0)
    assert any(f.startswith("heart rate ") for f in facts)


@pytest.mark.slow
def test_records_in_the_report_say_what_their_patients_tables_say():
    train, held_out, third = ecg_clinic(60, 1), ecg_clinic(60, 2), ecg_clinic(60, 3, kind="synthetic")
    report = evaluate(third, train=train, held_out=held_out, only="signals", fast=True)
    paper = next(f for f in report.figures if f.kind == "ecg_paper")
    said = [" ".join(map(str, r["facts"])) for r in paper.content["records"]]
    assert said and all("heart rate" in s for s in said)
