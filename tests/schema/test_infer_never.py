"""Levels that never meet in one patient."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.formats.frames import from_frames
from cohortloom.rules import broken_subjects
from cohortloom.schema.infer import infer_schema

MEN, WOMEN = ["C61", "C34", "C18", "C50"], ["C56", "C34", "C18", "C50"]


def registry(n: int, seed: int = 0) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    woman = rng.random(n) < 0.5
    found = np.where(woman, rng.choice(WOMEN, n, p=[0.2, 0.2, 0.2, 0.4]), rng.choice(MEN, n, p=[0.4, 0.3, 0.28, 0.02]))
    arm = rng.choice(["A", "B"], n)
    patients = pl.DataFrame(
        {"patient_id": np.arange(n) + 1, "sex": np.where(woman, "w", "m"), "arm": arm,
         "arm_name": np.where(arm == "A", "placebo", "drug")}
    )  # fmt: skip
    rows = pl.DataFrame({"patient_id": np.arange(n) + 1, "date": ["2020-01-05"] * n, "icd": found})
    second = rows.with_columns(date=pl.lit("2021-03-04"), icd=pl.lit("C18"))
    return {"patients": patients, "tumours": pl.concat([rows, second])}


def never(frames: dict[str, pl.DataFrame]) -> list[tuple[str, str, str, list[str]]]:
    rules = [r.settings for r in infer_schema(frames, name="x").schema.rules if r.kind == "implies"]
    return [(r["if"]["column"], *r["if"]["in"], r["then"]["column"], r["then"]["not_in"]) for r in rules]


def test_what_chance_would_have_shown_is_forbidden():
    found = never(registry(400))
    assert sorted((level, values) for _, level, _, values in found) == [("m", ["C56"]), ("w", ["C61"])]
    assert {(first, then) for first, _, then, _ in found} == {("patients.sex", "tumours.icd")}


@pytest.mark.parametrize("seed", range(5))
def test_few_patients_and_names_of_one_thing_forbid_nothing(seed):
    assert never(registry(60, seed)) == []
    frames = registry(400, seed)
    frames["tumours"] = frames["tumours"].with_columns(icd=pl.col("icd").shuffle(seed=seed))
    assert never(frames) == []  # arm and arm_name say one thing, and are no rule


def test_a_draft_holds_in_the_files_and_names_a_planted_breach():
    frames = registry(400)
    cohort = from_frames(infer_schema(frames, name="x").schema, frames)
    assert len(broken_subjects(cohort)) == 0
    women = cohort.tables["patients"].with_columns(sex=pl.lit("w"))
    breach = Cohort.build(cohort.schema, cohort.tables | {"patients": women})
    men_with = (frames["tumours"]["icd"] == "C61").sum()
    assert len(broken_subjects(breach)) == men_with
