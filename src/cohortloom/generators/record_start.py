"""Where the tokens of a course start from, so that the steps of the network go to what is not linear.

A logistic regression of each hidden cell on what shows around it: the tokens of its row, of the visits before and after
and of the whole course, its place and the statics. It is learned on rows whose features are worked out once for a few
ways of hiding cells, so a step costs a hundredth of one of the network: how long a state lasts and which values are
recorded together is known before the first. Patients held out say which of its steps is the best.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cohortloom.diffusion.masked import bound_weight, hide, mask_shares
from cohortloom.generators.record_tensors import Part, Records
from cohortloom.generators.record_training import scores, show
from cohortloom.nets.record_cells import Shown
from cohortloom.nets.record_denoiser import TOKENS, Clock, RecordDenoiser, place_features
from cohortloom.training.adamw import AdamW

__all__ = ["fit_tokens"]

COPIES = 8  # ways of hiding the cells of a patient, at most,
ROOM = 40_000_000  # as long as their features are this many
STEPS, BATCH, RATE, DECAY = 500, 512, 0.015, 0.02
LOOKS = 10  # evaluations on patients held out
ROUNDS = 5  # times that rows are hidden anew: a panel of which one value in fifty rows shows needs many


@dataclass(frozen=True)
class _Rows:
    """Rows with hidden cells: features of the row, shares around its cells, what is asked, and its weight."""

    around: Float[Tensor, "row feature"]
    shares: Float[Tensor, "row token kernel"]
    token: Int[Tensor, "row column"]
    hidden: Bool[Tensor, "row column"]
    weight: Float[Tensor, "row"]

    def __len__(self) -> int:
        return len(self.token)

    def take(self, index: Tensor) -> "_Rows":
        return _Rows(*[getattr(self, f.name)[index] for f in fields(self)])

    def loss(self, net: RecordDenoiser) -> Tensor:
        logits = net.series_heads.bias + net.token_line(self.around, self.shares)
        law = net.log_small(net.series, logits.masked_fill(~net.series_heads.allowed, -1e9), self.token)
        asked = self.hidden[:, net.series.small] * self.weight[:, None]
        return -(law * asked).sum() / self.hidden.sum().clamp(min=1)


def fit_tokens(
    net: RecordDenoiser, records: Records, items: np.ndarray, held_out: np.ndarray, window: int,
    stream: torch.Generator,
) -> None:  # fmt: skip
    """Fit the linear part of the course's tokens."""
    parameters = [net.series_heads.bias, *net.shares.parameters(), net.row_tokens]
    small = [net.series.each[j] for j in net.series.small]
    if not any(c.free for c in small):
        return
    left = _rows(net, records, torch.as_tensor(held_out), window, stream) if len(held_out) else None
    seen = _rows(net, records, torch.as_tensor(items), window, stream)
    if seen is None:
        return
    steps = STEPS if left is not None else STEPS // 4
    optimiser = AdamW([{"params": parameters, "weight_decay": DECAY}], lr=RATE, betas=(0.9, 0.99))
    best, least = [p.detach().clone() for p in parameters], _loss(net, left)
    for step in range(steps):
        if step and step % (STEPS // ROUNDS) == 0:
            seen = _rows(net, records, torch.as_tensor(items), window, stream) or seen
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        some = seen.take(torch.randint(len(seen), (min(BATCH, len(seen)),), generator=stream))
        torch.autograd.backward(some.loss(net), inputs=parameters)
        optimiser.step()
        optimiser.zero_grad()
        if left is not None and (step + 1) % (steps // LOOKS) == 0 and (now := _loss(net, left)) < least:
            best, least = [p.detach().clone() for p in parameters], now
    if left is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, best):
                parameter.copy_(value)


@torch.no_grad()
def _loss(net: RecordDenoiser, rows: _Rows | None) -> float:
    return math.inf if rows is None else float(rows.loss(net))


def _rows(net: RecordDenoiser, records: Records, items: Tensor, window: int, stream: torch.Generator) -> _Rows | None:
    """Rows of these patients with cells hidden at random, several times over; None: no visits."""
    items = items[records.length[items] > 0]
    if not len(items):
        return None
    width = net.n_row + net.n_more + net.series.owner.numel() * 5
    want = ROOM / width
    mean = float(records.length[items].clamp(max=window).float().mean())
    copies = int(np.clip(want / (mean * len(items)), 1, COPIES))
    items = items[torch.randperm(len(items), generator=stream)][: max(1, int(want / mean))]
    found = [part for _ in range(copies) for part in _hidden(net, records, items, window, stream)]
    return _Rows(*[torch.cat([getattr(part, f.name) for part in found]) for f in fields(_Rows)])


@torch.no_grad()
def _hidden(
    net: RecordDenoiser, records: Records, items: Tensor, window: int, stream: torch.Generator
) -> Iterator[_Rows]:
    """As a course is drawn: statics and number of visits known, tokens hidden at a random rate, no number yet.

    The rate of the row and that of the visits around are drawn apart. Were they one, a row that shows nearly always had
    neighbours that show, and what the first cells of a course say about their row would be learned from hardly any.
    """
    order = items[records.length[items].argsort()]
    for index in order.split(64):
        n, length = len(index), records.length[index]
        steps = int(length.max().clamp(1, window))
        begin = (torch.rand(n, generator=stream) * ((length - window).clamp(min=0) + 1)).long()
        static, (series, present) = records.statics.take(index), records.window(index, begin, steps)
        x, _, has, _ = scores(net.static, static, stream)
        clean = Shown(static.token, torch.where(has, x, 0.0), has, torch.zeros_like(has))
        share, other = mask_shares(n, stream), mask_shares(n, stream)
        hidden, around = (_hide(net, series, present, m, stream) for m in (share, other))
        clock = Clock(torch.full((n,), TOKENS), share, torch.full((n,), 9.0))
        row, beside = (_shown(net, series, cells, clock, stream) for cells in (hidden, around))
        place = place_features(begin[:, None] + torch.arange(steps), length, torch.ones(n, dtype=torch.bool))
        m, _, _, shares = net.neighbours(beside, present, clock)
        around, asked = net.token_row(clean, row, m, place), hidden & series.active
        keep = present & asked.any(2)
        weight = bound_weight(share)[:, None].expand(n, steps)
        yield _Rows(around[keep], shares[keep], series.token[keep], asked[keep], weight[keep])


def _hide(net: RecordDenoiser, series: Part, present: Tensor, share: Tensor, stream: torch.Generator) -> Tensor:
    hidden = hide(net.series.free.expand(series.active.shape) & series.active, share, stream)
    return net.series.behind(hidden) & net.series.free & present[..., None]


def _shown(net: RecordDenoiser, series: Part, hidden: Tensor, clock: Clock, stream: torch.Generator) -> Shown:
    x, _, has, settled = scores(net.series, series, stream)
    return show(net.series, series.token, x, x, has, settled, ~series.active, hidden, clock)
