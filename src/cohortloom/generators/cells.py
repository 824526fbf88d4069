"""Cells: rows of some columns as tokens and normal scores, what generators learn and draw.

A number has a token (a spike, REPEAT, MISSING, or CONT with a score), a category its token alone (`nets.tokens`). Two
tokens say that there is nothing to learn or draw: NOTHING of a number that follows from others, ABSENT of a cell within
something that is not there (`codec.gates`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cohortloom.codec.gates import Gate, Gates
from cohortloom.codec.tensors import Feature, SequenceArrays, StaticArrays
from cohortloom.generators.row_lines import Lines
from cohortloom.nets.tokens import CategoryCoder, NumberCoder, carried

__all__ = [
    "ABSENT",
    "NOTHING",
    "Cells",
    "Coder",
    "carry",
    "cells_of",
    "follows",
    "is_shut",
    "observed_values",
    "raw_values",
]

Coder = NumberCoder | CategoryCoder
NOTHING = -1  # token of a number that follows from others
ABSENT = -2  # token of a cell within something that is not there


def raw_values(part: StaticArrays | SequenceArrays) -> np.ndarray:
    """Numbers with NaN where missing, category ids with 0."""
    missing = np.array([0.0 if f.kind == "category" else np.nan for f in part.features])
    return np.where(part.observed, part.values, missing[None])


def observed_values(features: Sequence[Feature], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The way back from `raw_values`: values and observed flags as the codec wants them."""
    category = np.array([f.kind == "category" for f in features], bool)[None]
    observed = np.where(category, values > 0, ~np.isnan(values))
    return np.where(observed, values, 0.0), observed


@dataclass(frozen=True)
class Cells:
    """Some rows of some columns, encoded.

    Args:
        value: Snapped numbers, NaN where missing; category ids.
        last: What REPEAT could stand for: the last recorded number of the same subject, or what the row's other numbers
            say (`row_lines`); NaN where none.
        token, score: What the networks see of a cell.
    """

    value: np.ndarray
    last: np.ndarray
    token: np.ndarray
    score: np.ndarray

    def take(self, rows: np.ndarray) -> "Cells":
        return Cells(self.value[rows], self.last[rows], self.token[rows], self.score[rows])


def cells_of(
    coders: Sequence[Coder],
    values: np.ndarray,
    subject: np.ndarray | None,
    gates: Gates | None = None,
    last: np.ndarray | None = None,
    lines: Lines | None = None,
) -> Cells:
    """Encode columns. With `subject` (rows of one subject in order) the last recorded values are found too, else they
    may be told; numbers with a line have what it expects in their place."""
    n, c = values.shape
    out = Cells(np.zeros((n, c)), np.full((n, c), np.nan), np.zeros((n, c), np.int64), np.zeros((n, c), np.float32))
    for j, coder in enumerate(coders):
        shut = is_shut(gates[j], out) if gates and j in gates else None
        number = not isinstance(coder, CategoryCoder)
        value = coder.snap(values[:, j]) if number else values[:, j]
        if lines and j in lines:
            out.last[:, j] = lines[j].at(coder, out.value)
        elif subject is not None and number:
            out.last[:, j] = carried(value if shut is None else np.where(shut, np.nan, value), subject)
        elif last is not None and number:
            out.last[:, j] = last[:, j]
        out.value[:, j] = value if shut is None else np.where(shut, gates[j].absent, value)
        out.token[:, j] = coder.token(out.value[:, j], out.last[:, j]) if number else coder.token(out.value[:, j])
        if number:
            out.score[:, j] = coder.history(out.value[:, j])
        if shut is not None:
            out.token[shut, j] = ABSENT
    return out


def is_shut(gate: Gate, cells: Cells) -> np.ndarray:
    """Rows in which nothing lies behind a gate."""
    return (cells.token[:, gate.column] == ABSENT) | gate.shuts(cells.value[:, gate.column])


def follows(coder: Coder, token: np.ndarray) -> np.ndarray:
    """Cells that could be nothing else, given the others."""
    return (token == ABSENT) | ((token == NOTHING) & (coder.kind == "number"))


def carry(last: np.ndarray | float, cells: Cells) -> np.ndarray:
    """Last recorded values after some more cells."""
    return np.where(np.isnan(cells.value) | (cells.token == ABSENT), last, cells.value)
