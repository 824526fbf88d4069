"""cohortloom distill"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortloom.cli.options import Force, Out, Quiet, Seed, keep_source, progress, say


def run(
    model: Path,
    out: Out,
    steps: Annotated[int, typer.Option("--steps", help="Steps of the student: 8, 4, 2 or 1.")] = 4,
    updates: Annotated[int, typer.Option("--updates", min=1, help="Training steps of each halving.")] = 400,
    records: Annotated[int, typer.Option("--records", min=2, help="Records drawn to distil on.")] = 256,
    given: Annotated[Path | None, typer.Option("--given", help="Cohort whose patients' records are drawn.")] = None,
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Make a fitted waveform generator draw in few steps, and print what that costs in quality.

    Takes a signal-diffusion model, or a chain with one. No real record is needed.
    """
    import copy

    from cohortloom.cohort import Cohort
    from cohortloom.errors import SettingsError
    from cohortloom.files import refuse_existing
    from cohortloom.generators import load
    from cohortloom.generators.chain import Chain
    from cohortloom.generators.signal_diffusion import SignalDiffusion
    from cohortloom.generators.signal_distill import distill

    keep_source(out, model, given)
    refuse_existing(out, force)
    whole = load(model)
    teacher = whole.signals if isinstance(whole, Chain) else whole
    if not isinstance(teacher, SignalDiffusion):
        raise SettingsError(f"distill: {model} holds {whole.name}, which draws no waveforms by diffusion.")
    patients = Cohort.load(given) if given else None
    with progress("distill", quiet=quiet) as tell:
        student, stages, prices = distill(
            teacher, steps=steps, updates=updates, records=records, given=patients, seed=seed, progress=tell
        )
    made = student
    if isinstance(whole, Chain):
        made = copy.copy(whole)
        made.signals = student
    made.save(out, force=force)
    for stage in stages:
        say(f"to {stage.steps} steps: loss {stage.before:.4g} -> {stage.after:.4g}", quiet=quiet)
    print("sampler    steps  distance  spectrum  steepness  records per CPU s  times real time")
    for p in prices:
        print(
            f"{p.sampler:10} {p.steps:5}  {p.distance:8.3f}  {p.spectrum:8.3f}  {p.steepness:9.2f}"
            f"  {1 / max(p.seconds, 1e-9):17.1f}  {p.real_time:15.0f}"
        )
    print("Against the first row on the same noise: distance in standard deviations of the samples, spectrum as mean")
    print("|log10 ratio|, steepness as ratio of the steepest slopes (1: as sharp).")
    plain, last = prices[-2:]
    if last.distance > plain.distance and last.spectrum > plain.spectrum:
        print(f"It has not paid: {plain.steps} steps of {plain.sampler} without it are nearer. Try more --updates.")
    say(f"written: {out}", quiet=quiet)
