"""Drawing patients from latents: statics, gaps, then all visits in one pass of the decoder and their noise in turn.

Everything drawn is decoded and encoded again before anything else sees it, so features are those of training.

What holds for whom a part is known, `temporal_vae_posterior`, is made of the same pieces: a fixed cell keeps its value,
and the probability it has given what was drawn before it is handed back as a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cohortloom.codec.gates import Gates
from cohortloom.generators.cell_drawing import CellDrawer, Fixed, Limits
from cohortloom.generators.cells import ABSENT, NOTHING, cells_of, is_shut
from cohortloom.generators.cells import Cells as Encodings
from cohortloom.generators.columnar_sampling import cell_log_prob, hidden_token
from cohortloom.generators.temporal_vae_data import Frame, Past, gap_before
from cohortloom.nets.normals import Mixture
from cohortloom.nets.row_law import RowCursor
from cohortloom.nets.tokens import CONT
from cohortloom.nets.visit_vae import Cells, Latents, Segments, VisitVAE

__all__ = ["Drawer", "Plan", "as_cells", "elapsed", "segments_kept"]


@dataclass
class Plan:
    """Statics and times of drawn patients.

    Args:
        statics: Cells, number of visits and span included.
        values: Values of the statics to hand out.
        length: Visits.
        gap: Before each visit [d], one patient after the other.
        owner, position: Of each visit.
    """

    statics: Encodings
    values: np.ndarray
    length: np.ndarray
    gap: np.ndarray
    owner: np.ndarray
    position: np.ndarray


class Drawer(CellDrawer):
    """Draws from one model.

    Args:
        net: The network.
        frame: Coders and units.
        rng: Source of noise.
    """

    cont_tries = 6

    def __init__(self, net: VisitVAE, frame: Frame, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.net, self.frame = net, frame
        self.alphabet, self.scale = frame.alphabet, frame.scale

    # -- statics -------------------------------------------------------------------------------------------------

    def statics(
        self, z: Tensor, fixed: Fixed | None = None, least: np.ndarray | None = None, elapsed: np.ndarray | None = None
    ) -> tuple[Encodings, np.ndarray, np.ndarray]:
        """Statics of patients with these latents.

        Args:
            least, elapsed: Fewest visits, and shortest span [unit of the gaps], of patients whose course has begun.

        Returns:
            (cells, values, log-probability of the fixed cells).
        """
        law = self.net.laws["statics"]
        limits = lambda j, value: self._span_limits(j, value, least, elapsed)  # noqa: E731
        gates = self.alphabet.static_gates
        return self.row(RowCursor(law, self.net.body(z), None), self.frame.statics, None, fixed, limits, gates)

    def length_of(self, statics: Encodings) -> np.ndarray:
        """Visits of each patient."""
        return np.round(np.nan_to_num(statics.value[:, self.alphabet.n_visits_at])).astype(np.int64)

    def _span_limits(
        self, j: int, value: np.ndarray, least: np.ndarray | None, elapsed: np.ndarray | None
    ) -> Limits | None:
        """Of the number of visits: those there are. Of the span: room for the visits, and the ends of follow-up."""
        a = self.alphabet
        if not a.has_sequence or j < a.n_visits_at:
            return None
        rows = len(value)
        if j == a.n_visits_at:
            if least is None:
                return None
            return Limits(np.asarray(least, float), np.full(rows, np.inf), np.full(rows, np.inf), tail=True)
        visits = value[:, a.n_visits_at]
        low = (visits - 1) * a.least_gap
        if elapsed is not None:
            low = np.maximum(low, elapsed + np.maximum(visits - least, 0) * a.least_gap)
        ends = a.ends(value)
        high = np.full(rows, np.inf)
        if ends.shape[1]:
            high = np.nan_to_num(np.fmin.reduce(ends, 1), nan=np.inf) / a.unit + 1e-9
            high = np.where(high < low, np.inf, np.floor(high) if a.whole else high)
        return Limits(low, high, np.where(visits < 2, np.nan, np.inf))

    # -- times ---------------------------------------------------------------------------------------------------

    def first_gaps(self, latents: Latents, statics: Encodings, length: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """Times of the first visits of some patients [d]."""
        zero = np.zeros(len(alive))
        if self.alphabet.first_gap is None:
            return zero
        pace, w = self._at_visits(latents, statics, length, alive, np.zeros(len(alive), np.int64), "clock")
        ends = self.frame.ends(statics, np.zeros(len(length)))[alive]
        ends[:, : int(self.frame.pinned)] = np.nan
        features = self.scale.clock(zero, length[alive].astype(float), zero, zero, ends)
        return self._first_gap(self.net.at(self.net.clock, pace, w, features))

    def plan(
        self,
        latents: Latents,
        statics: Encodings,
        values: np.ndarray,
        length: np.ndarray,
        known: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[Plan, Latents]:
        """Gaps of all visits, one after the other. Where the span is not pinned, a course ends before the first visit
        that lies beyond a known end of follow-up `TRIES` times; so it may be shorter than `length`.

        Args:
            length: Visits of each patient.
            known: (number of visits whose gap is known [subject], gap of every visit [d]).
        """
        a, n = self.alphabet, len(length)
        owner = np.repeat(np.arange(n), length)
        start = np.cumsum(length) - length
        position = np.arange(len(owner)) - start[owner]
        gap = np.zeros(len(owner))
        n_known, told = known if known is not None else (np.zeros(n, np.int64), gap)
        if a.gap is None and a.first_gap is None:
            gap = np.where(position < n_known[owner], told, np.where(position > 0, a.even_gap, 0.0))
            return Plan(statics, values, length, gap, owner, position), latents
        length, planned = length.copy(), length
        context, w = self._at_visits(latents, statics, length, owner, position, "clock")
        alive, time, last = np.flatnonzero(length > 0), np.zeros(n), np.zeros(n)
        token, score = np.full(n, -1), np.zeros(n, np.float32)
        base = np.zeros(n, np.float32)
        ends = self.frame.ends(statics, np.zeros(n))
        for t in range(int(length.max(initial=0))):
            alive = alive[length[alive] > t]
            if not len(alive):
                break
            rows = torch.from_numpy(start[alive] + t)
            here = ends[alive]
            here[:, : int(t == 0 and self.frame.pinned)] = np.nan  # time of the last visit counts from the first
            position_t, visits = np.full(len(alive), float(t)), length[alive].astype(float)
            features = self.scale.clock(position_t, visits, time[alive], last[alive], here)
            h = self.net.at(self.net.clock, context[rows], w[rows], features)
            if t == 0:
                step = np.where(n_known[alive] > 0, told[start[alive]], self._first_gap(h))
            elif a.gap is not None and "gap" in self.net.laws:
                now = torch.full((len(alive),), t)
                before = gap_before(torch.from_numpy(token[alive]), torch.from_numpy(score[alive]), now)
                law = self.net.laws["gap"]
                before.base = torch.from_numpy(base[alive])[:, None] * before.has
                limits = self._gap_limits(time[alive], ends[alive], visits - t)
                found, drawn, _ = self.row(RowCursor(law, h, before), [a.gap], None, None, limits)
                if not self.frame.pinned:
                    over = (drawn[:, 0] > limits(0, drawn).high) & (t >= n_known[alive])
                    length[alive[over]] = t
                    found = Encodings(*(part[~over] for part in vars(found).values()))
                    drawn, h, alive, visits = drawn[~over], h[torch.from_numpy(~over)], alive[~over], visits[~over]
                step, told_now = drawn[:, 0] * a.unit, t < n_known[alive]
                if told_now.any():
                    step = np.where(told_now, told[start[alive] + t], step)
                    exact = a.in_units(step)
                    found.token[told_now, 0] = a.gap.token(a.gap.snap(exact), exact * np.nan)[told_now]
                    found.score[told_now, 0] = a.gap.history(a.gap.snap(exact))[told_now]
                token[alive], score[alive] = found.token[:, 0], found.score[:, 0]
            else:
                step = np.full(len(alive), a.even_gap)
            if a.gap is not None and "gap" in self.net.laws:
                base[alive] = self.net.laws["gap"].level(h)[:, 0].numpy()
            if t == 0:
                ends = self.frame.ends(statics, _scattered(n, alive, step))
            gap[start[alive] + t] = step
            time[alive] += step
            last[alive] = step if t else 0.0
        keep = position < length[owner]
        w = segments_kept(latents.w, planned, length, self.net.sizes.segment) if self.net.sizes.local else latents.w
        return Plan(statics, values, length, gap[keep], owner[keep], position[keep]), Latents(latents.z, w)

    def _first_gap(self, h: Tensor) -> np.ndarray:
        if self.alphabet.first_gap is None:
            return np.zeros(len(h))
        law = self.net.laws["first_gap"]
        _, drawn, _ = self.row(RowCursor(law, h, None), [self.alphabet.first_gap], None, None, None)
        return drawn[:, 0] * self.alphabet.unit

    def _gap_limits(self, time: np.ndarray, ends: np.ndarray, left: np.ndarray) -> Callable:
        """A pinned last gap is what is left of the span, and others leave room for it; else no known end is passed."""
        a, none = self.alphabet, np.zeros(len(time))
        if self.frame.pinned:
            rest = (ends[:, 0] - time) / a.unit
            rest = np.maximum(np.round(rest) if a.whole else rest, 0.0)
            room = np.maximum(rest - (left - 1) * a.least_gap, 0.0)
            found = Limits(none, room + 1e-9 * (not a.whole), np.where(left <= 1, rest, np.inf))
        else:
            rest = np.nan_to_num((np.fmin.reduce(ends, 1, initial=np.inf) - time) / a.unit, nan=np.inf, posinf=np.inf)
            found = Limits(none, rest + 1e-6, none + np.inf, soft=True)  # whoever is still beyond ends there
        return lambda j, value: found

    # -- visits --------------------------------------------------------------------------------------------------

    def visits(self, latents: Latents, plan: Plan, known: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """Values of all visits [visit column].

        Args:
            known: (number of known visits [subject], their values [visit column]).
        """
        a, net = self.alphabet, self.net
        h = self.field_at(latents, plan.statics, plan.length, plan.owner, plan.position, plan.gap)
        starts = np.cumsum(plan.length) - plan.length
        out = np.zeros((len(plan.owner), len(a.columns)))
        n_known = np.zeros(len(plan.length), np.int64) if known is None else known[0]
        if known is not None:
            out[plan.position < n_known[plan.owner]] = known[1]
        alive = np.flatnonzero(plan.length > 0)
        time = elapsed(plan.gap, plan.length) / self.scale.usual
        past = Past(a.columns, len(alive))
        for t in range(int(plan.length.max(initial=0))):
            stay = plan.length[alive] > t
            past.keep(stay)
            alive = alive[stay]
            rows, value = starts[alive] + t, past.value
            new = np.flatnonzero(n_known[alive] <= t)
            state = h[torch.from_numpy(rows)]
            cells = cells_of(a.columns, out[rows], None, a.gates, value)
            if len(new):
                mine, last = torch.from_numpy(new), None
                if t:
                    last = past.taken(new)
                    cursor = RowCursor(net.laws["later"], state[mine], last.before(time[rows[new]]))
                else:
                    cursor = RowCursor(net.laws["first"], state[mine], None)
                drawn = self.row(cursor, a.columns, None if last is None else last.value, None, None, a.gates)
                out[rows[new]] = drawn[1]
                for name in ("value", "token", "score"):
                    getattr(cells, name)[new] = getattr(drawn[0], name)
            base = net.laws["later"].level(state).numpy() if "later" in net.laws else np.zeros(cells.value.shape)
            past.update(cells, time[rows], base)
        return out

    def field_at(
        self,
        latents: Latents,
        statics: Encodings,
        length: np.ndarray,
        owner: np.ndarray,
        position: np.ndarray,
        gap: np.ndarray,
    ) -> Tensor:
        """What the decoder says of some visits, in one pass [visit width]; `position` counts from 0 without holes."""
        context, w = self._at_visits(latents, statics, length, owner, position)
        start = np.zeros(len(length))
        start[owner[position == 0]] = gap[position == 0]
        ends = self.frame.ends(statics, start)[owner]
        time, n = elapsed(gap, np.bincount(owner, minlength=len(length))), length[owner].astype(float)
        return self.net.state(context, w, self.scale.field(position.astype(float), n, time, gap, ends))

    def slow_at(self, latents: Latents, length: np.ndarray, owner: np.ndarray, position: np.ndarray) -> Tensor:
        """w(t) of some visits [visit local]."""
        segments = None
        if self.net.sizes.local and len(owner):
            parts = (torch.from_numpy(x) for x in (length, owner, position))
            segments = Segments.of(*parts, self.net.sizes.segment)
        return self.net.slow_at(latents, segments, len(owner))

    def _at_visits(
        self,
        latents: Latents,
        statics: Encodings,
        length: np.ndarray,
        owner: np.ndarray,
        position: np.ndarray,
        net: str = "field",
    ) -> tuple[Tensor, Tensor]:
        """Context and w(t) of each visit."""
        context = self.net.context_of(latents.z, as_cells(statics), net)[torch.from_numpy(owner)]
        return context, self.slow_at(latents, length, owner, position)

    # -- one row -------------------------------------------------------------------------------------------------

    def row(
        self,
        cursor: RowCursor,
        coders: list,
        last: np.ndarray | None,
        fixed: Fixed | None,
        limits: Callable | None,
        gates: Gates | None = None,
    ) -> tuple[Encodings, np.ndarray, np.ndarray]:
        """Draw all columns of some rows.

        Args:
            last: Last recorded values [row column].
            limits: (column, values so far) -> `Limits` or None.
            gates: What columns lie within: where that says no, nothing is drawn.

        Returns:
            (cells, values to hand out, log-probability of the fixed cells given those before them [row]).
        """
        rows, c = len(cursor.out), len(coders)
        none, weight = np.full(rows, np.nan), np.zeros(rows)
        value, token = np.full((rows, c), np.nan), np.zeros((rows, c), np.int64)
        score, raw = np.zeros((rows, c), np.float32), np.zeros((rows, c))
        cells = Encodings(value, np.full((rows, c), np.nan) if last is None else last, token, score)
        for j, coder in enumerate(coders):
            before = none if last is None or coder.kind == "category" else last[:, j]
            logits, mixture = cursor.column(j, hidden_token(coder, before))
            logits = logits.numpy()
            mixture = None if mixture is None else Mixture(*[part.numpy() for part in mixture])
            if fixed is not None and fixed.present is not None:
                logits = _without_missing(coder, logits, fixed.present[:, j] & ~fixed.mask[:, j])
            drawn = self.cell(coder, logits, mixture, before)
            limit = limits(j, value) if limits is not None else None
            if limit is not None:
                weight += _log_tail(coder, logits, mixture, limit.low) if limit.tail else 0.0
                drawn = self.within(drawn, limit, coder, logits, mixture, before)
            shut = is_shut(gates[j], cells) if gates and j in gates else None
            if shut is not None:
                drawn = np.where(shut, gates[j].absent, drawn)
            given = drawn
            if fixed is not None and fixed.mask[:, j].any():
                mask, wanted = fixed.mask[:, j], fixed.value[:, j]
                snapped = wanted if coder.kind == "category" else coder.snap(wanted)
                drawn, given = np.where(mask, snapped, drawn), np.where(mask, wanted, drawn)
                counts = mask if shut is None else mask & ~shut
                weight += np.where(counts, cell_log_prob(coder, logits, mixture, snapped, before), 0.0)
            value[:, j], raw[:, j] = drawn, given
            if coder.kind == "category":
                token[:, j] = coder.token(drawn)
            else:
                snapped = drawn if limit is None else coder.snap(drawn)
                token[:, j], score[:, j] = coder.token(drawn, before), coder.history(snapped)
            if limit is not None:
                token[~np.isinf(limit.known), j] = NOTHING
            if shut is not None:
                token[shut, j] = ABSENT
            cursor.push(j, torch.from_numpy(token[:, j].copy()), torch.from_numpy(score[:, j].copy()))
        return cells, raw, weight


def _without_missing(coder, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Logits where a value there must be."""
    token = coder.missing_token if coder.kind == "number" else coder.ids.index(0) if 0 in coder.ids else -1
    if token < 0 or logits.shape[1] == 1 or not present.any():
        return logits
    out = logits.copy()
    out[present, token] = -1e4
    return out


def _log_tail(coder, logits: np.ndarray, mixture: tuple, least: np.ndarray) -> np.ndarray:
    """Log-probability of a value of at least `least`."""
    from scipy.special import ndtr, ndtri

    share = np.exp(logits - logits.max(1, keepdims=True))
    share = share / share.sum(1, keepdims=True)
    total = np.zeros(len(least))
    for token, spike in enumerate(coder.spikes, 1):
        total += share[:, token] * (spike >= least)
    if len(coder.x):
        weight, mean, log_sd = (part.astype(float) for part in mixture)
        left, _ = coder.interval(np.clip(least, coder.x[0], coder.x[-1]))
        z = ndtri(np.clip(left, 1e-6, 1 - 1e-6))[:, None]
        weight = np.exp(weight - weight.max(1, keepdims=True))
        above = (weight / weight.sum(1, keepdims=True) * ndtr((mean - z) / np.exp(log_sd))).sum(1)
        total += share[:, CONT] * np.where(least <= coder.x[0], 1.0, np.where(least > coder.x[-1], 0.0, above))
    return np.log(np.maximum(total, 1e-12))


def segments_kept(
    w: Tensor, planned: np.ndarray, length: np.ndarray, size: int, keep: np.ndarray | None = None
) -> Tensor:
    """w of some patients (`keep`, all by default) whose courses of `planned` visits became `length`."""
    keep = np.arange(len(planned)) if keep is None else keep
    count = -(-planned // size)
    start, n = (np.cumsum(count) - count)[keep], -(-length[keep] // size)
    rows = np.repeat(start - (np.cumsum(n) - n), n) + np.arange(int(n.sum()))
    return w[torch.from_numpy(rows)]


def as_cells(cells: Encodings) -> Cells:
    """Cells for a network that only reads them."""
    token, score = torch.from_numpy(cells.token), torch.from_numpy(np.asarray(cells.score, np.float32))
    return Cells(token, score, score, token)


def _scattered(n: int, rows: np.ndarray, value: np.ndarray) -> np.ndarray:
    out = np.zeros(n)
    out[rows] = value
    return out


def elapsed(gap: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Time of each visit: running sum of a patient's gaps."""
    total = np.cumsum(gap)
    start = np.cumsum(length) - length
    before = np.where(length > 0, np.concatenate([[0.0], total])[start], 0.0)
    return total - np.repeat(before, length)
