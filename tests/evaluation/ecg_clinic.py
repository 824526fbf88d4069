"""A small ECG clinic, simulated: patients with age, sex, potassium, heart rate, a QT drug, effusion; one 12-lead ECG
each that follows from them; labels for atrial fibrillation and left bundle branch block. And the same for EEG."""

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.cohort.origin import Origin
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.simulation.ecg import LEADS, draw_traits, simulate_ecg
from cohortloom.simulation.eeg import draw_eeg_traits, simulate_eeg

HEAD = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")


def schema(kind: str = "ecg", fs: float = 250, duration: float | None = 10.0, channels=None) -> Schema:
    number = {"kind": "number", "unit": "1", "missing": True}
    columns = {
        "age": number, "sex": {"kind": "category", "levels": ["F", "M"]}, "potassium": number, "heart_rate": number,
        "qt_drug": {"kind": "flag"}, "effusion": {"kind": "flag"},
    }  # fmt: skip
    signal = {
        "kind": kind, "channels": list(channels or (LEADS if kind == "ecg" else HEAD)), "fs": fs,
        "unit": "mV" if kind == "ecg" else "uV", "duration": duration, "parent": "patients",
    }  # fmt: skip
    tables = {"patients": {"role": "static", "columns": columns}}
    return Schema.model_validate(
        {"name": f"{kind}_clinic", "clock": "offset", "tables": tables, "signals": {kind: signal}}
    )


def cohort_of(
    made: Schema, samples: np.ndarray, patients: pl.DataFrame, labels=None, lengths=None, kind="real"
) -> Cohort:
    (name, spec), n = next(iter(made.signals.items())), len(samples)
    subjects = patients["subject_id"]
    records = pl.DataFrame(
        {
            "record_id": np.arange(n),
            "subject_id": subjects.gather(np.arange(n) % max(subjects.len(), 1)),
            "visit_id": pl.Series([None] * n, dtype=pl.Int64),
            "time": pl.Series([0] * n, dtype=pl.Int64).cast(pl.Duration("us")),
            "n_samples": np.full(n, samples.shape[2]) if lengths is None else lengths,
            "label": pl.Series(labels if labels is not None else [None] * n, dtype=pl.String),
        }
    )
    signal = SignalSet(spec, records, samples.astype(np.float32))
    return Cohort.build(made, {"patients": patients}, signals={name: signal}, origin=Origin(kind))


def ecg_clinic(
    n: int, seed: int, *, fs: float = 250, duration: float = 10.0, leads=LEADS, kind: str = "real"
) -> Cohort:
    """`n` patients; other seeds are other patients of the same kind."""
    draw = np.random.default_rng(seed)
    age, female = np.round(draw.uniform(25, 85, n)), draw.random(n) < 0.5
    rate, potassium = np.round(np.clip(draw.normal(74, 13, n), 45, 125)), np.round(draw.normal(4.3, 0.6, n), 1)
    drug, wet = draw.random(n) < 0.3, draw.random(n) < 0.15
    af, block = draw.random(n) < 0.2, draw.random(n) < 0.2
    traits = draw_traits(
        n, Rng(seed), age=age, female=female, heart_rate=rate, potassium=potassium, qt_drug=drug, effusion=wet,
        atrial_fibrillation=af, left_bundle=block, ventricular_ectopy=np.where(draw.random(n) < 0.1, 0.1, 0.0),
    )  # fmt: skip
    x, _ = simulate_ecg(traits, fs=fs, duration=duration, rng=Rng(seed).child("wave"), leads=leads)
    patients = pl.DataFrame(
        {
            "subject_id": np.arange(1, n + 1), "age": age, "sex": np.where(female, "F", "M"), "potassium": potassium,
            "heart_rate": rate, "qt_drug": drug, "effusion": wet,
        }
    )  # fmt: skip
    labels = [
        "|".join(w for w, has in (("af", a), ("lbbb", b)) if has) or "normal" for a, b in zip(af, block, strict=True)
    ]
    return cohort_of(schema("ecg", fs, duration, leads), x, patients, labels, kind=kind)


def eeg_clinic(n: int, seed: int, *, fs: float = 128, duration: float = 8.0, kind: str = "real") -> Cohort:
    """`n` people with their eyes open or shut."""
    draw = np.random.default_rng(seed)
    age, shut = np.round(draw.uniform(25, 85, n)), draw.random(n) < 0.5
    traits = draw_eeg_traits(n, Rng(seed), age=age, eyes_closed=shut.astype(float))
    x, _ = simulate_eeg(traits, fs=fs, duration=duration, channels=HEAD, rng=Rng(seed).child("wave"))
    none = pl.Series([None] * n, dtype=pl.Float64)
    patients = pl.DataFrame(
        {
            "subject_id": np.arange(1, n + 1), "age": age, "sex": np.where(draw.random(n) < 0.5, "F", "M"),
            "potassium": none, "heart_rate": none, "qt_drug": draw.random(n) < 0.3, "effusion": draw.random(n) < 0.1,
        }
    )  # fmt: skip
    return cohort_of(schema("eeg", fs, duration), x, patients, np.where(shut, "closed", "open").tolist(), kind=kind)
