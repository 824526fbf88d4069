"""Peak memory of each stage as patients grow: sampling should stay flat but for the cohort it returns.

    python -m benchmarks.memory [--sizes 1000 10000 100000]

A model is fitted once to 1,000 simulated patients; then 1k, 10k and 100k patients are sampled, each in a process of
its own, whole (the cohort in memory) and by shards (each shard written and forgotten, as a small machine would).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, apart, parser, save, show

SCHEMA = ROOT / "schemas" / "heart_failure_clinic.toml"


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
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        rows.append({"stage": "imports alone", "patients": 0, **apart(nothing_stage)})
        rows.append({"stage": "simulate and fit", "patients": 1000, **apart(fit_stage, folder)})
        for n in chosen.sizes:
            rows.append({"stage": "sample, shard by shard", "patients": n, **apart(shard_stage, folder, n)})
        for n in chosen.sizes:
            rows.append({"stage": "sample, whole", "patients": n, **apart(whole_stage, folder, n)})
    show(rows)
    save("memory", rows, out=chosen.out)


if __name__ == "__main__":
    main()
