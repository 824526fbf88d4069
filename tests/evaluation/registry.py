"""A registry without courses: one row per patient, one number and a few things that depend on it."""

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "name": "registry",
        "tables": {
            "patients": {
                "role": "static",
                "columns": {
                    "marker": {"kind": "number"},
                    "ill": {"kind": "flag"},
                    "sex": {"kind": "category", "levels": ["F", "M"]},
                },
            }
        },
        "subgroups": ["patients.sex"],
        "tasks": [{"name": "ill", "target": "patients.ill"}],
    }
)


def registry(n, seed):
    """`n` patients; other seeds are other patients of the same kind."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=n)
    ill, sex = x + draw.normal(size=n) > 0, draw.choice(["F", "M"], n)
    frame = pl.DataFrame({"subject_id": np.arange(n), "marker": x, "ill": ill, "sex": sex})
    return Cohort.build(SCHEMA, {"patients": frame})
