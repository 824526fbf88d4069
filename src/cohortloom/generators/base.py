"""What every generator is.

A generator learns p(patient) from a cohort and draws new patients from it. Its settings are its fields, nothing else; a
subclass writes hooks in terms of arrays, the first two always,

    _fit(data, context, rng, run)          learn from encoded training patients
    _draw(n, context, rng, where)          n encoded patients
    _continue(encoded, until, rng)         the same patients with more steps      (ability "extend")
    _impute_cells(encoded, holes, rng)     the same patients with fewer holes     (ability "impute")

and inherits the rest: checks, encoding, shards, decoding, repair and redraw of patients that break a rule, new ids,
origin, saving, loading. `context` holds upstream statics: in `_fit` only for a generator whose layout has no
statics of its own, in `_draw` also where the caller hands `given` patients to continue from.

A sample is cut into shards of fixed size with a stream each, so it does not depend on the number of workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import polars as pl

from cohortloom.codec import Codec
from cohortloom.codec.tensors import Encoded, Layout, StaticArrays
from cohortloom.cohort import Cohort, Origin
from cohortloom.errors import DataError, NotFittedError, Problem, SettingsError
from cohortloom.generators.condition import Condition
from cohortloom.registry import check_settings, settings_of, unknown_settings
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.sharding import Shard, merge, plan, run
from cohortloom.sharding.merge import add_notes
from cohortloom.sharding.plan import SHARD_SIZE
from cohortloom.version import __version__

if TYPE_CHECKING:
    from cohortloom.generators.extend import Prefix
    from cohortloom.generators.impute import Holes
    from cohortloom.generators.rebalance import Shares

__all__ = ["Ability", "Generator", "Run"]

Progress = Callable[[float, float, str], None]


class Ability(StrEnum):
    """What a generator can do beside fit and sample. Code asks `ability in generator.abilities`, never for a class."""

    CONDITION = "condition"  #: sample(where=...)
    GIVEN = "given"  #: sample(given=...)
    EXTEND = "extend"  #: extend(prefix)
    IMPUTE = "impute"  #: impute(cohort)
    SCORE = "score"  #: score(cohort)
    RESUME = "resume"  #: fit(checkpoint=..., resume=True)
    PRIVATE = "private"  #: fits with a privacy guarantee
    COPIES = "copies"  #: keeps training records in its model file and hands parts of them out
    WITHOUT_DATA = "without data"  #: needs no cohort


@dataclass(frozen=True)
class Run:
    """How a fit is carried out; nothing here changes what a step-bounded fit learns.

    Args:
        progress: Called with (done, total, note).
        minutes: Budget of wall-clock time [min].
        checkpoint: File for the state of the run.
        resume: Go on from that file.
    """

    progress: Progress | None = None
    minutes: float | None = None
    checkpoint: Path | None = None
    resume: bool = False


@dataclass(kw_only=True)
class Generator(ABC):
    """Base of all generators. Settings are the fields of the dataclass; learned attributes end in "_"."""

    name: ClassVar[str]
    layout: ClassVar[Layout] = Layout()
    abilities: ClassVar[frozenset[Ability]] = frozenset()
    #: What `codec_` is; another class needs `to_json` and `from_json(schema, state)`.
    codec_class: ClassVar[Any] = Codec
    #: Can a fitted model be written without anything that runs?
    storable: ClassVar[bool] = True
    #: Patients drawn at a time. Changing it changes every sample.
    shard_size: ClassVar[int] = SHARD_SIZE

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        problems = unknown_settings(cls, settings, cls.name)
        if problems:
            raise SettingsError("", problems)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_settings(self, self.name)

    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return settings_of(self)

    # -- learning ------------------------------------------------------------------------------------------------

    def fit(
        self,
        cohort: Cohort,
        *,
        seed: int | None,
        progress: Progress | None = None,
        minutes: float | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn from training patients.

        Args:
            cohort: Training patients.
            seed: Same seed, cohort and settings: same model. None draws fresh entropy.
            progress: Called with (done, total, note).
            minutes: Budget of wall-clock time [min]; the result then depends on the machine.
            checkpoint: File to which a long fit writes its state from time to time.
            resume: Go on from that file if it is there (ability "resume"). A resumed fit ends with the bits of one
                that was never interrupted.

        Raises:
            DataError: there is no patient, or the cohort can't be encoded.
            TrainingError: the training diverged.
        """
        if cohort.n_subjects == 0:
            problem = Problem("no-subjects", cohort.schema.name, "there is no patient to learn from", "Read some data.")
            raise DataError("", [problem])
        if minutes is not None and not minutes > 0:
            raise SettingsError("minutes must lie above 0.")
        if resume and checkpoint is None:
            raise SettingsError("resume needs the checkpoint file, e.g. fit(..., checkpoint=path, resume=True).")
        seed = self._seed_of(checkpoint, seed) if resume else seed
        self.schema_ = cohort.schema
        self.n_fitted_ = cohort.n_subjects
        self._learn(
            cohort, Rng(seed).child("fit"), Run(progress, minutes, Path(checkpoint) if checkpoint else None, resume)
        )
        return self

    def _seed_of(self, checkpoint: str | Path | None, seed: int | None) -> int | None:
        """The seed of the run that is resumed, where the caller let it be drawn."""
        return seed

    def _learn(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        """Encode and hand over to `_fit`. Generators that need no arrays replace this and `_make`."""
        layout = self.layout
        self.codec_ = Codec.fit(cohort, replace(layout, static=True))
        encoded = self.codec_.encode(cohort, rng=rng.child("encode"))
        self._fit(*self._parted(encoded), rng.child("model"), run)

    def _parted(self, encoded: Encoded) -> tuple[Encoded, Encoded | None]:
        """(what the generator models, upstream statics or None)."""
        if self.layout.static:
            return encoded, None
        return Encoded(None, encoded.sequence), Encoded(encoded.static, None)

    @abstractmethod
    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        """Learn from encoded patients."""

    @abstractmethod
    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        """Draw `n` encoded patients.

        Args:
            n: Number of patients, at most a shard.
            context: Encoded statics of the patients to continue from, None if all is drawn.
            rng: Stream of this draw.
            where: Feature -> encoded value it must have: statics in every patient, visit columns at the first visit
                (which every patient must then have).
        """

    # -- drawing -------------------------------------------------------------------------------------------------

    def sample(
        self,
        n_subjects: int | None = None,
        *,
        seed: int | None,
        where: Mapping[str, Any] | None = None,
        given: Cohort | None = None,
        rebalance: Shares | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> Cohort:
        """Draw new patients that keep every rule of the schema.

        Args:
            n_subjects: Number of patients; None: as many as `given` has.
            seed: Same seed, same cohort, byte for byte, whatever `workers` is.
            where: "table.column" -> value, for static columns and those of the first visit (ability "condition").
            given: Patients whose static tables are kept and whose course is drawn (ability "given"), in the order of
                their ids.
            rebalance: "table.column" -> {level: share, ...} or "uniform", met exactly (ability "condition"); for visit
                columns the first visit counts. See `rebalance`.
            workers: Processes.
            progress: Called with (done, total, note).

        Returns:
            Exactly `n_subjects` patients with ids 1, 2, ...; origin notes count repaired, redrawn and avoided patients.

        Raises:
            NotFittedError: fit or load first.
            SettingsError: a condition can't be met by this generator or contradicts the schema.
            SamplingError: some patients still break a rule after many redraws.
        """
        self._require_fitted()
        n_subjects = self._check_given(n_subjects, given)
        stream = Rng(seed)
        if rebalance:
            return self._rebalanced(n_subjects, rebalance, dict(where or {}), given, stream, workers, progress)
        pieces = [(shard, dict(where or {})) for shard in self.plan(n_subjects)]
        return self._drawn(pieces, given, stream.seed, workers, progress)

    def _rebalanced(
        self,
        n: int,
        shares: Shares,
        where: dict[str, Any],
        given: Cohort | None,
        stream: Rng,
        workers: int,
        progress: Progress | None,
    ) -> Cohort:
        """A sample with fixed shares."""
        from cohortloom.generators.rebalance import combined, counts_of, pieces, shuffled

        self._require(Ability.CONDITION, "rebalance")
        if given is not None:
            raise SettingsError("sample: given patients have their levels; rebalance can't change them.")
        counts = counts_of(self, shares, n, where)
        groups = combined(self, counts, where, stream.child("rebalance")) if n else []
        drawn = self._drawn(
            [(shard, {**where, **values}) for shard, values in pieces(groups, size=self.shard_size)],
            None,
            stream.seed,
            workers,
            progress,
        )
        origin = replace(drawn.origin, notes={**drawn.origin.notes, "rebalanced": counts})
        return replace(shuffled(drawn, stream.child("rebalance", "order")), origin=origin)

    def _drawn(
        self,
        pieces: list[tuple[Shard, dict[str, Any]]],
        given: Cohort | None,
        seed: int,
        workers: int,
        progress: Progress | None,
    ) -> Cohort:
        """All shards, each with the values that are fixed in it."""
        shards, fixed = [shard for shard, _ in pieces], {shard.number: where for shard, where in pieces}
        conditions: dict[str, Condition] = {}
        for where in fixed.values():  # a wrong condition is refused before anything is drawn
            conditions.setdefault(repr(where), Condition.of(self, where))
        if workers > 1 and len(shards) > 1:
            parts = self._sample_in_processes(shards, fixed, given, seed, workers, progress)
        else:
            parts = []

            def draw(shard: Shard) -> None:
                condition = conditions[repr(fixed[shard.number])]
                parts.append(self._draw_shard(shard, seed=seed, condition=condition, given=_slice(given, shard)))

            run(draw, shards, progress=progress)
        notes = add_notes(part.origin.notes for part in parts)
        return merge(self.schema_, parts, origin=self._origin(seed, notes))

    def plan(self, n_subjects: int) -> list[Shard]:
        """The shards of a cohort of `n_subjects` patients, for `sample_shard`."""
        return plan(n_subjects, size=self.shard_size)

    def sample_shard(
        self, shard: Shard, *, seed: int, where: Mapping[str, Any] | None = None, given: Cohort | None = None
    ) -> Cohort:
        """One shard of `sample(n, seed=seed)`; merging all of `self.plan(n)` gives the same cohort, in any order."""
        self._require_fitted()
        self._check_given(None if given is not None else shard.size, given)
        return self._draw_shard(shard, seed=seed, condition=Condition.of(self, where), given=_slice(given, shard))

    def _draw_shard(self, shard: Shard, *, seed: int, condition: Condition, given: Cohort | None) -> Cohort:
        from cohortloom.generators.redraw import draw_valid  # imports rules, which only drawing needs

        part, notes = draw_valid(self, shard, Rng(seed).child("shard", shard.number), condition, given)
        return replace(part, origin=self._origin(seed, notes))

    def _sample_in_processes(
        self,
        shards: list[Shard],
        fixed: Mapping[int, Mapping[str, Any]],
        given: Cohort | None,
        seed: int,
        workers: int,
        progress: Progress | None,
    ) -> list[Cohort]:
        with TemporaryDirectory(prefix="cohortloom-") as folder:
            self.save(Path(folder) / "model")
            if given is not None:
                given.save(Path(folder) / "given")
            task = partial(_draw_to_folder, folder, seed, fixed, given is not None)
            run(task, shards, workers=workers, progress=progress)
            return [Cohort.load(Path(folder) / f"shard-{shard.number}") for shard in shards]

    def _encode_where(self, where: Mapping[str, Any]) -> dict[str, float]:
        """Feature -> encoded value of each condition."""
        self._require(Ability.CONDITION, "fix values with where")
        return self.codec_.encode_where(where)

    def levels_of(self, path: str) -> tuple[str, ...]:
        """Levels of a column that training patients hold and a condition can fix, () if none."""
        codec = getattr(self, "codec_", None)
        return () if codec is None else codec.levels_of(path)

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        """Patients with these ids, before rules: draw and decode."""
        arrays = self._arrays(len(ids), self._statics_of(given, rng), rng, condition)
        return self._decoded(arrays, ids, given, rng, condition)

    def _statics_of(self, given: Cohort | None, rng: Rng) -> StaticArrays | None:
        return None if given is None else self.codec_.encode(given, rng=rng.child("context")).static

    def _arrays(self, n: int, statics: StaticArrays | None, rng: Rng, condition: Condition) -> Encoded:
        """Arrays of n patients; `statics`: those they shall have."""
        drawn = self._draw(
            n, None if statics is None else Encoded(statics, None), rng.child("draw"), condition.features
        )
        return Encoded(statics, drawn.sequence) if drawn.static is None else drawn

    def _decoded(self, drawn: Encoded, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        """Drawn patients as a cohort with these ids."""
        fixed = given is not None or any(_is_date(self.schema_, name) for name in condition.values)
        return self.codec_.decode(drawn, rng.child("decode"), ids=ids, dates="later" if fixed else "free")

    def avoided(self, drawn: Cohort) -> pl.Series:
        """Ids of drawn patients that are drawn again if that helps."""
        return drawn.subjects.clear()

    def _origin(self, seed: int, notes: dict[str, Any]) -> Origin:
        return Origin("synthetic", self.name, seed=seed, version=__version__, notes=notes)

    @property
    def notes(self) -> dict[str, int]:
        """What fitting left out or settled, with the number of rows (counts only): codes too rare to be drawn, ..."""
        return dict(getattr(getattr(self, "codec_", None), "notes", {}))

    # -- further abilities ---------------------------------------------------------------------------------------

    def score(self, cohort: Cohort) -> np.ndarray:
        """How likely each patient is under the model.

        Returns:
            Log-likelihood (or a bound of it, or a negative loss) of each patient, in the order of `cohort.subjects`
            [subject].
        """
        self._require(Ability.SCORE, "score")
        stream = Rng(0).child("score")
        data, context = self._parted(self.codec_.encode(cohort, rng=stream.child("encode")))
        return np.asarray(self._score(data, context, stream.child("model")), dtype=float)

    def extend(self, prefix: Cohort, *, until: timedelta | int, draws: int = 1, seed: int | None) -> Cohort:
        """Continue patients beyond their last row; the past stays as it is, byte for byte.

        Args:
            prefix: Patients up to some time, with or without visits.
            until: How far after each patient's last row [time], for clock "order" a number of visits. A patient without
                any is drawn from the clock's origin on, or (clock "timestamp") from a first visit that is drawn too.
            draws: Continuations of each patient.
            seed: Same seed, same cohort.

        Returns:
            The rows of the prefix and, after them, drawn ones. One draw keeps the patients' ids, several have ids
            "<id>#<draw>", draws counted from 1. Waveforms are kept with one draw. The origin stays that of the prefix.

        Raises:
            SettingsError: the generator lacks the ability "extend", or `until` does not fit the clock.
            SamplingError: some patients can't be continued without breaking a rule.
        """
        self._require(Ability.EXTEND, "extend")
        return self._extend(prefix, until, draws, Rng(seed).child("extend"))

    def impute(
        self, cohort: Cohort, *, seed: int | None, draws: int = 1, columns: Sequence[str] | None = None
    ) -> Cohort:
        """Draw what is missing given what is there; what is there stays as it is, byte for byte.

        Args:
            cohort: Patients with missing cells.
            seed: Same seed, same cohort.
            draws: Completed copies of each patient (multiple imputation); ids as for `extend`.
            columns: "table.column" of static and visit tables to fill; None: all but dates and identifiers.

        Raises:
            SettingsError: the generator lacks the ability "impute", or a column can't be filled.
            SamplingError: some patients break a rule whatever is filled in.
        """
        from cohortloom.generators.impute import copies

        self._require(Ability.IMPUTE, "impute")
        if columns is not None:
            return self._impute(copies(cohort, draws), Rng(seed).child("impute"), columns)
        return self._impute(copies(cohort, draws), Rng(seed).child("impute"))

    def _score(self, data: Encoded, context: Encoded | None, rng: Rng) -> np.ndarray:
        raise NotImplementedError

    def _continue(self, encoded: Encoded, until: np.ndarray, rng: Rng) -> Encoded:
        """Longer courses (ability "extend").

        Args:
            encoded: Patients so far, all parts of the layout (with statics).
            until: How far after each patient's last step to go [d]; without a step: from the clock's origin or, where
                dates start at the first step, from that.
            rng: Stream of this draw.

        Returns:
            The same patients in the same order: their steps, then drawn ones (none where the course is over). Steps
            beyond `until` are cut off by the caller, and so is everything it knows better about the steps so far.
        """
        raise NotImplementedError

    def _impute_cells(self, encoded: Encoded, holes: Holes, rng: Rng) -> Encoded:
        """The same patients with values in the holes (ability "impute").

        Args:
            encoded: Patients, all parts of the layout (with statics).
            holes: Which cells to draw; other cells that are not observed are missing for good.
            rng: Stream of this draw.

        Returns:
            The arrays with `observed` set where a hole got a value; what stays unobserved stays missing.
        """
        raise NotImplementedError

    def _holes(self, cohort: Cohort, encoded: Encoded, wanted: dict[str, list[str]]) -> Holes:
        """Cells to draw of the wanted columns, as `_impute_cells` takes them."""
        from cohortloom.generators.impute import holes_of

        return holes_of(cohort, encoded, wanted)

    def _rows_after(
        self, past: Prefix, rows: np.ndarray, drawn: Encoded, rng: Rng
    ) -> tuple[dict[str, pl.DataFrame], np.ndarray]:
        """Rows that `_continue` added, by table, and ids of subjects with one before the end of the prefix."""
        from cohortloom.generators.extend import rows_after

        return rows_after(self, past, rows, drawn, rng)

    def _extend(self, prefix: Cohort, until: timedelta | int, draws: int, rng: Rng) -> Cohort:
        from cohortloom.generators.extend import extended  # imports rules, which only drawing needs

        return extended(self, prefix, until, draws, rng)

    def _impute(self, cohort: Cohort, rng: Rng, columns: Sequence[str] | None = None) -> Cohort:
        from cohortloom.generators.impute import imputed

        return imputed(self, cohort, rng, columns)

    # -- on disk -------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the model as a folder of JSON and safetensors (Parquet where the model is the data)."""
        from cohortloom.generators.store import save

        self._require_fitted()
        save(self, path, force=force)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a folder written by `save`, on the CPU; a folder of another generator is refused."""
        from cohortloom.generators.store import load

        model = load(path)
        if not isinstance(model, cls):
            raise SettingsError(f"{Path(path).name} holds a {model.name}, not a {cls.name}. Use cohortloom.load(path).")
        return model

    #: Names of the files and folders `_write` makes beside model.json and schema.json.
    files: ClassVar[frozenset[str]] = frozenset({"codec.json"})

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write what was learned; returns plain facts for model.json."""
        from cohortloom.files import write_json

        write_json(folder / "codec.json", self.codec_.to_json())
        return {}

    def _read(self, folder: Path, facts: Mapping[str, Any], schema: Schema) -> None:
        """The reverse of `_write`."""
        from cohortloom.files import read_json

        self.codec_ = self.codec_class.from_json(schema, read_json(folder / "codec.json"))

    # -- checks --------------------------------------------------------------------------------------------------

    @property
    def is_fitted(self) -> bool:
        return hasattr(self, "schema_")

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError(
                f"{self.name} has not been fitted. Call generator.fit(cohort, seed=0), or load one with "
                'cohortloom.load("models/icu").'
            )

    def _require(self, ability: Ability, call: str) -> None:
        self._require_fitted()
        if ability not in self.abilities:
            raise SettingsError(
                f'{self.name} can\'t {call}: it lacks the ability "{ability}". '
                "cohortloom list generators names those that can."
            )

    @property
    def needs_given(self) -> bool:
        """Does it model the course only, given statics?"""
        return not self.layout.static and bool(self.schema_.statics)

    def _check_given(self, n_subjects: int | None, given: Cohort | None) -> int:
        if given is None:
            if self.needs_given:
                what = "waveforms" if self.layout.signals else "a course"
                raise SettingsError(
                    f"{self.name} draws {what} given statics. Pass given=cohort (--given FOLDER), or use a Chain."
                )
            if n_subjects is None or isinstance(n_subjects, bool) or n_subjects < 0:
                raise SettingsError("sample: the number of patients must be a whole number of at least 0.")
            return int(n_subjects)
        if not self.needs_given:
            self._require(Ability.GIVEN, "continue from given patients")
        if self.layout.sequence and not self.schema_.statics:
            raise SettingsError("sample: the schema has no static table, so given patients have nothing to keep.")
        if given.schema.digest != self.schema_.digest:
            raise DataError("sample: the given cohort has another schema than the training cohort.")
        if n_subjects is not None and n_subjects != given.n_subjects:
            raise SettingsError(
                f"sample: {n_subjects} patients asked for, {given.n_subjects} given. Leave the number out."
            )
        return given.n_subjects


def _slice(given: Cohort | None, shard: Shard) -> Cohort | None:
    return None if given is None else given.select(given.subjects.slice(shard.start, shard.size))


def _is_date(schema: Schema, path: str) -> bool:
    """Of a condition "table.column"."""
    table, _, column = path.partition(".")
    return schema.tables[table].columns[column].kind == "timestamp"


def _draw_to_folder(
    folder: str, seed: int, fixed: Mapping[int, Mapping[str, Any]], has_given: bool, shard: Shard
) -> None:
    """Task of a worker process: load the model, draw a shard, write it."""
    from cohortloom.generators.store import load

    model = load(Path(folder) / "model")
    given = Cohort.load(Path(folder) / "given") if has_given else None
    condition = Condition.of(model, fixed[shard.number])
    part = model._draw_shard(shard, seed=seed, condition=condition, given=_slice(given, shard))
    part.save(Path(folder) / f"shard-{shard.number}")
