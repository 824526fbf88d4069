"""A score: a number with its interval, n, anchors, goal and limit.

A score without an interval, an n and a limit is a rumour. What could not be computed is a score with value None and a
reason, never 0, NaN or a missing row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Goal", "Score"]


class Goal(StrEnum):
    """Which way is better."""

    LOW = "low"
    HIGH = "high"
    NEAR = "near"  # near the floor (for instance .5 for an AUC)


@dataclass(frozen=True)
class Score:
    """One measured number.

    Args:
        name: What was measured, in words: "visit gap, KS distance".
        group: Section of the report: "marginal", "association", "temporal", ...
        value: The number; None if it could not be computed.
        interval: 95 % interval.
        n: Number of patients (or of what `unit_of_n` says) behind the value.
        goal: Which way is better.
        limit: Beyond it the score fails; None: shown without a verdict.
        unit: UCUM unit of the value.
        floor: The same score of real held-out patients against training patients at equal n.
        anchors: The same score of trivial cohorts: {"bootstrap": ..., "independent": ...}.
        reason: Why there is no value, or why the verdict is open.
        measurable: False where floor and anchor overlap, so that no verdict is possible at this n.
        key: Stable machine name, such as "temporal.gap_ks"; made from group and name if empty.
        details: Plain data behind the number (per column, per subgroup), never of single patients.
    """

    name: str
    group: str
    value: float | None
    interval: tuple[float, float] | None = None
    n: int = 0
    goal: Goal = Goal.LOW
    limit: float | None = None
    unit: str = "1"
    floor: float | None = None
    anchors: dict[str, float | None] = field(default_factory=dict)
    reason: str = ""
    measurable: bool = True
    key: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.key:
            words = self.name.lower().replace(",", "").replace("-", " ").split()
            object.__setattr__(self, "key", f"{self.group}.{'_'.join(words)}")

    @property
    def passed(self) -> bool | None:
        """True, False, or None where no verdict is possible (no value, no limit, not measurable at this n)."""
        if self.value is None or self.limit is None or not self.measurable:
            return None
        slack = 1e-9 * abs(self.limit)  # a mean of counts that equals its limit may lie a last bit beyond it
        # bool: of numpy's numbers a comparison is a numpy.bool_, which is never `is False`
        return bool(self.value >= self.limit - slack if self.goal is Goal.HIGH else self.value <= self.limit + slack)
