"""cohortloom evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    finish,
    open_cohort,
    stages,
)


def run(
    synthetic: Path,
    train: Annotated[Path, typer.Option("--train", help="Cohort the generator was fitted to.")],
    held_out: Annotated[Path, typer.Option("--held-out", help="Real patients it never saw.")],
    only: Annotated[list[str] | None, typer.Option("--only", help="Group of scores; several times.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Smaller judges and fewer bootstrap draws.")] = False,
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

    cohorts = [open_cohort(path, from_format, schema, on_error) for path in (synthetic, train, held_out)]
    with stages("evaluate", quiet=quiet) as tell:
        report = evaluate(
            cohorts[0], train=cohorts[1], held_out=cohorts[2], seed=seed, only=only, fast=fast, progress=tell
        )
    finish(report, html=html, json_path=json, markdown=md, quiet=quiet)
