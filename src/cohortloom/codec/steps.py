"""What a step is, and in which step an event falls.

With a visit table a step is one of its rows. Without one, a step is a day (or another fixed width) of the subject on
which something was recorded in any timed table; for clock "order" it is one place in the order. Where at most 64
columns and codes are recorded, and on most days at more than two times, as by a monitor or a glucose sensor, every such
time is a step of its own.

An event falls in the visit it names; else in the last step that began at or before it; else in the subject's first
step. Step starts are compared on the grid of the event table: a prescription dated by the day belongs to the admission
of that day's afternoon, not to the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from cohortloom.codec.clock import DAY, floor_to, grid_of, ticks_of
from cohortloom.cohort import Cohort
from cohortloom.schema import Schema

__all__ = ["Steps", "place", "step_table", "steps_of", "subject_rows", "usual_width"]

_MOST_COLUMNS = 64
_FEW_TIMES = 2


@dataclass(frozen=True)
class Steps:
    """The steps of some subjects, one after the other.

    Args:
        ids: Subjects, sorted.
        length: Steps of each subject.
        time: Start of each step [ticks], never decreasing within a subject.
        frame: Rows of the visit table in the same order; None without one.
        n_untimed: Visits without a time; they got that of the visit before.
    """

    ids: pl.Series
    length: np.ndarray
    time: np.ndarray
    frame: pl.DataFrame | None
    n_untimed: int = 0

    @property
    def starts(self) -> np.ndarray:
        """Row of each subject's first step (or where it would stand)."""
        return np.cumsum(self.length) - self.length

    @property
    def subject(self) -> np.ndarray:
        """Number of the subject of each step."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def first(self) -> np.ndarray:
        """Is the step a subject's first?"""
        flags = np.zeros(len(self.time), bool)
        flags[self.starts[self.length > 0]] = True
        return flags

    @property
    def following(self) -> tuple[np.ndarray, np.ndarray]:
        """Start of the subject's next step [ticks], and whether there is one."""
        is_last = np.ones(len(self.time), bool)
        is_last[:-1] = self.first[1:]
        return np.where(is_last, 0, np.roll(self.time, -1)), ~is_last


def step_table(schema: Schema) -> str | None:
    """Name under which the codec's own step features stand: the visit table, or "steps"; None: nothing has a time."""
    if schema.visit_table is not None:
        return schema.visit_table
    return "steps" if any(t.timed for t in schema.events.values()) else None


def subject_rows(ids: pl.Series, frame: pl.DataFrame) -> np.ndarray:
    """Number of the subject of each row; -1 for a subject that is not in the list."""
    table = pl.DataFrame({"subject_id": ids, "__row": np.arange(ids.len())})
    found = frame.select("subject_id").join(table, on="subject_id", how="left", maintain_order="left")["__row"]
    return found.fill_null(-1).to_numpy().astype(np.int64)


def usual_width(cohort: Cohort) -> int:
    """Width of a step where there is no visit table [ticks]: a day, or the grid of the times themselves."""
    schema, width = cohort.schema, 0
    if schema.visit_table is not None or schema.clock == "order":
        return DAY
    times, ticks = [], []
    for name, table in schema.events.items():
        frame = cohort.tables[name]
        if table.timed and frame.height:
            width += frame[table.code].n_unique() if table.code else len(table.columns)
            known = frame.select("subject_id", "time").drop_nulls()
            ticks.append(ticks_of(known["time"])[0])
            times.append(known.select("subject_id", day=floor_to(ticks[-1], DAY), time=ticks[-1]))
    if not times or width > _MOST_COLUMNS:
        return DAY
    per_day = pl.concat(times).group_by("subject_id", "day").agg(pl.col("time").n_unique())["time"]
    if not len(per_day) or (per_day > _FEW_TIMES).mean() <= 0.5:
        return DAY
    return grid_of(schema, np.concatenate(ticks))


def steps_of(cohort: Cohort, ids: pl.Series, *, width: int = DAY) -> Steps:
    """The steps of a cohort's subjects.

    Args:
        cohort: Cohort that holds the subjects, and no others.
        ids: Its subjects, sorted.
        width: Width of a step where there is no visit table [ticks].
    """
    schema, n = cohort.schema, ids.len()
    if schema.visit_table is not None:
        frame = cohort.tables[schema.visit_table]
        subject = subject_rows(ids, frame)
        time, known = ticks_of(frame["time"])
        if not known.all():
            time = _carried_forward(time, known, subject)
        return Steps(ids, np.bincount(subject, minlength=n), time, frame, int((~known).sum()))
    parts = []
    for name, table in schema.events.items():
        if table.timed and cohort.tables[name].height:
            time, known = ticks_of(cohort.tables[name]["time"])
            grid = 1 if schema.clock == "order" else width
            parts.append(np.column_stack([subject_rows(ids, cohort.tables[name]), floor_to(time, grid)])[known])
    if not parts:
        return Steps(ids, np.zeros(n, np.int64), np.zeros(0, np.int64), None)
    found = np.concatenate([_distinct(p) for p in parts])
    found = _distinct(found)
    return Steps(ids, np.bincount(found[:, 0], minlength=n), found[:, 1], None)


def place(
    steps: Steps, frame: pl.DataFrame, subject: np.ndarray, *, grid: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The step of each row of an event table.

    Args:
        steps: Steps of the subjects.
        frame: Event rows.
        subject: Number of the subject of each row.
        grid: Grid of the table's times [ticks].

    Returns:
        Row of the step (-1: the subject has no step), whether it was found by a visit link, and whether the row has a
        link that leads to no visit of the subject.
    """
    n = frame.height
    step = np.full(n, -1, dtype=np.int64)
    linked, lost = np.zeros(n, bool), np.zeros(n, bool)
    if "visit_id" in frame.columns and steps.frame is not None:
        visits = steps.frame.select("subject_id", "visit_id", pl.int_range(pl.len(), dtype=pl.Int64).alias("__step"))
        keys = ["subject_id", "visit_id"]
        if frame["visit_id"].dtype != visits["visit_id"].dtype:
            visits = visits.with_columns(pl.col("visit_id").cast(frame["visit_id"].dtype))
        visits = visits.unique(keys, keep="first", maintain_order=True)
        found = frame.select(keys).join(visits, on=keys, how="left", maintain_order="left")["__step"]
        linked = found.is_not_null().to_numpy()
        step = np.where(linked, found.fill_null(-1).to_numpy(), -1)
        lost = frame["visit_id"].is_not_null().to_numpy() & ~linked
    open_ = ~linked
    if open_.any():
        has_step = steps.length[subject] > 0
        first = np.where(has_step, steps.starts[subject], -1)
        if "time" in frame.columns:
            time, known = ticks_of(frame["time"])
            last = _last_begun(steps, subject[open_], floor_to(time[open_], grid), grid)
            step[open_] = np.where(known[open_] & has_step[open_], last, first[open_])
        else:
            step[open_] = first[open_]
    return step, linked, lost


def _last_begun(steps: Steps, subject: np.ndarray, time: np.ndarray, grid: int) -> np.ndarray:
    """Last step of the subject with start <= time, or its first."""
    n = len(steps.time)
    owner = np.concatenate([steps.subject, subject])
    when = np.concatenate([floor_to(steps.time, grid), time])
    is_event = np.concatenate([np.zeros(n, np.int8), np.ones(len(subject), np.int8)])
    order = np.lexsort((is_event, when, owner))
    row = np.where(order < n, order, -1)
    last = np.maximum.accumulate(row)
    found = np.empty(len(order), np.int64)
    found[order] = last
    return np.maximum(found[n:], steps.starts[subject])


def _distinct(pairs: np.ndarray) -> np.ndarray:
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    new = np.ones(len(pairs), bool)
    new[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
    return pairs[new]


def _carried_forward(time: np.ndarray, known: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Missing times stand last within a subject; they take the last known one, or the cohort's median."""
    row = np.where(known, np.arange(len(time)), -1)
    last = np.maximum.accumulate(row)
    same = (last >= 0) & (subject[np.maximum(last, 0)] == subject)
    default = int(np.median(time[known])) if known.any() else 0
    return np.where(same, time[np.maximum(last, 0)], default)
