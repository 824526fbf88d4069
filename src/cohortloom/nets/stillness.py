"""Fine noise between beats, brought to the size it has in training records.

A short training leaves the line between T and P trembling where real ones are smooth, and the eye sees that first. So,
training done, records are drawn under the training records' own conditions. The power p of each channel, in bands above
8 Hz and more than .11 s away from any R peak, has one law over drawn records and another over training records; the
first is mapped to the second, quantile by quantile:

    log p'  = log p + Q_real(u) - Q_drawn(u),   u = F_drawn(log p)

The band is multiplied by sqrt(p' / p) away from beats, with soft edges. Order among records is kept, so what goes with
the noise of a record (its label, the patient) still does; beats and all that is slower stay as they were drawn.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Stillness"]

#: Lower edges of the bands [Hz]; those above .4 of the sampling frequency are left away.
EDGES = (8.0, 20.0, 50.0, 120.0)
LEVELS = 21
#: Half of the span of a beat, twice that of an odd one, and the width of its edges [s].
HALF, EDGE = 0.11, 0.012
#: Farthest that log power is moved down and up.
FARTHEST = (-5.0, 2.0)


class Stillness(nn.Module):
    """Law of fine power between beats, of training and of drawn records.

    Args:
        n_channels: Modelled channels.
        fs: Sampling frequency [Hz].
    """

    found: Tensor
    drawn: Tensor

    def __init__(self, n_channels: int, fs: float) -> None:
        super().__init__()
        self.fs = fs
        self.edges = tuple(e for e in EDGES if e < 0.4 * fs)
        shape = (len(self.edges), n_channels, LEVELS)
        self.register_buffer("found", torch.zeros(shape))  # log power of training records, quantiles
        self.register_buffer("drawn", torch.zeros(shape))  # of drawn ones

    def fit(self, found: Float[Tensor, "band real channel"], drawn: Float[Tensor, "band drawn channel"]) -> None:
        """Learn from log powers of training records and of drawn ones."""
        levels = (torch.arange(LEVELS) + 0.5) / LEVELS
        for buffer, power in ((self.found, found), (self.drawn, drawn)):
            buffer.copy_(torch.quantile(power.float(), levels, dim=1).permute(1, 2, 0))

    def log_power(
        self, x: Float[Tensor, "record channel sample"], away: Float[Tensor, "record channel sample"]
    ) -> Float[Tensor, "band record channel"]:
        """Log power in each band, weighted by `away` (0 to 1)."""
        return _log_power(self._bands(x), away)

    def away(
        self, place: Float[Tensor, "record beat"], real: Tensor, odd: Tensor, n_samples: int
    ) -> Float[Tensor, "record sample"]:
        """1 between beats, 0 at them."""
        n = torch.arange(n_samples, dtype=torch.float32)
        out = torch.ones(len(place), n_samples)
        for k in range(place.shape[1]):
            half = HALF * (1 + odd[:, k].float())
            distance = (n - place[:, k, None]).abs() / self.fs - half[:, None]
            out = torch.where(real[:, k, None], torch.minimum(out, torch.sigmoid(distance / EDGE)), out)
        return out

    def forward(
        self,
        x: Float[Tensor, "record channel sample"],
        away: Float[Tensor, "record sample"],
    ) -> Float[Tensor, "record channel sample"]:
        """Drawn records, their fine noise between beats as large as in training records."""
        bands, away = self._bands(x), away[:, None].expand_as(x)
        for band, power, found, drawn in zip(bands, _log_power(bands, away), self.found, self.drawn):
            moved = torch.stack([_moved(p, d, f) for p, d, f in zip(power.T, drawn, found)], dim=1)
            x = x + ((0.5 * moved.clamp(*FARTHEST)).exp()[..., None] - 1) * away * band
        return x

    def _bands(self, x: Tensor) -> list[Tensor]:
        """Parts above each edge and below the next, without phase, over mirrored records."""
        n = x.shape[-1]
        rate = torch.fft.rfftfreq(2 * n, 1 / self.fs)
        low = [1 / (1 + (rate / e) ** 6) for e in self.edges] + [torch.ones_like(rate)]
        c = torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1))
        return [torch.fft.irfft(c * (b - a), n=2 * n)[..., :n] for a, b in pairwise(low)]


def _log_power(bands: list[Tensor], away: Tensor) -> Tensor:
    some = away.sum(dim=-1).clamp(min=1.0)
    return torch.stack([((b.square() * away).sum(dim=-1) / some + 1e-12).log() for b in bands])


def _moved(power: Tensor, drawn: Tensor, found: Tensor) -> Tensor:
    """How far each log power is moved: between the levels in proportion, beyond them as at the last."""
    after = torch.searchsorted(drawn, power.contiguous()).clamp(1, LEVELS - 1)
    low, high = drawn[after - 1], drawn[after]
    part = ((power - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    shift = found - drawn
    return shift[after - 1] + part * (shift[after] - shift[after - 1])
