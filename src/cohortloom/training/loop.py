"""The training loop: one for VAEs, diffusion models, adversarial pairs and autoregressive networks.

A run is a list of phases. Within a phase, step k deals each objective its mini-batches, clips the gradient of each and
moves its parameters (AdamW or Muon), then updates the average of weights. Every `evaluate_every` steps the average is
scored on held-out patients; the best average is what the phase leaves behind.

No random state is carried along: the stream of step k is child(phase, attempt, "step", k), the deal of epoch e is
child(phase, attempt, "deal", e). The state at an evaluation, a `Snapshot`, is therefore complete with weights, moments,
averages and a few numbers. It serves twice: it is what a diverged run goes back to (with half the rate), and what is
written to disk, so a killed run that is resumed ends with the bits of one that was not.

A budget in minutes ends phases by the clock and lets the rate fall to its end in that time; such runs differ from
machine to machine. Runs bounded by steps do not (on one kind of processor and one version of torch).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cohortloom.errors import FileFormatError, Problem, TrainingError
from cohortloom.rng import Rng
from cohortloom.training.adamw import AdamW
from cohortloom.training.checkpoint import read_checkpoint, write_checkpoint
from cohortloom.training.ema import Average, copy_state, put_state
from cohortloom.training.history import History
from cohortloom.training.muon import Muon, is_kernel
from cohortloom.training.phase import Loss, Objective, Phase
from cohortloom.training.settings import Training
from cohortloom.training.streams import drawing_from, few_threads

__all__ = ["train"]

Progress = Callable[[float, float, str], None]

FIRST = 2.0  #: The earliest checkpoint, and the least time between two [s].


def train(
    net: torch.nn.Module,
    phases: Sequence[Phase],
    training: Training,
    rng: Rng,
    *,
    progress: Progress | None = None,
    minutes: float | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    fingerprint: str = "",
) -> History:
    """Train a network in place; afterwards it holds the best average of every phase and is in eval mode.

    Args:
        net: The whole network; every phase's `net` is it or a part of it.
        phases: What to train, in order.
        training: Settings, unless a phase has its own.
        rng: Stream of the run; read by children only.
        progress: Called with (done, total, note); the note has loss, rate and time left.
        minutes: Budget of wall-clock time [min], shared out among the phases by their `share`.
        checkpoint: File the state is written to while training, and read from if `resume`.
        resume: Go on from the checkpoint. If there is none yet the run starts anew.
        fingerprint: Names settings, data and seed; a checkpoint of another fingerprint is refused.

    Raises:
        TrainingError: the loss was not finite again and again, or a phase has no items.
        FileFormatError: the checkpoint is unreadable or belongs to another run.
    """
    run = _Run(net, list(phases), training, rng, progress, minutes, checkpoint, fingerprint)
    empty = [p.name for p in run.phases if not len(p.items)]
    if empty:
        raise TrainingError(f"phases without items: {', '.join(empty)}. There are too few patients to train on.")
    first, saved = run.read() if resume and checkpoint is not None and Path(checkpoint).exists() else (0, None)
    sizes = ((phase.training or training).resolved(len(phase.items)).batch_size for phase in run.phases)
    batch = max(sizes, default=0)
    with few_threads(net, training.threads, batch if getattr(net, "row_by_row", False) else None):
        for number in range(first, len(run.phases)):
            _PhaseRun(run, number).go(saved if number == first else None)
    net.eval()
    return run.history


@dataclass
class _Run:
    """What the phases of a run share."""

    net: torch.nn.Module
    phases: list[Phase]
    training: Training
    rng: Rng
    progress: Progress | None
    minutes: float | None
    checkpoint: str | Path | None
    fingerprint: str
    history: History = field(default_factory=History)
    began: float = field(default_factory=time.monotonic)
    written: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds trained, those before a resume included."""
        return time.monotonic() - self.began

    def read(self) -> tuple[int, Snapshot]:
        assert self.checkpoint is not None
        tensors, facts = read_checkpoint(self.checkpoint)
        names = [p.name for p in self.phases]
        if facts.get("fingerprint") != self.fingerprint or facts.get("phases") != names:
            problem = Problem(
                "other-run",
                Path(self.checkpoint).name,
                "belongs to a run with other settings, another cohort or another seed",
                "Fit with the same three, or delete it and fit again without resume.",
            )
            raise FileFormatError("", [problem])
        whole = {n[4:]: v for n, v in tensors.items() if n.startswith("net/")}
        put_state(self.net, whole)
        self.history.records[:] = facts["history"]
        self.began = time.monotonic() - facts["elapsed"]
        rest = {n: v for n, v in tensors.items() if not n.startswith("net/")}
        return names.index(facts["phase"]), Snapshot(rest, facts["state"])

    def write(self, phase: str, snapshot: Snapshot, *, least: float) -> None:
        """Write the snapshot if the last one is older than `least` seconds, or than half of a short run and `FIRST`."""
        due = min(least, max(FIRST, self.elapsed / 2))
        if self.checkpoint is None or time.monotonic() - self.written < due:
            return
        tensors = dict(snapshot.tensors) | {f"net/{n}": v for n, v in self.net.state_dict().items()}
        facts = {
            "fingerprint": self.fingerprint,
            "phases": [p.name for p in self.phases],
            "phase": phase,
            "state": snapshot.facts,
            "history": self.history.records,
            "elapsed": self.elapsed,
            "seed": str(self.rng.seed),
        }
        write_checkpoint(self.checkpoint, {n: v.clone() for n, v in tensors.items()}, facts)
        self.written = time.monotonic()


@dataclass(frozen=True)
class Snapshot:
    """All state of a phase: tensors by path, and plain facts."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class _PhaseRun:
    """One phase of one run."""

    def __init__(self, run: _Run, number: int) -> None:
        self.run, self.number, self.phase = run, number, run.phases[number]
        self.items = torch.as_tensor(np.asarray(self.phase.items, dtype=np.int64))
        held = self.phase.held_out if self.phase.held_out is not None else ()
        self.held_out = torch.as_tensor(np.asarray(held, dtype=np.int64))
        self.set = (self.phase.training or run.training).resolved(len(self.items))
        self.optimisers = [_optimiser(o, self.set) for o in self.phase.objectives]
        self.average = Average(self.phase.net, self.set.ema, self.set.ema_power)
        self.best = copy_state(self.phase.net)
        #: Plain numbers that make up the state, beside the tensors.
        self.at: dict[str, Any] = dict(
            step=0, dealt=0, attempt=0, scale=1.0, best=None, best_step=0, waited=0, first=None, spent=0.0
        )
        self.losses: dict[str, list[float]] = {o.name: [] for o in self.phase.objectives}
        self._deal: tuple[tuple[int, int], torch.Tensor] | None = None
        self._told = 0.0

    # -- the loop ------------------------------------------------------------------------------------------------

    def go(self, saved: Snapshot | None) -> None:
        """Train from the start or from a snapshot until steps, time or patience are used up."""
        if saved is not None:
            self.restore(saved)
        self.since = time.monotonic() - self.at["spent"]
        self.budget = self._budget()
        if self.phase.judge_start and not self.at["step"] and saved is None and not self._finished():
            self.evaluate()
        good, why = self.take(), self._finished()
        self.run.write(self.phase.name, good, least=self.set.checkpoint_seconds)
        self.phase.net.train()
        while not why:
            trouble = self.step()
            if trouble is None and (self.at["step"] % self.set.evaluate_every == 0 or self._finished()):
                trouble = self.evaluate()
                if trouble is None:
                    good = self.take()
                    self.run.write(self.phase.name, good, least=self.set.checkpoint_seconds)
            if trouble is not None:
                self.roll_back(good, trouble)
            why = self._finished()
            self.tell()
        at = self.at
        put_state(self.phase.net, self.best if at["best"] is not None else self.average.state)
        self.run.history.add("end", self.phase.name, at["step"], why=why, best=at["best"], best_step=at["best_step"])
        self.phase.net.eval()

    def step(self) -> str | None:
        """One step of every objective whose turn it is; the trouble met, if any."""
        at, stream = self.at, self.run.rng.child(self.phase.name, self.at["attempt"], "step", self.at["step"])
        rate = self.set.rate(at["step"], self._done()) * at["scale"]
        with drawing_from(stream.child("layers").torch):
            for objective, optimiser in zip(self.phase.objectives, self.optimisers):
                if at["step"] % objective.every:
                    continue
                for group in optimiser.param_groups:
                    group["lr"] = group["height"] * rate
                for turn in range(objective.repeats):
                    draw = stream.child(objective.name, turn).torch
                    value = self._update(objective, optimiser, self._batch(), draw)
                    if not math.isfinite(value):
                        return f"{objective.name}: loss or gradient not finite"
                    self.losses[objective.name].append(value)
        self.average.update(at["step"])
        at["step"] += 1
        return None

    def _update(self, objective: Objective, optimiser: Any, batch: torch.Tensor, draw: torch.Generator) -> float:
        """Move the objective's parameters once; returns the loss, or NaN if it or the gradient is not finite."""
        loss = objective.loss(batch, draw)
        value = float(loss.detach())
        if not math.isfinite(value):
            return math.nan
        # backward, not grad: it lays gradients out like their parameters (the fused step reads memory, not strides)
        torch.autograd.backward(loss, inputs=objective.parameters)
        present = [p.grad for p in objective.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(present)
        if not bool(torch.isfinite(norm)):
            optimiser.zero_grad()
            return math.nan
        if self.set.clip and norm > self.set.clip:
            torch._foreach_mul_(present, self.set.clip / (float(norm) + 1e-6))
        optimiser.step()
        optimiser.zero_grad()
        return value

    def _batch(self) -> torch.Tensor:
        """The next mini-batch: every epoch is a permutation, cut into batches of nearly equal size."""
        n, at = len(self.items), self.at
        per_epoch = math.ceil(n / self.set.batch_size)
        epoch, place = divmod(at["dealt"], per_epoch)
        if self._deal is None or self._deal[0] != (at["attempt"], epoch):
            stream = self.run.rng.child(self.phase.name, at["attempt"], "deal", epoch)
            self._deal = (at["attempt"], epoch), self.items[torch.as_tensor(stream.numpy.permutation(n))]
        at["dealt"] += 1
        return self._deal[1][place * n // per_epoch : (place + 1) * n // per_epoch]

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(self) -> str | None:
        """Score the average of weights on the held-out items, keep the best; the trouble met, if any."""
        at, facts = self.at, {n: _mean(v) for n, v in self.losses.items()}
        validation = self._validate() if len(self.held_out) else None
        if validation is not None:
            if not math.isfinite(validation):
                return self.phase.if_infinite
            at["first"] = validation if at["first"] is None else at["first"]
            if validation > at["first"] + 10 * (abs(at["first"]) + 1):
                if not self._learned(facts):
                    return "validation loss ran away"
                at["over"] = "validation loss ran away while the training loss fell"
            at["waited"] += 1
            if at["best"] is None or validation < at["best"]:
                at["best"], at["best_step"], at["waited"] = validation, at["step"], 0
                self.best = {n: v.clone() for n, v in self.average.state.items()}
        rate = self.set.rate(at["step"] - 1, self._done()) * at["scale"]
        clocked = {} if self.run.minutes is not None else {"rate": rate}
        self.run.history.add("evaluation", self.phase.name, at["step"], loss=facts, validation=validation, **clocked)
        self.losses = {name: [] for name in self.losses}
        return None

    def _learned(self, facts: dict[str, float | None]) -> bool:
        """Has the training loss come down since the first evaluation? Then the net overfits, and has not diverged."""
        name = self.phase.objectives[0].name
        started = [e for e in self.run.history.of("evaluation", self.phase.name) if e["loss"].get(name) is not None]
        now = facts[name]
        return bool(started) and now is not None and now < started[0]["loss"][name]

    def _validate(self) -> float:
        """Mean score of the held-out items under the averaged weights; the same draws every time."""
        score: Loss = self.phase.score or self.phase.objectives[0].loss
        size, total = max(4 * self.set.batch_size, 256), 0.0
        net, live = self.phase.net, copy_state(self.phase.net)
        put_state(net, self.average.state)
        net.eval()
        with torch.no_grad():
            for k, batch in enumerate(self.held_out.split(size)):
                stream = self.run.rng.child(self.phase.name, "validation", k)
                with drawing_from(stream.child("layers").torch):
                    total += float(score(batch, stream.child("draw").torch)) * len(batch)
        net.train()
        put_state(net, live)
        return total / len(self.held_out)

    # -- state ---------------------------------------------------------------------------------------------------

    def take(self) -> Snapshot:
        """A copy of all state, complete at an evaluation and at the start."""
        self.at["spent"] = time.monotonic() - self.since
        tensors = {f"live/{n}": v for n, v in copy_state(self.phase.net).items()}
        tensors |= {f"average/{n}": v.clone() for n, v in self.average.state.items()}
        tensors |= {f"best/{n}": v.clone() for n, v in self.best.items()}
        tensors |= {path: value.clone() for path, value in self._moments()}
        return Snapshot(tensors, dict(self.at))

    def restore(self, snapshot: Snapshot) -> None:
        self.at = dict(snapshot.facts)
        parts: dict[str, dict[str, torch.Tensor]] = {"live": {}, "average": {}, "best": {}, "moments": {}}
        for path, value in snapshot.tensors.items():
            part, _, name = path.partition("/")
            parts[part][name] = value
        put_state(self.phase.net, parts["live"])
        for name, value in self.average.state.items():
            value.copy_(parts["average"][name])
        self.best = {n: v.clone() for n, v in parts["best"].items()}
        for i, (objective, optimiser) in enumerate(zip(self.phase.objectives, self.optimisers)):
            optimiser.state.clear()
            for j, parameter in enumerate(objective.parameters):
                prefix = f"{i}/{j}/"
                found = {
                    n[len(prefix) :]: _laid_out_like(parameter, v)
                    for n, v in parts["moments"].items()
                    if n.startswith(prefix)
                }
                if found:
                    optimiser.state[parameter] = found
        self.losses = {name: [] for name in self.losses}

    def _moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        for i, (objective, optimiser) in enumerate(zip(self.phase.objectives, self.optimisers)):
            for j, parameter in enumerate(objective.parameters):
                for key, value in optimiser.state.get(parameter, {}).items():
                    yield f"moments/{i}/{j}/{key}", value

    def roll_back(self, good: Snapshot, why: str) -> None:
        """Return to the last good state with half the rate and new draws."""
        failed, attempt, scale = self.at["step"], self.at["attempt"] + 1, self.at["scale"] / 2
        self.restore(good)
        self.at.update(attempt=attempt, scale=scale)
        good.facts.update(attempt=attempt, scale=scale)
        self.run.history.add("rollback", self.phase.name, failed, why=why, scale=scale)
        if attempt > self.set.retries and self.phase.lenient:
            self.at["over"] = why
            return
        if attempt > self.set.retries:
            raise TrainingError(
                f'phase "{self.phase.name}" diverged {attempt} times ({why}, last at step {failed}), each time '
                "from the last good state at half the rate. Lower training.learning_rate "
                f"(it is {self.set.learning_rate:g}), or check the input for extreme numbers with cohortloom.validate."
            )

    # -- when to stop, what to tell ------------------------------------------------------------------------------

    def _budget(self) -> float | None:
        """Seconds this phase may take: its share of what is left."""
        if self.run.minutes is None:
            return None
        left = 60 * self.run.minutes - (self.run.elapsed - self.at["spent"])
        shares = [p.share for p in self.run.phases[self.number :]]
        return max(left, 0.0) * shares[0] / max(sum(shares), 1e-9)

    def _done(self) -> float:
        """Share of the phase that is behind it, by steps or by time, whichever is further."""
        steps = self.at["step"] / self.set.steps
        if self.budget is None:
            return steps
        return min(1.0, max(steps, (time.monotonic() - self.since) / max(self.budget, 1e-9)))

    def _finished(self) -> str:
        if self.at.get("over"):
            return self.at["over"]
        if self.at["step"] >= self.set.steps:
            return "steps"
        if self.set.patience and self.at["waited"] >= self.set.patience:
            return "patience"
        return "time" if self.budget is not None and self._done() >= 1 else ""

    def tell(self) -> None:
        """Report at most five times a second."""
        now = time.monotonic()
        if self.run.progress is None or now - self._told < 0.2:
            return
        self._told = now
        shares, done = [p.share for p in self.run.phases], self._done()
        behind = sum(shares[: self.number]) + shares[self.number] * done
        recent = _mean(self.losses[self.phase.objectives[0].name][-50:])
        rate = self.set.learning_rate * self.set.rate(self.at["step"], done) * self.at["scale"]
        note = f"{self.phase.name} step {self.at['step']}"
        note += f", loss {recent:.3f}" if recent is not None else ""
        note += f", validation {self.at['best']:.3f}" if self.at["best"] is not None else ""
        note += f", rate {rate:.1e}, {self._left(behind / sum(shares))} left"
        self.run.progress(behind, sum(shares), note)

    def _left(self, done: float) -> str:
        spent = self.run.elapsed
        left = spent * (1 - done) / max(done, 1e-6)
        if self.run.minutes is not None:
            left = min(left, 60 * self.run.minutes - spent)
        return f"{int(max(left, 0)) // 60}:{int(max(left, 0)) % 60:02d}"


def _optimiser(objective: Objective, training: Training) -> AdamW:
    """AdamW or Muon in groups: matrices decay, vectors do not; convolutions go by Muon."""
    height = objective.learning_rate or training.learning_rate
    decay = training.weight_decay if objective.weight_decay is None else objective.weight_decay
    by_muon = training.optimizer == "muon"
    kernels = {p for p in objective.parameters if by_muon and is_kernel(p)}
    others = [p for p in objective.parameters if p not in kernels]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": decay, "height": height},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0, "height": height},
        {"params": [p for p in objective.parameters if p in kernels], "weight_decay": decay, "height": height,
         "kernels": True},
    ]  # fmt: skip
    kind = Muon if by_muon else AdamW
    return kind([g for g in groups if g["params"]], lr=height, betas=objective.betas or training.betas)


def _laid_out_like(parameter: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """A copy of a moment in the parameter's own memory layout (the fused step reads memory, not strides)."""
    if moment.shape != parameter.shape:
        return moment.clone()
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
