"""Cohort to arrays and back.

    subject = statics (one row) + steps (one row each: visit columns, folded child events, gap before it)

`Codec.fit` learns everything from training patients: levels, laws of numbers, grids of times, frequent codes, laws of
times within a step. `encode` and `decode` only use what was learned, work on a slice of subjects, and never loop over
patients. Keys and links do not pass through the arrays: decoding makes them, so they always hold.

Times: for clock "timestamp" the subject's origin is the start of its first step ("<visits>.start", days since
1970-01-01; a subject without steps has none and its dates count from the codec's `reference` day); for the other clocks
the origin is zero. Static timestamps count from the origin, timestamps of a visit from the start of the visit, those of
an event from the event. `gap` is always in days, on both scales, and is what decoding uses; `gap_score` and `gap_days`
turn it into a normal score and back for models that want one.

Visits on different days have a time of day: start and gaps are then whole days, from calendar day to calendar day, and
"<visits>.clock" is the time of day [h]. Steps that lie hours apart keep fractions of days. Where courses begin before
the origin of clock "offset" (an index date) and many of those that reach it have a step exactly there, "<visits>.index"
says which step that is, as a sum of gaps would miss it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from cohortloom.codec.anchors import anchored, reference_of
from cohortloom.codec.cells import Cell
from cohortloom.codec.clock import DAY, floor_to, grid_of, has_days, round_to, series_of, ticks_of, ticks_per_day
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.derived import Derived
from cohortloom.codec.event_laws import event_laws, with_laws
from cohortloom.codec.fold import Fold, rows_of
from cohortloom.codec.fold_fit import fit_fold
from cohortloom.codec.inputs import check_arrays, check_schema, check_settings, fit_cells, one_row_each, slice_of
from cohortloom.codec.laws import quantiles
from cohortloom.codec.naturals import derived_statics, derived_visits, write_statics, write_visits
from cohortloom.codec.steps import Steps, step_table, steps_of, usual_width
from cohortloom.codec.tensors import Encoded, Feature, Layout, SequenceArrays, StaticArrays
from cohortloom.codec.unfold import unfold
from cohortloom.codec.weekdays import Weekdays
from cohortloom.codec.where import held_levels, where_values
from cohortloom.cohort import Cohort, Origin
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["Codec"]

_MOST_LEVELS = 12  # of a static column that tells rare codes apart
_VISITS_PER_SUBJECT = 1_000_000
_NO_YES = ("<missing>", "<rare>", "no", "yes")


@dataclass(frozen=True)
class Codec:
    """What was learned to turn cohorts of one schema into arrays. Make one with `Codec.fit`.

    Args:
        schema: Schema of the cohorts.
        layout: Parts and scale of the arrays.
        statics, visits: Columns of the static tables and of the visit table.
        folds: Event tables.
        counts: Laws of the numbers of rows.
        absent: Static tables that some subjects lack.
        start: Law of the first step's calendar day, None if the clock has no dates.
        gaps: Laws of a subject's first gap and of later gaps [d].
        grid: Grid of the step times [ticks].
        clock: Law of the time of day [h]; None where start and gaps hold all of a time.
        derived: Laws between static columns and between visit columns.
        reference: Origin of subjects without steps [ticks].
        width: Width of a step where there is no visit table [ticks].
        notes: What was left out or settled while fitting (counts only).
        index: Has the step at the origin a feature?
        weekdays: Weekdays of the steps; None without dates.
    """

    schema: Schema
    layout: Layout
    statics: tuple[Cell, ...] = ()
    visits: tuple[Cell, ...] = ()
    folds: tuple[Fold, ...] = ()
    counts: Mapping[str, QuantileTransform] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    start: QuantileTransform | None = None
    gaps: tuple[QuantileTransform, QuantileTransform] | None = None
    grid: int = 1
    clock: QuantileTransform | None = None
    derived: tuple[Derived, ...] = ()
    reference: int = 0
    width: int = DAY
    k_min: int = 5
    notes: dict[str, int] = field(default_factory=dict)
    index: bool = False
    weekdays: Weekdays | None = None

    # -- fitting -------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        layout: Layout,
        *,
        k_min: int = 5,
        max_codes: int | None = None,
        bounds: Literal["schema", "data"] = "schema",
        step_days: float | None = None,
    ) -> Codec:
        """Learn a codec from training patients.

        Args:
            cohort: Training patients.
            layout: Parts and scale wanted.
            k_min: A code is kept if at least this many patients hold it; tails end at this extreme.
            max_codes: Codes with a feature of their own, per table; None: by the size of the cohort.
            bounds: "schema": numbers keep the bounds of the schema; "data": where it has none, those of the training
                data (k-th extremes).
            step_days: Width of a step where the schema has no visit table; None: a day, or every time of its own where
                few columns are recorded many times a day (monitors, sensors).

        Raises:
            SettingsError: a setting is out of range.
            DataError: a subject has two rows in a static table.
        """
        check_settings(layout, k_min, max_codes, bounds, step_days)
        schema = cohort.schema
        width = usual_width(cohort) if step_days is None else max(1, round(step_days * DAY))
        ids = cohort.subjects
        steps = steps_of(cohort, ids, width=width)
        notes = {"visits without a time": steps.n_untimed} if steps.n_untimed else {}
        dated = schema.clock == "timestamp"
        reference = 0
        if dated and len(steps.time):
            year = 1461 * DAY // 4
            reference = round(float(np.median(steps.time)) / year) * year // DAY * DAY
        codec = cls(schema, layout, width=width, reference=reference, k_min=k_min, notes=notes)
        if steps.frame is not None and has_days(schema, steps.time, steps.first):
            codec = replace(codec, clock=replace(quantiles(_hours(steps.time), k_min, steps.subject), high=24.0))
        learned: dict[str, Any] = {}
        kwargs = {"k_min": k_min, "bounds": bounds}
        origin = codec._origins(steps)
        cells, absent = [], []
        for name in schema.statics:
            frame, present = one_row_each(cohort, name, ids)
            if not present.all():
                absent.append(name)
            cells += fit_cells(schema, name, frame, np.arange(len(ids)), origin, max_codes=max_codes, **kwargs)
        learned["statics"], learned["absent"] = tuple(cells), tuple(absent)
        if steps.frame is not None:
            table = schema.visit_table or ""
            learned["visits"] = tuple(
                fit_cells(
                    schema,
                    table,
                    steps.frame,
                    steps.subject,
                    steps.time,
                    max_codes=max_codes,
                    days=codec.clock is not None,
                    **kwargs,
                )
            )
        if step_table(schema) is not None:
            per_day = ticks_per_day(schema)
            gap, first, subject = codec._gaps(steps), steps.first, steps.subject
            learned["index"] = codec.layout.sequence and schema.clock == "offset" and _meets_origin(steps, k_min)
            learned["grid"] = grid_of(schema, steps.time) if steps.frame is not None or not dated else width
            whole = schema.clock == "order" or codec.clock is not None or learned["grid"] % DAY == 0
            decimals = 0 if whole else None
            learned["gaps"] = tuple(
                QuantileTransform.fit(gap[part], k_min, decimals=decimals, subject=subject[part])
                for part in (first, ~first)
            )
            learned["gaps"] = tuple(replace(law, decimals=decimals) for law in learned["gaps"])
            if dated:
                law = QuantileTransform.fit(codec._origins(steps)[steps.length > 0] / per_day, k_min)
                learned["start"] = replace(law, decimals=decimals)
                even = np.arange(0.5, len(steps.length)) / len(steps.length)
                learned["weekdays"] = Weekdays.fit(steps, learned["start"].quantile(even))
        codec = replace(codec, **learned)._fit_derived(cohort, steps)
        return codec._fit_events(cohort, steps, max_codes=max_codes, **kwargs)

    def _fit_derived(self, cohort: Cohort, steps: Steps) -> Codec:
        """The same codec with the laws between columns."""
        frames = {name: one_row_each(cohort, name, steps.ids)[0].to_dict() for name in self.schema.statics}
        here = tuple(cell for cell in self.statics if cell.table not in self.absent)
        start = np.where(steps.length > 0, self._origins(steps) / DAY, np.nan)
        whole, course = self.clock is not None, self.layout.sequence
        laws = derived_statics(self.schema, here, frames, steps, start, whole=whole, course=course)
        if steps.frame is not None:
            frames[self.schema.visit_table or ""] = steps.frame.to_dict()
            laws += derived_visits(self.schema, self.visits, here, frames, steps)
        notes = {f"{law.path}: follows from {', '.join(p for p, _ in law.terms)}": len(steps.length) for law in laws}
        fixed = {law.path for law in laws if law.dropped} | {law.moved or "" for law in laws}
        tables = {name: frames[name] for name in self.schema.statics}
        statics = anchored(self.schema, self.statics, tables, self._origins(steps), fixed, k_min=self.k_min)
        return replace(self, derived=laws, statics=statics, notes=self.notes | notes)

    def _fit_events(self, cohort: Cohort, steps: Steps, *, k_min: int, max_codes: int | None, bounds: str) -> Codec:
        """The same codec with its event tables."""
        schema, folds, notes = self.schema, [], dict(self.notes)
        ends = self._ends(steps.frame)
        counts: dict[str, QuantileTransform] = {}
        origin = self._origins(steps)
        limit = None
        if steps.frame is None and schema.clock != "order":
            limit = self.width / ticks_per_day(schema)
        about = self._about_patients(
            self._encode_static(cohort, steps, Rng(0)) if self.layout.static else None, len(steps.length)
        )
        for name, table in schema.events.items():
            frame = cohort.tables[name]
            grid = 1
            if table.timed:
                ticks, known = ticks_of(frame["time"])
                grid = grid_of(schema, ticks[known])
            rows = rows_of(schema, name, frame, steps, origin, grid)
            fold, left_out = fit_fold(
                schema, name, rows, steps, ends,
                grid=grid, limit=limit, k_min=k_min, max_codes=max_codes, bounds=bounds, about=about,
            )  # fmt: skip
            notes |= left_out
            folds.append(fold)
            owner = np.arange(len(steps.length)) if fold.per_subject else steps.subject
            for feature, (values, _) in zip(fold.features, fold.encode(schema, rows)):
                if feature.kind == "number" and feature.always:
                    counts[feature.name] = QuantileTransform.fit(
                        values, k_min, decimals=feature.decimals, low=0.0, high=feature.high, subject=owner
                    )
        laws = [law for name in schema.events for law in event_laws(schema, name, cohort.tables[name])]
        return replace(self, folds=tuple(folds), counts=counts, notes=notes, derived=(*self.derived, *laws))

    # -- features ------------------------------------------------------------------------------------------------

    @cached_property
    def static_features(self) -> tuple[Feature, ...]:
        """Features of a subject, in the order of the array's columns."""
        if not self.layout.static:
            return ()
        made = [Feature(f"{name}.#row", "category", _NO_YES, always=True) for name in self.absent]
        if self.start is not None:
            made.append(Feature(f"{step_table(self.schema)}.start", "number", decimals=self.start.decimals))
        folded = (feature for fold in self.folds if fold.per_subject for feature in fold.features)
        return (*made, *(cell.feature for cell in self._modelled(self.statics)), *folded)

    @cached_property
    def sequence_features(self) -> tuple[Feature, ...]:
        """Features of a step, in the order of the array's columns."""
        if not self.layout.sequence:
            return ()
        folded = (feature for fold in self.folds if not fold.per_subject for feature in fold.features)
        table, own = step_table(self.schema), []  # the clock needs dates and the index offsets: at most one of them
        if self.clock is not None:
            own = [Feature(f"{table}.clock", "number", low=0.0, high=24.0, always=True)]
        if self.index:
            own = [Feature(f"{table}.index", "category", _NO_YES, always=True)]
        return (*own, *(cell.feature for cell in self._modelled(self.visits)), *folded)

    @cached_property
    def transforms(self) -> dict[str, QuantileTransform]:
        """Feature -> law of its numbers."""
        modelled = self._modelled((*self.statics, *self.visits))
        cells = {cell.feature.name: cell.law for cell in modelled if cell.law}
        if self.start is not None:
            cells[f"{step_table(self.schema)}.start"] = self.start
        if self.clock is not None:
            cells[f"{step_table(self.schema)}.clock"] = self.clock
        for fold in self.folds:
            cells |= fold.laws(self.counts)
        return cells

    # -- encoding ------------------------------------------------------------------------------------------------

    def encode(self, cohort: Cohort, subjects: Iterable | pl.Series | slice | None = None, *, rng: Rng) -> Encoded:
        """Arrays of a cohort, or of some of its subjects.

        Args:
            cohort: Cohort of the codec's schema.
            subjects: Ids, or a slice of `cohort.subjects`; None: all. Subjects always come in the order of
                `cohort.subjects`.
            rng: Breaks ties on scale "normal".

        Raises:
            DataError: another schema, an id that is not in the cohort, two rows of one subject in a static table.
        """
        check_schema(self.schema, cohort)
        part, ids = slice_of(cohort, subjects)
        steps = steps_of(part, ids, width=self.width)
        static = self._encode_static(part, steps, rng.child("codec", "static")) if self.layout.static else None
        sequence = self._encode_steps(part, steps, rng.child("codec", "sequence")) if self.layout.sequence else None
        return Encoded(static, sequence)

    def _encode_static(self, cohort: Cohort, steps: Steps, rng: Rng) -> StaticArrays:
        origin = self._origins(steps)
        columns: list[tuple[np.ndarray, np.ndarray]] = []
        frames = {name: one_row_each(cohort, name, steps.ids) for name in self.schema.statics}
        yes = np.ones(len(steps.length), bool)
        columns += [(2.0 + frames[name][1], yes) for name in self.absent]
        if self.start is not None:
            known = steps.length > 0
            columns.append((np.where(known, origin / DAY, 0.0), known))
        cells = self._modelled(self.statics)
        tables = {name: frame.to_dict() for name, (frame, _) in frames.items()}
        for cell in cells:
            reference = reference_of(self.schema, cell, tables, origin)
            columns.append(cell.encode(self.schema, tables[cell.table][cell.column], reference))
        columns += self._encode_folds(cohort, steps, per_subject=True)
        arrays = self._stack(self.static_features, columns, len(steps.length), rng)
        return StaticArrays(self.static_features, *arrays)

    def _encode_steps(self, cohort: Cohort, steps: Steps, rng: Rng) -> SequenceArrays:
        columns = [] if self.clock is None else [(_hours(steps.time), np.ones(len(steps.time), bool))]
        columns += [(2.0 + (steps.time == 0), np.ones(len(steps.time), bool))] if self.index else []
        cells = self._modelled(self.visits)
        columns += [cell.encode(self.schema, steps.frame[cell.column], steps.time) for cell in cells]
        columns += self._encode_folds(cohort, steps, per_subject=False)
        arrays = self._stack(self.sequence_features, columns, len(steps.time), rng)
        return SequenceArrays(self.sequence_features, *arrays, self._gaps(steps), steps.length)

    def _encode_folds(self, cohort: Cohort, steps: Steps, *, per_subject: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        columns = []
        for fold in self.folds:
            if fold.per_subject == per_subject:
                grid = fold.times.grid if fold.times else 1
                frame = cohort.tables[fold.table]
                rows = rows_of(self.schema, fold.table, frame, steps, self._origins(steps), grid)
                columns += fold.encode(self.schema, rows)
        return columns

    def _stack(
        self, features: tuple[Feature, ...], columns: list[tuple[np.ndarray, np.ndarray]], n: int, rng: Rng
    ) -> tuple[np.ndarray, np.ndarray]:
        """Columns side by side, numbers as normal scores where the layout wants them."""
        values, observed = np.zeros((n, len(columns))), np.zeros((n, len(columns)), bool)
        for j, (feature, (column, seen)) in enumerate(zip(features, columns)):
            law = self.transforms.get(feature.name) if self.layout.scale == "normal" else None
            if law is None:
                values[:, j] = column
            else:
                values[seen, j] = law.encode(column[seen], rng.child(feature.name))
            observed[:, j] = seen
        return values, observed

    # -- decoding ------------------------------------------------------------------------------------------------

    def decode(
        self, encoded: Encoded, rng: Rng, *, ids: np.ndarray, dates: Literal["kept", "later", "free"] = "kept"
    ) -> Cohort:
        """A cohort of new subjects.

        Visit ids are made of the subject's id and the place of the visit, so that parts decoded apart fit together.

        Args:
            encoded: Arrays with the codec's features.
            rng: Draws what the arrays leave open: rare levels, times within a step, repeated values.
            ids: Id of each subject (Int64, distinct).
            dates: "kept": of all steps as the arrays say; "later": steps after the first may be moved to another
                weekday; "free": whole courses too.

        Raises:
            DataError: the arrays have other features, or the number of ids does not fit.
        """
        check_arrays(encoded, self.static_features, self.sequence_features, self.layout, len(ids))
        n = len(ids)
        order = np.argsort(ids, kind="stable")
        if not np.array_equal(order, np.arange(n)):
            encoded, ids = encoded.take(order), np.asarray(ids)[order]
        ids = np.asarray(ids, dtype=np.int64)
        if self.layout.scale == "normal":
            encoded = Encoded(self._values(encoded.static), self._values(encoded.sequence))
        steps = self._decode_steps(encoded, ids, rng)
        if self.weekdays is not None and dates != "kept":
            draw = rng.child("weekdays").numpy
            steps = replace(steps, time=self.weekdays.moved(steps, draw, courses=dates == "free"))
        tables: dict[str, pl.DataFrame] = {}
        if self.layout.static and encoded.static is not None:
            tables |= self._decode_static(encoded.static, steps, ids, rng)
        visits = None
        if self.layout.sequence and encoded.sequence is not None and self.schema.visit_table is not None:
            visits = tables[self.schema.visit_table] = self._decode_visits(
                encoded.sequence, steps, ids, {n: f.to_dict() for n, f in tables.items() if n not in self.absent}, rng
            )
        tables |= self._decode_events(encoded, steps, visits, ids, rng)
        return Cohort.build(self.schema, tables, origin=Origin("synthetic", "codec"))

    def step_times(self, encoded: Encoded, rng: Rng, *, ids: np.ndarray) -> np.ndarray:
        """Start of each step [ticks] as `decode` places it with the same stream and ids (ascending)."""
        if self.layout.scale == "normal":
            encoded = Encoded(self._values(encoded.static), self._values(encoded.sequence))
        return self._decode_steps(encoded, np.asarray(ids, dtype=np.int64), rng).time

    def _values(self, part: Any) -> Any:
        if part is None:
            return None
        values = part.values.astype(float)
        for j, feature in enumerate(part.features):
            law = self.transforms.get(feature.name)
            if law is not None:
                values[:, j] = law.decode(values[:, j])
        return replace(part, values=values)

    def _decode_steps(self, encoded: Encoded, ids: np.ndarray, rng: Rng) -> Steps:
        """Step times from start and gaps."""
        n = len(ids)
        if encoded.sequence is None:
            length, gap = np.zeros(n, np.int64), np.zeros(0)
        else:
            length, gap = encoded.sequence.length.astype(np.int64), encoded.sequence.gap.astype(float)
        origin = np.full(n, self.reference, dtype=np.int64)
        if self.start is not None and encoded.static is not None:
            j = [f.name for f in encoded.static.features].index(f"{step_table(self.schema)}.start")
            days, known = encoded.static.values[:, j], encoded.static.observed[:, j]
            known = known & np.isfinite(days)
            days = np.where(known, self.start.sane(days), self.start.quantile(rng.child("start").numpy.random(n)))
            known |= (length > 0) & np.isfinite(days)
            grid = self.grid if self.clock is None else DAY
            origin = np.where(known, round_to(np.round(np.where(known, days, 0) * DAY).astype(np.int64), grid), origin)
            origin = self._from_shared(encoded.static, origin)
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
        grid = self.grid if self.clock is None else DAY
        time = round_to(ticks + np.round(elapsed * per_day).astype(np.int64), grid)
        if self.clock is not None and encoded.sequence is not None:
            time = time + self._decode_clock(encoded.sequence, time, rng.child("clock"))
        if self.index and encoded.sequence is not None:
            at = (encoded.sequence.values[:, 0] >= 2.5) & encoded.sequence.observed[:, 0]
            time = _moved_to_origin(time, at, encoded.sequence.subject)
        return Steps(pl.Series("subject_id", ids), length, time, None)

    def _from_shared(self, part: StaticArrays, origin: np.ndarray) -> np.ndarray:
        """Origins [ticks]; who reached the shared end of a study began as long before it as the arrays say."""
        cell = next((c for c in self._modelled(self.statics) if c.shared is not None and c.part == ""), None)
        if cell is None or cell.shared is None or cell.grid % DAY or (self.grid % DAY and self.clock is None):
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

    def _decode_static(self, part: StaticArrays, steps: Steps, ids: np.ndarray, rng: Rng) -> dict[str, pl.DataFrame]:
        origin = self._origins(steps, part)
        at = {feature.name: j for j, feature in enumerate(part.features)}
        frames, tables = {}, {}
        for name, table in self.schema.statics.items():
            columns = frames[name] = {"subject_id": pl.Series("subject_id", ids)}
            for column in table.columns:
                cell = next((c for c in self.statics if (c.table, c.column) == (name, column) and c.beside), None)
                since = origin if cell is None else reference_of(self.schema, cell, frames, origin)
                columns[column] = self._decode_column(self.statics, name, column, part, at, since, ids, rng)
        laws = tuple(law for law in self.derived if law.path.partition(".")[0] in frames)
        whole, begin = self.clock is not None, f"{step_table(self.schema)}.start"
        has = (steps.length > 0) | (part.observed[:, at[begin]] if begin in at else False)
        start = np.where(has, origin / DAY, np.nan)
        write_statics(
            self.schema, laws, self.statics, frames, steps, start,
            whole=whole, course=self.layout.sequence, draw=rng.child("derived").numpy,
        )  # fmt: skip
        for name, columns in frames.items():
            frame = pl.DataFrame(columns)
            if name in self.absent:
                frame = frame.filter(part.values[:, at[f"{name}.#row"]] >= 2.5)
            tables[name] = frame
        return tables

    def _decode_visits(
        self, part: SequenceArrays, steps: Steps, ids: np.ndarray, statics: dict[str, dict[str, pl.Series]], rng: Rng
    ) -> pl.DataFrame:
        """The visit table, one row per step."""
        name = self.schema.visit_table or ""
        visit = ids[steps.subject] * _VISITS_PER_SUBJECT + part.position + 1
        columns = {
            "subject_id": pl.Series("subject_id", ids[steps.subject]),
            "visit_id": pl.Series("visit_id", visit),
            "time": series_of(self.schema, steps.time),
        }
        at = {feature.name: j for j, feature in enumerate(part.features)}
        for column in self.schema.tables[name].columns:
            columns[column] = self._decode_column(self.visits, name, column, part, at, steps.time, visit, rng)
        laws = tuple(law for law in self.derived if law.path.partition(".")[0] == name)
        frames = statics | {name: columns}
        write_visits(self.schema, laws, self.visits, self.statics, frames, steps, rng.child("derived").numpy)
        return pl.DataFrame(frames[name])

    def _decode_events(
        self, encoded: Encoded, steps: Steps, visits: pl.DataFrame | None, ids: np.ndarray, rng: Rng
    ) -> dict[str, pl.DataFrame]:
        """The event tables whose features the arrays hold."""
        tables, ends = {}, self._ends(visits)
        about = self._about_patients(encoded.static if self.layout.static else None, len(ids))
        origin = self._origins(steps, encoded.static if self.layout.static else None)
        for fold in self.folds:
            part = encoded.static if fold.per_subject else encoded.sequence
            if part is None or not (self.layout.static if fold.per_subject else self.layout.sequence):
                continue
            at = {feature.name: j for j, feature in enumerate(part.features)}
            real = part.observed & np.isfinite(part.values)
            features = {f.name: (part.values[:, at[f.name]], real[:, at[f.name]]) for f in fold.features}
            for name in features.keys() & self.counts.keys():
                features[name] = (self.counts[name].sane(features[name][0]), features[name][1])
            rows = unfold(
                self.schema, fold, features,
                steps=steps, origin=origin, visits=visits, ends=ends, ids=ids, about=about, rng=rng,
            )  # fmt: skip
            laws = tuple(law for law in self.derived if law.path.partition(".")[0] == fold.table)
            draw = rng.child("laws", fold.table).numpy
            tables[fold.table] = with_laws(self.schema, laws, fold.table, rows, draw) if laws else rows
        return tables

    def _about_patients(self, part: StaticArrays | None, n: int) -> np.ndarray:
        """Levels of the static tables, subject x level: facts for the laws of codes."""
        names = {
            cell.feature.name: len(cell.levels) for cell in self._modelled(self.statics) if cell.kind == "category"
        }
        names = {name: size for name, size in names.items() if 1 < size <= _MOST_LEVELS}
        if part is None:
            return np.zeros((n, sum(names.values())), np.float32)
        at = {feature.name: j for j, feature in enumerate(part.features)}
        found = [part.values[:, at[name], None] == np.arange(2, 2 + size) for name, size in names.items()]
        return np.concatenate([np.zeros((n, 0)), *found], 1).astype(np.float32)

    def _decode_column(
        self,
        cells: tuple[Cell, ...],
        table: str,
        column: str,
        part: Any,
        at: Mapping[str, int],
        reference: np.ndarray,
        row_ids: np.ndarray,
        rng: Rng,
    ) -> pl.Series:
        """Cells of one static or visit column; identifiers are made anew where they may not be empty."""
        cell = next((c for c in cells if c.table == table and c.column == column and c.part in ("", "rest")), None)
        if cell is None:
            if self.schema.tables[table].columns[column].missing:
                return pl.Series(column, [None] * len(row_ids), dtype=pl.String)
            return pl.Series(column, row_ids).cast(pl.String).alias(column)
        j = at.get(f"{table}.{column}")
        if j is None:  # computed from other columns
            return cell.of(self.schema, np.zeros(len(row_ids)), np.zeros(len(row_ids), bool))
        draw = rng.child("decode", table, column).numpy
        values, observed = part.values[:, j], part.observed[:, j]
        if cell.part:
            days, known = (x[:, at[f"{table}.{column}.days"]] for x in (part.values, part.observed))
            values, observed = values + np.round(days), observed & known
        series = cell.decode(self.schema, values, observed, reference, draw)
        if cell.shared is None:
            return series
        ticks, known = ticks_of(series)
        yes = part.values[:, at[f"{table}.{column}.shared"]] >= 2.5
        return series_of(self.schema, np.where(yes, cell.shared, ticks), known, column)

    def _modelled(self, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        """The cells that have a feature."""
        dropped = {law.path for law in self.derived if law.dropped and not law.shown}
        return tuple(cell for cell in cells if f"{cell.table}.{cell.column}" not in dropped)

    # -- fixed values ----------------------------------------------------------------------------------------------

    def encode_where(self, where: Mapping[str, Any]) -> dict[str, float]:
        """Feature -> number of values a user fixes, on the scale of the layout.

        Args:
            where: "table.column" -> value; a visit column means the first visit.

        Raises:
            SettingsError: unknown columns and levels, numbers out of range, all of them listed.

        Example:
            `codec.encode_where({"patients.sex": "F", "visits.nyha": "2"})` gives `{"patients.sex": 2.0, ...}`.
        """
        cells = (self.statics if self.layout.static else ()) + (self.visits if self.layout.sequence else ())
        dropped = {law.path: tuple(path for path, _ in law.terms) for law in self.derived if law.dropped}
        cells = tuple(cell for cell in cells if f"{cell.table}.{cell.column}" not in dropped)
        found = where_values(self.schema, cells, where, dropped)
        if self.layout.scale == "raw":
            return found
        laws = self.transforms
        return {name: float(laws[name].score(np.array([x]))[0]) if name in laws else x for name, x in found.items()}

    def levels_of(self, path: str) -> tuple[str, ...]:
        """Levels of a static or visit column that training patients hold, () if it has none."""
        return held_levels((*self.statics, *self.visits), path)

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

    # -- small parts ---------------------------------------------------------------------------------------------

    def _origins(self, steps: Steps, part: StaticArrays | None = None) -> np.ndarray:
        """Origin of each subject [ticks]."""
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

    def _ends(self, visits: pl.DataFrame | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Timestamps of the visit table [ticks]."""
        return {c.column: ticks_of(visits[c.column]) for c in self.visits if c.kind == "time" and visits is not None}

    def _gaps(self, steps: Steps) -> np.ndarray:
        """Days since the step before; for a first step 0, or the time since the origin for clock "offset"."""
        time = floor_to(steps.time, 1 if self.clock is None else DAY)
        before = np.concatenate([[0], time[:-1]]) if len(time) else time
        gap = (time - before) / ticks_per_day(self.schema)
        first = steps.time / ticks_per_day(self.schema) if self.schema.clock == "offset" else 0.0
        return np.where(steps.first, first, gap)

    # -- state ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state, without the schema."""
        return {
            "layout": dict(self.layout.__dict__),
            "statics": [cell.to_json() for cell in self.statics],
            "visits": [cell.to_json() for cell in self.visits],
            "folds": [fold.to_json() for fold in self.folds],
            "counts": {name: law.to_json() for name, law in self.counts.items()},
            "absent": list(self.absent),
            "start": self.start.to_json() if self.start else None,
            "gaps": [law.to_json() for law in self.gaps] if self.gaps else None,
            "grid": self.grid,
            "clock": self.clock.to_json() if self.clock else None,
            "derived": [law.to_json() for law in self.derived],
            "reference": self.reference,
            "width": self.width,
            "k_min": self.k_min,
            "notes": dict(self.notes),
            "index": self.index,
            "weekdays": None if self.weekdays is None else self.weekdays.to_json(),
        }

    @classmethod
    def from_json(cls, schema: Schema, state: Mapping[str, Any]) -> Codec:
        """The codec of a state written by `to_json`."""
        law = QuantileTransform.from_json
        return cls(
            schema,
            Layout(**state["layout"]),
            tuple(Cell.from_json(c) for c in state["statics"]),
            tuple(Cell.from_json(c) for c in state["visits"]),
            tuple(Fold.from_json(f) for f in state["folds"]),
            {name: law(s) for name, s in state["counts"].items()},
            tuple(state["absent"]),
            law(state["start"]) if state["start"] else None,
            (law(state["gaps"][0]), law(state["gaps"][1])) if state["gaps"] else None,
            state["grid"],
            law(state["clock"]) if state["clock"] else None,
            tuple(Derived.from_json(d) for d in state["derived"]),
            state["reference"],
            state["width"],
            state["k_min"],
            dict(state["notes"]),
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
