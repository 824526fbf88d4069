"""Settings of a training run.

What is left at None follows the size of the data (n items: patients, or rows where a phase trains on rows):

    batch_size      n / 4, kept within 32 and 256
    epochs          400,000 / n, kept within 20 and 300 (so small cohorts see many passes, large ones few)
    evaluate_every  once per epoch, but at least every 400 steps
    patience        10 evaluations without gain

The learning rate rises linearly over `warm_up` steps (at most a tenth of the run), then follows a half cosine down to
`final_rate` of its height. The EMA of weights is evaluated and its best state kept; its decay is min(ema, (k+1)/(k+10))
at step k, so early averages are short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from cohortloom.errors import SettingsError
from cohortloom.registry import check_settings

__all__ = ["Training"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained. Defaults with their reasons are in the module docstring.

    Args:
        batch_size: Items per step.
        epochs: Passes over the items; exclusive with `steps`.
        steps: Number of steps; exclusive with `epochs`.
        optimizer: "adamw" (None too), or "muon": Muon for convolutions, AdamW for all else.
        learning_rate: Height of the rate.
        betas: Decay of AdamW's moments.
        weight_decay: Decay of matrices; vectors (biases, norms) are never decayed.
        warm_up: Steps of linear rise.
        final_rate: Share of the rate left at the end.
        clip: Largest gradient norm of an objective; 0 for none.
        ema: Decay of the average of weights; 0 for none.
        ema_power: Power of an average whose length follows the run, in place of `ema`; 0 for none.
        validation: Share of patients kept for early stopping; 0 for none.
        evaluate_every: Steps between evaluations.
        patience: Evaluations without gain before a phase ends; 0 never ends early.
        threads: Torch threads; None: one below a million parameters, else as set outside.
        checkpoint_seconds: Least time between two checkpoints of a long run [s]; a short one writes its first after
            2 s and the next each time it has lasted half as long again. Does not change the result.
        retries: Times a phase may go back to its last good state, each time with half the rate.
    """

    batch_size: int | None = None
    epochs: float | None = None
    steps: int | None = None
    optimizer: Literal["adamw", "muon"] | None = None
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warm_up: int = 50
    final_rate: float = 0.05
    clip: float = 1.0
    ema: float = 0.99
    ema_power: float = 0.0
    validation: float = 0.15
    evaluate_every: int | None = None
    patience: int | None = None
    threads: int | None = None
    checkpoint_seconds: float = field(default=30.0, compare=False)
    retries: int = 3

    def __post_init__(self) -> None:
        check_settings(self, "training")
        wrong = [
            name
            for name, low in (("batch_size", 1), ("steps", 1), ("evaluate_every", 1), ("threads", 1), ("patience", 0))
            if (value := getattr(self, name)) is not None and value < low
        ]
        wrong += [n for n in ("learning_rate",) if not getattr(self, n) > 0]
        wrong += [n for n in ("weight_decay", "warm_up", "clip", "retries", "ema_power") if getattr(self, n) < 0]
        wrong += [n for n in ("ema", "validation", "final_rate") if not 0 <= getattr(self, n) < 1]
        wrong += ["epochs"] if self.epochs is not None and not self.epochs > 0 else []
        if wrong:
            raise SettingsError(f"training: {', '.join(wrong)} out of range. See help(cohortloom.training.Training).")
        if self.epochs is not None and self.steps is not None:
            raise SettingsError("training: give epochs or steps, not both; leave one out.")

    def resolved(self, n_items: int) -> Training:
        """The same with batch_size, steps, evaluate_every and patience filled in for `n_items` items."""
        n = max(int(n_items), 1)
        batch = min(self.batch_size or min(max(n // 4, 32), 256), n)
        per_epoch = math.ceil(n / batch)
        epochs = self.epochs or min(max(400_000 / n, 20), 300)
        return replace(
            self,
            batch_size=batch,
            steps=self.steps or max(1, math.ceil(epochs * per_epoch)),
            epochs=None,
            evaluate_every=self.evaluate_every or min(per_epoch, 400),
            patience=10 if self.patience is None else self.patience,
        )

    def over(self, recipe: Training) -> Training:
        """The recipe with every field that differs here from its default; `steps` replaces its `epochs` and back."""
        default = Training()
        asked = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != getattr(default, f.name)}
        return recipe.changed(**asked)

    def changed(self, **settings: Any) -> Training:
        """The same with other settings; `steps` takes the place of `epochs` and back."""
        other = {"epochs": "steps", "steps": "epochs"}
        gone = {other[name]: None for name, value in settings.items() if name in other and value is not None}
        return replace(self, **{**gone, **settings})

    def rate(self, step: int, done: float) -> float:
        """Share of the learning rate at a step; `done` is the share of the run (or of its time) behind it."""
        warm = min(self.warm_up, max(1, (self.steps or 1) // 10))
        rise = min(1.0, (step + 1) / warm) if warm else 1.0
        return rise * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
