"""Matrix products in bfloat16, where the processor multiplies it itself: twice the speed of float32."""

from contextlib import AbstractContextManager

import torch

__all__ = ["has_bfloat16", "quick"]


def has_bfloat16() -> bool:
    """Does the processor multiply bfloat16 itself (AVX-512 BF16 or AMX)?"""
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)


def quick(wanted: bool) -> AbstractContextManager[None]:
    """Inside, matrix products run in bfloat16 if `wanted`; weights stay float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=wanted)
