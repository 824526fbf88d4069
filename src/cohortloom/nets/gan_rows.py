"""Rows of mixed columns as inputs.

A row has numbers (with a mark "observed") and categories (ids, 0 is missing). Its dense form is

    number -> (value or 0, observed),   category of few ids -> one-hot,   category of many ids -> a row of a table

`nets.gan_law` is their law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

__all__ = ["Rows", "put_row"]

#: Categories of more ids go through a table and a low-rank output.
MANY_IDS = 48
TABLE = 16


class Rows(nn.Module):
    """Rows in dense form.

    Args:
        levels: Number of ids of each column; 0 for a number.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.numbers = [j for j, n in enumerate(levels) if not n]
        self.few = [j for j, n in enumerate(levels) if 0 < n <= MANY_IDS]
        self.many = [j for j, n in enumerate(levels) if n > MANY_IDS]
        self.most = max((levels[j] for j in self.few), default=0)
        real = torch.zeros(len(self.few), self.most, dtype=torch.bool)
        for k, j in enumerate(self.few):
            real[k, : levels[j]] = True
        self.register_buffer("real", real, persistent=False)
        self.register_buffer("place", real.flatten().nonzero().squeeze(1), persistent=False)
        sizes = torch.tensor([levels[j] for j in self.few], dtype=torch.long)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)
        self.tables = nn.ModuleList(nn.Embedding(levels[j], TABLE) for j in self.many)
        self.width = max(2 * len(self.numbers) + len(self.place) + TABLE * len(self.many), 1)

    def forward(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Dense form [... width] of values and marks [... column]."""
        seen = observed[..., self.numbers].to(torch.float32)
        parts = [torch.nan_to_num(values[..., self.numbers]) * seen, seen]
        if self.few:
            hot = torch.zeros(*values.shape[:-1], len(self.place))
            parts.append(hot.scatter_(-1, values[..., self.few].long() + self.starts, 1.0))
        parts += [table(values[..., j].long()) for table, j in zip(self.tables, self.many)]
        return torch.cat(parts, -1) if self.levels else torch.ones(*values.shape[:-1], 1)

    def spread(self, cells: torch.Tensor) -> torch.Tensor:
        """What is said of columns [... column], of their places in the dense form [... width]."""
        sizes = [*(self.levels[j] for j in self.few), *[TABLE] * len(self.many)]
        order = torch.tensor([*self.numbers, *self.numbers, *self.few, *self.many], dtype=torch.long)
        count = torch.tensor([1] * (2 * len(self.numbers)) + sizes, dtype=torch.long)
        return cells[..., order.repeat_interleave(count)]


def put_row(values: torch.Tensor, observed: torch.Tensor, fixed: Mapping[int, float]) -> None:
    """Write fixed columns in place; NaN stands for a number that is missing (a missing category is its id 0)."""
    for j, value in fixed.items():
        values[..., j], observed[..., j] = (0.0, False) if value != value else (value, True)
