"""Drawing patients under conditions, and their likelihood, from the networks of `timegan`.

Statics that are given as a whole are embedded: e ~ q(e | statics), and the course is drawn given e and the statics.
Where only some values are fixed, each patient is chosen among `PARTICLES` candidates (e, statics, length, g, h_1) drawn
from the generator, with chance proportional to

    law(fixed statics | e) law(fixed first-visit values | h_1, g, c)

(importance resampling); then the fixed values are written, and the rest goes on from the chosen candidate. Exact for
the fixed cells, approximate in what depends on them: with few effective candidates the rest is too near to the
typical patient of that value.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cohortloom.nets.gan_autoencoder import Batch, Latents
from cohortloom.nets.gan_rows import put_row
from cohortloom.nets.recurrent_gan import RecurrentGAN

__all__ = ["PARTICLES", "continued", "drawn_patients", "evidence"]

PARTICLES = 48


def drawn_patients(
    net: RecurrentGAN,
    n: int,
    stream: torch.Generator,
    *,
    given: tuple[torch.Tensor, torch.Tensor] | None = None,
    statics: Mapping[int, float] | None = None,
    first: Mapping[int, float] | None = None,
    n_given: int = 0,
    noise: bool = True,
) -> Batch:
    """Patients with fixed values.

    Args:
        net: Trained networks.
        n: Number of patients.
        stream: Draws.
        given: Values and marks of the first `n_given` statics of every patient [subject column].
        statics: Column of the statics -> its value in all patients.
        first: Column of a step -> its value at the first step, which every patient then has.
        n_given: Statics that `given` fixes (columns behind them are drawn).
        noise: Without, recoveries hand out their most likely rows (original objective).
    """
    fixed, begin = dict(statics or {}), dict(first or {})
    many = PARTICLES if n and ((fixed and given is None) or begin) else 1
    wide = None if given is None else tuple(x.repeat_interleave(many, 0) for x in given)
    e, values, seen, weight = _statics(net, n * many, stream, wide, n_given, fixed, noise)
    auto = net.auto
    dense = auto.statics(values, seen)
    length = net.lengths.draw(dense, stream, least=1 if begin else 0).clamp(max=max(net.n_steps, 1 if begin else 0))
    c = auto.context_of(e, dense, length)
    started = rows = None
    if begin:
        g, h = net.maker.course(c, length, 1, stream)
        x, has, chance = _fixed(net, Latents(e, g, h, c), dense, length, begin, stream, noise)
        weight, started = weight + chance, (g, h, torch.ones_like(length))
        rows = x[:, None], has[:, None], torch.ones_like(length)
    if many > 1:
        chosen = torch.multinomial(weight.view(n, many).softmax(-1), 1, generator=stream).squeeze(1)
        at = torch.arange(n) * many + chosen
        e, values, seen, length, c, dense = (x[at] for x in (e, values, seen, length, c, dense))
        started, rows = (None if part is None else tuple(x[at] for x in part) for part in (started, rows))
    n_steps = int(length.max()) if n else 0
    g, h = net.maker.course(c, length, n_steps, stream, started)
    x, has = net.steps(Latents(e, g, h, c), dense, length, stream, noise=noise, begun=rows)
    return Batch(values, seen, x, has, length)


def continued(net: RecurrentGAN, past: Batch, stream: torch.Generator, *, noise: bool = True) -> Batch:
    """Patients with the steps of `past` and those that follow; how many is drawn given that there are so many already.

    The latents of the past are those of its steps (g given a part of the course, which it was not trained on).
    """
    auto, known = net.auto, past.length.clamp(max=net.n_steps)
    dense = auto.statics(past.static, past.static_seen)
    mean, log_sd = auto.read_statics(dense)
    e = mean + log_sd.exp() * torch.randn(mean.shape, generator=stream)
    length = net.lengths.draw(dense, stream, least=known).clamp(max=net.n_steps)
    c = auto.context_of(e, dense, length)
    begun = Batch(past.static, past.static_seen, past.step, past.step_seen, length)
    post_h, post_g = auto.read_course(begun, c, known)
    g, h = (mean + log_sd.exp() * torch.randn(mean.shape, generator=stream) for mean, log_sd in (post_g, post_h))
    n_steps = int(length.max()) if len(length) else 0
    g, h = net.maker.course(c, length, n_steps, stream, (g, h, known))
    x, has = past.step, past.step_seen
    if n_steps:
        begun = past.step, past.step_seen, known
        x, has = net.steps(Latents(e, g, h, c), dense, length, stream, noise=noise, begun=begun)
    return Batch(past.static, past.static_seen, x, has, length)


def _statics(
    net: RecurrentGAN,
    n: int,
    stream: torch.Generator,
    given: tuple[torch.Tensor, torch.Tensor] | None,
    n_given: int,
    fixed: Mapping[int, float],
    noise: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(e, values, marks, log weight) of candidates."""
    auto, weight = net.auto, torch.zeros(n)
    if given is None:
        e = net.maker.statics(n, stream)
    else:
        mean, log_sd = auto.read_statics(auto.statics(*given))
        e = mean + log_sd.exp() * torch.randn(mean.shape, generator=stream)
    body = auto.static_body(e)
    values, seen = torch.zeros(n, len(auto.statics.levels)), torch.zeros(n, len(auto.statics.levels)).bool()
    known = torch.zeros_like(seen)
    if given is not None:
        values[:, :n_given], seen[:, :n_given], known[:, :n_given] = *(x[:, :n_given] for x in given), True
    put_row(values, seen, fixed)
    known[:, list(fixed)] = True
    values, seen, chance = auto.static_law.filled(body, auto.statics, stream, noise=noise, known=(values, seen, known))
    return e, values, seen, weight + chance if fixed else weight


@torch.no_grad()
def _fixed(
    net: RecurrentGAN, latents: Latents, dense: torch.Tensor, length: torch.Tensor, first: Mapping[int, float],
    stream: torch.Generator, noise: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """First steps with fixed columns: values, marks [subject column], log-probability of what is fixed [subject]."""
    auto, n = net.auto, len(length)
    past = auto.memory(length, dense).past() if auto.tied else None
    values, seen = torch.zeros(n, len(auto.steps.levels)), torch.zeros(n, len(auto.steps.levels)).bool()
    put_row(values, seen, first)
    known = torch.zeros_like(seen)
    known[:, list(first)] = True
    state = auto.row_state(auto.states(latents, length)[:, 0], past)
    return auto.step_law.filled(state, auto.steps, stream, past, noise=noise, known=(values, seen, known))


def evidence(net: RecurrentGAN, batch: Batch, stream: torch.Generator, draws: int = 4) -> torch.Tensor:
    """Lower bound of the log-likelihood of each patient [subject], the mean over draws of

    log law(statics | e) + log law(steps | h, g, c) + log p(length | statics) + log p(e) + log p(g, h | c) - log q
    """
    total = torch.zeros(len(batch.length))
    dense = net.auto.statics(batch.static, batch.static_seen)
    length = net.lengths.log_prob(dense, batch.length)
    for _ in range(draws):
        latents, _, log_q = net.auto.embed(batch, stream)
        parts = (*net.auto.log_likelihood(batch, latents), *net.maker.log_prob(latents, batch.length))
        total = total + sum(parts) + length - log_q
    return total / draws
