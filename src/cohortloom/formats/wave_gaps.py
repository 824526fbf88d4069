"""Gaps that a recorder writes as numbers: zeros, a rail, or the last value held.

A converter that sees nothing goes on writing, mostly 0 or the last sample. Taken for samples they are dips and flat
stretches that a generator learns to draw. A run is a stretch of exactly equal samples of one channel; the schema says
which runs are gaps (`source.gaps`), they become NaN before anything is filtered or resampled, and are counted. Where
the schema says nothing, long runs are counted all the same.
"""

import numpy as np
from jaxtyping import Bool, Float

from cohortloom.schema.signals import Gaps

__all__ = ["SUSPECT", "gaps_in"]

#: Runs nobody has declared are told from so many seconds on, if they are so many samples.
SUSPECT, FEWEST = Gaps(value=None, shortest=1.0), 50


def gaps_in(x: Float[np.ndarray, "channel sample"], fs: float, gaps: Gaps) -> Bool[np.ndarray, "channel sample"]:
    """Samples in runs of the declared value (or of any) that are long enough.

    A channel that never changes is no gap but flat, unless it holds the declared value; reading counts those apart.
    """
    least = max(1 if gaps.value is not None else 2, round(gaps.shortest * fs))
    least = max(least, FEWEST) if gaps is SUSPECT else least
    found = np.zeros(x.shape, bool)
    for channel, row in enumerate(x):
        edge = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1], [True]]))  # NaN differs from all
        length, value = np.diff(edge), row[edge[:-1]]
        gap = (length >= least) & np.isfinite(value)
        if gaps.value is not None:
            gap &= np.isclose(value, gaps.value, rtol=1e-5, atol=1e-9)
        elif len(length) == 1:
            continue
        found[channel] = np.repeat(gap, length)
    return found
