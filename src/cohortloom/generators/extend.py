"""Continuing patients: what a generator draws after the last row of a prefix.

    encode the prefix -> `_continue` -> decode -> keep the steps after the prefix -> put the prefix in front -> rules

The past is never touched: the rows of the result that belong to the prefix are the prefix's own, column by column, and
rules are repaired in new rows only. A patient whose rules can't be met that way is drawn again, and so is one with a
new row at or before the last row of the prefix: the prefix says that nothing happened until then.

Decoding places steps on the codec's grid and within its tails, so the step before the first new one may come out a
little beside its true time; the new rows are moved by that difference.

One draw keeps the ids of the patients; several draws have ids "<id>#<draw>", draws counted from 1. The result holds
rows of the prefix, so its origin is that of the prefix: a real patient continued is real data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom import rules
from cohortloom.codec.clock import series_of, ticks_of, ticks_per_day
from cohortloom.codec.steps import steps_of, subject_rows
from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort
from cohortloom.errors import DataError, Problem, SamplingError, SettingsError
from cohortloom.generators.redraw import REDRAWS
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.sharding import Shard, merge, plan
from cohortloom.version import __version__

if TYPE_CHECKING:
    from cohortloom.generators.base import Generator

__all__ = ["NEVER", "PLACES", "Prefix", "extended", "renamed", "repeated", "rows_after", "with_new_visits"]

PLACES = 1_000_000  # visits per subject in the ids the codec makes
NEVER = np.iinfo(np.int64).min


def extended(generator: Generator, prefix: Cohort, until: timedelta | int, draws: int, rng: Rng) -> Cohort:
    """Every patient of the prefix continued `draws` times."""
    horizon = _horizon(generator.schema_, until)
    if prefix.schema.digest != generator.schema_.digest:
        raise DataError("extend: the prefix has another schema than the training cohort.")
    if draws < 1:
        raise SettingsError("extend: draws must be at least 1.")
    notes = {"extended subjects": prefix.n_subjects * draws, "redrawn subjects": 0}
    parts = []
    for shard in plan(prefix.n_subjects * draws):
        part, redrawn = _shard(generator, prefix, shard, horizon, draws, rng.child(shard.number))
        parts.append(part)
        notes["redrawn subjects"] += redrawn
    whole = merge(generator.schema_, parts) if parts else prefix
    source = f"{prefix.origin.source} continued by {generator.name}".strip()
    origin = replace(
        prefix.origin, source=source, seed=rng.seed, version=__version__, release="UNREVIEWED",
        notes={**prefix.origin.notes, **{k: n for k, n in notes.items() if n}},
    )  # fmt: skip
    ids = pl.Series("subject_id", np.arange(1, whole.n_subjects + 1)) if parts else prefix.subjects
    named = renamed(whole, ids, repeated(prefix.subjects, draws)) if parts else prefix
    return replace(named, origin=origin, signals=prefix.signals if draws == 1 else {})


def repeated(subjects: pl.Series, draws: int) -> pl.Series:
    """Ids of the draws of each patient: the patient's own for one draw, else "<id>#<draw>".

    Numbers are padded with zeros, so that patients and draws keep their order as text.
    """
    if draws == 1:
        return subjects
    names, width = subjects.cast(pl.String), len(str(draws))
    if subjects.dtype.is_integer() and subjects.len():
        names = names.str.zfill(int(names.str.len_chars().max()))
    return pl.Series("subject_id", [f"{s}#{d:0{width}d}" for s in names for d in range(1, draws + 1)])


def renamed(cohort: Cohort, subjects: pl.Series, ids: pl.Series) -> Cohort:
    """Copies of subjects under other ids; everything else, visit ids included, stays. A subject may occur again."""
    names = pl.DataFrame({"subject_id": subjects, "__id": ids})
    tables = {
        name: names.join(frame, on="subject_id", how="inner", maintain_order="left_right")
        .drop("subject_id")
        .rename({"__id": "subject_id"})
        for name, frame in cohort.tables.items()
    }
    return Cohort.build(cohort.schema, tables, origin=cohort.origin)


@dataclass(frozen=True)
class Prefix:
    """Prefixes of a shard, one subject per draw, with what their patients have lived through [ticks].

    Args:
        cohort: The prefixes under the ids `ids`.
        n_steps: Steps of each subject.
        last_step: Start of the last one, the clock's origin where there is none.
        last_row: Time of the last row of any table, `NEVER` where no row has a time.
        horizon: How far after the last row to go.
        broken: Subjects who break a rule already.
    """

    cohort: Cohort
    ids: np.ndarray
    n_steps: np.ndarray
    last_step: np.ndarray
    last_row: np.ndarray
    horizon: int
    broken: pl.Series

    @classmethod
    def read(cls, cohort: Cohort, ids: np.ndarray, horizon: int, width: int) -> Prefix:
        series = pl.Series("subject_id", ids)
        steps = steps_of(cohort, series, width=width)
        has = steps.length > 0
        last_step = np.zeros(len(ids), np.int64)
        last_step[has] = steps.time[(steps.starts + steps.length - 1)[has]]
        last_row = np.where(has, last_step, NEVER)
        for frame in cohort.tables.values():
            if "time" in frame.columns:
                time, known = ticks_of(frame["time"])
                np.maximum.at(last_row, subject_rows(series, frame)[known], time[known])
        return cls(cohort, ids, steps.length, last_step, last_row, horizon, rules.broken_subjects(cohort))

    @property
    def opens(self) -> np.ndarray:
        """Subjects whose clock starts at the first step that is drawn."""
        return (self.n_steps == 0) & (self.cohort.schema.clock == "timestamp")

    @property
    def days(self) -> np.ndarray:
        """How far after the last step to go [d]."""
        rest = np.where(self.opens, 0, self.now - self.last_step) + self.horizon
        return rest / ticks_per_day(self.cohort.schema)

    @property
    def now(self) -> np.ndarray:
        """Time of the last row, the clock's origin where there is none [ticks]."""
        return np.where(self.last_row == NEVER, 0, self.last_row)


def _horizon(schema: Schema, until: timedelta | int) -> int:
    """`until` in ticks."""
    if schema.clock == "order":
        if isinstance(until, bool) or not isinstance(until, int) or until < 1:
            raise SettingsError('extend: the clock of this schema is "order"; until is a number of visits, e.g. 3.')
        return until
    if not isinstance(until, timedelta) or until <= timedelta(0):
        raise SettingsError(
            f'extend: the clock of this schema is "{schema.clock}"; until is a length of time above 0, e.g. '
            "timedelta(days=365), or --until 365d on the command line."
        )
    return until // timedelta(microseconds=1)


def _shard(
    generator: Generator, prefix: Cohort, shard: Shard, horizon: int, draws: int, rng: Rng
) -> tuple[Cohort, int]:
    subject = (shard.ids - 1) // draws
    own = prefix.select(prefix.subjects.gather(np.unique(subject)))
    encoded = generator.codec_.encode(own, rng=rng.child("encode")).take(subject - subject[0])
    copies = renamed(own, prefix.subjects.gather(subject), pl.Series(shard.ids))
    past = Prefix.read(copies, shard.ids, horizon, generator.codec_.width)
    todo, kept, redrawn = np.arange(len(shard.ids)), [], 0
    for attempt in range(REDRAWS + 1):
        stream = rng.child("draw", attempt)
        drawn = generator._continue(encoded.take(todo), past.days[todo], stream.child("model"))
        kept.append(_finished(generator, past, todo, drawn, stream))
        todo = todo[~np.isin(shard.ids[todo], kept[-1].subjects.to_numpy())]
        if not len(todo):
            return merge(generator.schema_, kept), redrawn
        redrawn += len(todo)
    what = f"{len(todo)} subjects still break a rule, or have new rows before the end of the prefix"
    fix = "Loosen the rule, or leave these patients out."
    raise SamplingError(
        f"extend: {REDRAWS} redraws did not help ({generator.name})",
        [Problem("rule", prefix.schema.name, what, fix, len(todo))],
    )


def _finished(generator: Generator, past: Prefix, rows: np.ndarray, drawn: Encoded, rng: Rng) -> Cohort:
    """The continued patients among `rows` who keep every rule."""
    mine = past.cohort.select(past.ids[rows].tolist())
    new, early = generator._rows_after(past, rows, drawn, rng.child("decode"))
    joined = _together(mine, new)
    repaired = rules.repair(joined, rng.child("repair"))
    if repaired is not joined:
        # A repair counts only where it left the past alone; whose past breaks a rule can't be mended at all.
        changed = [_lost(frame, repaired.tables[name]) for name, frame in mine.tables.items()]
        as_drawn = pl.concat([past.broken, *changed]).unique()
        mended = {n: _without(f, mine.tables[n]).filter(_others(as_drawn)) for n, f in repaired.tables.items()}
        joined = _together(mine, {n: pl.concat([mended[n], f.filter(~_others(as_drawn))]) for n, f in new.items()})
    broken = rules.broken_subjects(joined)
    bad = pl.concat([broken.filter(~broken.is_in(past.broken.implode())), pl.Series("subject_id", early)])
    return joined.select(joined.subjects.filter(~joined.subjects.is_in(bad.implode())))


def _others(subjects: pl.Series) -> pl.Expr:
    return ~pl.col("subject_id").is_in(subjects.implode())


def _together(past: Cohort, new: dict[str, pl.DataFrame]) -> Cohort:
    return Cohort.build(past.schema, {name: pl.concat([frame, new[name]]) for name, frame in past.tables.items()})


def _without(frame: pl.DataFrame, past: pl.DataFrame) -> pl.DataFrame:
    """Rows that are not among those of the past."""
    return frame.join(past, on=frame.columns, how="anti", nulls_equal=True, maintain_order="left")


def _lost(past: pl.DataFrame, frame: pl.DataFrame) -> pl.Series:
    """Subjects with a row of the past that is no longer there."""
    return past.join(frame, on=past.columns, how="anti", nulls_equal=True)["subject_id"].unique()


def rows_after(
    generator: Generator, past: Prefix, rows: np.ndarray, drawn: Encoded, rng: Rng
) -> tuple[dict[str, pl.DataFrame], np.ndarray]:
    """Rows of the steps after the prefix, table by table, and ids of subjects with one before its end."""
    schema, codec, ids, n = generator.schema_, generator.codec_, past.ids[rows], past.n_steps[rows]
    decoded = codec.decode(drawn, rng, ids=ids)
    length, time = drawn.sequence.length, codec.step_times(drawn, rng, ids=ids)
    assert (length >= n).all(), f"{generator.name} lost steps of a prefix"
    starts = np.cumsum(length) - length
    has, more = n > 0, length > n
    moved, begin = np.zeros(len(ids), np.int64), np.full(len(ids), np.iinfo(np.int64).max)
    moved[has] = past.last_step[rows][has] - time[(starts + n - 1)[has]]
    begin[more] = time[(starts + n)[more]]
    last, opens = past.last_row[rows], past.opens[rows]
    stop = np.where(opens & more, begin, past.now[rows]) + past.horizon
    series, tables, early = pl.Series("subject_id", ids), {}, [ids[:0]]
    for name, frame in decoded.tables.items():
        if schema.tables[name].role == "static":
            tables[name] = frame.clear()
            continue
        owner = subject_rows(series, frame)
        keep = np.zeros(frame.height, bool)
        for column in ["time", *(c for c, spec in schema.tables[name].columns.items() if spec.kind == "timestamp")]:
            if column not in frame.columns:
                continue
            ticks, known = ticks_of(frame[column])
            ticks = ticks + np.where(known, moved[owner], 0)
            frame = frame.with_columns(series_of(schema, ticks, known, column))
            if column == "time":
                keep = known & (ticks - moved[owner] >= begin[owner])
                within, late = ticks <= stop[owner], known & (ticks <= last[owner])
        if "visit_id" in frame.columns:
            visit = frame["visit_id"].fill_null(0).to_numpy()
            keep = np.where(visit > 0, (visit - 1) % PLACES >= n[owner], keep)
        if "time" in frame.columns:
            early.append(ids[owner[keep & late]])
            keep &= within | frame["time"].is_null().to_numpy()
        tables[name] = frame.filter(pl.Series(keep))
    return with_new_visits(schema, tables, past.cohort), np.unique(np.concatenate(early))


def with_new_visits(
    schema: Schema, tables: dict[str, pl.DataFrame], past: Cohort, had: pl.DataFrame | None = None
) -> dict[str, pl.DataFrame]:
    """Ids for new visits that no visit of the prefix has; rows of visits beyond the end go with them.

    Args:
        tables: New rows; their visits have the codec's ids, counted from the first visit of the prefix on.
        past: The prefix.
        had: Visits of each prefix ("subject_id", "__had") that new rows may belong to: these get the visits' own ids.
    """
    if schema.visit_table is None:
        return tables
    own = past.tables[schema.visit_table].select("subject_id", pl.col("visit_id").alias("__own"))
    made = pl.format("+{}", "__place")
    if own["__own"].dtype.is_integer():
        made = pl.col("visit_id") + max(int(own["__own"].max() or 0), 0)
    own = own.with_columns((pl.int_range(pl.len()).over("subject_id") + 1).alias("__place"))
    had = own.select("subject_id", __had=pl.lit(0)).clear() if had is None else had
    kept, is_old = tables[schema.visit_table]["visit_id"], pl.col("__place") <= pl.col("__had")
    out = {}
    for name, frame in tables.items():
        if "visit_id" in frame.columns:
            frame = frame.with_columns(((pl.col("visit_id") - 1) % PLACES + 1).alias("__place"))
            frame = frame.join(had, on="subject_id", how="left", maintain_order="left")
            frame = frame.filter(pl.col("visit_id").is_null() | is_old | pl.col("visit_id").is_in(kept.implode()))
            frame = frame.join(own, on=["subject_id", "__place"], how="left", maintain_order="left")
            frame = frame.with_columns(pl.when(is_old).then("__own").otherwise(made).alias("visit_id"))
        out[name] = frame.drop("__place", "__had", "__own", strict=False)
    return out
