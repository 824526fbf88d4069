"""What is trained, with what, on which items.

A model is trained in phases, one after the other; a phase has one or several objectives that take turns within a step.
A VAE or a diffusion model is one phase with one objective; an autoregressive model of three networks is three phases; a
GAN is a phase with two objectives, each with parameters, rate and number of updates of its own:

    Phase("joint", net, items, [
        Objective("critic", critic.parameters(), critic_loss, repeats=3, learning_rate=4e-4, betas=(0.0, 0.9)),
        Objective("generator", maker.parameters(), maker_loss, touches_real=False, learning_rate=1e-4),
    ])

Items are numbers: patients, or rows of patients, whatever the loss looks up. The loop deals them in mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cohortloom.training.settings import Training

if TYPE_CHECKING:
    import torch

__all__ = ["Loss", "Objective", "Phase"]

#: (index of the batch's items [item] int64, stream to draw from) -> scalar, the mean loss over the batch.
Loss = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]


class Objective:
    """One loss and the parameters that lower it.

    Args:
        name: Name in the history.
        parameters: What this objective may change.
        loss: Mean loss of a batch. Draw only from the stream it is given; layers such as dropout draw from it by
            themselves.
        touches_real: Does the loss look at real records? (Only such gradients need clipping and noise for privacy.)
        learning_rate, betas, weight_decay: Own values; None: those of the phase.
        every: Update in every `every`-th step.
        repeats: Updates per step, each with a batch of its own.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[torch.nn.Parameter],
        loss: Loss,
        *,
        touches_real: bool = True,
        learning_rate: float | None = None,
        betas: tuple[float, float] | None = None,
        weight_decay: float | None = None,
        every: int = 1,
        repeats: int = 1,
    ) -> None:
        self.name, self.parameters, self.loss = name, [p for p in parameters if p.requires_grad], loss
        self.touches_real, self.every, self.repeats = touches_real, every, repeats
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay


@dataclass(frozen=True)
class Phase:
    """A part of the training with its own items, early stop and average of weights.

    Args:
        name: Name in the history; unique within a model.
        net: The module whose weights are averaged, restored and kept; it holds all parameters of the objectives.
        items: Items dealt in batches [item].
        objectives: In the order of their turns.
        held_out: Items (of other patients) for early stopping; empty for none.
        score: Mean validation loss of a batch; None: the loss of the first objective. Lower is better.
        training: Settings of this phase; None: those of the model.
        share: Share of a time budget, relative to the other phases.
        judge_start: Score the state a phase starts from too, so that a phase can't leave behind anything worse.
        lenient: A phase that goes wrong again and again ends with its best (or last good) state and raises nothing.
        if_infinite: What an infinite score means.
    """

    name: str
    net: torch.nn.Module
    items: np.ndarray
    objectives: Sequence[Objective]
    held_out: np.ndarray | None = None
    score: Loss | None = None
    training: Training | None = None
    share: float = 1.0
    judge_start: bool = False
    lenient: bool = False
    if_infinite: str = "validation loss not finite"
