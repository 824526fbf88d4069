"""Weights that are mostly zeros on disk."""

import pytest
import torch

from cohortloom.nets.packing import packed, unpacked


def _state() -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    wide = torch.zeros(200, 300)
    wide[::40, ::7] = torch.randn(5, 43, generator=stream)
    dense = torch.randn(200, 300, generator=stream)
    return {
        "wide": wide,
        "none": torch.zeros(128, 128),
        "dense": dense,
        "bias": torch.zeros(5),
        "count": torch.tensor(3),
    }


def test_what_is_packed_comes_back_bit_for_bit_and_small():
    state = _state()
    small = packed(state)
    assert sum(v.numel() * v.element_size() for v in small.values()) < 0.6 * sum(v.numel() * 4 for v in state.values())
    assert "wide" not in small and "dense" in small and "bias" in small
    again = unpacked(small, state)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) and again[name].dtype == value.dtype for name, value in state.items())


def test_a_full_tensor_is_copied():
    state = _state()
    small = packed(state)
    state["dense"][0] = 7
    assert not torch.equal(small["dense"], state["dense"])


@pytest.mark.parametrize("place", [-1, 200 * 300])
def test_places_outside_are_refused(place):
    small = packed(_state())
    small["wide|at"][0] = place
    with pytest.raises(RuntimeError, match="wide"):
        unpacked(small, _state())
