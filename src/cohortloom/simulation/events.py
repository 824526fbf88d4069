"""From lives to tables: rows of static, visit and event tables, with codes, times, and cells that stay empty.

A cell is empty with log-odds logit(missing) + effects; "self" among the effects is the value's own z-score, so that
missingness may depend on what was not seen. Times are floored to the resolution: the order of any two stays right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from cohortloom.rng import Rng
from cohortloom.schema.priors import CodePrior, ColumnPrior
from cohortloom.simulation.labs import Physiology
from cohortloom.simulation.laws import Scope, Variable, logistic, logit, reading
from cohortloom.simulation.plan import YEAR, Plan, TablePlan, ages_per_year
from cohortloom.simulation.static import Life
from cohortloom.simulation.visits import Moments, Visits, ends_in_death

__all__ = ["World", "tables_of"]

_US = 86_400_000_000
_GRAIN = {"day": 1.0, "hour": 1 / 24, "minute": 1 / 1440, "second": 1 / 86400}


@dataclass
class World:
    """One shard, lived through."""

    plan: Plan
    life: Life
    visits: Visits
    moments: Moments
    body: Physiology
    ticks: float  # resolution of times [d]


@dataclass
class _Rows:
    """Rows of one table: subject, moment (-1: none), time [d since start], and the row scope."""

    subject: np.ndarray
    moment: np.ndarray
    time: np.ndarray
    scope: Scope
    codes: np.ndarray | None = None
    values: np.ndarray | None = None
    doses: np.ndarray | None = None


def tables_of(world: World, rng: Rng) -> dict[str, pl.DataFrame]:
    """Frames of all tables; subject_id counts from 0, visit_id is the visit's row in the shard."""
    return {name: _table(world, name, rng.child("table", name)) for name in world.plan.schema.tables}


def _table(world: World, name: str, rng: Rng) -> pl.DataFrame:
    plan, schema = world.plan.tables[name], world.plan.schema
    role = schema.tables[name].role
    rows = {"static": _patients, "visit": _visits}.get(role, _events)(world, name, plan, rng)
    frame: dict[str, pl.Series] = {"subject_id": pl.Series(rows.subject, dtype=pl.Int64)}
    if schema.has_visit_id(name):
        visit = world.moments.visit[rows.moment] if len(world.moments.visit) else np.zeros(0, np.int64)
        lost = rng.child("outside").numpy.random(len(visit)) < plan.rows.outside
        frame["visit_id"] = pl.Series(visit, dtype=pl.Int64).set(pl.Series(lost), None)
    if schema.has_time(name):
        frame["time"] = _clock(world, rows, rows.time, None)
    for column, spec in schema.tables[name].columns.items():
        if spec.kind == "identifier":
            frame[column] = pl.Series(np.arange(len(rows.subject)), dtype=pl.Int64).cast(pl.String)
        elif column in plan.takes:
            frame[column] = _taken(world, name, column, spec, plan.takes[column], rows, rng)
        elif plan.panel is not None and column == plan.panel.column:
            frame[column] = pl.Series(list(plan.panel.codes), dtype=pl.String).gather(rows.codes)
        elif plan.panel is not None and column == plan.panel.value:
            frame[column] = pl.Series(rows.values, dtype=pl.Float64, nan_to_null=True)
        else:
            variable = next(v for v in plan.variables if v.name == f"{name}.{column}")
            frame[column] = _cells(world, variable, rows, role, plan, rng)
    return pl.DataFrame(frame)


# -- rows ------------------------------------------------------------------------------------------------------------


def _patients(world: World, name: str, plan: TablePlan, rng: Rng) -> _Rows:
    n, how = world.life.n, plan.rows
    who = np.arange(n)
    if how.chance is not None:  # a table of those who died
        who = who[rng.child("rows").numpy.random(n) < logistic(logit(how.chance) + world.life.scope.shift(how.effects))]
    scope = Scope(len(who), world.plan.metas, world.life.scope, who)
    return _Rows(who, np.full(len(who), -1), np.zeros(len(who)), scope)


def _visits(world: World, name: str, plan: TablePlan, rng: Rng) -> _Rows:
    moment = np.flatnonzero(world.moments.first)
    scope = Scope(len(moment), world.plan.metas, world.body.scope, moment)
    return _Rows(world.moments.subject[moment], moment, world.moments.time[moment], scope)


def _events(world: World, name: str, plan: TablePlan, rng: Rng) -> _Rows:
    """Occasions (moments at which something may be written) and the rows each gives."""
    moments, day, how = world.moments, world.plan.day, plan.rows
    draw = rng.child("rows").numpy
    if how.at == "moment":
        occasion = np.arange(len(moments.subject))
    elif how.at == "visit":
        occasion = np.flatnonzero(moments.first)
    else:
        new = np.concatenate([[True], np.diff(moments.subject) != 0]) if len(moments.subject) else np.zeros(0, bool)
        occasion = np.flatnonzero(new)
    scope = Scope(len(occasion), world.plan.metas, world.body.scope, occasion)
    if how.chance is not None:
        taken = draw.random(len(occasion)) < logistic(logit(how.chance) + scope.shift(how.effects))
        occasion = occasion[taken]
    if plan.panel is not None and how.count is not None:
        occasion = np.repeat(occasion, draw.poisson(how.count, len(occasion)))
    delay = draw.uniform(0, how.delay * day, len(occasion)) if how.delay else np.zeros(len(occasion))
    codes = values = doses = None
    if plan.panel is not None:
        pick, codes, values, doses = _panel(world, name, plan, occasion, rng)
        rows = occasion[pick]
        shift = delay[pick] if how.batch or not how.delay else draw.uniform(0, how.delay * day, len(rows))
    else:
        pick = np.arange(len(occasion))
        if how.count is not None:
            scope = Scope(len(occasion), world.plan.metas, world.body.scope, occasion)
            mean = how.count * np.exp(scope.shift(how.effects) if how.chance is None else 0.0)
            pick = np.repeat(pick, draw.poisson(np.minimum(np.broadcast_to(mean, len(occasion)), 1e4)))
        rows = occasion[pick]
        shift = delay[pick] if how.batch or not how.delay else draw.uniform(0, how.delay * day, len(rows))
    subject = moments.subject[rows]
    visit = moments.visit[rows]
    last = world.visits.time[visit] + world.visits.stay[visit]
    last = np.where(world.visits.stay[visit] > 0, last, np.inf)
    time = np.minimum(
        moments.time[rows] + shift, np.minimum(np.maximum(last, moments.time[rows]), world.life.end[subject])
    )
    scope = Scope(len(rows), world.plan.metas, world.body.scope, rows)
    return _Rows(subject, rows, time, scope, codes, values, doses)


def _panel(world: World, name: str, plan: TablePlan, occasion: np.ndarray, rng: Rng):
    """Rows of a code table: for each code the occasions at which it is written, its value and dose."""
    assert plan.panel is not None
    moments, body = world.moments, world.body
    scope = Scope(len(occasion), world.plan.metas, body.scope, occasion)
    subject = moments.subject[occasion]
    picks, codes, values, doses = [], [], [], []
    for k, code in enumerate(plan.panel.codes):
        prior: CodePrior = plan.panel.priors[code]
        draw = rng.child("code", code).numpy
        present = _present(world, prior, scope, subject, occasion, draw)
        pick = np.flatnonzero(present)
        value = np.full(len(pick), np.nan)
        if plan.panel.value is not None:
            seen = body.observed[f"{name}.{code}"][occasion[pick]]
            variable = next(v for v in plan.variables if v.name == f"{name}.{code}")
            part = Scope(len(pick), world.plan.metas, scope, pick)
            value = np.where(_empty(variable, part, seen, draw), np.nan, seen)
        dose = np.full(len(pick), np.nan)
        if prior.treatment is not None:
            dose = body.dose[prior.treatment][occasion[pick]]
        picks.append(pick)
        codes.append(np.full(len(pick), k))
        values.append(value)
        doses.append(dose)
    pick, code, value, dose = (np.concatenate(x) if x else np.zeros(0) for x in (picks, codes, values, doses))
    order = np.lexsort((code, pick))
    return pick[order].astype(np.int64), code[order], value[order], dose[order]


def _present(world: World, prior: CodePrior, scope: Scope, subject, occasion, draw) -> np.ndarray:
    allowed = np.ones(len(subject), bool)
    for path, levels in prior.only.items():
        meta = world.plan.metas[path]
        good = np.array([level in levels for level in meta.levels] + [False])
        allowed &= good[world.life.scope[path].astype(np.int64)][subject]
    chance = prior.chance if prior.chance is not None else 0.5
    if prior.treatment is not None:
        taken = world.body.given[prior.treatment][occasion]
        recorded = chance if prior.chance is not None else 1.0
        return allowed & taken & (draw.random(len(subject)) < recorded)
    if not prior.chronic:
        return allowed & (draw.random(len(subject)) < logistic(logit(chance) + scope.shift(prior.presence_effects)))
    life = world.life
    shift = life.scope.shift(prior.presence_effects)
    before = draw.random(life.n) < logistic(logit(chance) + shift)
    wait = draw.standard_exponential(life.n) * YEAR / np.maximum(prior.incidence * np.exp(shift), 1e-12)
    onset = np.where(before, -np.inf, wait)
    return allowed & (world.moments.time[occasion] >= onset[subject]) & (draw.random(len(subject)) < prior.recorded)


# -- cells -----------------------------------------------------------------------------------------------------------


def _cells(world: World, variable: Variable, rows: _Rows, role: str, plan: TablePlan, rng: Rng) -> pl.Series:
    draw = rng.child("cells", variable.name).numpy
    if role == "static":
        seen = world.life.observed[variable.name][rows.subject]
    elif role == "visit" or (plan.panel is None and plan.rows.count is None):
        seen = world.body.observed[variable.name][rows.moment]
    else:  # many rows at one moment: each its own reading
        j = [v.name for v in world.plan.temporals].index(variable.name)
        own = np.sqrt(variable.prior.between or 0.0) * world.body.b[rows.subject, j]
        noise = np.sqrt(max(1 - (variable.prior.between or 0.0), 0.0)) * draw.standard_normal(len(rows.subject))
        plain = Variable(variable.name, variable.kind, variable.prior.model_copy(update={"noise": 0.0}), variable.low,
                         variable.high, variable.decimals, variable.levels, variable.weights)  # fmt: skip
        seen = reading(plain, rows.scope, own + noise, np.zeros(len(noise)), draw)[1]
        rows.scope[variable.name] = seen
    empty = pl.Series(_empty(variable, rows.scope, seen, draw))
    return _series(variable, seen).set(empty, None)


def _series(variable: Variable, seen: np.ndarray) -> pl.Series:
    if variable.kind == "number":
        return pl.Series(seen, dtype=pl.Float64)
    if variable.kind == "count":
        return pl.Series(np.round(seen).astype(np.int64))
    if variable.kind == "flag":
        return pl.Series(seen > 0)
    return pl.Series(list(variable.levels), dtype=pl.String).gather(np.asarray(seen, np.int64))


def _empty(variable: Variable, scope: Scope, seen: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    prior, u = variable.prior, draw.random(len(seen))
    if not prior.missing:
        return np.zeros(len(seen), bool)
    own = None
    if "self" in prior.missing_effects:
        typical, sd = prior.typical or 0.0, prior.sd or 1.0
        if prior.scale == "log":
            own = np.log(np.maximum(seen, 1e-12) / max(typical, 1e-12)) / sd
        else:
            own = (seen - typical) / sd
    return u < logistic(logit(prior.missing) + scope.shift(prior.missing_effects, own))


def _taken(world: World, table: str, column: str, spec, prior: ColumnPrior, rows: _Rows, rng: Rng) -> pl.Series:
    """A column that reads the simulated life."""
    life, plan, subject = world.life, world.plan, rows.subject
    word = prior.takes
    role = plan.schema.tables[table].role
    died = ~np.isnan(life.death)
    if word in ("birth", "start", "end", "death", "during"):
        time = {"birth": -life.scope["age"] * YEAR, "start": np.zeros(life.n), "end": life.end, "death": life.death,
                "during": life.end * rng.child(column).numpy.random(life.n)}[word]  # fmt: skip
        series = _clock(world, rows, time[subject], spec)
    elif word in ("visit_end", "row_end"):
        series = _clock(world, rows, _until(world, rows, prior, word, rng.child(column).numpy), spec)
    elif word in ("age", "follow_up", "visit_length", "visit_number", "dose"):
        if word == "age":
            years = life.scope["age"][subject] + (0.0 if role == "static" else rows.time / YEAR)
            value = years * (ages_per_year(spec, column) or 1.0)
        elif word == "follow_up":
            value = life.end[subject] / plan.day
        elif word == "visit_number":
            visit = world.moments.visit[rows.moment]
            value = (visit - np.searchsorted(world.visits.subject, subject) + 1).astype(float)
        elif word == "visit_length":
            value = world.visits.stay[world.moments.visit[rows.moment]] / plan.day
        else:
            value = rows.doses if rows.doses is not None else np.full(len(subject), np.nan)
        series = _number(spec, value)
    elif word in ("died", "died_here"):
        flag = died[subject]
        if word == "died_here" and role != "static":
            flag = ends_in_death(life, world.visits)[world.moments.visit[rows.moment]]
        series = _worded(spec, np.where(flag, 1, 0), ("no", "yes"), prior.levels)
    elif word == "status":
        words = ("censored", "death", *plan.states)
        position = np.where(died, 1, np.where(life.terminal >= 0, life.terminal + 2, 0))[subject]
        series = _worded(spec, position, words, prior.levels)
    elif word == "state":
        state = life.states[:, 0][subject] if role == "static" else rows.scope["state"]
        series = _worded(spec, state, plan.states, prior.levels)
    else:
        series = _worded(spec, rows.scope["visit"], tuple(plan.streams), prior.levels)
    if spec.missing and prior.missing:
        shift = rows.scope.shift(prior.missing_effects)
        empty = rng.child(column, "missing").numpy.random(len(subject)) < logistic(logit(prior.missing) + shift)
        series = series.set(pl.Series(empty), None)
    return series


def _until(world: World, rows: _Rows, prior: ColumnPrior, word: str, draw) -> np.ndarray:
    visit = world.moments.visit[rows.moment]
    end = world.visits.time[visit] + world.visits.stay[visit]
    if word == "visit_end":
        return end
    typical = prior.typical if prior.typical is not None else 1.0
    spread = prior.sd if prior.sd is not None else 0.5
    until = rows.time + typical * world.plan.day * np.exp(spread * draw.standard_normal(len(rows.time)))
    return np.minimum(until, world.life.end[rows.subject])


def _number(spec, value: np.ndarray) -> pl.Series:
    low = -np.inf if spec.low is None else spec.low
    high = np.inf if spec.high is None else spec.high
    if spec.kind == "count":
        known = np.isfinite(value)
        whole = np.clip(np.floor(np.where(known, value, 0)), low, high).astype(np.int64)
        return pl.Series(whole).set(pl.Series(~known), None)
    if spec.decimals is not None:
        value = np.floor(value * 10**spec.decimals + 1e-9) / 10**spec.decimals
    return pl.Series(np.clip(value, low, high), dtype=pl.Float64, nan_to_null=True)


def _worded(spec, position: np.ndarray, words: tuple[str, ...], levels: dict[str, str]) -> pl.Series:
    """Words of the simulation in the column's own levels; flags are true where the word is not the first."""
    if spec.kind == "flag":
        if levels:
            return pl.Series(np.array([levels.get(w, "").lower() == "true" for w in words])[position])
        return pl.Series(position > 0)
    if spec.kind in ("number", "count"):
        return pl.Series(position.astype(float if spec.kind == "number" else np.int64))
    own = spec.levels or words
    default = [own[min(i, len(own) - 1)] for i in range(len(words))]
    names = [levels.get(w, w if w in own else default[i]) for i, w in enumerate(words)]
    return pl.Series(names, dtype=pl.String).gather(position)


def _clock(world: World, rows: _Rows, time: np.ndarray, spec) -> pl.Series:
    """Days since the patient's start on the schema's clock, floored to the resolution; NaN becomes null."""
    schema = world.plan.schema
    known = np.isfinite(time)
    if schema.clock == "order":
        first = np.concatenate([[True], np.diff(rows.subject) != 0]) if len(time) else np.zeros(0, bool)
        nth = np.arange(len(time)) - np.maximum.accumulate(np.where(first, np.arange(len(time)), 0))
        visit = world.moments.visit[rows.moment] if len(world.moments.visit) and (rows.moment >= 0).any() else None
        if visit is not None:  # an event's order is that of its visit
            begin = np.searchsorted(world.visits.subject, rows.subject)
            nth = visit - begin
        return pl.Series(nth.astype(np.int64)).set(pl.Series(~known), None)
    absolute = np.where(known, time, 0.0) + world.life.start[rows.subject]
    tick = max(world.ticks, 1e-12)
    whole = np.floor(absolute / tick + 1e-7)
    stamp = np.round(whole * tick * _US).astype(np.int64)
    dtype: pl.DataType = pl.Duration("us")
    if schema.clock == "timestamp":
        dtype = pl.Datetime("us")
    series = pl.Series(stamp).cast(dtype)
    if spec is not None and spec.granularity != "exact":
        series = _coarse(series, spec.granularity, schema.clock)
    return series.set(pl.Series(~known), None)


def _coarse(series: pl.Series, grain: str, clock: str) -> pl.Series:
    if clock == "timestamp":
        every = {"year": "1y", "month": "1mo", "day": "1d", "hour": "1h", "minute": "1m", "second": "1s"}[grain]
        return series.dt.truncate(every)
    step = int({"year": YEAR, "month": YEAR / 12, **_GRAIN}[grain] * _US)
    return (series.cast(pl.Int64) // step * step).cast(series.dtype)
