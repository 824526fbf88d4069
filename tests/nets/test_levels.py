"""Lines from statics to own levels."""

import numpy as np

from cohortloom.nets.history import TOLD_CHANCE, TOLD_LEVEL, History, HistorySpec
from cohortloom.nets.levels import level_lines


def test_lines_find_what_decides_and_leave_the_rest_constant():
    """A flag decides the share of one diagnosis, a score that of a level; twenty statics decide nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 22))
    x[:, 0] = rng.random(400) < 0.3
    count = rng.integers(1, 9, 400)
    share = rng.binomial(count, np.where(x[:, 0] > 0, 0.5, 0.03)) / count
    score = 0.6 * x[:, 1] + rng.normal(size=400) / np.sqrt(count)
    level = np.stack([share, score, rng.normal(size=400), np.full(400, np.nan)], 1)
    weight = np.stack([count, count, count, np.zeros(400)], 1).astype(float)
    lines = level_lines(x, level, weight)
    assert abs(lines[0, 0] - 0.03) < 0.03 and abs(lines[1, 0] - 0.47) < 0.06
    assert abs(lines[2, 1] - 0.6) < 0.08 and np.abs(np.delete(lines[1:, 1], 1)).max() < 0.1
    assert not lines[1:, 2].any() and not lines[:, 3].any()


def test_levels_are_drawn_to_what_statics_say():
    """Before the first record a level is the line's, and records outweigh it by count / pull."""
    spec = HistorySpec(
        n_numbers=1, categories=(2,), missing=(-1,), large=(), large_missing=(), n_bounds=0, time_scale=1.0,
        pull=(2.0,), usual=(0.8, 0.2), lines=((0.1, 0.5, 0.9, 0.1), (0.5, 0.3, -0.6, 0.6)),
    )  # fmt: skip
    history = History(spec, np.full(2, 5.0), np.zeros((2, 0)), np.array([[0.0], [1.0]]))
    level, odds = spec.number_block(0)[22], spec.category_block(0)[2 * 3 + 1 :][:1]
    assert np.allclose(history.features()[:, level], [0.1, 0.6])
    told = history.features()[:, spec.number_block(0)[[TOLD_LEVEL, TOLD_CHANCE]]]
    assert np.allclose(told, [[0.1, 0.0], [0.6, np.log(4)]], atol=1e-6)
    assert np.allclose(history.chance.T, [[0.5, 0.9, 0.1], [0.8, 0.3, 0.7]])
    history.seen, history.total, history.count = np.full(2, 6.0), np.full((1, 2), 3.0), np.full((1, 2), 4.0, np.float32)
    assert np.allclose(history.features()[:, level], [(3 + 0.2) / 6, (3 + 1.2) / 6])
    history.shares = np.array([[6.0, 6.0], [0.0, 0.0]], np.float32)
    assert np.allclose(history.features()[:, odds[0]], np.log([6.9 / 0.1, 6.3 / 0.7]), atol=1e-4)
