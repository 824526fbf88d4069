"""cohortloom evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cohortloom.cli.options import (
    From,
    Html,
    Json,
    Markdown,
    OnError,
    Quiet,
    SchemaFile,
    Seed,
    as_synthetic,
    finish,
    open_cohort,
    progress,
)

if TYPE_CHECKING:
    from cohortloom.evaluation.likelihood import Scorer


def run(
    synthetic: Path,
    train: Annotated[Path, typer.Option("--train", help="Cohort the generator was fitted to.")],
    held_out: Annotated[Path, typer.Option("--held-out", help="Real patients it never saw.")],
    only: Annotated[list[str] | None, typer.Option("--only", help="Group of scores; several times.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Smaller judges and fewer bootstrap draws.")] = False,
    shift: Annotated[
        str | None, typer.Option("--shift", help="TABLE.COLUMN of sites or periods; default the schema's site.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="The fitted generator: is it surer of its training patients?")
    ] = None,
    seed: Seed = 0,
    from_format: From = "native",
    schema: SchemaFile = None,
    on_error: OnError = "fail",
    html: Html = None,
    json: Json = None,
    md: Markdown = None,
    quiet: Quiet = False,
) -> None:
    """How close are synthetic patients to real ones, beside real held-out patients and trivial baselines?"""
    from cohortloom.evaluation import evaluate

    scorer = None if model is None else _scorer(model)
    cohorts = [open_cohort(path, from_format, schema, on_error) for path in (synthetic, train, held_out)]
    if from_format not in ("native", "meds"):  # files that say nothing of where they are from
        cohorts[0] = as_synthetic(cohorts[0])
    with progress("evaluate", quiet=quiet) as tell:
        report = evaluate(
            cohorts[0],
            train=cohorts[1],
            held_out=cohorts[2],
            seed=seed,
            only=only,
            fast=fast,
            progress=tell,
            scorer=scorer,
            shift=shift,
        )
    finish(report, html=html, json_path=json, markdown=md, quiet=quiet)


def _scorer(path: Path) -> Scorer:
    """The fitted generator of a folder, if it can say how likely patients are."""
    from cohortloom.errors import Problem, SettingsError
    from cohortloom.generators import load
    from cohortloom.generators.base import Ability

    model = load(path)
    if Ability.SCORE not in model.abilities:
        what = f"{model.name} can't say how likely a patient is"
        raise SettingsError("", [Problem("no-score", "--model", what, "Leave --model out; the rest is measured.")])
    return model
