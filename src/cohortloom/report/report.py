"""The report: scores, plain-data figures, and what was not tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cohortloom.errors import CohortloomError
from cohortloom.report.score import Score

__all__ = ["CheckFailed", "Figure", "Report"]


class CheckFailed(CohortloomError):
    """A report has failed scores."""


@dataclass(frozen=True)
class Figure:
    """A figure as plain data; `report/figures.py` draws it by its kind.

    Args:
        kind: Name of the drawing: "bars", "matrix", "curves", "timeline", ...
        title: Words above it.
        content: Numbers and labels only (JSON).
        note: How to read it, one sentence.
        group: Section of the report.
    """

    kind: str
    title: str
    content: Mapping[str, Any]
    note: str = ""
    group: str = ""


@dataclass(frozen=True)
class Report:
    """What was found about a cohort.

    Args:
        title: Headline.
        scores: Every score, in order.
        figures: Plain data for drawings.
        provenance: What was compared: names, sizes, hashes, settings, seed, version, date is left out (determinism).
        verdict: Two to five sentences a clinician understands, first on the page.
        not_tested: What this report does not tell.
    """

    title: str
    scores: tuple[Score, ...] = ()
    figures: tuple[Figure, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    verdict: tuple[str, ...] = ()
    not_tested: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """False if a score failed; None if nothing could be judged; else True."""
        verdicts = [s.passed for s in self.scores]
        if any(v is False for v in verdicts):
            return False
        return True if any(v is True for v in verdicts) else None

    @property
    def failed(self) -> tuple[Score, ...]:
        return tuple(s for s in self.scores if s.passed is False)

    def score(self, key: str) -> Score:
        """The score of a key; KeyError names the nearest."""
        from cohortloom.errors import nearest

        for s in self.scores:
            if s.key == key:
                return s
        raise KeyError(f'no score "{key}".{nearest(key, [s.key for s in self.scores])}')

    def raise_if_failed(self) -> None:
        """Raise CheckFailed if any score failed, naming each."""
        if self.passed is False:
            lines = [f"  - {s.name}: {s.value:.4g} (limit {s.limit:.4g})" for s in self.failed]
            raise CheckFailed("\n".join([f"{self.title}: {len(lines)} of {len(self.scores)} checks failed", *lines]))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        from cohortloom.report.plain import report_to_dict

        return report_to_dict(self)

    def save(self, path: str | Path) -> None:
        """Write .html, .json or .md, by the suffix."""
        from cohortloom.report.write import write_report

        write_report(self, path)
