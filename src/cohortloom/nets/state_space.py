"""Bidirectional diagonal state-space layers (S4D) and a denoiser made of them.

Each feature h has N/2 complex modes a_n with step d; with zero-order hold the response of a layer is a convolution with

    K[l] = 2 Re sum_n C_n (exp(d a_n) - 1) / a_n  exp(d a_n l),     l = 0 .. L - 1

computed by FFT, forwards and backwards in time. A layer sees the whole record at a cost of L log L.

References:
    Gu, Gupta, Goel, Re (2022). On the parameterization and initialization of diagonal state space models.
    arXiv:2206.11893. Alcaraz, Strodthoff (2023). arXiv:2301.08227.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cohortloom.nets.patched import Patched

__all__ = ["S4D", "S4Denoiser"]


class S4D(nn.Module):
    """One-directional diagonal state space along the last axis.

    Args:
        width: Features.
        n_modes: Complex modes of each.
    """

    def __init__(self, width: int, n_modes: int = 16) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.rand(width) * (math.log(0.1) - math.log(1e-3)) + math.log(1e-3))
        self.log_decay = nn.Parameter(torch.full((width, n_modes), math.log(0.5)))
        self.turn = nn.Parameter(math.pi * torch.arange(n_modes, dtype=torch.float32).repeat(width, 1))
        self.mix = nn.Parameter(torch.randn(width, n_modes, 2) / math.sqrt(2 * n_modes))
        self.straight = nn.Parameter(torch.ones(width))

    def kernel(self, n: int) -> Float[Tensor, "feature step"]:
        a = torch.complex(-self.log_decay.exp(), self.turn)
        step = self.log_step.exp()[:, None] * a
        gain = torch.view_as_complex(self.mix) * (step.exp() - 1) / a
        powers = torch.exp(step[..., None] * torch.arange(n))
        return 2 * torch.einsum("hn,hnl->hl", gain, powers).real

    def forward(self, u: Float[Tensor, "record feature step"]) -> Float[Tensor, "record feature step"]:
        n = u.shape[-1]
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * n) * torch.fft.rfft(self.kernel(n), n=2 * n), n=2 * n)[..., :n]
        return y + self.straight[:, None] * u


class _Layer(nn.Module):
    def __init__(self, width: int, n_embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(n_embedding, 2 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.ahead, self.back = S4D(width), S4D(width)
        self.out = nn.Linear(width, 2 * width)

    def forward(self, x: Float[Tensor, "record step feature"], embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, None].chunk(2, dim=2)
        h = (self.norm(x) * (1 + scale) + shift).transpose(1, 2)
        h = self.ahead(h) + self.back(h.flip(-1)).flip(-1)
        value, gate = self.out(nn.functional.gelu(h.transpose(1, 2))).chunk(2, dim=2)
        return x + value * gate.sigmoid()


class S4Denoiser(Patched):
    """State-space layers on patches."""

    def __init__(
        self, n_channels: int, *, width: int = 64, n_layers: int = 4, patch: int = 4, n_condition: int = 0,
        n_guides: int = 0, n_embedding: int = 128,
    ) -> None:  # fmt: skip
        layers = [_Layer(width, n_embedding) for _ in range(n_layers)]
        super().__init__(n_channels, layers, width=width, patch=patch, n_condition=n_condition, n_guides=n_guides,
                         n_embedding=n_embedding)  # fmt: skip
