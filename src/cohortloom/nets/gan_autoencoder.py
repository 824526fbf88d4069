"""Patients as latents: e of the statics, g of the course, h_t of every step.

    e ~ q(e | statics),   g ~ q(g | course, c),   h_t ~ q(h_t | steps up to t, c),   c = context(e, statics, length)
    statics ~ law(e),       step_t ~ law(GRU(h_1..h_t), h_t, g, c, steps before t)

The three embeddings and the two recoveries of TimeGAN, with laws in place of points: an embedding has learned noise, so
the latents have no holes, and a recovery draws ids, marks and values, each knowing the cells before it
(`nets.gan_law`). Trained first, by

    E_q[log law(statics) + sum_t log law(step_t)] - beta KL(q || N(0, I))

then frozen. Both recurrences run forwards and every sum is masked, so padding behind a patient's last step reaches
nothing.

References:
    Yoon, Jarrett, van der Schaar (2019). Time-series generative adversarial networks.
    Dai, Wipf (2019). Diagnosing and enhancing VAE models (two stages). arXiv:1903.05789.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cohortloom.nets.gan_law import RowLaw
from cohortloom.nets.gan_past import Clock, Memory, Past, n_facts, past_of
from cohortloom.nets.gan_rows import Rows

__all__ = ["Autoencoder", "Batch", "Latents", "padded", "places", "recurrence"]

#: Share of padded steps that are there, below which it pays to leave the others out.
SPARSE = 0.7
#: Features of a step's place in a course.
PLACE = 5


@dataclass(frozen=True)
class Batch:
    """Patients side by side.

    Args:
        static, static_seen: Statics and whether observed [subject column].
        step, step_seen: Steps, padded behind the end [subject step column]; numbers that are not observed may hold what
            lies between the records around them, NaN if nothing is known.
        length: Steps of each patient, as many as there are in `step` or more [subject].
    """

    static: torch.Tensor
    static_seen: torch.Tensor
    step: torch.Tensor
    step_seen: torch.Tensor
    length: torch.Tensor

    @property
    def there(self) -> torch.Tensor:
        """Is there a step? [subject step]"""
        return torch.arange(self.step.shape[1]) < self.length[:, None]


@dataclass(frozen=True)
class Latents:
    """Latents of patients: e, g [subject latent], h [subject step latent], the context c [subject context]."""

    e: torch.Tensor
    g: torch.Tensor
    h: torch.Tensor
    c: torch.Tensor


def places(length: torch.Tensor, n_steps: int) -> torch.Tensor:
    """Where a step stands: steps before and behind, share, first?, last? [subject step place]."""
    t = torch.arange(n_steps, dtype=torch.float32)[None]
    n = length[:, None].to(torch.float32)
    left = (n - 1 - t).clamp(min=0)
    share = (t / n.clamp(min=1)).clamp(max=1)
    parts = (torch.log1p(t).expand_as(left) / 3, torch.log1p(left) / 3, share, (t == 0).expand_as(left), left == 0)
    return torch.stack([p.to(torch.float32) for p in parts], -1)


def padded(rows: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Rows of the steps that are there, one after the other, side by side with zeros behind the end."""
    return rows.new_zeros(*there.shape, rows.shape[1]).masked_scatter(there[..., None], rows)


def recurrence(net: nn.GRU, x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """States of a recurrent net [subject step width]; a course of few steps beside a long one costs only its own."""
    n, t = x.shape[:2]
    length = length.clamp(1, t)
    if int(length.sum()) > SPARSE * n * t:
        return net(x)[0]
    state, _ = net(pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(state, batch_first=True, total_length=t)[0]


class Autoencoder(nn.Module):
    """Embeddings and recoveries.

    Args:
        static, step: Number of ids of each column; 0 for a number.
        static_start, step_start: Where the laws start, see `RowLaw`.
        static_always, step_always: Columns that are never missing.
        width: Size of the hidden layers.
        sizes: Sizes of e, g, h.
        dropout: Share of hidden units dropped while it is trained.
        use_embedding: Does c see e and the statics? Off for an ablation.
        use_course: Is there a latent g that all steps share? Off for an ablation.
        static_gates, step_gates: Columns that lie within others, see `RowLaw`.
        repeats: Column of a step -> its mark "repeat".
        limits: Largest absolute value of each number of a step.
        clock: Gaps of evenly spaced scores, the usual gap and the longest span, see `Clock`.
        tied: Do recoveries know the cells before a cell? Off for the original objective.
    """

    def __init__(
        self,
        static: Sequence[int],
        step: Sequence[int],
        *,
        static_start: Sequence[Sequence[float]],
        step_start: Sequence[Sequence[float]],
        static_always: Sequence[bool],
        step_always: Sequence[bool],
        width: int,
        sizes: tuple[int, int, int],
        dropout: float,
        use_embedding: bool = True,
        use_course: bool = True,
        static_gates: Sequence[tuple[int, int, float | None]] = (),
        step_gates: Sequence[tuple[int, int, float | None]] = (),
        repeats: Mapping[int, int] | None = None,
        limits: Sequence[float] | None = None,
        clock: tuple[Sequence[float], float, float] = ((1.0,), 1.0, 1.0),
        tied: bool = True,
    ) -> None:
        super().__init__()
        e, g, h = self.sizes = sizes
        self.use_embedding, self.use_course, self.context_size = use_embedding, use_course, width
        self.statics, self.steps = Rows(static), Rows(step)
        self.static_in = _mlp(self.statics.width, width, 2 * e, dropout)
        self.static_body = nn.Sequential(nn.Linear(e, width), nn.SiLU(), nn.Dropout(dropout))
        self.static_law = RowLaw(self.statics, width, static_start, static_always, gates=static_gates, tied=tied)
        self.context = _mlp(e + self.statics.width + 2, width, width, dropout)
        seen = self.steps.width + len(self.steps.numbers)
        self.reader = nn.GRU(seen + PLACE + width, width, batch_first=True)
        self.step_post = nn.Linear(width + seen, 2 * h)
        self.course_post = _mlp(3 * width, width, 2 * g, dropout)
        self.writer = nn.GRU(h + g + PLACE + width, width, batch_first=True)
        self.clock = Clock(*clock)
        self.marks, self.tied = frozenset((repeats or {}).values()), tied
        facts = n_facts(self.steps, self.marks, self.statics.width) if tied else 0
        self.step_body = nn.Sequential(
            nn.Linear(width + h + g + width + facts, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width),
            nn.SiLU(),
        )  # fmt: skip
        self.step_law = RowLaw(
            self.steps, width + h + g, step_start, step_always, gates=step_gates, repeats=repeats, limits=limits,
            n_facts=facts,
            tied=tied,
        )  # fmt: skip

    # -- embeddings ------------------------------------------------------------------------------------------------

    def read_statics(self, dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log sd of q(e | statics)."""
        return _two(self.static_in(dense))

    def context_of(self, e: torch.Tensor, dense: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """c [subject context]."""
        n = length.to(torch.float32)
        facts = torch.stack([torch.log1p(n) / 3, (length == 0).to(torch.float32)], -1)
        if not self.use_embedding:
            e, dense = torch.zeros_like(e), torch.zeros_like(dense)
        return self.context(torch.cat([e, dense, facts], -1))

    def rows_of(self, batch: Batch) -> torch.Tensor:
        """Dense form of the steps, zero behind the end [subject step width]."""
        there = batch.there
        return padded(self.steps(batch.step[there], batch.step_seen[there]), there)

    def read_course(
        self, batch: Batch, c: torch.Tensor, known: torch.Tensor | None = None
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """(mean, log sd) of q(h | steps) [subject step latent] and of q(g | course) [subject latent].

        Of a course that is still to be continued only the first `known` steps are read.
        """
        n, t = batch.step.shape[:2]
        there = batch.there[..., None].to(torch.float32)
        if t == 0:
            state, mean = c.new_zeros(n, 0, c.shape[1]), torch.zeros_like(c)
            step, last = state.new_zeros(n, 0, 2 * self.sizes[2]), mean
        else:
            lines = torch.nan_to_num(batch.step[..., self.steps.numbers])
            dense = torch.cat([self.rows_of(batch), lines * there], -1)
            told = torch.cat([dense, places(batch.length, t), c[:, None].expand(-1, t, -1)], -1) * there
            state = recurrence(self.reader, told, batch.length)
            step = self.step_post(torch.cat([state, dense], -1))
            upto = (batch.length if known is None else known).clamp(max=t)
            read = (torch.arange(t) < upto[:, None])[..., None].to(torch.float32)
            mean = (state * read).sum(1) / upto.clamp(min=1)[:, None]
            last = state[torch.arange(n), (upto - 1).clamp(min=0)] * (upto > 0)[:, None]
        return _two(step), _two(self.course_post(torch.cat([mean, last, c], -1)))

    def embed(self, batch: Batch, stream: torch.Generator) -> tuple[Latents, torch.Tensor, torch.Tensor]:
        """Latents drawn from q, their KL from N(0, I) and their log q [subject]; behind the end h is 0."""
        dense = self.statics(batch.static, batch.static_seen)
        e, kl_e, log_e = _drawn(self.read_statics(dense), stream)
        c = self.context_of(e, dense, batch.length)
        post_h, post_g = self.read_course(batch, c)
        g, kl_g, log_g = _drawn(post_g, stream)
        if not self.use_course:
            g, kl_g, log_g = (torch.zeros_like(x) for x in (g, kl_g, log_g))
        h, kl_h, log_h = _drawn(post_h, stream)
        there = batch.there.to(torch.float32)
        latents = Latents(e, g, h * there[..., None], c)
        return latents, kl_e + kl_g + (kl_h * there).sum(1), log_e + log_g + (log_h * there).sum(1)

    # -- recoveries ------------------------------------------------------------------------------------------------

    def states(self, latents: Latents, length: torch.Tensor) -> torch.Tensor:
        """What latents say of every step [subject step width]."""
        n, t = latents.h.shape[:2]
        _, g_size, h_size = self.sizes
        if t == 0:
            return latents.c.new_zeros(n, 0, 2 * latents.c.shape[1] + g_size + h_size)
        c, g = (x[:, None].expand(-1, t, -1) for x in (latents.c, latents.g))
        state = recurrence(self.writer, torch.cat([latents.h, g, places(length, t), c], -1), length)
        return torch.cat([state, latents.h, g, c], -1)

    def row_state(self, said: torch.Tensor, past: Past | None) -> torch.Tensor:
        """What the law of a step reads: what latents say of it, and the past [... width]."""
        body = self.step_body(said if past is None else torch.cat([said, past.facts], -1))
        _, g, h = self.sizes
        width = self.context_size
        return torch.cat([body, said[..., width : width + h + g]], -1)  # latents reach the law directly: starts linear

    def past_of(self, step: torch.Tensor, seen: torch.Tensor, length: torch.Tensor, dense: torch.Tensor) -> Past | None:
        """What rows of courses know of those before them and of the dense statics [subject step]; None: nothing."""
        if not self.tied:
            return None
        return past_of(self.steps, step, seen, self.marks, self.clock, length, self._told(dense))

    def memory(self, length: torch.Tensor, dense: torch.Tensor) -> Memory:
        """The same for courses that are being drawn."""
        return Memory(self.steps, self.marks, self.clock, length, self._told(dense))

    def _told(self, dense: torch.Tensor) -> torch.Tensor:
        return dense.detach() if self.use_embedding else torch.zeros_like(dense)

    def log_likelihood(self, batch: Batch, latents: Latents) -> tuple[torch.Tensor, torch.Tensor]:
        """log law of the statics and of the course [subject]."""
        static = self._statics_law(self.static_body(latents.e), batch)
        if batch.step.shape[1] == 0:
            return static, torch.zeros_like(static)
        return static, self._course_law(self.states(latents, batch.length), batch)

    def regression(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of laws that hear nothing from latents [subject]."""
        static = self._statics_law(torch.zeros(len(batch.length), self.static_law.out.in_features), batch)
        if batch.step.shape[1] == 0:
            return static, torch.zeros_like(static)
        return static, self._course_law(None, batch)

    def _statics_law(self, body: torch.Tensor, batch: Batch) -> torch.Tensor:
        dense = self.statics(batch.static, batch.static_seen)
        return self.static_law.log_prob(body, batch.static, batch.static_seen, dense)

    def _course_law(self, said: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        there = batch.there
        dense = self.statics(batch.static, batch.static_seen)
        past = self.past_of(batch.step, batch.step_seen, batch.length, dense)
        past = None if past is None else past.at(there)
        step, seen = batch.step[there], batch.step_seen[there]
        if said is None:
            state = step.new_zeros(len(step), self.step_law.out.in_features)
        else:
            state = self.row_state(said[there], past)
        found = self.step_law.log_prob(state, step, seen, self.steps(step, seen), past)
        return torch.zeros(there.shape).masked_scatter(there, found).sum(1)


def _mlp(inputs: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, outputs))


def _two(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log sd."""
    mean, log_sd = x.chunk(2, -1)
    return mean, log_sd.clamp(-6, 2)


def _drawn(
    law: tuple[torch.Tensor, torch.Tensor], stream: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A draw, KL from N(0, I) and log q, summed over the latent."""
    mean, log_sd = law
    noise = torch.randn(mean.shape, generator=stream)
    kl = 0.5 * (mean**2 + torch.exp(2 * log_sd) - 1 - 2 * log_sd).sum(-1)
    log_q = (-0.5 * noise**2 - log_sd - 0.9189385332046727).sum(-1)
    return mean + log_sd.exp() * noise, kl, log_q
