"""Filling holes with timegan: sequential Monte Carlo over the latents.

The model has a likelihood (its generator is invertible, its recoveries are laws), so holes have a law given all that is
observed. Each patient with holes is walked through by particles: statics, course, then step by step

    e ~ q(e | statics),   g ~ q(g | course, c),   h_t ~ q(h_t | steps up to t, c)        what the embedder reads
    holes ~ law given the latents and that they are recorded

    weight = p(e) law(statics | e) / q(e)  p(length | statics)  p(g | c) / q(g)
             product over t of p(h_t | h_<t, g, c) law(step_t | h_1..t, g, c) / q(h_t)

where of a hole the law counts the chance of being recorded only. Particles of uneven weight are drawn anew, and at the
end one is chosen and its holes are read back along its ancestors. As the number of particles grows this is a draw from
the model's law.

The embedder reads an unrecorded number as the line between its neighbours and is far too sure of it. So where numbers
are missing it reads what the generator expects there, x with spread r, and q(h_t) is widened along J = d mean / d x to
S + r^2 J J^T; and where anything is missing half of the latents come from the generator itself (the weight is that of
the mixture).

A repeat mark says whether a value is the last one again, so what fills a hole changes the mark of the next record:
marks are made anew for every particle.

References:
    Doucet, Johansen (2009). A tutorial on particle filtering and smoothing.
    Maddison et al. (2017). Filtering variational objectives. arXiv:1705.09279.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cohortloom.codec import Codec
from cohortloom.codec.tensors import Encoded
from cohortloom.generators.cell_drawing import one_of, renewed
from cohortloom.generators.impute import Holes
from cohortloom.generators.timegan_records import NEVER, raw_of, records, without_shut
from cohortloom.nets.gan_autoencoder import Batch, places
from cohortloom.nets.gan_past import Past
from cohortloom.nets.recurrent_gan import RecurrentGAN
from cohortloom.rng import Rng

__all__ = ["PARTICLES", "fill"]

#: Of each patient.
PARTICLES = 64
ROWS_AT_ONCE = 8_192


def fill(
    net: RecurrentGAN, codec: Codec, facts: Mapping[str, Any], encoded: Encoded, holes: Holes, rng: Rng,
    *, particles: int = PARTICLES,
) -> Encoded:  # fmt: skip
    """The patients with values in their holes; steps behind the longest course that was learned keep theirs."""
    static, seq = encoded.static, encoded.sequence
    assert static is not None and seq is not None and holes.static is not None and holes.sequence is not None
    static = replace(static, values=static.values.copy(), observed=static.observed.copy())
    out = replace(seq, values=seq.values.copy(), observed=seq.observed.copy())
    found = records(codec, encoded, facts, rng.child("gap"))
    told = without_shut(codec, seq)
    raw = np.column_stack([np.zeros((len(seq.values), 0)), *(raw_of(codec, told, j) for j in facts["repeats"])])
    holes = Holes(
        holes.static & _written(facts["static"][: holes.static.shape[1]]),
        holes.sequence & _written(facts["step"])[1:][: holes.sequence.shape[1]],
    )
    chosen = np.flatnonzero(holes.any_of(seq.length))
    for k, rows in enumerate(
        np.array_split(chosen, -(-len(chosen) * particles // ROWS_AT_ONCE)) if len(chosen) else []
    ):
        batch = found.batch(torch.from_numpy(rows))
        at = seq.starts[rows][:, None] + np.arange(batch.step.shape[1])
        there = batch.there.numpy()
        at = np.where(there, at, 0)
        open_ = holes.sequence[at] & there[..., None]
        last = np.where(there[..., None], raw[at], np.nan) if len(raw) else np.zeros((*at.shape, 0))
        walk = _Walk(net, codec, facts, batch, holes.static[rows], open_, last, rng.child(k), particles)
        statics, steps = walk.go()
        _put(static, rows, holes.static[rows], statics[:, : static.values.shape[1]])
        _put(out, at[there], open_[there], steps[there])
    return Encoded(static, out)


def _written(starts: Sequence[Sequence[float]]) -> np.ndarray:
    """Columns that can hold something: categories of which some level was ever recorded, and numbers [column]."""
    return np.array([len(start) == 1 or max(start[1:], default=NEVER) > NEVER for start in starts], bool)


def _put(part: Any, rows: np.ndarray, hole: np.ndarray, value: np.ndarray) -> None:
    part.values[rows] = np.where(hole, value, part.values[rows])
    part.observed[rows] |= hole


class _Walk:
    """The particles of some patients; rows are patient x particle, flattened.

    Args:
        batch: The patients as they are.
        static_hole: [patient static].
        hole: [patient step column].
        raw: Recorded values of the columns that repeat, as they stand in the table [patient step repeat].
    """

    def __init__(
        self, net: RecurrentGAN, codec: Codec, facts: Mapping[str, Any], batch: Batch, static_hole: np.ndarray,
        hole: np.ndarray, raw: np.ndarray, rng: Rng, particles: int,
    ) -> None:  # fmt: skip
        self.net, self.batch, self.n, self.p = net, batch, len(batch.length), particles
        self.static_hole, self.hole, self.raw = static_hole, hole, raw
        self.repeats = facts["repeats"]
        features = codec.sequence_features
        self.laws = [codec.transforms.get(features[j].name) for j in self.repeats]
        self.stream, self.draw = rng.child("latents").torch, rng.child("choice").numpy
        self.log_weight = np.zeros((self.n, particles))

    def go(self) -> tuple[np.ndarray, np.ndarray]:
        """Values of the statics and of the steps' columns, holes filled [patient static], [patient step column]."""
        many = torch.arange(self.n).repeat_interleave(self.p)
        length = self.batch.length[many]
        statics, e, dense = self._statics(many, length)
        source = self._renew(np.ones(self.n, bool))
        statics, e, dense = statics[source], e[source], dense[source]
        c = self.net.auto.context_of(e, dense, length)
        trail = self._steps(many, length, c, dense)
        row = np.arange(self.n) * self.p + one_of(self.log_weight, self.draw)
        steps = np.zeros(self.hole.shape)
        for t in range(len(trail) - 1, -1, -1):
            values, source = trail[t]
            row = source[row]
            steps[:, t] = values[row]
        return statics[row].numpy(), steps

    def _statics(self, many: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(values, e, dense form) of every particle."""
        auto, b = self.net.auto, self.batch
        values, seen = b.static[many], b.static_seen[many]
        static_flow = self.net.maker.static_flow
        free = torch.from_numpy(self.static_hole.any(1))[many]
        law = _diagonal(auto.read_statics(auto.statics(values, seen)))
        prior = static_flow(torch.randn(law[0].shape, generator=self.stream))
        e, log_p_e, log_q = self._proposed(law, prior, free, static_flow.log_prob)
        hole = torch.from_numpy(np.pad(self.static_hole, ((0, 0), (0, values.shape[1] - self.static_hole.shape[1]))))
        told, hole = (values, seen | hole[many], ~hole[many]), hole[many]
        values, seen, log_p = auto.static_law.filled(
            auto.static_body(e), auto.statics, self.stream, known=told, holes=hole
        )
        dense = auto.statics(values, seen)
        weight = log_p_e - log_q + log_p + self.net.lengths.log_prob(dense, length)
        self._weigh(weight)
        return values, e, dense

    def _steps(self, many: Tensor, length: Tensor, c: Tensor, dense: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Values of each step, and which of its rows every row comes from once the particles were drawn anew."""
        auto, maker, b = self.net.auto, self.net.maker, self.batch
        n_steps = b.step.shape[1]
        if not n_steps:
            return []
        wide = Batch(b.static[many], b.static_seen[many], b.step[many], b.step_seen[many], length)
        _, post_g = auto.read_course(wide, c)
        g = torch.zeros_like(post_g[0])
        if maker.use_course:
            free = torch.from_numpy(self.hole.any((1, 2)))[many]
            prior = maker.course_flow(torch.randn(g.shape, generator=self.stream), c)
            g, log_p, log_q = self._proposed(_diagonal(post_g), prior, free, partial(maker.course_flow.log_prob, c=c))
            self._weigh(log_p - log_q)
        place, memory, writer, reader = places(length, n_steps), None, None, None
        before = c.new_zeros(len(c), maker.h_size)
        last = np.full((len(c), len(self.repeats)), np.nan)  # last value as it stands in the table, and its score
        score = np.zeros(last.shape)
        trail, told, ties = [], auto.memory(length, dense), auto.step_law.ties()
        for t in range(n_steps):
            past = told.past() if auto.tied else None
            state, memory = maker.memory(torch.cat([before, g, place[:, t], c], -1)[:, None], memory)
            context = torch.cat([state[:, 0], before, g, c], -1)
            prior = maker.step_flow(torch.randn(before.shape, generator=self.stream), context)
            rest = place[:, t], c
            values, seen, hole = self._cells(t, many, last)
            law = self._law_of(values, seen, hole, self._written(prior, g, *rest, writer, past)[0], past, reader, *rest)
            h, log_p, log_q = self._proposed(law, prior, hole.any(1), partial(maker.step_flow.log_prob, c=context))
            weight = log_p - log_q
            body, writer = self._written(h, g, *rest, writer, past)
            values, seen, fit = auto.step_law.filled(
                body, auto.steps, self.stream, past, known=(values, seen | hole, ~hole), holes=hole, ties=ties
            )
            out, last, score = self._followed(t, many, values, hole, last, score)
            values = torch.from_numpy(out).float()
            _, reader = self._read(values, seen, *rest, reader)
            told.push(values, seen)
            alive = (t < b.length).numpy()
            self._weigh(torch.where(t < length, weight + fit, 0.0))
            source = self._renew(alive)
            trail.append((out[:, 1 : 1 + self.hole.shape[2]], source))
            at = torch.from_numpy(source)
            memory, writer, reader = (x[:, at] for x in (memory, writer, reader))
            told.take(at)
            before, g, c, last, score = h[at], g[at], c[at], last[source], score[source]
        return trail

    def _written(
        self, h: Tensor, g: Tensor, place: Tensor, c: Tensor, memory: Tensor | None, past: Past | None
    ) -> tuple[Tensor, Tensor]:
        """What the law of a step reads, and the memory of the recovery after it."""
        auto = self.net.auto
        state, memory = auto.writer(torch.cat([h, g, place, c], -1)[:, None], memory)
        return auto.row_state(torch.cat([state[:, 0], h, g, c], -1), past), memory

    def _read(
        self, values: Tensor, seen: Tensor, place: Tensor, c: Tensor, memory: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """(mean, log sd) of the latent of a step as the embedder reads it, and its memory after that."""
        auto = self.net.auto
        dense = torch.cat([auto.steps(values, seen), torch.nan_to_num(values[:, auto.steps.numbers])], -1)
        state, memory = auto.reader(torch.cat([dense, place, c], -1)[:, None], memory)
        mean, log_sd = auto.step_post(torch.cat([state[:, 0], dense], -1)).chunk(2, -1)
        return (mean, log_sd.clamp(-6, 2)), memory

    def _law_of(
        self, values: Tensor, seen: Tensor, hole: Tensor, body: Tensor, past: Past | None, reader: Tensor | None,
        place: Tensor, c: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Mean and Cholesky factor of the proposal of a step's latent.

        With holes in numbers: the embedder reads their expected value x, and the spread r of what the generator (whose
        draws give `body`) holds possible widens the proposal along d mean / d x: S + sum over holes of r^2 J J^T.
        """
        numbers = self.net.auto.steps.numbers
        (mean, log_sd), _ = self._read(values, seen, place, c, reader)
        cov = torch.diag_embed(torch.exp(2 * log_sd))
        here = hole[:, numbers]
        if here.any():
            dense = self.net.auto.steps(values, seen)
            found = self.net.auto.step_law.numbers_of(body, dense, past)
            at, spread = (x.view(self.n, self.p, -1) for x in found)
            var = at.var(1) + torch.exp(2 * spread).mean(1)
            at, var = (x.repeat_interleave(self.p, 0) for x in (at.mean(1), var))
            values, seen = values.clone(), seen.clone()
            values[:, numbers] = torch.where(here, at, values[:, numbers])
            seen[:, numbers] |= here
            (mean, log_sd), _ = self._read(values, seen, place, c, reader)
            cov = torch.diag_embed(torch.exp(2 * log_sd))
            for k, j in enumerate(numbers):
                if here[:, k].any():
                    moved = values.clone()
                    step = var[:, k].sqrt()
                    moved[:, j] += torch.where(here[:, k], step, 0.0)
                    slope = self._read(moved, seen, place, c, reader)[0][0] - mean  # times the spread
                    cov = cov + slope[:, :, None] * slope[:, None, :]
        return mean, torch.linalg.cholesky(cov)

    def _cells(self, t: int, many: Tensor, last: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Values, marks and holes of step t of every particle."""
        values, seen = self.batch.step[many, t].clone(), self.batch.step_seen[many, t].clone()
        k, own = self.hole.shape[2], many.numpy()
        hole = np.zeros(values.shape, bool)
        hole[:, 1 : 1 + k] = self.hole[own, t]
        raw = self.raw[own, t]
        for i, j in enumerate(self.repeats):
            known = ~np.isnan(last[:, i])
            mark = np.where(known & ~np.isnan(raw[:, i]), np.where(raw[:, i] == last[:, i], 2.0, 1.0), 0.0)
            values[:, 1 + k + i], seen[:, 1 + k + i] = torch.from_numpy(mark).float(), torch.from_numpy(mark > 0)
            hole[:, 1 + k + i] = hole[:, 1 + j] & known
        return values, seen, torch.from_numpy(hole)

    def _followed(
        self, t: int, many: Tensor, values: Tensor, hole: Tensor, last: np.ndarray, score: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values with repeats written, and what stands last in columns that repeat."""
        out, hole, k = torch.nan_to_num(values).numpy().astype(float), hole.numpy(), self.hole.shape[2]
        raw = self.raw[many.numpy(), t]
        last, score = last.copy(), score.copy()
        for i, j in enumerate(self.repeats):
            again = hole[:, 1 + k + i] & (out[:, 1 + k + i] > 1.5)
            out[again, 1 + j] = score[again, i]
            drawn = hole[:, 1 + j] & ~again
            law = self.laws[i]
            last[drawn, i] = out[drawn, 1 + j] if law is None else law.decode(out[drawn, 1 + j])
            score[drawn, i] = out[drawn, 1 + j]
            recorded = ~np.isnan(raw[:, i])
            last[recorded, i], score[recorded, i] = raw[recorded, i], out[recorded, 1 + j]
        return out, last, score

    def _proposed(
        self, law: tuple[Tensor, Tensor], prior: Tensor, free: Tensor, log_prob: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents from q, where a hole leaves them `free` half of them from the prior: (draw, log p, log q).

        Args:
            law: Mean and Cholesky factor of q.
        """
        mean, factor = law
        first = free & (torch.rand(len(mean), generator=self.stream) < 0.5)
        noise = torch.randn(mean.shape, generator=self.stream)
        x = torch.where(first[:, None], prior, mean + (factor @ noise[..., None])[..., 0])
        log_p = log_prob(x)
        z = torch.linalg.solve_triangular(factor, (x - mean)[..., None], upper=False)[..., 0]
        log_q = (-0.5 * z**2 - torch.diagonal(factor, dim1=-2, dim2=-1).log() - 0.9189385332046727).sum(-1)
        return x, log_p, torch.where(free, torch.logaddexp(log_p, log_q) - math.log(2), log_q)

    def _weigh(self, weight: Tensor) -> None:
        self.log_weight += weight.double().numpy().reshape(self.n, self.p)

    def _renew(self, active: np.ndarray) -> np.ndarray:
        """Rows drawn anew by weight, of active patients whose weights have become uneven."""
        share = np.exp(self.log_weight - self.log_weight.max(1, keepdims=True))
        uneven = active & (share.sum(1) ** 2 / (share**2).sum(1) < self.p / 2)
        if not uneven.any():
            return np.arange(self.n * self.p)
        source = renewed(self.log_weight, uneven, self.draw)
        self.log_weight[uneven] = 0.0
        return source


def _diagonal(law: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor of independent normals."""
    mean, log_sd = law
    return mean, torch.diag_embed(log_sd.exp())
