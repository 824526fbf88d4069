import numpy as np
import pytest
import torch

from cohortloom.nets.beat_train import bumps, render
from cohortloom.nets.record_code import LabelLaw, LinearCode, RecordPrior
from cohortloom.nets.rhythm import RhythmNet
from cohortloom.nets.state_space import S4D, S4Denoiser
from cohortloom.rng import Rng


def factors(n, d=12, k=3, noise=0.1, seed=0):
    draw = np.random.default_rng(seed)
    return draw.standard_normal((n, k)) @ draw.standard_normal((k, d)) + noise * draw.standard_normal((n, d)) + 2.0


def test_code_is_the_exact_posterior_of_a_linear_gaussian_model():
    x = factors(4000)
    code = LinearCode(12, 3)
    code.fit(x)
    w, noise = code.loading.numpy(), float(code.noise[0])
    assert noise == pytest.approx(0.01, rel=0.1)
    # Gaussian conditioning on the joint of (z, x), without the Woodbury form
    gain = w.T @ np.linalg.inv(w @ w.T + noise * np.eye(12))
    mean, sd = code.encode(x[:5])
    assert mean == pytest.approx((x[:5] - x.mean(axis=0)) @ gain.T, abs=1e-6)
    assert sd[0] == pytest.approx(np.sqrt(np.diag(np.eye(3) - gain @ w)), abs=1e-6)
    z = code.encode(x)[0]
    assert np.abs(np.cov(z.T) - np.eye(3)).max() < 0.05  # what is drawn from the prior looks like what is encoded
    assert np.abs(code.decode(torch.from_numpy(mean).float()).numpy() - x[:5]).max() < 0.5


def test_code_with_coordinates_missing_fills_them_in():
    x = factors(2000)
    code = LinearCode(12, 3)
    code.fit(x)
    seen = np.ones((50, 12), bool)
    seen[:, 6:] = False
    mean, sd = code.encode(np.where(seen, x[:50], 99.0), seen)
    whole_sd = code.encode(x[:50])[1]
    back = code.decode(torch.from_numpy(mean).float()).numpy()
    assert np.corrcoef(back[:, 6:].ravel(), x[:50, 6:].ravel())[0, 1] > 0.95 and (sd > whole_sd).all()


def test_prior_recovers_slope_spread_and_likeness():
    draw = np.random.default_rng(0)
    n_patients, per = 400, 3
    subject = np.repeat(np.arange(n_patients), per)
    c = draw.standard_normal((n_patients * per, 2))
    shared = draw.standard_normal(n_patients)[subject]
    own = draw.standard_normal(len(subject))
    # one output settled by the context to within .05, one that it says nothing about, two thirds of it the patient's
    y = np.stack([2 * c[:, 0] + 0.05 * draw.standard_normal(len(c)), np.sqrt(2 / 3) * shared + np.sqrt(1 / 3) * own], 1)
    prior = RecordPrior(2, 2)
    prior.fit(c, np.ones(c.shape, bool), y, subject, Rng(0))
    found = prior.draw(c, np.ones(c.shape, bool), subject, Rng(1))
    assert (found[:, 0] - 2 * c[:, 0]).std() == pytest.approx(0.05, rel=0.15)
    assert found[:, 1].std() == pytest.approx(1.0, abs=0.1)
    one, other = found[::3, 1], found[1::3, 1]
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(2 / 3, abs=0.1)
    # the context unknown: the law of y without it, not its mean
    blind = prior.draw(np.zeros(c.shape), np.zeros(c.shape, bool), subject, Rng(1))
    assert blind[:, 0].std() == pytest.approx(y[:, 0].std(), rel=0.1)


def test_prior_finds_two_kinds_of_records():
    draw = np.random.default_rng(0)
    y = np.where(draw.random((600, 1)) < 0.3, 3.0, -1.0) + 0.1 * draw.standard_normal((600, 1))
    prior = RecordPrior(0, 1)
    none = np.zeros((600, 0))
    prior.fit(none, none.astype(bool), y, np.arange(600), Rng(0))
    found = prior.draw(none, none.astype(bool), np.arange(600), Rng(1))[:, 0]
    assert (found > 1).mean() == pytest.approx(0.3, abs=0.06) and ((found > 0) & (found < 2)).mean() < 0.02


def two_kinds(n, few, d=40):
    """Facts of records of which some have an inverted lead: the first says so, the next two agree in one kind alone."""
    draw = np.random.default_rng(0)
    y = draw.standard_normal((n, d))
    y[:, 2] = np.where(np.arange(n) < few, 0.0, 0.9 * y[:, 1]) + 0.3 * y[:, 2]
    y[:, 0] = np.where(np.arange(n) < few, -2.0, 2.0) + 0.2 * y[:, 0]
    return y, np.concatenate([[3.0], np.full(d - 1, 0.1)])


def test_kinds_of_records_are_found_among_many_facts():
    # 200 records are far too few for two Gaussians of 40 facts, but one of them tells the kinds apart
    y, telling = two_kinds(200, 60)
    prior, none = RecordPrior(0, 40), np.zeros((200, 0))
    prior.fit(none, none.astype(bool), y, np.arange(200), Rng(0), telling)
    empty = np.zeros((2000, 0))
    found = prior.draw(empty, empty.astype(bool), np.arange(2000), Rng(1))
    turned = found[:, 0] < 0
    assert turned.mean() == pytest.approx(0.3, abs=0.05) and (np.abs(found[:, 0]) < 1).mean() < 0.01
    kinds = [np.corrcoef(found[rows, 1], found[rows, 2])[0, 1] for rows in (turned, ~turned)]
    assert abs(kinds[0]) < 0.35 and kinds[1] > 0.8


def test_a_handful_of_records_is_no_kind():
    # a part of five records would draw them again and again
    y, telling = two_kinds(200, 5)
    prior, none = RecordPrior(0, 40), np.zeros((200, 0))
    prior.fit(none, none.astype(bool), y, np.arange(200), Rng(0), telling)
    assert (prior.weight[prior.weight > 0] >= 10 / 200).all()


def test_plain_facts_follow_the_context_and_nothing_else():
    draw = np.random.default_rng(0)
    c = draw.standard_normal((800, 1))
    y = np.concatenate([c, 2 * c, 0 * c], axis=1) + np.array([1.0, 0.5, 3.0]) * draw.standard_normal((800, 3))
    prior = RecordPrior(1, 3, n_plain=2)
    prior.fit(c, np.ones(c.shape, bool), y, np.arange(800), Rng(0))
    found = prior.draw(c, np.ones(c.shape, bool), np.arange(800), Rng(1)) - c * np.array([1, 2, 0])
    assert found.std(axis=0) == pytest.approx([1.0, 0.5, 3.0], rel=0.1)
    assert np.abs(np.corrcoef(np.c_[c, found].T) - np.eye(4)).max() < 0.12


@pytest.mark.parametrize("n", [1, 2, 3])
def test_prior_of_a_handful_is_finite(n):
    prior = RecordPrior(1, 2)
    prior.fit(np.zeros((n, 1)), np.zeros((n, 1), bool), np.ones((n, 2)), np.arange(n), Rng(0))
    assert np.isfinite(prior.draw(np.zeros((4, 1)), np.zeros((4, 1), bool), np.arange(4), Rng(1))).all()


def test_labels_follow_the_context():
    draw = np.random.default_rng(0)
    which = draw.integers(0, 2, 2000)
    c = which[:, None] * 2.0 + draw.standard_normal((2000, 1))
    law = LabelLaw(2, 1)
    law.fit(which, c)
    at = np.full((4000, 1), 1.5)  # two Gaussians 2 apart, a quarter of the way past the middle: odds exp(2 * .5)
    share = 1 / (1 + np.exp(-1))
    drawn = law.draw(at, Rng(0))
    assert drawn.mean() == pytest.approx(share, abs=0.03)
    # and no farther from the law's own share in small cohorts than rounding; each record still has its own law
    small = np.array([law.draw(at[:20], Rng(seed)) for seed in range(200)])
    assert np.ptp(small.sum(axis=1)) <= 1 and np.ptp(small.mean(axis=0)) < 0.25


def test_render_puts_each_beat_where_it_belongs():
    # one beat of 1 at R, nothing elsewhere; at whole samples the template comes back exactly
    fs, before = 100.0, 0.35
    template = torch.zeros(1, 1, 101)
    template[..., 35] = 1.0
    place = torch.tensor([[50.0, 150.0, 230.0, 0.0]])
    real, odd = torch.tensor([[True, True, True, False]]), torch.tensor([[False, True, False, False]])
    out = render(template, place, real, odd, 300, fs, fs, before)[0, 0]
    assert out.nonzero().ravel().tolist() == [50, 230]  # the odd beat is left empty, the padding is no beat
    assert bumps(place, real, 300, fs)[0].topk(3).indices.sort().values.tolist() == [50, 150, 230]
    assert render(template, place, torch.zeros_like(real), odd, 300, fs, fs, before).abs().max() == 0


def test_render_undoes_averaging():
    from cohortloom.codec.beats import Beats, averaged_beats

    place = np.array([[60.3, 161.7, 255.1, 370.5]])
    time = np.arange(450)
    x = sum(np.exp(-0.5 * np.square((time - p) / 4.0)) for p in place[0])[None, None]
    beats = Beats(place, np.zeros((1, 4), bool), np.array([4]))
    mean, _ = averaged_beats(x, np.ones(x.shape, bool), beats, 100.0)
    back = render(torch.from_numpy(mean), torch.from_numpy(place).float(), torch.ones(1, 4, dtype=torch.bool),
                  torch.zeros(1, 4, dtype=torch.bool), 450, 100.0, 100.0, 0.35)  # fmt: skip
    assert np.abs(back.numpy() - x).max() < 0.02


def test_a_sharp_beat_is_as_sharp_in_the_beat_train():
    # a QRS of 25 Hz at 100 Hz and fractional places: cubics, there and back, left .18 of it over
    from cohortloom.codec.beats import Beats, averaged_beats
    from cohortloom.generators.signal_records import guides

    place, time = np.array([[60.3, 161.7, 255.1, 370.5, 480.8]]), np.arange(560)
    away = time - place[0][:, None]
    x = (np.exp(-0.5 * np.square(away / 2.5)) * np.cos(2 * np.pi * 0.25 * away)).sum(axis=0)[None, None]
    beats = Beats(place, np.zeros((1, 5), bool), np.array([5]))
    mean, _ = averaged_beats(x, np.ones(x.shape, bool), beats, 100.0)
    use, none = torch.ones(1, 5, dtype=torch.bool), torch.zeros(1, 5, dtype=torch.bool)
    back = guides(torch.from_numpy(mean), torch.from_numpy(place).float(), use, none, 560, 100.0)[0, 0].numpy()
    assert np.linalg.norm(back - x) < 0.03 * np.linalg.norm(x)


def test_a_beat_cut_short_by_the_next_or_an_odd_one_leaves_no_step():
    fs, flat = 100.0, torch.zeros(1, 1, 101)
    flat[..., 35:] = 1.0  # high from R on, so that each following beat begins far below
    place, real = torch.tensor([[50.0, 95.0, 140.0, 185.0]]), torch.ones(1, 4, dtype=torch.bool)
    for odd in (torch.zeros_like(real), torch.tensor([[False, False, True, False]])):
        out = render(flat, place, real, odd, 260, fs, fs, 0.35)[0, 0]
        begins = [round(float(r) - 0.4 * 45) for r in place[0, 1:]]
        assert min(float(out[b + 1] - out[b - 1]) for b in begins) > -0.5  # it was -1


def test_rhythm_learns_alternation_and_pauses():
    # intervals alternate, and an odd beat (one in six) is followed by a long one
    draw = np.random.default_rng(0)
    odd = draw.random((300, 20)) < 1 / 6
    u = np.where(np.arange(20) % 2, 1.0, -1.0) + np.concatenate([np.zeros((300, 1)), 3.0 * odd[:, :-1]], axis=1)
    u = u + 0.1 * draw.standard_normal(u.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = RhythmNet(1, width=24)
    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    tensors = (torch.tensor(u).float(), torch.tensor(odd), torch.ones(300, 20, dtype=torch.bool), torch.zeros(300, 1))
    for _ in range(200):
        adam.zero_grad()
        net.loss(*tensors).backward()
        adam.step()
    with torch.no_grad():
        v, o = (t.numpy() for t in net.draw(torch.zeros(300, 1), 20, Rng(0).torch))
    assert o.mean() == pytest.approx(1 / 6, abs=0.03)
    plain = v[:, 2:][~o[:, 1:-1]].mean()
    assert v[:, 2:][o[:, 1:-1]].mean() - plain == pytest.approx(3.0, abs=0.4)
    assert np.abs(v[:, 1::2].mean() - v[:, 0::2].mean() - 2.0) < 0.3


def test_state_space_convolution_is_the_recurrence():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = S4D(3, n_modes=4)
    u = torch.randn(2, 3, 40, generator=Rng(0).torch)
    a = torch.complex(-layer.log_decay.exp(), layer.turn).detach()
    step = layer.log_step.exp()[:, None].detach() * a
    gain = torch.view_as_complex(layer.mix.detach()) * (step.exp() - 1) / a
    state, out = torch.zeros(2, 3, 4, dtype=torch.complex64), []
    for k in range(40):
        state = step.exp() * state + u[:, :, k, None]
        out.append(2 * (gain * state).sum(-1).real + layer.straight.detach() * u[:, :, k])
    assert torch.allclose(layer(u), torch.stack(out, dim=-1), atol=1e-4)


@pytest.mark.parametrize("n", [64, 37])
def test_state_space_denoiser_keeps_the_length_and_starts_at_zero(n):
    with torch.random.fork_rng(devices=[]):
        net = S4Denoiser(2, width=8, n_condition=3, n_guides=1)
    x = torch.randn(3, 2, n, generator=Rng(0).torch)
    out = net(x, torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, 1, n))
    assert out.shape == x.shape and out.abs().max() == 0


def test_the_scatter_of_facts_follows_the_context():
    draw = np.random.default_rng(0)
    n = 1500
    c = np.concatenate([draw.standard_normal((n, 5)), (draw.random((n, 1)) < 0.3) * 2.0 - 1], axis=1)
    wild = c[:, 5] > 0
    y = np.stack([c[:, 0] + np.where(wild, 0.5, 0.05) * draw.standard_normal(n), draw.standard_normal(n)], axis=1)
    prior = RecordPrior(6, 2)
    prior.fit(c, np.ones(c.shape, bool), y, np.arange(n), Rng(0))
    drawn = prior.draw(c, np.ones(c.shape, bool), np.arange(n), Rng(1))
    spread = [np.std((drawn[:, 0] - c[:, 0])[part]) for part in (wild, ~wild)]
    assert spread[0] / spread[1] > 4  # 10 in truth, .5 / .05; a single spread for all gives 1
    assert np.corrcoef(drawn[~wild, 0], c[~wild, 0])[0, 1] > 0.98


def test_unknown_context_does_not_weaken_the_slope_nor_widen_the_rest():
    draw = np.random.default_rng(1)
    n = 800
    c = draw.standard_normal((n, 3))
    y = c[:, :1] + 0.05 * draw.standard_normal((n, 1))
    known = np.ones(c.shape, bool)
    known[:80, 0] = False  # a tenth does not say it
    prior = RecordPrior(3, 1)
    prior.fit(np.where(known, c, 0.0), known, y, np.arange(n), Rng(0))
    assert prior._get("slope")[0, 0] == pytest.approx(1.0, abs=0.05)
    drawn = prior.draw(c, np.ones(c.shape, bool), np.arange(n), Rng(2))
    assert np.std(drawn[:, 0] - c[:, 0]) < 0.15  # residuals of records without it would give .33


def test_bumps_are_the_largest_gaussian_of_all_used_beats():
    draw = torch.Generator().manual_seed(0)
    place = (torch.rand(6, 12, generator=draw) * 300 - 30).sort(dim=1).values
    use = torch.rand(6, 12, generator=draw) < 0.5
    use[2] = False
    n = torch.arange(250.0)
    every = torch.exp(-0.5 * ((n - place[..., None]) / 1.2).square()) * use[..., None]
    assert torch.allclose(bumps(place, use, 250, 100.0), every.amax(dim=1), atol=1e-6)


def test_a_skewed_fact_keeps_its_quantiles_where_the_mixture_would_lose_them():
    rng = np.random.default_rng(3)
    n, d = 400, 12  # too many facts for parts of a mixture
    y = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    y[:, 0] = 1 - rng.exponential(1.0, n) + 0.3 * y[:, 1] / y[:, 1].std()
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    none, subject = np.zeros((n, 0)), np.arange(n)
    prior = RecordPrior(0, d)
    prior.fit(none, none.astype(bool), y, subject, Rng(1))
    many = np.arange(4000)
    drawn = prior.draw(np.zeros((4000, 0)), np.zeros((4000, 0), bool), many, Rng(2))
    at = [0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97]
    assert np.abs(np.quantile(drawn[:, 0], at) - np.quantile(y[:, 0], at)).max() < 0.15
    assert np.abs(np.corrcoef(drawn.T) - np.corrcoef(y.T)).max() < 0.12
    skew = np.mean(drawn[:, 0] ** 3)
    assert skew < -0.8  # of the Gaussian: 0
    few = RecordPrior(0, d)
    few.fit(none[:60], none[:60].astype(bool), y[:60], subject[:60], Rng(1))
    assert np.array_equal(few.drawn, few.found)  # no distribution of its own from 60 records


def test_beats_outside_a_record_are_a_mean_interval_away():
    from cohortloom.nets.beat_train import with_neighbours

    place = torch.tensor([[50.0, 150, 250, 0], [10, 110, 0, 0], [130, 230, 330, 0]])
    real = torch.tensor([[True, True, True, False], [True, True, False, False], [True, True, True, False]])
    at, there, odd = with_neighbours(place, real, torch.zeros_like(real), 340)
    found = [p[t].tolist() for p, t in zip(at, there)]
    # two beats tell no rhythm; a beat that would lie within the record was not seen there, so it is not made up
    assert found == [[-50, 50, 150, 250, 350], [10, 110], [130, 230, 330, 430]]
    assert not odd.any() and (there.diff(dim=1) & there[:, 1:]).sum() == 0  # none after a gap: places rise


def test_pulses_that_stretch_with_their_interval_are_undone_and_made_again():
    from cohortloom.codec.beats import Beats, averaged_beats, pulse_stretches

    draw, fs = np.random.default_rng(0), 100.0
    place = (np.cumsum(draw.uniform(0.5, 1.2, 14)) * fs)[None]
    n = int(place[0, -1]) - 20
    place = place[:, :-1]
    phase = np.interp(np.arange(n), place[0], np.arange(place.shape[1]))
    x = (np.sin(2 * np.pi * phase) + 0.3 * np.sin(4 * np.pi * phase))[None, None]  # all of it stretches
    marks = (np.zeros(place.shape, bool), np.array([place.shape[1]]))
    left = {}
    for follow in (0.0, 1.0):
        stretches = pulse_stretches(place, ~marks[0], fs, follow)
        mean, _ = averaged_beats(x, np.ones(x.shape, bool), Beats(place, *marks), fs, stretches)
        at, none = torch.from_numpy(place), torch.zeros(place.shape, dtype=torch.bool)
        by = [torch.from_numpy(s) for s in stretches]
        back = render(torch.from_numpy(mean).double(), at, ~none, none, n, fs, fs, 0.35, (by[0], by[1]))[0, 0].numpy()
        inner = slice(int(place[0, 1]), int(place[0, -2]))
        left[follow] = (back - x[0, 0])[inner].std() / x[0, 0, inner].std()
    assert left[1.0] < 0.2 and left[1.0] < 0.4 * left[0.0]
