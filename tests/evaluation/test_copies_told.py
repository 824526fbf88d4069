"""A report says of copies what was looked for: planted ones fail, few blurred ones pass and it says that they would."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate
from cohortloom.generators import create
from cohortloom.schema import Schema
from cohortloom.simulation import simulate


@pytest.fixture(scope="module")
def clinic():
    schema = Schema.from_file(Path(__file__).parents[2] / "schemas/pbc.toml")
    parts = simulate(schema, 150, seed=3).split(seed=1, train=0.6, held_out=0.4)
    return parts, create("independent").fit(parts.train, seed=1).sample(90, seed=1)


def planted(parts, drawn, n: int, noise: float) -> Cohort:
    """Drawn patients, n of them in fact patients of training, their numbers multiplied by 1 + noise."""
    ours, theirs = drawn.select(drawn.subjects[:-n]), parts.train.select(parts.train.subjects[:n])
    draw, tables = np.random.default_rng(0), {}
    for name, frame in ours.tables.items():
        real = theirs.tables[name].with_columns(pl.col("^subject_id|visit_id$").cast(pl.Int64) + 10**6)
        blur = [c for c, t in real.schema.items() if t == pl.Float64]
        real = real.with_columns((pl.col(c) * (1 + noise * draw.standard_normal(real.height))).alias(c) for c in blur)
        tables[name] = pl.concat([frame.with_columns(pl.col("^subject_id|visit_id$").cast(pl.Int64)), real])
    return replace(Cohort.build(drawn.schema, tables), origin=drawn.origin)


@pytest.mark.parametrize(("n", "noise", "passed"), [(2, 0.0, False), (9, 0.01, True)])
def test_exact_copies_fail_and_few_blurred_ones_are_said_to_pass_unseen(clinic, n, noise, passed):
    parts, drawn = clinic
    judged = planted(parts, drawn, n, noise)
    report = evaluate(judged, train=parts.train, held_out=parts.held_out, fast=True, only=["copies"])
    assert {s.key: s.passed for s in report.scores}["copies.patients"] is passed
    assert "changed a little pass unseen" in " ".join(report.not_tested)
