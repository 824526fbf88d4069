"""Times as whole ticks and as days.

Inside the codec a time is a 64-bit count of ticks: microseconds since 1970 (clock "timestamp"), microseconds since the
subject's origin ("offset"), or the place in the order ("order"). Generators see days. Times are recorded on a grid
(whole days, minutes, ...); the grid is found in the training data, so that a decoded time looks like a recorded one.
Dates that name a month or a year alone lie on the first days of these, a grid by the calendar (`MONTH`, `YEAR`).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from cohortloom.cohort.dtypes import clock_dtype
from cohortloom.schema import Schema

__all__ = [
    "DAY",
    "MONTH",
    "YEAR",
    "floor_to",
    "grid_of",
    "has_days",
    "place_of",
    "round_to",
    "series_of",
    "ticks_of",
    "ticks_per_day",
    "time_of",
]

#: Microseconds in one day.
DAY = 86_400_000_000
#: Grids of calendar months and years, whatever their lengths.
MONTH, YEAR = 30 * DAY, 365 * DAY
_CALENDAR = {MONTH: "datetime64[M]", YEAR: "datetime64[Y]"}
_FEWEST = 5  # dates: that all name the first of a month is chance once in 20 million
_GRIDS = (DAY, DAY // 24, DAY // 96, DAY // 288, DAY // 1440, 1_000_000, 1000)
_GRANULARITY = {"year": DAY, "month": DAY, "day": DAY, "hour": DAY // 24, "minute": DAY // 1440, "second": 1_000_000}


def ticks_per_day(schema: Schema) -> int:
    """Ticks in one unit of a gap: a day, or one place for clock "order"."""
    return 1 if schema.clock == "order" else DAY


def ticks_of(series: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Ticks (0 where missing) and whether there is a time."""
    known = series.is_not_null().to_numpy()
    return series.to_physical().cast(pl.Int64).fill_null(0).to_numpy().astype(np.int64), known


def series_of(schema: Schema, ticks: np.ndarray, known: np.ndarray | None = None, name: str = "time") -> pl.Series:
    """Column of times in the dtype of the schema's clock."""
    series = pl.Series(name, np.asarray(ticks, dtype=np.int64)).cast(clock_dtype(schema))
    if known is None or known.all():
        return series
    return pl.select(pl.when(pl.Series(known)).then(series).alias(name)).to_series()


def grid_of(schema: Schema, ticks: np.ndarray, granularity: str = "exact") -> int:
    """Coarsest usual grid that holds all ticks, at least that of the schema's granularity."""
    if schema.clock == "order":
        return 1
    if schema.clock == "timestamp":
        several = len(np.unique(ticks)) >= _FEWEST
        for grid, name in ((YEAR, "year"), (MONTH, "month")):
            if granularity == name or (several and np.array_equal(floor_to(ticks, grid), ticks)):
                return grid
    declared = _GRANULARITY.get(granularity, 1)
    if not len(ticks):
        return max(declared, 1)
    found = next((g for g in _GRIDS if not np.any(ticks % g)), 1)
    return max(found, declared)


def has_days(schema: Schema, ticks: np.ndarray, first: np.ndarray) -> bool:
    """Are steps calendar days with a time of day, rather than points of a finer grid?

    True where times are dated, not all at midnight, and at least half of a subject's steps fall on another day than the
    one before.

    Args:
        ticks: Start of each step, subjects one after the other.
        first: Is the step a subject's first?
    """
    if schema.clock != "timestamp" or not np.any(ticks % DAY):
        return False
    later = np.diff(ticks // DAY)[~first[1:]]
    return not len(later) or float((later > 0).mean()) >= 0.5


def round_to(ticks: np.ndarray, grid: int) -> np.ndarray:
    """Nearest multiple of the grid, or first day of a month or year."""
    if grid in _CALENDAR:
        place = place_of(ticks, grid)
        low, high = time_of(place, grid), time_of(place + 1, grid)
        return np.where(ticks - low < high - ticks, low, high)
    return ticks if grid <= 1 else (ticks + grid // 2) // grid * grid


def floor_to(ticks: np.ndarray, grid: int) -> np.ndarray:
    """Largest multiple of the grid, or first day of a month or year, that is not above."""
    return ticks if grid <= 1 else time_of(place_of(ticks, grid), grid)


def place_of(ticks: np.ndarray, grid: int) -> np.ndarray:
    """Number of the multiple of the grid, month or year that each time falls in."""
    if grid in _CALENDAR:
        return np.asarray(ticks, np.int64).astype("datetime64[us]").astype(_CALENDAR[grid]).astype(np.int64)
    return ticks // max(grid, 1)


def time_of(place: np.ndarray, grid: int) -> np.ndarray:
    """Time of each place of a grid [ticks]."""
    if grid in _CALENDAR:
        return np.asarray(place, np.int64).astype(_CALENDAR[grid]).astype("datetime64[us]").astype(np.int64)
    return place * max(grid, 1)
