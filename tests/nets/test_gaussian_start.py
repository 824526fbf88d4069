"""The Gaussian law a denoiser starts from, against explicit covariance matrices."""

import numpy as np
import pytest
import torch

from cohortloom.diffusion.sampler import dpm2m, grid
from cohortloom.nets.gaussian_start import GaussianStart, LatentStart, Start, cosine_power, principal_axes, resampled
from cohortloom.rng import Rng

N, FS = 64, 50.0


def cosines(n):
    """Orthonormal cosines in columns."""
    k, t = np.meshgrid(np.arange(n), np.arange(n))
    basis = np.cos(np.pi * k * (t + 0.5) / n) * np.sqrt(2 / n)
    basis[:, 0] /= np.sqrt(2)
    return basis


def coloured(draw, n_records, channels=1):
    """Records whose cosine k has power 20 / (1 + k), and this power."""
    power = 20 / (1.0 + np.arange(N))
    c = draw.standard_normal((n_records, channels, N)) * np.sqrt(power)
    return (c @ cosines(N).T).astype(np.float32), power


def fitted(x, *, whole, condition=None):
    start = GaussianStart(
        x.shape[1], N, FS, mean=whole, n_condition=0 if condition is None else condition.shape[1], centres=(),
        whole=whole,
    )  # fmt: skip
    left = x
    if whole:
        condition = np.zeros((len(x), 0)) if condition is None else condition
        left = start.fit_mean(x, condition, np.arange(len(x)))
    start.fit_shape([(left, np.zeros((len(left), 0)))])
    if whole:
        start.fit_covariance(left)
    start.measure_floor()
    return start


def test_cosine_power_is_the_square_of_the_coefficients():
    x, _ = coloured(np.random.default_rng(0), 5, 2)
    expected = np.square(x @ cosines(N))
    np.testing.assert_allclose(cosine_power(x)[..., :N], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_the_clean_estimate_is_the_posterior_mean(whole):
    draw = np.random.default_rng(0)
    x, power = coloured(draw, 3000)
    law = fitted(x, whole=whole).start(None, torch.zeros(4, 0), None, N)
    covariance = cosines(N) @ np.diag(power) @ cosines(N).T
    y = (x[:4] + 0.7 * draw.standard_normal((4, 1, N))).astype(np.float32)
    expected = y[:, 0] @ np.linalg.solve(covariance + 0.49 * np.eye(N), covariance)
    found = law.clean(torch.from_numpy(y), torch.full((4,), 0.7), torch.zeros(4, 1, N))[:, 0].numpy()
    assert np.abs(found - expected).max() < 0.15 * np.abs(expected).std() + 0.1
    # what is looked at is white and of size 1, at every level
    for sigma in (0.1, 0.7, 5.0):
        noisy = torch.from_numpy((x[:500] + sigma * draw.standard_normal((500, 1, N))).astype(np.float32))
        law = fitted(x, whole=whole).start(None, torch.zeros(500, 0), None, N)
        w = law.whitened(noisy, torch.full((500,), sigma)).numpy()
        assert np.square(w @ cosines(N)).mean((0, 1)) == pytest.approx(1.0, abs=0.45)
        # and the error of the estimate is as large as it says
        error = law.clean(noisy, torch.full((500,), sigma), torch.zeros(500, 1, N)) - torch.from_numpy(x[:500])
        assert float(error.square().mean()) == pytest.approx(
            float(law.spread(torch.full((500,), sigma)).mean()), rel=0.1
        )


@pytest.mark.parametrize("whole", [False, True])
def test_without_a_network_a_sampler_draws_the_gaussian(whole):
    x, power = coloured(np.random.default_rng(0), 2000)
    start = fitted(x, whole=whole)
    law = start.start(None, torch.zeros(800, 0), None, N)
    levels = grid(16, high=start.highest(), low=start.lowest())
    y = law.noisy(torch.randn(800, 1, N, generator=Rng(0).torch), levels[0])
    drawn = dpm2m(lambda y, s: law.clean(y, s, torch.zeros_like(y)), y, levels).numpy()
    found = np.square(drawn @ cosines(N)).mean((0, 1))
    assert np.abs(np.log10(found / power)).mean() < 0.08


def test_a_record_s_own_bands_shape_its_law():
    x, power = coloured(np.random.default_rng(0), 400)
    loud = np.repeat([0.5, 2.0], 200)[:, None, None].astype(np.float32)
    start = GaussianStart(1, N, FS, mean=False, n_condition=0, centres=(2.0, 12.0), whole=False)
    bands = np.log(np.square(np.repeat(loud[:, :, 0], 2, axis=1)))
    start.fit_shape([(x * loud, bands)])
    for size in (0.5, 2.0):
        law = start.start(None, torch.zeros(1, 0), torch.full((1, 2), float(np.log(size**2))), N)
        ratio = law.power[0, 0, 1:N].numpy() / (size**2 * power[1:])
        assert np.abs(np.log10(ratio)).mean() < 0.1
    # at another length the same power by frequency
    longer = start.start(None, torch.zeros(1, 0), None, 2 * N).power[0, 0]
    shorter = start.start(None, torch.zeros(1, 0), None, N).power[0, 0]
    np.testing.assert_allclose(longer[2 : 2 * N : 2], shorter[1:N], rtol=1e-4)


def test_the_mean_follows_the_condition():
    draw = np.random.default_rng(0)
    x, _ = coloured(draw, 400)
    condition = np.stack([draw.random(400) < 0.5, draw.standard_normal(400)], axis=1).astype(np.float32)
    wave = np.sin(np.arange(N) / 5)
    x = (x + condition[:, :1, None] * wave - 2 * condition[:, 1:, None] * wave[::-1]).astype(np.float32)
    start = fitted(x, whole=True, condition=condition)
    law = start.start(None, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), None, N)
    m = law.mean[:, 0].numpy()
    assert np.corrcoef(m[1] - m[0], wave)[0, 1] > 0.9 and np.corrcoef(m[2] - m[0], -wave[::-1])[0, 1] > 0.97


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_records_give_a_law(n):
    x, _ = coloured(np.random.default_rng(0), n, 2)
    law = fitted(x, whole=True).start(None, torch.zeros(2, 0), None, N)
    drawn = law.noisy(torch.randn(2, 2, N, generator=Rng(0).torch), torch.tensor(1.0))
    assert torch.isfinite(drawn).all() and float(law.power.min()) > 0


def test_channels_that_see_the_same_sources_are_drawn_together():
    draw = np.random.default_rng(0)
    sources, _ = coloured(draw, 800, 2)
    x = np.einsum("cs,rsn->rcn", np.array([[1, 0.2], [0.9, -0.3], [0.8, 0.1], [-0.7, 0.4]]), sources)
    x = (x + 0.1 * draw.standard_normal(x.shape)).astype(np.float32)
    real = np.corrcoef(x.transpose(1, 0, 2).reshape(4, -1))
    found = {}
    for turned in (True, False):  # without axes channels are drawn one by one
        start = GaussianStart(4, N, FS, mean=False, n_condition=0, centres=(), whole=False)
        if turned:
            start.mix.copy_(torch.from_numpy(principal_axes([(x, np.ones(x.shape, bool))]).copy()))
        start.fit_shape([(x, np.zeros((len(x), 0)))])
        law = start.start(None, torch.zeros(600, 0), None, N)
        y = law.noisy(torch.randn(600, 4, N, generator=Rng(0).torch), torch.tensor(0.0)).numpy()
        found[turned] = np.abs(np.corrcoef(y.transpose(1, 0, 2).reshape(4, -1)) - real).max()
        # and what is looked at is white between channels too
        w = law.whitened(torch.from_numpy(x[:600]), torch.zeros(600)).numpy()
        assert np.square(w).mean() == pytest.approx(1.0, abs=0.1)
    assert found[True] < 0.05 and found[False] > 0.5


def test_what_channels_share_may_differ_from_band_to_band():
    draw = np.random.default_rng(0)
    c = draw.standard_normal((600, 3, N))
    slow = np.array([[3, 0, 0], [2.9, 0.4, 0], [2.7, 0, 0.5]])  # one source for all
    fast = np.diag([0.2, 0.1, 0.4])  # each its own noise
    cut = N // 4
    c = np.concatenate(
        [np.einsum("cs,rsk->rck", a, part) for a, part in ((slow, c[..., :cut]), (fast, c[..., cut:]))], 2
    )
    x = (c @ cosines(N).T).astype(np.float32)
    found = {}
    for edges in ((cut * FS / (2 * N),), ()):
        start = GaussianStart(3, N, FS, mean=False, n_condition=0, centres=(), whole=False, edges=edges)
        if edges:
            start.fit_axes([(x, None)])
        else:
            start.mix.copy_(torch.from_numpy(principal_axes([(x, np.ones(x.shape, bool))]).copy()))
        start.fit_shape([(x, np.zeros((len(x), 0)))])
        law = start.start(None, torch.zeros(600, 0), None, N)
        y = law.noisy(torch.randn(600, 3, N, generator=Rng(0).torch), torch.tensor(0.0)).numpy()
        high = (y @ cosines(N))[..., cut + 4 :]
        found[bool(edges)] = np.abs(high.std(axis=(0, 2)) / np.diag(fast) - 1).max()
        assert (y @ cosines(N))[..., : cut - 4].std() == pytest.approx(c[..., :cut].std(), rel=0.1)
    assert found[True] < 0.1 and found[False] > 0.3


def coded(n=160, k=40, n_axes=3):
    """The law of six mixed channels, that of their latents, and a noisy record."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.linalg.qr(torch.randn(6, 6, generator=draw))[0]
    law = Start(torch.randn(2, 6, n, generator=draw), torch.rand(2, 6, n + 1, generator=draw) + 0.01, mix=mix)
    return law, LatentStart.of(law, k, n_axes, 0.7), 3 * torch.randn(2, 6, n, generator=draw)


def test_the_law_of_latents_is_that_of_records_cut():
    law, latent, y = coded()
    sigma = torch.tensor([0.3, 2.0])
    whole = law.clean(y, sigma, torch.zeros_like(y))
    cut = latent.clean(latent.into(y), 0.7 * sigma, torch.zeros(2, 3, 40))
    torch.testing.assert_close(latent.into(whole), cut, atol=1e-4, rtol=1e-4)
    lifted = latent.lifted(lambda u, s: latent.clean(u, s, torch.zeros_like(u)))(y, sigma)
    torch.testing.assert_close(lifted, whole, atol=1e-4, rtol=1e-4)


def test_decoding_keeps_latents_and_draws_the_rest():
    _, latent, y = coded()
    one, two = (latent.decode(latent.into(y), torch.Generator().manual_seed(k)) for k in (0, 1))
    torch.testing.assert_close(latent.into(one), latent.into(y), atol=1e-4, rtol=1e-4)
    assert (one - two).std() > 0.3


def test_a_series_of_a_lower_rate_spans_the_same_time():
    t, s = ((torch.arange(n) + 0.5) / n for n in (203, 40))
    lower = resampled(torch.cos(3 * torch.pi * t), 40) * (40 / 203) ** 0.5
    torch.testing.assert_close(lower, torch.cos(3 * torch.pi * s), atol=1e-4, rtol=0)
    torch.testing.assert_close(resampled(resampled(lower, 203), 40), lower, atol=1e-5, rtol=0)


def test_latents_are_seen_where_all_their_samples_are():
    _, latent, y = coded()
    seen = torch.ones(y.shape, dtype=torch.bool)
    assert latent.seen(seen).all()
    seen[0, 2, 80:] = False
    assert latent.seen(seen)[1].all() and latent.seen(seen)[0, :, :17].all() and not latent.seen(seen)[0, :, 18:].any()


def test_axes_ignore_what_is_not_seen():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((50, 1, N)) * np.array([1.0, -1.0])[:, None] + 0.1 * draw.standard_normal((50, 2, N))
    seen = np.ones(x.shape, bool)
    seen[:25, 1] = False
    axes = principal_axes([(np.where(seen, x, 99.0), seen)])
    assert abs(axes[:, 0] @ np.array([1, -1]) / np.sqrt(2)) > 0.999
