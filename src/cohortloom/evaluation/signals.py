"""Waveforms of a synthetic cohort against held-out ones, signal by signal.

Measures: intervals and rhythm, spectra, autocorrelation, coherence and correlation of channels, average beats
(`signals_shape.py`); associations between the record and the waveform (`signals_record.py`); judges and labels
(`signals_judge.py`); nearest neighbours and copies (`signals_near.py`); whether a classifier gains by the synthetic
records (`signals_added.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import not_computed
from cohortloom.evaluation.signals_sides import SignalContext, prepare_signal
from cohortloom.report import Figure, Score

__all__ = ["figures", "measures_of", "prepared", "scores"]


def prepared(ctx: Context) -> dict[str, SignalContext | str]:
    """Every signal of the schema, or the reason why it can't be compared."""
    if "signals" not in ctx.cache:
        ctx.cache["signals"] = {name: prepare_signal(ctx, name) for name in ctx.schema.signals}
    return ctx.cache["signals"]


def scores(ctx: Context) -> list[Score]:
    """Every score of every signal; nothing for schemas without signals."""
    from cohortloom.evaluation import signals_added

    found: list[Score] = []
    for name, signal in prepared(ctx).items():
        if isinstance(signal, str):
            found.append(not_computed(ctx, f"signals.{name}", f"{name}: waveforms", signal))
            continue
        found += measures_of(signal, ctx.tell)
        ctx.tell(f"measuring {name}: does it help to add records")
        found += signals_added.scores(signal)
    return found


def measures_of(signal: SignalContext, tell: Callable[[str], None]) -> list[Score]:
    """Every score of one signal."""
    from cohortloom.evaluation import signals_judge, signals_near, signals_record, signals_shape

    found: list[Score] = []
    for module in (signals_shape, signals_record, signals_judge, signals_near):
        tell(f"measuring {signal.name}: {module.__name__.rpartition('_')[2]}")
        with np.errstate(all="ignore"):
            found += module.scores(signal)
    return found


SHOWN = {"synthetic": "synthetic", "held_out": "real held-out", "train": "real train"}


def figures(ctx: Context) -> list[Figure]:
    """Distributions of intervals, spectra, and a few synthetic records."""
    from cohortloom.evaluation import signals_record

    found: list[Figure] = []
    for name, signal in prepared(ctx).items():
        if not isinstance(signal, str):
            found += signals_record.figures(signal)
            found += [f for f in (_intervals(name, signal), _spectra(name, signal), _records(name, signal)) if f]
    return found


def _intervals(name: str, ctx: SignalContext) -> Figure | None:
    panels = []
    names = [c for c in ctx.views["train"].features.columns if c != "row"]
    for feature in names:
        series = []
        for side, words in SHOWN.items():
            x = np.sort(ctx.views[side].column(feature))
            x = x[np.isfinite(x)]
            if len(x) >= 25:  # quantiles between many records, never single ones
                q = np.linspace(0.1, 0.9, min(17, len(x) // 5))
                series.append({"name": words, "x": np.quantile(x, q).round(5).tolist(), "y": q.round(3).tolist()})
        if len(series) == len(SHOWN):
            panels.append({"title": feature, "series": series})
    if not panels:
        return None
    content = {"x_label": "", "y_label": "share of records below", "panels": panels[:12]}
    return Figure("curves", f"{name}: intervals and rhythm", content, "Quantiles from 10 to 90 %.", "signals")


def _spectra(name: str, ctx: SignalContext) -> Figure | None:
    from scipy.signal import welch  # heavy

    channels = np.unique(np.linspace(0, len(ctx.spec.channels) - 1, min(4, len(ctx.spec.channels))).round().astype(int))
    size = min(min(int(s.signal.records["n_samples"].min()) for s in ctx.views.values()), round(2 * ctx.spec.fs))
    if size < 16:
        return None
    panels = {int(c): [] for c in channels}
    for side, words in SHOWN.items():
        found = [welch(r.filled[channels], ctx.spec.fs, nperseg=size, axis=1) for r in ctx.views[side]]
        f = found[0][0]
        p = np.log10(np.stack([x[1] for x in found]) + 1e-12)
        for i, c in enumerate(channels):
            low, mid, high = np.quantile(p[:, i], [0.25, 0.5, 0.75], axis=0).round(3)
            keep = slice(1, None, max(1, len(f) // 200))
            panels[int(c)].append({"name": words, "x": f[keep].round(2).tolist(), "y": mid[keep].tolist(),
                                   "low": low[keep].tolist(), "high": high[keep].tolist()})  # fmt: skip
    content = {
        "x_label": "frequency [Hz]", "y_label": f"log10 power [{ctx.spec.unit}^2/Hz]",
        "panels": [{"title": ctx.spec.channels[c], "series": s} for c, s in panels.items()],
    }  # fmt: skip
    return Figure("curves", f"{name}: power spectra", content, "Median and middle half of the records.", "signals")


def _records(name: str, ctx: SignalContext) -> Figure | None:
    side = ctx.views["synthetic"]
    from cohortloom.evaluation.signals_record import told

    if ctx.spec.kind not in ("ecg", "eeg") or side.cohort.origin.kind == "real":
        return None
    part, kind = ("leads", "ecg_paper") if ctx.spec.kind == "ecg" else ("channels", "eeg_montage")
    records = []
    for number, r in zip(range(4), side, strict=False):
        x = r.raw[:, : round(10 * r.fs)]
        rows = [{"name": c, "samples": [None if not np.isfinite(v) else round(float(v), 4) for v in y]}
                for c, y in zip(r.channels, x, strict=True)]  # fmt: skip
        label = side.signal.records["label"][number] if "label" in side.signal.records.columns else None
        title, facts = f"Synthetic record {number + 1}", [*([label] if label else []), *told(ctx, number)]
        records.append({"title": title, "origin": "synthetic", "facts": facts, part: rows})
    content = {"fs": ctx.spec.fs, "unit": ctx.spec.unit, "records": records}
    return Figure(kind, f"{name}: synthetic records", content, "Drawn at random.", "signals")
