"""The course of a column as a Gaussian process: what its other visits say about a cell, in closed form.

    x_i = patient's level + slow part + own part,   cov(x_i, x_j) = p + a rho^|i - j| + n [i = j]

over visits i, j. Some cells are seen as y_i = x_i + sqrt(D_i) e_i: clean ones (D near 0), noisy ones (D = sigma^2),
those not seen (D large). With W = (K + D)^-1 the posterior of every cell is

    m = y - D W y (+ mean),   v_i = D_i (1 - D_i W_ii)

A denoiser that predicts G = (x - m) / sqrt(v) is preconditioned by this posterior: its target has unit variance at
every noise level, and with G = 0 the sampler draws exactly from the process. For p = a = 0, n = 1 this is the
unit-variance preconditioning of Karras et al. (m = y / (1 + sigma^2), v = sigma^2 / (1 + sigma^2)).

The process is never written out as a matrix. Given y, the slow part alone has a tridiagonal precision, so one pass
forwards and one back give its mean and variance at every visit (a Kalman smoother in information form); the patient's
level is a correction of rank one. The cost is linear in the number of visits.

Statics have one Gaussian law over their numbers in place of a process (`JointLaw`); there the matrix is inverted.

References:
    Karras et al. (2022), arXiv:2206.00364. Rasmussen, Williams (2006). Gaussian processes for machine learning, ch. 2.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["SEEN", "UNSEEN", "ColumnProcess", "JointLaw", "fit_process"]

UNSEEN = 1e3  # D of a cell that isn't seen; noise beyond it is not used either
SEEN = 1e-3
RATES = (0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97, 0.99)
LEAST = 0.02  # least eigenvalue of the statics' law
LEAST_OWN = 5e-4  # share of the variance that is always a cell's own
FEW, FAR = 3.0, 64  # pairs that nothing is alike in; longest lag


def fit_process(
    x: Float[np.ndarray, "subject step"], seen: Bool[np.ndarray, "subject step"]
) -> tuple[float, float, float, float, float]:
    """(p, a, rho, n, mean) of one column, by the law of its differences.

    Of two visits d apart half the squared difference has the mean g_d = n + a (1 - rho^d), whatever the patient's
    level. n, a and rho are those of the greatest likelihood of normal differences, sum w_d (log g_d + g^_d / g_d):
    what counts is by what factor g is off, so a weight that stays within a kilogram keeps its small changes. Pairs of
    values with none between them count in full, others by 1 / d^2. p is what is left of the variance. A few pairs of
    none alike stand for what was not seen.
    """
    count = seen.sum()
    if count < 2:
        return 0.0, 0.0, 0.5, 1.0, 0.0
    mean = float(x[seen].sum() / (count + 5))
    variance = float((np.square(np.where(seen, x - mean, 0.0)).sum() + 5.0) / (count + 5))
    lags, half, weight = _differences(x, seen)
    half, weight = np.append(half, variance), np.append(weight, FEW)
    apart = np.append(1 - np.array(RATES)[:, None] ** lags, np.ones((len(RATES), 1)), 1)
    own, slow = np.full((len(RATES), 1), variance / 4), np.full((len(RATES), 1), variance / 4)
    for _ in range(200):  # never worse than before: Fevotte, Idier (2011), arXiv:1010.1763
        g = own + slow * apart
        up, down = weight * half / g**2, weight / g
        own = own * np.sqrt(up.sum(1, keepdims=True) / down.sum(1, keepdims=True))
        slow = slow * np.sqrt((up * apart).sum(1, keepdims=True) / (down * apart).sum(1, keepdims=True))
        own = np.clip(own, LEAST_OWN * variance, variance)
        slow = np.minimum(slow, variance - own)
    g = own + slow * apart
    best = int((weight * (np.log(g) + half / g)).sum(1).argmin())
    own, slow = float(own[best, 0]), float(slow[best, 0])
    return variance - own - slow, slow, RATES[best], own, mean


def _differences(x: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lags that occur, half the mean squared difference at each, weight of each)."""
    subject, step = np.nonzero(seen)
    near = np.flatnonzero(np.diff(subject) == 0)
    total, weight = np.zeros((2, x.shape[1]))
    apart, square = np.diff(step)[near], np.square(np.diff(x[subject, step])[near]) / 2
    np.add.at(total, apart, square), np.add.at(weight, apart, 1.0)
    for d in range(1, min(x.shape[1], FAR)):
        both = seen[:, d:] & seen[:, :-d]
        total[d] += np.square((x[:, d:] - x[:, :-d])[both]).sum() / 2 / d**2
        weight[d] += both.sum() / d**2
    lags = np.flatnonzero(weight)
    return lags, total[lags] / weight[lags], weight[lags]


class ColumnProcess(nn.Module):
    """Processes of several columns, as buffers.

    Args:
        n_columns: Number columns.
    """

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        start = torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0]).repeat(n_columns, 1)
        self.register_buffer("facts", start)

    def fit(self, x: Float[np.ndarray, "subject step column"], seen: Bool[np.ndarray, "subject step column"]) -> None:
        for k in range(len(self.facts)):
            self.facts[k] = torch.tensor(fit_process(x[..., k], seen[..., k]))

    def covariance(self, n: int) -> Float[Tensor, "column step step"]:
        p, a, rho, own, _ = (f[:, None, None] for f in self.facts.unbind(1))
        distance = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs()
        return p + a * rho**distance + own * torch.eye(n)

    def posterior(
        self, y: Float[Tensor, "record step column"], noise: Float[Tensor, "record step column"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and surprise of every cell."""
        if not y.numel():
            return torch.zeros_like(y), torch.ones_like(y), torch.zeros_like(y)
        found = _along(self.facts, y.transpose(0, 1), noise.transpose(0, 1))
        return tuple(part.transpose(0, 1) for part in found)


class JointLaw(nn.Module):
    """One Gaussian law over a few columns of a row."""

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.register_buffer("covariance", torch.eye(n_columns))
        self.register_buffer("mean", torch.zeros(n_columns))

    def fit(self, x: Float[np.ndarray, "subject column"], seen: Bool[np.ndarray, "subject column"]) -> None:
        """Pairwise moments, drawn towards independence as if by ten more subjects, made positive definite."""
        if not x.shape[1]:
            return
        count = seen.sum(0)
        mean = np.where(seen, x, 0.0).sum(0) / (count + 5)
        z = np.where(seen, x - mean, 0.0)
        pairs = seen.T.astype(float) @ seen
        matrix = z.T @ z / (pairs + 10)
        np.fill_diagonal(matrix, (np.square(z).sum(0) + 5) / (count + 5))
        values, axes = np.linalg.eigh(matrix)
        matrix = (axes * np.maximum(values, LEAST)) @ axes.T
        self.covariance.copy_(torch.from_numpy(matrix))
        self.mean.copy_(torch.from_numpy(mean))

    def posterior(
        self, y: Float[Tensor, "record column"], noise: Float[Tensor, "record column"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and surprise of every cell."""
        if not y.numel():
            return torch.zeros_like(y), torch.ones_like(y), torch.zeros_like(y)
        return _posterior(self.covariance, y, noise, self.mean)


@torch.no_grad()
def _posterior(
    covariance: Float[Tensor, "*column cell cell"], y: Float[Tensor, "record *column cell"],
    noise: Float[Tensor, "record *column cell"], mean: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Mean and variance of every cell given y with noise variance D (`UNSEEN` where nothing is seen), and surprise.

    The surprise of a cell is its distance from what the others say, (W y)_i / sqrt(W_ii): standard normal if the law is
    right, at every noise level; where it isn't, this is what the network needs to see.
    """
    d = noise.clamp(SEEN**2, UNSEEN)
    seen = d < UNSEEN
    centred = torch.where(seen, y - mean, 0.0)
    size = y.shape[-1]
    factor, _ = torch.linalg.cholesky_ex(covariance + torch.diag_embed(d))
    inverse = torch.cholesky_inverse(factor.reshape(-1, size, size)).reshape(factor.shape)
    weighted, own = (inverse @ centred[..., None])[..., 0], inverse.diagonal(dim1=-2, dim2=-1)
    m = centred - d * weighted + mean
    v = (d * (1 - d * own)).clamp(min=1e-9)
    surprise = torch.where(seen, weighted / own.clamp(min=1e-9).sqrt(), 0.0).clamp(-8, 8)
    return m, v, surprise


@torch.no_grad()
def _along(
    facts: Float[Tensor, "column fact"], y: Float[Tensor, "step record column"],
    noise: Float[Tensor, "step record column"],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `_posterior` gives with the covariance of the processes, without that matrix.

    With r = 1 / R, R = n + D, and Q the precision of the slow part (tridiagonal: Markov), A = Q + diag(r):

        u = A^-1 (r y),   w = A^-1 r,   (A^-1)_ii = 1 / (f_i + b_i - A_ii)      f, b: pivots from either end

    which settle W_0 = (slow + R)^-1 = diag(r) - diag(r) A^-1 diag(r); the level p adds a term of rank one.
    """
    p, a, rho, own, mean = facts.unbind(1)
    a, n = a.clamp(min=1e-6), len(y)
    d = noise.clamp(SEEN**2, UNSEEN)
    seen = d < UNSEEN
    y = torch.where(seen, y - mean, 0.0)
    r = 1 / (own + d)
    within = 1 / (a * (1 - rho.square()))
    off, ends = -rho * within, within if n > 1 else 1 / a
    diagonal = r + within * (1 + rho.square())
    diagonal[0] = r[0] + ends
    diagonal[-1] = r[-1] + ends
    right = torch.stack([r * y, r], 1)  # step, (y, 1), record, column
    front, back = [diagonal[0]], [diagonal[-1]]
    carried, solved = [right[0]], []
    for i in range(1, n):
        share = off / front[-1]
        front.append(torch.addcmul(diagonal[i], share, off, value=-1))
        carried.append(torch.addcmul(right[i], share, carried[-1], value=-1))
    for i in reversed(range(n)):
        now = carried[i] if not solved else torch.addcmul(carried[i], off, solved[-1], value=-1)
        solved.append(now / front[i])
        if i < n - 1:
            back.append(diagonal[i] - off.square() / back[-1])
    u, w = torch.stack(solved[::-1]).unbind(1)
    variance = 1 / (torch.stack(front) + torch.stack(back[::-1]) - diagonal)
    weighted, ones = r * (y - u), r * (1 - w)
    gain = p / (1 + p * ones.sum(0))
    pull = gain * weighted.sum(0)
    weighted, variance = weighted - ones * pull, variance + gain * (1 - w).square()
    m = own * r * y + d * r * (u + (1 - w) * pull) + mean
    v = (d * own * r + (d * r).square() * variance).clamp(min=1e-9)
    surprise = weighted / (r - r.square() * variance).clamp(min=1e-9).sqrt()
    return m, v, torch.where(seen, surprise, 0.0).clamp(-8, 8)
