"""Visits that stand side by side in the columns of one row: sbp_v1, sbp_v2, hba1c_v1, hba1c_v2."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

__all__ = ["side_by_side"]

_TURN = re.compile(
    r"(?i)^(?P<stem>.+?)(?P<turn>[_.](v|visit|wave|t|time|tp|fu|m|month|mo|w|wk|week|d|day|y|yr|year)?_?)(?P<number>\d{1,3})$"
)


#: UK Biobank: field, instance (the visit) and place in an array.
_INSTANCE = re.compile(r"^(?:f\.)?(?P<stem>\d+)(?P<turn>[-.])(?P<number>\d)\.\d+$")


def side_by_side(names: Iterable[str]) -> tuple[list[str], str, list[int]]:
    """Columns that come again with the same numbers: their stems, what stands before the number, and the numbers.

    Two stems and three numbers at least (two where field-instance.array says that they are visits); else all is empty.

    Example:
        >>> side_by_side(["id", "sbp_v1", "sbp_v2", "sbp_v3", "crp_v1", "crp_v2", "crp_v3"])
        (['sbp', 'crp'], '_v', [1, 2, 3])
    """
    seen: dict[tuple[str, str], set[int]] = defaultdict(set)
    names = list(names)
    instances = sum(bool(_INSTANCE.match(name)) for name in names) > 0.5 * len(names)
    for name in names:
        if found := (_INSTANCE if instances else _TURN).match(name):
            seen[found["stem"], found["turn"]].add(int(found["number"]))
    alike: dict[tuple, list[str]] = defaultdict(list)
    for (stem, turn), numbers in seen.items():
        if len(numbers) >= (2 if instances else 3):
            alike[turn, tuple(sorted(numbers))].append(stem)
    if not alike:
        return [], "", []
    (turn, numbers), stems = max(alike.items(), key=lambda item: len(item[1]) * len(item[0][1]))
    return (stems, turn, list(numbers)) if len(stems) >= 2 else ([], "", [])
