"""columnar-ar's courses: columns that move together within a patient, noise around a level, states that last."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.generators import columnar_encoding, create
from cohortloom.schema.text import parse_schema

SCHEMA = parse_schema(
    'name = "m"\nversion = "1"\nclock = "order"\n[tables.p]\nrole = "static"\ncolumns.s = { kind = "flag" }\n'
    '[tables.v]\nrole = "visit"\nparent = "p"\ncolumns.weight = { kind = "number", decimals = 3 }\n'
    'columns.pulse = { kind = "number", decimals = 2 }\n'
)


def moving(n: int, seed: int) -> Cohort:
    """Weights differ by 1 between patients and by .03 within; a weight above the own one comes with a faster pulse."""
    rng = np.random.default_rng(seed)
    length = rng.integers(4, 12, n)
    subject = np.repeat(np.arange(n), length)
    above = rng.normal(size=len(subject))
    weight = rng.normal(size=n)[subject] + 0.03 * above
    pulse = 0.5 * rng.normal(size=n)[subject] + 0.5 * above + 0.3 * rng.normal(size=len(subject))
    order = np.arange(len(subject)) - np.repeat(np.cumsum(length) - length, length)
    visits = {"subject_id": subject, "visit_id": np.arange(len(subject)), "time": order}
    visits = pl.DataFrame(visits | {"weight": weight.round(3), "pulse": pulse.round(2)})
    return Cohort.build(SCHEMA, {"p": pl.DataFrame({"subject_id": range(n), "s": rng.random(n) < 0.5}), "v": visits})


def within(cohort: Cohort) -> pl.DataFrame:
    """Later visits: distances from the patient's mean, and from the visit before."""
    visits = cohort.tables["v"].sort("subject_id", "time")
    columns = pl.col("weight", "pulse")
    return visits.with_columns(
        (columns - columns.mean().over("subject_id")).name.suffix("_off"),
        (columns - columns.shift(1).over("subject_id")).name.suffix("_moved"),
    ).drop_nulls("weight_moved")


def together(monkeypatch: pytest.MonkeyPatch, *, levels_only: bool) -> float:
    """Correlation of the drawn moves of both columns (real: .85), away from the coarse ends of the scale."""
    if levels_only:
        monkeypatch.setattr(columnar_encoding.Alphabet, "_scales", lambda self, block: ())
    drawn = create("columnar-ar", members=1, candidates=1).fit(moving(120, 0), seed=0).sample(4_000, seed=1)
    return within(drawn).filter(pl.col("weight").abs() < 1).select(pl.corr("weight_moved", "pulse_moved")).item()


def test_columns_move_together_within_a_patient(monkeypatch):
    assert together(monkeypatch, levels_only=False) > 0.55


def test_levels_alone_do_not_tell_how_columns_move(monkeypatch):
    assert together(monkeypatch, levels_only=True) < 0.55
