"""Record diffusion: statics and course from one denoiser, either given the other, and whatever is missing.

    records    -> cells: a token and, with CONT, a normal score             record_tensors
    training   cells are noised in one of many situations; one loss          record_training
    network    transformer over statics and visits, smoothers per column     nets.record_denoiser
    drawing    tokens by unmasking, then numbers along the flow              record_drawing

References:
    Liu, Gong, Liu (2023). Flow straight and fast. arXiv:2209.03003. Sahoo et al. (2024). Masked diffusion language
    models. arXiv:2406.07524. Bao et al. (2023). One transformer fits all distributions (UniDiffuser). arXiv:2303.06555.
    Tian et al. (2024). TimeDiff. arXiv:2310.15290. Tashiro et al. (2021). CSDI. arXiv:2107.03502.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded, Layout
from cohortloom.diffusion.path import EDM
from cohortloom.diffusion.sampler import SAMPLERS
from cohortloom.errors import SettingsError
from cohortloom.generators.base import Ability
from cohortloom.generators.choosing import ChoosingGenerator
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.impute import Holes
from cohortloom.generators.record_courses import Courses, Fixed
from cohortloom.generators.record_start import fit_tokens
from cohortloom.generators.record_tensors import Records, cells_from, columns_of
from cohortloom.generators.record_training import Size, batch, fit_gaussians, losses, size_of
from cohortloom.generators.torch_base import Shape
from cohortloom.nets.record_cells import CellColumn
from cohortloom.nets.record_denoiser import RecordDenoiser
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, hold_out
from cohortloom.training.settings import Training

__all__ = ["RecordDiffusion"]

SCORE_DRAWS = 16


@dataclass(kw_only=True)
class RecordDiffusion(ChoosingGenerator):
    """Statics and visits by rectified flow (numbers) and masked diffusion (categories); imputes, conditions both ways.

    Args:
        width, layers: Of the transformer; None: by number of patients, see `record_training.size_of`.
        sampling_steps: Passes over the tokens, and over the numbers.
        sampler: Solver of the flow.
        window: Longest course drawn at once [visits].
        given: Share of training records of which parts are given; more serves imputation, less plain drawing.
        candidates: Draws of a patient among which one is chosen (`ChoosingGenerator`); 1 as drawing is slow.
        training: What is left at its default follows the number of patients.
    """

    name: ClassVar[str] = "record-diffusion"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, scale="raw")
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.CONDITION, Ability.GIVEN, Ability.EXTEND, Ability.IMPUTE, Ability.SCORE, Ability.RESUME}
    )

    width: int | None = None
    layers: int | None = None
    sampling_steps: int = 20
    sampler: str = "dpm2m"
    window: int = 128
    given: float = 0.5
    candidates: int | None = 1
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [n for n in ("width", "layers", "sampling_steps") if (v := getattr(self, n)) is not None and v < 1]
        wrong += ["width (a multiple of 4)"] if self.width is not None and self.width % 4 else []
        wrong += ["window (at least 8)"] if self.window < 8 else []
        wrong += ["given"] if not 0 <= self.given <= 1 else []
        wrong += [f"sampler (one of {', '.join(SAMPLERS)})"] if self.sampler not in SAMPLERS else []
        if wrong:
            raise SettingsError(f"{self.name}: {', '.join(wrong)} out of range.")

    # --- learning ---

    def measure(self, data: Encoded, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        """Coders and shapes of all columns, and how many cells a record has."""
        alphabet = Alphabet.fit(data, k_min=self.codec_.k_min, gated=True)
        for j in {gate.column for gate in alphabet.gates.values()}.intersection(alphabet.numbers):
            alphabet.columns[j] = replace(alphabet.columns[j], repeat=False)  # its token alone says what it is
        records = cells_from(alphabet, data)
        static, series = columns_of(alphabet, records)
        counts = []
        for columns, part in ((static, records.statics), (series, records.series)):
            free = torch.tensor([c.free for c in columns], dtype=torch.bool)
            number = torch.tensor([c.kind == "number" for c in columns], dtype=torch.bool)
            counts += [int((part.active & free).sum()), int((part.active & number & (part.token == 0)).sum())]
        self._records = records
        return {
            "alphabet": alphabet.to_json(),
            "static": [c.to_json() for c in static],
            "series": [c.to_json() for c in series],
            "cells": [count / data.n_subjects for count in counts],
        }

    def build(self, shape: Shape) -> RecordDenoiser:
        size = self._size(shape)
        columns = [[CellColumn.from_json(c) for c in shape.facts[part]] for part in ("static", "series")]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element")  # statics or course may be empty
            return RecordDenoiser(
                *columns, width=size.width, n_layers=size.n_layers, units=size.units, dropout=size.dropout
            )

    def _size(self, shape: Shape) -> Size:
        size = size_of(shape.n_subjects, len(shape.facts["series"]))
        size = replace(size, width=self.width or size.width, n_layers=self.layers or size.n_layers)
        return replace(size, training=self.training.over(size.training))

    def phases(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> list[Phase]:
        assert isinstance(net, RecordDenoiser)
        records: Records = self.__dict__.pop("_records")
        training, counts = self._size(self.shape_).training, tuple(self.shape_.facts["cells"])
        train, held_out = hold_out(data.n_subjects, self.training.validation, rng)
        n_last, path = self._n_last, EDM(location=0.0, spread=1.5)
        fit_gaussians(net, records, train, self.window, rng.child("start").torch)
        fit_tokens(net, records, train, held_out, self.window, rng.child("tokens").torch)

        def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
            made = batch(net, records, index, n_last, path, self.window, stream, self.given)
            return losses(net, *made).total(counts).mean()

        repeats = int(np.clip(600 / max(len(held_out), 1), 1, 10))

        def score(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
            return torch.stack([loss(index, stream) for _ in range(repeats)]).mean()

        if not len(held_out):  # nobody to stop by: a short run from a sound start
            training = replace(training, steps=min(training.steps or 200, 200))
        objective = Objective("denoising", net.parameters(), loss)
        return [Phase("denoiser", net, train, [objective], held_out, score, training)]

    @property
    def _alphabet(self) -> Alphabet:
        """Coders of the columns, read once."""
        found = self.__dict__.get("_coders")
        if found is None or found[0] is not self.shape_:
            found = self.__dict__["_coders"] = (self.shape_, Alphabet.from_json(self.shape_.facts["alphabet"]))
        return found[1]

    @property
    def _n_last(self) -> int:
        """Statics at the end that describe the course: number of visits, span, time to the first."""
        a = self._alphabet
        return (1 + (a.gap is not None) + (a.first_gap is not None)) if a.has_sequence else 0

    # --- drawing ---

    def _courses(self, rng: Rng) -> Courses:
        return Courses(
            self._alphabet, self.net_, EDM(), self.shape_.static, self.shape_.sequence, self.sampling_steps,
            self.sampler, self.window, self._n_last, rng,
        )  # fmt: skip

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        fixed = Fixed.of(self.shape_.static, self.shape_.sequence, n, context, where)
        return self._courses(rng).new(n, fixed)

    def _continue(self, encoded: Encoded, until: np.ndarray, rng: Rng) -> Encoded:
        if not self._alphabet.has_sequence:
            return encoded
        return self._courses(rng).continued(encoded)

    def _impute_cells(self, encoded: Encoded, holes: Holes, rng: Rng) -> Encoded:
        return self._courses(rng).filled(encoded, holes.static, holes.sequence)

    def _score(self, data: Encoded, context: Encoded | None, rng: Rng) -> np.ndarray:
        """Minus the denoising loss of each patient, averaged over fixed draws: a loss, not a likelihood."""
        records, path = cells_from(self._alphabet, data), EDM(location=0.0, spread=1.5)
        counts, out = tuple(self.shape_.facts["cells"]), np.zeros(data.n_subjects)
        for part, index in enumerate(torch.arange(data.n_subjects).split(128)):
            stream = rng.child("draws", part).torch
            for _ in range(SCORE_DRAWS):
                made = batch(self.net_, records, index, self._n_last, path, self.window, stream, 0.0)
                out[index.numpy()] -= losses(self.net_, *made).total(counts).numpy() / SCORE_DRAWS
        return out
