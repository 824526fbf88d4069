"""cohortloom schema check | show | infer | json-schema"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, Json, say, write_result

app = typer.Typer(help="Check, show, draft schemas.", no_args_is_help=True)


@app.command()
def check(file: Path, json: Json = None) -> None:
    """Report every problem of a schema file at once, with line and fix."""
    from cohortloom.rules import rule_problems
    from cohortloom.schema import Schema
    from cohortloom.schema.check import WARNINGS
    from cohortloom.schema.text import schema_problems

    problems = schema_problems(file)
    if all(problem.code in WARNINGS for problem in problems):
        schema = Schema.from_file(file)
        problems += rule_problems(schema)
        if schema.tables:
            from cohortloom.simulation import problems_of_priors

            problems += problems_of_priors(schema)
    if json is not None:
        write_result(
            json,
            {
                "file": file.name,
                "problems": [{"code": p.code, "where": p.where, "what": p.what, "fix": p.fix} for p in problems],
            },
        )
    for problem in problems:
        print(f"[{problem.code}] {problem}")
    if problems:
        print(f"{file}: {len(problems)} problem{'s' if len(problems) > 1 else ''}")
        raise typer.Exit(1)
    print(f"{file}: sound")


@app.command()
def show(file: Path) -> None:
    """Tables, columns, rules and tasks in words."""
    from cohortloom.schema import Schema
    from cohortloom.schema.text import show as describe

    print(describe(Schema.from_file(file)))


@app.command()
def infer(
    source: Path,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where the draft is written (else stdout).")] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the schema.")] = "",
    force: Force = False,
) -> None:
    """Draft a schema from CSV or Parquet files, or SDV metadata; every guess carries a comment."""
    from cohortloom.files import write_text
    from cohortloom.schema.infer import infer_schema

    draft = infer_schema(source, name=name or _name_of(source))
    if out is None:
        print(draft.text)
        return
    _refuse_existing(out, force)
    write_text(out, draft.text)
    say(f"draft: {out}  Read its comments, then: cohortloom schema check {out}")


@app.command("json-schema")
def json_schema(out: Annotated[Path, typer.Option("-o", "--out")], force: Force = False) -> None:
    """Write the JSON Schema of schema files, for editors."""
    from cohortloom.files import write_json
    from cohortloom.schema.text import json_schema as build

    _refuse_existing(out, force)
    write_json(out, build())


def _name_of(source: Path) -> str:
    word = "".join(c if c.isalnum() else "_" for c in source.resolve().name.split(".")[0])
    return word if word[:1].isalpha() else f"cohort_{word}"


def _refuse_existing(out: Path, force: bool) -> None:
    from cohortloom.errors import FileFormatError, Problem

    if out.exists() and not force:
        raise FileFormatError(
            "", [Problem("exists", str(out), "already exists", "Choose another name, or add --force.")]
        )
