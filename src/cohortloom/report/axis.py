"""One score on one horizontal axis: value with interval, floor, both anchors and limit as marks of their own.

Every mark has its own shape, so colour is never needed to tell them apart:

    value       filled circle on its interval       floor        open diamond
    limit       upright bar, beyond it shaded       bootstrap    open square        independent    open triangle

The axis covers value, interval, floor and limit; an anchor that lies far outside is drawn beyond a break
in it, with an arrow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cohortloom.report.plain import say

if TYPE_CHECKING:
    from cohortloom.report.score import Score

__all__ = ["LEGEND", "axis_svg", "axis_words", "mark_svg"]

WIDTH, HEIGHT, LEFT, RIGHT, MIDDLE = 280, 26, 42, 240, 13
GUTTER = 22
LEGEND = (
    ("value", "value and 95 % interval"),
    ("limit", "limit; the shaded side fails"),
    ("floor", "floor: real patients in their place"),
    ("bootstrap", "anchor: copied patients (bootstrap)"),
    ("independent", "anchor: columns drawn apart (independent)"),
)


def axis_words(score: Score) -> str:
    """The axis for those who can't see it."""
    parts = [f"value {say(score.value)}"]
    if score.interval:
        parts.append(f"interval {say(score.interval[0])} to {say(score.interval[1])}")
    if score.limit is not None:
        parts.append(f"limit {say(score.limit)}")
    if score.floor is not None:
        parts.append(f"floor {say(score.floor)}")
    parts += [f"{name} {say(value)}" for name, value in score.anchors.items() if value is not None]
    return ", ".join(parts)


def axis_svg(score: Score) -> str:
    """The drawing, or nothing if there is no value; all text in it comes from numbers."""
    if score.value is None or not math.isfinite(score.value):
        return ""
    low, high = _domain(score)
    beyond = {k: v for k, v in score.anchors.items() if v is not None and math.isfinite(v) and not low <= v <= high}
    left = LEFT + GUTTER * any(v < low for v in beyond.values())
    right = RIGHT - GUTTER * any(v > high for v in beyond.values())

    def at(value: float) -> float:
        return left + (right - left) * (min(max(value, low), high) - low) / (high - low)

    parts = []
    if score.limit is not None:
        x = at(score.limit)
        start, end = (left, x) if score.goal.value == "high" else (x, right)
        parts.append(f'<rect class="bad" x="{start:.1f}" y="5" width="{max(end - start, 0):.1f}" height="16"/>')
    parts.append(f'<path class="line" d="M{left} {MIDDLE}H{right}"/>')
    if score.limit is not None:
        parts.append(f'<path class="limit" d="M{at(score.limit):.1f} 3V23"/>')
    for name in ("independent", "bootstrap"):
        value = score.anchors.get(name)
        if value is None or not math.isfinite(value):
            continue
        if name in beyond:
            parts.append(_arrow(value > high))
            parts.append(_shape(name, RIGHT - 11 if value > high else LEFT + 11))
        else:
            parts.append(_shape(name, at(value)))
    if score.floor is not None and math.isfinite(score.floor):
        parts.append(_shape("floor", at(score.floor)))
    if score.interval and all(math.isfinite(v) for v in score.interval):
        parts.append(f'<path class="span" d="M{at(score.interval[0]):.1f} {MIDDLE}H{at(score.interval[1]):.1f}"/>')
    parts.append(_shape("value", at(score.value)))
    parts.append(f'<text class="end" x="{LEFT - 9}" y="17" text-anchor="end">{say(low, 2)}</text>')
    parts.append(f'<text class="end" x="{RIGHT + 8}" y="17">{say(high, 2)}</text>')
    state = {True: "pass", False: "fail", None: "open"}[score.passed]
    label = axis_words(score)
    return (
        f'<svg class="axis {state}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def mark_svg(name: str) -> str:
    """One mark alone, for the legend."""
    body = _shape(name, 14) if name != "limit" else '<rect class="bad" x="14" y="5" width="14" height="16"/>'
    if name == "limit":
        body += '<path class="limit" d="M14 3V23"/>'
    if name == "value":
        body = f'<path class="span" d="M3 {MIDDLE}H25"/>' + body
    return f'<svg class="axis mark" viewBox="0 0 28 {HEIGHT}" aria-hidden="true">{body}</svg>'


def _domain(score: Score) -> tuple[float, float]:
    core = [score.value, *(score.interval or ()), score.floor, score.limit]
    known = [v for v in core if v is not None and math.isfinite(v)]
    low, high = min(known), max(known)
    span = max(high - low, abs(high) * 0.05, 1e-9)
    for value in score.anchors.values():
        if value is not None and math.isfinite(value) and low - 2 * span <= value <= high + 2 * span:
            low, high = min(low, value), max(high, value)
    span = max(high - low, abs(high) * 0.05, 1e-9)
    if 0 <= low <= 1.5 * span:
        return 0.0, _round_up(high + 0.06 * span)
    if high <= 1 and 1 - high < 0.5 * span:
        return low - 0.06 * span, 1.0
    return low - 0.06 * span, high + 0.06 * span


def _round_up(value: float) -> float:
    """The next number of two digits, so that the end of an axis reads well."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit - 1e-9) * unit


def _shape(name: str, x: float) -> str:
    y = MIDDLE
    if name == "value":
        return f'<circle class="value" cx="{x:.1f}" cy="{y}" r="4.5"/>'
    if name == "floor":
        return f'<path class="floor" d="M{x:.1f} {y - 6}l6 6l-6 6l-6 -6z"/>'
    if name == "bootstrap":
        return f'<path class="anchor" d="M{x - 4.5:.1f} {y - 4.5}h9v9h-9z"/>'
    if name == "independent":
        return f'<path class="anchor" d="M{x:.1f} {y - 5.5}l5.5 9.5h-11z"/>'
    return ""


def _arrow(right: bool) -> str:
    """A break in the axis and the way to what lies beyond it."""
    x, step = (RIGHT - 4, 4) if right else (LEFT + 4, -4)
    gap = RIGHT - GUTTER + 2 if right else LEFT + GUTTER - 2
    return f'<path class="arrow" d="M{x} {MIDDLE - 4}l{step} 4l{-step} 4M{gap} {MIDDLE - 4}v8"/>'
