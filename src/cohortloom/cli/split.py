"""cohortloom split"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import (
    Force,
    From,
    OnError,
    Out,
    Quiet,
    SchemaFile,
    Seed,
    keep_source,
    open_cohort,
    parse_shares,
    say,
)


def run(
    cohort: Path,
    out: Out,
    share: Annotated[
        list[str] | None,
        typer.Option("--share", help="NAME=SHARE, several times; default train=0.6 held_out=0.2 reference=0.2."),
    ] = None,
    seed: Seed = 0,
    group: Annotated[str | None, typer.Option("--group", help="TABLE.COLUMN whose equal values stay together.")] = None,
    from_format: From = "native",
    schema: SchemaFile = None,
    on_error: OnError = "fail",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Cut a cohort into disjoint parts by patient, before anything is fitted."""
    from cohortloom.files import new_folder

    keep_source(out, cohort)
    whole = open_cohort(cohort, from_format, schema, on_error)
    shares = parse_shares(share or ["train=0.6", "held_out=0.2", "reference=0.2"])
    parts = whole.split(seed=seed, group=group, **shares)
    with new_folder(out, force=force, parts=shares) as folder:
        for name, part in parts.items():
            part.save(folder / name)
    for name, part in parts.items():
        say(f"{out / name}: {part.n_subjects:,} subjects", quiet=quiet)
