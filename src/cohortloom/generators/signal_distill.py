"""A fitted `signal-diffusion` that draws in 8, 4, 2 or 1 steps (`cohortloom distill`).

Nothing but the model is needed: the records distilled on are its own draws, for given patients or for people of whom
nothing is known, so no real waveform is looked at again. Stage by stage the student halves the steps
(`diffusion/distill.py`), from the model's own grid of 16.

The price is measured on fresh draws from the same noise, beat series and codes: how far the student's record lies from
the teacher's, in standard deviations; spectra; and the size of the steepest slopes, which few steps blunt first. Beats,
codes and labels are drawn before the samples and stay as they were.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from cohortloom.codec.beats import Beats
from cohortloom.codec.wave_events import Events
from cohortloom.cohort import Cohort
from cohortloom.diffusion.distill import Stage, distill_stage
from cohortloom.errors import SettingsError
from cohortloom.generators.signal_diffusion import SignalDiffusion, _people
from cohortloom.rng import Rng

__all__ = ["GRID", "Price", "distill"]

#: Steps of the grid that students thin out.
GRID = 16
_BATCH = 16


@dataclass(frozen=True)
class Price:
    """One way of sampling against the teacher's own, on the same noise.

    Args:
        sampler, steps: How it was drawn; `evaluations` of the network for one record.
        distance: Root mean square difference from the teacher's records, in their standard deviations.
        spectrum: Mean |log10 ratio| of the mean power spectra.
        steepness: Mean over records of the steepest slopes (99th percentile of |difference|) over the teacher's.
        seconds: CPU seconds a record.
        real_time: Seconds of signal drawn in a CPU second.
    """

    sampler: str
    steps: int
    evaluations: int
    distance: float
    spectrum: float
    steepness: float
    seconds: float
    real_time: float


def distill(
    model: SignalDiffusion,
    *,
    steps: int = 4,
    updates: int = 400,
    records: int = 256,
    given: Cohort | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[SignalDiffusion, list[Stage], list[Price]]:
    """A student of a fitted model.

    Args:
        model: The teacher; it is not changed.
        steps: The student's steps: 8, 4, 2 or 1.
        updates: Of each stage.
        records: Records drawn to distil on.
        given: Patients whose records are drawn; None: people of whom nothing is known.
        seed: Of all draws.
        progress: Called with updates done, their number, and words.

    Returns:
        The student, the stages, and prices: teacher, undistilled at the student's number of steps, student.

    Raises:
        SettingsError: `steps` is no such number, or the model is a student already.
    """
    from cohortloom.training import drawing_from, few_threads

    if steps not in (8, 4, 2, 1):
        raise SettingsError(f"distill: steps must be 8, 4, 2 or 1, not {steps}.")
    if model.distilled_from is not None:
        raise SettingsError("distill: the model is a student already; distil the one it was made from.")
    if updates < 1 or records < 2:
        raise SettingsError("distill: updates must be at least 1 and records at least 2.")
    rng = Rng(seed).child("distill")
    n_stages = int(np.log2(GRID // steps))
    student = copy.copy(model)
    student.net_, student.guidance = copy.deepcopy(model.net_), 1.0  # the teacher's guidance is learned with the rest
    threads = model.training.threads
    with few_threads(model.net_, threads), drawing_from(rng.child("layers").torch):
        with torch.no_grad():
            pool = _Pool.draw(model, records, given, rng.child("pool"))
        stages, levels, teacher = [], model._levels(GRID), _frozen(model)
        for k in range(n_stages):
            stream = rng.child("rows", k)

            def batch(number: int, _teacher: Any = teacher, _stream: Rng = stream) -> Any:
                if number < 0:
                    rows = np.arange(min(_BATCH, len(pool.x)))
                else:
                    rows = _stream.child(number).numpy.integers(0, len(pool.x), _BATCH)
                law = pool.shown(_teacher, rows)[2]
                variance = None if law is None else law.spread
                return pool.x[rows], pool.bound(student, rows), pool.bound(_teacher, rows), variance

            def tell(done: int, _stage: int = k) -> None:
                if progress:
                    progress(_stage * updates + done, n_stages * updates, f"{GRID >> (_stage + 1)} steps")

            student.net_.train()
            stages.append(
                distill_stage(levels, batch, student.net_.denoiser.parameters(), updates=updates, learning_rate=2e-3,
                              generator=rng.child("noise", k).torch, second_order=k == 0, tell=tell)
            )  # fmt: skip
            levels, teacher = levels[::2], _frozen(student)
        student.net_.train(False)
        made = _with_settings(student, sampler="euler", sampling_steps=steps, distilled_from=GRID)
        with torch.no_grad():
            fresh = _Pool.draw(model, min(64, records), given, rng.child("fresh"))
            plain = _with_settings(model, sampling_steps=steps)
            prices = _prices(model, [model, plain, made], fresh, rng.child("price"))
    return made, stages, prices


def _frozen(model: SignalDiffusion) -> SignalDiffusion:
    frozen = copy.copy(model)
    frozen.net_ = copy.deepcopy(model.net_).train(False)
    frozen.net_.requires_grad_(False)
    return frozen


def _with_settings(model: SignalDiffusion, **settings: Any) -> SignalDiffusion:
    """The fitted model with other settings of sampling; weights are shared."""
    made = replace(model, **settings)
    for name, value in vars(model).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(made, name, value)
    return made


@dataclass(frozen=True)
class _Pool:
    """Records of n samples (or their latents) drawn by the teacher, scaled, and what it was told of them."""

    x: Tensor
    n: int
    drawn: np.ndarray
    context: np.ndarray
    observed: np.ndarray
    beats: Beats | Events | None

    @classmethod
    def draw(cls, model: SignalDiffusion, n: int, given: Cohort | None, rng: Rng) -> "_Pool":
        facts, codec = model.shape_.facts, model.codec_
        if given is not None and given.n_subjects:
            pick = np.arange(n) % given.n_subjects
            order = rng.child("patients").numpy.permutation(given.n_subjects)
            chosen = given.subjects.gather(order[np.unique(pick)])
            people = given.select(chosen)
        else:
            people = _people(model.schema_, None, np.arange(1, n + 1))
        ids = people.subjects if people.n_subjects else pl.Series("subject_id", np.arange(1, n + 1))
        plan = codec.plan if people.n_subjects else replace(codec.plan, at_visit=0.0)  # nobody has a visit then
        records = plan.draw(people, ids, rng.child("plan"), at_least=1)[:n]
        labels = pl.Series("label", model._labels(people, records, rng, None), dtype=pl.String)
        records = records.with_columns(labels)
        context, observed = codec.context.encode(people, records)
        _, subject = np.unique(records["subject_id"].to_numpy(), return_inverse=True)
        drawn = model.net_.prior.draw(context, observed, subject, rng.child("facts"))
        beats = model._marks(drawn, context, observed, records["n_samples"].to_numpy(), rng)
        longest = min(int(records["n_samples"].max()), max(round(model.window * facts["fs"] / model._pace), 16))  # type: ignore
        parts = []
        for k, start in enumerate(range(0, len(drawn), _BATCH)):
            rows = np.arange(start, min(start + _BATCH, len(drawn)))
            shown = model._shown(drawn[rows], context[rows], observed[rows], beats, rows, longest)
            shape = (len(rows), facts["n_channels"], longest)
            parts.append(model._integrate(model._denoise(*shown), shape, rng.child("x", k), shown[2]))
        return cls(torch.cat(parts), longest, drawn, context, observed, beats)

    def bound(self, model: SignalDiffusion, rows: np.ndarray) -> Any:
        """The model's denoiser, told of these records."""
        return model._denoise(*self.shown(model, rows))

    def shown(self, model: SignalDiffusion, rows: np.ndarray) -> Any:
        """What the model is shown of these records."""
        return model._shown(self.drawn[rows], self.context[rows], self.observed[rows], self.beats, rows, self.n)


def _prices(teacher: SignalDiffusion, models: list[SignalDiffusion], pool: _Pool, rng: Rng) -> list[Price]:
    fs, reference, found = teacher.shape_.facts["fs"] / teacher._pace, None, []
    for model in models:
        parts, spent = [], 0.0
        for k, start in enumerate(range(0, len(pool.x), _BATCH)):
            rows = np.arange(start, min(start + _BATCH, len(pool.x)))
            begin = time.process_time()
            shape = (len(rows), *pool.x.shape[1:])
            law = pool.shown(model, rows)[2]
            x = model._integrate(pool.bound(model, rows), shape, rng.child(k), law)  # the same noise for all
            parts.append(x if law is None else law.decode(x, rng.child(k, "rest").torch))
            spent += time.process_time() - begin
        x = torch.cat(parts).numpy()
        reference = x if reference is None else reference
        steep = [np.quantile(np.abs(np.diff(v, axis=2)), 0.99, axis=(1, 2)) for v in (x, reference)]
        seconds = spent / len(x)
        found.append(
            Price(
                sampler="distilled" if model.distilled_from else model.sampler,
                steps=model.sampling_steps,
                evaluations=model.sampling_steps * (2 if model.sampler == "heun" else 1)
                * (2 if model.guidance != 1.0 else 1),
                distance=float(np.sqrt(np.square(x - reference).mean()) / max(float(reference.std()), 1e-9)),
                spectrum=float(np.abs(_spectrum(x) - _spectrum(reference)).mean()),
                steepness=float(np.mean(steep[0] / np.maximum(steep[1], 1e-9))),
                seconds=seconds,
                real_time=pool.n / fs / max(seconds, 1e-9),
            )
        )  # fmt: skip
    return found


def _spectrum(x: np.ndarray) -> np.ndarray:
    """Log10 of the mean power of each channel, in bands of a 64th of the range."""
    power = np.square(np.abs(np.fft.rfft(x, axis=2))).mean(axis=0)
    edges = np.unique(np.linspace(1, power.shape[1], min(64, power.shape[1])).astype(int))
    return np.log10(np.add.reduceat(power, edges[:-1], axis=1) + 1e-9)
