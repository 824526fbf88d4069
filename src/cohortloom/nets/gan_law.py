"""The law of a row of mixed columns, each column given the cells before it.

With h what the decoder says of a row, y_j the dense form of column j of the same row (`nets.gan_rows`), and "past" what
a row knows of the rows before it (`nets.gan_past`),

    out_c    = W_c h + V_c past + sum over columns j before c of B_cj y_j
    observed ~ Bernoulli(out),   id ~ softmax(out)   (of low rank where there are many ids)
    value    ~ sum over k of pi_k(h) Normal(mean + d_k(h), (sd s_k(h))^2),   mean, sd from out

So latents need not say what the cells before a cell tell: how long a state lasts, what is recorded together. V and B
start at 0; trained alone with h left out they are linear and logistic regressions (`timegan_training`, phase "rows").

A column may have a mark in the row, "repeat": 0 nothing to repeat, 1 another value than the last, 2 the last again. The
mark comes first and settles what it settles: is there a value, and is it the last one. A column may lie within another,
its gate: where that is missing, or not above a level, there is nothing to say. Such a cell is missing in data and draws
alike, has no density, and so the law of a column is that of the rows it is there in.

Draws are real draws (ids, marks and noise), cell by cell. For a critic their dense form carries gradients: hard
forwards, relaxed backwards, the cells before each cell taken as they were drawn,

    number: mean + sd noise,    y = hard + soft - stop(soft),  soft = softmax(out)

so a critic cannot tell a draw by its softness.

References:
    Bengio, Leonard, Courville (2013). Estimating or propagating gradients through stochastic neurons. arXiv:1308.3432.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cohortloom.nets.gan_past import Past
from cohortloom.nets.gan_rows import TABLE, Rows

__all__ = ["RowLaw"]

RANK = 32
COMPONENTS = 3
#: Rows drawn at once where they know nothing of each other.
AT_ONCE = 2_048
_LOG_2PI = math.log(2 * math.pi)


class Laws(NamedTuple):
    """Of some rows: means and log sds [... component number], log weights of the components, log odds of being observed
    [... number], log shares of ids [... column id], of each column of many ids [... id]."""

    mean: Tensor
    log_sd: Tensor
    weight: Tensor
    seen: Tensor
    few: Tensor
    many: list[Tensor]


class _Chance(NamedTuple):
    """What is drawn for rows before their cells: mixture [row 3 component number], offset and log scale of the
    component drawn, logistic and normal noise [row number], Gumbel noise of ids [row column id], [row id]."""

    mixed: Tensor
    offset: Tensor
    scale: Tensor
    odds: Tensor
    normal: Tensor
    gumbel: Tensor
    many: list[Tensor]


class _Cell(NamedTuple):
    """A column of rows: what stands there, is it known, is it a hole? [row]; None: nowhere."""

    value: Tensor
    observed: Tensor
    own: Tensor | None
    hole: Tensor | None


class RowLaw(nn.Module):
    """p(row | h, past).

    Args:
        rows: Columns of the row.
        width: Size of h.
        start: Where each column starts: log shares of its ids, or (log odds of being observed,) for a number.
        always: Is the column never missing?
        low: Smallest log standard deviation of a number.
        gates: (column, its gate, level that the gate is above where the column is there; None: it need not be missing),
            gates before what lies within.
        repeats: Column -> its mark, a column of the ids 0, 1, 2.
        limits: Largest absolute value of each number that is drawn [number]; None: any. A course that reads itself can
            drift to where no patient is.
        n_facts: Facts of the past that a row is told; 0: none.
        tied: Do columns know those before them?
    """

    def __init__(
        self, rows: Rows, width: int, start: Sequence[Sequence[float]], always: Sequence[bool], low: float = -5.0,
        gates: Sequence[tuple[int, int, float | None]] = (), *, repeats: Mapping[int, int] | None = None,
        limits: Sequence[float] | None = None, n_facts: int = 0, tied: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.gates, self.marks = gates, dict(repeats or {})
        self.gate_of = {j: (gate, level) for j, gate, level in gates}
        self.column_of = {mark: j for j, mark in self.marks.items()}
        self.levels, self.numbers, self.few, self.many = rows.levels, rows.numbers, rows.few, rows.many
        n, m, ids = len(rows.numbers), len(rows.many), len(rows.place)
        self.low, self.limits = low, list(limits or [math.inf] * n)
        self.sizes = (n, n, n, ids, RANK * m, 0 if n + ids + m else 1)
        self.out = nn.Linear(width, sum(self.sizes))
        self.mix = nn.Linear(width, 3 * COMPONENTS * n) if n else None
        self.ends = nn.ModuleList(nn.Linear(RANK, rows.levels[j]) for j in rows.many)
        self.past = nn.Linear(n_facts, sum(self.sizes), bias=False) if n_facts else None
        self.order = self._order()
        rank = torch.zeros(len(self.levels), dtype=torch.long)
        rank[self.order] = torch.arange(len(self.order))
        sizes = [rows.levels[j] for j in rows.few]
        from_ = torch.tensor([*rows.numbers, *rows.numbers, *rows.few, *rows.many], dtype=torch.long)
        from_ = from_.repeat_interleave(torch.tensor([1] * (2 * n) + sizes + [TABLE] * m, dtype=torch.long))
        to = torch.tensor([*rows.numbers * 3, *rows.few, *rows.many], dtype=torch.long)
        to = to.repeat_interleave(torch.tensor([1] * (3 * n) + sizes + [RANK] * m, dtype=torch.long))
        self.tied = tied and len(self.levels) > 1
        if self.tied:
            self.within = nn.Parameter(torch.zeros(rows.width, len(to)))
            self.register_buffer("earlier", (rank[from_][:, None] < rank[to]).float(), persistent=False)
        for name in ("real", "place", "starts"):
            self.register_buffer(name, getattr(rows, name), persistent=False)
        kept = torch.tensor([bool(always[j]) for j in rows.numbers], dtype=torch.bool)
        self.register_buffer("always", kept, persistent=False)
        self._start(start)

    def _order(self) -> list[int]:
        """Columns as they are drawn: a gate before what lies within it, a mark before its column."""
        order: list[int] = []
        for c in [k for _, k, _ in self.gates] + list(range(len(self.levels))):
            if c not in order and c not in self.column_of:
                order += [j for j in (self.marks.get(c), c) if j is not None]
        return order

    @torch.no_grad()
    def _start(self, start: Sequence[Sequence[float]]) -> None:
        self.out.weight.mul_(0.5)
        bias = [torch.zeros(2 * self.sizes[0]), *(torch.tensor(start[j][:1]) for j in self.numbers)]
        bias += [torch.tensor(start[j]) for j in self.few]
        bias.append(torch.zeros(sum(self.sizes[4:])))
        self.out.bias.copy_(torch.cat(bias))
        for end, j in zip(self.ends, self.many):
            end.bias.copy_(torch.tensor(start[j]))
        if self.past is not None:
            self.past.weight.zero_()
        if self.mix is not None:
            n = len(self.numbers)
            self.mix.weight.mul_(0.3)
            spread = torch.linspace(0.3, -0.9, COMPONENTS)[:, None].expand(-1, n)
            bias = torch.stack([torch.zeros(COMPONENTS, n), 0.1 * torch.randn(COMPONENTS, n), spread])
            self.mix.bias.copy_(bias.flatten())

    def regressions(self) -> list[nn.Parameter]:
        """What is there without h."""
        found = [self.out.bias, *(p for end in self.ends for p in end.parameters())]
        found += [self.mix.bias] if self.mix is not None else []
        found += [self.past.weight] if self.past is not None else []
        return [*found, self.within] if self.tied else found

    # -- laws ----------------------------------------------------------------------------------------------------------

    def ties(self) -> Tensor | None:
        """Weights of the cells of a row on later columns [input output]."""
        return self.within * self.earlier if self.tied else None

    def _base(self, h: Tensor, past: Past | None) -> Tensor:
        out = self.out(h)
        return out if self.past is None or past is None else out + self.past(past.facts)

    def _mixed(self, h: Tensor) -> Tensor:
        """(log weights, offsets, log scales) [... 3 component number]."""
        return self.mix(h).unflatten(-1, (3, COMPONENTS, len(self.numbers)))

    def laws(self, h: Tensor, dense: Tensor, past: Past | None = None) -> Laws:
        """Of rows whose cells are `dense`: every column given the true cells before it."""
        out, ties = self._base(h, past), self.ties()
        if ties is not None:
            out = out + dense @ ties
        mean, log_sd, seen, few, codes, _ = out.split(self.sizes, -1)
        wide = few.new_full((*few.shape[:-1], self.real.numel()), -torch.inf)
        wide[..., self.place] = few
        few = wide.unflatten(-1, self.real.shape).log_softmax(-1) if self.few else wide.unflatten(-1, (0, 0))
        many = [end(part).log_softmax(-1) for end, part in zip(self.ends, codes.split(RANK, -1))] if self.many else []
        if self.mix is None:
            none = mean.new_zeros(*mean.shape[:-1], COMPONENTS, 0)
            return Laws(none, none, none, seen, few, many)
        return _mixture(mean, log_sd, self._mixed(h), self._bounded)._replace(seen=seen, few=few, many=many)

    def _bounded(self, log_sd: Tensor) -> Tensor:
        return (self.low + nn.functional.softplus(log_sd - self.low)).clamp(max=1.5)  # a floor that has a gradient

    def shut(self, values: Tensor, observed: Tensor) -> Tensor:
        """Cells whose gate says that there is nothing [... column]."""
        out = torch.zeros(values.shape, dtype=torch.bool)
        for j, gate, level in self.gates:
            out[..., j] = out[..., gate] | ~_open(values[..., gate], observed[..., gate], level)
        for j, mark in self.marks.items():
            out[..., mark] = out[..., j]
        return out

    def terms(self, h: Tensor, values: Tensor, observed: Tensor, dense: Tensor, past: Past | None = None) -> Tensor:
        """Log-density of every cell [... column]."""
        law = self.laws(h, dense, past)
        out = torch.zeros(values.shape, dtype=torch.float32)
        if self.numbers:
            x, has = torch.nan_to_num(values[..., self.numbers]), observed[..., self.numbers].to(torch.float32)
            mark = has * nn.functional.logsigmoid(law.seen) + (1 - has) * nn.functional.logsigmoid(-law.seen)
            settled, again = self._settled(values, past)
            mark = torch.where(self.always | settled, 0.0, mark)
            out[..., self.numbers] = has * ~again * _density(law, x) + mark
        for k, j in enumerate(self.few):
            out[..., j] = self._id_term(j, law.few[..., k, :], values, past)
        for share, j in zip(law.many, self.many):
            out[..., j] = self._id_term(j, share, values, past)
        return out.masked_fill(self.shut(values, observed), 0.0) if self.gates else out

    def _id_term(self, j: int, law: Tensor, values: Tensor, past: Past | None) -> Tensor:
        found = law.gather(-1, values[..., j].long().unsqueeze(-1)).squeeze(-1)
        if past is None:
            return found
        if j in self.column_of:  # a mark says something only where there is something to repeat
            return found.masked_fill(~past.has[..., self.column_of[j]], 0.0)
        if j in self.marks:
            mark, last = values[..., self.marks[j]], past.last[..., j].long().unsqueeze(-1)
            gone = (law[..., 0].exp() + law.gather(-1, last).squeeze(-1).exp()).clamp(max=1 - 1e-4)
            other = found - torch.log1p(-gone)
            found = torch.where(past.has[..., j], torch.where(mark == 1, other, 0.0), found)
        return found

    def _settled(self, values: Tensor, past: Past | None) -> tuple[Tensor, Tensor]:
        """Does the mark of a number say whether it is recorded, and that it is the last value again? [... number]"""
        with_mark = [(k, j, self.marks[j]) for k, j in enumerate(self.numbers) if j in self.marks]
        settled = torch.zeros(*values.shape[:-1], len(self.numbers), dtype=torch.bool)
        if past is None or not with_mark:
            return settled, settled
        at, columns, marks = (list(part) for part in zip(*with_mark))
        again = settled.clone()
        settled[..., at] = past.has[..., columns]
        again[..., at] = past.has[..., columns] & (values[..., marks] == 2)
        return settled, again

    def log_prob(self, h: Tensor, values: Tensor, observed: Tensor, dense: Tensor, past: Past | None = None) -> Tensor:
        """Log-density of rows [...]; see `terms`."""
        return self.terms(h, values, observed, dense, past).sum(-1)

    def numbers_of(self, h: Tensor, dense: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log sd of the numbers [... number]."""
        law = self.laws(h, dense, past)
        share = law.weight.exp()
        mean = (share * law.mean).sum(-2)
        second = (share * (torch.exp(2 * law.log_sd) + law.mean.square())).sum(-2)
        return mean, 0.5 * (second - mean.square()).clamp(min=1e-8).log()

    # -- draws ---------------------------------------------------------------------------------------------------------

    def filled(
        self, h: Tensor, rows: Rows, stream: torch.Generator, past: Past | None = None, *, noise: bool = True,
        known: tuple[Tensor, Tensor, Tensor] | None = None, holes: Tensor | None = None, ties: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Rows drawn cell by cell, given their cells that are known; without gradients.

        Args:
            known: (values, observed, which are known) [row column].
            holes: Cells that are to be drawn given that they are recorded [row column].
            ties: `ties()`, where it is at hand.
            noise: Without, every cell is its most likely value.

        Returns:
            Values, observed [row column], and the log-probability of all known cells and of every hole being recorded,
            each given the cells before it [row].
        """
        n, out, chance = len(h), self._base(h, past).clone(), self._chance(h, stream, noise=noise)
        ties = self.ties() if ties is None else ties
        own = hole = None
        values, observed = torch.zeros(n, len(self.levels)), torch.zeros(n, len(self.levels), dtype=torch.bool)
        if known is not None:
            values, observed = torch.nan_to_num(known[0]).clone(), known[1].clone()
        log_p, shut = torch.zeros(n), torch.zeros(values.shape, dtype=torch.bool)
        for j in self.order:
            column = self.column_of.get(j, j)
            if column in self.gate_of:
                gate, level = self.gate_of[column]
                shut[:, j] = shut[:, gate] | ~_open(values[:, gate], observed[:, gate], level)
            if known is not None:
                own, hole = known[2][:, j], None if holes is None else holes[:, j]
            cell = _Cell(values[:, j], observed[:, j], own, hole)
            draw = self._id if self.levels[j] else self._number
            x, has, term = draw(j, out, chance, past, values, cell)
            if column in self.gate_of:
                x, has = x.masked_fill(shut[:, j], 0), has & ~shut[:, j]
                term = None if term is None else term.masked_fill(shut[:, j], 0)
            values[:, j], observed[:, j] = x, has
            if term is not None:
                log_p += term
            if ties is not None:
                self._tell(j, out, ties, x, has, rows)
        return values, observed, log_p

    def _chance(self, h: Tensor, stream: torch.Generator, *, noise: bool) -> _Chance:
        """All that is drawn for rows before their cells are."""
        n, size = len(h), (len(h), len(self.numbers))
        gumbel = _gumbel((n, len(self.place)), stream) if noise else torch.zeros(n, len(self.place))
        many = [_gumbel((n, self.levels[j]), stream) if noise else torch.zeros(n, self.levels[j]) for j in self.many]
        if self.mix is None:
            return _Chance(h, h, h, h, h, gumbel, many)
        mixed, odds, normal = self._mixed(h), torch.zeros(size), torch.zeros(size)
        weight, offset, scale = mixed.unbind(1)
        at = weight
        if noise:
            at = weight + _gumbel(weight.shape, stream)
            odds = torch.logit(torch.rand(size, generator=stream), 1e-7)
            normal = torch.randn(size, generator=stream)
        at = at.argmax(1, keepdim=True)
        return _Chance(mixed, offset.gather(1, at)[:, 0], scale.gather(1, at)[:, 0], odds, normal, gumbel, many)

    def _tell(self, j: int, out: Tensor, ties: Tensor, x: Tensor, has: Tensor, rows: Rows) -> None:
        """Tell later columns of a row what column j is, in place."""
        n = len(self.numbers)
        if not self.levels[j]:
            k = self.numbers.index(j)
            out.addmm_(torch.stack([x * has, has.to(x.dtype)], 1), ties[[k, n + k]])
        elif j in self.few:
            out += ties[2 * n + int(self.starts[self.few.index(j)]) + x.long()]
        else:
            k = self.many.index(j)
            first = 2 * n + len(self.place) + TABLE * k
            out.addmm_(rows.tables[k](x.long()), ties[first : first + TABLE])

    def _number(
        self, j: int, out: Tensor, chance: _Chance, past: Past | None, values: Tensor, cell: _Cell
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(value, observed, log-probability of what is known) of a number [row]."""
        n, k = len(self.numbers), self.numbers.index(j)
        mean, log_sd, odds = out[:, k], out[:, n + k], out[:, 2 * n + k]
        has = chance.odds[:, k] < odds
        if self.always[k]:
            has = torch.ones_like(has)
        x = mean + chance.offset[:, k] + self._bounded(log_sd + chance.scale[:, k]).exp() * chance.normal[:, k]
        x = x.clamp(-self.limits[k], self.limits[k])
        settled = again = None
        if past is not None and j in self.marks:
            mark, settled = values[:, self.marks[j]], past.has[:, j]
            again = settled & (mark == 2)
            has, x = torch.where(settled, mark > 0, has), torch.where(again, past.last[:, j], x)
        if cell.own is None:
            return x * has, has, None
        if cell.hole is not None:
            has = has | cell.hole
        x, has = torch.where(cell.own, cell.value, x * has), torch.where(cell.own, cell.observed, has)
        seen = nn.functional.logsigmoid(torch.where(has, odds, -odds))
        law = _mixture(mean[:, None], log_sd[:, None], chance.mixed[..., k : k + 1], self._bounded)
        density = _density(law, x[:, None])[:, 0] * has
        if self.always[k]:
            seen = torch.zeros_like(seen)
        if settled is not None:
            seen, density = seen.masked_fill(settled, 0.0), density.masked_fill(again, 0.0)
        term = torch.where(cell.own, seen + density, 0.0)
        return x, has, term if cell.hole is None else torch.where(cell.hole, seen, term)

    def _id(
        self, j: int, out: Tensor, chance: _Chance, past: Past | None, values: Tensor, cell: _Cell
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(id, observed, log-probability of what is known) of a category [row]."""
        n = len(self.numbers)
        if j in self.few:
            first, size = int(self.starts[self.few.index(j)]), self.levels[j]
            law, noise = out[:, 3 * n + first : 3 * n + first + size], chance.gumbel[:, first : first + size]
        else:
            k = self.many.index(j)
            first = 3 * n + len(self.place) + RANK * k
            law, noise = self.ends[k](out[:, first : first + RANK]), chance.many[k]
        settled = None
        if past is not None and j in self.column_of:
            settled = torch.where(past.has[:, self.column_of[j]], -1, 0)
        elif past is not None and j in self.marks:
            mark, last, had = values[:, self.marks[j]], past.last[:, j].long(), past.has[:, j]
            settled = torch.where(had & (mark != 1), torch.where(mark == 2, last, 0), -1)
            gone = (torch.arange(law.shape[1]) == last[:, None]) & (had & (mark == 1))[:, None]
            gone[:, 0] = had & (mark == 1)
            law = law.masked_fill(gone & ~gone.all(1, keepdim=True), -torch.inf)
        term = None
        if cell.own is not None:
            law = law.log_softmax(1)
            term = torch.zeros(len(law))
        there = law
        if cell.hole is not None:
            there = law.clone()
            there[:, 0] = there[:, 0].masked_fill(cell.hole, -torch.inf)
            term = torch.where(cell.hole, there.logsumexp(1), 0.0)
        x = (there + noise).argmax(1)
        if settled is not None:
            x = torch.where(settled >= 0, settled, x)
        if cell.own is not None:
            x = torch.where(cell.own, cell.value.long(), x)
            term = torch.where(cell.own, law.gather(1, x[:, None])[:, 0], term)
            term = term if settled is None else term.masked_fill(settled >= 0, 0.0)
        return x.to(values.dtype), x > 0, term

    def sample(self, h: Tensor, stream: torch.Generator, rows: Rows, *, noise: bool = True) -> tuple[Tensor, Tensor]:
        """Rows that know no past, drawn: values, observed [row column], without gradients; in parts, to save memory."""
        with torch.no_grad():
            parts = [self.filled(part, rows, stream, noise=noise, ties=self.ties())[:2] for part in h.split(AT_ONCE)]
        return tuple(torch.cat(part) for part in zip(*parts))

    def pushed(self, h: Tensor, values: Tensor, observed: Tensor, rows: Rows, past: Past | None = None) -> Tensor:
        """The dense form of drawn rows [... width], with gradients to h."""
        dense = rows(values, observed)
        if not self.levels:
            return dense
        law = self.laws(h, dense.detach(), past)
        x = values[..., None, self.numbers]
        noise = ((x - law.mean) * torch.exp(-law.log_sd)).detach()
        near = (law.weight - 0.5 * noise.square() - law.log_sd).softmax(-2).detach()
        move = (near * (law.mean + law.log_sd.exp() * noise)).sum(-2)
        value = values[..., self.numbers] + move - move.detach()
        has = observed[..., self.numbers].to(h.dtype)
        soft = law.seen.sigmoid()
        mark = torch.where(self.always, has, has + soft - soft.detach())
        parts = [value * mark, mark]
        if self.few:
            soft = law.few.exp().flatten(-2)[..., self.place]
            at = 2 * len(self.numbers)
            parts.append(dense[..., at : at + len(self.place)] + soft - soft.detach())
        for share, j, table in zip(law.many, self.many, rows.tables):
            soft = share.exp() @ table.weight
            parts.append(table(values[..., j].long()) + soft - soft.detach())
        made = torch.cat(parts, -1)
        still = self.shut(values, observed)
        still[..., self.numbers] |= self._settled(values, past)[1]
        if past is not None and self.marks:
            still[..., [*self.marks.values()]] |= ~past.has[..., [*self.marks]]
        return torch.where(rows.spread(still), dense, made)

    def expected(self, h: Tensor, rows: Rows) -> Tensor:
        """Mean of the dense form of rows without ties [... width]; without noise, so a critic tells it at a glance."""
        law = self.laws(h, h.new_zeros(*h.shape[:-1], rows.width))
        share = torch.where(self.always, torch.ones_like(law.seen), law.seen.sigmoid())
        mean = (law.weight.exp() * law.mean).sum(-2)
        parts = [mean * share, share, *([law.few.exp().flatten(-2)[..., self.place]] if self.few else [])]
        parts += [part.exp() @ table.weight for part, table in zip(law.many, rows.tables)]
        return torch.cat(parts, -1) if self.levels else torch.ones(*h.shape[:-1], 1)


def _open(values: Tensor, observed: Tensor, level: float | None) -> Tensor:
    return observed if level is None else observed & (values > level)


def _density(law: Laws, x: Tensor) -> Tensor:
    """Log-density of numbers [... number]."""
    normal = -0.5 * ((x.unsqueeze(-2) - law.mean) * torch.exp(-law.log_sd)) ** 2 - law.log_sd - 0.5 * _LOG_2PI
    return torch.logsumexp(law.weight + normal, -2)


def _mixture(mean: Tensor, log_sd: Tensor, mixed: Tensor, bounded: Callable[[Tensor], Tensor]) -> Laws:
    weight, offset, scale = mixed.unbind(-3)
    none = mean.new_zeros(())
    return Laws(
        mean.unsqueeze(-2) + offset, bounded(log_sd.unsqueeze(-2) + scale), weight.log_softmax(-2), none, none, []
    )


def _gumbel(shape: Sequence[int], stream: torch.Generator) -> Tensor:
    return -torch.empty(shape).exponential_(generator=stream).clamp(min=1e-20).log()
