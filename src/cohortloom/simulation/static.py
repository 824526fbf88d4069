"""Who the patients are: latent normals, age, statics, and the window in which each is followed.

All patient-level randomness that may be correlated lies in one matrix b [subject x latent] of standard normals:
frailty, age, every static column, and each timed variable's own level. Its correlation matrix is the schema's list of
pairs (nearest positive one if the list contradicts itself); "age with creatinine" then means age with its level.
Times inside `simulation` are days since the patient's start.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cohortloom.rng import Rng
from cohortloom.schema.priors import Sojourn
from cohortloom.simulation.laws import Scope, reading
from cohortloom.simulation.plan import YEAR, Plan

__all__ = ["Life", "draw_patients", "sojourn"]


@dataclass
class Life:
    """One shard of patients. Days are since `start`; `start` and `birth` are days since 1970 (clock timestamp) or 0.

    Args:
        b: Patient-level normals, subject x latent, in the order of `Plan.latent_names`.
        horizon: Planned end of follow-up [d], from length, calendar and dropout.
        times: Segment borders of the course [d], subject x (segment + 1), the last repeated.
        states: State of each segment, subject x segment.
        end, death: End of follow-up and death [d]; death is NaN where none falls within follow-up.
        terminal: Terminal state that ended follow-up, -1 if none.
    """

    n: int
    scope: Scope
    b: np.ndarray
    start: np.ndarray
    horizon: np.ndarray
    observed: dict[str, np.ndarray] = field(default_factory=dict)
    times: np.ndarray = field(default_factory=lambda: np.zeros((0, 1)))
    states: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    end: np.ndarray = field(default_factory=lambda: np.zeros(0))
    death: np.ndarray = field(default_factory=lambda: np.zeros(0))
    terminal: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def state_at(self, subject: np.ndarray, time: np.ndarray) -> np.ndarray:
        """State of illness of some subjects at some times [d]."""
        segment = np.zeros(len(subject), np.int64)
        for j in range(1, self.states.shape[1]):
            segment += time >= self.times[subject, j]
        return self.states[subject, segment]


def draw_patients(plan: Plan, n: int, rng: Rng) -> Life:
    """Latents, age, statics and planned windows of `n` patients."""
    draw = rng.child("patients").numpy
    b = mixed(draw.standard_normal((n, len(plan.latent_names))), plan.root(plan.latent_names))
    scope = Scope(n, plan.metas)
    low, high = plan.simulation.age_range
    typical = plan.simulation.age.typical
    age = (typical if typical is not None else 60.0) + (plan.simulation.age.sd or 0.0) * b[:, 1]
    scope["frailty"], scope["age"], scope["years"] = b[:, 0], _folded(age, low, high), np.zeros(n)
    for table, tables in plan.tables.items():
        for column, prior in tables.takes.items():
            if prior.takes == "age" and plan.schema.tables[table].role == "static":
                scope[f"{table}.{column}"] = scope["age"]
    start, horizon = _windows(plan, n, rng.child("windows").numpy)
    life = Life(n, scope, b, start, horizon)
    position = {name: i for i, name in enumerate(plan.latent_names)}
    for variable in plan.statics:
        draw = rng.child("static", variable.name).numpy
        noise = draw.standard_normal(n)
        own = np.sqrt(1 - (variable.prior.noise or 0.0)) * b[:, position[variable.name]]
        true, seen = reading(variable, scope, own, noise, draw)
        scope[variable.name], life.observed[variable.name] = true, seen
        scope[f"~{variable.name}"] = seen
    return life


def sojourn(law: Sojourn, n: int, draw: np.random.Generator) -> np.ndarray:
    """Lengths of time with the law's mean."""
    if law.law == "fixed":
        return np.full(n, law.mean)
    if law.law == "exponential":
        return law.mean * draw.standard_exponential(n)
    if law.law == "gamma":
        return law.mean / law.shape * draw.standard_gamma(law.shape, n)
    if law.law == "weibull":
        from math import gamma

        return law.mean / gamma(1 + 1 / law.shape) * draw.weibull(law.shape, n)
    return law.mean * np.exp(law.shape * draw.standard_normal(n) - law.shape**2 / 2)


def mixed(noise: np.ndarray, root: np.ndarray) -> np.ndarray:
    """noise @ root.T for row-wise independent noise, without a threaded product (same bytes everywhere)."""
    if np.array_equal(root, np.eye(len(root))):
        return noise
    out = noise.copy()
    plain = (root == np.eye(len(root))).all(axis=1)
    for j in np.flatnonzero(~plain):
        total = np.zeros(len(noise))
        for k in np.flatnonzero(root[j]):
            total += root[j, k] * noise[:, k]
        out[:, j] = total
    return out


def _folded(x: np.ndarray, low: float, high: float) -> np.ndarray:
    x = np.where(x < low, 2 * low - x, x)
    x = np.where(x > high, 2 * high - x, x)
    return np.clip(x, low, high)


def _windows(plan: Plan, n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Start [days since 1970, or 0] and planned end [d since start] of each patient."""
    follow, day = plan.simulation.follow_up, plan.day
    horizon = np.full(n, np.inf) if follow.length is None else sojourn(follow.length, n, draw) * day
    start = np.zeros(n)
    if plan.schema.clock == "timestamp":
        opens, closes = (np.datetime64(d, "D").astype(int) for d in (follow.opens, follow.closes))
        start = np.floor(draw.uniform(opens, max(closes, opens) + 1, n))
        hours = [s.hours for s in plan.streams.values() if s.at_start and s.hours]
        if hours:  # the first visit opens follow-up: on a working day, in the hours of the clinic
            weekday = (start + 3) % 7
            start += np.where(weekday == 5, 2, np.where(weekday == 6, 1, 0)) + draw.uniform(*hours[0], n) / 24
        else:
            start += draw.uniform(0, 1, n)
        if follow.ends is not None:
            last = np.datetime64(follow.ends, "D").astype(int) + 1 - 1 / 1440
            horizon = np.minimum(horizon, np.maximum(last - start, 0.0) + (last <= start) * 0.5)
    if follow.dropout:
        horizon = np.minimum(horizon, draw.exponential(YEAR / follow.dropout, n))
    return start, np.where(np.isfinite(horizon), horizon, 4 * YEAR)
