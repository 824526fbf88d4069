"""Facts of which codes stand at which moment, and of the time of day."""

from dataclasses import replace

import numpy as np
import pytest

from cohortloom.codec.clock import DAY
from cohortloom.codec.daytime import Daytime
from cohortloom.codec.panels import Panels, deal, groups_of, moment_class, root_of

HOUR, MINUTE = DAY // 24, DAY // 1440


def test_counts_hold_and_no_slot_stays_empty():
    draw = np.random.default_rng(0)
    slots = draw.integers(1, 9, 300)
    owner = np.repeat(np.arange(300), 4)
    n = draw.integers(0, 6, 1200)
    taken = deal(slots, owner, n, lambda slot, pair: np.sin(slot * 37.0 + pair))
    row = np.repeat(np.arange(1200), n)
    first = np.cumsum(slots) - slots
    place = taken - first[owner[row]]
    assert len(taken) == n.sum() and (place >= 0).all() and (place < slots[owner[row]]).all()
    for pair in range(1200):  # each slot once, before any is taken twice
        mine = taken[row == pair]
        assert (np.diff(mine) >= 0).all()
        assert np.unique(mine, return_counts=True)[1].max(initial=0) <= -(-n[pair] // slots[owner[pair]])
    rows_of = np.bincount(owner, n, 300)
    for one in np.flatnonzero(rows_of >= slots):
        assert len(np.unique(taken[owner[row] == one])) == slots[one]


def test_codes_of_two_panels_are_found():
    """A blood count (0, 1, 2), a blood gas (3, 4) and a weight (5), at moments of their own."""
    draw = np.random.default_rng(0)
    kind = draw.choice(3, 2000, p=[0.5, 0.4, 0.1])
    rows = [(m, code) for m, k in enumerate(kind) for code in ((0, 1, 2), (3, 4), (5,))[k] if draw.random() < 0.9]
    moment, code = np.array(rows).T
    unit = groups_of(moment, code, np.ones(6, bool))
    assert unit[0] == unit[1] == unit[2] and unit[3] == unit[4] and len(set(unit)) == 3
    assert len(set(groups_of(moment, code, np.arange(6) != 0)[:3])) == 2  # 0 may not share


def test_units_stand_together_and_at_their_hours_as_in_training():
    """Moments every six hours; unit 0 at six in the morning only, unit 1 with it, unit 2 anywhere."""
    draw = np.random.default_rng(0)
    step, place = np.repeat(np.arange(300), 12), np.tile(np.arange(12), 300)
    hour = place % 4 * 6
    kind = moment_class(step, np.ones(3600, bool), hour * HOUR)
    rows = [(m, c) for m in range(3600) for c in range(3) if (hour[m] == 6 if c < 2 else draw.random() < 0.4)]
    moment, code = np.array(rows).T
    panels = Panels.fit(np.arange(3), moment, code, step, kind, np.arange(len(step)))
    assert panels.together[0, 1] > 0.85 and abs(panels.together[0, 2]) < 0.3
    at = moment_class(np.zeros(3, int), np.ones(3, bool), np.array([0, 6, 12]) * HOUR)
    assert panels.favour[0, at[1]] > panels.favour[0, at[2]] + 2


def test_the_first_moment_of_a_visit_is_a_class_of_its_own():
    step, linked = np.array([0, 0, 0, 1, 1]), np.array([False, True, True, True, False])
    time = np.array([3 * HOUR, 3 * HOUR, 3 * HOUR + 5 * MINUTE, 23 * HOUR, 0])
    assert moment_class(step, linked, time).tolist() == [0, 1, 8, 1, 0]


def test_a_busy_clock_runs_back():
    draw = np.random.default_rng(0)
    ticks = (
        draw.integers(0, 300, 4000) * DAY + draw.choice([6, 7, 18], 4000) * HOUR + draw.choice([0, 30], 4000) * MINUTE
    )
    clock = Daytime.fit(True, ticks, MINUTE)
    assert (clock.ticks(clock.busy(ticks, MINUTE)) // MINUTE == ticks // MINUTE).all()
    drawn = clock.ticks(draw.uniform(0, 300, 4000))
    for at in (6, 7, 18):
        true, made = (np.mean(x % DAY // HOUR == at) for x in (ticks, drawn))
        assert made == pytest.approx(true, abs=0.04)


def test_dates_keep_the_usual_clock():
    clock = Daytime.fit(True, np.arange(100) * DAY, DAY)
    assert clock.busy(np.array([DAY // 2])) == pytest.approx(0.5) and clock.ticks(np.array([0.5]))[0] == DAY // 2


def test_a_correlation_rounded_on_disk_still_has_a_root():
    """Three columns spanned by two, to four decimals: no correlation any more, but it can be drawn from."""
    half = np.sqrt(0.5)
    exact = np.array([[1, 0, half], [0, 1, half], [half, half, 1]])
    rounded = np.round(exact, 4) + np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]) * 1e-4
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(rounded + 1e-9 * np.eye(3))
    root = root_of(rounded)
    np.testing.assert_allclose(root @ root.T, exact, atol=1e-3)
    np.testing.assert_allclose(root_of(np.eye(3) * 1.0), np.linalg.cholesky(np.eye(3) * (1 + 1e-9)))
    assert root_of(np.zeros((0, 0))).shape == (0, 0)


@pytest.mark.parametrize("fault", [None, "every moment anew"])
def test_what_stands_at_a_moment_stands_at_the_next(fault):
    """40 moments a step: unit 0 at 20 in a row, unit 1 at every second one by chance."""
    draw = np.random.default_rng(0)
    step, place = np.repeat(np.arange(200), 40), np.tile(np.arange(40), 200)
    begin = draw.integers(0, 21, 200)[step]
    here = np.stack([(place >= begin) & (place < begin + 20), draw.random(8000) < 0.5], 1)
    moment, code = np.nonzero(here)
    kind = moment_class(step, np.ones(8000, bool), place * 30 * MINUTE)
    panels = Panels.fit(np.arange(2), moment, code, step, kind, np.arange(len(step)))
    assert panels.lasting[1, 0] > 0.9
    if fault:
        panels = replace(panels, lasting=np.tile([1.0, 0.0, 0.0], (3, 1)))
    noise = Panels.from_json(panels.to_json()).noise(step, np.random.default_rng(1))
    assert noise.std(0) == pytest.approx(1, abs=0.12)
    slots = np.full(200, 40)
    taken = deal(slots, np.arange(200), slots // 2, lambda slot, pair: noise[slot, 0])
    drawn = np.bincount(taken, minlength=8000).reshape(200, 40)
    lasts = (drawn[:, 1:] * drawn[:, :-1]).sum() / drawn[:, :-1].sum()  # planted: .95, by chance: .49
    assert (lasts > 0.7 if fault is None else lasts < 0.55) and drawn.sum() == 4000


@pytest.mark.parametrize("fault", [None, "any moment"])
def test_blood_is_not_drawn_twice_in_an_hour(fault):
    """Stays of ten days with 60 moments at any time; one unit stands at the first moment of each day."""
    draw = np.random.default_rng(0)
    step = np.repeat(np.arange(100), 60)
    time = np.sort(draw.integers(0, 10 * DAY, (100, 60)), 1)
    day = time // DAY
    first = np.concatenate([np.ones((100, 1), bool), day[:, 1:] != day[:, :-1]], 1).ravel()
    time = time.ravel()
    kind = moment_class(step, np.ones(6000, bool), time)
    moment, slots = np.flatnonzero(first), np.full(100, 60)
    panels = Panels.fit(np.zeros(1, int), moment, np.zeros(len(moment), int), step, kind, time)
    if fault:
        panels = replace(panels, spacing=np.zeros_like(panels.spacing))
    n, owner, unit = np.bincount(step[moment], minlength=100), np.arange(100), np.zeros(100, int)
    like = draw.standard_normal(6000)
    least = panels.least_gaps(slots, time, kind, owner, unit, n, draw)
    taken = deal(slots, owner, n, lambda slot, pair: like[slot], time, least)
    assert len(np.unique(taken)) == len(taken) == n.sum()
    gap = np.diff(time[taken])[np.diff(step[taken]) == 0]
    real = np.diff(time[moment])[np.diff(step[moment]) == 0]
    shortest, truth = (np.quantile(x, 0.1) / HOUR for x in (gap, real))
    assert (shortest > 0.4 * truth) if fault is None else (shortest < 0.15 * truth)
