"""Streams as the ids and plain features that `nets.event_transformer` reads.

    gap     0 none, then classes of shorter-than-none gaps, then classes of even width in log days
    value   0 none, 1 the last number of this token again, then 32 classes of equal share of the token's law

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

__all__ = ["AGAIN", "FEATURES", "N_VALUES", "Classes", "Past", "StaticClasses", "Streams", "features_of"]

N_CLASSES = 32
AGAIN = 1
N_VALUES = 2 + N_CLASSES
N_GAPS = 48
N_NEGATIVE = 4
#: Plain features of a position, see `features_of`.
FEATURES = 11


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


@dataclass(frozen=True)
class Past:
    """What a stream's past says of each token, before it is drawn [token].

    Args:
        score, known: Last number of the same token in this patient (normal score), and whether there is one.
        since: Time since then [d].
    """

    score: np.ndarray
    known: np.ndarray
    since: np.ndarray

    def columns(self, gap_class: np.ndarray) -> np.ndarray:
        """Inputs of the value head [token 6]."""
        return np.column_stack(
            [
                self.score, self.score**2 / 4, self.known, np.log1p(24 * np.maximum(self.since, 0)) * self.known,
                (self.since < 0.5) * self.known, gap_class == 0,
            ]
        )  # fmt: skip


@dataclass(frozen=True)
class Streams:
    """Encoded streams as ids, one token after the other.

    Args:
        static: Ids of statics and length [subject feature].
        token, gap, value: Ids [token].
        z: Normal score of the token's number, 0 without [token].
        plain: Plain features of the position that draws the token [token feature].
        past: Inputs of the value head [token 6].
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
        cls, codec: StreamCodec, statics: StaticClasses, gaps: tuple[GapClasses, GapClasses], data: Encoded
    ) -> Streams:
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
        past = _past(stream, token, state, z, time)
        row = np.where(facts["row"][token], token, -1)
        return cls(
            statics.ids(data.static, stream.length), token, gap, value, z,
            _plain(stream, time, visit, origin), past.columns(gap), _last_row(stream, row), _visits(stream, visit),
            stream.length,
        )  # fmt: skip


def _past(stream: SequenceArrays, token: np.ndarray, state: np.ndarray, z: np.ndarray, time: np.ndarray) -> Past:
    n = len(token)
    has = state != NONE
    order = np.lexsort((np.arange(n), token, stream.subject))
    new = np.ones(n, bool)
    new[1:] = (np.diff(token[order]) != 0) | (np.diff(stream.subject[order]) != 0)
    place = np.where(has[order], np.arange(n), -1)
    start = np.maximum.accumulate(np.where(new, np.arange(n), 0)) if n else place
    last = np.concatenate([[-1], np.maximum.accumulate(place)[:-1]]) if n else place
    known = last >= start
    source = order[np.maximum(last, 0)]
    score, since, seen = np.zeros(n), np.zeros(n), np.zeros(n, bool)
    score[order], seen[order] = np.where(known, z[source], 0.0), known
    since[order] = np.where(known, time[order] - time[source], 0.0)
    return Past(score, seen, since)


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
