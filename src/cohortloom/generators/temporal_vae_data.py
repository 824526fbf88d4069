"""A cohort as `temporal-vae` sees it: cells of statics and visits, features of time, and what visits know of the past.

Cells and their coders are those of `columnar-ar` (`columnar_encoding.Alphabet`): tokens for spikes, verbatim repeats
and what is missing, a normal score for the rest, number of visits and time span among the statics. Features of time and
of the past come from the functions here both in training (all visits at once) and in drawing (visit by visit).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from cohortloom.codec.tensors import Encoded, SequenceArrays
from cohortloom.generators.cell_targets import Targets
from cohortloom.generators.cells import NOTHING, cells_of, raw_values
from cohortloom.generators.cells import Cells as Encodings
from cohortloom.generators.columnar_encoding import Alphabet, make_up
from cohortloom.nets.columnar import ColumnShape
from cohortloom.nets.history import signed_log
from cohortloom.nets.row_law import Before
from cohortloom.nets.visit_vae import Batch, Cells

__all__ = ["N_PAST", "Courses", "Frame", "Grid", "Past", "TimeScale", "gap_before", "persistence_of", "shapes_of"]

LIMIT = 6.0
HARMONICS = 2
EARLY = 4  # the first visits are often planned
#: Features of a visit that say nothing of what comes after it.
N_PAST = 6 + 2 * HARMONICS


@dataclass(frozen=True)
class TimeScale:
    """Units of the features of time.

    Args:
        usual: Median gap [d].
        longest: 99 % point of the visits' distance from the origin [d].
        steps: Longest course [visit].
    """

    usual: float
    longest: float
    steps: int

    def clock(self, position: np.ndarray, n: np.ndarray, time: np.ndarray, gap: np.ndarray, ends: np.ndarray):
        """What is known before a gap: visits so far and left, time and last gap, time left to each end and the pace
        that would fill it."""
        left = n - position
        parts = [np.log1p(position), position / self.steps, np.log1p(left), left / self.steps, left <= 1]
        parts += [position == k for k in range(EARLY)]
        parts += [time / self.longest, signed_log(time / self.usual) / 2, signed_log(gap / self.usual)]
        for b in range(ends.shape[1]):
            rest = np.nan_to_num(np.maximum(ends[:, b] - time, 0.0))
            parts += [np.log1p(rest / self.usual), rest / self.longest, np.isnan(ends[:, b])]
            parts += [np.log(rest / np.maximum(left, 1) / self.usual + 0.01)]
        return _stack(parts)

    def field(self, position: np.ndarray, n: np.ndarray, time: np.ndarray, gap: np.ndarray, ends: np.ndarray):
        """What is known at a visit: its time, the gap before it, what is left."""
        left, phase = n - 1 - position, 2 * np.pi * time / self.longest
        parts = [np.log1p(position), position / self.steps, position == 0]
        parts += [time / self.longest, signed_log(time / self.usual) / 2, signed_log(gap / self.usual)]
        parts += [wave(k * phase) for k in range(1, HARMONICS + 1) for wave in (np.sin, np.cos)]
        parts += [np.log1p(left), left == 0]  # from here on what an encoder of a part of the course may not see
        for b in range(ends.shape[1]):
            rest = np.nan_to_num(np.maximum(ends[:, b] - time, 0.0))
            parts += [np.log1p(rest / self.usual), rest / self.longest, np.isnan(ends[:, b])]
        return _stack(parts)

    def widths(self, n_ends: int) -> tuple[int, int]:
        """Features of (clock, field)."""
        return 8 + EARLY + 4 * n_ends, 8 + 2 * HARMONICS + 3 * n_ends


def _stack(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.clip(np.stack(parts, 1), -LIMIT, LIMIT).astype(np.float32))


class Grid(Targets):
    """Cells of all rows."""

    def rows(self, index: Tensor, draw: torch.Generator | None) -> Cells:
        """Some rows; z is drawn within the interval of each value, anew every time, or (no `draw`) its middle."""
        return Cells(*self.at(index, draw))


@dataclass(frozen=True)
class Frame:
    """How patients of a cohort are written down.

    Args:
        alphabet: Coders of all columns; the span is the last static.
        scale: Units of time.
        pinned: The span is drawn with the statics and the last gap is what is left of it. Only where gaps make up for
            each other (a stay of 48 hours), else the last gap would gather the errors of all others.
    """

    alphabet: Alphabet
    scale: TimeScale
    pinned: bool

    @classmethod
    def of(cls, alphabet: Alphabet, encoded: Encoded) -> Frame:
        seq, spec = encoded.sequence, alphabet.spec
        steps = max(int(seq.length.max(initial=1)), 1) if seq is not None else 1
        scale = TimeScale(*((spec.usual_gap, spec.time_scale) if spec else (1.0, 1.0)), steps)
        return cls(alphabet, scale, alphabet.gap is not None and make_up(seq))

    @property
    def statics(self) -> list:
        """Coders of the statics."""
        a = self.alphabet
        return a.statics[:-1] if a.gap is not None and not self.pinned else a.statics

    @property
    def n_ends(self) -> int:
        """Known ends of a course: the last visit where pinned, ends of follow-up."""
        return len(self.alphabet.bounds) + self.pinned

    @property
    def n_told(self) -> int:
        """Statics that are columns of the cohort, not number of visits and span."""
        return self.alphabet.n_visits_at if self.alphabet.has_sequence else len(self.alphabet.statics)

    def static_cells(self, encoded: Encoded) -> Encodings:
        cells = self.alphabet.static_cells(encoded)
        return Encodings(*(part[:, : len(self.statics)] for part in vars(cells).values()))

    def ends(self, statics: Encodings, first_gap: np.ndarray) -> np.ndarray:
        """Known ends since the origin [d], subject x end, NaN where unknown."""
        return self.alphabet.bound_times(statics, first_gap) if self.pinned else self.alphabet.ends(statics.value)

    def to_json(self) -> dict:
        return {"alphabet": self.alphabet.to_json(), "scale": asdict(self.scale), "pinned": self.pinned}

    @classmethod
    def from_json(cls, content: dict) -> Frame:
        return cls(Alphabet.from_json(content["alphabet"]), TimeScale(**content["scale"]), content["pinned"])


def recorded_of(coders: list, token: np.ndarray) -> np.ndarray:
    """Which cells hold a value [row column]."""
    out = token >= 0
    for j, coder in enumerate(coders):
        if coder.kind == "number":
            out[:, j] &= token[:, j] != coder.missing_token
        elif 0 in coder.ids:
            out[:, j] &= token[:, j] != coder.ids.index(0)
    return out


def before_of(
    number: np.ndarray,
    previous: np.ndarray,
    last_token: np.ndarray,
    last_score: np.ndarray,
    total: np.ndarray,
    count: np.ndarray,
    absent: np.ndarray,
    since: np.ndarray,
    between: np.ndarray,
) -> Before:
    """`Before` of some rows from plain arrays [row column]; `number`: which columns are numbers [column].

    Args:
        previous: Tokens of the row before.
        last_token, last_score: Of the last recorded cell.
        total, count: Sum and number of the recorded scores.
        absent: Was it missing in the row before?
        since, between: Time since the last one, and between it and the one before it (0: none) [usual gaps].
    """  # fmt: skip
    has = count > 0
    token = np.where(number, previous, np.where(has, last_token, -1))
    due = has & (between > 0) & (np.abs(since - between) < 0.5)
    score = np.where(has & number, last_score, 0.0)
    mean = np.where(has & number, total / np.maximum(count, 1), 0.0)
    parts = (score, has, absent, due, np.where(has, since, 0.0), mean, count)
    found = [torch.from_numpy(p.astype(np.float32)) for p in parts]
    return Before(torch.from_numpy(token.astype(np.int64)), *found, torch.zeros_like(found[0]))


class Past:
    """The past of some patients while their visits are drawn. Times in usual gaps.

    Args:
        coders: Of the visit's columns.
        n: Patients.
    """

    def __init__(self, coders: list, n: int) -> None:
        shape = n, len(coders)
        self.coders, self.number = coders, np.array([c.kind == "number" for c in coders], bool)
        self.value, self.base = np.full(shape, np.nan), np.zeros(shape, np.float32)
        self.previous, self.last_token = np.full(shape, -1), np.full(shape, -1)
        self.score, self.when, self.between, self.total, self.count = (np.zeros(shape) for _ in range(5))
        self.absent = np.zeros(shape, bool)

    @property
    def has(self) -> np.ndarray:
        """Was the column ever recorded? [patient column]"""
        return self.count > 0

    def keep(self, rows: np.ndarray) -> None:
        for name, value in vars(self).items():
            if name not in ("coders", "number"):
                setattr(self, name, value[rows])

    def taken(self, rows: np.ndarray) -> Past:
        """The past of some patients."""
        out = Past(self.coders, 0)
        for name, value in vars(self).items():
            if name not in ("coders", "number"):
                setattr(out, name, value[rows])
        return out

    def write(self, rows: np.ndarray, cells: Encodings, time: np.ndarray, base: np.ndarray) -> None:
        """Append a visit of some patients."""
        part = self.taken(rows)
        part.update(cells, time, base)
        for name, value in vars(part).items():
            if name not in ("coders", "number"):
                whole = getattr(self, name).copy()
                whole[rows] = value
                setattr(self, name, whole)

    def update(self, cells: Encodings, time: np.ndarray, base: np.ndarray) -> None:
        """Append a visit of every patient; `base`: what the decoder said of its means."""
        seen = recorded_of(self.coders, cells.token)
        self.between = np.where(seen & self.has, time[:, None] - self.when, self.between)
        self.value = np.where(seen, cells.value, self.value)
        self.score, self.base = np.where(seen, cells.score, self.score), np.where(seen, base, self.base)
        self.when = np.where(seen, time[:, None], self.when)
        self.last_token, self.previous = np.where(seen, cells.token, self.last_token), cells.token
        self.total, self.count = self.total + np.where(seen, cells.score, 0.0), self.count + seen
        self.absent = ~seen

    def before(self, time: np.ndarray) -> Before:
        since = np.maximum(time[:, None] - self.when, 0.0)
        found = before_of(
            self.number,
            self.previous,
            self.last_token,
            self.score,
            self.total,
            self.count,
            self.absent,
            since,
            self.between,
        )
        found.base = torch.from_numpy(np.where(self.has & self.number, self.base, 0.0).astype(np.float32))
        return found


@dataclass
class Courses:
    """Patients as tensors, visits one patient after the other.

    Args:
        statics, visits, first_gap, gap: Cells.
        recorded: Which cells of the visits hold a value.
        total, count: Sum and number of the scores recorded before each visit [visit column].
        clock, field: Features of time.
        last, before_last: Visit in which the column was recorded last, and the time before; -1 for none.
        time: Since the origin [usual gaps].
        start, length: First visit and number of visits of each patient.
        number: Which columns of a visit are numbers.
        n_told: Statics that are columns of the cohort.
    """

    statics: Grid
    visits: Grid | None
    first_gap: Grid | None
    gap: Grid | None
    clock: Tensor
    field: Tensor
    last: Tensor
    before_last: Tensor
    time: Tensor
    start: Tensor
    length: Tensor
    position: Tensor
    recorded: Tensor
    total: Tensor
    count: Tensor
    number: np.ndarray
    n_told: int = 0

    @classmethod
    def of(cls, frame: Frame, encoded: Encoded) -> Courses:
        alphabet, scale = frame.alphabet, frame.scale
        statics = frame.static_cells(encoded)
        grid, seq = Grid.of(frame.statics, statics), encoded.sequence
        if seq is None or not len(seq.gap):
            n, widths = len(statics.value), scale.widths(frame.n_ends)
            none, zero = torch.zeros(0, 0), torch.zeros(n, dtype=torch.long)
            empty = torch.zeros(0, dtype=torch.long)
            return cls(grid, None, None, None, torch.zeros(0, widths[0]), torch.zeros(0, widths[1]), none.long(),
                       none.long(), none, zero, zero, empty, none.bool(), none, none, np.zeros(0, bool),
                       frame.n_told)  # fmt: skip
        coders, first = alphabet.columns, seq.position == 0
        cells = cells_of(coders, raw_values(seq), seq.subject, alphabet.gates)
        start = np.zeros(len(seq.length))
        start[seq.length > 0] = seq.gap[first]
        ends = frame.ends(statics, start)[seq.subject]
        last_gap = np.where(seq.position > 1, np.concatenate([[0.0], seq.gap[:-1]]), 0.0)
        n, position = seq.length[seq.subject].astype(float), seq.position.astype(float)
        before_first = first[:, None] & (np.arange(ends.shape[1]) == 0) & frame.pinned
        recorded = recorded_of(coders, cells.token)
        last, before_last = _last_rows(recorded, seq.starts, seq.subject)
        past = np.where(first, 0.0, seq.time - seq.gap)
        return cls(
            grid,
            Grid.of(coders, cells),
            cls._gaps(frame, seq, alphabet.first_gap, pinned=False),
            cls._gaps(frame, seq, alphabet.gap, pinned=frame.pinned),
            scale.clock(position, n, past, last_gap, np.where(before_first, np.nan, ends)),
            scale.field(position, n, seq.time, seq.gap, ends),
            torch.from_numpy(last),
            torch.from_numpy(before_last),
            torch.from_numpy(seq.time / scale.usual),
            torch.from_numpy(np.asarray(seq.starts, np.int64)),
            torch.from_numpy(seq.length.astype(np.int64)),
            torch.from_numpy(seq.position.astype(np.int64)),
            torch.from_numpy(recorded),
            _so_far(np.where(recorded, cells.score, 0.0), seq.starts, seq.subject),
            _so_far(recorded, seq.starts, seq.subject),
            np.array([c.kind == "number" for c in coders], bool),
            frame.n_told,
        )

    @classmethod
    def of_gaps(
        cls,
        frame: Frame,
        gap: np.ndarray,
        n_known: np.ndarray,
        position: np.ndarray,
        length: np.ndarray,
        statics: Encodings,
    ) -> Courses:
        """Only the gaps of the first `n_known` visits of patients with these statics and lengths."""  # fmt: skip
        n, scale = len(length), frame.scale
        owner = np.repeat(np.arange(n), n_known)
        seq = SequenceArrays((), np.zeros((len(gap), 0)), np.zeros((len(gap), 0), bool), gap, n_known)
        start = np.zeros(n)
        start[n_known > 0] = gap[position == 0]
        ends, first = frame.ends(statics, start)[owner], position == 0
        last_gap = np.where(position > 1, np.concatenate([[0.0], gap[:-1]]), 0.0)
        ends = np.where(first[:, None] & (np.arange(ends.shape[1]) == 0) & frame.pinned, np.nan, ends)
        visits = length[owner].astype(float)
        clock = scale.clock(position.astype(float), visits, np.where(first, 0.0, seq.time - gap), last_gap, ends)
        none, rows = torch.zeros(n, 0), torch.zeros(len(gap), 0)
        later = cls._gaps(frame, seq, frame.alphabet.gap, pinned=False)
        if later is not None and frame.pinned:
            later.token[torch.from_numpy(position == visits - 1)] = NOTHING
        empty = Grid(*[none] * 4, none)
        return cls(
            empty, Grid(*[rows] * 4, rows), cls._gaps(frame, seq, frame.alphabet.first_gap, pinned=False), later,
            clock, rows, rows.long(), rows.long(), torch.zeros(len(gap)),
            torch.from_numpy(np.cumsum(n_known) - n_known), torch.from_numpy(n_known), torch.from_numpy(position),
            rows.bool(), rows, rows, np.zeros(0, bool),
        )  # fmt: skip

    @staticmethod
    def _gaps(frame: Frame, seq: SequenceArrays, coder, *, pinned: bool) -> Grid | None:
        """Gaps of all visits in one column; a pinned last one follows from the span."""
        if coder is None:
            return None
        cells = cells_of([coder], frame.alphabet.in_units(seq.gap)[:, None], None)
        if pinned:
            cells.token[seq.position == np.repeat(seq.length, seq.length) - 1] = NOTHING
        return Grid.of([coder], cells)

    def batch(self, index: Tensor, draw: torch.Generator | None) -> Batch:
        """Some patients."""
        length = self.length[index]
        owner = torch.repeat_interleave(torch.arange(len(index)), length)
        local = torch.cumsum(length, 0) - length
        rows = self.start[index][owner] + torch.arange(len(owner)) - local[owner]
        statics = self.statics.rows(index, draw)
        if self.visits is None:
            empty = torch.zeros(0, dtype=torch.long)
            return Batch(statics, None, None, None, self.clock, self.field, empty, empty, None, None, empty, length)
        moved = (self.start[index] - local)[owner]
        last = self.last[rows].long()
        position = self.position[rows]
        return Batch(
            statics, self.visits.rows(rows, draw),
            None if self.first_gap is None else self.first_gap.rows(rows, draw),
            None if self.gap is None else self.gap.rows(rows, draw),
            self.clock[rows], self.field[rows], owner, position,
            self._before(rows, last), self._gap_before(rows, position),
            torch.where(last >= 0, last - moved[:, None], -1), length,
        )  # fmt: skip

    def _before(self, rows: Tensor, last: Tensor) -> Before:
        at = last.clamp(min=0)
        earlier = self.before_last[rows].long()
        time = self.time[rows][:, None]
        since = (time - self.time[at]).numpy()
        between = torch.where(earlier >= 0, self.time[at] - self.time[earlier.clamp(min=0)], 0.0).numpy()
        row_before = (rows - 1).clamp(min=0)
        return before_of(
            self.number, self.visits.token[row_before].numpy(), self.visits.token.gather(0, at).numpy(),
            self.visits.score.gather(0, at).numpy(), self.total[rows].numpy(), self.count[rows].numpy(),
            ~self.recorded[row_before].numpy(), since, between,
        )  # fmt: skip

    def before(self, rows: Tensor) -> Before:
        """What some later visits know of those before them, `base` left out."""
        return self._before(rows, self.last[rows].long())

    def impossible(self, cost: float = 30.0) -> np.ndarray:
        """- cost for every cell with a level that was never seen in training [subject]."""
        out = -cost * (self.statics.token[:, : self.n_told] == NOTHING).sum(1).double().numpy()
        if self.visits is not None:
            owner = np.repeat(np.arange(len(self.length)), self.length.numpy())
            each = (self.visits.token == NOTHING).sum(1).double().numpy()
            out -= cost * np.bincount(owner, weights=each, minlength=len(self.length))
        return out

    def _gap_before(self, rows: Tensor, position: Tensor) -> Before | None:
        if self.gap is None:
            return None
        return gap_before(
            self.gap.token[(rows - 1).clamp(min=0), 0], self.gap.score[(rows - 1).clamp(min=0), 0], position
        )


def gap_before(token: Tensor, score: Tensor, position: Tensor) -> Before:
    """What a gap knows of the one before it; there is none before the second."""
    has = (position > 1)[:, None]
    one = has.float()
    return Before(
        torch.where(has, token[:, None], -1), score[:, None] * one, one, 0 * one, 0 * one, one, 0 * one, one, 0 * one
    )


def _last_rows(recorded: np.ndarray, starts: np.ndarray, subject: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row of the last recorded cell before each row and of the one before that, -1 for none [row column]."""
    n = len(recorded)
    row = np.where(recorded, np.arange(n, dtype=np.int32)[:, None], np.int32(-1))
    upto = np.maximum.accumulate(row, 0)
    last = np.concatenate([np.full((1, row.shape[1]), -1, np.int32), upto[:-1]])
    first = starts[subject].astype(np.int32)[:, None]
    last = np.where(last >= first, last, np.int32(-1))
    earlier = np.take_along_axis(last, np.maximum(last, 0), 0)
    return last, np.where(last >= 0, earlier, np.int32(-1)).astype(np.int32)


def _so_far(value: np.ndarray, starts: np.ndarray, subject: np.ndarray) -> Tensor:
    """Sum over a patient's earlier rows [row column]."""
    upto = np.concatenate([np.zeros((1, value.shape[1])), np.cumsum(value, 0, dtype=float)])
    return torch.from_numpy((upto[:-1] - upto[starts[subject]]).astype(np.float32))


def persistence_of(courses: Courses) -> list[float]:
    """Correlation of each number with its last recorded value [column]; 0.5 where hardly known."""
    out = []
    if courses.visits is None:
        return out
    score = courses.visits.score.numpy()
    for j in range(score.shape[1]):
        here = np.flatnonzero((courses.last[:, j] >= 0).numpy() & courses.recorded[:, j].numpy())
        x, y = score[here, j], score[courses.last[here, j].numpy(), j]
        fine = len(here) > 10 and x.std() > 1e-6 and y.std() > 1e-6
        out.append(float(np.corrcoef(x, y)[0, 1]) * min(1.0, len(here) / 50) if fine else 0.3)
    return out


def shapes_of(frame: Frame, courses: Courses) -> dict[str, list[ColumnShape]]:
    """Columns of each law with the shares of their tokens."""
    alphabet, out = frame.alphabet, {"statics": _shapes(frame.statics, courses.statics.token)}
    if courses.visits is None:
        return out
    first = courses.position == 0
    if courses.first_gap is not None:
        out["first_gap"] = _shapes([alphabet.first_gap], courses.first_gap.token[first])
    out["first"] = _shapes(alphabet.columns, courses.visits.token[first])
    if bool((~first).any()):
        if courses.gap is not None:
            out["gap"] = _shapes([alphabet.gap], courses.gap.token[~first])
        out["later"] = _shapes(alphabet.columns, courses.visits.token[~first])
    return out


def _shapes(coders: list, token: Tensor) -> list[ColumnShape]:
    out = []
    for j, coder in enumerate(coders):
        part = token[:, j].numpy()
        count = np.bincount(part[part >= 0], minlength=coder.n_tokens)
        share = (count + 0.1) / (count.sum() + 0.1 * coder.n_tokens)
        repeat = coder.repeat_token if coder.kind == "number" and coder.repeat else -1
        out.append(
            ColumnShape(coder.kind, coder.n_tokens, tuple(coder.allowed.tolist()), tuple(share.tolist()), repeat)
        )
    return out
