"""Progressive distillation: a student that does in one step what its teacher does in two.

On a grid of noise levels s_0 > s_1 > ... > s_n = 0, the teacher goes from y at s_j over s_(j+1) to s_(j+2) by two steps
of the sampler without noise (DDIM),

    y' = x^ + (s' / s) (y - x^),   x^ = denoise(y, s)

A single step of that form ends at the same place if the student's estimate is

    x~ = (y'' - (s'' / s) y) / (1 - s'' / s)

so the student learns x~ at every second level, starting from the teacher's weights; then it is the teacher of the next
stage and the grid is every second level of the last. The first teacher is a model, not a student: it goes by Heun's
steps, since 16 of DDIM's are themselves off the path. The loss is |x^ - x~|^2 over the posterior variance where a
Gaussian law of the records tells it, else the squared error of the velocity, |x^ - x~|^2 ((1 + s) / s)^2; both give
fine detail at low noise its weight. At the top level, where nothing but noise is known and
one step has to tell all, x~ is still a function of y, so the limit is not an average.

References:
    Salimans, Ho (2022). Progressive distillation for fast sampling of diffusion models. arXiv:2202.00512.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cohortloom.diffusion.sampler import Denoise

__all__ = ["Stage", "distill_stage", "heun_step", "step", "target"]


def step(denoise: Denoise, y: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """One step without noise from level `now` to `then`, both one per record."""
    clean = denoise(y, now)
    return clean + _wide(then / now, y) * (y - clean)


def heun_step(denoise: Denoise, y: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """The same of second order; records that go to 0 take the plain step, as nothing can be asked there."""
    clean = denoise(y, now)
    plain = clean + _wide(then / now, y) * (y - clean)
    slope = (y - clean) / _wide(now, y)
    ahead = (plain - denoise(plain, then.clamp(min=1e-4))) / _wide(then.clamp(min=1e-4), y)
    better = y + _wide(then - now, y) * (slope + ahead) / 2
    return torch.where(_wide(then, y) > 0, better, plain)


def target(
    teacher: Denoise,
    y: Float[Tensor, "record channel sample"],
    now: Tensor,
    between: Tensor,
    then: Tensor,
    *,
    step: Callable[[Denoise, Tensor, Tensor, Tensor], Tensor] = step,
) -> Float[Tensor, "record channel sample"]:
    """The estimate with which one step ends where the teacher's two steps end."""
    end = step(teacher, step(teacher, y, now, between), between, then)
    ratio = _wide(then / now, y)
    return (end - ratio * y) / (1 - ratio)


@dataclass(frozen=True)
class Stage:
    """Loss of a stage before and after, on the same draws."""

    steps: int
    before: float
    after: float


def distill_stage(
    levels: Float[Tensor, "level"],
    batch: Callable[[int], tuple[Tensor, Denoise, Denoise, Callable[[Tensor], Tensor] | None]],
    weights: Iterable[Tensor],
    *,
    updates: int,
    learning_rate: float,
    generator: torch.Generator,
    second_order: bool = False,
    tell: Callable[[int], None] | None = None,
) -> Stage:
    """Train the student for half of the teacher's steps.

    Args:
        levels: The teacher's grid, an odd number of levels, the last one 0.
        batch: Number of an update -> (clean records x, student, teacher, posterior variance), all bound to the
            records' conditions; the last one, of noise levels, may be None. Number -1 asks for the same records each
            time.
        weights: Of the student; they are changed in place.
        updates: Steps of Adam; the rate falls from `learning_rate` to 0 in a line.
        generator: Of noise and levels.
        second_order: Does the teacher go by Heun's steps?
        tell: Called with the number of updates done.
    """
    if len(levels) < 3 or len(levels) % 2 == 0:
        raise ValueError("the teacher's number of steps must be even")
    weights = list(weights)
    adam = torch.optim.Adam(weights, lr=learning_rate)

    def loss(number: int, draw: torch.Generator) -> Tensor:
        x, student, teacher, variance = batch(number)
        j = 2 * torch.randint((len(levels) - 1) // 2, (len(x),), generator=draw)
        now, between, then = levels[j], levels[j + 1], levels[j + 2]
        y = x + _wide(now, x) * torch.randn(x.shape, generator=draw)
        with torch.no_grad():
            aim = target(teacher, y, now, between, then, step=heun_step if second_order else step)
        weight = ((1 + now) / now).square() if variance is None else 1 / variance(now)
        return (_wide(weight, x) * (student(y, now) - aim).square()).mean()

    def check() -> float:
        with torch.no_grad():
            return sum(float(loss(-1, torch.Generator().manual_seed(k))) for k in range(4)) / 4

    before = check()
    for k in range(updates):
        for group in adam.param_groups:
            group["lr"] = learning_rate * min(1.0, (k + 1) / 20) * (1 - k / updates)
        adam.zero_grad(set_to_none=True)
        loss(k, generator).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        if tell:
            tell(k + 1)
    return Stage((len(levels) - 1) // 2, before, check())


def _wide(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.ndim - 1))
