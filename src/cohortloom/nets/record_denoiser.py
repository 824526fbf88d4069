"""The denoiser of records: one network for statics and course, each at a place of its own on the way from noise.

Statics are tokens of a transformer, one per column; visits are tokens, one per visit; attention is biased by the
distance in visits. What both parts' clocks show, and a pooled view of the statics, scale and shift every layer. Columns
have small heads of their own on top of their row,

    logits_c = W_c silu(A_c h + B_c f) + T_c s        F_c = u_c silu(A_c h + B_c f) + V_c (f x basis(level))

with f the smoothed neighbours of a number in its own column (`record_cells.smooth`), s the shares of each token among
the neighbours. V starts at the ridge regression of the target on f, so before a single step the network is the best
linear denoiser of each column along time, at each noise level; T starts as "what stood here before and after".

The number output F = b x - a e is that of the unit-variance preconditioning (`diffusion.path.EDM`): F = 0 is already
the optimum for independent normal x, whatever the level.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cohortloom.nets.record_cells import (
    LEVELS,
    N_KERNELS,
    RANK,
    CellColumn,
    Columns,
    Embed,
    Shown,
    kernels,
    level_basis,
    one_hot,
    smooth,
)

__all__ = ["CLEAN", "NUMBERS", "TOKENS", "Clock", "Output", "RecordDenoiser", "place_features"]

TOKENS, NUMBERS, CLEAN = 0, 1, 2  # stages of a part
N_BASIS = len(LEVELS)
N_FEATURES = 2 * N_KERNELS + 7
N_PLACE = 9
REACH = 16
FEW = (0, 1, 4)  # kernels that smooth tokens: nearest past, nearest future, all


@dataclass(frozen=True)
class Clock:
    """How far a part is. stage: TOKENS (share of its cells hidden), NUMBERS (at log(1/sigma) = level) or CLEAN."""

    stage: Int[Tensor, "record"]
    share: Float[Tensor, "record"]
    level: Float[Tensor, "record"]

    def features(self) -> Float[Tensor, "record feature"]:
        stage = nn.functional.one_hot(self.stage, 3).float()
        share = torch.where(self.stage == TOKENS, self.share, 0.0)
        basis = level_basis(self.level) * (self.stage == NUMBERS)[:, None]
        return torch.cat([stage, share[:, None], basis], 1)


@dataclass(frozen=True)
class Output:
    """Logits of a part's small columns side by side, of each large one, and the number outputs F of number columns."""

    small: Float[Tensor, "*cell token"]
    large: list[Float[Tensor, "*cell level"]]
    number: Float[Tensor, "*cell number"]


def place_features(
    index: Int[Tensor, "record step"], n: Int[Tensor, "record"], known: Bool[Tensor, "record"]
) -> Float[Tensor, "record step feature"]:
    """Where a visit stands among n, as far as n is known."""
    index = index.float()
    left = (n[:, None] - 1 - index).clamp(min=0)
    told = known[:, None].float().expand(index.shape)
    parts = [torch.log1p(index) / 3, index / 20, (index == 0).float(), told]
    parts += [told * torch.log1p(left) / 3, told * left / 20, told * index / n.clamp(min=1)[:, None]]
    parts += [told * (left == 0), told * (left == 1)]
    return torch.stack(parts, 2)


class _Block(nn.Module):
    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.film = nn.Linear(width, 4 * width)
        nn.init.zeros_(self.film.weight), nn.init.zeros_(self.film.bias)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        for layer in (self.out, self.down):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, film: Tensor, bias: Tensor) -> Tensor:
        n, s, d = x.shape
        scale1, shift1, scale2, shift2 = self.film(film)[:, None].chunk(4, 2)
        h = nn.functional.layer_norm(x, (d,)) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).view(n, s, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        h = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        h = self.out(h.transpose(1, 2).reshape(n, s, d))
        x = x + nn.functional.dropout(h, self.dropout, self.training)
        h = nn.functional.layer_norm(x, (d,)) * (1 + scale2) + shift2
        h = self.down(nn.functional.silu(self.up(h)))
        return x + nn.functional.dropout(h, self.dropout, self.training)


class _Heads(nn.Module):
    """Heads of a part's columns. `a` is a few units per column."""

    def __init__(self, columns: Columns, units: int, n_features: int, dropout: float) -> None:
        super().__init__()
        self.columns, self.units, self.dropout = columns, units, dropout
        numbers, small = columns.numbers, columns.small
        self.own = nn.Parameter(torch.randn(len(numbers), n_features + N_BASIS, units) / math.sqrt(n_features))
        self.number = nn.Parameter(torch.zeros(len(numbers), units))
        self.line = nn.Parameter(torch.zeros(len(numbers), n_features * N_BASIS))
        self.logits = nn.Parameter(torch.zeros(len(small) * units, len(columns.owner)))
        block = torch.arange(len(small)).repeat_interleave(units)[:, None] == columns.owner[None]
        self.register_buffer("block", block.float(), persistent=False)
        nn.init.normal_(self.logits, std=0.3 / math.sqrt(units))
        start = [math.log(max(s, 1e-6)) for j in small for s in columns.each[j].share]
        self.bias = nn.Parameter(torch.tensor(start))
        allowed = [a for j in small for a in columns.each[j].allowed]
        self.register_buffer("allowed", torch.tensor(allowed, dtype=torch.bool), persistent=False)
        self.query = nn.ModuleList(nn.Linear(units, RANK) for _ in columns.large)
        self.levels = nn.ParameterList(
            nn.Parameter(torch.randn(columns.each[j].n_tokens, RANK) * 0.1) for j in columns.large
        )
        self.level_bias = nn.ParameterList(
            nn.Parameter(torch.tensor([math.log(max(s, 1e-6)) for s in columns.each[j].share])) for j in columns.large
        )

    def wide(self, features: Tensor, basis: Tensor) -> Tensor:
        """features x basis, one vector per cell."""
        basis = basis.view(len(basis), *[1] * (features.ndim - 2), -1)
        return (features[..., :, None] * basis[..., None, :]).flatten(-2)

    def forward(self, a: Float[Tensor, "*cell column unit"], features: Tensor, basis: Tensor) -> Output:
        c = self.columns
        numbers = features.new_zeros(*a.shape[:-2], 0)
        if c.numbers:
            wide = self.wide(features, basis)
            flat = basis.view(len(basis), *[1] * (features.ndim - 2), -1).expand(*features.shape[:-1], -1)
            own = torch.einsum("...cf,cfh->...ch", torch.cat([features, flat], -1), self.own)
            a = a.index_add(-2, torch.tensor(c.numbers), own)
        a = nn.functional.dropout(nn.functional.silu(a), self.dropout, self.training)
        if c.numbers:
            numbers = (a[..., c.numbers, :] * self.number).sum(-1) + (wide * self.line).sum(-1)
        small = a[..., c.small, :].flatten(-2) @ (self.logits * self.block) + self.bias
        large = [
            query(a[..., j, :]) @ levels.T + bias
            for query, levels, bias, j in zip(self.query, self.levels, self.level_bias, c.large)
        ]
        return Output(small.masked_fill(~self.allowed, -1e9), large, numbers)


class RecordDenoiser(nn.Module):
    """Denoiser of statics and course.

    Args:
        static, series: Columns of the two parts.
        width, n_layers, n_heads: Of the transformer.
        units: Units of each column's head.
        dropout: Of the transformer and the heads.
    """

    def __init__(
        self, static: list[CellColumn], series: list[CellColumn], *, width: int = 64, n_layers: int = 2,
        n_heads: int = 4, units: int = 16, dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.static, self.series = Columns(tuple(static)), Columns(tuple(series))
        self.width, self.n_heads = width, n_heads
        self.embed_static, self.embed_series = Embed(self.static, width), Embed(self.series, width)
        self.column = nn.Parameter(torch.randn(len(static), width) * 0.1)
        self.place = nn.Linear(N_PLACE, width)
        n_numbers, n_few = len(self.series.numbers), len(FEW)
        self.near = nn.Linear(n_numbers * 2 * N_KERNELS + len(self.series.owner) * n_few, width)
        self.clock = nn.Sequential(nn.Linear(2 * (4 + N_BASIS) + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.pool = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, n_heads, dropout) for _ in range(n_layers))
        self.distance = nn.Parameter(torch.zeros(n_heads, 2 * REACH + 1))
        self.across = nn.Parameter(torch.zeros(n_heads, 2))
        self.to_static = nn.Parameter(torch.randn(len(static), width, units) / math.sqrt(width))
        self.to_series = nn.Linear(width, len(series) * units)
        self.static_heads = _Heads(self.static, units, 3, dropout)
        self.series_heads = _Heads(self.series, units, N_FEATURES, dropout)
        self.shares = nn.Parameter(torch.zeros(n_few, len(self.series.owner), len(self.series.owner)))
        same = self.series.owner[:, None] == self.series.owner[None]
        self.register_buffer("same", same.float(), persistent=False)
        with torch.no_grad():
            self.shares[:2] = torch.eye(len(self.series.owner))
        self._kernels: dict[int, Tensor] = {}

    def forward(
        self, static: Shown, series: Shown, present: Bool[Tensor, "record step"],
        place: Float[Tensor, "record step feature"], clocks: tuple[Clock, Clock], told: Bool[Tensor, "record"],
    ) -> tuple[Output, Output]:  # fmt: skip
        """Outputs for statics and series.

        Args:
            present: Visits that show or are to be drawn.
            place: `place_features` of the visits.
            clocks: Of statics and series.
            told: Is the number of visits known?
        """
        film = self.clock(torch.cat([clocks[0].features(), clocks[1].features(), told[:, None].float()], 1))
        cells = self.embed_static.cells(static) + self.column
        film = film + self.pool(cells.sum(-2)) if len(self.static) else film
        film = nn.functional.silu(film)
        features, shares, near = self.neighbours(series, present)
        rows = self.embed_series.rows(series) + self.place(place) + near
        h = torch.cat([cells, rows], 1)
        bias = self._bias(len(self.static), present)
        for block in self.blocks:
            h = block(h, film, bias)
        h = nn.functional.layer_norm(h, (self.width,))
        here, there = h[:, : len(self.static)], h[:, len(self.static) :]
        own = torch.stack([static.value, static.clean.float(), static.noisy.float()], -1)[..., self.static.numbers, :]
        first = self.static_heads(torch.einsum("ncd,cdh->nch", here, self.to_static), own, level_basis(clocks[0].level))
        units = self.to_series(there).view(*there.shape[:2], len(self.series), -1)
        second = self.series_heads(units, features, level_basis(clocks[1].level))
        line = torch.einsum("nikf,fkt->nit", shares, self.shares * self.same)
        return first, Output(second.small + line, second.large, second.number)

    def neighbours(self, series: Shown, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the other visits say: (features of the numbers, shares of the tokens, both in the row's embedding)."""
        c, n = self.series, series.token.shape[1]
        if n not in self._kernels:
            self._kernels[n] = kernels(n)
        kernel = self._kernels[n]
        j = c.numbers
        value, clean, noisy = (t[..., j] for t in (series.value, series.clean, series.noisy))
        there = present[..., None].float()
        weights = torch.cat([clean, noisy], 2) * there
        means, mass = smooth(kernel, value.repeat(1, 1, 2), weights)
        means = means.unflatten(2, (2, len(j)))
        mass = mass[:, :, : len(j)]
        recency = -torch.log2(mass[..., :2].clamp(min=2.0**-20)) / 10
        own = [value, clean.float(), noisy.float()]
        features = torch.cat(
            [torch.stack([*own, torch.ones_like(value)], -1), means[:, :, 0], means[:, :, 1], recency,
             (mass[..., 4:] > 0).float()], -1,
        )  # fmt: skip
        hot = one_hot(c, series.token)
        shown = (series.token[..., c.small] != c.masks[c.small]) * there
        shares, _ = smooth(kernel[list(FEW)], hot, shown, c.owner)
        near = self.near(torch.cat([means.permute(0, 1, 3, 2, 4).flatten(2), shares.flatten(2)], 2))
        return features, shares, near

    def _bias(self, n_static: int, present: Bool[Tensor, "record step"]) -> Float[Tensor, "record head token token"]:
        """Of the attention: by distance between visits, between parts, and minus infinity towards what isn't there."""
        n, steps = present.shape
        step = torch.arange(steps)
        distance = (step[:, None] - step[None]).clamp(-REACH, REACH) + REACH
        size = n_static + steps
        out = self.distance.new_zeros(self.n_heads, size, size)
        out[:, n_static:, n_static:] = self.distance[:, distance]
        out[:, :n_static, n_static:] = self.across[:, :1, None]
        out[:, n_static:, :n_static] = self.across[:, 1:, None]
        there = torch.cat([present.new_ones(n, n_static), present], 1)
        if not n_static:
            there = there | ~there.any(1, keepdim=True)
        return out[None].masked_fill(~there[:, None, None, :], -1e9)

    # --- laws of cells ---

    def log_probs(self, columns: Columns, output: Output, token: Int[Tensor, "*cell column"]) -> Tensor:
        """Log-probability of tokens, all columns (those that can't be drawn: whatever)."""
        out = output.small.new_zeros(token.shape)
        if columns.small:
            padded = nn.functional.pad(output.small, (0, 1), value=-1e9)[..., columns.pads]
            law = padded.log_softmax(-1)
            small = token[..., columns.small].clamp(max=law.shape[-1] - 1)
            out[..., columns.small] = law.gather(-1, small[..., None])[..., 0]
        for logits, j in zip(output.large, columns.large):
            some = token[..., j].clamp(max=logits.shape[-1] - 1)
            out[..., j] = logits.log_softmax(-1).gather(-1, some[..., None])[..., 0]
        return out

    def draw_tokens(
        self, columns: Columns, output: Output, now: Bool[Tensor, "*cell column"], stream: torch.Generator,
        forbidden: Int[Tensor, "*cell column"],
    ) -> Int[Tensor, "*cell column"]:  # fmt: skip
        """A token for each cell of `now` (0 elsewhere), never the cell's `forbidden` one (-1: none)."""
        out = torch.zeros(now.shape, dtype=torch.long)
        for place, j in [*enumerate(columns.small), *((k, j) for k, j in enumerate(columns.large))]:
            cells = now[..., j]
            if not cells.any():
                continue
            if j in columns.large:
                logits = output.large[place][cells]
            else:
                row = columns.pads[place][: columns.each[j].n_tokens]
                logits = output.small[..., row][cells]
            ban = forbidden[..., j][cells]
            logits = torch.where(torch.arange(logits.shape[1]) == ban[:, None], -1e9, logits)
            u = torch.rand(len(logits), 1, generator=stream)
            law = logits.double().softmax(1).cumsum(1)
            out[..., j][cells] = torch.searchsorted(law, u.double() * law[:, -1:]).clamp(max=logits.shape[1] - 1)[:, 0]
        return out
