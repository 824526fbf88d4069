"""What a model of waveforms keeps of its training cohort beside weights: scales, context features, plan of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from cohortloom.codec.record_context import RecordContext
from cohortloom.codec.signals import SignalCodec
from cohortloom.codec.tensors import Feature
from cohortloom.generators.signal_plan import RecordPlan
from cohortloom.schema import Schema

__all__ = ["WaveCodec"]


@dataclass(frozen=True)
class WaveCodec:
    """Codec of one signal.

    Args:
        signal: Its name in the schema.
        samples: Scales and leads.
        context: Features of the patient's record.
        plan: Which records patients have.
    """

    signal: str
    samples: SignalCodec
    context: RecordContext
    plan: RecordPlan
    static_features: tuple[Feature, ...] = field(default=(), init=False)
    sequence_features: tuple[Feature, ...] = field(default=(), init=False)

    def levels_of(self, path: str) -> tuple[str, ...]:
        """Labels of the records, () for every other path."""
        return tuple(self.context.labels) if path == f"{self.signal}.label" else ()

    def to_json(self) -> dict[str, Any]:
        return {
            "signal": self.signal,
            "samples": self.samples.to_json(),
            "context": self.context.to_json(),
            "plan": self.plan.to_json(),
        }

    @classmethod
    def from_json(cls, schema: Schema, state: dict[str, Any]) -> Self:
        return cls(
            state["signal"],
            SignalCodec.from_json(state["samples"]),
            RecordContext.from_json(state["context"]),
            RecordPlan.from_json(state["plan"]),
        )
