"""Latent physiology: correlated processes in irregular time, treatments that answer to them, and what is read off.

Each timed variable j has an Ornstein-Uhlenbeck process u_j with memory tau_j,

    u_j(t + dt) = a_j u_j(t) + sqrt(1 - a_j^2) eps_j,   a_j = exp(-dt / tau_j),   eps ~ Normal(0, R)

exact for each variable at any gaps (zero included), with cross-correlation R_ij where memories agree and
R_ij sqrt((1 - a_i^2)(1 - a_j^2)) / (1 - a_i a_j) at regular gaps where they do not.

Moments are laid out step by step (all patients' first moment, then all second ones, ...), longest patients first, so
one step is a slice. Only what a treatment looks at is computed inside the steps; all else at once afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from cohortloom.rng import Rng
from cohortloom.simulation.disease import at
from cohortloom.simulation.laws import Scope, Variable, logistic, logit, reading
from cohortloom.simulation.plan import Plan
from cohortloom.simulation.static import Life, mixed
from cohortloom.simulation.visits import Moments, Visits, ends_in_death

__all__ = ["Physiology", "live_through"]


@dataclass
class Physiology:
    """What happens at each moment (rows as in `Moments`).

    Args:
        scope: True values by name, and "treatment.NAME" as it acts at the moment.
        observed: Recorded values by variable.
        u: Processes by variable, moment x variable; `b` the patients' own levels, subject x variable.
        given: Treatment -> is it prescribed at this moment (for the time after it)?
        dose: Treatment -> dose prescribed, in its unit.
    """

    scope: Scope
    observed: dict[str, np.ndarray]
    u: np.ndarray
    b: np.ndarray
    given: dict[str, np.ndarray] = field(default_factory=dict)
    dose: dict[str, np.ndarray] = field(default_factory=dict)


def live_through(plan: Plan, life: Life, visits: Visits, moments: Moments, rng: Rng) -> Physiology:
    """Walk all patients of a shard through their moments."""
    names = [v.name for v in plan.temporals]
    offset = 2 + len(plan.statics)
    b = life.b[:, offset:]
    size = len(moments.subject)
    order, bounds = _steps(moments.subject)
    gap = np.diff(moments.time, prepend=0.0)
    memory = np.array([_memory(plan, v) for v in plan.temporals])
    noise = mixed(rng.child("process").numpy.standard_normal((size, len(names))), plan.root(tuple(names)))
    u = _walk(gap, memory, noise, order, bounds)
    scope = at(plan, life, moments.subject, moments.time)
    scope["state"] = life.state_at(moments.subject, moments.time)
    scope["visit"] = visits.kind[moments.visit]
    for table, tables in plan.tables.items():
        for column, prior in tables.takes.items():
            source = {"age": "age", "state": "state", "visit_kind": "visit"}.get(prior.takes or "")
            if prior.takes == "died_here":
                scope[f"{table}.{column}"] = ends_in_death(life, visits)[moments.visit]
            if source and plan.schema.tables[table].role != "static":
                scope[f"{table}.{column}"] = scope[source]
    body = Physiology(scope, {}, u, b)
    errors = {v.name: rng.child("noise", v.name).numpy for v in plan.temporals}
    watched = _watched(plan)
    if plan.simulation.treatments:
        _treat(plan, body, moments, order, bounds, watched, errors, rng.child("treatments"))
    first = moments.visit  # visits are numbered as their first moments come
    start = np.flatnonzero(moments.first)
    in_visit = plan.schema.visit_table
    for j, variable in enumerate(plan.temporals):
        if variable.name in watched and plan.simulation.treatments:
            continue
        own = _own(variable, b[moments.subject, j], u[:, j])
        error = errors[variable.name]
        true, seen = reading(variable, scope, own, error.standard_normal(size), error)
        if variable.name.split(".", 1)[0] == in_visit and len(start) < size:  # one value for the whole visit
            true, seen = true[start][first], seen[start][first]
        scope[variable.name], body.observed[variable.name] = true, seen
        scope[f"~{variable.name}"] = seen
    return body


def _own(variable: Variable, b: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.sqrt(variable.prior.between or 0.0) * b + np.sqrt(variable.within) * u


def _memory(plan: Plan, variable: Variable) -> float:
    """Time constant [d]; by default three gaps of the most frequent stream of visits."""
    if variable.prior.memory is not None and np.isfinite(variable.prior.memory):
        return variable.prior.memory * plan.day
    gaps = [s.every for s in plan.streams.values() if s.every]
    return 3 * min(gaps) * plan.day if gaps else 90.0


def _steps(subject: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows step by step, and the borders of the steps; within a step subjects stand in one fixed order."""
    if not len(subject):
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    begin = np.flatnonzero(np.concatenate([[True], np.diff(subject) != 0]))
    length = np.diff(np.append(begin, len(subject)))
    rank = np.empty(len(begin), np.int64)
    rank[np.argsort(-length, kind="stable")] = np.arange(len(begin))
    nth = np.arange(len(subject)) - np.repeat(begin, length)
    order = np.lexsort((np.repeat(rank, length), nth))
    return order, np.concatenate([[0], np.cumsum(np.bincount(nth))])


def _walk(gap, memory, noise, order, bounds) -> np.ndarray:
    """The processes at every moment, moment x variable, rows as in `Moments`."""
    u = np.empty_like(noise)
    previous = None
    for lo, hi in pairwise(bounds):
        rows = order[lo:hi]
        eps = noise[rows]
        if previous is None:
            now = eps
        else:
            a = np.exp(-gap[rows, None] / memory)
            now = a * previous[: hi - lo] + np.sqrt(1 - a * a) * eps
        u[rows] = now
        previous = now
    return u


def _watched(plan: Plan) -> set[str]:
    """Variables treatments look at, and all those these depend on."""
    by_name = {v.name: v for v in plan.temporals}
    todo: list[str] = []
    for t in plan.simulation.treatments.values():
        todo += [*t.avoid_above, *t.avoid_below, *t.start_effects, *t.stop_effects]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in by_name and name not in found:
            found.add(name)
            prior = by_name[name].prior
            todo += [*prior.effects, *prior.at_most, *(n for e in prior.level_effects.values() for n in e)]
    return found


def _treat(plan, body, moments, order, bounds, watched, errors, rng: Rng) -> None:
    """Step by step: read the watched variables under the present treatment, then decide on the next step's."""
    treatments = plan.simulation.treatments
    size, scope = len(moments.subject), body.scope
    variables = [(j, v) for j, v in enumerate(plan.temporals) if v.name in watched]
    for _, v in variables:
        dtype = float if v.kind in ("number", "count") else np.int64
        scope[v.name], body.observed[v.name] = np.zeros(size, dtype), np.zeros(size, dtype)
        scope[f"~{v.name}"] = body.observed[v.name]
    for name in treatments:
        scope[f"treatment.{name}"] = np.zeros(size, np.int64)
        body.given[name], body.dose[name] = np.zeros(size, bool), np.full(size, np.nan)
    draws = {name: rng.child(name).numpy for name in treatments}
    on: dict[str, np.ndarray] = {}
    level: dict[str, np.ndarray] = {}
    for lo, hi in pairwise(bounds):
        rows = order[lo:hi]
        step = Scope(len(rows), plan.metas, scope, rows)
        for name, treatment in treatments.items():
            if lo == 0:
                chance = logistic(logit(treatment.initial) + step.shift(treatment.initial_effects))
                on[name] = draws[name].random(hi) < chance
                level[name] = (draws[name].random(hi) * max(len(treatment.doses), 1)).astype(np.int64)
            on[name], level[name] = on[name][: hi - lo], level[name][: hi - lo]
            scope[f"treatment.{name}"][rows] = on[name]
        for j, v in variables:
            own = _own(v, body.b[moments.subject[rows], j], body.u[rows, j])
            true, seen = reading(v, step, own, errors[v.name].standard_normal(len(rows)), errors[v.name])
            scope[v.name][rows], body.observed[v.name][rows] = true, seen
        for name, treatment in treatments.items():
            on[name], level[name] = _decide(treatment, step, body, rows, on[name], level[name], draws[name])
            body.given[name][rows] = on[name]
            if treatment.doses:
                body.dose[name][rows] = np.array(treatment.doses)[level[name]]


def _decide(treatment, step, body, rows, on, level, draw) -> tuple[np.ndarray, np.ndarray]:
    avoid = np.zeros(len(rows), bool)
    for names, sign in ((treatment.avoid_above, 1), (treatment.avoid_below, -1)):
        for name, limit in names.items():
            if name in body.observed:
                avoid |= sign * (body.observed[name][rows] - limit) > 0
    start = draw.random(len(rows)) < logistic(logit(treatment.start) + step.shift(treatment.start_effects))
    stop = draw.random(len(rows)) < logistic(logit(treatment.stop) + step.shift(treatment.stop_effects))
    up = draw.random(len(rows)) < treatment.step_up
    top = max(len(treatment.doses) - 1, 0)
    stepped = np.where(avoid, level - 1, np.where(on & up, np.minimum(level + 1, top), level))
    now_on = np.where(on, ~stop & (~avoid | (stepped >= 0)), start & ~avoid)
    return now_on, np.where(now_on & on, np.maximum(stepped, 0), 0)
