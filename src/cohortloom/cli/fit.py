"""cohortloom fit"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortloom.cli.options import Force, Out, Quiet, Seed, keep_source, open_cohort, progress, say, settings_from


def run(
    cohort: Path,
    out: Out,
    generator: Annotated[
        str,
        typer.Option("--generator", help="Name, see: cohortloom list generators; auto: compared on held-out patients."),
    ] = "columnar-ar",
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, over the file; several times.")] = None,
    seed: Seed = 0,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Best model within this time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of a broken run.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the comparison of auto as JSON.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show settings and sizes, fit nothing.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fit a generator to a cohort (the training part of a split)."""
    from cohortloom.errors import Problem, SettingsError
    from cohortloom.files import refuse_existing
    from cohortloom.generators import create
    from cohortloom.generators.chain import completed

    if generator == "auto" and resume:
        what = "keeps no checkpoint of a comparison, so there is nothing to go on from"
        raise SettingsError("", [Problem("no-resume", "auto", what, "Fit again, or name the generator it chose.")])
    if generator == "auto":
        _auto(cohort, out, settings_from(config, set_ or []), seed, minutes, json_path, dry_run, force, quiet)
        return
    model = create(generator, **settings_from(config, set_ or []))
    if not model.storable and not dry_run:
        what = "keeps its model (or one of its links does) in a form that is unsafe to read, so it can't be written"
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
    keep_source(out, cohort)
    refuse_existing(out, force)
    data = open_cohort(cohort)
    model = completed(model, data.schema)
    checkpoint = out.with_name(out.name + ".checkpoint")
    if resume and not any(out.parent.glob(f"{checkpoint.name}*")):
        say("there is no checkpoint of a broken run here; the fit starts anew", quiet=quiet)
    with progress("fit", quiet=quiet) as tell:
        model.fit(data, seed=seed, minutes=minutes, checkpoint=checkpoint, resume=resume, progress=tell)
    model.save(out, force=force)
    for left in out.parent.glob(f"{checkpoint.name}*"):
        left.unlink()
    notes = "".join(f"  {what}: {count:,}\n" for what, count in model.notes.items())
    say(f"{model.name} fitted to {data.n_subjects:,} subjects\n{notes}written: {out}", quiet=quiet)


def _auto(
    cohort: Path,
    out: Path,
    settings: dict[str, Any],
    seed: int,
    minutes: float | None,
    json_path: Path | None,
    dry_run: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Compare generators, show the table, write the best."""
    from cohortloom.cli.options import write_result
    from cohortloom.files import refuse_existing
    from cohortloom.selection import CANDIDATES, choose

    if dry_run:
        print(
            json.dumps(
                {"generator": "auto", "candidates": [c.label for c in CANDIDATES], "settings": settings}, indent=2
            )
        )
        return
    keep_source(out, cohort)
    refuse_existing(out, force)
    data = open_cohort(cohort)
    with progress("fit", quiet=quiet) as tell:
        choice = choose(data, seed=seed, minutes=minutes, settings=settings, progress=tell)
    choice.generator.save(out, force=force)
    print(choice)
    if json_path is not None:
        write_result(json_path, choice.to_json())
    say(f"{choice.winner} fitted to {data.n_subjects:,} subjects\nwritten: {out}", quiet=quiet)
