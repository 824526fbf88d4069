"""cohortloom sample"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, Out, Quiet, Seed, To, keep_source, parse_levels, parse_where, progress, say


def run(
    model: Path,
    out: Out,
    n: Annotated[
        int | None, typer.Option("-n", "--subjects", min=1, help="Number of patients; left out with --given.")
    ] = None,
    seed: Seed = 0,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="TABLE.COLUMN=VALUE, kept exactly (no VALUE: empty); several times."),
    ] = None,
    rebalance: Annotated[
        list[str] | None,
        typer.Option("--rebalance", help="TABLE.COLUMN=uniform, or TABLE.COLUMN=LEVEL:SHARE,...; several times."),
    ] = None,
    given: Annotated[Path | None, typer.Option("--given", help="Cohort whose tables are continued from.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; the result does not depend on it.")] = 1,
    to_format: To = "native",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw synthetic patients from a fitted generator."""
    from cohortloom.cohort import Cohort
    from cohortloom.files import refuse_existing
    from cohortloom.formats import write
    from cohortloom.generators import load

    if n is None and given is None:
        raise typer.BadParameter("say how many patients: -n 1000 (or whose: --given FOLDER)", param_hint="-n")
    keep_source(out, model, given)
    refuse_existing(out, force)
    context = Cohort.load(given) if given else None
    with progress("sample", quiet=quiet) as tell:
        cohort = load(model).sample(
            n,
            seed=seed,
            where=parse_where(where or []) or None,
            given=context,
            rebalance=parse_levels(rebalance or []) or None,
            workers=workers,
            progress=tell,
        )
    write(cohort, out, format=to_format, force=force)
    say(f"{cohort}\nwritten: {out}", quiet=quiet)
