"""Waveforms as clinicians read them: ECG on paper (25 mm/s, 10 mm/mV) and EEG as a montage.

    ecg_paper    fs, unit, records: [{title, origin, leads: [{name, samples}], facts?}]
    eeg_montage  fs, unit, records: [{title, origin, channels: [{name, samples}], events?: [{time, label}]}]

On ECG paper a small square is 1 mm: 40 ms wide and .1 mV high; twelve leads stand in three rows of four, 2.5 s each,
and the rhythm lead runs below. Single records are drawn for synthetic patients only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohortloom.report.canvas import ACCENT, GRID, INK, MUTED, svg

__all__ = ["DRAWINGS", "ecg_paper", "eeg_montage"]

MM = 1 / 25.4  # inch
SPEED, GAIN = 25.0, 10.0  # mm/s, mm/mV
ROW = 22.0  # mm from one row to the next
LAYOUT = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
MOST_SECONDS = 10.0
MOST_POINTS = 2500


def ecg_paper(content: Mapping[str, Any], prefix: str, label: str) -> str:
    """One SVG element per record, to scale (96 pixels an inch), one below the other."""
    fs, unit = float(content["fs"]), str(content.get("unit", "mV"))
    per = {"mV": 1.0, "uV": 1e-3, "V": 1e3}.get(unit)
    out = []
    for k, record in enumerate(_synthetic(content["records"])):
        leads = {str(lead["name"]): _numbers(lead["samples"]) for lead in record["leads"]}
        rows, seconds = _rows(leads, fs)
        scale = per if per is not None else _unit_scale(leads)
        out.append(_paper(rows, seconds, fs, scale, per is not None, _heading(record), f"{prefix}{k}-", label))
    return "".join(out)


def _heading(record: Mapping[str, Any]) -> str:
    return " · ".join(str(part) for part in (record.get("title", ""), *record.get("facts", ())) if part)


def _synthetic(records: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if any(r.get("origin", "synthetic") != "synthetic" for r in records):
        raise ValueError("only synthetic patients are drawn one by one")
    return records


def _numbers(values: Any) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _unit_scale(leads: Mapping[str, np.ndarray]) -> float:
    """Without a known unit the tallest lead is drawn 1.5 mV high."""
    spans = [np.nanmax(x) - np.nanmin(x) for x in leads.values() if np.isfinite(x).any()]
    return 1.5 / max([*spans, 1e-12])


def _rows(leads: Mapping[str, np.ndarray], fs: float) -> tuple[list[list[tuple[str, np.ndarray, float, float]]], float]:
    """Rows of (lead, samples, start [s], length [s]), and the width [s]."""
    known = {name.lower(): name for name in leads}
    longest = max((len(x) for x in leads.values()), default=0) / fs
    seconds = min(longest, MOST_SECONDS)
    grid = [[known.get(name.lower()) for name in row] for row in LAYOUT]
    if len(leads) >= 6 and sum(name is not None for row in grid for name in row) >= 6:
        step = seconds / 4
        rows = [[(name, leads[name], i * step, step) for i, name in enumerate(row) if name] for row in grid]
        rhythm = known.get("ii") or next(iter(leads))
        return [*[r for r in rows if r], [(rhythm, leads[rhythm], 0.0, seconds)]], seconds
    return [[(name, x, 0.0, seconds)] for name, x in leads.items()], seconds


def _paper(
    rows, seconds: float, fs: float, scale: float, known_unit: bool, heading: str, prefix: str, label: str
) -> str:
    margin = 6.0
    width, height = seconds * SPEED + 2 * margin, len(rows) * ROW + 16.0

    def draw(figure: Any) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-margin, width - margin), ylim=(-height, 0))
        axes.set_axis_off()
        _squares(axes, -margin, width - margin, height)
        axes.text(0, -4.5, heading, fontsize=8, fontweight="bold", color=INK)
        for i, row in enumerate(rows):
            base = -(11.0 + ROW * (i + 0.45))
            for name, samples, start, length in row:
                _trace(axes, samples, fs, scale, start, length, base)
                axes.text(start * SPEED + 1, base + 7.5, name, fontsize=7, fontweight="bold", color=INK)
                if start > 0:
                    axes.plot([start * SPEED] * 2, [base - 3, base + 3], color=INK, linewidth=0.5)
            if known_unit:  # calibration pulse: 1 mV, .2 s
                pulse = np.array([[-5, 0], [-4, 0], [-4, 10], [-1.5, 10], [-1.5, 0], [-0.5, 0]])
                axes.plot(pulse[:, 0], base + pulse[:, 1], color=INK, linewidth=0.6)
        said = "25 mm/s, 10 mm/mV" if known_unit else "25 mm/s, height without unit"
        axes.text(0, -height + 1.5, said, fontsize=6.5, color=MUTED)

    return svg(width * MM, height * MM, draw, prefix=prefix, label=label)


def _squares(axes: Any, left: float, right: float, height: float) -> None:
    from matplotlib.collections import LineCollection  # heavy

    for step, width, alpha in ((1, 0.3, 0.22), (5, 0.55, 0.45)):
        x, y = np.arange(np.ceil(left / step) * step, right, step), np.arange(0, -height, -step)
        lines = [[(a, 0), (a, -height)] for a in x] + [[(left, b), (right, b)] for b in y]
        axes.add_collection(LineCollection(lines, colors="#d9534f", linewidths=width, alpha=alpha))


def _trace(axes: Any, samples: np.ndarray, fs: float, scale: float, start: float, length: float, base: float) -> None:
    part = samples[round(start * fs) : round((start + length) * fs) + 1]
    if not np.isfinite(part).any():
        return
    y = (part - np.nanmedian(part)) * scale * GAIN
    x = start * SPEED + np.arange(len(y)) / fs * SPEED
    axes.plot(x, base + np.clip(y, -18, 18), color=INK, linewidth=0.7, solid_joinstyle="round")


def eeg_montage(content: Mapping[str, Any], prefix: str, label: str) -> str:
    """One SVG element per record: a line per channel, a scale bar, and events as marks."""
    fs, unit = float(content["fs"]), str(content.get("unit", "uV"))
    out = []
    for k, record in enumerate(_synthetic(content["records"])):
        channels = [(str(c["name"]), _numbers(c["samples"])) for c in record["channels"]]
        out.append(_montage(channels, record.get("events", ()), fs, unit, _heading(record), f"{prefix}{k}-", label))
    return "".join(out)


def _montage(channels, events, fs: float, unit: str, heading: str, prefix: str, label: str) -> str:
    n = min(max((len(x) for _, x in channels), default=0), round(MOST_SECONDS * fs))
    spans = [np.nanpercentile(x[:n], 99) - np.nanpercentile(x[:n], 1) for _, x in channels if np.isfinite(x[:n]).any()]
    bar = _round(float(np.median(spans)) if spans else 1.0)
    step = 1.3 * bar
    height = 0.5 + 0.34 * len(channels)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title(heading, fontsize=8)
        t, every = np.arange(n) / fs, max(1, n // MOST_POINTS)
        for i, (_, x) in enumerate(channels):
            part = x[:n]
            if np.isfinite(part).any():
                y = np.clip(part - np.nanmedian(part), -1.6 * step, 1.6 * step) - i * step
                axes.plot(t[: len(part) : every], y[::every], color=INK, linewidth=0.6)
        for event in events:
            if 0 <= event["time"] < n / fs:
                axes.axvline(event["time"], color=ACCENT, linewidth=0.8, alpha=0.7)
                axes.text(event["time"], step * 0.75, str(event["label"])[:18], fontsize=6.5, color=ACCENT)
        axes.set_yticks([-i * step for i in range(len(channels))], [name for name, _ in channels], fontsize=7)
        axes.set_ylim(-(len(channels) - 0.2) * step, 1.1 * step)
        axes.set_xlim(0, max(n / fs, 1e-9) * 1.06)
        axes.set_xlabel("time [s]")
        axes.grid(True, axis="x", color=GRID)
        axes.grid(False, axis="y")
        right = n / fs * 1.02
        low = -(len(channels) - 0.6) * step
        axes.plot([right, right], [low, low + bar], color=INK, linewidth=1.4)
        axes.text(right * 1.003, low + bar / 2, f"{bar:g} {unit}", fontsize=6.5, va="center", color=MUTED, rotation=90)

    return svg(9.8, height, draw, prefix=prefix, label=label)


def _round(x: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten."""
    if not np.isfinite(x) or x <= 0:
        return 1.0
    power = 10 ** np.floor(np.log10(x))
    return float(power * min((1, 2, 5, 10), key=lambda k: abs(np.log(k * power / x))))


DRAWINGS = {"ecg_paper": ecg_paper, "eeg_montage": eeg_montage}
