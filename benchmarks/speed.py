"""Seconds and memory of each stage of the main job, at 1,000, 10,000 and 100,000 simulated patients.

    python -m benchmarks.speed [--sizes 1000 10000 100000] [--schemas schemas/pbc.toml benchmarks/eight_columns.toml]

Stages: simulate, write and read tabular CSV, encode, fit (columnar-ar, fixed number of epochs, so that time per visit
can be compared), sample, evaluate --fast (up to 10,000). Time should grow linearly, memory of sampling not at all.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, apart, parser, save, show

SCHEMAS = [ROOT / "schemas" / "pbc.toml", ROOT / "benchmarks" / "eight_columns.toml"]


def simulate_stage(n: int, folder: str, schema: Path) -> dict[str, Any]:
    from cohortloom import Schema, simulate

    start = time.process_time()
    cohort = simulate(Schema.from_file(schema), n, seed=1)
    spent = time.process_time() - start
    cohort.save(Path(folder) / "cohort", force=True)
    return {
        "visits": cohort.tables[cohort.schema.visit_table].height,
        "rows": sum(t.height for t in cohort.tables.values()),
        "cpu_s": round(spent, 2),
    }


def read_stage(folder: str) -> dict[str, Any]:
    from cohortloom import Cohort, read, write

    cohort = Cohort.load(Path(folder) / "cohort")
    write(cohort, Path(folder) / "csv", format="tabular", force=True)
    start = time.process_time()
    again = read(Path(folder) / "csv", format="tabular", schema=cohort.schema)
    return {"cpu_s": round(time.process_time() - start, 2), "rows": sum(t.height for t in again.tables.values())}


def encode_stage(folder: str) -> dict[str, Any]:
    from cohortloom import Cohort
    from cohortloom.codec import Codec
    from cohortloom.codec.tensors import Layout
    from cohortloom.rng import Rng

    cohort = Cohort.load(Path(folder) / "cohort")
    start = time.process_time()
    codec = Codec.fit(cohort, Layout())
    encoded = codec.encode(cohort, rng=Rng(0))
    return {"cpu_s": round(time.process_time() - start, 2), "values": int(encoded.sequence.values.size)}


def fit_stage(folder: str) -> dict[str, Any]:
    from cohortloom import Cohort
    from cohortloom.generators import create

    cohort = Cohort.load(Path(folder) / "cohort")
    start = time.process_time()
    model = create("columnar-ar").fit(cohort, seed=1)
    spent = time.process_time() - start
    model.save(Path(folder) / "model", force=True)
    return {"cpu_s": round(spent, 2)}


def sample_stage(folder: str, n: int) -> dict[str, Any]:
    from cohortloom import load

    model = load(Path(folder) / "model")
    start = time.process_time()
    cohort = model.sample(n, seed=1)
    spent = time.process_time() - start
    return {"cpu_s": round(spent, 2), "visits": cohort.tables[cohort.schema.visit_table].height}


def evaluate_stage(folder: str, n: int) -> dict[str, Any]:
    from cohortloom import Cohort, evaluate

    cohort = Cohort.load(Path(folder) / "cohort")
    parts = cohort.split(seed=1, train=0.5, held_out=0.5)
    start = time.process_time()
    evaluate(parts.held_out, train=parts.train, held_out=parts.held_out, fast=True)
    return {"cpu_s": round(time.process_time() - start, 2)}


def stages(schema: Path, n: int, fitted: bool) -> list[dict[str, Any]]:
    """All stages at one size."""
    with tempfile.TemporaryDirectory() as folder:
        made = apart(simulate_stage, n, folder, schema)
        visits = made["visits"]
        rows = [
            {"stage": "simulate", "patients": n, **made},
            {"stage": "read", "patients": n, **apart(read_stage, folder)},
            {"stage": "encode", "patients": n, "visits": visits, **apart(encode_stage, folder)},
        ]
        if fitted:
            rows.append({"stage": "fit", "patients": n, "visits": visits, **apart(fit_stage, folder)})
            for m in (n, 4 * n) if n <= 10_000 else (n,):
                rows.append({"stage": "sample", "patients": m, **apart(sample_stage, folder, m)})
        if n <= 10_000:
            rows.append(
                {"stage": "evaluate --fast", "patients": n, "visits": visits, **apart(evaluate_stage, folder, n)}
            )
    for row in rows:
        if row.get("visits"):
            row["visits_per_cpu_s"] = round(row["visits"] / max(row["cpu_s"], 1e-3))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options.add_argument("--fit-up-to", type=int, default=100_000, help="largest cohort that is fitted")
    options.add_argument("--schemas", type=Path, nargs="+", default=SCHEMAS, help="schemas that are simulated")
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    for schema, n in ((schema, n) for schema in chosen.schemas for n in chosen.sizes):
        rows += [{"schema": schema.stem, **row} for row in stages(schema, n, n <= chosen.fit_up_to)]
        show(rows)
    save("speed", rows, out=chosen.out)


if __name__ == "__main__":
    main()
