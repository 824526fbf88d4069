"""Statistics by part of a cohort (a subgroup, a site), as sums over patients.

Six summaries of a part, small enough to be taken for many parts and draws:

    marginal      mean over columns of the KS or total variation distance (16 cut points)
    missingness   mean over columns of |share of missing cells - the same of the other|, and of |correlation of "missing
                  now" and "missing at the next row" - the same of the other|
    association   mean over pairs of |correlation of ranks - the same of the other|, on patients: static numbers and
                  flags as they are, numbers over time as the patient's mean
    temporal      mean over columns of |lag-1 correlation - the same of the other|, on consecutive recorded values and
                  on their deviations from the patient's mean; KS distance of rows per patient and of gaps
    codes         mean over codes of |share of patients who ever have it - the same of the other|
    calendar      mean over moments of the KS distance of dates and the total variation of months, weekdays and hours

Each is a distance between two vectors of sums, so a part may be compared with any other part or cohort.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.dates import Histogram, histograms
from cohortloom.evaluation.fields import Field, cut_points
from cohortloom.evaluation.marginal import binned, n_bins, patients_with
from cohortloom.evaluation.views import View

__all__ = ["Part", "Summary", "parts_of", "summaries_of"]

MOST_FIELDS = 24
MOST_PAIRED = 10
MOST_CODES = 24
MANY = 3  # values a patient needs for deviations from his own mean


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
    gone = [f for f in fields if f.code is None and any((~v.seen(f)).any() for v in ctx.views.values())]
    if gone:
        found.append(_missingness(gone))
    numbers = [f for f in ctx.fields if f.is_number or f.levels[:2] == ("false", "true")][:MOST_PAIRED]
    if len(numbers) > 1:
        found.append(_association(numbers))
    series = [f for f in ctx.rows() if f.is_number or len(f.levels) == 3][:MOST_FIELDS]
    if series or ctx.tables:
        found.append(_temporal(ctx, series))
    codes = [f for f in ctx.rows() if ctx.schema.tables[f.table].columns[f.column].kind == "code"]
    items = [(f, k) for f in codes for k in range(len(f.levels) - 1)][:MOST_CODES]
    if items:
        found.append(_codes(items))
    dates = histograms(ctx)
    if dates:
        found.append(_laws("calendar", dates))
    return found


def _grouped(view: View, patient: np.ndarray, cell: np.ndarray, size: int, weight: np.ndarray | None) -> np.ndarray:
    where = (patient // view.size) * size + cell
    return np.bincount(where, weights=weight, minlength=view.n_groups * size).reshape(view.n_groups, size)


def _marginal(fields: list[Field]) -> Summary:
    def find(f: Field) -> Callable[[View], tuple[np.ndarray, np.ndarray]]:
        return lambda view: (view.patient_of(f), binned(f, view, 16))

    return _laws("marginal", [Histogram(f.name, n_bins(f, 16), find(f), f.is_number) for f in fields])


def _laws(name: str, laws: list[Histogram]) -> Summary:
    """Histograms, each compared by the KS distance if its bins are ordered, else by the total variation."""
    cuts = np.cumsum([h.size for h in laws])[:-1]

    def sums(view: View, member: np.ndarray) -> np.ndarray:
        out = []
        for h in laws:
            patient, cell = h.find(view)
            keep = (cell >= 0) & member[patient]
            out.append(_grouped(view, patient[keep], cell[keep], h.size, None))
        return np.concatenate(out, axis=1).astype(float)

    def each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        halves = zip(laws, np.split(a, cuts, axis=-1), np.split(b, cuts, axis=-1), strict=True)
        return np.stack(np.broadcast_arrays(*(_ks(x, y, ordered=h.ordered) for h, x, y in halves)), axis=-1)

    return Summary(name, tuple(h.name for h in laws), sums, each)


def _ks(x: np.ndarray, y: np.ndarray, *, ordered: bool = True) -> np.ndarray:
    """KS (or total variation) distance of counts, over the last axis; NaN where either side has none."""
    p, q = (s / np.maximum(s.sum(-1, keepdims=True), 1) for s in (x, y))
    d = np.abs(np.cumsum(p - q, axis=-1)).max(-1) if ordered else np.abs(p - q).sum(-1) / 2
    return np.where((x.sum(-1) > 0) & (y.sum(-1) > 0), d, np.nan)


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


def _shares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|share - share| of each component from sums (..., component x 2): hits, of how many; NaN without any."""
    a, b = (s.reshape(*s.shape[:-1], -1, 2) for s in (a, b))
    known = (a[..., 1] > 0) & (b[..., 1] > 0)
    p, q = (s[..., 0] / np.maximum(s[..., 1], 1) for s in (a, b))
    return np.where(known, np.abs(p - q), np.nan)


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


def _missingness(fields: list[Field]) -> Summary:
    rows = [f for f in fields if f.axis is not None]
    wide = 2 * len(fields)

    def sums(view: View, member: np.ndarray) -> np.ndarray:
        out = []
        for f in fields:
            patient = view.patient_of(f)
            keep = np.flatnonzero(member[patient])
            zero = np.zeros(len(keep), dtype=int)
            gone = (~view.seen(f)[keep]).astype(float)
            out += [_grouped(view, patient[keep], zero, 1, w) for w in (gone, np.ones(len(keep)))]
        for f in rows:
            patient, gone = view.patient_of(f), (~view.seen(f)).astype(float)
            pair = _pairs(patient, member)
            out.append(_six(view, patient[pair], gone[pair], gone[pair + 1]))
        return np.concatenate(out, axis=1)

    def each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rates, runs = _shares(a[..., :wide], b[..., :wide]), _gaps(a[..., wide:], b[..., wide:])
        return np.concatenate([rates, runs], axis=-1)

    labels = (*(f"{f.name} missing" for f in fields), *(f"{f.name} missing in runs" for f in rows))
    return Summary("missingness", labels, sums, each)


def _codes(items: list[tuple[Field, int]]) -> Summary:
    def sums(view: View, member: np.ndarray) -> np.ndarray:
        who = np.flatnonzero(member)
        zero, one = np.zeros(len(who), dtype=int), np.ones(len(who))
        out = []
        for f, k in items:
            hit = patients_with(view, f)[who, k].astype(float)
            out += [_grouped(view, who, zero, 1, w) for w in (hit, one)]
        return np.concatenate(out, axis=1)

    return Summary("codes", tuple(f"{f.name} = {f.levels[k]}" for f, k in items), sums, _shares)


def _pairs(patient: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Rows that are followed by a row of the same patient, of members only."""
    if not len(patient):
        return np.zeros(0, dtype=int)
    return np.flatnonzero((patient[1:] == patient[:-1]) & member[patient[1:]])


def _temporal(ctx: Context, fields: list[Field]) -> Summary:
    laws = []
    for axis in ctx.tables:
        laws.append(_law(ctx, f"rows of {axis}", lambda v, a=axis: (np.arange(v.n), v.axes[a].count.astype(float))))
        if ctx.clocked:
            laws.append(_law(ctx, f"gaps of {axis}", lambda v, a=axis: (v.axes[a].patient, v.axes[a].gap)))
    law = _laws("", laws)
    wide = 12 * len(fields)

    def sums(view: View, member: np.ndarray) -> np.ndarray:
        out = []
        for f in fields:
            patient, _, x = view.series(f)
            x = x.astype(float)
            count = np.bincount(patient, minlength=view.n)
            within = x - (np.bincount(patient, weights=x, minlength=view.n) / np.maximum(count, 1))[patient]
            pair = _pairs(patient, member)
            out.append(_six(view, patient[pair], x[pair], x[pair + 1]))
            pair = pair[count[patient[pair]] >= MANY]
            out.append(_six(view, patient[pair], within[pair], within[pair + 1]))
        return np.concatenate([*out, law.sums(view, member)], axis=1).astype(float)

    def each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        parts = [_gaps(a[..., :wide], b[..., :wide])] if fields else []
        parts.append(law.each(a[..., wide:], b[..., wide:]))
        shape = np.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return np.concatenate([np.broadcast_to(p, (*shape, p.shape[-1])) for p in parts], axis=-1)

    labels = [words for f in fields for words in (f"{f.name} from row to row", f"{f.name} within patients")]
    return Summary("temporal", (*labels, *law.labels), sums, each)


def _law(ctx: Context, words: str, of: Callable[[View], tuple[np.ndarray, np.ndarray]]) -> Histogram:
    """A number per patient or row, in at most 16 bins."""
    real = np.concatenate([of(ctx.views[k])[1] for k in ("train", "held_out")])
    cuts = cut_points(np.sort(real[np.isfinite(real)]), 16)

    def find(view: View) -> tuple[np.ndarray, np.ndarray]:
        patient, x = of(view)
        return patient, np.where(np.isfinite(x), np.searchsorted(cuts, x, side="left"), -1)

    return Histogram(words, len(cuts) + 1, find, True)
