"""From a matplotlib figure to an SVG that follows the page's theme.

Figures are made without pyplot, so no global state is touched. Colours are drawn as stand-ins and then replaced by CSS
variables, so one drawing serves light, dark and print. Text stays text (searchable, small). Ids get a prefix, because
many drawings share a page. Equal content gives equal bytes: fixed hash salt, no date.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["ACCENT", "GRID", "INK", "MUTED", "PAPER", "series_style", "svg"]

INK, MUTED, GRID, PAPER, ACCENT = "#010101", "#020202", "#030303", "#040404", "#050505"
STAND_INS = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper", ACCENT: "--accent"}
# name: colour variable, dashes, marker
KNOWN = {
    "real train": ("--train", (0, (5, 1.6)), "s"),
    "real held-out": ("--real", "solid", "o"),
    "synthetic": ("--synthetic", "solid", "D"),
    "bootstrap": ("--bootstrap", (0, (1.2, 1.4)), "v"),
    "independent": ("--independent", (0, (6, 1.5, 1.2, 1.5)), "^"),
}
SPARE = [("--s1", "solid", "o"), ("--s2", (0, (5, 1.6)), "s"), ("--s3", (0, (1.2, 1.4)), "D"), ("--s4", "solid", "v")]
SPARE += [("--s5", (0, (6, 1.5, 1.2, 1.5)), "^"), ("--s6", (0, (3, 1)), "P")]
for _i, _name in enumerate([v for v, _, _ in (*KNOWN.values(), *SPARE)]):
    STAND_INS[f"#0600{_i:02x}"] = _name
_COLOUR = {variable: stand_in for stand_in, variable in STAND_INS.items()}

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cohortloom",
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}


def series_style(name: str, spare: int = 0) -> tuple[str, Any, str]:
    """Stand-in colour, dashes and marker of a series: fixed for the cohorts every report speaks of."""
    variable, dashes, marker = KNOWN.get(name) or SPARE[spare % len(SPARE)]
    return _COLOUR[variable], dashes, marker


def swatch(name: str, spare: int = 0) -> dict[str, str]:
    """CSS variable and dash pattern of a series, for a legend in the page."""
    variable, dashes, _ = KNOWN.get(name) or SPARE[spare % len(SPARE)]
    return {
        "name": name,
        "colour": f"var({variable})",
        "dash": "" if dashes == "solid" else " ".join(map(str, dashes[1])),
    }


def svg(width: float, height: float, draw: Callable[[Any], None], *, prefix: str, label: str) -> str:
    """Draw on an empty figure and give the SVG element.

    Args:
        width, height: Size [inch]; on the page one inch is 96 pixels, less where the page is narrow.
        draw: Gets the matplotlib Figure.
        prefix: Put before every id.
        label: What the drawing shows, for those who can't see it (escaped by the caller).
    """
    import matplotlib  # heavy: only reports need it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs a font lacks: the browser has its own fonts
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _themed(out.getvalue(), width, height, prefix, label)


def _themed(text: str, width: float, height: float, prefix: str, label: str) -> str:
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<defs>\s*</defs>", "", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r' id="', f' id="{prefix}', body)
    body = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}", body)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r"#0[1-6][0-9a-f]{4}", lambda m: f"var({STAND_INS[m[0]]})" if m[0] in STAND_INS else m[0], body)
    body = re.sub(r"font: ([^\"';]*?)'[^\"]*?(;|\")", lambda m: f"font: {m[1]}var(--sans){m[2]}", body)
    body = re.sub(r"(?<=[\s\"(,])(-?\d+\.\d{3,})", lambda m: f"{float(m[1]):.2f}", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    size = f'viewBox="0 0 {width * 72:g} {height * 72:g}" style="width:{width * 96:.0f}px"'
    return f'<svg class="drawing" {size} role="img" aria-label="{label}">{body}</svg>'
