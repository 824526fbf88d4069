"""The law of a row of mixed columns, with noise that remembers.

A column is a token (a spike, a verbatim repeat, missing, a level; `nets.tokens`) and, for the token CONT, a normal
score x. With h what the decoder says of the row, e_j the token and score of column j of the same row, and "before" the
patient's row before,

    logits_c = W_c h + sum over j < c of B_cj e_j + V_c before + U_c a_c
    mean_c   = m_c + rho_c (last_c - m'_c),             m_c = w_c h + sum over j < c of b_cj e_j + v_c before + u_c a_c
    a_c      = silu(P_c h + sum over j < c of Q_cj e_j + R_c before_c)       a few units of the column's own
    x_c      ~ sum_k pi_k(h) Normal(mean_c + d_k(h), s_k(h)^2 (1 - rho_c^2))
    rho_c    = r_c exp(-lambda_c dt_c)

last_c is the last recorded score of the column, dt_c the time since (in usual gaps), m'_c = w_c h' what the decoder
said then: the residual is a first-order autoregression in irregular time with a share 1 - r_c of noise that is
forgotten at once, and its innovations are a mixture. Nothing recorded yet means rho_c = 0. Columns of a row go together
through B; what is drawn is noise and mean together, never the mean alone.

V and U start at zero but for the tables of transitions, B at ridge regressions for the means (`start`,
`start_within`): a small cohort ends training near where it starts. Above `FULL` weights they have rank `RANK`, so
their cost grows with the number of columns. A column of more than `LARGE` levels (codes) is embedded, and its logits
are E q + b plus a learned wish to repeat: 5,000 levels cost 5,000 x `EMBEDDING` weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cohortloom.nets.columnar import ColumnShape

__all__ = ["Before", "Dense", "RowCursor", "RowLaw"]

FULL = 250_000
RANK = 32
EMBEDDING = 16
BOUND = 20.0  # of logits
NEVER = -60.0
_LOG_2PI = math.log(2 * math.pi)


@dataclass
class Before:
    """What a row knows of the patient's rows before it [row column].

    Args:
        token: Token of the row before; for a category the last recorded one. -1: none.
        score: Last recorded score, 0 where none.
        has, absent, due: Is there one? Was it missing in the row before? Is it due at the pace of the last two?
        since: Time since the last recorded one [usual gaps].
        mean, count: Mean of the recorded scores so far, 0 where none, and their number.
        base: What the decoder said of the mean then.
    """

    token: Tensor
    score: Tensor
    has: Tensor
    absent: Tensor
    due: Tensor
    since: Tensor
    mean: Tensor
    count: Tensor
    base: Tensor


class Dense(nn.Module):
    """Cells as inputs: one-hot tokens of small columns, scores of numbers, embeddings of large columns.

    Args:
        columns: Columns of the row.
    """

    def __init__(self, columns: Sequence[ColumnShape]) -> None:
        super().__init__()
        self.columns = list(columns)
        self.numbers = [j for j, c in enumerate(columns) if c.kind == "number"]
        self.small = [j for j, c in enumerate(columns) if not c.large]
        self.large = [j for j, c in enumerate(columns) if c.large]
        sizes = [columns[j].n_tokens for j in self.small]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self.n_tokens = int(starts[-1])
        self.first = dict(zip(self.small, starts[:-1].tolist()))
        self.register_buffer("starts", torch.tensor(starts[:-1]), persistent=False)
        self.embeddings = nn.ModuleList(nn.Embedding(columns[j].n_tokens, EMBEDDING) for j in self.large)
        self.width = self.n_tokens + len(self.numbers) + EMBEDDING * len(self.large)
        owner = [j for j in self.small for _ in range(columns[j].n_tokens)] + self.numbers
        #: Column of each input.
        self.owner = np.array(owner + [j for j in self.large for _ in range(EMBEDDING)], dtype=int)

    def forward(self, token: Tensor, score: Tensor, visible: Tensor | None = None) -> Tensor:
        """[row width]; a token of -1 and a cell that is not visible are zeros."""
        if visible is not None:
            token, score = torch.where(visible, token, -1), score * visible
        n = len(token)
        hot = score.new_zeros(n, self.n_tokens + 1)
        if self.small:
            part = token[:, self.small]
            hot.scatter_(1, torch.where(part >= 0, part + self.starts, self.n_tokens), 1.0)
        parts = [hot[:, :-1], score[:, self.numbers]]
        for j, embed in zip(self.large, self.embeddings):
            parts.append(embed(token[:, j].clamp(min=0)) * (token[:, j, None] >= 0))
        return torch.cat(parts, 1)


class RowLaw(nn.Module):
    """The law above.

    Args:
        columns: Columns in order.
        width: Size of h.
        before: Do rows know rows before them?
        n_components: Components of the innovations of a number.
        units: Units of a column's own.
        persistence: Correlation of a column with its last recorded value [column]; where rho starts.
        told: h ends with a part of the mean of each number (level, trend and season of `nets.visit_vae`).
        dropout: Share of what a row knows of earlier rows and columns that is hidden while training.
        residual: False: no autoregression of residuals (rho = 0), an ablation.
    """

    def __init__(
        self,
        columns: Sequence[ColumnShape],
        width: int,
        *,
        before: bool = False,
        n_components: int = 4,
        units: int = 8,
        persistence: Sequence[float] = (),
        residual: bool = True,
        dropout: float = 0.0,
        told: bool = False,
    ) -> None:
        super().__init__()
        self.hide, self.told = nn.Dropout(dropout), told
        self.columns, self.k, self.residual = list(columns), n_components, residual and before
        self.dense = Dense(columns)
        d = self.dense
        n = len(d.numbers)
        self.n_numbers = n
        owner = [j for j in d.small for _ in range(columns[j].n_tokens)] + d.numbers
        owner += [j for j in d.large for _ in range(EMBEDDING + 1)]
        self.n_out = len(owner)
        self.out = nn.Linear(width, self.n_out)
        self.mix = nn.Linear(width, 3 * n_components * n) if n else None
        c, sizes = len(columns), np.bincount(np.array(owner, dtype=int), minlength=len(columns))
        self.units = units
        self.enter = nn.Linear(width, c * units)
        self.leave = nn.Parameter(torch.zeros(c, units, int(sizes.max(initial=1))))
        self.recall = nn.Parameter(0.1 * torch.randn(c, 5, units)) if before else None
        seen = np.zeros(c, int)
        within = np.zeros(self.n_out, int)
        for place, j in enumerate(owner):
            within[place], seen[j] = seen[j], seen[j] + 1
        self.register_buffer("place_of_output", torch.tensor(within), persistent=False)
        self.low_rank = d.width * self.n_out > FULL
        mask = d.owner[:, None] < np.array(owner, dtype=int)[None]
        unit_mask = d.owner[:, None] < np.repeat(np.arange(c), units)[None]
        if self.low_rank:
            self.inward_units = nn.Parameter(0.2 * torch.randn(RANK, c * units))
            self.inward = nn.Parameter(0.05 * torch.randn(d.width, RANK))
            self.outward = nn.Parameter(torch.zeros(RANK, self.n_out))
        else:
            self.within = nn.Parameter(torch.zeros(d.width, self.n_out))
            self.among = nn.Parameter(torch.randn(d.width, c * units) / max(d.width, 1) ** 0.5)
            self.register_buffer("unit_mask", torch.tensor(unit_mask, dtype=torch.float32), persistent=False)
            self.register_buffer("mask", torch.tensor(mask, dtype=torch.float32), persistent=False)
        self.register_buffer("column_of_input", torch.tensor(d.owner, dtype=torch.long), persistent=False)
        self.register_buffer("column_of_output", torch.tensor(owner, dtype=torch.long), persistent=False)
        member = torch.zeros(d.n_tokens, len(d.small))
        for place, j in enumerate(d.small):
            member[d.first[j] : d.first[j] + columns[j].n_tokens, place] = 1.0
        self.register_buffer("member", member, persistent=False)
        shares = [math.log(s) for j in d.small for s in columns[j].share]
        allowed = [0.0 if a else NEVER for j in d.small for a in columns[j].allowed]
        self.register_buffer("allowed", torch.tensor(allowed, dtype=torch.float32), persistent=False)
        self.large_bias = nn.ParameterList(
            nn.Parameter(torch.tensor([math.log(s) for s in columns[j].share])) for j in d.large
        )
        self.before = before
        if before:
            size = d.width + 6 * len(columns)
            if size * self.n_out > FULL:
                self.lag = nn.Sequential(nn.Linear(size, RANK, bias=False), nn.Linear(RANK, self.n_out, bias=False))
                nn.init.zeros_(self.lag[1].weight)
            else:
                self.lag = nn.Linear(size, self.n_out, bias=False)
                nn.init.zeros_(self.lag.weight)
            self.same = nn.Parameter(torch.zeros(d.n_tokens))
            share = torch.tensor([persistence[j] if len(persistence) else 0.5 for j in d.numbers]).float()
            self.keep = nn.Parameter(torch.logit(share.clamp(0.05, 0.97)))
            self.forget = nn.Parameter(torch.full((n,), -4.0))
        with torch.no_grad():
            self.out.weight.mul_(0.3)
            self.out.bias.zero_()
            self.out.bias[: d.n_tokens] = torch.tensor(shares)
            if self.mix is not None:
                self.mix.weight.mul_(0.3)
                bias = torch.zeros(3, n_components, n)
                bias[1] = 0.1 * torch.randn(n_components, n)
                bias[2] = torch.linspace(0.2, -1.2, n_components)[:, None] if n_components > 1 else -0.1
                self.mix.bias.copy_(bias.flatten())

    @torch.no_grad()
    def start(self, token: Tensor, before: Tensor) -> None:
        """Start at tables of transitions: log odds of each token after each token of the same column, shrunk."""
        d = self.dense
        weight = self.lag.weight if isinstance(self.lag, nn.Linear) else None
        for j in d.small:
            size, first = self.columns[j].n_tokens, d.first[j]
            known = (token[:, j] >= 0) & (before[:, j] >= 0)
            pair = torch.zeros(size, size).index_put_(
                (before[known, j], token[known, j]), torch.ones(int(known.sum())), accumulate=True
            )
            share = torch.tensor(self.columns[j].share)
            log_odds = ((pair + 4 * share) / (pair.sum(1, keepdim=True) + 4)).log() - share.log()
            if weight is not None:
                weight[first : first + size, first : first + size] = log_odds.T
            else:
                self.same[first : first + size] = log_odds.diagonal()

    @torch.no_grad()
    def start_within(self, token: Tensor, score: Tensor, before: Before | None = None, shrink: float = 20.0) -> None:
        """Start the shifts of numbers at ridge regressions on the earlier columns of the row, last scores and means.

        Args:
            token, score: Cells [row column].
            before: What the rows know of those before them; the share rho of the last score is taken off first.
            shrink: Weight of the penalty [rows].
        """
        d = self.dense
        if self.low_rank or not len(token) or (before is not None and not isinstance(self.lag, nn.Linear)):
            return
        x = d(token, score)
        past = x[:, :0] if before is None else torch.cat([before.score[:, d.numbers], before.mean[:, d.numbers]], 1)
        places = torch.tensor([d.n_tokens + k for k in range(len(d.numbers))] + [d.width + j for j in d.numbers])
        for number, j in enumerate(d.numbers):
            earlier = torch.nonzero(self.column_of_input < j).squeeze(1)
            rows = token[:, j] == 0
            if rows.sum() < 10:
                continue
            y = score[rows, j]
            if before is not None and self.residual:
                y = y - torch.sigmoid(self.keep[number]) * before.score[rows, j]
            part, at = torch.cat([x[rows][:, earlier], past[rows]], 1), d.n_tokens + number
            centred = part - part.mean(0)
            gram = centred.T @ centred + shrink * torch.eye(part.shape[1])
            slope = torch.linalg.solve(gram, centred.T @ (y - y.mean()))
            self.within[earlier, at] = slope[: len(earlier)]
            self.out.bias[at] = y.mean() - part.mean(0) @ slope
            if before is not None:
                self.lag.weight[at, places] = slope[len(earlier) :]

    # -- laws of rows ----------------------------------------------------------------------------------------------

    def level(self, h: Tensor) -> Tensor:
        """w_c h, what the decoder says of the means [row column] (0 for categories)."""
        h, told = self.split(h)
        part = slice(self.dense.n_tokens, self.dense.n_tokens + self.n_numbers)
        found = F.linear(h, self.out.weight[part], self.out.bias[part])
        found = found if told is None else found + told
        out = h.new_zeros(len(h), len(self.columns))
        out[:, self.dense.numbers] = found
        return out

    def split(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """(h itself, parts of the means [row number] or None)."""
        return (h[:, : -self.n_numbers], h[:, -self.n_numbers :]) if self.told and self.n_numbers else (h, None)

    def rho(self, before: Before) -> Tensor:
        """Autocorrelation of the residual with the last recorded one [row number]."""
        j = self.dense.numbers
        if not self.residual:
            return torch.zeros_like(before.since[:, j])
        return torch.sigmoid(self.keep) * torch.exp(-F.softplus(self.forget) * before.since[:, j]) * before.has[:, j]

    def log_prob(
        self, h: Tensor, token: Tensor, score: Tensor, target: Tensor, hidden: Tensor, before: Before | None = None
    ) -> Tensor:
        """Log-probability of every cell given those before it [row column].

        Args:
            h: Of the rows.
            token, score: Cells; a token of -1 counts nothing (the value follows from others).
            target: z of the token CONT.
            hidden: The token that can't be, -1 for none.
        """
        cursor = RowCursor(self, h, before)
        if self.low_rank:
            out, inner = self._running(token, score)
            out, inner = cursor.out + out, cursor.inner + inner
        else:
            dense = self.hide(self.dense(token, score))
            out, inner = cursor.out + dense @ cursor.weight, cursor.inner + dense @ cursor.unit_weight
        out = out + self.own(inner)
        d, total = self.dense, h.new_zeros(len(h), len(self.columns))
        if d.small:
            logits = self._bounded(out[:, : d.n_tokens])
            part, gone = token[:, d.small], hidden[:, d.small]
            keep = logits.new_ones(len(h), d.n_tokens + 1)
            keep = keep.scatter(1, torch.where(gone >= 0, gone + d.starts, d.n_tokens), 0.0)[:, :-1]
            norm = ((logits.exp() * keep) @ self.member).clamp(min=1e-12).log()
            own = logits.gather(1, part.clamp(min=0) + d.starts) - norm
            total[:, d.small] = torch.where(part >= 0, own + NEVER * (part == gone), 0.0)
        for place, j in enumerate(d.large):
            at = d.n_tokens + self.n_numbers + (EMBEDDING + 1) * place
            logits = self.large_logits(place, out[:, at : at + EMBEDDING + 1], before).log_softmax(1)
            total[:, j] = torch.where(
                token[:, j] >= 0, logits.gather(1, token[:, j, None].clamp(min=0)).squeeze(1), 0.0
            )
        if d.numbers:
            shift = out[:, d.n_tokens : d.n_tokens + self.n_numbers]
            cont = token[:, d.numbers] == 0
            weight, mean, log_sd = cursor.mixture(shift)
            x = target[:, None, d.numbers]
            normal = -0.5 * ((x - mean) * torch.exp(-log_sd)) ** 2 - log_sd - 0.5 * _LOG_2PI
            density = torch.logsumexp(weight + normal, 1)
            total[:, d.numbers] = total[:, d.numbers] + torch.where(cont, density, 0.0)
        return total

    def _bounded(self, logits: Tensor) -> Tensor:
        return BOUND * torch.tanh(logits / BOUND) + self.allowed

    def own(self, inner: Tensor) -> Tensor:
        """What the columns' own units say [row output]."""
        a = F.silu(inner).view(len(inner), len(self.columns), self.units)
        each = torch.bmm(a.transpose(0, 1), self.leave).transpose(0, 1)
        return each[:, self.column_of_output, self.place_of_output]

    def _running(self, token: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """The low-rank part of earlier columns: (to outputs, to units)."""
        each = self._embedded(token, score)  # row column rank
        sums = torch.cumsum(each, 1) - each
        out = score.new_zeros(len(token), self.n_out)
        for j, places in _pieces(self.column_of_output):
            out[:, places] = sums[:, j] @ self.outward[:, places]
        weight = self.inward_units.view(RANK, len(self.columns), self.units).transpose(0, 1)
        return out, torch.bmm(sums.transpose(0, 1), weight).transpose(0, 1).flatten(1)

    def _embedded(self, token: Tensor, score: Tensor) -> Tensor:
        each = [self.embedded(j, token[:, j], score[:, j], self.inward) for j in range(len(self.columns))]
        return self.hide(torch.stack(each, 1))

    def inputs_of(self, j: int) -> tuple[slice, int | None]:
        """(places of the tokens or of the embedding, place of the score)."""
        d = self.dense
        if self.columns[j].large:
            first = d.n_tokens + self.n_numbers + EMBEDDING * d.large.index(j)
            return slice(first, first + EMBEDDING), None
        score = d.n_tokens + d.numbers.index(j) if self.columns[j].kind == "number" else None
        return slice(d.first[j], d.first[j] + self.columns[j].n_tokens), score

    @property
    def inputs(self) -> tuple[Tensor, Tensor | None]:
        """Weights of the columns as inputs of later ones: [input output] and [input unit], or [input rank] and None."""
        return (self.inward, None) if self.low_rank else (self.within * self.mask, self.among * self.unit_mask)

    def embedded(self, j: int, token: Tensor, score: Tensor, weight: Tensor) -> Tensor:
        """What column j is, times weights [input x]."""
        places, at = self.inputs_of(j)
        known = (token >= 0).to(score.dtype)[:, None]
        if self.columns[j].large:
            embed = self.dense.embeddings[self.dense.large.index(j)]
            return (embed(token.clamp(min=0)) * known) @ weight[places]
        out = weight[places][token.clamp(min=0)] * known
        return out if at is None else out + score[:, None] * weight[at]

    def large_logits(self, place: int, out: Tensor, before: Before | None) -> Tensor:
        """Logits of a large column from its query and its wish to repeat [row token]."""
        query, wish = out[:, :EMBEDDING], out[:, EMBEDDING]
        logits = query @ self.dense.embeddings[place].weight.T + self.large_bias[place]
        if before is not None:
            last = before.token[:, self.dense.large[place]]
            logits = logits.scatter_add(1, last.clamp(min=0)[:, None], (wish * (last >= 0))[:, None])
        return logits


def _pieces(column_of_output: Tensor) -> list[tuple[int, Tensor]]:
    """Outputs of each column."""
    return [(int(j), torch.nonzero(column_of_output == j).squeeze(1)) for j in column_of_output.unique()]


class RowCursor:
    """The law of some rows, column by column.

    Args:
        law: The law.
        h: Of the rows.
        before: The rows before them.
    """

    def __init__(self, law: RowLaw, h: Tensor, before: Before | None) -> None:
        self.law, self.prior, d = law, before, law.dense
        h, told = law.split(h)
        self.out, self.inner = law.out(h), law.enter(h)
        if told is not None:
            self.out = self.out + F.pad(told, (d.n_tokens, law.n_out - d.n_tokens - law.n_numbers))
        self.mixed = None if law.mix is None else law.mix(h).view(len(h), 3, law.k, law.n_numbers)
        self.rho: Tensor | None = None
        if before is not None:
            dense, since = d(before.token, before.score), torch.log1p(before.since) * before.has
            known = [dense, before.mean, before.has, before.absent, before.due, since, torch.log1p(before.count)]
            self.out = self.out + law.lag(law.hide(torch.cat(known, 1)))
            self.out = self.out + F.pad(dense[:, : d.n_tokens] * law.same, (0, law.n_out - d.n_tokens))
            each = torch.stack([before.score, before.mean, before.absent, since, since.square()], 2)
            self.inner = self.inner + torch.bmm(each.transpose(0, 1), law.recall).transpose(0, 1).flatten(1)
            self.rho = law.rho(before)
            self.pull = self.rho * (before.score - before.base)[:, d.numbers]
            self.shrink = 0.5 * torch.log1p(-self.rho.square() + 1e-4)
        self.running: Tensor | None = None
        self.weight, self.unit_weight = law.inputs

    def mixture(self, shift: Tensor, numbers: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """(log weight, mean, log sd) [row component number] around the shift."""
        weight, offset, log_sd = (self.mixed[:, i, :, numbers] for i in range(3))
        if self.rho is not None:
            shift = shift + self.pull[:, numbers]
            log_sd = log_sd + self.shrink[:, None, numbers]
        return weight.log_softmax(1), shift[:, None] + offset, log_sd.clamp(-4.0, 1.5)

    def column(self, j: int, hidden: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor] | None]:
        """(logits [row token], mixture of z ([row component] each) or None)."""
        law, d = self.law, self.law.dense
        own = F.silu(self._inner(j)) @ law.leave[j]
        if law.columns[j].large:
            first = d.n_tokens + law.n_numbers + (EMBEDDING + 1) * d.large.index(j)
            part = slice(first, first + EMBEDDING + 1)
            out = self._now(part) + own[:, : EMBEDDING + 1]
            return law.large_logits(d.large.index(j), out, self.prior), None
        size = law.columns[j].n_tokens
        part = slice(d.first[j], d.first[j] + size)
        logits = self._now(part) + own[:, :size]
        logits = BOUND * torch.tanh(logits / BOUND) + law.allowed[part]
        rows = torch.nonzero(hidden >= 0).squeeze(1)
        if len(rows):
            logits[rows, hidden[rows]] = NEVER
        if law.columns[j].kind == "category":
            return logits, None
        number = d.numbers.index(j)
        at = d.n_tokens + number
        shift = self._now(slice(at, at + 1)) + own[:, size : size + 1]
        return logits, tuple(part.squeeze(2) for part in self.mixture(shift, slice(number, number + 1)))

    def _inner(self, j: int) -> Tensor:
        part = slice(j * self.law.units, (j + 1) * self.law.units)
        if self.law.low_rank and self.running is not None:
            return self.inner[:, part] + self.running @ self.law.inward_units[:, part]
        return self.inner[:, part]

    def _now(self, part: slice) -> Tensor:
        if self.law.low_rank and self.running is not None:
            return self.out[:, part] + self.running @ self.law.outward[:, part]
        return self.out[:, part]

    def push(self, j: int, token: Tensor, score: Tensor) -> None:
        """Tell later columns what column j is."""
        more = self.law.embedded(j, token, score, self.weight)
        if self.unit_weight is None:
            self.running = more if self.running is None else self.running + more
        else:
            self.out = self.out + more
            self.inner = self.inner + self.law.embedded(j, token, score, self.unit_weight)
