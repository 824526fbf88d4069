"""Threads are borrowed for a block and put back."""

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from cohortloom.training import few_threads


def blas_threads() -> set[int]:
    import numpy  # noqa: F401 (its BLAS must be loaded)

    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_small_networks_and_the_regressions_before_them_run_on_one_thread():
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("numpy's BLAS has one thread here")
        before = torch.get_num_threads()
        for net in (None, torch.nn.Linear(3, 3)):
            with few_threads(net):
                assert (torch.get_num_threads(), blas_threads()) == (1, {1})
            assert (torch.get_num_threads(), blas_threads()) == (before, {2})
        with few_threads(None, 2):
            assert (torch.get_num_threads(), blas_threads()) == (2, {2})
