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
        neighbouring electrodes see the same sources. Records with a rhythm have axes of their own in each band: what
        leads share of the wander of a breath is not what they share of the noise of a muscle

References:
    Karras et al. (2022), arXiv:2206.00364. Ledoit, Wolf (2004). A well-conditioned estimator for large-dimensional
    covariance matrices. Rasmussen, Williams (2006), ch. 2.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "MOST_COORDINATES", "GaussianStart", "LatentStart", "Start", "cosine_power", "principal_axes", "reflected",
    "resampled",
]  # fmt: skip

Denoiser = Callable[[Tensor, Tensor], Tensor]

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
        mix: Principal axes of the channels in columns, for cosines (of each band); None: the channels themselves.
        cuts: The first cosine of each band but the first, where bands have axes of their own.
    """

    mean: Tensor
    power: Tensor
    basis: Tensor | None = None
    mix: Tensor | None = None
    cuts: tuple[int, ...] = ()

    def _into(self, x: Tensor) -> Tensor:
        if self.basis is not None:
            return x.flatten(1) @ self.basis
        x = x if self.mix is None or self.cuts else self.mix.T @ x
        return self._turned(torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1)), forth=True)

    def _back(self, c: Tensor) -> Tensor:
        if self.basis is not None:
            return (c @ self.basis.T).reshape(self.mean.shape)
        x = torch.fft.irfft(self._turned(c), n=2 * self.mean.shape[-1])[..., : self.mean.shape[-1]]
        return x if self.mix is None or self.cuts else self.mix @ x

    def _turned(self, c: Tensor, *, forth: bool = False) -> Tensor:
        """Cosines from the channels to the axes of each band (`forth`), or back."""
        if not self.cuts:
            return c
        parts = torch.view_as_real(c).tensor_split(self.cuts, dim=2)  # type: ignore[union-attr]
        turned = [(m.T if forth else m) @ p.flatten(2) for m, p in zip(self.mix, parts)]  # type: ignore[arg-type]
        return torch.view_as_complex(torch.cat(turned, dim=2).unflatten(2, (-1, 2)))

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

    # Records are their own latents here; `LatentStart` overrides what follows.

    #: Latents are this many times the size of records; they reach so far where records reach 1.
    scale, reach = 1.0, 1.0

    @property
    def whole(self) -> "Start":
        """The law of the records themselves."""
        return self

    def into(self, x: Tensor) -> Tensor:
        """Latents of records."""
        return x

    def decode(self, u: Tensor, noise: torch.Generator) -> Tensor:
        """Records of latents."""
        return u

    def seen(self, seen: Tensor) -> Tensor:
        """Which latents come from observed samples alone."""
        return seen

    def guides(self, guide: Tensor | None) -> Tensor | None:
        """Guides at the latents' rate; those of each channel come first."""
        return guide

    def lifted(self, denoise: Denoiser) -> Denoiser:
        """denoise(y, sigma) of records from that of latents."""
        return denoise


@dataclass(frozen=True)
class LatentStart(Start):
    """The law of latents: of each record its first cosines along the strongest axes, as a series of a lower rate.

    Where each band has axes of its own, they are the first cosines of the channels themselves. Cosines and axes are
    orthonormal, so latents have the same Gaussian law, cut; and what they leave out has it too. A decoder then needs no
    training: it draws what is left out from p(rest | m, C) and puts the latents in. White noise of size sigma on a
    record is white noise of size `scale` times sigma on its latents.

    Args:
        record: The law of the records.
        scale: Of latents, so that their variance is about 1.
    """

    record: Start | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, whole: Start, k: int, n_axes: int, scale: float) -> "LatentStart":
        """k latents along each of `n_axes` axes."""
        bare = cls(
            whole.mean[:, :n_axes, :k], whole.power[:, :n_axes, : k + 1] * scale**2, record=whole, scale=scale,
            mix=whole.mix if whole.cuts else None, cuts=tuple(min(c, k + 1) for c in whole.cuts),
        )  # fmt: skip
        return replace(bare, mean=bare.into(whole.mean))

    @property
    def _axes(self) -> Tensor | None:
        mix = self.whole.mix
        return None if mix is None or self.whole.cuts else mix[:, : self.mean.shape[1]]

    @property
    def whole(self) -> Start:
        return self.record  # type: ignore[return-value]

    @property
    def reach(self) -> float:  # type: ignore[override]
        _, channels, n = self.whole.mean.shape
        return self.scale * (channels * n / self.mean.shape[2]) ** 0.5

    def into(self, x: Tensor) -> Tensor:
        x = x if self._axes is None else self._axes.T @ x
        return self.scale * resampled(x, self.mean.shape[2])

    def _out(self, u: Tensor) -> Tensor:
        x = resampled(u / self.scale, self.whole.mean.shape[2])
        return x if self._axes is None else self._axes @ x

    def decode(self, u: Tensor, noise: torch.Generator) -> Tensor:
        drawn = self.whole.noisy(torch.randn(self.whole.mean.shape, generator=noise), torch.zeros(()))
        return self._put(u, drawn)

    def _put(self, u: Tensor, x: Tensor) -> Tensor:
        """Records x with these latents."""
        return x + self._out(u - self.into(x))

    def seen(self, seen: Tensor) -> Tensor:
        dark = (~seen.all(dim=1, keepdim=True)).float()
        dark = nn.functional.adaptive_max_pool1d(dark, self.mean.shape[2])
        return (nn.functional.max_pool1d(dark, 5, 1, 2) < 0.5).expand(self.mean.shape)

    def guides(self, guide: Tensor | None) -> Tensor | None:
        if guide is None:
            return None
        n, k = guide.shape[2], self.mean.shape[2]
        marks = resampled(guide[:, self.whole.mean.shape[1] :], k) * (k / n) ** 0.5
        return torch.cat([self.mean, marks], dim=1)

    def lifted(self, denoise: Denoiser) -> Denoiser:
        """What the latents do not tell is the Gaussian's."""

        def clean(y: Tensor, sigma: Tensor) -> Tensor:
            guess = self.whole.clean(y, sigma, torch.zeros_like(y))
            return self._put(denoise(self.into(y), self.scale * sigma), guess)

        return clean


class GaussianStart(nn.Module):
    """What is kept of the law: all buffers, fitted in closed form.

    Args:
        n_channels, n_samples: Of a record.
        fs: Sampling frequency [Hz].
        mean: Does the mean follow from the condition?
        n_condition: Size of the condition vector.
        centres: Middles of the bands a record tells its power in [Hz]; empty for none.
        whole: Keep the whole covariance (records cut at one point)?
        edges: Where bands with axes of their own begin, but for the first [Hz].
        stride: Samples per latent; 0: records are not coded.
        n_latent: Axes of the channels that latents follow.
    """

    def __init__(
        self, n_channels: int, n_samples: int, fs: float, *, mean: bool, n_condition: int, centres: tuple[float, ...],
        whole: bool, edges: tuple[float, ...] = (), stride: int = 0, n_latent: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_channels, self.fs, self.centres = n_channels, fs, centres
        self.edges, self.stride, self.n_latent = edges, stride, n_latent
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
        mix = torch.eye(n_channels).repeat(len(edges) + 1, 1, 1) if edges else torch.eye(n_channels)
        self.register_buffer("mix", mix if n_channels > 1 and not whole else None)
        self.register_buffer("marks", torch.ones(3))
        self.register_buffer("scale", torch.ones(()) if stride else None)
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

    def fit_axes(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Axes of each band of (records around their mean, ...), drawn to those of all where a band tells little."""
        total, count = torch.zeros(self.mix.shape, dtype=torch.float64), np.zeros(len(self.mix))
        for left, _ in parts:
            c = np.fft.rfft(reflected(left))
            for k, part in enumerate(np.split(c, self._cuts(left.shape[-1]), axis=-1)):
                total[k] += torch.from_numpy(np.einsum("rcj,rdj->cd", part, part.conj(), optimize=True).real)
                count[k] += part.shape[0] * part.shape[2]
        everything = total.sum(dim=0) / total.diagonal(dim1=1, dim2=2).sum().clamp(min=LEAST)
        for k, (own, n) in enumerate(zip(total, count)):
            few = self.n_channels / max(n, 1)
            self.mix[k].copy_(torch.linalg.eigh(own / own.trace().clamp(min=LEAST) + few * everything)[1].flip(1))

    def _cuts(self, n: int) -> tuple[int, ...]:
        return tuple(int(np.ceil(2 * n * e / self.fs)) for e in self.edges)

    def fit_shape(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """The common spectrum of (records around their mean, log powers in bands, see `start`)."""
        total, n, usual = torch.zeros(self.n_channels, N_GRID, dtype=torch.float64), 0, torch.zeros_like(self.usual)
        for left, bands in parts:
            length = left.shape[-1]
            if self.mix is None:
                power = torch.from_numpy(cosine_power(left)).double()
            else:
                still = torch.zeros(1, self.n_channels, length)
                law = Start(still, still, mix=self.mix, cuts=self._cuts(length))
                power = _power_of(law._into(torch.from_numpy(np.asarray(left)).float()).numpy(), length)
                power = torch.from_numpy(power).double()
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
        power = self.power if self.power is not None else self._power(None, 1000)
        if self.stride:
            power = power[:, : self.n_latent, : 1000 // self.stride]
            self.scale.copy_(power.mean().rsqrt())
            power = power * self.scale**2
        power = power.flatten().float()
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
        cuts = self._cuts(n) if self.mix is not None else ()
        law = Start(mean, self._power(bands, n).float().expand(records, -1, -1), mix=self.mix, cuts=cuts)
        return LatentStart.of(law, -(-n // self.stride), self.n_latent, float(self.scale)) if self.stride else law

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


def resampled(x: Float[Tensor, "*record sample"], k: int) -> Float[Tensor, "*record latent"]:
    """The first cosines of a series as one of k samples that span the same time; orthonormal, no filter, no seams."""
    n = x.shape[-1]
    both = min(n, k)
    c = torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1))[..., :both]
    turn = torch.arange(both, dtype=x.dtype) * (torch.pi / 2) * (1 / k - 1 / n)  # half a sample is not the same time
    c = torch.nn.functional.pad(c * torch.polar(torch.full_like(turn, (k / n) ** 0.5), turn), (0, k + 1 - both))
    return torch.fft.irfft(c, n=2 * k)[..., :k]


def reflected(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, x[..., ::-1]], axis=-1)


def cosine_power(x: Float[np.ndarray, "*record sample"]) -> Float[np.ndarray, "*record rate"]:
    """Power of each cosine of the reflected record; the mean over cosines is the mean square.

    Ends that do not meet leak far less here than in a periodic transform: a steep spectrum keeps its floor.
    """
    return _power_of(np.fft.rfft(reflected(x), axis=-1), x.shape[-1])


def _power_of(c: np.ndarray, n: int) -> np.ndarray:
    power = np.square(np.abs(c)) / (2 * n)
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
