"""A patient's statics and course from one latent vector.

    z ~ N(0, I)
    statics ~ head(z)
    state_t = LSTM(state_(t-1), [x_(t-1), z, statics]),   more_t ~ Bernoulli(state_t),   x_t ~ head(state_t)

x_t holds the gap before the step and its columns. The encoder reads statics and course into q(z | patient). The course
has no set length: before every step the state says whether there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from cohortloom.nets.mixture_head import MixtureHead, Spread

__all__ = ["Courses", "VisitVAE"]


class Courses:
    """Patients as tensors: a row of statics each, and ragged steps.

    Args:
        static, static_seen: Statics and whether observed [subject feature].
        step, step_seen: Steps, the patients' one after the other [step feature].
        length: Steps of each patient [subject].
    """

    def __init__(self, static, static_seen, step, step_seen, length) -> None:
        self.static, self.static_seen, self.step, self.step_seen, self.length = (
            static, static_seen, step, step_seen, length
        )  # fmt: skip
        self.start = torch.cumsum(length, 0) - length

    def rows(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(row of each step, is there one), padded [subject step]."""
        place = torch.arange(int(self.length[index].max()) if len(index) else 0)
        there = place < self.length[index, None]
        return torch.where(there, self.start[index, None] + place, 0), there


class VisitVAE(nn.Module):
    """The network of the model above.

    Args:
        static_levels, step_levels: Number of ids of each column; 0 for a number.
        static_start, step_start: Where the heads start, see `MixtureHead`.
        latent_size: Size of z.
        width: Size of the hidden layers.
        n_components: Components of the heads.
        dropout: Share of the previous step's inputs hidden from the decoder, so that it listens to z.
    """

    def __init__(
        self,
        static_levels: Sequence[int],
        static_start: Sequence[Sequence[float]],
        step_levels: Sequence[int],
        step_start: Sequence[Sequence[float]],
        *,
        latent_size: int,
        width: int,
        n_components: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.static_in, self.step_in = Spread(static_levels), Spread(step_levels)
        self.reader = nn.LSTM(self.step_in.width + 1, width, batch_first=True)
        self.posterior = nn.Sequential(
            nn.Linear(self.static_in.width + width, width), nn.SiLU(), nn.Linear(width, 2 * latent_size)
        )
        self.static_body = nn.Sequential(nn.Linear(latent_size, width), nn.SiLU())
        self.static_head = MixtureHead(width, static_levels, static_start, n_components)
        self.context = nn.Sequential(nn.Linear(latent_size + self.static_in.width, width), nn.SiLU())
        self.hide = nn.Dropout(dropout)
        self.writer = nn.LSTM(self.step_in.width + 1 + width, width, batch_first=True)
        self.more = nn.Linear(2 * width, 1)
        self.step_head = MixtureHead(2 * width, step_levels, step_start, n_components)

    def encode(self, data: Courses, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of q(z | patient) [subject latent]."""
        dense = self.static_in(data.static[index], data.static_seen[index])
        rows, there = data.rows(index)
        summary = dense.new_zeros(len(index), self.reader.hidden_size)
        if rows.shape[1]:
            hidden, _ = self.reader(self._inputs(data, rows, there))
            last = (data.length[index] - 1).clamp(min=0)
            has = (data.length[index] > 0)[:, None]
            summary = torch.where(has, hidden[torch.arange(len(index)), last], summary)
        mean, log_var = self.posterior(torch.cat([dense, summary], 1)).chunk(2, -1)
        return mean, log_var.clamp(-8, 4)

    def log_likelihood(self, data: Courses, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """log p(patient | z) [subject]."""
        values, seen = data.static[index], data.static_seen[index]
        dense = self.static_in(values, seen)
        total = self.static_head.log_prob(self.static_body(z), values, seen)
        rows, there = data.rows(index)
        before = self._inputs(data, rows, there)
        before = torch.cat([before.new_zeros(len(index), 1, before.shape[2]), before], 1)
        state = self._states(before, self.context(torch.cat([z, dense], 1)))
        more = self.more(state).squeeze(-1)
        target = torch.cat([there, there.new_zeros(len(index), 1)], 1).to(more.dtype)
        counted = torch.cat([there.new_ones(len(index), 1), there], 1).to(more.dtype)
        stop = nn.functional.binary_cross_entropy_with_logits(more, target, reduction="none")
        total = total - (stop * counted).sum(1)
        flat = rows[there]
        step = self.step_head.log_prob(state[:, :-1][there], data.step[flat], data.step_seen[flat])
        owner = torch.arange(len(index))[:, None].expand_as(there)[there]
        return total.index_add(0, owner, step)

    def _inputs(self, data: Courses, rows: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Dense steps with a mark that they are real, zeros behind the end [subject step width]."""
        flat = rows.flatten()
        dense = self.step_in(data.step[flat], data.step_seen[flat]) if len(data.step) else None
        if dense is None:
            return data.static.new_zeros(*rows.shape, self.step_in.width + 1)
        mark = torch.ones(len(dense), 1)
        return (torch.cat([dense, mark], 1).view(*rows.shape, -1)) * there[..., None]

    def _states(self, before: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat([self.hide(before), context[:, None].expand(-1, before.shape[1], -1)], -1)
        hidden, _ = self.writer(inputs)
        return torch.cat([hidden, context[:, None].expand(-1, before.shape[1], -1)], -1)

    # -- drawing -------------------------------------------------------------------------------------------------

    def latents(
        self,
        n: int,
        stream: torch.Generator,
        values: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
        columns: Sequence[int] | None = None,
        n_candidates: int = 32,
    ) -> torch.Tensor:
        """z from the prior, or, given (some) statics, by importance resampling among candidates from the prior."""
        if values is None or seen is None or columns == []:
            return torch.randn(n, self.latent_size, generator=stream)
        z = torch.randn(n, n_candidates, self.latent_size, generator=stream)
        many = (t.repeat_interleave(n_candidates, 0) for t in (values, seen))
        weight = self.static_head.log_prob(self.static_body(z.flatten(0, 1)), *many, columns)
        chosen = torch.multinomial(weight.view(n, n_candidates).softmax(-1), 1, generator=stream)
        return z[torch.arange(n), chosen.squeeze(1)]

    def courses(
        self,
        z: torch.Tensor,
        values: torch.Tensor,
        seen: torch.Tensor,
        stream: torch.Generator,
        n_steps: int,
        first: Mapping[int, float],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw courses of at most `n_steps` steps; columns in `first` are fixed at the first.

        Returns:
            (values, observed) of the steps, the patients' one after the other, and the length of each course.
        """
        context = self.context(torch.cat([z, self.static_in(values, seen)], 1))
        before, memory = z.new_zeros(len(z), self.step_in.width + 1), None
        alive, drawn = torch.arange(len(z)), []
        for t in range(n_steps):
            hidden, memory = self.writer(torch.cat([before, context], 1)[:, None], memory)
            state = torch.cat([hidden[:, 0], context], 1)
            go = torch.rand(len(alive), generator=stream) < self.more(state).squeeze(-1).sigmoid()
            go = torch.ones_like(go) if t == 0 and first else go
            alive, state, context = alive[go], state[go], context[go]
            memory = tuple(m[:, go] for m in memory)
            if not len(alive):
                break
            x, has = self.step_head.sample(state, stream, first if t == 0 else None)
            drawn.append((alive, x, has))
            before = torch.cat([self.step_in(x, has), torch.ones(len(x), 1)], 1)
        if not drawn:
            empty = z.new_zeros(0, len(self.step_in.levels))
            return empty, empty.bool(), torch.zeros(len(z), dtype=torch.long)
        owner, x, has = (torch.cat(parts) for parts in zip(*drawn))
        order = torch.sort(owner, stable=True).indices
        return x[order], has[order], torch.bincount(owner, minlength=len(z))
