"""A report as plain data, and numbers as people read them.

JSON knows no NaN and no infinity: a number that is not finite becomes null. numpy numbers and arrays, tuples, sets,
enums and moments become their plain counterparts, so whatever a score carries can be written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cohortloom.report.report import Figure, Report
    from cohortloom.report.score import Score

__all__ = ["as_tables", "figure_to_dict", "plain", "report_to_dict", "say", "score_to_dict", "verdict_word"]


def report_to_dict(report: Report) -> dict[str, Any]:
    """Everything in a report, JSON only; figures carry their numbers."""
    return {
        "format": 1,
        "title": report.title,
        "passed": report.passed,
        "verdict": list(report.verdict),
        "scores": [score_to_dict(s) for s in report.scores],
        "figures": [figure_to_dict(f) for f in report.figures],
        "not_tested": list(report.not_tested),
        "provenance": plain(report.provenance),
    }


def score_to_dict(score: Score) -> dict[str, Any]:
    return plain(
        {
            "key": score.key,
            "name": score.name,
            "group": score.group,
            "value": score.value,
            "interval": score.interval,
            "n": score.n,
            "unit": score.unit,
            "goal": score.goal,
            "limit": score.limit,
            "passed": score.passed,
            "measurable": score.measurable,
            "floor": score.floor,
            "anchors": score.anchors,
            "reason": score.reason,
            "details": score.details,
        }
    )


def figure_to_dict(figure: Figure) -> dict[str, Any]:
    return {
        "kind": figure.kind,
        "title": figure.title,
        "group": figure.group,
        "note": figure.note,
        "content": plain(figure.content),
    }


def plain(value: Any) -> Any:
    """The same as dicts, lists, words, booleans and finite numbers."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, (list, tuple)) or hasattr(value, "__iter__"):
        return [plain(v) for v in value]
    return str(value)


def say(value: Any, digits: int = 3) -> str:
    """A cell as people read it: three significant digits, thousands apart, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, np.generic):
        return say(value.item(), digits)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(value, digits)
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {say(v, digits)}" for k, v in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(say(v, digits) for v in value) or "–"
    return str(value)


def _number(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 8:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(digits - 1 - size, 0)}f}"


def verdict_word(passed: bool | None) -> str:
    """Pass, Fail or Open (no verdict possible)."""
    return {True: "Pass", False: "Fail", None: "Open"}[passed]


def as_tables(details: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[Any]]]]:
    """Details of a score as (title, columns, rows): nested dicts and lists of dicts become tables of their own."""
    tables: list[tuple[str, list[str], list[list[Any]]]] = []
    loose: list[list[Any]] = []
    for name, value in plain(details).items():
        if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            columns = list(dict.fromkeys(c for v in value.values() for c in v))
            tables.append((name, ["", *columns], [[k, *(v.get(c) for c in columns)] for k, v in value.items()]))
        elif isinstance(value, dict) and value:
            tables.append((name, ["", "value"], [[k, v] for k, v in value.items()]))
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            columns = list(dict.fromkeys(c for v in value for c in v))
            tables.append((name, columns, [[v.get(c) for c in columns] for v in value]))
        elif isinstance(value, list) and value and all(isinstance(v, list) for v in value):
            width = max(len(v) for v in value)
            tables.append((name, [""] * width, [v + [None] * (width - len(v)) for v in value]))
        else:
            loose.append([name, value])
    return ([("", ["", "value"], loose)] if loose else []) + tables
