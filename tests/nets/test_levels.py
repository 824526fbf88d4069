"""Lines from statics to own levels."""

import numpy as np

from cohortloom.nets.history import LEVEL, TOLD, History, HistorySpec
from cohortloom.nets.levels import level_lines, level_ties


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
    level, odds = spec.number_block(0)[LEVEL], spec.category_block(0)[2 * 3 + 1 :][:1]
    assert np.allclose(history.features()[:, level], [0.1, 0.6])
    told = history.features()[:, spec.number_block(0)[list(TOLD)]]
    assert np.allclose(told, [[0.1, 0.1, 0.0], [0.6, 0.6, np.log(4)]], atol=1e-6)
    assert np.allclose(history.chance.T, [[0.5, 0.9, 0.1], [0.8, 0.3, 0.7]])
    history.seen, history.count = np.full(2, 6.0), np.full((1, 2), 4.0, np.float32)
    history.apart = 3.0 - 4.0 * np.array([[0.1, 0.6]])
    assert np.allclose(history.features()[:, level], [(3 + 0.2) / 6, (3 + 1.2) / 6])
    history.shares = np.array([[6.0, 6.0], [0.0, 0.0]], np.float32)
    assert np.allclose(history.features()[:, odds[0]], np.log([6.9 / 0.1, 6.3 / 0.7]), atol=1e-4)


def test_first_values_follow_what_is_known_by_then():
    """Two copies of one level, always written together, and a noisy cuff: its first value hangs on what came before."""
    rng = np.random.default_rng(0)
    patient, n = rng.normal(size=600), 600
    apart = np.stack([patient + 0.3 * rng.normal(size=n), np.zeros(n), rng.normal(size=n)], 1)
    score = np.stack([patient, 0.8 * patient + 0.3 * rng.normal(size=n), rng.normal(size=n)], 1)
    first = np.zeros((n, 3), bool)
    first[:300, 1] = first[300:, 2] = True
    ties = level_ties(apart, score, first)
    assert abs(ties[1, 0] - 0.8 / 1.09) < 0.06 and abs(ties[1, 2]) < 0.1
    assert not ties[0].any() and not ties[2].any() and not np.diagonal(ties).any()


def test_levels_start_where_other_levels_say():
    """With a tie of .5 a number never recorded stands at half of the other's level; its own records outweigh that."""
    spec = HistorySpec(
        n_numbers=2, categories=(), missing=(), large=(), large_missing=(), n_bounds=0, time_scale=1.0, pull=(1.0, 1.0),
        ties=((0.0, 0.0), (0.5, 0.0)),
    )  # fmt: skip
    history = History(spec, np.full(2, 5.0), np.zeros((2, 0)))
    history.seen, history.apart = np.full(2, 6.0), np.array([[6.0, 6.0], [0.0, 3.0]])
    history.count = np.array([[3.0, 3.0], [0.0, 3.0]], np.float32)
    level, (told, at_first, _) = spec.number_block(1)[LEVEL], spec.number_block(1)[list(TOLD)]
    found = history.features()
    assert np.allclose(found[:, told], 0.75) and np.allclose(found[:, at_first], [0.75, 0.0])
    assert np.allclose(found[:, level], [0.75, 3.75 / 4])
