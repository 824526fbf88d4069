"""Calendar dates: admissions fall on weekdays, flu in winter, a registry opens in one year and closes in another.

The other measures know time since the patient's start only. For schemas whose clock is a timestamp, each moment (rows
of a table, timestamp columns) is compared by

    date      Kolmogorov-Smirnov distance of the date itself
    month     total variation over the twelve months
    weekday   total variation over Monday to Sunday
    hour      total variation over 24 hours, where real moments have a time of day

Shifted dates (the usual de-identification) blur all four in real patients too, so nothing is lost by comparing them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.cells import Cells
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import cut_points
from cohortloom.evaluation.intervals import assess, not_computed
from cohortloom.evaluation.views import MICROSECONDS_PER_DAY, View
from cohortloom.report import Score

__all__ = ["Histogram", "histograms", "scores", "ticks"]

HOUR = 3_600_000_000
DAY = 24 * HOUR


@dataclass(frozen=True)
class Histogram:
    """What one moment is compared by: words, number of bins, View -> (patient, bin), are bins ordered?"""

    name: str
    size: int
    find: Callable[[View], tuple[np.ndarray, np.ndarray]]
    ordered: bool


def scores(ctx: Context) -> list[Score]:
    """Calendar scores."""
    key, name = "marginal.calendar", "dates, months and weekdays"
    if ctx.schema.clock != "timestamp":
        return [not_computed(ctx, key, name, "the schema knows no calendar dates")]
    cells = Cells()
    for h in histograms(ctx):
        cells.add(h.name, h.size, h.find, ordered=h.ordered)
    if not cells.parts:
        return [not_computed(ctx, key, name, "no moment is recorded")]
    return assess(ctx, cells.measure(ctx, key, name))


def _moments(ctx: Context) -> list[tuple[str, str | None, str | None]]:
    """(name, axis, field) of each moment: rows of tables with times, and timestamp columns."""
    rows = [(f"time of {a}", a, None) for a in ctx.tables if ctx.schema.has_time(a)]
    columns = [
        (f.name, f.axis, f.name)
        for f in ctx.fields
        if f.code is None and ctx.schema.tables[f.table].columns[f.column].kind == "timestamp"
    ]
    return rows + columns


def ticks(view: View, axis: str | None, field: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Patient and moment [us since 1970] where known."""
    patient = np.arange(view.n) if axis is None else view.axes[axis].patient
    days = view.columns[field] if field else view.axes[axis or ""].time
    known = np.isfinite(days)
    # whole numbers of microseconds below 2^53: the sum is exact
    moments = view.origin[patient[known]] + np.round(days[known] * MICROSECONDS_PER_DAY)
    return patient[known], moments.astype(np.int64)


def histograms(ctx: Context) -> list[Histogram]:
    """Date, month, weekday and hour of every moment; nothing without calendar dates."""
    moments = _moments(ctx) if ctx.schema.clock == "timestamp" else []
    return [h for name, axis, field in moments for h in _histograms(ctx, name, axis, field)]


def _histograms(ctx: Context, name: str, axis: str | None, field: str | None) -> list[Histogram]:
    real = np.concatenate([ticks(ctx.views[k], axis, field)[1] for k in ("train", "held_out")])
    if len(real) < 2:
        return []
    cuts = cut_points(np.sort(real // DAY), 32)

    def by(words: str, size: int, bin_of: Callable[[np.ndarray], np.ndarray], *, ordered: bool = False) -> Histogram:
        key = f"{name}: {words}"

        def find(view: View) -> tuple[np.ndarray, np.ndarray]:
            if ("calendar", key) not in view.cache:
                patient, t = ticks(view, axis, field)
                view.cache["calendar", key] = patient, bin_of(t)
            return view.cache["calendar", key]

        return Histogram(key, size, find, ordered)

    def month(t: np.ndarray) -> np.ndarray:
        return (t // DAY).astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12

    found = [
        by("date", len(cuts) + 1, lambda t: np.searchsorted(cuts, t // DAY, side="left"), ordered=True),
        by("month", 12, month),
        by("weekday", 7, lambda t: (t // DAY + 3) % 7),  # 1 January 1970 was a Thursday
    ]
    if (real % DAY).any():
        found.append(by("hour", 24, lambda t: t % DAY // HOUR))
    return found
