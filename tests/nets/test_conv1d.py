import pytest
import torch

from cohortloom.nets.conv1d import UNet1d
from cohortloom.rng import Rng


def net(**settings):
    with torch.random.fork_rng(devices=[]):
        unet = UNet1d(2, width=16, **settings)
    generator = Rng(0).torch
    with torch.no_grad():
        for p in unet.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return unet


@pytest.mark.parametrize("n", [64, 100, 37, 250])
def test_any_length_comes_back_with_its_length(n):
    assert net()(torch.zeros(3, 2, n), torch.zeros(3)).shape == (3, 2, n)


def test_output_starts_at_zero():
    # zero-initialised output: an untrained network changes nothing
    with torch.random.fork_rng(devices=[]):
        unet = UNet1d(2, width=16)
    assert unet(torch.randn(2, 2, 64, generator=Rng(0).torch), torch.zeros(2)).abs().max() == 0


def test_records_do_not_see_each_other():
    unet, x = net(attention=True), torch.randn(4, 2, 64, generator=Rng(1).torch)
    level = torch.linspace(-3, 3, 4)
    together = unet(x, level)
    alone = torch.cat([unet(x[i : i + 1], level[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_condition_guides_and_level_matter():
    unet = net(n_condition=3, n_guides=1)
    x, g = torch.randn(2, 2, 64, generator=Rng(1).torch), torch.zeros(2, 1, 64)
    base = unet(x, torch.zeros(2), torch.zeros(2, 3), g)
    assert not torch.allclose(base, unet(x, torch.zeros(2), torch.ones(2, 3), g))
    assert not torch.allclose(base, unet(x, torch.ones(2), torch.zeros(2, 3), g))
    assert not torch.allclose(base, unet(x, torch.zeros(2), torch.zeros(2, 3), g + 1))


def test_shifting_by_a_token_shifts_the_output():
    # fully convolutional: away from the borders a shift by the coarsest stride commutes
    unet = net()
    x = torch.zeros(1, 2, 512)
    x[:, :, 240:260] = torch.randn(1, 2, 20, generator=Rng(3).torch)
    step = unet.stride
    moved = torch.roll(x, step, dims=-1)
    a, b = unet(x, torch.zeros(1)), unet(moved, torch.zeros(1))
    assert torch.allclose(a[..., 150:350], b[..., 150 + step : 350 + step], atol=1e-4)
