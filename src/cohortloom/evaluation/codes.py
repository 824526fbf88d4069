"""Codes of events: how common, which together at one visit, which at the next.

For a table with codes let a visit be its basket of distinct codes. With P the share of visits (or patients) that hold a
code, a pair of codes, or a code followed by another at the next visit, a cohort explains the real shares by

    R^2 = 1 - sum (P_real - P_syn)^2 / sum (P_real - mean P_real)^2

reported as 1 - R^2, the share it does not explain (HALO's family of six: code, pair in a visit, pair over consecutive
visits; per visit and per patient).

Perplexity. A model of visits is learned from a cohort's counts: a visit holds code c with probability p_c; or with one
probability if the visit before held c, and another if not (each share smoothed by half a visit with and half without).
Its perplexity on held-out visits is exp(-log-likelihood / codes held). Reported is how much more perplexed the model
of synthetic patients is than a model of the held-out patients themselves,

    excess = perplexity / own perplexity - 1

References:
    Theodorou, Xiao, Sun (2023). Synthesize high-dimensional longitudinal electronic health records via hierarchical
    autoregressive language model. doi:10.1038/s41467-023-41093-0
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.cells import Cells
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field, cut_points
from cohortloom.evaluation.intervals import FEWEST_GROUPS, Measure, assess, not_computed, support_of
from cohortloom.evaluation.views import View, tally
from cohortloom.report import Score

__all__ = ["baskets", "log_perplexity", "scores", "unexplained"]

MOST_CODES = 40


def scores(ctx: Context) -> list[Score]:
    """Code scores."""
    fields = [f for f in ctx.rows() if ctx.schema.tables[f.table].columns[f.column].kind == "code"]
    fields = [f for f in fields if len(f.levels) > 2]
    if not fields:
        why = "no table over time has two codes"
        return [
            not_computed(ctx, "codes.prevalence", "patients with each code", why),
            not_computed(ctx, "codes.unexplained", "shares of codes and pairs not explained, 1 - R2", why),
            not_computed(ctx, "codes.perplexity", "perplexity of codes on held-out visits, excess", why),
            not_computed(ctx, "codes.per_visit", "codes per visit, KS distance", why),
        ]
    for f in fields:
        rare = f.levels[MOST_CODES:-1]
        ctx.leave_out(f"Pairs and sequences of codes: the {MOST_CODES} most frequent of {f.name} only", rare)
    sums = [ctx.sums(lambda v, f=f: statistics(v, f)) for f in fields]
    return [
        *prevalence(ctx, fields), *explained(ctx, fields, sums), *perplexity(ctx, fields), *per_visit(ctx, fields)
    ]  # fmt: skip


def baskets(view: View, f: Field) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct (visit, code) of a field: patient, visit (0, 1, ... over the view, in order of time), code."""
    axis, code = view.axes[f.axis or ""], view.columns[f.name].astype(np.int64)
    keep = (code >= 0) & (code < n_codes(f))
    key = np.unique(axis.basket[keep] * MOST_CODES + code[keep])
    basket, code = key // MOST_CODES, key % MOST_CODES
    patient = np.zeros(int(axis.basket.max()) + 1 if len(axis.basket) else 1, dtype=np.int64)
    patient[axis.basket] = axis.patient
    return patient[basket], basket, code


def n_codes(f: Field) -> int:
    return min(len(f.levels) - 1, MOST_CODES)


def prevalence(ctx: Context, fields: list[Field]) -> list[Score]:
    """Share of patients who ever have a code."""
    cells = Cells()
    for f in fields:
        for k in range(n_codes(f)):

            def find(view: View, f: Field = f, k: int = k) -> tuple[np.ndarray, np.ndarray]:
                patient, _, code = baskets(view, f)
                return np.arange(view.n), np.isin(np.arange(view.n), patient[code == k]).astype(int)

            cells.add(f"{f.name} = {f.levels[k]}", 2, find, ordered=False)
    measure = cells.measure(ctx, "codes.prevalence", "share of patients with each code", tolerance=(0.01, 0.04))
    return assess(ctx, measure)


def statistics(view: View, f: Field) -> np.ndarray:
    """Counts by group: visits, patients, then codes, pairs and next-visit pairs per visit and per patient."""
    k = n_codes(f)
    patient, basket, code = baskets(view, f)
    group = patient // view.size
    axis = view.axes[f.axis or ""]
    visits, index = np.unique(axis.basket, return_index=True)
    n_visits = tally(view, axis.patient[index], np.zeros(len(visits), int), 1)
    n_patients = tally(view, np.arange(view.n), np.zeros(view.n, int), 1)
    out = np.zeros((view.n_groups, 2, k + 2 * k * k))
    edges = np.searchsorted(group, np.arange(view.n_groups + 1))
    for g in range(view.n_groups):
        rows = slice(edges[g], edges[g + 1])
        if rows.start == rows.stop:
            continue
        b, c, p = basket[rows], code[rows], patient[rows]
        unique, at = np.unique(b, return_inverse=True)
        hot = np.zeros((len(unique), k))
        hot[at, c] = 1
        who = np.zeros(len(unique), dtype=np.int64)
        who[at] = p
        follows = np.flatnonzero((who[1:] == who[:-1]) & (np.diff(unique) == 1))
        out[g, 0, :k] = hot.sum(0)
        out[g, 0, k : k + k * k] = (hot.T @ hot).ravel()
        out[g, 0, k + k * k :] = (hot[follows].T @ hot[follows + 1]).ravel()
        people, of = np.unique(who, return_inverse=True)
        ever = np.zeros((len(people), k))
        np.maximum.at(ever, of, hot)
        out[g, 1, :k] = ever.sum(0)
        out[g, 1, k : k + k * k] = (ever.T @ ever).ravel()
        pairs = of[follows][:, None, None] * k * k + np.arange(k * k).reshape(k, k)[None]
        held = (hot[follows][:, :, None] * hot[follows + 1][:, None, :]) > 0
        once = np.unique(pairs[held]) if len(follows) else np.zeros(0, int)
        out[g, 1, k + k * k :] = np.bincount(once % (k * k), minlength=k * k)
    return np.concatenate([n_visits, n_patients, out.reshape(view.n_groups, -1)], axis=1)


def unexplained(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """1 - R^2 of synthetic shares against real ones, over the last axis; at most 1."""
    total = ((real - real.mean(-1, keepdims=True)) ** 2).sum(-1)
    error = ((real - synthetic) ** 2).sum(-1)
    return np.minimum(1.0, error / np.where(total > 1e-12, total, np.inf))


def explained(ctx: Context, fields: list[Field], sums: list[dict[str, np.ndarray]]) -> list[Score]:
    """The six R^2 of each table with codes."""
    labels, slices, offset = [], [], 0
    for f in fields:
        k = n_codes(f)
        upper = np.triu_indices(k, 1)
        pair = upper[0] * k + upper[1]
        width = k + 2 * k * k
        for side, unit in enumerate(("visit", "patient")):
            start = offset + 2 + side * width
            for what, at in (
                ("codes", np.arange(k)),
                ("pairs in a visit" if not side else "pairs in a patient", k + pair),
                ("pairs over consecutive visits", k + k * k + np.arange(k * k)),
            ):
                if len(at) < 2:
                    continue
                labels.append(f"{f.name}: {what}, per {unit}")
                slices.append((start + at, offset + side))
        offset += 2 + 2 * width
    total = {k: np.concatenate([s[k] for s in sums], axis=1) for k in ctx.views}
    where = np.concatenate([at for at, _ in slices])
    per = np.concatenate([np.full(len(at), n) for at, n in slices])
    ends = np.cumsum([len(at) for at, _ in slices])

    def curve(s: np.ndarray) -> np.ndarray:
        return s[..., where] / np.maximum(s[..., per], 1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        starts = [0, *ends[:-1]]
        return np.stack([unexplained(b[..., i:j], a[..., i:j]) for i, j in zip(starts, ends, strict=True)], axis=-1)

    counts = [
        np.stack([total[k][:, at].sum(1) for at, _ in slices], axis=1) for k in ("held_out", "train")
    ]  # group x component
    keep = (np.min([n.sum(0) for n in counts], axis=0) >= 50) & (support_of(counts) >= FEWEST_GROUPS)
    measure = Measure(
        "codes.unexplained", "shares of codes and pairs not explained, 1 - R2", tuple(labels), total, curve, distance,
        keep, (0.03, 0.08), useless=0.5,
    )  # fmt: skip
    return assess(ctx, measure)


def successions(view: View, f: Field) -> np.ndarray:
    """Counts by group: visits, visits with each code; pairs of consecutive visits, with the code at the first, at the
    second, at both: group x (2 + 4 k)."""
    k = n_codes(f)
    patient, basket, code = baskets(view, f)
    visits, first = np.unique(basket, return_index=True)
    who = patient[first]
    followed = np.zeros(len(visits), dtype=bool)
    followed[:-1] = (np.diff(visits) == 1) & (who[1:] == who[:-1])
    early, late = np.isin(basket, visits[followed]), np.isin(basket - 1, visits[followed])
    key = basket * MOST_CODES + code
    both = early & np.isin(key + MOST_CODES, key)
    one = np.zeros(len(visits), dtype=int)
    parts = [tally(view, who, one, 1), tally(view, patient, code, k), tally(view, who[followed], one[followed], 1)]
    parts += [tally(view, patient[mark], code[mark], k) for mark in (early, late, both)]
    return np.concatenate(parts, axis=1)


def log_perplexity(model: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """-log-likelihood of held-out visits per code they hold, under a model's counts (`successions`).

    Returns:
        (..., 2) nats: codes by themselves, and given the same code at the visit before; 0 where nothing is held out.
    """

    def tables(s: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(visits with, of how many) for each code: among all visits; after one with the code, after one without."""
        k = (s.shape[-1] - 2) // 4
        visits, single, pairs = s[..., :1], s[..., 1 : k + 1], s[..., k + 1 : k + 2]
        early, late, both = np.split(s[..., k + 2 :], 3, axis=-1)
        return [(single, visits + 0 * single), (both, early), (late - both, pairs - early)]

    unsure = []
    for (hit, of), (seen, among) in zip(tables(model), tables(held_out), strict=True):
        p = (hit + 0.5) / (of + 1)
        unsure.append(-(seen * np.log(p) + (among - seen) * np.log1p(-p)).sum(-1))
    alone, kept, new = (seen.sum(-1) for seen, _ in tables(held_out))
    return np.stack([unsure[0] / np.maximum(alone, 1), (unsure[1] + unsure[2]) / np.maximum(kept + new, 1)], axis=-1)


def perplexity(ctx: Context, fields: list[Field]) -> list[Score]:
    """Excess of perplexity of a model of visits learned from synthetic patients, on held-out ones."""
    labels, parts = [], []
    for f in fields:
        labels += [f"{f.name}, each by itself", f"{f.name}, given the visit before"]
        parts.append(ctx.sums(lambda v, f=f: successions(v, f)))
    total = {name: np.concatenate([p[name] for p in parts], axis=1) for name in ctx.views}
    ends = np.cumsum([2 + 4 * n_codes(f) for f in fields])[:-1]

    def cut(x: np.ndarray) -> list[np.ndarray]:
        return np.split(x, ends, axis=-1)

    def unsure(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.concatenate([log_perplexity(x, y) for x, y in zip(cut(a), cut(b), strict=True)], axis=-1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(np.expm1(unsure(a, b) - unsure(b, b)), 0)

    def volume(x: np.ndarray) -> np.ndarray:
        """Visits and pairs of visits."""
        return np.stack([p[:, i] for p in cut(x) for i in (0, 1 + (p.shape[1] - 2) // 4)], axis=1)

    sides = [volume(total[name]) for name in ("held_out", "train")]
    keep = (np.min([n.sum(0) for n in sides], axis=0) >= 50) & (support_of(sides) >= FEWEST_GROUPS)
    key, name = "codes.perplexity", "perplexity of codes on held-out visits, excess"
    found = assess(ctx, Measure(key, name, tuple(labels), total, lambda s: s, distance, keep, tolerance=(0.02, 0.04)))
    held = total["held_out"].sum(0)
    shown = {k: np.exp(unsure(total[k].sum(0), held)) for k in ("held_out", "synthetic", "train", "independent")}
    table = [
        {"of": label, **{k: round(float(x[i]), 3) for k, x in shown.items()}}
        for i, label in enumerate(labels) if keep[i]
    ]  # fmt: skip
    for s in found:
        s.details["perplexity"] = table
    return found


def per_visit(ctx: Context, fields: list[Field]) -> list[Score]:
    """Distinct codes per visit."""
    cells = Cells()
    for f in fields:

        def count(view: View, f: Field = f) -> tuple[np.ndarray, np.ndarray]:
            patient, basket, _ = baskets(view, f)
            _, index, n = np.unique(basket, return_index=True, return_counts=True)
            return patient[index], n

        real = np.concatenate([count(ctx.views[k])[1] for k in ("train", "held_out")])
        cuts = cut_points(np.sort(real), 24)

        def find(view: View, count=count, cuts: np.ndarray = cuts) -> tuple[np.ndarray, np.ndarray]:
            patient, n = count(view)
            return patient, np.searchsorted(cuts, n, side="left")

        cells.add(f.name, len(cuts) + 1, find, ordered=True)
    return assess(ctx, cells.measure(ctx, "codes.per_visit", "codes per visit, KS distance"))
