"""Temporal VAE: statics, visit count, gaps, values, categories and missingness of a patient from one latent vector.

    maximise  E_q(z, w | patient) [ log p(statics | z) + sum_t log p(gap_t, visit_t | z, w, statics, time, before) ]
              - beta KL(q(z, w | patient) || p(z) p(w))

The network and its equations are in `nets.visit_vae`, the law of a row with its autocorrelated noise in `nets.row_law`,
the law that z is drawn from in `nets.latent_prior`.

    temporal_vae_data       cohort -> cells, features of time, the past
    temporal_vae_training   sizes by cohort, phases
    temporal_vae_drawing    drawing, fixed cells
    temporal_vae_posterior  latents of patients of whom a part is known
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded, Layout, SequenceArrays, StaticArrays
from cohortloom.errors import SettingsError
from cohortloom.generators.base import Ability
from cohortloom.generators.cell_drawing import Fixed
from cohortloom.generators.cells import observed_values, raw_values
from cohortloom.generators.choosing import ChoosingGenerator
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.impute import Holes
from cohortloom.generators.temporal_vae_data import N_PAST, Courses, Frame, persistence_of, shapes_of
from cohortloom.generators.temporal_vae_drawing import Drawer
from cohortloom.generators.temporal_vae_posterior import Known, Visits, draw_known
from cohortloom.generators.temporal_vae_training import net_of, phases, settle
from cohortloom.generators.torch_base import Shape
from cohortloom.nets.columnar import ColumnShape
from cohortloom.nets.latent_prior import importance_bound
from cohortloom.nets.visit_vae import Latents, VisitVAE
from cohortloom.rng import Rng
from cohortloom.training import Phase, Training

__all__ = ["TemporalVAE"]

SCORE_DRAWS = 16


@dataclass(kw_only=True)
class TemporalVAE(ChoosingGenerator):
    """Statics and visits of a patient from one latent vector, drawn in one pass; can interpolate between patients.

    Args:
        latent_size: Size of the patient's latent vector; None: by number of patients, see `temporal_vae_training`.
        local_size: Size of the latent of a segment of the course; None: by the cohort, 0: none.
        width: Size of the hidden layers; None: by number of patients.
        n_components: Normals in the noise of a number.
        beta: Weight of the KL term; below 1 sharpens, above 1 smooths.
        free_nats: Information each latent dimension may carry at no cost [nat].
        prior: Law z is drawn from: "auto" is a mixture below 1,000 patients and a flow above; "normal" is N(0, I).
        residual: Autoregression of the noise; False leaves it out (an ablation).
        spectral: Weight of a score of the short-time spectra of freely drawn courses (`nets.spectra`); only for courses
            of one length on a regular grid, with numbers that are always there.
        decomposed: Means of numbers are level, trend, season and rest; `history_` tells the share of each.
        candidates: Draws of a patient among which one is chosen (`ChoosingGenerator`).
        training: What is left at its default follows the number of patients.
    """

    name: ClassVar[str] = "temporal-vae"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, scale="raw")
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.CONDITION, Ability.GIVEN, Ability.EXTEND, Ability.IMPUTE, Ability.SCORE, Ability.RESUME}
    )

    latent_size: int | None = None
    local_size: int | None = None
    width: int | None = None
    n_components: int = 4
    beta: float = 1.0
    free_nats: float = 0.02
    prior: str = "auto"
    residual: bool = True
    spectral: float = 0.0
    decomposed: bool = False
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [n for n in ("latent_size", "width") if (value := getattr(self, n)) is not None and value < 2]
        wrong += ["local_size"] if self.local_size is not None and self.local_size < 0 else []
        wrong += ["n_components"] if self.n_components < 1 else []
        wrong += [n for n in ("beta", "free_nats", "spectral") if getattr(self, n) < 0]
        wrong += [] if self.prior in ("auto", "normal", "mixture", "flow") else ["prior"]
        if wrong:
            raise SettingsError(f"{self.name}: {', '.join(wrong)} out of range. See help(type(generator)).")

    # -- learning ------------------------------------------------------------------------------------------------

    def measure(self, data: Encoded, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        """Coders of all columns, shapes of the laws, units of time."""
        frame = Frame.of(Alphabet.fit(data, k_min=self.codec_.k_min, gated=True), data)
        self._courses = Courses.of(frame, data)
        self.__dict__.pop("frame_", None)  # of an earlier fit
        shapes = shapes_of(frame, self._courses)
        return {
            "frame": frame.to_json(),
            "shapes": {name: [asdict(column) for column in columns] for name, columns in shapes.items()},
            "persistence": {"later": persistence_of(self._courses), "gap": [0.3]},
            "mean_length": float(data.sequence.length.mean()) if data.sequence is not None else 0.0,
        }

    def build(self, shape: Shape) -> VisitVAE:
        facts, frame = shape.facts, Frame.from_json(shape.facts["frame"])
        shapes = {name: [_column_shape(c) for c in columns] for name, columns in facts["shapes"].items()}
        return VisitVAE(shapes, facts["persistence"], *frame.scale.widths(frame.n_ends), N_PAST, net_of(self, shape))

    def phases(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> list[Phase]:
        assert isinstance(net, VisitVAE)
        return phases(self, net, self._courses, self.shape_, rng)

    def finish(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> None:
        """Fit the mixture prior; tell what the latents carry."""
        assert isinstance(net, VisitVAE)
        self.history_.add("latents", "vae", 0, **settle(net, self.__dict__.pop("_courses"), rng))

    @cached_property
    def frame_(self) -> Frame:
        return Frame.from_json(self.shape_.facts["frame"])

    # -- drawing -------------------------------------------------------------------------------------------------

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        drawer = Drawer(self.net_, self.frame_, rng.child("noise").numpy)
        stream = rng.child("latents").torch
        known = self._known(n, context, where)
        if known is not None:
            return self._encoded(*draw_known(drawer, known, stream))
        z = self.net_.prior.sample(n, stream)
        return self._encoded(*_draw_all(drawer, z, stream))

    def _known(self, n: int, context: Encoded | None, where: Mapping[str, float]) -> Known | None:
        """Cells that must hold: all statics of given patients, and conditions."""
        shape = self.shape_
        static = self._static_cells(n, context)
        for j, feature in enumerate(shape.static):
            if feature.name in where:
                static.value[:, j], static.mask[:, j] = where[feature.name], True
        width = len(shape.sequence)
        first = Fixed(np.full((n, width), np.nan), np.zeros((n, width), bool))
        for j, feature in enumerate(shape.sequence):
            if feature.name in where:
                first.value[:, j], first.mask[:, j] = where[feature.name], True
        if first.mask.any():
            return Known(static, Visits(np.ones(n, np.int64), first, None, whole=False))
        return Known(static) if static.mask.any() else None

    def _static_cells(self, n: int, part: Encoded | None) -> Fixed:
        """Statics of encoded patients as fixed cells; number of visits and span are open."""
        shape, width = self.shape_, len(self.frame_.statics)
        out = Fixed(np.full((n, width), np.nan), np.zeros((n, width), bool))
        if part is not None and part.static is not None:
            out.mask[:, : len(shape.static)] = True
            out.value[:, : len(shape.static)] = raw_values(part.static)
        return out

    def _continue(self, encoded: Encoded, until: np.ndarray, rng: Rng) -> Encoded:
        """Latents given the course so far, and the rest drawn from them. Visits beyond `until` are for the caller."""
        seq = encoded.sequence
        fixed = Fixed(raw_values(seq), np.ones(seq.values.shape, bool))
        visits = Visits(seq.length.astype(np.int64), fixed, seq.gap, whole=False)
        known = Known(self._static_cells(encoded.n_subjects, encoded), visits)
        drawer = Drawer(self.net_, self.frame_, rng.child("noise").numpy)
        return self._encoded(*draw_known(drawer, known, rng.child("latents").torch))

    def _impute_cells(self, encoded: Encoded, holes: Holes, rng: Rng) -> Encoded:
        """Latents given what is observed, and the holes drawn visit by visit with candidates."""
        static = self._static_cells(encoded.n_subjects, encoded)
        present = np.zeros(static.mask.shape, bool)
        if holes.static is not None:
            present[:, : holes.static.shape[1]] = holes.static
        cells = self.frame_.static_cells(encoded)
        told = len(self.shape_.static)
        static.value[:, told:], static.mask[:, told:] = cells.value[:, told:], True
        static = Fixed(static.value, static.mask & ~present, present)
        if encoded.sequence is None or not self.frame_.alphabet.has_sequence:
            known = Known(static)
        else:
            seq, open_ = encoded.sequence, holes.sequence
            open_ = np.zeros(seq.values.shape, bool) if open_ is None else open_
            known = Known(
                static, Visits(seq.length.astype(np.int64), Fixed(raw_values(seq), ~open_, open_), seq.gap, True)
            )
        drawer = Drawer(self.net_, self.frame_, rng.child("noise").numpy)
        return self._encoded(*draw_known(drawer, known, rng.child("latents").torch))

    def _encoded(self, statics: np.ndarray, values: np.ndarray, gap: np.ndarray, length: np.ndarray) -> Encoded:
        shape = self.shape_
        static = StaticArrays(shape.static, *observed_values(shape.static, statics[:, : self.frame_.n_told]))
        if not self.frame_.alphabet.has_sequence:
            return Encoded(static, None)
        values, observed = observed_values(shape.sequence, values)
        return Encoded(static, SequenceArrays(shape.sequence, values, observed, gap, length))

    # -- likelihood ----------------------------------------------------------------------------------------------

    def _score(self, data: Encoded, context: Encoded | None, rng: Rng) -> np.ndarray:
        """Importance-weighted bound of each patient's log-likelihood [nat], numbers on the scale of normal scores."""
        courses = Courses.of(self.frame_, data)
        parts = []
        for number, index in enumerate(torch.arange(data.n_subjects).split(512)):
            draw = rng.child("score", number)
            batch = courses.batch(index, draw.child("z").torch)
            stream = draw.child("latents").torch
            weights = torch.stack([self.net_.log_weight(batch, stream) for _ in range(SCORE_DRAWS)])
            parts.append(importance_bound(weights).numpy())
        return np.concatenate(parts) + courses.impossible() if parts else np.zeros(0)


def _draw_all(drawer: Drawer, z: torch.Tensor, stream: torch.Generator) -> tuple[np.ndarray, ...]:
    """Patients with these latents."""
    statics, values, _ = drawer.statics(z)
    if not drawer.alphabet.has_sequence:
        return values, np.zeros((len(z), 0)), np.zeros(0), np.zeros(len(z), np.int64)
    length = drawer.length_of(statics)
    latents = Latents(z, drawer.net.draw_slow(torch.from_numpy(length), stream))
    plan, latents = drawer.plan(latents, statics, values, length)
    return values, drawer.visits(latents, plan), plan.gap, plan.length


def _column_shape(content: Mapping[str, Any]) -> ColumnShape:
    return ColumnShape(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})
