"""An invertible map from noise to latents, given a context: it can be trained by likelihood and by a critic.

    x = exp(s(c)) (f_K ... f_1(z, c)) + m(c),     z ~ N(0, I)

Each f_k is an affine coupling: half of the coordinates are scaled and shifted by a network of the other half and the
context. It starts as the identity, so an untrained flow is a normal law.

    log p(x | c) = log N(z) - sum log |df_k / dz| - sum s(c)

References:
    Dinh, Sohl-Dickstein, Bengio (2017). Density estimation using Real NVP. arXiv:1605.08803.
    Grover, Dhar, Ermon (2018). Flow-GAN: combining maximum likelihood and adversarial learning. arXiv:1705.08868.
"""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["LatentFlow"]

_LOG_2PI = math.log(2 * math.pi)


class LatentFlow(nn.Module):
    """The map above.

    Args:
        size: Coordinates of x, at least 2.
        context: Size of c, 0 for none.
        layers: Number of couplings.
        width: Hidden units of a coupling.
    """

    def __init__(self, size: int, context: int, *, layers: int, width: int) -> None:
        super().__init__()
        if size < 2:
            raise ValueError("a coupling needs two coordinates")
        self.size, self.half = size, size // 2
        self.base = nn.Linear(max(context, 1), 2 * size)
        nn.init.zeros_(self.base.bias)
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(self._kept(k) + max(context, 1), width), nn.SiLU(),
                          nn.Linear(width, 2 * (size - self._kept(k))))
            for k in range(layers)
        )  # fmt: skip
        with torch.no_grad():
            self.base.weight.mul_(0.1)
            for net in self.nets:
                nn.init.zeros_(net[2].weight)
                nn.init.zeros_(net[2].bias)

    def _kept(self, k: int) -> int:
        return self.half if k % 2 == 0 else self.size - self.half

    def _halves(self, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(coordinates that stay, coordinates that move)."""
        first, second = x[..., : self.half], x[..., self.half :]
        return (first, second) if k % 2 == 0 else (second, first)

    def _joined(self, kept: torch.Tensor, moved: torch.Tensor, k: int) -> torch.Tensor:
        return torch.cat([kept, moved] if k % 2 == 0 else [moved, kept], -1)

    def _map(self, kept: torch.Tensor, c: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = self.nets[k](torch.cat([kept, c], -1)).chunk(2, -1)
        return 1.5 * torch.tanh(scale / 1.5), shift

    def _base(self, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_scale = self.base(c).chunk(2, -1)
        return mean, 4 * torch.tanh(log_scale / 4)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Noise [... size] to latents [... size]."""
        c = z.new_ones(*z.shape[:-1], 1) if c is None else c
        for k in range(len(self.nets)):
            kept, moved = self._halves(z, k)
            scale, shift = self._map(kept, c, k)
            z = self._joined(kept, moved * scale.exp() + shift, k)
        mean, log_scale = self._base(c)
        return mean + log_scale.exp() * z

    def log_prob(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Log-density of latents [...]."""
        c = x.new_ones(*x.shape[:-1], 1) if c is None else c
        mean, log_scale = self._base(c)
        z, total = (x - mean) * torch.exp(-log_scale), -log_scale.sum(-1)
        for k in reversed(range(len(self.nets))):
            kept, moved = self._halves(z, k)
            scale, shift = self._map(kept, c, k)
            z, total = self._joined(kept, (moved - shift) * torch.exp(-scale), k), total - scale.sum(-1)
        return total - 0.5 * (z**2).sum(-1) - 0.5 * self.size * _LOG_2PI
