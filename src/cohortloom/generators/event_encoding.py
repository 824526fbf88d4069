"""Streams as the ids and plain features that `nets.event_transformer` reads.

    gap     0 none, then classes of shorter-than-none gaps, then classes of even width in log days
    value   0 none, 1 the last number of this token again, then 32 classes of equal share of the token's law

Of the past a value is told: the last number of its own token, the mean of those so far, the last change, how many and
how long ago, the last numbers of the commonest tokens, and the statics (`Past`). A ridge regression on these (`lines`)
says where a value starts from, so a small cohort need not find by gradients that a patient's values stay near each
other.

Gaps before visits have classes of their own. A class is drawn uniformly on its share of the training law, so decoded
gaps and numbers are as fine as recorded ones. Statics and the number of tokens of a stream are classes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortloom.codec.columns import EDGE, QuantileTransform
from cohortloom.codec.stream import NONE, NUMBER, SAME, StreamCodec
from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays, StaticArrays

__all__ = ["AGAIN", "FEATURES", "N_OWN", "N_VALUES", "Classes", "Past", "StaticClasses", "Streams", "common_numbers",
           "features_of", "lines", "scores_near", "static_lines"]  # fmt: skip

N_CLASSES = 32
AGAIN = 1
N_VALUES = 2 + N_CLASSES
N_GAPS = 48
N_NEGATIVE = 4
#: Plain features of a position, see `features_of`.
FEATURES = 11
#: Features of a token's own past numbers, see `Past.columns`; the third: is there one?
N_OWN = 9
#: Tokens whose last number every value is told, at most, and numbers kept for it in all.
N_COMMON, _MOST_KEPT = 32, 40_000_000
#: Levels of a static category that `StaticClasses.plain` tells apart.
_FEW = 8
#: Strength of the ridge of `lines`, in rows.
_RIDGE = 10.0


@dataclass(frozen=True)
class Classes:
    """Classes of numbers: edges and the share of the law below each.

    Args:
        edges: Lower edges of the classes, and the upper one of the last [class + 1].
        share: Share of the law below each edge [class + 1].
        law: Law of the numbers.
    """

    edges: np.ndarray
    share: np.ndarray
    law: QuantileTransform

    @classmethod
    def fit(cls, x: np.ndarray, n: int, k: int, subject: np.ndarray, *, log: bool) -> Classes:
        """Classes of equal width in log x (or of equal share) over what the law can give."""
        law = QuantileTransform.fit(x, k, subject=subject)
        low, high = law.ends
        inner = np.geomspace(low, high, n + 1)[1:-1] if log else law.quantile(np.arange(1, n) / n)
        edges = np.unique(inner[(inner > low) & (inner <= high)])
        ordered = np.sort(x)
        share = np.concatenate([[0.0], np.searchsorted(ordered, edges, side="left") / len(x), [1.0]])
        return cls(np.concatenate([[-np.inf], edges, [np.inf]]), share, law)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def of(self, x: np.ndarray) -> np.ndarray:
        """Class of each number."""
        return np.searchsorted(self.edges[1:-1], x, side="right")

    def draw(self, found: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """A number of each class."""
        low, high = self.share[found], self.share[found + 1]
        return self.law.quantile(low + draw.random(len(found)) * (high - low))

    def to_json(self) -> dict[str, Any]:
        return {"edges": self.edges[1:-1].tolist(), "share": self.share.tolist(), "law": self.law.to_json()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Classes:
        edges = np.concatenate([[-np.inf], state["edges"], [np.inf]])
        return cls(edges, np.array(state["share"]), QuantileTransform.from_json(state["law"]))


@dataclass(frozen=True)
class GapClasses:
    """Classes of gaps: 0 is no time at all, then gaps below it, then gaps above."""

    below: Classes | None
    above: Classes | None

    @classmethod
    def fit(cls, gap: np.ndarray, subject: np.ndarray, k: int) -> GapClasses:
        sides = []
        for sign, n in ((-1, N_NEGATIVE), (1, N_GAPS)):
            at = sign * gap > 0
            sides.append(Classes.fit(sign * gap[at], n, k, subject[at], log=True) if at.any() else None)
        return cls(*sides)

    def of(self, gap: np.ndarray) -> np.ndarray:
        found = np.zeros(len(gap), dtype=np.int64)
        start = 1
        for sign, side in ((-1, self.below), (1, self.above)):
            at = sign * gap > 0
            if side is not None:
                found[at] = start + side.of(sign * gap[at])
                start += len(side)
        return found

    def draw(self, found: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        gap = np.zeros(len(found))
        start = 1
        for sign, side in ((-1, self.below), (1, self.above)):
            if side is not None:
                at = (found >= start) & (found < start + len(side))
                gap[at] = sign * np.maximum(side.draw(found[at] - start, draw), 0.0)
                start += len(side)
        return gap

    @property
    def positive(self) -> int:
        """First class of gaps above 0."""
        return 1 + (len(self.below) if self.below else 0)

    def __len__(self) -> int:
        return self.positive + (len(self.above) if self.above else 0)

    def to_json(self) -> list[Any]:
        return [side.to_json() if side else None for side in (self.below, self.above)]

    @classmethod
    def from_json(cls, state: list[Any]) -> GapClasses:
        return cls(*(Classes.from_json(side) if side else None for side in state))


@dataclass(frozen=True)
class StaticClasses:
    """Static features and the number of tokens as ids; numbers: 0 missing, then classes of their normal score.

    Args:
        sizes: Ids of each feature, the number of tokens last.
        number: Is the feature a number?
        length: Classes of the numbers of tokens above 0.
        log_share: Log share of each id.
    """

    sizes: tuple[int, ...]
    number: tuple[bool, ...]
    length: Classes | None
    log_share: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(cls, static: StaticArrays, length: np.ndarray, k: int) -> StaticClasses:
        n = int(np.clip(len(length) // 8, 2, N_CLASSES))
        some = length > 0
        classes = None
        if some.any():
            classes = Classes.fit(length[some].astype(float), n, k, np.flatnonzero(some), log=False)
        number = tuple(f.kind == "number" for f in static.features)
        sizes = tuple(1 + n if num else len(f.levels) for num, f in zip(number, static.features))
        made = cls((*sizes, 1 + (len(classes) if classes else 0)), number, classes, ())
        ids = made.ids(static, length)
        shares = []
        for j, size in enumerate(made.sizes):
            count = np.bincount(ids[:, j], minlength=size)
            shares.append(tuple(np.where(count > 0, np.log(np.maximum(count, 1) / len(ids)), -12.0).tolist()))
        return cls(made.sizes, number, classes, tuple(shares))

    def ids(self, static: StaticArrays, length: np.ndarray) -> np.ndarray:
        """Ids [subject feature + 1]."""
        out = np.zeros((len(length), len(self.sizes)), dtype=np.int64)
        for j, number in enumerate(self.number):
            n = self.sizes[j] - 1
            found = 1 + classes_of(static.values[:, j], n) if number else static.values[:, j].astype(np.int64)
            out[:, j] = np.where(static.observed[:, j], found, 0)
        if self.length is not None:
            out[:, -1] = np.where(length > 0, 1 + self.length.of(length.astype(float)), 0)
        return out

    def id_of(self, j: int, value: float) -> int:
        """Id of one encoded value."""
        if not self.number[j]:
            return int(value)
        return 0 if np.isnan(value) else 1 + int(classes_of(np.array([value]), self.sizes[j] - 1)[0])

    def draw(self, ids: np.ndarray, features: tuple[Feature, ...], draw: np.random.Generator) -> StaticArrays:
        """Static arrays of drawn ids."""
        values, observed = np.zeros((len(ids), len(features))), np.zeros((len(ids), len(features)), bool)
        for j, number in enumerate(self.number):
            observed[:, j] = ids[:, j] > 0
            if number:
                values[:, j] = scores_of(np.maximum(ids[:, j] - 1, 0), self.sizes[j] - 1, draw)
            else:
                values[:, j] = ids[:, j]
        return StaticArrays(features, np.where(observed, values, 0.0), observed)

    def draw_length(self, ids: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Numbers of tokens."""
        if self.length is None:
            return np.zeros(len(ids), dtype=np.int64)
        n = np.round(self.length.draw(np.maximum(ids[:, -1] - 1, 0), draw)).astype(np.int64)
        return np.where(ids[:, -1] > 0, np.maximum(n, 1), 0)

    @property
    def tables(self) -> list[np.ndarray]:
        """What each id of each feature is in a regression: the middle of its class as a normal score; levels one by
        one where they are few [id column]."""
        from scipy.special import ndtri  # heavy

        made = []
        for number, size in zip((*self.number, True), self.sizes):
            if number:
                middle = (np.arange(size) - 0.5) / max(size - 1, 1)
                made.append(np.where(np.arange(size) > 0, ndtri(np.clip(middle, EDGE, 1 - EDGE)), 0.0)[:, None])
            else:
                made.append(np.eye(size)[:, 2:] if size <= _FEW else np.zeros((size, 0)))
        return [table.astype(np.float32) for table in made]

    def plain(self, ids: np.ndarray) -> np.ndarray:
        """Ids as a regression reads them [subject column]."""
        return np.concatenate([table[ids[:, j]] for j, table in enumerate(self.tables)], 1)

    @property
    def n_plain(self) -> int:
        return sum(table.shape[1] for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        length = self.length.to_json() if self.length else None
        return {"sizes": self.sizes, "number": self.number, "length": length, "log_share": self.log_share}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> StaticClasses:
        length = Classes.from_json(state["length"]) if state["length"] else None
        shares = tuple(tuple(x) for x in state["log_share"])
        return cls(tuple(state["sizes"]), tuple(state["number"]), length, shares)


def classes_of(z: np.ndarray, n: int) -> np.ndarray:
    """Class of a normal score among n of equal share."""
    from scipy.special import ndtr  # heavy

    return np.clip((ndtr(np.nan_to_num(z)) * n).astype(np.int64), 0, n - 1)


def scores_of(found: np.ndarray, n: int, draw: np.random.Generator) -> np.ndarray:
    """A normal score of each class."""
    from scipy.special import ndtri  # heavy

    return ndtri(np.clip((found + draw.random(len(found))) / n, EDGE, 1 - EDGE))


def scores_near(
    found: np.ndarray, n: int, mean: np.ndarray, scale: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """A normal score of each class among n of equal share, as Normal(mean, scale) lies within it."""
    from scipy.special import ndtr, ndtri  # heavy

    share = draw.random(len(found))
    low, high = (ndtr((ndtri((found + end) / n) - mean) / scale) for end in (0, 1))
    near = mean + scale * ndtri(np.clip(low + share * (high - low), 1e-300, 1 - 1e-16))
    flat = ndtri(np.clip((found + share) / n, EDGE, 1 - EDGE))
    fine = (high - low > 1e-9) & (np.abs(near) < -ndtri(EDGE))  # else the law is far from the class
    return np.where(fine, near, flat)


def common_numbers(token: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Ids of the tokens whose last numbers every value is told: those with most numbers."""
    count = np.bincount(token[has])
    most = min(N_COMMON, _MOST_KEPT // max(len(token), 1))
    return np.sort(np.argsort(-count, kind="stable")[:most][np.sort(-count)[:most] < 0])


@dataclass(frozen=True)
class Past:
    """What a stream's past says of each token, before it is drawn [token].

    Args:
        score, known: Last number of the same token in this patient (normal score), and whether there is one.
        since: Time since then [d].
        total, count: Sum of these numbers, and how many.
        change: Last number less the one before.
        others: Last numbers of the common tokens, 0 for none [token common].
    """

    score: np.ndarray
    known: np.ndarray
    since: np.ndarray
    total: np.ndarray
    count: np.ndarray
    change: np.ndarray
    others: np.ndarray

    def columns(self, gap_class: np.ndarray, static: np.ndarray, plain: np.ndarray) -> np.ndarray:
        """Inputs of the value head [token feature]: N_OWN of its own, others, statics, features of the position.

        The mean counts a further number, of 0.
        """
        own = [
            self.score, self.score**2 / 4, self.known, np.log1p(24 * np.maximum(self.since, 0)) * self.known,
            (self.since < 0.5) * self.known, gap_class == 0, self.total / (self.count + 1),
            self.count / (self.count + 2), self.change,
        ]  # fmt: skip
        return np.column_stack([*own, self.others, static, plain]).astype(np.float32)


@dataclass(frozen=True)
class Streams:
    """Encoded streams as ids, one token after the other.

    Args:
        static: Ids of statics and length [subject feature].
        token, gap, value: Ids [token].
        z: Normal score of the token's number, 0 without [token].
        plain: Plain features of the position that draws the token [token feature].
        past: Inputs of the value head [token feature].
        row: Token of the row the stream stands in when the token is drawn; 0 at the start [token].
        visits: Visits begun before the token [token].
        length: Tokens of each subject.
    """

    static: np.ndarray
    token: np.ndarray
    gap: np.ndarray
    value: np.ndarray
    z: np.ndarray
    plain: np.ndarray
    past: np.ndarray
    row: np.ndarray
    visits: np.ndarray
    length: np.ndarray

    @classmethod
    def of(
        cls, codec: StreamCodec, statics: StaticClasses, gaps: tuple[GapClasses, GapClasses], common: np.ndarray,
        data: Encoded,
    ) -> Streams:  # fmt: skip
        stream = data.sequence
        assert stream is not None and data.static is not None
        token, state = stream.values[:, 0].astype(np.int64), stream.values[:, 1].astype(np.int64)
        z = np.where(state == NONE, 0.0, stream.values[:, 2])
        facts = codec.facts
        visit = facts["visit"][token]
        gap = np.where(visit, gaps[0].of(stream.gap), gaps[1].of(stream.gap))
        value = np.where(state == NUMBER, 2 + classes_of(z, N_CLASSES), np.where(state == SAME, AGAIN, 0))
        time = codec.times(stream, token, codec.hours(token, state, z))
        origin = codec.origins(data.static)[stream.subject]
        past = _past(stream, token, state, z, time, common)
        row = np.where(facts["row"][token], token, -1)
        ids, plain = statics.ids(data.static, stream.length), _plain(stream, time, visit, origin)
        columns = past.columns(gap, statics.plain(ids)[stream.subject], plain)
        return cls(
            ids, token, gap, value, z, plain, columns, _last_row(stream, row), _visits(stream, visit), stream.length
        )


def _past(
    stream: SequenceArrays, token: np.ndarray, state: np.ndarray, z: np.ndarray, time: np.ndarray, common: np.ndarray
) -> Past:
    n = len(token)
    has = state != NONE
    order = np.lexsort((np.arange(n), token, stream.subject))  # each token of each patient by itself
    new = np.ones(n, bool)
    new[1:] = (np.diff(token[order]) != 0) | (np.diff(stream.subject[order]) != 0)
    start = np.maximum.accumulate(np.where(new, np.arange(n), 0))
    last = _last_at(has[order])
    known = last >= start
    source = np.maximum(last, 0)
    numbers = np.where(has, z, 0.0)[order]
    before = [np.concatenate([[0.0], np.cumsum(x)]) for x in (numbers, has[order])]
    total, count = (x[:-1] - x[start] for x in before)
    step = np.where(known, numbers - numbers[source], 0.0)  # from the number before
    parts = [numbers[source], known, time[order] - time[order][source], total, count, step[source]]
    own = []
    for part in parts:
        whole = np.zeros(n)
        whole[order] = np.where(known, part, 0.0)
        own.append(whole)
    others = np.zeros((n, len(common)), np.float32)
    for j, one in enumerate(common):
        last = _last_at(has & (token == one))
        others[:, j] = np.where(last >= stream.starts[stream.subject], z[np.maximum(last, 0)], 0.0)
    return Past(*own, others)


def _last_at(hit: np.ndarray) -> np.ndarray:
    """Place of the last hit before each place, -1 for none."""
    return np.maximum.accumulate(np.concatenate([[-1], np.where(hit, np.arange(len(hit)), -1)[:-1]]))[: len(hit)]


def lines(streams: Streams, n_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ridge regressions of the numbers of each token on its past, of a patient's first ones and of later ones.

    All tokens share a line on their own past; each adds what its rows say.

    Returns:
        Slopes [later token feature], offsets and log deviations of what is left [later token].
    """
    at = np.flatnonzero(streams.value > AGAIN)
    token, y, x = streams.token[at], streams.z[at], streams.past[at].astype(float)
    x[:, 1] = 0.0  # a square feeds on itself where a line doesn't
    x = np.column_stack([x, np.ones(len(at))])
    own = np.r_[:N_OWN, x.shape[1] - 1]
    line, spread = np.zeros((2, n_tokens, x.shape[1])), np.zeros((2, n_tokens))
    for later in (0, 1):
        rows = np.flatnonzero((x[:, 2] > 0) == later)
        line[later][:, own] = _ridge(x[np.ix_(rows, own)], y[rows])
        left = y[rows] - x[rows] @ line[later][0]
        usual = float(np.mean(left**2)) if len(rows) else 1.0
        spread[later] = np.log(max(usual, 0.01)) / 2
        order = np.argsort(token[rows], kind="stable")
        ends = np.flatnonzero(np.diff(token[rows][order])) + 1
        for mine in np.split(order, ends) if len(rows) else ():
            one, part = token[rows[mine[0]]], x[rows[mine]]
            slope = _ridge(part, left[mine])
            line[later][one] += slope
            wrong = float(np.sum((left[mine] - part @ slope) ** 2)) + _RIDGE * usual
            spread[later][one] = np.log(max(wrong / (len(mine) + _RIDGE), 0.01)) / 2
    return line[..., :-1], line[..., -1], spread


def static_lines(classes: StaticClasses, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ridge regression of each number on the features before it: slopes [feature column], offset and log deviation
    [feature], infinite for what is no number."""
    plain, end = classes.plain(ids).astype(float), np.cumsum([table.shape[1] for table in classes.tables])
    n = len(classes.sizes)
    slope, offset, spread = np.zeros((n, plain.shape[1])), np.zeros(n), np.full(n, np.inf)
    for j in np.flatnonzero((*classes.number, True)):
        rows = ids[:, j] > 0
        x = np.column_stack([plain[rows, : end[j] - 1], np.ones(rows.sum())])
        found = _ridge(x, plain[rows, end[j] - 1])
        wrong = np.sum((plain[rows, end[j] - 1] - x @ found) ** 2) + _RIDGE
        slope[j, : end[j] - 1], offset[j] = found[:-1], found[-1]
        spread[j] = np.log(max(wrong / (rows.sum() + _RIDGE), 0.01)) / 2
    return slope, offset, spread


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y)


def _plain(stream: SequenceArrays, time: np.ndarray, visit: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Features of the position before each token."""
    position, starts = stream.position, stream.starts[stream.subject]
    before = position > 0
    now = np.where(before, np.concatenate([[0.0], time[:-1]]), 0.0) if len(time) else time
    begun = np.where(len(time), time[starts], 0.0)
    n_visits = _visits(stream, visit)
    at = np.where(visit, np.arange(len(time)), -1)
    last = np.concatenate([[-1], np.maximum.accumulate(at)[:-1]]) if len(time) else at
    in_visit = before & (last >= starts)
    visit_time = np.where(in_visit, time[np.maximum(last, 0)], now) if len(time) else now
    rows = np.where(in_visit, np.arange(len(time)) - last, 0)
    left = np.repeat(stream.length, stream.length) - position
    return features_of(
        left, position, np.where(before, now - begun, 0.0), origin + now, n_visits, now - visit_time, rows
    )


def _visits(stream: SequenceArrays, visit: np.ndarray) -> np.ndarray:
    """Visits begun before each token."""
    total = np.concatenate([[0], np.cumsum(visit)])
    return total[np.arange(len(visit))] - total[stream.starts[stream.subject]]


def features_of(
    left: np.ndarray, position: np.ndarray, since_start: np.ndarray, now: np.ndarray, n_visits: np.ndarray,
    in_visit: np.ndarray, rows: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Plain features [position feature].

    Args:
        left: Tokens to come.
        position: Tokens behind.
        since_start: Time since the first token [d].
        now: Time [d], since 1970-01-01 for dated clocks; its fraction is the time of day.
        n_visits: Visits so far.
        in_visit: Time since the last visit began [d].
        rows: Tokens since then.
    """
    day = 2 * np.pi * (now % 1.0)
    week = 2 * np.pi * (now % 7.0) / 7
    return np.column_stack(
        [
            np.log1p(left) - 3, np.log1p(position) - 3, np.log1p(np.maximum(since_start, 0)) - 2, np.sin(day),
            np.cos(day), np.sin(week), np.cos(week), np.log1p(n_visits), np.log1p(24 * np.maximum(in_visit, 0)) - 2,
            np.log1p(rows) - 2, (left == 1),
        ]
    )  # fmt: skip


def _last_row(stream: SequenceArrays, row: np.ndarray) -> np.ndarray:
    """Row token in force before each token; 0 at the start."""
    n = len(row)
    at = np.where(row >= 0, np.arange(n), -1)
    last = np.concatenate([[-1], np.maximum.accumulate(at)[:-1]]) if n else at
    known = last >= stream.starts[stream.subject] if n else last >= 0
    return np.where(known, row[np.maximum(last, 0)], 0) if n else np.zeros(0, np.int64)
