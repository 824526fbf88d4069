"""Real patients against other real patients: nothing may fail."""

from pathlib import Path

import pytest

from cohortloom.evaluation import evaluate
from cohortloom.formats import read
from cohortloom.schema import Schema

ROOT = Path(__file__).parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "rare-disease-cohorts"


@pytest.mark.real
@pytest.mark.skipif(not FOLDER.exists(), reason="the real data folder is absent")
@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
def test_a_third_of_pbc_passes_against_the_other_two(seed):
    schema = Schema.from_file(ROOT / "schemas" / "pbc.toml")
    cohort = read(FOLDER, format="tabular", schema=schema, on_error="drop")
    parts = cohort.split(seed=seed, train=0.34, held_out=0.33, other=0.33)
    report = evaluate(parts.other, train=parts.train, held_out=parts.held_out, fast=True)
    assert [s.key for s in report.failed] == []
    assert sum(s.passed is True for s in report.scores) > 40
