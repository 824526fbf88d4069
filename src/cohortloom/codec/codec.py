"""Cohort to arrays and back.

    subject = statics (one row) + steps (one row each: visit columns, folded child events, gap before it)

`Codec.fit` learns everything from training patients: levels, laws of numbers, grids of times, frequent codes, laws of
times within a step. `encode` and `decode` only use what was learned, work on a slice of subjects, and never loop over
patients. Keys and links do not pass through the arrays: decoding makes them, so they always hold.

Times: see `step_times`. Static timestamps count from the subject's origin, timestamps of a visit from the start of the
visit, those of an event from the event. `gap` is always in days, on both scales, and is what decoding uses;
`times.gap_score` and `times.gap_days` turn it into a normal score and back for models that want one.
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
from cohortloom.codec.clock import DAY, grid_of, series_of, ticks_of, ticks_per_day
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.derived import Derived
from cohortloom.codec.event_laws import between_moments, event_laws, with_laws
from cohortloom.codec.fold import Fold, rows_of
from cohortloom.codec.fold_fit import fit_fold
from cohortloom.codec.inputs import check_arrays, check_schema, check_settings, fit_cells, one_row_each, slice_of
from cohortloom.codec.naturals import derived_statics, derived_visits, rewrite_statics, write_statics, write_visits
from cohortloom.codec.step_times import NO_YES, StepTimes
from cohortloom.codec.steps import Steps, step_table, steps_of, usual_width
from cohortloom.codec.tensors import Encoded, Feature, Layout, SequenceArrays, StaticArrays
from cohortloom.codec.unfold import unfold
from cohortloom.codec.where import held_levels, where_values
from cohortloom.cohort import Cohort, Origin
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["Codec"]

_MOST_LEVELS = 12  # of a static column that tells rare codes apart
_VISITS_PER_SUBJECT = 1_000_000


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
        times: When steps are.
        derived: Laws between static columns and between visit columns.
        width: Width of a step where there is no visit table [ticks].
        notes: What was left out or settled while fitting (counts only).
    """

    schema: Schema
    layout: Layout
    times: StepTimes
    statics: tuple[Cell, ...] = ()
    visits: tuple[Cell, ...] = ()
    folds: tuple[Fold, ...] = ()
    counts: Mapping[str, QuantileTransform] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    derived: tuple[Derived, ...] = ()
    width: int = DAY
    k_min: int = 5
    notes: dict[str, int] = field(default_factory=dict)

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
        times = StepTimes.fit(schema, steps, k_min=k_min, width=width, sequence=layout.sequence)
        codec = cls(schema, layout, times, width=width, k_min=k_min, notes=notes)
        learned: dict[str, Any] = {}
        kwargs = {"k_min": k_min, "bounds": bounds}
        origin = times.origins(steps)
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
                    days=times.clock is not None,
                    **kwargs,
                )
            )
        codec = replace(codec, **learned)._fit_derived(cohort, steps)
        static = codec._encode_static(cohort, steps, Rng(0)) if layout.static else None
        about = codec._about_patients(static, len(ids))
        return codec._tell_rare(steps, about)._fit_events(cohort, steps, about, max_codes=max_codes, **kwargs)

    def _fit_derived(self, cohort: Cohort, steps: Steps) -> Codec:
        """The same codec with the laws between columns."""
        frames = {name: one_row_each(cohort, name, steps.ids)[0].to_dict() for name in self.schema.statics}
        here = tuple(cell for cell in self.statics if cell.table not in self.absent)
        start = np.where(steps.length > 0, self.times.origins(steps) / DAY, np.nan)
        whole, course = self.times.clock is not None, self.layout.sequence
        laws = derived_statics(self.schema, here, frames, steps, start, whole=whole, course=course)
        if steps.frame is not None:
            frames[self.schema.visit_table or ""] = steps.frame.to_dict()
            laws += derived_visits(self.schema, self.visits, here, frames, steps)
        notes = {f"{law.path}: follows from {', '.join(p for p, _ in law.terms)}": len(steps.length) for law in laws}
        fixed = {law.path for law in laws if law.dropped} | {law.moved or "" for law in laws}
        tables = {name: frames[name] for name in self.schema.statics}
        statics = anchored(self.schema, self.statics, tables, self.times.origins(steps), fixed, k_min=self.k_min)
        return replace(self, derived=laws, statics=statics, notes=self.notes | notes)

    def _tell_rare(self, steps: Steps, about: np.ndarray) -> Codec:
        """The same codec with what patients' levels say of rare levels of the visit table."""
        if steps.frame is None or not self.layout.static:
            return self
        frame = steps.frame
        told = (c.told(frame[c.column], steps.subject, about) if c.hides else c for c in self.visits)
        return replace(self, visits=tuple(told))

    def _fit_events(
        self, cohort: Cohort, steps: Steps, about: np.ndarray, *, k_min: int, max_codes: int | None, bounds: str
    ) -> Codec:
        """The same codec with its event tables."""
        schema, folds, notes = self.schema, [], dict(self.notes)
        ends = self._ends(steps.frame)
        counts: dict[str, QuantileTransform] = {}
        origin = self.times.origins(steps)
        limit = None
        if steps.frame is None and schema.clock != "order":
            limit = self.width / ticks_per_day(schema)
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
            columns = fold.encode(schema, rows)
            if ends and not fold.per_subject:
                fold = folds[-1] = fold.paced_by(columns, steps, ends, ticks_per_day(schema))
                columns = fold.per_day(columns, steps, ends)
            for feature, (values, _) in zip(fold.features, columns):
                if feature.kind == "number" and feature.always:
                    counts[feature.name] = QuantileTransform.fit(
                        values, k_min, decimals=feature.decimals, low=0.0, high=feature.high, subject=owner
                    )
        laws = [law for name in schema.events for law in event_laws(schema, name, cohort.tables)]
        return replace(self, folds=tuple(folds), counts=counts, notes=notes, derived=(*self.derived, *laws))

    # -- features ------------------------------------------------------------------------------------------------

    @cached_property
    def static_features(self) -> tuple[Feature, ...]:
        """Features of a subject, in the order of the array's columns."""
        if not self.layout.static:
            return ()
        made = [Feature(f"{name}.#row", "category", NO_YES, always=True) for name in self.absent]
        folded = (feature for fold in self.folds if fold.per_subject for feature in fold.features)
        return (*made, *self.times.static_features, *(cell.feature for cell in self._modelled(self.statics)), *folded)

    @cached_property
    def sequence_features(self) -> tuple[Feature, ...]:
        """Features of a step, in the order of the array's columns."""
        if not self.layout.sequence:
            return ()
        folded = (feature for fold in self.folds if not fold.per_subject for feature in fold.features)
        return (*self.times.step_features, *(cell.feature for cell in self._modelled(self.visits)), *folded)

    @cached_property
    def transforms(self) -> dict[str, QuantileTransform]:
        """Feature -> law of its numbers."""
        modelled = self._modelled((*self.statics, *self.visits))
        cells = {cell.feature.name: cell.law for cell in modelled if cell.law} | self.times.laws
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
        origin = self.times.origins(steps)
        columns: list[tuple[np.ndarray, np.ndarray]] = []
        frames = {name: one_row_each(cohort, name, steps.ids) for name in self.schema.statics}
        yes = np.ones(len(steps.length), bool)
        columns += [(2.0 + frames[name][1], yes) for name in self.absent]
        columns += self.times.encode_start(steps)
        cells = self._modelled(self.statics)
        tables = {name: frame.to_dict() for name, (frame, _) in frames.items()}
        for cell in cells:
            reference = reference_of(self.schema, cell, tables, origin)
            columns.append(cell.encode(self.schema, tables[cell.table][cell.column], reference))
        columns += self._encode_folds(cohort, steps, per_subject=True)
        arrays = self._stack(self.static_features, columns, len(steps.length), rng)
        return StaticArrays(self.static_features, *arrays)

    def _encode_steps(self, cohort: Cohort, steps: Steps, rng: Rng) -> SequenceArrays:
        columns = self.times.encode_steps(steps)
        cells = self._modelled(self.visits)
        columns += [cell.encode(self.schema, steps.frame[cell.column], steps.time) for cell in cells]
        columns += self._encode_folds(cohort, steps, per_subject=False)
        arrays = self._stack(self.sequence_features, columns, len(steps.time), rng)
        return SequenceArrays(self.sequence_features, *arrays, self.times.gaps_of(steps), steps.length)

    def _encode_folds(self, cohort: Cohort, steps: Steps, *, per_subject: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        columns, ends = [], self._ends(steps.frame)
        for fold in self.folds:
            if fold.per_subject == per_subject:
                grid = fold.times.grid if fold.times else 1
                frame = cohort.tables[fold.table]
                rows = rows_of(self.schema, fold.table, frame, steps, self.times.origins(steps), grid)
                columns += fold.per_day(fold.encode(self.schema, rows), steps, ends)
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
        encoded, steps = self._placed(encoded, ids, rng, dates)
        tables: dict[str, pl.DataFrame] = {}
        if self.layout.static and encoded.static is not None:
            tables |= self._decode_static(encoded.static, steps, ids, rng)
        visits, about = None, self._about_patients(encoded.static if self.layout.static else None, n)
        if self.layout.sequence and encoded.sequence is not None and self.schema.visit_table is not None:
            statics = {name: frame.to_dict() for name, frame in tables.items() if name not in self.absent}
            visits = self._decode_visits(encoded.sequence, steps, ids, statics, about, rng)
            tables[self.schema.visit_table] = visits
        tables |= self._decode_events(encoded, steps, visits, tables, ids, about, rng)
        return Cohort.build(self.schema, tables, origin=Origin("synthetic", "codec"))

    def step_times(self, encoded: Encoded, rng: Rng, *, ids: np.ndarray) -> np.ndarray:
        """Start of each step [ticks] as `decode` places it with the same stream and ids (ascending)."""
        return self._placed(encoded, np.asarray(ids, dtype=np.int64), rng)[1].time

    def origins(self, static: StaticArrays, rng: Rng, *, ids: np.ndarray) -> np.ndarray:
        """Origin of each subject [ticks] as `decode` places it with the same stream and ids (ascending)."""
        encoded, steps = self._placed(Encoded(static, None), ids, rng)
        return self.times.origins(steps, encoded.static)

    def _placed(
        self, encoded: Encoded, ids: np.ndarray, rng: Rng, dates: Literal["kept", "later", "free"] = "kept"
    ) -> tuple[Encoded, Steps]:
        """The arrays on scale "raw", and when their steps are."""
        encoded = Encoded(self.raw(encoded.static), self.raw(encoded.sequence))
        return encoded, self.times.decode(encoded, ids, rng, statics=self._modelled(self.statics), dates=dates)

    def raw(self, part: Any) -> Any:
        """Static or sequence arrays of the layout on scale "raw"; None stays."""
        if part is None or self.layout.scale == "raw":
            return part
        values = part.values.astype(float)
        for j, feature in enumerate(part.features):
            law = self.transforms.get(feature.name)
            if law is not None:
                values[:, j] = law.decode(values[:, j])
        return replace(part, values=values)

    def _decode_static(self, part: StaticArrays, steps: Steps, ids: np.ndarray, rng: Rng) -> dict[str, pl.DataFrame]:
        origin = self.times.origins(steps, part)
        at = {feature.name: j for j, feature in enumerate(part.features)}
        frames, tables = {}, {}
        for name, table in self.schema.statics.items():
            columns = frames[name] = {"subject_id": pl.Series("subject_id", ids)}
            for column in table.columns:
                cell = next((c for c in self.statics if (c.table, c.column) == (name, column) and c.beside), None)
                since = origin if cell is None else reference_of(self.schema, cell, frames, origin)
                columns[column] = self._decode_column(self.statics, name, column, part, at, since, ids, rng)
        laws = tuple(law for law in self.derived if law.path.partition(".")[0] in frames)
        whole, begin = self.times.clock is not None, f"{step_table(self.schema)}.start"
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

    def lawful(self, cohort: Cohort, rng: Rng) -> Cohort:
        """Whole patients with what follows from others computed again, after a repair moved it: columns of statics and
        visits, and in rows of events what counts the time between moments (a length of stay)."""
        tables = dict(cohort.tables)
        frames = {name: tables[name].to_dict() for name in self.schema.statics if name not in self.absent}
        rewrite_statics(self.schema, self.derived, self.statics, frames, rng.child("lawful").numpy)
        tables |= {name: pl.DataFrame(columns) for name, columns in frames.items()}
        visit, steps = self.schema.visit_table or "", steps_of(cohort, cohort.subjects)
        laws = tuple(law for law in self.derived if law.path.partition(".")[0] == visit)
        if laws and steps.frame is not None and steps.frame.height:
            mended = Cohort.build(self.schema, tables)
            own = {name: one_row_each(mended, name, steps.ids)[0].to_dict() for name in frames}
            rows = own | {visit: steps.frame.to_dict()}
            draw = rng.child("lawful", visit).numpy
            write_visits(self.schema, laws, self.visits, self.statics, rows, steps, draw)
            tables[visit] = pl.DataFrame(rows[visit])
        for name in self.schema.events:
            laws = between_moments(self.schema, self.derived, name)
            draw = rng.child("lawful", name).numpy
            tables[name] = with_laws(self.schema, laws, name, tables[name], tables, draw) if laws else tables[name]
        return Cohort.build(self.schema, tables, signals=cohort.signals, origin=cohort.origin)

    def _decode_visits(
        self, part: SequenceArrays, steps: Steps, ids: np.ndarray, statics: dict[str, dict[str, pl.Series]],
        about: np.ndarray, rng: Rng,
    ) -> pl.DataFrame:  # fmt: skip
        """The visit table, one row per step."""
        name = self.schema.visit_table or ""
        facts = about[steps.subject] if any(cell.rare_lift for cell in self.visits) else None
        visit = ids[steps.subject] * _VISITS_PER_SUBJECT + part.position + 1
        columns = {
            "subject_id": pl.Series("subject_id", ids[steps.subject]),
            "visit_id": pl.Series("visit_id", visit),
            "time": series_of(self.schema, steps.time),
        }
        at = {feature.name: j for j, feature in enumerate(part.features)}
        for column in self.schema.tables[name].columns:
            columns[column] = self._decode_column(self.visits, name, column, part, at, steps.time, visit, rng, facts)
        laws = tuple(law for law in self.derived if law.path.partition(".")[0] == name)
        frames = statics | {name: columns}
        write_visits(self.schema, laws, self.visits, self.statics, frames, steps, rng.child("derived").numpy)
        return pl.DataFrame(frames[name])

    def _decode_events(
        self,
        encoded: Encoded,
        steps: Steps,
        visits: pl.DataFrame | None,
        statics: dict[str, pl.DataFrame],
        ids: np.ndarray,
        about: np.ndarray,
        rng: Rng,
    ) -> dict[str, pl.DataFrame]:
        """The event tables whose features the arrays hold."""
        tables, ends = {}, self._ends(visits)
        origin = self.times.origins(steps, encoded.static if self.layout.static else None)
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
            tables[fold.table] = with_laws(self.schema, laws, fold.table, rows, statics, draw) if laws else rows
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
        facts: np.ndarray | None = None,
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
        series = cell.decode(self.schema, values, observed, reference, draw, facts)
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

    def _ends(self, visits: pl.DataFrame | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Timestamps of the visit table [ticks]."""
        return {c.column: ticks_of(visits[c.column]) for c in self.visits if c.kind == "time" and visits is not None}

    # -- state ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state, without the schema."""
        return {
            "layout": dict(self.layout.__dict__),
            "times": self.times.to_json(),
            "statics": [cell.to_json() for cell in self.statics],
            "visits": [cell.to_json() for cell in self.visits],
            "folds": [fold.to_json() for fold in self.folds],
            "counts": {name: law.to_json() for name, law in self.counts.items()},
            "absent": list(self.absent),
            "derived": [law.to_json() for law in self.derived],
            "width": self.width,
            "k_min": self.k_min,
            "notes": dict(self.notes),
        }

    @classmethod
    def from_json(cls, schema: Schema, state: Mapping[str, Any]) -> Codec:
        """The codec of a state written by `to_json`."""
        law = QuantileTransform.from_json
        return cls(
            schema,
            Layout(**state["layout"]),
            StepTimes.from_json(schema, state["times"]),
            tuple(Cell.from_json(c) for c in state["statics"]),
            tuple(Cell.from_json(c) for c in state["visits"]),
            tuple(Fold.from_json(f) for f in state["folds"]),
            {name: law(s) for name, s in state["counts"].items()},
            tuple(state["absent"]),
            tuple(Derived.from_json(d) for d in state["derived"]),
            state["width"],
            state["k_min"],
            dict(state["notes"]),
        )
