"""What happened during training, without times, so that equal runs have equal histories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["History"]


@dataclass
class History:
    """Records in the order of the run, each a flat dict of plain values.

    Kinds: "evaluation" (phase, step, rate, loss per objective, validation), "rollback" (phase, step, why, scale),
    "end" (phase, step, why, best, best_step).
    """

    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, phase: str, step: int, **facts: Any) -> None:
        self.records.append({"kind": kind, "phase": phase, "step": step, **facts})

    def of(self, kind: str, phase: str | None = None) -> list[dict[str, Any]]:
        """Records of one kind (and phase)."""
        return [r for r in self.records if r["kind"] == kind and phase in (None, r["phase"])]
