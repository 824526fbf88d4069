"""Copies: whole patients, or nearly all of their rows, taken from training data; and patients that repeat one another.

A patient's fingerprint is a 64-bit hash of everything recorded but ids: statics, and per row its time since the start
and its values. A row's fingerprint leaves the time out. Coarse data repeats by chance; how often, held-out patients
tell. This finds literal copying only; `audit` holds the attacks."""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import ALPHA, not_computed
from cohortloom.evaluation.views import View, make_view
from cohortloom.report import Goal, Score

__all__ = ["patient_prints", "scores", "share_found"]

TOLERANCE = 0.005
_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread the bits of 64-bit integers (splitmix64)."""
    x = x + _ODD
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _bits(x: np.ndarray) -> np.ndarray:
    x = np.where(np.isfinite(x), x, -9.87654321e300).astype(np.float64) + 0.0
    return np.round(x, 6).view(np.uint64)


def _row_prints(view: View, table: str, *, timed: bool) -> np.ndarray:
    axis = view.axes[table]
    out = np.full(len(axis.patient), _ODD)
    names = [f for f in view.columns if f.split(".")[0] == table and "[" not in f]
    for i, name in enumerate(sorted(names)):
        out = _mix(out ^ (_bits(view.columns[name].astype(float)) + np.uint64(i)))
    if timed:
        out = _mix(out ^ _bits(axis.time))
    return out


def _tables(view: View) -> list[str]:
    return [a for a in view.axes if a in view.cohort.schema.tables]


def patient_prints(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprint of each patient, and how many rows stand behind it."""
    out = np.full(view.n, _ODD)
    rows = np.zeros(view.n, dtype=int)
    for i, name in enumerate(sorted(view.columns)):
        if view.columns[name].shape == (view.n,) and name.split(".")[0] not in view.axes and "[" not in name:
            out = _mix(out ^ (_bits(view.columns[name].astype(float)) + np.uint64(i)))
    for name in sorted(view.axes):
        axis = view.axes[name]
        if "[" in name:
            values = _mix(_bits(view.columns[name].astype(float)))
            prints = _mix(values ^ _bits(axis.time))
        else:
            prints = _row_prints(view, name, timed=True)
            rows += axis.count
        total = np.zeros(view.n, dtype=np.uint64)
        np.add.at(total, axis.patient, prints)  # a sum: the order of tied rows does not matter
        out = _mix(out ^ _mix(total))
    return out, rows


def share_found(prints: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which fingerprints are found among others?"""
    return np.isin(prints, among)


def rows_found(view: View, among: View) -> np.ndarray:
    """Share of each patient's rows whose values stand in one table row of another cohort; NaN below 3 rows."""
    hits, rows = np.zeros(view.n), np.zeros(view.n)
    for table in _tables(view):
        if view.cohort.schema.tables[table].is_long:
            continue
        known = np.isin(_row_prints(view, table, timed=False), _row_prints(among, table, timed=False))
        hits += np.bincount(view.axes[table].patient, weights=known, minlength=view.n)
        rows += view.axes[table].count
    return np.where(rows >= 3, hits / np.maximum(rows, 1), np.nan)


def scores(ctx: Context) -> list[Score]:
    """Copy scores."""
    whole = _whole(ctx, "train")
    among = _telling(whole)
    mine, held = ctx.views["synthetic"], ctx.views["held_out"]
    own, theirs, ind = (_telling(v) for v in (mine, held, ctx.views["independent"]))
    real = _telling(ctx.views["train"])
    if not min(len(own), len(theirs), len(real)):
        why = "no patient has two rows"
        return [
            not_computed(ctx, "copies.patients", "whole patients copied from training data", why),
            not_computed(ctx, "copies.twins", "synthetic patients that repeat one another", why),
        ]
    found = [
        _share(
            ctx, "copies.patients", "whole patients copied from training data",
            share_found(own, among), share_found(theirs, among), share_found(ind, among), 1.0,
        )
    ]  # fmt: skip
    nearly = [rows_found(v, whole) for v in (mine, held, ctx.views["independent"])]
    key, name = "copies.rows", "patients with 80 % of their rows found in training data"
    if np.isfinite(nearly[0]).sum() < 10 or np.isfinite(nearly[1]).sum() < 10:
        found.append(not_computed(ctx, key, name, "fewer than 10 patients with three rows"))
    else:
        marks = [(x[np.isfinite(x)] >= 0.8) for x in nearly]
        found.append(_share(ctx, key, name, *marks, 1.0))
    found.append(
        _share(
            ctx, "copies.twins", "synthetic patients that repeat one another",
            repeated(own), repeated(real), repeated(ind), 1 - float(np.exp(-1)),
        )
    )  # fmt: skip
    return found


def _telling(view: View) -> np.ndarray:
    """Fingerprints of patients with two rows or more: shorter records repeat by chance. All, where nothing has rows."""
    prints, rows = patient_prints(view)
    return prints[rows >= 2] if _tables(view) else prints


def repeated(prints: np.ndarray) -> np.ndarray:
    """Which fingerprints occur more than once?"""
    _, index, count = np.unique(prints, return_inverse=True, return_counts=True)
    return count[index] > 1


def _whole(ctx: Context, name: str) -> View:
    """The view of all patients of a cohort."""
    cohort = ctx.cohorts[name]
    if ctx.views[name].n == cohort.n_subjects:
        return ctx.views[name]
    return make_view(cohort, ctx.fields, n=cohort.n_subjects, size=ctx.views[name].size, rng=ctx.rng.child(name).numpy)


def _share(
    ctx: Context, key: str, name: str, hits: np.ndarray, real: np.ndarray, independent: np.ndarray, copy: float
) -> Score:
    from scipy.stats import beta, binom  # heavy

    n, found, floor = len(hits), int(hits.sum()), float(real.mean())
    low = float(beta.ppf(0.025, found, n - found + 1)) if found else 0.0
    high = float(beta.ppf(0.975, found + 1, n - found)) if found < n else 1.0
    chance = float(beta.ppf(0.99, real.sum() + 1, max(len(real) - real.sum(), 1e-9))) if real.sum() else floor
    limit = max(TOLERANCE, float(binom.ppf(1 - ALPHA, n, chance)) / n if chance else 0.0)
    value = found / n
    measurable = value > limit or limit < 0.9
    return Score(
        name=name,
        group="copies",
        key=key,
        value=value,
        interval=(low, high),
        n=n,
        goal=Goal.LOW,
        limit=limit,
        floor=floor,
        anchors={"bootstrap": copy, "independent": float(independent.mean()) if len(independent) else None},
        measurable=measurable,
        reason="" if measurable else "records are so coarse that most held-out patients repeat a training patient too",
        details={"found": found},
    )
