"""TimeGAN for records of mixed kinds: a recurrent generator of latents, judged by a critic of whole patients.

    embed      autoencoder of statics (e), course (g) and steps (h_t) with laws as recoveries; frozen afterwards
    length     p(number of steps | statics)
    supervise  the generator of latents by likelihood (its start)
    joint      critic and generator:    min_G max_D  hinge(D) - R1,   plus `supervision` times the likelihood

`nets.gan_autoencoder`, `nets.recurrent_gan` and `nets.gan_critic` hold the networks, `timegan_training` sizes and
losses, `timegan_sampling` draws under conditions, `timegan_imputing` fills holes, `timegan_original` the objective of
the paper.

Published faults that are not repeated: embeddings that move under the critic, saturating latents, losses over padding,
lengths copied from data, ignored statics, per-step noise only, collapse that nobody watches (docs/methods/timegan.md).

References:
    Yoon, Jarrett, van der Schaar (2019). Time-series generative adversarial networks. NeurIPS.
    Pei et al. (2021). Towards generating real-world time series data (RTSGAN). arXiv:2111.08386.
    Lin et al. (2020). Using GANs for sharing networked time series data (DoppelGANger). arXiv:1909.13403.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded, Layout
from cohortloom.errors import SettingsError
from cohortloom.generators.base import Ability
from cohortloom.generators.choosing import ChoosingGenerator
from cohortloom.generators.impute import Holes
from cohortloom.generators.timegan_imputing import fill
from cohortloom.generators.timegan_original import original_phases
from cohortloom.generators.timegan_records import Records, decoded, followed_by, measured, records
from cohortloom.generators.timegan_sampling import continued, drawn_patients, evidence
from cohortloom.generators.timegan_training import AUGMENTED, Recipe, phases, size_of
from cohortloom.generators.torch_base import Shape
from cohortloom.nets.recurrent_gan import RecurrentGAN
from cohortloom.rng import Rng
from cohortloom.training import Phase, hold_out

__all__ = ["TimeGAN"]

#: Inputs of a step above which latents are kept to what recoveries can't know.
WIDE = 30


@dataclass(kw_only=True)
class TimeGAN(ChoosingGenerator):
    """Recurrent GAN of statics, visit count, gaps, values and missingness in the latents of a frozen autoencoder.

    Args:
        objective: Of the joint phase: "hinge" with R1, "wasserstein" with gradient penalty, or "original" (TimeGAN's
            own losses and schedule in all phases, for comparison).
        width: Hidden units; None: by number of patients, see `timegan_training`.
        latent_size: Size of a step's latent; None: by number of columns.
        beta: Weight of the latents' information while the autoencoder is trained; more makes them smoother and leaves
            more to the recoveries. None: .3 up to `WIDE` inputs of a step, 1 above (latents of wide rows ask more of
            the generator than it learns in minutes).
        supervision: Weight of the latents' likelihood beside the critic; 0 leaves all to the critic.
        penalty: Weight of R1 or of the gradient penalty.
        layers: Couplings of each map from noise to latents.
        window: Steps of a course that the critic sees.
        normalise: Centre and half-range of each patient's numbers become statics (DoppelGANger), steps hold the rest.
        static_embedding: Does the course see the statics? Off for the ablation only.
        global_noise: Is there noise that all steps of a patient share? Off for the ablation only.
        freeze: Is the autoencoder frozen in the joint phase? Off for the ablation only.
        noise: Do recoveries draw (categories, missingness, observation noise)? Off for the ablation only.
        adversarial: Is there a joint phase?
        candidates: Draws of a patient among which one is chosen (`ChoosingGenerator`).
    """

    name: ClassVar[str] = "timegan"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, scale="normal")
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.CONDITION, Ability.GIVEN, Ability.SCORE, Ability.EXTEND, Ability.IMPUTE, Ability.RESUME}
    )

    objective: Literal["hinge", "wasserstein", "original"] = "hinge"
    width: int | None = None
    latent_size: int | None = None
    beta: float | None = None
    supervision: float = 0.1
    penalty: float = 1.0
    layers: int = 2
    window: int = 96
    normalise: bool = False
    static_embedding: bool = True
    global_noise: bool = True
    freeze: bool = True
    noise: bool = True
    adversarial: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"width": 2, "latent_size": 2, "layers": 1, "window": 1}
        wrong = [n for n, low in least.items() if (value := getattr(self, n)) is not None and value < low]
        wrong += [n for n in ("beta", "supervision", "penalty") if not (getattr(self, n) or 0) >= 0]
        if wrong:
            raise SettingsError(
                f"{self.name}: {', '.join(wrong)} out of range. See help(cohortloom.generators.timegan)."
            )

    # -- learning ------------------------------------------------------------------------------------------------------

    def measure(self, data: Encoded, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        return measured(self.codec_, data, normalise=self.normalise, rng=rng)

    def build(self, shape: Shape) -> RecurrentGAN:
        facts = shape.facts
        size = size_of(shape.n_subjects, len(facts["step"]))
        e, g, h = size.latents
        n_extra = 2 * len(facts["scaled"])
        always = [f.always and f.kind == "number" for f in shape.static] + [False] * n_extra
        autoencoder = {
            "static": [len(f.levels) for f in shape.static] + [0] * n_extra,
            "step": facts["step_levels"],
            "static_start": facts["static"],
            "step_start": facts["step"],
            "static_always": always,
            "step_always": [True, *(f.always for f in shape.sequence), *[False] * len(facts["repeats"])],
            "static_gates": facts["static_gates"],
            "step_gates": facts["step_gates"],
            "repeats": {j + 1: 1 + len(shape.sequence) + i for i, j in enumerate(facts["repeats"])},
            "clock": facts["clock"],
            "limits": facts["limits"],
            "tied": facts["tied"] and not self._original,
            "sizes": (e, g, self.latent_size or h),
            "dropout": size.dropout,
            "use_embedding": self.static_embedding,
            "use_course": self.global_noise and not self._original,
        }
        return RecurrentGAN(
            autoencoder, facts["bins"], width=self.width or size.width, critic_width=size.critic_width,
            layers=self.layers, n_steps=facts["n_steps"], length_dropout=size.dropout,
            latent_critic=self._original,
        )  # fmt: skip

    def phases(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> list[Phase]:
        assert isinstance(net, RecurrentGAN)
        found = self._records(data, rng.child("gap"))
        train, held_out = hold_out(data.n_subjects, self.training.validation, rng)
        recipe = Recipe(
            self.objective, self._beta, self.supervision, self.penalty, self.window, self.freeze,
            augment=len(train) < AUGMENTED,
        )  # fmt: skip
        size = size_of(data.n_subjects, len(self.shape_.facts["step"]))
        plan = original_phases if self._original else phases
        made = plan(net, found, train, held_out, recipe, self.training, size)
        return made if self.adversarial else [p for p in made if p.name != "joint"]

    @property
    def _beta(self) -> float:
        if self.beta is not None:
            return self.beta
        if not self.shape_.facts["tied"]:
            return 0.2
        return 0.3 if len(self.shape_.facts["step"]) <= WIDE else 1.0

    @property
    def _original(self) -> bool:
        return self.objective == "original"

    def _records(self, data: Encoded, rng: Rng) -> Records:
        return records(self.codec_, data, self.shape_.facts, rng)

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        shape, net = self.shape_, self.net_
        place = {f.name: j for j, f in enumerate(shape.static)}
        steps = {f.name: j for j, f in enumerate(shape.sequence, start=1)}
        given = None
        if context is not None and context.static is not None:
            given = self._given(context)
        batch = drawn_patients(
            net, n, rng.child("net").torch, given=given, n_given=len(place), noise=self.noise and not self._original,
            statics={place[name]: value for name, value in where.items() if name in place},
            first=self._first({steps[name]: value for name, value in where.items() if name in steps}),
        )  # fmt: skip
        return decoded(self.codec_, shape.facts, batch, shape.static, shape.sequence)

    def _continue(self, encoded: Encoded, until: np.ndarray, rng: Rng) -> Encoded:
        """The steps so far, and those drawn after them; steps beyond `until` are for the caller."""
        assert encoded.sequence is not None and encoded.static is not None
        found = self._records(encoded, rng.child("gap"))
        past = found.batch(torch.arange(encoded.n_subjects))
        batch = continued(self.net_, past, rng.child("net").torch, noise=self.noise and not self._original)
        drawn = decoded(self.codec_, self.shape_.facts, batch, self.shape_.static, self.shape_.sequence)
        return Encoded(encoded.static, followed_by(encoded.sequence, drawn.sequence))

    def _impute_cells(self, encoded: Encoded, holes: Holes, rng: Rng) -> Encoded:
        """Holes drawn given all that is observed; see `timegan_imputing`."""
        if self._original or self.normalise:
            what = 'objective="original" trains no likelihood' if self._original else "normalise=True hides the range"
            raise SettingsError(f"{self.name}: {what}, so holes have no law. Fit with the default, or use columnar-ar.")
        return fill(self.net_, self.codec_, self.shape_.facts, encoded, holes, rng)

    def _first(self, fixed: dict[int, float]) -> dict[int, float]:
        """Fixed values of a first visit; auto-normalised ones can't be weighed and are only written at the end."""
        scaled = {j + 1 for j in self.shape_.facts["scaled"]}
        return {j: 0.0 if j in scaled and value == value else value for j, value in fixed.items()}

    def _given(self, context: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
        """Statics of given patients, with room for those of auto-normalisation."""
        assert context.static is not None
        room = 2 * len(self.shape_.facts["scaled"])
        values = np.where(context.static.observed, context.static.values, 0.0)
        parts = np.pad(values, ((0, 0), (0, room))), np.pad(context.static.observed, ((0, 0), (0, room)))
        return torch.from_numpy(parts[0]).float(), torch.from_numpy(parts[1])

    def _score(self, data: Encoded, context: Encoded | None, rng: Rng) -> np.ndarray:
        """Evidence lower bound of each patient [nat], on the scale of normal scores."""
        if self._original:
            raise SettingsError(
                f'{self.name}: the original objective trains no likelihood. Fit with objective="hinge".'
            )
        found, stream = self._records(data, rng.child("gap")), rng.child("z").torch
        parts = [evidence(self.net_, found.batch(index), stream).numpy()
                 for index in torch.arange(data.n_subjects).split(512)]  # fmt: skip
        return np.concatenate(parts)
