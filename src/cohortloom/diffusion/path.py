"""Paths from noise to data, and how a network's output becomes a clean estimate on them.

A path mixes data x (unit variance) with noise e:  z_t = a(t) x + b(t) e,  t = 0 noise, t = 1 data. Divided by a(t)
every path is x + sigma e with sigma = b / a, so one sampler serves all (`sampler.py`); what differs is where training
spends its time and what the network is asked for:

    flow  a = t, b = 1 - t; the network gives the velocity v = x - e, so x^ = z + (1 - t) v
    edm   a = 1 / sqrt(1 + sigma^2), b = sigma a (unit-variance input); output mixed by c_skip, c_out
    vp    cosine schedule, a = sin(pi t / 2), b = cos(pi t / 2); output b x - a e, which is minus the usual v

For all three the network sees z_t at unit-like variance and l = log(a / b) = -log sigma, clamped to [-9, 9].

References:
    Liu, Gong, Liu (2023). Flow straight and fast. arXiv:2209.03003. Karras, Aittala, Aila, Laine (2022). Elucidating
    the design space of diffusion-based generative models. arXiv:2206.00364. Salimans, Ho (2022). Progressive
    distillation. arXiv:2202.00512. Nichol, Dhariwal (2021). Improved DDPM. arXiv:2102.09672.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["EDM", "PATHS", "Flow", "Path", "VariancePreserving"]

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Path(ABC):
    """One way from noise to data.

    `location` and `spread` shape the training times: log(1/sigma) ~ Normal(location, spread), a tenth of the batch
    uniform in t, so that neither the fine texture nor the coarse shape starves.
    """

    location: float = 0.3
    spread: float = 1.5
    uniform: float = 0.1

    def times(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        """Training times, as log(1/sigma)."""
        wide = self.location + self.spread * torch.randn(n, generator=generator)
        flat = torch.rand(n, generator=generator).clamp(1e-3, 1 - 1e-3)
        level = torch.where(torch.rand(n, generator=generator) < self.uniform, flat.logit(), wide)
        return level.clamp(-6.9, 6.9)

    @abstractmethod
    def scales(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """a and b at log(1/sigma)."""

    @abstractmethod
    def target(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the network should give."""

    @abstractmethod
    def clean(self, output: Tensor, z: Tensor, level: Tensor) -> Tensor:
        """The clean estimate x^ from the network's output."""

    def loss(
        self, network: Network, x: Float[Tensor, "record channel sample"], generator: torch.Generator
    ) -> Float[Tensor, "record channel sample"]:
        """Squared error of the output, per element, at random times."""
        level = self.times(len(x), generator)
        noise = torch.randn(x.shape, generator=generator)
        a, b = (s.view(-1, *[1] * (x.ndim - 1)) for s in self.scales(level))
        return (network(a * x + b * noise, level) - self.target(x, noise, _wide(level, x))).square()

    def denoise(self, network: Network, y: Tensor, sigma: Float[Tensor, "record"]) -> Tensor:
        """x^ from y = x + sigma e."""
        level = -sigma.log()
        a, _ = self.scales(level)
        z = _wide(a, y) * y
        return self.clean(network(z, level.clamp(-9, 9)), z, _wide(level, y))


@dataclass(frozen=True)
class Flow(Path):
    """Rectified flow with velocity output: the default."""

    def scales(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return level.sigmoid(), (-level).sigmoid()

    def target(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return x - noise

    def clean(self, output: Tensor, z: Tensor, level: Tensor) -> Tensor:
        return z + (-level).sigmoid() * output


@dataclass(frozen=True)
class EDM(Path):
    """Preconditioning of Karras et al. with unit data variance: x^ = c_skip y + c_out F."""

    location: float = 0.5
    spread: float = 1.3

    def scales(self, level: Tensor) -> tuple[Tensor, Tensor]:
        sigma = (-level).exp()
        a = (1 + sigma.square()).rsqrt()
        return a, sigma * a

    def target(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        # F* = (x - c_skip y) / c_out with c_skip = a^2, c_out = b, y = x + sigma e
        a, b = self.scales(level)
        return b * x - a * noise

    def clean(self, output: Tensor, z: Tensor, level: Tensor) -> Tensor:
        a, b = self.scales(level)
        return a * z + b * output


@dataclass(frozen=True)
class VariancePreserving(EDM):
    """DDPM's cosine schedule: the same mixture and output as `EDM` (v-prediction), times uniform on the cosine."""

    def times(self, n: int, generator: torch.Generator) -> Float[Tensor, "n"]:
        t = torch.rand(n, generator=generator).clamp(1e-3, 1 - 1e-3)
        return (torch.tan(t * torch.pi / 2)).log().clamp(-6.9, 6.9)


PATHS: dict[str, type[Path]] = {"flow": Flow, "edm": EDM, "vp": VariancePreserving}


def _wide(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.ndim - 1))
