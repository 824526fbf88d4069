"""cohortloom fit"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, Out, Quiet, Seed, open_cohort, progress, say, settings_from


def run(
    cohort: Path,
    out: Out,
    generator: Annotated[
        str, typer.Option("--generator", help="Name, see: cohortloom list generators.")
    ] = "columnar-ar",
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, over the file; several times.")] = None,
    seed: Seed = 0,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Best model within this time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of a broken run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show settings and sizes, fit nothing.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fit a generator to a cohort (the training part of a split)."""
    from cohortloom.errors import FileFormatError, Problem, SettingsError
    from cohortloom.generators import create

    model = create(generator, **settings_from(config, set_ or []))
    if not model.storable and not dry_run:
        what = "keeps its model in a form that is unsafe to read, so it can't be written"
        fix = "Fit and sample with it in one Python process."
        raise SettingsError("", [Problem("not-stored", generator, what, fix)])
    if dry_run:
        print(
            json.dumps(
                {"generator": generator, "settings": model.settings(), "cohort": str(open_cohort(cohort))},
                indent=2,
                sort_keys=True,
            )
        )
        return
    if out.exists() and not force:
        raise FileFormatError(
            "", [Problem("exists", str(out), "already exists", "Choose another name, or add --force.")]
        )
    data = open_cohort(cohort)
    checkpoint = out.with_name(out.name + ".checkpoint")
    with progress("fit", quiet=quiet) as tell:
        model.fit(data, seed=seed, minutes=minutes, checkpoint=checkpoint, resume=resume, progress=tell)
    model.save(out, force=force)
    for left in out.parent.glob(f"{checkpoint.name}*"):
        left.unlink()
    say(f"{model.name} fitted to {data.n_subjects:,} subjects\nwritten: {out}", quiet=quiet)
