"""Randomness handed down explicitly.

One seed makes a tree of independent streams (numpy SeedSequence). A child is named by a number or a word, so the
stream of shard 7 is the same whichever worker draws it and whatever was drawn before. Global random state is never
read nor changed.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Rng"]


class Rng:
    """A random stream with numpy and (on demand) torch generators.

    Args:
        seed: Non-negative integer; None draws fresh entropy from the operating system.
        path: Position in the tree, filled by `child`.
    """

    def __init__(self, seed: int | None, path: tuple[int, ...] = ()) -> None:
        if seed is not None and (not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0):
            raise ValueError(f"seed must be a non-negative integer or None, got {type(seed).__name__}")
        self._sequence = np.random.SeedSequence(None if seed is None else int(seed), spawn_key=path)
        self.seed = int(self._sequence.entropy) if seed is None else int(seed)  # type: ignore[arg-type]
        self.path = path

    def child(self, *names: int | str) -> Rng:
        """Independent stream under this one; the same names give the same stream."""
        return Rng(self.seed, self.path + tuple(_number(name) for name in names))

    @cached_property
    def numpy(self) -> np.random.Generator:
        """Generator of this stream; its state advances as it is used."""
        return np.random.Generator(np.random.PCG64(self._sequence))

    @cached_property
    def torch(self) -> torch.Generator:
        """Torch CPU generator of this stream (independent of `numpy`)."""
        import torch  # heavy: only models need it

        generator = torch.Generator()
        generator.manual_seed(self.integer("torch"))
        return generator

    def integer(self, *names: int | str) -> int:
        """A fixed 63-bit number of the named child, to seed a library that takes integers."""
        return int(self.child(*names)._sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _number(name: int | str) -> int:
    if isinstance(name, str):
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
    return int(name)
