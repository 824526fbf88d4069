"""Sequences of RR intervals, one record at a time.

Mean and spread of a record's log RR are numbers of the record (drawn with its other facts); what is left to a sequence
model is their order,

    u_k = (log RR_k - mean) / spread,      o_k = whether the beat that ends the interval is odd

with an LSTM that gives p(o_k | past) and, given o_k, a mixture of Gaussians for u_k. Respiration, the pause after an
ectopic beat and the memoryless intervals of atrial fibrillation are all laws of this kind.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["RhythmNet"]

LIMIT = 6.0


class RhythmNet(nn.Module):
    """p(u, o | condition) over a sequence of intervals.

    Args:
        n_condition: Size of the condition vector.
        width: Size of the LSTM.
        n_parts: Gaussians in the mixture.
    """

    def __init__(self, n_condition: int, *, width: int = 48, n_parts: int = 6) -> None:
        super().__init__()
        self.n_parts = n_parts
        self.condition = nn.Linear(n_condition, width)
        self.lstm = nn.LSTM(width + 3, width, batch_first=True)
        self.odd = nn.Linear(width, 1)
        self.parts = nn.Linear(width + 1, 3 * n_parts)
        with torch.no_grad():
            self.parts.bias[n_parts : 2 * n_parts] = torch.linspace(-2, 2, n_parts)
            self.odd.bias.fill_(-3.0)

    def forget_odd(self) -> None:
        """No beat is odd; what is only trained not to be will be in one record of ten."""
        with torch.no_grad():
            self.odd.weight.zero_()
            self.odd.bias.fill_(-20.0)

    def loss(
        self,
        u: Float[Tensor, "record beat"],
        odd: Bool[Tensor, "record beat"],
        real: Bool[Tensor, "record beat"],
        condition: Float[Tensor, "record condition"],
    ) -> Tensor:
        """Mean negative log-likelihood per interval."""
        before = torch.stack([u, odd.float(), torch.ones_like(u)], dim=2)[:, :-1].clamp(-LIMIT, LIMIT)
        before = nn.functional.pad(before, (0, 0, 1, 0))
        h, _ = self._run(before, condition, None)
        odds = nn.functional.binary_cross_entropy_with_logits(self.odd(h).squeeze(2), odd.float(), reduction="none")
        weight, mean, log_sd = self._mixture(h, odd)
        z = (u.clamp(-LIMIT, LIMIT)[..., None] - mean) * (-log_sd).exp()
        density = torch.logsumexp(weight - log_sd - 0.5 * z.square() - 0.5 * math.log(2 * math.pi), dim=2)
        return ((odds - density) * real).sum() / real.sum().clamp(min=1)

    def draw(
        self, condition: Float[Tensor, "record condition"], n_beats: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "record beat"], Bool[Tensor, "record beat"]]:
        """Sequences of n intervals."""
        n = len(condition)
        last, state = torch.zeros(n, 1, 3), None
        us, odds = [], []
        for _ in range(n_beats):
            h, state = self._run(last, condition, state)
            odd = torch.rand(n, 1, generator=generator) < self.odd(h).squeeze(2).sigmoid()
            weight, mean, log_sd = (p[:, 0] for p in self._mixture(h, odd))
            part = torch.multinomial(weight.exp(), 1, generator=generator)
            noise = torch.randn(n, 1, generator=generator)
            u = (mean.gather(1, part) + log_sd.gather(1, part).exp() * noise).clamp(-LIMIT, LIMIT)
            last = torch.stack([u, odd.float(), torch.ones_like(u)], dim=2)
            us.append(u)
            odds.append(odd)
        return torch.cat(us, dim=1), torch.cat(odds, dim=1)

    def _run(self, before: Tensor, condition: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        known = torch.tanh(self.condition(condition))[:, None].expand(-1, before.shape[1], -1)
        return self.lstm(torch.cat([before, known], dim=2), state)

    def _mixture(self, h: Tensor, odd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, mean, log_sd = self.parts(torch.cat([h, odd.float()[..., None]], dim=2)).chunk(3, dim=2)
        return weight.log_softmax(dim=2), mean, log_sd.clamp(-3.5, 2.0)
