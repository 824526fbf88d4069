"""Has a generator collapsed, and how far are its patients from those it has not seen?

Each patient becomes a vector of features: dense statics, number of steps, and of every input of a step its mean, spread
and mean change, in units of the training patients' spread. With a = drawn, b = held out,

    distance = 2 E|a - b| - E|a - a'|                       (energy distance up to a constant of the held-out patients)
    spread   = E|a - a'| / E|b - b'|                        (1 if drawn patients differ as much as real ones)
    moments  = mean |mean(a) - mean(b)| + |sd(a) - sd(b)|

A spread below one half is a collapse: the generator draws one patient again and again, however good it is.

References:
    Szekely, Rizzo (2013). Energy statistics. J Stat Plan Inference 143:1249.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["COLLAPSED", "Monitor", "Watch", "features_of"]

#: Spread of drawn over real patients below which the generator has collapsed.
COLLAPSED = 0.5


def features_of(static: torch.Tensor, step: torch.Tensor, length: torch.Tensor, changes: int) -> torch.Tensor:
    """Features of patients in dense form; steps are zero behind the end [subject feature].

    Args:
        static: [subject width].
        step: [subject step width].
        length: [subject].
        changes: The first so many inputs of a step are numbers whose changes count.
    """
    t = step.shape[1]
    n = length.to(static.dtype)[:, None]
    if t == 0:
        empty = static.new_zeros(len(static), 2 * step.shape[2] + changes)
        return torch.cat([static, torch.log1p(n), empty], 1)
    there = (torch.arange(t) < length[:, None])[..., None].to(step.dtype)
    count = there.sum(1).clamp(min=1)
    mean = (step * there).sum(1) / count
    spread = torch.sqrt((torch.square(step - mean[:, None]) * there).sum(1) / count)
    change = (step[:, 1:, :changes] - step[:, :-1, :changes]).abs() * there[:, 1:]
    return torch.cat([static, torch.log1p(n), mean, spread, change.sum(1) / (count - 1).clamp(min=1)], 1)


@dataclass(frozen=True)
class Watch:
    """What the monitor saw."""

    distance: float
    spread: float
    moments: float

    @property
    def collapsed(self) -> bool:
        return self.spread < COLLAPSED


class Monitor:
    """Compares drawn with held-out patients.

    Args:
        train: Features of training patients, for the scale [subject feature].
    """

    def __init__(self, train: torch.Tensor) -> None:
        self.centre, spread = train.mean(0), train.std(0, unbiased=False)
        self.scale = torch.where(spread > 1e-4, spread, torch.ones_like(spread))

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """In units of the training patients' spread, held within 6 of them [subject feature]."""
        return ((features - self.centre) / self.scale).clamp(-6, 6)

    def __call__(self, drawn: torch.Tensor, real: torch.Tensor) -> Watch:
        """Compare features [subject feature]."""
        a, b = self.scaled(drawn), self.scaled(real)
        size = a.shape[1] ** 0.5
        own, true = (_mean_apart(x) / size for x in (a, b))
        between = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").mean() / size
        moments = (a.mean(0) - b.mean(0)).abs() + (a.std(0, unbiased=False) - b.std(0, unbiased=False)).abs()
        ratio = own / true if float(true) > 0 else torch.ones(())
        return Watch(float(2 * between - own), float(ratio), float(moments.mean()))


def _mean_apart(x: torch.Tensor) -> torch.Tensor:
    """Mean distance of two different rows."""
    n = len(x)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum() / max(n * (n - 1), 1)
