"""A row of mixed columns, one column after the other.

With f the features of a row (statics and history) and x_1, ..., x_C its columns in table order,

    p(x_1, ..., x_C | f) = product over c of p(x_c | f, x_1, ..., x_(c-1))

h = hidden(f) is shared; column c has a few units of its own, which also see the earlier columns of the row:

    a_c = Wh_c h + Wf_c f_c + sum over j < c of Wm_cj e_j     e_j: one-hot of the token and normal score of column j,
    out_c = Wo_c silu(a_c) + b_c + V_c f + sum over j < c of U_cj e_j       its change and its departure

Change and departure of a number are the distances of its score from the last one and from the mean of its history. A
weight that is two kilos above the patient's own comes with a faster pulse, whatever the weight: in levels that is the
difference of two large coefficients, which no small cohort learns.

f_c is the column's own history. The last two terms of out_c are the *wide* part: linear, zero at the start, for token
logits and, for a number, a shift and a log scale shared by all normals:

    z = shift + exp(log scale) (a draw from K normals of out_c)      used with the token CONT

(every third normal lies around the last value instead of the shift: most changes are small whatever the regression to
the mean; the log scale levels off beyond what the start saw, so that spread can't feed on spread; and the density is
that of z outside the interval of the last value, which REPEAT has for itself)

so that a value measured an hour ago and one never measured, a calm patient and a restless one need no hidden units to
differ in spread. The first value of a column has weights of the normals of its own: changes have heavy tails, levels
have not. Training computes all columns at once with a block-triangular mask; sampling goes column by column. Above
`LOW_RANK_FROM` columns the masked products are replaced by a running sum of r-dimensional embeddings e_j, as in NADE,
and V_c f by the column's own features plus a rank-r product: cost then grows with C, not C^2.

*Persistence start*: the shift of a column begins as 0.5 s last + 0.35 s mean of its own history, the mixture narrow
around it. A cohort of 200 patients ends training near where it starts, so the start is the prior; `columnar_start`
puts regressions in its place where there are rows enough to fit them.

A large category (more than `LARGE` tokens) is embedded instead of one-hot and has one extra output, added to the logit
of the subject's last token: a learned wish to repeat. In place of a wide part it has what levels of statics and of a
few earlier categories of the row say of each token (`level_ties`), which is not learned further: a prostate is no
matter of sixteen units.

References:
    Larochelle, Murray (2011). The neural autoregressive distribution estimator. AISTATS.
    Germain et al. (2015). MADE. ICML, arXiv:1502.03509.
    Tiwald et al. (2025). TabularARGN, arXiv:2501.12012 (columns in order, sequential rows).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cohortloom.nets.normals import LEAST_LOG_SD, LOG_SD

__all__ = ["BESIDE", "FEW", "LARGE", "LOW_RANK_FROM", "NEVER", "RANK", "ColumnNet", "ColumnShape", "Rows", "bounded"]

LARGE = 40
LOW_RANK_FROM = 60
RANK = 48
EMBEDDING = 16
BESIDE, FEW = 3, 16  # categories of the row that tell a large one, at most, and their tokens
ANCHORED = 3  # one of so many normals lies around the last value instead of the shift
NEVER = -1e4
MOST_REACH = 2.0
MOST_MOVED = 6.0
MOST_BARRED = 0.98


@dataclass(frozen=True)
class ColumnShape:
    """One column as the net sees it.

    Args:
        kind: "number" or "category".
        n_tokens: Tokens.
        allowed: Tokens that can be drawn.
        share: Share of each token in the training rows (bias of the logits).
        repeat: Token that needs a last value, -1 if none.
        own: Features that tell the history of this column (low rank only).
        last, mean: Features for the persistence start, -1 without.
        told: Features with what statics say of this column.
        last_mean, last_sd: What `last` was standardised by.
        known: Feature that is negative while no value of this column was recorded, -1 without.
        scales: Mean and sd that standardised the features `last` and `mean`, and the sd of changes; empty: change and
            departure are no inputs of later columns.
        lookup: Index that holds the last token of a large category, -1 without.
    """

    kind: str
    n_tokens: int
    allowed: tuple[bool, ...]
    share: tuple[float, ...]
    repeat: int = -1
    own: tuple[int, ...] = ()
    told: tuple[int, ...] = ()
    last: int = -1
    mean: int = -1
    last_mean: float = 0.0
    last_sd: float = 1.0
    known: int = -1
    lookup: int = -1
    scales: tuple[float, ...] = ()

    @property
    def large(self) -> bool:
        return self.kind == "category" and self.n_tokens > LARGE

    @property
    def width(self) -> int:
        """Dimensions of this column as an input of later ones."""
        return EMBEDDING if self.large else self.n_tokens + (self.kind == "number") + 2 * bool(self.scales)


@dataclass
class Rows:
    """A batch. `hidden`: the token that can't be, given the subject's last value; -1 for none."""

    features: Tensor  # row feature
    lookups: Tensor  # row lookup, -1: nothing yet
    token: Tensor  # row column
    score: Tensor  # row column: normal score over all recorded values, 0 where none
    target: Tensor  # row column: z where the token is CONT
    hidden: Tensor  # row column
    barred: Tensor | None = None  # end row column: z between these is no CONT but a repeat; equal ends: all are


@dataclass
class _Group:
    """Columns whose outputs have one padded size."""

    columns: list[int]
    n_tokens: int
    mixture: bool
    first_wide: int = 0

    @property
    def wide(self) -> int:
        return self.n_tokens + 2 * self.mixture


class ColumnNet(nn.Module):
    """Distribution of a row's columns given its features.

    Args:
        columns: Columns in order.
        n_features: Size of f; 0 gives an unconditional net.
        lookup_sizes: Sizes of the embedded inputs (last tokens of large categories).
        hidden: Width of the shared layers.
        width: Units per column.
        n_layers: 1, or 2 with a residual second layer.
        dropout: On hidden units.
        n_normals: Mixture components per number.
        persistence: Strength s of the persistence start, 0 without.
        low_rank: Force or forbid the low-rank form; None decides by the number of columns.
        n_told: How many features, the first ones, tell large categories of statics.
    """

    def __init__(
        self,
        columns: Sequence[ColumnShape],
        n_features: int,
        lookup_sizes: Sequence[int] = (),
        *,
        hidden: int = 64,
        width: int = 16,
        n_layers: int = 1,
        dropout: float = 0.0,
        n_normals: int = 6,
        persistence: float = 0.0,
        low_rank: bool | None = None,
        n_told: int = 0,
    ) -> None:
        super().__init__()
        self.n_told = n_told
        self.columns, self.width, self.n_normals, self.dropout = tuple(columns), width, n_normals, dropout
        self.n_features = max(n_features, 1)
        self.low_rank = len(columns) > LOW_RANK_FROM if low_rank is None else low_rank
        self.groups = _groups(self.columns)
        c = len(self.columns)
        size = np.cumsum([0] + [column.width for column in self.columns])
        self.start, self.n_inputs = size[:-1].tolist(), int(size[-1])
        n_in = self.n_features + EMBEDDING * len(lookup_sizes)
        self.moving = [j for j, column in enumerate(self.columns) if column.scales]
        moving = [self.columns[j] for j in self.moving]
        for name, content, dtype in (
            ("move_places", [(s.last, s.mean, s.known) for s in moving], torch.long),
            ("move_scales", [s.scales for s in moving], torch.float),
            ("move_missing", [(s.n_tokens - 1,) for s in moving], torch.long),
        ):
            self.register_buffer(name, torch.tensor(list(zip(*content)), dtype=dtype), persistent=False)

        def weight(*shape: int, fan_in: int | None = None, zero: bool = False) -> nn.Parameter:
            if zero:
                return nn.Parameter(torch.zeros(*shape))
            bound = 1 / math.sqrt(fan_in or shape[-1])
            return nn.Parameter((torch.rand(*shape) * 2 - 1) * bound)

        self.lookup_tables = nn.ParameterList([weight(n + 1, EMBEDDING, fan_in=10) for n in lookup_sizes])
        self.layers = nn.ParameterList([weight(hidden, n_in), *[weight(hidden, hidden) for _ in range(n_layers - 1)]])
        self.layer_bias = nn.ParameterList([weight(hidden, zero=True) for _ in range(n_layers)])
        self.own_hidden = weight(c * width, hidden)
        self.own_bias = weight(c * width, zero=True)
        self.has_own = any(shape.own for shape in self.columns)
        if self.has_own:
            n_own = max(len(shape.own) for shape in self.columns)
            self.own_history = weight(c, n_own, width, fan_in=n_own)
            padded = [list(s.own) + [self.n_features] * (n_own - len(s.own)) for s in self.columns]
            self.register_buffer("own", torch.tensor(padded, dtype=torch.long), persistent=False)
        self.tables = nn.ParameterDict(
            {str(j): weight(s.n_tokens + 1, EMBEDDING, fan_in=10) for j, s in enumerate(self.columns) if s.large}
        )
        for j, shape in enumerate(self.columns):
            if shape.large:
                self.register_buffer(f"told_{j}", torch.zeros(n_told + BESIDE * FEW, shape.n_tokens))
                self.register_buffer(f"beside_{j}", torch.full((BESIDE,), -1))
        self.heads, self.head_bias = nn.ParameterList(), nn.ParameterList()
        for group in self.groups:
            n_out = group.n_tokens + 3 * n_normals * group.mixture + (group.n_tokens > LARGE)
            self.heads.append(weight(len(group.columns), width, n_out, fan_in=width * 4))
            self.head_bias.append(self._first_bias(group, n_out, persistence))
        self.fresh = nn.ParameterDict(
            {str(i): weight(len(g.columns), n_normals, zero=True) for i, g in enumerate(self.groups) if g.mixture}
        )
        self.anchor = nn.ParameterDict(
            {str(i): weight(len(g.columns), 2, zero=True) for i, g in enumerate(self.groups) if self._anchored(g)}
        )
        for key, anchor in self.anchor.items():
            shapes = [self.columns[j] for j in self.groups[int(key)].columns]
            anchor.data = torch.tensor([[shape.last_mean, shape.last_sd] for shape in shapes])
            self.register_buffer(f"last_{key}", torch.tensor([shape.last for shape in shapes]), persistent=False)
        for index, group in enumerate(self.groups):
            if group.mixture:  # middle and reach of the log scale of each column
                self.register_buffer(f"scale_{index}", torch.tensor([[0.0, MOST_REACH]] * len(group.columns)))
        wide_groups = self.small = [g for g in self.groups if g.n_tokens <= LARGE]
        self.n_wide = sum(len(g.columns) * g.wide for g in wide_groups)
        at = 0
        for group in wide_groups:
            group.first_wide, at = at, at + len(group.columns) * group.wide
        self.wide_bias = weight(self.n_wide, zero=True)
        if self.low_rank:
            self.embed = weight(self.n_inputs, RANK, fan_in=4)
            self.mix = weight(c, RANK, width, fan_in=RANK * 4)
            self.mix_wide = nn.ParameterList([weight(len(g.columns), RANK, g.wide, zero=True) for g in wide_groups])
            self.wide_in, self.wide_out = weight(RANK, self.n_features), weight(self.n_wide, RANK, zero=True)
            own = [max(len(self.columns[j].own) for j in g.columns) for g in wide_groups]
            self.own_wide = nn.ParameterList(
                [weight(len(g.columns), n, g.wide, zero=True) for g, n in zip(wide_groups, own)]
            )
            for g, n in zip(wide_groups, own):
                padded = [
                    list(self.columns[j].own) + [self.n_features] * (n - len(self.columns[j].own)) for j in g.columns
                ]
                self.register_buffer(f"own_{g.first_wide}", torch.tensor(padded, dtype=torch.long), persistent=False)
        else:
            self.mix = weight(c * width, self.n_inputs, fan_in=self.n_inputs * 2)
            self.wide = weight(self.n_wide, self.n_features, zero=True)
            self.mix_wide = weight(self.n_wide, self.n_inputs, zero=True)
            column_of = torch.repeat_interleave(torch.arange(c), torch.tensor([s.width for s in self.columns]))
            wide_column = torch.cat(
                [torch.tensor(g.columns).repeat_interleave(g.wide) for g in wide_groups] or [torch.zeros(0)]
            )
            rows = torch.arange(c).repeat_interleave(width)
            self.register_buffer("mask", (column_of[None] < rows[:, None]).float(), persistent=False)
            self.register_buffer("mask_wide", (column_of[None] < wide_column[:, None]).float(), persistent=False)
        if persistence:
            self._persist(persistence)

    def _anchored(self, group: _Group) -> bool:
        """Do some normals lie around the last value?"""
        return group.mixture and any(self.columns[j].last >= 0 for j in group.columns)

    @property
    def is_anchored(self) -> np.ndarray:
        """Of each normal."""
        return np.arange(self.n_normals) % ANCHORED == ANCHORED - 1

    def _first_bias(self, group: _Group, n_out: int, persistence: float) -> nn.Parameter:
        """Log shares for the tokens; mixture means spread out (narrower with persistence)."""
        bias = torch.zeros(len(group.columns), n_out)
        k, t = self.n_normals, group.n_tokens
        never = torch.full((len(group.columns), t), NEVER)
        for row, j in enumerate(group.columns):
            shape = self.columns[j]
            share = torch.tensor(shape.share) + 1e-4 / shape.n_tokens
            bias[row, : shape.n_tokens] = torch.log(share / share.sum())
            never[row, : shape.n_tokens][torch.tensor(shape.allowed)] = 0.0
            if group.mixture:
                near = bool(persistence) and shape.last >= 0
                spread, log_sd = (0.8, -0.7) if near else (1.5, -0.3)
                free = np.flatnonzero(~self.is_anchored | (shape.last < 0))
                if len(free) > 1:
                    bias[row, t + k + free] = torch.linspace(-spread, spread, len(free))
                bias[row, t + 2 * k : t + 3 * k] = log_sd
        self.register_buffer(f"never_{len(self.head_bias)}", never, persistent=False)
        return nn.Parameter(bias)

    @torch.no_grad()
    def _persist(self, strength: float) -> None:
        for number, group in enumerate(self.small):
            for row, j in enumerate(group.columns):
                shape = self.columns[j]
                if not group.mixture or shape.last < 0:
                    continue
                for feature, share in ((shape.last, 0.5), (shape.mean, 0.35)):
                    if self.low_rank:
                        self.own_wide[number][row, shape.own.index(feature), group.n_tokens] = share * strength
                    else:
                        self.wide[group.first_wide + row * group.wide + group.n_tokens, feature] = share * strength

    def keep_wide_support(self) -> None:
        """Let only those weights of the wide part learn that are not zero now.

        Adam moves weights without signal as far as others, by noise. A thousand inputs per output overfit long before
        the hidden layers have learned.
        """
        dense = [] if self.low_rank else [self.wide, self.mix_wide]
        for weight in dense:
            support = (weight.detach() != 0).float()
            weight.register_hook(lambda gradient, support=support: gradient * support)

    # --- shared by training and sampling ---

    def hidden(self, features: Tensor, lookups: Tensor) -> Tensor:
        """h of each row."""
        parts = [features] + [table[lookups[:, i] + 1] for i, table in enumerate(self.lookup_tables)]
        x = torch.cat(parts, 1) if len(parts) > 1 else features
        h = self._drop(F.silu(F.linear(x, self.layers[0], self.layer_bias[0])))
        for layer, bias in zip(list(self.layers)[1:], list(self.layer_bias)[1:]):
            h = h + self._drop(F.silu(F.linear(h, layer, bias)))
        return h

    def units(self, h: Tensor, features: Tensor) -> Tensor:
        """What the units of each column hear of the row: row x column x width."""
        a = F.linear(h, self.own_hidden, self.own_bias).reshape(len(h), len(self.columns), self.width)
        if self.has_own:
            a = a + torch.einsum("nck,ckw->ncw", F.pad(features, (0, 1))[:, self.own], self.own_history)
        return a

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def wide_part(self, turned: Tensor) -> list[Tensor]:
        """V f of each small group, from f turned (feature x row): column x wide x row."""
        bias = self.wide_bias[:, None]
        if not self.low_rank:
            flat = torch.addmm(bias, self.wide, turned)
        else:
            flat = torch.addmm(bias, self.wide_out, self.wide_in @ turned)
            padded = F.pad(turned, (0, 0, 0, 1))
        out = []
        for number, g in enumerate(self.small):
            part = flat[g.first_wide : g.first_wide + len(g.columns) * g.wide].unflatten(0, (-1, g.wide))
            if self.low_rank:
                own = padded[getattr(self, f"own_{g.first_wide}")]
                part = torch.baddbmm(part, self.own_wide[number].transpose(1, 2), own)
            out.append(part)
        return out

    # --- training: all columns at once ---

    def encode(self, token: Tensor, score: Tensor, features: Tensor) -> Tensor:
        """Inputs e of all columns: row x input. A negative token (never seen, or not there) gives zeros."""
        n = len(token)
        out = torch.zeros(n, self.n_inputs + 1)
        small = [j for j, s in enumerate(self.columns) if not s.large]
        at = torch.tensor([self.start[j] + (self.columns[j].kind == "number") for j in small])
        position = token[:, small] + at
        out.scatter_(1, torch.where(token[:, small] >= 0, position, self.n_inputs), 1.0)
        numbers = [j for j in small if self.columns[j].kind == "number"]
        if numbers:
            out[:, [self.start[j] for j in numbers]] = score[:, numbers]
        if len(self.moving):
            ends = torch.tensor([self.start[j] + self.columns[j].width for j in self.moving])
            moved = self.moves(slice(None), token[:, self.moving], score[:, self.moving], self.usual(features))
            out[:, ends - 2], out[:, ends - 1] = moved
        out = out[:, :-1]
        for name, table in self.tables.items():
            j = int(name)
            found = table[(token[:, j] + 1).clamp_min(0)]
            out = torch.cat([out[:, : self.start[j]], found, out[:, self.start[j] + EMBEDDING :]], 1)
        return out

    def told_of(self, j: int, statics: Tensor, token: Callable[[int], Tensor]) -> Tensor:
        """What levels add to the logits of a large category: token x row.

        Args:
            statics: Feature x row.
            token: Tokens of an earlier column of the row.
        """
        table, beside = getattr(self, f"told_{j}"), getattr(self, f"beside_{j}").tolist()
        heard = [statics]
        for c in (c for c in beside if c >= 0):
            here, level = torch.zeros(FEW + 1, statics.shape[1]), token(c)
            heard.append(here.scatter_(0, torch.where(level >= 0, level, FEW)[None], 1.0)[:FEW])
        return table[: len(statics) + FEW * (len(heard) - 1)].T @ torch.cat(heard)

    def usual(self, features: Tensor) -> Tensor:
        """Last score and mean of the `moving` columns: kind x row x column, NaN where none was before."""
        last, mean, known = (features[:, place] for place in self.move_places)
        usual = torch.stack([last, mean]) * self.move_scales[[1, 3], None] + self.move_scales[[0, 2], None]
        return torch.where(known < 0, torch.nan, usual)

    def moves(self, which: int | slice, token: Tensor, score: Tensor, usual: Tensor) -> Tensor:
        """Change and departure of some of the `moving` columns, in sd of their changes: kind x row x column; zeros
        where there is no value, or was none before."""
        moved = ((score - usual) / self.move_scales[4, which]).clamp(-MOST_MOVED, MOST_MOVED)
        there = (token >= 0) & (token < self.move_missing[0, which])
        return torch.where(there, moved.nan_to_num(), 0.0)

    def log_prob(self, rows: Rows) -> Tensor:
        """Log-likelihood of each cell, row x column: token mass, plus the density of z where the token is CONT."""
        h = self.hidden(rows.features, rows.lookups)
        e = self.encode(rows.token, rows.score, rows.features)
        n, c = len(e), len(self.columns)
        a = self.units(h, rows.features)
        wide = [part.permute(2, 0, 1) for part in self.wide_part(rows.features.T)]
        if self.low_rank:
            before = self._running(e)
            a = a + torch.einsum("ncr,crw->ncw", before, self.mix)
            wide = [
                w + torch.einsum("ncr,cro->nco", before[:, g.columns], u)
                for w, u, g in zip(wide, self.mix_wide, self.small)
            ]
        else:
            a = a + F.linear(e, self.mix * self.mask).reshape(n, c, self.width)
            across = F.linear(e, self.mix_wide * self.mask_wide)
            wide = [
                w + across[:, g.first_wide : g.first_wide + w[0].numel()].reshape(w.shape)
                for w, g in zip(wide, self.small)
            ]
        a = self._drop(F.silu(a))
        parts, number, first = [], 0, self.first_values(rows.features)
        for index, group in enumerate(self.groups):
            out = torch.einsum("nch,cho->nco", a[:, group.columns], self.heads[index]) + self.head_bias[index]
            extra = None
            if group.n_tokens <= LARGE:
                extra, number = wide[number], number + 1
            else:
                j = group.columns[0]
                told = self.told_of(j, rows.features[:, : self.n_told].T, lambda c: rows.token[:, c])
                out = out + F.pad(told.T, (0, 1))[:, None]
            parts.append(self._cells(group, index, out, extra, rows, first))
        order = np.argsort(np.concatenate([g.columns for g in self.groups]))
        return torch.cat(parts, 1)[:, torch.from_numpy(order)]

    def _running(self, e: Tensor) -> Tensor:
        """Sum of the embeddings of the earlier columns: row x column x rank."""
        pieces = [
            e[:, s : s + shape.width] @ self.embed[s : s + shape.width] for s, shape in zip(self.start, self.columns)
        ]
        total = torch.stack(pieces, 1)
        return torch.cumsum(total, 1) - total

    def _cells(self, group: _Group, index: int, out: Tensor, wide: Tensor | None, rows: Rows, first: Tensor) -> Tensor:
        never, fresh, anchor, bound = getattr(self, f"never_{index}"), None, None, None
        if group.mixture:
            fresh = first[:, group.columns, None] * self.fresh[str(index)]
            anchor, bound = self.anchors(index, rows.features), getattr(self, f"scale_{index}")
        hidden = rows.hidden[:, group.columns]
        logits, mixture = self._split(group, never, out, wide, rows.lookups, hidden, fresh, anchor, bound)
        token = rows.token[:, group.columns]
        cell = -F.cross_entropy(logits.transpose(1, 2), token.clamp_min(0), reduction="none")
        cell = torch.where(token >= 0, cell, 0.0)
        if mixture is None:
            return cell
        weight, mean, log_sd = mixture
        z = rows.target[:, group.columns, None]
        log_normal = -0.5 * ((z - mean) * torch.exp(-log_sd)) ** 2 - log_sd - 0.5 * math.log(2 * math.pi)
        density = torch.logsumexp(weight + log_normal, -1) - torch.logsumexp(weight, -1)
        if rows.barred is not None and any(self.columns[j].repeat >= 0 for j in group.columns):
            low, high = (
                torch.special.ndtr((end[:, group.columns, None] - mean) * torch.exp(-log_sd)) for end in rows.barred
            )
            taken = (torch.softmax(weight, -1) * (high - low)).sum(-1)
            density = density - torch.log1p(-taken.clamp(0.0, MOST_BARRED))
        return cell + torch.where(token == 0, density, 0.0)

    def first_values(self, features: Tensor) -> Tensor:
        """1 where no value of a number was recorded before: row x column."""
        place = torch.tensor([max(s.known, 0) for s in self.columns])
        asked = torch.tensor([s.known >= 0 for s in self.columns])
        return ((features[:, place] < 0) & asked).float()

    def anchors(self, index: int, features: Tensor) -> Tensor | None:
        """Where the last value of each column of a group lies: row x column, NaN without one."""
        if str(index) not in self.anchor:
            return None
        last, line = getattr(self, f"last_{index}"), self.anchor[str(index)]
        place = line[:, 0] + line[:, 1] * features[:, last.clamp_min(0)]
        return torch.where(last >= 0, place, torch.nan)

    def _split(
        self,
        group: _Group,
        never: Tensor,
        out: Tensor,
        wide: Tensor | None,
        lookups: Tensor,
        hidden: Tensor,
        fresh: Tensor | None,
        anchor: Tensor | None,
        bound: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor] | None]:
        """Outputs of a group as token logits and (weights, means, log sd) of the normals; `Cursor` does it for one."""
        k, t = self.n_normals, group.n_tokens
        if wide is None:
            return self.of_large(group.columns[0], out[:, 0] + F.pad(never[0], (0, 1)), lookups)[:, None], None
        logits = out[..., :t] + never + wide[..., :t]
        if not group.mixture:
            return logits, None
        if any(self.columns[j].repeat >= 0 for j in group.columns):
            hide = torch.where(hidden >= 0, NEVER, 0.0)[..., None]
            logits = logits.scatter_add(2, hidden.clamp_min(0)[..., None], hide)
        log_sd = out[..., t + 2 * k : t + 3 * k].clamp(*LOG_SD)
        log_scale = bounded(wide[..., t + 1 : t + 2], bound[..., :1], bound[..., 1:])
        shift = wide[..., t : t + 1]
        if anchor is not None:
            near = torch.from_numpy(self.is_anchored) & ~anchor.isnan()[..., None]
            shift = torch.where(near, anchor.nan_to_num()[..., None], shift)
        mean = shift + torch.exp(log_scale) * out[..., t + k : t + 2 * k]
        return logits, (out[..., t : t + k] + fresh, mean, (log_sd + log_scale).clamp_min(LEAST_LOG_SD))

    def of_large(self, j: int, out: Tensor, lookups: Tensor) -> Tensor:
        """Token logits of a large category from its outputs, both row x ...: the last output is for the last token."""
        logits, lookup = out[:, :-1], self.columns[j].lookup
        if lookup < 0:
            return logits
        last = lookups[:, lookup]
        bonus = torch.where(last >= 0, out[:, -1], 0.0)
        return logits.scatter_add(1, last.clamp_min(0)[:, None], bonus[:, None])


def bounded(log_scale: Tensor, middle: Tensor, reach: Tensor) -> Tensor:
    """The log scale, levelled off beyond `reach` from the `middle`."""
    return middle + reach * torch.tanh((log_scale - middle) / reach)


def _groups(columns: Sequence[ColumnShape]) -> list[_Group]:
    """Numbers and small categories by padded size, every large category alone."""
    sizes: dict[tuple[bool, int], list[int]] = {}
    out = []
    for j, shape in enumerate(columns):
        if shape.large:
            out.append(_Group([j], shape.n_tokens, False))
            continue
        padded = next(p for p in (2, 4, 8, 16, LARGE) if shape.n_tokens <= p)
        sizes.setdefault((shape.kind == "number", padded), []).append(j)
    return [_Group(members, padded, mixture) for (mixture, padded), members in sizes.items()] + out
