"""Records as cells for a denoiser, and back.

    statics   one row per subject: static columns, number of visits, their span, time to the first
    series    one row per visit: gap, then the visit's columns

A cell is a token and, where the token is CONT, a normal score x, drawn anew in every batch within the interval of its
value (`nets.tokens`). A repeated value shares the score, and later the noise, of the cell it repeats: `source` is the
visit that cell stands in. So repeats are exact by construction, however the score comes out. A cell that carries
nothing (the gap before the first visit, the span of a single visit) is not `active`; one within something that is not
there isn't either, and its token is MASK for good.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cohortloom.codec.gates import Gate, Gates
from cohortloom.codec.tensors import Encoded, SequenceArrays, StaticArrays
from cohortloom.generators.cells import ABSENT, Coder, cells_of, observed_values, raw_values
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.nets.record_cells import CellColumn
from cohortloom.nets.tokens import CONT

__all__ = ["Part", "Records", "cells_from", "columns_of", "decode_series", "decode_statics", "source_of"]

EDGE = 2e-4


@dataclass(frozen=True)
class Part:
    """Cells of some rows: one per subject (statics), or subject x step (series, gathered from ragged rows)."""

    token: Int[Tensor, "*row column"]
    left: Float[Tensor, "*row column"]
    right: Float[Tensor, "*row column"]
    active: Bool[Tensor, "*row column"]
    source: Int[Tensor, "*row column"] | None = None

    def take(self, index: Tensor) -> "Part":
        return Part(*[None if part is None else part[index] for part in vars(self).values()])


@dataclass(frozen=True)
class Records:
    """All subjects: statics, ragged rows of the series, and how many each subject has."""

    statics: Part
    series: Part
    length: Int[Tensor, "subject"]

    def window(
        self, index: Int[Tensor, "record"], begin: Int[Tensor, "record"], n_steps: int
    ) -> tuple[Part, Bool[Tensor, "record step"]]:
        """Steps begin .. begin + n_steps - 1 of some subjects, and which of them exist."""
        starts = torch.cumsum(self.length, 0) - self.length
        step = begin[:, None] + torch.arange(n_steps)[None]
        present = step < self.length[index][:, None]
        rows = (starts[index][:, None] + step).clamp(max=max(len(self.series.token) - 1, 0))
        if not len(self.series.token):
            shape = (len(index), n_steps, self.series.token.shape[1])
            empty = torch.zeros(shape)
            return Part(empty.long(), empty, empty, empty.bool(), empty.long()), present
        part = self.series.take(torch.where(present, rows, 0))
        own = torch.arange(n_steps)[None, :, None]
        inside = part.source - begin[:, None, None]
        source = torch.where((inside >= 0) & present[..., None], inside, own)
        return Part(part.token, part.left, part.right, part.active & present[..., None], source), present


def columns_of(alphabet: Alphabet, records: Records) -> tuple[list[CellColumn], list[CellColumn]]:
    """Shapes of the columns of both parts, with the shares of their tokens."""
    out = []
    parts = zip(_coders_of(alphabet), (records.statics, records.series))
    for (coders, gates), part in parts:
        shapes = []
        for j, coder in enumerate(coders):
            rows = part.token[..., j][part.active[..., j]].numpy()
            count = np.bincount(rows, minlength=coder.n_tokens)
            share = (count + 0.1) / (count.sum() + 0.1 * coder.n_tokens)
            allowed = coder.allowed if count.any() else np.arange(coder.n_tokens) == 0
            facts: dict = {}
            if coder.kind == "number":
                facts = {"spikes": _spike_scores(coder), "repeat": coder.repeat_token if coder.repeat else -1}
            if j in gates:
                gate = gates[j].column
                facts |= {"gate": gate, "closes": tuple(map(bool, gates[j].shuts(_meanings(coders[gate]))))}
            shapes.append(CellColumn(coder.kind, tuple(map(bool, allowed)), tuple(map(float, share)), **facts))
        out.append(shapes)
    return out[0], out[1]


def static_coders(alphabet: Alphabet) -> list[Coder]:
    return [*alphabet.statics, *([alphabet.first_gap] if alphabet.first_gap is not None else [])]


def series_coders(alphabet: Alphabet) -> list[Coder]:
    return [*([alphabet.gap] if alphabet.gap is not None else []), *alphabet.columns]


def _coders_of(alphabet: Alphabet) -> tuple[tuple[list[Coder], Gates], tuple[list[Coder], Gates]]:
    """Coders and gates of statics and series."""
    return (static_coders(alphabet), alphabet.static_gates), (series_coders(alphabet), alphabet.gates_in("later"))


def _meanings(coder: Coder) -> np.ndarray:
    """What each token of a gate stands for; CONT and REPEAT for something."""
    if coder.kind == "category":
        return np.asarray(coder.ids, float)
    return np.array([np.inf, *coder.spikes, np.inf, np.nan])


def _spike_scores(coder: Coder) -> tuple[float, ...]:
    """Where the spikes lie on the scale of the other values."""
    if not len(coder.spikes) or not len(coder.x):
        return (
            tuple(np.linspace(-1, 1, len(coder.spikes)).tolist())
            if len(coder.spikes) > 1
            else (0.0,) * len(coder.spikes)
        )
    middle = np.interp(coder.spikes, coder.x, coder.u)
    return tuple(_score(middle).tolist())


def _score(u: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(np.clip(u, EDGE, 1 - EDGE))


def cells_from(alphabet: Alphabet, encoded: Encoded) -> Records:
    """Cells of all subjects."""
    cells = alphabet.static_cells(encoded)
    active = cells.token >= 0
    token = _masked(alphabet.statics, cells.token, np.where(active, cells.token, CONT))
    statics = _part(alphabet.statics, cells.value, token, active)
    n, seq = encoded.n_subjects, encoded.sequence
    if not alphabet.has_sequence:
        none = _part([], np.zeros((0, 0)), np.zeros((0, 0), int), np.zeros((0, 0), bool))
        return Records(statics, _with_source(none, np.zeros((0, 0), int)), torch.zeros(n, dtype=torch.long))
    if alphabet.first_gap is not None:
        first = np.full(n, np.nan)
        has = seq.length > 0
        first[has] = alphabet.in_units(seq.gap[seq.position == 0])
        one = cells_of([alphabet.first_gap], first[:, None], None)
        more = _part([alphabet.first_gap], one.value, np.where(has[:, None], one.token, CONT), has[:, None])
        statics = Part(
            *[None if a is None else torch.cat([a, b], 1) for a, b in zip(vars(statics).values(), vars(more).values())]
        )
    values, (coders, gates) = raw_values(seq), _coders_of(alphabet)[1]
    position = seq.position
    if alphabet.gap is not None:
        values = np.concatenate([alphabet.in_units(seq.gap)[:, None], values], 1)
    cells = cells_of(coders, values, seq.subject, gates)
    active = cells.token != ABSENT
    if alphabet.gap is not None:
        active[:, 0] = position > 0
    token = _masked(coders, cells.token, np.where(active, cells.token, CONT))
    series = _part(coders, cells.value, np.maximum(token, 0), active & (token >= 0))
    return Records(
        statics, _with_source(series, source_of(coders, token, position)), torch.from_numpy(seq.length.astype(np.int64))
    )


def _masked(coders: list[Coder], found: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Tokens with MASK where nothing is there."""
    masks = np.array([coder.n_tokens for coder in coders], int)
    return np.where(found == ABSENT, masks, token)


def source_of(
    coders: list[Coder], token: Int[np.ndarray, "step column"], position: Int[np.ndarray, "step"]
) -> Int[np.ndarray, "step column"]:
    """Visit (counted within the subject) whose value each cell holds: its own, or for REPEAT that of the last value."""
    n = len(token)
    out = np.repeat(position[:, None], token.shape[1], 1)
    start = np.arange(n) - position
    for j, coder in enumerate(coders):
        if coder.kind != "number" or not coder.repeat or not n:
            continue
        fresh = token[:, j] <= len(coder.spikes)
        row = np.maximum.accumulate(np.where(fresh, np.arange(n), -1))
        found = (token[:, j] == coder.repeat_token) & (row >= start)
        out[found, j] = (row - start)[found]
    return out


def _part(coders: list[Coder], value: np.ndarray, token: np.ndarray, active: np.ndarray) -> Part:
    ends = np.zeros((2, *value.shape), np.float32)
    ends[1] = 1.0
    for j, coder in enumerate(coders):
        if coder.kind == "number":
            ends[:, :, j] = coder.interval(value[:, j])
    left, right = np.nan_to_num(ends[0]), np.nan_to_num(ends[1], nan=1.0)
    tensors = (torch.from_numpy(np.ascontiguousarray(a)) for a in (token.astype(np.int64), left, right, active))
    return Part(*tensors)


def _with_source(part: Part, source: np.ndarray) -> Part:
    return Part(part.token, part.left, part.right, part.active, torch.from_numpy(source.astype(np.int64)))


# --- the way back ---


def decode_statics(alphabet: Alphabet, token: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values of the static columns (NaN missing, category ids): own columns, number of visits, span, first gap."""
    (coders, gates), out = _coders_of(alphabet)[0], np.zeros(token.shape)
    for j, coder in enumerate(coders):
        out[:, j] = _decoded(coder, token[:, j], x[:, j], gates.get(j))
    return out


def decode_series(alphabet: Alphabet, token: np.ndarray, x: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Values of visits [subject step column]; REPEAT takes the value of its source."""
    (coders, gates), out = _coders_of(alphabet)[1], np.zeros(token.shape)
    for j, coder in enumerate(coders):
        value = _decoded(coder, token[..., j].ravel(), x[..., j].ravel(), gates.get(j)).reshape(token.shape[:-1])
        if coder.kind == "number" and coder.repeat:
            copied = np.take_along_axis(value, source[..., j], 1)
            value = np.where(token[..., j] == coder.repeat_token, copied, value)
        out[..., j] = value
    return out


def _decoded(coder: Coder, token: np.ndarray, x: np.ndarray, gate: Gate | None) -> np.ndarray:
    absent = token == coder.n_tokens
    token = np.where(absent, 0, token)
    if coder.kind == "category":
        found = coder.decode(token).astype(float)
    else:
        found = coder.decode(token, x, np.full(len(token), np.nan))
    return found if gate is None else np.where(absent, gate.absent, found)


def statics_arrays(features: tuple, value: np.ndarray) -> StaticArrays:
    return StaticArrays(features, *observed_values(features, value))


def series_arrays(features: tuple, value: np.ndarray, gap: np.ndarray, length: np.ndarray) -> SequenceArrays:
    return SequenceArrays(features, *observed_values(features, value), gap, length)
