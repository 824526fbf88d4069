"""The column network: order, masks, normalisation, persistence."""

import numpy as np
import pytest
import torch

from cohortloom.nets.column_cursor import Cursor
from cohortloom.nets.columnar import NEVER, ColumnNet, ColumnShape, Rows
from cohortloom.nets.normals import Mixture

COLUMNS = [
    ColumnShape(
        "number",
        4,
        (True,) * 4,
        (0.5, 0.2, 0.2, 0.1),
        repeat=2,
        own=(0, 1),
        last=0,
        mean=1,
        known=3,
        scales=(0.1, 1.2, -0.1, 0.8, 0.5),
    ),
    ColumnShape("category", 3, (True,) * 3, (0.2, 0.3, 0.5), own=(2,)),
    ColumnShape("category", 50, (True,) * 50, (0.02,) * 50, lookup=0),
    ColumnShape("number", 3, (True, False, True), (0.5, 0.0, 0.5), own=(0, 1), last=0, mean=1, known=4),
]


def net_of(low_rank: bool, **settings) -> ColumnNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ColumnNet(COLUMNS, 6, [50], low_rank=low_rank, n_layers=2, n_told=2, **settings)
        with torch.no_grad():
            net.told_2.copy_(torch.randn(net.told_2.shape))
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return net.eval()


def some_rows(n: int = 100) -> Rows:
    draw = torch.Generator().manual_seed(1)
    token = torch.stack([torch.randint(0, k, (n,), generator=draw) for k in (4, 3, 50, 3)], 1)
    token[:, 3] *= token[:, 3] != 1
    hidden = torch.full((n, 4), -1)
    barred = torch.sort(torch.randn(2, n, 4, generator=draw), 0).values * torch.tensor([1.0, 0, 0, 0])
    return Rows(
        torch.randn(n, 6, generator=draw), torch.randint(-1, 50, (n, 1), generator=draw), token,
        torch.randn(n, 4, generator=draw), torch.randn(n, 4, generator=draw), hidden, barred,
    )  # fmt: skip


@pytest.mark.parametrize(("rough", "off"), [(False, 1e-4), (True, 0.03)])
@pytest.mark.parametrize("low_rank", [False, True])
def test_column_by_column_equals_all_at_once(low_rank, rough, off, monkeypatch):
    monkeypatch.setattr("cohortloom.nets.column_cursor.has_bfloat16", lambda: rough)
    monkeypatch.setattr("cohortloom.nets.column_cursor.LEAST_ROUGH", 1)
    net, rows = net_of(low_rank, persistence=1.0), some_rows()
    with torch.no_grad():
        whole = net.log_prob(rows)
    cursor = Cursor(net, rows.features, rows.lookups)
    for j in range(4):
        logits, mixture = cursor.column(j, rows.hidden[:, j])
        cell = torch.log_softmax(logits, 1).gather(1, rows.token[:, j : j + 1])[:, 0]
        if mixture is not None:
            weight, mean, log_sd = map(torch.from_numpy, mixture)
            normal = torch.distributions.Normal(mean, log_sd.exp()).log_prob(rows.target[:, j : j + 1])
            density = torch.logsumexp(torch.log_softmax(weight, 1) + normal, 1)
            if COLUMNS[j].repeat >= 0:  # what a repeat has for itself is no CONT
                low, high = (torch.distributions.Normal(mean, log_sd.exp()).cdf(e[:, j, None]) for e in rows.barred)
                density = density - torch.log1p(-(torch.softmax(weight, 1) * (high - low)).sum(1).clamp(max=0.98))
            cell = cell + torch.where(rows.token[:, j] == 0, density, 0.0)
        torch.testing.assert_close(cell, whole[:, j], atol=off, rtol=off)
        cursor.push(j, rows.token[:, j], rows.score[:, j])


@pytest.mark.parametrize("low_rank", [False, True])
def test_a_column_sees_earlier_columns_only(low_rank):
    net, rows = net_of(low_rank), some_rows()
    with torch.no_grad():
        before = net.log_prob(rows)
        for j in range(4):
            other = Rows(**{**vars(rows), "token": rows.token.clone(), "score": rows.score.clone()})
            other.token[:, j] = torch.tensor([3, 2, 49, 2])[j] - other.token[:, j]
            other.score[:, j] += 1
            changed = (net.log_prob(other) - before).abs().amax(0) > 1e-6
            assert not changed[:j].any(), "an earlier column saw a later one"
            assert changed[j + 1 :].all(), "a later column is blind to an earlier one"


def test_change_and_departure_of_a_number_are_inputs_in_sd_of_its_changes():
    net, rows = net_of(False), some_rows()
    e, f = net.encode(rows.token, rows.score, rows.features), rows.features
    there = (rows.token[:, 0] < 3) & (f[:, 3] >= 0)
    assert 10 < there.sum() < 90
    change, departure = (rows.score[:, 0] - f[:, 0] * 1.2 - 0.1) / 0.5, (rows.score[:, 0] - f[:, 1] * 0.8 + 0.1) / 0.5
    expected = torch.where(there[:, None], torch.stack([change, departure], 1).clamp(-6, 6), 0.0)
    torch.testing.assert_close(e[:, 5:7], expected)


def test_repeat_is_impossible_before_anything_was_recorded():
    net, rows = net_of(False), some_rows()
    rows.hidden[:, 0] = 2
    cursor = Cursor(net, rows.features, rows.lookups)
    logits, _ = cursor.column(0, rows.hidden[:, 0])
    assert torch.softmax(logits, 1)[:, 2].max() == 0
    assert logits.shape == (100, 4) and (logits[:, 2] < NEVER / 2).all()


@pytest.mark.parametrize("low_rank", [False, True])
def test_persistence_start_follows_the_last_value(low_rank):
    with torch.random.fork_rng():
        net = ColumnNet(COLUMNS, 6, [50], low_rank=low_rank, persistence=1.0).eval()
    for head in net.heads:
        head.data.zero_()
    for last, mean in ((2.0, 0.0), (0.0, 2.0), (-1.0, -1.0)):
        features = torch.zeros(1, 6)
        features[0, 0], features[0, 1] = last, mean
        _, (_, means, _) = Cursor(net, features, torch.full((1, 1), -1)).column(0, torch.tensor([-1]))
        means = means[0]
        assert means[~net.is_anchored].mean() == pytest.approx(0.5 * last + 0.35 * mean, abs=0.15)
        np.testing.assert_allclose(means[net.is_anchored], last, atol=1e-5)


def test_every_parameter_learns():
    for low_rank in (False, True):
        net = net_of(low_rank)
        loss = -net.log_prob(some_rows()).sum()
        for (name, _), gradient in zip(net.named_parameters(), torch.autograd.grad(loss, list(net.parameters()))):
            assert gradient.abs().sum() > 0, name


def test_low_rank_from_many_columns():
    many = [ColumnShape("number", 3, (True, False, True), (0.5, 0, 0.5), own=(0,)) for _ in range(150)]
    net = ColumnNet(many, 150 * 11, hidden=128, width=16)
    assert net.low_rank
    assert sum(np.prod(p.shape) for p in net.parameters()) < 1_500_000


def test_one_normal_of_a_row_is_the_one_among_all():
    net, rows = net_of(False, persistence=1.0), some_rows()
    normals = Cursor(net, rows.features, rows.lookups).column(0, rows.hidden[:, 0])[1]
    assert normals.anchor is not None
    row, component = np.array([3, 3, 40, 99]), np.array([0, 2, 5, 1])
    every, some = Mixture(*normals), normals.take(row)
    for whole, alone, taken in zip(
        every.of(row, component), normals.of(row, component), some.of(np.arange(4), component)
    ):
        np.testing.assert_array_equal(alone, whole)
        np.testing.assert_array_equal(taken, whole)


@pytest.mark.parametrize("low_rank", [False, True])
def test_networks_together_say_what_each_says_of_its_rows(low_rank):
    one, other = (net_of(low_rank, persistence=p) for p in (0.0, 1.0))
    with torch.no_grad():
        for weights in other.parameters():
            weights.add_(0.1 * torch.rand(weights.shape, generator=torch.Generator().manual_seed(1)))
    rows, n = some_rows(), 30
    parts = (one, slice(0, n)), (other, slice(n, None))
    alone = [Cursor(net, rows.features[part], rows.lookups[part]) for net, part in parts]
    together = Cursor([one, other], rows.features, rows.lookups, np.array([n, len(rows.features) - n]))
    for j in range(4):
        found = [cursor.column(j, rows.hidden[part, j]) for cursor, (_, part) in zip(alone, parts)]
        logits, normals = together.column(j, rows.hidden[:, j])
        torch.testing.assert_close(logits, torch.cat([logits for logits, _ in found]), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(logits[n:], one_says(one, rows, j)[n:], atol=0.01), "the second network is not heard"
        if normals is not None:
            for whole, *each in zip(normals, *[normals for _, normals in found]):
                np.testing.assert_allclose(whole, np.concatenate(each), atol=1e-4, rtol=1e-4)
        together.push(j, rows.token[:, j], rows.score[:, j])
        for cursor, (_, part) in zip(alone, parts):
            cursor.push(j, rows.token[part, j], rows.score[part, j])


def one_says(net, rows, at):
    cursor = Cursor(net, rows.features, rows.lookups)
    for j in range(at):
        cursor.push(j, rows.token[:, j], rows.score[:, j])
    return cursor.column(at, rows.hidden[:, at])[0]
