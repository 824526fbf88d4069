"""Association between columns of any two kinds, on one scale.

Every column is a set of features: a number is its rank z among real values; a category with shares p_k is the whitened
indicators (1_k - p_k) / sqrt(p_k). The association of two columns is the matrix of cross-covariances of their features,
z divided by its standard deviation. Its norm is a well-known number:

    number x number      |rank correlation|
    number x category    correlation ratio eta = sqrt(between / total variance)
    category x category  sqrt(phi^2) = sqrt(chi^2 / n), and Cramer's V after division by sqrt(min(K, L) - 1)

The error between two cohorts is the norm of the *difference* of the matrices. The difference of the norms, which is
what most tools report, can't see that two groups have swapped their means; this can.

Figures show the norms; eta and V with bias correction, as both are far above 0 for independent columns of small
cohorts.

References:
    Bergsma (2013). A bias-correction for Cramer's V and Tschuprow's T. doi:10.1016/j.jkss.2012.10.002
    Kelley (1935). An unbiased correlation ratio measure (epsilon squared). doi:10.1073/pnas.21.9.554
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field
from cohortloom.evaluation.intervals import FEWEST_GROUPS, Measure, assess, not_computed, support_of
from cohortloom.evaluation.views import View, visit_facts
from cohortloom.report import Score

__all__ = ["Block", "corrected_eta", "corrected_v", "moments", "patient_blocks", "scores"]

MAX_LEVELS = 8
MAX_WIDTH = 160
AT_LEAST = 30
FEW = 15


@dataclass(frozen=True)
class Block:
    """One column in an association measure.

    Args:
        label: Component it belongs to; blocks with one label add up.
        axis: Rows it lives on; None: one value per patient.
        find: View -> values (numbers with NaN, or level numbers with -1).
        levels: Number of levels; 0 for a number.
        weight: Weight of its features.
    """

    label: str
    axis: str | None
    find: Callable[[View], np.ndarray]
    levels: int = 0
    weight: float = 1.0

    @classmethod
    def of(cls, f: Field, *, ahead: bool = False) -> Block:
        """A field by its ranks or levels, at the same row or at the patient's next one."""

        def find(view: View) -> np.ndarray:
            if f.is_number:
                x = view.rank(f)
            else:
                x = view.columns[f.name]
                x = np.where(x >= MAX_LEVELS, MAX_LEVELS - 1, x)
            if not ahead:
                return x
            later = np.full(len(x), np.nan if f.is_number else -1)
            later[:-1] = np.where(view.axes[f.axis or ""].follows[1:], x[1:], later[:-1])
            return later

        return cls(f.name, f.axis, find, 0 if f.is_number else min(len(f.levels), MAX_LEVELS))

    @property
    def width(self) -> int:
        return self.levels + 1 if self.levels else 3

    def features(self, view: View) -> np.ndarray:
        """Rows x features: [x, x^2, recorded] of a number, [indicators, recorded] of a category; 0 where missing."""
        x = self.find(view)
        if self.levels:
            out = np.zeros((len(x), self.levels + 1))
            rows = np.flatnonzero(x >= 0)
            out[rows, x[rows].astype(int)] = 1
            out[rows, -1] = 1
            return out
        seen = np.isfinite(x)
        z = np.where(seen, x, 0.0)
        return np.stack([z, z * z, seen.astype(float)], axis=1)


def gram(view: View, left: Sequence[Block], right: Sequence[Block]) -> np.ndarray:
    """Sums of products of features, group x (left features x right features)."""
    axis = left[0].axis
    patient = np.arange(view.n) if axis is None else view.axes[axis].patient
    a = np.concatenate([b.features(view) for b in left], axis=1)
    b = a if right is left else np.concatenate([b.features(view) for b in right], axis=1)
    edges = np.searchsorted(patient // view.size, np.arange(view.n_groups + 1))
    out = np.empty((view.n_groups, a.shape[1], b.shape[1]))
    for g in range(view.n_groups):
        rows = slice(edges[g], edges[g + 1])
        out[g] = a[rows].T @ b[rows]
    return out.reshape(view.n_groups, -1)


@dataclass(frozen=True)
class _Entries:
    """Indices, into the flat sums, of what each entry of the association matrices needs."""

    cross: np.ndarray
    n: np.ndarray
    mean_a: np.ndarray
    mean_b: np.ndarray
    square_a: np.ndarray
    square_b: np.ndarray
    level_a: np.ndarray
    level_b: np.ndarray
    weight: np.ndarray
    component: np.ndarray

    def matrix(self, s: np.ndarray) -> np.ndarray:
        """Cross-covariances of standardised features, (..., entry); 0 where one of the two does not vary."""
        n = s[..., self.n]
        n = np.where(n > 0, n, 1)
        ma, mb = s[..., self.mean_a] / n, s[..., self.mean_b] / n
        va = np.where(self.level_a, ma, s[..., self.square_a] / n - ma**2)
        vb = np.where(self.level_b, mb, s[..., self.square_b] / n - mb**2)
        scale = va * vb
        covariance = s[..., self.cross] / n - ma * mb
        alive = (va > 1e-9) & (vb > 1e-9)
        return np.where(alive, covariance / np.sqrt(np.where(alive, scale, 1)), 0) * self.weight


def _entries(left: Sequence[Block], right: Sequence[Block], offset: int, pairs: list[tuple[int, int, int]]) -> _Entries:
    """Entries of the pairs (left block, right block, component) of one gram."""
    start_a = np.concatenate([[0], np.cumsum([b.width for b in left])]).astype(int)
    start_b = np.concatenate([[0], np.cumsum([b.width for b in right])]).astype(int)
    wide = int(start_b[-1])
    rows: list[tuple] = []
    for i, j, component in pairs:
        p, q = left[i], right[j]
        observed_a, observed_b = start_a[i + 1] - 1, start_b[j + 1] - 1
        weight = p.weight * q.weight
        if p.levels and q.levels:
            weight /= np.sqrt(max(1, min(p.levels, q.levels) - 1))
        for x in range(start_a[i], start_a[i] + max(1, p.levels)):
            for y in range(start_b[j], start_b[j] + max(1, q.levels)):
                sq_a, sq_b = (x if p.levels else x + 1), (y if q.levels else y + 1)
                rows.append(
                    (x * wide + y, observed_a * wide + observed_b, x * wide + observed_b, observed_a * wide + y,
                     sq_a * wide + observed_b, observed_a * wide + sq_b, p.levels > 0, q.levels > 0, weight, component)
                )  # fmt: skip
    columns = list(zip(*rows, strict=True)) if rows else [()] * 10
    index = [np.asarray(c, dtype=int) + offset for c in columns[:6]]
    return _Entries(
        *index,
        np.asarray(columns[6], dtype=bool),
        np.asarray(columns[7], dtype=bool),
        np.asarray(columns[8], dtype=float),
        np.asarray(columns[9], dtype=int),
    )


def moments(
    ctx: Context,
    key: str,
    name: str,
    grams: Sequence[tuple[list[Block], list[Block]]],
    *,
    symmetric: bool = False,
    same: bool = False,
    tolerance: tuple[float, float] = (0.02, 0.06),
) -> Measure:
    """Association error over pairs of columns.

    Args:
        grams: Lists of left and right blocks; all blocks of one entry live on one axis.
        symmetric: Left and right are the same columns: each pair once, none with itself.
        same: Also pairs of a label with itself (lagged association), if not symmetric.
    """
    parts, labels, sums = [], [], {k: [] for k in ctx.views}
    offset = 0
    for left, right in grams:
        wide = [*left, *right]
        left = _narrow(left)
        right = left if symmetric else _narrow(right)
        kept = {b.label for b in (*left, *right)}
        out = [b.label for b in wide if b.label not in kept]
        ctx.leave_out(f"{name[0].upper()}{name[1:]}: {MAX_WIDTH} features a side at most", out)
        for k, view in ctx.views.items():
            sums[k].append(gram(view, left, right))
        pairs = []
        for i, p in enumerate(left):
            for j, q in enumerate(right):
                if (symmetric and j <= i) or (p.label == q.label and not same):
                    continue
                label = f"{p.label} ~ {q.label}"
                if label not in labels:
                    labels.append(label)
                pairs.append((i, j, labels.index(label)))
        parts.append(_entries(left, right, offset, pairs))
        offset += sum(b.width for b in left) * sum(b.width for b in right)
    e = _Entries(*(np.concatenate([getattr(p, f) for p in parts]) for f in _Entries.__dataclass_fields__))
    order = np.argsort(e.component, kind="stable")
    e = _Entries(*(getattr(e, f)[order] for f in _Entries.__dataclass_fields__))
    first = np.flatnonzero(np.diff(e.component, prepend=-1))
    total = {k: np.concatenate(v, axis=1) for k, v in sums.items()}

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not len(first):
            return a[..., :0]
        return np.sqrt(np.add.reduceat((a - b) ** 2, first, axis=-1))

    # a level of a handful of rows has a law with heavy tails that splits can't show: its entries are left out
    real = np.minimum(total["held_out"].sum(0), total["train"].sum(0))
    sides = [total[k] for k in ("held_out", "train")]
    support = support_of(sides)
    rare = (real < FEW) | (support < FEWEST_GROUPS // 2)
    e = replace(e, weight=e.weight * ~(e.level_a & rare[e.mean_a]) * ~(e.level_b & rare[e.mean_b]))
    enough = (real[e.n] >= AT_LEAST) & (support[e.n] >= FEWEST_GROUPS)
    keep = np.minimum.reduceat(enough, first) if len(first) else np.zeros(0, bool)
    return Measure(key, name, tuple(labels), total, e.matrix, distance, keep.astype(bool), tolerance)


def _narrow(blocks: Sequence[Block]) -> list[Block]:
    """As many blocks as fit the width that keeps memory small."""
    total = np.cumsum([b.width for b in blocks])
    return [b for b, t in zip(blocks, total, strict=True) if t <= MAX_WIDTH]


def per_patient(view: View, f: Field) -> np.ndarray:
    """Mean rank of a number for each patient; NaN without one."""
    key = ("mean", f.name)
    if key not in view.cache:
        patient, _, z = view.series(f)
        n = np.bincount(patient, minlength=view.n)
        total = np.bincount(patient, weights=z, minlength=view.n)
        view.cache[key] = np.where(n > 0, total / np.where(n > 0, n, 1), np.nan)
    return view.cache[key]


def level_share(view: View, f: Field, level: int) -> np.ndarray:
    """Share of a level among a patient's recorded cells; NaN without one."""
    patient, _, x = view.series(f)
    n = np.bincount(patient, minlength=view.n)
    hit = np.bincount(patient[x == level], minlength=view.n)
    return np.where(n > 0, hit / np.where(n > 0, n, 1), np.nan)


def patient_blocks(ctx: Context) -> list[Block]:
    """One value per patient for every column over time (mean rank, or shares of the levels), and the row counts."""
    blocks = []
    for axis in ctx.tables:
        blocks.append(Block(f"rows of {axis}", None, lambda v, a=axis: np.log1p(v.axes[a].count.astype(float))))
    for f in ctx.rows():
        if f.is_number:
            blocks.append(Block(f.name, None, lambda v, f=f: per_patient(v, f)))
            continue
        levels = [k for k in range(min(len(f.levels) - 1, MAX_LEVELS))]
        if len(f.levels) == 3:  # two levels and "(other)": one share says it all
            levels = levels[:1]
        weight = 1 / np.sqrt(max(1, len(levels)))
        blocks += [Block(f.name, None, lambda v, f=f, k=k: level_share(v, f, k), weight=weight) for k in levels]
    return blocks


def scores(ctx: Context) -> list[Score]:
    """Association scores."""
    statics, patients = [Block.of(f) for f in ctx.statics], patient_blocks(ctx)
    found: list[Score] = []
    name = "association of static columns"
    if len(statics) >= 2:
        measure = moments(ctx, "association.static_static", name, [(statics, statics)], symmetric=True)
        found += assess(ctx, measure)
    else:
        found.append(not_computed(ctx, "association.static_static", name, "fewer than two static columns"))
    name = "association of static columns with the course"
    if statics and patients:
        found += assess(ctx, moments(ctx, "association.static_temporal", name, [(statics, patients)]))
    else:
        found.append(not_computed(ctx, "association.static_temporal", name, "no static columns, or nothing over time"))
    name = "association of columns at one visit"
    grams = []
    for axis in ctx.tables:
        facts = visit_facts(ctx.schema) if axis == ctx.schema.visit_table else {}
        blocks = [Block(label, axis, lambda v, x=label: v.columns[x]) for label in facts]
        blocks += [Block.of(f) for f in ctx.rows(axis)]
        if len(blocks) >= 2:
            grams.append((blocks, blocks))
    if grams:
        found += assess(ctx, moments(ctx, "association.temporal_temporal", name, grams, symmetric=True))
    else:
        found.append(not_computed(ctx, "association.temporal_temporal", name, "no table over time with two columns"))
    name = "association of patient means"
    if len(patients) >= 2:
        measure = moments(ctx, "association.patient_means", name, [(patients, patients)], symmetric=True)
        found += assess(ctx, measure)
    else:
        found.append(not_computed(ctx, "association.patient_means", name, "nothing over time"))
    return found


def corrected_v(counts: np.ndarray) -> float:
    """Bias-corrected Cramer's V of a table of counts (Bergsma 2013); 0 if a side has one level only.

    Example:
        >>> float(corrected_v(np.array([[25, 25], [25, 25]])))
        0.0
    """
    counts = np.asarray(counts, dtype=float)
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    n, (rows, columns) = counts.sum(), counts.shape
    if n < 2 or rows < 2 or columns < 2:
        return 0.0
    expected = np.outer(counts.sum(1), counts.sum(0)) / n
    phi2 = ((counts - expected) ** 2 / expected).sum() / n
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    rows, columns = rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)
    return float(np.sqrt(phi2 / max(1e-9, min(rows, columns) - 1)))


def corrected_eta(n: np.ndarray, total: np.ndarray, square: np.ndarray) -> float:
    """Correlation ratio with Kelley's correction, from counts, sums and sums of squares by level."""
    n, total, square = (np.asarray(x, dtype=float)[np.asarray(n) > 0] for x in (n, total, square))
    whole, k = n.sum(), len(n)
    if k < 2 or whole <= k:
        return 0.0
    within = (square - total**2 / n).sum() / (whole - k)
    variance = (square.sum() - total.sum() ** 2 / whole) / (whole - 1)
    return float(np.sqrt(max(0.0, 1 - within / variance))) if variance > 1e-12 else 0.0
