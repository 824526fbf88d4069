"""Rows of a column network in the making: the law of one column after the other.

Sampling and scoring go column by column, as each column hears of those before it. Inside, rows run along the last axis:
what one column needs lies side by side in memory. The network's own `log_prob` computes all columns at once; both give
the same law, but that hidden layers run in bfloat16 here where the processor multiplies it itself.

Rows of several networks of one shape (an ensemble) go together: only matrix products are done apart. What a step costs
beside them hardly depends on the number of rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cohortloom.nets.columnar import LARGE, NEVER, RANK, ColumnNet, bounded
from cohortloom.nets.normals import Normals
from cohortloom.nets.precision import has_bfloat16, quick

__all__ = ["Cursor"]

LEAST_ROUGH, ROUGH_ROWS = 4_096, 1_024


class Cursor:
    """What is known of some rows so far: call `column` and `push` for each column in order.

    Args:
        nets: One network, or several of one shape with the rows of the first in front, then those of the next; in eval
            mode.
        features, lookups: Of the rows, as in `Rows`.
        counts: Rows of each network; None: there is one.
    """

    @torch.no_grad()
    def __init__(
        self, nets: ColumnNet | Sequence[ColumnNet], features: Tensor, lookups: Tensor, counts: np.ndarray | None = None
    ) -> None:
        nets = [nets] if isinstance(nets, ColumnNet) else nets
        n, turned = len(features), features.T.contiguous()
        ends = np.cumsum([n] if counts is None else counts).tolist()
        parts = [(net, slice(a, b)) for net, a, b in zip(nets, [0, *ends], ends) if a < b or not n]
        self.parts, self.lookups = parts, lookups
        net = self.net = parts[0][0]  # what has no weights is the same in all
        self.own = self._each(lambda net, rows: _heard(net, turned[:, rows], lookups[rows]))
        wide = [net.wide_part(turned[:, rows]) for net, rows in parts]
        self.wide = wide[0] if len(wide) == 1 else [torch.cat(part, -1) for part in zip(*wide)]
        self.first, self.statics = net.first_values(turned.T).T, turned[: net.n_told]
        self.usual = net.usual(turned.T).transpose(1, 2).contiguous() if net.moving else torch.zeros(0, 0, n)
        self.anchor: dict[int, Tensor | None] = {}
        for i, group in enumerate(net.groups):
            found = [net.anchors(i, turned.T[rows]) for net, rows in parts] if group.mixture else [None]
            self.anchor[i] = None if found[0] is None else torch.cat(found)
        self.known = torch.zeros(RANK if net.low_rank else net.n_inputs, n)
        self.token: dict[int, Tensor] = {}
        self.place = {}
        number = 0
        for index, group in enumerate(net.groups):
            for row, j in enumerate(group.columns):
                self.place[j] = (index, row, number if group.n_tokens <= LARGE else None)
            number += group.n_tokens <= LARGE

    def _each(self, of: Callable[[ColumnNet, slice], Tensor]) -> Tensor:
        """What each network makes of its rows, side by side."""
        found = [of(net, rows) for net, rows in self.parts]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    @torch.no_grad()
    def column(self, j: int, hidden: Tensor) -> tuple[Tensor, Normals | None]:
        """Token logits (row x token) of column j and its normals."""
        net, units = self.net, slice(j * self.net.width, (j + 1) * self.net.width)
        index, row, number = self.place[j]
        group, known = net.groups[index], self.known if net.low_rank else self.known[: net.start[j]]
        t, k, never = group.n_tokens, net.n_normals, getattr(net, f"never_{index}")[row][:, None]

        def outputs(net: ColumnNet, rows: slice) -> Tensor:
            mix = net.mix[j].T if net.low_rank else net.mix[units, : len(known)]
            a = torch.addmm(self.own[units, rows], mix, known[:, rows])
            out = torch.addmm(net.head_bias[index][row][:, None], net.heads[index][row].T, F.silu(a))
            if group.mixture:
                out[t : t + k] += net.fresh[str(index)][row][:, None] * self.first[j, rows]
            if number is None:
                out[:t] += net.told_of(j, self.statics[:, rows], lambda c: self.token[c][rows])
            return out

        def from_wide(net: ColumnNet, rows: slice) -> Tensor:
            at = group.first_wide + row * group.wide
            across = net.mix_wide[number][row].T if net.low_rank else net.mix_wide[at : at + group.wide, : len(known)]
            wide = torch.addmm(self.wide[number][row][:, rows], across, known[:, rows])
            if group.mixture:
                wide[t + 1] = bounded(wide[t + 1], *getattr(net, f"scale_{index}")[row])
            return wide

        out = self._each(outputs)
        if number is None:
            return net.of_large(j, (out + F.pad(never, (0, 0, 0, 1))).T, self.lookups), None
        wide = self._each(from_wide)
        logits = (out[:t] + never + wide[:t])[: net.columns[j].n_tokens]
        if not group.mixture:
            return logits.T, None
        if net.columns[j].repeat >= 0:
            logits.scatter_add_(0, hidden.clamp_min(0)[None], torch.where(hidden >= 0, NEVER, 0.0)[None])
        anchor = None if self.anchor[index] is None else self.anchor[index][:, row].numpy()
        weight, mean, log_sd = out[t : t + 3 * k].view(3, k, -1)
        parts = (x.numpy() for x in (weight.T, mean.T, log_sd.T, wide[t], wide[t + 1], torch.exp(wide[t + 1])))
        return logits.T, Normals(*parts, anchor, net.is_anchored)

    @torch.no_grad()
    def push(self, j: int, token: Tensor, score: Tensor) -> None:
        """Tell later columns what column j became."""
        net, shape, at = self.net, self.net.columns[j], self.net.start[j]
        self.token[j] = token
        e = torch.zeros(shape.width, len(token)) if net.low_rank else self.known[at : at + shape.width]
        if shape.large:
            e.copy_(self._each(lambda net, rows: net.tables[str(j)][(token[rows] + 1).clamp_min(0)].T))
        else:
            number = shape.kind == "number"
            there = token >= 0
            e.scatter_(0, (token.clamp_min(0) + number)[None], there[None].float())
            if number:
                e[0] = score
            if shape.scales:
                mine = net.moving.index(j)
                e[-2:] = net.moves(mine, token, score, self.usual[:, mine])
        if net.low_rank:
            self.known += self._each(lambda net, rows: net.embed[at : at + shape.width].T @ e[:, rows])

    def take(self, rows: Tensor) -> None:
        """Put other rows of the same network in the place of some."""
        self.lookups, self.usual = self.lookups[rows], self.usual[..., rows]
        self.own, self.known, self.first = self.own[:, rows], self.known[:, rows], self.first[:, rows]
        self.statics, self.token = self.statics[:, rows], {j: token[rows] for j, token in self.token.items()}
        self.wide = [part[..., rows] for part in self.wide]
        self.anchor = {i: None if part is None else part[rows] for i, part in self.anchor.items()}


def _heard(net: ColumnNet, turned: Tensor, lookups: Tensor) -> Tensor:
    """What the units of all columns hear of the rows: unit x row. Half of all arithmetic; shifts and logits of the wide
    part stay exact.

    A product in bfloat16 is compiled anew for every shape, so numbers of rows are rounded up, and few rows multiply as
    they are.
    """
    n = turned.shape[1]
    rough = has_bfloat16() and n >= LEAST_ROUGH
    x = turned
    if rough:
        more = -n % ROUGH_ROWS
        x, lookups = F.pad(turned.bfloat16(), (0, more)), F.pad(lookups, (0, 0, 0, more))
    with quick(rough):
        own = (net.own_hidden @ net.hidden(x.T, lookups).T)[:, :n].float().add_(net.own_bias[:, None])
    for j, shape in enumerate(net.columns):
        for at, start, stop in _runs(shape.own):
            units = own[j * net.width : (j + 1) * net.width]
            units.addmm_(net.own_history[j, at : at + stop - start].T, turned[start:stop])
    return own


def _runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """Places that follow each other: where the run begins among them, its first place, and the one after its last."""
    cuts = [i for i in range(len(places)) if i == 0 or places[i] != places[i - 1] + 1]
    return [(a, places[a], places[a] + b - a) for a, b in zip(cuts, [*cuts[1:], len(places)])]
