"""cohortloom extend"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, From, Out, Quiet, SchemaFile, Seed, To, keep_source, open_cohort, say
from cohortloom.errors import Problem, SettingsError

UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "min": 60, "s": 1}


def run(
    model: Path,
    prefix: Path,
    out: Out,
    until: Annotated[
        str, typer.Option("--until", help="How far after each patient's last row: 365d, 12w, 48h, 30min; or visits: 3.")
    ],
    draws: Annotated[int, typer.Option("--draws", min=1, help="Continuations of each patient.")] = 1,
    seed: Seed = 0,
    from_format: From = "native",
    schema: SchemaFile = None,
    to_format: To = "native",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Continue patients beyond their last row. Their past stays as it is; the result holds it, so it is real data."""
    from cohortloom.formats import write
    from cohortloom.generators import load

    keep_source(out, model, prefix)
    horizon = parse_until(until)
    longer = load(model).extend(open_cohort(prefix, from_format, schema), until=horizon, draws=draws, seed=seed)
    write(longer, out, format=to_format, force=force)
    say(f"{longer}\nwritten: {out}", quiet=quiet)


def parse_until(text: str) -> timedelta | int:
    """ "365d" -> 365 days; "3" -> 3 visits (clock "order")."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(w|d|h|min|s|)", text.strip())
    if found and found[2]:
        return timedelta(seconds=float(found[1]) * UNITS[found[2]])
    if found and found[1].isdigit():
        return int(found[1])
    what = "a horizon is written as a number with w, d, h, min or s, or as a number of visits"
    raise SettingsError("", [Problem("bad-until", "--until", what, "For example --until 365d.")])
