"""From a schema to a plan: every gap of the priors filled by a default that follows from the schema alone.

Defaults by kind, where no prior is given:

    number    on [low, high]: typical in the middle, sd an eighth of the width (log scale where 0 < low < high / 20);
              only low: log scale, typical low + 10; no bounds: typical 0, sd 1
    count     between bounds of which low is above 0 as a number; else Poisson with a log-normal mean (as low + 2, or a
              tenth of high)
    flag      chance 0.3 | category, ordinal: equal frequencies | code: frequency 1 / rank
    missing   one cell in ten where a column may be empty

Names decide what a column takes from the simulated life (birth_date, death_date, died, age, discharge, ...) and the
schema's survival pairs always do. Other dates of statics are the start, or fall within follow-up where they may be
empty; a rule that puts one before (after) all visits makes it the start (the end). A grid makes one visit per bin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from cohortloom.errors import Problem, SchemaError
from cohortloom.schema import Schema
from cohortloom.schema.priors import (
    ColumnPrior,
    Course,
    FollowUp,
    Prior,
    Rows,
    Simulation,
    Sojourn,
    State,
    Stream,
)
from cohortloom.schema.source import TIME_UNITS
from cohortloom.simulation.laws import Meta, Variable

__all__ = ["YEAR", "Panel", "Plan", "TablePlan", "make_plan"]

#: Days in a year.
YEAR = 365.25
#: Codes a code column gets that lists none.
N_PLACEHOLDERS = 20
#: Words of ages that are not the patient's own, and of columns that number visits.
_NOT_OWN = {"gestational", "gestation", "bone", "donor", "maternal", "mother", "paternal", "father", "partner"}
_NUMBERED = {"cycle", "visitnum", "visitno"}
_AGE_UNITS = {"mo": ("mo", "month", "months"), "wk": ("wk", "week", "weeks"), "d": ("d", "day", "days")}
#: Codes beyond this number are drawn one per row, not each on its own at every visit.
MANY_CODES = 60


@dataclass(frozen=True)
class Panel:
    """A code column of which each code has its own law."""

    column: str
    value: str | None
    codes: tuple[str, ...]
    priors: dict = field(default_factory=dict)


@dataclass(frozen=True)
class TablePlan:
    """One table: variables drawn once per row, columns taken from the life, and for event tables how rows come."""

    variables: tuple[Variable, ...]
    takes: dict[str, ColumnPrior]
    rows: Rows = field(default_factory=Rows)
    panel: Panel | None = None


@dataclass(frozen=True)
class Plan:
    """All that `simulate` needs, complete."""

    schema: Schema
    simulation: Simulation
    course: Course
    streams: dict[str, Stream]
    tables: dict[str, TablePlan]
    statics: tuple[Variable, ...]
    temporals: tuple[Variable, ...]

    @property
    def day(self) -> float:
        """Days in the simulation's unit."""
        return TIME_UNITS[self.simulation.unit]

    @cached_property
    def states(self) -> tuple[str, ...]:
        return tuple(self.course.states)

    @cached_property
    def metas(self) -> dict[str, Meta]:
        """Every name an effect may use."""
        age = self.simulation.age
        out = {
            "age": Meta("number", age.typical or 0.0),
            "years": Meta("number"),
            "frailty": Meta("number"),
            "state": Meta("category", levels=self.states),
            "visit": Meta("category", levels=tuple(self.streams)),
        }
        out |= {f"treatment.{name}": Meta("flag") for name in self.simulation.treatments}
        out |= {v.name: v.meta for v in (*self.statics, *self.temporals)}
        for table, plan in self.tables.items():
            for column, prior in plan.takes.items():
                if prior.takes in ("age", "state", "visit_kind"):
                    out[f"{table}.{column}"] = out["visit" if prior.takes == "visit_kind" else prior.takes]
                if prior.takes == "died_here":
                    out[f"{table}.{column}"] = Meta("flag")
        return out

    @cached_property
    def latent_names(self) -> tuple[str, ...]:
        """Order of the patient-level normals: frailty, age, statics, temporal variables."""
        return ("frailty", "age", *(v.name for v in self.statics), *(v.name for v in self.temporals))

    def root(self, names: tuple[str, ...]) -> np.ndarray:
        """Lower-triangular-like root of the nearest correlation matrix of the named latents (eigenvalues clipped)."""
        position = {n: i for i, n in enumerate(names)}
        matrix = np.eye(len(names))
        for a, b, r in self.simulation.correlations:
            if a in position and b in position:
                matrix[position[a], position[b]] = matrix[position[b], position[a]] = r
        if np.array_equal(matrix, np.eye(len(names))):
            return matrix
        values, vectors = np.linalg.eigh(matrix)
        root = vectors * np.sqrt(np.maximum(values, 1e-9))
        return root / np.sqrt((root**2).sum(axis=1, keepdims=True))


def make_plan(schema: Schema) -> Plan:
    """Complete the priors of a schema.

    Raises:
        SchemaError: no tables, or priors that name what does not exist or depend on each other in a circle.
    """
    if not schema.tables:
        raise SchemaError(
            "", [Problem("no-tables", "schema", "has no tables", 'Add [tables.patients] with role = "static".')]
        )  # fmt: skip
    given = schema.simulation or Simulation()
    tables = {name: _table(schema, name, given) for name in schema.tables}
    follow = _follow_up(schema, given)
    simulation = given.model_copy(update={"follow_up": follow, "unit": _unit(schema, given)})
    simulation = simulation.model_copy(update={"age_range": _age_range(schema, tables, simulation)})
    low, high = simulation.age_range
    typical = 60.0 if low <= 60.0 <= high else (low + high) / 2
    usual = {"typical": typical, "sd": 15.0 if typical == 60.0 else (high - low) / 5}
    said = simulation.age.model_fields_set if "age" in given.model_fields_set else set()
    age = simulation.age.model_copy(update={k: v for k, v in usual.items() if k not in said})
    simulation = simulation.model_copy(update={"age": age})
    plan = Plan(
        schema,
        simulation,
        given.course or _course(tables, follow, TIME_UNITS[simulation.unit]),
        given.visits or _streams(schema, tables, simulation),
        tables,
        tuple(v for n, t in tables.items() if schema.tables[n].role == "static" for v in t.variables),
        tuple(v for n, t in tables.items() if schema.tables[n].role != "static" for v in t.variables),
    )
    from cohortloom.simulation.names import prior_problems

    problems = prior_problems(plan)
    if problems:
        raise SchemaError(f'the priors of schema "{schema.name}" can\'t be used', problems)
    return replace(plan, statics=_in_order(plan.statics), temporals=_in_order(plan.temporals))


# -- columns ---------------------------------------------------------------------------------------------------------


def _table(schema: Schema, name: str, given: Simulation) -> TablePlan:
    table = schema.tables[name]
    takes: dict[str, ColumnPrior] = {}
    variables: list[Variable] = []
    rows = given.rows.get(name, Rows())
    panel = _panel(schema, name)
    for column, spec in table.columns.items():
        if spec.kind == "identifier":
            continue
        prior = spec.prior or ColumnPrior()
        word = prior.takes or (
            None if spec.prior is not None and spec.kind != "timestamp" else _guess(schema, name, column)
        )
        if word is not None:
            update = {"takes": word, "levels": prior.levels or _words(schema, name, column)}
            if word == "during" and prior.missing is None:
                update["missing"] = 0.5
            takes[column] = prior.model_copy(update=update)
            continue
        if panel and column in (panel.column, panel.value):
            continue
        variables.append(_variable(f"{name}.{column}", spec, prior))
    if panel and panel.value is not None:
        items = table.columns[panel.column].items  # type: ignore[union-attr]
        value = table.columns[panel.value]
        for code in panel.codes:
            item = items.get(code)
            spec = value if item is None else value.model_copy(
                update={"low": item.low, "high": item.high, "decimals": item.decimals, "unit": item.unit}
            )  # fmt: skip
            variables.append(_variable(f"{name}.{code}", spec, panel.priors[code], missing=0.0))
    if panel is None and table.role == "event" and name not in given.rows:
        coded = any(c.kind == "code" for c in table.columns.values())
        rows = Rows(count=2.0) if coded else Rows(chance=0.8)
    if table.role == "event" and not schema.has_time(name) and not schema.has_visit_id(name):
        rows = rows.model_copy(update={"at": "patient"})
    return TablePlan(tuple(variables), takes, rows, panel)


def _panel(schema: Schema, name: str) -> Panel | None:
    """The code column whose codes have laws of their own: the long table's, or the first with priors by code."""
    table = schema.tables[name]
    if table.role != "event":
        return None
    column = table.code or next(
        (c for c, s in table.columns.items() if s.kind == "code" and s.prior is not None and s.prior.codes), None
    )
    if column is None:
        return None
    spec = table.columns[column]
    value = table.value if column == table.code else None
    if spec.prior is not None and spec.prior.codes:
        return Panel(column, value, tuple(spec.prior.codes), dict(spec.prior.codes))
    told = schema.simulation.rows.get(name) if schema.simulation else None
    if value is None and ((spec.prior is not None and spec.prior.weights) or (told is not None and told.count)):
        return None
    codes = tuple(spec.items) or spec.levels or _placeholders(spec.system)
    if len(codes) > MANY_CODES and value is None:
        return None
    chance = 0.7 if value is not None else min(0.5, 2.0 / len(codes))
    from cohortloom.schema.priors import CodePrior

    return Panel(column, value, codes, {code: CodePrior(chance=chance) for code in codes})


def _placeholders(system: str) -> tuple[str, ...]:
    return tuple(f"{system or 'code'}-{i:02d}" for i in range(1, N_PLACEHOLDERS + 1))


def _variable(name: str, spec, prior: Prior, missing: float | None = None) -> Variable:
    """A variable with its law filled in."""
    kind = spec.kind
    low = -np.inf if getattr(spec, "low", None) is None else float(spec.low)
    high = np.inf if getattr(spec, "high", None) is None else float(spec.high)
    levels: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    typical, sd, scale = prior.typical, prior.sd, prior.scale
    if kind in ("category", "ordinal", "code"):
        levels = tuple(spec.levels or ()) or tuple(getattr(spec, "items", ())) or tuple(prior.weights)
        levels = levels or _placeholders(getattr(spec, "system", ""))
        weights = tuple(
            prior.weights.get(level, 0.0) if prior.weights else (1.0 / (i + 1) if kind == "code" else 1.0)
            for i, level in enumerate(levels)
        )
    elif kind == "number":
        typical, sd, scale = _number_law(low, high, typical, sd, scale)
    elif kind == "count" and scale is None and typical is None and low > 0 and np.isfinite(high):
        typical, sd, scale = _number_law(low, high, typical, sd, "linear")
    elif kind == "count":
        scale = scale or "log"
        if typical is None:
            typical = max(low, 0.0) + 2.0 if not np.isfinite(high) else low + max((high - low) / 10, 0.5)
        sd = (0.5 if scale == "log" else max(abs(typical) / 4, 0.5)) if sd is None else sd
    noise = prior.noise if prior.noise is not None else (0.15 if kind == "number" else 0.0)
    between = prior.between if prior.between is not None else min(0.5, 1 - noise)
    rate = prior.missing if prior.missing is not None else (0.1 if missing is None else missing)
    filled = {
        "typical": typical, "sd": sd, "scale": scale, "noise": noise, "between": between,
        "memory": prior.memory or np.inf, "missing": rate if spec.missing else 0.0,
        "chance": 0.3 if kind == "flag" and prior.chance is None else prior.chance,
    }  # fmt: skip
    return Variable(
        name, kind, prior.model_copy(update=filled), low, high, getattr(spec, "decimals", None), levels, weights
    )


def _number_law(low, high, typical, sd, scale) -> tuple[float, float, str]:
    both = np.isfinite(low) and np.isfinite(high)
    if scale is None:
        wide = typical is None and sd is None and low > 0 and (not both or high > 20 * low)
        scale = "log" if wide or (typical is None and np.isfinite(low) and low >= 0 and not both) else "linear"
    if typical is None:
        if both:
            typical = float(np.sqrt(low * high)) if scale == "log" and low > 0 else (low + high) / 2
        elif np.isfinite(low):
            typical = low + 10.0
        elif np.isfinite(high):
            typical = high - 10.0
        else:
            typical = 0.0
    if sd is None:
        if scale == "log":
            sd = float(np.log(high / low) / 8) if both and low > 0 else 0.5
        elif scale == "logit":
            sd = 0.7
        elif both:
            sd = (high - low) / 8
        else:
            sd = max(abs(typical) / 5, 1.0) if typical else 1.0
    return float(typical), float(sd), scale


# -- what a column takes from the life -------------------------------------------------------------------------------


def _guess(schema: Schema, table: str, column: str) -> str | None:
    spec, role = schema.tables[table].columns[column], schema.tables[table].role
    path, name = f"{table}.{column}", column.lower()
    words = set(re.split(r"[^a-z]+", name))
    if role == "static":
        for pair in schema.survival:
            if path == pair.time:
                return "end" if spec.kind == "timestamp" else "follow_up"
            if path == pair.event:
                return "died" if spec.kind == "flag" else "status"
        if spec.kind == "timestamp":
            for pattern, word in (
                ("birth|dob", "birth"),
                ("death|died|dod|deceased", "death" if spec.missing else "end"),  # a table of those who died
                ("end|last|censor|exit", "end"),
                ("first|start|admi|enrol|random|diagnos|index|baseline|inclu|entry|onset", "start"),
            ):
                if re.search(pattern, name):
                    return word
            return _by_rules(schema, path) or ("during" if spec.missing else "start")
        if spec.kind == "flag" and words & {"died", "dead", "death", "deceased", "mortality"}:
            return "died"
        return "age" if ages_per_year(spec, column) else None
    if spec.kind == "timestamp":
        return "visit_end" if role == "visit" else "row_end"
    if ages_per_year(spec, column):
        return "age"
    if role == "visit" and spec.kind == "count" and (words & _NUMBERED or _strictly_up(schema, path)):
        return "visit_number"
    if role == "visit" and spec.kind == "flag" and (words & {"died", "death", "expired"} or "expire" in name):
        return "died_here"
    return None


def ages_per_year(spec, column: str) -> float | None:
    """Units of an age in a year, by the column's unit or name; None: the column is no age of the patient."""
    words = set(re.split(r"[^a-z]+", column.lower()))
    if spec.kind not in ("number", "count") or "age" not in words or words & _NOT_OWN:
        return None
    unit = getattr(spec, "unit", None) or next((u for u, named in _AGE_UNITS.items() if words & set(named)), "a")
    return YEAR / TIME_UNITS[unit] if unit in TIME_UNITS else None


def _by_rules(schema: Schema, path: str) -> str | None:
    """ "start" ("end") for a date that a rule puts before (after) the times of visits or events."""
    for said in (rule.settings for rule in schema.rules if rule.kind == "before"):
        first, then = str(said.get("first", "")), str(said.get("then", ""))
        if path in (first, then) and (then if path == first else first).endswith(".time"):
            return "start" if path == first else "end"
    return None


def _strictly_up(schema: Schema, path: str) -> bool:
    up = [r.settings for r in schema.rules if r.kind == "monotone"]
    return any(s.get("column") == path and s.get("strict") and s.get("direction", "up") == "up" for s in up)


def _words(schema: Schema, table: str, column: str) -> dict[str, str]:
    """For a status column of a survival pair: "death" and "censored" -> levels."""
    path = f"{table}.{column}"
    for pair in schema.survival:
        if path == pair.event and pair.levels:
            levels = schema.column(path).levels  # type: ignore[union-attr]
            other = [level for level in levels if level not in pair.levels]
            return {"death": pair.levels[0], "censored": other[0] if other else pair.levels[0]}
    return {}


# -- defaults of the life --------------------------------------------------------------------------------------------


def _grid_days(schema: Schema) -> float | None:
    table = schema.tables[schema.visit_table] if schema.visit_table else None
    if table is None or table.grid is None:
        return None
    number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", table.grid.every).groups()  # type: ignore[union-attr]
    return float(number) * TIME_UNITS[unit]


def _unit(schema: Schema, given: Simulation) -> str:
    if schema.simulation is not None:
        return given.unit
    grid = _grid_days(schema)
    return "h" if grid is not None and grid < 1 else "d"


def _follow_up(schema: Schema, given: Simulation) -> FollowUp:
    follow, update = given.follow_up, {}
    day = TIME_UNITS[_unit(schema, given)]
    if schema.clock == "timestamp":
        update["opens"] = follow.opens or "2016-01-01"
        update["closes"] = follow.closes or follow.opens or "2019-12-31"
        if follow.ends is None and follow.length is None:
            update["ends"] = f"{int(update['closes'][:4]) + 3:04d}-12-31"
    elif follow.length is None:
        grid = _grid_days(schema)
        update["length"] = Sojourn(mean=(48 * grid if grid else 4 * YEAR) / day, law="fixed")
    return follow.model_copy(update=update)


def _age_range(schema: Schema, tables: dict[str, TablePlan], simulation: Simulation) -> tuple[float, float]:
    low, high = simulation.age_range
    children = "age_range" not in simulation.model_fields_set
    for name, plan in tables.items():
        for column, prior in plan.takes.items():
            spec = schema.tables[name].columns[column]
            if prior.takes == "age" and spec.kind in ("number", "count"):
                each = ages_per_year(spec, column) or 1.0
                if children and spec.low is not None and spec.high is not None:  # the column knows who they are
                    low, children = min(low, spec.low / each), False
                low = max(low, spec.low / each if spec.low is not None else low)
                high = min(high, spec.high / each if spec.high is not None else high)
    return (low, max(low, high))


def _course(tables: dict[str, TablePlan], follow: FollowUp, day: float) -> Course:
    words = {prior.takes for plan in tables.values() for prior in plan.takes.values()}
    years = follow.length.mean * day / YEAR if follow.length else 5.0
    rate = -np.log(0.8) / years if words & {"death", "died", "status", "died_here"} else 0.0
    return Course(states={"steady": State(start=1.0, death_rate=float(rate))})


def _streams(schema: Schema, tables: dict[str, TablePlan], simulation: Simulation) -> dict[str, Stream]:
    day, grid = TIME_UNITS[simulation.unit], _grid_days(schema)
    if grid is not None:
        return {"bin": Stream(every=grid / day, regularity=1e6, at_start=1.0)}
    words = {prior.takes for plan in tables.values() for prior in plan.takes.values()}
    length = simulation.follow_up.length.mean * day if simulation.follow_up.length else 3 * YEAR
    stay = Sojourn(mean=2.0 / day, law="lognormal", shape=0.7) if words & {"visit_end", "visit_length"} else None
    return {"visit": Stream(every=length / 12 / day, regularity=2.0, frailty=0.3, at_start=1.0, stay=stay)}


def _in_order(variables: tuple[Variable, ...]) -> tuple[Variable, ...]:
    """Variables so that each comes after those it depends on.

    Raises:
        SchemaError: they depend on each other in a circle.
    """
    from graphlib import CycleError, TopologicalSorter

    by_name = {v.name: v for v in variables}
    graph = {v.name: [n for n in _sources(v.prior) if n in by_name and n != v.name] for v in variables}
    try:
        return tuple(by_name[n] for n in TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise SchemaError(
            "", [Problem("circular-prior", "prior.effects", f"effects run in a circle: {circle}", "Drop one of them.")]
        ) from None


def _sources(prior: Prior) -> list[str]:
    return [*prior.effects, *prior.at_most, *(name for e in prior.level_effects.values() for name in e)]
