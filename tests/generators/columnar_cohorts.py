"""Cohorts with known laws for the tests of columnar-ar."""

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema.text import parse_schema

PHI, EFFECT, MISSING, REPEAT, SPIKE = 0.7, 1.0, 0.2, 0.25, 0.3

CLINIC = parse_schema(
    """
name = "clinic"
version = "1"
clock = "offset"
[tables.patients]
role = "static"
columns.sex = { kind = "category", levels = ["F", "M"] }
columns.severity = { kind = "number", decimals = 2 }
[tables.visits]
role = "visit"
parent = "patients"
columns.x = { kind = "number", decimals = 2 }
columns.repeated = { kind = "number", decimals = 2 }
columns.dose = { kind = "number", decimals = 1 }
columns.patchy = { kind = "number", decimals = 2 }
columns.state = { kind = "category", levels = ["well", "ill"] }
"""
)

ORDERED = parse_schema(
    """
name = "ordered"
version = "1"
clock = "order"
[tables.patients]
role = "static"
columns.severity = { kind = "number", decimals = 3 }
[tables.visits]
role = "visit"
parent = "patients"
columns.x = { kind = "number", decimals = 3 }
"""
)

TINY = parse_schema(
    """
name = "tiny"
version = "1"
clock = "order"
[tables.patients]
role = "static"
columns.sex = { kind = "flag" }
[tables.visits]
role = "visit"
parent = "patients"
columns.stage = { kind = "category", levels = ["a", "b"] }
columns.points = { kind = "count", low = 0, high = 20 }
"""
)


def autoregression(rng: np.random.Generator, length: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """x_t - m = PHI (x_(t-1) - m) + noise, stationary with variance 1, subjects one after the other."""
    subject = np.repeat(np.arange(len(length)), length)
    first = np.concatenate([[True], subject[1:] != subject[:-1]]) if len(subject) else np.zeros(0, bool)
    deviation = rng.normal(size=len(subject))
    for i in range(len(subject)):
        if not first[i]:
            deviation[i] = PHI * deviation[i - 1] + np.sqrt(1 - PHI**2) * deviation[i]
    return mean[subject] + deviation


def clinic(n: int, seed: int) -> Cohort:
    """Sex, severity and visits: `x` an AR(1) around severity, `repeated` copied from the last visit at times, `dose`
    zero at times, `patchy` missing at times, `state` sticky. One patient in ten has no visit."""
    rng = np.random.default_rng(seed)
    sex, severity = rng.random(n) < 0.4, rng.normal(size=n).round(2)
    length = np.where(rng.random(n) < 0.1, 0, 1 + rng.poisson(4, n))
    subject = np.repeat(np.arange(n), length)
    total, mean = len(subject), EFFECT * severity + np.where(sex, 1.0, -1.0)
    x = autoregression(rng, length, mean)
    first = np.concatenate([[True], subject[1:] != subject[:-1]])
    repeated = rng.normal(5, 1, total).round(2)
    state = rng.random(total) < 0.5
    days = np.where(first, 0, 1 + rng.geometric(1 / 30, total)).astype(float)
    for i in np.flatnonzero(~first):
        repeated[i] = repeated[i - 1] if rng.random() < REPEAT else repeated[i]
        state[i] = state[i - 1] if rng.random() < 0.8 else state[i]
        days[i] += days[i - 1]
    dose = np.where(rng.random(total) < SPIKE, 0, rng.gamma(3, 2, total)).round(1)
    patchy = [None if m else v for m, v in zip(rng.random(total) < MISSING, rng.normal(size=total).round(2).tolist())]
    visits = pl.DataFrame(
        {
            "subject_id": subject,
            "visit_id": np.arange(total),
            "time": pl.Series(days * 86_400e6).cast(pl.Int64).cast(pl.Duration("us")),
            "x": x.round(2),
            "repeated": repeated,
            "dose": dose,
            "patchy": pl.Series(patchy, dtype=pl.Float64),
            "state": np.where(state, "ill", "well"),
        }
    )
    patients = pl.DataFrame({"subject_id": np.arange(n), "sex": np.where(sex, "M", "F"), "severity": severity})
    return Cohort.build(CLINIC, {"patients": patients, "visits": visits})


def ordered(n: int, seed: int, *, shuffled: bool = False) -> Cohort:
    """Severity and an AR(1) around it, 2 to 9 visits at times 0, 1, 2, ... `shuffled`: order of visits destroyed."""
    rng = np.random.default_rng(seed)
    severity, length = rng.normal(size=n).round(3), rng.integers(2, 10, n)
    x = autoregression(rng, length, EFFECT * severity).round(3)
    subject = np.repeat(np.arange(n), length)
    if shuffled:
        x = x[np.lexsort([rng.random(len(x)), subject])]
    time = np.arange(len(x)) - np.repeat(np.cumsum(length) - length, length)
    visits = pl.DataFrame({"subject_id": subject, "visit_id": np.arange(len(x)), "time": time, "x": x})
    patients = pl.DataFrame({"subject_id": np.arange(n), "severity": severity})
    return Cohort.build(ORDERED, {"patients": patients, "visits": visits})


def true_log_likelihood(cohort: Cohort) -> np.ndarray:
    """Of `ordered`, in closed form: a value on the grid has the mass density x 0.001."""

    def normal(x, mean, sd):
        return -0.5 * ((x - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi) + np.log(0.001)

    severity = cohort.tables["patients"]["severity"].to_numpy()
    out = normal(severity, 0, 1) + np.log(1 / 8)
    visits = cohort.tables["visits"].with_columns(last=pl.col("x").shift(1).over("subject_id"))
    subject = visits["subject_id"].rank("dense").to_numpy() - 1
    x, last, mean = visits["x"].to_numpy(), visits["last"].to_numpy(), EFFECT * severity[subject]
    later = mean + PHI * (last - mean)
    cells = np.where(np.isnan(last), normal(x, mean, 1), normal(x, later, np.sqrt(1 - PHI**2)))
    return out + np.bincount(subject, weights=cells, minlength=len(out))


def recovered(real: Cohort, drawn: Cohort) -> dict[str, float]:
    """What the tests compare: name -> distance of the drawn cohort from the real one."""

    def facts(cohort: Cohort) -> dict[str, float]:
        visits = cohort.tables["visits"].join(cohort.tables["patients"], on="subject_id")
        visits = visits.with_columns(pl.col("x", "repeated", "state").shift(1).over("subject_id").name.suffix("_last"))
        later = visits.drop_nulls("x_last")
        own = later.with_columns(pl.col("x", "x_last") - EFFECT * pl.col("severity") - pl.col("sex").eq("M") * 2 + 1)
        deviation = own.select(pl.corr("x", "x_last")).item()
        length = cohort.subjects.to_frame("subject_id").join(visits.group_by("subject_id").len(), "subject_id", "left")
        n_visits = length["len"].fill_null(0)
        by_sex = dict(visits.group_by("sex").agg(pl.col("x").mean()).iter_rows())
        return {
            "autocorrelation": deviation,
            "static effect": visits.select(pl.corr("x", "severity")).item(),
            "sex effect": (by_sex.get("M", 0) - by_sex.get("F", 0)) / 2,
            "missing": visits["patchy"].is_null().mean(),
            "missing elsewhere": visits["x"].is_null().mean(),
            "repeat": (later["repeated"] == later["repeated_last"]).mean(),
            "spike": (visits["dose"] == 0).mean(),
            "sticky": (later["state"] == later["state_last"]).mean(),
            "no visit": (n_visits == 0).mean(),
            "visits": n_visits.mean() / 10,
            "spread of visits": n_visits.std() / 10,
        }

    one, other = facts(real), facts(drawn)
    return {name: abs(one[name] - other[name]) for name in one}


def tiny_patients(rows: list[tuple]) -> Cohort:
    """Each row: sex, then stage and points of each visit."""
    statics = [{"subject_id": i, "sex": row[0]} for i, row in enumerate(rows)]
    visits = [
        {"subject_id": i, "visit_id": f"{i}-{k}", "time": k, "stage": row[1 + 2 * k], "points": row[2 + 2 * k]}
        for i, row in enumerate(rows)
        for k in range(len(row) // 2)
    ]
    types = {"subject_id": pl.Int64, "visit_id": pl.String, "time": pl.Int64, "stage": pl.String, "points": pl.Int64}
    return Cohort.build(
        TINY,
        {
            "patients": pl.DataFrame(statics, schema={"subject_id": pl.Int64, "sex": pl.Boolean}),
            "visits": pl.DataFrame(visits, schema=types),
        },
    )


def holed_patients(n: int = 400) -> Cohort:
    """Stage follows sex and the stage before, points follow the stage; one cell in ten is missing."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(n):
        sex, row, stage = bool(rng.random() < 0.5), [], None
        for _ in range(2):
            p = 0.15 + 0.6 * sex if stage is None else 0.85 if stage == "b" else 0.1
            stage = "b" if rng.random() < p else "a"
            points = int(rng.binomial(3, 0.8 if stage == "b" else 0.3))
            row += [stage if rng.random() < 0.9 else None, points if rng.random() < 0.9 else None]
        rows.append((sex if rng.random() < 0.9 else None, *row))
    return tiny_patients(rows)
