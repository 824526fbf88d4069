"""Spectra of courses: their scale, and a score that is best for the true law."""

import pytest
import torch

from cohortloom.nets.spectra import log_spectra, spectral_score
from cohortloom.rng import Rng


def courses(n, rho, stream, steps=24):
    """A stationary AR(1) of unit variance [course step 1]."""
    x = [torch.randn(n, generator=stream)]
    for _ in range(steps - 1):
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * torch.randn(n, generator=stream))
    return torch.stack(x, 1)[..., None]


def test_white_noise_is_flat_and_a_wave_stands_out():
    flat = log_spectra(courses(4000, 0.0, Rng(0).torch, 32))
    assert [y.shape[3] for y in flat] == [5, 9, 17]
    for y in flat:
        power = y.exp().square().mean((0, 1, 2))[1:-1]  # the first and the last frequency are real: as much in the mean
        assert torch.allclose(power, torch.ones_like(power), atol=0.06)
    wave = torch.sin(2 * torch.pi * 4 * torch.arange(32) / 32)[None, :, None]
    assert log_spectra(wave)[2][0, 0, 0].argmax() == 4


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_the_score_is_lowest_for_the_true_law(rho):
    stream, n = Rng(1).torch, 4000
    real = courses(n, 0.6, stream)
    drawn = [courses(n, rho, stream) for _ in range(2)]
    calm = [0.5 * x for x in drawn]
    smooth = [(x + 0.5 * x.roll(1, 1) + 0.5 * x.roll(-1, 1)) / 2 for x in drawn]
    right = spectral_score(real, *(courses(n, 0.6, stream) for _ in range(2))).mean()
    for wrong in (drawn, calm, smooth, [smooth[0], smooth[0]]):
        if wrong is not drawn or rho != 0.6:
            assert spectral_score(real, *wrong).mean() > right + 0.01


def test_a_course_whose_spectrum_does_not_vary_is_no_draw():
    """The distance alone would prefer it."""
    stream, n = Rng(2).torch, 4000
    real, right = courses(n, 0.0, stream), [courses(n, 0.0, stream) for _ in range(2)]
    pulse = torch.zeros(n, 24, 1)
    pulse[:, 12] = 3.0
    assert spectral_score(real, *right).mean() < spectral_score(real, pulse, pulse).mean() - 0.01
