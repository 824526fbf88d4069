"""`validate` counts what breaks the rules and says what it could not judge."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.evaluation import validate
from cohortloom.report import CheckFailed
from cohortloom.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "name": "s",
        "clock": "order",
        "tables": {
            "p": {"role": "static", "columns": {"sex": {"kind": "category", "levels": ["F", "M"]}}},
            "v": {"role": "visit", "parent": "p", "columns": {"x": {"kind": "number", "low": 0, "high": 1}}},
            "e": {"role": "event", "columns": {"n": {"kind": "count"}}},
        },
        "rules": [
            {"kind": "range", "column": "v.x", "high": 0.5, "severity": "warning", "name": "x is usually small"},
            {"kind": "range", "column": "v.x", "high": 0.5, "severity": "warning", "name": "x is usually small"},
        ],
    }
)


def cohort(x):
    n = len(x)
    visits = pl.DataFrame({"subject_id": [1] * n, "visit_id": range(n), "time": range(n), "x": x})
    return Cohort.build(SCHEMA, {"p": pl.DataFrame({"subject_id": [1, 2], "sex": ["F", None]}), "v": visits})


def test_clean_cohort_passes_and_says_what_was_idle():
    report = validate(cohort([0.1, 0.2, None]))
    assert report.passed is True
    idle = [s for s in report.scores if s.value is None]
    assert {s.name for s in idle} == {"e.n is at least 0"}
    assert all(s.reason for s in idle)
    assert "Every rule holds." in report.verdict


def test_share_is_counted_over_known_rows():
    report = validate(cohort([2.0, 0.2, None, -1.0]))
    score = next(s for s in report.scores if s.name == "v.x is at least 0 and at most 1")
    # three known cells, two of them outside
    assert (score.value, score.n, score.limit, score.passed) == (pytest.approx(2 / 3), 3, 0.0, False)
    assert score.details["broken"] == [{"place": "v.x", "rows": 2, "of": 3, "first rows": [0, 3]}]
    assert "1 of 2 patients" in score.reason
    with pytest.raises(CheckFailed):
        report.raise_if_failed()


def test_warning_is_shown_without_verdict():
    report = validate(cohort([0.9]))
    warned = [s for s in report.scores if s.name == "x is usually small"]
    assert [s.value for s in warned] == [1.0, 1.0] and [s.passed for s in warned] == [None, None]
    assert report.passed is True


def test_keys_differ_even_where_names_do_not():
    keys = [s.key for s in validate(cohort([0.1])).scores]
    assert len(keys) == len(set(keys))


def test_no_value_of_a_patient_is_in_the_report():
    assert "77777" not in str(validate(cohort([77777.0])).to_dict())


def test_empty_cohort_gets_no_verdict():
    report = validate(Cohort.build(SCHEMA, {}))
    assert report.passed is None
    assert "There was nothing to check, so this is no verdict." in report.verdict


@pytest.mark.parametrize(
    ("kind", "unit", "words"), [("ppg", "mV", "nothing is known"), ("ecg", "1", "sizes"), ("ecg", "mV", "")]
)
def test_what_the_checks_do_not_know_is_said(kind, unit, words):
    from ecg_clinic import cohort_of
    from ecg_clinic import schema as of_signal

    made = of_signal(kind, 100, 2.0, ("x",))
    spec = made.signals[kind].model_copy(update={"unit": unit})
    made = made.model_copy(update={"signals": {kind: spec}})
    none = pl.Series([None] * 3, dtype=pl.Float64)
    patients = pl.DataFrame(
        {"subject_id": [1, 2, 3], "age": none, "sex": ["F"] * 3, "potassium": none, "heart_rate": none,
         "qt_drug": [False] * 3, "effusion": [False] * 3}
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((3, 1, 200))
    report = validate(cohort_of(made, x, patients))
    said = [text for text in (*report.verdict, *report.not_tested) if text.startswith(("Not checked", f"{kind}:"))]
    assert len(said) == (2 if words else 0) and all(words in text for text in said)
