"""Counts of a cohort against counts made by hand."""

import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.cohort.summary import summary_text, table_summaries
from cohortloom.schema import Category, Number, Schema, Table

SCHEMA = Schema(
    name="clinic",
    clock="order",
    tables={
        "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
        "visits": Table(role="visit", columns={"sbp": Number(), "hr": Number()}),
    },
)


def test_counts_are_those_of_the_frames():
    visits = {"subject_id": [1, 1, 1, 2], "visit_id": [1, 2, 3, 4], "time": [0, 1, 2, 0]}
    visits |= {"sbp": [987654.5, None, None, None], "hr": [1.0, 2.0, 3.0, None]}
    cohort = Cohort.build(
        SCHEMA,
        {"patients": pl.DataFrame({"subject_id": [1, 2, 3], "sex": ["F", "M", None]}), "visits": pl.DataFrame(visits)},
    )
    patients, seen = table_summaries(cohort.schema, {n: t.lazy() for n, t in cohort.tables.items()})
    assert (patients.rows, patients.subjects, patients.per_subject) == (3, 3, None)
    assert (seen.rows, seen.subjects, seen.per_subject) == (4, 2, (1.5, 2.0, 2.5))
    assert seen.missing == {"sbp": 0.75, "hr": 0.25}
    text = summary_text(cohort)
    assert "sbp 75%, hr 25%" in text and "987654" not in text


def test_empty_cohort_has_a_summary():
    cohort = Cohort.build(SCHEMA, {})
    assert summary_text(cohort).splitlines()[0] == "clinic: 0 patients, real"
    assert table_summaries(cohort.schema, {n: t.lazy() for n, t in cohort.tables.items()})[1].missing == {}
