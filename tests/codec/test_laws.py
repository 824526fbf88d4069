"""Facts of when the rows of a step were recorded."""

import numpy as np
import polars as pl
import pytest

from cohortloom.codec.clock import DAY
from cohortloom.codec.steps import Steps
from cohortloom.codec.times import TimeLaw

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
    time, linked = law.draw(where, step, np.ones(len(step), bool), ends, np.random.default_rng(1))
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


@pytest.mark.parametrize("rho", [0.6, -0.5, 0.0])
def test_times_between_go_with_the_next_ones_as_in_training(rho):
    draw = np.random.default_rng(0)
    offsets = []
    for _ in range(300):
        z = draw.standard_normal(12)
        for i in range(1, 12):
            z[i] = rho * z[i - 1] + np.sqrt(1 - rho**2) * z[i]
        offsets.append(np.cumsum(np.exp(0.5 * z)))
    law, where, ends = fitted(np.full(300, 399.0), offsets)
    assert law.memory == pytest.approx(rho, abs=0.05)
    offset, step = drawn(law, where, ends, np.full(300, 12))
    z = np.log(np.maximum(np.diff(offset), 1 / 24))
    both = (step[2:] == step[1:-1]) & (step[1:-1] == step[:-2])
    assert np.corrcoef(z[:-1][both], z[1:][both])[0, 1] == pytest.approx(rho, abs=0.08)


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


def test_times_outside_of_visits_lie_between_them_and_some_shortly_before_the_next():
    """Two visits a patient, 100 days apart: half of the other samples lie three hours before the second visit."""
    draw = np.random.default_rng(0)
    n = 200
    start = (np.arange(n)[:, None] * 400 + np.array([0, 100])).ravel() * DAY
    where = Steps(pl.Series("subject_id", np.arange(n)), np.full(n, 2), start, None)
    ends = {"end": (start + 10 * DAY, np.ones(2 * n, bool))}
    step = np.repeat(np.arange(0, 2 * n, 2), 4)
    days = np.where(np.arange(4 * n) % 4 < 2, draw.uniform(0, 10, 4 * n), draw.uniform(15, 90, 4 * n))
    days = np.where(np.arange(4 * n) % 4 == 3, 100 - 3 / 24, days)
    time, linked = start[step] + np.round(days * 24).astype(np.int64) * HOUR, np.arange(4 * n) % 4 < 2
    law = TimeLaw.fit(
        where, step, time, linked, np.full(2 * n, 4), ends,
        has_link=True, grid=HOUR, per_day=DAY, limit=None, k_min=5, dated=True,
    )  # fmt: skip
    assert law.end == "end" and law.near_share == pytest.approx(0.5, abs=0.01)
    made, inside = law.draw(where, step, linked, ends, draw)
    offset = (made - start[step]) / DAY
    assert ((offset >= 0) & (offset <= 10))[inside].all() and (offset > 10)[~inside].all()
    assert (np.abs(offset[~inside] - (100 - 3 / 24)) < 1.5 / 24).mean() == pytest.approx(0.5, abs=0.1)


def test_distinct_times_stay_distinct():
    """Twelve samples on a grid of hours in visits of half a day, and one more than fits."""
    length = np.random.default_rng(0).uniform(3, 12, 100)
    law, where, ends = fitted(length, [np.arange(0.25, days, 2.0) for days in length])
    where, ends = steps(np.full(100, 0.5))
    offset, step = drawn(law, where, ends, np.full(100, 12))
    assert (np.diff(offset)[step[1:] == step[:-1]] > 0).all() and offset.max() <= 0.5
    offset, _ = drawn(law, where, ends, np.full(100, 14))
    assert (offset >= 0).all() and offset.max() <= 0.5


def test_charts_kept_by_the_hour_stay_on_the_hour():
    """Every hour at its full hour, and now and then at another minute."""
    draw = np.random.default_rng(0)
    where, ends = steps(np.full(60, 1.0))
    hours = [np.sort(np.r_[np.arange(0, 24), draw.choice(1440, 12, replace=False) / 60]) / 24 for _ in range(60)]
    step = np.repeat(np.arange(60), 36)
    time = where.time[step] + np.round(np.concatenate(hours) * 1440).astype(np.int64) * (HOUR // 60)
    law = TimeLaw.fit(
        where, step, time, np.ones(len(step), bool), np.full(60, 36), ends,
        has_link=True, grid=HOUR // 60, per_day=DAY, limit=None, k_min=5, dated=True,
    )  # fmt: skip
    assert law.full == pytest.approx(1.0)
    made, _ = law.draw(where, step, np.ones(len(step), bool), ends, draw)
    full = [np.unique(made[(step == i) & (made % HOUR == 0)] // HOUR).size for i in range(60)]
    assert np.mean(full) > 22  # of 24; as 36 times of one renewal process they fell in 18 to 20 of the hours
    assert len(np.unique(step * 2**44 + made)) == len(step)
    assert np.mean((made - where.time[step]) % HOUR != 0) == pytest.approx(1 / 3, abs=0.05)


def test_what_follows_the_full_hour_follows_it_as_closely_as_in_training():
    """Hourly charts, a second entry one to four minutes after half of them: gaps are short or nearly an hour."""
    draw = np.random.default_rng(1)
    where, ends = steps(np.full(60, 1.0))
    days = []
    for _ in range(60):
        second = np.flatnonzero(draw.random(24) < 0.5)
        days.append(np.sort(np.r_[np.arange(24), second + draw.integers(1, 5, len(second)) / 60]) / 24)
    step = np.repeat(np.arange(60), [len(day) for day in days])
    time = where.time[step] + np.round(np.concatenate(days) * 1440).astype(np.int64) * (HOUR // 60)
    law = TimeLaw.fit(
        where, step, time, np.ones(len(step), bool), np.bincount(step), ends,
        has_link=True, grid=HOUR // 60, per_day=DAY, limit=None, k_min=5, dated=True,
    )  # fmt: skip
    made, _ = law.draw(where, step, np.ones(len(step), bool), ends, draw)
    for times in (time, made):
        gap = np.diff(times)[np.diff(step) == 0] / HOUR * 60
        assert np.mean(gap < 5) == pytest.approx(1 / 3, abs=0.04)
        assert np.mean((gap > 5) & (gap < 50)) < 0.05
