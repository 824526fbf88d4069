"""SDV's Gaussian copula as a static link: statics from a copula, to be continued by another generator.

    Chain(static="sdv-static", events="columnar-ar")

Needs the extra `[sdv]` (Business Source License 1.1). The model can't be saved, see `sdv_frames.NotStored`.

References:
    Patki, Wedge, Veeramachaneni (2016). The Synthetic Data Vault. IEEE DSAA. doi:10.1109/DSAA.2016.49.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cohortloom.codec.tensors import Encoded, Layout, StaticArrays
from cohortloom.errors import DataError, Problem
from cohortloom.generators.base import Generator, Run
from cohortloom.generators.sdv_frames import (
    NotStored,
    array_of,
    column_facts,
    fit_any,
    frame_of,
    metadata,
    only_frame,
    restart,
    sdv,
)
from cohortloom.rng import Rng
from cohortloom.training.streams import borrowed_globals

__all__ = ["SdvStatic"]


@dataclass(kw_only=True)
class SdvStatic(NotStored, Generator):
    """SDV's Gaussian copula of the static columns; the course is left empty. Needs the extra [sdv]."""

    name: ClassVar[str] = "sdv-static"
    layout: ClassVar[Layout] = Layout(static=True, sequence=False, scale="raw")
    storable: ClassVar[bool] = False

    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        assert data.static is not None
        features = data.static.features
        if not features:
            raise DataError("", [Problem("no-statics", "sdv-static", "the schema has no static column to model", "")])
        frame = frame_of(features, data.static.values, data.static.observed)
        with borrowed_globals(rng.child("sdv")):
            self.copula_ = sdv().single_table.GaussianCopulaSynthesizer(metadata("statics", column_facts(features)))
            fit_any(self.copula_, frame, "statics")
        self.features_ = features

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        with borrowed_globals(rng.child("sdv")), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            restart(self.copula_, rng)
            frame = only_frame(self.copula_.sample(n), "statics")
        return Encoded(StaticArrays(self.features_, *array_of(self.features_, frame)), None)
