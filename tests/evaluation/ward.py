"""The clinic with everything a schema can declare: tasks, survival, subgroups, sites.

Older patients and those with diabetes die sooner."""

import numpy as np
import polars as pl
from clinic import SCHEMA, clinic

from cohortloom.cohort import Cohort
from cohortloom.schema import Flag, Number, Survival, Task

TASKS = (
    Task(name="diabetes", target="patients.diabetes"),
    Task(name="edema now", target="visits.edema"),
    Task(name="bad next", kind="next_visit", target="visits.state", event=("bad",)),
    Task(name="age", kind="regression", target="patients.age"),
    Task(name="weight next", kind="next_visit", target="visits.weight"),
    Task(name="survival", kind="survival", target="patients.died", time="patients.days"),
)


def ward(n, seed, *, flip=False):
    """The clinic with a follow-up: older people and those with diabetes die sooner."""
    c = clinic(n, seed)
    g = np.random.default_rng(seed + 10**6)
    frame = c.tables["patients"]
    risk = 0.07 * (frame["age"].to_numpy() - 68) + 0.8 * frame["diabetes"].to_numpy()
    life, end = g.exponential(800 * np.exp(risk if flip else -risk)), g.uniform(200, 1500, n)
    frame = frame.with_columns(days=pl.Series(np.ceil(np.minimum(life, end))), died=pl.Series(life < end))
    patients = SCHEMA.tables["patients"]
    columns = {**patients.columns, "days": Number(unit="d"), "died": Flag()}
    schema = SCHEMA.model_copy(
        update={
            "tables": {**SCHEMA.tables, "patients": patients.model_copy(update={"columns": columns})},
            "tasks": TASKS,
            "survival": (Survival(time="patients.days", event="patients.died", strata=("patients.sex",)),),
            "subgroups": ("patients.sex", "patients.site"),
            "site": "patients.site",
        }
    )
    return Cohort.build(schema, {**c.tables, "patients": frame})


def changed(c, **tables):
    return Cohort.build(c.schema, {**c.tables, **tables})
