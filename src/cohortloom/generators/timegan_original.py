"""The objective of the TimeGAN paper on the networks of `timegan`, for comparison only.

    embed      L_R = 10 sqrt(mean squared error of the recovered record)
    supervise  L_S = mean squared error of the next latent, as the generator expects it
    joint      generator   bce(D(drawn), 1) + 100 sqrt(L_S) + 100 L_V      (twice per step)
               embedder    L_R + 0.1 L_S                                   (the target moves: nothing is frozen)
               critic      bce(D(real), 1) + bce(D(drawn), 0), only while above .15, on latents

    L_V = mean |sd(drawn) - sd(real)| + |mean(drawn) - mean(real)| over the batch, per step and input

Latents and recoveries are points, noise is per step only. Not carried over: losses over padding (they are masked),
lengths copied from data (they are drawn), statics ignored. Generator and supervisor are one network here, so its first
output is not judged a second time.

References:
    Yoon, Jarrett, van der Schaar (2019). Time-series generative adversarial networks. NeurIPS.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from cohortloom.generators.timegan_records import Records
from cohortloom.generators.timegan_training import (
    FEWEST_ADVERSARIAL,
    Loss,
    Recipe,
    Size,
    before_joint,
)
from cohortloom.nets.gan_autoencoder import Batch, Latents, places
from cohortloom.nets.recurrent_gan import RecurrentGAN
from cohortloom.training import Objective, Phase, Training

__all__ = ["moment_loss", "original_phases"]

GAMMA, ETA, IDLE = 100.0, 100.0, 0.15


def original_phases(
    net: RecurrentGAN,
    data: Records,
    train: np.ndarray,
    held_out: np.ndarray,
    recipe: Recipe,
    asked: Training,
    size: Size,
) -> list[Phase]:
    """The paper's three phases, and the law of lengths."""
    base = asked.over(Training(learning_rate=1e-3, betas=(0.9, 0.999), weight_decay=0.0))
    embedder, maker = [*net.auto.parameters()], [*net.maker.parameters()]
    recovery = Objective("recovery", embedder, _recovery(net, data))
    out = before_joint(net, data, train, held_out, recovery, Objective("next", maker, _next(net, data)), base)
    if len(train) < FEWEST_ADVERSARIAL:
        return out
    joint = Training(steps=size.joint_steps, learning_rate=1e-3, betas=(0.9, 0.999), weight_decay=0.0, ema=0.0,
                     evaluate_every=max(50, size.joint_steps // 30), patience=0)  # fmt: skip
    objectives = [
        Objective("generator", maker, _generator(net, data, recipe.window), repeats=2),
        Objective("embedder", embedder, _embedder(net, data, recipe.window)),
        Objective("critic", net.critic.parameters(), _critic(net, data, recipe.window)),
    ]
    # no held-out patients: the paper has no early stop and nobody who watches
    return [*out, Phase("joint", net, train, objectives, None, None, asked.over(joint), 4.0)]


def _points(net: RecurrentGAN, batch: Batch) -> Latents:
    """Embeddings without noise."""
    dense = net.auto.statics(batch.static, batch.static_seen)
    e = net.auto.read_statics(dense)[0]
    c = net.auto.context_of(e, dense, batch.length)
    h = net.auto.read_course(batch, c)[0][0] * batch.there[..., None]
    return Latents(e, torch.zeros(len(e), net.auto.sizes[1]), h, c)


def _expected(net: RecurrentGAN, latents: Latents, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Recovered statics and steps as means, zero behind the end."""
    static = net.auto.static_law.expected(net.auto.static_body(latents.e), net.auto.statics)
    n_steps = latents.h.shape[1]
    if not n_steps:
        return static, latents.h.new_zeros(len(static), 0, net.auto.steps.width)
    there = (torch.arange(n_steps) < length[:, None])[..., None]
    state = net.auto.row_state(net.auto.states(latents, length), None)
    return static, net.auto.step_law.expected(state, net.auto.steps) * there


def _generated(net: RecurrentGAN, n: int, stream: torch.Generator, window: int) -> tuple[Latents, torch.Tensor]:
    """Latents drawn with gradients, and lengths."""
    e = net.maker.statics(n, stream)
    dense = net.auto.static_law.expected(net.auto.static_body(e), net.auto.statics)
    with torch.no_grad():
        length = net.lengths.draw(dense, stream).clamp(max=net.n_steps)
    c = net.auto.context_of(e, dense, length)
    n_steps = min(int(length.max()) if n else 0, window)
    g, h = net.maker.course(c, length, n_steps, stream)
    return Latents(e, g, h, c), length


def _recovery_of(net: RecurrentGAN, batch: Batch, latents: Latents) -> torch.Tensor:
    static, step = _expected(net, latents, batch.length)
    real_static, real_step = net.dense(batch)
    count = static.numel() + batch.there.sum() * step.shape[2]
    error = torch.square(static - real_static).sum() + torch.square(step - real_step).sum()
    return 10 * torch.sqrt(error / count.clamp(min=1) + 1e-12)


def _next_of(net: RecurrentGAN, batch: Batch, latents: Latents) -> torch.Tensor:
    """Mean squared error of the next latent."""
    n, t = latents.h.shape[:2]
    if t < 2:
        return 0.0 * sum(p.sum() for p in net.maker.parameters())
    before = torch.cat([latents.h.new_zeros(n, 1, net.maker.h_size), latents.h[:, :-1]], 1)
    g, c = (x[:, None].expand(-1, t, -1) for x in (latents.g, latents.c))
    state, _ = net.maker.memory(torch.cat([before, g, places(batch.length, t), c], -1))
    said = net.maker.step_flow(torch.zeros_like(latents.h), torch.cat([state, before, g, c], -1))
    there = batch.there.clone()
    there[:, 0] = False
    apart = torch.square(said - latents.h).mean(-1) * there
    return apart.sum() / there.sum().clamp(min=1)


def moment_loss(
    drawn: torch.Tensor, real: torch.Tensor, drawn_there: torch.Tensor, there: torch.Tensor
) -> torch.Tensor:
    """L_V over the steps both have, each with the patients that reach it [subject step width]."""
    n_steps = min(drawn.shape[1], real.shape[1])
    if not n_steps:
        return drawn.new_zeros(())
    moments = []
    for x, at in ((drawn, drawn_there), (real, there)):
        weight = at[:, :n_steps, None].to(x.dtype)
        count = weight.sum(0).clamp(min=1)
        mean = (x[:, :n_steps] * weight).sum(0) / count
        var = (torch.square(x[:, :n_steps] - mean) * weight).sum(0) / count
        moments.append((mean, torch.sqrt(var + 1e-6)))
    return sum((a - b).abs().mean() for a, b in zip(*moments))


def _recovery(net: RecurrentGAN, data: Records) -> Loss:
    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        batch = data.batch(index)
        return _recovery_of(net, batch, _points(net, batch))

    return loss


def _next(net: RecurrentGAN, data: Records) -> Loss:
    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        batch = data.batch(index)
        with torch.no_grad():
            latents = _points(net, batch)
        return _next_of(net, batch, latents)

    return loss


def _generator(net: RecurrentGAN, data: Records, window: int) -> Loss:
    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        batch = data.batch(index, window)
        drawn, length = _generated(net, len(index), stream, window)
        static, step = _expected(net, drawn, length)
        there = torch.arange(step.shape[1]) < length[:, None]
        real_static, real_step = net.dense(batch)
        ones = torch.ones(len(static), 1, dtype=torch.bool)
        moments = moment_loss(step, real_step, there, batch.there)
        moments = moments + moment_loss(static[:, None], real_static[:, None], ones, ones)
        with torch.no_grad():
            latents = _points(net, batch)
        supervised = torch.sqrt(_next_of(net, batch, latents) + 1e-12)
        return _judged(net, drawn, length, 1.0) + ETA * supervised + GAMMA * moments

    return loss


def _embedder(net: RecurrentGAN, data: Records, window: int) -> Loss:
    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        batch = data.batch(index, window)
        latents = _points(net, batch)
        return _recovery_of(net, batch, latents) + 0.1 * _next_of(net, batch, latents)

    return loss


def _critic(net: RecurrentGAN, data: Records, window: int) -> Loss:
    def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        batch = data.batch(index, window)
        with torch.no_grad():
            real, (drawn, length) = _points(net, batch), _generated(net, len(index), stream, window)
        total = _judged(net, real, batch.length, 1.0) + _judged(net, drawn, length, 0.0)
        return total * float(total.detach() > IDLE)

    return loss


def _judged(net: RecurrentGAN, latents: Latents, length: torch.Tensor, truth: float) -> torch.Tensor:
    """Binary cross-entropy of the logits over patients and over steps that are there."""
    static, step = net.critic(latents.e, latents.h)
    there = torch.arange(step.shape[1]) < length[:, None]
    total = binary_cross_entropy_with_logits(static, torch.full_like(static, truth))
    if there.any():
        total = total + binary_cross_entropy_with_logits(step[there], torch.full_like(step[there], truth))
    return total
