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
    keep_source,
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
    from cohortloom.formats import convert

    keep_source(out, source, schema)
    formats = {"read_as": from_format, "write_as": to_format}
    text = convert(source, out, schema=schema, on_error=on_error, synthetic=synthetic, force=force, **formats)
    say(text, quiet=quiet)
    say(f"written: {out}", quiet=quiet)
