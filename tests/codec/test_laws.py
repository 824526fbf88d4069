"""Facts of when the rows of a step were recorded."""

import numpy as np
import polars as pl
import pytest

from cohortloom.codec.clock import DAY
from cohortloom.codec.laws import TimeLaw
from cohortloom.codec.steps import Steps

HOUR = DAY // 24


def steps(length_days: np.ndarray) -> tuple[Steps, dict]:
    """One visit per patient, and where it ends."""
    n = len(length_days)
    start = np.arange(n) * 400 * DAY
    found = Steps(pl.Series("subject_id", np.arange(n)), np.ones(n, np.int64), start, None)
    return found, {"end": (start + (length_days * DAY).astype(np.int64), np.ones(n, bool))}


def fitted(length_days: np.ndarray, offsets: list[np.ndarray]) -> tuple[TimeLaw, Steps, dict]:
    """Law of times at the given offsets [d] of each visit."""
    where, ends = steps(length_days)
    step = np.repeat(np.arange(len(offsets)), [len(o) for o in offsets])
    time = where.time[step] + np.round(np.concatenate(offsets) * 24).astype(np.int64) * HOUR
    law = TimeLaw.fit(
        where, step, time, np.ones(len(step), bool), np.array([len(o) for o in offsets]), ends,
        has_link=True, grid=HOUR, per_day=DAY, limit=None, k_min=5,
    )  # fmt: skip
    return law, where, ends


def drawn(law: TimeLaw, where: Steps, ends: dict, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [d] of n times in each visit, and their visit."""
    step = np.repeat(np.arange(len(n)), n)
    time, linked = law.draw(where, step, ends, np.random.default_rng(1))
    assert linked.all()
    return (time - where.time[step]) / DAY, step


def test_samples_every_second_day_stay_two_days_apart():
    length = np.random.default_rng(0).uniform(3, 12, 200)
    offsets = [np.arange(0.25, days, 2.0) for days in length]
    law, where, ends = fitted(length, offsets)
    assert not law.gap_grows and not law.first_grows
    offset, step = drawn(law, where, ends, np.array([len(o) for o in offsets]))
    same = step[1:] == step[:-1]
    assert np.allclose(np.diff(offset)[same], 2.0, atol=1 / 24) and np.allclose(offset[np.r_[True, ~same]], 0.25)


def test_times_that_stretch_with_the_visit_do_so():
    """Three samples at 10 %, 40 % and 70 % of visits of 2 to 200 days."""
    length = np.exp(np.random.default_rng(0).uniform(np.log(2), np.log(200), 200))
    law, where, ends = fitted(length, [days * np.array([0.1, 0.4, 0.7]) for days in length])
    assert law.gap_grows and law.first_grows
    offset, step = drawn(law, where, ends, np.full(200, 3))
    assert offset / length[step] == pytest.approx(np.tile([0.1, 0.4, 0.7], 200), abs=0.08)


def test_times_stay_inside_the_visit():
    """More samples than training ever had in so short a visit."""
    length = np.random.default_rng(0).uniform(3, 12, 100)
    law, where, ends = fitted(length, [np.arange(0.25, days, 2.0) for days in length])
    where, ends = steps(np.full(100, 0.5))
    offset, step = drawn(law, where, ends, np.full(100, 6))
    assert (offset >= 0).all() and (offset <= 0.5).all()
    assert (np.diff(offset)[step[1:] == step[:-1]] >= 0).all()


def test_no_times_were_seen():
    law, where, ends = fitted(np.ones(3), [np.zeros(0)] * 3)
    offset, _ = drawn(law, where, ends, np.ones(3, int))
    assert (offset == 0).all()
