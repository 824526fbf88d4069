"""Levels that stand beside a code: the route and frequency of a drug.

The level l of column c in a row with code a and other cells b_1, b_2, ... (the number of the row, if it takes few
values; columns before c) is drawn from

    log share(l | a) + sum over j of lift_j(b_j, l)        lift(b, l) = log((n_bl + 1) / (E_bl + 1))

with counts of rows; a pair never seen where chance would give five rows is never drawn, so one dose a day is never
"twice daily". A row keeps the level of the patient's last row of the same code with probability `same` (beyond what
chance gives) unless the number of the row changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortloom.codec.laws import CellLaw, Repeats

__all__ = ["Beside", "distinct_of", "previous_row"]

_NEVER, _SURELY = -30.0, 5.0
_MOST_VALUES = 30


@dataclass(frozen=True)
class Beside:
    """Law of one column of levels. Make one with `fit`.

    Args:
        lifts: Other column -> its levels x levels of this one; "" is the number of the row.
        same: Probability of the level of the patient's last row of the code.
    """

    lifts: Mapping[str, np.ndarray]
    same: float

    @classmethod
    def fit(
        cls, ids: np.ndarray, others: Mapping[str, tuple[np.ndarray, int]], group: np.ndarray, n_levels: int
    ) -> Beside:
        """Learn from rows.

        Args:
            ids: Level of each row.
            others: Column -> level of each row, and number of levels.
            group: Patient and code of each row, as a number; rows in the order of time.
        """
        lifts = {}
        total = np.bincount(ids, minlength=n_levels).astype(float)
        for name, (other, n_other) in others.items():
            both = np.bincount(other * n_levels + ids, minlength=n_other * n_levels).reshape(n_other, n_levels)
            chance = both.sum(1, keepdims=True) * total[None] / max(len(ids), 1)
            lift = np.log((both + 1) / (chance + 1))
            lifts[name] = np.where((both == 0) & (chance >= _SURELY), _NEVER, lift)
        _, step = np.unique(group, return_inverse=True)
        every = np.ones(len(ids), bool)
        return cls(
            lifts, Repeats.fit(step.reshape(-1), ids.astype(float), every, levels=True).same if len(ids) else 0.0
        )

    def weights(self, others: Mapping[str, np.ndarray], at: np.ndarray) -> np.ndarray:
        """What the other cells of some rows add to the log shares: row x level, or one zero."""
        found = [lift[others[name][at]] for name, lift in self.lifts.items() if name in others]
        return sum(found) if found else np.zeros((1, 1))

    def draw(
        self, law: CellLaw, others: Mapping[str, np.ndarray], at: np.ndarray, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Level ids of some rows of one code."""
        if not sum(law.share):
            return np.zeros(len(at)), np.zeros(len(at), bool)
        share = np.asarray(law.share)
        levels = np.flatnonzero(share)
        add = self.weights(others, at)
        add = add[:, levels] if add.shape[1] > 1 else add
        like = np.log(share[levels])[None] + add
        like = like + draw.gumbel(size=(len(at), len(levels)))
        ids = levels[np.argmax(like, 1)]
        return ids.astype(float), ids > 0

    def to_json(self) -> list:
        return [{name: [lift.shape[0], np.round(lift, 2).tolist()] for name, lift in self.lifts.items()}, self.same]

    @classmethod
    def from_json(cls, state: list) -> Beside:
        lifts: dict[str, Any] = {name: np.asarray(lift, float).reshape(n, -1) for name, (n, lift) in state[0].items()}
        return cls(lifts, state[1])


def distinct_of(values: np.ndarray, subject: np.ndarray, k_min: int) -> tuple[float, ...]:
    """Values of a number that takes few of them (nine tenths of its rows); none for one that takes many."""
    known = np.isfinite(values)
    if not known.any():
        return ()
    distinct, index, count = np.unique(values[known], return_inverse=True, return_counts=True)
    holders = np.bincount(np.unique(np.stack([index.reshape(-1), subject[known]]), axis=1)[0], minlength=len(distinct))
    shared = np.flatnonzero(holders >= k_min)
    shared = shared[np.argsort(-count[shared], kind="stable")][:_MOST_VALUES]
    return tuple(np.sort(distinct[shared]).tolist()) if count[shared].sum() >= 0.9 * known.sum() else ()


def previous_row(group: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Row before of the same group, in the order of time; -1 for the first."""
    order = np.lexsort((np.arange(len(group)), time, group))
    before = np.full(len(group), -1)
    same = group[order][1:] == group[order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return before
