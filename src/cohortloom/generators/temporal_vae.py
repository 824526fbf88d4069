"""Temporal VAE: one latent vector per patient, statics and course decoded from it with learned, drawn noise.

    maximise  E_q(z | patient) [ log p(statics | z) + sum_t log p(more_t, gap_t, x_t | past, z, statics) ]
              - beta KL(q(z | patient) || N(0, I))

Each latent dimension may use `free_nats` for free, so that z is not ignored. Columns of one row share mixture
components (`nets.mixture_head`), so they go together. Courses end at the longest training course, at most 512 steps.

References:
    Kingma, Welling (2014). Auto-encoding variational Bayes. arXiv:1312.6114.
    Kingma et al. (2016). Improved variational inference with inverse autoregressive flow (free bits). arXiv:1606.04934.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded, Feature, Layout, SequenceArrays, StaticArrays
from cohortloom.generators.base import Ability
from cohortloom.generators.torch_base import Shape, TorchGenerator
from cohortloom.nets.mixture_head import put
from cohortloom.nets.visit_vae import Courses, VisitVAE
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, hold_out

__all__ = ["TemporalVAE"]

#: Longest course that is modelled [steps].
MAX_STEPS = 512


@dataclass(kw_only=True)
class TemporalVAE(TorchGenerator):
    """Variational autoencoder of a patient's statics and visits.

    Args:
        latent_size: Size of the patient's latent vector.
        width: Size of the hidden layers.
        n_components: Mixture components of a row's law.
        beta: Weight of the KL term; below 1 sharpens, above 1 smooths.
        free_nats: Information each latent dimension may carry at no cost [nat].
        dropout: Share of the previous step hidden from the decoder while training.
    """

    name: ClassVar[str] = "temporal-vae"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, scale="normal")
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.CONDITION, Ability.GIVEN, Ability.SCORE, Ability.RESUME}
    )

    latent_size: int = 12
    width: int = 96
    n_components: int = 8
    beta: float = 1.0
    free_nats: float = 0.02
    dropout: float = 0.1

    def measure(self, data: Encoded, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        length = data.sequence.length if data.sequence is not None else np.zeros(0, int)
        starts = {"static": _starts(data.static), "step": _starts(data.sequence)}
        return {"n_steps": int(min(length.max(initial=0), MAX_STEPS)), **starts}

    def build(self, shape: Shape) -> VisitVAE:
        return VisitVAE(
            [len(f.levels) for f in shape.static],
            shape.facts["static"],
            [0, *(len(f.levels) for f in shape.sequence)],
            [[6.0], *shape.facts["step"]],
            latent_size=self.latent_size,
            width=self.width,
            n_components=self.n_components,
            dropout=self.dropout,
        )

    def phases(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> list[Phase]:
        assert isinstance(net, VisitVAE)
        courses = self._courses(data, rng.child("gap"))
        scale = 1.0 / (1.0 + float(courses.length.float().mean()))

        def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
            evidence, information = self._evidence(net, courses, index, stream)
            cost = information.mean(0).clamp(min=self.free_nats).sum()
            return scale * (self.beta * cost - evidence.mean())

        def score(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
            evidence, information = self._evidence(net, courses, index, stream)
            return scale * (information.sum(1) - evidence).mean()

        train, held_out = hold_out(data.n_subjects, self.training.validation, rng)
        return [Phase("vae", net, train, [Objective("evidence", net.parameters(), loss)], held_out, score)]

    def _evidence(
        self, net: VisitVAE, courses: Courses, index: torch.Tensor, stream: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log p(patient | z) at one z from q [subject], KL of each latent dimension [subject latent])."""
        mean, log_var = net.encode(courses, index)
        z = mean + torch.exp(0.5 * log_var) * torch.randn(mean.shape, generator=stream)
        information = 0.5 * (mean**2 + log_var.exp() - 1 - log_var)
        return net.log_likelihood(courses, index, z), information

    def _score(self, data: Encoded, context: Encoded | None, rng: Rng) -> np.ndarray:
        """Evidence lower bound of each patient [nat], on the scale of normal scores."""
        courses, stream = self._courses(data, rng.child("gap")), rng.child("z").torch
        parts = []
        for index in torch.arange(data.n_subjects).split(1024):
            evidence, information = self._evidence(self.net_, courses, index, stream)
            parts.append((evidence - information.sum(1)).numpy())
        return np.concatenate(parts)

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        net, stream, shape = self.net_, rng.child("net").torch, self.shape_
        place = {f.name: j for j, f in enumerate(shape.static)}
        fixed = {place[name]: value for name, value in where.items() if name in place}
        steps = {f.name: j for j, f in enumerate(shape.sequence, start=1)}
        first = {steps[name]: value for name, value in where.items() if name in steps}
        values, seen = torch.zeros(n, len(place)), torch.ones(n, len(place), dtype=torch.bool)
        if context is not None and context.static is not None:
            values, seen = _tensors(context.static)
            z = net.latents(n, stream, values, seen)
        else:
            put(values, seen, fixed)
            z = net.latents(n, stream, values, seen, list(fixed))
            values, seen = net.static_head.sample(net.static_body(z), stream, fixed)
            seen = _certain(shape.static, values, seen)
        x, has, length = net.courses(z, values, seen, stream, shape.facts["n_steps"], first)
        has[:, 1:] = _certain(shape.sequence, x[:, 1:], has[:, 1:])
        static = StaticArrays(shape.static, values.double().numpy(), seen.numpy())
        counts = length.numpy().astype(np.int64)
        sequence = SequenceArrays(
            shape.sequence, x[:, 1:].double().numpy(), has[:, 1:].numpy(), self._gaps(x[:, 0], counts), counts
        )
        return Encoded(static, sequence)

    def _gaps(self, score: torch.Tensor, length: np.ndarray) -> np.ndarray:
        if not len(score):
            return np.zeros(0)
        first = np.zeros(len(score), bool)
        first[(np.cumsum(length) - length)[length > 0]] = True
        return self.codec_.gap_days(score.double().numpy(), first)

    def _courses(self, data: Encoded, rng: Rng) -> Courses:
        """Patients as tensors; the normal score of the gap is the first column of a step."""
        assert data.static is not None and data.sequence is not None
        keep = data.sequence.position < self.shape_.facts["n_steps"]
        first = data.sequence.position == 0
        gap = self.codec_.gap_score(data.sequence.gap, first, rng) if len(first) else np.zeros(0)
        values = np.column_stack([gap, data.sequence.values])[keep]
        observed = np.column_stack([np.ones(len(gap), bool), data.sequence.observed])[keep]
        length = np.minimum(data.sequence.length, self.shape_.facts["n_steps"])
        step = torch.from_numpy(values).float(), torch.from_numpy(observed)
        return Courses(*_tensors(data.static), *step, torch.from_numpy(length.astype(np.int64)))


def _tensors(part: StaticArrays) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(part.values)).float(), torch.from_numpy(np.array(part.observed))


def _certain(features: tuple[Feature, ...], values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Columns that are never missing are not missing in a draw either."""
    always = torch.tensor([f.always and f.kind == "number" for f in features], dtype=torch.bool)
    return seen | always


def _starts(part: StaticArrays | SequenceArrays | None) -> list[list[float]]:
    """Log odds of being observed for a number, log shares of its ids for a category; what never occurs gets -12."""
    found = []
    for j, feature in enumerate(part.features if part is not None else ()):
        n = max(len(part.values), 1)
        if feature.kind == "number":
            share = (part.observed[:, j].sum() + 0.5) / (n + 1)
            found.append([float(np.log(share / (1 - share)))])
        else:
            count = np.bincount(part.values[:, j].astype(int), minlength=len(feature.levels))
            found.append(np.where(count > 0, np.log(np.maximum(count, 1) / n), -12.0).tolist())
    return found
