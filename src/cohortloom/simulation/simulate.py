"""A cohort from a schema alone.

Patients come in shards of a fixed size, each with its own branch of the seed's tree, so the number of workers changes
nothing. A shard is lived through step by step: patients, course of illness, visits, moments, physiology with
treatments, tables. What breaks a rule of the schema is repaired where the rule knows how, else redrawn. Waveforms
follow when all tables stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort, Origin
from cohortloom.errors import Problem, SamplingError, SchemaError, SettingsError
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.schema.source import TIME_UNITS
from cohortloom.simulation.disease import live
from cohortloom.simulation.events import World, tables_of
from cohortloom.simulation.labs import live_through
from cohortloom.simulation.plan import Plan, make_plan
from cohortloom.simulation.static import draw_patients
from cohortloom.simulation.visits import draw_moments, draw_visits
from cohortloom.version import __version__

__all__ = ["Truth", "simulate", "simulate_with_truth"]

#: Patients per shard. Part of what a seed means: changing it changes every simulated cohort.
SHARD = 1_000
#: How often patients that break a rule are drawn anew.
REDRAWS = 20


@dataclass(frozen=True)
class Truth:
    """What a simulated cohort does not show.

    Args:
        patients: subject_id, age, frailty, end and death [d since start], terminal state.
        path: subject_id, from and to [d since start], state.
        moments: subject_id, visit_id, time [d since start], state, every variable's true value, treatments in force.
    """

    patients: pl.DataFrame
    path: pl.DataFrame
    moments: pl.DataFrame


def simulate(schema: Schema, n_subjects: int, *, seed: int, workers: int = 1) -> Cohort:
    """Draw a cohort from a schema and its priors.

    Args:
        schema: Any sound schema; what has no prior gets the defaults of `simulation/plan`.
        n_subjects: Patients, exactly as many.
        seed: Same seed, same bytes, whatever `workers` is.
        workers: Processes that draw shards.

    Raises:
        SchemaError: priors name what does not exist, or there is no table.
        SamplingError: some patients still break a rule after all redraws.
    """
    return _simulate(schema, n_subjects, seed, workers, truth=False)[0]


def simulate_with_truth(schema: Schema, n_subjects: int, *, seed: int, workers: int = 1) -> tuple[Cohort, Truth]:
    """As `simulate` (the same bytes), with the latent truth of every patient beside it."""
    cohort, truth = _simulate(schema, n_subjects, seed, workers, truth=True)
    assert truth is not None
    return cohort, truth


def _simulate(schema: Schema, n_subjects: int, seed: int, workers: int, truth: bool) -> tuple[Cohort, Truth | None]:
    if isinstance(n_subjects, bool) or n_subjects < 0:
        raise SettingsError("simulate: n_subjects must be 0 or more")
    if problems := problems_of_priors(schema):  # before any worker starts
        raise SchemaError(f'the priors of schema "{schema.name}" can\'t be used', problems)
    starts = range(0, n_subjects, SHARD)
    jobs = [(schema, seed, i, min(SHARD, n_subjects - first), truth) for i, first in enumerate(starts)]
    if workers > 1 and len(jobs) > 1:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(_shard, jobs))
    else:
        parts = [_shard(job) for job in jobs]
    tables = _joined(schema, [p[0] for p in parts], list(starts))
    origin = Origin("synthetic", "simulate", seed=seed, version=__version__, notes=_notes(parts))
    cohort = Cohort.build(schema, tables, origin=origin)
    if any(spec.prior is not None for spec in schema.signals.values()):
        from cohortloom.simulation.signals import draw_signals

        cohort = replace(cohort, signals=draw_signals(cohort, Rng(seed).child("signals")))
    if not truth:
        return cohort, None
    merged = _joined(schema, [p[1] for p in parts], list(starts)) if parts else _no_truth(schema, seed)
    return cohort, Truth(merged["patients"], merged["path"], merged["moments"])


def problems_of_priors(schema: Schema) -> list[Problem]:
    """Everything that keeps a sound schema from being simulated: priors that name what does not exist, circles."""
    problems: list[Problem] = []
    try:
        make_plan(schema)
    except SchemaError as error:
        problems += error.problems
    if any(spec.prior is not None for spec in schema.signals.values()):
        from cohortloom.simulation.signals import signal_problems

        problems += signal_problems(schema)
    return problems


def _shard(job: tuple) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame], dict[str, int]]:
    """Tables and truth of one shard, subjects 0..n-1, with rules held."""
    schema, seed, number, n, truth = job
    plan, rng = make_plan(schema), Rng(seed).child("simulate", number)
    tables, hidden = _draw(plan, n, rng.child("draw"), truth)
    redrawn = 0
    for attempt in range(REDRAWS + 1):
        tables = _repaired(schema, tables, rng.child("repair", attempt))
        broken = _broken(schema, tables, n)
        if not len(broken):
            return tables, hidden, {"redrawn": redrawn}
        if attempt == REDRAWS:
            break
        redrawn += len(broken)
        fresh, fresh_hidden = _draw(plan, len(broken), rng.child("redraw", attempt), truth)
        tables = _replace(tables, fresh, broken, schema)
        hidden = _replace(hidden, fresh_hidden, broken, schema)
    raise SamplingError(
        f"{len(broken)} of {n} patients of one shard still break a rule of the schema, or have no row in any table, "
        f"after {REDRAWS} redraws.{_rules_broken(schema, tables)} Loosen the rule or change the priors."
    )


def _rules_broken(schema: Schema, tables: dict[str, pl.DataFrame]) -> str:
    """The rules that fail most, in words."""
    from cohortloom.rules import check

    found = [v for v in check(Cohort.build(schema, tables)) if v.severity == "error"]
    worst = sorted(found, key=lambda v: -v.count)[:3]
    return " Broken: " + "; ".join(f'"{v.what}" ({v.count:,} of {v.n:,} rows)' for v in worst) + "." if worst else ""


def _draw(plan: Plan, n: int, rng: Rng, truth: bool) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    ticks = resolution(plan)
    life = draw_patients(plan, n, rng)
    live(plan, life, rng)
    visits = draw_visits(plan, life, rng, ticks)
    moments = draw_moments(plan, visits, rng)
    body = live_through(plan, life, visits, moments, rng)
    world = World(plan, life, visits, moments, body, ticks)
    return tables_of(world, rng), _truth(world) if truth else {}


def resolution(plan: Plan) -> float:
    """Step of all times [d]: the grid's bin, the prior's choice, or a minute (a day on long offsets)."""
    schema = plan.schema
    grid = schema.tables[schema.visit_table].grid if schema.visit_table else None
    if grid is not None:
        from cohortloom.simulation.plan import _grid_days

        return _grid_days(schema) or 1.0
    if plan.simulation.resolution:
        return TIME_UNITS[plan.simulation.resolution]
    return 1.0 if schema.clock == "offset" and plan.day >= 1 else 1 / 1440


def _truth(world: World) -> dict[str, pl.DataFrame]:
    life, moments, plan = world.life, world.moments, world.plan
    ids = np.arange(life.n)
    names = pl.Series([*plan.states], dtype=pl.String)
    ended = pl.Series(life.terminal, dtype=pl.Int64)
    patients = pl.DataFrame(
        {"subject_id": ids, "start": life.start, "age": life.scope["age"], "frailty": life.scope["frailty"],
         "end": life.end, "death": pl.Series(life.death, nan_to_null=True),
         "terminal": names.gather(ended.set(ended < 0, None))}
    )  # fmt: skip
    length = np.diff(life.times, axis=1)
    who, segment = np.nonzero((length > 0) & (life.times[:, :-1] < life.end[:, None]))
    path = pl.DataFrame(
        {"subject_id": who, "from": life.times[who, segment],
         "to": np.minimum(life.times[who, segment + 1], life.end[who]),
         "state": names.gather(life.states[who, segment])}
    )  # fmt: skip
    hidden = {"subject_id": moments.subject, "visit_id": moments.visit, "time": moments.time}
    hidden["state"] = names.gather(world.body.scope["state"])
    for v in plan.temporals:
        true = world.body.scope[v.name]
        hidden[v.name] = pl.Series(list(v.levels), dtype=pl.String).gather(true) if v.levels else true
    for t in plan.simulation.treatments:
        hidden[f"treatment.{t}"] = world.body.scope[f"treatment.{t}"] > 0
    return {"patients": patients, "path": path, "moments": pl.DataFrame(hidden)}


# -- putting shards together -----------------------------------------------------------------------------------------


def _joined(schema: Schema, parts: list[dict[str, pl.DataFrame]], starts: list[int]) -> dict[str, pl.DataFrame]:
    """Shards under one numbering: subjects 1..n, visits 1..m in the order of subjects and times."""
    out: dict[str, list[pl.DataFrame]] = {}
    visits = 1
    for tables, first in zip(parts, starts):
        highest = 0
        for name, frame in tables.items():
            shifts = [pl.col("subject_id") + (first + 1)]
            if "visit_id" in frame.columns:
                shifts.append(pl.col("visit_id") + visits)
                highest = max(highest, int(frame["visit_id"].max() or 0) + 1) if frame.height else highest
            frame = frame.with_columns(shifts)
            out.setdefault(name, []).append(frame)
        visits += highest
    joined = {name: pl.concat(frames) for name, frames in out.items()}
    for name, frame in joined.items():
        if name not in schema.tables:
            continue
        for column, spec in schema.tables[name].columns.items():
            if spec.kind == "identifier":
                width = max(len(str(frame.height)), 6)
                text = pl.Series([f"{i:0{width}d}" for i in range(1, frame.height + 1)], dtype=pl.String)
                frame = frame.with_columns(text.alias(column))
        joined[name] = frame
    return joined


def _replace(tables: Mapping, fresh: Mapping, broken: np.ndarray, schema: Schema) -> dict[str, pl.DataFrame]:
    """Tables with the broken subjects taken out and fresh ones put in under their ids."""
    ids = pl.Series(broken, dtype=pl.Int64)
    base = max(
        (int(t["visit_id"].max() or 0) + 1 for t in tables.values() if "visit_id" in t.columns and t.height), default=0
    )
    out = {}
    for name, frame in tables.items():
        new = fresh[name].with_columns(ids.gather(fresh[name]["subject_id"]).alias("subject_id"))
        if "visit_id" in new.columns:
            new = new.with_columns(pl.col("visit_id") + base)
        kept = frame.filter(~pl.col("subject_id").is_in(ids.implode()))
        out[name] = pl.concat([kept, new]).sort("subject_id", maintain_order=True)
    return out


def _repaired(schema: Schema, tables: dict[str, pl.DataFrame], rng: Rng) -> dict[str, pl.DataFrame]:
    try:
        from cohortloom.rules import repair
    except ImportError:
        return tables
    return dict(repair(Cohort.build(schema, tables), rng).tables)


def _broken(schema: Schema, tables: dict[str, pl.DataFrame], n: int) -> np.ndarray:
    """Subjects that break a rule, or that stand in no table."""
    cohort = Cohort.build(schema, tables)
    absent = np.setdiff1d(np.arange(n), cohort.subjects.to_numpy())
    try:
        from cohortloom.rules import broken_subjects
    except ImportError:
        return absent
    return np.union1d(absent, broken_subjects(cohort).cast(pl.Int64).to_numpy()).astype(np.int64)


def _notes(parts: list) -> dict[str, int]:
    redrawn = sum(p[2]["redrawn"] for p in parts)
    return {"redrawn": redrawn} if redrawn else {}


def _no_truth(schema: Schema, seed: int) -> dict[str, pl.DataFrame]:
    return {k: v.clear() for k, v in _draw(make_plan(schema), 1, Rng(seed), True)[1].items()}
