"""From what is asked (n patients, values that must hold, a beginning of a course) to arrays, by way of `Draw`.

Number and span of the visits are statics: they are drawn with the others, given what is given, and the visits are then
drawn given them. Spans are drawn again where they can't hold their visits or go beyond the end of follow-up. The gaps
are drawn given the span and keep their own law (stretched to fill it exactly they would lose the rhythm of a clinic's
appointments); they are shortened where they exceed the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays
from cohortloom.diffusion.path import Path
from cohortloom.generators.cells import Coder, raw_values
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.record_drawing import Cells, Draw, sources
from cohortloom.generators.record_tensors import (
    cells_from,
    decode_series,
    decode_statics,
    series_arrays,
    series_coders,
    static_coders,
    statics_arrays,
)
from cohortloom.generators.record_training import scores
from cohortloom.nets.record_denoiser import RecordDenoiser
from cohortloom.nets.tokens import CONT
from cohortloom.rng import Rng

__all__ = ["Courses", "Fixed"]

TRIES = 8
AT_ONCE = 1_500_000  # cells x visits smoothed at once
PADDING = 64  # visits of padding that cost as much as one more pass


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

    # --- patients that are there ---

    def continued(self, encoded: Encoded) -> Encoded:
        """The same patients with the visits to come: number and span given the beginning, then the rest given it."""
        a, n = self.alphabet, encoded.n_subjects
        statics, series, present, past = self._given(encoded)
        statics.known[:, a.n_visits_at :] = False
        statics.token[:, a.n_visits_at :] = self.net.static.only[a.n_visits_at :]
        last = len(static_coders(a)) - 1
        if a.first_gap is not None:
            seen = torch.from_numpy(encoded.sequence.length > 0)
            statics.known[:, last] = seen
            statics.token[:, last] = torch.where(seen, self._read.statics.token[:, last], statics.token[:, last])
        statics, value = self._statics(statics, series, np.zeros(n, bool), present, past, self._spans(encoded))
        known = len(self.static_features)
        value[:, :known] = raw_values(encoded.static) if encoded.static is not None else value[:, :known]
        drawn = self._finish(statics, value, series, past)
        return Encoded(encoded.static, _with_past(encoded.sequence, drawn.sequence))

    def filled(self, encoded: Encoded, static_holes: np.ndarray | None, holes: np.ndarray | None) -> Encoded:
        """The same patients with values in the holes."""
        a, n = self.alphabet, encoded.n_subjects
        statics, series, present, length = self._given(encoded)
        shift = int(a.has_sequence and a.gap is not None)
        if static_holes is not None and static_holes.any():
            self._open(statics, static_coders(a), torch.from_numpy(static_holes), 0)
        if holes is not None and holes.any():
            part = torch.zeros(series.known.shape, dtype=torch.bool)
            part[..., shift:] = torch.from_numpy(encoded.sequence.padded(holes, n_steps=series.known.shape[1]))
            self._open(series, series_coders(a), part[..., shift:], shift)
            self._fresh(series, part)
        static, value = encoded.static, np.zeros((n, len(self.net.static)))
        if static_holes is not None and static_holes.any():
            drawn = [
                self.draw("statics", k).statics(
                    statics.take(index), series.take(index), present[index], torch.from_numpy(length)[index], True
                )
                for k, index in enumerate(torch.arange(n).split(256))
            ]
            for name in ("token", "x"):
                setattr(statics, name, torch.cat([getattr(part, name) for part in drawn]))
            value = decode_statics(a, statics.token.numpy(), statics.x.numpy())[:, : len(self.static_features)]
            static = _filled(static, static_holes, value)
        statics.known[:] = True
        if holes is None or not holes.any():
            return Encoded(static, encoded.sequence)
        full = np.zeros((n, len(self.net.static)))
        full[:, a.n_visits_at] = length
        values = self._finish(statics, full, series, length).sequence
        got = np.where(values.observed, values.values, np.nan)
        return Encoded(static, _filled(encoded.sequence, holes, got))

    def _given(self, encoded: Encoded) -> tuple[Cells, Cells, torch.Tensor, np.ndarray]:
        """(statics, series, visits that are there, their number) with everything the model can read given."""
        self._read = records = cells_from(self.alphabet, encoded)
        stream, everyone = self.rng.child("read").torch, torch.arange(encoded.n_subjects)
        steps = max(int(records.length.max()) if len(records.length) else 0, 1)
        series, present = records.window(everyone, torch.zeros_like(everyone), steps)
        out = []
        for columns, part in ((self.net.static, records.statics), (self.net.series, series)):
            cells = Cells.blank(columns, *part.token.shape[:-1])
            x, _, _, _ = scores(columns, part, stream)
            absent = part.token == columns.masks
            cells.known = part.active | (absent if part.source is None else absent & present[..., None])
            cells.token = torch.where(cells.known, part.token, cells.token)
            cells.x = torch.where(part.active, x, 0.0)
            out.append(cells)
        if self.alphabet.has_sequence:
            out[0].known[:, self.alphabet.n_visits_at :] = True
            if self.alphabet.gap is not None:
                out[1].known[:, 0, 0] = True
        return out[0], out[1], present, records.length.numpy()

    def _spans(self, encoded: Encoded) -> np.ndarray:
        """Time from the first to the last visit so far [unit]."""
        seq = encoded.sequence
        gap = np.where(seq.position > 0, self.alphabet.in_units(seq.gap), 0.0)
        return np.bincount(seq.subject, weights=gap, minlength=len(seq.length))

    def _open(self, cells: Cells, coders: list[Coder], holes: torch.Tensor, shift: int) -> None:
        """Cells to draw, never as missing."""
        columns = self.net.static if cells.token.ndim == 2 else self.net.series
        for j in range(holes.shape[-1]):
            coder, at = coders[j + shift], holes[..., j]
            missing = coder.missing_token if coder.kind == "number" else coder.ids.index(0) if 0 in coder.ids else -1
            cells.known[..., j + shift][at] = False
            cells.never[..., j + shift][at] = missing
            cells.token[..., j + shift][at] = columns.only[j + shift]

    def _fresh(self, series: Cells, holes: torch.Tensor) -> None:
        """A value that repeats one before a hole may not repeat what will be drawn there: it counts as its own."""
        columns = self.net.series
        behind = holes.int().cumsum(1) > 0
        repeat = (series.token == columns.repeats) & (columns.repeats >= 0) & behind & series.known
        series.token[repeat] = CONT

    # --- statics ---

    def _statics(
        self, cells: Cells, start: Cells, wants: np.ndarray, present: torch.Tensor | None = None,
        past: np.ndarray | None = None, span: np.ndarray | None = None,
    ) -> tuple[Cells, np.ndarray]:  # fmt: skip
        """Statics with number and span of visits; drawn again where these can't be.

        Args:
            wants: Subjects that must have a first visit.
            present: Visits of `start` that show; None: the first one of those who want it.
            past, span: Visits so far and their span [unit].
        """
        n = len(wants)
        present = torch.from_numpy(wants)[:, None] if present is None else present
        past = wants.astype(np.int64) if past is None else past
        span = np.zeros(n) if span is None else span
        out = cells.take(torch.arange(n))
        value, left = np.zeros((n, len(self.net.static))), np.arange(n)
        skip = max(0, present.shape[1] - self.window)
        for attempt in range(TRIES):
            for number, rows in enumerate(_blocks(left, 1024 if present.shape[1] == 1 else 128)):
                index = torch.from_numpy(rows)
                drawn = self.draw("statics", attempt, number).statics(
                    cells.take(index), start.take(index).steps(skip, present.shape[1]), present[index, skip:],
                    torch.from_numpy(past[rows]), False, skip,
                )  # fmt: skip
                out.token[index], out.x[index] = drawn.token, drawn.x
                value[rows] = decode_statics(self.alphabet, drawn.token.numpy(), drawn.x.numpy())
            left = left[self._impossible(value[left], past[left], span[left])]
            if not len(left):
                break
        if self.alphabet.has_sequence:
            self._limit(value, past, span)
            self._tidy(out, value)
        out.known[:] = True
        return out, value

    def _impossible(self, value: np.ndarray, past: np.ndarray, span: np.ndarray) -> np.ndarray:
        a = self.alphabet
        if not a.has_sequence:
            return np.zeros(len(value), bool)
        visits = np.nan_to_num(value[:, a.n_visits_at])
        bad = visits < past
        if a.gap is None:
            return bad
        drawn, low, high = self._span_limits(value)
        bad |= (visits > np.maximum(past, 1)) & (high < np.maximum(low, span))
        return bad | ((visits >= 2) & ((drawn < np.maximum(low, span)) | (drawn > high)))

    def _span_limits(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Span, and the least and most it can be [unit]."""
        a = self.alphabet
        low = (value[:, a.n_visits_at] - 1) * a.least_gap
        ends, high = a.ends(value), np.full(len(value), np.inf)
        if ends.shape[1]:
            high = np.nan_to_num(np.fmin.reduce(ends, 1), nan=np.inf) / a.unit + 1e-9
            high = np.floor(high) if a.whole else high
        return np.nan_to_num(value[:, a.n_visits_at + 1]), low, high

    def _longest(self, statics: np.ndarray) -> np.ndarray:
        """Longest time from the first to the last visit [unit]: the end of follow-up, else that of training."""
        a = self.alphabet
        _, low, high = self._span_limits(statics)
        coder = a.statics[a.n_visits_at + 1]
        most = max([*coder.spikes, *coder.x.tolist()], default=np.inf)
        return np.maximum(np.where(np.isinf(high), most, high), low)

    def _limit(self, value: np.ndarray, past: np.ndarray, span: np.ndarray) -> None:
        """What couldn't be drawn within its limits is put at them."""
        a = self.alphabet
        value[:, a.n_visits_at] = np.maximum(np.nan_to_num(value[:, a.n_visits_at]).round(), past)
        if a.gap is not None:
            drawn, low, high = self._span_limits(value)
            value[:, a.n_visits_at + 1] = np.clip(drawn, np.maximum(low, span), np.maximum(np.maximum(low, span), high))

    def _tidy(self, cells: Cells, value: np.ndarray) -> None:
        """Cells that describe the course as the values are; those that carry nothing show 0."""
        a, n = self.alphabet, len(value)
        visits = value[:, a.n_visits_at]
        middle, everyone = np.full(n, 0.5), np.ones(n, bool)
        for j, least in zip(range(a.n_visits_at, len(static_coders(a))), (0, 2 if a.gap is not None else 1, 1)):
            put(cells, j, static_coders(a)[j], value[:, j], everyone, middle)
            nothing = torch.from_numpy(visits < least)
            cells.token[nothing, j], cells.x[nothing, j] = CONT, 0.0

    def _finish(self, statics: Cells, value: np.ndarray, start: Cells, past: np.ndarray | None = None) -> Encoded:
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
            values, gap = self._decoded(drawn, value[part], length[part], None if past is None else past[part])
            there = np.arange(steps) < length[part][:, None]
            rows.append(values[there]), gaps.append(gap[there]), owner.append(np.repeat(part, length[part]))
        shape = (0, len(self.series_features))
        rows, gaps, owner = ([np.zeros(s), *r] for s, r in zip((shape, 0, 0), (rows, gaps, owner)))
        owner = np.concatenate(owner).astype(np.int64)
        by_subject = np.argsort(owner, kind="stable")
        values, gap = np.concatenate(rows)[by_subject], np.concatenate(gaps)[by_subject]
        return Encoded(static, series_arrays(self.series_features, values, gap, length))

    def _chunks(self, order: np.ndarray, length: np.ndarray) -> Iterator[np.ndarray]:
        """Patients of similar length, as many as fit and as long as few visits are padding."""
        size, begin = max(1, int(AT_ONCE / (max(len(self.net.series), 8) * 12))), 0
        total = np.concatenate([[0], np.cumsum(length[order])])
        while begin < len(order):
            padded = np.arange(1, len(order) - begin + 1) * np.maximum(length[order[begin:]], 1)
            visits = total[begin + 1 :] - total[begin]
            many = (padded > size) | (padded - visits > np.maximum(PADDING, visits / 8))
            end = begin + max(1, int(many.argmax()) if many.any() else len(many))
            yield order[begin:end]
            begin = end

    def _decoded(
        self, cells: Cells, statics: np.ndarray, length: np.ndarray, past: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(values of the visits' columns, gaps [d]), subject x step; gaps of the `past` are left alone."""
        a = self.alphabet
        source = sources(self.net.series, cells.token).numpy()
        value = decode_series(a, cells.token.numpy(), cells.x.numpy(), source)
        gap = np.full(value.shape[:2], a.even_gap)
        if a.gap is not None:
            inside = (np.arange(gap.shape[1]) < length[:, None]) & (np.arange(gap.shape[1]) > 0)
            raw = np.where(inside, np.nan_to_num(value[..., 0]), 0.0)
            even = cells.token[..., 0].numpy() == CONT
            if past is not None:
                even &= np.arange(gap.shape[1]) >= past[:, None]
            gap = shortened(raw, inside & even, inside, self._longest(statics), a.least_gap, a.whole) * a.unit
            value = value[..., 1:]
        gap[:, 0] = np.nan_to_num(statics[:, -1]) * a.unit if a.first_gap is not None else 0.0
        return value, gap


def shortened(
    gap: np.ndarray, free: np.ndarray, inside: np.ndarray, longest: np.ndarray, least: float, whole: bool
) -> np.ndarray:
    """Gaps whose sum is at most the longest allowed: those of `free` cells shrink (all, if the others exceed it)."""
    fixed, loose = np.where(free, 0.0, gap).sum(1), np.where(free, gap, 0.0).sum(1)
    total = fixed + loose
    over = total > longest
    factor = np.where(over & (loose > 0), (longest - fixed) / np.where(loose > 0, loose, 1.0), 1.0)
    every = over & (factor <= 0)
    factor = np.where(every, longest / np.where(total > 0, total, 1.0), factor)
    out = np.where(free | every[:, None], gap * factor[:, None], gap)
    if whole:
        out = np.diff(np.floor(np.cumsum(out, 1) + 1e-6), axis=1, prepend=0.0)
    return np.where(inside, np.maximum(out, least), 0.0)


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _filled(part: Any, holes: np.ndarray, value: np.ndarray) -> Any:
    """Arrays with drawn values in the holes; a value that is missing leaves the hole."""
    category = np.array([f.kind == "category" for f in part.features], bool)[None]
    got = holes & np.where(category, np.nan_to_num(value) > 0, ~np.isnan(value))
    return replace(part, values=np.where(got, np.nan_to_num(value), part.values), observed=part.observed | got)


def _with_past(past: SequenceArrays, whole: SequenceArrays) -> SequenceArrays:
    """The drawn courses with the visits of the past as they were."""
    rows = (
        np.arange(int(past.length.sum())) - np.repeat(past.starts, past.length) + np.repeat(whole.starts, past.length)
    )
    values, observed, gap = whole.values.copy(), whole.observed.copy(), whole.gap.copy()
    values[rows], observed[rows], gap[rows] = past.values, past.observed, past.gap
    return SequenceArrays(whole.features, values, observed, gap, whole.length)
