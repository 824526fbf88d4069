"""The Gaussian processes of columns against formulas and against simulated courses."""

import numpy as np
import pytest
import torch

from cohortloom.diffusion.sampler import dpm2m, grid
from cohortloom.nets.record_prior import SEEN, UNSEEN, ColumnProcess, JointLaw, _posterior, fit_process
from cohortloom.rng import Rng


def courses(n, steps, p, a, rho, own, rng):
    level = rng.normal(0, np.sqrt(p), (n, 1))
    slow = np.zeros((n, steps))
    slow[:, 0] = rng.normal(0, np.sqrt(a), n)
    for t in range(1, steps):
        slow[:, t] = rho * slow[:, t - 1] + rng.normal(0, np.sqrt(a * (1 - rho**2)), n)
    return level + slow + rng.normal(0, np.sqrt(own), (n, steps))


def test_the_parts_of_a_simulated_course_are_found():
    rng = Rng(0).numpy
    x = courses(1500, 12, 0.3, 0.5, 0.75, 0.2, rng)
    p, a, rho, own, mean = fit_process(x, rng.random(x.shape) < 0.7)
    assert (p, a, own) == (pytest.approx(0.3, abs=0.08), pytest.approx(0.5, abs=0.1), pytest.approx(0.2, abs=0.08))
    assert rho in (0.6, 0.75, 0.85) and mean == pytest.approx(0, abs=0.05)


def test_without_records_nothing_is_claimed():
    p, a, _, own, mean = fit_process(np.zeros((4, 3)), np.zeros((4, 3), bool))
    assert (p, a, own, mean) == (0, 0, 1, 0)


def process(*facts):
    found = ColumnProcess(1)
    found.facts[0] = torch.tensor(facts)
    return found


def test_the_posterior_is_that_of_the_normal_law():
    model = process(0.2, 0.6, 0.8, 0.2, 0.5)
    noise = torch.tensor([1e-3, UNSEEN, 0.25, 4.0])
    y = torch.tensor([1.0, 0.0, -0.5, 2.0])
    k = model.covariance(4)[0].double()
    seen = torch.tensor([0, 2, 3])
    inner = torch.linalg.inv(k[seen][:, seen] + torch.diag(noise[seen].double()))
    mean = 0.5 + k[:, seen] @ inner @ (y[seen].double() - 0.5)
    variance = (k - k[:, seen] @ inner @ k[seen]).diagonal()
    m, v, surprise = model.posterior(y[None, :, None], noise[None, :, None])
    assert torch.allclose(m[0, :, 0].double(), mean, atol=3e-3)
    assert torch.allclose(v[0, :, 0].double(), variance, atol=3e-3)
    rest = torch.tensor([0, 2])  # the last cell against the others
    inner = torch.linalg.inv(k[rest][:, rest] + torch.diag(noise[rest].double()))
    alone = 0.5 + k[3, rest] @ inner @ (y[rest].double() - 0.5)
    spread = k[3, 3] + 4.0 - k[3, rest] @ inner @ k[rest, 3]
    assert surprise[0, 3, 0] == pytest.approx(float((2.0 - alone) / spread.sqrt()), abs=3e-3)
    assert surprise[0, 1, 0] == 0  # not seen: no surprise


@pytest.mark.parametrize("steps", [1, 2, 9, 40])
def test_walking_along_a_course_gives_what_its_matrix_gives(steps):
    facts = [
        [0.2, 0.6, 0.8, 0.2, 0.5],
        [0.0, 0.9, 0.97, 0.05, 0.0],
        [0.7, 0.0, 0.5, 0.3, -1.0],
        [0.0, 0.0, 0.5, 1.0, 0.0],
    ]
    model, draw = ColumnProcess(4), Rng(5).torch
    model.facts.copy_(torch.tensor(facts))
    y = 2 * torch.randn(6, steps, 4, generator=draw)
    noise = torch.tensor([SEEN, 0.04, 1.0, 50.0, UNSEEN])[torch.randint(0, 5, y.shape, generator=draw)]
    parts = (y.double().transpose(1, 2), noise.double().transpose(1, 2), model.facts[:, 4:].double())
    for found, wanted in zip(model.posterior(y, noise), _posterior(model.covariance(steps).double(), *parts)):
        assert torch.allclose(found.double(), wanted.transpose(1, 2), atol=1e-4)


def test_independent_cells_are_karras_preconditioning():
    model, y = process(0.0, 0.0, 0.5, 1.0, 0.0), torch.linspace(-3, 3, 7)[None, :, None]
    for sigma in (0.05, 1.0, 20.0):
        m, v, _ = model.posterior(y, torch.full_like(y, sigma**2))
        assert torch.allclose(m, y / (1 + sigma**2), atol=1e-4)
        assert torch.allclose(v, torch.full_like(v, sigma**2 / (1 + sigma**2)), rtol=2e-3)


def test_the_flow_with_the_exact_denoiser_draws_the_process():
    model, n, steps = process(0.2, 0.6, 0.8, 0.2, 0.0), 2000, 4
    levels = grid(30, high=30.0)
    start = levels[0] * torch.randn(n, steps, 1, generator=Rng(1).torch)

    def denoise(y, sigma):
        return model.posterior(y, (sigma**2)[:, None, None].expand(y.shape))[0]

    x = dpm2m(denoise, start, levels)[..., 0]
    # standard error of a covariance at n = 2,000 is .03; 30 steps leave about .01
    assert torch.allclose(x.T.cov(), model.covariance(steps)[0], atol=0.1)


def test_one_law_over_the_statics_is_linear_regression():
    rng = Rng(2).numpy
    x = rng.multivariate_normal([0, 0, 0], [[1, 0.8, 0], [0.8, 1, 0.3], [0, 0.3, 1]], size=4000)
    law = JointLaw(3)
    law.fit(x, np.ones(x.shape, bool))
    y = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    noise = torch.tensor([[1e-3, UNSEEN, UNSEEN], [UNSEEN, 1e-3, UNSEEN]])
    m, v, _ = law.posterior(y, noise)
    assert m[0, 1] == pytest.approx(0.8, abs=0.05) and v[0, 1] == pytest.approx(1 - 0.64, abs=0.05)
    assert m[1, 2] == pytest.approx(0.6, abs=0.08) and v[1, 2] == pytest.approx(1 - 0.09, abs=0.05)


def test_a_law_of_missing_columns_stays_positive():
    x, seen = Rng(3).numpy.normal(size=(6, 4)), Rng(4).numpy.random((6, 4)) < 0.5
    law = JointLaw(4)
    law.fit(x, seen)
    assert torch.linalg.eigvalsh(law.covariance).min() > 0.01


def test_a_slow_column_keeps_its_small_changes():
    # half the squared difference of neighbours: own + a (1 - rho) = .006 + .3 x .01
    rng = Rng(1).numpy
    x = courses(600, 14, 0.694, 0.3, 0.99, 0.006, rng)
    _, a, rho, own, _ = fit_process(x, rng.random(x.shape) < 0.9)
    assert own + a * (1 - rho) == pytest.approx(0.009, rel=0.2)


def test_a_column_of_noise_has_no_memory_however_long_its_courses():
    rng = Rng(2).numpy
    x = rng.normal(size=(400, 40))
    p, a, rho, own, _ = fit_process(x, rng.random(x.shape) < 0.1)
    assert own + a * (1 - rho) == pytest.approx(1, abs=0.1) and p < 0.1
