"""Columns that lie within others: what one says decides whether there is anything to tell in the next.

A patient without laboratory rows has no forty missing values, but one "no". A column lies `within` an earlier one
(`tensors.Feature`); where that one is missing, 0, "no", or itself shut, the column is shut: it has its `absent` value,
and nothing is to be learned or drawn there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cohortloom.codec.tensors import Feature, holds

__all__ = ["Gate", "Gates", "gates_from_json", "gates_of", "gates_to_json", "shut_of"]


@dataclass(frozen=True)
class Gate:
    """What a column lies within.

    Args:
        column: The earlier column that says whether it is there.
        least: What that column says where there is nothing (`holds`).
        absent: Value of the column where nothing is there.
    """

    column: int
    least: float
    absent: float

    def shuts(self, value: np.ndarray) -> np.ndarray:
        """Values of that column with nothing behind them."""
        return ~holds(value, self.least)


Gates = dict[int, Gate]


def gates_of(features: Sequence[Feature]) -> Gates:
    """Column -> what it lies within."""
    at = {feature.name: j for j, feature in enumerate(features)}
    within = [(j, at[f.within], f.absent) for j, f in enumerate(features) if f.within]
    return {j: Gate(k, features[k].absent, absent) for j, k, absent in within}


def shut_of(columns: Sequence[np.ndarray] | Mapping[int, np.ndarray], gates: Gates) -> dict[int, np.ndarray]:
    """Column -> rows in which it is not there, given raw values [column][row]."""
    shut: dict[int, np.ndarray] = {}
    for j, gate in gates.items():
        shut[j] = shut.get(gate.column, False) | gate.shuts(columns[gate.column])
    return shut


def gates_to_json(gates: Gates) -> list[list]:
    return [[j, g.column, *(None if np.isnan(x) else x for x in (g.least, g.absent))] for j, g in gates.items()]


def gates_from_json(content: list[list]) -> Gates:
    return {j: Gate(k, *(np.nan if x is None else x for x in rest)) for j, k, *rest in content}
