"""A report from its JSON form, so that a page can be made again without measuring again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cohortloom.errors import FileFormatError, Problem
from cohortloom.report.report import Figure, Report
from cohortloom.report.score import Goal, Score

__all__ = ["report_from_dict"]


def report_from_dict(content: Any, *, file: str = "report") -> Report:
    """The report that `report_to_dict` wrote.

    Args:
        content: What the JSON file holds.
        file: Its name, for messages.

    Raises:
        FileFormatError: it is not a report of ours.
    """
    try:
        if content["format"] != 1:
            raise KeyError("format")
        return Report(
            title=content["title"],
            scores=tuple(_score(s) for s in content["scores"]),
            figures=tuple(
                Figure(f["kind"], f["title"], f["content"], f.get("note", ""), f.get("group", ""))
                for f in content["figures"]
            ),
            provenance=content["provenance"],
            verdict=tuple(content["verdict"]),
            not_tested=tuple(content["not_tested"]),
        )
    except (KeyError, TypeError, ValueError):
        fix = "Give the file that --json of validate or evaluate wrote."
        raise FileFormatError(
            "", [Problem("not-a-report", file, "is JSON, but not a report of format 1", fix)]
        ) from None


def _score(s: Mapping[str, Any]) -> Score:
    return Score(
        name=s["name"],
        group=s["group"],
        value=s["value"],
        interval=tuple(s["interval"]) if s["interval"] else None,
        n=s["n"],
        goal=Goal(s["goal"]),
        limit=s["limit"],
        unit=s["unit"],
        floor=s["floor"],
        anchors=dict(s["anchors"]),
        reason=s["reason"],
        measurable=s["measurable"],
        key=s["key"],
        details=dict(s["details"]),
    )
