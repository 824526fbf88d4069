"""cohortloom demo: the whole job on a simulated cohort, records and an ECG each"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cohortloom.cli.options import Force, Quiet, Seed, progress, say

if TYPE_CHECKING:
    from cohortloom.cohort import SignalSet
    from cohortloom.generators.base import Generator

#: About a minute of training on one core. `docs/methods/signal-diffusion.md` has what more of it brings.
WAVES = {"width": 32, "training": {"steps": 800, "batch_size": 16}}

#: What the folder of a demonstration holds.
PARTS = ("cohort", "splits", "model", "synthetic",
         *(f"{name}.{suffix}" for name in ("report", "validation") for suffix in ("html", "json", "md")))  # fmt: skip

SHORT = (
    "Waveforms after proper training: the demonstration trains its diffusion model for about a minute. Rhythm, beat "
    "shapes and most ties to the record are there; the fine structure between beats is not, which judges of texture "
    "and of intervals see."
)


def run(
    schema: Annotated[Path, typer.Option("--schema", help="Schema that is simulated.")] = Path(
        "schemas/heart_failure_ecg.toml"
    ),
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")] = Path("out/demo"),
    n: Annotated[int, typer.Option("-n", "--subjects", min=50, help="Number of patients.")] = 1000,
    seed: Seed = 7,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Simulate, split, fit, sample, validate, evaluate; the report's path comes last.

    A schema with a signal gets records first, then waveforms that follow them (a chain). Their diffusion model is
    trained for a minute or two only: rhythm, beat shape and ties to the record come out, the finest texture does not,
    and the report says so.
    """
    from cohortloom.evaluation import evaluate, validate
    from cohortloom.files import new_folder
    from cohortloom.schema import Schema
    from cohortloom.simulation import simulate

    with new_folder(out, force=force, parts=PARTS) as folder:
        say(f"1/6 simulate {n:,} patients of {schema}", quiet=quiet)
        real = simulate(Schema.from_file(schema), n, seed=seed)
        real.save(folder / "cohort")
        say("2/6 split by patient: train 0.6, held out 0.4", quiet=quiet)
        parts = real.split(seed=seed, train=0.6, held_out=0.4)
        for name, part in parts.items():
            part.save(folder / "splits" / name)
        model = _generator(real.signals)
        say(f"3/6 fit {model.name}", quiet=quiet)
        with progress("fit", quiet=quiet) as tell:
            model.fit(parts.train, seed=seed, progress=tell)
        model.save(folder / "model")
        say(f"4/6 sample {n:,} patients", quiet=quiet)
        synthetic = model.sample(n, seed=seed)
        synthetic.save(folder / "synthetic")
        say("5/6 validate against schema and rules", quiet=quiet)
        validation = validate(synthetic)
        for suffix in ("html", "json"):
            validation.save(folder / f"validation.{suffix}")
        say("6/6 evaluate beside held-out patients and baselines, with the smaller judges of --fast", quiet=quiet)
        with progress("evaluate", quiet=quiet) as tell:
            report = evaluate(
                synthetic, train=parts.train, held_out=parts.held_out, seed=seed, fast=True, progress=tell
            )
        if real.signals:
            report = replace(report, not_tested=(*report.not_tested, SHORT))
        for suffix in ("html", "json", "md"):
            report.save(folder / f"report.{suffix}")
    for line in report.verdict:
        print(line)
    for score in report.scores:
        if score.key.endswith(".record_known") and score.value is not None:
            dealt = score.anchors["independent"]
            print(f"record and waveform: known associations are off by {score.value:.2f} on average "
                  f"(real train {score.floor:.2f}, records dealt out {dealt:.2f})")  # fmt: skip
    print(f"validation: {'passed' if validation.passed else 'FAILED'}")
    print(f"report: {out / 'report.html'}")
    if validation.passed is False:
        raise typer.Exit(1)


def _generator(signals: Mapping[str, SignalSet]) -> Generator:
    """columnar-ar for the tables; a small signal-diffusion behind it where there are waveforms."""
    from cohortloom.generators import create

    if not signals:
        return create("columnar-ar")
    waves = create("signal-diffusion", **WAVES)
    return create("chain", static="columnar-ar", events="joint", signals=waves)
