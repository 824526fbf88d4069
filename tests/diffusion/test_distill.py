"""Progressive distillation against the closed form of a Gaussian, whose denoiser is linear at every noise level."""

import pytest
import torch
from torch import nn

from cohortloom.diffusion.distill import distill_stage, heun_step, step, target
from cohortloom.diffusion.sampler import euler, grid

SIZE = 0.7


def exact(y, sigma):
    """E[x | y] for x ~ Normal(0, .7^2)."""
    return (SIZE**2 / (SIZE**2 + sigma.square())).view(-1, 1, 1) * y


class Gains(nn.Module):
    """x^ = g y with one g per level of the grid; the optimum lies in it."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels
        self.gain = nn.Parameter(torch.tensor([float(SIZE**2 / (SIZE**2 + s**2)) for s in levels]))

    def forward(self, y, sigma):
        place = (sigma[:, None] - self.levels[None]).abs().argmin(dim=1)
        return self.gain[place].view(-1, 1, 1) * y


def two_steps(now, between, then):
    """The gain with which one step ends where two exact ones do, worked out by hand."""
    g1, g2 = SIZE**2 / (SIZE**2 + now**2), SIZE**2 / (SIZE**2 + between**2)
    end = (g1 + between / now * (1 - g1)) * (g2 + then / between * (1 - g2))
    return (end - then / now) / (1 - then / now)


def test_the_target_is_the_estimate_of_two_steps_in_one():
    now, between, then = (torch.tensor([s]) for s in (3.0, 1.5, 0.4))
    y = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    aim = target(exact, y, now, between, then)
    assert torch.allclose(aim, two_steps(3.0, 1.5, 0.4) * y, atol=1e-5)
    once = step(lambda y, s: aim, y, now, then)
    twice = step(exact, step(exact, y, now, between), between, then)
    assert torch.allclose(once, twice, atol=1e-5)


def distilled(levels, teacher, updates=400, variance=None):
    student = Gains(teacher.levels)
    student.load_state_dict(teacher.state_dict())
    draw = torch.Generator().manual_seed(1)

    def batch(number):
        return SIZE * torch.randn(64, 1, 8, generator=draw), student, teacher, variance

    stage = distill_stage(levels, batch, student.parameters(), updates=updates, learning_rate=0.02,
                          generator=torch.Generator().manual_seed(2))  # fmt: skip
    return student, stage


def test_the_student_of_a_gaussian_teacher_is_the_closed_form():
    levels = grid(4, high=4.0, low=0.2)
    student, stage = distilled(levels, Gains(levels))
    for j in (0, 2):
        expected = two_steps(*(float(s) for s in levels[j : j + 3]))
        assert student.gain[j].item() == pytest.approx(expected, abs=0.01)
    assert stage.steps == 2 and stage.after < 0.05 * stage.before


def test_two_stages_bring_four_steps_to_one():
    levels = grid(4, high=4.0, low=0.2)
    teacher = Gains(levels)
    noise = 4.0 * torch.randn(16, 1, 8, generator=torch.Generator().manual_seed(3))
    aim = euler(teacher, noise, levels).detach()
    plain = euler(teacher, noise, levels[::4]).detach()
    first, _ = distilled(levels, teacher)
    second, _ = distilled(levels[::2], first)
    found = euler(second, noise, levels[::4]).detach()
    assert (found - aim).abs().max() < 0.1 * (plain - aim).abs().max()


def test_an_odd_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="even"):
        distilled(grid(3), Gains(grid(3)), updates=1)


def test_the_first_teacher_stays_on_the_path():
    """The exact path of a Gaussian is y sqrt(v + s'^2) / sqrt(v + s^2)."""
    now, then = torch.tensor([1.0]), torch.tensor([0.4])
    y = torch.ones(1, 1, 1)
    path = float(((SIZE**2 + then**2) / (SIZE**2 + now**2)).sqrt())
    plain, second = (abs(float(s(exact, y, now, then)) - path) for s in (step, heun_step))
    assert second < 0.5 * plain
    # at the last level nothing can be asked: the plain step
    zero = torch.zeros(1)
    assert torch.equal(heun_step(exact, y, now, zero), step(exact, y, now, zero))
    aims = [target(exact, y, now, torch.tensor([0.6]), then, step=s) for s in (step, heun_step)]
    ends = [aim + then / now * (y - aim) for aim in aims]
    assert abs(float(ends[1]) - path) < 0.5 * abs(float(ends[0]) - path)


def test_the_posterior_variance_weighs_the_levels():
    levels = grid(4, high=5.0, low=0.1)
    told = []

    def variance(sigma):
        told.append(sigma)
        return SIZE**2 * sigma.square() / (SIZE**2 + sigma.square())

    _, stage = distilled(levels, Gains(levels[:-1]), updates=300, variance=variance)
    assert told and stage.after < 0.2 * stage.before
