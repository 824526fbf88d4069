"""The head's density sums to one, agrees with a slow reference, and its draws follow it."""

import itertools
import math

import numpy as np
import pytest
import torch

from cohortloom.nets.mixture_head import MixtureHead
from cohortloom.rng import Rng
from cohortloom.training import drawing_from

LEVELS = (0, 3, 2)


@pytest.fixture
def head():
    with drawing_from(Rng(0).torch):
        made = MixtureHead(4, LEVELS, [[1.0], [-1.0, 0.0, 0.5], [0.0, 0.3]], 3)
        torch.nn.init.normal_(made.out.weight, std=0.7)
        return made.eval()


def test_density_equals_a_loop_over_components(head):
    h = torch.tensor([[0.3, -0.2, 1.0, 0.5]])
    weight, mean, log_sd, seen, shares = (part[0].detach().numpy() for part in head._laws(h))
    for x, a, b in itertools.product((None, -0.4, 1.3), range(3), range(2)):
        total = 0.0
        for k in range(3):
            p = math.exp(weight[k] + shares[k, a] + shares[k, 3 + b])
            there = 1 / (1 + math.exp(-seen[k, 0]))
            sd = math.exp(log_sd[k, 0])
            if x is None:
                p *= 1 - there
            else:
                p *= there * math.exp(-0.5 * ((x - mean[k, 0]) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
            total += p
        row = torch.tensor([[0.0 if x is None else x, a, b]]), torch.tensor([[x is not None, True, True]])
        assert head.log_prob(h, *row).item() == pytest.approx(math.log(total), abs=1e-4)


def test_density_sums_to_one(head):
    h = torch.tensor([[0.3, -0.2, 1.0, 0.5]])
    grid = np.linspace(-30, 30, 6001)
    total = 0.0
    for a, b in itertools.product(range(3), range(2)):
        cells = torch.tensor(np.column_stack([grid, np.full_like(grid, a), np.full_like(grid, b)])).float()
        there = torch.ones(len(grid), 3, dtype=torch.bool)
        density = head.log_prob(h.expand(len(grid), -1), cells, there).exp().detach().numpy()
        gone = head.log_prob(h, torch.tensor([[0.0, a, b]]), torch.tensor([[False, True, True]])).exp().item()
        total += np.trapezoid(density, grid) + gone
    assert total == pytest.approx(1.0, abs=1e-3)


def test_draws_follow_the_density_also_where_a_column_is_fixed(head):
    n, h = 40_000, torch.tensor([[0.3, -0.2, 1.0, 0.5]])
    some = torch.tensor([[0.0, a, b] for a in range(3) for b in range(2)])
    with torch.no_grad():
        joint = (
            head.log_prob(h.expand(6, -1), some, torch.ones(6, 3, dtype=torch.bool), [1, 2]).exp().view(3, 2).numpy()
        )
        values, _ = head.sample(h.expand(n, -1), Rng(1).torch)
        fixed, _ = head.sample(h.expand(n, -1), Rng(2).torch, {2: 1.0})
    seen = np.zeros((3, 2))
    np.add.at(seen, (values[:, 1].long().numpy(), values[:, 2].long().numpy()), 1 / n)
    assert np.abs(seen - joint).max() < 4 * math.sqrt(0.25 / n)
    given = np.bincount(fixed[:, 1].long().numpy(), minlength=3) / n
    assert np.abs(given - joint[:, 1] / joint[:, 1].sum()).max() < 4 * math.sqrt(0.25 / n)
