"""SDV's probabilistic autoregressive model (PAR) as a peer: a recurrent network over visits, statics as context.

A baseline people know, behind our codec, so that linked tables, codes and gaps reach it. It is slow (a Python step per
visit) and can't condition or score. Needs the extra `[sdv]` (Business Source License 1.1); the model can't be saved,
see `sdv_frames.NotStored`.

References:
    Zhang, Patki, Veeramachaneni (2022). Sequential models in the Synthetic Data Vault. arXiv:2207.14406.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cohortloom.codec.tensors import Encoded, Layout, SequenceArrays, StaticArrays
from cohortloom.errors import DataError, Problem
from cohortloom.generators.base import Generator, Run
from cohortloom.generators.sdv_frames import (
    GAP,
    KEY,
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
from cohortloom.training.streams import borrowed_globals, few_threads

__all__ = ["SdvPar"]


@dataclass(kw_only=True)
class SdvPar(NotStored, Generator):
    """SDV's PAR: a recurrent network over visits with statics as context. Needs the extra [sdv].

    Args:
        epochs: Passes over the patients (SDV's default).
    """

    name: ClassVar[str] = "sdv-par"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, scale="raw")
    storable: ClassVar[bool] = False

    epochs: int = 128

    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        static, steps = data.static, data.sequence
        if static is None or steps is None or not steps.length.any():
            raise DataError("", [Problem("no-steps", "sdv-par", "no patient has a visit to learn from", "")])
        rows = frame_of(steps.features, steps.values, steps.observed)
        rows.columns = [f"s{c}" for c in rows.columns]
        facts = {f"s{c}": kind for c, kind in column_facts(steps.features).items()}
        fixed = frame_of(static.features, static.values, static.observed)
        whole = rows.join(fixed.iloc[steps.subject].reset_index(drop=True)) if len(fixed.columns) else rows
        whole[GAP], whole[KEY] = steps.gap, np.char.add("p", steps.subject.astype(str)).astype(object)
        facts |= column_facts(static.features) | {GAP: {"sdtype": "numerical"}, KEY: {"sdtype": "id"}}
        with borrowed_globals(rng.child("sdv")), few_threads(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.par_ = sdv().sequential.PARSynthesizer(
                metadata("steps", facts, sequence_key=KEY),
                context_columns=list(fixed.columns),
                epochs=self.epochs,
                cuda=False,
            )
            fit_any(self.par_, whole, "steps")
        self.static_, self.steps_ = static.features, steps.features
        self.without_ = float((steps.length == 0).mean())

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        with borrowed_globals(rng.child("sdv")), few_threads(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            restart(self.par_, rng)
            frame = only_frame(self.par_.sample_sequences(num_sequences=n), "steps")
        key = frame[KEY].astype(str)
        subject = key.factorize()[0]
        first = np.flatnonzero(np.diff(subject, prepend=-1))
        static = StaticArrays(self.static_, *array_of(self.static_, frame.iloc[first]))
        empty = rng.child("without").numpy.random(len(first)) < self.without_
        keep = ~empty[subject]
        own = frame[[c for c in frame.columns if c.startswith("s")]].rename(columns=lambda c: c[1:])
        values, observed = array_of(self.steps_, own[keep])
        gap = np.nan_to_num(frame[GAP].to_numpy(dtype=float)[keep])
        later = np.diff(subject[keep], prepend=-1) == 0  # the first is the time since the origin, which may lie ahead
        gap[later] = np.maximum(gap[later], 0.0)
        length = np.bincount(subject[keep], minlength=len(first))
        return Encoded(static, SequenceArrays(self.steps_, values, observed, gap, length))
