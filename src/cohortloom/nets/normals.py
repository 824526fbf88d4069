"""The normals a number is drawn from, worked out only as far as somebody asks.

A draw takes one normal of a row. So weights are there at once, means and spreads of the chosen ones are computed on
demand; whoever unpacks the three gets them all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["LEAST_LOG_SD", "LOG_SD", "Mixture", "Normals"]

#: Of a normal before its scale, and the least after it.
LOG_SD = (-3.0, 1.5)
LEAST_LOG_SD = -4.0


class Mixture(NamedTuple):
    """Mixtures of normals, all three row x component.

    Args:
        weight: Logits.
    """

    weight: np.ndarray
    mean: np.ndarray
    log_sd: np.ndarray

    def of(self, rows: np.ndarray, component: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log sd of one component of each of some rows."""
        return self.mean[rows, component], self.log_sd[rows, component]

    def take(self, rows: np.ndarray) -> "Mixture":
        """Some rows."""
        return Mixture(*[part[rows] for part in self])


@dataclass(frozen=True)
class Normals:
    """Mixtures of normals: component k of row i lies at shift_i + scale_i mean_ik, or at anchor_i + scale_i mean_ik if
    it is an anchored one and the row has an anchor.

    Args:
        weight: Logits [row component].
        mean, log_sd: Before shift and scale [row component].
        shift, log_scale, scale: [row]
        anchor: [row], NaN without one; None: no row has any.
        anchored: Which components lie around the anchor [component].
    """

    weight: np.ndarray
    mean: np.ndarray
    log_sd: np.ndarray
    shift: np.ndarray
    log_scale: np.ndarray
    scale: np.ndarray
    anchor: np.ndarray | None
    anchored: np.ndarray

    def of(self, rows: np.ndarray, component: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of `Mixture`."""
        return self._placed(rows, (rows, component), self.anchored[component])

    def take(self, rows: np.ndarray) -> Mixture:
        """Some rows, worked out."""
        return Mixture(self.weight[rows], *self._placed(rows[:, None], rows, self.anchored))

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.take(np.arange(len(self.weight))))

    def _placed(self, rows: np.ndarray, cells: tuple | np.ndarray, anchored: np.ndarray) -> tuple:
        shift = self.shift[rows]
        if self.anchor is not None:
            anchor = self.anchor[rows]
            shift = np.where(anchored & ~np.isnan(anchor), anchor, shift)
        log_sd = np.clip(self.log_sd[cells], *LOG_SD) + self.log_scale[rows]
        return shift + self.scale[rows] * self.mean[cells], np.maximum(log_sd, LEAST_LOG_SD)
