"""One law for a row of mixed columns: a mixture whose components are shared by all columns.

    p(x | h) = sum_k w_k(h) prod_c p_kc(x_c | h)

A number is missing or Normal(mean, sd); a category is one of its ids (missing is one of them). Within a component the
columns are independent, over components they are not, so a row drawn from the head has columns that go together. The
noise is learned and drawn: outputs are not conditional means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

__all__ = ["MixtureHead", "Spread", "put"]

_LOG_2PI = math.log(2 * math.pi)


class Spread(nn.Module):
    """Rows of mixed columns as dense inputs: a number as (value or 0, observed), a category one-hot.

    Args:
        levels: Number of ids of each column; 0 for a number.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.numbers = [j for j, n in enumerate(levels) if not n]
        self.categories = [j for j, n in enumerate(levels) if n]
        self.n_ids = sum(levels)
        starts = [sum(levels[i] for i in self.categories[:k]) for k in range(len(self.categories))]
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.long), persistent=False)
        segment = [k for k, j in enumerate(self.categories) for _ in range(levels[j])]
        self.register_buffer("segment", torch.tensor(segment, dtype=torch.long), persistent=False)
        self.width = 2 * len(self.numbers) + self.n_ids

    def ids(self, values: torch.Tensor) -> torch.Tensor:
        """Place of each category's id among all ids [row category]."""
        return values[:, self.categories].long() + self.starts

    def forward(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Dense inputs [row width]."""
        seen = observed[:, self.numbers].to(values.dtype)
        hot = values.new_zeros(len(values), self.n_ids)
        if self.categories:
            hot.scatter_(1, self.ids(values), 1.0)
        return torch.cat([values[:, self.numbers].nan_to_num() * seen, seen, hot], 1)


class MixtureHead(nn.Module):
    """The law of a row given features h.

    Args:
        width: Size of h.
        levels: Number of ids of each column; 0 for a number.
        start: Where each column starts: log shares of its ids, or (log odds of being observed,) for a number.
        n_components: Number of components.
    """

    def __init__(self, width: int, levels: Sequence[int], start: Sequence[Sequence[float]], n_components: int) -> None:
        super().__init__()
        self.spread, self.k = Spread(levels), n_components
        n, s = len(self.spread.numbers), self.spread.n_ids
        self.sizes = (1, n, n, n, s)
        self.out = nn.Linear(width, n_components * sum(self.sizes))
        odds = [start[j][0] for j in self.spread.numbers]
        shares = [x for j in self.spread.categories for x in start[j]]
        with torch.no_grad():
            self.out.weight.mul_(0.3)
            bias = torch.zeros(n_components, sum(self.sizes))
            bias[:, 1 : 1 + n] = 0.7 * torch.randn(n_components, n)
            bias[:, 1 + 2 * n :] = torch.tensor(odds + shares)
            bias[:, 1 + 3 * n :] += torch.randn(n_components, s)  # components that start alike learn late
            self.out.bias.copy_(bias.flatten())

    def _laws(self, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight, mean, log_sd, seen, logit = self.out(h).view(-1, self.k, sum(self.sizes)).split(self.sizes, -1)
        return weight.squeeze(-1).log_softmax(-1), mean, log_sd.clamp(-4, 1.5), seen, self._log_shares(logit)

    def _log_shares(self, logit: torch.Tensor) -> torch.Tensor:
        """Log-softmax within each category's ids."""
        logit = 20 * torch.tanh(logit / 20)  # exp stays finite without a maximum per segment
        total = logit.new_zeros(*logit.shape[:-1], len(self.spread.categories))
        total = total.index_add(-1, self.spread.segment, logit.exp())
        return logit - total.log().index_select(-1, self.spread.segment)

    def _terms(self, laws: tuple[torch.Tensor, ...], values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Log-probability of every cell under every component [row component column]."""
        _, mean, log_sd, seen, shares = laws
        x = values[:, None, self.spread.numbers].nan_to_num()
        has = observed[:, None, self.spread.numbers].to(x.dtype)
        normal = -0.5 * ((x - mean) * torch.exp(-log_sd)) ** 2 - log_sd - 0.5 * _LOG_2PI
        number = has * (nn.functional.logsigmoid(seen) + normal) + (1 - has) * nn.functional.logsigmoid(-seen)
        place = self.spread.ids(values)[:, None].expand(-1, self.k, -1)
        return torch.cat([number, shares.gather(-1, place)], -1)[..., self._order()]

    def _order(self) -> list[int]:
        """Where each column stands among (numbers, categories)."""
        place = {j: i for i, j in enumerate([*self.spread.numbers, *self.spread.categories])}
        return [place[j] for j in range(len(place))]

    def log_prob(
        self, h: torch.Tensor, values: torch.Tensor, observed: torch.Tensor, columns: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Log-density of rows, or of some of their columns [row]."""
        laws = self._laws(h)
        terms = self._terms(laws, values, observed)
        terms = terms if columns is None else terms[..., list(columns)]
        return torch.logsumexp(laws[0] + terms.sum(-1), -1)

    def sample(
        self, h: torch.Tensor, stream: torch.Generator, fixed: Mapping[int, float] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (values, observed); columns in `fixed` keep their values, the others are drawn given them."""
        laws = self._laws(h)
        weight, mean, log_sd, seen, shares = laws
        values = h.new_zeros(len(h), len(self.spread.levels))
        observed = torch.ones_like(values, dtype=torch.bool)
        if fixed:
            put(values, observed, fixed)
            weight = weight + self._terms(laws, values, observed)[..., list(fixed)].sum(-1)
        chosen = torch.multinomial(weight.softmax(-1), 1, generator=stream)[:, :, None]
        mean, log_sd, seen, shares = (
            part.gather(1, chosen.expand(-1, 1, part.shape[-1])).squeeze(1) for part in (mean, log_sd, seen, shares)
        )
        noise = torch.randn(mean.shape, generator=stream)
        values[:, self.spread.numbers] = mean + log_sd.exp() * noise
        observed[:, self.spread.numbers] = torch.rand(seen.shape, generator=stream) < seen.sigmoid()
        if self.spread.categories:
            gumbel = -torch.empty_like(shares).exponential_(generator=stream).log()
            for k, j in enumerate(self.spread.categories):
                start = int(self.spread.starts[k])
                part = slice(start, start + self.spread.levels[j])
                values[:, j] = (shares[:, part] + gumbel[:, part]).argmax(-1).to(values.dtype)
                observed[:, j] = values[:, j] > 0
        put(values, observed, fixed or {})
        return values * observed, observed


def put(values: torch.Tensor, observed: torch.Tensor, fixed: Mapping[int, float]) -> None:
    """Write fixed columns in place; NaN stands for a number that is missing (a missing category is its id 0)."""
    for j, value in fixed.items():
        values[:, j], observed[:, j] = (0.0, False) if value != value else (value, True)
