"""Masked (absorbing) diffusion of categories.

At mask share m (1 = noise, 0 = data) each cell is hidden with probability m; a network gives the law of every hidden
cell given those that show. For m uniform on (0, 1) the weighted cross-entropy of the hidden cells is a bound,

    -log p(x) <= E_m E_mask [ (1 / m) sum over hidden cells of -log q(x_c | cells that show) ]

and with the exact conditionals the average of the right side over p is the entropy of p: each order of revealing the
cells is a chain rule, and 1 / m weighs every position in it alike.

Drawing goes the other way: all cells hidden, and in pass k those whose time has come are drawn from their laws, each by
itself. Cells of one pass don't see each other, so few passes lose dependence; `reveal_times` sets cells of one row, and
neighbours in one column, far apart, which leaves them together in a pass only when there are fewer passes than columns.

References:
    Sahoo et al. (2024). Simple and effective masked diffusion language models. arXiv:2406.07524.
    Austin et al. (2021). Structured denoising diffusion models in discrete state-spaces. arXiv:2107.03006.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["bound_weight", "hide", "mask_shares", "reveal_times", "unmask"]

GOLDEN = 0.7548776662466927  # 1 / plastic number: multiples of it spread evenly together with those of 1 / columns


def mask_shares(n: int, generator: torch.Generator) -> Float[Tensor, "record"]:
    """n mask shares, one in each n-th of (0, 1): uniform, with less spread between batches."""
    place = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / max(n, 1)
    return place.clamp(1e-3, 1.0)


def hide(cells: Bool[Tensor, "record *cell"], share: Float[Tensor, "record"], generator: torch.Generator) -> Tensor:
    """Which of the cells are hidden: each with probability `share` of its record."""
    wide = share.view(-1, *[1] * (cells.ndim - 1))
    return cells & (torch.rand(cells.shape, generator=generator) < wide)


def bound_weight(share: Tensor, *, cap: float = 10.0) -> Tensor:
    """1 / m, at most `cap` (a single hidden cell would else outweigh a batch)."""
    return (1 / share).clamp(max=cap)


def reveal_times(shape: tuple[int, int, int], generator: torch.Generator) -> Float[Tensor, "record step column"]:
    """Time in [0, 1) at which each cell is drawn: uniform for a cell, far apart for cells that depend on each other."""
    n, steps, columns = shape
    rank = torch.rand(n, columns, generator=generator).argsort(1).argsort(1) / max(columns, 1)
    start = torch.rand(n, 1, 1, generator=generator)
    return (start + GOLDEN * torch.arange(steps)[None, :, None] + rank[:, None]) % 1.0


def unmask(
    draw: Callable[[Int[Tensor, "*cell"], Bool[Tensor, "*cell"], Bool[Tensor, "*cell"], float], Int[Tensor, "*cell"]],
    token: Int[Tensor, "*cell"],
    hidden: Bool[Tensor, "*cell"],
    time: Float[Tensor, "*cell"],
    n_passes: int,
) -> Int[Tensor, "*cell"]:
    """Draw the hidden cells in `n_passes` passes.

    Args:
        draw: (token, hidden, cells to draw now, share of the way still to go) -> token with these cells drawn.
        token: Cells; those hidden may hold anything.
        hidden: Cells to draw.
        time: When each is drawn, in [0, 1).
    """
    for k in range(n_passes):
        now = hidden & (time < (k + 1) / n_passes)
        if k == n_passes - 1:
            now = hidden
        if now.any():
            token = torch.where(now, draw(token, hidden, now, 1 - k / n_passes), token)
            hidden = hidden & ~now
    return token
