"""Facts of drafted rules about what never falls, or never rises."""

import numpy as np
import polars as pl

from cohortloom.schema.infer import infer_schema


def test_a_sum_so_far_never_falls_and_a_dose_may():
    """Of 60 patients with 5 doses each; the count of tablets left falls, the height stays, the sum of doses rises."""
    draw = np.random.default_rng(0)
    dose = draw.gamma(2, 1, (60, 5)).round(2)
    start = np.datetime64("2020-01-01T08:00") + draw.integers(0, 300, (60, 1)) * np.timedelta64(1, "D")
    given = start + np.arange(5) * np.timedelta64(6, "h")
    people = {"patient_id": range(60), "sex": ["f", "m"] * 30, "height_cm": draw.normal(170, 9, 60).round()}
    doses = {
        "patient_id": np.repeat(range(60), 5),
        "given_at": [str(t).replace("T", " ") for t in given.ravel()],
        "dose_mg": dose.ravel(),
        "cumulative_mg": dose.cumsum(1).ravel().round(2),
        "bottle_ml": (100 - dose.cumsum(1)).ravel().round(1),
    }
    draft = infer_schema({"patients": pl.DataFrame(people), "doses": pl.DataFrame(doses)}, name="x")
    rules = [rule.model_dump() for rule in draft.schema.rules]
    assert {r["column"]: r.get("direction", "up") for r in rules if r["kind"] == "monotone"} == {
        "doses.cumulative_mg": "up",
        "doses.bottle_ml": "down",
    }
    assert "falls (or rises) in no patient" in draft.text


def test_items_that_only_fall_are_ordinal_and_a_diagnosis_stays():
    """Of 80 patients at 8 visits: function that is lost, diabetes that comes, a symptom that comes and goes."""
    draw = np.random.default_rng(1)
    item = np.clip(4 - draw.poisson(0.25, (80, 8)).cumsum(1), 0, 4)
    visits = {
        "patient_id": np.repeat(range(80), 8),
        "visit_date": np.tile(np.datetime64("2020-01-01") + 30 * np.arange(8), 80),
        "walking": item.ravel(),
        "diabetes": np.where(draw.random((80, 8)) < 0.1, 1, 0).cumsum(1).clip(0, 1).ravel(),
        "cough": np.where(draw.random(640) < 0.2, "yes", "no"),
        "mood": draw.integers(0, 5, 640),
    }
    schema = infer_schema({"visits": pl.DataFrame(visits)}, name="x").schema
    rules = {r.settings["column"]: r.settings.get("direction", "up") for r in schema.rules if r.kind == "monotone"}
    assert rules == {"visits.walking": "down", "visits.diabetes": "up"}
    kinds = {name: column.kind for name, column in schema.tables["visits"].columns.items()}
    assert (kinds["walking"], kinds["mood"]) == ("ordinal", "category")
