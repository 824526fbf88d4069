"""Facts of drafted rules about numbers that never fall."""

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
    assert [r["column"] for r in rules if r["kind"] == "monotone"] == ["doses.cumulative_mg"]
    assert "fall in no patient" in draft.text
