"""Shards: subjects 1 .. n cut into pieces of fixed size.

The size is fixed, not a share of n, so shard k has the same content in a cohort of 2,000 and of 2,000,000 subjects, and
the memory of a draw does not grow with n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["SHARD_SIZE", "Shard", "plan"]

#: Subjects per shard. Changing it changes every sample.
SHARD_SIZE = 1024


@dataclass(frozen=True)
class Shard:
    """One piece: its number (which names its random stream), the place of its first subject, and its size."""

    number: int
    start: int
    size: int

    @property
    def ids(self) -> np.ndarray:
        """New subject ids, counted from 1 over the whole cohort [subject]."""
        return np.arange(self.start + 1, self.start + self.size + 1, dtype=np.int64)


def plan(n_subjects: int, *, size: int = SHARD_SIZE) -> list[Shard]:
    """Shards of `n_subjects` subjects, the last one possibly smaller."""
    return [Shard(k, start, min(size, n_subjects - start)) for k, start in enumerate(range(0, n_subjects, size))]
