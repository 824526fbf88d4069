"""The order in which codes of one moment are written down.

Rows with one time keep the order in which they were recorded: a panel prints creatinine before potassium, a list of
drugs starts with the one for the disease. Let P(a, b) be the number of moments at which code a stands before b. The
order is grown by taking, again and again, the code that fewest others still want before it (greedy feedback arc set):
exact where the recorded orders agree, near the best where they don't. With c the share of pairs in that order,

    s = max(0, 2 c - 1)

is the share of moments written in order; the others are written at random, so that pairs agree as often as recorded.

References:
    Eades, Lin, Smyth (1993). A fast and effective heuristic for the feedback arc set problem. Information Processing
    Letters 47.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Precedence", "moments"]

#: Moments looked at, and rows of one moment.
_MOMENTS, _ROWS = 20_000, 60


@dataclass(frozen=True)
class Precedence:
    """Order of the codes of one table.

    Args:
        rank: Place of each code in the order.
        share: Share of moments written in that order.
    """

    rank: tuple[int, ...] = ()
    share: float = 0.0

    @classmethod
    def fit(cls, moment: np.ndarray, code: np.ndarray, n_codes: int) -> Precedence:
        """Learn from rows in the order in which they were written.

        Args:
            moment: Number of the moment of each row (`moments`); rows of one moment stand together.
            code: Number of the code of each row, below `n_codes`; negative: not looked at.
            n_codes: Number of codes.
        """
        before = _pairs(moment[code >= 0], code[code >= 0], n_codes)
        rank = _greedy(before)
        total, agree = before.sum(), before[rank[:, None] < rank[None]].sum()
        return cls(tuple(rank.tolist()), float(max(0.0, 2 * agree / total - 1)) if total else 1.0)

    def arrange(self, moment: np.ndarray, code: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Sort key of rows within their moment: the code's place, or a random one where the moment is not in order."""
        if not len(code):
            return np.zeros(0)
        ordered = draw.random(int(moment.max()) + 1) < self.share
        _, group = np.unique(moment * len(self.rank) + code, return_inverse=True)  # rows of one code stay together
        shuffled = draw.random(int(group.max()) + 1) * len(self.rank)
        return np.where(ordered[moment], np.asarray(self.rank, float)[code], shuffled[group])


def moments(owner: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Number of the (step, time) of each row, in the order of both."""
    order = np.lexsort((time, owner))
    new = np.zeros(len(order), np.int64)
    new[1:] = (np.diff(owner[order]) != 0) | (np.diff(time[order]) != 0)
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new)
    return number


def _pairs(moment: np.ndarray, code: np.ndarray, n_codes: int) -> np.ndarray:
    """P(a, b): moments at which a stands before b."""
    before = np.zeros((n_codes, n_codes))
    if len(code) < 2:
        return before
    first = np.flatnonzero(np.concatenate([[True], moment[1:] != moment[:-1]]))
    if len(first) > _MOMENTS:
        end = first[_MOMENTS]
        moment, code = moment[:end], code[:end]
    for apart in range(1, _ROWS):  # once per row of the longest moment
        if apart >= len(code):
            break
        same = moment[apart:] == moment[:-apart]
        if not same.any():
            break
        np.add.at(before, (code[:-apart][same], code[apart:][same]), 1.0)
    np.fill_diagonal(before, 0.0)
    return before


def _greedy(before: np.ndarray) -> np.ndarray:
    """Place of each code; codes never seen together stand by how much of the rest they precede."""
    n = len(before)
    rank, left = np.zeros(n, np.int64), np.ones(n, bool)
    net = before - before.T  # > 0: a is rather before b
    against = np.maximum(-net, 0.0).sum(1)
    pull = net.sum(1) / np.maximum((before + before.T).sum(1), 1.0)
    for place in range(n):
        key = np.where(left, against - 1e-3 * pull, np.inf)
        chosen = int(np.argmin(key))
        rank[chosen], left[chosen] = place, False
        against = against - np.maximum(net[chosen], 0.0)
    return rank
