"""What is written down again: a value near the level that statics tell, where the patient belongs."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.generators import create
from cohortloom.nets.history import LEVEL, History
from cohortloom.schema.text import parse_schema

SCHEMA = parse_schema(
    'name = "f"\nversion = "1"\nclock = "order"\n[tables.p]\nrole = "static"\ncolumns.s = { kind = "flag" }\n'
    '[tables.v]\nrole = "visit"\nparent = "p"\ncolumns.y = { kind = "number", decimals = 1 }\n'
    'columns.x = { kind = "number", decimals = 2 }\n'
)


def build(static: np.ndarray, y: np.ndarray, x: np.ndarray) -> Cohort:
    """Values patient x visit; NaN is missing."""
    n, visits = y.shape
    table = {"subject_id": np.repeat(np.arange(n), visits), "visit_id": np.arange(n * visits)}
    table |= {"time": np.tile(np.arange(visits), n), "y": y.ravel().round(1), "x": x.ravel().round(2)}
    frame = pl.DataFrame(table).with_columns(pl.col("y", "x").fill_nan(None))
    return Cohort.build(SCHEMA, {"p": pl.DataFrame({"subject_id": range(n), "s": static}), "v": frame})


def kept_near_home(n: int) -> Cohort:
    """y is written down again with .9 near the level that s tells, with .3 far from it, else drawn anew."""
    rng = np.random.default_rng(0)
    static = rng.random(n) < 0.5
    home = np.where(static, 3.0, -3.0)
    y = np.where(rng.random(n) < 0.5, 3.0, -3.0)[:, None] + rng.normal(size=(n, 12))
    for t in range(1, 12):
        near = np.sign(y[:, t - 1]) == np.sign(home)
        new = np.where(rng.random(n) < 0.5, 3.0, -3.0) + rng.normal(size=n)
        y[:, t] = np.where(rng.random(n) < np.where(near, 0.9, 0.3), y[:, t - 1], new)
    return build(static, 10 * y, rng.normal(size=y.shape))


def kept(cohort: Cohort) -> tuple[float, float]:
    """Share of values that are the last one again, near home and far from it."""
    rows = cohort.tables["v"].sort("subject_id", "time").join(cohort.tables["p"], on="subject_id")
    last = pl.col("y").shift(1).over("subject_id")
    rows = rows.with_columns(same=pl.col("y") == last, near=(last > 0) == pl.col("s")).drop_nulls(["same", "near"])
    near, far = (rows.filter(pl.col("near") == side)["same"].mean() for side in (True, False))
    return near, far


def drawn_near_home(cohort: Cohort) -> float:
    """How much more often drawn values are kept near home than far from it."""
    drawn = create("columnar-ar", members=1, candidates=1).fit(cohort, seed=0).sample(1_000, seed=1)
    near, far = kept(drawn)
    return near - far


def test_values_are_kept_near_home(monkeypatch: pytest.MonkeyPatch):
    cohort = kept_near_home(150)
    assert kept(cohort) == pytest.approx((0.9, 0.3), abs=0.05)
    assert drawn_near_home(cohort) > 0.1
    blocks = History._of_numbers
    distances = (LEVEL + 1, LEVEL + 2)
    monkeypatch.setattr(
        History, "_of_numbers", lambda self: (0 * x if i in distances else x for i, x in enumerate(blocks(self)))
    )
    assert drawn_near_home(cohort) < 0.06  # lines in the value and in the level do not say it
