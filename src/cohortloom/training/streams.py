"""Layers that draw, and threads: borrowed for a block, put back afterwards.

Dropout and initialisers of torch draw from its global stream. Inside `drawing_from` that stream is one of ours; at the
end the global one is what it was, bit for bit. Small networks and small matrices run on one thread, in torch and in
numpy's BLAS: with more, two cores take three times as long for the regressions a fit starts from, and a busy machine
spends its time waiting at barriers (10 to 40 times slower).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cohortloom.rng import Rng

__all__ = ["SMALL", "borrowed_globals", "drawing_from", "few_threads"]

SMALL = 1_000_000  # parameters
SMALL_PRODUCT = 2**28  # multiplications


@contextmanager
def drawing_from(stream: torch.Generator) -> Iterator[torch.Generator]:
    """Inside the block torch's global CPU stream is `stream`; draws from either advance one sequence.

    The block must not hand `stream` to a draw: use the global one (layers) or, for explicit draws, another stream.
    """
    outside = torch.random.get_rng_state()
    torch.random.set_rng_state(stream.get_state())
    try:
        yield stream
    finally:
        stream.set_state(torch.random.get_rng_state())
        torch.random.set_rng_state(outside)


@contextmanager
def few_threads(net: torch.nn.Module | None, threads: int | None = None, rows: int | None = None) -> Iterator[None]:
    """One thread of torch and BLAS where a second would not pay, or `threads`; put back afterwards.

    Args:
        net: Small below a million parameters; None is small.
        rows: Of every matrix product of a step, where that is known: then the largest product decides.
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    outside = torch.get_num_threads()
    if threads is None:
        sizes = [] if net is None else [p.numel() for p in net.parameters()]
        small = sum(sizes) < SMALL or (rows is not None and rows * max(sizes) < SMALL_PRODUCT)
        threads = 1 if small else outside
    if threads != outside:
        torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        if torch.get_num_threads() != outside:
            torch.set_num_threads(outside)


@contextmanager
def borrowed_globals(rng: Rng) -> Iterator[None]:
    """For libraries that only know global random state: it is set from `rng` inside the block and put back after it.

    Covers the global streams of torch, numpy and the standard library.
    """
    import random

    import numpy as np

    plain, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is put back)
    random.setstate(random.Random(rng.integer("plain")).getstate())
    np.random.set_state(np.random.RandomState(rng.integer("legacy") % 2**32).get_state())  # noqa: NPY002
    try:
        with drawing_from(rng.child("torch").torch):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(legacy)  # noqa: NPY002
