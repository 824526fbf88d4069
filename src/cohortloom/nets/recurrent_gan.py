"""A generator of patients' latents, step by step, and all networks of a recurrent GAN of records.

    e = flow(z_s)                                       static embedding
    length ~ p(length | statics),  c = context(e, statics, length)
    g = flow(z_g; c)                                    global noise: what all steps of a patient share
    s_t = GRU(s_(t-1), [h_(t-1), g, place_t, c]),  h_t = flow(z_t; s_t, g, c)          per-step noise

Statics and steps are then drawn by the frozen recoveries of the autoencoder. Every map from noise to latent is
invertible, so the generator has a likelihood: it starts from the maximum of that (the "supervised" phase of TimeGAN,
made a law) and the critic then moves it.

References:
    Yoon, Jarrett, van der Schaar (2019). Time-series generative adversarial networks.
    Grover, Dhar, Ermon (2018). Flow-GAN. arXiv:1705.08868.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cohortloom.nets.gan_autoencoder import PLACE, Autoencoder, Batch, Latents, padded, places, recurrence
from cohortloom.nets.gan_critic import Critic, LatentCritic
from cohortloom.nets.gan_flow import LatentFlow
from cohortloom.nets.length_law import LengthLaw

__all__ = ["Drawn", "LatentGenerator", "RecurrentGAN"]


@dataclass(frozen=True)
class Drawn:
    """Generated patients, with the dense forms a critic reads (gradients pass through them).

    Args:
        batch: Values and marks.
        static_dense: [subject width].
        step_dense: Zero behind the end [subject step width].
    """

    batch: Batch
    static_dense: torch.Tensor
    step_dense: torch.Tensor


class LatentGenerator(nn.Module):
    """The maps above.

    Args:
        sizes: Sizes of e, g, h.
        context: Size of c.
        width: Hidden units.
        layers: Couplings of a flow.
        use_course: Is there global noise? Without, g is 0.
    """

    def __init__(
        self, sizes: tuple[int, int, int], context: int, width: int, layers: int, use_course: bool = True
    ) -> None:
        super().__init__()
        self.use_course = use_course
        self.e_size, self.g_size, self.h_size = e, g, h = sizes
        self.static_flow = LatentFlow(e, 0, layers=2 * layers, width=width)
        self.course_flow = LatentFlow(g, context, layers=layers, width=width)
        self.memory = nn.GRU(h + g + PLACE + context, width, batch_first=True)
        self.step_flow = LatentFlow(h, width + h + g + context, layers=layers, width=width)

    def log_prob(self, latents: Latents, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(e) and log p(g, h_1..h_T | c) [subject]; the past is the given one (teacher forcing)."""
        e, g, h, c = latents.e, latents.g, latents.h, latents.c
        n, t = h.shape[:2]
        course = self.course_flow.log_prob(g, c) if self.use_course else torch.zeros(n)
        if t:
            before = torch.cat([h.new_zeros(n, 1, self.h_size), h[:, :-1]], 1)
            wide_g, wide_c = (x[:, None].expand(-1, t, -1) for x in (g, c))
            state = recurrence(self.memory, torch.cat([before, wide_g, places(length, t), wide_c], -1), length)
            there = torch.arange(t) < length[:, None]
            told = torch.cat([x[there] for x in (state, before, wide_g, wide_c)], -1)
            course = course + padded(self.step_flow.log_prob(h[there], told)[:, None], there).sum((1, 2))
        return self.static_flow.log_prob(e), course

    def statics(self, n: int, stream: torch.Generator) -> torch.Tensor:
        """e [subject latent]."""
        return self.static_flow(torch.randn(n, self.e_size, generator=stream))

    def course(
        self,
        c: torch.Tensor,
        length: torch.Tensor,
        n_steps: int,
        stream: torch.Generator,
        begin: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """g [subject latent] and h [subject step latent], 0 behind the end.

        Where a course has begun, `begin` holds g, its first h [subject step latent] and how many there are [subject].
        """
        n = len(c)
        noise = torch.randn(n, self.g_size, generator=stream)
        g = torch.zeros_like(noise)
        if self.use_course:
            g = self.course_flow(noise, c) if begin is None else begin[0]
        order = length.argsort(descending=True, stable=True)  # only courses that go on take part in a step
        alive = (length > torch.arange(n_steps)[:, None]).sum(1).tolist()
        facts, place = torch.cat([g, c], 1)[order], places(length, n_steps)[order]
        past = None if begin is None else (begin[1][order], begin[2][order])
        h, before, memory = [], c.new_zeros(n, self.h_size), c.new_zeros(1, n, self.memory.hidden_size)
        for t, k in enumerate(alive):
            before, now = before[:k], facts[:k]
            told = torch.cat([before, now[:, : self.g_size], place[:k, t], now[:, self.g_size :]], -1)
            state, memory = self.memory(told[:, None], memory[:, :k].contiguous())
            noise = torch.randn(k, self.h_size, generator=stream)
            drawn = self.step_flow(noise, torch.cat([state[:, 0], before, now], -1))
            if past is not None and t < past[0].shape[1]:
                drawn = torch.where((t < past[1][:k])[:, None], past[0][:k, t], drawn)
            before = drawn
            h.append(nn.functional.pad(drawn, (0, 0, 0, n - k)))
        if not h:
            return g, c.new_zeros(n, 0, self.h_size)
        return g, torch.stack(h, 1)[order.argsort()]


class RecurrentGAN(nn.Module):
    """Autoencoder, law of lengths, generator and critic.

    Args:
        autoencoder: Arguments of `Autoencoder`.
        bins: Of `LengthLaw`.
        width: Hidden units of all networks.
        critic_width: Hidden units of the critic.
        layers: Couplings of a flow.
        n_steps: Longest course [steps].
        length_dropout: Share of hidden units of the law of lengths dropped while training.
        latent_critic: Judge latents instead of records (original objective).
    """

    def __init__(
        self, autoencoder: Mapping[str, Any], bins: Sequence[Sequence[float]], *, width: int, critic_width: int,
        layers: int, n_steps: int, length_dropout: float, latent_critic: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.auto = Autoencoder(**autoencoder, width=width)
        self.lengths = LengthLaw(bins, self.auto.statics.width, width, length_dropout)
        self.maker = LatentGenerator(self.auto.sizes, self.auto.context_size, width, layers, self.auto.use_course)
        e, _, h = self.auto.sizes
        self.critic: nn.Module = (
            LatentCritic(e, h, width)
            if latent_critic
            else Critic(self.auto.statics.width, self.auto.steps.width, len(self.auto.steps.numbers), critic_width)
        )
        self.n_steps = n_steps

    def draw(
        self, n: int, stream: torch.Generator, *, window: int | None = None, noise: bool = True,
        e: torch.Tensor | None = None,
    ) -> Drawn:  # fmt: skip
        """Patients drawn with gradients, their courses cut behind `window` steps."""
        e = self.maker.statics(n, stream) if e is None else e
        auto = self.auto
        body = auto.static_body(e)
        values, seen = auto.static_law.sample(body.detach(), stream, auto.statics, noise=noise)
        dense = auto.static_law.pushed(body, values, seen, auto.statics)
        with torch.no_grad():
            length = self.lengths.draw(dense, stream).clamp(max=self.n_steps)
        n_steps = min(int(length.max()) if n else 0, window or self.n_steps)
        c = auto.context_of(e, dense, length)
        g, h = self.maker.course(c, length, n_steps, stream)
        latents = Latents(e, g, h, c)
        said = auto.states(latents, length)
        x, has = self._rows(said.detach(), dense, length, stream, noise=noise)
        batch, step = Batch(values, seen, x, has, length), said.new_zeros(*said.shape[:2], auto.steps.width)
        there = batch.there
        if there.any():
            past = auto.past_of(x, has, length, dense)
            past = None if past is None else past.at(there)
            state = auto.row_state(said[there], past)
            step = padded(auto.step_law.pushed(state, x[there], has[there], auto.steps, past), there)
        return Drawn(batch, dense, step)

    def steps(
        self, latents: Latents, dense: torch.Tensor, length: torch.Tensor, stream: torch.Generator, *,
        noise: bool = True, begun: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Values and marks of steps drawn given latents and dense statics, zero behind the end [subject step column].

        Where courses have begun, `begun` holds values and marks of the first steps [subject step column] and how many
        there are [subject].
        """
        return self._rows(self.auto.states(latents, length), dense, length, stream, noise=noise, begun=begun)

    @torch.no_grad()
    def _rows(
        self, said: torch.Tensor, dense: torch.Tensor, length: torch.Tensor, stream: torch.Generator, *,
        noise: bool = True, begun: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Steps drawn one after the other."""
        auto, (n, n_steps) = self.auto, said.shape[:2]
        law, rows = auto.step_law, auto.steps
        values = torch.zeros(n, n_steps, len(rows.levels))
        seen = torch.zeros(values.shape, dtype=torch.bool)
        if not auto.tied:
            there = torch.arange(n_steps) < length[:, None]
            drawn = law.sample(auto.row_state(said[there], None), stream, rows, noise=noise)
            return tuple(padded(part, there) for part in drawn)
        order = length.argsort(descending=True, stable=True)  # only courses that go on take part in a step
        alive = (length > torch.arange(n_steps)[:, None]).sum(1).tolist()
        said, memory, ties = said[order], auto.memory(length[order], dense[order]), law.ties()
        for t, k in enumerate(alive):
            memory.take(slice(k))
            past, now = memory.past(), order[:k]
            x, has, _ = law.filled(auto.row_state(said[:k, t], past), rows, stream, past, noise=noise, ties=ties)
            if begun is not None and t < begun[0].shape[1]:
                old = (t < begun[2][now])[:, None]
                x = torch.where(old, torch.nan_to_num(begun[0][now, t]), x)
                has = torch.where(old, begun[1][now, t], has)
            memory.push(x, has)
            values[now, t], seen[now, t] = x, has
        return values, seen

    def dense(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Dense forms of real patients, zero behind the end."""
        return self.auto.statics(batch.static, batch.static_seen), self.auto.rows_of(batch)
