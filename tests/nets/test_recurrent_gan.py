"""Parts of the recurrent GAN against closed forms and slow references; planted faults are seen."""

import math

import numpy as np
import pytest
import torch

from cohortloom.nets.gan_autoencoder import Autoencoder, Batch, recurrence
from cohortloom.nets.gan_critic import Critic, critic_hinge, generator_hinge, gradient_penalty, r1
from cohortloom.nets.gan_flow import LatentFlow
from cohortloom.nets.gan_law import RowLaw
from cohortloom.nets.gan_monitor import Monitor
from cohortloom.nets.gan_past import Clock, Memory, n_facts, past_of
from cohortloom.nets.gan_rows import Rows
from cohortloom.nets.length_law import LengthLaw, length_bins
from cohortloom.rng import Rng
from cohortloom.training import drawing_from

LEVELS = (0, 3, 0, 60)
START = [[1.0], [math.log(p) for p in (0.1, 0.2, 0.7)], [0.0], [math.log(1 / 60)] * 60]


@pytest.fixture(autouse=True)
def _own_draws():
    with drawing_from(Rng(0).torch):
        yield


def batch_of(n=6, t=5):
    draw = Rng(1).numpy
    length = torch.from_numpy(draw.integers(0, t + 1, n))
    length[0], length[1] = t, 0
    there = (torch.arange(t) < length[:, None])[..., None]
    step = torch.from_numpy(np.stack([draw.normal(size=(n, t)), draw.integers(0, 3, (n, t)), draw.normal(size=(n, t)),
                                      draw.integers(0, 60, (n, t))], -1)).float()  # fmt: skip
    seen = torch.from_numpy(draw.random((n, t, 4)) < 0.8)
    static = torch.from_numpy(np.stack([draw.normal(size=n), draw.integers(0, 3, n)], -1)).float()
    return Batch(static, torch.ones(n, 2).bool(), torch.where(there, step, 0), seen & there, length)


def autoencoder(**how):
    return Autoencoder(
        (0, 3), LEVELS, static_start=START[:2], step_start=START, static_always=[False] * 2, step_always=[False] * 4,
        width=8, sizes=(3, 2, 4), dropout=0.0, **how,
    )  # fmt: skip


# -- rows ------------------------------------------------------------------------------------------------------------


#: A gap, a number and a category with their marks behind all columns, codes; the number lies within the category.
CLOCK = Clock(np.exp(np.linspace(-6, 6, 1201)).tolist(), 1.0, 9.0)
COURSE, REPEATS, GATES = (0, 0, 4, 60, 3, 3), {1: 4, 2: 5}, [(1, 2, None)]


def shaken(net, std=0.4):
    for p in net.parameters():
        torch.nn.init.normal_(p, std=std)
    return net


def tied_law(rows, **how):
    start = [[0.0] * max(n, 1) for n in rows.levels]
    return shaken(RowLaw(rows, 5, start, [True] + [False] * (len(rows.levels) - 1), **how)).eval()


def courses(n=50, t=6):
    """Courses whose marks say what they should [subject step column]."""
    draw = Rng(1).numpy
    step, seen = np.zeros((n, t, 6)), np.ones((n, t, 6), bool)
    step[..., 0], step[..., 1] = draw.normal(size=(2, n, t)).round(1)
    step[..., 2], step[..., 3] = draw.integers(0, 4, (n, t)), draw.integers(0, 60, (n, t))
    seen[..., 1] = (draw.random((n, t)) < 0.7) & (step[..., 2] > 0)
    seen[..., 2:4] = step[..., 2:4] > 0
    step *= seen
    for column, mark in REPEATS.items():
        last = np.full(n, np.nan)
        for k in range(t):
            has = seen[:, k, column]
            again = has & ~np.isnan(last) & (draw.random(n) < 0.5)
            step[again, k, column] = last[again]
            now = step[:, k, column]
            step[:, k, mark] = np.where(has & ~np.isnan(last), 1 + (now == last), 0)
            last = np.where(has, now, last)
        seen[..., mark] = step[..., mark] > 0
    return torch.from_numpy(step).float(), torch.from_numpy(seen), torch.full((n,), t + 2)


def test_cells_of_a_row_sum_to_one_over_what_they_can_be():
    rows = Rows(LEVELS)
    law, h = tied_law(rows), torch.randn(1, 5)

    def terms(values, seen):
        return law.terms(h.expand(len(values), -1), values, seen, rows(values, seen))

    for column, n in ((1, 3), (3, 60)):
        values = torch.zeros(n, 4)
        values[:, column] = torch.arange(n)
        seen = values > 0
        seen[:, 0] = True
        assert terms(values, seen)[:, column].exp().sum().item() == pytest.approx(1, abs=1e-5)
    grid = torch.linspace(-12, 12, 4801)
    values = torch.zeros(len(grid), 4)
    values[:, 2] = grid
    shown = terms(values, torch.ones(len(grid), 4).bool())[:, 2].exp().sum() * 0.005
    hidden = terms(values[:1], torch.tensor([[True, True, False, True]]))[0, 2].exp()
    assert (shown + hidden).item() == pytest.approx(1, abs=1e-3)


def test_the_past_of_a_course_at_once_is_that_of_its_rows_one_by_one():
    rows, (step, seen, length) = Rows(COURSE), courses()
    whole, memory = (
        past_of(rows, step, seen, {4, 5}, CLOCK, length, torch.zeros(len(step), 0)),
        Memory(rows, {4, 5}, CLOCK, length, torch.zeros(len(step), 0)),
    )
    assert whole.facts.shape[2] == n_facts(rows, {4, 5}, 0)
    for t in range(step.shape[1]):
        for a, b in zip(vars(memory.past()).values(), vars(whole).values()):
            assert torch.allclose(a, b[:, t], atol=1e-6)
        memory.push(step[:, t], seen[:, t])
    # written out: last value, mean so far and rows since of column 1 at the last row of subject 0
    k = int(seen[0, :-1, 1].nonzero().max())
    assert whole.last[0, -1, 1] == step[0, k, 1]
    told, since, passed = whole.facts[0, -1, [-12, -11]], whole.facts[0, -1, -9], whole.facts[0, -1, -6]
    assert told[1].item() == pytest.approx(step[0, :-1, 1][seen[0, :-1, 1]].mean().item(), abs=1e-6)
    assert since.item() == pytest.approx(math.log1p(5 - k) / 2, abs=1e-6)
    assert passed.item() == pytest.approx(step[0, 1:-1, 0].exp().sum().item() / 9, rel=0.02)
    room = 9 - 9 * passed.item() - 3 * 1  # of eight rows the sixth and two behind it are to come
    assert whole.facts[0, -1, -3].item() == pytest.approx(math.tanh(room), abs=1e-4)


def test_cells_one_by_one_have_the_density_of_the_row():
    rows, (step, seen, length) = Rows(COURSE), courses()
    past = past_of(rows, step, seen, {4, 5}, CLOCK, length, torch.zeros(len(step), 0))
    law = tied_law(rows, repeats=REPEATS, gates=GATES, n_facts=past.facts.shape[2])
    for t in range(3):
        h, now = torch.randn(len(step), 5), past.at((slice(None), t))
        x, has = step[:, t], seen[:, t]
        with torch.no_grad():
            terms = law.terms(h, x, has, rows(x, has), now)
            *same, log_p = law.filled(h, rows, Rng(0).torch, now, known=(x, has, torch.ones_like(has)))
        assert torch.equal(same[0], x) and torch.equal(same[1], has)
        assert torch.allclose(log_p, terms.sum(1), atol=1e-4)
        said = now.has[:, 1]  # a mark says whether there is a value, and of the last one again nothing is left to say
        assert (terms[said & (x[:, 4] != 1), 1] == 0).all() and (terms[~said, 4] == 0).all()


def test_drawn_rows_follow_the_law_of_each_cell_given_those_before_it():
    """Chances of pairs of cells: a draw one by one against the product of the laws written out."""
    rows, n = Rows((3, 0, 3)), 300_000
    law, h = tied_law(rows), torch.randn(1, 5)
    with torch.no_grad():
        values, seen, _ = law.filled(h.expand(n, -1), rows, Rng(3).torch)
        every = torch.cartesian_prod(torch.arange(3.0), torch.zeros(1), torch.arange(3.0))
        hidden = torch.tensor([True, False, True]) & (every > 0)
        chance = law.terms(h.expand(9, -1), every, hidden, rows(every, hidden)).sum(1).exp()
        found = [((values[:, [0, 2]] == row[[0, 2]]).all(1) & ~seen[:, 1]).float().mean() for row in every]
        first = torch.tensor([[1.0, 0.0, 0.0]])
        mean, log_sd = law.numbers_of(h, rows(first, first > 0))
    assert torch.allclose(torch.stack(found), chance, atol=0.01)
    x = values[(values[:, 0] == 1) & seen[:, 1], 1]
    assert x.mean().item() == pytest.approx(mean[0, 0].item(), abs=5 * x.std().item() / len(x) ** 0.5)
    assert x.std().item() == pytest.approx(log_sd.exp()[0, 0].item(), rel=0.04)


def test_drawn_marks_are_kept():
    rows, (step, seen, length) = Rows(COURSE), courses(2_000)
    past = past_of(rows, step, seen, {4, 5}, CLOCK, length, torch.zeros(len(step), 0)).at((slice(None), 1))
    law = tied_law(rows, repeats=REPEATS, gates=GATES, n_facts=past.facts.shape[1])
    torch.nn.init.normal_(law.past.weight, std=0.1)
    with torch.no_grad():
        x, has, _ = law.filled(torch.randn(len(step), 5), rows, Rng(3).torch, past)
    assert (has[:, 1] <= (x[:, 2] > 0)).all() and (has[:, 1] & ~past.has[:, 1]).any()
    for column, mark in REPEATS.items():
        said, had = x[:, mark], past.has[:, column]
        assert (said[~had] == 0).all() and len(said.unique()) == 3
        assert (x[said == 2, column] == past.last[said == 2, column]).all()
        assert torch.equal((said > 0)[had], has[had, column])
        assert (x[said == 1, column] != past.last[said == 1, column]).all()


@pytest.mark.parametrize("tied", [True, False])
def test_a_regression_knows_that_two_are_recorded_together(tied):
    """Two numbers, recorded together in half of the rows: an entropy of log 2 per row, twice that if apart."""
    rows, both = Rows((0, 0)), torch.from_numpy(Rng(0).numpy.random(2_000) < 0.5)[:, None].expand(-1, 2)
    law = RowLaw(rows, 2, [[0.0], [0.0]], [False, False], tied=tied)
    x, h = torch.zeros(len(both), 2), torch.zeros(len(both), 2)
    optimiser = torch.optim.Adam(law.regressions(), lr=0.1)
    for _ in range(200):
        loss = -law.log_prob(h, x, both, rows(x, both)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    marks = torch.nn.functional.binary_cross_entropy_with_logits
    told = law.laws(h, rows(x, both)).seen
    found = marks(told, both.float(), reduction="none").sum(1).mean().item()
    assert found == pytest.approx(math.log(2) * (1 if tied else 2), abs=0.02)


def test_a_critic_can_push_every_kind_of_cell_and_sees_what_was_drawn():
    rows = Rows(LEVELS)
    law, h = RowLaw(rows, 5, START, [False] * 4), torch.randn(64, 5)
    values, seen = law.sample(h, Rng(4).torch, rows)
    dense = law.pushed(h, values, seen, rows)
    assert torch.allclose(dense, rows(values, seen), atol=1e-5)
    (dense * torch.randn(dense.shape)).sum().backward()
    n = len(rows.numbers)
    slope = law.out.weight.grad.abs().sum(1)
    assert (slope[: 3 * n + 3] > 0).all()  # means, spreads, marks, few ids
    assert law.ends[0].weight.grad.abs().sum() > 0


# -- latents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, 3])
def test_density_of_a_flow_is_that_of_its_noise_by_the_jacobian(context):
    flow = shaken(LatentFlow(3, context, layers=3, width=6))
    z, c = torch.randn(3), torch.randn(context) if context else None
    slopes = torch.autograd.functional.jacobian(lambda z: flow(z[None], None if c is None else c[None])[0], z)
    normal = -0.5 * (z**2).sum() - 1.5 * math.log(2 * math.pi)
    found = flow.log_prob(flow(z[None], None if c is None else c[None]), None if c is None else c[None])
    assert found.item() == pytest.approx((normal - torch.logdet(slopes @ slopes.T) / 2).item(), abs=1e-4)


def test_an_untrained_flow_is_normal():
    flow = LatentFlow(4, 0, layers=2, width=8)
    with torch.no_grad():
        flow.base.weight.zero_()
    x = torch.randn(5, 4)
    assert torch.allclose(flow.log_prob(x), -0.5 * (x**2).sum(1) - 2 * math.log(2 * math.pi), atol=1e-5)


def test_padding_reaches_nothing():
    """Numbers planted behind the end change neither likelihood nor latents; misaligned steps do."""
    auto, one = autoencoder().eval(), batch_of()
    behind = ~one.there[..., None]
    noisy = Batch(one.static, one.static_seen, torch.where(behind, 1.0, one.step), one.step_seen | behind, one.length)

    def facts(batch):
        latents, information, log_q = auto.embed(batch, Rng(5).torch)
        return (*auto.log_likelihood(batch, latents), information, log_q, latents.h.sum((1, 2)))

    for a, b in zip(facts(one), facts(noisy)):
        assert torch.allclose(a, b, atol=1e-5)
    shifted = Batch(one.static, one.static_seen, one.step.roll(1, 1), one.step_seen.roll(1, 1), one.length)
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(facts(one), facts(shifted)))


def test_leaving_out_what_is_behind_the_end_changes_no_state():
    net, x, length = torch.nn.GRU(3, 4, batch_first=True), torch.randn(5, 9, 3), torch.tensor([1, 0, 9, 2, 1])
    there = torch.arange(9) < length[:, None]
    assert torch.allclose(recurrence(net, x, length)[there], net(x)[0][there], atol=1e-6)


def test_the_past_is_not_told_of_the_future():
    auto, one = autoencoder().eval(), batch_of()
    later = one.step.clone()
    later[0, 3:] = 1.0
    other = Batch(one.static, one.static_seen, later, one.step_seen, one.length)
    c = auto.context_of(torch.zeros(6, 3), auto.statics(one.static, one.static_seen), one.length)
    h, again = (auto.read_course(b, c)[0][0] for b in (one, other))
    assert torch.allclose(h[0, :3], again[0, :3], atol=1e-6) and not torch.allclose(h[0, 3:], again[0, 3:], atol=1e-3)


def test_ignored_statics_are_seen():
    one = batch_of()
    other = Batch(one.static + 1.0, one.static_seen, one.step, one.step_seen, one.length)
    moved = {}
    for used in (True, False):
        auto = autoencoder(use_embedding=used).eval()
        c = [auto.context_of(torch.zeros(6, 3), auto.statics(b.static.clamp(max=2), b.static_seen), b.length)
             for b in (one, other)]  # fmt: skip
        moved[used] = (c[0] - c[1]).abs().max().item()
    assert moved[True] > 1e-3 and moved[False] == 0


# -- critic ----------------------------------------------------------------------------------------------------------


def judged(n=6, t=5):
    one = batch_of(n, t)
    auto = autoencoder()
    static = auto.statics(one.static, one.static_seen)
    step = auto.steps(one.step, one.step_seen) * one.there[..., None]
    critic = Critic(static.shape[1], step.shape[2], len(auto.steps.numbers), 8)
    return critic, static.detach(), step.detach(), one


def test_the_critic_does_not_read_padding():
    critic, static, step, one = judged()
    noisy = torch.where(one.there[..., None], step, 3.0)
    assert torch.allclose(critic(static, step, one.length), critic(static, noisy, one.length), atol=1e-5)
    longer = torch.cat([step, torch.full((6, 4, step.shape[2]), 5.0)], 1)
    assert torch.allclose(critic(static, step, one.length), critic(static, longer, one.length), atol=1e-5)
    inside = step.clone()
    inside[0, 2] += 1.0
    assert not torch.allclose(critic(static, step, one.length), critic(static, inside, one.length), atol=1e-4)


def test_hinge_by_hand():
    real, drawn = torch.tensor([[2.0, 0.5], [0.0, -1.0]]), torch.tensor([[-2.0, 0.0], [0.5, 1.0]])
    # columns: real (0 + 1) / 2 and (.5 + 2) / 2, drawn (0 + 1.5) / 2 and (1 + 2) / 2
    assert critic_hinge(real, drawn).item() == pytest.approx(0.5 + 1.25 + 0.75 + 1.5)
    assert generator_hinge(drawn).item() == pytest.approx(-(-0.75 + 0.5))


def test_r1_equals_squared_slopes_found_one_by_one():
    """The critic's slopes in the statics by finite differences, a square's in the steps by hand."""
    critic, static, step, one = judged(2, 2)
    critic, static, step, tiny = critic.double(), static.double(), step.double(), 1e-6
    total = 4 * torch.square(step).sum().item()
    for place in range(static.numel()):
        ends = []
        for side in (tiny, -tiny):
            moved = static.clone()
            moved.view(-1)[place] += side
            ends.append(critic(moved, step, one.length).sum().item())
        total += ((ends[0] - ends[1]) / (2 * tiny)) ** 2
    judge = lambda s, x: critic(s, step, one.length).sum(1) + torch.square(x).sum((1, 2))  # noqa: E731
    found = r1(judge, static, step)
    assert found.item() == pytest.approx(total / 2, rel=1e-4)
    found.backward()  # there is a second derivative
    assert critic.summary[0].weight.grad.abs().sum() > 0


def test_gradient_penalty_of_a_linear_judge():
    slope = torch.randn(4)
    judge = lambda s, x: s @ slope + 0 * x.sum((1, 2))  # noqa: E731
    pairs = [(torch.randn(5, 4), torch.randn(5, 2, 3)) for _ in range(2)]
    assert gradient_penalty(judge, *pairs, Rng(0).torch).item() == pytest.approx(
        (slope.norm().item() - 1) ** 2, rel=1e-4
    )


# -- lengths and monitor ---------------------------------------------------------------------------------------------


def test_bins_of_lengths_never_hold_a_few_patients():
    length = np.repeat([0, 1, 2, 3, 40], [20, 30, 2, 4, 1])
    assert [(a, b) for a, b, _ in length_bins(length)] == [(0, 0), (1, 1), (2, 40)]
    assert sum(share for *_, share in length_bins(length)) == pytest.approx(1)
    assert length_bins(np.array([7])) == [(7, 7, 1.0)]
    assert length_bins(np.zeros(0, int)) == [(0, 0, 1.0)]
    assert len(length_bins(Rng(0).numpy.poisson(200, 20_000))) <= 128


def test_the_law_of_lengths_sums_to_one_and_draws_what_it_says():
    law = LengthLaw(length_bins(np.repeat([0, 1, 2, 3, 9], [20, 30, 9, 9, 6])), 2, 8, 0.0).eval()
    context = torch.randn(1, 2)
    every = torch.arange(10)
    chance = law.log_prob(context.expand(10, -1), every).exp()
    assert chance.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = law.draw(context.expand(20_000, -1), Rng(1).torch)
    assert torch.allclose(torch.bincount(drawn, minlength=10) / 20_000, chance, atol=0.015)
    assert law.draw(context.expand(200, -1), Rng(2).torch, least=2).min() >= 2


@pytest.mark.parametrize(("broken", "collapsed"), [(False, False), (True, True)])
def test_the_monitor_sees_a_planted_collapse(broken, collapsed):
    draw = Rng(0).numpy
    train, held_out, drawn = (torch.from_numpy(draw.normal(2, 3, (200, 12))).float() for _ in range(3))
    if broken:  # one patient again and again
        drawn = drawn[:1] + 0.3 * torch.from_numpy(draw.normal(size=(200, 12))).float()
    watch = Monitor(train)(drawn, held_out)
    assert watch.collapsed == collapsed
    assert (watch.spread < 0.2) if broken else watch.spread == pytest.approx(1, abs=0.1)


def test_the_monitor_prefers_the_true_law_and_its_distance_is_the_energy_distance():
    draw = Rng(0).numpy
    train, held_out, right = (torch.from_numpy(draw.normal(0, 1, (80, 3))) for _ in range(3))
    monitor = Monitor(train)
    seen = monitor(right, held_out)
    a, b = (monitor.scaled(x).numpy() / 3**0.5 for x in (right, held_out))
    between = np.mean([np.linalg.norm(x - y) for x in a for y in b])
    own = np.mean([np.linalg.norm(a[i] - a[j]) for i in range(80) for j in range(80) if i != j])
    assert seen.distance == pytest.approx(2 * between - own, rel=1e-5)
    for wrong in (right + 1, 1.7 * right, 0.6 * right):
        assert monitor(wrong, held_out).distance > seen.distance
