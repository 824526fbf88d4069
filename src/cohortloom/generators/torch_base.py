"""Generators that are networks.

A subclass adds to its settings and `_draw`:

    measure(data, context, rng)        plain facts the network's shape depends on (JSON), learned before it is built
    build(shape)                       the network
    phases(net, data, context, rng)    what to train on which patients or rows
    finish(net, data, context, rng)    what is fitted after training, in closed form (buffers of the network)

Weights, initialisation and dropout draw from streams of the fit; the global stream of torch is left as it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded, Feature
from cohortloom.cohort import Cohort
from cohortloom.errors import FileFormatError, Problem
from cohortloom.generators.base import Ability, Generator, Run
from cohortloom.generators.condition import Condition
from cohortloom.nets.packing import packed, unpacked
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.training import History, Phase, Training, drawing_from, few_threads, train
from cohortloom.training.checkpoint import read_checkpoint

__all__ = ["Shape", "TorchGenerator"]


@dataclass(frozen=True)
class Shape:
    """All a network's sizes may depend on; the same after loading.

    Args:
        static: Features of the statics, modelled or (if the layout has none) upstream.
        sequence: Features of a step.
        n_subjects: Training patients: sizes follow it.
        facts: What `measure` found; plain JSON.
    """

    static: tuple[Feature, ...]
    sequence: tuple[Feature, ...]
    n_subjects: int
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class TorchGenerator(Generator):
    """A generator with a network, trained by the one loop.

    Args:
        training: Settings of the training.
    """

    abilities: ClassVar[frozenset[Ability]] = frozenset({Ability.RESUME})
    files: ClassVar[frozenset[str]] = frozenset({"codec.json", "weights.safetensors"})

    training: Training = field(default_factory=Training)

    # -- a subclass writes ---------------------------------------------------------------------------------------

    def measure(self, data: Encoded, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        """Plain facts for `build`: longest course, spikes of columns, ..."""
        return {}

    @abstractmethod
    def build(self, shape: Shape) -> torch.nn.Module:
        """The network, freshly initialised (initialisers draw from the fit's stream)."""

    @abstractmethod
    def phases(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> list[Phase]:
        """What to train; `hold_out(data.n_subjects, self.training.validation, rng)` keeps patients aside."""

    def finish(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> None:
        """Fit what has a closed form once the network is trained (in place)."""
        return None

    # -- the base does -------------------------------------------------------------------------------------------

    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        began = time.monotonic()
        with few_threads(None, self.training.threads):
            facts = json.loads(json.dumps(self.measure(data, context, rng.child("measure")), allow_nan=False))
            self.shape_ = self._shape(facts, data.n_subjects)
            with drawing_from(rng.child("initialise").torch):
                net = self.build(self.shape_)
            phases = self.phases(net, data, context, rng.child("phases"))
        self.history_ = train(
            net,
            phases,
            self.training,
            rng.child("train"),
            progress=run.progress,
            minutes=_what_is_left(run.minutes, time.monotonic() - began),
            checkpoint=run.checkpoint,
            resume=run.resume,
            fingerprint=self._fingerprint(data, context, rng),
        )
        with (
            few_threads(net, self.training.threads),
            torch.no_grad(),
            drawing_from(rng.child("finish", "layers").torch),
        ):
            self.finish(net, data, context, rng.child("finish"))
        self.net_ = net.eval()

    def _shape(self, facts: Mapping[str, Any], n_subjects: int) -> Shape:
        return Shape(self.codec_.static_features, self.codec_.sequence_features, n_subjects, facts)

    def _fingerprint(self, data: Encoded, context: Encoded | None, rng: Rng) -> str:
        """Names settings, schema, seed and every number the network sees."""
        digest = hashlib.blake2b(digest_size=16)
        settings = json.dumps([self.name, self.settings(), self.schema_.digest, str(rng.seed)], sort_keys=True)
        digest.update(settings.encode())
        for part in (data, context):
            for arrays in (part.static, part.sequence) if part is not None else ():
                for name in ("values", "observed", "gap", "length") if arrays is not None else ():
                    if hasattr(arrays, name):
                        digest.update(np.ascontiguousarray(getattr(arrays, name)).tobytes())
        return digest.hexdigest()

    def _seed_of(self, checkpoint: str | Path | None, seed: int | None) -> int | None:
        if seed is not None or checkpoint is None or not Path(checkpoint).exists():
            return seed
        return int(read_checkpoint(checkpoint)[1]["seed"])

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        with self._layers(rng):
            return super()._make(ids, given, rng, condition)

    def score(self, cohort: Cohort) -> np.ndarray:
        self._require(Ability.SCORE, "score")
        with self._layers(Rng(0).child("score")):
            return super().score(cohort)

    def _extend(self, prefix: Cohort, until: timedelta | int, draws: int, rng: Rng) -> Cohort:
        with self._layers(rng):
            return super()._extend(prefix, until, draws, rng)

    def _impute(self, cohort: Cohort, rng: Rng, columns: Sequence[str] | None = None) -> Cohort:
        with self._layers(rng):
            return super()._impute(cohort, rng, columns)

    @contextmanager
    def _layers(self, rng: Rng) -> Iterator[None]:
        """The network at work: few threads, no gradients, layers that draw from our stream.

        A network of rows works column by column: of a million weights no product sees more than a few thousand.
        """
        stream, by_row = rng.child("layers").torch, getattr(self.net_, "row_by_row", False)
        with few_threads(None if by_row else self.net_, self.training.threads), torch.no_grad(), drawing_from(stream):
            yield

    # -- on disk -------------------------------------------------------------------------------------------------

    def _write(self, folder: Path) -> dict[str, Any]:
        from safetensors.torch import save_file

        facts = super()._write(folder)
        save_file(packed(self.net_.state_dict()), folder / "weights.safetensors")
        return {**facts, "shape": dict(self.shape_.facts), "history": self.history_.records}

    def _read(self, folder: Path, facts: Mapping[str, Any], schema: Schema) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        super()._read(folder, facts, schema)
        self.history_ = History(list(facts["history"]))
        self.shape_ = self._shape(facts["shape"], self.n_fitted_)
        with drawing_from(Rng(0).torch):
            net = self.build(self.shape_)
        try:
            found = load_file(folder / "weights.safetensors", device="cpu")
            net.load_state_dict(unpacked(found, net.state_dict()))
        except (SafetensorError, OSError, RuntimeError):
            problem = Problem("weights", "weights.safetensors", "does not fit the model", "Save the model again.")
            raise FileFormatError("", [problem]) from None
        self.net_ = net.eval()


def _what_is_left(minutes: float | None, seconds: float) -> float | None:
    """Of a budget [min] after preparing; a tenth at least."""
    return None if minutes is None else max(minutes - seconds / 60, 0.1 * minutes)
