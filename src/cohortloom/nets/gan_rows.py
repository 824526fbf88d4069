"""Rows of mixed columns: as inputs, as a law to draw from, and as draws a gradient passes through.

A row has numbers (with a mark "observed") and categories (ids, 0 is missing). Its dense form is

    number -> (value or 0, observed),   category of few ids -> one-hot,   category of many ids -> a row of a table

`RowLaw` gives p(row | h) with columns independent given h: observed ~ Bernoulli, value ~ Normal(mean, sd), id ~ softmax
(of low rank where there are many ids). Its draws are real draws (sampled ids, marks and noise); for a critic
the dense form of a draw carries straight-through gradients: hard forwards, relaxed backwards,

    number: mean + sd noise,    y = hard + soft - stop(soft),  soft = softmax((logits + Gumbel) / temperature)

so a critic cannot tell a draw by its softness.

A column may lie within another, its gate: where that is missing, or not above a level, there is nothing to say. Such a
cell is missing in data and draws alike, has no density, and so the law of a column is that of the rows it is there in.

References:
    Jang, Gu, Poole (2017). Categorical reparameterization with Gumbel-softmax. arXiv:1611.01144.
    Bengio, Leonard, Courville (2013). Estimating or propagating gradients through stochastic neurons. arXiv:1308.3432.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

__all__ = ["RowLaw", "Rows", "put_row"]

#: Categories of more ids go through a table and a low-rank output.
MANY_IDS = 48
TABLE = 16
RANK = 32
TEMPERATURE = 0.5
#: Rows drawn at once.
AT_ONCE = 2_048
_LOG_2PI = math.log(2 * math.pi)


class Rows(nn.Module):
    """Rows in dense form.

    Args:
        levels: Number of ids of each column; 0 for a number.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.numbers = [j for j, n in enumerate(levels) if not n]
        self.few = [j for j, n in enumerate(levels) if 0 < n <= MANY_IDS]
        self.many = [j for j, n in enumerate(levels) if n > MANY_IDS]
        self.most = max((levels[j] for j in self.few), default=0)
        real = torch.zeros(len(self.few), self.most, dtype=torch.bool)
        for k, j in enumerate(self.few):
            real[k, : levels[j]] = True
        self.register_buffer("real", real, persistent=False)
        self.register_buffer("place", real.flatten().nonzero().squeeze(1), persistent=False)
        sizes = torch.tensor([levels[j] for j in self.few], dtype=torch.long)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)
        self.tables = nn.ModuleList(nn.Embedding(levels[j], TABLE) for j in self.many)
        self.width = max(2 * len(self.numbers) + len(self.place) + TABLE * len(self.many), 1)

    def forward(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Dense form [... width] of values and marks [... column]."""
        seen = observed[..., self.numbers].to(torch.float32)
        parts = [torch.nan_to_num(values[..., self.numbers]) * seen, seen]
        if self.few:
            hot = torch.zeros(*values.shape[:-1], len(self.place))
            parts.append(hot.scatter_(-1, values[..., self.few].long() + self.starts, 1.0))
        parts += [table(values[..., j].long()) for table, j in zip(self.tables, self.many)]
        return torch.cat(parts, -1) if self.levels else torch.ones(*values.shape[:-1], 1)

    def spread(self, cells: torch.Tensor) -> torch.Tensor:
        """What is said of columns [... column], of their places in the dense form [... width]."""
        sizes = [*(self.levels[j] for j in self.few), *[TABLE] * len(self.many)]
        order = torch.tensor([*self.numbers, *self.numbers, *self.few, *self.many], dtype=torch.long)
        count = torch.tensor([1] * (2 * len(self.numbers)) + sizes, dtype=torch.long)
        return cells[..., order.repeat_interleave(count)]


class RowLaw(nn.Module):
    """p(row | h).

    Args:
        rows: Columns of the row.
        width: Size of h.
        start: Where each column starts: log shares of its ids, or (log odds of being observed,) for a number.
        always: Is the column never missing?
        low: Smallest log standard deviation of a number.
        gates: (column, its gate, level that the gate is above where the column is there; None: it need not be missing),
            gates before what lies within.
    """

    def __init__(
        self, rows: Rows, width: int, start: Sequence[Sequence[float]], always: Sequence[bool], low: float = -5.0,
        gates: Sequence[tuple[int, int, float | None]] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.gates = gates
        self.levels, self.numbers, self.few, self.many = rows.levels, rows.numbers, rows.few, rows.many
        self.low, n, m = low, len(rows.numbers), rows.most
        self.sizes = (n, n, n, len(rows.few) * m, 0 if n or rows.few else 1)
        self.out = nn.Linear(width, sum(self.sizes))
        self.register_buffer("real", rows.real, persistent=False)
        self.register_buffer("place", rows.place, persistent=False)
        kept = torch.tensor([bool(always[j]) for j in rows.numbers], dtype=torch.bool)
        self.register_buffer("always", kept, persistent=False)
        self.ends = nn.ModuleList(
            nn.Sequential(nn.Linear(width, RANK), nn.Linear(RANK, rows.levels[j])) for j in rows.many
        )
        with torch.no_grad():
            self.out.weight.mul_(0.5)
            bias = torch.zeros(sum(self.sizes))
            bias[2 * n : 3 * n] = torch.tensor([start[j][0] for j in rows.numbers])
            shares = torch.zeros(len(rows.few), m)
            for k, j in enumerate(rows.few):
                shares[k, : rows.levels[j]] = torch.tensor(start[j])
            bias[3 * n : 3 * n + shares.numel()] = shares.flatten()
            self.out.bias.copy_(bias)
            for end, j in zip(self.ends, rows.many):
                end[1].bias.copy_(torch.tensor(start[j]))

    def _laws(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, list]:
        mean, log_sd, seen, few, _ = self.out(h).split(self.sizes, -1)
        few = few.unflatten(-1, self.real.shape) if self.few else few.new_zeros(*few.shape[:-1], 0, 0)
        few = few.masked_fill(~self.real, -torch.inf).log_softmax(-1)
        low = self.low
        log_sd = low + nn.functional.softplus(log_sd - low)  # a floor that still has a gradient
        return mean, log_sd.clamp(max=1.5), seen, few, [end(h).log_softmax(-1) for end in self.ends]

    def shut(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Cells whose gate says that there is nothing [... column]."""
        out = torch.zeros(values.shape, dtype=torch.bool)
        for j, gate, level in self.gates:
            there = observed[..., gate]
            if level is not None:
                there = there & (values[..., gate] > level)
            out[..., j] = out[..., gate] | ~there
        return out

    def terms(self, h: torch.Tensor, values: torch.Tensor, observed: torch.Tensor, blank: float = 0.0) -> torch.Tensor:
        """Log-density of every cell [... column]; numbers known but not observed count `blank` times."""
        mean, log_sd, seen, few, many = self._laws(h)
        out = torch.zeros(values.shape, dtype=torch.float32)
        if self.numbers:
            x, has = torch.nan_to_num(values[..., self.numbers]), observed[..., self.numbers].to(torch.float32)
            normal = -0.5 * ((x - mean) * torch.exp(-log_sd)) ** 2 - log_sd - 0.5 * _LOG_2PI
            mark = has * nn.functional.logsigmoid(seen) + (1 - has) * nn.functional.logsigmoid(-seen)
            weight = has + blank * (1 - has) * ~torch.isnan(values[..., self.numbers]) if blank else has
            out[..., self.numbers] = weight * normal + torch.where(self.always, 0.0, mark)
        if self.few:
            ids = values[..., self.few].long().unsqueeze(-1)
            out[..., self.few] = few.gather(-1, ids).squeeze(-1)
        for share, j in zip(many, self.many):
            out[..., j] = share.gather(-1, values[..., j].long().unsqueeze(-1)).squeeze(-1)
        return out.masked_fill(self.shut(values, observed), 0.0) if self.gates else out

    def log_prob(
        self,
        h: torch.Tensor,
        values: torch.Tensor,
        observed: torch.Tensor,
        columns: Sequence[int] | None = None,
        blank: float = 0.0,
    ) -> torch.Tensor:
        """Log-density of rows, or of some of their columns [...]; see `terms`."""
        terms = self.terms(h, values, observed, blank)
        return (terms if columns is None else terms[..., list(columns)]).sum(-1)

    def numbers_of(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log sd of the numbers [... number]."""
        return self._laws(h)[:2]

    def filled(
        self,
        h: torch.Tensor,
        values: torch.Tensor,
        observed: torch.Tensor,
        holes: torch.Tensor,
        stream: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows with values drawn in their holes [... column], given that these are recorded.

        Returns:
            Values, observed, and the log-probability of all other cells and of every hole being recorded [...].
        """
        mean, log_sd, seen, few, many = self._laws(h)
        values, observed = values.clone(), observed | holes
        terms = torch.zeros(values.shape)
        if self.numbers:
            here = holes[..., self.numbers]
            x = mean + log_sd.exp() * torch.randn(mean.shape, generator=stream)
            values[..., self.numbers] = torch.where(here, x, values[..., self.numbers])
            mark = torch.where(self.always, 0.0, nn.functional.logsigmoid(seen))
            terms[..., self.numbers] = torch.where(here, mark, 0.0)
        for law, j in [*((few[..., k, :], j) for k, j in enumerate(self.few)), *zip(many, self.many)]:
            here = holes[..., j]
            if not here.any():
                continue
            there = law.clone()
            there[..., 0] = -torch.inf
            values[..., j] = torch.where(here, _drawn(there, stream).to(values.dtype), values[..., j])
            terms[..., j] = torch.where(here, there.logsumexp(-1), 0.0)
        rest = self.terms(h, values, observed).masked_fill(holes, 0.0)
        return values, observed, (rest + terms).sum(-1)

    def expected(self, h: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Mean of the dense form [... width]; without noise, so a critic tells it from data at a glance."""
        mean, _, seen, few, many = self._laws(h)
        share = torch.where(self.always, torch.ones_like(seen), seen.sigmoid())
        parts = [mean * share, share, *([few.exp().flatten(-2)[..., self.place]] if self.few else [])]
        parts += [part.exp() @ table.weight for part, table in zip(many, rows.tables)]
        return torch.cat(parts, -1) if self.levels else torch.ones(*h.shape[:-1], 1)

    def draw(
        self, h: torch.Tensor, stream: torch.Generator, rows: Rows, *, noise: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows drawn: values, observed [... column], and their dense form with gradients [... width].

        Without `noise` the most likely row: only for the original objective, whose decoder has no noise.
        """
        if not torch.is_grad_enabled():
            values, observed = self.sample(h, stream, noise=noise)
            return values, observed, rows(values, observed)
        mean, log_sd, seen, few, many = self._laws(h)
        size = 1.0 if noise else 0.0
        values = torch.zeros(*h.shape[:-1], len(self.levels))
        observed = torch.ones(values.shape, dtype=torch.bool)
        x = mean + size * log_sd.exp() * torch.randn(mean.shape, generator=stream)
        soft = torch.sigmoid((seen + size * _logistic(seen.shape, stream)) / TEMPERATURE)
        soft = torch.where(self.always, torch.ones_like(soft), soft)
        mark = (soft > 0.5).to(soft.dtype) + soft - soft.detach()
        values[..., self.numbers] = (x * mark).detach()
        observed[..., self.numbers] = soft.detach() > 0.5
        parts = [x * mark, mark]
        if self.few:
            hot = _hard(few + size * _gumbel(few.shape, stream))
            values[..., self.few] = hot.detach().argmax(-1).to(values.dtype)
            parts.append(hot.flatten(-2)[..., self.place])
        for share, j, table in zip(many, self.many, rows.tables):
            hot = _hard(share + size * _gumbel(share.shape, stream))
            values[..., j] = hot.detach().argmax(-1).to(values.dtype)
            parts.append(hot @ table.weight)
        for j in (*self.few, *self.many):
            observed[..., j] = values[..., j] > 0
        dense = torch.cat(parts, -1) if self.levels else torch.ones(*values.shape[:-1], 1)
        if self.gates:
            shut = self.shut(values, observed)
            values, observed = values.masked_fill(shut, 0.0), observed & ~shut
            dense = torch.where(rows.spread(shut), rows(values, observed), dense)
        return values, observed, dense

    def sample(
        self, h: torch.Tensor, stream: torch.Generator, *, noise: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows drawn: values, observed [row column], without gradients; in parts, to save memory."""
        values = torch.zeros(len(h), len(self.levels))
        observed = torch.ones(values.shape, dtype=torch.bool)
        for begin in range(0, len(h), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            mean, log_sd, seen, few, many = self._laws(h[part])
            x = mean + noise * log_sd.exp() * torch.randn(mean.shape, generator=stream)
            level = torch.rand(seen.shape, generator=stream) if noise else 0.5
            mark = (seen.sigmoid() > level) | self.always
            values[part, self.numbers], observed[part, self.numbers] = x * mark, mark
            laws = [(few, self.few)] if self.few else []
            for law, columns in [*laws, *((law[:, None], [j]) for law, j in zip(many, self.many))]:
                ids = _drawn(law, stream) if noise else law.argmax(-1)
                values[part, columns], observed[part, columns] = ids.to(values.dtype), ids > 0
        if self.gates:
            shut = self.shut(values, observed)
            values, observed = values.masked_fill(shut, 0.0), observed & ~shut
        return values, observed


def put_row(values: torch.Tensor, observed: torch.Tensor, fixed: Mapping[int, float]) -> None:
    """Write fixed columns in place; NaN stands for a number that is missing (a missing category is its id 0)."""
    for j, value in fixed.items():
        values[..., j], observed[..., j] = (0.0, False) if value != value else (value, True)


def _hard(logits: torch.Tensor) -> torch.Tensor:
    """One-hot of the largest, with the gradient of a softmax."""
    soft = (logits / TEMPERATURE).softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard + soft - soft.detach()


def _drawn(law: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    """An id from each row of log shares, which need not sum to one [...]: one uniform number each."""
    below = law.softmax(-1, dtype=torch.float64).cumsum(-1)
    u = torch.rand(law.shape[:-1], generator=stream, dtype=torch.float64)[..., None] * below[..., -1:]
    return torch.searchsorted(below, u, right=True)[..., 0].clamp(max=law.shape[-1] - 1)


def _gumbel(shape: torch.Size, stream: torch.Generator) -> torch.Tensor:
    return -torch.empty(shape).exponential_(generator=stream).clamp(min=1e-20).log()


def _logistic(shape: torch.Size, stream: torch.Generator) -> torch.Tensor:
    u = torch.rand(shape, generator=stream).clamp(1e-6, 1 - 1e-6)
    return torch.log(u) - torch.log1p(-u)
