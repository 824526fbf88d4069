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


def test_the_largest_product_decides_where_its_rows_are_known():
    """Many small matrices are a large network and small products; one large matrix needs few rows to pay."""
    many = torch.nn.ModuleList([torch.nn.Linear(500, 500, device="meta") for _ in range(5)])
    large = torch.nn.Linear(2_000, 2_000, device="meta")
    torch.set_num_threads((before := torch.get_num_threads()) + 1)
    try:
        for net, rows, alone in ((many, None, False), (many, 256, True), (many, 4_096, False), (large, 128, False)):
            with few_threads(net, rows=rows):
                assert (torch.get_num_threads() == 1) == alone
    finally:
        torch.set_num_threads(before)
