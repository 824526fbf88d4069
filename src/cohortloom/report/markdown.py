"""A report as Markdown: the same verdict, scores and numbers, as tables.

Drawings become tables: bars and matrices whole, curves and scatter plots at up to nine points each; what is wider than
fourteen columns is cut (the JSON report has it all).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortloom.report.plain import as_tables, plain, say, verdict_word

if TYPE_CHECKING:
    from cohortloom.report.report import Figure, Report
    from cohortloom.report.score import Score

__all__ = ["to_markdown"]

POINTS = 9
WIDEST = 14


def to_markdown(report: Report) -> str:
    """The report as text; ends with a newline."""
    lines = [f"# {_text(report.title)}", "", f"**{verdict_word(report.passed)}**", ""]
    lines += [f"{_text(sentence)}  " for sentence in report.verdict] + [""] * bool(report.verdict)
    groups = dict.fromkeys([*(s.group for s in report.scores), *(f.group for f in report.figures)])
    for group in groups:
        lines += [f"## {_text((group[:1].upper() + group[1:]) or 'Figures')}", ""]
        scores = [s for s in report.scores if s.group == group]
        if scores:
            lines += _scores(scores) + [""]
        for score in scores:
            for title, columns, rows in as_tables(score.details):
                lines += [f"{_text(score.name)}{': ' if title else ''}{_text(title)}", "", *_table(columns, rows), ""]
        for figure in report.figures:
            if figure.group == group:
                lines += _figure(figure)
    if report.not_tested:
        lines += ["## What was not tested", "", *(f"- {_text(line)}" for line in report.not_tested), ""]
    if report.provenance:
        from cohortloom.report.html import flat

        lines += ["## Provenance", "", *_table(["", "value"], flat(plain(report.provenance))), ""]
    return "\n".join(lines).rstrip() + "\n"


def _scores(scores: Sequence[Score]) -> list[str]:
    columns = ["result", "score", "value", "95 % interval", "limit", "n", "floor", "bootstrap", "independent", "remark"]
    rows = []
    for s in scores:
        interval = f"{say(s.interval[0])} to {say(s.interval[1])}" if s.interval else None
        limit = None if s.limit is None else f"{'≥' if s.goal.value == 'high' else '≤'} {say(s.limit)}"
        unit = "" if s.unit in ("1", "") or s.value is None else f" {s.unit}"
        anchors = [s.anchors.get("bootstrap"), s.anchors.get("independent")]
        row = [verdict_word(s.passed), s.name, say(s.value) + unit, interval, limit, s.n, s.floor, *anchors, s.reason]
        rows.append(row)
    return _table(columns, rows)


def _figure(figure: Figure) -> list[str]:
    lines = [f"### {_text(figure.title)}", ""] + ([_text(figure.note), ""] if figure.note else [])
    content = plain(figure.content)
    for title, columns, rows in _figure_tables(figure.kind, content):
        if len(columns) > WIDEST:
            columns, rows = [*columns[:WIDEST], "…"], [[*row[:WIDEST], "…"] for row in rows]
        lines += [_text(title), ""] if title else []
        lines += [*_table(columns, rows), ""]
    return lines


def _figure_tables(kind: str, content: Mapping[str, Any]) -> Iterable[tuple[str, list[Any], list[list[Any]]]]:
    if kind == "table":
        yield "", content["columns"], content["rows"]
    for patient in content.get("patients", ()):
        rows = [[s.get("name"), s.get("unit"), len(s.get("value", ()))] for s in patient.get("series", ())]
        rows.append(["events", "", len(patient.get("events", ()))])
        yield (
            ", ".join([str(patient.get("title", "")), *map(str, patient.get("facts", ()))]),
            ["series", "unit", "n"],
            rows,
        )
    for panel in content.get("panels", ()):
        title = str(panel.get("title", ""))
        if kind == "bars":
            series = panel.get("series", ())
            columns = ["", *(s["name"] for s in series)]
            cells = [[label, *(_at(s["values"], i) for s in series)] for i, label in enumerate(panel.get("labels", ()))]
            yield title, columns, cells
        elif kind in ("matrix", "graph"):
            rows, columns = (panel.get(k, panel.get("states", ())) for k in ("rows", "columns"))
            values = panel.get("values", panel.get("probability", ()))
            yield title, ["", *columns], [[name, *row] for name, row in zip(rows, values)]
        elif kind in ("curves", "scatter"):
            for s in panel.get("series", ()):
                x, y = s.get("x") or [], s.get("y") or []
                keep = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int)) if x else []
                name = f"{title}: {s.get('name', '')}".removeprefix(": ")
                x_name, y_name = (str(content.get(k) or d) for k, d in (("x_label", "x"), ("y_label", "y")))
                yield name, [x_name, *(x[i] for i in keep)], [[y_name, *(_at(y, i) for i in keep)]]


def _at(values: Sequence[Any], i: int) -> Any:
    return values[i] if i < len(values) else None


def _table(columns: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    head = "| " + " | ".join(_cell(c) for c in columns) + " |"
    return [head, "|" + " --- |" * len(columns), *("| " + " | ".join(_cell(v) for v in row) + " |" for row in rows)]


def _cell(value: Any) -> str:
    return _text(say(value)) if value != "" else ""


def _text(value: Any) -> str:
    """One line that Markdown takes as text: no table bars, no tags."""
    text = " ".join(str(value).split())
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`"), ("[", "\\[")):
        text = text.replace(sign, entity)
    return text
