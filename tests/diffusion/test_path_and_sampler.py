import pytest
import torch

from cohortloom.diffusion.path import PATHS, Flow
from cohortloom.diffusion.sampler import SAMPLERS, dpm2m, euler, grid, heun, stochastic
from cohortloom.rng import Rng

MEAN, SD = 0.5, 0.3


def exact(y, sigma):
    """Posterior mean of x ~ Normal(MEAN, SD^2) seen through noise: the perfect denoiser."""
    return MEAN + SD**2 / (SD**2 + sigma.view(-1, 1, 1) ** 2) * (y - MEAN)


def run(sampler, n_steps):
    y = 40 * torch.randn(20000, 1, 1, generator=Rng(0).torch)
    return sampler(exact, y, grid(n_steps))


@pytest.mark.parametrize("name", PATHS)
def test_the_target_gives_back_the_clean_signal(name):
    path, generator = PATHS[name](), Rng(1).torch
    x, noise = torch.randn(2, 16, 2, 9, generator=generator)
    level = path.times(16, generator).view(-1, 1, 1)
    a, b = path.scales(level)
    assert torch.allclose(path.clean(path.target(x, noise, level), a * x + b * noise, level), x, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_denoise_undoes_the_scaling_of_the_path(name):
    path = PATHS[name]()
    sigma = torch.tensor([0.1, 1.0, 5.0])
    # a network that answers with the target of x = 0: then x^ must be 0 for y = sigma * noise
    noise = torch.randn(3, 1, 4, generator=Rng(0).torch)

    def network(z, level):
        return path.target(torch.zeros_like(noise), noise, level.view(-1, 1, 1))

    assert torch.allclose(path.denoise(network, sigma.view(-1, 1, 1) * noise, sigma), torch.zeros(3, 1, 4), atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_reach_the_known_gaussian(name):
    x = run(SAMPLERS[name], 64)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(SD, abs=0.02)


def test_second_order_beats_first_order_at_equal_evaluations():
    def error(sampler, n):
        return abs(run(sampler, n).std().item() - SD)

    assert error(dpm2m, 16) < error(euler, 16) / 4
    assert error(heun, 16) < error(euler, 32)


def test_stochastic_sampler_keeps_the_law():
    x = stochastic(exact, 40 * torch.randn(20000, 1, 1, generator=Rng(0).torch), grid(64), generator=Rng(2).torch)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(SD, abs=0.03)


def test_grid_ends_at_zero_and_falls():
    levels = grid(16)
    assert levels[0] == pytest.approx(40) and levels[-2] == pytest.approx(0.03) and levels[-1] == 0
    assert (levels[1:] < levels[:-1]).all()


def test_loss_of_the_perfect_network_is_the_irreducible_one():
    # x = MEAN with certainty: the noise can be read off, so the best network reaches loss 0
    path = Flow()
    x = torch.full((64, 1, 3), MEAN)

    def network(z, level):
        t = level.sigmoid().view(-1, 1, 1)
        return MEAN - (z - t * MEAN) / (1 - t)

    assert path.loss(network, x, Rng(0).torch).max() < 1e-4
