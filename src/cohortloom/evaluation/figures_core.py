"""Figures of the core measures as plain data: laws, associations, curves over time, missing cells, states, timelines.

Real patients are shown as shares and means only; single patients are drawn from the synthetic cohort alone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from cohortloom.evaluation.association import MAX_LEVELS, corrected_eta, corrected_v, per_patient
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field
from cohortloom.evaluation.temporal import GAP_BINS, autocorrelation
from cohortloom.evaluation.verdict import shortened
from cohortloom.evaluation.views import MICROSECONDS_PER_DAY, View, tally
from cohortloom.report import Figure

__all__ = ["figures"]

SHOWN = (("real held-out", "held_out"), ("synthetic", "synthetic"), ("independent", "independent"))
MOST_PANELS = 18
MOST_COLUMNS = 20
MOST_GRAPHS = 6
MOST_EVENTS = 1000


def figures(ctx: Context, groups: list[str]) -> list[Figure]:
    """Figures of the groups that were measured."""
    table: list[tuple[str, Callable[[Context], list[Figure]]]] = [
        ("marginal", distributions),
        ("marginal", courses),
        ("missingness", missing_heat),
        ("association", matrices),
        ("temporal", persistence),
        ("temporal", gaps_and_counts),
        ("temporal", transition_graphs),
        ("temporal", timelines),
    ]
    return [figure for group, make in table if group in groups for figure in make(ctx)]


def plain(x: np.ndarray, digits: int = 5) -> list[float | None]:
    """Numbers for JSON; None where not finite."""
    return [round(float(v), digits) if np.isfinite(v) else None for v in np.asarray(x, dtype=float).ravel()]


def first_of(ctx: Context, figure: str, items: list, most: int, name: Callable[[Any], str]) -> tuple[list, str]:
    """The first few of many, and a sentence that names the rest."""
    rest = [name(x) for x in items[most:]]
    if not rest:
        return items, ""
    ctx.leave_out(f'The figure "{figure}" shows {most} of {len(items)}', rest)
    return items[:most], f" Not shown: {shortened(rest)}."


def bin_edges(low: float, high: float, known: np.ndarray) -> np.ndarray:
    """Edges of about 24 bins of equal width; bins of whole numbers hold equally many of them, or a comb would show."""
    if (known == np.round(known)).all():
        width = max(1, int(np.ceil((high - low + 1) / 24)))
        low = np.floor(low)
        return low - 0.5 + width * np.arange(int(np.ceil((np.ceil(high) - low + 1) / width)) + 1)
    return np.linspace(low, high if high > low else low + 1, 25)


def titled(panel: dict) -> str:
    return panel["title"]


def title_of(f: Field) -> str:
    return f"{f.name} [{f.unit}]" if f.is_number and f.unit != "1" else f.name


def distributions(ctx: Context) -> list[Figure]:
    """Law of each column."""
    curves, bars = [], []
    for f in ctx.fields:
        if f.is_number:
            known = f.reference
            if known is None or len(known) < 2 or known[0] == known[-1]:
                continue
            low, high = np.quantile(known, [0.005, 0.995])
            if low == high:
                continue
            edges = bin_edges(low, high, known)
            series = []
            for label, name in SHOWN:
                x = ctx.views[name].columns[f.name]
                x = np.clip(x[np.isfinite(x)], edges[0], edges[-1])
                if len(x):
                    share = np.histogram(x, edges)[0] / len(x)
                    series.append({"name": label, "x": plain(edges), "y": plain([*share, share[-1]]), "step": True})
            curves.append({"title": title_of(f), "series": series})
        else:
            series = []
            sums = {k: np.bincount(v.columns[f.name][v.seen(f)], minlength=len(f.levels)) for k, v in ctx.views.items()}
            order = np.argsort(-sums["held_out"], kind="stable")[:12]
            order = np.array([k for k in order if any(s[k] for s in sums.values())], dtype=int)
            for label, name in SHOWN:
                share = sums[name] / max(1, sums[name].sum())
                series.append({"name": label, "values": plain(share[order])})
            if len(order):
                bars.append({"title": f.name, "labels": [f.levels[k] for k in order], "series": series})
    found = []
    if curves:
        curves, rest = first_of(ctx, "Distributions of numbers", curves, MOST_PANELS, titled)
        content = {"x_label": "value", "y_label": "share of values", "panels": curves}
        note = f"Share of values in bins of equal width; the outermost bins hold all beyond.{rest}"
        found.append(Figure("curves", "Distributions of numbers", content, note, "marginal"))
    if bars:
        bars, rest = first_of(ctx, "Distributions of categories", bars, MOST_PANELS, titled)
        content = {"y_label": "share", "panels": bars}
        found.append(
            Figure("bars", "Distributions of categories", content, f"Share of recorded cells.{rest}", "marginal")
        )
    return found


def courses(ctx: Context) -> list[Figure]:
    """Mean of each number by visit number."""
    panels = []
    for f in ctx.rows():
        if not f.is_number:
            continue
        series = []
        for label, name in SHOWN[:2]:
            view = ctx.views[name]
            keep = view.seen(f)
            row = np.minimum(view.axes[f.axis or ""].position[keep], 14)
            x = view.columns[f.name][keep]
            n = np.bincount(row, minlength=15)
            total, square = np.bincount(row, x, 15), np.bincount(row, x * x, 15)
            k = np.flatnonzero(n >= 20)
            mean = total[k] / n[k]
            half = 1.96 * np.sqrt(np.maximum(square[k] / n[k] - mean**2, 0) / n[k])
            series.append(
                {
                    "name": label,
                    "x": plain(k + 1),
                    "y": plain(mean),
                    "low": plain(mean - half),
                    "high": plain(mean + half),
                }
            )
        if series[0]["x"]:
            panels.append({"title": title_of(f), "series": series})
    if not panels:
        return []
    panels, rest = first_of(ctx, "Mean course", panels, MOST_PANELS, titled)
    content = {"x_label": "number of the row within the patient", "y_label": "mean", "panels": panels}
    return [Figure("curves", "Mean course", content, f"Means with 95 % bands.{rest}", "marginal")]


def missing_heat(ctx: Context) -> list[Figure]:
    """Share of missing cells by column and row number."""
    fields = [f for f in ctx.rows() if f.code is None]
    fields = [f for f in fields if any(not v.seen(f).all() for v in ctx.views.values() if len(v.seen(f)))]
    fields, rest = first_of(ctx, "Missing cells", fields, 40, lambda f: f.name)
    if not fields:
        return []
    values = {}
    for name in ("held_out", "synthetic"):
        view, rows = ctx.views[name], []
        for f in fields:
            row = np.minimum(view.axes[f.axis or ""].position, 9)
            n = np.bincount(row, minlength=10)
            rows.append(np.where(n > 0, np.bincount(row, ~view.seen(f), 10) / np.maximum(n, 1), np.nan))
        values[name] = np.array(rows)
    columns = [*map(str, range(1, 10)), "10+"]
    labels = [f.name for f in fields]
    panels = [
        panel("real held-out", labels, columns, values["held_out"], 0, 1),
        panel("synthetic", labels, columns, values["synthetic"], 0, 1),
        panel("synthetic less real", labels, columns, values["synthetic"] - values["held_out"], -0.3, 0.3),
    ]
    note = f"Share of missing cells by column and by the row's number within the patient.{rest}"
    return [Figure("matrix", "Missing cells", {"panels": panels}, note, "missingness")]


def panel(title: str, rows: list[str], columns: list[str], values: np.ndarray, low: float, high: float) -> dict:
    """One matrix."""
    cells = [plain(r, 3) for r in values]
    names = {"title": title, "rows": rows, "columns": columns}
    return names | {"values": cells, "low": low, "high": high, "diverging": low < 0}


# -- association ---------------------------------------------------------------------------------------------------


def strength(x: np.ndarray, y: np.ndarray, x_levels: int, y_levels: int) -> float:
    """Rank correlation (signed), corrected correlation ratio, or corrected Cramer's V of two columns."""
    both = (np.isfinite(x) if not x_levels else x >= 0) & (np.isfinite(y) if not y_levels else y >= 0)
    x, y = x[both], y[both]
    if len(x) < 10:
        return float("nan")
    if x_levels and y_levels:
        table = np.zeros((x_levels, y_levels))
        np.add.at(table, (x.astype(int), y.astype(int)), 1)
        return corrected_v(table)
    if not x_levels and not y_levels:
        if x.std() < 1e-9 or y.std() < 1e-9:
            return 0.0
        return float(np.corrcoef(x, y)[0, 1])
    if x_levels:
        x, y, y_levels = y, x, x_levels
    k = y.astype(int)
    return corrected_eta(*(np.bincount(k, w, y_levels) for w in (np.ones_like(x), x, x * x)))


def association_matrix(columns: list[tuple[str, np.ndarray, int]]) -> np.ndarray:
    """All pairs; 1 on the diagonal."""
    out = np.eye(len(columns))
    for i in range(len(columns)):
        for j in range(i):
            out[i, j] = out[j, i] = strength(columns[i][1], columns[j][1], columns[i][2], columns[j][2])
    return out


def patient_columns(ctx: Context, view: View) -> list[tuple[str, np.ndarray, int]]:
    """Statics, and mean rank or most frequent level of what is over time."""
    out = []
    for f in ctx.statics:
        out.append((f.name, view.rank(f), 0) if f.is_number else (f.name, capped(view.columns[f.name]), MAX_LEVELS))
    for f in ctx.rows():
        if ctx.schema.tables[f.table].is_long and f.code is None:
            continue
        out.append((f.name, per_patient(view, f), 0) if f.is_number else (f.name, commonest(view, f), MAX_LEVELS))
    return out


def capped(levels: np.ndarray) -> np.ndarray:
    return np.minimum(levels, MAX_LEVELS - 1)


def commonest(view: View, f: Field) -> np.ndarray:
    """Each patient's most frequent level; -1 without one."""
    patient, _, x = view.series(f)
    counts = np.bincount(patient * MAX_LEVELS + capped(x), minlength=view.n * MAX_LEVELS).reshape(view.n, MAX_LEVELS)
    return np.where(counts.sum(1) > 0, counts.argmax(1), -1)


def matrices(ctx: Context) -> list[Figure]:
    """Association matrices side by side, and their difference."""
    found = []
    sets: list[tuple[str, Callable[[View], list[tuple[str, np.ndarray, int]]]]] = [
        ("Association between patients", lambda v: patient_columns(ctx, v))
    ]
    for axis in ctx.tables:
        fields = ctx.rows(axis)
        if len(fields) >= 2:
            sets.append(
                (
                    f"Association within rows of {axis}",
                    lambda v, fields=fields: [
                        (f.name, v.rank(f), 0) if f.is_number else (f.name, capped(v.columns[f.name]), MAX_LEVELS)
                        for f in fields
                    ],
                )
            )
    for title, columns in sets:
        real, made = columns(ctx.views["held_out"]), columns(ctx.views["synthetic"])
        if len(real) < 2:
            continue
        real, rest = first_of(ctx, title, real, MOST_COLUMNS, lambda c: c[0])
        made = made[: len(real)]
        labels = [c[0] for c in real]
        a, b = association_matrix(real), association_matrix(made)
        panels = [
            panel("real held-out", labels, labels, a, -1, 1),
            panel("synthetic", labels, labels, b, -1, 1),
            panel("synthetic less real", labels, labels, b - a, -0.5, 0.5),
        ]
        note = (
            "Rank correlation of two numbers (signed); correlation ratio of a number and a category and Cramer's V of "
            f"two categories, both corrected for bias.{rest}"
        )
        found.append(Figure("matrix", title, {"panels": panels}, note, "association"))
    return found


# -- time ----------------------------------------------------------------------------------------------------------


def persistence(ctx: Context) -> list[Figure]:
    """Autocorrelation curves with bootstrap bands."""
    found = []
    for within in (False, True):
        kept = ctx.cache.get(("persistence", within))
        if kept is None:
            continue
        fields, cuts, sums = kept
        what = "within patients (deviations from the patient's mean)" if within else "over all patients"
        title = f"Autocorrelation {what}"
        some, rest = first_of(ctx, title, list(fields), MOST_PANELS, lambda f: f.name)
        panels = []
        for i, f in enumerate(some):
            bins = len(cuts[i]) + 1
            n = sums["held_out"].sum(0).reshape(len(fields), 6, GAP_BINS)[i, 0, :bins]
            ok = np.flatnonzero(n >= 30)
            if not len(ok):
                continue
            middle = np.concatenate([cuts[i], [cuts[i][-1] * 1.3 if len(cuts[i]) else 1.0]])
            series = []
            for label, name in SHOWN:
                part = sums[name].reshape(len(sums[name]), len(fields), 6, GAP_BINS)[:, i]
                line = {"name": label, "x": plain(middle[ok]), "y": plain(autocorrelation(part.sum(0))[ok])}
                if name in ("synthetic", "held_out"):
                    draws = autocorrelation(np.tensordot(getattr(ctx.draws, name), part, axes=1))[:, ok]
                    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
                    line |= {"low": plain(low), "high": plain(high)}
                series.append(line)
            panels.append({"title": f.name, "series": series})
        if panels:
            unit = "gap, up to [d]" if ctx.clocked else "steps"
            content = {"x_label": unit, "y_label": "autocorrelation", "panels": panels}
            note = f"Correlation of two values of one patient by the time between them, with 95 % bands.{rest}"
            found.append(Figure("curves", title, content, note, "temporal"))
    return found


def gaps_and_counts(ctx: Context) -> list[Figure]:
    """Laws of gaps and of rows per patient."""
    found = []

    def law(title: str, x_label: str, of: Callable[[View, str], np.ndarray], note: str) -> None:
        panels = []
        for axis in ctx.tables:
            real = of(ctx.views["held_out"], axis)
            real = real[np.isfinite(real)]
            if len(real) < 10 or real.min() == real.max():
                continue
            edges = bin_edges(real.min(), np.quantile(real, 0.99), real)
            series = []
            for label, name in SHOWN[:2]:
                x = of(ctx.views[name], axis)
                x = np.clip(x[np.isfinite(x)], edges[0], edges[-1])
                share = np.histogram(x, edges)[0] / max(1, len(x))
                series.append({"name": label, "x": plain(edges), "y": plain([*share, share[-1]]), "step": True})
            panels.append({"title": axis, "series": series})
        if panels:
            content = {"x_label": x_label, "y_label": "share", "panels": panels}
            found.append(Figure("curves", title, content, note, "temporal"))

    if ctx.clocked:
        law("Gaps between rows", "gap [d]", lambda v, a: v.axes[a].gap, "The last bin holds all longer gaps.")
    law(
        "Rows per patient", "rows", lambda v, a: v.axes[a].count.astype(float), "The last bin holds all longer records."
    )
    return found


def transition_graphs(ctx: Context) -> list[Figure]:
    """Transition probabilities of each category over time."""
    states = [f for f in ctx.rows() if not f.is_number and not ctx.schema.tables[f.table].is_long]
    states = [f for f in states if 2 < len(f.levels) <= 9]
    if not states:
        return []
    states, rest = first_of(ctx, "Transitions", states, MOST_GRAPHS, lambda f: f.name)
    panels = []
    for f in states:
        k = len(f.levels) - 1
        for label, name in SHOWN[:2]:
            view = ctx.views[name]
            patient, _, x = view.series(f)
            same = (patient[1:] == patient[:-1]) & (x[1:] < k) & (x[:-1] < k)
            cell = np.where(same, x[:-1].astype(int) * k + x[1:], -1)
            counts = tally(view, patient[1:], cell, k * k).sum(0).reshape(k, k)
            share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            graph = {"states": list(f.levels[:-1]), "probability": [plain(r, 3) for r in share]}
            panels.append({"title": f"{f.column}, {label}", **graph})
    note = f"Probability of the state at the next recorded visit, given the state at this one.{rest}"
    content = {"panels": panels, "across": min(4, len(panels))}
    return [Figure("graph", "Transitions", content, note, "temporal")]


def timelines(ctx: Context) -> list[Figure]:
    """Six synthetic patients, one from each sixth of the record lengths; none of a cohort that says it is real."""
    view = ctx.views["synthetic"]
    if view.cohort.origin.kind == "real":
        return []
    axes = [a for a in ctx.tables if ctx.rows(a)]
    if not axes:
        return []
    rows = sum(view.axes[a].count for a in axes)
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] > 0]
    if not len(order):
        return []
    at = np.unique(((np.arange(6) + 0.5) / 6 * len(order)).astype(int))
    shown = [f for f in ctx.rows() if f.is_number]
    shown = sorted(shown, key=lambda f: -int(view.seen(f).sum()))[:4]
    states = [f for f in ctx.rows() if not f.is_number]
    patients = []
    for number, p in enumerate(order[at], 1):
        facts = []
        for f in ctx.statics:
            x = view.columns[f.name][p]
            if f.is_number and np.isfinite(x):
                facts.append(f"{f.column} {_said(ctx, f, x, view.origin[p])}")
            elif not f.is_number and x >= 0:
                facts.append(f"{f.column} {f.levels[x]}")
        series, events = [], []
        for f in shown:
            axis = view.axes[f.axis or ""]
            mine = slice(*np.searchsorted(axis.patient, [p, p + 1]))
            time, x = axis.time[mine], view.columns[f.name][mine]
            ok = np.isfinite(x) & np.isfinite(time)
            if ok.any():
                name = f.name if f.code is None else _spoken(ctx, f.table, f.code)
                series.append({"name": name, "unit": f.unit, "time": plain(time[ok], 3), "value": plain(x[ok], 3)})
        for f in states:
            axis = view.axes[f.axis or ""]
            mine = slice(*np.searchsorted(axis.patient, [p, p + 1]))
            time, x = axis.time[mine], view.columns[f.name][mine]
            ok = np.isfinite(time) & (x >= 0)
            time, x = time[ok], x[ok]
            new = np.ones(len(x), dtype=bool)
            new[1:] = x[1:] != x[:-1]
            for t, k in zip(time[new], x[new], strict=True):
                if f.levels[k] == "false":
                    continue
                code = ctx.schema.tables[f.table].columns[f.column].kind == "code"
                named = _spoken(ctx, f.table, f.levels[k]) if code else f"{f.column} {f.levels[k]}"
                label = f.column if f.levels[k] == "true" else named
                events.append({"time": round(float(t), 3), "label": label})
        events = sorted(events, key=lambda e: e["time"])[:MOST_EVENTS]
        patients.append(
            {
                "title": f"Synthetic patient {number}",
                "origin": "synthetic",
                "facts": facts,
                "series": series,
                "events": events,
            }
        )
    content = {"time_unit": "d" if ctx.clocked else "step", "patients": patients}
    note = "Synthetic patients with short to long records. No real patient is ever drawn."
    return [Figure("timeline", "Synthetic patients", content, note, "temporal")]


def _said(ctx: Context, f: Field, x: float, origin: float) -> str:
    """A number with its unit, or a date."""
    if ctx.schema.clock == "timestamp" and ctx.schema.tables[f.table].columns[f.column].kind == "timestamp":
        moment = datetime(1970, 1, 1) + timedelta(microseconds=round(origin + x * MICROSECONDS_PER_DAY))
        return moment.date().isoformat()
    return f"{x:.4g} {'' if f.unit == '1' else f.unit}".strip()


def _spoken(ctx: Context, table: str, code: str) -> str:
    """What the schema calls a code, else the code."""
    column = ctx.schema.tables[table].code
    items = ctx.schema.tables[table].code_column().items if column else {}
    return items[code].name or code if code in items else code
