"""cohortloom simulate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, Out, Quiet, Seed, keep_source, say


def run(
    schema: Path,
    out: Out,
    n: Annotated[int, typer.Option("-n", "--subjects", min=1, help="Number of patients.")] = 1000,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; the result does not depend on it.")] = 1,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """A cohort from a schema alone, without any data."""
    from cohortloom.files import refuse_existing
    from cohortloom.schema import Schema
    from cohortloom.simulation import simulate

    keep_source(out, schema)
    refuse_existing(out, force)
    cohort = simulate(Schema.from_file(schema), n, seed=seed, workers=workers)
    cohort.save(out, force=force)
    say(f"{cohort}\nwritten: {out}", quiet=quiet)
