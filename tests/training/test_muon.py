"""Muon's steps against singular value decomposition, and which parameters take them."""

import numpy as np
import torch

from cohortloom.training import Objective, Training
from cohortloom.training.loop import _optimiser
from cohortloom.training.muon import GAIN, Muon, is_kernel, orthogonal


def kernel(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def test_directions_get_one_length_and_stay_where_they_are():
    for rows, columns in ((20, 60), (60, 20)):
        u, _, v = torch.linalg.svd(torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)), False)
        size = torch.logspace(0, -2, 20)
        found = orthogonal((u * size @ v)[None])[0]
        turned = u.T @ found @ v.T
        assert float(turned.diagonal().min()) > 0.5
        assert float(turned.diagonal().max()) < 1.25
        assert float((turned - turned.diagonal().diag()).abs().max()) < 1e-3


def test_a_zero_gradient_moves_nothing():
    assert float(orthogonal(torch.zeros(1, 16, 32)).abs().max()) == 0.0


def test_a_step_has_the_size_of_adams_and_does_not_depend_on_the_gradient_s():
    moved = []
    for scale in (1.0, 1e4):
        p = kernel(32, 16, 1, 5)
        before = p.detach().clone()
        p.grad = scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
        optimiser = Muon([{"params": [p], "weight_decay": 0.0, "kernels": True}], lr=1e-2, betas=(0.9, 0.95))
        optimiser.step()
        moved.append((p.detach() - before).numpy())
    np.testing.assert_allclose(moved[0], moved[1], atol=2e-4)
    assert 0.6 * GAIN * 1e-2 < np.sqrt(np.square(moved[0]).mean()) < 1.2 * GAIN * 1e-2


def test_convolutions_go_by_muon_and_all_else_by_adamw():
    convolution, small, matrix, bias = kernel(32, 16, 1, 5), kernel(8, 16, 1, 9), kernel(32, 32), kernel(32)
    assert [is_kernel(p) for p in (convolution, small, matrix, bias)] == [True, False, False, False]
    objective = Objective("loss", [convolution, small, matrix, bias], lambda batch, draw: torch.zeros(()))
    for wanted in (None, "adamw", "muon"):
        optimiser = _optimiser(objective, Training(optimizer=wanted))
        by_muon = [p for g in optimiser.param_groups if g.get("kernels") for p in g["params"]]
        assert [p is convolution for p in by_muon] == [True] * (wanted == "muon")
        assert sum(len(g["params"]) for g in optimiser.param_groups) == 4
