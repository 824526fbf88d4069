"""Where the denoiser of waveforms starts from: the best guess if records were Gaussian.

Let a record be x ~ Normal(m, C) given what is known of it. Of y = x + sigma e the posterior is known: with the
eigenvalues l of C,

    mean       g = m + l / (l + sigma^2) (y - m)
    deviation  d = sqrt(l sigma^2 / (l + sigma^2))

both by eigenvector. A network with output F then gives x^ = g + d F, and w = (y - m) / sqrt(l + sigma^2) is what it
looks at: white and of size 1 at every noise level, as its target is. With F = 0 a sampler draws the Gaussian exactly.
The network learns what is not Gaussian, from the first step on, and never has to learn class means, the slope of a
spectrum or a noise floor four decades below the QRS. For m = 0, C = 1 this is the preconditioning of Karras et al.

    m   records cut at one point (single beats): ridge regression of the samples on the condition, some of it hidden at
        random as in training; records with a rhythm: their beat train; others: 0
    C   single beats: Ledoit and Wolf's estimate around the stationary covariance, of what the regression leaves over;
        others: stationary with reflecting ends, so the eigenvectors are cosines and l is the power spectrum: a common
        shape, times each record's own powers in bands. Channels are turned to their principal axes first (`mix`):
        neighbouring electrodes see the same sources

References:
    Karras et al. (2022), arXiv:2206.00364. Ledoit, Wolf (2004). A well-conditioned estimator for large-dimensional
    covariance matrices. Rasmussen, Williams (2006), ch. 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MOST_COORDINATES", "GaussianStart", "Start", "cosine_power", "principal_axes", "reflected"]

#: Most samples (all channels) of a record whose whole covariance is kept.
MOST_COORDINATES = 1024
N_GRID = 96
LEAST = 1e-7


@dataclass(frozen=True)
class Start:
    """The Gaussian law of a batch of records.

    Args:
        mean: [record channel sample].
        power: Eigenvalues, [record channel sample + 1] of cosines, or [coordinate] of `basis`.
        basis: Eigenvectors in columns, None for cosines.
        mix: Principal axes of the channels in columns, for cosines; None: the channels themselves.
    """

    mean: Tensor
    power: Tensor
    basis: Tensor | None = None
    mix: Tensor | None = None

    def _into(self, x: Tensor) -> Tensor:
        if self.basis is not None:
            return x.flatten(1) @ self.basis
        x = x if self.mix is None else self.mix.T @ x
        return torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1))

    def _back(self, c: Tensor) -> Tensor:
        if self.basis is not None:
            return (c @ self.basis.T).reshape(self.mean.shape)
        x = torch.fft.irfft(c, n=2 * self.mean.shape[-1])[..., : self.mean.shape[-1]]
        return x if self.mix is None else self.mix @ x

    def _variance(self, sigma: Tensor) -> Tensor:
        return sigma.square().view(-1, *[1] * (1 if self.basis is not None else 2))

    def whitened(self, y: Tensor, sigma: Float[Tensor, "record"]) -> Tensor:
        """w of a noisy record."""
        return self._back(self._into(y - self.mean) * (self.power + self._variance(sigma)).rsqrt())

    def clean(self, y: Tensor, sigma: Float[Tensor, "record"], output: Tensor) -> Tensor:
        """x^ from a noisy record and the network's output."""
        s2 = self._variance(sigma)
        keep = self.power / (self.power + s2)
        return self.mean + self._back(keep * self._into(y - self.mean) + (keep * s2).sqrt() * self._into(output))

    def spread(self, sigma: Float[Tensor, "record"]) -> Float[Tensor, "record"]:
        """Mean posterior variance."""
        s2 = self._variance(sigma)
        return (self.power * s2 / (self.power + s2)).flatten(1).mean(dim=1)

    def noisy(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """A draw of the Gaussian at a noise level: where a sampler begins."""
        return self.mean + self._back(self._into(noise) * (self.power + sigma.square()).sqrt())

    def rows(self, keep: Tensor) -> "Start":
        """The law of some of the records."""
        power = self.power if self.basis is not None else self.power[keep]
        return Start(self.mean[keep], power, self.basis, self.mix)


class GaussianStart(nn.Module):
    """What is kept of the law: all buffers, fitted in closed form.

    Args:
        n_channels, n_samples: Of a record.
        fs: Sampling frequency [Hz].
        mean: Does the mean follow from the condition?
        n_condition: Size of the condition vector.
        centres: Middles of the bands a record tells its power in [Hz]; empty for none.
        whole: Keep the whole covariance (records cut at one point)?
    """

    def __init__(
        self, n_channels: int, n_samples: int, fs: float, *, mean: bool, n_condition: int, centres: tuple[float, ...],
        whole: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_channels, self.fs, self.centres = n_channels, fs, centres
        size = n_channels * n_samples
        if mean:
            self.register_buffer("slope", torch.zeros(n_condition, size))
            self.register_buffer("offset", torch.zeros(size))
        else:
            self.slope = self.offset = None
        self.register_buffer("shape", torch.zeros(n_channels, N_GRID))  # log power on the grid
        self.register_buffer("usual", torch.zeros(n_channels, len(centres)))  # log powers in bands
        self.register_buffer("basis", torch.eye(size) if whole else None)
        self.register_buffer("power", torch.ones(size) if whole else None)
        self.register_buffer("mix", torch.eye(n_channels) if n_channels > 1 and not whole else None)
        self.register_buffer("marks", torch.ones(3))
        self._matrices: dict[int, tuple[Tensor, Tensor]] = {}

    # -- fitting -------------------------------------------------------------------------------------------------

    def fit_mean(self, x: Float[np.ndarray, "record channel sample"], condition: Float[np.ndarray, "row condition"],
                 row: np.ndarray) -> np.ndarray:  # fmt: skip
        """Ridge regression of records on conditions (record `row[i]` belongs to condition i); what it leaves over."""
        from cohortloom.nets.record_code import _ridge

        flat = x.reshape(len(x), -1).astype(np.float64)
        slope, offset = _ridge(condition.astype(np.float64), flat[row])
        self.slope.copy_(torch.from_numpy(slope))
        self.offset.copy_(torch.from_numpy(offset))
        first = np.unique(row, return_index=True)[1]
        return (flat - condition[first] @ slope - offset).reshape(x.shape)

    def fit_shape(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """The common spectrum of (records around their mean, log powers in bands, see `start`)."""
        total, n, usual = torch.zeros(self.n_channels, N_GRID, dtype=torch.float64), 0, torch.zeros_like(self.usual)
        for left, bands in parts:
            left = left if self.mix is None else self.mix.numpy().T @ left
            length = left.shape[-1]
            power = torch.from_numpy(cosine_power(left)).double()
            if self.centres:
                told = torch.from_numpy(bands).double()
                power = power * (-self._gains(told, length)).exp()
                usual += told.reshape(len(told), -1, len(self.centres)).sum(dim=0).float()
            total += _binned(power, self.fs).sum(dim=0)
            n += len(left)
        self.shape.copy_((total / max(n, 1) + LEAST).log())
        self.usual.copy_(usual / max(n, 1))

    def fit_covariance(self, left: Float[np.ndarray, "record channel sample"]) -> None:
        """The whole covariance; call after `fit_shape`."""
        from sklearn.covariance import ledoit_wolf  # heavy

        n, size = left.shape[-1], left[0].size
        law = Start(torch.zeros(1, *left.shape[1:]), self._power(None, n).float())
        white = law.whitened(torch.from_numpy(np.asarray(left)).float(), torch.zeros(len(left))).flatten(1)
        inner = ledoit_wolf(white.double().numpy(), assume_centered=True)[0] if len(white) > 1 else np.eye(size)
        half = torch.eye(size).reshape(-1, *left.shape[1:])
        half = law._back(law._into(half) * law.power.sqrt()).flatten(1).double().numpy()
        value, axes = np.linalg.eigh(half @ inner @ half.T)
        self.basis.copy_(torch.from_numpy(np.ascontiguousarray(axes)))
        self.power.copy_(torch.from_numpy(np.maximum(value, LEAST)))

    def measure_floor(self) -> None:
        """Size of what is left, and the smallest and largest deviation of any of its coordinates."""
        power = (self.power if self.power is not None else self._power(None, 1000)).flatten().float()
        marks = torch.stack([power.mean(), torch.quantile(power, 0.02), power.max()])
        self.marks.copy_(marks.sqrt())

    def size(self) -> float:
        """Root mean square of what is left to the network."""
        return min(max(float(self.marks[0]), 0.02), 2.0)

    def lowest(self) -> float:
        """The last noise level before 0: below the finest part of a record."""
        return min(max(0.5 * float(self.marks[1]), 0.004), 0.03)

    def highest(self) -> float:
        """The first noise level: nothing stands out of the noise there."""
        return min(max(3 * float(self.marks[2]), 5.0), 40.0)

    # -- use -------------------------------------------------------------------------------------------------------

    def start(self, mean: Tensor | None, condition: Tensor, bands: Tensor | None, n: int) -> Start:
        """The law of a batch.

        Args:
            mean: Beat train, or None.
            condition: [record condition].
            bands: Log powers in bands, [record band] or [record axis band]; None: the usual ones.
            n: Samples.
        """
        records = len(condition)
        if self.slope is not None:
            mean = (condition @ self.slope + self.offset).reshape(records, self.n_channels, n)
        elif mean is None:
            mean = condition.new_zeros(records, self.n_channels, n)
        if self.basis is not None:
            return Start(mean, self.power, self.basis)
        return Start(mean, self._power(bands, n).float().expand(records, -1, -1), mix=self.mix)

    def _power(self, bands: Tensor | None, n: int) -> Tensor:
        log_power = (self.shape @ self._matrix(n)[0].to(self.shape))[None]
        if self.centres:
            log_power = log_power + self._gains(self.usual[None] if bands is None else bands, n)
        return log_power.clamp(np.log(LEAST), 12).exp()

    def _gains(self, bands: Tensor, n: int) -> Tensor:
        gains = bands @ self._matrix(n)[1].to(bands)
        return gains if gains.ndim == 3 else gains[:, None]

    def _matrix(self, n: int) -> tuple[Tensor, Tensor]:
        """Interpolation in the logarithm of the frequency: grid -> cosines of n samples, bands -> cosines."""
        if n not in self._matrices:
            rate = np.log(np.maximum(np.arange(n + 1), 0.5) * self.fs / (2 * n))
            found = tuple(
                torch.from_numpy(np.stack([np.interp(rate, np.log(at), row) for row in np.eye(len(at))]))
                if len(at) else torch.zeros(0, n + 1)
                for at in (_grid(self.fs), np.asarray(self.centres))
            )  # fmt: skip
            self._matrices[n] = found  # type: ignore[assignment]
        return self._matrices[n]


def principal_axes(
    parts: Iterable[tuple[Float[np.ndarray, "record channel sample"], np.ndarray]],
) -> Float[np.ndarray, "channel axis"]:
    """Principal axes of the channels in columns, of (records, which samples are seen); pairs seen together count."""
    total, count = 0.0, 1e-9
    for x, seen in parts:
        x = x * seen
        total = total + np.einsum("rcn,rdn->cd", x, x, dtype=np.float64)
        count = count + np.einsum("rcn,rdn->cd", seen, seen, dtype=np.float64)
    return np.linalg.eigh(total / count)[1][:, ::-1].astype(np.float32)


def reflected(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, x[..., ::-1]], axis=-1)


def cosine_power(x: Float[np.ndarray, "*record sample"]) -> Float[np.ndarray, "*record rate"]:
    """Power of each cosine of the reflected record; the mean over cosines is the mean square.

    Ends that do not meet leak far less here than in a periodic transform: a steep spectrum keeps its floor.
    """
    power = np.square(np.abs(np.fft.rfft(reflected(x), axis=-1))) / (2 * x.shape[-1])
    power[..., 0] /= 2
    power[..., -1] = power[..., -2]
    return power


def _grid(fs: float) -> np.ndarray:
    return np.geomspace(0.02, fs / 2, N_GRID)


def _binned(power: Tensor, fs: float) -> Tensor:
    """Mean power [record channel rate] in bins around each point of the grid; interpolated where a bin is empty."""
    n = power.shape[-1] - 1
    rate, grid = np.maximum(np.arange(n + 1), 0.5) * fs / (2 * n), _grid(fs)
    bin_of = np.searchsorted(np.sqrt(grid[1:] * grid[:-1]), rate)
    count = np.bincount(bin_of, minlength=N_GRID)
    total = torch.zeros(*power.shape[:-1], N_GRID, dtype=power.dtype)
    total.index_add_(-1, torch.from_numpy(bin_of), power)
    full = np.flatnonzero(count)
    mean = (total[..., full] / torch.from_numpy(count[full])).clamp(min=LEAST)
    fill = np.stack([np.interp(np.log(grid), np.log(grid[full]), row) for row in np.eye(len(full))])
    return (mean.log() @ torch.from_numpy(fill).to(mean)).exp()
