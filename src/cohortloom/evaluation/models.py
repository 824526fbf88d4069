"""Models that stand for what people would fit: boosting and a penalised linear model for each kind of task.

                    boosting                                  linear
    classification  HistGradientBoosting                      logistic, ridge
    regression      HistGradientBoosting, absolute error      ridge regression
    survival        boosting on discrete-time hazards         Cox, ridge, Breslow baseline

Linear models see ranks brought to a normal law, medians where values are missing, and a mark for missing values. All
predictions are one number per row: a probability, a value, or for survival the share without the event on a grid of
times. Everything runs on one thread; the seed fixes column subsampling of the boosting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["FAMILIES", "Cox", "Normaliser", "cox", "fit"]

FAMILIES = ("boosting", "linear")
MOST_INTERVALS = 8


@dataclass
class Normaliser:
    """Ranks of training values brought to a normal law; missing values become the median and set a mark.

    Columns without two distinct training values are left out.
    """

    columns: list[tuple[int, np.ndarray]] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)

    def fit(self, x: np.ndarray) -> Normaliser:
        for j in range(x.shape[1]):
            known = x[np.isfinite(x[:, j]), j]
            if len(known) and known.min() < known.max():
                self.columns.append((j, np.sort(known)))
            share = np.mean(~np.isfinite(x[:, j]))
            if 0.02 <= share <= 0.98:
                self.marks.append(j)
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import ndtri  # heavy

        out = np.zeros((len(x), len(self.columns) + len(self.marks)))
        for k, (j, known) in enumerate(self.columns):
            v = x[:, j]
            seen = np.isfinite(v)
            rank = (np.searchsorted(known, v[seen]) + np.searchsorted(known, v[seen], side="right")) / 2
            out[seen, k] = np.clip(ndtri(np.clip(rank / len(known), 0.003, 0.997)), -2.75, 2.75)
        for k, j in enumerate(self.marks, start=len(self.columns)):
            out[:, k] = ~np.isfinite(x[:, j])
        return out


def fit(kind: str, family: str, x: np.ndarray, y: np.ndarray, *, seed: int, grid: np.ndarray | None = None) -> Any:
    """Train a model; it has `predict(x)`.

    Args:
        kind: classification, regression or survival.
        family: boosting or linear.
        x: row x feature, NaN where missing.
        y: Target; for survival row x (time, event).
        seed: Fixes the model.
        grid: Survival: times at which it predicts.
    """
    if kind == "survival":
        assert grid is not None
        return Hazards(seed, grid).fit(x, y) if family == "boosting" else CoxModel(grid).fit(x, y)
    if family == "boosting":
        return Boosted(kind, seed).fit(x, y)
    return Linear(kind).fit(x, y)


@dataclass
class Boosted:
    """Gradient boosting; constant where a class or all features are absent."""

    kind: str
    seed: int
    model: Any = None
    constant: float = 0.0

    def fit(self, x: np.ndarray, y: np.ndarray) -> Boosted:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor  # heavy

        n = len(y)
        settings = {
            "max_iter": 60,
            "learning_rate": 0.1 if n >= 600 else 0.06,
            "max_leaf_nodes": 12 if n >= 600 else 6,
            "min_samples_leaf": 20 if n >= 600 else 10,
            "l2_regularization": 1.0,
            "early_stopping": False,
            "max_features": 0.5,
            "max_bins": 63,
            "random_state": self.seed % 2**31,
        }
        classes = self.kind == "classification"
        self.constant = float(np.mean(y)) if classes else float(np.median(y))
        self.alive = alive(x)
        if not self.alive.any() or np.ptp(y) == 0:
            return self
        if classes:
            self.model = HistGradientBoostingClassifier(**settings)
        else:
            self.model = HistGradientBoostingRegressor(loss="absolute_error", **settings)
        self.model.fit(x[:, self.alive], y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        if self.model is None:
            return np.full(len(x), self.constant)
        if self.kind == "classification":
            return self.model.predict_proba(x[:, self.alive])[:, 1]
        return self.model.predict(x[:, self.alive])


@dataclass
class Linear:
    """Logistic or ridge regression on normal scores."""

    kind: str
    penalty: float | None = None
    model: Any = None
    constant: float = 0.0

    def fit(self, x: np.ndarray, y: np.ndarray) -> Linear:
        from sklearn.linear_model import LogisticRegression, Ridge  # heavy

        self.scale = Normaliser().fit(x)
        z = self.scale.transform(x)
        classes = self.kind == "classification"
        self.constant = float(np.mean(y)) if classes else float(np.median(y))
        if not z.shape[1] or np.ptp(y) == 0:
            return self
        if classes:
            self.model = LogisticRegression(C=self.penalty or 0.05, max_iter=200, tol=1e-3).fit(z, y)
        else:
            self.model = Ridge(alpha=self.penalty or 20.0).fit(z, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        if self.model is None:
            return np.full(len(x), self.constant)
        z = self.scale.transform(x)
        return self.model.predict_proba(z)[:, 1] if self.kind == "classification" else self.model.predict(z)


# -- survival ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cox:
    """Coefficients, and the Breslow baseline: cumulative hazard `hazard` after each of `times`."""

    beta: np.ndarray
    times: np.ndarray
    hazard: np.ndarray

    def survival(self, z: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Share without the event, row x time."""
        total = np.concatenate([[0.0], self.hazard])[np.searchsorted(self.times, grid, side="right")]
        return np.exp(-total * np.exp(np.clip(z @ self.beta, -20, 20))[:, None])


def cox(z: np.ndarray, time: np.ndarray, event: np.ndarray, *, ridge: float = 0.0, steps: int = 25) -> Cox:
    """Maximum of the Breslow partial likelihood less ridge / 2 |beta|^2, by Newton steps with halving.

    References:
        Breslow (1974). Covariance analysis of censored survival data.
    """
    order = np.argsort(-time, kind="stable")
    z, time, event = z[order], time[order], event[order]
    p = z.shape[1]
    # rows sorted by falling time: the risk set of a row ends with the last row of its time
    last = np.searchsorted(-time, -time, side="right") - 1
    dead = np.flatnonzero(event == 1)

    def look(beta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        eta = np.clip(z @ beta, -30, 30)
        weight = np.cumsum(np.exp(eta))
        return float((eta[dead] - np.log(weight[last[dead]])).sum() - ridge / 2 * beta @ beta), np.exp(eta), weight

    beta = np.zeros(p)
    value, w, total = look(beta)
    for _ in range(steps):
        if not p or not len(dead):
            break
        # d log L = sum over deaths (z - mean of z in the risk set); a row's weight in all risk sets is w * share
        share = np.bincount(last[dead], weights=1 / total[last[dead]], minlength=len(time))
        share = np.cumsum(share[::-1])[::-1]
        first = np.cumsum(w[:, None] * z, axis=0)[last[dead]] / total[last[dead], None]
        gradient = z[dead].sum(0) - (w * share) @ z - ridge * beta
        curvature = (z * (w * share)[:, None]).T @ z - first.T @ first + (ridge + 1e-9) * np.eye(p)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-3:
            new, w_new, total_new = look(beta + size * step)
            if new >= value - 1e-12:
                break
            size /= 2
        else:
            break
        gain, beta, value, w, total = new - value, beta + size * step, new, w_new, total_new
        if gain < 1e-9 * (1 + abs(value)):
            break
    times = np.unique(time[dead])
    increments = np.zeros(len(times))
    np.add.at(increments, np.searchsorted(times, time[dead]), 1 / total[last[dead]])
    return Cox(beta, times, np.cumsum(increments))


@dataclass
class CoxModel:
    """Cox regression on normal scores."""

    grid: np.ndarray

    def fit(self, x: np.ndarray, y: np.ndarray) -> CoxModel:
        self.scale = Normaliser().fit(x)
        z = self.scale.transform(x)
        self.model = cox(z, y[:, 0], y[:, 1], ridge=20.0, steps=12)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.survival(self.scale.transform(x), self.grid)


@dataclass
class Hazards:
    """Boosting on person-intervals: chance of the event in an interval, given that it was reached."""

    seed: int
    grid: np.ndarray

    def fit(self, x: np.ndarray, y: np.ndarray) -> Hazards:
        time, event = y[:, 0], y[:, 1]
        found = time[event == 1]
        parts = np.arange(1, MOST_INTERVALS) / MOST_INTERVALS
        inner = np.unique(np.quantile(found, parts)) if len(found) else np.zeros(0)
        self.edges = np.concatenate([[0.0], inner[inner > 0]])
        reached = time[:, None] > self.edges  # intervals (edge, next edge]
        reached[:, 0] = True
        row, interval = np.nonzero(reached)
        last = np.concatenate([self.edges[1:], [np.inf]])
        hit = (event[row] == 1) & (time[row] <= last[interval])
        full = hit | (time[row] >= last[interval]) | (interval == len(self.edges) - 1)
        row, interval, hit = row[full], interval[full], hit[full]  # leave out intervals cut short by censoring
        wide = np.concatenate([x[row], interval[:, None].astype(x.dtype)], axis=1)
        self.model = Boosted("classification", self.seed).fit(wide, hit.astype(int)) if len(row) else None
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        k, n = len(self.edges), len(x)
        if self.model is None:
            return np.ones((n, len(self.grid)))
        wide = np.concatenate([np.repeat(x, k, axis=0), np.tile(np.arange(k), n)[:, None].astype(x.dtype)], axis=1)
        hazard = np.clip(self.model.predict(wide).reshape(n, k), 0, 0.999)
        left = np.concatenate([np.ones((n, 1)), np.cumprod(1 - hazard, axis=1)], axis=1)
        ends = np.concatenate([self.edges, [max(self.grid[-1], self.edges[-1] + 1e-9)]])
        at = np.clip(np.searchsorted(ends, self.grid, side="right") - 1, 0, k - 1)
        share = np.clip((self.grid - ends[at]) / (ends[at + 1] - ends[at]), 0, 1)
        return left[:, at] * (1 - share) + left[:, at + 1] * share


def alive(x: np.ndarray) -> np.ndarray:
    """Columns with two distinct values."""
    known = np.isfinite(x)
    return np.where(known, x, np.inf).min(0, initial=np.inf) < np.where(known, x, -np.inf).max(0, initial=-np.inf)
