"""Samplers: from noise to data in few steps.

All work on y = x + sigma e and a function denoise(y, sigma) -> x^, going down a grid of sigma to 0. The probability
flow is dy/dsigma = (y - x^) / sigma. The default is DPM-Solver++(2M) on the rho grid: one evaluation a step, second
order.

References:
    Karras et al. (2022), arXiv:2206.00364 (grid, Heun). Lu et al. (2022). DPM-Solver++, arXiv:2211.01095. Song, Meng,
    Ermon (2021). Denoising diffusion implicit models, arXiv:2010.02502.
"""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SAMPLERS", "ddim", "dpm2m", "euler", "grid", "heun", "stochastic"]

Denoise = Callable[[Tensor, Tensor], Tensor]


def grid(n_steps: int, *, high: float = 40.0, low: float = 0.03, rho: float = 7.0) -> Float[Tensor, "steps+1"]:
    """Noise levels from `high` to `low`, then 0: dense where the texture is decided."""
    if n_steps < 1:
        raise ValueError("n_steps must be at least 1")
    if n_steps == 1:
        return torch.tensor([high, 0.0])
    share = torch.linspace(0, 1, n_steps, dtype=torch.float64)
    levels = (high ** (1 / rho) + share * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def _at(level: Tensor, y: Tensor) -> Tensor:
    return level.expand(len(y))


def euler(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
    """First order; also DDIM with eta = 0."""
    for now, then in itertools.pairwise(levels):
        clean = denoise(y, _at(now, y))
        y = clean + (then / now) * (y - clean)
    return y


ddim = euler


def heun(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
    """Second order, two evaluations a step but the last."""
    for now, then in itertools.pairwise(levels):
        slope = (y - denoise(y, _at(now, y))) / now
        ahead = y + (then - now) * slope
        if then > 0:
            slope = (slope + (ahead - denoise(ahead, _at(then, y))) / then) / 2
            ahead = y + (then - now) * slope
        y = ahead
    return y


def dpm2m(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
    """DPM-Solver++(2M): second order from the previous estimate, one evaluation a step."""
    before, step_before = None, 0.0
    for now, then in itertools.pairwise(levels):
        clean = denoise(y, _at(now, y))
        if then == 0:
            return clean
        step = float((now / then).log())
        guess = clean
        if before is not None:
            weight = step / (2 * step_before)
            guess = (1 + weight) * clean - weight * before
        y = (then / now) * y + (1 - then / now) * guess
        before, step_before = clean, step
    return y


def stochastic(
    denoise: Denoise, y: Tensor, levels: Tensor, *, generator: torch.Generator, churn: float = 0.3
) -> Tensor:
    """Euler with fresh noise: each step goes down too far and is re-noised, which corrects drift."""
    for now, then in itertools.pairwise(levels):
        clean = denoise(y, _at(now, y))
        low = then * (1 - churn) ** 0.5
        y = clean + (low / now) * (y - clean)
        if then > 0:
            y = y + (then.square() - low.square()).sqrt() * torch.randn(y.shape, generator=generator)
    return y


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Tensor], Tensor]] = {
    "dpm2m": dpm2m,
    "heun": heun,
    "euler": euler,
    "ddim": ddim,
}
