"""Filling cells that are missing with draws given what is there.

    encode -> `_impute_cells` -> decode -> write the drawn cells where the table had none -> rules

Which cells: those of static and visit tables that hold numbers, counts, categories, ordinals, codes and flags. A date
that is missing usually says that nothing happened, an identifier that is missing names nobody, and a row of an event
table that isn't there isn't a missing cell: they stay as they are, unless a date's column is asked for by name. A rule
of the schema may say that a cell does not apply (`implies ... missing`): then it is emptied again.

What is observed stays what it is, byte for byte. The draw is of the value that would have been recorded, as if the
value did not matter for its being missing, given all the model knows (missing at random).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom import rules
from cohortloom.codec.steps import subject_rows
from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import DataError, Problem, SamplingError, SettingsError, nearest
from cohortloom.generators.extend import renamed, repeated
from cohortloom.generators.redraw import REDRAWS
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.sharding import Shard, merge, plan
from cohortloom.version import __version__

if TYPE_CHECKING:
    from cohortloom.generators.base import Generator

__all__ = ["Holes", "copies", "fillable", "holes_of", "imputed"]

FILLED = ("number", "count", "category", "ordinal", "code", "flag")


@dataclass(frozen=True)
class Holes:
    """Cells to draw.

    Args:
        static: Bool [subject feature], None without statics.
        sequence: Bool [step feature], None without steps.
    """

    static: np.ndarray | None
    sequence: np.ndarray | None

    def any_of(self, length: np.ndarray) -> np.ndarray:
        """Which subjects have a hole [subject]."""
        found = np.zeros(len(length), bool) if self.static is None else self.static.any(1)
        if self.sequence is not None and self.sequence.size:
            owner = np.repeat(np.arange(len(length)), length)
            found = found | (np.bincount(owner, weights=self.sequence.any(1), minlength=len(length)) > 0)
        return found


def copies(cohort: Cohort, draws: int) -> Cohort:
    """Every patient `draws` times, with ids as `extend` gives them."""
    if draws < 1:
        raise SettingsError("impute: draws must be at least 1.")
    if draws == 1 or not cohort.n_subjects:
        return cohort
    source = cohort.subjects.gather(np.repeat(np.arange(cohort.n_subjects), draws))
    ids = repeated(cohort.subjects, draws)
    whole = renamed(cohort, source, ids)
    if not cohort.signals:
        return whole
    names = pl.DataFrame({"subject_id": source, "__id": ids, "__draw": np.tile(np.arange(draws), cohort.n_subjects)})
    return replace(whole, signals={n: _waves(s, names, draws) for n, s in cohort.signals.items()})


def _waves(signals: SignalSet, names: pl.DataFrame, draws: int) -> SignalSet:
    """Every record once for each draw of its patient, called "<record>#<draw>"."""
    turn = [f"#{d:0{len(str(draws))}d}" for d in range(1, draws + 1)]
    rows = names.join(
        signals.records.with_row_index("__row"), on="subject_id", how="inner", maintain_order="left_right"
    )
    again = pl.col("record_id").cast(pl.String) + pl.col("__draw").replace_strict(list(range(draws)), turn)
    records = rows.with_columns(again.alias("record_id"), pl.col("__id").alias("subject_id"))
    notes = signals.annotations
    if notes is not None:
        old = rows.select("record_id", again.alias("__new"))
        notes = old.join(notes, on="record_id", how="inner", maintain_order="left_right")
        notes = notes.drop("record_id").rename({"__new": "record_id"}).select(signals.annotations.columns)
    picked = np.asarray(signals.samples)[rows["__row"].to_numpy()]
    return SignalSet(signals.spec, records.select(signals.records.columns), picked, notes)


def imputed(generator: Generator, cohort: Cohort, rng: Rng, columns: Sequence[str] | None = None) -> Cohort:
    """The cohort with its holes filled."""
    if cohort.schema.digest != generator.schema_.digest:
        raise DataError("impute: the cohort has another schema than the training cohort.")
    wanted = fillable(cohort.schema, columns)
    parts = []
    for shard in plan(cohort.n_subjects):
        parts.append(_shard(generator, cohort, shard, wanted, rng.child(shard.number)))
    whole = merge(cohort.schema, parts) if parts else cohort
    filled = {name: _n_filled(cohort, whole, name, own) for name, own in wanted.items()}
    notes = {**cohort.origin.notes, "imputed cells": sum(filled.values()), "imputed by": generator.name}
    origin = replace(
        cohort.origin, seed=rng.seed, version=__version__, release="UNREVIEWED", notes=notes,
        source=f"{cohort.origin.source} imputed by {generator.name}".strip(),
    )  # fmt: skip
    return replace(whole, origin=origin, signals=cohort.signals)


def fillable(schema: Schema, columns: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Table -> columns to fill; by default all that can be but dates."""
    can = {n: [c for c, spec in t.columns.items() if spec.kind != "identifier"]
           for n, t in schema.tables.items() if t.role in ("static", "visit")}  # fmt: skip
    if columns is None:
        return {n: [c for c in own if schema.tables[n].columns[c].kind in FILLED] for n, own in can.items()}
    known = [f"{n}.{c}" for n, own in can.items() for c in own]
    problems = [
        Problem("not-fillable", path, "is no column of a static or visit table that can be filled",
                nearest(path, known).strip())
        for path in columns if path not in known
    ]  # fmt: skip
    if problems:
        raise SettingsError("impute: some columns can't be filled", problems)
    return {n: [c for c in own if f"{n}.{c}" in columns] for n, own in can.items()}


def _n_filled(before: Cohort, after: Cohort, name: str, columns: list[str]) -> int:
    return sum(before.tables[name][c].null_count() - after.tables[name][c].null_count() for c in columns)


def _shard(generator: Generator, cohort: Cohort, shard: Shard, wanted: dict[str, list[str]], rng: Rng) -> Cohort:
    own = cohort.select(cohort.subjects.slice(shard.start, shard.size))
    encoded = generator.codec_.encode(own, rng=rng.child("encode"))
    holes = generator._holes(own, encoded, wanted)
    broken = rules.broken_subjects(own)
    todo, kept = np.arange(own.n_subjects), []
    for attempt in range(REDRAWS + 1):
        stream = rng.child("draw", attempt)
        part, rows = own.select(own.subjects.gather(todo)), encoded.take(todo)
        drawn = generator._impute_cells(rows, _take(holes, encoded, todo), stream.child("model"))
        table = generator.codec_.decode(drawn, stream.child("decode"), ids=np.arange(1, len(todo) + 1))
        filled = _written(part, table, wanted)
        mended = _written(part, rules.repair(filled, stream.child("repair")), wanted, same=True)
        bad = rules.broken_subjects(mended)
        bad = bad.filter(~bad.is_in(broken.implode()))  # what was wrong before is not for us to mend
        kept.append(mended.select(mended.subjects.filter(~mended.subjects.is_in(bad.implode()))))
        todo = todo[own.subjects.gather(todo).is_in(bad.implode()).to_numpy()]
        if not len(todo):
            return merge(own.schema, kept)
    what = f"{len(todo)} subjects break a rule with every value that was drawn"
    raise SamplingError(
        f"impute: {REDRAWS} redraws did not help ({generator.name})",
        [Problem("rule", own.schema.name, what, "Loosen the rule, or leave these patients out.", len(todo))],
    )


def holes_of(cohort: Cohort, encoded: Encoded, wanted: dict[str, list[str]]) -> Holes:
    """Features of the wanted columns that are not observed, in rows that are there."""
    schema, ids = cohort.schema, cohort.subjects
    paths = {f"{name}.{c}" for name, own in wanted.items() for c in own}
    static = sequence = None
    if encoded.static is not None:
        static = np.zeros(encoded.static.values.shape, bool)
        for j, feature in enumerate(encoded.static.features):
            if _column(feature.name) in paths:
                has_row = np.zeros(len(ids), bool)
                has_row[subject_rows(ids, cohort.tables[feature.name.partition(".")[0]])] = True
                static[:, j] = ~encoded.static.observed[:, j] & has_row
    if encoded.sequence is not None:
        wants = np.array([_column(f.name) in paths for f in encoded.sequence.features], bool)
        sequence = ~encoded.sequence.observed & wants[None]
    if schema.visit_table is None and sequence is not None:
        sequence[:] = False
    return Holes(static, sequence)


def _column(feature: str) -> str:
    """ "visits.seen.days" -> "visits.seen": a date may be several features."""
    return ".".join(feature.split(".")[:2])


def _take(holes: Holes, encoded: Encoded, rows: np.ndarray) -> Holes:
    static = None if holes.static is None else holes.static[rows]
    if holes.sequence is None:
        return Holes(static, None)
    part = replace(encoded.sequence, observed=holes.sequence).take(rows)
    return Holes(static, part.observed)


def _written(cohort: Cohort, drawn: Cohort, wanted: dict[str, list[str]], *, same: bool = False) -> Cohort:
    """The cohort with its empty cells taken from another of the same rows.

    Args:
        same: The other cohort has the same ids (it is this one, filled and repaired; a row it lacks fills nothing).
    """
    tables = dict(cohort.tables)
    for name, columns in wanted.items():
        frame = tables[name]
        if not columns or not frame.height:
            continue
        keys = [k for k in ("subject_id", "visit_id") if k in frame.columns]
        other = drawn.tables[name].select([*keys, *columns])
        if not same:  # codec: subjects 1, 2, ... in order, visits numbered in the order of the rows
            place = subject_rows(cohort.subjects, frame) + 1
            left = frame.with_columns(pl.Series("__subject", place))
            if "visit_id" in keys:
                left = left.with_columns((pl.int_range(pl.len()).over("__subject") + 1).alias("__place"))
                other = other.with_columns(((pl.col("visit_id") - 1) % 1_000_000 + 1).alias("__place"))
            on = ["__subject", *(["__place"] if "visit_id" in keys else [])]
            other = other.rename({"subject_id": "__subject"}).drop("visit_id", strict=False)
        else:
            left, on = frame, keys
        other = other.unique(on, keep="first", maintain_order=True)
        both = left.join(other, on=on, how="left", suffix="__drawn", maintain_order="left", nulls_equal=True)
        tables[name] = both.with_columns(pl.coalesce(c, f"{c}__drawn").alias(c) for c in columns).select(frame.columns)
    return replace(cohort, tables=tables)
