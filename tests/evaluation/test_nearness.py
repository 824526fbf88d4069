"""Near copies: the law of the tail against counting, planted copies among many, and second real samples."""

from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from test_copies_told import planted

from cohortloom.evaluation import evaluate
from cohortloom.evaluation.nearness import calibrated, chance, near, tail


@pytest.mark.parametrize(("n", "j", "k", "p"), [(1000, 5, 15, 0.00933), (1000, 5, 20, 0.000725), (300, 3, 8, 0.05322)])
def test_the_tail_has_the_published_probabilities(n, j, k, p):
    """Oracle: figures of the specification, and counting: the j-th held-out score stands at place k + j or later."""
    assert chance(n, j)[k] == pytest.approx(p, rel=2e-3)
    first = k + j - 1  # of so many drawn at least k are training patients
    by_hand = sum(comb(n, i) * comb(n, first - i) for i in range(k, first + 1)) / comb(2 * n, first)
    assert by_hand == pytest.approx(p, rel=2e-3)


def test_the_tail_finds_where_training_patients_stand_out():
    theirs = np.arange(100.0)
    mine = np.concatenate([np.full(12, 200.0), np.arange(88.0)])
    j, k, too_many, p = tail(mine, theirs, 0.01)
    assert (j, k) == (1, 12)
    assert p == pytest.approx(comb(100, 12) / comb(200, 12))  # the twelve greatest of 200 are all training patients
    assert too_many <= 12
    assert tail(theirs, theirs, 0.01)[3] > 0.1
    assert tail(np.full(100, np.inf), np.full(100, np.inf), 0.01)[0] == 0  # nothing can be nearer than a repeat


def test_distances_are_those_of_a_loop():
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((700, 3)), draw.standard_normal((40, 3))
    slow = np.array([min(np.linalg.norm(x - y) for y in b) for x in a])
    assert near(a, b) == pytest.approx(slow)
    own = np.array([min(np.linalg.norm(b[i] - b[k]) for k in range(40) if k != i) for i in range(40)])
    assert near(b, b, itself=True) == pytest.approx(own)
    assert calibrated(b, a[:5]) == pytest.approx(np.log(own) - np.log(near(b, a[:5])))
    assert np.isinf(calibrated(b, b)).all()


def test_level_and_power_of_the_tail():
    """Exchangeable scores rarely go beyond; 2 % of 1,000 far out always do."""
    draw = np.random.default_rng(1)
    alarms = found = 0
    for _ in range(200):
        mine, theirs = draw.standard_normal((2, 1000))
        _, k, too_many, _ = tail(mine, theirs, 0.05)
        alarms += k >= too_many
        mine[:20] += 6
        _, k, too_many, _ = tail(mine, theirs, 0.05)
        found += k >= too_many
    assert alarms <= 18  # of 200 at .05: 99th percentile of the binomial law
    assert found == 200


@pytest.mark.parametrize(("n", "noise", "passed"), [(0, 0.0, True), (20, 0.01, False), (20, 1.0, True)])
def test_twenty_of_six_hundred_moved_a_little_fail(samples, n, noise, passed):
    """A second real sample passes, with training patients of whom no value is left too."""
    train, held_out, third = samples
    parts = SimpleNamespace(train=train, held_out=held_out)
    made = planted(parts, third, n, noise) if n else third
    report = evaluate(made, train=train, held_out=held_out, fast=True, only=["copies"])
    score = {s.key: s for s in report.scores}["copies.near"]
    assert score.passed is passed
    assert score.anchors["bootstrap"] == pytest.approx(1 - np.exp(-1), abs=0.01)
    assert {s.key: s for s in report.scores}["copies.patients"].passed


def test_what_can_not_be_told_is_said(samples):
    train, held_out, third = samples
    few = evaluate(third, train=train, held_out=held_out.select(held_out.subjects[:20]), fast=True, only=["copies"])
    score = {s.key: s for s in few.scores}["copies.near"]
    assert score.value is None
    assert "fewer than 30" in score.reason
    small = third.select(third.subjects[:40])
    some = evaluate(small, train=small, held_out=held_out.select(held_out.subjects[:40]), fast=True, only=["copies"])
    assert {s.key: s for s in some.scores}["copies.near"].passed is False  # forty copies of forty patients
