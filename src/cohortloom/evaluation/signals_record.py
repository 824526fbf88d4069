"""Do waveforms belong to their patients? Associations between the record's tables and what the waveform shows.

Numbers, flags and categories of the patient (static tables) and of the visit the record belongs to (or the last one
before it) are set against features of the waveform: heart rate in the vitals and in the ECG, QTc and the drug, T waves
and potassium, voltage and effusion. Both are turned into ranks among real records; the score is the difference of the
correlations, synthetic against held-out, for every pair. The independent anchor deals records out among patients.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from cohortloom.evaluation.intervals import Measure, assess, not_computed
from cohortloom.evaluation.signals_sides import Side, SignalContext
from cohortloom.report import Score
from cohortloom.schema import Schema

__all__ = ["record_columns", "scores"]

FEATURES = {
    "ecg": ("heart rate", "RR variation", "PR", "QRS", "QTc", "axis", "P present", "R size", "T size", "voltage", "ST"),
    "eeg": ("amplitude", "alpha share", "delta share", "beta share", "slope", "alpha peak"),
}
MOST_COLUMNS, MOST_LEVELS, FEWEST_APART = 40, 4, 10


def scores(ctx: SignalContext) -> list[Score]:
    key, words = f"signals.{ctx.name}.record", "record and waveform, correlation"
    names = FEATURES.get(ctx.spec.kind, ())
    columns = {k: record_columns(s) for k, s in ctx.views.items()}
    shared = [c for c in columns["train"] if c in columns["held_out"]]
    shared = [c for c in shared if all(_varies(columns[k][c]) for k in ("train", "held_out"))][:MOST_COLUMNS]
    if not names or not shared:
        reason = "the patients' tables hold nothing that varies" if names else "no feature is known for this signal"
        return [_named(ctx, not_computed(ctx, key, words, reason))]
    left = [(c, [columns[k].get(c, np.full(len(s.patient), np.nan)) for k, s in ctx.views.items()]) for c in shared]
    order = list(ctx.views)
    real = [order.index("train"), order.index("held_out")]
    a = {k: np.stack([_ranks(v[i], np.concatenate([v[j] for j in real])) for _, v in left], axis=1)
         for i, k in enumerate(order)}  # fmt: skip
    b = {}
    pooled = {n: np.concatenate([ctx.views[k].column(n) for k in ("train", "held_out")]) for n in names}
    for k, side in ctx.views.items():
        b[k] = np.stack([_ranks(side.column(n), pooled[n]) for n in names], axis=1)
    # the anchor's records belong to others: their own waveform's features, dealt out
    source, dealt = ctx.views["train"], ctx.rng.child("dealt").numpy.permutation(len(a["train"]))
    statistics = {k: _moments(ctx.views[k], a[k], b[k]) for k in ("synthetic", "train", "held_out")}
    statistics["independent"] = _moments(source, a["train"], b["train"][dealt])
    pairs = tuple(f"{c} and {n}" for c in shared for n in names)
    varied = [_varied(a)[:, None], _varied(b)[None, :]]
    keep = _enough(statistics, len(pairs)) & (varied[0] & varied[1]).ravel()
    measure = Measure(key, words, pairs, statistics, _correlations, lambda p, q: np.abs(p - q), keep, (0.08, 0.2))
    return [_named(ctx, s) for s in assess(ctx, measure)]


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


def record_columns(side: Side) -> dict[str, np.ndarray]:
    """Numbers per record: the patient's statics and the values at the record's visit, or the last ones before it."""
    schema, records = side.cohort.schema, side.signal.records.with_row_index("row")
    out: dict[str, np.ndarray] = {}
    for table in schema.statics:
        frame = side.cohort.tables[table].unique("subject_id", keep="first")
        joined = records.select("row", "subject_id").join(frame, on="subject_id", how="left", maintain_order="left")
        out |= _numbers(schema, table, joined)
    if schema.visit_table is not None:
        out |= _numbers(schema, schema.visit_table, _at_visit(side, records))
    return out


def _at_visit(side: Side, records: pl.DataFrame) -> pl.DataFrame:
    table = side.cohort.schema.visit_table
    frame = side.cohort.tables[table]
    if "visit_id" in records.columns and records["visit_id"].null_count() < records.height:
        right = frame.unique(["subject_id", "visit_id"], keep="first")
        keys = ["subject_id", "visit_id"]
        return records.select("row", *keys).join(right, on=keys, how="left", maintain_order="left")
    if "time" in records.columns and records["time"].dtype == frame["time"].dtype and frame.height:
        left = records.select("row", "subject_id", "time").sort("time", nulls_last=True)
        right = frame.drop_nulls("time").sort("time")
        found = left.join_asof(right, on="time", by="subject_id", strategy="backward", check_sortedness=False)
        return found.sort("row")
    first = frame.unique("subject_id", keep="first", maintain_order=True)
    return records.select("row", "subject_id").join(first, on="subject_id", how="left", maintain_order="left")


def _numbers(schema: Schema, table: str, frame: pl.DataFrame) -> dict[str, np.ndarray]:
    out = {}
    for name, column in schema.tables[table].columns.items():
        if name not in frame.columns:
            continue
        x = frame[name]
        if x.dtype.is_numeric() or x.dtype == pl.Boolean:
            out[f"{table}.{name}"] = x.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        elif x.dtype == pl.String and column.levels and len(column.levels) <= MOST_LEVELS:
            for level in column.levels[1:]:
                hit = (x == level).cast(pl.Float64).fill_null(float("nan"))
                out[f"{table}.{name} = {level}"] = hit.to_numpy()
    return out
