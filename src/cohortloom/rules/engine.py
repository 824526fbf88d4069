"""From the rules of a schema to checks and repairs of a cohort.

Two sources: what columns and tables imply (bounds, levels, decimals, keys, links, required, granularity), and the
[[rules]] people wrote. Repair goes through all rules, links first, and again while anything changes: a clipped time may
leave its visit, a sorted column its range. Rules that pull against each other end after a few rounds, and what is still
broken is left to be drawn again.
"""

from functools import lru_cache

import polars as pl
from pydantic import ValidationError

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem, SchemaError, nearest
from cohortloom.rng import Rng
from cohortloom.rules.base import Rule, Violation
from cohortloom.rules.clinical import Combinations, Implies
from cohortloom.rules.link import OneRow, Parent, Unique
from cohortloom.rules.numbers import AtMost
from cohortloom.rules.sequence import Baseline, Constant, EventOrder, Monotone, NoOverlap, NoRepeat
from cohortloom.rules.temporal import After, Before, Granularity, InsideVisit, NothingAfter, SameDay, Until
from cohortloom.rules.value import Decimals, Items, Levels, Range, Required, Step
from cohortloom.schema import Category, Code, Count, Number, Ordinal, RuleSpec, Schema, Timestamp

__all__ = ["KINDS", "broken_subjects", "check", "compile_rules", "implied_rules", "repair", "rule_problems"]

KINDS: dict[str, type[Rule]] = {
    rule.kind: rule
    for rule in (
        *(Range, Levels, Decimals, Step, Required, Items),
        *(Unique, OneRow, Parent),
        AtMost,
        *(Before, After, NothingAfter, InsideVisit, Granularity, SameDay, Until),
        *(Monotone, NoRepeat, EventOrder, Constant, NoOverlap, Baseline),
        *(Implies, Combinations),
    )
}
ROUNDS = 5


@lru_cache(maxsize=64)
def _compiled(digest: str, schema_json: str) -> tuple[Rule, ...]:
    schema = Schema.model_validate_json(schema_json)
    rules, problems = _read(schema)
    if problems:
        raise SchemaError(f'the rules of schema "{schema.name}" can\'t be used', problems)
    return (*implied_rules(schema), *rules)


def compile_rules(schema: Schema) -> list[Rule]:
    """All rules of a schema: implied ones first (links, then cells), then the written ones in their order.

    Raises:
        SchemaError: unknown kinds or settings, or places that don't exist; all of them at once.
    """
    return list(_compiled(schema.digest, schema.model_dump_json(by_alias=True)))


def rule_problems(schema: Schema) -> list[Problem]:
    """What is wrong with the written rules; empty if they can be compiled."""
    return _read(schema)[1]


def check(cohort: Cohort) -> list[Violation]:
    """Everything in a cohort that breaks a rule of its schema."""
    return [violation for rule in compile_rules(cohort.schema) for violation in rule.check(cohort)]


def repair(cohort: Cohort, rng: Rng) -> Cohort:
    """The cohort with what can be repaired repaired; the same object if nothing was broken.

    A patient whose only rows had to go is no longer part of the cohort: compare `subjects` if the number matters.
    """
    rules = compile_rules(cohort.schema)
    for turn in range(ROUNDS):
        before = cohort
        for i, rule in enumerate(rules):
            cohort = rule.repair(cohort, rng.child("repair", turn, i))
        if cohort is before:
            break
    return cohort


def broken_subjects(cohort: Cohort) -> pl.Series:
    """Ids of subjects with a row that breaks a rule of severity "error", sorted, each once."""
    ids = [r.broken_subjects(cohort) for r in compile_rules(cohort.schema) if r.severity == "error"]
    return pl.concat([pl.Series("subject_id", [], dtype=cohort.subjects.dtype), *ids]).unique().sort()


def implied_rules(schema: Schema) -> list[Rule]:
    """What tables and columns say without a [[rules]] entry."""
    links: list[Rule] = []
    cells: list[Rule] = []
    for name, table in schema.tables.items():
        if table.role == "static":
            links.append(OneRow(table=name))
        if table.role == "visit":
            links.append(Unique(table=name, columns=("subject_id", "visit_id")))
        parents = [table.parent] if table.parent in schema.tables else []
        links += [Parent(table=name, parent=p) for p in parents if p]
        for column_name, column in table.columns.items():
            path = f"{name}.{column_name}"
            if isinstance(column, Number):
                if not (table.is_long and column_name == table.value and column.low is None and column.high is None):
                    cells.append(Range(column=path, low=column.low, high=column.high))
                if column.decimals is not None:
                    cells.append(Decimals(column=path, decimals=column.decimals))
            elif isinstance(column, Count):
                cells.append(Range(column=path, low=column.low, high=column.high))
            elif isinstance(column, (Category, Ordinal, Code)) and column.levels:
                cells.append(Levels(column=path, levels=column.levels))
            elif isinstance(column, Timestamp) and not Granularity(column=path, to=column.granularity).problems(schema):
                cells.append(Granularity(column=path, to=column.granularity))
            if not column.missing:
                cells.append(Required(column=path))
        if table.is_long and table.value:
            cells.append(Items(table=name))
    return links + cells


def _read(schema: Schema) -> tuple[list[Rule], list[Problem]]:
    rules: list[Rule] = []
    problems: list[Problem] = []
    for i, spec in enumerate(schema.rules):
        where = f"rules[{i}]" + (f' "{spec.name}"' if spec.name else "")
        rule, found = _one(spec, where)
        if rule is not None:
            found = [Problem(p.code, where, p.what, p.fix) for p in rule.problems(schema)]
            rules.append(rule)
        problems += found
    return rules, problems


def _one(spec: RuleSpec, where: str) -> tuple[Rule | None, list[Problem]]:
    if spec.kind not in KINDS:
        what = f'"{spec.kind}" is not a kind of rule; the kinds are {", ".join(sorted(KINDS))}'
        return None, [Problem("unknown-rule", where, what, nearest(spec.kind, KINDS).strip())]
    rule = KINDS[spec.kind]
    try:
        return rule.model_validate({**spec.settings, "name": spec.name, "severity": spec.severity}), []
    except ValidationError as error:
        return None, [_setting_problem(rule, e, where) for e in error.errors()]


def _setting_problem(rule: type[Rule], error: dict, where: str) -> Problem:
    known = [f.alias or n for n, f in rule.model_fields.items()]
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        if len(error["loc"]) > 1:
            from cohortloom.rules.clinical import Condition

            known = [f.alias or n for n, f in Condition.model_fields.items()]
        what = f'rule "{rule.kind}" has no setting "{place}"; it has {", ".join(known)}'
        return Problem("unknown-setting", where, what, nearest(str(error["loc"][-1]), known).strip())
    if error["type"] == "missing":
        what = f'rule "{rule.kind}" needs "{place}"; its settings are {", ".join(known)}'
        return Problem("missing-setting", where, what, f"Add {error['loc'][-1]} = ...")
    return Problem("bad-setting", where, f'rule "{rule.kind}", {place or "settings"}: {error["msg"]}', "")
