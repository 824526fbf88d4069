"""The code of averaged beats: where P and T lie, and the shape once they lie at one place.

A T wave that comes later is no linear combination of earlier ones: a linear code needs several numbers for the shift,
tied to each other by a curve, and draws off the curve have dips behind T and waves where there are none. So the time of
each averaged beat is stretched, before the QRS and behind it,

    own time = -B - e^p (s - B)  for time -s < -B,    A + e^t (s - A)  for time s > A,    itself between -B and A

and `LinearCode` is fitted to the beats at common time. The two stretches are the first numbers of the code: those at
which the leading axes of all beats leave least of this one over, with a small penalty, found on a grid and between its
points by a parabola. Axes and stretches are found in turn.

References:
    Ramsay, Li (1998). Curve registration. J R Stat Soc B 60:351.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cohortloom.nets.gaussian_start import resampled
from cohortloom.nets.record_code import LinearCode

__all__ = ["N_STRETCHES", "BeatCode"]

#: Numbers of the code that are stretches: before the QRS, behind it.
N_STRETCHES = 2
#: Nothing moves from B before R to A behind it [s].
CORE = (0.05, 0.05)
_GRIDS = (np.linspace(-0.5, 0.5, 9), np.linspace(-0.36, 0.36, 13))
#: Axes that beats are brought to in turn, and the price of a stretch of .22 in units of what is usually left over.
AXES, PRICE, TYPICAL = (3, 4, 6, 8, 8, 8), 0.01, 0.22
#: Beats are read between points from so many times their rate.
FINER = 3
_MOST, _CHUNK = 1000, 256


class BeatCode(LinearCode):
    """Linear code of averaged beats at common time, behind two stretches.

    Args:
        n_channels: Channels of a beat.
        times: Of the points of a beat around R, even [s].
        n_code: Coordinates of z, the stretches included.
    """

    loading: Tensor
    usual: Tensor

    def __init__(self, n_channels: int, times: Float[np.ndarray, "point"], n_code: int) -> None:
        super().__init__(n_channels * len(times), n_code - N_STRETCHES)
        self.n_channels, self.times = n_channels, torch.from_numpy(np.asarray(times)).float()
        self._room(usual=(1,))

    @property
    def n_code(self) -> int:
        return N_STRETCHES + self.loading.shape[1]

    def fit(self, x: Float[np.ndarray, "record input"]) -> None:
        some = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST)).round().astype(int))
        whole, stretch = np.ones((len(some), x.shape[1]), bool), np.zeros((len(some), N_STRETCHES))
        for most in AXES:
            self._learn(self._common(x[some], stretch), min(most, len(some) // 4))
            for _ in range(2):
                stretch = self._stretched(x[some], whole, stretch, most)
        stretch = self._found(x, np.ones(x.shape, bool))
        super().fit(self._common(x, stretch))

    def encode(
        self, x: Float[np.ndarray, "record input"], seen: Bool[np.ndarray, "record input"] | None = None
    ) -> tuple[Float[np.ndarray, "record code"], Float[np.ndarray, "record code"]]:
        known = np.ones(x.shape, bool) if seen is None else seen
        stretch = self._found(x, known)
        mean, sd = super().encode(np.where(known, self._common(x, stretch), 0.0), seen)
        step = np.array([g[1] - g[0] for g in _GRIDS]) / 4
        return np.concatenate([stretch, mean], axis=1), np.concatenate([np.tile(step, (len(x), 1)), sd], axis=1)

    def decode(self, z: Tensor) -> Tensor:
        """Averaged beats at z, each at its own time."""
        common = super().decode(z[:, N_STRETCHES:])
        return self._moved(self._fine(common), -z[:, :N_STRETCHES].float())

    def enough(self, left: float) -> int:
        """How many coordinates of z it takes to leave no more than this share of what all of them hold."""
        power = np.square(self._get("loading")).sum(axis=0)
        return N_STRETCHES + int((power[::-1].cumsum()[::-1] > left * power.sum()).sum())

    # -- parts -------------------------------------------------------------------------------------------------------

    def _fine(self, flat: Tensor) -> Tensor:
        """Beats at a higher rate: a cubic through the points themselves would blur a wide QRS."""
        x = flat.reshape(len(flat), self.n_channels, len(self.times))
        return resampled(x, FINER * len(self.times)) * FINER**0.5

    def _moved(self, fine: Tensor, stretch: Float[Tensor, "record 2"]) -> Tensor:
        """Beats read at stretched times; beyond their ends the last value holds."""
        before, after = CORE
        t, grow = self.times[None], stretch.exp()
        at = t.clamp(-before, after) + grow[:, 1:] * (t - after).clamp(min=0) + grow[:, :1] * (t + before).clamp(max=0)
        point = ((at - self.times[0]) / (self.times[1] - self.times[0])).clamp(0, len(self.times) - 1)
        return _read(fine, FINER * (point + 0.5) - 0.5).flatten(1)

    def _common(self, x: np.ndarray, stretch: np.ndarray) -> np.ndarray:
        """Beats at common time."""
        fine = self._fine(torch.from_numpy(np.asarray(x)).float())
        return self._moved(fine, torch.from_numpy(stretch).float()).numpy()

    def _learn(self, common: np.ndarray, n_axes: int) -> None:
        """Centre, leading axes (the first columns of the loading) and what they leave over of beats."""
        centre = common.mean(axis=0)
        axes = np.linalg.svd(common - centre, full_matrices=False)[2][: min(n_axes, self.loading.shape[1])]
        left = common - centre - (common - centre) @ axes.T @ axes
        loading = np.zeros(self.loading.shape)
        loading[:, : len(axes)] = axes.T
        self._keep(centre=centre, loading=loading, usual=np.array([max(np.square(left).mean(), 1e-9)]))

    def _found(self, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Stretches of beats under the axes there are."""
        stretch = np.zeros((len(x), N_STRETCHES))
        for rows in np.split(np.arange(len(x)), range(_CHUNK, len(x), _CHUNK)):
            for _ in range(3):
                stretch[rows] = self._stretched(x[rows], seen[rows], stretch[rows], AXES[-1])
        return stretch

    def _stretched(self, x: np.ndarray, seen: np.ndarray, stretch: np.ndarray, n_axes: int) -> np.ndarray:
        """One stretch after the other, the rest kept."""
        stretch, row = stretch.copy(), np.arange(len(x))
        fine = self._fine(torch.from_numpy(np.asarray(x)).float())
        for k, grid in enumerate(_GRIDS):
            cost = np.empty((len(x), len(grid)))
            for i, value in enumerate(grid):
                stretch[:, k] = value
                common = self._moved(fine, torch.from_numpy(stretch).float()).numpy()
                cost[:, i] = self._left(common, seen, n_axes) + PRICE * (value / TYPICAL) ** 2
            best = np.clip(cost.argmin(axis=1), 1, len(grid) - 2)
            low, mid, high = (cost[row, best + d] for d in (-1, 0, 1))
            bend = low - 2 * mid + high
            part = np.where(bend > 1e-12, 0.5 * (low - high) / np.where(bend > 1e-12, bend, 1.0), 0.0)
            stretch[:, k] = grid[best] + np.clip(part, -1, 1) * (grid[1] - grid[0])
        return stretch

    def _left(self, common: np.ndarray, seen: np.ndarray, n_axes: int) -> np.ndarray:
        """What the leading axes leave over of each beat, in units of what they usually do."""
        size = np.linalg.norm(self._get("loading")[:, :n_axes], axis=0)
        axes = (self._get("loading")[:, :n_axes] / np.maximum(size, 1e-9))[:, size > 1e-9]
        away = np.where(seen, common - self._get("centre"), 0.0)
        patterns, which = np.unique(seen[:, :: len(self.times)], axis=0, return_inverse=True)
        out = np.zeros(len(common))
        for p in range(len(patterns)):
            rows = np.flatnonzero(which.reshape(-1) == p)
            v = np.where(seen[rows[0]][:, None], axes, 0.0)
            along = away[rows] @ v
            fit = np.linalg.solve(v.T @ v + 1e-3 * np.eye(v.shape[1]), along.T).T
            out[rows] = np.square(away[rows] - fit @ v.T).sum(axis=1) / max(seen[rows[0]].sum(), 1)
        return out / float(self.usual[0])


def _read(x: Float[Tensor, "record channel point"], at: Float[Tensor, "record time"]) -> Tensor:
    """Values between points by a cubic through four of them."""
    last = x.shape[2] - 1
    at = at.clamp(0, last)
    i = at.floor().clamp(max=last - 1)
    u, i = (at - i)[:, None], i.long()

    def point(k: int) -> Tensor:
        return x.gather(2, (i + k).clamp(0, last)[:, None].expand(-1, x.shape[1], -1))

    a, b, c, d = point(-1), point(0), point(1), point(2)
    return b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
