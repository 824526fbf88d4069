"""cohortloom demo: the whole job on a simulated cohort"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, Quiet, Seed, progress, say


def run(
    schema: Annotated[Path, typer.Option("--schema", help="Schema that is simulated.")] = Path(
        "schemas/heart_failure_clinic.toml"
    ),
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")] = Path("out/demo"),
    n: Annotated[int, typer.Option("-n", "--subjects", min=50, help="Number of patients.")] = 1000,
    seed: Seed = 7,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Simulate, split, fit, sample, validate, evaluate; the report's path comes last."""
    from cohortloom.evaluation import evaluate, validate
    from cohortloom.files import new_folder
    from cohortloom.generators import create
    from cohortloom.schema import Schema
    from cohortloom.simulation import simulate

    with new_folder(out, force=force) as folder:
        say(f"1/6 simulate {n:,} patients of {schema}", quiet=quiet)
        real = simulate(Schema.from_file(schema), n, seed=seed)
        real.save(folder / "cohort")
        say("2/6 split by patient: train 0.6, held out 0.4", quiet=quiet)
        parts = real.split(seed=seed, train=0.6, held_out=0.4)
        for name, part in parts.items():
            part.save(folder / "splits" / name)
        say("3/6 fit columnar-ar", quiet=quiet)
        model = create("columnar-ar")
        with progress("fit", quiet=quiet) as tell:
            model.fit(parts.train, seed=seed, progress=tell)
        model.save(folder / "model")
        say(f"4/6 sample {n:,} patients", quiet=quiet)
        synthetic = model.sample(n, seed=seed)
        synthetic.save(folder / "synthetic")
        say("5/6 validate against schema and rules", quiet=quiet)
        validation = validate(synthetic)
        for suffix in ("html", "json"):
            validation.save(folder / f"validation.{suffix}")
        say("6/6 evaluate beside held-out patients and baselines", quiet=quiet)
        with progress("evaluate", quiet=quiet) as tell:
            report = evaluate(synthetic, train=parts.train, held_out=parts.held_out, seed=seed, progress=tell)
        for suffix in ("html", "json", "md"):
            report.save(folder / f"report.{suffix}")
    for line in report.verdict:
        print(line)
    print(f"validation: {'passed' if validation.passed else 'FAILED'}")
    print(f"report: {out / 'report.html'}")
    if validation.passed is False:
        raise typer.Exit(1)
