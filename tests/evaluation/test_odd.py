"""Odd cohorts: every score has a finite value or says why not, every figure is drawn, nothing crashes.

Schemas are drawn with all kinds, clocks, linked and long tables; cohorts with patients without rows, constant and empty
columns, empty tables, one patient. What can be declared (tasks of every kind, survival, subgroups, a site) is."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate
from cohortloom.report.html import to_html
from cohortloom.report.markdown import to_markdown
from cohortloom.schema import Survival, Task
from cohortloom.testing.strategies import cohorts, schemas

# the same cases each time, and none made smaller: a case takes a second
DRAWN = {
    "deadline": None,
    "derandomize": True,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


def declared(schema):
    """The schema with everything declared that its columns allow."""
    columns = {f"{t}.{c}": (spec.role, k) for t, spec in schema.tables.items() for c, k in spec.columns.items()}
    plain = {p: (r, k) for p, (r, k) in columns.items() if not schema.tables[p.split(".")[0]].is_long}

    def those(role, *kinds):
        return [p for p, (r, k) in plain.items() if k.kind in kinds and (r == "static") is (role == "static")]

    tasks = [Task(name=f"flag {i}", target=p) for i, p in enumerate(those("static", "flag"))]
    tasks += [Task(name=f"number {i}", kind="regression", target=p) for i, p in enumerate(those("static", "number"))]
    numbers, flags = those("static", "number", "count"), those("static", "flag")
    survival = ()
    if numbers and flags:
        survival = (Survival(time=numbers[0], event=flags[0], strata=tuple(those("static", "category")[:1])),)
        tasks.append(Task(name="survival", kind="survival", target=flags[0], time=numbers[0]))
    over_time = those("rows", "flag", "number", "count")
    tasks += [Task(name=f"next {i}", kind="next_visit", target=p) for i, p in enumerate(over_time[:2])]
    groups = tuple(those("static", "category", "ordinal", "flag"))
    update = {"tasks": tuple(tasks), "survival": survival, "subgroups": groups, "site": groups[0] if groups else None}
    return schema.model_copy(update=update)


@st.composite
def trios(draw, most):
    """Training, held-out and synthetic cohorts of one schema, of sizes of their own."""
    schema = declared(draw(schemas()))
    sizes = [draw(st.sampled_from([1, 3, most])) for _ in range(3)]
    found = [draw(cohorts(schema, min_subjects=n, max_subjects=n)) for n in sizes]
    assume(all(c.n_subjects for c in found))  # a patient without any row is nobody
    return found


def sound(report):
    for s in report.scores:
        assert s.reason if s.value is None else np.isfinite(s.value), s.key
        assert s.passed in (True, False, None)
        assert s.passed is not None or s.reason or s.limit is None, s.key
        for x in (*(s.interval or ()), s.limit, s.floor, *s.anchors.values()):
            assert x is None or np.isfinite(x), s.key
        json.dumps(s.details, allow_nan=False)
    assert len({s.key for s in report.scores}) == len(report.scores)
    for figure in report.figures:
        json.dumps(figure.content, allow_nan=False)
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.verdict
    assert "<html" in to_html(report)
    assert to_markdown(report)


@given(trios(12))
@settings(max_examples=12, **DRAWN)
def test_a_dozen_odd_cohorts_of_a_dozen_patients(trio):
    train, held_out, synthetic = trio
    sound(evaluate(synthetic, train=train, held_out=held_out, fast=True))


@pytest.mark.slow
@given(trios(45))
@settings(max_examples=30, **DRAWN)
def test_thirty_odd_cohorts_with_enough_patients_for_judges_and_models(trio):
    train, held_out, synthetic = trio
    assert isinstance(synthetic, Cohort)
    sound(evaluate(synthetic, train=train, held_out=held_out, fast=True))
