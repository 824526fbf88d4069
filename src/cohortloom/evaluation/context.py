"""Everything the measures share: four cohorts as arrays, and the draws behind intervals, floors and limits.

Compared with held-out patients, all at equal n = min(synthetic, training) patients:

    synthetic     what is judged
    train         the floor: real against real
    bootstrap     anchor, training patients copied (counted more than once; never stored)
    independent   anchor, columns drawn apart

Draws are made once: dealing synthetic and held-out patients anew into two parts of the same two sizes gives the law of
every distance between two samples of one kind; patient bootstraps of the synthetic and the held-out cohort give
intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cohortloom.cohort import Cohort
from cohortloom.cohort.resample import independent
from cohortloom.errors import DataError, Problem
from cohortloom.evaluation.fields import MAX_CODE_SERIES, Field, plan_fields, unmeasured_codes
from cohortloom.evaluation.views import View, make_view
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["ALPHA", "Context", "Draws", "prepare"]

GROUPS = 250
FAST_PATIENTS = 2000
ALPHA = 0.05 / 200  # level of one score
DEALINGS = 400
NAMES = ("synthetic", "train", "held_out", "independent")


@dataclass(frozen=True)
class Draws:
    """Weights of groups, one row per draw.

    Args:
        dealt: Groups of [synthetic, held_out] dealt anew: 1 for those that play the synthetic cohort, 0 for the others.
        synthetic, held_out: Patient bootstrap (multinomial counts).
        copies: Weights that make the bootstrap anchor out of the training groups (one row).
    """

    dealt: np.ndarray
    synthetic: np.ndarray
    held_out: np.ndarray
    copies: np.ndarray


@dataclass
class Context:
    """Prepared input of `evaluate`; see the module's docstring.

    `scorer` says how likely patients are (`likelihood.py`), `site` is the column of sites or periods (`shift.py`),
    `left_out` what there was no room for, by reason, `alpha` the level of one score.
    """

    schema: Schema
    fields: tuple[Field, ...]
    views: dict[str, View]
    draws: Draws
    rng: Rng
    fast: bool
    cohorts: dict[str, Cohort]
    tell: Callable[[str], None] = lambda _: None
    cache: dict = field(default_factory=dict, repr=False)
    scorer: Any = None
    site: str | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    alpha: float = ALPHA

    def leave_out(self, why: str, names: Iterable[str]) -> None:
        """Note columns or codes that a measure or figure had no room for; the report names them."""
        noted = self.left_out.setdefault(why, [])
        noted += [n for n in dict.fromkeys(names) if n not in noted]

    @property
    def n(self) -> int:
        """Patients of the synthetic cohort that are compared."""
        return self.views["synthetic"].n

    @property
    def clocked(self) -> bool:
        """Are gaps between rows known?"""
        return self.schema.clock != "order"

    @cached_property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.views["held_out"].axes)

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Axes that are whole tables (not the rows of one code)."""
        return tuple(a for a in self.axes if a in self.schema.tables)

    def rows(self, axis: str | None = None) -> tuple[Field, ...]:
        """Fields of rows (of one axis)."""
        return tuple(f for f in self.fields if f.axis is not None and (axis is None or f.axis == axis))

    @cached_property
    def statics(self) -> tuple[Field, ...]:
        return tuple(f for f in self.fields if f.axis is None)

    def sums(self, statistic: Callable[[View], np.ndarray]) -> dict[str, np.ndarray]:
        """A statistic by group, for each cohort."""
        return {name: statistic(view) for name, view in self.views.items()}


def prepare(
    synthetic: Cohort,
    *,
    train: Cohort,
    held_out: Cohort,
    seed: int = 0,
    fast: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Context:
    """Check the three cohorts and make the arrays and draws.

    Raises:
        DataError: cohorts without patients, or of different schemas (all listed).
    """
    _check(synthetic, train, held_out)
    rng = Rng(seed).child("evaluate")
    schema = train.schema
    synthetic, held_out = _in(schema, synthetic), _in(schema, held_out)
    most = FAST_PATIENTS if fast else max(train.n_subjects, held_out.n_subjects)
    n = min(synthetic.n_subjects, train.n_subjects, most)
    fields = plan_fields(schema, (train, held_out))
    size = max(1, min(n, held_out.n_subjects, most) // GROUPS)
    whole = {"synthetic": synthetic, "train": train, "held_out": held_out}
    tell("drawing the independent anchor")
    whole["independent"] = independent(train, n, rng.child("anchors"))
    views = {}
    for name, cohort in whole.items():
        tell(f"reading {name.replace('_', '-')} patients")
        take = min(most, cohort.n_subjects) if name == "held_out" else min(n, cohort.n_subjects)
        views[name] = make_view(cohort, fields, n=take, size=size, rng=rng.child("views", name).numpy)
    both = ("train", "held_out")
    fields = tuple(
        f.with_reference(np.concatenate([views[k].columns[f.name] for k in both])) if f.is_number else f for f in fields
    )
    draws = make_draws(views, rng.child("draws").numpy, 60 if fast else 200)
    ctx = Context(schema, fields, views, draws, rng, fast, whole, tell)
    for table, codes in unmeasured_codes(schema, (train, held_out)).items():
        ctx.leave_out(f"Values beside codes: the {MAX_CODE_SERIES} most frequent codes of {table}", codes)
    return ctx


def make_draws(views: dict[str, View], rng: np.random.Generator, times: int) -> Draws:
    """Weights for dealing anew, for patient bootstraps, and for the copying anchor."""
    synthetic, train, held = (views[k].n_groups for k in ("synthetic", "train", "held_out"))
    mixed = rng.permuted(np.tile(np.arange(synthetic + held), (DEALINGS, 1)), axis=1)
    return Draws(
        (mixed < synthetic).astype(float),
        rng.multinomial(synthetic, np.full(synthetic, 1 / synthetic), times).astype(float),
        rng.multinomial(held, np.full(held, 1 / held), times).astype(float),
        rng.multinomial(train, np.full(train, 1 / train), 1).astype(float),
    )


def _check(synthetic: Cohort, train: Cohort, held_out: Cohort) -> None:
    problems = []
    for name, cohort in (("synthetic", synthetic), ("train", train), ("held_out", held_out)):
        if cohort.n_subjects == 0:
            problems.append(Problem("no-subjects", name, "the cohort has no patient", "Read some records first."))
        absent = [t for t in train.schema.tables if t not in cohort.schema.tables]
        if absent:
            where = f"the schema lacks table {', '.join(absent)}, which the training cohort has"
            problems.append(Problem("other-schema", name, where, "Compare cohorts of one schema."))
            continue
        for table, spec in train.schema.tables.items():
            theirs = cohort.schema.tables[table].columns
            odd = [c for c, column in spec.columns.items() if c not in theirs or theirs[c].kind != column.kind]
            if odd:
                what = f"columns {', '.join(odd)} are absent or of another kind than in the training cohort"
                problems.append(Problem("other-schema", f"{name}: {table}", what, "Compare cohorts of one schema."))
            if cohort.schema.keys(table) != train.schema.keys(table):
                what = "rows are tied to patients, visits and times in another way than in the training cohort"
                problems.append(Problem("other-schema", f"{name}: {table}", what, "Compare cohorts of one schema."))
            units = {c: (_unit(column), _unit(theirs.get(c))) for c, column in spec.columns.items()}
            other = [f"{c} is in {b}, not {a}" for c, (a, b) in units.items() if a != b and "1" not in (a, b)]
            if other:
                fix = "Bring them to the units of the training cohort."
                problems.append(Problem("other-unit", f"{name}: {table}", ", ".join(other), fix))
        if cohort.schema.clock != train.schema.clock:
            what = f"times are of the kind {cohort.schema.clock}, those of the training cohort {train.schema.clock}"
            problems.append(Problem("other-schema", name, what, "Compare cohorts of one schema."))
    if problems:
        raise DataError("these cohorts can't be compared", problems)


def _unit(column: Any) -> str:
    return getattr(column, "unit", "1")


def _in(schema: Schema, cohort: Cohort) -> Cohort:
    """The cohort in the tables and columns of a schema; what else it has is left out."""
    if cohort.schema.tables == schema.tables:
        return cohort
    tables = {name: cohort.tables[name] for name in schema.tables}
    return Cohort.build(schema, tables, signals=cohort.signals, origin=cohort.origin)
