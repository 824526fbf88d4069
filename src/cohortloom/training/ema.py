"""Exponential moving average of weights.

    s_k = d_k s_{k-1} + (1 - d_k) w_k,     d_k = min(decay, (k + 1) / (k + 10))

or, with a power p, d_k = (1 - 1 / (k + 1))^(p + 1): an average over the last 1 / p of the run however long it is
(Karras et al. 2023, arXiv:2312.02696).

Buffers (running statistics) are copied, not averaged.
"""

from __future__ import annotations

import torch

__all__ = ["Average", "copy_state", "put_state"]


def copy_state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def put_state(net: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Copy values into the network's own tensors (they keep their place in memory)."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            value.copy_(state[name])


class Average:
    """Running average of the parameters of a network."""

    def __init__(self, net: torch.nn.Module, decay: float, power: float = 0.0) -> None:
        self.net, self.decay, self.power = net, decay, power
        self.state = copy_state(net)
        self._averaged = {name for name, p in net.named_parameters() if p.is_floating_point()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (0-based)."""
        decay = min(self.decay, (step + 1) / (step + 10))
        if self.power:
            decay = (1 - 1 / (step + 1)) ** (self.power + 1)
        old, new = [], []
        for name, value in self.net.state_dict().items():
            if name in self._averaged:
                old.append(self.state[name])
                new.append(value)
            else:
                self.state[name].copy_(value)
        if old:
            torch._foreach_lerp_(old, new, 1 - decay)
