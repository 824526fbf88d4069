"""The denoiser of records: one network for statics and course, each at a place of its own on the way from noise.

Statics are tokens of a transformer, one per column; visits are tokens, one per visit; attention is biased by the
distance in visits. What both parts' clocks show, and a pooled view of the statics, scale and shift every layer. Columns
have small heads of their own on top of their row,

    logits_c = W_c silu(A_c h + B_c f) + T_c s + R_c k        G_c = u_c silu(A_c h + B_c f) + V_c (r x basis(level))

with f and r what the Gaussian processes of the columns (`record_prior`) say about the cell and about its row, place and
statics, s the shares of each token among the neighbours, k r and all tokens that show in the row. A number's estimate
is x^ = m + sqrt(v) G, with m and v mean and variance of its own process. G starts at 0, so before a single step the
network is a linear denoiser along time at each noise level; T and R start at a logistic regression
(`generators.record_start`).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cohortloom.nets.record_cells import (
    LEVELS,
    RANK,
    CellColumn,
    Columns,
    Embed,
    OwnLine,
    Shown,
    kernels,
    level_basis,
    one_hot,
    smooth,
)
from cohortloom.nets.record_prior import SEEN, UNSEEN, ColumnProcess, JointLaw

__all__ = ["CLEAN", "NUMBERS", "TOKENS", "Clock", "Output", "RecordDenoiser", "place_features"]

TOKENS, NUMBERS, CLEAN = 0, 1, 2  # stages of a part
N_BASIS = len(LEVELS)
N_FEATURES = 8
N_OWN = 7
N_BENT = 3
PACE = 2.0  # linear parts of the tokens learn so much faster
N_PLACE = 9
N_NEAR = 3  # kernels that the transformer sees
REACH = 16
WIDEST = 96  # one-hot columns of statics, or of a visit's categories, that the linear part of the numbers sees
MANY = 400  # and of a visit's columns, numbers among them, that that of the tokens sees


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
    """Logits of a part's small columns side by side, of each large one, and of the number columns G, m and v."""

    small: Float[Tensor, "*cell token"]
    large: list[Float[Tensor, "*cell level"]]
    number: Float[Tensor, "*cell number"]
    mean: Float[Tensor, "*cell number"]
    variance: Float[Tensor, "*cell number"]

    @property
    def clean(self) -> Float[Tensor, "*cell number"]:
        """The estimate x^."""
        return self.mean + self.variance.sqrt() * self.number


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

    def forward(self, x: Tensor, film: Tensor, bias: Tensor, asked: slice = slice(None)) -> Tensor:
        """The `asked` tokens after attention to all."""
        d = x.shape[2]
        scale1, shift1, scale2, shift2 = self.film(film)[:, None].chunk(4, 2)
        h = nn.functional.layer_norm(x, (d,)) * (1 + scale1) + shift1
        x, weight, offset = x[:, asked], self.qkv.weight, self.qkv.bias
        q = nn.functional.linear(h[:, asked], weight[:d], offset[:d])
        k, v = nn.functional.linear(h, weight[d:], offset[d:]).chunk(2, 2)
        q, k, v = (y.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for y in (q, k, v))
        h = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, :, asked])
        h = self.out(h.transpose(1, 2).flatten(2))
        x = x + nn.functional.dropout(h, self.dropout, self.training)
        h = nn.functional.layer_norm(x, (d,)) * (1 + scale2) + shift2
        h = self.down(nn.functional.silu(self.up(h)))
        return x + nn.functional.dropout(h, self.dropout, self.training)


class _Heads(nn.Module):
    """Heads of a part's columns. `a` is a few units per column."""

    def __init__(self, columns: Columns, units: int, n_features: int, n_row: int, n_own: int, dropout: float) -> None:
        super().__init__()
        self.columns, self.units, self.dropout = columns, units, dropout
        numbers, small = columns.numbers, columns.small
        self.own = nn.Parameter(torch.randn(len(numbers), n_features + N_BASIS, units) / math.sqrt(n_features))
        self.number = nn.Parameter(torch.zeros(len(numbers), units))
        self.line = nn.Parameter(torch.zeros(len(numbers), n_row * N_BASIS))
        self.shape = nn.Parameter(torch.zeros(len(numbers), n_own * N_BASIS))
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

    def forward(
        self, a: Float[Tensor, "*cell column unit"], features: Tensor, row: Tensor, alone: Tensor, basis: Tensor,
        stage: int | None = None,
    ) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
        """(logits of small columns, of large ones, G); at a single stage the other's are left out.

        Args:
            a: Units of all columns; at the stage NUMBERS of the number columns alone.
        """
        c = self.columns
        number, small, large = a.new_zeros(*a.shape[:-2], 0), a.new_zeros(*a.shape[:-2], 0), []
        mine = slice(None) if stage == NUMBERS else c.numbers
        if c.numbers:
            flat = basis.view(len(basis), *[1] * (features.ndim - 2), -1).expand(*features.shape[:-1], -1)
            own = torch.einsum("...cf,cfh->...ch", torch.cat([features, flat], -1), self.own)
            a = a + own if stage == NUMBERS else a.index_add(-2, torch.tensor(c.numbers), own)
        a = nn.functional.dropout(nn.functional.silu(a), self.dropout, self.training)
        if c.numbers and stage != TOKENS:
            number = (a[..., mine, :] * self.number).sum(-1)
            number = number + (wide(row, basis) @ self.line.T).view(number.shape)
            number = number + (wide(alone, basis) * self.shape).sum(-1)
        if stage != NUMBERS:
            small = a[..., c.small, :].flatten(-2) @ (self.logits * self.block) + self.bias
            small = small.masked_fill(~self.allowed, -1e9)
            large = [
                query(a[..., j, :]) @ levels.T + bias
                for query, levels, bias, j in zip(self.query, self.levels, self.level_bias, c.large)
            ]
        return small, large, number


def bent(surprise: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell bend"]:
    """Functions of a surprise that shape heavy tails and sharp peaks."""
    curve = surprise / (1 + surprise.square())
    return torch.stack([surprise, curve, surprise.abs() * curve], -1)


def wide(row: Float[Tensor, "*cell feature"], basis: Float[Tensor, "record basis"]) -> Float[Tensor, "*cell wide"]:
    """Features x basis."""
    basis = basis.view(len(basis), *[1] * (row.ndim - 2), -1)
    return (row[..., :, None] * basis[..., None, :]).flatten(-2)


def _beside(columns: Columns) -> Bool[Tensor, "token"]:
    """Tokens of the same visit that the linear part sees: those of categories, if they aren't too many."""
    category = torch.tensor([columns.each[j].kind == "category" for j in columns.small], dtype=torch.bool)
    keep = category[columns.owner] if len(columns.owner) else torch.zeros(0, dtype=torch.bool)
    return keep if int(keep.sum()) <= WIDEST else torch.zeros_like(keep)


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
        self.width, self.n_heads, self.units = width, n_heads, units
        beside = _beside(self.series)
        more = ~beside if len(beside) <= MANY else torch.zeros_like(beside)
        self.register_buffer("beside", beside, persistent=False)
        self.register_buffer("more", more, persistent=False)
        self.n_beside, self.n_more = int(beside.sum()), int(more.sum())
        self.embed_static, self.embed_series = Embed(self.static, width), Embed(self.series, width)
        self.column = nn.Parameter(torch.randn(len(static), width) * 0.1)
        self.place = nn.Linear(N_PLACE, width)
        n_numbers = len(self.series.numbers)
        self.process = ColumnProcess(n_numbers)
        self.near = nn.Linear(n_numbers * 2 + len(self.series.owner) * N_NEAR, width)
        self.clock = nn.Sequential(nn.Linear(2 * (4 + N_BASIS) + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.pool = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, n_heads, dropout) for _ in range(n_layers))
        self.distance = nn.Parameter(torch.zeros(n_heads, 2 * REACH + 1))
        self.across = nn.Parameter(torch.zeros(n_heads, 2))
        self.to_static = nn.Parameter(torch.randn(len(static), width, units) / math.sqrt(width))
        self.to_series = nn.Linear(width, len(series) * units)
        self.joint = JointLaw(len(self.static.numbers))
        self.static_heads = _Heads(self.static, units, 7, self.n_static_row, N_BENT, dropout)
        self.series_heads = _Heads(self.series, units, N_FEATURES + N_PLACE, self.n_row, N_OWN, dropout)
        self.shares = OwnLine(self.series)
        self.row_tokens = nn.Parameter(torch.zeros(self.n_row + self.n_more, len(self.series.owner)))
        self.static_tokens = nn.Parameter(torch.zeros(self.n_static_row, len(self.static.owner)))
        self._kernels: dict[int, Tensor] = {}

    def forward(
        self, static: Shown, series: Shown, present: Bool[Tensor, "record step"],
        place: Float[Tensor, "record step feature"], clocks: tuple[Clock, Clock], told: Bool[Tensor, "record"],
        part: int | None = None, stage: int | None = None,
    ) -> tuple[Output | None, Output | None]:  # fmt: skip
        """Outputs for statics and series.

        Args:
            part, stage: While drawing: the part (0 statics, 1 series) and the stage that are asked for.
            present: Visits that show or are to be drawn.
            place: `place_features` of the visits.
            clocks: Of statics and series.
            told: Is the number of visits known?
        """
        film = self.clock(torch.cat([clocks[0].features(), clocks[1].features(), told[:, None].float()], 1))
        cells = self.embed_static.cells(static) + self.column
        film = film + self.pool(cells.sum(-2)) if len(self.static) else film
        film = nn.functional.silu(film)
        m, v, surprise, shares = self.neighbours(series, present, clocks[1])
        near = self.near(torch.cat([m, v.sqrt(), shares[..., :N_NEAR].flatten(2)], 2))
        rows = self.embed_series.rows(series) + self.place(place) + near
        h = torch.cat([cells, rows], 1)
        bias = self._bias(len(self.static), present)
        n_static = len(self.static)
        asked = {None: slice(None), 0: slice(n_static), 1: slice(n_static, None)}[part]
        for k, block in enumerate(self.blocks, start=1):
            h = block(h, film, bias, asked if k == len(self.blocks) else slice(None))
        h = nn.functional.layer_norm(h, (self.width,))
        here, there = (h[:, :n_static], h[:, n_static:]) if part is None else (h, h)
        law = self.static_law(static, clocks[0])
        first = second = None
        if part != 1:
            which = self.static.numbers if stage == NUMBERS else slice(None)
            units = torch.einsum("ncd,cdh->nch", here[:, which], self.to_static[which])
            row = self.static_row(static, law[0], m, present)
            small, *rest = self.static_heads(
                units, self.static_features(static, *law), row, bent(law[2]), level_basis(clocks[0].level), stage
            )
            small = small if stage == NUMBERS else small + row @ (PACE * self.static_tokens)
            first = Output(small, *rest, law[0], law[1])
        if part != 0:
            which = self.series.numbers if stage == NUMBERS else slice(None)
            weight, bias = (x.unflatten(0, (-1, self.units))[which] for x in self.to_series.parameters())
            units = nn.functional.linear(there, weight.flatten(0, 1), bias.flatten()).unflatten(2, bias.shape)
            features, alone = self.features(series, m, v, surprise, place), self.alone(surprise, place)
            around = self.row(static, series, m, place)
            small, *rest = self.series_heads(units, features, around, alone, level_basis(clocks[1].level), stage)
            if stage != NUMBERS:
                small = small + self.token_line(self.token_row(static, series, m, place), shares)
            second = Output(small, *rest, m, v)
        return first, second

    def features(
        self, series: Shown, m: Tensor, v: Tensor, surprise: Tensor, place: Tensor
    ) -> Float[Tensor, "record step number feature"]:
        """What a number's own head sees beside its row."""
        value, clean, noisy = (t[..., self.series.numbers] for t in (series.value, series.clean, series.noisy))
        own = [value, clean.float(), noisy.float(), m, v.sqrt(), (value - m) * noisy, surprise]
        own = torch.stack([*own, surprise / (1 + surprise.square())], -1)
        return torch.cat([own, place[:, :, None].expand(-1, -1, m.shape[2], -1)], -1)

    def alone(self, surprise: Tensor, place: Tensor) -> Float[Tensor, "record step number feature"]:
        """What bends a column away from its process: functions of its surprise, early visits and the last apart."""
        index = torch.expm1(3 * place[..., 0]).round()[..., None]
        early = [(index == k).float() * surprise for k in (0, 1, 2)]
        last = place[..., 7, None] * surprise
        return torch.cat([bent(surprise), torch.stack([*early, last], -1)], -1)

    def static_law(self, static: Shown, clock: Clock) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and surprise of the statics' numbers by their joint law."""
        value, clean, noisy = (t[..., self.static.numbers] for t in (static.value, static.clean, static.noisy))
        sigma2 = (-2 * clock.level[:, None]).exp()
        y = torch.where(noisy, value * (1 + sigma2).sqrt(), value)
        noise = torch.where(clean, SEEN, torch.where(noisy, sigma2, UNSEEN))
        return self.joint.posterior(y, noise)

    def static_features(self, static: Shown, m: Tensor, v: Tensor, surprise: Tensor) -> Tensor:
        """What a static number's own head sees."""
        value, clean, noisy = (t[..., self.static.numbers] for t in (static.value, static.clean, static.noisy))
        own = [value, clean.float(), noisy.float(), m, v.sqrt(), surprise, surprise / (1 + surprise.square())]
        return torch.stack(own, -1)

    @property
    def n_static_row(self) -> int:
        known = len(self.static.owner) if len(self.static.owner) <= WIDEST else 0
        return len(self.static.numbers) + 2 + known + len(self.series.numbers)

    def static_row(self, static: Shown, mean: Tensor, course: Tensor, present: Tensor) -> Tensor:
        """What the linear part of the statics sees: their joint law, tokens, and the mean of the course that shows."""
        there = present[..., None].float()
        count = there.sum(1)
        parts = [mean, torch.ones_like(count), torch.log1p(count) / 3, (course * there).sum(1) / count.clamp(min=1)]
        if len(self.static.owner) <= WIDEST:
            parts.append(one_hot(self.static, static.token))
        return torch.cat(parts, 1)

    def token_row(self, static: Shown, series: Shown, m: Tensor, place: Tensor) -> Float[Tensor, "*cell feature"]:
        """What the linear part of the tokens sees of a row: `row`, and the tokens of its numbers."""
        more = one_hot(self.series, series.token)[..., self.more]
        return torch.cat([self.row(static, series, m, place), more], -1)

    def token_line(
        self, around: Float[Tensor, "*cell feature"], shares: Float[Tensor, "*cell token kernel"]
    ) -> Float[Tensor, "*cell token"]:
        """The linear part of the tokens."""
        return self.shares(shares) + around @ (PACE * self.row_tokens)

    @property
    def n_row(self) -> int:
        known = len(self.static.owner) if len(self.static.owner) <= WIDEST else 0
        return len(self.series.numbers) + N_PLACE + 1 + len(self.static.numbers) + known + self.n_beside

    def row(self, static: Shown, series: Shown, m: Tensor, place: Tensor) -> Float[Tensor, "record step feature"]:
        """What the linear part of the numbers sees: all columns' processes, place, categories, clean statics."""
        told = [(static.value * static.clean)[..., self.static.numbers]]
        if len(self.static.owner) <= WIDEST:
            told.append(one_hot(self.static, static.token))
        told = torch.cat(told, 1)[:, None].expand(-1, m.shape[1], -1)
        here = one_hot(self.series, series.token)[..., self.beside]
        return torch.cat([m, place, torch.ones_like(place[..., :1]), told, here], 2)

    def neighbours(self, series: Shown, present: Tensor, clock: Clock) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(mean, variance and surprise of the numbers by their processes, shares of the tokens around each cell)."""
        c, n = self.series, series.token.shape[1]
        if n not in self._kernels:
            self._kernels[n] = kernels(n)
        there = present[..., None]
        value, clean, noisy = (t[..., c.numbers] for t in (series.value, series.clean, series.noisy))
        sigma2 = (-2 * clock.level[:, None, None]).exp()
        y = torch.where(noisy, value * (1 + sigma2).sqrt(), value)
        noise = torch.where(clean & there, SEEN, torch.where(noisy & there, sigma2, UNSEEN))
        m, v, surprise = self.process.posterior(y, noise)
        shown = ((series.token[..., c.small] != c.masks[c.small]) & there).float()
        return m, v, surprise, smooth(self._kernels[n], one_hot(c, series.token), shown, c.owner)

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
            out[..., columns.small] = self.log_small(columns, output.small, token)
        for logits, j in zip(output.large, columns.large):
            some = token[..., j].clamp(max=logits.shape[-1] - 1)
            out[..., j] = logits.log_softmax(-1).gather(-1, some[..., None])[..., 0]
        return out

    def log_small(self, columns: Columns, logits: Tensor, token: Tensor) -> Float[Tensor, "*cell column"]:
        """Log-probability of the tokens of the small columns."""
        law = nn.functional.pad(logits, (0, 1), value=-1e9)[..., columns.pads].log_softmax(-1)
        small = token[..., columns.small].clamp(max=law.shape[-1] - 1)
        return law.gather(-1, small[..., None])[..., 0]

    def draw_tokens(
        self, columns: Columns, output: Output, now: Bool[Tensor, "*cell column"], stream: torch.Generator,
        forbidden: Int[Tensor, "*cell column ban"],
    ) -> Int[Tensor, "*cell column"]:  # fmt: skip
        """A token for each cell of `now` (0 elsewhere), never one of the cell's `forbidden` ones (-1: none)."""
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
            ban = (torch.arange(logits.shape[1])[None, :, None] == forbidden[..., j, :][cells][:, None]).any(2)
            logits = torch.where(ban, -1e9, logits)
            u = torch.rand(len(logits), 1, generator=stream)
            law = logits.double().softmax(1).cumsum(1)
            out[..., j][cells] = torch.searchsorted(law, u.double() * law[:, -1:]).clamp(max=logits.shape[1] - 1)[:, 0]
        return out
