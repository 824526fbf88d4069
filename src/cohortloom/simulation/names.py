"""Names in priors: every source of an effect must exist where it is used, and be of a kind that fits."""

from __future__ import annotations

from collections.abc import Iterator

from cohortloom.errors import Problem, nearest
from cohortloom.schema.priors import Effects, Prior
from cohortloom.simulation.plan import Plan

__all__ = ["prior_problems"]


def prior_problems(plan: Plan) -> list[Problem]:
    """All names in the priors that can't be used; empty for sound priors."""
    return [
        *(p for where, effects, known in _effects(plan) for p in _bad_effects(plan, where, effects, known)),
        *_bad_words(plan),
    ]


def _known(plan: Plan) -> tuple[set[str], set[str], set[str]]:
    """Sources that may move statics, the course and rates of visits, and what is measured at a visit."""
    takes = {name for name in plan.metas if "." in name and not name.startswith("treatment.")}
    temporal = {v.name for v in plan.temporals}
    visits = {n for n in takes if plan.schema.tables[n.split(".")[0]].role != "static"}
    static = {"age", "frailty"} | (takes - visits - temporal)
    course = static | {"years", "state"}
    return static, course, course | {"visit"} | takes | {n for n in plan.metas if n.startswith("treatment.")}


def _effects(plan: Plan) -> Iterator[tuple[str, Effects, set[str]]]:
    """Place, effects, and the sources known there."""
    static, course, visit = _known(plan)
    for variables, known in ((plan.statics, static), (plan.temporals, visit)):
        for v in variables:
            yield from _of_prior(v.name, v.prior, known)
    for name, table in plan.tables.items():
        yield f"simulation.rows.{name}", table.rows.effects, visit
        if table.panel is not None:
            for code, prior in table.panel.priors.items():
                where = f"{name}.{table.panel.column}, code {code}"
                yield where, prior.presence_effects, static if prior.chronic else visit
                if table.panel.value is None:
                    yield from _of_prior(where, prior, visit)
    for name, state in plan.course.states.items():
        where = f"simulation.course.states.{name}"
        yield where, state.start_effects, static
        for effects in (state.stay_effects, *state.move_effects.values()):
            yield where, effects, course - {"state"}
    yield "simulation.course.death_effects", plan.course.death_effects, course - {"state"}
    for name, stream in plan.streams.items():
        yield f"simulation.visits.{name}.effects", stream.effects, course
        yield f"simulation.visits.{name}.stay_effects", stream.stay_effects, course
    for name, t in plan.simulation.treatments.items():
        for effects in (t.initial_effects, t.start_effects, t.stop_effects):
            yield f"simulation.treatments.{name}", effects, visit
        for limits in (t.avoid_above, t.avoid_below):
            yield f"simulation.treatments.{name}", dict(limits), {v.name for v in plan.temporals}


def _of_prior(where: str, prior: Prior, known: set[str]) -> Iterator[tuple[str, Effects, set[str]]]:
    yield f"{where}: effects", prior.effects, known
    yield f"{where}: at_most", dict(prior.at_most), known
    yield f"{where}: missing_effects", prior.missing_effects, known | {"self"}
    for level, effects in prior.level_effects.items():
        yield f"{where}: level_effects.{level}", effects, known


def _some(known: set[str]) -> str:
    shown = ", ".join(sorted(known)[:12]) + (", ..." if len(known) > 12 else "")
    return f"These may stand here: {shown}."


def _bad_effects(plan: Plan, where: str, effects: Effects, known: set[str]) -> Iterator[Problem]:
    for name, effect in effects.items():
        if name not in known:
            what = f'"{name}" is no source that may stand here'
            yield Problem("unknown-source", where, what, nearest(name, known).strip() or _some(known))
            continue
        meta = plan.metas.get(name)
        if meta is None:
            continue
        if isinstance(effect, dict):
            if not meta.levels:
                what = f'"{name}" has no levels; its effect is one number (slope, or shift when true)'
                yield Problem("effect-by-level", where, what, f'"{name}" = 0.5')
            for level in effect:
                if meta.levels and level not in meta.levels:
                    what = f'"{level}" is not a level of "{name}"'
                    yield Problem("unknown-level", where, what, nearest(level, meta.levels).strip())
        elif meta.kind in ("category", "code"):
            fix = f'"{name}" = {{ {meta.levels[-1] if meta.levels else "level"} = 0.5 }}'
            yield Problem("effect-without-level", where, f'"{name}" is a category: say the shift of each level', fix)


def _bad_words(plan: Plan) -> Iterator[Problem]:
    """Levels, states, treatments, tables and correlated names that do not exist."""
    for v in (*plan.statics, *plan.temporals):
        named = [*v.prior.weights, *v.prior.level_effects]
        if v.prior.level_effects and v.kind not in ("category", "code"):
            yield Problem("not-by-level", v.name, "level_effects are for categories", "Use effects.")
        for level in dict.fromkeys(named):
            if level not in v.levels:
                yield Problem(
                    "unknown-level", v.name, f'prior: "{level}" is not a level', nearest(level, v.levels).strip()
                )
        if v.levels and sum(v.weights) <= 0:
            yield Problem("no-weight", v.name, "prior: no level has a weight above 0", "Give weights to some levels.")
    for name, stream in plan.streams.items():
        for state in stream.on_entry:
            if state not in plan.states:
                what = f'on_entry names "{state}", which is no state'
                yield Problem("unknown-state", f"simulation.visits.{name}", what, nearest(state, plan.states).strip())
    for name, table in plan.tables.items():
        if table.panel is None:
            continue
        column = plan.schema.tables[name].columns[table.panel.column]
        for code, prior in table.panel.priors.items():
            where = f"{name}.{table.panel.column}, code {code}"
            if column.levels and code not in column.levels:  # type: ignore[union-attr]
                yield Problem("unknown-level", where, "the code is not among the column's levels", "Add it to levels.")
            if prior.treatment is not None and prior.treatment not in plan.simulation.treatments:
                what = f'"{prior.treatment}" is no treatment of the simulation'
                yield Problem(
                    "unknown-treatment", where, what, nearest(prior.treatment, plan.simulation.treatments).strip()
                )
            for path, levels in prior.only.items():
                if path not in {v.name for v in plan.statics}:
                    yield Problem("unknown-source", where, f'only: "{path}" is no static column with levels')
                elif set(levels) - set(plan.metas[path].levels):
                    yield Problem("unknown-level", where, f'only: not all are levels of "{path}"')
    rows = plan.schema.events | plan.schema.statics
    for name, how in plan.simulation.rows.items():
        if name not in rows:
            what = "is no event or static table"
            yield Problem("unknown-table", f"simulation.rows.{name}", what, nearest(name, rows))
        elif name in plan.schema.statics and (extra := how.model_fields_set - {"chance", "effects"}):
            what = f"{', '.join(sorted(extra))} mean nothing for a static table, which has chance and effects"
            yield Problem("unknown-setting", f"simulation.rows.{name}", what, "Remove them.")
    for a, b, _ in plan.simulation.correlations:
        for name in (a, b):
            if name not in plan.latent_names:
                what = f'"{name}" has no latent of its own to correlate'
                yield Problem(
                    "unknown-source", "simulation.correlations", what, nearest(name, plan.latent_names).strip()
                )
