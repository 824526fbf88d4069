"""Times as whole ticks and as days.

Inside the codec a time is a 64-bit count of ticks: microseconds since 1970 (clock "timestamp"), microseconds since the
subject's origin ("offset"), or the place in the order ("order"). Generators see days. Times are recorded on a grid
(whole days, minutes, ...); the grid is found in the training data, so that a decoded time looks like a recorded one.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from cohortloom.cohort.dtypes import clock_dtype
from cohortloom.schema import Schema

__all__ = ["DAY", "floor_to", "grid_of", "has_days", "round_to", "series_of", "ticks_of", "ticks_per_day"]

#: Microseconds in one day.
DAY = 86_400_000_000
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
    """Nearest multiple of the grid."""
    return ticks if grid <= 1 else (ticks + grid // 2) // grid * grid


def floor_to(ticks: np.ndarray, grid: int) -> np.ndarray:
    """Largest multiple of the grid that is not above."""
    return ticks if grid <= 1 else ticks // grid * grid
