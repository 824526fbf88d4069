"""Muon: steps of convolutions whose directions all have one length.

    m <- .9 m + .1 g,   u = .9 m + .1 g,   w <- w - rate (decay w + .2 sqrt(max(rows, columns)) U V^T)

with u = U S V^T the averaged gradient of a kernel as a matrix (features out x all that goes in). The gradient of a
convolution lies in a few directions, and a step along it learns those again and again; U V^T gives every direction the
same length, so that rare structure (waves of fibrillation among noise) is learned as soon as the frequent one. U V^T
comes from five Newton-Schulz steps, which leave singular values between .5 and 1.2. The factor .2 sqrt(max) makes the
root mean square of a step that of AdamW's, so both share one rate. Vectors, embeddings and kernels with fewer than 16
rows or columns go by AdamW.

References:
    Jordan et al. (2024). Muon: An optimizer for hidden layers in neural networks. kellerjordan.github.io/posts/muon.
    Liu et al. (2025). Muon is scalable for LLM training. arXiv:2502.16982. Coefficients: Jordan.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float

from cohortloom.nets.precision import has_bfloat16
from cohortloom.training.adamw import AdamW

__all__ = ["Muon", "is_kernel", "orthogonal"]

MOMENTUM, GAIN, FEWEST = 0.9, 0.2, 16


def is_kernel(parameter: torch.nn.Parameter) -> bool:
    """Is this a convolution large enough for Muon?"""
    return parameter.dim() >= 3 and min(len(parameter), parameter[0].numel()) >= FEWEST


def orthogonal(u: Float[torch.Tensor, "matrix row column"]) -> Float[torch.Tensor, "matrix row column"]:
    """U V^T of U S V^T, about: singular values come to between .5 and 1.2 (those below 1e-3 of the norm stay small)."""
    wide = u.shape[1] <= u.shape[2]
    x = u if wide else u.mT
    x = x / torch.linalg.matrix_norm(x.float()).clamp(min=1e-20).to(x.dtype)[:, None, None]
    for _ in range(5):
        a = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x if wide else x.mT


class Muon(AdamW):
    """AdamW but for groups with `kernels`, which go by the rule above."""

    def _move(self, group: dict[str, Any]) -> None:
        if not group.get("kernels"):
            super()._move(group)
            return
        alike = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            if p not in self.state:
                self.state[p] = {"exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format)}
            m = self.state[p]["exp_avg"].lerp_(p.grad, 1 - MOMENTUM)
            alike[len(p), p[0].numel()].append((p, p.grad.lerp(m, MOMENTUM)))
        for shape, found in alike.items():
            matrices = torch.stack([u.reshape(shape) for _, u in found])
            steps = orthogonal(matrices.bfloat16() if has_bfloat16() else matrices).float()
            for (p, _), step in zip(found, steps):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(step.reshape(p.shape), alpha=GAIN * max(shape) ** 0.5 * group["lr"])
