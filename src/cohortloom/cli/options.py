"""What the verbs share: opening cohorts, progress, results, and where they are written.

stdout carries results, stderr everything else. A cohort argument is a native folder, or any other source together with
--from FORMAT --schema FILE.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohortloom.errors import Problem, SettingsError

if TYPE_CHECKING:
    from cohortloom.cohort import Cohort
    from cohortloom.report import Report

__all__ = [
    "Force",
    "From",
    "Html",
    "Json",
    "Markdown",
    "OnError",
    "Out",
    "Quiet",
    "SchemaFile",
    "Seed",
    "To",
    "finish",
    "keep_source",
    "open_cohort",
    "parse_levels",
    "parse_shares",
    "parse_where",
    "progress",
    "say",
    "settings_from",
    "write_result",
]

Out = Annotated[Path, typer.Option("-o", "--out", help="Where the result is written.")]
Seed = Annotated[int, typer.Option("--seed", help="Fixes every byte of the result.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML page.")]
Markdown = Annotated[Path | None, typer.Option("--md", help="Write the report as Markdown.")]
From = Annotated[str, typer.Option("--from", help="Format of the source: native, tabular, meds, ...")]
To = Annotated[str, typer.Option("--to", help="Format that is written.")]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="Schema file, for sources that are not native.")]
OnError = Annotated[
    str,
    typer.Option(
        "--on-error", help="fail: stop at bad records; drop: leave them out; keep: keep them. Always counted."
    ),
]


def say(text: str, *, quiet: bool = False) -> None:
    """A line to the person, on stderr."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def as_synthetic(cohort: Cohort) -> Cohort:
    """The cohort, said to be synthetic: a file made elsewhere does not tell."""
    from dataclasses import replace

    return replace(cohort, origin=replace(cohort.origin, kind="synthetic"))


def open_cohort(path: Path, format: str = "native", schema: Path | None = None, on_error: str = "fail") -> Cohort:
    """Read the cohort of an argument."""
    from cohortloom.formats import read
    from cohortloom.schema import Schema

    return read(path, format=format, schema=Schema.from_file(schema) if schema else None, on_error=on_error)


def keep_source(out: Path, *sources: Path | None) -> None:
    """Refuse a result that would stand in the place of what it is made from, or of a folder around it."""
    for source in sources:
        if source is not None and out.resolve() in (source.resolve(), *source.resolve().parents):
            what = "is where the input lies, which the result would replace"
            raise SettingsError("", [Problem("over-source", str(out), what, "Choose another name for the result.")])


def finish(report: Report, *, html: Path | None, json_path: Path | None, markdown: Path | None, quiet: bool) -> None:
    """Write a report where asked, print its verdict, and leave with 1 if a check failed."""
    for path in (html, json_path, markdown):
        if path is not None:
            report.save(path)
            say(f"report: {path}", quiet=quiet)
    if not quiet:
        for line in report.verdict:
            print(line)
        for score in report.failed:
            print(f"FAILED  {score.name}: {score.value:.4g} (limit {score.limit:.4g})")
    if report.passed is False:
        raise typer.Exit(1)


def parse_shares(texts: list[str]) -> dict[str, float]:
    """["train=0.6", ...] -> {"train": 0.6, ...}"""
    shares = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            shares[name] = float(value)
        except ValueError:
            raise SettingsError(
                "",
                [Problem("bad-share", "--share", "a share is written NAME=NUMBER", "For example --share train=0.6.")],
            ) from None
    return shares


def parse_where(texts: list[str]) -> dict[str, str | None]:
    """["patients.sex=F", "visits.hba1c=", ...] -> {"patients.sex": "F", "visits.hba1c": None (an empty cell), ...}"""
    pairs: dict[str, str | None] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or "." not in name:
            raise SettingsError(
                "",
                [
                    Problem(
                        "bad-where",
                        "--where",
                        "a condition is written TABLE.COLUMN=VALUE",
                        "For example --where patients.sex=F.",
                    )
                ],
            )
        pairs[name] = value or None
    return pairs


def parse_levels(texts: list[str]) -> dict[str, Any]:
    """["patients.sex=F:0.5,M:0.5", "patients.site=uniform"] -> {"patients.sex": {"F": 0.5, "M": 0.5}, ...}"""
    found: dict[str, Any] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        pairs = [part.rpartition(":") for part in value.split(",")]
        try:
            shares = "uniform" if value == "uniform" else {level: float(share) for level, _, share in pairs}
        except ValueError:
            mark = ""
        if not mark or "." not in name:
            what = "is written TABLE.COLUMN=uniform or TABLE.COLUMN=LEVEL:SHARE,LEVEL:SHARE"
            fix = "For example --rebalance patients.sex=F:0.5,M:0.5."
            raise SettingsError("", [Problem("bad-rebalance", "--rebalance", what, fix)])
        found[name] = shares
    return found


def settings_from(config: Path | None, pairs: list[str]) -> dict[str, Any]:
    """Settings of a TOML file, with --set KEY=VALUE over it (values are TOML, bare words are text)."""
    import tomllib

    settings: dict[str, Any] = {}
    if config is not None:
        try:
            settings = tomllib.loads(config.read_text(encoding="utf8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(
                "", [Problem("bad-config", config.name, f"can't be read: {error}", "Settings files are TOML.")]
            ) from None
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not mark:
            raise SettingsError(
                "",
                [Problem("bad-set", "--set", "a setting is written KEY=VALUE", "For example --set temperature=0.9.")],
            )
        try:
            parsed = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            parsed = value
        target: dict[str, Any] = settings
        *path, last = key.split(".")
        for part in path:
            target = target.setdefault(part, {})
        target[last] = parsed
    return settings


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Callable[..., None] | None]:
    """A bar on a terminal, sparse lines elsewhere; yields `tell(done, total, note="")`, or None if quiet."""
    if quiet:
        yield None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, note="")

            def tell(done: float, total: float, note: str = "") -> None:
                bar.update(task, completed=done, total=total, note=note)

            yield tell
    else:
        shown = -1

        def tell(done: float, total: float, note: str = "") -> None:
            nonlocal shown
            tenth = int(10 * done / total) if total else 0
            if tenth > shown:
                shown = tenth
                say(f"{title}: {10 * tenth} % {note}".rstrip())

        yield tell


def write_result(path: Path | None, content: Mapping[str, Any]) -> None:
    """Machine-readable result: to the file, or to stdout if none is given."""
    if path is None:
        print(json.dumps(content, indent=2, sort_keys=True))
    else:
        from cohortloom.files import write_json

        write_json(path, content)
