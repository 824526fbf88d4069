"""Beats that differ in where P and T lie: planted stretches are found, and what is drawn in between is a beat."""

import numpy as np
import pytest
import torch

from cohortloom.nets.beat_code import CORE, BeatCode
from cohortloom.nets.record_code import LinearCode

TIMES = np.arange(-35, 66) / 100


def beats(p, t, noise=0.0, seed=0, even=False):
    """P, R and T waves, the times of P and T stretched by e^p and e^t: record x (channel point).

    Each record has its own height of every wave in its two channels, unless they are to be even.
    """
    before, after = CORE

    def hump(middle, width):
        return np.exp(-0.5 * np.square((TIMES - middle[:, None]) / width))

    early, late = -before - (0.16 - before) * np.exp(p), after + (0.28 - after) * np.exp(t)
    waves = np.stack([0.15 * hump(early, 0.02), hump(np.zeros(len(p)), 0.012), 0.3 * hump(late, 0.045)], axis=1)
    heights = np.exp(0.3 * np.random.default_rng(1).standard_normal((len(p), 2, 3)) * (not even))
    heights *= np.array([1.0, -0.6])[:, None]  # of the channels
    x = np.einsum("rcw,rwn->rcn", heights, waves).reshape(len(p), -1)
    return x + noise * np.random.default_rng(seed).standard_normal(x.shape)


@pytest.fixture(scope="module")
def planted():
    draw = np.random.default_rng(0)
    return draw.uniform(-0.3, 0.3, 200), draw.uniform(-0.25, 0.25, 200)


@pytest.fixture(scope="module")
def code(planted):
    made = BeatCode(2, TIMES, 8)
    made.fit(beats(*planted, noise=0.005))
    return made


def test_planted_stretches_are_found(code, planted):
    found = code.encode(beats(*planted, noise=0.005, seed=1))[0][:, :2]
    for k, truth in enumerate(planted):
        assert np.corrcoef(found[:, k], truth)[0, 1] > 0.96


def test_a_beat_comes_back(code, planted):
    x = beats(*planted)
    back = code.decode(torch.from_numpy(code.encode(x)[0]).float()).numpy()
    linear = LinearCode(x.shape[1], 8)
    linear.fit(x)
    plain = linear.decode(torch.from_numpy(linear.encode(x)[0]).float()).numpy()
    left, plain_left = (np.square(y - x).mean() / x.var(axis=0).mean() for y in (back, plain))
    assert left < 0.05 and left < 0.7 * plain_left


def test_between_an_early_and_a_late_t_lies_one_t_of_full_height(code):
    """The mean of two linear codes has two low humps."""
    ends = beats(np.zeros(2), np.array([-0.25, 0.25]), even=True)
    z = code.encode(ends)[0].mean(axis=0, keepdims=True)
    behind = code.decode(torch.from_numpy(z).float()).numpy().reshape(2, -1)[0, TIMES > 0.1]
    assert behind.max() == pytest.approx(0.3, rel=0.1)
    assert ends.reshape(2, 2, -1)[:, 0, TIMES > 0.1].mean(axis=0).max() < 0.22
    assert TIMES[TIMES > 0.1][behind.argmax()] == pytest.approx(0.28, abs=0.02)


def test_one_channel_tells_the_stretch(code, planted):
    x = beats(*planted, noise=0.005, seed=2)
    seen = np.ones(x.shape, bool)
    seen[:, len(TIMES) :] = False
    z = code.encode(np.where(seen, x, 99.0), seen)[0]
    assert np.corrcoef(z[:, 0], planted[0])[0, 1] > 0.85 and np.corrcoef(z[:, 1], planted[1])[0, 1] > 0.85


def test_enough_coordinates_leave_the_share_asked_for(code):
    power = np.square(code.loading.numpy()).sum(axis=0)
    for left in (0.5, 0.05, 0.01):
        k = code.enough(left) - 2
        assert power[k:].sum() <= left * power.sum() < power[k - 1 :].sum()


def test_the_qrs_stays_where_it_is(code):
    still = torch.zeros(1, code.n_code)
    moved = still.clone()
    moved[0, :2] = torch.tensor([0.4, -0.3])
    near = np.resize(np.abs(TIMES) < CORE[0] - 0.005, 2 * len(TIMES))
    difference = (code.decode(moved) - code.decode(still)).abs()[0].numpy()
    assert difference[near].max() < 1e-5 < difference[~near].max()
