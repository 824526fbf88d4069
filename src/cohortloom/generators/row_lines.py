"""Numbers that are often, not always, worked out from others of their row.

    x_j = round(constant + sum of weight x earlier numbers of the row)

holds in most rows of a cuff's two pressures and their mean, of counts of tests in one panel, of one quantity in two
units, and fails in the others: somebody measured again, corrected one of them, or put in a value of another device.
What always holds is computed (`codec.derived`). What often holds is a value to expect: in these columns the token
REPEAT stands for it, in place of the last value of the patient. A network with straight lines on normal scores comes
near to it and draws the rest as noise that no recorder makes.

A line must not magnify: a systolic pressure as 3 mean - 2 diastolic gathers three times what is wrong with a drawn
mean.

The line is the one that most rows lie on, and not the best on average: regression weighs each row by
1 / (residual^2 + scale^2), and the scale shrinks from the residuals' spread to the grid.

References:
    Huber (1981). Robust Statistics, ch. 7 (iteratively reweighted least squares).
    Blake, Zisserman (1987). Visual Reconstruction (graduated non-convexity).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

from cohortloom.nets.tokens import CategoryCoder, NumberCoder

__all__ = ["Line", "Lines", "find_lines", "lines_from_json", "lines_to_json"]

MOST_ROWS, FEWEST_ROWS, FEWEST_PATIENTS = 4_000, 100, 20
MOST_PARTS = 6
FEWEST_VALUES = 17  # a number with fewer is its tokens
TOGETHER = 0.5  # of the rows of a number in which all parts are recorded
LEAST_SHARE, STANDS_OUT = 0.25, 3.0  # of rows on the line, and how often as many as one step beside it
MAGNIFIED = 1.5  # how far parts may move a number, in its spread: else it gathers what is wrong with them
ROUNDS = 14


@dataclass(frozen=True)
class Line:
    """constant + weights x parts, to be rounded to the column's grid.

    Args:
        parts: Earlier columns.
        weights: Of each.
    """

    parts: tuple[int, ...]
    weights: tuple[float, ...]
    constant: float

    def at(self, coder: NumberCoder, values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row"]:
        """The value to expect, as the column's coder can write it; NaN where a part is missing."""
        return coder.snap(self.constant + sum(w * values[:, k] for k, w in zip(self.parts, self.weights)))

    def moved(self, shift: int) -> "Line":
        """Where so many columns stand before them."""
        return replace(self, parts=tuple(k + shift for k in self.parts))


Lines = dict[int, Line]


def find_lines(
    coders: Sequence[NumberCoder | CategoryCoder],
    values: Float[np.ndarray, "row column"],
    subject: Int[np.ndarray, "row"],
) -> Lines:
    """Lines that a good part of the rows lies on exactly.

    Args:
        values: Raw values of the columns, NaN for numbers that are not there.
    """
    numbers = [j for j, c in enumerate(coders) if c.kind == "number" and c.decimals is not None]
    out: Lines = {}
    for place, j in enumerate(numbers):
        coder, rows = coders[j], np.flatnonzero(~np.isnan(values[:, j]))
        if place == 0 or len(rows) < FEWEST_ROWS or len(np.unique(subject[rows])) < FEWEST_PATIENTS:
            continue
        rows = rows[:: -(-len(rows) // MOST_ROWS)]
        if len(np.unique(values[rows, j])) < FEWEST_VALUES:
            continue
        there = ~np.isnan(values[np.ix_(rows, numbers[:place])])
        parts = np.asarray(numbers[:place])[there.mean(0) >= TOGETHER]
        y, x = values[rows, j], values[np.ix_(rows, parts)]
        whole = ~np.isnan(x)
        size = [abs(_correlation(x[w, k], y[w])) for k, w in enumerate(whole.T)]
        best = np.argsort(-np.asarray(size), kind="stable")[:MOST_PARTS]
        while len(best) and whole[:, best].all(1).mean() < TOGETHER:
            best = best[:-1]
        here = whole[:, best].all(1)
        if not len(best) or here.sum() < FEWEST_ROWS:
            continue
        x, y, half = x[np.ix_(here, best)], y[here], subject[rows[here]] % 2 == 0
        if all(_often(coder, x[~part], y[~part], _line(x[part], y[part], coder.step)) for part in (half, ~half)):
            line = _line(x, y, coder.step)
            used = np.flatnonzero(line[:-1])
            far = np.abs(line[:-1]) @ x.std(0) > MAGNIFIED * y.std()
            if len(used) and not far and _often(coder, x, y, line):
                out[j] = Line(tuple(parts[best[used]].tolist()), tuple(line[used].tolist()), float(line[-1]))
    return out


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0


def _line(x: np.ndarray, y: np.ndarray, step: float) -> np.ndarray:
    """Weights and constant of the line that most rows lie on, in the simplest numbers that keep them there."""
    kept = np.arange(x.shape[1])
    for _ in range(2):  # again without the parts that add nothing
        a = np.concatenate([x[:, kept], np.ones((len(x), 1))], 1)
        unit = np.maximum(np.abs(a).max(0), 1e-9)
        line = np.linalg.lstsq(a / unit, y, rcond=None)[0] / unit
        spread = float(np.median(np.abs(y - a @ line))) + step
        for turn in range(ROUNDS):
            scale = max(spread * 0.6**turn, step / 2)
            root = 1 / np.hypot(y - a @ line, scale)
            line = np.linalg.lstsq(a / unit * root[:, None], y * root, rcond=None)[0] / unit
        out = np.zeros(x.shape[1] + 1)
        out[[*kept, -1]] = line
        adds = np.abs(line[:-1]) * x[:, kept].std(0) > step / 2
        if adds.all():
            break
        kept = kept[adds]
    on = lambda line: np.mean(np.abs(y - x @ line[:-1] - line[-1]) <= step / 2)  # noqa: E731
    near = np.abs(y - x @ out[:-1] - out[-1]) <= step
    for limit in (1, 2, 6, 20, 1000) if near.any() else ():
        simple = np.asarray([float(Fraction(w).limit_denominator(limit)) for w in out])
        simple[-1] = np.round(np.median((y - x @ simple[:-1])[near]) / step) * step
        if on(simple) >= 0.99 * on(out):
            return simple
    return out


def _often(coder: NumberCoder, x: np.ndarray, y: np.ndarray, line: np.ndarray) -> bool:
    """Do many rows lie on the line, and more than one place beside it?"""
    said, y = coder.snap(x @ line[:-1] + line[-1]), coder.snap(y)
    if coder.exact:
        table = np.union1d(coder.x, coder.spikes)
        off = np.searchsorted(table, y) - np.searchsorted(table, said)
    else:
        off = np.round((y - said) / coder.step)
    on, below, above = (np.mean(off == k) if len(off) else 0.0 for k in (0, -1, 1))
    return bool(on >= LEAST_SHARE and on >= STANDS_OUT * max(below, above))


def lines_to_json(lines: Lines) -> list[list]:
    return [[j, list(line.parts), list(line.weights), line.constant] for j, line in lines.items()]


def lines_from_json(content: list[list]) -> Lines:
    return {j: Line(tuple(parts), tuple(weights), constant) for j, parts, weights, constant in content}
