"""Every column drawn apart.

The lower anchor of every table: the marginals, the missing cells and the row counts of the training patients, and no
association. Like `bootstrap`, THE MODEL FILE HOLDS THE TRAINING DATA; cells, counts of visits and first times of real
patients are handed out, though never a whole patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.cohort.resample import independent
from cohortloom.generators.bootstrap import Resampled, with_ids
from cohortloom.generators.condition import Condition
from cohortloom.rng import Rng

__all__ = ["Independent"]

#: Cells are exchanged among at least this many patients, or a small draw would keep whole patients.
POOL = 1024


@dataclass(kw_only=True)
class Independent(Resampled):
    """Columns and gaps drawn apart: marginals without association. The model is the data."""

    name: ClassVar[str] = "independent"

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        pool = independent(self.cohort_, max(len(ids), POOL), rng)
        return with_ids(pool, pl.Series("subject_id", np.arange(1, len(ids) + 1, dtype=np.int64)), ids)
