"""Figures of a report: plain data to what stands in the page.

Kinds and their content:

    curves    x_label, y_label, panels: [{title, series: [{name, x, y, low?, high?, step?}]}]
    bars      y_label, panels: [{title, labels, series: [{name, values}]}]
    matrix    panels: [{title, rows, columns, values, low, high, diverging}]
    graph     panels: [{title, states, probability}]
    timeline  time_unit, patients: [{title, origin, facts, series: [{name, unit, time, value}],
              events: [{time, label}]}]
    scatter   x_label, y_label, panels: [{title, series: [{name, x, y}]}]
    table     columns, rows
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from cohortloom.report.plain import plain, say

if TYPE_CHECKING:
    from cohortloom.report.report import Figure

__all__ = ["KINDS", "figure_parts"]

KINDS = ("curves", "bars", "matrix", "graph", "timeline", "scatter", "table")


def figure_parts(figure: Figure, number: int) -> dict[str, Any]:
    """What a template needs: drawings (safe SVG), legend, ramp, table, patients, and whether it takes half the page.

    A figure that can't be drawn says so in its place; a report is never lost over one drawing.
    """
    parts: dict[str, Any] = {"number": number, "title": figure.title, "note": figure.note, "kind": figure.kind}
    parts |= {"drawing": "", "legend": [], "ramp": None, "table": None, "patients": [], "half": False, "trouble": ""}
    content = plain(figure.content)
    try:
        parts |= _draw(figure.kind, content, figure.title, f"f{number}-")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        parts["trouble"] = (
            f"This figure could not be drawn ({type(error).__name__}); its numbers are in the JSON report."
        )
    return parts


def _draw(kind: str, content: Mapping[str, Any], title: str, prefix: str) -> dict[str, Any]:
    from cohortloom.report import pictures, plots
    from cohortloom.report.canvas import swatch

    if kind == "table":
        table = {"columns": content["columns"], "rows": content["rows"]}
        return {"table": table, "half": len(content["columns"]) <= 4}
    if kind == "timeline":
        return {
            "patients": [
                _patient(p, content.get("time_unit", ""), f"{prefix}{i}-") for i, p in enumerate(content["patients"])
            ]
        }
    if kind in ("ecg_paper", "eeg_montage"):
        from cohortloom.report.waveform_figures import DRAWINGS

        return {"drawing": DRAWINGS[kind](content, prefix, escape(title, quote=True))}
    if kind not in KINDS:
        return {"trouble": f'There is no drawing for figures of kind "{kind}"; its numbers are in the JSON report.'}
    panels = content["panels"]
    if kind == "matrix":
        panels = _scaled(panels)
        content = {**content, "panels": panels}
    if not panels:
        return {"trouble": "There is nothing to draw."}
    draw = {
        "curves": plots.curves,
        "bars": plots.bars,
        "matrix": plots.matrix,
        "scatter": plots.scatter,
        "graph": pictures.graph,
    }
    label = plots.described(title, content)
    rows = enumerate(plots.rows_of_panels(content))
    drawing = "".join(draw[kind](row, f"{prefix}{i}-", label) for i, row in rows)
    parts: dict[str, Any] = {"drawing": drawing, "half": len(panels) <= 1}
    parts["legend"] = [swatch(name, plots.spares(content)[name]) for name in plots.names_of(panels)]
    if kind == "matrix":
        parts["ramp"] = _ramp(panels)
    return parts


def _ramp(panels: list[Mapping[str, Any]]) -> dict[str, str] | None:
    """Ends of the colour scale, if all panels share one."""
    ends = {_ends(p) for p in panels}
    if len(ends) != 1 or None in ends:
        return None
    low, high, diverging = ends.pop()  # type: ignore[misc]
    return {"low": say(low), "high": say(high), "diverging": "diverging" if diverging else ""}


def _scaled(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where panels differ in scale, each says its own beside its title."""
    if len({_ends(p) for p in panels}) <= 1:
        return panels
    named = ((p, _ends(p)) for p in panels)
    return [{**p, "scale": f"  ({say(e[0])} to {say(e[1])})" if e else ""} for p, e in named]


def _ends(panel: Mapping[str, Any]) -> tuple[float, float, bool] | None:
    low, high, diverging = panel.get("low"), panel.get("high"), bool(panel.get("diverging"))
    if high is None:
        return None
    largest = max(abs(high), abs(low or 0))
    return (-largest, largest, True) if diverging else (low or 0, high, False)


def _patient(patient: Mapping[str, Any], unit: str, prefix: str) -> dict[str, Any]:
    from cohortloom.report import pictures

    if patient.get("origin", "synthetic") != "synthetic":
        raise ValueError("only synthetic patients are drawn one by one")
    label = escape(f"Timeline of {patient.get('title', 'a synthetic patient')}", quote=True)
    drawing = pictures.timeline(patient, unit, prefix, label)
    return {"title": patient.get("title", ""), "facts": patient.get("facts", []), "drawing": drawing}
