"""The course of illness: a semi-Markov process with death as a competing risk.

A patient stays in state s for T = (sojourn of s) * exp(stay effects), moves to r with probability proportional to
moves[r] * exp(move effects), and dies at the rate death_rate[s] * exp(death effects) [per year]. Effects see the
patient at entry into the state (age then, years since start); a state's hazard is constant within one stay.
"""

from __future__ import annotations

import numpy as np

from cohortloom.rng import Rng
from cohortloom.simulation.laws import Scope
from cohortloom.simulation.plan import YEAR, Plan
from cohortloom.simulation.static import Life, sojourn

__all__ = ["live"]

#: Most states one patient passes through; the last one lasts.
MAX_SEGMENTS = 200


def live(plan: Plan, life: Life, rng: Rng) -> None:
    """Fill in the state path, death, and the end of follow-up of each patient."""
    draw = rng.child("course").numpy
    names, states = plan.states, list(plan.course.states.values())
    weight = np.stack([s.start * np.exp(life.scope.shift(s.start_effects)) for s in states], axis=1)
    current = _pick(weight, draw)
    terminal = np.array([s.terminal for s in states])
    clock = np.zeros(life.n)
    active = np.arange(life.n)
    times, path, hazards = [clock.copy()], [], []
    for _ in range(MAX_SEGMENTS):
        if not len(active):
            break
        path.append(current.copy())
        scope = at(plan, life, active, clock[active])
        leave = np.full(len(active), np.inf)
        following = current[active].copy()
        hazard = np.zeros(len(active))
        for i, state in enumerate(states):
            here = np.flatnonzero(current[active] == i)
            if not len(here):
                continue
            part = Scope(len(here), plan.metas, scope, here)
            hazard[here] = state.death_rate / YEAR * np.exp(part.shift(plan.course.death_effects))
            if state.stay is None or state.terminal:
                continue
            leave[here] = sojourn(state.stay, len(here), draw) * plan.day * np.exp(part.shift(state.stay_effects))
            weight = np.stack(
                [w * np.exp(part.shift(state.move_effects.get(to, {}))) for to, w in state.moves.items()], axis=1
            )
            following[here] = np.array([names.index(to) for to in state.moves])[_pick(weight, draw)]
        full = np.zeros(life.n)
        full[active] = hazard
        hazards.append(full)
        clock[active] = np.minimum(clock[active] + leave, life.horizon[active])
        times.append(clock.copy())
        current[active] = following
        active = active[(clock[active] < life.horizon[active])]
    life.times, life.states = np.stack(times, axis=1), np.stack(path, axis=1)
    life.times[:, -1] = life.horizon  # a patient beyond the cap stays in the last state
    entered = terminal[life.states] & (np.diff(life.times, axis=1) > 0)
    first = np.where(entered.any(axis=1), entered.argmax(axis=1), -1)
    end = np.where(first >= 0, life.times[np.arange(life.n), np.maximum(first, 0)], life.horizon)
    death = _death(life, np.stack(hazards, axis=1), draw)
    life.death = np.where(death < end, death, np.nan)
    life.terminal = np.where(
        np.isnan(life.death) & (first >= 0), life.states[np.arange(life.n), np.maximum(first, 0)], -1
    )
    life.end = np.fmin(end, life.death)


def at(plan: Plan, life: Life, subject: np.ndarray, time: np.ndarray) -> Scope:
    """Subjects as they are at some time: statics, age then, years since start."""
    scope = Scope(len(subject), plan.metas, life.scope, subject)
    scope["years"] = time / YEAR
    scope["age"] = life.scope["age"][subject] + scope["years"]
    return scope


def _pick(weight: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """One column per row, with probability proportional to its weight."""
    total = np.cumsum(weight, axis=1)
    chosen = (draw.random(len(weight))[:, None] * total[:, -1:] >= total).sum(axis=1)
    return np.minimum(chosen, weight.shape[1] - 1)


def _death(life: Life, hazard: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Death time [d]: the cumulative hazard reaches a unit exponential; inf if it does not before the horizon."""
    risk = np.concatenate([np.zeros((life.n, 1)), np.cumsum(hazard * np.diff(life.times, axis=1), axis=1)], axis=1)
    need = draw.standard_exponential(life.n)
    segment = np.minimum((need[:, None] >= risk[:, 1:]).sum(axis=1), hazard.shape[1] - 1)
    row = np.arange(life.n)
    with np.errstate(divide="ignore", invalid="ignore"):
        time = life.times[row, segment] + (need - risk[row, segment]) / hazard[row, segment]
    return np.where(need < risk[:, -1], time, np.inf)
