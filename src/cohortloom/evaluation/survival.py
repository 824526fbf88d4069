"""Time to event: the Kaplan-Meier curve, restricted mean survival, and hazards of the declared strata.

With d_j events and r_j patients at risk in interval j of the real times (every time if there are at most 200),

    S(t)  = product over intervals up to t of 1 - d_j / r_j
    curve distance  = 1/T  integral of |S_synthetic - S_real|,      T = 95th percentile of real follow-up
    restricted mean = integral of S up to T; its difference is given as a share of T
    hazard          = events / person-time; two hazards are compared by |a - b| / (a + b), 0 equal, 1 one of them is 0

d_j and r_j are sums over patients, so floor, interval and limit come from weighted sums like all core measures. Whoever
lacks a follow-up time or an event flag is left out.

References:
    Kaplan, Meier (1958). Nonparametric estimation from incomplete observations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.fields import Field
from cohortloom.evaluation.intervals import Measure, assess, not_computed, support_of
from cohortloom.evaluation.views import View
from cohortloom.report import Figure, Score
from cohortloom.schema import Survival

__all__ = ["compared", "figures", "follows_of", "integrated_difference", "restricted_mean", "scores"]

MOST_TIMES = 200
MOST_STRATA = 8
ALL = "all"
USELESS = 0.1  # a cohort whose curve lies a tenth off on average tells nothing about survival


@dataclass(frozen=True)
class Follow:
    """One declared pair of time and event, with strata and a grid of times.

    Args:
        edges: Times; interval j ends with edges[j]. The last is the horizon.
        parts: Label and patients (of a view) of everybody and of each stratum.
    """

    name: str
    edges: np.ndarray
    pair: Callable[[View], tuple[np.ndarray, np.ndarray]]
    parts: tuple[tuple[str, Callable[[View], np.ndarray]], ...]

    def counts(self, view: View) -> np.ndarray:
        """Events, patients at risk and person-time: group x part x 3 x interval."""
        time, event = self.pair(view)
        known = np.isfinite(time) & np.isfinite(event)
        k, groups = len(self.edges), view.n_groups
        out = np.zeros((groups, len(self.parts), 3, k))
        starts = np.concatenate([[0.0], self.edges[:-1]])
        for i, (_, member) in enumerate(self.parts):
            who = np.flatnonzero(known & member(view))
            where, group = np.searchsorted(self.edges, time[who], side="left"), who // view.size
            inside = where < k
            hit = inside & (event[who] == 1)
            np.add.at(out[:, i, 0], (group[hit], where[hit]), 1.0)
            left = np.zeros((groups, k + 1))
            np.add.at(left, (group, where), 1.0)
            out[:, i, 1] = np.cumsum(left[:, ::-1], axis=1)[:, ::-1][:, :k]  # at risk: those who leave here or later
            spent = np.clip(time[who][:, None] - starts, 0, self.edges - starts)
            np.add.at(out[:, i, 2], group, spent)
        return out


def curves(counts: np.ndarray) -> np.ndarray:
    """Kaplan-Meier curves from counts (..., part, 3, interval)."""
    return np.cumprod(1 - counts[..., 0, :] / np.maximum(counts[..., 1, :], 1), axis=-1)


def integrated_difference(a: np.ndarray, b: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """1/T integral of |S_a - S_b| for curves that fall at `edges`, T being the last of them."""
    width = np.diff(edges)
    return (np.abs(a - b)[..., :-1] * width).sum(-1) / edges[-1]


def restricted_mean(s: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integral of S up to the last edge, as a share of it."""
    return (edges[0] + (s[..., :-1] * np.diff(edges)).sum(-1)) / edges[-1]


def scores(ctx: Context) -> list[Score]:
    """Survival scores of all declared pairs."""
    key, name = "survival.curve", "Kaplan-Meier curves, mean difference"
    if not ctx.schema.survival:
        return [not_computed(ctx, key, name, "the schema declares no time to event")]
    follows = follows_of(ctx)
    if not follows:
        return [not_computed(ctx, key, name, "no declared time to event has 10 known times and an event")]
    return compared(ctx, follows)


def compared(ctx: Context, follows: list[Follow], group: str = "survival.", words: str = "") -> list[Score]:
    """Scores of curves, restricted means and hazards; keys begin with `group`, `words` stand behind names."""
    sums = [ctx.sums(f.counts) for f in follows]
    sizes = [s["held_out"][0].shape for s in sums]
    flat = {k: np.concatenate([s[k].reshape(len(s[k]), -1) for s in sums], axis=1) for k in sums[0]}

    def split(x: np.ndarray) -> list[np.ndarray]:
        cuts = np.cumsum([int(np.prod(z)) for z in sizes])[:-1]
        return [p.reshape(*x.shape[:-1], *z) for p, z in zip(np.split(x, cuts, axis=-1), sizes, strict=True)]

    labels = tuple(f"{f.name}{'' if p == ALL else ', ' + p}" for f in follows for p, _ in f.parts)
    sides = [np.concatenate([s[k][:, :, 0].sum(-1) for s in sums], axis=1) for k in ("train", "held_out")]
    keep = support_of(sides) >= 5

    def far(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = zip(split(a), split(b), follows, strict=True)
        return np.concatenate([integrated_difference(curves(x), curves(y), f.edges) for x, y, f in pairs], axis=-1)

    def mean_gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = zip(split(a), split(b), follows, strict=True)
        parts = [restricted_mean(curves(x), f.edges) - restricted_mean(curves(y), f.edges) for x, y, f in pairs]
        return np.abs(np.concatenate(parts, axis=-1))

    def hazard_gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        h = [[x[..., 0, :].sum(-1) / np.maximum(x[..., 2, :].sum(-1), 1e-12) for x in split(s)] for s in (a, b)]
        x, y = (np.concatenate(part, axis=-1) for part in h)
        return np.abs(x - y) / np.maximum(x + y, 1e-12)

    def same(x: np.ndarray) -> np.ndarray:
        return x

    key, name = f"{group}curve", f"Kaplan-Meier curves, mean difference{words}"
    if not keep.any():
        return [not_computed(ctx, key, name, "fewer than 5 events in training or held-out patients")]
    common = {"labels": labels, "sums": flat, "curve": same, "keep": keep}
    measures = [
        Measure(key, name, distance=far, useless=USELESS, **common),
        Measure(
            f"{group}restricted_mean", f"restricted mean survival, difference as share of the horizon{words}",
            distance=mean_gap, useless=USELESS, **common,
        ),
        Measure(
            f"{group}hazard", f"hazard, relative difference{words}", distance=hazard_gap, useless=0.5,
            tolerance=(0.1, 0.2), **common,
        ),
    ]  # fmt: skip
    return [s for m in measures for s in assess(ctx, m)]


def follows_of(ctx: Context, parts: Sequence[tuple[str, Callable[[View], np.ndarray]]] | None = None) -> list[Follow]:
    """Declared pairs with enough known times, for everybody and the declared strata, or for the given parts."""
    found = []
    fields = {f.name: f for f in ctx.fields}
    for spec in ctx.schema.survival:
        time, event = fields.get(spec.time), fields.get(spec.event)
        if time is None or event is None or not time.is_number or event.is_number:
            continue
        if time.axis is not None or event.axis is not None:
            continue
        pair = _pair(spec, time, event)
        real = [pair(ctx.views[k]) for k in ("train", "held_out")]
        known = np.concatenate([t[np.isfinite(t) & np.isfinite(e)] for t, e in real])
        if len(known) < 10 or not any((e[np.isfinite(t)] == 1).any() for t, e in real):
            continue
        horizon = np.quantile(known, 0.95)
        moments = np.unique(known[(known > 0) & (known <= horizon)])
        if len(moments) > MOST_TIMES:
            moments = np.unique(np.quantile(moments, np.arange(1, MOST_TIMES + 1) / MOST_TIMES))
        if len(moments) < 2:
            continue
        of = parts or _strata(spec, fields)
        found.append(Follow(f"{spec.event} by {spec.time}", moments, pair, tuple(of)))
    return found


def _strata(spec: Survival, fields: dict[str, Field]) -> list[tuple[str, Callable[[View], np.ndarray]]]:
    """Everybody, and the levels of the declared strata."""
    found: list[tuple[str, Callable[[View], np.ndarray]]] = [(ALL, lambda v: np.ones(v.n, dtype=bool))]
    for name in spec.strata:
        f = fields.get(name)
        if f is not None and f.axis is None and not f.is_number:
            found += [(f"{f.name} = {level}", _member(f, i)) for i, level in enumerate(f.levels[:MOST_STRATA])]
    return found


def _pair(spec: Survival, time: Field, event: Field) -> Callable[[View], tuple[np.ndarray, np.ndarray]]:
    wanted = [i for i, level in enumerate(event.levels) if level in (spec.levels or ("true",))]

    def pair(view: View) -> tuple[np.ndarray, np.ndarray]:
        t, e = view.columns[time.name].astype(float), view.columns[event.name]
        return np.where(t >= 0, t, np.nan), np.where(e < 0, np.nan, np.isin(e, wanted).astype(float))

    return pair


def _member(f: Field, level: int) -> Callable[[View], np.ndarray]:
    return lambda view: view.columns[f.name] == level


def figures(ctx: Context) -> list[Figure]:
    """Survival curves, with a band for held-out patients."""
    panels = []
    for f in follows_of(ctx) if ctx.schema.survival else []:
        counts = {k: f.counts(ctx.views[k]) for k in ("held_out", "synthetic", "train", "independent")}
        draws = np.einsum("dg,gpsk->dpsk", ctx.draws.held_out, counts["held_out"])
        low, high = np.percentile(curves(draws), [2.5, 97.5], axis=0)
        shown = {k: curves(c.sum(0)) for k, c in counts.items()}
        for i, (part, _) in enumerate(f.parts):
            if counts["held_out"][:, i, 0].sum() < 5:
                continue
            series = []
            for label, k in (("real held-out", "held_out"), ("synthetic", "synthetic"), ("independent", "independent")):
                s = {"name": label, "x": _plain([0, *f.edges]), "y": _plain([1, *shown[k][i]]), "step": True}
                if k == "held_out":
                    s |= {"low": _plain([1, *low[i]]), "high": _plain([1, *high[i]])}
                series.append(s)
            panels.append({"title": f.name if i == 0 else part, "series": series})
    if not panels:
        return []
    note = "Kaplan-Meier curves; the band is the 95 % interval of held-out patients."
    units = {f.unit for f in ctx.fields if f.name in [s.time for s in ctx.schema.survival]}
    label = f"follow-up [{units.pop()}]" if len(units) == 1 else "follow-up"
    content = {"x_label": label, "y_label": "share without the event", "panels": panels[:12]}
    return [Figure("curves", "Survival", content, note, "survival")]


def _plain(x) -> list[float]:
    return [round(float(v), 5) for v in x]
