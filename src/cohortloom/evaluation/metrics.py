"""Metrics of predictions, each for many weightings of the rows at once.

A patient bootstrap is a weighting: weights of shape (draw, row), one metric per draw. Weights are counts of the row's
patient. All metrics are "higher is better" but the errors of calibration and the Brier score.

    auroc          P(score of a case > score of another) + 1/2 P(equal)
    skill          1 - mean |y - p| / mean |y - median y|          (1 perfect, 0 as good as the median)
    concordance    Harrell's C over pairs whose order of events is known
    brier          integrated Brier score, weighted by the inverse probability of being uncensored (Graf et al. 1999)
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "auroc",
    "brier_rows",
    "calibration_error",
    "calibration_line",
    "concordance",
    "kaplan_meier",
    "patient_weights",
    "skill",
]


def patient_weights(patient: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of rows in bootstraps of their patients: draw x row; row 0 is the data themselves."""
    who, index = np.unique(patient, return_inverse=True)
    counts = rng.multinomial(len(who), np.full(len(who), 1 / len(who)), draws).astype(float)
    return np.concatenate([np.ones((1, len(patient))), counts[:, index]])


def auroc(score: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Area under the ROC curve per weighting, ties by half; NaN where a class is absent."""
    _, tied = np.unique(score, return_inverse=True)
    order = np.argsort(tied, kind="stable")
    first = np.flatnonzero(np.diff(tied[order], prepend=-1))
    ones = np.add.reduceat(weight[:, order] * y[order], first, axis=1)
    zeros = np.add.reduceat(weight[:, order] * (1 - y[order]), first, axis=1)
    below = np.cumsum(zeros, axis=1) - zeros
    pairs = ones.sum(1) * zeros.sum(1)
    won = (ones * (below + 0.5 * zeros)).sum(1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), np.nan)


def skill(predicted: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """1 - mean absolute error as a share of that of the median; not below -1."""
    base = weight @ np.abs(y - np.median(y))
    error = weight @ np.abs(y - predicted)
    return np.maximum(-1.0, np.where(base > 0, 1 - error / np.where(base > 0, base, 1), np.nan))


def concordance(risk: np.ndarray, time: np.ndarray, event: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Harrell's C: of pairs where one had the event before the other's time, the share with the greater risk.

    References:
        Harrell et al. (1982). Evaluating the yield of medical tests.
    """
    known = event[:, None] * ((time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & (event == 0)))
    np.fill_diagonal(known, 0)
    known = known.astype(np.float32)
    right = known * ((risk[:, None] > risk[None, :]) + 0.5 * (risk[:, None] == risk[None, :])).astype(np.float32)
    w = weight.astype(np.float32)
    pairs = ((w @ known) * w).sum(1, dtype=float)
    won = ((w @ right) * w).sum(1, dtype=float)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), np.nan)


def kaplan_meier(time: np.ndarray, event: np.ndarray, at: np.ndarray, *, before: bool = False) -> np.ndarray:
    """Share still without the event at times `at` (just before them if asked)."""
    if not len(time):
        return np.ones(len(at))
    moments, index = np.unique(time, return_inverse=True)
    happened = np.bincount(index, weights=event, minlength=len(moments))
    leaving = np.bincount(index, minlength=len(moments))
    at_risk = len(time) - np.concatenate([[0], np.cumsum(leaving)[:-1]])
    left = np.concatenate([[1.0], np.cumprod(1 - happened / at_risk)])
    return left[np.searchsorted(moments, at, side="left" if before else "right")]


def brier_rows(survival: np.ndarray, grid: np.ndarray, time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Each patient's part of the integrated Brier score; the mean over patients is the score.

    Args:
        survival: Predicted share without the event, patient x grid time.
        grid: Times of the integral, equally spaced.
        time, event: What happened.
    """
    censored = 1 - event
    still = np.maximum(kaplan_meier(time, censored, grid), 0.05)
    own = np.maximum(kaplan_meier(time, censored, time, before=True), 0.05)
    dead = (time[:, None] <= grid) & (event[:, None] == 1)
    alive = time[:, None] > grid
    return (dead * survival**2 / own[:, None] + alive * (1 - survival) ** 2 / still).mean(axis=1)


def calibration_error(predicted: np.ndarray, y: np.ndarray, weight: np.ndarray, parts: int = 10) -> np.ndarray:
    """Mean |observed - predicted| over parts of equal size by the prediction (ECE with equal-count bins)."""
    order = np.argsort(predicted, kind="stable")
    parts = max(1, min(parts, len(y) // 5))
    first = np.linspace(0, len(y), parts + 1).astype(int)[:-1]
    gap = np.add.reduceat(weight[:, order] * (y - predicted)[order], first, axis=1)
    return np.abs(gap).sum(1) / np.maximum(weight.sum(1), 1e-12)


def calibration_line(probability: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a logistic regression of the outcome on the logit of the prediction (1 and 0 if
    calibrated); Newton with a breath of ridge."""
    p = np.clip(probability, 1e-4, 1 - 1e-4)
    x = np.stack([np.log(p / (1 - p)), np.ones(len(p))], axis=1)
    beta = np.array([1.0, 0.0])
    for _ in range(50):
        mu = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        step = np.linalg.solve(
            (x * (mu * (1 - mu))[:, None]).T @ x + 1e-3 * np.eye(2), x.T @ (y - mu) - 1e-3 * (beta - [1, 0])
        )
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return float(beta[0]), float(beta[1])
