"""Statistics by part of a cohort (a subgroup, a site), as sums over patients.

Three summaries of a part, small enough to be taken for many parts and draws:

    marginal      mean over columns of the KS or total variation distance (16 cut points)
    association   mean over pairs of |correlation of ranks - the same of the other|, on patients: static numbers and
                  flags as they are, numbers over time as the patient's mean
    temporal      mean over columns of |lag-1 correlation - the same of the other|, on consecutive recorded values

Each is a distance between two vectors of sums, so a part may be compared with any other part or cohort.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field
from cohortloom.evaluation.marginal import binned, n_bins
from cohortloom.evaluation.views import View

__all__ = ["SUMMARIES", "Part", "Summary", "parts_of", "summaries_of"]

MOST_FIELDS = 24
MOST_PAIRED = 10


@dataclass(frozen=True)
class Part:
    """Patients with one level of a static column."""

    field: Field
    level: int

    @property
    def label(self) -> str:
        return f"{self.field.name} = {self.field.levels[self.level]}"

    def member(self, view: View) -> np.ndarray:
        return view.columns[self.field.name] == self.level


def parts_of(ctx: Context, column: str) -> list[Part]:
    """Levels of a static column that occur in real patients."""
    f = next((f for f in ctx.fields if f.name == column), None)
    if f is None or f.axis is not None or f.is_number:
        return []
    real = np.concatenate([ctx.views[k].columns[column] for k in ("train", "held_out")])
    return [Part(f, i) for i in range(len(f.levels)) if (real == i).any()]


@dataclass(frozen=True)
class Summary:
    """One summary: sums per group of patients, and the distance of two vectors of sums.

    Args:
        labels: What the components are; one for all where a component alone would be too noisy.
        sums: View, mark of patients -> group x statistic.
        each: Statistics, reference statistics (..., m) -> (..., component); NaN where either lacks values.
    """

    name: str
    labels: tuple[str, ...]
    sums: Callable[[View, np.ndarray], np.ndarray]
    each: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Mean over the components that both have; 0 without any."""
        d = self.each(a, b)
        known = np.isfinite(d)
        return np.where(known, d, 0).sum(-1) / np.maximum(known.sum(-1), 1)


def summaries_of(ctx: Context) -> list[Summary]:
    """The summaries that the schema allows."""
    fields = list(ctx.fields[:MOST_FIELDS])
    rest = (f.name for f in ctx.fields[MOST_FIELDS:])
    ctx.leave_out(f"Errors by subgroup and site: the first {MOST_FIELDS} columns", rest)
    found = [_marginal(fields)] if fields else []
    numbers = [f for f in ctx.fields if f.is_number or f.levels[:2] == ("false", "true")][:MOST_PAIRED]
    if len(numbers) > 1:
        found.append(_association(numbers))
    series = [f for f in ctx.rows() if f.is_number or len(f.levels) == 3][:MOST_FIELDS]
    if series:
        found.append(_temporal(series))
    return found


SUMMARIES = ("marginal", "association", "temporal")


def _grouped(view: View, patient: np.ndarray, cell: np.ndarray, size: int, weight: np.ndarray | None) -> np.ndarray:
    where = (patient // view.size) * size + cell
    return np.bincount(where, weights=weight, minlength=view.n_groups * size).reshape(view.n_groups, size)


def _marginal(fields: list[Field]) -> Summary:
    sizes = [n_bins(f, 16) for f in fields]
    cuts = np.cumsum(sizes)[:-1]

    def sums(view: View, member: np.ndarray) -> np.ndarray:
        out = []
        for f, size in zip(fields, sizes, strict=True):
            patient, cell = view.patient_of(f), binned(f, view, 16)
            keep = (cell >= 0) & member[patient]
            out.append(_grouped(view, patient[keep], cell[keep], size, None))
        return np.concatenate(out, axis=1).astype(float)

    def each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = []
        for f, x, y in zip(fields, np.split(a, cuts, axis=-1), np.split(b, cuts, axis=-1), strict=True):
            p, q = (s / np.maximum(s.sum(-1, keepdims=True), 1) for s in (x, y))
            d = np.abs(np.cumsum(p - q, axis=-1)).max(-1) if f.is_number else np.abs(p - q).sum(-1) / 2
            out.append(np.where((x.sum(-1) > 0) & (y.sum(-1) > 0), d, np.nan))
        return np.stack(np.broadcast_arrays(*out), axis=-1)

    return Summary("marginal", tuple(f.name for f in fields), sums, each)


def _patient_value(f: Field, view: View) -> np.ndarray:
    """One number per patient: the rank (or flag), averaged over rows; NaN without any."""
    key = ("patient value", f.name)
    if key not in view.cache:
        x = view.rank(f) if f.is_number else view.columns[f.name].astype(float)
        seen, patient = view.seen(f), view.patient_of(f)
        n = np.bincount(patient[seen], minlength=view.n)
        total = np.bincount(patient[seen], weights=x[seen], minlength=view.n)
        view.cache[key] = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return view.cache[key]


def _correlation(s: np.ndarray) -> np.ndarray:
    """Correlations from sums (..., 6): n, x, y, xx, yy, xy; 0 where nothing varies."""
    n = np.maximum(s[..., 0], 1)
    mx, my = s[..., 1] / n, s[..., 2] / n
    vx, vy = s[..., 3] / n - mx**2, s[..., 4] / n - my**2
    ok = (vx > 1e-9) & (vy > 1e-9)
    return np.where(ok, (s[..., 5] / n - mx * my) / np.sqrt(np.where(ok, vx * vy, 1)), 0.0)


def _six(view: View, patient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    zero = np.zeros(len(patient), dtype=int)
    parts = [np.ones(len(x)), x, y, x * x, y * y, x * y]
    return np.concatenate([_grouped(view, patient, zero, 1, w) for w in parts], axis=1)


def _gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|correlation - correlation| of each component; NaN without enough values on both sides."""
    a, b = (s.reshape(*s.shape[:-1], -1, 6) for s in (a, b))
    known = (a[..., 0] >= 5) & (b[..., 0] >= 5)
    return np.where(known, np.abs(_correlation(a) - _correlation(b)), np.nan)


def _mean_gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of the gaps, as one component."""
    gap = _gaps(a, b)
    known = np.isfinite(gap)
    return np.where(known, gap, 0).sum(-1, keepdims=True) / np.maximum(known.sum(-1, keepdims=True), 1)


def _association(fields: list[Field]) -> Summary:
    i, j = np.triu_indices(len(fields), 1)

    def sums(view: View, member: np.ndarray) -> np.ndarray:
        x = [_patient_value(f, view) for f in fields]
        out = []
        for a, b in zip(i, j, strict=True):
            who = np.flatnonzero(member & np.isfinite(x[a]) & np.isfinite(x[b]))
            out.append(_six(view, who, x[a][who], x[b][who]))
        return np.concatenate(out, axis=1)

    return Summary("association", ("all pairs",), sums, _mean_gap)


def _temporal(fields: list[Field]) -> Summary:
    def sums(view: View, member: np.ndarray) -> np.ndarray:
        out = []
        for f in fields:
            patient, _, x = view.series(f)
            x = x.astype(float)
            pair = np.flatnonzero((patient[1:] == patient[:-1]) & member[patient[1:]]) if len(x) else np.zeros(0, int)
            out.append(_six(view, patient[pair], x[pair], x[pair + 1]))
        return np.concatenate(out, axis=1)

    return Summary("temporal", tuple(f.name for f in fields), sums, _gaps)
