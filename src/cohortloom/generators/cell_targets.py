"""What networks of cells learn: tokens, and a z for each value with the token CONT.

A value recorded on a grid stands for an interval, so it owns an interval of u = F(x) and not a point. Training draws z
uniformly in it, anew every time: the network sees a density where the data have steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cohortloom.generators.cells import Cells, Coder

__all__ = ["Targets"]


@dataclass(frozen=True)
class Targets:
    """Cells of all rows [row column].

    Args:
        token, score: Of each cell.
        left, right: Ends of the interval of u that a number's value owns, 0 elsewhere.
        hidden: The token a cell can't have given its last value, -1 for none.
    """

    token: Tensor
    score: Tensor
    left: Tensor
    right: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, coders: Sequence[Coder], cells: Cells) -> Self:
        ends, hidden = np.zeros((2, *cells.value.shape), np.float32), np.full(cells.value.shape, -1)
        for j, coder in enumerate(coders):
            if coder.kind == "number":
                ends[:, :, j] = np.nan_to_num(coder.interval(cells.value[:, j]))
                hidden[:, j] = coder.hidden(cells.last[:, j])
        return cls(*(torch.from_numpy(x) for x in (cells.token, cells.score, *ends, hidden)))

    def at(self, rows: Tensor, draw: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens, scores, z drawn within its interval (without `draw` its middle), and hidden tokens of some rows."""
        left, right = self.left[rows], self.right[rows]
        u = left + (right - left) * (torch.rand(left.shape, generator=draw) if draw is not None else 0.5)
        z = torch.special.ndtri(u.clamp(2e-4, 1 - 2e-4))
        return self.token[rows], self.score[rows], z, self.hidden[rows]
