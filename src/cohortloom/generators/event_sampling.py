"""Drawing statics and streams from the event transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cohortloom.codec.stream import END, NONE, NUMBER, SAME, StreamCodec
from cohortloom.codec.tensors import Encoded, SequenceArrays, StaticArrays
from cohortloom.generators.event_encoding import (
    AGAIN,
    N_CLASSES,
    GapClasses,
    Past,
    StaticClasses,
    classes_of,
    features_of,
    scores_near,
)
from cohortloom.nets.event_transformer import Cache, EventTransformer, StaticNet, recency
from cohortloom.rng import Rng

__all__ = ["Course", "Drawing", "FirstVisit", "draw_rest", "draw_statics", "draw_streams"]

#: Candidates per patient where statics are fixed.
_CANDIDATES = 64
_CANDIDATES_OF_VISITS = 16


@dataclass(frozen=True)
class Drawing:
    """What drawing needs beside the networks.

    Args:
        codec: Codec of the streams.
        statics: Classes of the statics and of the number of tokens.
        gaps: Classes of gaps before visits, and before other rows.
        common: Tokens whose last numbers every value is told.
    """

    codec: StreamCodec
    statics: StaticClasses
    gaps: tuple[GapClasses, GapClasses]
    common: np.ndarray


@dataclass(frozen=True)
class FirstVisit:
    """Columns of the first visit that are fixed.

    Args:
        column, token, score: Of each column that has a token for its value, in table order.
        closed: Places of columns that have none (they stay empty here and are written into the table later).
    """

    column: np.ndarray
    token: np.ndarray
    score: np.ndarray
    closed: np.ndarray

    @classmethod
    def of(cls, codec: StreamCodec, where: Mapping[str, float]) -> FirstVisit | None:
        table = codec.schema.visit_table
        mine = [path.partition(".")[2] for path in where if path.partition(".")[0] == table]
        if not mine:
            return None
        found = sorted(codec.first_visit(column, where[f"{table}.{column}"]) for column in mine)
        known = [one for one in found if one[1] != END]
        columns = [np.array([one[k] for one in known], dtype) for k, dtype in enumerate((int, int, float))]
        return cls(*columns, np.array([one[0] for one in found if one[1] == END], int))

    def next_one(self, state: _State, facts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Number of the fixed column that is due, -1 for none [patient]."""
        inside = facts["visit"][state.row] & (state.visits == 1)
        due = np.searchsorted(self.column, facts["column"][state.token], side="right")
        return np.where(inside & (due < len(self.column)), due, -1)

    def allowed(self, state: _State, facts: Mapping[str, np.ndarray]) -> torch.Tensor:
        """May a token come next, for the fixed columns' sake? [patient token]"""
        due = self.next_one(state, facts)
        inside = facts["visit"][state.row] & (state.visits == 1)
        cell = ~facts["row"] & (facts["table"] >= 0)
        column = np.where(due >= 0, self.column[due] if len(self.column) else 0, np.iinfo(int).max)[:, None]
        before = cell & (facts["column"] < column)
        token = np.where(due >= 0, self.token[due] if len(self.token) else -1, -1)[:, None]
        fine = np.where((due >= 0)[:, None], before | (np.arange(len(cell)) == token), True)
        closed = cell & np.isin(facts["column"], self.closed)
        return torch.from_numpy(np.where(inside[:, None], fine & ~closed, True))


def draw_statics(
    nets: Any, drawing: Drawing, n: int, context: Encoded | None, where: Mapping[str, float],
    first: FirstVisit | None, rng: Rng,
) -> tuple[StaticArrays, np.ndarray]:  # fmt: skip
    """Static arrays and numbers of tokens.

    Fixed values hold exactly; the others are drawn given them by resampling candidates in proportion to how likely they
    make the fixed ones. For the first visit that is one draw of what comes before them.
    """
    features, classes, net = drawing.codec.static_features, drawing.statics, nets.statics
    stream, draw = rng.child("ids").torch, rng.child("values").numpy
    place = {f.name: j for j, f in enumerate(features)}
    least = 0 if first is None else 1 + len(drawing.codec.cells[drawing.codec.schema.visit_table or ""])
    if context is not None and context.static is not None:
        known = torch.from_numpy(classes.ids(context.static, np.ones(n, np.int64))[:, :-1])
        ids = _lengths_given(net, known, stream).numpy()
        return context.static, np.maximum(classes.draw_length(ids, draw), least)
    mine = {name: value for name, value in where.items() if name in place}
    fixed = {place[name]: classes.id_of(place[name], value) for name, value in mine.items()}
    many = _CANDIDATES if fixed else 1
    many = many if first is None else _CANDIDATES_OF_VISITS
    ids, weight = net.sample(n * many, fixed, stream, not_empty=first is not None)
    if first is not None and n:
        static = classes.draw(ids.numpy(), features, rng.child("candidates").numpy)
        weight = weight + first_visit_weight(nets.stream, drawing, ids, static, first, rng.child("candidates"))
    if many > 1 and n:
        share = weight.view(n, many).softmax(-1)
        chosen = torch.multinomial(share, 1, generator=stream)[:, 0]
        ids = ids.view(n, many, -1)[torch.arange(n), chosen]
    found = ids.numpy()
    static = classes.draw(found, features, draw)
    for name, value in mine.items():
        static.values[:, place[name]] = np.nan_to_num(value)
        static.observed[:, place[name]] = found[:, place[name]] > 0
    return static, np.maximum(classes.draw_length(found, draw), least)


def _lengths_given(net: StaticNet, known: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    past = torch.zeros(len(known), net.place.shape[1])
    for j, embed in enumerate(list(net.embed)[:-1]):
        past = past + embed(known[:, j])
    j = len(net.heads) - 1
    share = net.log_p(j, past, known).exp()
    length = torch.multinomial(share, 1, generator=stream) if len(known) else torch.zeros(0, 1, dtype=torch.long)
    return torch.cat([known, length], 1)


def draw_streams(
    net: EventTransformer, drawing: Drawing, ids: torch.Tensor, static: StaticArrays, length: np.ndarray, rng: Rng,
    first: FirstVisit | None = None,
) -> SequenceArrays:  # fmt: skip
    """One token after the other for all patients at once; patients whose stream is over leave the batch."""
    codec = drawing.codec
    starts = np.cumsum(length) - length
    total = int(length.sum())
    values, gaps = np.zeros((total, 3)), np.zeros(total)
    on = np.flatnonzero(length > 0)
    order = on[np.argsort(-length[on], kind="stable")]  # the longest first: those who leave stand at the end
    course = Course.begin(net, drawing, ids[order], codec.origins(static)[order], rng)
    for k in range(int(length.max(initial=0))):
        alive = int((length[order] > k).sum())
        course.keep(alive)
        rows = order[:alive]
        token, kind, score, gap = course.step(length[rows] - k, first)
        at = starts[rows] + k
        values[at], gaps[at] = np.column_stack([token, kind, score]), gap
    seen = np.ones(values.shape, bool)
    return SequenceArrays(codec.sequence_features, values, seen, gaps, length.astype(np.int64))


def draw_rest(
    nets: Any, drawing: Drawing, static: StaticArrays, stream: SequenceArrays, until: np.ndarray, rng: Rng
) -> SequenceArrays:
    """Streams and what comes after them.

    The number of tokens is drawn given that it is not below what is there; the first new token takes time, for the
    stream says that nothing happened until its end.

    Args:
        nets: Statics and stream networks.
        drawing: Codec and classes.
        static: Statics.
        stream: Streams so far.
        until: Time since the origin at which a stream may stop [d].
        rng: Stream of the draw.
    """
    n, had = len(stream.length), stream.length
    known = torch.from_numpy(drawing.statics.ids(static, had))
    total = _longer(nets.statics, drawing, known[:, :-1], had, rng.child("length"))
    parts: list[list[np.ndarray]] = []
    for size in np.unique(had):  # those with as many tokens go together
        rows = np.flatnonzero(had == size)
        past = stream.take(rows)
        course = Course.begin(
            nets.stream, drawing, known[rows], drawing.codec.origins(static.take(rows)), rng.child(int(size))
        )
        values, gap = past.values.reshape(len(rows), size, 3), past.gap.reshape(len(rows), size)
        for k in range(size):
            token, kind = values[:, k, 0].astype(np.int64), values[:, k, 1].astype(np.int64)
            course.read(total[rows] - k, token, kind, values[:, k, 2], gap[:, k])
        made, alive = [], total[rows] > size
        k = int(size)
        while alive.any():
            token, kind, score, wait = course.step(np.maximum(total[rows] - k, 1), later=k == size)
            alive = alive & (total[rows] > k)
            made.append([np.flatnonzero(alive), np.column_stack([token, kind, score])[alive], wait[alive]])
            k += 1
            alive = alive & (total[rows] > k) & (course.state.now <= until[rows])
        order = [np.column_stack([rows[who], np.full(len(who), size + j)]) for j, (who, _, _) in enumerate(made)]
        if order:
            parts.append([np.concatenate(order), *(np.concatenate([m[c] for m in made]) for c in (1, 2))])
    there = np.column_stack([stream.subject, stream.position])
    keys = np.concatenate([there, *(p[0] for p in parts)])
    values = np.concatenate([stream.values, *(p[1] for p in parts)])
    gaps = np.concatenate([stream.gap, *(p[2] for p in parts)])
    at = np.lexsort((keys[:, 1], keys[:, 0]))
    length = np.bincount(keys[:, 0].astype(int), minlength=n).astype(np.int64)
    seen = np.ones(values.shape, bool)
    return SequenceArrays(drawing.codec.sequence_features, values[at], seen, gaps[at], length)


def _longer(net: StaticNet, drawing: Drawing, known: torch.Tensor, had: np.ndarray, rng: Rng) -> np.ndarray:
    """Numbers of tokens given statics and that they are not below `had` (`had` itself where no draw reaches it)."""
    out, open_ = had.copy(), np.ones(len(had), bool)
    draw, stream = rng.numpy, rng.torch
    for _ in range(200):
        rows = np.flatnonzero(open_)
        if not len(rows):
            break
        found = drawing.statics.draw_length(_lengths_given(net, known[rows], stream).numpy(), draw)
        fine = found >= had[rows]
        out[rows[fine]] = found[fine]
        open_[rows[fine]] = False
    return out


def first_visit_weight(
    net: EventTransformer, drawing: Drawing, ids: torch.Tensor, static: StaticArrays, first: FirstVisit, rng: Rng
) -> torch.Tensor:
    """Log probability of the fixed columns in one draw of each patient's first visit [patient]."""
    length = np.maximum(drawing.statics.draw_length(ids.numpy(), rng.child("length").numpy), 1)
    course = Course.begin(net, drawing, ids, drawing.codec.origins(static), rng)
    most = 1 + int(first.column.max(initial=-1) + 1)
    for k in range(most + 4):  # a few rows may stand before the first visit
        course.step(np.maximum(length - k, 1), first)
    return course.weight


@dataclass
class Course:
    """Streams under way."""

    net: EventTransformer
    drawing: Drawing
    patient: torch.Tensor
    cache: Cache
    state: _State
    stream: torch.Generator
    draw: np.random.Generator
    weight: torch.Tensor
    plain: np.ndarray
    place: int = 0

    @classmethod
    def begin(cls, net: EventTransformer, drawing: Drawing, ids: torch.Tensor, origin: np.ndarray, rng: Rng) -> Course:
        n = len(ids)
        patient = net.patient(ids[:, :-1]) if n else torch.zeros(0, net.sizes.width)
        state = _State.begin(n, net.sizes.tokens, origin, drawing.statics.plain(ids.numpy()))
        return cls(net, drawing, patient, net.cache(n), state, rng.child("net").torch, rng.child("values").numpy,
                   torch.zeros(n), np.zeros((n, 0)))  # fmt: skip

    def keep(self, n: int) -> None:
        if n < len(self.state.now):
            self.pick(torch.arange(n))

    def pick(self, rows: torch.Tensor) -> None:
        """Go on with some rows, in this order; one may come again."""
        self.cache.keep(rows)
        self.state, self.patient, self.weight = self.state.pick(rows), self.patient[rows], self.weight[rows]

    def _state_of(self, left: np.ndarray) -> torch.Tensor:
        """Read the last token; the state that draws the next one [patient width]."""
        state = self.state
        self.plain = plain = features_of(
            left, np.full(len(left), self.place), state.now - state.begun, state.origin + state.now, state.visits,
            np.where(state.visits > 0, state.now - state.visit_time, 0.0), state.rows,
        )  # fmt: skip
        x = self.net.inputs(
            torch.from_numpy(state.token[:, None]), torch.from_numpy(state.value[:, None]).float(),
            torch.from_numpy(state.gap[:, None]), torch.from_numpy(plain[:, None]).float(), self.patient,
        )  # fmt: skip
        return self.net.step(x, self.cache)[:, 0]

    def token_law(self, left: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the last token; the state, and logits of the next token [patient token]."""
        state, facts = self.state, self.drawing.codec.facts
        h = self._state_of(left)
        logits = self.net.token_logits(
            h,
            torch.from_numpy(state.row),
            torch.from_numpy(state.token),
            torch.from_numpy(left),
            recency(state.had, torch.from_numpy(state.visits)),
        )
        unready = torch.from_numpy(facts["needs_visit"]) & torch.from_numpy(state.visits == 0)[:, None]
        return h, logits.masked_fill(unready, float("-inf"))

    def value_law(self, h: torch.Tensor, at: np.ndarray, token: np.ndarray, gap_class: np.ndarray, gap: np.ndarray
                  ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:  # fmt: skip
        """Logits of the values of the tokens of some patients [at value], middle and width of their bells [at]."""
        state, facts, rows = self.state, self.drawing.codec.facts, (at, token[at])
        known = state.known[rows]
        since = np.where(known, state.now[at] + gap[at] - state.when[rows], 0.0)
        own = (state.score[rows], known, since, state.total[rows], state.count[rows], state.change[rows])
        past = Past(*own, state.score[np.ix_(at, self.drawing.common)])
        past = past.columns(gap_class[at], state.static[at], self.plain[at])
        logits, middle, width = self.net.value_law(
            h[at], torch.from_numpy(token[at]), torch.from_numpy(gap_class[at]), torch.from_numpy(past)
        )
        logits[:, AGAIN] = logits[:, AGAIN].masked_fill(torch.from_numpy(~known), float("-inf"))
        full = torch.from_numpy(facts["full"][token[at]])
        logits[:, 0] = logits[:, 0].masked_fill(full, float("-inf"))  # a cell that is there has its number
        return logits, middle.double().numpy(), width.double().numpy()

    def _draw_value(
        self, h: torch.Tensor, token: np.ndarray, gap_class: np.ndarray, gap: np.ndarray, told: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        """Scores and states of values, and the log probability of those that are `told` [patient]."""
        n = len(token)
        score, kind, weight = np.zeros(n), np.full(n, NONE), torch.zeros(n)
        at = np.flatnonzero(self.drawing.codec.facts["number"][token])
        if not len(at):
            return score, kind, weight
        logits, middle, width = self.value_law(h, at, token, gap_class, gap)
        found = _one_of(logits, self.stream)
        score[at] = scores_near(np.maximum(found - 2, 0), N_CLASSES, middle, width, self.draw)
        score[at] = np.where(found == AGAIN, self.state.score[at, token[at]], np.where(found > AGAIN, score[at], 0.0))
        kind[at] = np.where(found == AGAIN, SAME, np.where(found > AGAIN, NUMBER, NONE))
        known = np.isfinite(told[at])
        if known.any():
            classes = torch.from_numpy(2 + classes_of(told[at][known], N_CLASSES))
            weight[at[known]] = logits.log_softmax(-1)[known].gather(-1, classes[:, None])[:, 0]
            score[at[known]], kind[at[known]] = told[at][known], NUMBER
        return score, kind, weight

    def take(
        self, token: np.ndarray, gap_class: np.ndarray, gap: np.ndarray, kind: np.ndarray, score: np.ndarray
    ) -> None:
        """Go on with these tokens."""
        self.state.advance(self.drawing.codec, token, gap_class, gap, kind, score, first=self.place == 0)
        self.place += 1

    def gap_class(self, token: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """Class of the gap before each token."""
        before, rest = self.drawing.gaps
        return np.where(self.drawing.codec.facts["visit"][token], before.of(gap), rest.of(gap))

    def read(self, left: np.ndarray, token: np.ndarray, kind: np.ndarray, score: np.ndarray, gap: np.ndarray) -> None:
        """Take a token of each patient as it is."""
        self._state_of(left)
        self.take(token, self.gap_class(token, gap), gap, kind, score)

    def step(
        self, left: np.ndarray, first: FirstVisit | None = None, *, later: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draw a token of each patient: ids, states and scores of values, gaps [d].

        Args:
            left: Tokens to come [patient].
            first: What is fixed of the first visit.
            later: Must the token be a row that takes time?
        """
        net, state, facts = self.net, self.state, self.drawing.codec.facts
        h, logits = self.token_law(left)
        if later:
            logits = logits.masked_fill(~torch.from_numpy(facts["timed"]), float("-inf"))
            logits = _freed(logits, facts, left)
        due = np.full(len(left), -1)
        if first is not None:
            due = first.next_one(state, facts)
            narrowed = logits.masked_fill(~first.allowed(state, facts), float("-inf"))
            stuck = ~torch.isfinite(narrowed).any(-1)
            narrowed = torch.where(stuck[:, None], logits, narrowed)
            self.weight = self.weight + narrowed.logsumexp(-1) - logits.logsumexp(-1)
            logits = narrowed
        token = _one_of(logits, self.stream)
        gap_class, gap = _draw_gap(net, h, token, state, self.drawing, self.stream, self.draw, later)
        told = np.full(len(left), np.nan)
        if first is not None and len(first.column):
            here = (due >= 0) & (token == first.token[due])
            told = np.where(here, first.score[due], np.nan)
        score, kind, log_p = self._draw_value(h, token, gap_class, gap, told)
        self.weight = self.weight + log_p
        self.take(token, gap_class, gap, kind, score)
        return token, kind, score, gap


@dataclass
class _State:
    """Where each patient's stream stands; names as in `event_encoding`."""

    token: np.ndarray
    row: np.ndarray
    gap: np.ndarray
    value: np.ndarray
    now: np.ndarray
    begun: np.ndarray
    visit_time: np.ndarray
    visits: np.ndarray
    rows: np.ndarray
    origin: np.ndarray
    had: torch.Tensor
    score: np.ndarray
    known: np.ndarray
    when: np.ndarray
    total: np.ndarray
    count: np.ndarray
    change: np.ndarray
    static: np.ndarray

    @classmethod
    def begin(cls, n: int, tokens: int, origin: np.ndarray, static: np.ndarray) -> _State:
        whole, real = np.zeros(n, np.int64), np.zeros(n)  # replaced, never written into
        had = torch.zeros(n, tokens, dtype=torch.int32)
        return cls(
            whole, whole, whole, np.zeros((n, 3)), real, real, real, whole, whole, origin, had,
            np.zeros((n, tokens)), np.zeros((n, tokens), bool),
            *(np.zeros((n, tokens), kind) for kind in (float, np.float32, np.float32, np.float32)), static,
        )  # fmt: skip

    def pick(self, rows: torch.Tensor) -> _State:
        plain = rows.numpy()
        return _State(**{
            name: array[rows if torch.is_tensor(array) else plain] for name, array in self.__dict__.items()
        })  # fmt: skip

    def advance(
        self, codec: StreamCodec, token: np.ndarray, gap_class: np.ndarray, gap: np.ndarray, kind: np.ndarray,
        score: np.ndarray, *, first: bool,
    ) -> None:  # fmt: skip
        facts = codec.facts
        visit, n = facts["visit"][token], np.arange(len(token))
        self.now = self.now + gap
        if codec.clock and visit.any():
            hour = codec.hours(token, kind, score)
            day = np.floor(self.now - gap + 1e-9) + gap + np.where(np.isfinite(hour), hour, 12.0) / 24
            self.now = np.where(visit, day, self.now)
        if first:
            self.begun = self.now.copy()
        self.visit_time = np.where(visit, self.now, self.visit_time)
        self.visits = self.visits + visit
        self.rows = np.where(visit, 1, np.where(self.visits > 0, self.rows + 1, 0))
        self.row = np.where(facts["row"][token], token, self.row)
        self.token, self.gap = token, gap_class
        has = kind != NONE
        self.value = np.column_stack([score * has, has, kind == SAME]).astype(float)
        self.had[n, token] = torch.from_numpy(self.visits + 1).int()
        at = n[has], token[has]
        self.change[at] = np.where(self.known[at], score[has] - self.score[at], 0.0)
        self.score[at], self.when[at], self.known[at] = score[has], self.now[has], True
        self.total[at] += score[has]
        self.count[at] += 1


def _draw_gap(
    net: EventTransformer, h: torch.Tensor, token: np.ndarray, state: _State, drawing: Drawing,
    stream: torch.Generator, draw: np.random.Generator, always: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Classes and gaps [d], above 0 where `always` asks for it.

    A timed row that stands earlier in the order than the one before can't share its time.
    """
    facts = drawing.codec.facts
    found, gap = np.zeros(len(token), np.int64), np.zeros(len(token))
    at = np.flatnonzero(facts["timed"][token])
    if not len(at):
        return found, gap
    logits = net.gap_logits(h[at], torch.from_numpy(token[at]))
    visit = facts["visit"][token[at]]
    later = ~visit & facts["timed"][state.row[at]] & ~facts["visit"][state.row[at]] & (token[at] < state.row[at])
    later = later | always
    for kind, law in enumerate(drawing.gaps):
        mine = later & (visit == (kind == 0))
        if mine.any() and len(law) > law.positive:
            logits[torch.from_numpy(mine), : law.positive] = float("-inf")
    found[at] = _one_of(logits, stream)
    for kind, law in enumerate(drawing.gaps):
        mine = at[visit == (kind == 0)]
        gap[mine] = law.draw(found[mine], draw)
    return found, gap


def _freed(logits: torch.Tensor, facts: Mapping[str, np.ndarray], left: np.ndarray) -> torch.Tensor:
    """Where a past ends as no training row did, any timed row with room may come; else nothing more does."""
    stuck = torch.isneginf(logits).all(-1, keepdim=True)
    fits = torch.from_numpy(facts["timed"] & (facts["rest"] < left[:, None]))
    fits[:, END] = ~fits.any(-1)
    return logits.masked_fill(stuck & fits, 0.0)


def _one_of(logits: torch.Tensor, stream: torch.Generator) -> np.ndarray:
    """An id of each row, one uniform number a row (`torch.multinomial` draws one an entry)."""
    share = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    at = torch.rand(len(logits), 1, dtype=torch.float64, generator=stream) * share[:, -1:]
    return torch.searchsorted(share, at, right=True).clamp(max=logits.shape[-1] - 1)[:, 0].numpy()
