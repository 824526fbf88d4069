"""Filling holes with the event transformer: sequential Monte Carlo along the stream.

In a stream a cell that was not recorded is no token. To fill it, its place is opened: a slot after the cells before it
in the row of its visit. The stream with all its slots is then walked through by particles, one token after the other:

    at a slot    each particle draws a token of that column (and its number), and is weighted by the chance that the
                 next token is one of that column
    elsewhere    each particle is weighted by p(token | past) p(gap | ...) p(value | ...)

Particles of uneven weight are drawn anew; at the end one is chosen and its tokens are read back along its ancestors. As
the number of particles grows this is a draw from the model's law of the filled stream, whose number of tokens is known:
those there are and the slots. Static holes are drawn first, each feature given those before it, and weighted by those
after it and by the whole stream.

References:
    Doucet, Johansen (2009). A tutorial on particle filtering and smoothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cohortloom.codec.stream import NONE, NUMBER, SAME
from cohortloom.codec.tensors import Encoded, SequenceArrays, StaticArrays
from cohortloom.generators.cell_drawing import one_of, renewed
from cohortloom.generators.event_encoding import AGAIN, N_CLASSES, classes_of, scores_near
from cohortloom.generators.event_sampling import Course, Drawing
from cohortloom.generators.impute import Holes
from cohortloom.rng import Rng

__all__ = ["PARTICLES", "fill"]

#: Of each patient.
PARTICLES = 64
ROWS_AT_ONCE = 1_024
#: What an entry costs that the model can't write [nat].
IMPOSSIBLE = -30.0


def fill(nets: Any, drawing: Drawing, encoded: Encoded, holes: Holes, rng: Rng) -> Encoded:
    """The patients with tokens in their holes.

    Args:
        holes: Of the statics, and of visits: columns [token column] that are holes, in rows of tokens of visits.
    """
    static, stream = encoded.static, encoded.sequence
    assert static is not None and stream is not None and holes.static is not None and holes.sequence is not None
    slotted, column = _with_slots(drawing, stream, holes.sequence)
    some = holes.static.any(1) | (np.bincount(slotted.subject, column >= 0, minlength=len(stream.length)) > 0)
    chosen = np.flatnonzero(some)
    order = chosen[np.argsort(-slotted.length[chosen], kind="stable")]  # of one length together
    values, observed = static.values.copy(), static.observed.copy()
    tokens = slotted.values.copy()
    for k, start in enumerate(range(0, len(order), ROWS_AT_ONCE // PARTICLES)):
        rows = order[start : start + ROWS_AT_ONCE // PARTICLES]
        walk = _Walk(nets, drawing, static.take(rows), slotted, rows, column, holes.static[rows], rng.child(k))
        values[rows], observed[rows], found = walk.go()
        for subject, own in zip(rows, found):
            at = slotted.starts[subject] + np.arange(slotted.length[subject])
            tokens[at] = own[: len(at)]
    return Encoded(StaticArrays(static.features, values, observed), replace(slotted, values=tokens))


def _with_slots(drawing: Drawing, stream: SequenceArrays, holes: np.ndarray) -> tuple[SequenceArrays, np.ndarray]:
    """Streams with slots, and the column each token is a slot of, -1 for none."""
    facts, token = drawing.codec.facts, stream.values[:, 0].astype(np.int64)
    n, table = len(token), facts["table"]
    can = np.array([(~facts["row"] & (table == 0) & (facts["column"] == j)).any() for j in range(holes.shape[1])], bool)
    where, column = np.nonzero(holes & can)
    row = np.maximum.accumulate(np.where(facts["row"][token], np.arange(n), -1)) if n else token
    keys = np.concatenate([row, where]), np.concatenate([facts["column"][token], column])
    order = np.lexsort((np.concatenate([np.arange(n), where]), *keys[::-1]))
    values = np.concatenate([stream.values, np.zeros((len(where), 3))])[order]
    gap = np.concatenate([stream.gap, np.zeros(len(where))])[order]
    slot = np.concatenate([np.full(n, -1), column])[order]
    length = stream.length + np.bincount(stream.subject[where], minlength=len(stream.length))
    return SequenceArrays(stream.features, values, np.ones(values.shape, bool), gap, length), slot


class _Walk:
    """The particles of some patients, the longest stream first; rows are patient x particle, flattened."""

    def __init__(
        self, nets: Any, drawing: Drawing, static: StaticArrays, stream: SequenceArrays, subjects: np.ndarray,
        slot: np.ndarray, static_hole: np.ndarray, rng: Rng, particles: int = PARTICLES,
    ) -> None:  # fmt: skip
        self.nets, self.drawing, self.static, self.stream, self.slot = nets, drawing, static, stream, slot
        self.starts, self.length = stream.starts[subjects], stream.length[subjects]
        self.static_hole, self.n, self.p = static_hole, len(subjects), particles
        self.rng, self.draw = rng, rng.child("choice").numpy
        self.log_weight = np.zeros((self.n, particles))

    def go(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Statics and their marks [patient feature], and tokens [patient place 3], filled."""
        ids = self._statics()
        course = Course.begin(self.nets.stream, self.drawing, ids, self._origins(ids), self.rng.child("streams"))
        facts, alive, trail = self.drawing.codec.facts, self.n, []
        allowed = self._allowed(facts)
        for k in range(int(self.length.max(initial=0))):
            alive = int((self.length > k).sum())
            course.keep(alive * self.p)
            own = np.repeat(np.arange(alive), self.p)
            found, weight = self._token(course, k, own, allowed)
            self.log_weight[:alive] += weight.reshape(alive, self.p)
            source = self._renew(alive)
            course.pick(torch.from_numpy(source))
            trail.append((found, source))
        row = np.arange(self.n) * self.p + one_of(self.log_weight, self.draw)
        out = np.zeros((self.n, len(trail), 3))
        for k in range(len(trail) - 1, -1, -1):
            found, source = trail[k]
            alive = len(source) // self.p
            row[:alive] = source[row[:alive]]
            out[:alive, k] = found[row[:alive]]
        drawn = self.drawing.statics.draw(ids[row].numpy(), self.static.features, self.rng.child("statics").numpy)
        hole = self.static_hole & drawn.observed
        values = np.where(hole, drawn.values, self.static.values)
        return values, self.static.observed | hole, out

    def _origins(self, ids: torch.Tensor) -> np.ndarray:
        return np.repeat(self.drawing.codec.origins(self.static), self.p)

    def _statics(self) -> torch.Tensor:
        """Ids of statics and length, holes drawn [row feature]; the weight of what is known."""
        net, stream = self.nets.statics, self.rng.child("ids").torch
        ids = torch.from_numpy(self.drawing.statics.ids(self.static, self.length)).repeat_interleave(self.p, 0)
        hole = torch.from_numpy(np.pad(self.static_hole, ((0, 0), (0, 1)))).repeat_interleave(self.p, 0)
        past, weight = torch.zeros(len(ids), net.place.shape[1]), torch.zeros(len(ids))
        for j, embed in enumerate(net.embed):
            log_p = net.log_p(j, past, ids)
            if hole[:, j].any() and log_p.shape[1] > 1:
                there = log_p.clone()
                there[:, 0] = float("-inf")  # id 0 is missing
                drawn = torch.multinomial(there.softmax(-1), 1, generator=stream)[:, 0]
                ids[:, j] = torch.where(hole[:, j], drawn, ids[:, j])
                weight = weight + torch.where(hole[:, j], there.logsumexp(-1), 0.0)
            weight = weight + torch.where(hole[:, j], 0.0, log_p.gather(-1, ids[:, j : j + 1])[:, 0])
            past = past + embed(ids[:, j])
        self.log_weight += weight.double().numpy().reshape(self.n, self.p)
        return ids[torch.from_numpy(self._renew(self.n))]

    def _allowed(self, facts: dict[str, np.ndarray]) -> torch.Tensor:
        """Tokens of each column of the visits [column token]."""
        columns = np.arange(max(int(facts["column"].max(initial=-1)) + 1, 1))[:, None]
        levels = np.array([token.level != 0 for token in self.drawing.codec.tokens])
        return torch.from_numpy((facts["column"] == columns) & (facts["table"] == 0) & ~facts["row"] & levels)

    def _token(self, course: Course, k: int, own: np.ndarray, allowed: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Token k of every particle: (id, state and score of its value), log-weight."""
        at = self.starts[own] + k
        entry, gap, slot = self.stream.values[at], self.stream.gap[at], self.slot[at]
        token, kind, score = entry[:, 0].astype(np.int64), entry[:, 1].astype(np.int64), entry[:, 2].copy()
        h, logits = course.token_law(self.length[own] - k)
        log_p, drawn = logits.log_softmax(-1), slot >= 0
        weight = log_p.gather(-1, torch.from_numpy(token)[:, None])[:, 0]
        if drawn.any():
            rows = torch.from_numpy(np.flatnonzero(drawn))
            mine = allowed[torch.from_numpy(slot[drawn])]
            inside = log_p[rows].clamp(min=2 * IMPOSSIBLE).masked_fill(~mine, float("-inf"))
            token[drawn] = torch.multinomial(inside.softmax(-1), 1, generator=course.stream)[:, 0].numpy()
            weight[rows] = inside.logsumexp(-1)
        weight = weight.clamp(min=IMPOSSIBLE).double().numpy()
        facts, state, gap_class = self.drawing.codec.facts, course.state, course.gap_class(token, gap)
        at = np.flatnonzero(facts["timed"][token])
        if len(at):
            found = course.net.gap_logits(h[at], torch.from_numpy(token[at])).log_softmax(-1)
            found = found.gather(-1, torch.from_numpy(gap_class[at])[:, None])[:, 0]
            weight[at] += found.clamp(min=IMPOSSIBLE).double().numpy()
        at = np.flatnonzero(facts["number"][token])
        if len(at):
            law, middle, width = course.value_law(h, at, token, gap_class, gap)
            last, known, open_ = state.score[at, token[at]], state.known[at, token[at]], drawn[at]
            again = known & (score[at] == last) & (kind[at] != NONE)  # what filled a hole may be the last one now
            found = np.where(kind[at] == NONE, 0, np.where(again, AGAIN, 2 + classes_of(score[at], N_CLASSES)))
            fit = law.log_softmax(-1).gather(-1, torch.from_numpy(found)[:, None])[:, 0].double().numpy()
            weight[at] += np.where(open_, 0.0, np.maximum(fit, IMPOSSIBLE))
            if open_.any():
                made = torch.multinomial(law[torch.from_numpy(open_)].softmax(-1), 1, generator=course.stream)
                found[open_] = made[:, 0].numpy()
                near = middle[open_], width[open_]
                fresh = scores_near(np.maximum(found[open_] - 2, 0), N_CLASSES, *near, self.draw)
                score[at[open_]] = np.where(found[open_] == AGAIN, last[open_], np.where(found[open_] > 1, fresh, 0.0))
            kind[at] = np.where(found == AGAIN, SAME, np.where(found > AGAIN, NUMBER, NONE))
        course.take(token, gap_class, gap, kind, score)
        return np.column_stack([token, kind, score]), weight

    def _renew(self, alive: int) -> np.ndarray:
        """Rows of the first patients, drawn anew where weights have become uneven."""
        own = self.log_weight[:alive]
        share = np.exp(own - own.max(1, keepdims=True))
        uneven = share.sum(1) ** 2 / (share**2).sum(1) < self.p / 2
        source = renewed(own, uneven, self.draw) if uneven.any() else np.arange(alive * self.p)
        own[uneven] = 0.0
        return source
