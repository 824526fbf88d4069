"""Generators of records that choose each patient among several of their own draws.

After training, drawn patients are compared with training patients (`density_ratio`). Where they are told apart,
`sample` draws a patient again until a draw is accepted; elsewhere nothing changes. Patients with a pair of values that
no training patient has, though chance would show it (`cohort.pairs`), are drawn again as well: a network gives a small
share to everything. Likelihoods, continuations and filled cells are those of the model without the choice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort
from cohortloom.cohort.pairs import Never
from cohortloom.errors import FileFormatError, Problem, SettingsError
from cohortloom.generators.base import Run
from cohortloom.generators.condition import Condition
from cohortloom.generators.density_ratio import FEWEST, MOST, DensityRatio, chosen
from cohortloom.generators.torch_base import TorchGenerator
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.sharding import merge, plan

__all__ = ["ChoosingGenerator"]

SHARE = 1 / 6  # of a budget that is kept for the comparison,
LEAST = 3.0  # where it is as long as this [s]
PATIENTS_PER_SECOND = 25  # that are compared with drawn ones
BATCH = 2000  # patients: a batch of fewer costs hardly less, so few patients are drawn several times at once


@dataclass(kw_only=True)
class ChoosingGenerator(TorchGenerator):
    """A network whose patients are chosen among several draws.

    Args:
        candidates: Draws of a patient, at most, where drawn patients can be told from training patients; None: 2 to 16,
            the more the better they can be told; 1: no comparison.
    """

    files: ClassVar[frozenset[str]] = TorchGenerator.files | {"density_ratio.safetensors"}
    #: Statics are drawn first: the choice is among courses of one patient and leaves the law of statics alone.
    statics_first: ClassVar[bool] = False

    candidates: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates is not None and self.candidates < 1:
            raise SettingsError(f"{self.name}: candidates must be at least 1.")

    def _learn(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        self.ratio_, self.never_ = None, Never.of(cohort)
        wanted = self.candidates != 1 and cohort.n_subjects >= FEWEST and not self.needs_given
        seconds = None if run.minutes is None else 60 * run.minutes
        if not wanted or (seconds is not None and seconds * SHARE < LEAST):
            self._train(cohort, rng, run)
            return
        began = time.monotonic()
        self._train(cohort, rng, run if seconds is None else replace(run, minutes=(1 - SHARE) * seconds / 60))
        if seconds is None or time.monotonic() - began < seconds:
            most = MOST if seconds is None else min(MOST, int(PATIENTS_PER_SECOND * SHARE * seconds))
            self.ratio_ = self._compared(cohort, rng.child("ratio"), run, most)

    def _train(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        """Learn the model itself."""
        super()._learn(cohort, rng, run)

    def _compared(self, cohort: Cohort, rng: Rng, run: Run, most: int = MOST) -> DensityRatio | None:
        """What tells at most so many training patients from about twice as many drawn ones."""
        if run.progress:
            run.progress(1, 1, "compare")
        n = min(cohort.n_subjects, most)
        some = np.sort(rng.child("patients").numpy.permutation(cohort.n_subjects)[:n])
        shards = plan(max(2 * n, 500), size=self.shard_size)
        drawn = [self._make(s.ids, None, rng.child("shard", s.number), Condition()) for s in shards]
        real = cohort.select(cohort.subjects.gather(some))
        return DensityRatio.fit(real, merge(self.schema_, drawn), rng.child("fit"), candidates=self.candidates)

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        if self.ratio_ is None or not len(ids):
            return super()._make(ids, given, rng, condition)
        ratio, statics = self.ratio_, self._statics_of(given, rng)
        drawn, blocks, most = Encoded(), [], max(len(ids), min(self.shard_size, BATCH))

        def draw(k: int, left: np.ndarray) -> Cohort:
            nonlocal statics, drawn
            if not blocks:
                copies = min(most // len(left), ratio.candidates - k) if k else 1
                stream = rng.child("candidates", k)
                known = None if statics is None else statics.take(np.tile(left, copies))
                with self._layers(stream):
                    drawn = self._arrays(copies * len(left), known, stream, condition)
                blocks.extend((left, first) for first in range(0, copies * len(left), len(left)))
                if self.statics_first and not k:
                    statics = drawn.static
            places, first = blocks.pop(0)
            rows = first + np.flatnonzero(np.isin(places, left))
            return self._decoded(drawn.take(rows), ids[left], given, rng.child("candidate", k), condition)

        return chosen(ratio, ids, draw, rng.child("choice"))

    def avoided(self, drawn: Cohort) -> pl.Series:
        return self.never_.held_by(drawn)

    @property
    def notes(self) -> dict[str, int]:
        ratio = getattr(self, "ratio_", None)
        return super().notes if ratio is None else {**super().notes, "draws of a patient, at most": ratio.candidates}

    def _write(self, folder: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        facts = {**super()._write(folder), "never": self.never_.to_json()}
        if self.ratio_ is None:
            return facts
        save_file(self.ratio_.trees.tensors(), folder / "density_ratio.safetensors")
        return {**facts, "density_ratio": self.ratio_.facts()}

    def _read(self, folder: Path, facts: Mapping[str, Any], schema: Schema) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        super()._read(folder, facts, schema)
        self.ratio_, known = None, facts.get("density_ratio")
        try:
            self.never_ = Never.from_json(facts["never"])
        except (KeyError, TypeError, ValueError):
            problem = Problem("never", "model.json", "pairs do not fit the model", "Save the model again.")
            raise FileFormatError("", [problem]) from None
        if known is None:
            return
        try:
            self.ratio_ = DensityRatio.from_facts(known, load_file(folder / "density_ratio.safetensors"))
        except (SafetensorError, OSError, TypeError, ValueError):
            problem = Problem("trees", "density_ratio.safetensors", "does not fit the model", "Save the model again.")
            raise FileFormatError("", [problem]) from None
