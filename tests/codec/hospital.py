"""A small hospital with five tables, built by hand: admissions with an end, linked and unlinked labs, untimed
diagnoses, drugs without a link, and a wide table of vitals."""

import datetime as dt

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.schema import Category, Code, Flag, Identifier, Item, Number, Schema, Table, Timestamp

SCHEMA = Schema(
    name="hospital",
    tables={
        "patients": Table(
            role="static",
            columns={
                "sex": Category(levels=("F", "M", "X")),
                "birth": Timestamp(granularity="day"),
                "mrn": Identifier(missing=False),
            },
        ),
        "stays": Table(
            role="visit",
            parent="patients",
            columns={"end": Timestamp(), "ward": Code(), "died": Flag(missing=False)},
        ),
        "labs": Table(
            role="event",
            parent="stays",
            columns={
                "item": Code(items={"K": Item(unit="mmol/L", low=1, high=9, decimals=1)}),
                "value": Number(),
                "unit": Code(),
            },
            code="item",
            value="value",
        ),
        "diagnoses": Table(role="event", parent="stays", timed=False, columns={"icd": Code()}, code="icd"),
        "drugs": Table(role="event", parent="patients", columns={"drug": Code(), "route": Code()}, code="drug"),
        "vitals": Table(
            role="event",
            parent="stays",
            columns={"hr": Number(decimals=0, low=20, high=250), "rhythm": Category(levels=("sinus", "af"))},
        ),
    },
)


def hospital(n: int = 150, seed: int = 0) -> Cohort:
    """Every 10th patient has no stay; potassium has a within-stay sd of 0.3 around a stay's own level (sd 0.5)."""
    draw = np.random.default_rng(seed)
    start = dt.datetime(2020, 1, 1)
    patients = {
        "subject_id": np.arange(n) + 1000,
        "sex": [None if draw.random() < 0.1 else str(draw.choice(["F", "M"])) for _ in range(n)],
        "birth": [start - dt.timedelta(days=int(d)) for d in draw.integers(7000, 30000, n)],
        "mrn": [f"secret-{i}" for i in range(n)],
    }
    stays: list = []
    labs: list = []
    diagnoses: list = []
    drugs: list = []
    vitals: list = []
    for i in range(n):
        subject, time = 1000 + i, start + dt.timedelta(hours=int(draw.integers(0, 20_000)))
        for _ in range(0 if i % 10 == 9 else int(draw.integers(1, 4))):
            visit, days = len(stays) + 50_000, float(draw.integers(2, 15))
            end = time + dt.timedelta(days=days)
            stays.append((subject, visit, time, end, str(draw.choice(["A", "B", "C"])), bool(draw.random() < 0.1)))
            level = draw.normal(4.2, 0.5)
            for _ in range(int(draw.integers(0, 9))):  # a panel: K and Na together, sometimes after the stay
                inside = draw.random() < 0.8
                hours = int(draw.integers(0, int(days * 24))) if inside else int(days * 24 + draw.integers(1, 48))
                when = time + dt.timedelta(hours=hours)
                link = visit if inside else None
                potassium = (
                    None if draw.random() < 0.05 else round(float(np.clip(level + draw.normal(0, 0.3), 1, 9)), 1)
                )
                labs.append((subject, link, when, "K", potassium, "mmol/L"))
                labs.append((subject, link, when, "Na", float(np.round(draw.normal(140, 3))), "mmol/L"))
            for code in draw.choice(["I10", "E11", "N17", "J44"], int(draw.integers(0, 4)), replace=False):
                diagnoses.append((subject, visit, str(code)))
            for _ in range(int(draw.integers(0, 3))):
                when = time + dt.timedelta(days=int(draw.integers(0, int(days))))
                drugs.append((subject, when.replace(hour=0), str(draw.choice(["aspirin", "heparin"])), "po"))
            for _ in range(int(draw.integers(0, 4))):
                when = time + dt.timedelta(minutes=int(draw.integers(0, int(days * 1440))))
                vitals.append((subject, visit, when, float(draw.integers(50, 120)), str(draw.choice(["sinus", "af"]))))
            time = end + dt.timedelta(hours=int(draw.integers(100, 5000)))
    diagnoses.append((1000, 50_000, "ONE-PATIENT"))
    drugs.append((1000, (stays[0][2] - dt.timedelta(days=400)).replace(hour=0), "aspirin", "po"))
    frames = {
        "patients": pl.DataFrame(patients),
        "stays": _frame(stays, ["subject_id", "visit_id", "time", "end", "ward", "died"]),
        "labs": _frame(labs, ["subject_id", "visit_id", "time", "item", "value", "unit"]),
        "diagnoses": _frame(diagnoses, ["subject_id", "visit_id", "icd"]),
        "drugs": _frame(drugs, ["subject_id", "time", "drug", "route"]),
        "vitals": _frame(vitals, ["subject_id", "visit_id", "time", "hr", "rhythm"]),
    }
    return Cohort.build(SCHEMA, frames)


def _frame(rows: list, names: list[str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
