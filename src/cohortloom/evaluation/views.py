"""A cohort as flat arrays, made once and read by every measure.

Patients are dealt at random into groups of equal size; patient p of the view belongs to group p // size. A measure
sums its statistics within groups, and all resampling (patient bootstrap, real-against-real splits) draws groups: since
groups are independent sums of patients, their variance is that of patients, and 200 draws are one matrix product. With
at most about 250 patients a group is a patient.

Rows of an axis are sorted by patient and time. Time is in days: since the subject's origin for offsets, since the
patient's first recorded time for timestamps, and the position for cohorts that know the order only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.evaluation.fields import Field
from cohortloom.schema import Schema

__all__ = ["Axis", "View", "make_view", "tally", "values", "visit_facts"]

MICROSECONDS_PER_DAY = 86_400e6


@dataclass(frozen=True)
class Axis:
    """Rows of one table (or of one code), sorted by patient and time.

    Args:
        patient: Patient of each row.
        time: Days; NaN where unknown.
        basket: Number of the visit (or moment) the row belongs to, increasing within patients.
    """

    patient: np.ndarray
    time: np.ndarray
    basket: np.ndarray
    n_patients: int

    @cached_property
    def follows(self) -> np.ndarray:
        """Is the row preceded by a row of the same patient?"""
        same = np.zeros(len(self.patient), dtype=bool)
        same[1:] = self.patient[1:] == self.patient[:-1]
        return same

    @cached_property
    def gap(self) -> np.ndarray:
        """Days since the patient's previous row; NaN at the first."""
        gap = np.full(len(self.patient), np.nan)
        gap[1:] = np.where(self.follows[1:], np.diff(self.time), np.nan)
        return gap

    @cached_property
    def count(self) -> np.ndarray:
        """Rows of each patient."""
        return np.bincount(self.patient, minlength=self.n_patients)

    @cached_property
    def start_time(self) -> np.ndarray:
        """First known time of each patient [d]; NaN without one."""
        first = np.full(self.n_patients, np.inf)
        known = np.isfinite(self.time)
        np.minimum.at(first, self.patient[known], self.time[known])
        return np.where(np.isfinite(first), first, np.nan)

    @cached_property
    def gap_total(self) -> np.ndarray:
        """Last less first known time of each patient [d]; NaN without one."""
        last = np.full(self.n_patients, -np.inf)
        known = np.isfinite(self.time)
        np.maximum.at(last, self.patient[known], self.time[known])
        return np.where(np.isfinite(last), last, np.nan) - self.start_time

    @cached_property
    def position(self) -> np.ndarray:
        """0, 1, 2, ... within each patient."""
        start = np.concatenate([[0], np.cumsum(self.count)[:-1]]) if self.n_patients else np.zeros(0, int)
        return np.arange(len(self.patient)) - start[self.patient]


@dataclass
class View:
    """One cohort as arrays.

    Args:
        n: Patients.
        size: Patients per group.
        axes: Rows by axis name.
        columns: Values by field name: numbers (NaN missing) or level numbers (-1 missing), one per patient for static
            fields and one per row for others.
        subjects: Ids in the order of the view (to look patients up again; never shown).
        origin: First recorded time of each patient [us since 1970]; 0 without one, and without calendar dates.
    """

    n: int
    size: int
    axes: dict[str, Axis]
    columns: dict[str, np.ndarray]
    subjects: pl.Series
    cohort: Cohort
    origin: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)
    cache: dict = field(default_factory=dict, repr=False)

    @property
    def n_groups(self) -> int:
        return max(1, -(-self.n // self.size))

    def rank(self, f: Field) -> np.ndarray:
        """Ranks of a number among real values."""
        key = ("rank", f.name)
        if key not in self.cache:
            self.cache[key] = f.ranks(self.columns[f.name])
        return self.cache[key]

    def patient_of(self, f: Field) -> np.ndarray:
        """Patient of each value of a field."""
        return np.arange(self.n) if f.axis is None else self.axes[f.axis].patient

    def seen(self, f: Field) -> np.ndarray:
        """Which values are recorded?"""
        x = self.columns[f.name]
        return np.isfinite(x) if f.is_number else x >= 0

    def series(self, f: Field) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recorded values of a row field: patient, time, value (rank or level), in order."""
        key = ("series", f.name)
        if key not in self.cache:
            keep = self.seen(f)
            axis = self.axes[f.axis or ""]
            x = self.rank(f) if f.is_number else self.columns[f.name]
            self.cache[key] = (axis.patient[keep], axis.time[keep], x[keep])
        return self.cache[key]


def tally(view: View, patient: np.ndarray, cell: np.ndarray, size: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Counts (or sums of `weight`) by group and cell; negative cells are left out.

    Returns:
        Array group x cell.
    """
    group = patient // view.size
    keep = cell >= 0
    where = group[keep] * size + cell[keep]
    w = None if weight is None else weight[keep]
    return np.bincount(where, weights=w, minlength=view.n_groups * size).reshape(view.n_groups, size).astype(float)


def make_view(cohort: Cohort, fields: tuple[Field, ...], *, n: int, size: int, rng: np.random.Generator) -> View:
    """Arrays of `n` patients drawn at random without replacement."""
    subjects = cohort.subjects
    chosen = subjects.gather(rng.permutation(subjects.len())[:n])
    plan = pl.DataFrame({"subject_id": chosen, "__p": np.arange(n, dtype=np.int64)})
    schema = cohort.schema
    origin = _origins(cohort) if schema.clock == "timestamp" else None
    axes: dict[str, Axis] = {}
    columns: dict[str, np.ndarray] = {}
    for table, spec in schema.tables.items():
        mine = [f for f in fields if f.table == table]
        if spec.role == "static":
            frame = cohort.tables[table].unique("subject_id", keep="first")
            frame = plan.join(frame, on="subject_id", how="left", maintain_order="left")
            frame = _with_origin(frame, origin)
            for f in mine:
                columns[f.name] = values(frame, f, schema.clock)
            continue
        frame = _rows(cohort, table, plan, origin)
        if table == schema.visit_table:
            columns |= _facts_of_visits(cohort, frame)
        for axis in dict.fromkeys([table, *(f.axis for f in mine if f.code is not None)]):
            code = None if axis == table else axis[len(table) + 1 : -1]
            part = frame if code is None else frame.filter(pl.col(spec.code or "") == code)
            axes[axis] = Axis(
                part["__p"].to_numpy(), part["__days"].to_numpy().astype(float), part["__basket"].to_numpy(), n
            )
            for f in mine:
                if f.axis == axis:
                    columns[f.name] = values(part, f, schema.clock)
    start = np.zeros(n) if origin is None else _ticks(_with_origin(plan, origin)["__origin"])
    return View(n, size, axes, columns, chosen, cohort, start)


def visit_facts(schema: Schema) -> dict[str, tuple[str, bool]]:
    """What is counted of a visit beside its columns: label -> event table whose rows name it (True), or timestamp it
    has (False)."""
    visits = schema.visit_table
    if visits is None:
        return {}
    facts = {f"rows of {t} in a visit": (t, True) for t in schema.events if schema.has_visit_id(t)}
    ends = [c for c, what in schema.tables[visits].columns.items() if what.kind == "timestamp"]
    return facts | {f"time to {visits}.{c}": (c, False) for c in ends}


def _facts_of_visits(cohort: Cohort, frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """`visit_facts` of every visit: log(1 + rows), and log(1 + days), less than 0 for what lies before it."""
    found = {}
    for label, (name, is_table) in visit_facts(cohort.schema).items():
        if is_table:
            keys = ["subject_id", "visit_id"]
            n = cohort.tables[name].group_by(keys).agg(pl.len().alias("__n"))
            n = frame.select(keys).join(n, on=keys, how="left", maintain_order="left")["__n"].fill_null(0)
            found[label] = np.log1p(n.to_numpy().astype(float))
        else:
            apart = (frame[name] - frame["time"]).cast(pl.Int64).cast(pl.Float64)
            days = apart.fill_null(np.nan).to_numpy() / (MICROSECONDS_PER_DAY if cohort.schema.clock != "order" else 1)
            found[label] = np.sign(days) * np.log1p(np.abs(days))
    return found


def _origins(cohort: Cohort) -> pl.DataFrame:
    """First recorded time of each patient, over all tables."""
    schema = cohort.schema
    parts = [cohort.tables[t].select("subject_id", "time") for t in schema.tables if schema.has_time(t)]
    if not parts:
        return pl.DataFrame({"subject_id": cohort.subjects}).with_columns(
            __origin=pl.lit(None, dtype=pl.Datetime("us"))
        )
    return pl.concat(parts).group_by("subject_id").agg(__origin=pl.col("time").min())


def _ticks(moments: pl.Series) -> np.ndarray:
    return moments.cast(pl.Int64).fill_null(0).to_numpy().astype(float)


def _with_origin(frame: pl.DataFrame, origin: pl.DataFrame | None) -> pl.DataFrame:
    return frame if origin is None else frame.join(origin, on="subject_id", how="left", maintain_order="left")


def _days(frame: pl.DataFrame, column: str, clock: str) -> pl.Expr:
    if clock == "order":
        return pl.col(column).cast(pl.Float64)
    if clock == "timestamp":
        ticks = pl.col(column).cast(pl.Int64) - pl.col("__origin").cast(pl.Int64).fill_null(0)
        return ticks / MICROSECONDS_PER_DAY
    return pl.col(column).cast(pl.Int64) / MICROSECONDS_PER_DAY


def _rows(cohort: Cohort, table: str, plan: pl.DataFrame, origin: pl.DataFrame | None) -> pl.DataFrame:
    """Rows with patient number, days and basket, sorted by patient, time and visit."""
    schema, visits = cohort.schema, cohort.schema.visit_table
    frame = cohort.tables[table].join(plan, on="subject_id", how="inner", maintain_order="left")
    frame = _with_origin(frame, origin)
    has_visit = schema.has_visit_id(table)
    if schema.has_time(table):
        frame = frame.with_columns(__days=_days(frame, "time", schema.clock))
    else:
        frame = frame.with_columns(__days=pl.lit(None, dtype=pl.Float64))
    if has_visit and table != visits and visits is not None:
        moments = cohort.tables[visits].unique("visit_id", keep="first").select("visit_id", __visit_time=pl.col("time"))
        frame = frame.join(moments, on="visit_id", how="left", maintain_order="left")
        frame = frame.with_columns(__visit_days=_days(frame, "__visit_time", schema.clock))
        frame = frame.with_columns(
            __days=pl.coalesce("__days", "__visit_days"), __start=pl.coalesce("__visit_days", "__days")
        )
    else:
        frame = frame.with_columns(__start=pl.col("__days"))
    keys = ["__p", "__days"] if schema.has_time(table) else ["__p", "__start"]
    frame = frame.sort(keys, nulls_last=True, maintain_order=True)
    moment = [pl.col("__start").fill_null(np.inf)]
    if has_visit:
        moment.append(pl.col("visit_id").cast(pl.String).fill_null(""))
    basket = pl.struct("__p", *(m.alias(f"__m{i}") for i, m in enumerate(moment))).rank("dense").cast(pl.Int64) - 1
    return frame.with_columns(__basket=basket)


def values(frame: pl.DataFrame, f: Field, clock: str) -> np.ndarray:
    """A field of a frame's rows: numbers (NaN missing) or level numbers (-1 missing)."""
    column = frame[f.column]
    if f.is_number:
        if column.dtype in (pl.Datetime("us"), pl.Duration("us")):
            column = frame.select(_days(frame, f.column, clock)).to_series()
        x = column.cast(pl.Float64).to_numpy().astype(float)
        return np.where(np.isfinite(x), x, np.nan)
    if column.dtype == pl.Boolean:
        return column.cast(pl.Int8).fill_null(-1).to_numpy().astype(np.int16)
    levels = pl.Series(list(f.levels[:-1]), dtype=pl.String)
    numbers = pl.Series(np.arange(len(levels)), dtype=pl.Int64)
    found = column.replace_strict(levels, numbers, default=len(levels), return_dtype=pl.Int64)
    return pl.select(pl.when(column.is_null()).then(-1).otherwise(found)).to_series().to_numpy().astype(np.int16)
