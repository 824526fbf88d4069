"""Where a cohort comes from; it travels with the data."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Origin"]

Release = Literal["UNREVIEWED", "PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Origin:
    """Real or synthetic, made by what, with which seed, and whether a release gate has looked at it.

    Args:
        kind: "real" or "synthetic".
        source: Format or generator that made it.
        seed: Seed of the draw; None for real data.
        version: Library version that wrote it.
        release: Release status; everything starts as UNREVIEWED.
        notes: Plain facts to keep: rows dropped on reading, contradictions settled, subjects redrawn (counts only).
    """

    kind: Literal["real", "synthetic"] = "real"
    source: str = ""
    seed: int | None = None
    version: str = ""
    release: Release = "UNREVIEWED"
    notes: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
