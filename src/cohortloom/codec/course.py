"""How the numbers of one patient run between the ones a step tells.

A step tells the last number of each column (or code); the others of its rows are drawn. On the scale of normal scores
column c of one patient is a stationary Gaussian process,

    z_c(t) = sum over k of sqrt(w_ck) x_ck(t),  corr(x_ck(s), x_ck(t)) = exp(-|s - t| / tau_k),  sum over k of w_ck = 1

a sum of slow and quick parts: tau = 0 is what differs from one minute to the next, tau = inf the patient's own level.
One more part is the level of the step: the same within it, drawn anew for the next one.
The parts of different columns at one moment are correlated by C: haematocrit moves with haemoglobin. With t_0 <= t <=
t_1, z_0 = z(t_0) told by the step before and z_1 by this one, a free course z* is drawn and led through both (kriging):

    z(t) = z*(t) + [k(t - t_0), k(t_1 - t)] [[1, r], [r, 1]]^-1 [z_0 - z*(t_0), z_1 - z*(t_1)],   r = k(t_1 - t_0)

Fitting: the weights follow, non-negative, from the variogram of the scores in classes of log lag; a column with few
pairs borrows those of its table. Scores of a column with spikes know less than the process behind them: the
correlation seen is turned into the one behind by simulating the column at a ladder of correlations.

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
_PARTS = 6
_BORROWED = 2.0  # weight of the pairs of the table beside those of a column, per class of lag
_APART = 30.0  # moments without correlation that count beside those seen
_ENOUGH = 1000.0
_MOST_ROWS = 100_000
_LADDER = np.concatenate([[0.0], 1 - 2.0 ** -np.arange(0.5, 9.0, 0.5)])
_AT_ONCE = 2_000_000  # scores drawn at once


@dataclass(frozen=True)
class Course:
    """Law of the numbers of a table along a patient's record. Make one with `fit`.

    Args:
        tau: Times after which the parts have forgotten two thirds of themselves [d]; 0 and infinity among them, and -1
            for the level of the step.
        weight: Share of each part in the variance, column by column.
        correlation: Of the columns at one moment, within the patient.
    """

    tau: tuple[float, ...]
    weight: np.ndarray
    correlation: np.ndarray

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
            return cls((0.0,), np.ones((len(columns), 1)), np.eye(len(columns)))
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
        weight = np.zeros((len(columns), len(tau)))
        for c, ((n, sums, at), (_, _, law)) in enumerate(zip(seen, columns)):
            gamma = (sums + borrowed * pooled) / np.maximum(n + borrowed, 1e-9)
            lag = np.where(n > 0, at / np.maximum(n, 1e-9), middle)
            rho = _behind(law, np.clip(1 - gamma, 0.0, 0.9999))
            weight[c] = _weights(lag, same, rho, n + borrowed, tau)
        used = weight.max(0, initial=0.0) > 0.005
        weight = weight[:, used] / np.maximum(weight[:, used].sum(1, keepdims=True), 1e-9)
        return cls(tuple(tau[used].tolist()), weight, _between(scores))

    def kernel(self, column: int, lag: np.ndarray, same: bool) -> np.ndarray:
        """Correlation of scores of one column some time [d] apart, in the same step or not."""
        out = np.zeros(len(lag))
        for tau, weight in zip(self.tau, self.weight[column]):
            out += weight * _memory(tau, lag, same)
        return out

    def draw(self, subject: np.ndarray, step: np.ndarray, time: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Free courses: moment x column scores.

        Args:
            subject, step, time: Patient, step and time [d] of each moment, in the order of all three.
        """
        n, n_columns = len(subject), len(self.weight)
        out = np.zeros((n, n_columns), np.float32)
        if not n or not n_columns:
            return out
        root = np.linalg.cholesky(self.correlation + 1e-9 * np.eye(n_columns))
        begin = np.flatnonzero(np.concatenate([[True], subject[1:] != subject[:-1]]))
        length = np.diff(np.append(begin, n))
        order = np.argsort(-length, kind="stable")
        amount = np.sqrt(self.weight)
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
                out[at] = np.einsum("nkc,ck->nc", state, amount)
        return out

    def led(self, column: int, free: np.ndarray, lag: tuple, pull: tuple) -> np.ndarray:
        """Scores of free courses led through what the steps tell.

        Args:
            free: z*(t).
            lag: t - t_0, t_1 - t and t_1 - t_0 [d]; infinite where no step before tells.
            pull: z - z* at t_0 (0 where nothing is told) and at t_1.
        """
        back, ahead, across = (self.kernel(column, x, same) for x, same in zip(lag, (False, True, False)))
        back = np.where(np.isfinite(lag[0]), back, 0.0)
        across = np.minimum(np.where(np.isfinite(lag[2]), across, 0.0), 0.999)
        det = 1 - across**2
        first, last = (back - across * ahead) / det, (ahead - across * back) / det
        return free + first * pull[0] + last * pull[1]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        tau = [t if np.isfinite(t) else "inf" for t in self.tau]  # JSON has no infinity
        return {"tau": tau, "weight": self.weight.tolist(), "correlation": self.correlation.tolist()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Course:
        tau = tuple(float(t) for t in state["tau"])
        weight = np.asarray(state["weight"], float).reshape(-1, len(tau))
        return cls(tau, weight, np.asarray(state["correlation"], float).reshape(len(weight), len(weight)))


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
    """Weight, weighted half squared differences, and weighted lags of pairs, by class of lag: first of pairs within a
    step, then of others.

    The pairs of a patient count by the root of their number: long stays don't speak for everybody.
    """
    n, sums, at = (np.zeros(2 * len(edges)) for _ in range(3))
    _, index, count = np.unique(one.subject, return_inverse=True, return_counts=True)
    root = 1 / np.sqrt(count)[index.reshape(-1)]
    for lag in _LAGS:
        same = one.subject[lag:] == one.subject[:-lag]
        if not same.any():
            break
        apart = (one.time[lag:] - one.time[:-lag])[same]
        half = 0.5 * (one.z[lag:] - one.z[:-lag])[same] ** 2
        place = np.clip(np.searchsorted(edges, apart, side="right") - 1, 0, len(edges) - 1)
        place += len(edges) * (one.step[lag:] != one.step[:-lag])[same]
        share = root[lag:][same]
        n += np.bincount(place, share, len(n))
        sums += np.bincount(place, share * half, len(n))
        at += np.bincount(place, share * np.maximum(apart, edges[0]), len(n))
    return n, sums, at


def _behind(law: QuantileTransform, rho: np.ndarray) -> np.ndarray:
    """Correlation of normal scores that gives the correlation seen between middles of spikes."""
    if not len(law.spikes):
        return rho
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 4000))
    first = law.score(law.decode(a))
    if first.std() < 1e-9:
        return rho
    seen = []
    for r in _LADDER:
        second = law.score(law.decode(r * a + np.sqrt(1 - r**2) * b))
        seen.append(np.corrcoef(first, second)[0, 1] if second.std() > 1e-9 else 0.0)
    seen = np.maximum.accumulate(np.nan_to_num([*seen, 1.0]))
    return np.interp(rho, seen, [*_LADDER, 1.0])


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
