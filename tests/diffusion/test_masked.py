"""Masked diffusion against a joint law that is known cell by cell."""

import itertools

import pytest
import torch

from cohortloom.diffusion.masked import bound_weight, hide, mask_shares, reveal_times, unmask
from cohortloom.rng import Rng

K, C = 3, 3


@pytest.fixture(scope="module")
def joint():
    """A law of three dependent cells with three levels each."""
    p = torch.rand((K,) * C, generator=Rng(3).torch, dtype=torch.float64) ** 3
    return p / p.sum()


def conditional(joint, token, shown, cell):
    """p(cell | cells that show), by summing the table."""
    where = tuple(slice(None) if not shown[c] or c == cell else int(token[c]) for c in range(C))
    kept = [c for c in range(C) if not shown[c] or c == cell]
    part = joint[where]
    others = [k for k, c in enumerate(kept) if c != cell]
    part = part.sum(others) if others else part
    return part / part.sum()


def test_the_bound_of_the_exact_law_is_its_entropy(joint):
    # slow sum over all records, all masks and the integral over m of m^(h - 1) (1 - m)^(C - h) for h hidden cells
    total = 0.0
    for record in itertools.product(range(K), repeat=C):
        for shown in itertools.product((False, True), repeat=C):
            hidden = [c for c in range(C) if not shown[c]]
            if not hidden:
                continue
            h = len(hidden)
            beta = torch.lgamma(torch.tensor([h, C - h + 1.0, C + 1.0], dtype=torch.float64))
            weight = (beta[0] + beta[1] - beta[2]).exp()
            loss = -sum(conditional(joint, record, shown, c)[record[c]].log() for c in hidden)
            total += joint[record] * weight * loss
    assert float(total) == pytest.approx(float(-(joint * joint.log()).sum()), rel=1e-6)


def test_hiding_with_the_weight_counts_every_cell_once():
    # E over m and mask of (hidden cells) / m is the number of cells; the cap takes little of it
    stream, n = Rng(0).torch, 40_000
    share = mask_shares(n, stream)
    hidden = hide(torch.ones(n, 5, dtype=torch.bool), share, stream)
    weighted = hidden.sum(1) * bound_weight(share, cap=1e9)
    assert weighted.mean() == pytest.approx(5, rel=0.02)
    assert bound_weight(torch.tensor([0.01]))[0] == 10


def test_shares_cover_the_interval_evenly():
    share = mask_shares(50, Rng(1).torch).sort().values
    assert ((share - (torch.arange(50) + 0.5) / 50).abs() <= 0.5 / 50 + 1e-6).all()


def draws(joint, n, time, n_passes):
    stream = Rng(5).torch

    def draw(token, hidden, now, share):
        out = token.clone()
        for i, row in enumerate(token):
            for c in range(C):
                if now[i, c]:
                    law = conditional(joint, row, (~hidden[i]).tolist(), c)
                    out[i, c] = torch.multinomial(law, 1, generator=stream)
        return out

    token = unmask(draw, torch.zeros(n, C, dtype=torch.long), torch.ones(n, C, dtype=torch.bool), time, n_passes)
    counts = torch.zeros_like(joint)
    for row in token.tolist():
        counts[tuple(row)] += 1
    return counts / n


def test_revealing_cell_by_cell_gives_the_joint_law(joint):
    n = 2_000
    time = reveal_times((n, 1, C), Rng(2).torch)[:, 0]
    found = draws(joint, n, time, 3 * C)
    # multinomial noise: total variation of 27 cells at n = 2,000 is about .05
    assert 0.5 * (found - joint).abs().sum() < 0.07


def test_revealing_all_at_once_loses_the_dependence(joint):
    n = 2_000
    found = draws(joint, n, torch.zeros(n, C), 1)
    margins = [joint.sum([d for d in range(C) if d != c]) for c in range(C)]
    independent = torch.einsum("a,b,c->abc", *margins)
    assert 0.5 * (found - independent).abs().sum() < 0.07 < 0.5 * (joint - independent).abs().sum() - 0.06


def test_reveal_times_are_uniform_and_keep_a_row_apart():
    time = reveal_times((400, 6, 8), Rng(4).torch)
    assert torch.histc(time, 10, 0, 1).std() / time.numel() * 10 < 0.02
    gaps = time.sort(2).values.diff(dim=2)
    assert torch.allclose(gaps, torch.full_like(gaps, 1 / 8), atol=1e-5)  # eight columns, an eighth apart
