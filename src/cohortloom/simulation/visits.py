"""Visits: renewal processes whose clock runs with the patient.

Stream k of patient i has the rate r(t) = exp(effects of statics, age and state at t + frailty) / every. Its operational
time is L(t) = integral of r up to t; visits are the points where a renewal process with unit-mean gamma gaps (shape
`regularity`) falls in operational time, carried back by the inverse of L, which is piecewise linear because states are
piecewise constant. With regularity 1 this is a Poisson process with exactly the rate r.

Moments are the times at which something may be measured: the start of each visit, and further ones during a long stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cohortloom.rng import Rng
from cohortloom.schema.priors import Stream
from cohortloom.simulation.disease import at
from cohortloom.simulation.plan import Plan
from cohortloom.simulation.static import Life, sojourn

__all__ = ["Moments", "Visits", "draw_moments", "draw_visits", "ends_in_death"]

#: Most visits of one stream for one patient, a guard against priors that explode.
MAX_VISITS = 2_000


@dataclass
class Visits:
    """Visits of a shard, sorted by subject and time [d since start]."""

    subject: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    stay: np.ndarray


@dataclass
class Moments:
    """Times of measurement, sorted by subject and time; `visit` is the row of the visit, `first` its first moment."""

    subject: np.ndarray
    time: np.ndarray
    visit: np.ndarray
    first: np.ndarray


def draw_visits(plan: Plan, life: Life, rng: Rng, ticks: float) -> Visits:
    """All visits of a shard.

    Args:
        ticks: Resolution of times [d].
    """
    parts = [_stream(plan, life, i, name, rng.child("stream", name)) for i, name in enumerate(plan.streams)]
    subject, time, kind, stay, last = (np.concatenate(x) for x in zip(*parts))
    seen = rng.child("no-visit").numpy.random(life.n) >= plan.simulation.no_visit
    keep = seen[subject]
    grid = plan.schema.tables[plan.schema.visit_table].grid if plan.schema.visit_table else None
    order = np.lexsort((last, time, subject))
    order = order[keep[order]]
    subject, time, kind, stay, last = (x[order] for x in (subject, time, kind, stay, last))
    if not len(subject):
        return Visits(subject, time, kind, stay)
    if grid is not None:
        slot = np.floor(time / ticks + 1e-9).astype(np.int64)
        new = np.concatenate([[True], (np.diff(subject) != 0) | (np.diff(slot) != 0)])
        return Visits(subject[new], time[new], kind[new], stay[new])
    # a visit that would start during an earlier stay does not happen; the one that ends in death cuts the earlier short
    until = _running_max(subject, time + stay)
    inside = np.concatenate([[False], (np.diff(subject) == 0) & (time[1:] < until[:-1] - 1e-6)])
    keep = ~inside | last
    subject, time, kind, stay = (x[keep] for x in (subject, time, kind, stay))
    following = np.append(np.where(np.diff(subject) == 0, time[1:], np.inf), np.inf)
    left = np.minimum(np.minimum(stay, life.end[subject] - time), following - time)
    keep = (left > 0) | (stay <= 0)  # a stay of which nothing is left does not happen
    return Visits(subject[keep], time[keep], kind[keep], np.maximum(left[keep], 0.0))


def draw_moments(plan: Plan, visits: Visits, rng: Rng) -> Moments:
    """The start of each visit, and moments about every `draws_every` during its stay."""
    streams = list(plan.streams.values())
    gap = np.array([(s.draws_every or np.inf) * plan.day for s in streams])[visits.kind]
    extra = np.floor(visits.stay / gap).astype(np.int64) if len(gap) else np.zeros(0, np.int64)
    visit = np.repeat(np.arange(len(visits.subject)), extra + 1)
    nth = np.arange(len(visit)) - np.repeat(np.cumsum(extra + 1) - extra - 1, extra + 1)
    shake = rng.child("moments").numpy.uniform(-0.25, 0.25, len(visit)) * (nth > 0)
    with np.errstate(invalid="ignore"):
        later = np.where(nth > 0, (nth + shake) * gap[visit], 0.0)
    time = visits.time[visit] + np.minimum(later, visits.stay[visit])
    return Moments(visits.subject[visit], time, visit, nth == 0)


def ends_in_death(life: Life, visits: Visits) -> np.ndarray:
    """Does the patient die in this visit (one that lasts, and ends at death)?"""
    death = life.death[visits.subject]
    return ~np.isnan(death) & (visits.stay > 0) & (visits.time + visits.stay >= death - 1e-9)


def _stream(plan: Plan, life: Life, number: int, name: str, rng: Rng) -> tuple[np.ndarray, ...]:
    """subject, time, kind, stay and "ends in death" of one stream's visits, unsorted."""
    stream = plan.streams[name]
    everyone = np.arange(life.n)
    subjects, times = [], []
    if stream.every is not None:
        who, when = _renewals(plan, life, stream, rng)
        subjects.append(who)
        times.append(when)
    draw = rng.child("extra").numpy
    if stream.at_start:
        first = everyone[draw.random(life.n) < stream.at_start]
        subjects.append(first)
        times.append(np.zeros(len(first)))
    for state, chance in stream.on_entry.items():
        is_entry = life.states == plan.states.index(state)
        is_entry[:, 1:] &= life.times[:, 1:-1] < life.horizon[:, None]
        is_entry[:, 1:] &= life.states[:, 1:] != life.states[:, :-1]
        is_entry[:, 0] = False
        who, segment = np.nonzero(is_entry & (draw.random(is_entry.shape) < chance))
        subjects.append(who)
        times.append(life.times[who, segment])
    subject = np.concatenate([*subjects, np.zeros(0, np.int64)]).astype(np.int64)
    time = np.concatenate([*times, np.zeros(0)])
    twice = np.flatnonzero(draw.random(len(subject)) < stream.repeat)
    subject, time = np.concatenate([subject, subject[twice]]), np.concatenate([time, time[twice]])
    if stream.hours and plan.schema.clock == "timestamp":
        time = _working_hours(life.start[subject], time, stream.hours, draw)
    keep = (time >= 0) & (time < life.end[subject]) | (time == 0)
    subject, time = subject[keep], time[keep]
    if stream.limit is not None:
        order = np.lexsort((time, subject))
        nth = _position(subject[order])
        order = order[nth < stream.limit]
        subject, time = subject[order], time[order]
    stay = _stays(plan, life, stream, subject, time, draw)
    last = np.zeros(len(subject), bool)
    if stream.at_death:
        dying = everyone[~np.isnan(life.death) & (draw.random(life.n) < stream.at_death)]
        length = _stays(plan, life, stream, dying, life.death[dying], draw)
        begin = np.maximum(life.death[dying] - length, 0.0)
        subject, time = np.concatenate([subject, dying]), np.concatenate([time, begin])
        stay = np.concatenate([stay, life.death[dying] - begin])
        last = np.concatenate([last, np.ones(len(dying), bool)])
    return subject, time, np.full(len(subject), number), stay, last


def _stays(plan: Plan, life: Life, stream: Stream, subject: np.ndarray, time: np.ndarray, draw) -> np.ndarray:
    if stream.stay is None:
        return np.zeros(len(subject))
    scope = at(plan, life, subject, time)
    scope["state"] = life.state_at(subject, time)
    return sojourn(stream.stay, len(subject), draw) * plan.day * np.exp(scope.shift(stream.stay_effects))


def _renewals(plan: Plan, life: Life, stream: Stream, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Points of the renewal process up to the end of follow-up."""
    borders = np.minimum(life.times, life.end[:, None])
    rate = np.empty(life.states.shape)
    for j in range(rate.shape[1]):
        scope = at(plan, life, np.arange(life.n), borders[:, j])
        scope["state"] = life.states[:, j]
        rate[:, j] = np.exp(np.clip(scope.shift(stream.effects), -20, 20))
    sd = stream.frailty
    rate *= np.exp(sd * life.scope["frailty"] - sd**2 / 2)[:, None] / ((stream.every or np.inf) * plan.day)
    total = np.concatenate([np.zeros((life.n, 1)), np.cumsum(rate * np.diff(borders, axis=1), axis=1)], axis=1)
    draw = rng.child("gaps").numpy
    if stream.regularity == 1:
        count = np.minimum(draw.poisson(np.minimum(total[:, -1], 1e6)), MAX_VISITS)
        subject = np.repeat(np.arange(life.n), count)
        place = draw.random(len(subject)) * total[subject, -1]
    else:
        subject, place = _gamma_points(total[:, -1], stream.regularity, draw)
    segment = np.zeros(len(subject), np.int64)
    for j in range(1, rate.shape[1]):
        segment += place >= total[subject, j]
    time = borders[subject, segment] + (place - total[subject, segment]) / np.maximum(rate[subject, segment], 1e-300)
    return subject, np.minimum(time, life.end[subject])


def _gamma_points(total: np.ndarray, shape: float, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points up to `total` of renewal processes with gamma gaps of mean 1, subject by subject."""
    active, reached = np.flatnonzero(total > 0), np.zeros(len(total))
    subjects, places, width, drawn = [np.zeros(0, np.int64)], [np.zeros(0)], 16, 0
    while len(active) and drawn < MAX_VISITS:
        points = reached[active, None] + np.cumsum(draw.standard_gamma(shape, (len(active), width)) / shape, axis=1)
        row, column = np.nonzero(points < total[active, None])
        subjects.append(active[row])
        places.append(points[row, column])
        reached[active] = points[:, -1]
        active = active[points[:, -1] < total[active]]
        drawn += width
    return np.concatenate(subjects), np.concatenate(places)


def _working_hours(start: np.ndarray, time: np.ndarray, hours: tuple[float, float], draw) -> np.ndarray:
    """Move planned visits to a weekday within the hours; the first visit (time 0) is there already."""
    day = np.floor(start + time)
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
    day += np.where(weekday == 5, -1, np.where(weekday == 6, 1, 0))
    moved = day + draw.uniform(*hours, len(day)) / 24 - start
    return np.where(time == 0, 0.0, moved)


def _position(subject: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal subjects."""
    if not len(subject):
        return np.zeros(0, np.int64)
    new = np.concatenate([[True], np.diff(subject) != 0])
    begin = np.flatnonzero(new)
    return np.arange(len(subject)) - np.repeat(begin, np.diff(np.append(begin, len(subject))))


def _running_max(subject: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Largest value so far within each subject (rows sorted by subject)."""
    span = float(value.max() - value.min()) + 1.0
    lifted = value + subject * span
    return np.maximum.accumulate(lifted) - subject * span
