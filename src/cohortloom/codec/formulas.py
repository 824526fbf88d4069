"""Sums and products of columns: the score of a questionnaire, a body mass index, one quantity in two units.

    T = round(c + c1 x1 + ... + ck xk)          a sum of items, a difference times 1000, degrees of two scales
    T = round(c x1^e1 ... xk^ek)                 weight / height^2, a ratio, a body surface

Both are linear, the second in logarithms, so one regression of T on all other columns says whether there can be a law:
if it leaves more than rounding, there is none. Else columns that add nothing are taken out, the rest is fitted again,
and coefficients are put on the simplest numbers that keep the law. Whether it is one is asked of all rows by `derived`,
as of every other law.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import numpy as np

__all__ = ["Formula", "formulas"]

_ROWS, _MOST, _TERMS = 800, 80, 40
#: A column adds nothing where the sd of what is left without it grows by less than this / rows (an F of 20).
_WORSE = 10
#: Terms, constant, form.
Formula = tuple[tuple[tuple[str, float], ...], float, Literal["sum", "product"]]


def formulas(target: np.ndarray, step: float, others: dict[str, np.ndarray], *, products: bool) -> Iterator[Formula]:
    """Formulas that give a column up to rounding.

    Args:
        target: [rows] values, NaN where missing.
        step: Grid of the values, 0 if there is none.
        others: path -> [rows] values.
        products: Also look for products.
    """
    rows = np.flatnonzero(np.isfinite(target))
    rows = rows[:: max(1, len(rows) // _ROWS)][:_ROWS]
    if len(rows) < 40 or not others:
        return
    y, all_others = target[rows], np.stack([values[rows] for values in others.values()])
    finite = np.isfinite(all_others)
    kept = np.flatnonzero(finite.mean(axis=1) >= 0.98)
    whole = finite[kept].all(axis=0)
    y, x = y[whole], all_others[kept][:, whole]
    paths = list(others)
    known = {paths[k]: v for k, v, varies in zip(kept, x, np.ptp(x, axis=1) > 0 if len(y) else []) if varies}
    if not known:
        return
    most = min(_MOST, (len(y) - 20) // 2)
    if most < 1 or y.std() == 0:
        return
    if (found := _regressed(y, np.full(len(y), max(step, 1e-9)), known, most)) is not None:
        for tried in _simple(found):
            middle = float(np.median(y - sum(c * known[p] for p, c in tried)))
            for constant in [*([0.0] if abs(middle) <= step else []), *_near(middle)]:
                yield tried, constant, "sum"
    positive = {p: v for p, v in known.items() if (v > 0).all()}
    if not products or not positive or (y <= 0).any():
        return
    logs = {p: np.log(v) for p, v in positive.items()}
    found = _regressed(np.log(y), np.maximum(step, 1e-9) / y, logs, most)
    if found is not None and len(found) <= 4:
        for tried in _simple(found):
            middle = float(np.median(y / np.exp(sum(c * logs[p] for p, c in tried))))
            for constant in _near(middle):
                yield tried, constant, "product"


def _regressed(
    y: np.ndarray, grain: np.ndarray, known: dict[str, np.ndarray], most: int
) -> tuple[tuple[str, float], ...] | None:
    """Coefficients that leave no more than the grain of each row; None if there are none."""
    sizes = dict(zip(known, _correlations(np.stack(list(known.values())), y)))
    paths = sorted(known, key=lambda p: -sizes[p])[:most]
    for _ in range(4):
        if (fit := _fit(y, grain, known, paths)) is None:
            return None
        held, noise = fit
        kept = [p for p, c in zip(paths, held) if abs(c) > max(8 * noise, 1e-6 * y.std())]
        if not kept or len(kept) == len(paths):
            break
        paths = kept
    if not kept or len(paths) > _TERMS:
        return None
    for p in sorted(paths, key=lambda p: abs(held[paths.index(p)])):  # what another column says as well
        rest = [q for q in paths if q != p]
        fit = _fit(y, grain, known, rest) if rest else None
        if fit is not None and fit[1] <= noise * (1 + _WORSE / len(y)):  # an item of a sum is not, though small
            paths, (held, noise) = rest, fit
    return tuple((p, float(c / known[p].std())) for p, c in zip(paths, held))


def _fit(
    y: np.ndarray, grain: np.ndarray, known: dict[str, np.ndarray], paths: list[str]
) -> tuple[np.ndarray, float] | None:
    """Coefficients of standardised columns and their noise; None where more than the grain is left."""
    x = np.column_stack([known[p] for p in paths])
    z = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-300)
    held, *_ = np.linalg.lstsq(z, y - y.mean(), rcond=1e-9)
    left = y - y.mean() - z @ held
    if (np.abs(left) <= 1.01 * grain + 1e-9 * np.abs(y).max()).mean() < 0.99:
        return None
    return held, max(left.std(), 1e-12 * y.std()) / math.sqrt(len(y))


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|correlation| of each row of x with y; 0 for a row that does not vary."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    return np.abs(x @ y) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(y), 1e-300)


def _simple(terms: tuple[tuple[str, float], ...]) -> Iterator[tuple[tuple[str, float], ...]]:
    """Coefficients as small fractions, then with two to five digits, then as they are."""
    seen = []
    for change in (
        lambda c: float(Fraction(c).limit_denominator(6)),
        *(lambda c, k=k: float(f"{c:.{k}g}") for k in (1, 2, 3, 4, 5)),
        float,
    ):
        tried = tuple((p, change(c)) for p, c in terms)
        if tried not in seen and all(c for _, c in tried):
            seen.append(tried)
            yield tried


def _near(middle: float) -> list[float]:
    """A number in one to eight digits."""
    return list(dict.fromkeys(float(f"{middle:.{digits}g}") for digits in range(1, 9)))
