"""Weights on disk: what is mostly zeros as places and values.

Linear parts that learn only where a regression put a weight are nine tenths zeros; written in full, a model of sixty
patients with two hundred columns takes hundreds of megabytes.
"""

from collections.abc import Mapping

import torch

__all__ = ["packed", "unpacked"]

_LEAST = 2**14  # numbers from which packing pays
_AT, _IS = "|at", "|is"


def packed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by name; in place of one that is mostly zeros, "name|at" (flat places) and "name|is" (values)."""
    out = {}
    for name, value in state.items():
        flat = value.detach().flatten()
        place = flat.nonzero()[:, 0] if value.dtype == torch.float32 and _LEAST <= len(flat) < 2**31 else None
        if place is None or 4 * len(place) > len(flat):
            out[name] = value.detach().contiguous().clone()
        else:
            out[name + _AT], out[name + _IS] = place.int(), flat[place]
    return out


def unpacked(found: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors again, with the shapes of `like`.

    Raises:
        RuntimeError: places and values don't fit the shape.
    """
    out = {name: value for name, value in found.items() if not name.endswith((_AT, _IS))}
    for name in like:
        if name + _AT in found and name + _IS in found:
            place, value = found[name + _AT].long(), found[name + _IS]
            flat = torch.zeros(like[name].numel())
            if len(place) != len(value) or (len(place) and not 0 <= int(place.min()) <= int(place.max()) < len(flat)):
                raise RuntimeError(name)
            out[name] = flat.index_put_((place,), value).reshape(like[name].shape)
    return out
