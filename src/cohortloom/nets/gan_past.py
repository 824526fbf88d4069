"""What a row of a course knows of the rows before it.

    previous row: marks, ids        last recorded value of every column, is there one?        mean of the numbers so far
    rows since the last recorded value, log (1 + .) / 2
    time: passed since the first row; room, what would be left of the longest span after the rows to come; rows to come
    statics

For whole courses at once (`past_of`, in training), or row by row while a course is drawn (`Memory`); a test says that
both are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cohortloom.nets.gan_rows import Rows

__all__ = ["Clock", "Memory", "Past", "n_facts", "past_of"]

#: Facts of time.
N_TIME = 6


@dataclass(frozen=True)
class Past:
    """Of some rows.

    Args:
        facts: [... fact].
        last: Last recorded value of each column, 0 where none [... column].
        has: Is there one? [... column]
    """

    facts: Tensor
    last: Tensor
    has: Tensor

    def at(self, index: Tensor) -> Past:
        return Past(self.facts[index], self.last[index], self.has[index])


class Clock(nn.Module):
    """Time within a course; the first column of a row is the score of the gap before it.

    Args:
        gaps: Gap of scores evenly spaced between -6 and 6 [d].
        usual: Median gap [d].
        longest: Longest span of a course [d].
    """

    def __init__(self, gaps: Sequence[float], usual: float, longest: float) -> None:
        super().__init__()
        self.usual, self.longest = usual, longest
        self.register_buffer("gaps", torch.tensor(gaps), persistent=False)

    def days(self, score: Tensor) -> Tensor:
        """Gap of each score [d]."""
        place = (score.clamp(-6, 6) + 6) / 12 * (len(self.gaps) - 1)
        return self.gaps[place.round().long()]

    def facts(self, passed: Tensor, left: Tensor) -> Tensor:
        """Of rows before which so much time has passed [...] and behind which so many are to come [... N_TIME]."""
        room = self.longest - passed - left * self.usual
        parts = [passed / self.longest, torch.log1p(passed / self.usual) / 3, (room / self.longest).clamp(-2, 2)]
        parts += [torch.tanh(room / self.usual), torch.tanh(room / self.usual / 4), torch.log1p(left) / 3]
        return torch.stack(parts, -1)


def n_facts(rows: Rows, marks: Collection[int], statics: int) -> int:
    """Size of the facts of a row; `marks`: columns that say "repeat", `statics`: width of the statics."""
    return 2 * rows.width + len(rows.levels) - len(marks) + N_TIME + statics


def past_of(
    rows: Rows, step: Tensor, seen: Tensor, marks: Collection[int], clock: Clock, length: Tensor, statics: Tensor
) -> Past:  # fmt: skip
    """The past of every row of courses [subject step column] of that many rows in all [subject], with the statics."""
    t = torch.arange(step.shape[1])[None, :, None]
    step = torch.nan_to_num(step) * seen
    at = _later(torch.where(seen, t, -1).cummax(1).values if step.shape[1] else seen.long(), -1)
    has = at >= 0
    last = step.gather(1, at.clamp(min=0)) * has
    total, count = (_later(x.cumsum(1), 0) for x in (step, seen.to(step.dtype)))
    since = torch.where(has, t - at, 0)
    days = clock.days(step[..., 0])
    days[:, :1] = 0
    left = (length[:, None] - t[..., 0]).clamp(min=0)
    time = clock.facts(_later(days.cumsum(1), 0), left)
    facts = _facts(rows, _later(step, 0), _later(seen, 0), last, has, total, count, since, marks)
    return Past(torch.cat([facts, time, statics[:, None].expand(-1, step.shape[1], -1)], -1), last, has)


class Memory:
    """The past of courses that are being drawn, row by row.

    Args:
        rows: Columns of a row.
        marks: Columns that say "repeat".
        clock: Time.
        length: Rows of each course in all [course].
        statics: Dense statics [course width].
    """

    def __init__(self, rows: Rows, marks: Collection[int], clock: Clock, length: Tensor, statics: Tensor) -> None:
        self.rows, self.marks, self.clock, self.t = rows, marks, clock, 0
        zero = torch.zeros(len(length), len(rows.levels))
        self.state = [zero, zero.bool(), zero, zero.bool(), zero, zero, zero.long()]
        self.passed, self.length, self.statics = torch.zeros(len(length)), length, statics

    def past(self) -> Past:
        time = self.clock.facts(self.passed, (self.length - self.t).clamp(min=0))
        facts = torch.cat([_facts(self.rows, *self.state, self.marks), time, self.statics], -1)
        return Past(facts, self.state[2], self.state[3])

    def push(self, values: Tensor, seen: Tensor) -> None:
        """The next row [course column]."""
        values = torch.nan_to_num(values) * seen
        if self.t:
            self.passed = self.passed + self.clock.days(values[:, 0])
        self.t += 1
        _, _, last, has, total, count, since = self.state
        since = torch.where(seen, 1, torch.where(has, since + 1, 0))
        total, count = total + values, count + seen
        self.state = [values, seen, torch.where(seen, values, last), has | seen, total, count, since]

    def take(self, index: Tensor | slice) -> None:
        """Some of the courses, or some of them several times."""
        self.state = [x[index] for x in self.state]
        self.passed, self.length, self.statics = self.passed[index], self.length[index], self.statics[index]


def _later(x: Tensor, first: float) -> Tensor:
    """Each step of a course as it was one step before."""
    return torch.cat([torch.full_like(x[:, :1], first), x[:, :-1]], 1)


def _facts(
    rows: Rows, values: Tensor, seen: Tensor, last: Tensor, has: Tensor, total: Tensor, count: Tensor, since: Tensor,
    marks: Collection[int],
) -> Tensor:  # fmt: skip
    n, own = len(rows.numbers), [j for j in range(len(rows.levels)) if j not in marks]
    mean = (total / count.clamp(min=1))[..., rows.numbers]
    rhythm = torch.log1p(since[..., own].to(values.dtype)) / 2
    return torch.cat([rows(values, seen)[..., n:], rows(last, has), mean, rhythm], -1)
