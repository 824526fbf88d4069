"""A judged replica of intensive-care stays.

    python examples/icu_replica/run.py --source PATH     the PhysioNet/CinC Challenge 2012 folder (set A)
    python examples/icu_replica/run.py                   without data: stays are simulated from the schema's priors

Reads the long measurement file on an hourly grid, splits by patient, fits columnar-ar, draws as many stays as it was
fitted to, checks them against the schema's rules, and judges them beside held-out stays and two trivial baselines.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import cohortloom as cl
from cohortloom.generators import create

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> dict[str, float]:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--source", type=Path, default=None, help="folder with the three csv.gz files")
    options.add_argument("--schema", type=Path, default=HERE.parent.parent / "schemas" / "icu_48h.toml")
    options.add_argument("--out", type=Path, default=Path("out/icu_replica"))
    options.add_argument("--subjects", type=int, default=400, help="simulated stays, if there is no source")
    options.add_argument("--minutes", type=float, default=None, help="time for fitting")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--fast", action="store_true", help="smaller judges")
    chosen = options.parse_args(arguments)

    schema = cl.Schema.from_file(chosen.schema)
    if chosen.source is not None:
        real = cl.read(chosen.source, format="tabular", schema=schema)
    else:
        real = cl.simulate(schema, chosen.subjects, seed=chosen.seed)
    print(real)

    parts = real.split(seed=chosen.seed, train=0.6, held_out=0.4)  # by patient, before anything is fitted
    model = create("columnar-ar").fit(parts.train, seed=chosen.seed, minutes=chosen.minutes)
    replica = model.sample(parts.train.n_subjects, seed=chosen.seed)
    print(replica)

    validation = cl.validate(replica)
    validation.raise_if_failed()
    report = cl.evaluate(replica, train=parts.train, held_out=parts.held_out, seed=chosen.seed, fast=chosen.fast)
    replica.save(chosen.out / "replica", force=True)
    report.save(chosen.out / "report.html")
    for line in report.verdict:
        print(line)
    print(f"report: {chosen.out / 'report.html'}")
    return {score.key: score.value for score in report.scores if score.value is not None}


if __name__ == "__main__":
    main()
