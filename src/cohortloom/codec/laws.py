"""Laws of what folding leaves out: what stands beside a code, and what the other rows of a step said.

A step tells the last level of each column. Going back in time, a row has the level of the row after it with probability
`same`, else one drawn anew. Numbers follow `course`, times `times`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cohortloom.codec.cells import draw_levels
from cohortloom.codec.columns import QuantileTransform

__all__ = ["CellLaw", "Repeats", "quantiles", "remembered"]


@dataclass(frozen=True)
class CellLaw:
    """Law of one column that depends on the code only: shares of level ids, or numbers and the empty share."""

    share: tuple[float, ...] = ()
    empty: float = 0.0
    law: QuantileTransform | None = None

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        observed: np.ndarray,
        subject: np.ndarray,
        *,
        category: bool,
        k_min: int,
        usual: np.ndarray | None = None,
    ) -> CellLaw:
        """Learn from encoded cells; a level held by fewer than `k_min` patients beside this code is left out.

        Args:
            usual: Numbers many rows of the column hold, whatever the code: they come back exactly.
        """
        if category:
            ids, span = values.astype(np.int64), int(subject.max(initial=0)) + 1
            patients = np.bincount(np.unique(ids * span + subject) // span)
            rows = np.bincount(ids).astype(float)
            return cls(tuple(np.where(patients >= k_min, rows, 0.0)))
        empty = float(1 - observed.mean()) if len(observed) else 1.0
        return cls(empty=empty, law=quantiles(values[observed], k_min, subject[observed], usual))

    @property
    def known(self) -> bool:
        """Can anything be drawn?"""
        return sum(self.share) > 0 or self.law is not None

    def draw(self, n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Encoded cells and whether they hold a value."""
        if self.law is None:
            ids = draw_levels(self.share, n, draw) if sum(self.share) > 0 else np.zeros(n)
            return ids.astype(float), ids > 0
        values = self.law.quantile(draw.random(n))
        observed = (draw.random(n) >= self.empty) & np.isfinite(values)
        return np.nan_to_num(values), observed

    def to_json(self) -> dict[str, Any]:
        return {"share": list(self.share), "empty": self.empty, "law": self.law.to_json() if self.law else None}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> CellLaw:
        law = state["law"]
        return cls(tuple(state["share"]), state["empty"], QuantileTransform.from_json(law) if law else None)


@dataclass(frozen=True)
class Repeats:
    """Rows of a step beside its last one.

    Args:
        empty: Share of empty cells.
        same: Share of levels that are that of the next row.
        equal, alike: Of numbers at one moment (lines of one bill): share that are equal, rank correlation of the rest.
    """

    empty: float = 0.0
    same: float = 1.0
    equal: float = 1.0
    alike: float = 1.0

    @classmethod
    def fit(
        cls,
        step: np.ndarray,
        values: np.ndarray,
        observed: np.ndarray,
        *,
        levels: bool = False,
        moment: np.ndarray | None = None,
    ) -> Repeats:
        """Learn from the rows of one column (of one code), in the order of time within each step.

        Args:
            step: Step of each row, in any order.
            values: Numbers, or level ids.
            observed: Whether there is a value.
            levels: Are the values level ids? Equal ones by chance don't count as the same.
            moment: Time of each row; None: rows at one moment are taken to hold one number.
        """
        rows = np.bincount(step)
        with_value = np.bincount(step[observed], minlength=len(rows))
        several = (rows > 1) & (with_value > 0)
        others = (rows[several] - 1).sum()
        empty = float((rows[several] - with_value[several]).sum() / others) if others else 0.0
        order = np.argsort(step[observed], kind="stable")
        at, x = step[observed][order], values[observed][order]
        pair = at[1:] == at[:-1]
        if moment is not None and not levels:
            when = moment[observed][order]
            return cls(empty, 1.0, *_at_one_moment(x, np.flatnonzero(pair & (when[1:] == when[:-1]))))
        if not pair.any() or not levels:
            return cls(empty=empty)
        same = float((x[1:] == x[:-1])[pair].mean())
        share = np.bincount(x.astype(np.int64)) / len(x)
        chance = float((share**2).sum())
        return cls(empty, float(np.clip((same - chance) / max(1 - chance, 1e-9), 0.0, 1.0)))

    def to_json(self) -> list[float]:
        return [self.empty, self.same, self.equal, self.alike]


def _at_one_moment(x: np.ndarray, pair: np.ndarray) -> tuple[float, float]:
    """Share of equal neighbours, and rank correlation of the others; 1 and 1 where fewer than 20 pairs are known."""
    if len(pair) < 20:
        return 1.0, 1.0
    equal = x[pair] == x[pair + 1]
    other = pair[~equal]
    if len(other) < 20:
        return float(equal.mean()), 1.0
    ordered = np.sort(x)
    rank = np.searchsorted(ordered, x, side="left") + np.searchsorted(ordered, x, side="right")
    with np.errstate(invalid="ignore"):
        alike = np.nan_to_num(np.corrcoef(rank[other], rank[other + 1])[0, 1])
    return float(equal.mean()), float(np.clip(alike, 0.0, 1.0))


def remembered(noise: np.ndarray, step: np.ndarray, rho: float) -> np.ndarray:
    """Noise [row ...] of variance 1, each row correlated by rho with the one before it in its step; in place.

    Args:
        step: Of each row; rows of one step stand together.
    """
    if not rho or not len(step):
        return noise
    begin = np.flatnonzero(np.append(True, step[1:] != step[:-1]))
    length = np.diff(np.append(begin, len(step)))
    order = np.argsort(-length, kind="stable")
    later = np.ones(len(step), bool)
    later[begin] = False
    noise[later] *= np.sqrt(1 - rho**2)
    begin, length = begin[order], length[order]
    for place in range(1, int(length[0])):  # once per row of the longest step
        at = begin[: int(np.searchsorted(-length, -place))] + place
        noise[at] += rho * noise[at - 1]
    return noise


def quantiles(values: np.ndarray, k: int, subject: np.ndarray, usual: np.ndarray | None = None) -> QuantileTransform:
    """Law without a grid (times, shares)."""
    return replace(QuantileTransform.fit(values, k, subject=subject, usual=usual), decimals=None)
