"""Cohorts of waveforms whose law is known: each patient's rate, T wave and second lead follow from the record."""

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.schema import Schema

FS = 50.0


def clinic(n, *, seed=0, seconds=6.0, unequal=False, per_patient=1, first=1):
    """Lead II and lead X = -half of it; T wave .1 + .15 (potassium - 3); rate from the chart; AF in the fast."""
    draw = np.random.default_rng(seed)
    schema = Schema.model_validate(
        {
            "name": "clinic",
            "clock": "offset",
            "tables": {
                "patients": {
                    "role": "static",
                    "columns": {
                        "potassium": {"kind": "number", "unit": "mmol/L", "low": 1, "high": 9, "decimals": 2},
                        "sex": {"kind": "category", "levels": ["F", "M"]},
                    },
                },
                "visits": {"role": "visit", "columns":
                           {"pulse": {"kind": "number", "unit": "/min", "low": 20, "high": 250, "decimals": 1}}},
            },
            "signals": {
                "ecg": {
                    "kind": "ecg",
                    "channels": ["II", "X"],
                    "fs": FS,
                    "labels": ["sinus", "af"],
                    "parent": "visits",
                    **({} if unequal else {"duration": seconds}),
                }
            },
        }
    )  # fmt: skip
    ids = np.arange(first, first + n)
    potassium, pulse = draw.uniform(3, 6, n).round(2), draw.uniform(50, 110, n).round(1)
    owner = np.repeat(np.arange(n), per_patient)
    size = len(owner)
    length = round(seconds * FS)
    n_samples = draw.integers(length // 2, length + 1, size) if unequal else np.full(size, length)
    fibrillating = pulse[owner] > 95
    n_beats = int(seconds * 2.5) + 6
    rr = (
        60
        / pulse[owner][:, None]
        * (1 + np.where(fibrillating, 0.15, 0.015)[:, None] * draw.standard_normal((size, n_beats)))
    )
    place = np.cumsum(rr, axis=1) - draw.uniform(0.5, 1.5, (size, 1)) * rr[:, :1]
    time = np.arange(length) / FS
    two = np.zeros((size, length))
    for k in range(n_beats):
        offset = time - place[:, [k]]
        two += np.exp(-0.5 * np.square(offset / 0.025))
        two += (0.1 + 0.15 * (potassium[owner] - 3))[:, None] * np.exp(-0.5 * np.square((offset - 0.25) / 0.05))
    samples = np.stack([two, -0.5 * two], axis=1) + 0.02 * draw.standard_normal((size, 2, length))
    samples[np.broadcast_to((np.arange(length) >= n_samples[:, None])[:, None], samples.shape)] = np.nan
    day = pl.Series(np.arange(per_patient)[None].repeat(n, 0).ravel() * 86_400_000_000).cast(pl.Duration("us"))
    visits = pl.DataFrame({"subject_id": ids[owner], "visit_id": np.arange(size) + 1000 * first, "time": day,
                           "pulse": pulse[owner]})  # fmt: skip
    records = pl.DataFrame(
        {
            "record_id": np.arange(size),
            "subject_id": ids[owner],
            "visit_id": visits["visit_id"],
            "time": day,
            "n_samples": n_samples,
            "label": np.where(fibrillating, "af", "sinus"),
        }
    )
    tables = {
        "patients": pl.DataFrame(
            {"subject_id": ids, "potassium": potassium, "sex": np.where(draw.random(n) < 0.5, "F", "M")}
        ),
        "visits": visits,
    }
    waves = SignalSet(schema.signals["ecg"], records, samples.astype(np.float32))
    return Cohort.build(schema, tables, signals={"ecg": waves})
