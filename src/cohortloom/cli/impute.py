"""cohortloom impute"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, From, Out, Quiet, SchemaFile, Seed, To, keep_source, open_cohort, say


def run(
    model: Path,
    cohort: Path,
    out: Out,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Completed copies of each patient.")] = 1,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="TABLE.COLUMN to fill; several times. Default: all but dates.")
    ] = None,
    seed: Seed = 0,
    from_format: From = "native",
    schema: SchemaFile = None,
    to_format: To = "native",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fill missing cells of static and visit tables with draws given what is there. Observed cells stay as they are."""
    from cohortloom.formats import write
    from cohortloom.generators import load

    keep_source(out, model, cohort)
    holed = open_cohort(cohort, from_format, schema)
    full = load(model).impute(holed, seed=seed, draws=draws, columns=column)
    write(full, out, format=to_format, force=force)
    n = full.origin.notes.get("imputed cells", 0)
    say(f"{full}\n{n:,} cells filled\nwritten: {out}", quiet=quiet)
