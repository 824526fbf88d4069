"""Which time and status of patients are a survival pair: for a draft."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cohortloom.schema.drafted import column_of
from cohortloom.schema.sheets import Sheet

__all__ = ["survival_of"]

#: What a survival pair's event is called, the surest words first (a receptor has a status too), and what is none.
_EVENTS = (
    r"death|died|dead|deceased|vital|mortality",
    r"event|relapse|recurrence",
    r"^((fu|follow_?up|os|pfs|dfs|end|last|final)_)?status$",
)
_NO_EVENT = {"0", "alive", "living", "censored", "lost", "no", "none"}


def survival_of(tables: Mapping[str, Any], sheet_of: Mapping[str, Sheet], notes: dict[tuple, str]) -> dict[str, Any]:
    """A follow-up time and a status beside each other make a survival pair."""
    for name, table in tables.items():
        if table["role"] != "static":
            continue
        columns = table["columns"]
        time = next(
            (
                c
                for c, k in columns.items()
                if re.search(r"^(futime|fu_|follow_?up|survival|surv_?time|(os|pfs|dfs|efs)_|time_?$|time_to)", c)
                and k["kind"] == "number"
                and _missing(tables, sheet_of, name, c) < 0.3
            ),
            None,
        )
        known = [
            c
            for c, k in columns.items()
            if k["kind"] in ("flag", "category") and (k["kind"] == "flag" or _missing(tables, sheet_of, name, c) < 0.3)
        ]
        event = next((c for words in _EVENTS for c in known if re.search(words, c)), None)
        if time is None or event is None:
            continue
        pair: dict[str, Any] = {"time": f"{name}.{time}", "event": f"{name}.{event}"}
        if columns[event]["kind"] == "category":
            pair["levels"] = [v for v in columns[event]["levels"] if v.lower() not in _NO_EVENT]
            notes["survival", 0] = (
                "A guess, from the names. Which levels are the event? Those but the censored were taken."
            )
        else:
            notes["survival", 0] = "A guess, from the names."
        if pair.get("levels", True):
            return {"survival": [pair]}
    return {}


def _missing(tables: Mapping[str, Any], sheet_of: Mapping[str, Sheet], name: str, column: str) -> float:
    return sheet_of[name].profiles[column_of(tables[name], column)].share_missing
