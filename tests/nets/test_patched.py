"""Denoisers on patches: what tokens may see of each other and of the condition."""

import pytest
import torch

from cohortloom.nets.conv1d import rotate
from cohortloom.nets.patched import AttentionLayer, PatchTransformer
from cohortloom.rng import Rng


def shaken(net, size=0.1):
    """Weights away from their zeros."""
    generator = Rng(0).torch
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(size * torch.randn(p.shape, generator=generator))
    return net


def transformer(**settings):
    with torch.random.fork_rng(devices=[]):
        return PatchTransformer(2, width=16, n_condition=3, n_guides=1, **settings)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=Rng(seed).torch)


@pytest.mark.parametrize("n", [64, 37, 3])
def test_any_length_comes_back_and_the_output_starts_at_zero(n):
    out = transformer()(noise(3, 2, n), torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, 1, n))
    assert out.shape == (3, 2, n) and out.abs().max() == 0


def test_the_body_starts_as_the_identity_and_the_embedding_moves_it():
    with torch.random.fork_rng(devices=[]):
        layer = AttentionLayer(16, 8)
    x, e = noise(2, 10, 16), noise(2, 8, seed=2)
    assert torch.equal(layer(x, e), x)
    shaken(layer, 0.3)
    assert not torch.allclose(layer(x, e), layer(x, -e), atol=1e-3)


def test_condition_guides_and_level_matter_and_records_do_not_see_each_other():
    net, x, g = shaken(transformer()), noise(4, 2, 64), torch.zeros(4, 1, 64)
    level, c = torch.linspace(-3, 3, 4), noise(4, 3, seed=2)
    base = net(x, level, c, g)
    for other in (net(x, level + 1, c, g), net(x, level, c + 1, g), net(x, level, c, g + 1)):
        assert not torch.allclose(base, other, atol=1e-4)
    alone = torch.cat([net(x[i : i + 1], level[i : i + 1], c[i : i + 1], g[i : i + 1]) for i in range(4)])
    assert torch.allclose(base, alone, atol=1e-5)


def test_every_token_sees_the_whole_record():
    net, x, g = shaken(transformer(), 0.2), noise(1, 2, 256), torch.zeros(1, 1, 256)
    far = x.clone()
    far[..., -8:] += 3
    moved = (net(far, torch.zeros(1), torch.zeros(1, 3), g) - net(x, torch.zeros(1), torch.zeros(1, 3), g)).abs()
    assert moved[..., :64].amax() > 1e-4
    net.layers = torch.nn.ModuleList()  # without a body only neighbours do
    moved = (net(far, torch.zeros(1), torch.zeros(1, 3), g) - net(x, torch.zeros(1), torch.zeros(1, 3), g)).abs()
    assert moved[..., :200].amax() == 0


def test_attention_knows_distances_and_nothing_else_of_places(monkeypatch):
    with torch.random.fork_rng(devices=[]):
        layer = shaken(AttentionLayer(16, 8), 0.5)
    x = noise(1, 12, 16)
    order = torch.randperm(12, generator=Rng(3).torch)
    # the order of tokens counts
    assert not torch.allclose(layer.attend(x[:, order]), layer.attend(x)[:, order], atol=1e-3)
    # scores depend on the distance of two tokens alone
    q, k = noise(1, 1, 1, 8).expand(1, 1, 30, 8), noise(1, 1, 1, 8, seed=4).expand(1, 1, 30, 8)
    score = (rotate(q) @ rotate(k).transpose(-1, -2))[0, 0]
    assert torch.allclose(score[2, 7], score[20, 25], atol=1e-5) and not torch.allclose(
        score[2, 7], score[2, 8], atol=1e-2
    )
    monkeypatch.setattr("cohortloom.nets.patched.rotate", lambda q: q)  # the plant: without positions it does not
    assert torch.allclose(layer.attend(x[:, order]), layer.attend(x)[:, order], atol=1e-5)


def test_positions_are_exact_in_bfloat16():
    # at token 700 the angle itself, rounded to eight bits, is off by more than a radian
    q = noise(1, 1, 1, 8).expand(1, 1, 1000, 8)
    half = rotate(q.bfloat16()).float()
    assert (half - rotate(q)).abs().max() < 0.03 * q.abs().max()


def test_it_learns_what_only_the_far_end_tells():
    """The sign of the last patch decides the first one; a body that does not mix tokens stays at an error of 1."""
    errors = {}
    for mixing in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = PatchTransformer(1, width=32, n_layers=1, patch=4)
        if not mixing:
            net.layers[0].attend = torch.zeros_like
        adam = torch.optim.Adam(net.parameters(), lr=1e-2)
        for k in range(150):
            sign = torch.randint(0, 2, (32, 1, 1), generator=Rng(k).torch) * 2.0 - 1
            x = 0.1 * noise(32, 1, 64, seed=1000 + k)
            x[..., -4:] = sign
            loss = (net(x, torch.zeros(32))[..., :4] - sign).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        errors[mixing] = float(loss.detach())
    assert errors[True] < 0.05 and errors[False] > 0.8
