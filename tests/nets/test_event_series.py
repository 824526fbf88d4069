"""The law of event sequences against closed forms: rates, regularity and marks by condition, and its normalisation."""

import numpy as np
import pytest
import torch

from cohortloom.nets.event_series import EventNet

LENGTH = 10.0


def sequences(n: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Half of the records: events every .5 s with positive marks; the others: Poisson, .3 a second, negative marks."""
    draw = np.random.default_rng(seed)
    regular = draw.random(n) < 0.5
    gap, real = np.ones((n, 30)), np.zeros((n, 30), bool)
    left = np.full(n, LENGTH)
    for r in range(n):
        now = draw.uniform(0, 0.5) if regular[r] else draw.exponential(1 / 0.3)
        k, last = 0, 0.0
        while now < LENGTH and k < 30:
            gap[r, k], real[r, k], last = now - last, True, now
            now += 0.5 * draw.lognormal(0, 0.05) if regular[r] else draw.exponential(1 / 0.3)
            k += 1
        left[r] = LENGTH - last
    marks = np.where(regular, 2.0, -1.0)[:, None, None] + 0.2 * draw.standard_normal((n, 30, 3))
    burst = np.zeros((n, 30), bool)
    condition = np.stack([regular, ~regular], axis=1)
    as_torch = [torch.from_numpy(v) for v in (gap, marks, burst, real, left, condition)]
    return tuple(v if v.dtype == torch.bool and k < 5 else v.float() for k, v in enumerate(as_torch))


@pytest.fixture(scope="module")
def net() -> EventNet:
    torch.manual_seed(0)
    net = EventNet(2, (2, 1))
    data = sequences(300, 0)
    net.measure(*data[:4])
    step = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for k in range(300):
        rows = torch.from_numpy(np.random.default_rng(k).integers(0, 300, 64))
        loss = net.loss(*(v[rows] for v in data))
        step.zero_grad()
        loss.backward()
        step.step()
    return net.eval()


def drawn(net: EventNet, regular: bool) -> tuple[np.ndarray, ...]:
    condition = torch.tensor([[float(regular), float(not regular)]]).expand(300, 2)
    with torch.no_grad():
        found = net.draw(condition, torch.full((300,), LENGTH), torch.Generator().manual_seed(1))
    return tuple(v.numpy() for v in found)


def test_rate_and_regularity_follow_the_condition(net):
    time, marks, burst, real = drawn(net, True)
    gaps = np.diff(time, axis=1)[real[:, 1:]]
    assert np.median(gaps) == pytest.approx(0.5, rel=0.06)
    assert real.sum(axis=1).mean() == pytest.approx(LENGTH / 0.5, rel=0.1)
    assert marks[..., :2][real].mean() > 1.5 and not burst[real].any()
    time, marks, _, real = drawn(net, False)
    count = real.sum(axis=1)
    assert count.mean() == pytest.approx(3, rel=0.2)
    assert count.var() == pytest.approx(3, rel=0.4)  # Poisson
    assert (count == 0).mean() == pytest.approx(np.exp(-3), abs=0.05)
    assert marks[..., :2][real].mean() < -0.5


def test_chances_of_no_event_and_of_a_first_one_sum_to_one(net):
    at = np.linspace(1e-3, LENGTH, 4000)
    n, condition = len(at), torch.tensor([[0.0, 1.0]]).expand(4000, 2)
    gap, marks = torch.from_numpy(at).float()[:, None], torch.zeros(n, 1, 3)
    burst, one = torch.zeros(n, 1, dtype=torch.bool), torch.ones(n, 1, dtype=torch.bool)
    with torch.no_grad():
        none = float(net.loss(gap[:1], marks[:1], burst[:1], ~one[:1], torch.full((1,), LENGTH), condition[:1]))
        h, _ = net._run(torch.zeros(n, 1, 3 + 3), condition, None)
        from cohortloom.nets.event_series import OFFSET, _density, log_gap

        u = ((log_gap(gap) - net.middle[0]) / net.spread[0])[..., None]
        log_p = _density(net.gap(h), u, 1)[:, 0]  # of u, not of seconds
    density = np.exp(log_p.numpy()) / float(net.spread[0]) / (at + OFFSET)
    assert np.trapezoid(density, at) + np.exp(-none) == pytest.approx(1, abs=0.02)
