"""Transition graphs and patient timelines, from plain data.

A timeline shows one patient and is drawn for synthetic patients only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cohortloom.report.canvas import ACCENT, GRID, INK, MUTED, PAPER, series_style, svg
from cohortloom.report.plots import _numbers, _panels, _size, across, matrix, short

__all__ = ["graph", "timeline"]

SMALLEST_ARROW = 0.02
MOST_STATES = 10
MOST_LANES = 9


def graph(content: Mapping[str, Any], prefix: str, label: str) -> str:
    """States on a circle, an arrow as wide as its probability; as a matrix where there are many states."""
    panels = content.get("panels", [])
    if any(len(p.get("states", ())) > MOST_STATES for p in panels):
        tables = [
            {
                "title": p.get("title", ""),
                "rows": p["states"],
                "columns": p["states"],
                "values": p["probability"],
                "low": 0,
                "high": 1,
            }
            for p in panels
        ]
        return matrix({**content, "panels": tables}, prefix, label)

    def draw(figure: Any) -> None:
        for axes, panel in _panels(figure, content):
            _one_graph(axes, panel)

    return svg(*_size(content, 2.6 if across(content) > 3 else 3.3), draw, prefix=prefix, label=label)


def _one_graph(axes: Any, panel: Mapping[str, Any]) -> None:
    from matplotlib.patches import Circle, FancyArrowPatch

    states, p = panel.get("states", []), panel.get("probability", [])
    n = len(states)
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / max(n, 1)
    x, y = (np.cos(angle), np.sin(angle)) if n > 1 else (np.zeros(1), np.zeros(1))
    radius = 0.36 if n <= 4 else 0.27 if n <= 6 else 0.2
    axes.set_title(short(panel.get("title", ""), 40))
    axes.set(xlim=(-1.42, 1.42), ylim=(-1.4, 1.4), aspect="equal")
    axes.set_axis_off()
    nodes = [Circle(at, radius, facecolor=PAPER, edgecolor=INK, linewidth=0.9, zorder=3) for at in zip(x, y)]
    for i in range(n):
        axes.add_patch(nodes[i])
        stay = p[i][i] if p[i][i] is not None else 0.0
        size = 7.5 if len(str(states[i])) <= 8 else 6.0
        axes.text(x[i], y[i] + 0.05, short(states[i], 11), fontsize=size, ha="center", va="center", zorder=4)
        axes.text(x[i], y[i] - 0.1, f"{stay:.2f}", fontsize=7, ha="center", va="center", color=MUTED, zorder=4)
        for j in range(n):
            q = p[i][j] if p[i][j] is not None else 0.0
            if i == j or q < SMALLEST_ARROW:
                continue
            ends = dict(posA=(x[i], y[i]), posB=(x[j], y[j]), patchA=nodes[i], patchB=nodes[j], shrinkA=0, shrinkB=1)
            look = dict(linewidth=0.6 + 3.4 * q, color=ACCENT, alpha=0.3 + 0.6 * q, mutation_scale=7 + 6 * q)
            axes.add_patch(FancyArrowPatch(**ends, **look, arrowstyle="-|>", connectionstyle="arc3,rad=0.18"))
            if q >= 0.08 or n <= 3:
                # arc3 with rad r bends to the right of the way, by r / 2 of its length in the middle
                dx, dy = x[j] - x[i], y[j] - y[i]
                at = ((x[i] + x[j]) / 2 - 0.12 * dx + 0.1 * dy, (y[i] + y[j]) / 2 - 0.12 * dy - 0.1 * dx)
                box = dict(facecolor=PAPER, edgecolor="none", pad=0.5, alpha=0.85)
                axes.text(*at, f"{q:.2f}", fontsize=7, ha="center", va="center", color=MUTED, bbox=box)


def timeline(patient: Mapping[str, Any], time_unit: str, prefix: str, label: str) -> str:
    """One synthetic patient: a strip per series, and a lane per kind of event."""
    series = list(patient.get("series", ()))
    events = list(patient.get("events", ()))
    count: dict[str, int] = {}
    for event in events:
        count[str(event["label"])] = count.get(str(event["label"]), 0) + 1
    lanes = sorted(count, key=lambda k: (-count[k], k))[:MOST_LANES]
    if len(count) > MOST_LANES:
        lanes = [*lanes[:-1], f"{len(count) - MOST_LANES + 1} further kinds"]
    heights = [0.62] * len(series) + ([0.3 + 0.17 * len(lanes)] if lanes else [])

    def draw(figure: Any) -> None:
        if not heights:
            return
        strips = figure.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights).ravel()
        for axes, one in zip(strips, series):
            x, y = _numbers(one.get("time")), _numbers(one.get("value"))
            known = np.isfinite(x) & np.isfinite(y)
            colour, _, _ = series_style("synthetic")
            axes.plot(x[known], y[known], color=colour, linewidth=1.0, marker="o", markersize=2.6)
            unit = f" [{one['unit']}]" if one.get("unit") not in (None, "", "1") else ""
            axes.set_title(short(one.get("name", ""), 30) + unit, fontsize=7.5, fontweight="normal", pad=2)
            axes.locator_params(axis="y", nbins=3)
            axes.tick_params(labelbottom=False)
            axes.margins(y=0.15)
        moments = _numbers([t for one in series for t in one.get("time", ())] + [e.get("time") for e in events])
        if len(set(moments[np.isfinite(moments)])) == 1:  # a single visit: no scale of thousandths of a day
            strips[-1].set_xlim(np.nanmin(moments) - 1, np.nanmin(moments) + 1)
        if lanes:
            _lanes(strips[-1], events, lanes)
        strips[-1].tick_params(labelbottom=True)
        strips[-1].set_xlabel(f"time [{time_unit}]" if time_unit else "time")

    return svg(4.7, sum(heights) + 0.45, draw, prefix=prefix, label=label)


def _lanes(axes: Any, events: list[Mapping[str, Any]], lanes: list[str]) -> None:
    place = {name: i for i, name in enumerate(lanes)}
    at = [place.get(str(e["label"]), len(lanes) - 1) for e in events]
    axes.scatter(_numbers([e["time"] for e in events]), at, s=13, marker="|", color=INK, linewidths=1.1)
    axes.set_yticks(range(len(lanes)), [short(name, 24) for name in lanes], fontsize=7)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.grid(True, axis="y", color=GRID)
