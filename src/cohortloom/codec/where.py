"""Values a user fixes, checked and as numbers.

    {"patients.sex": "F", "patients.age": 70, "visits.nyha": "2"}   ->   {"patients.sex": 2.0, ...}

A static column holds for the subject, a visit column for its first visit. Dates can't be fixed (they count from an
origin that is itself drawn), nor can columns of event tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cohortloom.codec.cells import Cell
from cohortloom.codec.tensors import MISSING
from cohortloom.errors import Problem, SettingsError, nearest
from cohortloom.schema import Count, Flag, Schema

__all__ = ["held_levels", "where_values"]

_SHOWN = 12


def where_values(
    schema: Schema,
    cells: Iterable[Cell],
    where: Mapping[str, Any],
    derived: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, float]:
    """Feature -> raw number of each fixed value; an empty cell (None) is MISSING for a category, NaN for a number.

    Args:
        schema: Schema of the cohort.
        cells: Static and visit columns the codec knows.
        where: "table.column" -> value.
        derived: Columns that are computed, and from which.

    Raises:
        SettingsError: every column, level and range that can't be met.
    """
    known = {f"{cell.table}.{cell.column}": cell for cell in cells}
    found: dict[str, float] = {}
    problems: list[Problem] = []
    for path, value in where.items():
        cell = known.get(path)
        if cell is None or cell.kind == "time":
            problems.append(_unusable(schema, path, known, (derived or {}).get(path, ())))
            continue
        answer = _category(schema, cell, value) if cell.kind == "category" else _number(schema, cell, value)
        if isinstance(answer, Problem):
            problems.append(answer)
        else:
            found[path] = answer
    if problems:
        raise SettingsError("where: some values can't be fixed", problems)
    return found


def held_levels(cells: Iterable[Cell], path: str) -> tuple[str, ...]:
    """Levels of a column of categories that training patients hold, () if no cell is one."""
    for cell in cells:
        if f"{cell.table}.{cell.column}" == path and cell.kind == "category" and not cell.part:
            # of a declared list every level has a share of its rows plus one
            rows = cell.rare_share if cell.rare == cell.levels else (2.0,) * len(cell.levels)
            return tuple(level for level, share in zip(cell.levels, rows) if share > 1)
    return ()


def _unusable(schema: Schema, path: str, known: Mapping[str, Cell], sources: tuple[str, ...]) -> Problem:
    table, _, column = path.partition(".")
    if table not in schema.tables:
        return Problem("unknown-table", path, "names no table of the schema", nearest(path, known).strip())
    spec = schema.tables[table].columns.get(column)
    if spec is None:
        return Problem("unknown-column", path, f'is no column of table "{table}"', nearest(path, known).strip())
    if schema.tables[table].role == "event":
        what = "belongs to an event table; only static and visit columns can be fixed"
    elif spec.kind in ("timestamp", "identifier"):
        what = f"is of kind {spec.kind}, which can't be fixed"
    elif sources:
        what = f"always follows from {' and '.join(sources)} in the training data, so it is computed and can't be fixed"
    else:
        what = "is not part of the arrays of this generator"
    able = sorted(name for name, cell in known.items() if cell.kind != "time" and not cell.part)
    shown = ", ".join(able[:_SHOWN]) + (f" and {len(able) - _SHOWN} more" if len(able) > _SHOWN else "")
    return Problem("not-fixable", path, what, f"Columns that can be: {shown}.")


def _empty(schema: Schema, cell: Cell, number: float) -> float | Problem:
    if schema.tables[cell.table].columns[cell.column].missing:
        return number
    path = f"{cell.table}.{cell.column}"
    return Problem("never-missing", path, "may not be empty (missing = false)", "Give a value.")


def _category(schema: Schema, cell: Cell, value: Any) -> float | Problem:
    path, spec = f"{cell.table}.{cell.column}", schema.tables[cell.table].columns[cell.column]
    if value is None:
        return _empty(schema, cell, float(MISSING))
    level = str(value)
    if isinstance(spec, Flag):
        level = {"1": "true", "0": "false", "yes": "true", "no": "false"}.get(level.lower(), level.lower())
    if level in cell.levels:
        return float(2 + cell.levels.index(level))
    shown = ", ".join(cell.levels[:_SHOWN]) + (", ..." if len(cell.levels) > _SHOWN else "")
    why = "is not a level" if spec.kind != "code" else "is no code that enough training patients hold"
    return Problem("unknown-level", path, f'"{level}" {why}', f"Levels: {shown}.{nearest(level, cell.levels)}")


def _number(schema: Schema, cell: Cell, value: Any) -> float | Problem:
    path, spec = f"{cell.table}.{cell.column}", schema.tables[cell.table].columns[cell.column]
    if value is None:
        return _empty(schema, cell, float("nan"))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return Problem("not-a-number", path, f'"{value}" is not a number', "Write it with a decimal point: 2.5.")
    if isinstance(value, bool) or not math.isfinite(number):
        return Problem("not-a-number", path, f'"{value}" is not a number', "Give a finite number.")
    low, high = -math.inf if cell.low is None else cell.low, math.inf if cell.high is None else cell.high
    if not low <= number <= high:
        return Problem(
            "out-of-range",
            path,
            f"{number:g} lies outside {low:g} to {high:g}",
            "Give a value inside, or widen the schema.",
        )
    if isinstance(spec, Count) and number != round(number):
        return Problem("not-whole", path, f"{number:g} is not a whole number", "Give a whole number.")
    return number if cell.decimals is None else round(number, cell.decimals)
