"""Do waveforms belong to their patients? Associations between the record's tables and what the waveform shows.

What the tables say at the time of a record (`signals_chart.py`) is set against features of the waveform: heart rate in
the vitals and in the ECG, QTc and the drug, T waves and potassium, voltage and effusion. Both are turned into ranks
among real records; the score is the difference of the correlations, synthetic against held-out,

    record         for every pair
    record_known   for the pairs that are associated beyond doubt in real training patients, so that many pairs of which
                   nobody expects anything do not hide the loss of a few

The independent anchor deals records out among patients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cohortloom.evaluation.intervals import Measure, assess, not_computed
from cohortloom.evaluation.signals_chart import record_columns, unit_of
from cohortloom.evaluation.signals_sides import Side, SignalContext
from cohortloom.report import Figure, Score

__all__ = ["figures", "scores", "told"]

FEATURES = {
    "ecg": ("heart rate", "RR variation", "PR", "QRS", "QTc", "axis", "P present", "R size", "T size", "voltage", "ST"),
    "eeg": ("amplitude", "alpha share", "delta share", "beta share", "slope", "alpha peak"),
}
MOST_COLUMNS, FEWEST_APART = 80, 10
#: Pairs "beyond doubt" lie this many standard errors from 0 in training patients; at most so many are looked at.
BEYOND_DOUBT, MOST_KNOWN = 4.5, 12


@dataclass(frozen=True)
class _Pairs:
    """Columns of the record against features of the waveform.

    Args:
        columns, features: Their names; pairs run over features first.
        chart: Side -> record x column, as the tables have it.
        statistics: Side -> patient x pair x moments, of ranks.
        keep: Pairs with enough real data.
        known: Pairs associated beyond doubt in training patients, the strongest first.
    """

    columns: tuple[str, ...]
    features: tuple[str, ...]
    chart: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    keep: np.ndarray
    known: np.ndarray

    def labels(self) -> tuple[str, ...]:
        return tuple(f"{c} and {n}" for c in self.columns for n in self.features)


def scores(ctx: SignalContext) -> list[Score]:
    key, words = f"signals.{ctx.name}.record", "record and waveform, correlation"
    pairs = _pairs(ctx)
    if isinstance(pairs, str):
        return [_named(ctx, not_computed(ctx, key, words, pairs))]
    found = []
    known = np.zeros(len(pairs.keep), bool)
    known[pairs.known] = True
    for suffix, said, keep in (("", words, pairs.keep), ("_known", "record and waveform, known associations", known)):
        measure = Measure(f"{key}{suffix}", said, pairs.labels(), pairs.statistics, _correlations,
                          lambda p, q: np.abs(p - q), keep, (0.08, 0.2))  # fmt: skip
        if keep.any():
            found += assess(ctx, measure)
        else:
            reason = "no pair is associated beyond doubt in the real training patients"
            found.append(not_computed(ctx, measure.key, said, reason))
    return [_named(ctx, s) for s in found]


def _pairs(ctx: SignalContext) -> _Pairs | str:
    """Everything about the pairs, computed once; or why there are none."""
    if "pairs" not in ctx.memo:
        ctx.memo["pairs"] = _find_pairs(ctx)
    return ctx.memo["pairs"]


def _find_pairs(ctx: SignalContext) -> _Pairs | str:
    names = FEATURES.get(ctx.spec.kind, ())
    columns = {k: record_columns(s) for k, s in ctx.views.items()}
    shared = [c for c in columns["train"] if c in columns["held_out"]]
    shared = [c for c in shared if all(_varies(columns[k][c]) for k in ("train", "held_out"))][:MOST_COLUMNS]
    if not names or not shared:
        return "the patients' tables hold nothing that varies" if names else "no feature is known for this signal"
    chart = {
        k: np.stack([columns[k].get(c, np.full(len(s.patient), np.nan)) for c in shared], axis=1)
        for k, s in ctx.views.items()
    }
    wave = {k: np.stack([side.column(n) for n in names], axis=1) for k, side in ctx.views.items()}
    a, b = _ranked(chart), _ranked(wave)
    # the anchor's records belong to others: their own waveform's features, dealt out
    source, dealt = ctx.views["train"], ctx.rng.child("dealt").numpy.permutation(len(a["train"]))
    statistics = {k: _moments(ctx.views[k], a[k], b[k]) for k in ("synthetic", "train", "held_out")}
    statistics["independent"] = _moments(source, a["train"], b["train"][dealt])
    varied = [_varied(a)[:, None], _varied(b)[None, :]]
    keep = _enough(statistics, len(shared) * len(names)) & (varied[0] & varied[1]).ravel()
    return _Pairs(tuple(shared), tuple(names), chart, statistics, keep, _known(statistics["train"], keep))


def _ranked(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every column as ranks among the real records of both sides."""
    pooled = np.concatenate([x["train"], x["held_out"]])
    return {
        k: np.stack([_ranks(v[:, i], pooled[:, i]) for i in range(v.shape[1])], axis=1) for k, v in x.items()
    }  # fmt: skip


def _known(train: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Pairs beyond doubt, strongest first."""
    n = (train.reshape(len(train), -1, 6)[:, :, 0] > 0).sum(axis=0)
    r = np.clip(_correlations(train.reshape(len(train), -1).sum(axis=0)), -0.999, 0.999)
    z = np.abs(np.arctanh(r)) * np.sqrt(np.maximum(n - 3, 0))
    found = np.flatnonzero(keep & (z > BEYOND_DOUBT))
    return found[np.argsort(-np.abs(r[found]), kind="stable")][:MOST_KNOWN]


# -- what the report shows -------------------------------------------------------------------------------------------

SHOWN = {"held_out": "real held-out", "synthetic": "synthetic", "independent": "independent"}


def figures(ctx: SignalContext) -> list[Figure]:
    """The known associations: correlations side by side, and the waveform's feature along the record's column."""
    pairs = _pairs(ctx)
    if isinstance(pairs, str) or not len(pairs.known):
        return []
    found = [_matrix(ctx, pairs)]
    curves = _curves(ctx, pairs)
    return [*found, curves] if curves else found


def told(ctx: SignalContext, row: int, most: int = 5) -> list[str]:
    """What the tables say of one synthetic record's patient, of that which the waveform should show."""
    pairs = _pairs(ctx)
    if isinstance(pairs, str):
        return []
    facts = []
    for j in dict.fromkeys(int(k) // len(pairs.features) for k in pairs.known):
        name, value = pairs.columns[j], pairs.chart["synthetic"][row, j]
        yes_no = np.isin(pairs.chart["train"][:, j][np.isfinite(pairs.chart["train"][:, j])], (0.0, 1.0)).all()
        if not np.isfinite(value) or (yes_no and not value):
            continue
        words = _short(name)
        facts.append(words if yes_no else f"{words} {value:.3g} {unit_of(ctx.views['synthetic'].cohort.schema, name)}")
    return [f.strip() for f in facts[:most]]


def _matrix(ctx: SignalContext, pairs: _Pairs) -> Figure:
    m = len(pairs.features)
    rows = list(dict.fromkeys(int(k) // m for k in pairs.known))
    panels = []
    for side, words in SHOWN.items():
        s = pairs.statistics[side]
        r = _correlations(s.reshape(len(s), -1).sum(axis=0)).reshape(-1, m)
        use = pairs.keep.reshape(-1, m)
        values = [[round(float(r[i, j]), 3) if use[i, j] else None for j in range(m)] for i in rows]
        names = [_short(pairs.columns[i]) for i in rows]
        panels.append({"title": words, "rows": names, "columns": list(pairs.features),
                       "values": values, "low": -1, "high": 1, "diverging": True})  # fmt: skip
    note = "Rank correlations of what the tables say with what the waveform shows; independent: records dealt out."
    return Figure("matrix", f"{ctx.name}: record and waveform", {"panels": panels}, note, "signals")


def _short(name: str) -> str:
    """A column's name without its table, as a clinician would say it."""
    rest = name.partition(".")[2] or name
    return rest.removesuffix(" present").removesuffix(" (years before)").replace("_", " ")


def _turn(columns: np.ndarray, n: int) -> tuple[int, int]:
    """How often the n-th pair's column stood before it, then its place."""
    return int((columns[:n] == columns[n]).sum()), n


def _curves(ctx: SignalContext, pairs: _Pairs) -> Figure | None:
    m, panels = len(pairs.features), []
    order = sorted(range(len(pairs.known)), key=lambda n: _turn(pairs.known // m, n))  # each column once, then again
    for k in pairs.known[order][:9]:
        i, j = divmod(int(k), m)
        pooled = np.concatenate([pairs.chart["train"][:, i], pairs.chart["held_out"][:, i]])
        pooled = pooled[np.isfinite(pooled)]
        two = len(np.unique(pooled)) == 2
        edges = [float(pooled.mean())] if two else np.unique(np.quantile(pooled, [0.2, 0.4, 0.6, 0.8]))
        series = []
        for side, words in (("train", "real train"), *list(SHOWN.items())[:2]):
            x, y = pairs.chart[side][:, i], ctx.views[side].column(pairs.features[j])
            part = np.where(np.isfinite(x) & np.isfinite(y), np.searchsorted(edges, x), -1)
            bins = [b for b in range(len(edges) + 1) if (part == b).sum() >= 10]
            middle = [float(np.median(x[part == b])) for b in bins]
            if not bins:
                continue
            one = {"name": words, "x": [round(v, 4) for v in middle]}
            if np.isin(y[np.isfinite(y)], (0.0, 1.0)).all():
                one["y"] = [round(float(y[part == b].mean()), 4) for b in bins]
            else:
                for key, q in (("low", 0.25), ("y", 0.5), ("high", 0.75)):
                    one[key] = [round(float(np.quantile(y[part == b], q)), 4) for b in bins]
            series.append(one)
        title = f"{pairs.features[j]} by {_short(pairs.columns[i])}"
        panels.append({"title": title, "series": series})
    if not panels:
        return None
    content = {"x_label": "in the record", "y_label": "in the waveform", "panels": panels}
    note = "Median and middle half of the records (of yes and no the share), by fifths of the record's column."
    return Figure("curves", f"{ctx.name}: the waveform follows the record", content, note, "signals")


def _named(ctx: SignalContext, score: Score) -> Score:
    return replace(score, group="signals", name=f"{ctx.name}: {score.name}")


def _varies(x: np.ndarray) -> bool:
    known = x[np.isfinite(x)]
    return len(known) >= 10 and known.min() < known.max()


def _ranks(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mid-rank among the reference, -1 to 1; NaN stays."""
    reference = np.sort(reference[np.isfinite(reference)])
    if not len(reference):
        return np.full(len(x), np.nan)
    low, high = np.searchsorted(reference, x, "left"), np.searchsorted(reference, x, "right")
    return np.where(np.isfinite(x), (low + high) / len(reference) - 1, np.nan)


def _moments(side: Side, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Per patient and pair: count, x, y, xx, yy, xy."""
    x, y = a[:, :, None], b[:, None, :]
    both = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(both, np.nan_to_num(x), 0.0), np.where(both, np.nan_to_num(y), 0.0)
    parts = np.stack([both.astype(float), x, y, x * x, y * y, x * y], axis=-1)
    return side.per_patient(parts.reshape(len(parts), -1, 6))


def _correlations(s: np.ndarray) -> np.ndarray:
    s = s.reshape(*s.shape[:-1], -1, 6)
    n = np.maximum(s[..., 0], 1e-9)
    x, y = s[..., 1] / n, s[..., 2] / n
    vx, vy = np.maximum(s[..., 3] / n - x**2, 0), np.maximum(s[..., 4] / n - y**2, 0)
    return (s[..., 5] / n - x * y) / np.sqrt(np.maximum(vx * vy, 1e-8))


def _enough(statistics: dict[str, np.ndarray], n_pairs: int) -> np.ndarray:
    counts = [(statistics[k].reshape(-1, n_pairs, 6)[:, :, 0] > 0).sum(0) for k in ("train", "held_out")]
    return np.min(counts, axis=0) >= 20


def _varied(x: dict[str, np.ndarray]) -> np.ndarray:
    """Columns in which at least ten real records a side differ from the commonest value: a flag that few patients
    have says nothing about an association."""
    found = []
    for k in ("train", "held_out"):
        per_column = []
        for column in x[k].T:
            _, counts = np.unique(column[np.isfinite(column)], return_counts=True)
            per_column.append(counts.sum() - counts.max() >= FEWEST_APART if len(counts) else False)
        found.append(per_column)
    return np.all(found, axis=0)
