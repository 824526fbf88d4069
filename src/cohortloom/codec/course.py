"""How the numbers of one patient run between the ones a step tells.

A step tells the last number of each column (or code); the others of its rows are drawn. On the scale of normal scores
column c of one patient is a stationary Gaussian process,

    z_c(t) = sum over k of sqrt(w_ck) x_ck(t),  corr(x_ck(s), x_ck(t)) = exp(-|s - t| / tau_k),  sum over k of w_ck = 1

a sum of slow and quick parts: tau = 0 is what differs from one minute to the next, tau = inf the patient's own level.
One more part is the level of the step: the same within it, drawn anew for the next one.
The parts of different columns at one moment are correlated by C: haematocrit moves with haemoglobin. With t_0 <= t <=
t_1, z_0 = z(t_0) told by the step before and z_1 by this one, a free course z* is drawn and led through both (kriging):

    z(t) = z*(t) + [k(t - t_0), k(t_1 - t)] [[1, r], [r, 1]]^-1 [z_0 - z*(t_0), z_1 - z*(t_1)],   r = k(t_1 - t_0)

Values on the way to the last one of a step may lie higher or lower than that alone would say (haemoglobin falls during
a stay): m_c(t_1 - t), the mean of z(t) - k(t_1 - t) z_1 in classes of lag, is added, and then b_c(t - t_s), the mean of
what that leaves at the first row of a step, t_s, and in classes of time since: who has just been intubated breathes
pure oxygen, however long the stay will be. Patients differ in how much they
move: all parts but the levels are s_i times as wide, log s_i ~ Normal with E s_i = 1, half of its variance shared by
the columns of a patient.

Fitting: the weights follow, non-negative, from the mean absolute differences of the scores in classes of log lag (the
madogram: a few jumps don't speak for all), mostly of rows that follow each other; a column with few pairs borrows those
of its table. A rounded column, or one with spikes, knows less than the process behind it: the mean difference seen is
turned into the correlation behind by simulating the column at a ladder of correlations. The spread of s_i follows from
the patients' mean differences over what the kernel expects.

References:
    Matheron (1963). Principles of geostatistics. Economic Geology 58.
    Cario, Nelson (1997). Modeling and generating random vectors with arbitrary marginal distributions and correlation
    matrix. Northwestern University.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortloom.codec.columns import QuantileTransform

__all__ = ["Course", "closest_correlation"]

_STEP = -1.0
_CLASSES = 12
_LAGS = (1, 2, 4, 8, 16, 32, 64, 128)
_NEARER = 2.0  # pairs of rows count by 1 / this power of how many rows they are apart
_PARTS = 6
_BORROWED = 2.0  # weight of the pairs of the table beside those of a column, per class of lag
_APART = 30.0  # moments without correlation that count beside those seen
_ENOUGH = 1000.0
_FEW = 15.0  # patients without a drift that count beside those seen
_MOST_ROWS = 100_000
_LADDER = np.concatenate([[0.0], 1 - 2.0 ** -np.arange(0.5, 11.0, 0.75)])
_AT_ONCE = 2_000_000  # scores drawn at once


@dataclass(frozen=True)
class Course:
    """Law of the numbers of a table along a patient's record. Make one with `fit`.

    Args:
        tau: Times after which the parts have forgotten two thirds of themselves [d]; 0 and infinity among them, and -1
            for the level of the step.
        weight: Share of each part in the variance, column by column.
        correlation: Of the columns at one moment, within the patient.
        spread: Standard deviation of log s_i, column by column.
        drift: m, column x class of lag; `edges` are the middles of the classes [d].
        onset: b, column x (the first row, then the same classes of time since).
    """

    tau: tuple[float, ...]
    weight: np.ndarray
    correlation: np.ndarray
    spread: np.ndarray
    drift: np.ndarray
    edges: tuple[float, ...] = ()
    onset: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        subject: np.ndarray,
        step: np.ndarray,
        time: np.ndarray,
        columns: Sequence[tuple[np.ndarray, np.ndarray, QuantileTransform]],
    ) -> Course:
        """Learn from all rows of a table.

        Args:
            subject, step, time: Patient, step and time [d] of each row.
            columns: Of each column (code) its rows, their numbers, and its law.
        """
        scores = [_scores(subject, step, time, *column) for column in columns]
        lags = np.concatenate([one.lags for one in scores] or [np.zeros(0)])
        lags = lags[lags > 0]
        if not len(lags):
            return cls((0.0,), np.ones((len(columns), 1)), np.eye(len(columns)), *np.zeros((2, len(columns))))
        low, high = np.quantile(lags, (0.01, 0.999))
        high = max(high, low * 4)
        edges = np.geomspace(low / 2, high, _CLASSES)
        tau = np.array([_STEP, 0.0, *np.geomspace(low, high, _PARTS), np.inf])
        seen = [_variogram(edges, one) for one in scores]
        pairs, total = (sum(part[i] for part in seen) for i in (0, 1))
        borrowed = np.minimum(_BORROWED, pairs)
        pooled = total / np.maximum(pairs, 1e-9)
        middle = np.tile(np.sqrt(edges * np.append(edges[1:], edges[-1] * 2)), 2)
        same = np.arange(2 * _CLASSES) < _CLASSES
        weight, spread = np.zeros((len(columns), len(tau))), np.zeros(len(columns))
        moves = np.isfinite(tau) & (tau >= 0)
        for c, ((n, sums, at), (_, _, law)) in enumerate(zip(seen, columns)):
            change = (sums + borrowed * pooled) / np.maximum(n + borrowed, 1e-9)
            lag = np.where(n > 0, at / np.maximum(n, 1e-9), middle)
            weight[c] = _weights(lag, same, _behind(law, change), n + borrowed, tau)
            spread[c] = _spread(scores[c], weight[c], tau, law)
            wider = min(np.exp(spread[c] ** 2) * weight[c, moves].sum(), 0.95)  # the levels have the rest
            if weight[c, ~moves].sum() > 0 and weight[c, moves].sum() > 0:
                weight[c, ~moves] *= (1 - wider) / weight[c, ~moves].sum()
        used = weight.max(0, initial=0.0) > 0.005
        found = [_drift(edges, one, own, tau) for one, own in zip(scores, weight)]
        drift, onset = (np.array(part) for part in zip(*found))
        middles, kept = tuple(middle[:_CLASSES].tolist()), tuple(tau[used].tolist())
        return cls(kept, weight[:, used], _between(scores), spread, drift, middles, onset)

    @property
    def moves(self) -> np.ndarray:
        """Which parts are wider in patients who move more."""
        return np.array([np.isfinite(tau) and tau >= 0 for tau in self.tau], bool)

    def kernel(self, column: int, lag: np.ndarray, same: bool, scale: np.ndarray | float = 1.0) -> np.ndarray:
        """Correlation of scores of one column some time [d] apart, in the same step or not.

        Args:
            scale: s of the patient.
        """
        out, whole = np.zeros(len(lag)), np.zeros(len(lag))
        for tau, weight, moves in zip(self.tau, self.weight[column], self.moves):
            amount = weight * np.asarray(scale) ** 2 if moves else weight
            out += amount * _memory(tau, lag, same)
            whole += amount
        return out / np.maximum(whole, 1e-9)

    def scales(self, n_subjects: int, draw: np.random.Generator) -> np.ndarray:
        """s of some patients, column by column."""
        own = draw.standard_normal((n_subjects, len(self.spread))) + draw.standard_normal((n_subjects, 1))
        return np.exp(self.spread * own / np.sqrt(2) - self.spread**2 / 2)

    def draw(
        self, subject: np.ndarray, step: np.ndarray, time: np.ndarray, scale: np.ndarray, draw: np.random.Generator
    ) -> np.ndarray:
        """Free courses: moment x column scores.

        Args:
            subject, step, time: Patient, step and time [d] of each moment, in the order of all three.
            scale: s of each patient, column by column.
        """
        n, n_columns = len(subject), len(self.weight)
        out = np.zeros((n, n_columns), np.float32)
        if not n or not n_columns:
            return out
        root = np.linalg.cholesky(self.correlation + 1e-9 * np.eye(n_columns))
        begin = np.flatnonzero(np.concatenate([[True], subject[1:] != subject[:-1]]))
        length = np.diff(np.append(begin, n))
        order = np.argsort(-length, kind="stable")
        amount, moves = np.sqrt(self.weight), self.moves
        most = max(1, _AT_ONCE // (n_columns * len(self.tau)))
        for some in np.array_split(order, -(-len(order) // most)):
            start, left = begin[some], length[some]
            state = np.zeros((len(some), len(self.tau), n_columns))
            for place in range(int(left[0])):  # once per moment of the longest record
                live = int(np.searchsorted(-left, -place))
                at = start[:live] + place
                state = state[:live]
                fresh = draw.standard_normal(state.shape) @ root.T
                if place:
                    lag, same = np.abs(time[at] - time[at - 1]), step[at] == step[at - 1]
                    rho = np.stack([_memory(tau, lag, same) for tau in self.tau], 1)[..., None]
                    fresh = rho * state + np.sqrt(1 - rho**2) * fresh
                state = fresh
                rest = np.einsum("nkc,ck->nc", state[:, ~moves], amount[:, ~moves])
                out[at] = rest + scale[subject[at]] * np.einsum("nkc,ck->nc", state[:, moves], amount[:, moves])
        return out

    def led(
        self,
        column: int,
        free: np.ndarray,
        lag: tuple,
        pull: tuple,
        scale: np.ndarray | float = 1.0,
        since: np.ndarray | None = None,
    ) -> np.ndarray:
        """Scores of free courses led through what the steps tell.

        Args:
            free: z*(t).
            lag: t - t_0, t_1 - t and t_1 - t_0 [d]; infinite where no step before tells.
            pull: z - z* at t_0 (0 where nothing is told) and at t_1.
            scale: s of the patient of each row.
            since: Time since the first row of the step [d]; None: of a step that tells nothing of its beginning.
        """
        back, ahead, across = (self.kernel(column, x, same, scale) for x, same in zip(lag, (False, True, False)))
        back = np.where(np.isfinite(lag[0]), back, 0.0)
        across = np.minimum(np.where(np.isfinite(lag[2]), across, 0.0), 0.999)
        det = 1 - across**2
        first, last = (back - across * ahead) / det, (ahead - across * back) / det
        drift = np.zeros(len(free))
        if self.edges:
            drift = np.interp(np.log(np.maximum(lag[1], 1e-9)), np.log(self.edges), self.drift[column])
            if since is not None and self.onset is not None:
                first_row, later = self.onset[column, 0], self.onset[column, 1:]
                later = np.interp(np.log(np.maximum(since, 1e-9)), np.log(self.edges), later)
                drift = drift + np.where(since > 0, later, first_row)
        return free + first * pull[0] + last * pull[1] + np.where(lag[1] > 0, drift, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        tau = [t if np.isfinite(t) else "inf" for t in self.tau]  # JSON has no infinity
        state = {name: getattr(self, name).tolist() for name in ("weight", "correlation", "spread", "drift")}
        return {
            "tau": tau,
            "edges": list(self.edges),
            "onset": None if self.onset is None else self.onset.tolist(),
        } | state

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Course:
        tau = tuple(float(t) for t in state["tau"])
        weight = np.asarray(state["weight"], float).reshape(-1, len(tau))
        correlation = np.asarray(state["correlation"], float).reshape(len(weight), len(weight))
        spread, drift = (np.asarray(state[name], float) for name in ("spread", "drift"))
        onset = None if state["onset"] is None else np.asarray(state["onset"], float)
        return cls(tau, weight, correlation, spread, drift, tuple(state["edges"]), onset)


def closest_correlation(r: np.ndarray) -> np.ndarray:
    """A symmetric matrix with ones on its diagonal made positive definite: negative eigenvalues are cut."""
    if not len(r):
        return r
    value, vector = np.linalg.eigh((r + r.T) / 2)
    if value[0] > 1e-6:
        return r
    r = (vector * np.maximum(value, 1e-5)) @ vector.T
    sd = np.sqrt(np.diag(r))
    return r / sd[:, None] / sd[None]


def _memory(tau: float, lag: np.ndarray, same: np.ndarray | bool) -> np.ndarray:
    if tau == _STEP:
        return np.broadcast_to(same, lag.shape).astype(float)
    if tau == 0:
        return (lag == 0).astype(float)
    return np.exp(-lag / tau) if np.isfinite(tau) else np.ones(len(lag))


@dataclass(frozen=True)
class _Scores:
    """Numbers of one column in the order of patient and time: their rows, standardised scores, and lags to the row
    before [d]."""

    rows: np.ndarray
    subject: np.ndarray
    step: np.ndarray
    time: np.ndarray
    z: np.ndarray

    @property
    def lags(self) -> np.ndarray:
        return np.diff(self.time)[self.subject[1:] == self.subject[:-1]]


def _scores(
    subject: np.ndarray, step: np.ndarray, time: np.ndarray, rows: np.ndarray, x: np.ndarray, law: QuantileTransform
) -> _Scores:
    known = np.isfinite(x)
    rows, x = rows[known], x[known]
    order = np.lexsort((time[rows], subject[rows]))[:_MOST_ROWS]
    rows, x = rows[order], x[order]
    z = law.score(x)
    sd = z.std() if len(z) else 0.0
    z = (z - z.mean()) / sd if sd > 1e-9 else np.zeros(len(z))
    return _Scores(rows, subject[rows], step[rows], time[rows], z)


def _variogram(edges: np.ndarray, one: _Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight, weighted absolute differences, and weighted lags of pairs, by class of lag: first of pairs within a step,
    then of others.

    The pairs of a patient count by the root of their number: long stays don't speak for everybody. Rows that follow
    each other count most: one is measured every few hours while unwell and once a day while calm, so two rows a day
    apart with others between them differ more than two with none.
    """
    n, near, sums, at = (np.zeros(2 * len(edges)) for _ in range(4))
    _, index, count = np.unique(one.subject, return_inverse=True, return_counts=True)
    root = 1 / np.sqrt(count)[index.reshape(-1)]
    for lag in _LAGS:
        same = one.subject[lag:] == one.subject[:-lag]
        if not same.any():
            break
        apart = (one.time[lag:] - one.time[:-lag])[same]
        change = np.abs(one.z[lag:] - one.z[:-lag])[same]
        place = np.clip(np.searchsorted(edges, apart, side="right") - 1, 0, len(edges) - 1)
        place += len(edges) * (one.step[lag:] != one.step[:-lag])[same]
        share = root[lag:][same]
        n += np.bincount(place, share, len(n))
        share = share / lag**_NEARER
        near += np.bincount(place, share, len(n))
        sums += np.bincount(place, share * change, len(n))
        at += np.bincount(place, share * np.maximum(apart, edges[0]), len(n))
    return n, *(n * part / np.maximum(near, 1e-12) for part in (sums, at))


def _behind(law: QuantileTransform, change: np.ndarray) -> np.ndarray:
    """Correlation of normal scores behind a mean absolute difference of the scores seen."""
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 3000))
    first = law.score(law.decode(a))
    sd = first.std()
    if not sd > 1e-9:
        return np.clip(1 - np.pi / 4 * change**2, 0.0, 0.9999)  # E|x - y| = sqrt(4 (1 - r) / pi)
    seen = [np.abs(first - law.score(law.decode(r * a + np.sqrt(1 - r**2) * b))).mean() / sd for r in _LADDER]
    seen = np.maximum.accumulate([0.0, *seen[::-1]])
    return np.interp(change, seen, [0.9999, *_LADDER[::-1]])


def _spread(one: _Scores, weight: np.ndarray, tau: np.ndarray, law: QuantileTransform) -> float:
    """Standard deviation of log s: of the patients' changes over what the kernel expects, less what chance gives."""
    same = one.subject[1:] == one.subject[:-1]
    if same.sum() < 50:
        return 0.0
    lag, within = np.diff(one.time)[same], (one.step[1:] == one.step[:-1])[same]
    moves = np.isfinite(tau) & (tau >= 0)
    rho = sum(w * _memory(t, lag, within) for w, t in zip(weight, tau))
    usual = np.sqrt(4 / np.pi * np.maximum(1 - rho, 1e-4))
    _, who = np.unique(one.subject[1:][same], return_inverse=True)
    who = who.reshape(-1)
    n = np.bincount(who)
    ratio = np.bincount(who, np.abs(np.diff(one.z))[same]) / np.bincount(who, usual)
    known = (n >= 5) & (ratio > 0)
    if known.sum() < 8 or weight[moves].sum() < 0.01:
        return 0.0
    chance = (np.pi / 2 - 1) * 1.5 / n[known]  # neighbouring differences share a row
    share = 1 / (chance + 0.1)
    log = np.log(ratio[known])
    mean = np.average(log, weights=share)
    found = np.average((log - mean) ** 2 - chance, weights=share)
    return float(np.sqrt(np.clip(found, 0.0, 0.5)))


def _drift(edges: np.ndarray, one: _Scores, weight: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of z(t) - k(t_1 - t) z_1 over the rows before the last of their step, by class of lag; and of what that
    leaves, by class of time since the first row (0: that row itself)."""
    n_classes = len(edges)
    if len(one.z) < 2:
        return np.zeros(n_classes), np.zeros(n_classes + 1)
    order = np.lexsort((one.time, one.step))
    step, time, z, subject = (part[order] for part in (one.step, one.time, one.z, one.subject))
    new = step[1:] != step[:-1]
    begin, end = np.flatnonzero(np.append(True, new)), np.flatnonzero(np.append(new, True))
    own = np.cumsum(np.append(0, new))
    inner = np.flatnonzero(end[own] != np.arange(len(step)))
    who = np.unique(subject[inner], return_inverse=True)[1].reshape(-1)
    lag, true = time[end[own[inner]]] - time[inner], np.ones(len(inner), bool)
    since = time[inner] - time[begin[own[inner]]]
    rest = z[inner] - sum(w * _memory(t, lag, true) for w, t in zip(weight, tau)) * z[end[own[inner]]]
    place, later = (np.clip(np.searchsorted(edges, x, side="right") - 1, 0, n_classes - 1) for x in (lag, since))
    drift = _by_class(rest, who, place, n_classes)
    return drift, _by_class(rest - drift[place], who, np.where(since > 0, later + 1, 0), n_classes + 1)


def _by_class(x: np.ndarray, who: np.ndarray, place: np.ndarray, n_classes: int) -> np.ndarray:
    """Mean of the patients' means by class, drawn towards 0 where few patients have such rows."""
    key, index, n = np.unique(who * n_classes + place, return_inverse=True, return_counts=True)
    mean = np.bincount(index.reshape(-1), x) / np.maximum(n, 1)
    patients = np.bincount(key % n_classes, minlength=n_classes)
    return np.bincount(key % n_classes, mean, n_classes) / (patients + _FEW)


def _weights(lag: np.ndarray, same: np.ndarray, rho: np.ndarray, share: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Non-negative weights of the parts that sum to one."""
    from scipy.optimize import nnls  # heavy

    used = share > 0
    design = np.stack([_memory(t, lag[used], same[used]) for t in tau], 1)
    weight = np.sqrt(np.minimum(share[used], _ENOUGH))[:, None]
    sums = 100 * weight.max(initial=1.0)
    left = np.concatenate([design * weight, np.full((1, len(tau)), sums)])
    found, _ = nnls(left, np.append(rho[used] * weight[:, 0], sums))
    return found / found.sum() if found.sum() > 0 else (tau == 0).astype(float)


def _between(scores: list[_Scores]) -> np.ndarray:
    """Correlation of the columns at one moment, within the patient, shrunk to none where few moments have both."""
    n_columns = len(scores)
    if n_columns < 2:
        return np.eye(n_columns)
    subject = np.concatenate([one.subject for one in scores])
    order = np.lexsort((np.concatenate([one.time for one in scores]), subject))
    when = np.concatenate([one.time for one in scores])[order]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(subject[order]) != 0) | (np.diff(when) != 0)
    moment = np.empty(len(order), np.int64)
    moment[order] = np.cumsum(new) - 1
    n_moments = min(int(new.sum()), _AT_ONCE * 10 // n_columns)
    z, known = (np.zeros((n_moments, n_columns), np.float32) for _ in range(2))
    begin = np.cumsum([0, *(len(one.z) for one in scores)])
    for c, one in enumerate(scores):
        _, who, count = np.unique(one.subject, return_inverse=True, return_counts=True)
        who = who.reshape(-1)
        own = moment[begin[c] : begin[c + 1]]
        keep = (count[who] > 1) & (own < n_moments)
        mean = np.bincount(who, one.z) / np.maximum(count, 1) if len(count) else np.zeros(0)
        z[own[keep], c] = (one.z - mean[who])[keep]
        known[own[keep], c] = 1.0
    both = known.T @ known
    spread = (z**2).T @ known
    r = (z.T @ z) / np.maximum(np.sqrt(spread * spread.T), 1e-9)
    r = r * both / (both + _APART)
    r = np.clip(r, -0.995, 0.995)
    np.fill_diagonal(r, 1.0)
    return closest_correlation(r)
