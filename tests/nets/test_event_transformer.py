"""Drawing step by step sees what training sees; probabilities sum to one."""

import itertools

import pytest
import torch

from cohortloom.nets.event_transformer import EventTransformer, Sizes, StaticNet
from cohortloom.rng import Rng
from cohortloom.training.streams import drawing_from


def small(window: int = 12) -> EventTransformer:
    sizes = Sizes(tokens=5, gaps=4, values=6, features=3, past=4, width=16, layers=2, heads=4, window=window)
    facts = {
        "table": torch.tensor([-1, 0, 0, 1, 1]), "column": torch.tensor([-1, -1, 0, -1, -1]),
        "row": torch.tensor([False, True, False, True, True]),
        "visit": torch.tensor([False, True, False, False, False]), "rest": torch.zeros(5, dtype=torch.long),
        "due": torch.full((5,), torch.iinfo(torch.long).max),
    }  # fmt: skip
    follows = torch.zeros(5, 5, dtype=torch.bool)
    follows[:, [1, 3, 4]] = True
    with drawing_from(Rng(0).torch):
        net = EventTransformer(
            sizes, (3,), torch.full((5,), 0.2), torch.zeros(5, 5), torch.zeros(2, 4), torch.zeros(5, 6),
            (torch.zeros(2, 5, 4), torch.zeros(2, 5), torch.zeros(2, 5)), facts, follows, dropout=0.0,
        )  # fmt: skip
        for p in net.parameters():  # nothing is zero, as after training
            torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def test_one_step_after_the_other_equals_the_whole_window():
    net, draw = small(), Rng(1).torch
    x = torch.randn(3, 12, 16, generator=draw)
    whole = net(x)
    cache = net.cache(3)
    steps = torch.cat([net.step(x[:, k : k + 1], cache) for k in range(12)], 1)
    assert torch.allclose(whole, steps, atol=1e-5)


def test_a_window_that_slides_forgets_what_left_it():
    net, draw = small(window=4), Rng(1).torch
    net.sizes = Sizes(**{**net.sizes.__dict__, "layers": 1})
    net.blocks = net.blocks[:1]
    x = torch.randn(1, 9, 16, generator=draw)
    cache = net.cache(1)
    last = [net.step(x[:, k : k + 1], cache) for k in range(9)][-1]
    other = x.clone()
    other[:, :5] = 0.0
    cache = net.cache(1)
    same = [net.step(other[:, k : k + 1], cache) for k in range(9)][-1]
    assert torch.allclose(last, same, atol=1e-5)
    assert torch.allclose(last[:, 0], net(x[:, 5:])[:, -1], atol=1e-5)  # and positions count from anywhere


def test_nothing_looks_ahead():
    net, draw = small(), Rng(1).torch
    x = torch.randn(2, 12, 16, generator=draw)
    other = x.clone()
    other[:, 7:] = torch.randn(2, 5, 16, generator=draw)
    assert torch.allclose(net(x)[:, :7], net(other)[:, :7], atol=1e-6)


def test_tokens_the_grammar_forbids_have_no_chance_and_the_end_comes_when_nothing_is_left():
    net, h = small(), torch.randn(4, 16, generator=Rng(2).torch)
    row, last = torch.tensor([1, 1, 3, 0]), torch.tensor([1, 2, 3, 0])
    p = net.token_logits(h, row, last, torch.tensor([3, 3, 3, 0]), torch.zeros(4, 5)).softmax(-1)
    assert torch.allclose(p.sum(-1), torch.ones(4))
    assert (p[0] > 0).tolist() == [False, True, True, True, True]  # the visit's cell may follow the visit
    assert (p[1] > 0).tolist() == [False, True, False, True, True]  # but not twice
    assert (p[2] > 0).tolist() == [False, True, False, True, True]  # and not after another table
    assert p[3].tolist() == [1, 0, 0, 0, 0]


def test_a_cell_that_is_never_empty_comes_and_a_row_without_room_does_not():
    net, h = small(), torch.zeros(3, 16)
    net.rest, net.due = torch.tensor([0, 1, 0, 0, 0]), net.due.clone()
    net.due[1] = 0  # the visit must have its cell
    row, last, left = torch.tensor([1, 0, 3]), torch.tensor([1, 0, 3]), torch.tensor([4, 1, 2])
    p = net.token_logits(h, row, last, left, torch.zeros(3, 5)).softmax(-1)
    assert p[0].tolist() == [0, 0, 1, 0, 0]
    assert (p[1] > 0).tolist() == [False, False, False, True, True]  # one token is left: no visit begins
    assert (p[2] > 0).tolist() == [False, True, False, True, True]


def test_static_probabilities_sum_to_one_and_fixed_ones_are_weighed():
    with drawing_from(Rng(0).torch):
        plain = [torch.zeros(2, 0), torch.tensor([[0.0], [-0.7], [0.7]]), torch.zeros(2, 1)]
        lines = torch.ones(3, 2), torch.zeros(3), torch.tensor([torch.inf, 0.1, -0.2])
        net = StaticNet((2, 3, 2), [[0.0] * 2, [0.0] * 3, [0.0] * 2], plain, lines, 8, 0.0).eval()
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.5)
    every = torch.tensor(list(itertools.product(range(2), range(3), range(2))))
    p = net.log_likelihood(every).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        ids, weight = net.sample(40_000, {1: 2}, Rng(1).torch)
    assert (ids[:, 1] == 2).all()
    # sum over draws of weight x indicator estimates p(first = 1, second = 2)
    joint = (weight.exp() * (ids[:, 0] == 1)).mean().item()
    truth = p[(every[:, 0] == 1) & (every[:, 1] == 2)].sum().item()
    assert joint == pytest.approx(truth, rel=0.05)
