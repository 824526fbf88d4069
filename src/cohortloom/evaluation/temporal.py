"""Correlation over time: persistence, change, cross-lags, transitions, gaps, counts, trends, order of first events.

Times are irregular, so autocorrelation is a function of the gap u between two measurements of one patient: all pairs up
to five measurements apart are put into bins of u (equal real counts), and within a bin

    rho(u) = cov(z_i, z_j) / (sd(z_i) sd(z_j)),      gamma(u) = mean 1/2 (z_i - z_j)^2     (variogram)

with z the rank among real values. Much of rho is that patients differ from one another; the correlation of deviations
from the patient's own mean is reported apart. Cohorts without times use the number of steps for u."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cohortloom.evaluation.association import Block, moments
from cohortloom.evaluation.cells import Cells
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field, cut_points
from cohortloom.evaluation.intervals import FEWEST_GROUPS, Measure, assess, not_computed, support_of
from cohortloom.evaluation.views import View, tally
from cohortloom.report import Score

__all__ = ["autocorrelation", "changes", "pair_statistics", "scores", "slopes"]

LAGS = 5
GAP_BINS = 6


def scores(ctx: Context) -> list[Score]:
    """Temporal scores."""
    found = []
    for part in (
        persistence, cross_lags, change_laws, repeats, transitions, kept_levels, sojourns, gaps, gap_dependence,
        row_counts, patient_laws, first_events,
    ):  # fmt: skip
        found += part(ctx)
    return found


# -- persistence ---------------------------------------------------------------------------------------------------


def lagged(
    view: View, f: Field, lag: int, *, clocked: bool, within: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of recorded values `lag` measurements apart: patient, earlier, later, gap (days, or steps without a clock).

    `within` takes deviations from the patient's mean, of patients with three values or more.
    """
    patient, time, x = view.series(f)
    if within:
        count = np.bincount(patient, minlength=view.n)
        x = x - (np.bincount(patient, weights=x, minlength=view.n) / np.maximum(count, 1))[patient]
        many = count[patient] >= 3
        patient, time, x = patient[many], time[many], x[many]
    same = patient[lag:] == patient[:-lag] if len(patient) > lag else np.zeros(0, bool)
    early, late = x[: len(same)][same], x[lag:][same]
    gap = (time[lag:] - time[: len(same)])[same] if clocked else np.full(int(same.sum()), float(lag))
    return patient[lag:][same], early, late, gap


def gap_cuts(ctx: Context, f: Field) -> np.ndarray:
    """Edges of the gap bins of a field."""
    if not ctx.clocked:
        return np.arange(1.0, LAGS)
    gaps = [lagged(ctx.views[k], f, lag, clocked=True)[3] for k in ("train", "held_out") for lag in range(1, LAGS + 1)]
    gap = np.concatenate(gaps)
    return cut_points(np.sort(gap[np.isfinite(gap)]), GAP_BINS)


def pair_statistics(view: View, f: Field, cuts: np.ndarray, *, clocked: bool, within: bool = False) -> np.ndarray:
    """Sums over pairs by gap bin: n, x, y, xx, yy, xy; group x (6 x bin)."""
    bins = len(cuts) + 1
    out = np.zeros((6, view.n_groups, bins))
    for lag in range(1, LAGS + 1):
        patient, x, y, gap = lagged(view, f, lag, clocked=clocked, within=within)
        cell = np.where(np.isfinite(gap), np.searchsorted(cuts, gap, side="left"), -1)
        for i, w in enumerate((np.ones_like(x), x, y, x * x, y * y, x * y)):
            out[i] += tally(view, patient, cell, bins, w)
    return out.transpose(1, 0, 2).reshape(view.n_groups, 6 * bins)


def autocorrelation(s: np.ndarray) -> np.ndarray:
    """Correlation from n, x, y, xx, yy, xy on axis -2; 0 where nothing varies."""
    n, x, y, xx, yy, xy = np.moveaxis(s, -2, 0)
    n = np.where(n > 0, n, 1)
    vx, vy = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    alive = (vx > 1e-9) & (vy > 1e-9)
    return np.where(alive, (xy / n - x * y / n**2) / np.sqrt(np.where(alive, vx * vy, 1)), 0.0)


def variogram(s: np.ndarray) -> np.ndarray:
    """Half the mean squared difference."""
    n, _, _, xx, yy, xy = np.moveaxis(s, -2, 0)
    return (xx + yy - 2 * xy) / (2 * np.where(n > 0, n, 1))


def persistence(ctx: Context) -> list[Score]:
    """Autocorrelation and variogram of every number, by gap."""
    fields = [f for f in ctx.rows() if f.is_number]
    if not fields:
        why = "no number over time"
        return [
            not_computed(ctx, "temporal.autocorrelation", "autocorrelation by gap", why),
            not_computed(ctx, "temporal.variogram", "variogram by gap", why),
            not_computed(ctx, "temporal.within_autocorrelation", "autocorrelation within patients by gap", why),
        ]
    cuts = [gap_cuts(ctx, f) for f in fields]
    found = []
    for within in (False, True):

        def statistic(view: View, within: bool = within) -> np.ndarray:
            parts = zip(fields, cuts, strict=True)
            blocks = [_padded(pair_statistics(view, f, c, clocked=ctx.clocked, within=within)) for f, c in parts]
            return np.concatenate(blocks, axis=1)

        sums = ctx.sums(statistic)
        ctx.cache[("persistence", within)] = (fields, cuts, sums)
        found += _persistence(ctx, fields, sums, within=within)
    return found


def _persistence(ctx: Context, fields: list[Field], sums: dict[str, np.ndarray], *, within: bool) -> list[Score]:
    def shaped(s: np.ndarray) -> np.ndarray:
        return s.reshape(*s.shape[:-1], len(fields), 6, GAP_BINS)

    sides = [shaped(sums[k])[:, :, 0] for k in ("held_out", "train")]
    enough = (np.min([n.sum(0) for n in sides], axis=0) >= 30) & (support_of(sides) >= FEWEST_GROUPS)
    weight = enough / np.maximum(enough.sum(1, keepdims=True), 1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (np.abs(a - b) * weight).sum(-1)

    labels, keep = tuple(f.name for f in fields), enough.any(1)
    measures = (
        [("temporal.within_autocorrelation", "autocorrelation within patients by gap", autocorrelation)]
        if within
        else [
            ("temporal.autocorrelation", "autocorrelation by gap", autocorrelation),
            ("temporal.variogram", "variogram by gap", variogram),
        ]
    )
    found = []
    for key, name, curve in measures:
        measure = Measure(key, name, labels, sums, lambda s, c=curve: c(shaped(s)), distance, keep)
        found += assess(ctx, measure)
    return found


def _padded(s: np.ndarray) -> np.ndarray:
    """Six statistics x bins, padded to GAP_BINS bins."""
    bins = s.shape[1] // 6
    wide = np.zeros((len(s), 6, GAP_BINS))
    wide[:, :, :bins] = s.reshape(len(s), 6, bins)
    return wide.reshape(len(s), -1)


def cross_lags(ctx: Context) -> list[Score]:
    """Each column against every column of the patient's next row."""
    key, name, grams = "temporal.cross_lag", "lagged cross-correlation", []
    for axis in ctx.tables:
        fields = ctx.rows(axis)
        if len(fields) >= 2:
            grams.append(([Block.of(f) for f in fields], [Block.of(f, ahead=True) for f in fields]))
    if not grams:
        return [not_computed(ctx, key, name, "no table over time with two columns")]
    return assess(ctx, moments(ctx, key, name, grams))


# -- change --------------------------------------------------------------------------------------------------------


def changes(view: View, f: Field) -> tuple[np.ndarray, np.ndarray]:
    """Patient and difference of consecutive recorded values (on the column's own scale)."""
    seen = view.seen(f)
    patient, x = view.patient_of(f)[seen], view.columns[f.name][seen]
    same = patient[1:] == patient[:-1]
    return patient[1:][same], (x[1:] - x[:-1])[same]


def change_laws(ctx: Context) -> list[Score]:
    """Law of the change between consecutive values of a number."""
    cells = Cells()
    for f in ctx.rows():
        if not f.is_number:
            continue
        real = np.concatenate([changes(ctx.views[k], f)[1] for k in ("train", "held_out")])
        cuts = cut_points(np.sort(real), 32)

        def find(view: View, f: Field = f, cuts: np.ndarray = cuts) -> tuple[np.ndarray, np.ndarray]:
            patient, d = changes(view, f)
            return patient, np.searchsorted(cuts, d, side="left")

        cells.add(f.name, len(cuts) + 1, find, ordered=True)
    key, name = "temporal.changes", "change from value to value, KS distance"
    if not cells.parts:
        return [not_computed(ctx, key, name, "no number over time")]
    return assess(ctx, cells.measure(ctx, key, name, tolerance=(0.025, 0.06)))


def repeats(ctx: Context) -> list[Score]:
    """Share of values that repeat the patient's last one exactly."""
    cells = Cells()
    for f in ctx.rows():
        if not f.is_number:
            continue

        def find(view: View, f: Field = f) -> tuple[np.ndarray, np.ndarray]:
            patient, d = changes(view, f)
            return patient, (d == 0).astype(int)

        cells.add(f.name, 2, find, ordered=False)
    key, name = "temporal.repeats", "share of exact repeats"
    if not cells.parts:
        return [not_computed(ctx, key, name, "no number over time")]
    return assess(ctx, cells.measure(ctx, key, name, tolerance=(0.01, 0.03)))


# -- states --------------------------------------------------------------------------------------------------------


def transitions(ctx: Context) -> list[Score]:
    """Rows of the transition matrix of every category, weighted by how often each state occurs."""
    cells = Cells()
    for f in ctx.rows():
        if f.is_number or len(f.levels) > 25 or ctx.schema.tables[f.table].is_long:
            continue
        size = len(f.levels)

        def find(view: View, f: Field = f, size: int = size) -> tuple[np.ndarray, np.ndarray]:
            patient, _, x = view.series(f)
            same = patient[1:] == patient[:-1]
            return patient[1:][same], (x[:-1].astype(int) * size + x[1:])[same]

        cells.add(f.name, size, find, ordered=False, cells=size)
    key, name = "temporal.transitions", "transition matrices, TV distance"
    if not cells.parts:
        return [not_computed(ctx, key, name, "no category over time")]
    return assess(ctx, cells.measure(ctx, key, name))


def kept_levels(ctx: Context) -> list[Score]:
    """Share p of rows that keep the category of the patient's row before, compared as 2 arcsin(sqrt p) / pi.

    Dealing pools a lasting category with one that changes in every second drawn row; as the variance of p is largest in
    the middle, the fault would widen its own limit. That of the arcsine does not depend on p.
    """
    cells = Cells()
    for f in ctx.rows():
        if f.is_number or ctx.schema.tables[f.table].is_long:
            continue

        def find(view: View, f: Field = f) -> tuple[np.ndarray, np.ndarray]:
            patient, _, x = view.series(f)
            same = patient[1:] == patient[:-1]
            return patient[1:][same], (x[:-1] == x[1:])[same].astype(int)

        cells.add(f.name, 2, find, ordered=False)
    key, name = "temporal.kept", "rows that keep the category, arcsine of their share"
    if not cells.parts:
        return [not_computed(ctx, key, name, "no category over time")]
    measure = cells.measure(ctx, key, name, useless=None)
    plain = measure.curve
    return assess(ctx, replace(measure, curve=lambda s: 2 / np.pi * np.arcsin(np.sqrt(plain(s)))))


def sojourn_times(view: View, f: Field, *, clocked: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient, state and length (days or steps) of each completed stay in one state."""
    patient, time, x = view.series(f)
    if not len(x):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    clock = time if clocked else np.arange(len(x), dtype=float)
    new = np.ones(len(x), dtype=bool)
    new[1:] = (patient[1:] != patient[:-1]) | (x[1:] != x[:-1])
    start = np.flatnonzero(new)
    over = patient[start][1:] == patient[start][:-1]  # followed by another state of the same patient
    return patient[start][:-1][over], x[start][:-1][over].astype(int), np.diff(clock[start])[over]


def sojourns(ctx: Context) -> list[Score]:
    """Length of completed stays in each state."""
    cells = Cells()
    for f in ctx.rows():
        if f.is_number or len(f.levels) > 25 or ctx.schema.tables[f.table].is_long:
            continue
        real = np.concatenate([sojourn_times(ctx.views[k], f, clocked=ctx.clocked)[2] for k in ("train", "held_out")])
        cuts = cut_points(np.sort(real[np.isfinite(real)]), 12)
        bins = len(cuts) + 1

        def find(view: View, f: Field = f, cuts: np.ndarray = cuts, bins: int = bins) -> tuple[np.ndarray, np.ndarray]:
            patient, state, length = sojourn_times(view, f, clocked=ctx.clocked)
            at = np.searchsorted(cuts, length, side="left")
            return patient, np.where(np.isfinite(length), state * bins + at, -1)

        cells.add(f.name, bins, find, ordered=True, cells=len(f.levels))
    key, name = "temporal.sojourn", "time spent in a state, KS distance"
    if not cells.parts:
        return [not_computed(ctx, key, name, "no category over time")]
    return assess(ctx, cells.measure(ctx, key, name, tolerance=(0.03, 0.08)))


# -- gaps and counts -----------------------------------------------------------------------------------------------


def gaps(ctx: Context) -> list[Score]:
    """Law of the gap between rows of a table."""
    key, name, cells = "temporal.gaps", "gap between rows, KS distance", Cells()
    if not ctx.clocked:
        return [not_computed(ctx, key, name, "the schema knows the order of rows only, not their times")]
    for axis in ctx.axes:
        real = np.concatenate([ctx.views[k].axes[axis].gap for k in ("train", "held_out")])
        cuts = cut_points(np.sort(real[np.isfinite(real)]), 32)

        def find(view: View, axis: str = axis, cuts: np.ndarray = cuts) -> tuple[np.ndarray, np.ndarray]:
            gap = view.axes[axis].gap
            return view.axes[axis].patient, np.where(np.isfinite(gap), np.searchsorted(cuts, gap, side="left"), -1)

        cells.add(axis, len(cuts) + 1, find, ordered=True)
    if not cells.parts:
        return [not_computed(ctx, key, name, "no table over time")]
    return assess(ctx, cells.measure(ctx, key, name))


def gap_dependence(ctx: Context) -> list[Score]:
    """Does the state of the patient set the time to the next row, as in real records?"""
    key, name, grams = "temporal.gap_depends", "dependence of the next gap on the state", []
    if not ctx.clocked:
        return [not_computed(ctx, key, name, "the schema knows the order of rows only, not their times")]
    for axis in ctx.tables:
        fields = ctx.rows(axis)
        real = np.concatenate([ctx.views[k].axes[axis].gap for k in ("train", "held_out")])
        gap = Field(f"gap of {axis}", axis, axis, "time").with_reference(real)

        def ahead(view: View, gap: Field = gap, axis: str = axis) -> np.ndarray:
            later = np.full(len(view.axes[axis].gap), np.nan)
            later[:-1] = view.axes[axis].gap[1:]
            return gap.ranks(later)

        def last(view: View, gap: Field = gap, axis: str = axis) -> np.ndarray:
            return gap.ranks(view.axes[axis].gap)

        left = [Block.of(f) for f in fields] + [Block("last gap", axis, last)]
        grams.append((left, [Block(f"next gap of {axis}", axis, ahead)]))
    if not grams:
        return [not_computed(ctx, key, name, "no table over time")]
    return assess(ctx, moments(ctx, key, name, grams))


def row_counts(ctx: Context) -> list[Score]:
    """Rows per patient and length of the record."""
    cells = Cells()

    def add(label: str, of) -> None:
        real = np.concatenate([of(ctx.views[k]) for k in ("train", "held_out")])
        cuts = cut_points(np.sort(real[np.isfinite(real)]), 48)

        def find(view: View) -> tuple[np.ndarray, np.ndarray]:
            x = of(view)
            return np.arange(view.n), np.where(np.isfinite(x), np.searchsorted(cuts, x, side="left"), -1)

        cells.add(label, len(cuts) + 1, find, ordered=True)

    for axis in ctx.axes:
        add(f"rows of {axis}", lambda v, a=axis: v.axes[a].count.astype(float))
        if ctx.clocked and axis in ctx.tables:
            add(f"length of {axis}", lambda v, a=axis: v.axes[a].gap_total)
            add(f"start of {axis}", lambda v, a=axis: v.axes[a].start_time)
    key, name = "temporal.counts", "rows per patient and length of record, KS distance"
    if not cells.parts:
        return [not_computed(ctx, key, name, "no table over time")]
    return assess(ctx, cells.measure(ctx, key, name))


# -- patients ------------------------------------------------------------------------------------------------------


def slopes(patient: np.ndarray, time: np.ndarray, x: np.ndarray, n: int) -> np.ndarray:
    """Least-squares slope of x over time for each patient with three values or more; NaN for others."""
    keep = np.isfinite(time)
    patient, time, x = patient[keep], time[keep], x[keep]
    count = np.bincount(patient, minlength=n).astype(float)
    many = np.where(count > 0, count, 1)
    mt = np.bincount(patient, weights=time, minlength=n) / many
    mx = np.bincount(patient, weights=x, minlength=n) / many
    dt, dx = time - mt[patient], x - mx[patient]
    stt = np.bincount(patient, weights=dt * dt, minlength=n)
    stx = np.bincount(patient, weights=dt * dx, minlength=n)
    return np.where((count >= 3) & (stt > 1e-12), stx / np.where(stt > 1e-12, stt, 1), np.nan)


def spreads(patient: np.ndarray, x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (one value or more) and standard deviation (two or more) of each patient; NaN for others."""
    count = np.bincount(patient, minlength=n).astype(float)
    many = np.where(count > 0, count, 1)
    mean = np.bincount(patient, weights=x, minlength=n) / many
    square = np.bincount(patient, weights=(x - mean[patient]) ** 2, minlength=n)
    sd = np.sqrt(square / np.maximum(count - 1, 1))
    return np.where(count > 0, mean, np.nan), np.where(count > 1, sd, np.nan)


def patient_laws(ctx: Context) -> list[Score]:
    """Law, over patients, of each number's mean, standard deviation and trend within the patient."""

    def summary(view: View, f: Field) -> dict[str, np.ndarray]:
        key = ("summary", f.name)
        if key not in view.cache:
            patient, time, z = view.series(f)
            mean, sd = spreads(patient, z, view.n)
            clock = time if ctx.clocked else view.axes[f.axis or ""].position[view.seen(f)].astype(float)
            view.cache[key] = {"mean": mean, "sd": sd, "slope": slopes(patient, clock, z, view.n)}
        return view.cache[key]

    found = []
    for what, key, name in (
        ("mean", "temporal.patient_mean", "means within patients, KS distance"),
        ("sd", "temporal.patient_sd", "standard deviations within patients, KS distance"),
        ("slope", "temporal.trends", "trends of patients, KS distance"),
    ):
        cells = Cells()
        for f in ctx.rows():
            if not f.is_number:
                continue
            real = np.concatenate([summary(ctx.views[k], f)[what] for k in ("train", "held_out")])
            cuts = cut_points(np.sort(real[np.isfinite(real)]), 32)

            def find(view: View, f: Field = f, cuts: np.ndarray = cuts, what: str = what):
                x = summary(view, f)[what]
                return np.arange(view.n), np.where(np.isfinite(x), np.searchsorted(cuts, x, side="left"), -1)

            cells.add(f.name, len(cuts) + 1, find, ordered=True)
        if cells.parts:
            found += assess(ctx, cells.measure(ctx, key, name, tolerance=(0.03, 0.07)))
        else:
            found.append(not_computed(ctx, key, name, "no number over time"))
    return found


def first_events(ctx: Context) -> list[Score]:
    """Which of two findings comes first, among patients who have both."""
    items: list[tuple[str, Field, int]] = []
    for f in ctx.rows():
        if f.is_number:
            continue
        for k, level in enumerate(f.levels[:-1]):
            if f.levels[0] == "false" and k == 0:
                continue
            items.append((f"{f.name} = {level}", f, k))
    key, name = "temporal.first_events", "order of first findings"
    if len(items) < 2 or not ctx.clocked:
        why = "fewer than two findings over time" if ctx.clocked else "the schema knows no common clock"
        return [not_computed(ctx, key, name, why)]

    def firsts(view: View, f: Field, level: int) -> np.ndarray:
        patient, time, x = view.series(f)
        hit = (x == level) & np.isfinite(time)
        first = np.full(view.n, np.inf)
        np.minimum.at(first, patient[hit], time[hit])
        return first

    known = [np.isfinite(firsts(ctx.views["held_out"], f, k)).mean() for _, f, k in items]
    chosen = [items[i] for i in np.argsort(known, kind="stable")[::-1][:10] if known[i] > 0]
    ctx.leave_out("Order of first findings: the ten most frequent only", _others(items, chosen))
    table = {k: [firsts(v, f, level) for _, f, level in chosen] for k, v in ctx.views.items()}
    number = {id(v): k for k, v in ctx.views.items()}
    cells = Cells()
    for i in range(len(chosen)):
        for j in range(i + 1, len(chosen)):

            def find(view: View, i: int = i, j: int = j) -> tuple[np.ndarray, np.ndarray]:
                a, b = table[number[id(view)]][i], table[number[id(view)]][j]
                both = np.isfinite(a) & np.isfinite(b)
                return np.arange(view.n), np.where(
                    both, (np.where(both, a, 0) > np.where(both, b, 0)) * 1 + (a == b) * 2, -1
                )

            cells.add(f"{chosen[i][0]} before {chosen[j][0]}", 3, find, ordered=False)
    if not cells.parts:
        return [not_computed(ctx, key, name, "fewer than two findings over time")]
    return assess(ctx, cells.measure(ctx, key, name, tolerance=(0.03, 0.1)))


def _others(items: list[tuple[str, Field, int]], chosen: list[tuple[str, Field, int]]) -> list[str]:
    kept = {name for name, _, _ in chosen}
    return [name for name, _, _ in items if name not in kept]
