"""AdamW, without what comes with torch's class.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   w <- w - rate (decay w + m' / (sqrt(v') + eps))

with m', v' corrected for their start at 0. One fused kernel per group does the step, the same that torch.optim.AdamW
calls with `fused=True`, so the bits agree. But making that class imports torch's compiler (two CPU seconds and some
100 MB, in a process that compiles nothing), which is half of a fit to 200 patients.

References:
    Loshchilov, Hutter (2019). Decoupled weight decay regularization. ICLR, arXiv:1711.05101.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["AdamW"]

EPS = 1e-8


class AdamW:
    """Moves parameters by their gradients.

    Args:
        groups: Each with `params` and `weight_decay`, and what else the caller keeps there; `lr` is added.
        lr: Learning rate; set a group's `lr` to change it.
        betas: Decay of the moments.

    `state` holds of each parameter that has moved its `step`, `exp_avg` and `exp_avg_sq`.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        self.param_groups = [{"lr": lr, **group} for group in groups]
        self.betas = betas
        self.state: dict[torch.nn.Parameter, dict[str, torch.Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            self._move(group)

    def _move(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if p not in self.state:
                zeros = torch.zeros_like(p, memory_format=torch.preserve_format)
                self.state[p] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        states = [self.state[p] for p in params]
        steps = [s["step"] for s in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            params, [p.grad for p in params], [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], [],
            steps, amsgrad=False, lr=group["lr"], beta1=self.betas[0], beta2=self.betas[1],
            weight_decay=group["weight_decay"], eps=EPS, maximize=False,
        )  # fmt: skip

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None
