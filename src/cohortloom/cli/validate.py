"""cohortloom validate"""

from __future__ import annotations

from pathlib import Path

from cohortloom.cli.options import From, Html, Json, Markdown, OnError, Quiet, SchemaFile, finish, open_cohort


def run(
    cohort: Path,
    from_format: From = "native",
    schema: SchemaFile = None,
    on_error: OnError = "keep",
    html: Html = None,
    json: Json = None,
    md: Markdown = None,
    quiet: Quiet = False,
) -> None:
    """Does a cohort keep its schema and rules? Exit 1 if not."""
    from cohortloom.evaluation import validate

    report = validate(open_cohort(cohort, from_format, schema, on_error))
    finish(report, html=html, json_path=json, markdown=md, quiet=quiet)
