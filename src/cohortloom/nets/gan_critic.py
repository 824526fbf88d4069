"""The critic of whole patients, its losses and its gradient penalties.

It reads statics, steps, marks and lengths together and gives two scores: of the statics alone, and of the patient
(DoppelGANger's auxiliary critic). The course is read by dilated convolutions over steps, which have second derivatives,
and by the summaries a strong judge would use: mean, spread, first, last and mean change of every input. Every
operation across steps is masked, so what stands behind the end has no influence; a test plants numbers there.

    hinge        critic: E max(0, 1 - D(real)) + E max(0, 1 + D(drawn)),    generator: -E D(drawn)
    R1           gamma / 2 E |dD(real) / d real|^2
    wasserstein  critic: E D(drawn) - E D(real),  penalty lambda E (|dD(mix) / d mix| - 1)^2

References:
    Lim, Ye (2017). Geometric GAN. arXiv:1705.02894 (hinge). Mescheder, Geiger, Nowozin (2018). Which training methods
    for GANs do actually converge? arXiv:1801.04406 (R1). Gulrajani et al. (2017). arXiv:1704.00028 (gradient penalty).
    Lin et al. (2020). Using GANs for sharing networked time series data (DoppelGANger). arXiv:1909.13403.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["Critic", "LatentCritic", "critic_hinge", "generator_hinge", "gradient_penalty", "r1"]

Judge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _Block(nn.Module):
    """A dilated convolution over steps, normalised within each step."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        y = self.conv((x * there).transpose(1, 2)).transpose(1, 2)
        return x + nn.functional.leaky_relu(self.norm(y), 0.2)


class Critic(nn.Module):
    """D(patient) [subject 2]: (statics alone, all).

    Args:
        static: Width of the dense statics.
        step: Width of a dense step; its first `2 * numbers` inputs are values and marks of the numbers.
        numbers: Numbers of a step.
        width: Hidden units.
    """

    def __init__(self, static: int, step: int, numbers: int, width: int) -> None:
        super().__init__()
        self.numbers = numbers
        inputs = step + numbers
        self.static = nn.Sequential(nn.Linear(static, width), nn.LeakyReLU(0.2), nn.Linear(width, width))
        self.static_score = nn.Sequential(nn.LeakyReLU(0.2), nn.Linear(width, 1))
        self.step = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(_Block(width, d) for d in (1, 2, 4))
        self.summary = nn.Sequential(nn.Linear(4 * inputs + static + 3, 2 * width), nn.LeakyReLU(0.2))
        self.all = nn.Sequential(
            nn.Linear(2 * width + width + 2 * width + 1, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
        )

    def forward(self, static: torch.Tensor, step: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        t = step.shape[1]
        there = (torch.arange(t) < length[:, None])[..., None].to(step.dtype)
        count = there.sum(1).clamp(min=1)
        inputs = torch.cat([step, self._changes(step)], -1) * there
        mean = inputs.sum(1) / count
        spread = torch.sqrt((torch.square(inputs - mean[:, None]) * there).sum(1) / count + 1e-3)
        ends = self._ends(inputs, length)
        n = length.to(step.dtype)[:, None]
        size = torch.cat([torch.log1p(n) / 3, (n == 0).to(n.dtype), (n / 20).clamp(max=5)], 1)
        summary = self.summary(torch.cat([mean, spread, *ends, static, size], 1))
        x = self.step(inputs)
        for block in self.blocks if t else ():
            x = block(x, there)
        pooled = (x * there).sum(1) / count
        top = torch.where(there > 0, x, x.new_full((), -30.0)).amax(1) if t else torch.zeros_like(pooled)
        top = top * (n > 0)
        alike = torch.sqrt(summary.var(0, unbiased=False) + 1e-6).mean().expand(len(summary), 1)  # batch spread
        own = self.static(static)
        return torch.cat([self.static_score(own), self.all(torch.cat([summary, pooled, top, own, alike], 1))], 1)

    def _changes(self, step: torch.Tensor) -> torch.Tensor:
        """Change of each number since the step before, where both are observed."""
        value, seen = step[..., : self.numbers], step[..., self.numbers : 2 * self.numbers]
        change = (value[:, 1:] - value[:, :-1]) * seen[:, 1:] * seen[:, :-1]
        return torch.cat([torch.zeros_like(value[:, :1]), change], 1)

    @staticmethod
    def _ends(inputs: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs at the first and the last step."""
        if inputs.shape[1] == 0:
            none = inputs.new_zeros(len(inputs), inputs.shape[2])
            return none, none
        last = (length.clamp(max=inputs.shape[1]) - 1).clamp(min=0)
        return inputs[:, 0], inputs[torch.arange(len(inputs)), last]


class LatentCritic(nn.Module):
    """The critic of the original objective: a recurrent net with a logit per step, and one of the static embedding.

    Args:
        e, h: Sizes of the latents.
        width: Hidden units.
    """

    def __init__(self, e: int, h: int, width: int) -> None:
        super().__init__()
        self.static = nn.Sequential(nn.Linear(e, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))
        self.memory = nn.GRU(h + e, width, batch_first=True)
        self.step = nn.Linear(width, 1)

    def forward(self, e: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logit of the statics [subject], of every step [subject step])."""
        t = h.shape[1]
        if not t:
            return self.static(e).squeeze(-1), h.new_zeros(len(h), 0)
        state, _ = self.memory(torch.cat([h, e[:, None].expand(-1, t, -1)], -1))
        return self.static(e).squeeze(-1), self.step(state).squeeze(-1)


def critic_hinge(real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Mean over patients of the critic's hinge loss, summed over its scores."""
    hinge = torch.relu(1 - real).mean(0) + torch.relu(1 + drawn).mean(0)
    return hinge.sum()


def generator_hinge(drawn: torch.Tensor) -> torch.Tensor:
    """-E D(drawn), summed over the scores."""
    return -drawn.mean(0).sum()


def r1(judge: Judge, static: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """E |dD / d real|^2, the gradient taken with respect to statics and steps together."""
    static, step = (x.detach().requires_grad_(True) for x in (static, step))
    slopes = torch.autograd.grad(judge(static, step).sum(), (static, step), create_graph=True)
    return sum(torch.square(s).flatten(1).sum(1).mean() for s in slopes)


def gradient_penalty(
    judge: Judge,
    real: tuple[torch.Tensor, torch.Tensor],
    drawn: tuple[torch.Tensor, torch.Tensor],
    stream: torch.Generator,
) -> torch.Tensor:
    """E (|dD / d mix| - 1)^2 on random mixtures of real and drawn patients (of equal length of padding)."""
    u = torch.rand(len(real[0]), 1, generator=stream)
    mix = [
        torch.lerp(d, r, u.view(-1, *[1] * (r.dim() - 1))).detach().requires_grad_(True) for r, d in zip(real, drawn)
    ]
    slopes = torch.autograd.grad(judge(*mix).sum(), mix, create_graph=True)
    norm = torch.sqrt(sum(torch.square(s).flatten(1).sum(1) for s in slopes) + 1e-12)
    return torch.square(norm - 1).mean()
