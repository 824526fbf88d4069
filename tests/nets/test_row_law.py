"""The law of a row: one density in training and in drawing, proper, and its residual autocorrelation is learned."""

import math

import numpy as np
import pytest
import torch

from cohortloom.nets import row_law
from cohortloom.nets.columnar import ColumnShape
from cohortloom.nets.row_law import Before, RowCursor, RowLaw
from cohortloom.rng import Rng
from cohortloom.training import drawing_from

NUMBER = ColumnShape("number", 3, (True, True, True), (0.8, 0.1, 0.1))
GRADE = ColumnShape("category", 4, (True,) * 4, (0.4, 0.3, 0.2, 0.1))
CODE = ColumnShape("category", 50, (True,) * 50, (0.02,) * 50)
COLUMNS = [GRADE, NUMBER, CODE, NUMBER]


def made(columns=COLUMNS, *, before=True, seed=0):
    with drawing_from(Rng(seed).torch):
        law = RowLaw(columns, 5, before=before, n_components=3, units=2)
        for p in law.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return law.eval()


def some_rows(n, columns=COLUMNS, seed=1):
    draw = Rng(seed).numpy
    token = np.stack([draw.integers(0, c.n_tokens, n) for c in columns], 1)
    number = np.array([c.kind == "number" for c in columns])
    score = np.where(number, draw.standard_normal(token.shape), 0).astype(np.float32)
    h = torch.from_numpy(draw.standard_normal((n, 5)).astype(np.float32))
    return h, torch.from_numpy(token), torch.from_numpy(score)


def some_past(n, columns=COLUMNS, seed=2):
    _, token, score = some_rows(n, columns, seed)
    has = torch.from_numpy(Rng(seed).numpy.random(score.shape) < 0.7).float()
    since = torch.from_numpy(Rng(seed + 1).numpy.exponential(1, score.shape).astype(np.float32))
    token = torch.where(has > 0, token, -1)
    return Before(token, score * has, has, 1 - has, 0 * has, since * has, 0.5 * has, 2 * has, 0.3 * has)


@pytest.mark.parametrize("low_rank", [False, True])
def test_all_columns_at_once_equal_one_after_the_other(low_rank, monkeypatch):
    monkeypatch.setattr(row_law, "FULL", 0 if low_rank else row_law.FULL)
    law, (h, token, score), past = made(), some_rows(20), some_past(20)
    assert law.low_rank == low_rank
    hidden = torch.where(torch.arange(20)[:, None] % 2 == 0, -1, (token + 1) % 3)
    hidden[:, [0, 2]] = -1
    target = score + 0.1
    with torch.no_grad():
        at_once = law.log_prob(h, token, score, target, hidden, past)
        cursor, each = RowCursor(law, h, past), []
        for j in range(len(COLUMNS)):
            logits, mixture = cursor.column(j, hidden[:, j])
            cell = logits.log_softmax(1).gather(1, token[:, j, None]).squeeze(1)
            if mixture is not None:
                weight, mean, log_sd = mixture
                normal = torch.distributions.Normal(mean, log_sd.exp()).log_prob(target[:, j, None])
                cell = cell + torch.where(token[:, j] == 0, torch.logsumexp(weight + normal, 1), 0.0)
            each.append(cell)
            cursor.push(j, token[:, j], score[:, j])
    assert torch.allclose(at_once, torch.stack(each, 1), atol=2e-4)


def test_earlier_columns_and_the_past_matter_later_ones_do_not():
    law, (h, token, score), past = made(), some_rows(8), some_past(8)
    none = torch.full_like(token, -1)

    def cells(token, score, past):
        with torch.no_grad():
            return law.log_prob(h, token, score, score, none, past)

    plain = cells(token, score, past)
    changed = score.clone()
    changed[:, 1] += 1  # its own density moves too
    moved = cells(token, changed, past)
    assert torch.equal(moved[:, 0], plain[:, 0]) and not torch.allclose(moved[:, 3], plain[:, 3])
    later = token.clone()
    later[:, 3] = (later[:, 3] + 1) % 3
    assert torch.allclose(cells(later, score, past)[:, :3], plain[:, :3])
    assert not torch.allclose(cells(token, score, some_past(8, seed=9))[:, 0], plain[:, 0])


def test_density_of_a_row_sums_to_one():
    columns = [GRADE, NUMBER]
    law, (h, _, _) = made(columns, before=False), some_rows(1, columns)
    grid, total = torch.linspace(-12, 12, 2401), 0.0
    with torch.no_grad():
        for grade in range(4):
            for kind in range(3):
                x = grid if kind == 0 else torch.zeros(1)
                token = torch.tensor([[grade, kind]]).expand(len(x), -1)
                score = torch.stack([torch.zeros(len(x)), x], 1)
                p = law.log_prob(h.expand(len(x), -1), token, score, score, torch.full_like(token, -1)).sum(1).exp()
                total += np.trapezoid(p.numpy(), x.numpy()) if kind == 0 else p.item()
    assert total == pytest.approx(1.0, abs=2e-3)


def test_a_value_that_can_not_be_repeated_has_no_mass():
    law, (h, _, score) = made([NUMBER], before=False), some_rows(3, [NUMBER])
    hidden = torch.tensor([[1], [1], [-1]])
    with torch.no_grad():
        each = [law.log_prob(h, torch.full((3, 1), k), score, score, hidden) for k in (1, 2)]
        cont, _ = RowCursor(law, h, None).column(0, hidden[:, 0])
    assert (each[0][:2] < -20).all() and each[0][2] > -20
    assert cont.softmax(1)[:2, 1].max() < 1e-8


def test_autocorrelation_of_residuals_is_recovered_in_irregular_time():
    """Planted: x_t - m = .9 exp(-.4 dt) (x_(t-1) - m) + e; the start is far from it."""
    draw, n, steps = Rng(3).numpy, 300, 9
    dt = draw.choice([0.3, 1.0, 2.5], (n, steps))
    x, m = np.zeros((n, steps)), 0.5 * draw.standard_normal(n)
    x[:, 0] = draw.standard_normal(n)
    for t in range(1, steps):
        rho = 0.9 * np.exp(-0.4 * dt[:, t])
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * draw.standard_normal(n)
    x = (x + m[:, None]).astype(np.float32)
    with drawing_from(Rng(4).torch):
        law = RowLaw([NUMBER], 1, before=True, n_components=1, persistence=[0.3])
    own = torch.from_numpy(m.astype(np.float32)).repeat_interleave(steps - 1)[:, None]
    last, now = (torch.from_numpy(part.reshape(-1, 1)) for part in (x[:, :-1], x[:, 1:]))
    one, none = torch.ones_like(last), torch.full(last.shape, -1)
    since = torch.from_numpy(dt[:, 1:].reshape(-1, 1).astype(np.float32))
    zero = torch.zeros_like(none)
    known = [law.out, law.mix]
    optimiser = torch.optim.Adam([law.keep, law.forget, *(p for part in known for p in part.parameters())], 0.1)
    for _ in range(120):
        past = Before(zero, last, one, 0 * one, 0 * one, since, 0 * one, one, law.level(own))
        loss = -law.log_prob(own, zero, now, now, none, past).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for gap in (0.3, 1.0, 2.5):
        found = law.rho(Before(zero[:1], last[:1], *[one[:1]] * 3, gap * one[:1], *[one[:1]] * 3)).item()
        assert found == pytest.approx(0.9 * math.exp(-0.4 * gap), abs=0.05)


def test_start_is_the_table_of_transitions():
    law = RowLaw([GRADE], 2, before=True)
    draw = Rng(5).numpy
    before = torch.from_numpy(draw.integers(0, 4, (4000, 1)))
    token = torch.where(torch.from_numpy(draw.random((4000, 1)) < 0.8), before, (before + 1) % 4)
    law.start(token, before)
    h, one = torch.zeros(4, 2), torch.ones(4, 1)
    past = Before(torch.arange(4)[:, None], *[0 * one] * 8)
    with torch.no_grad():
        law.enter.weight.zero_(), law.enter.bias.zero_()
        logits, _ = RowCursor(law, h, past).column(0, torch.full((4,), -1))
    assert logits.softmax(1).diagonal().numpy() == pytest.approx(np.full(4, 0.8), abs=0.05)


def test_start_within_is_the_regression_on_earlier_columns():
    law, draw = RowLaw([NUMBER, NUMBER], 2), Rng(6).numpy
    x = draw.standard_normal(3000)
    score = np.stack([x, 0.5 - 0.8 * x + 0.3 * draw.standard_normal(3000)], 1).astype(np.float32)
    law.start_within(torch.zeros(3000, 2, dtype=torch.long), torch.from_numpy(score))
    with torch.no_grad():
        law.leave.zero_()
        law.mix.weight.zero_()
        law.mix.bias.zero_()
        cursor = RowCursor(law, torch.zeros(3, 2), None)
        cursor.push(0, torch.zeros(3, dtype=torch.long), torch.tensor([-1.0, 0.0, 2.0]))
        _, (_, mean, _) = cursor.column(1, torch.full((3,), -1))
    assert mean[:, 0].numpy() == pytest.approx([1.3, 0.5, -1.1], abs=0.05)
