"""Curves, bars, scatter plots and matrices, from plain data.

Each function takes the content of a figure (see `figures.py` for its form) and gives an SVG element. Numbers may be
null; text may be anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from cohortloom.report.canvas import GRID, INK, MUTED, series_style, svg
from cohortloom.report.plain import say

__all__ = [
    "across",
    "bars",
    "curves",
    "described",
    "matrix",
    "names_of",
    "rows_of_panels",
    "scatter",
    "short",
    "spares",
]

MOST_POINTS = 500
MOST_BARS = 40
BLUE, RED = (0.13, 0.47, 0.71), (0.84, 0.37, 0.05)  # readable on light and on dark paper alike


def short(text: Any, most: int = 26) -> str:
    """A label that fits; the end is kept, since names differ there as often as at the start."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 8]}…{text[-7:]}"


def names_of(panels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of series in order of appearance."""
    return list(dict.fromkeys(s.get("name", "") for p in panels for s in p.get("series", ())))


def curves(content: Mapping[str, Any], prefix: str, label: str) -> str:
    """Lines with bands, one panel each."""
    spare = spares(content)

    def draw(figure: Any) -> None:
        for axes, panel in _panels(figure, content):
            for series in panel.get("series", ()):
                colour, dashes, marker = series_style(series["name"], spare[series["name"]])
                x, y = _numbers(series.get("x")), _numbers(series.get("y"))
                style = {"drawstyle": "steps-post"} if series.get("step") else {}
                few = {"marker": marker, "markersize": 3.2} if len(x) <= 12 and not style else {}
                keep = _thin(len(x))
                if series.get("low") is not None and series.get("high") is not None:
                    low, high = _numbers(series["low"])[keep], _numbers(series["high"])[keep]
                    step = "post" if style else None
                    axes.fill_between(x[keep], low, high, color=colour, alpha=0.16, linewidth=0, step=step)
                axes.plot(x[keep], y[keep], color=colour, linestyle=dashes, linewidth=1.5, **style, **few)
            _frame(axes, panel, content)

    return svg(*_size(content), draw, prefix=prefix, label=label)


def scatter(content: Mapping[str, Any], prefix: str, label: str) -> str:
    """Points, one panel each."""
    spare = spares(content)

    def draw(figure: Any) -> None:
        for axes, panel in _panels(figure, content):
            for series in panel.get("series", ()):
                colour, _, marker = series_style(series["name"], spare[series["name"]])
                x, y = _numbers(series.get("x")), _numbers(series.get("y"))
                keep = _thin(len(x), 1500)
                size = 14 if len(x) < 100 else 6
                axes.scatter(x[keep], y[keep], s=size, marker=marker, color=colour, alpha=0.6, linewidths=0)
            _frame(axes, panel, content)

    return svg(*_size(content, 2.9), draw, prefix=prefix, label=label)


def bars(content: Mapping[str, Any], prefix: str, label: str) -> str:
    """Grouped bars; lying where labels are long or many."""
    panels = content.get("panels", [])
    spare = spares(content)
    labels = [str(name) for p in panels for name in p.get("labels", ())]
    most = min(max((len(p.get("labels", ())) for p in panels), default=1), MOST_BARS)
    lying = most > 8 or max(map(len, labels), default=0) > 9
    n_series = max((len(p.get("series", ())) for p in panels), default=1)

    def draw(figure: Any) -> None:
        for axes, panel in _panels(figure, content):
            names = [short(n) for n in panel.get("labels", ())][:MOST_BARS]
            place = np.arange(len(names))
            series = panel.get("series", ())
            width = 0.8 / max(len(series), 1)
            for k, one in enumerate(series):
                colour, _, _ = series_style(one["name"], spare[one["name"]])
                height = _numbers(one.get("values"))[: len(names)]
                at = place[: len(height)] + (k - (len(series) - 1) / 2) * width
                (axes.barh if lying else axes.bar)(at, height, width * 0.92, color=colour, linewidth=0)
            _frame(axes, panel, {**content, **({"x_label": content.get("y_label"), "y_label": ""} if lying else {})})
            (axes.set_yticks if lying else axes.set_xticks)(place, names)
            axes.grid(False, axis="y" if lying else "x")
            if lying:
                axes.invert_yaxis()
                axes.locator_params(axis="x", nbins=5)

    height = max(1.5, 0.5 + most * (0.1 + 0.085 * n_series)) if lying else 2.3
    return svg(*_size(content, height), draw, prefix=prefix, label=label)


def matrix(content: Mapping[str, Any], prefix: str, label: str) -> str:
    """Cells shaded by size; where diverging, red above zero and blue below. A cell without a number holds a cross."""
    panels = content.get("panels", [])
    most_rows = max((len(p.get("rows", ())) for p in panels), default=1)
    same_rows = len({tuple(map(str, p.get("rows", ()))) for p in panels}) == 1
    columns = across(content)
    longest = max((len(short(c, 18)) for p in panels for c in p.get("columns", ())), default=1)
    most_columns = max((len(p.get("columns", ())) for p in panels), default=1)
    room = 3.2 if columns == 1 else 7.6 / columns  # what the labels leave of a panel
    square = max(most_rows, most_columns) <= 12
    cell = min(max(2.7 / max(most_rows, 1), 0.085), 0.4, room / max(most_columns, 1) if square else 0.4)
    height = max(most_rows * cell, 0.7) + 0.6 + min(longest, 18) * 0.068

    def draw(figure: Any) -> None:
        for k, (axes, panel) in enumerate(_panels(figure, content)):
            _one_matrix(axes, panel, cell, labelled=not same_rows or k % columns == 0)

    width, total = _size(content, height)
    return svg(width, total, draw, prefix=prefix, label=label)


def _one_matrix(axes: Any, panel: Mapping[str, Any], cell: float, *, labelled: bool) -> None:
    values = np.array([_numbers(row) for row in panel.get("values", ())], dtype=float)
    rows, columns = panel.get("rows", ()), panel.get("columns", ())
    axes.grid(False)
    axes.set_title(short(panel.get("title", ""), 40) + panel.get("scale", ""))
    if values.size == 0:
        axes.set_axis_off()
        return
    low, high = panel.get("low"), panel.get("high")
    size = np.nanmax(np.abs(values), initial=0.0, where=np.isfinite(values))
    high = float(high if high is not None else size or 1.0)
    if panel.get("diverging"):
        high = max(abs(high), abs(float(low or 0.0))) or 1.0
        strength = np.abs(values) / high
        hue = np.where((values >= 0)[..., None], RED, BLUE)
    else:
        low = float(low or 0.0)
        strength = (values - low) / ((high - low) or 1.0)
        hue = np.broadcast_to(BLUE, (*values.shape, 3))
    alpha = np.nan_to_num(np.clip(strength, 0, 1)) * 0.95
    axes.imshow(np.dstack([hue, alpha]), interpolation="none", aspect="auto" if max(values.shape) > 12 else "equal")
    lost = np.argwhere(~np.isfinite(values))
    if len(lost):
        axes.scatter(lost[:, 1], lost[:, 0], s=60 * cell, marker="x", color=MUTED, linewidths=0.5)
    if max(values.shape) <= 8:
        for i, j in np.argwhere(np.isfinite(values)):
            axes.text(j, i, say(float(values[i, j]), 2), ha="center", va="center", fontsize=7, color=INK)
    every = max(1, math.ceil(0.085 / cell), math.ceil(len(columns) / 45))
    small = min(8.0, max(5.0, cell * 72 * 0.9))
    axes.set_xticks(
        range(0, len(columns), every), [short(c, 18) for c in columns][::every], rotation=90, fontsize=small
    )
    names = [short(r, 18) for r in rows][::every] if labelled else []
    axes.set_yticks(range(0, len(rows), every) if labelled else [], names, fontsize=small)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=GRID)


def rows_of_panels(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One content per row of panels, so that a page can break between rows; styles and widths stay the same."""
    panels, wide = content["panels"], across(content)
    shared = {**content, "across": wide, "spare": spares(content)}
    return [{**shared, "panels": panels[i : i + wide]} for i in range(0, len(panels), wide)]


def across(content: Mapping[str, Any]) -> int:
    """Panels side by side: three, but two by two for four."""
    n = len(content.get("panels", ()))
    return content.get("across") or (2 if n == 4 else min(max(n, 1), 3))


def _panels(figure: Any, content: Mapping[str, Any]) -> list[tuple[Any, Mapping[str, Any]]]:
    panels, columns = content.get("panels", ()), across(content)
    axes = figure.subplots(max(math.ceil(len(panels) / columns), 1), columns, squeeze=False).ravel()
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    return list(zip(axes, panels))


def _size(content: Mapping[str, Any], height: float = 2.3) -> tuple[float, float]:
    """Width and height [inch]: one panel takes half the page, more take all of it."""
    columns = across(content)
    rows = math.ceil(max(len(content.get("panels", ())), 1) / columns)
    return (4.7 if columns == 1 else 9.8), min(rows * height, 40.0)


def _frame(axes: Any, panel: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    axes.set_title(short(panel.get("title", ""), 40))
    axes.set_xlabel(short(panel.get("x_label") or content.get("x_label") or "", 60))
    axes.set_ylabel(short(panel.get("y_label") or content.get("y_label") or "", 44))
    axes.margins(x=0.02)


def spares(content: Mapping[str, Any]) -> dict[str, int]:
    """Which spare style each series takes that no report knows by name."""
    from cohortloom.report.canvas import KNOWN

    new = (name for name in names_of(content.get("panels", ())) if name not in KNOWN)
    return content.get("spare") or ({name: i for i, name in enumerate(new)} | dict.fromkeys(KNOWN, 0))


def _numbers(values: Any) -> np.ndarray:
    """Floats; null and words become NaN."""
    given = values if values is not None else ()
    return np.array([float(v) if isinstance(v, (int, float)) else np.nan for v in given], dtype=float)


def _thin(n: int, most: int = MOST_POINTS) -> np.ndarray:
    """Rows to draw: all, or evenly spaced ones with the first and the last."""
    return np.arange(n) if n <= most else np.unique(np.linspace(0, n - 1, most).round().astype(int))


def described(title: str, content: Mapping[str, Any]) -> str:
    """Alternative text: title, panels and series; escaped."""
    panels = content.get("panels", ())
    parts = [title, *(str(p.get("title", "")) for p in panels[:6])]
    names = names_of(panels)
    return escape(". ".join(p for p in parts if p) + (f". Series: {', '.join(names)}." if names else "."), quote=True)
