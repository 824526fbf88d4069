"""The law of the number of steps given statics: a softmax over bins of lengths.

A bin holds one length, or a run of neighbouring ones that too few patients have; within a run lengths are equally
likely, in the last run their chance falls as 1 / (1 + distance from its begin), so that the one longest course is not
handed out again. Length 0 is always a bin of its own if enough patients have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

__all__ = ["LengthLaw", "length_bins"]


def length_bins(length: np.ndarray, *, fewest: int = 5, most: int = 64) -> list[tuple[int, int, float]]:
    """(first length, last length, share) of each bin, from the lengths of training patients [subject]."""
    if not len(length):
        return [(0, 0, 1.0)]
    values, counts = np.unique(length, return_counts=True)
    fewest = max(fewest, -(-len(length) // (2 * most)))
    bins: list[tuple[int, int, float]] = []
    begin, held = int(values[0]), 0
    for value, count in zip(values.tolist(), counts.tolist()):
        held += count
        if held >= fewest:
            bins.append((begin, value, held / len(length)))
            begin, held = value + 1, 0
    if held:
        if (bins and bins[-1][0] == bins[-1][1] == 0) or not bins:  # nobody joins those without steps
            bins.append((begin, int(values[-1]), held / len(length)))
        else:
            first, _, share = bins.pop()
            bins.append((first, int(values[-1]), share + held / len(length)))
    return bins


class LengthLaw(nn.Module):
    """p(length | context).

    Args:
        bins: As `length_bins` gives them.
        context: Size of the context.
        width: Hidden units.
        dropout: Share of hidden units dropped while training.
    """

    def __init__(self, bins: Sequence[Sequence[float]], context: int, width: int, dropout: float) -> None:
        super().__init__()
        first, last = ([int(b[k]) for b in bins] for k in (0, 1))
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.register_buffer("last", torch.tensor(last), persistent=False)
        self.hidden = nn.Sequential(nn.Linear(context, width), nn.SiLU(), nn.Dropout(dropout))
        self.out = nn.Linear(width, len(bins))
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.copy_(torch.tensor([float(b[2]) for b in bins]).clamp(min=1e-6).log())
        falling = 1.0 / torch.arange(1, int(self.last[-1] - self.first[-1]) + 2)
        self.register_buffer("tail", falling / falling.sum(), persistent=False)

    def log_prob(self, context: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Log-probability of each length [subject]; lengths outside all bins count to the nearest."""
        length = length.clamp(int(self.first[0]), int(self.last[-1]))
        k = torch.searchsorted(self.last, length)
        share = self.out(self.hidden(context)).log_softmax(-1).gather(-1, k[:, None]).squeeze(-1)
        within = -torch.log((self.last - self.first + 1)[k].to(share.dtype))
        tail = self.tail[(length - self.first[-1]).clamp(0, len(self.tail) - 1)].log()
        return share + torch.where(k == len(self.last) - 1, tail, within)

    def draw(self, context: torch.Tensor, stream: torch.Generator, *, least: int | torch.Tensor = 0) -> torch.Tensor:
        """A length for each context, at least `least` (one number, or one each) [subject]."""
        logits = self.out(self.hidden(context))
        least = torch.as_tensor(least).expand(len(context))
        short = self.last < least[:, None]
        logits = logits.masked_fill(short & ~short.all(1, keepdim=True), -torch.inf)
        k = torch.multinomial(logits.softmax(-1), 1, generator=stream).squeeze(-1)
        u = torch.rand(k.shape, generator=stream)
        inside = (u * (self.last - self.first + 1)[k]).long()
        tail = torch.multinomial(self.tail, len(k), True, generator=stream) if len(k) else k
        return (self.first[k] + torch.where(k == len(self.last) - 1, tail, inside)).maximum(least)
