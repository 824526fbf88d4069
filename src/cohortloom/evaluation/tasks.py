"""What a declared task is trained on: rows of features with a target, made alike for every cohort.

    static target     one row per patient: the patient's summary (`cohort/features.py`)
    survival          one row per patient: statics and first values only, as a whole record would tell its own length
    visit target      one row per visit: its other columns, the previous visit, means so far, gap, statics
    next visit        one row per visit that has a next one: the visit itself (target included) and what came before

Rows also get, from every other table, the count of rows since the visit and the last value of each number before the
next visit begins. The target, its follow-up time, declared leaks, and (for visits) outcomes known only at the end of
follow-up are never among the features. A patient gives at most `ROWS_PER_PATIENT` rows, drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import summaries
from cohortloom.evaluation.fields import Field
from cohortloom.evaluation.views import View
from cohortloom.schema import Schema, Task

__all__ = ["TaskData", "hidden_columns", "slug", "target_of", "task_data"]

ROWS_PER_PATIENT = 3
MOST_OTHER = 40


@dataclass(frozen=True)
class TaskData:
    """Rows of one cohort.

    Args:
        x: row x feature, float32, NaN where missing.
        y: Target [row]; for survival row x (time, event).
        patient: Patient of each row, as numbered in the view.
        columns: "table.column" each feature is made of.
    """

    x: np.ndarray
    y: np.ndarray
    patient: np.ndarray
    columns: tuple[str, ...]

    def take(self, rows: np.ndarray) -> TaskData:
        return TaskData(self.x[rows], self.y[rows], self.patient[rows], self.columns)

    def of_patients(self, patients: np.ndarray) -> TaskData:
        """Rows of some patients; a patient named twice stands in twice."""
        times = np.bincount(patients, minlength=int(self.patient.max(initial=0)) + 1)[self.patient]
        return self.take(np.repeat(np.arange(len(self.patient)), times))

    @property
    def event(self) -> np.ndarray:
        return self.y[:, 1] if self.y.ndim == 2 else self.y


def slug(name: str) -> str:
    """A task's name as part of a key."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def hidden_columns(schema: Schema, task: Task) -> set[str]:
    """Columns that must not be among the features."""
    hidden = {task.target, *task.leaks} | ({task.time} if task.time else set())
    hidden |= {s.time for s in schema.survival if s.event == task.target}
    if schema.tables[task.target.split(".")[0]].role != "static":
        outcomes = [p for s in schema.survival for p in (s.time, s.event)]
        outcomes += [
            p for t in schema.tasks if t.kind in ("classification", "survival") for p in (t.target, t.time) if p
        ]
        hidden |= {p for p in outcomes if schema.tables[p.split(".")[0]].role == "static"}
    return hidden


def target_of(ctx: Context, task: Task, view: View) -> np.ndarray:
    """Target of each patient or row: 1 / 0 for events, a number for regression; NaN where missing."""
    f = next(f for f in ctx.fields if f.name == task.target)
    x = view.columns[f.name]
    if f.is_number:
        return x.astype(float)
    wanted = [i for i, level in enumerate(f.levels) if level in (task.event or ("true",))]
    return np.where(x < 0, np.nan, np.isin(x, wanted).astype(float))


def task_data(ctx: Context, task: Task, name: str, most: int) -> TaskData:
    """Rows of at most `most` patients of a cohort, those whose target is known."""
    view = ctx.views[name]
    hidden = hidden_columns(ctx.schema, task)
    role = ctx.schema.tables[task.target.split(".")[0]].role
    y = target_of(ctx, task, view)
    if role == "static":
        return _whole(ctx, task, name, y, hidden, most)
    return _rows(ctx, task, name, y, hidden, most)


def _whole(ctx: Context, task: Task, name: str, y: np.ndarray, hidden: set[str], most: int) -> TaskData:
    features = summaries(ctx)[name].without(hidden)
    keep = list(range(len(features.names)))
    if task.kind == "survival":
        statics = set(ctx.schema.statics)
        known = (": first", ": at first")
        keep = [i for i in keep if features.columns[i].split(".")[0] in statics or features.names[i].endswith(known)]
        follow = ctx.views[name].columns[task.time or ""].astype(float)
        y = np.stack([follow, y], axis=1)
        y[~(follow >= 0)] = np.nan
    ok = np.isfinite(y) if y.ndim == 1 else np.isfinite(y).all(axis=1)
    rows = np.flatnonzero(ok)[:most]
    x = features.values[rows][:, keep]
    return TaskData(x, y[rows], rows, tuple(features.columns[i] for i in keep))


def _rows(ctx: Context, task: Task, name: str, y: np.ndarray, hidden: set[str], most: int) -> TaskData:
    view, table = ctx.views[name], task.target.split(".")[0]
    rows = view.axes[table]
    later = task.kind == "next_visit"
    goes_on = np.zeros(len(y), dtype=bool)
    goes_on[:-1] = rows.follows[1:]
    if later:
        y = np.append(y[1:], np.nan) if len(y) else y
        y = np.where(goes_on, y, np.nan)
    draw = ctx.rng.child("task", task.name, name).numpy
    known = np.flatnonzero(np.isfinite(y))
    order = known[np.lexsort((draw.random(len(known)), rows.patient[known]))]
    first = np.flatnonzero(np.diff(rows.patient[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    chosen = np.sort(order[rank < ROWS_PER_PATIENT])
    who = np.unique(rows.patient[chosen])[:most]
    chosen = chosen[np.isin(rows.patient[chosen], who)]
    columns, parts = _of_visit(ctx, view, table, task, hidden, later)
    more, others = _of_others(ctx, view, table, goes_on, hidden)
    statics = [f for f in ctx.statics if f.name not in hidden]
    parts = [p[chosen] for p in (*parts, *others)] + [_plain(f, view)[rows.patient[chosen]] for f in statics]
    x = np.stack(parts, axis=1).astype(np.float32) if parts else np.zeros((len(chosen), 0), np.float32)
    names = (*columns, *more, *(f.name for f in statics))
    return TaskData(x, y[chosen], rows.patient[chosen], tuple(names))


def _plain(f: Field, view: View) -> np.ndarray:
    x = view.columns[f.name].astype(float)
    return x if f.is_number else np.where(x < 0, np.nan, x)


def _of_visit(ctx, view: View, table: str, task: Task, hidden: set[str], later: bool) -> tuple[list[str], list]:
    """Columns of the row itself, of the row before, and means so far."""
    from cohortloom.evaluation.detection import _running_mean

    rows = view.axes[table]
    names, parts = [f"{table} number"], [rows.position.astype(float)]
    if ctx.clocked:
        names.append(f"{table} gap")
        parts.append(rows.gap)
    for f in ctx.rows(table):
        target = f.name == task.target
        if f.name in hidden and not target:
            continue
        x = _plain(f, view)
        before = np.full(len(x), np.nan)
        before[1:] = np.where(rows.follows[1:], x[:-1], np.nan)
        made = [before] if target and not later else [x, before]
        if f.is_number and not (target and not later):
            made.append(_running_mean(x, rows.patient, rows.position))
        parts += made
        names += [f.name] * len(made)
    return names, parts


def _of_others(ctx, view: View, table: str, goes_on: np.ndarray, hidden: Iterable[str]) -> tuple[list[str], list]:
    """Rows of other tables since the row, and last values before the next row begins."""
    rows = view.axes[table]
    others = [a for a in view.axes if a != table and not a.startswith(f"{table}[")]
    if not others or not len(rows.patient):
        return [], []
    moments = np.unique(np.concatenate([view.axes[a].time for a in (table, *others)]))  # NaN, if any, comes last
    size = len(moments) + 1
    now = rows.patient * size + np.searchsorted(moments, rows.time)
    end = np.where(goes_on, np.append(now[1:], 0), (rows.patient + 1) * size)
    names, parts = [], []
    for axis in others:
        other = view.axes[axis]
        keys = other.patient * size + np.searchsorted(moments, other.time)
        keys_sorted = np.sort(keys)
        names.append(axis)
        parts.append((np.searchsorted(keys_sorted, end) - np.searchsorted(keys_sorted, now)).astype(float))
        for f in ctx.rows(axis):
            if not f.is_number or f.name in hidden or f"{f.table}.{f.column}" in hidden or len(names) >= MOST_OTHER:
                continue
            seen = view.seen(f)
            known, values = keys[seen], view.columns[f.name][seen]
            order = np.argsort(known, kind="stable")
            at = np.searchsorted(known[order], end) - 1
            good = at >= 0
            good[good] = known[order][at[good]] >= rows.patient[good] * size
            last = np.full(len(end), np.nan)
            last[good] = values[order][at[good]]
            names.append(f.name)
            parts.append(last)
    return names, parts
