"""Densities of the latents against closed forms, torch.distributions and autograd."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from cohortloom.nets.latent_prior import Flow, Mixture, importance_bound, kl_normal, log_normal
from cohortloom.rng import Rng
from cohortloom.training import drawing_from


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=Rng(seed).torch)


def test_kl_and_density_of_normals():
    mean, log_var, other, other_log_var = (draws(7, 3, seed=k) for k in range(4))
    p, q = Normal(mean, (0.5 * log_var).exp()), Normal(other, (0.5 * other_log_var).exp())
    assert torch.allclose(kl_normal(mean, log_var, other, other_log_var), kl_divergence(p, q), atol=1e-5)
    assert torch.allclose(kl_normal(mean, log_var), kl_divergence(p, Normal(0.0, 1.0)), atol=1e-5)
    assert torch.allclose(log_normal(other, mean, log_var), p.log_prob(other).sum(-1), atol=1e-4)


def test_importance_bound_rises_to_the_exact_likelihood():
    """z ~ N(0, 1), x | z ~ N(a z, s^2): x ~ N(0, a^2 + s^2); q is off on purpose."""
    a, s, x, stream = 1.5, 0.4, torch.tensor(1.2), Rng(1).torch
    exact = Normal(0.0, math.hypot(a, s)).log_prob(x).item()
    q = Normal(torch.tensor(0.6), torch.tensor(0.45))
    bounds = []
    for k in (1, 4, 32, 512):
        z = 0.6 + 0.45 * torch.randn(k, 4000, generator=stream)
        weight = Normal(a * z, s).log_prob(x) + Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)
        bounds.append(importance_bound(weight).mean().item())
    assert bounds == sorted(bounds) and bounds[0] < exact - 0.1
    assert bounds[-1] == pytest.approx(exact, abs=0.01)


def _flow(std):
    with drawing_from(Rng(2).torch):
        made = Flow(5, width=16, layers=4)
        for p in made.parameters():
            torch.nn.init.normal_(p, std=std)
        return made


def test_flow_is_invertible_with_the_right_determinant():
    flow, z = _flow(0.4), draws(6, 5)
    with torch.no_grad():
        u, log_det = flow(z)
        assert torch.allclose(flow.inverse(u), z, atol=1e-4)
    for k in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda one: flow(one[None])[0][0], z[k])
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det[k].item(), abs=1e-3)
    assert (log_det.abs() > 0.05).all()  # the layers do something


def test_flow_starts_as_the_identity_and_draws_what_it_scores():
    flow = _flow(0.25)
    fresh, z = Flow(4), draws(3, 4)
    assert torch.equal(fresh(z)[0], z) and torch.allclose(fresh.log_prob(z), log_normal(z))
    with torch.no_grad():  # E_p[q / p] = 1 for any density q
        z = flow.sample(40_000, Rng(3).torch)
        ratio = torch.exp(log_normal(z, 0.0, math.log(0.3)) - flow.log_prob(z))
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.1)


def test_mixture_recovers_clusters_and_scores_like_torch():
    draw, truth = Rng(4).numpy, np.array([[2.0, 0.0], [-2.0, 1.0]])
    which = (draw.random(600) < 0.3).astype(int)
    mean = truth[which] + 0.3 * draw.standard_normal((600, 2))
    prior = Mixture(2)
    assert torch.allclose(prior.log_prob(draws(5, 2)), log_normal(draws(5, 2)), atol=1e-5)  # N(0, I) before
    assert prior.fit(mean, np.full((600, 2), math.log(0.04)), draw) == 2
    weight = prior.log_weight.softmax(0)
    order = prior.mean[:2, 0].argsort(descending=True)
    assert weight[:2][order].numpy() == pytest.approx([0.7, 0.3], abs=0.06)
    assert prior.mean[:2][order].numpy() == pytest.approx(truth, abs=0.1)
    parts = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weight[:2] / weight[:2].sum()),
        torch.distributions.MultivariateNormal(prior.mean[:2], scale_tril=prior.factor[:2]),
    )
    z = prior.sample(4000, Rng(5).torch)
    assert torch.allclose(prior.log_prob(z), parts.log_prob(z), atol=1e-3)
    assert z.mean(0).numpy() == pytest.approx((0.7 * truth[0] + 0.3 * truth[1]), abs=0.2)


def test_no_component_stands_for_a_few_patients():
    draw = Rng(6).numpy
    mean = draw.standard_normal((60, 3))
    mean[:3] += 40  # three patients far away
    prior = Mixture(3)
    prior.fit(mean, np.full((60, 3), -2.0), draw)
    assert prior.log_weight.softmax(0).max() == 1 or (prior.log_weight.exp()[prior.log_weight > -50] * 60 >= 9).all()
    one = Mixture(3)
    assert one.fit(mean[:1], np.zeros((1, 3)), draw) == 1 and torch.isfinite(one.log_prob(draws(2, 3))).all()
