"""When the steps of a subject are: start, gaps, time of day.

For clock "timestamp" a subject's origin is the start of its first step ("<steps>.start", days since 1970-01-01; a
subject without steps has none and its dates count from the `reference` day); for the other clocks it is zero. Gaps are
in days.

Visits on different days have a time of day: start and gaps are then whole days, from calendar day to calendar day, and
"<steps>.clock" is the time of day [h]. Steps that lie hours apart keep fractions of days. Where courses begin before
the origin of clock "offset" (an index date) and many of those that reach it have a step exactly there, "<steps>.index"
says which step that is, as a sum of gaps would miss it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from cohortloom.codec.cells import Cell
from cohortloom.codec.clock import DAY, MONTH, YEAR, floor_to, grid_of, has_days, round_to, ticks_per_day
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.laws import quantiles
from cohortloom.codec.steps import Steps, step_table
from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays, StaticArrays
from cohortloom.codec.weekdays import Weekdays
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["NO_YES", "StepTimes"]

NO_YES = ("<missing>", "<rare>", "no", "yes")


@dataclass(frozen=True)
class StepTimes:
    """Laws of the times of steps. Make one with `fit`.

    Args:
        schema: Schema of the cohorts.
        start: Law of the first step's calendar day, None if the clock has no dates.
        gaps: Laws of a subject's first gap and of later gaps [d]; None: there are no steps.
        grid: Grid of the step times [ticks].
        clock: Law of the time of day [h]; None where start and gaps hold all of a time.
        reference: Origin of subjects without steps [ticks].
        index: Has the step at the origin a feature?
        weekdays: Weekdays of the steps; None without days.
    """

    schema: Schema
    start: QuantileTransform | None = None
    gaps: tuple[QuantileTransform, QuantileTransform] | None = None
    grid: int = 1
    clock: QuantileTransform | None = None
    reference: int = 0
    index: bool = False
    weekdays: Weekdays | None = None

    @classmethod
    def fit(cls, schema: Schema, steps: Steps, *, k_min: int, width: int, sequence: bool) -> StepTimes:
        """Learn from training patients.

        Args:
            width: Width of a step where there is no visit table [ticks].
            sequence: Are steps part of the arrays?
        """
        dated, reference, clock = schema.clock == "timestamp", 0, None
        if dated and len(steps.time):
            year = 1461 * DAY // 4
            reference = round(float(np.median(steps.time)) / year) * year // DAY * DAY
        if steps.frame is not None and has_days(schema, steps.time, steps.first):
            clock = replace(quantiles(_hours(steps.time), k_min, steps.subject), high=24.0)
        times = cls(schema, clock=clock, reference=reference)
        if step_table(schema) is None:
            return times
        gap, first, subject = times.gaps_of(steps), steps.first, steps.subject
        grid = grid_of(schema, steps.time)
        if steps.frame is None and dated and grid not in (MONTH, YEAR):
            grid = width
        decimals = 0 if schema.clock == "order" or clock is not None or grid % DAY == 0 else None
        early, late = (
            replace(
                QuantileTransform.fit(gap[part], k_min, decimals=decimals, subject=subject[part]), decimals=decimals
            )
            for part in (first, ~first)
        )
        index = sequence and schema.clock == "offset" and _meets_origin(steps, k_min)
        times = replace(times, gaps=(early, late), grid=grid, index=index)
        if not dated:
            return times
        law = QuantileTransform.fit(times.origins(steps)[steps.length > 0] / ticks_per_day(schema), k_min)
        start = replace(law, decimals=decimals)
        if grid in (MONTH, YEAR):
            return replace(times, start=start)
        even = np.arange(0.5, len(steps.length)) / len(steps.length)
        return replace(times, start=start, weekdays=Weekdays.fit(steps, start.quantile(even)))

    @property
    def static_features(self) -> list[Feature]:
        """Of a subject."""
        if self.start is None:
            return []
        return [Feature(f"{step_table(self.schema)}.start", "number", decimals=self.start.decimals)]

    @property
    def step_features(self) -> list[Feature]:
        """Of a step. The clock needs dates and the index offsets: at most one of them."""
        if self.clock is not None:
            return [Feature(f"{step_table(self.schema)}.clock", "number", low=0.0, high=24.0, always=True)]
        return [Feature(f"{step_table(self.schema)}.index", "category", NO_YES, always=True)] if self.index else []

    @property
    def laws(self) -> dict[str, QuantileTransform]:
        """Feature -> law."""
        named = {"start": self.start, "clock": self.clock}
        return {f"{step_table(self.schema)}.{name}": law for name, law in named.items() if law is not None}

    # -- there ---------------------------------------------------------------------------------------------------

    def encode_start(self, steps: Steps) -> list[tuple[np.ndarray, np.ndarray]]:
        """(values, observed) of `static_features`."""
        known = steps.length > 0
        return [(np.where(known, self.origins(steps) / DAY, 0.0), known)] if self.start is not None else []

    def encode_steps(self, steps: Steps) -> list[tuple[np.ndarray, np.ndarray]]:
        """(values, observed) of `step_features`."""
        yes = np.ones(len(steps.time), bool)
        if self.clock is not None:
            return [(_hours(steps.time), yes)]
        return [(2.0 + (steps.time == 0), yes)] if self.index else []

    def origins(self, steps: Steps, part: StaticArrays | None = None) -> np.ndarray:
        """Origin of each subject [ticks]; `part` knows that of subjects whose steps are not there."""
        n = len(steps.length)
        if self.schema.clock != "timestamp":
            return np.zeros(n, np.int64)
        origin = np.full(n, self.reference, np.int64)
        has = steps.length > 0
        origin[has] = floor_to(steps.time[steps.starts[has]], 1 if self.clock is None else DAY)
        if part is not None and self.start is not None:
            j = [f.name for f in part.features].index(f"{step_table(self.schema)}.start")
            stated = part.observed[:, j] & np.isfinite(part.values[:, j]) & ~has
            origin[stated] = np.round(part.values[stated, j] * DAY).astype(np.int64)
        return origin

    def gaps_of(self, steps: Steps) -> np.ndarray:
        """Days since the step before; for a first step 0, or the time since the origin for clock "offset"."""
        time = floor_to(steps.time, 1 if self.clock is None else DAY)
        before = np.concatenate([[0], time[:-1]]) if len(time) else time
        gap = (time - before) / ticks_per_day(self.schema)
        first = steps.time / ticks_per_day(self.schema) if self.schema.clock == "offset" else 0.0
        return np.where(steps.first, first, gap)

    # -- and back ------------------------------------------------------------------------------------------------

    def decode(
        self, encoded: Encoded, ids: np.ndarray, rng: Rng, *, statics: tuple[Cell, ...] = (),
        dates: Literal["kept", "later", "free"] = "kept",
    ) -> Steps:  # fmt: skip
        """Step times from start and gaps.

        Args:
            encoded: Arrays on scale "raw".
            ids: Of the subjects.
            statics: Cells of the static tables: who reached the shared end of a study tells its start by it.
            dates: As of `Codec.decode`.
        """
        n = len(ids)
        if encoded.sequence is None:
            length, gap = np.zeros(n, np.int64), np.zeros(0)
        else:
            length, gap = encoded.sequence.length.astype(np.int64), encoded.sequence.gap.astype(float)
        origin = np.full(n, self.reference, dtype=np.int64)
        grid = self.grid if self.clock is None else DAY
        if self.start is not None and encoded.static is not None:
            j = [f.name for f in encoded.static.features].index(f"{step_table(self.schema)}.start")
            days, known = encoded.static.values[:, j], encoded.static.observed[:, j]
            known = known & np.isfinite(days)
            days = np.where(known, self.start.sane(days), self.start.quantile(rng.child("start").numpy.random(n)))
            known |= (length > 0) & np.isfinite(days)
            origin = np.where(known, round_to(np.round(np.where(known, days, 0) * DAY).astype(np.int64), grid), origin)
            origin = self._from_shared(encoded.static, origin, statics)
        per_day = ticks_per_day(self.schema)
        starts = (np.cumsum(length) - length)[length > 0]
        later = np.ones(len(gap), bool)
        later[starts] = False
        if self.gaps is not None:
            gap = np.where(later, self.gaps[1].sane(np.nan_to_num(gap)), self.gaps[0].sane(np.nan_to_num(gap)))
        gap = np.where(later, np.maximum(gap, 0.0), gap)
        if self.schema.clock != "offset":
            gap = np.where(later, gap, 0.0)
        elapsed = np.cumsum(gap)
        elapsed -= np.repeat((elapsed - gap)[starts], length[length > 0])
        ticks = np.repeat(origin if self.schema.clock == "timestamp" else np.zeros(n, np.int64), length)
        time = round_to(ticks + np.round(elapsed * per_day).astype(np.int64), grid)
        if encoded.sequence is not None and self.clock is not None:
            time = time + self._decode_clock(encoded.sequence, time, rng.child("clock"))
        if encoded.sequence is not None and self.index:
            at = (encoded.sequence.values[:, 0] >= 2.5) & encoded.sequence.observed[:, 0]
            time = _moved_to_origin(time, at, encoded.sequence.subject)
        steps = Steps(pl.Series("subject_id", ids), length, time, None)
        if self.weekdays is None or dates == "kept":
            return steps
        draw = rng.child("weekdays").numpy
        return replace(steps, time=self.weekdays.moved(steps, draw, courses=dates == "free"))

    def _from_shared(self, part: StaticArrays, origin: np.ndarray, statics: tuple[Cell, ...]) -> np.ndarray:
        """Origins [ticks]; who reached the shared end of a study began as long before it as the arrays say."""
        cell = next((c for c in statics if c.shared is not None and c.part == ""), None)
        if cell is None or cell.shared is None or cell.grid % DAY or (self.grid % DAY and self.clock is None):
            return origin
        if cell.grid in (MONTH, YEAR) and cell.grid != self.grid:  # it tells no day
            return origin
        at = {f.name: j for j, f in enumerate(part.features)}
        name = f"{cell.table}.{cell.column}"
        days, yes = part.values[:, at[name]], part.values[:, at[f"{name}.shared"]] >= 2.5
        yes = yes & part.observed[:, at[name]] & np.isfinite(days)
        days = np.where(yes, np.nan_to_num(days) if cell.law is None else cell.law.sane(np.nan_to_num(days)), 0.0)
        return np.where(yes, cell.shared - np.round(days).astype(np.int64) * DAY, origin)

    def _decode_clock(self, part: SequenceArrays, day: np.ndarray, rng: Rng) -> np.ndarray:
        """Time of day of each step [ticks]; steps of one day come one after the other."""
        assert self.clock is not None
        hours, known = part.values[:, 0].astype(float), part.observed[:, 0] & np.isfinite(part.values[:, 0])
        hours = np.where(known, hours, self.clock.quantile(rng.numpy.random(len(hours))))
        ticks = round_to(np.round(np.nan_to_num(hours).clip(0, 24) * (DAY // 24)).astype(np.int64), self.grid)
        ticks = np.clip(ticks, 0, DAY - max(self.grid, 1))
        moved = np.empty_like(ticks)
        moved[np.lexsort((np.arange(len(day)), day, part.subject))] = ticks[np.lexsort((ticks, day, part.subject))]
        return moved

    # -- gaps as scores ------------------------------------------------------------------------------------------

    def gap_score(self, gap: np.ndarray, first: np.ndarray, rng: Rng) -> np.ndarray:
        """Normal scores of gaps [d]; first gaps have a law of their own (0 where the clock has none)."""
        return self._by_place(gap, first, lambda law, x, r: law.encode(x, r), rng)

    def gap_days(self, score: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Gaps [d] of normal scores."""
        return np.nan_to_num(self._by_place(score, first, lambda law, z, _: law.decode(z), Rng(0)))

    def _by_place(self, x: np.ndarray, first: np.ndarray, apply: Any, rng: Rng) -> np.ndarray:
        out = np.zeros(len(x))
        assert self.gaps is not None
        for place, (law, rows) in enumerate(zip(self.gaps, (first, ~first))):
            if self.schema.clock == "offset" or place:
                out[rows] = apply(law, np.asarray(x, dtype=float)[rows], rng.child("gap", place))
        return out

    # -- state ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state, without the schema."""
        return {
            "start": self.start.to_json() if self.start else None,
            "gaps": [law.to_json() for law in self.gaps] if self.gaps else None,
            "grid": self.grid,
            "clock": self.clock.to_json() if self.clock else None,
            "reference": self.reference,
            "index": self.index,
            "weekdays": None if self.weekdays is None else self.weekdays.to_json(),
        }

    @classmethod
    def from_json(cls, schema: Schema, state: Mapping[str, Any]) -> StepTimes:
        law = QuantileTransform.from_json
        return cls(
            schema,
            law(state["start"]) if state["start"] else None,
            (law(state["gaps"][0]), law(state["gaps"][1])) if state["gaps"] else None,
            state["grid"],
            law(state["clock"]) if state["clock"] else None,
            state["reference"],
            state["index"],
            None if state["weekdays"] is None else Weekdays.from_json(state["weekdays"]),
        )


def _meets_origin(steps: Steps, k_min: int) -> bool:
    """Have a fifth of the courses that pass the origin, and `k_min` of them, a step exactly there?"""
    later = steps.time[1:][~steps.first[1:]]
    before, owner = steps.time[:-1][~steps.first[1:]], steps.subject[1:][~steps.first[1:]]
    passed = len(np.unique(owner[(before < 0) & (later >= 0)]))
    met = len(np.unique(owner[(before < 0) & (later == 0)]))
    return met >= k_min and met >= 0.2 * passed


def _moved_to_origin(time: np.ndarray, at: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Times [ticks] with the first step that says so, and follows one before the origin, moved there; later steps keep
    their distance to it."""
    hit = at.copy()
    hit[0:1] = False
    hit[1:] &= (subject[1:] == subject[:-1]) & (time[:-1] < 0)
    rows = np.flatnonzero(hit)
    rows = rows[np.unique(subject[rows], return_index=True)[1]]
    start, off = np.full(subject[-1] + 1 if len(subject) else 0, len(time)), np.zeros(len(time), np.int64)
    start[subject[rows]] = rows
    moved = np.arange(len(time)) >= start[subject]
    off[moved] = time[start[subject[moved]]]
    return time - off


def _hours(ticks: np.ndarray) -> np.ndarray:
    """Time of day [h]."""
    return ticks % DAY / (DAY / 24)
