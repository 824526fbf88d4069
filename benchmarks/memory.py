"""Peak memory of each stage as patients grow: sampling should stay flat but for the cohort it returns.

    python -m benchmarks.memory [--sizes 1000 10000 100000] [--events 1000000 4000000 16000000]

CSV files of 1, 4 and 16 million events, in no order, are read, checked and stored as `cohortloom convert` does, written
as MEDS and read again. A model is fitted once to 1,000 simulated patients; then 1k, 10k and 100k patients are sampled,
whole (the cohort in memory) and by shards (each written and forgotten, as a small machine would). Each stage has a
process of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, apart, parser, save, show

SCHEMA = ROOT / "schemas" / "heart_failure_clinic.toml"


EVENTS = """
name = "events"
clock = "timestamp"
[tables.patients]
role = "static"
columns.sex = { kind = "category", levels = ["F", "M"] }
source = { file = "patients.csv", subject = "id" }
[tables.events]
role = "event"
parent = "patients"
code = "item"
value = "value"
columns.item = { kind = "code", system = "local" }
columns.value = { kind = "number", unit = "1", decimals = 1 }
source = { file = "events.csv", subject = "id", time = "time" }
"""


def events_stage(folder: str, n: int) -> dict[str, Any]:
    """Files of n events of n/500 patients."""
    import numpy as np
    import polars as pl

    here, rng, patients = Path(folder) / f"{n}", np.random.default_rng(1), n // 500
    here.mkdir()
    (here / "events.toml").write_text(EVENTS)
    pl.DataFrame({"id": np.arange(patients), "sex": rng.choice(["F", "M"], patients)}).write_csv(here / "patients.csv")
    start = np.datetime64("2020-01-01", "us")
    with open(here / "events.csv", "wb") as file:
        for first in range(0, n, 500_000):
            size = min(500_000, n - first)
            when = start + rng.integers(0, 86_400 * 700, size).astype("timedelta64[s]").astype("timedelta64[us]")
            item = rng.choice(["HR", "SBP", "K", "NA", "CREA"], size)
            frame = {"id": rng.integers(0, patients, size), "time": when, "item": item}
            frame = pl.DataFrame(frame | {"value": rng.normal(80, 20, size).round(1)})
            frame.write_csv(file, include_header=first == 0, datetime_format="%Y-%m-%d %H:%M:%S")
    return {"csv_mb": round((here / "events.csv").stat().st_size / 2**20)}


def convert_stage(folder: str, n: int) -> dict[str, Any]:
    from cohortloom.formats import convert

    here = Path(folder) / f"{n}"
    convert(here, here / "native", read_as="tabular", schema=here / "events.toml")
    return {}


def to_meds_stage(folder: str, n: int) -> dict[str, Any]:
    from cohortloom.formats import convert

    here = Path(folder) / f"{n}"
    convert(here / "native", here / "meds", write_as="meds")
    return {}


def from_meds_stage(folder: str, n: int) -> dict[str, Any]:
    from cohortloom.formats import convert

    here = Path(folder) / f"{n}"
    convert(here / "meds", here / "again", read_as="meds")
    return {}


def fit_stage(folder: str) -> dict[str, Any]:
    from cohortloom import Schema, simulate
    from cohortloom.generators import create

    cohort = simulate(Schema.from_file(SCHEMA), 1000, seed=1)
    create("columnar-ar").fit(cohort, seed=1).save(Path(folder) / "model")
    return {}


def nothing_stage() -> dict[str, Any]:
    import cohortloom.generators.columnar_ar  # noqa: F401 (what every stage has to load)

    return {}


def whole_stage(folder: str, n: int) -> dict[str, Any]:
    from cohortloom import load

    cohort = load(Path(folder) / "model").sample(n, seed=1)
    size = sum(t.estimated_size() for t in cohort.tables.values())
    return {"cohort_mb": round(size / 2**20)}


def shard_stage(folder: str, n: int) -> dict[str, Any]:
    from cohortloom import load

    model = load(Path(folder) / "model")
    for shard in model.plan(n):
        model.sample_shard(shard, seed=1).save(Path(folder) / "shards" / str(shard.number), force=True)
    return {}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options.add_argument("--events", type=int, nargs="+", default=[1_000_000, 4_000_000, 16_000_000])
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        rows.append({"stage": "imports alone", "patients": 0, **apart(nothing_stage)})
        for n in chosen.events:
            row = {"stage": "CSV of events to native", "events": n}
            row["csv_mb"] = apart(events_stage, folder, n)["csv_mb"]
            rows.append(row | apart(convert_stage, folder, n))
            rows.append({"stage": "native to MEDS", "events": n, **apart(to_meds_stage, folder, n)})
            rows.append({"stage": "MEDS to native", "events": n, **apart(from_meds_stage, folder, n)})
        rows.append({"stage": "simulate and fit", "patients": 1000, **apart(fit_stage, folder)})
        for n in chosen.sizes:
            rows.append({"stage": "sample, shard by shard", "patients": n, **apart(shard_stage, folder, n)})
        for n in chosen.sizes:
            rows.append({"stage": "sample, whole", "patients": n, **apart(whole_stage, folder, n)})
    show(rows)
    save("memory", rows, out=chosen.out)


if __name__ == "__main__":
    main()
