"""From what is asked (n patients, values that must hold, a beginning of a course) to arrays, by way of `Draw`.

Number and span of the visits are statics: they are drawn with the others, given what is given, and the visits are then
drawn given them. Spans are drawn again where they can't hold their visits or go beyond the end of follow-up; gaps are
stretched to fill their span exactly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded, Feature
from cohortloom.diffusion.path import Path
from cohortloom.generators.columnar_encoding import Alphabet, Coder, raw_values
from cohortloom.generators.record_drawing import Cells, Draw
from cohortloom.generators.record_tensors import (
    decode_series,
    decode_statics,
    series_arrays,
    static_coders,
    statics_arrays,
)
from cohortloom.nets.record_denoiser import RecordDenoiser
from cohortloom.nets.tokens import CONT
from cohortloom.rng import Rng

__all__ = ["Courses", "Fixed"]

TRIES = 8
AT_ONCE = 1_500_000  # cells x visits smoothed at once


@dataclass(frozen=True)
class Fixed:
    """Values that must hold: of statics [subject feature] and of the first visit, and which those are."""

    static: np.ndarray
    static_mask: np.ndarray
    first: np.ndarray
    first_mask: np.ndarray

    @classmethod
    def of(
        cls, static: tuple[Feature, ...], series: tuple[Feature, ...], n: int, context: Encoded | None,
        where: Mapping[str, float],
    ) -> "Fixed":  # fmt: skip
        """Given statics, and conditions."""
        parts = []
        for features in (static, series):
            value, mask = np.full((n, len(features)), np.nan), np.zeros((n, len(features)), bool)
            if features is static and context is not None:
                value, mask = raw_values(context.static), np.ones_like(mask)
            for j, feature in enumerate(features):
                if feature.name in where:
                    value[:, j], mask[:, j] = where[feature.name], True
            parts += [value, mask]
        return cls(*parts)


def put(cells: Cells, j: int, coder: Coder, value: np.ndarray, mask: np.ndarray, u: np.ndarray, at: tuple = ()) -> None:
    """Give column j of a part these values where `mask` holds; what the model has no token for is left to be drawn."""
    from scipy.special import ndtri

    value = np.asarray(value, float)
    if coder.kind == "category":
        token, x = coder.token(np.nan_to_num(value)), np.zeros(len(value))
        mask = mask & (token >= 0)
    else:
        snapped = coder.snap(value)
        token = coder.token(snapped, np.full(len(value), np.nan))
        left, right = (np.nan_to_num(end, nan=0.5) for end in coder.interval(snapped))
        x = ndtri(np.clip(left + (right - left) * u, 2e-4, 1 - 2e-4))
        mask = mask & (coder.allowed[token] | (token == CONT))
        spikes = (token > 0) & (token <= len(coder.spikes))
        if spikes.any() and len(coder.x):
            middle = np.interp(np.nan_to_num(snapped), coder.x, coder.u)
            x = np.where(spikes, ndtri(np.clip(middle, 2e-4, 1 - 2e-4)), x)
    place = (torch.from_numpy(np.flatnonzero(mask)), *at, j)
    cells.token[place] = torch.from_numpy(np.maximum(token, 0))[mask]
    cells.x[place] = torch.from_numpy(np.nan_to_num(x)).float()[mask]
    cells.known[place] = True


@dataclass
class Courses:
    """Drawing for one cohort of requests."""

    alphabet: Alphabet
    net: RecordDenoiser
    path: Path
    static_features: tuple[Feature, ...]
    series_features: tuple[Feature, ...]
    steps: int
    sampler: str
    window: int
    n_last: int
    rng: Rng

    def draw(self, *names: int | str) -> Draw:
        stream = self.rng.child("draw", *names).torch
        return Draw(self.net, self.path, stream, self.steps, self.window, self.n_last, self.sampler)

    def new(self, n: int, fixed: Fixed) -> Encoded:
        """New patients."""
        a = self.alphabet
        uniform = self.rng.child("within").numpy
        statics = Cells.blank(self.net.static, n)
        for j in range(len(self.static_features)):
            put(statics, j, a.statics[j], fixed.static[:, j], fixed.static_mask[:, j], uniform.random(n))
        shift = int(a.has_sequence and a.gap is not None)
        first = Cells.blank(self.net.series, n, 1)
        for j in range(len(self.series_features)):
            if fixed.first_mask[:, j].any():
                put(first, j + shift, a.columns[j], fixed.first[:, j], fixed.first_mask[:, j], uniform.random(n), (0,))
        if shift:
            first.known[:, 0, 0] = True
        statics, value = self._statics(statics, first, fixed.first_mask.any(1))
        value[:, : len(self.static_features)] = np.where(
            fixed.static_mask, fixed.static, value[:, : len(self.static_features)]
        )
        return self._finish(statics, value, first)

    def _statics(self, cells: Cells, first: Cells, wants: np.ndarray) -> tuple[Cells, np.ndarray]:
        """Statics with number and span of visits; drawn again where these can't be."""
        a, n = self.alphabet, len(wants)
        out = cells.take(torch.arange(n))
        value = np.zeros((n, len(self.net.static)))
        left = np.arange(n)
        for attempt in range(TRIES):
            for number, rows in enumerate(_blocks(left, 1024)):
                index = torch.from_numpy(rows)
                part = cells.take(index)
                present = torch.from_numpy(wants[rows])[:, None]
                drawn = self.draw("statics", attempt, number).statics(
                    part, first.take(index), present, torch.zeros(len(rows), dtype=torch.long), False
                )
                out.token[index], out.x[index] = drawn.token, drawn.x
                value[rows] = decode_statics(a, drawn.token.numpy(), drawn.x.numpy())
            left = left[self._impossible(value[left], wants[left])]
            if not len(left):
                break
        if a.has_sequence:
            self._limit(value, wants)
            self._tidy(out, value)
        out.known[:] = True
        return out, value

    def _impossible(self, value: np.ndarray, wants: np.ndarray) -> np.ndarray:
        a = self.alphabet
        if not a.has_sequence:
            return np.zeros(len(value), bool)
        visits = np.nan_to_num(value[:, a.n_visits_at])
        bad = wants & (visits < 1)
        if a.gap is None:
            return bad
        span, low, high = self._span_limits(value)
        return bad | ((visits >= 2) & ((span < low) | (span > high)))

    def _span_limits(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Span, and the least and most it can be [unit]."""
        a = self.alphabet
        low = (value[:, a.n_visits_at] - 1) * a.least_gap
        ends, high = a.ends(value), np.full(len(value), np.inf)
        if ends.shape[1]:
            high = np.nan_to_num(np.fmin.reduce(ends, 1), nan=np.inf) / a.unit + 1e-9
            high = np.where(high < low, np.inf, np.floor(high) if a.whole else high)
        return np.nan_to_num(value[:, a.n_visits_at + 1]), low, high

    def _limit(self, value: np.ndarray, wants: np.ndarray) -> None:
        """What couldn't be drawn within its limits is put at them."""
        a = self.alphabet
        visits = np.maximum(np.nan_to_num(value[:, a.n_visits_at]).round(), wants)
        value[:, a.n_visits_at] = visits
        if a.gap is not None:
            span, low, high = self._span_limits(value)
            value[:, a.n_visits_at + 1] = np.clip(span, low, np.maximum(low, high))

    def _tidy(self, cells: Cells, value: np.ndarray) -> None:
        """Cells that describe the course as the values are; those that carry nothing show 0."""
        a, n = self.alphabet, len(value)
        visits = value[:, a.n_visits_at]
        middle, everyone = np.full(n, 0.5), np.ones(n, bool)
        for j, least in zip(range(a.n_visits_at, len(static_coders(a))), (0, 2 if a.gap is not None else 1, 1)):
            put(cells, j, static_coders(a)[j], value[:, j], everyone, middle)
            nothing = torch.from_numpy(visits < least)
            cells.token[nothing, j], cells.x[nothing, j] = CONT, 0.0

    def _finish(self, statics: Cells, value: np.ndarray, start: Cells) -> Encoded:
        """Draw the visits of patients whose statics are settled; `start` holds what is given of the first ones."""
        a = self.alphabet
        static = statics_arrays(self.static_features, value[:, : len(self.static_features)])
        if not a.has_sequence:
            return Encoded(static, None)
        length = value[:, a.n_visits_at].astype(np.int64)
        rows, owner, gaps = [], [], []
        order = np.argsort(length, kind="stable")
        for number, part in enumerate(self._chunks(order, length)):
            index, steps = torch.from_numpy(part), int(length[part].max())
            if not steps:
                continue
            cells = Cells.blank(self.net.series, len(part), steps)
            given = start.take(index)
            upto = min(steps, given.token.shape[1])
            for name in ("token", "x", "known", "never"):
                getattr(cells, name)[:, :upto] = getattr(given, name)[:, :upto]
            drawn = self.draw("series", number).series(statics.take(index), cells, torch.from_numpy(length[part]))
            values, gap = self._decoded(drawn, value[part], length[part])
            there = np.arange(steps) < length[part][:, None]
            rows.append(values[there]), gaps.append(gap[there]), owner.append(np.repeat(part, length[part]))
        shape = (0, len(self.series_features))
        rows, gaps, owner = ([np.zeros(s), *r] for s, r in zip((shape, 0, 0), (rows, gaps, owner)))
        owner = np.concatenate(owner).astype(np.int64)
        by_subject = np.argsort(owner, kind="stable")
        values, gap = np.concatenate(rows)[by_subject], np.concatenate(gaps)[by_subject]
        return Encoded(static, series_arrays(self.series_features, values, gap, length))

    def _chunks(self, order: np.ndarray, length: np.ndarray) -> Iterator[np.ndarray]:
        """Patients of similar length, as many as fit."""
        width, begin = max(len(self.net.series), 8), 0
        while begin < len(order):
            size = max(1, int(AT_ONCE / (width * 12)))
            end = begin
            while end < len(order) and (end - begin + 1) * max(length[order[end]], 1) <= size:
                end += 1
            end = max(end, begin + 1)
            yield order[begin:end]
            begin = end

    def _decoded(self, cells: Cells, statics: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(values of the visits' columns, gaps [d]), subject x step."""
        from cohortloom.generators.record_drawing import sources

        a = self.alphabet
        source = sources(self.net.series, cells.token).numpy()
        value = decode_series(a, cells.token.numpy(), cells.x.numpy(), source)
        gap = np.full(value.shape[:2], a.even_gap)
        if a.gap is not None:
            inside = (np.arange(gap.shape[1]) < length[:, None]) & (np.arange(gap.shape[1]) > 0)
            raw = np.where(inside, np.nan_to_num(value[..., 0]), 0.0)
            even = cells.token[..., 0].numpy() == CONT
            gap = stretched(raw, inside & even, inside, statics[:, a.n_visits_at + 1], a.least_gap, a.whole) * a.unit
            value = value[..., 1:]
        gap[:, 0] = np.nan_to_num(statics[:, -1]) * a.unit if a.first_gap is not None else 0.0
        return value, gap


def stretched(
    gap: np.ndarray, free: np.ndarray, inside: np.ndarray, span: np.ndarray, least: float, whole: bool
) -> np.ndarray:
    """Gaps whose sum is the span: those of `free` cells are scaled (all of them, if the others exceed the span)."""
    fixed = np.where(free, 0.0, gap).sum(1)
    loose = np.where(free, gap, 0.0).sum(1)
    some = loose > 0
    factor = np.where(some, (span - fixed) / np.where(some, loose, 1.0), 1.0)
    every = some & (factor <= 0)
    total = fixed + loose
    factor = np.where(every, span / np.where(total > 0, total, 1.0), factor)
    out = np.where(free | every[:, None], gap * factor[:, None], gap)
    if whole:
        time = np.round(np.cumsum(out, 1))
        out = np.diff(time, axis=1, prepend=0.0)
    return np.where(inside, np.maximum(out, least), 0.0)


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]
