"""Sizes, phases and losses of `timegan`.

Sizes follow the number of patients n and of inputs of a step d:

    patients        width   dropout   critic   e        g    h                        steps: embed   supervise   joint
    below 500       48      .2        48       8        6    d, within 4 and 16       20-300 epochs  the same    1,200
    up to 5,000     72      .1        64       12       8    d, within 4 and 24                                  1,500
    above           96      .05       96       16       8    d, within 4 and 32                                  4,000

(`training` settings given by the user hold for every phase.) Below `FEWEST_ADVERSARIAL` patients a critic only learns
them by heart: the joint phase is left out.

Phases: "embed" (autoencoder), "length" (number of steps given statics), "supervise" (likelihood of latents under the
generator), "joint" (critic and generator take turns; autoencoder and law of lengths frozen).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cohortloom.generators.timegan_records import Records
from cohortloom.nets.gan_autoencoder import Batch
from cohortloom.nets.gan_critic import critic_hinge, generator_hinge, gradient_penalty, r1
from cohortloom.nets.gan_monitor import Monitor, features_of
from cohortloom.nets.recurrent_gan import RecurrentGAN
from cohortloom.training import Objective, Phase, Training

__all__ = ["Loss", "Recipe", "Size", "before_joint", "phases", "size_of", "watch"]

#: Patients below which there is no joint phase.
FEWEST_ADVERSARIAL = 40
#: Patients below which inputs of the critic are jittered and steps hidden from it, real and drawn alike.
AUGMENTED = 1_000
#: Steps of patients that are looked at together while recoveries and generator learn, and patients at least.
STEPS_AT_ONCE, FEWEST_AT_ONCE = 800, 16
#: Patients at least that a critic looks at together.
JUDGED_AT_ONCE = 64
#: Patients drawn at an evaluation.
WATCHED = 384
#: The penalty is taken in every so many-th critic update on average, and weighs as much more.
LAZY = 4

Loss = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Size:
    """Of the networks, with the length of the joint phase."""

    width: int
    critic_width: int
    dropout: float
    latents: tuple[int, int, int]
    joint_steps: int


def size_of(n_subjects: int, n_inputs: int) -> Size:
    """The table of the module docstring."""
    if n_subjects < 500:
        return Size(48, 48, 0.2, (8, 6, min(max(n_inputs, 4), 16)), 1_200)
    if n_subjects <= 5_000:
        return Size(72, 64, 0.1, (12, 8, min(max(n_inputs, 4), 24)), 1_500)
    return Size(96, 96, 0.05, (16, 8, min(max(n_inputs, 4), 32)), 4_000)


@dataclass(frozen=True)
class Recipe:
    """Settings of the losses; see `TimeGAN`."""

    objective: str
    beta: float
    supervision: float
    penalty: float
    window: int
    freeze: bool
    augment: bool


def phases(
    net: RecurrentGAN,
    data: Records,
    train: np.ndarray,
    held_out: np.ndarray,
    recipe: Recipe,
    asked: Training,
    size: Size,
) -> list[Phase]:
    """Everything that is trained."""
    batch = max(FEWEST_AT_ONCE, int(STEPS_AT_ONCE / (1 + float(data.length.float().mean()))))
    batch = min(batch, Training().resolved(len(train)).batch_size)
    own = Training(learning_rate=6e-3, ema=0.995, batch_size=batch)
    base = asked.over(own if net.auto.tied else Training(learning_rate=8e-3, ema=0.99))
    lines_of = asked.over(Training(learning_rate=1e-2, ema=0.995, weight_decay=0.05, final_rate=0.02, batch_size=batch))
    evidence = Objective("evidence", [*net.auto.parameters()], _evidence(net, data, recipe))
    latents = Objective("latents", net.maker.parameters(), _supervised(net, data))
    lines = Objective("regressions", _regressions(net), _lines(net, data))
    out = [Phase("rows", net, train, [lines], held_out, None, lines_of, 2.0)] if net.auto.tied else []
    out += before_joint(net, data, train, held_out, evidence, latents, base, score=_evidence(net, data, recipe))
    joint_steps = 0 if len(train) < FEWEST_ADVERSARIAL else size.joint_steps
    if joint_steps:
        at_once = min(max(batch, JUDGED_AT_ONCE), Training().resolved(len(train)).batch_size)
        out.append(_joint(net, data, train, held_out, recipe, asked, joint_steps, at_once))
    return out


def before_joint(
    net: RecurrentGAN,
    data: Records,
    train: np.ndarray,
    held_out: np.ndarray,
    embed: Objective,
    supervise: Objective,
    training: Training,
    *,
    score: Loss | None = None,
) -> list[Phase]:
    """Autoencoder (judged by `score`, None: its own loss), law of lengths, generator."""
    length = Objective("length", net.lengths.parameters(), _length_loss(net, data))
    return [
        Phase("embed", net, train, [embed], held_out, score, training, 4.0),
        Phase("length", net, train, [length], held_out, None, training, 0.3),
        Phase("supervise", net, train, [supervise], held_out, None, training, 2.0),
    ]


def _joint(
    net: RecurrentGAN,
    data: Records,
    train: np.ndarray,
    held_out: np.ndarray,
    recipe: Recipe,
    asked: Training,
    steps: int,
    at_once: int,
) -> Phase:
    """Critic and generator take turns, at two time scales."""
    training = Training(
        steps=steps, learning_rate=1e-3, betas=(0.0, 0.9), ema=0.995, patience=10, evaluate_every=max(50, steps // 30),
        final_rate=0.1, weight_decay=0.0, batch_size=at_once,
    )  # fmt: skip
    maker = [*net.maker.parameters()]
    if not recipe.freeze:
        maker += [*net.auto.parameters()]
    return Phase(
        "joint", net, train,
        [
            Objective("critic", net.critic.parameters(), _critic(net, data, recipe), learning_rate=2e-3),
            Objective("generator", maker, _generator(net, data, recipe), learning_rate=5e-4),
        ],
        held_out, watch(net, data, train), asked.over(training), 3.0,
        judge_start=True, lenient=True, if_infinite="drawn patients are all alike (collapse)",
    )  # fmt: skip


# -- losses ------------------------------------------------------------------------------------------------------------


def _evidence(net: RecurrentGAN, data: Records, recipe: Recipe) -> Loss:
    scale = 1.0 / (1.0 + float(data.length.float().mean()))

    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        batch = data.batch(index)
        latents, information, _ = net.auto.embed(batch, stream)
        static, course = net.auto.log_likelihood(batch, latents)
        return scale * (recipe.beta * information - static - course).mean()

    return loss


def _regressions(net: RecurrentGAN) -> list[torch.nn.Parameter]:
    """What recoveries know of a cell without latents."""
    return [*net.auto.static_law.regressions(), *net.auto.step_law.regressions()]


def _lines(net: RecurrentGAN, data: Records) -> Loss:
    scale = 1.0 / (1.0 + float(data.length.float().mean()))

    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        static, course = net.auto.regression(data.batch(index))
        return -scale * (static + course).mean()

    return loss


def _length_loss(net: RecurrentGAN, data: Records) -> Loss:
    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        dense = net.auto.statics(data.static[index], data.static_seen[index])
        return -net.lengths.log_prob(dense.detach(), data.length[index]).mean()

    return loss


def _supervised(net: RecurrentGAN, data: Records, window: int | None = None) -> Loss:
    scale = 1.0 / (1.0 + float(data.length.float().mean()))

    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        net.auto.eval()  # frozen: without its dropout
        batch = data.batch(index, window)
        with torch.no_grad():
            latents, _, _ = net.auto.embed(batch, stream)
        static, course = net.maker.log_prob(latents, batch.length)
        return -scale * (static + course).mean()

    return loss


def _critic(net: RecurrentGAN, data: Records, recipe: Recipe) -> Loss:
    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        net.auto.eval()
        net.lengths.eval()
        batch = data.batch(index, recipe.window)
        with torch.no_grad():
            real, drawn = net.dense(batch), net.draw(len(index), stream, window=recipe.window)
        made, length = (drawn.static_dense, drawn.step_dense), drawn.batch.length
        if recipe.augment:
            real, made = (_augmented(*pair, stream) for pair in (real, made))
        score, drawn_score = net.critic(*real, batch.length), net.critic(*made, length)
        penalised = float(torch.rand((), generator=stream)) < 1 / LAZY
        if recipe.objective == "wasserstein":
            gap = (drawn_score - score).mean(0).sum()
            if not penalised:
                return gap
            real, made = _alike(real, made)
            both = torch.maximum(batch.length, length)
            slope = gradient_penalty(lambda s, x: net.critic(s, x, both).sum(1), real, made, stream)
            return gap + LAZY * recipe.penalty * slope
        gap = critic_hinge(score, drawn_score)
        if not penalised:
            return gap
        slope = r1(lambda s, x: net.critic(s, x, batch.length).sum(1), *real)
        return gap + LAZY * 0.5 * recipe.penalty * slope

    return loss


def _generator(net: RecurrentGAN, data: Records, recipe: Recipe) -> Loss:
    supervised = _supervised(net, data, recipe.window)
    evidence = _evidence(net, data, recipe)

    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        net.auto.eval()
        net.lengths.eval()
        drawn = net.draw(len(index), stream, window=recipe.window)
        made = drawn.static_dense, drawn.step_dense
        if recipe.augment:
            made = _augmented(*made, stream)
        total = generator_hinge(net.critic(*made, drawn.batch.length))
        if recipe.supervision:
            total = total + recipe.supervision * supervised(index, stream)
        return total if recipe.freeze else total + evidence(index, stream)

    return loss


def watch(net: RecurrentGAN, data: Records, train: np.ndarray, *, noise: bool = True) -> Loss:
    """The monitor as a validation score: infinite where the generator has collapsed."""
    changes = len(net.auto.steps.numbers)
    monitor: list[Monitor] = []

    def features(batch: Batch) -> torch.Tensor:
        return features_of(*net.dense(batch), batch.length, changes)

    def score(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        if not monitor:  # the dense form is that of the frozen autoencoder
            monitor.append(Monitor(features(data.batch(torch.from_numpy(train[:4096])))))
        drawn = net.draw(WATCHED, stream, noise=noise)
        seen = monitor[0](features_of(drawn.static_dense, drawn.step_dense, drawn.batch.length, changes),
                          features(data.batch(index)))  # fmt: skip
        return torch.tensor(math.inf if seen.collapsed else seen.distance)

    return score


def _augmented(static: torch.Tensor, step: torch.Tensor, stream: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The same jitter and hidden steps for real and drawn patients, differentiable (Zhao et al. 2020)."""
    static = static + 0.05 * torch.randn(static.shape, generator=stream)
    shown = (torch.rand(*step.shape[:2], 1, generator=stream) > 0.1).to(step.dtype)
    there = (step.abs().sum(-1, keepdim=True) > 0).to(step.dtype)
    return static, (step + 0.05 * torch.randn(step.shape, generator=stream) * there) * shown


def _alike(
    real: tuple[torch.Tensor, torch.Tensor], made: tuple[torch.Tensor, torch.Tensor]
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The shorter of two paddings made as long as the other."""
    n_steps = max(real[1].shape[1], made[1].shape[1])
    return tuple((s, torch.nn.functional.pad(x, (0, 0, 0, n_steps - x.shape[1]))) for s, x in (real, made))
