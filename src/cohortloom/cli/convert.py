"""cohortloom convert"""

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
    To,
    as_synthetic,
    keep_source,
    open_cohort,
    say,
)


def run(
    source: Path,
    out: Out,
    from_format: From = "native",
    to_format: To = "native",
    schema: SchemaFile = None,
    on_error: OnError = "fail",
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="The patients are synthetic: reports may draw them one by one.")
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Read a cohort in one format and write it in another."""
    from cohortloom.cohort.summary import summary_text
    from cohortloom.formats import write

    keep_source(out, source, schema)
    cohort = open_cohort(source, from_format, schema, on_error)
    cohort = as_synthetic(cohort) if synthetic else cohort
    write(cohort, out, format=to_format, force=force)
    say(summary_text(cohort), quiet=quiet)
    say(f"written: {out}", quiet=quiet)
