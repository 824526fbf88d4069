"""What every generator must do, as checks to run on one.

A check takes a `Case` and raises AssertionError, or returns; it looks at abilities, never at classes. People who write
a generator run all of them from one line:

    @pytest.mark.parametrize("check", CHECKS)
    def test_generator(check, case):
        CHECKS[check](case)

`small_cohort` is messy on purpose: text ids, statics and cells missing, patients without visits or without a static
row, events outside any visit, a constant column, and one patient with far more visits than the others.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl

from cohortloom import rules
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import CohortloomError, DataError, FileFormatError, NotFittedError, SettingsError
from cohortloom.generators import load
from cohortloom.generators.base import Ability, Generator
from cohortloom.registry import with_settings
from cohortloom.schema import Schema
from cohortloom.sharding import merge

__all__ = ["CHECKS", "LONGEST", "WAVE_CHECKS", "Case", "assert_same", "small_cohort", "small_waves"]

#: Visits of the one long patient of `small_cohort`; nobody else has more than 12.
LONGEST = 31


@dataclass
class Case:
    """A generator under check.

    Args:
        make: A fresh generator with small settings.
        folder: An empty folder.
        cohort: Training patients.
    """

    make: Callable[[], Generator]
    folder: Path
    cohort: Cohort

    @cached_property
    def fitted(self) -> Generator:
        return self.make().fit(self.cohort, seed=0)


def small_cohort(n: int = 120, *, seed: int = 0) -> Cohort:
    """Patients, visits and labs in which columns depend on each other."""
    draw = np.random.default_rng(seed)
    schema = Schema.model_validate(
        {
            "name": "small",
            "clock": "offset",
            "tables": {
                "patients": {
                    "role": "static",
                    "columns": {
                        "age": {"kind": "number", "unit": "a", "low": 18, "high": 100, "decimals": 0},
                        "sex": {"kind": "category", "levels": ["F", "M"]},
                        "smoker": {"kind": "flag"},
                        "site": {"kind": "category", "levels": ["one"]},
                        "name": {"kind": "identifier"},
                    },
                },
                "visits": {
                    "role": "visit",
                    "columns": {
                        "sbp": {"kind": "number", "unit": "mm[Hg]", "low": 50, "high": 250, "decimals": 0},
                        "grade": {"kind": "ordinal", "levels": ["I", "II", "III"]},
                        "calls": {"kind": "count"},
                    },
                },
                "labs": {
                    "role": "event",
                    "parent": "visits",
                    "columns": {"potassium": {"kind": "number", "unit": "mmol/L", "low": 1, "high": 9, "decimals": 1}},
                },
            },
        }
    )
    ids = np.array([f"P-{k:04d}" for k in range(n)])
    age = np.clip(draw.normal(60, 12, n).round(), 18, 100)
    sex = np.where(draw.random(n) < 0.5, "F", "M")
    patients = pl.DataFrame(
        {
            "subject_id": ids,
            "age": pl.Series(age).set(pl.Series(draw.random(n) < 0.05), None),
            "sex": sex,
            "smoker": draw.random(n) < np.where(sex == "M", 0.5, 0.1),
            "site": "one",
            "name": ids,
        }
    )
    length = np.minimum(draw.poisson(np.where(sex == "M", 4, 2)), 12)
    if n > 10:
        length[:5], length[5] = 0, LONGEST
        patients = patients.filter(pl.col("subject_id") != ids[7])
        length[7] = 2
    owner = np.repeat(np.arange(n), length)
    total = len(owner)
    sbp = np.clip(
        (100 + 0.6 * (age - 60) + draw.normal(0, 8, n))[owner] + draw.normal(0, 5, total) + 25, 50, 250
    ).round()
    gap = draw.exponential(30, total).round().astype(np.int64) + 1
    place = np.arange(total) - np.repeat(np.cumsum(length) - length, length)
    elapsed = np.cumsum(gap)
    elapsed -= np.repeat((elapsed - gap)[place == 0], length[length > 0]) if total else 0
    day = pl.Series("time", elapsed * 86_400_000_000, dtype=pl.Int64).cast(pl.Duration("us"))
    visits = pl.DataFrame(
        {
            "subject_id": ids[owner],
            "visit_id": [f"V{k}" for k in range(total)],
            "time": day,
            "sbp": pl.Series(sbp).set(pl.Series(draw.random(total) < 0.2), None),
            "grade": np.array(["I", "II", "III"])[np.digitize(sbp + draw.normal(0, 5, total), [120, 135])],
            "calls": draw.poisson(1, total),
        }
    )
    labs = visits.select("subject_id", "visit_id", "time").sample(fraction=0.5, seed=seed)
    labs = labs.with_columns(potassium=pl.Series(draw.normal(4.2, 0.4, labs.height).round(1)))
    labs = labs.with_columns(pl.when(pl.Series(draw.random(labs.height) < 0.9)).then(pl.col("visit_id")))
    return Cohort.build(schema, {"patients": patients, "visits": visits, "labs": labs})


def small_waves(n: int = 40, *, seed: int = 0) -> Cohort:
    """Single-lead records of 5 s without tables: beats at each patient's own rate, some labelled "fast"."""
    draw = np.random.default_rng(seed)
    fs, length = 50.0, 250
    schema = Schema.model_validate(
        {
            "name": "small_waves",
            "clock": "offset",
            "signals": {
                "ecg": {"kind": "ecg", "channels": ["II"], "fs": fs, "duration": 5, "labels": ["fast", "slow"]}
            },
        }
    )
    rate = draw.uniform(50, 120, n)
    time = np.arange(length) / fs
    first = draw.uniform(0, 0.5, (n, 1))
    samples = np.zeros((n, 1, length))
    for k in range(12):
        offset = time - (first + k * 60 / rate[:, None])
        beat = np.exp(-0.5 * np.square(offset / 0.025)) + 0.25 * np.exp(-0.5 * np.square((offset - 0.25) / 0.05))
        samples[:, 0] += draw.normal(1, 0.02, (n, 1)) * beat
    samples += 0.02 * draw.standard_normal(samples.shape)
    records = pl.DataFrame(
        {
            "record_id": np.arange(n),
            "subject_id": [f"P-{k:04d}" for k in range(n)],
            "visit_id": pl.Series([None] * n, dtype=pl.Int64),
            "time": pl.Series([None] * n, dtype=pl.Duration("us")),
            "n_samples": np.full(n, length),
            "label": np.where(rate > 85, "fast", "slow"),
        }
    )
    waves = SignalSet(schema.signals["ecg"], records, samples.astype(np.float32))
    return Cohort.build(schema, {}, signals={"ecg": waves})


def assert_same(one: Cohort, other: Cohort) -> None:
    """Equal frames, cell by cell, and equal origins."""
    for name, frame in one.tables.items():
        assert frame.equals(other.tables[name]), f"{name} differs"
    assert set(one.signals) == set(other.signals)
    for name, wave in one.signals.items():
        again = other.signals[name]
        assert wave.records.equals(again.records), f"records of {name} differ"
        assert np.array_equal(wave.samples, again.samples, equal_nan=True), f"samples of {name} differ"
        assert (wave.annotations is None) == (again.annotations is None)
        assert wave.annotations is None or wave.annotations.equals(again.annotations), f"annotations of {name} differ"
    assert one.origin == other.origin


# -- the checks --------------------------------------------------------------------------------------------------


def check_settings_are_the_fields(case: Case) -> None:
    """Settings survive JSON; an unknown one is named with its nearest."""
    generator = case.make()
    plain = json.loads(json.dumps(generator.settings()))
    assert with_settings(type(generator), plain) == generator
    try:
        type(generator)(no_such_setting=1)
    except SettingsError as error:
        assert "no_such_setting" in str(error)
    else:
        raise AssertionError("an unknown setting was accepted")


def check_unfitted_is_refused(case: Case) -> None:
    """Drawing before fitting is one clear error."""
    _raises(NotFittedError, lambda: case.make().sample(1, seed=0))


def check_same_seed_same_cohort(case: Case) -> None:
    """Fit and draw twice: equal cohorts and equal model files."""
    again = case.make().fit(case.cohort, seed=0)
    assert_same(again.sample(30, seed=1), case.fitted.sample(30, seed=1))
    assert _files(again, case.folder / "one") == _files(case.fitted, case.folder / "two")


def check_other_seed_other_cohort(case: Case) -> None:
    """Another seed of the draw gives other patients."""
    one, other = case.fitted.sample(30, seed=1), case.fitted.sample(30, seed=2)
    tables = any(not one.tables[name].equals(other.tables[name]) for name in one.tables)
    assert tables or any(not np.array_equal(w.samples, other.signals[n].samples) for n, w in one.signals.items())


def check_nothing_global_is_touched(case: Case) -> None:
    """Global random states, torch's threads and the input are what they were."""
    import torch

    before = {name: frame.clone() for name, frame in case.cohort.tables.items()}
    states = _global_state(torch)
    case.make().fit(case.cohort, seed=0).sample(5, seed=1)
    assert states == _global_state(torch)
    assert all(before[name].equals(frame) for name, frame in case.cohort.tables.items())


def check_schema_and_rules_hold(case: Case) -> None:
    """The sample has the schema's columns and types and breaks no rule."""
    drawn = case.fitted.sample(200, seed=1)
    assert drawn.schema == case.cohort.schema
    for name, frame in drawn.tables.items():
        assert frame.columns == case.cohort.tables[name].columns
    assert [v for v in rules.check(drawn) if v.severity == "error"] == []


def check_exactly_n(case: Case) -> None:
    """n patients, whatever n."""
    for n in (0, 1, 37, case.fitted.shard_size + 1):
        assert case.fitted.sample(n, seed=1).n_subjects == n


def check_ids_are_new(case: Case) -> None:
    """Ids count from 1; visit ids are distinct; nothing of the input's ids or names is left."""
    drawn = case.fitted.sample(40, seed=1)
    assert drawn.subjects.to_list() == list(range(1, 41))
    assert drawn.tables["visits"]["visit_id"].is_unique().all()
    known = set(case.cohort.subjects.to_list())
    for frame in drawn.tables.values():
        for column in frame.select(pl.col(pl.String)):
            assert not known & set(column.to_list())


def check_origin_is_told(case: Case) -> None:
    """The sample says what made it, with which seed, and that nobody has reviewed it."""
    origin = case.fitted.sample(3, seed=9).origin
    assert (origin.kind, origin.source, origin.seed) == ("synthetic", case.fitted.name, 9)
    assert origin.release == "UNREVIEWED" and origin.version


def check_lengths_are_not_copied(case: Case) -> None:
    """The one long patient does not come back with exactly that many visits (a resampler brings 17 in 2,000)."""
    if Ability.COPIES in case.fitted.abilities:
        return
    length = case.fitted.sample(2000, seed=1).tables["visits"].group_by("subject_id").len()["len"]
    assert (length == LONGEST).sum() <= 5


def check_patients_without_visits_are_drawn(case: Case) -> None:
    """Patients without visits are part of the training cohort, and of the sample."""
    if not case.fitted.layout.sequence:
        return
    drawn = case.fitted.sample(400, seed=1)
    without = drawn.n_subjects - drawn.tables["visits"]["subject_id"].n_unique()
    assert 0 < without < 200


def check_odd_cohorts(case: Case) -> None:
    """Each odd cohort is learned, or refused with an error of ours."""
    for name, cohort in _odd(case.cohort).items():
        try:
            drawn = case.make().fit(cohort, seed=0).sample(5, seed=1)
        except CohortloomError:
            continue
        assert drawn.n_subjects == 5, name
    nobody = case.cohort.select([])
    _raises(DataError, lambda: case.make().fit(nobody, seed=0))


def check_odd_schemas(case: Case) -> None:
    """Whatever tables and clock a schema has: all a generator can do works on it, or is refused with an error of ours.

    Draws hold rows of every table the generator draws, keep the rules, and are the same after saving.
    """
    for what, cohort in _odd_schemas(case.cohort.select(case.cohort.subjects.head(50))).items():
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            _all_abilities(what, case, cohort)


def check_courses_before_the_origin(case: Case) -> None:
    """Days before an index date are learned like days after it; identifiers that may not be empty are made anew."""
    cohort = _before_origin(case.cohort.select(case.cohort.subjects.head(50)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        drawn = case.make().fit(cohort, seed=0).sample(100, seed=1)
    if case.fitted.layout.sequence:
        start, real = (
            c.tables["visits"].group_by("subject_id").agg(pl.col("time").min().dt.total_days())["time"]
            for c in (drawn, cohort)
        )
        assert start.std() > 0.3 * real.std() and 0.1 < (start < 0).mean() < 1.0
    if not set(drawn.tables) & {"patients"}:
        return
    made = drawn.tables["patients"]["name"]
    assert made.null_count() == 0 and not made.is_in(cohort.tables["patients"]["name"]).any()


def check_where_is_kept(case: Case) -> None:
    """Fixed statics and first-visit values are exact; what can't be met is refused; without the ability, so is all."""
    sample = case.fitted.sample
    if Ability.CONDITION not in case.fitted.abilities:
        _raises(SettingsError, lambda: sample(3, seed=1, where={"patients.sex": "F"}))
        return
    try:
        drawn = sample(60, seed=1, where={"patients.sex": "M", "visits.sbp": 141})
    except SettingsError:
        assert case.fitted.name == "chain"  # a link may lack the ability
        return
    assert drawn.tables["patients"]["sex"].to_list() == ["M"] * 60
    first = drawn.tables["visits"].unique("subject_id", keep="first", maintain_order=True)
    assert first["sbp"].to_list() == [141.0] * 60
    for where in ({"patients.sex": "X"}, {"patients.sexx": "F"}, {"labs.potassium": 4}, {"patients.age": 400}):
        _raises(SettingsError, lambda where=where: sample(3, seed=1, where=where))


def check_given_is_kept(case: Case) -> None:
    """Given patients keep their statics, in order, under new ids; without the ability they are refused."""
    statics = case.cohort.select(case.cohort.subjects.slice(8, 20))
    statics = Cohort.build(case.cohort.schema, {"patients": statics.tables["patients"]})
    if Ability.GIVEN not in case.fitted.abilities:
        _raises(SettingsError, lambda: case.fitted.sample(given=statics, seed=1))
        return
    drawn = case.fitted.sample(given=statics, seed=1)
    kept = drawn.tables["patients"].drop("subject_id")
    assert drawn.n_subjects == 20 and kept.equals(statics.tables["patients"].drop("subject_id"))
    _raises(SettingsError, lambda: case.fitted.sample(7, given=statics, seed=1))


def check_the_past_is_kept(case: Case) -> None:
    """A continued patient's rows so far are those of the prefix, byte for byte; new ones come later and keep rules."""
    if Ability.EXTEND not in case.fitted.abilities:
        _raises(SettingsError, lambda: case.fitted.extend(case.cohort, until=timedelta(days=1), seed=0))
        return
    prefix = case.cohort.select(case.cohort.subjects.slice(0, 12))
    until = 3 if prefix.schema.clock == "order" else timedelta(days=400)
    longer = case.fitted.extend(prefix, until=until, seed=1)
    assert longer.subjects.equals(prefix.subjects), "ids change with one draw"
    n_new = 0
    for name, frame in prefix.tables.items():
        found = longer.tables[name]
        old = found.join(frame, on=frame.columns, how="semi", nulls_equal=True, maintain_order="left")
        assert old.equals(frame), f"the past of {name} is not what it was"
        n_new += found.height - frame.height
        if prefix.schema.tables[name].role == "static":
            assert found.equals(frame), "statics change"
    assert n_new > 0, "nobody is continued"
    assert rules.broken_subjects(longer).is_empty()
    assert_same(longer, case.fitted.extend(prefix, until=until, seed=1))
    assert case.fitted.extend(prefix, until=until, draws=2, seed=1).n_subjects == 2 * prefix.n_subjects


def check_observed_cells_are_kept(case: Case) -> None:
    """Filling holes changes nothing that is there, and fills what is not."""
    if Ability.IMPUTE not in case.fitted.abilities:
        _raises(SettingsError, lambda: case.fitted.impute(case.cohort, seed=0))
        return
    if case.cohort.signals:
        return
    part = case.cohort.select(case.cohort.subjects.slice(0, 30))
    full = case.fitted.impute(part, seed=1)
    holes = left = 0
    for name, frame in part.tables.items():
        found = full.tables[name]
        assert found.height == frame.height and found.columns == frame.columns
        for column in frame.columns:
            seen = frame[column].is_not_null()
            assert found[column].filter(seen).equals(frame[column].filter(seen)), (
                f"{name}.{column}: observed cells change"
            )
            if frame.schema[column].is_numeric() and part.schema.tables[name].role in ("static", "visit"):
                holes, left = holes + (~seen).sum(), left + found[column].null_count()
    assert holes and left < holes, "no hole is filled"
    assert rules.broken_subjects(full).is_empty()
    assert_same(full, case.fitted.impute(part, seed=1))


def check_loaded_is_the_same(case: Case) -> None:
    """A saved model draws the same after loading, has the same settings, and refuses foreign or damaged files."""
    path = case.folder / "model"
    if not case.fitted.storable:
        _raises(SettingsError, lambda: case.fitted.save(path))
        assert not path.exists()
        return
    case.fitted.save(path)
    again = load(path)
    assert again == case.fitted and type(again) is type(case.fitted)
    assert_same(again.sample(30, seed=1), case.fitted.sample(30, seed=1))
    assert {p.suffix for p in path.rglob("*") if p.is_file()} <= {".json", ".safetensors", ".parquet"}
    _raises(FileFormatError, lambda: case.fitted.save(path))
    (path / "extra.pkl").write_bytes(b"")
    _raises(FileFormatError, lambda: load(path))
    (path / "extra.pkl").unlink()
    for file in (p for p in sorted(path.rglob("*")) if p.is_file()):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        _raises(CohortloomError, lambda: load(path))
        file.write_bytes(whole)


def check_resumed_equals_uninterrupted(case: Case) -> None:
    """A fit that dies after its second checkpoint and is resumed ends with the same model file."""
    from cohortloom.training import loop
    from cohortloom.training.checkpoint import read_checkpoint

    if Ability.RESUME not in case.fitted.abilities:
        return
    file, write, left = case.folder / "checkpoint", loop.write_checkpoint, [2]

    def dying(*args: Any) -> None:
        write(*args)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with mock.patch.object(loop, "write_checkpoint", dying):
        _raises(KeyboardInterrupt, lambda: _often(case.make()).fit(case.cohort, seed=0, checkpoint=file))
    assert read_checkpoint(file)[1]["state"]["step"] > 0  # there is something to resume
    resumed = _often(case.make()).fit(case.cohort, seed=0, checkpoint=file, resume=True)
    assert _files(resumed, case.folder / "one") == _files(case.fitted, case.folder / "two")
    _raises(FileFormatError, lambda: case.make().fit(case.cohort, seed=1, checkpoint=file, resume=True))  # another seed


def check_shards_equal_whole(case: Case) -> None:
    """Shards drawn apart, last first, make the same cohort."""
    n = case.fitted.shard_size + 60
    whole = case.fitted.sample(n, seed=3)
    parts = [case.fitted.sample_shard(shard, seed=3) for shard in reversed(case.fitted.plan(n))]
    assert_same(merge(whole.schema, parts, origin=whole.origin), whole)


def check_memory_is_flat(case: Case) -> None:
    """No draw is larger than a shard, whatever n."""
    sizes, make = [], case.fitted._make

    def watched(ids: np.ndarray, *rest: Any) -> Cohort:
        sizes.append(len(ids))
        return make(ids, *rest)

    with mock.patch.object(case.fitted, "_make", watched):
        case.fitted.sample(2 * case.fitted.shard_size + 1, seed=1)
    assert max(sizes) <= case.fitted.shard_size


def check_score(case: Case) -> None:
    """One finite number per patient, the same every time; refused without the ability."""
    if Ability.SCORE not in case.fitted.abilities:
        _raises(SettingsError, lambda: case.fitted.score(case.cohort))
        return
    score = case.fitted.score(case.cohort)
    assert score.shape == (case.cohort.n_subjects,) and np.isfinite(score).all()
    assert np.array_equal(score, case.fitted.score(case.cohort))


def check_processes_equal_whole(case: Case) -> None:
    """Three processes make the same cohort as one (slow: they load torch)."""
    n = 2 * case.fitted.shard_size + 10
    if not case.fitted.storable:  # workers read the model from disk
        _raises(SettingsError, lambda: case.fitted.sample(n, seed=3, workers=3))
        return
    assert_same(case.fitted.sample(n, seed=3, workers=3), case.fitted.sample(n, seed=3))


#: Name -> check. Those that start processes are in `SLOW`.
CHECKS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}


#: Checks that say something of a generator of waveforms, run on `small_waves`.
WAVE_CHECKS = (
    "settings_are_the_fields", "unfitted_is_refused", "same_seed_same_cohort", "other_seed_other_cohort",
    "nothing_global_is_touched", "schema_and_rules_hold", "exactly_n", "origin_is_told", "loaded_is_the_same",
    "resumed_equals_uninterrupted", "shards_equal_whole", "memory_is_flat", "score", "processes_equal_whole",
)  # fmt: skip


# -- parts of checks ---------------------------------------------------------------------------------------------


def _odd(cohort: Cohort) -> dict[str, Cohort]:
    """Odd training cohorts."""
    tables, schema = cohort.tables, cohort.schema
    first = tables["visits"].unique("subject_id", keep="first", maintain_order=True)
    empty = {
        name: frame.with_columns(pl.lit(None, dtype=frame.schema[c]).alias(c) for c in schema.tables[name].columns)
        for name, frame in tables.items()
    }
    odd_level = tables["patients"].with_columns(sex=pl.lit("unheard of"))
    return {
        "one visit each": Cohort.build(schema, {**tables, "visits": first, "labs": tables["labs"].clear()}),
        "one patient": cohort.select(cohort.subjects.slice(9, 1)),
        "two patients": cohort.select(cohort.subjects.slice(9, 2)),
        "all missing": Cohort.build(schema, empty),
        "unseen level": Cohort.build(schema, {**tables, "patients": odd_level}),
        "no visits": Cohort.build(schema, {"patients": tables["patients"]}),
        "no statics": Cohort.build(schema, {"visits": tables["visits"]}),
    }


def _odd_schemas(cohort: Cohort) -> dict[str, Cohort]:
    """The cohort with some of its tables only, and under other clocks."""
    plain, tables = cohort.schema.model_dump(mode="json"), dict(cohort.tables)
    visits, day = tables["visits"], pl.datetime(2020, 1, 1) + pl.col("time")
    codes = visits.select("subject_id", "time", code=pl.col("grade").cast(pl.String).fill_null("-"))
    streams = {"codes": {"role": "event", "columns": {"code": {"kind": "code"}}}}

    def only(*names: str, clock: str = "offset", spec: dict | None = None, **frames: pl.DataFrame) -> Cohort:
        own = {name: dict(plain["tables"][name]) for name in names}
        if "visits" not in names and "labs" in names:
            own["labs"]["parent"] = None
        schema = Schema.model_validate({"name": "odd", "clock": clock, "tables": {**own, **(spec or {})}})
        return Cohort.build(schema, {**{n: tables[n].drop("visit_id") if n == "labs" else tables[n] for n in names},
                                     **frames})  # fmt: skip

    return {
        "statics only": only("patients"),
        "visits only": only("visits"),
        "events only": only("labs"),
        "codes without values": only("patients", spec=streams, codes=codes),
        "visits by order": only("patients", "visits", clock="order",
                                visits=visits.with_columns(time=pl.int_range(pl.len()).over("subject_id"))),
        "visits by date": only("patients", "visits", clock="timestamp", visits=visits.with_columns(time=day)),
    }  # fmt: skip


def _all_abilities(what: str, case: Case, cohort: Cohort) -> None:
    """Everything a generator can be asked for; errors of ours are an answer."""
    try:
        model = case.make().fit(cohort, seed=0)
        drawn = model.sample(60, seed=1)
    except CohortloomError:
        return
    assert drawn.n_subjects == 60 and rules.broken_subjects(drawn).is_empty(), what
    if model.layout.sequence:
        assert all(frame.height for frame in drawn.tables.values()), f"{what}: an empty table"
    assert_same(drawn, model.sample(60, seed=1))
    part, until = cohort.select(cohort.subjects.head(9)), 2 if cohort.schema.clock == "order" else timedelta(days=60)
    some = {"patients.sex": "M"} if "patients" in cohort.tables else {"visits.grade": "II"}
    path, level = next(iter(some.items()))
    asked: dict[str, Callable[[], Any]] = {
        "where": lambda: model.sample(9, seed=1, where=some).subjects,
        "rebalance": lambda: model.sample(9, seed=1, rebalance={path: {level: 1.0}}).subjects,
        "given": lambda: model.sample(given=part, seed=1).subjects,
        "extend": lambda: model.extend(part, until=until, seed=1).subjects,
        "impute": lambda: model.impute(part, seed=1).subjects,
        "score": lambda: model.score(part)[np.isfinite(model.score(part))],
    }
    for call, ask in asked.items():
        try:
            assert len(ask()) == 9, f"{what}: {call}"
        except CohortloomError:
            continue
        except Exception as error:
            raise AssertionError(f"{what}: {call}: {type(error).__name__}: {error}") from error
    if model.storable:
        model.save(case.folder / what)
        assert_same(load(case.folder / what).sample(60, seed=1), drawn)


def _before_origin(cohort: Cohort) -> Cohort:
    """The cohort with courses that begin some 40 days before their origin, and identifiers that may not be empty."""
    days = np.random.default_rng(1).normal(-40, 30, cohort.n_subjects).round().astype(np.int64)
    shift = pl.DataFrame({"subject_id": cohort.subjects, "shift": days * 86_400_000_000})
    shift = shift.cast({"shift": pl.Duration("us")})
    tables = {
        name: frame.join(shift, on="subject_id").with_columns(pl.col("time") + pl.col("shift")).drop("shift")
        if "time" in frame.columns
        else frame
        for name, frame in cohort.tables.items()
    }
    plain = cohort.schema.model_dump(mode="json")
    plain["tables"]["patients"]["columns"]["name"]["missing"] = False
    return Cohort.build(Schema.model_validate(plain), tables)


def _files(generator: Generator, path: Path) -> dict[str, bytes]:
    """Content of every file of the saved model; of its draws, if it can't be saved."""
    if not generator.storable:
        return {name: frame.write_ipc(None).getvalue() for name, frame in generator.sample(20, seed=0).tables.items()}
    generator.save(path, force=True)
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def _often(generator: Generator) -> Generator:
    """The same generator, writing every checkpoint it can."""
    generator.training = replace(generator.training, checkpoint_seconds=0.0)  # type: ignore[attr-defined]
    return generator


def _global_state(torch: Any) -> tuple:
    numpy = np.random.get_state()  # noqa: NPY002 (looked at, not used)
    state = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), numpy[1].tobytes(), numpy[2], state, torch.get_num_threads()


def _raises(kind: type[BaseException], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")
