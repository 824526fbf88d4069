"""A small clinic, simulated in a few vectorised lines: the real patients of the evaluation tests.

Statics: sex, age, diabetes. A latent severity u follows a slow AR(1) process; creatinine, weight and pressure answer
to u, sex and age; the state (stable, worse, bad) is a Markov chain driven by u; visits come sooner in a bad state;
values are missing more often after good ones; a long table holds diagnoses and drugs."""

from datetime import datetime

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "name": "clinic",
        "tables": {
            "patients": {
                "role": "static",
                "columns": {
                    "sex": {"kind": "category", "levels": ["F", "M"]},
                    "age": {"kind": "number", "unit": "a"},
                    "diabetes": {"kind": "flag"},
                    "site": {"kind": "category", "levels": ["a", "b", "c", "rare"]},
                },
            },
            "visits": {
                "role": "visit",
                "columns": {
                    "creatinine": {"kind": "number", "unit": "mg/dL", "decimals": 2},
                    "weight": {"kind": "number", "unit": "kg", "decimals": 1},
                    "pressure": {"kind": "number", "unit": "mm[Hg]", "decimals": 0},
                    "state": {"kind": "ordinal", "levels": ["stable", "worse", "bad"]},
                    "edema": {"kind": "flag"},
                },
            },
            "events": {
                "role": "event",
                "parent": "visits",
                "code": "code",
                "value": "value",
                "columns": {"code": {"kind": "code"}, "value": {"kind": "number"}},
            },
        },
    }
)


def clinic(n: int, seed: int) -> Cohort:
    """`n` patients; other seeds are other patients of the same kind."""
    draw = np.random.default_rng(seed)
    male = draw.random(n) < 0.6
    age = np.round(np.clip(draw.normal(68, 11, n) + 3 * male, 20, 100))
    diabetes = draw.random(n) < 1 / (1 + np.exp(-(age - 75) / 12))
    site = draw.choice(["a", "b", "c", "rare"], n, p=[0.5, 0.3, 0.14, 0.06])
    severity = 0.5 * draw.normal(size=n) + 0.02 * (age - 68) + 0.4 * diabetes
    counts = 1 + draw.poisson(np.exp(1.7 + 0.25 * severity))
    counts[draw.random(n) < 0.02] = 0
    steps = int(counts.max())
    u = severity + 0.6 * draw.normal(size=n)
    state = np.clip(np.round(0.6 + 0.5 * severity), 0, 2).astype(int)
    day = draw.uniform(0, 400, n)
    trend = 0.05 * draw.normal(size=n) + 0.03
    dry = draw.normal(0, 1, n)
    last_low = np.zeros(n, bool)
    rows = []
    old = np.full(n, np.nan)
    for k in range(steps):
        if k:
            gap = draw.gamma(2.0, 45 * np.exp(-0.6 * state))
            day = day + np.maximum(1, np.round(gap))
            u = severity + trend * k + 0.8 * (u - severity) + 0.36 * draw.normal(size=n)
            up = draw.random(n)
            better, worse = 0.25 * np.exp(-0.5 * u), 0.25 * np.exp(0.5 * u)
            state = np.clip(state + (up < worse) - (up > 1 - better), 0, 2)
        creatinine = np.round(np.exp(0.05 + 0.22 * u + 0.22 * male + 0.05 * draw.normal(size=n)), 2)
        creatinine = np.where((draw.random(n) < 0.15) & np.isfinite(old), old, creatinine)
        weight = np.round(62 + 14 * male + 9 * dry + 1.5 * u + 1.2 * draw.normal(size=n), 1)
        pressure = np.round(132 - 7 * u + 5 * dry + 8 * draw.normal(size=n))
        edema = draw.random(n) < 1 / (1 + np.exp(2 - 1.2 * state))
        gone = draw.random(n) < np.where(last_low, 0.45, 0.08)
        here = k < counts
        lost = draw.random(n) < np.where(gone, 0.4, 0.05)
        shown = np.where(gone, np.nan, creatinine), weight, np.where(lost, np.nan, pressure)
        rows.append((here, day, *shown, state, edema, u))
        last_low = np.where(gone, last_low, creatinine < 1.1)
        old = np.where(gone, old, creatinine)
    who = np.concatenate([np.flatnonzero(r[0]) for r in rows])
    take = [np.concatenate([r[i][r[0]] for r in rows]) for i in range(1, 8)]
    order = np.lexsort((take[0], who))
    who, (day, creatinine, weight, pressure, state, edema, u) = who[order], [t[order] for t in take]
    micro = np.datetime64(datetime(2020, 1, 1), "us").astype(np.int64) + day.astype(np.int64) * 86_400_000_000
    visits = pl.DataFrame(
        {
            "subject_id": who + 1,
            "visit_id": np.arange(len(who)),
            "time": pl.Series(micro).cast(pl.Datetime("us")),
            "creatinine": pl.Series(creatinine).fill_nan(None),
            "weight": weight,
            "pressure": pl.Series(pressure).fill_nan(None),
            "state": pl.Series(np.array(["stable", "worse", "bad"])[state]),
            "edema": edema,
        }
    )
    parts = []
    for code, chance, mean in (
        ("diuretic", 1 / (1 + np.exp(1 - 1.5 * state)), None),
        ("betablocker", np.where(who % 2 == 0, 0.8, 0.1), None),
        ("potassium", np.full(len(who), 0.6), 4.2),
        ("bnp", 0.3 + 0.2 * state, 5.0),
        ("insulin", np.where(diabetes[who], 0.6, 0.02), None),
    ):
        hit = draw.random(len(who)) < chance
        value = (
            np.full(len(who), np.nan)
            if mean is None
            else np.round(mean + 0.4 * u + 0.2 * draw.normal(size=len(who)), 2)
        )
        parts.append(
            visits.filter(hit).select("subject_id", "visit_id", "time").with_columns(
                code=pl.lit(code), value=pl.Series(value[hit]).fill_nan(None)
            )
        )  # fmt: skip
    patients = pl.DataFrame(
        {
            "subject_id": np.arange(1, n + 1),
            "sex": np.where(male, "M", "F"),
            "age": age,
            "diabetes": diabetes,
            "site": site,
        }
    )
    return Cohort.build(SCHEMA, {"patients": patients, "visits": visits, "events": pl.concat(parts)})
