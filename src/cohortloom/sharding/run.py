"""Shards carried out here or in several processes.

A task is a function of a shard that can be sent to another process (a module's function, or a `functools.partial` of
one) and leaves its result in a file. Processes are spawned, not forked: a fork of a process with running threads may
hang. They start with one passive OpenMP thread each, set before torch is loaded there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from cohortloom.sharding.plan import Shard

__all__ = ["run"]


def run(
    task: Callable[[Shard], None],
    shards: Sequence[Shard],
    *,
    workers: int = 1,
    progress: Callable[[float, float, str], None] | None = None,
) -> None:
    """Carry out `task` for every shard, in any order, with up to `workers` processes.

    Raises:
        Exception: whatever a task raises; the shards not yet begun are dropped.
    """
    total = sum(s.size for s in shards)
    done = 0
    if workers <= 1 or len(shards) <= 1:
        for shard in shards:
            task(shard)
            done += shard.size
            if progress:
                progress(done, total, "")
        return
    pool = ProcessPoolExecutor(min(workers, len(shards)), mp_context=get_context("spawn"), initializer=_quiet)
    try:
        running = {pool.submit(task, shard): shard for shard in shards}
        for future in as_completed(running):
            future.result()
            done += running[future].size
            if progress:
                progress(done, total, "")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _quiet() -> None:
    """One passive thread per process: several would wait for each other."""
    for name, value in (
        ("OMP_NUM_THREADS", "1"),
        ("OMP_WAIT_POLICY", "PASSIVE"),
        ("GOMP_SPINCOUNT", "0"),
        ("POLARS_MAX_THREADS", "1"),
    ):
        os.environ.setdefault(name, value)
