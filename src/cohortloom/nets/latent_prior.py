"""The law of the latent vectors after training: a mixture of Gaussians for few patients, a small flow for many.

A VAE is trained against N(0, I), but the patients' posteriors do not fill it: what is drawn from its holes are patients
the decoder has never seen. So the prior used for drawing is fitted afterwards to the aggregate posterior

    q(z) = 1 / n sum_i q(z | patient i)

`Mixture`: expectation-maximisation on draws of q; full covariances shrunk towards the pooled one, the number of
components by BIC. No component has fewer than 10 patients, so none stands for one of them.

`Flow`: affine coupling layers u = f(z) (RealNVP), half of the coordinates shifted and scaled by what a small network
reads from the other half, roles exchanged between layers; log p(z) = log N(f(z)) + log |det df/dz|, the determinant
being the product of the scales. Scales lie within exp(+-2). It starts as the identity.

References:
    Tomczak, Welling (2018). VAE with a VampPrior. arXiv:1705.07120 (aggregate posterior as prior).
    Dinh, Sohl-Dickstein, Bengio (2017). Density estimation using Real NVP. arXiv:1605.08803.
    Dai, Wipf (2019). Diagnosing and enhancing VAE models. arXiv:1903.05789 (two stages).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Flow", "Mixture", "Standard", "importance_bound", "kl_normal", "log_normal"]

_LOG_2PI = math.log(2 * math.pi)
LEAST = 10  # patients per component
MAX_COMPONENTS = 12


def log_normal(x: Tensor, mean: Tensor | float = 0.0, log_var: Tensor | float = 0.0) -> Tensor:
    """Log-density of independent normals, summed over the last axis."""
    log_var = torch.as_tensor(log_var, dtype=x.dtype)
    return (-0.5 * ((x - mean) ** 2 * torch.exp(-log_var) + log_var + _LOG_2PI)).sum(-1)


def kl_normal(
    mean: Tensor, log_var: Tensor, other: Tensor | float = 0.0, other_log_var: Tensor | float = 0.0
) -> Tensor:
    """KL(N(mean, var) || N(other, other var)) of each coordinate."""
    other_log_var = torch.as_tensor(other_log_var, dtype=mean.dtype)
    ratio = torch.exp(log_var - other_log_var)
    return 0.5 * (ratio + (mean - other) ** 2 * torch.exp(-other_log_var) - 1 + other_log_var - log_var)


def importance_bound(log_weight: Tensor) -> Tensor:
    """Bound of the log-likelihood from k draws of q, log mean exp of log p(x, z) - log q(z | x) [draw ...] -> [...].

    It rises with k towards the likelihood; k = 1 is the evidence lower bound.

    References:
        Burda, Grosse, Salakhutdinov (2016). Importance weighted autoencoders. arXiv:1509.00519.
    """
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


class Standard(nn.Module):
    """N(0, I).

    Args:
        size: Coordinates of z.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def sample(self, n: int, stream: torch.Generator) -> Tensor:
        return torch.randn(n, self.size, generator=stream)

    def log_prob(self, z: Tensor) -> Tensor:
        return log_normal(z)


class Mixture(Standard):
    """A mixture of Gaussians; N(0, I) until `fit`. All of it lies in buffers of fixed size."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.register_buffer("log_weight", torch.tensor([0.0] + [-math.inf] * (MAX_COMPONENTS - 1)).clamp(min=-60.0))
        self.register_buffer("mean", torch.zeros(MAX_COMPONENTS, size))
        self.register_buffer("factor", torch.eye(size).repeat(MAX_COMPONENTS, 1, 1))

    def sample(self, n: int, stream: torch.Generator) -> Tensor:
        if not n:
            return torch.zeros(0, self.size)
        which = torch.multinomial(self.log_weight.softmax(0), n, replacement=True, generator=stream)
        noise = torch.randn(n, self.size, generator=stream)
        return self.mean[which] + torch.einsum("nij,nj->ni", self.factor[which], noise)

    def log_prob(self, z: Tensor) -> Tensor:
        apart = z[:, None] - self.mean  # row component coordinate
        white = torch.linalg.solve_triangular(self.factor, apart.permute(1, 2, 0), upper=False).permute(2, 0, 1)
        log_det = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return torch.logsumexp(self.log_weight.log_softmax(0) + log_normal(white) - log_det, 1)

    @torch.no_grad()
    def fit(self, mean: np.ndarray, log_var: np.ndarray, draw: np.random.Generator) -> int:
        """Fit to posteriors q_i = N(mean_i, diag var_i) [patient coordinate]; returns the number of components."""
        n, d = mean.shape
        many = max(1, min(8, 20_000 // max(n, 1)))
        z = np.concatenate([mean + np.exp(0.5 * log_var) * draw.standard_normal(mean.shape) for _ in range(many)])
        best, least = None, math.inf
        for k in range(1, max(1, min(MAX_COMPONENTS, n // (2 * LEAST))) + 1):
            found = _em(z, k, draw, floor=LEAST * many)
            if found is None:
                continue
            n_free = k - 1 + k * d + k * d * (d + 1) / 2 * 0.5  # shrunk covariances count half
            bic = -2 * found[3] / many + n_free * math.log(n)
            if bic < least:
                best, least = found, bic
        assert best is not None
        weight, centre, cov, _ = best
        k = len(weight)
        self.log_weight.fill_(-60.0)
        self.log_weight[:k] = torch.from_numpy(np.log(weight)).float()
        self.mean[:k] = torch.from_numpy(centre).float()
        self.factor[:k] = torch.from_numpy(np.linalg.cholesky(cov)).float()
        return k


def _em(
    z: np.ndarray, k: int, draw: np.random.Generator, *, floor: float, rounds: int = 60, shrink: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
    """(weights, means, covariances, log-likelihood); None where a component starves."""
    n, d = z.shape
    pooled = np.atleast_2d(np.cov(z.T)) + 1e-4 * np.eye(d) if n > 1 else np.eye(d)
    centre = z[draw.choice(n, k, replace=False)] if k > 1 else z.mean(0, keepdims=True)
    cov, weight, total = np.repeat(pooled[None], k, 0), np.full(k, 1 / k), -math.inf
    for _ in range(rounds):
        factor = np.linalg.cholesky(cov)
        white = np.linalg.solve(factor, (z[None] - centre[:, None]).transpose(0, 2, 1))
        log_p = -0.5 * (white**2).sum(1).T - np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1) - d / 2 * _LOG_2PI
        log_p = log_p + np.log(weight)
        top = log_p.max(1, keepdims=True)
        norm = top + np.log(np.exp(log_p - top).sum(1, keepdims=True))
        before, total = total, float(norm.sum())
        share = np.exp(log_p - norm)
        mass = share.sum(0)
        if mass.min() < floor and k > 1:
            return None
        weight, centre = mass / n, (share.T @ z) / mass[:, None]
        apart = z[None] - centre[:, None]
        cov = np.einsum("nk,kni,knj->kij", share, apart, apart) / mass[:, None, None]
        own = n * shrink / (n * shrink + mass) if k > 1 else np.zeros(k)
        cov = (1 - own)[:, None, None] * cov + own[:, None, None] * pooled + 1e-4 * np.eye(d)
        if total - before < 1e-5 * abs(total):
            break
    return weight, centre, cov, total


class Flow(Standard):
    """Affine coupling layers.

    Args:
        size: Coordinates of z, at least 2.
        width: Hidden units of a layer.
        layers: Number of layers.
    """

    def __init__(self, size: int, width: int = 48, layers: int = 6) -> None:
        super().__init__(size)
        if size < 2:
            raise ValueError("a coupling layer needs two coordinates")
        mask = torch.arange(size) % 2 == 0
        self.register_buffer("masks", torch.stack([mask if k % 2 else ~mask for k in range(layers)]).float())
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * size)
            )
            for _ in range(layers)
        )
        for net in self.nets:
            nn.init.zeros_(net[-1].weight)
            nn.init.zeros_(net[-1].bias)

    def _layer(self, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.nets[k](x * self.masks[k]).chunk(2, -1)
        free = 1 - self.masks[k]
        return shift * free, 2 * torch.tanh(log_scale / 2) * free

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(u, log |det du/dz|)."""
        total = z.new_zeros(len(z))
        for k in range(len(self.nets)):
            shift, log_scale = self._layer(k, z)
            z, total = (z + shift) * torch.exp(log_scale), total + log_scale.sum(-1)
        return z, total

    def inverse(self, u: Tensor) -> Tensor:
        for k in reversed(range(len(self.nets))):
            shift, log_scale = self._layer(k, u)
            u = u * torch.exp(-log_scale) - shift
        return u

    def sample(self, n: int, stream: torch.Generator) -> Tensor:
        return self.inverse(super().sample(n, stream))

    def log_prob(self, z: Tensor) -> Tensor:
        u, total = self(z)
        return log_normal(u) + total
