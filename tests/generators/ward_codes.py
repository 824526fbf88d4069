"""A ward in which some things never meet: codes of one sex, illnesses of the young, counts of what is swallowed."""

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema.text import parse_schema

SCHEMA = parse_schema(
    """
name = "ward_codes"
version = "1"
clock = "offset"
[tables.patients]
role = "static"
columns.sex = { kind = "category", levels = ["F", "M"] }
columns.age = { kind = "number", decimals = 0, unit = "a" }
columns.stopped = { kind = "number", missing = true }
[tables.visits]
role = "visit"
parent = "patients"
columns.code = { kind = "code" }
columns.route = { kind = "category", levels = ["mouth", "vein"] }
columns.pieces = { kind = "number", missing = true }
"""
)
CODES = ("birth", "croup", "cough", "fall", "gout")


def ward(n: int, seed: int) -> Cohort:
    """`n` patients with one to five visits.

    Births are women's, croup is that of the youngest fifth, pieces are counted of what is swallowed alone, and whoever
    is above 70 has not stopped.
    """
    draw = np.random.default_rng(seed)
    woman, age = draw.random(n) < 0.5, draw.integers(0, 100, n).astype(float)
    stopped = np.where((age <= 70) & (draw.random(n) < 0.6), draw.normal(size=n), np.nan)
    visits = draw.integers(1, 6, n)
    who = np.repeat(np.arange(n), visits)
    code = draw.choice(CODES, len(who), p=[0.2, 0.2, 0.2, 0.2, 0.2]).astype(object)
    code[(code == "birth") & ~woman[who]] = "gout"
    code[(code == "croup") & (age[who] > 20)] = "cough"
    mouth = draw.random(len(who)) < 0.6
    pieces = np.where(mouth, draw.integers(1, 4, len(who)), np.nan)
    day = np.concatenate([np.arange(k) for k in visits]) * 86_400_000_000
    patients = {"subject_id": np.arange(n), "sex": np.where(woman, "F", "M"), "age": age, "stopped": stopped}
    rows = {
        "subject_id": who, "visit_id": np.arange(len(who)), "time": day, "code": code.astype(str),
        "route": np.where(mouth, "mouth", "vein"), "pieces": pieces,
    }  # fmt: skip
    frames = {
        "patients": pl.DataFrame(patients),
        "visits": pl.DataFrame(rows).with_columns(pl.col("time").cast(pl.Duration("us"))),
    }
    return Cohort.build(SCHEMA, {k: f.fill_nan(None) for k, f in frames.items()})


def with_cells(cohort: Cohort, table: str, column: str, rows: np.ndarray, value: object) -> Cohort:
    """The cohort with one value in some rows."""
    frame = cohort.tables[table]
    here = pl.Series(np.isin(np.arange(frame.height), rows))
    changed = frame.with_columns(
        pl.when(here).then(pl.lit(value)).otherwise(pl.col(column)).cast(frame[column].dtype).alias(column)
    )
    return Cohort.build(cohort.schema, {**cohort.tables, table: changed})
