"""The state of a run on disk: one safetensors file, its facts as JSON in the header.

One file, written beside its place and renamed, so what is read is whole. It holds weights, averages and moments but no
random state: the stream of every step is named by its number (see `loop`), so the step is the state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cohortloom.errors import FileFormatError, Problem
from cohortloom.files import write_bytes

__all__ = ["read_checkpoint", "write_checkpoint"]

FORMAT = 1


def write_checkpoint(path: str | Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts whole or not at all."""
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True, allow_nan=False)
    write_bytes(path, save({name: value.contiguous() for name, value in tensors.items()}, {"facts": text}))


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and facts.

    Raises:
        FileFormatError: not a checkpoint, truncated, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if facts["format"] != FORMAT:
            raise KeyError("format")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        problem = Problem(
            "not-a-checkpoint",
            Path(path).name,
            "is not a checkpoint of this version, or is truncated",
            "Delete it and fit again without resume.",
        )
        raise FileFormatError("", [problem]) from None
    return tensors, facts
