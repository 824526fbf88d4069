"""What statics, and other columns, say of a patient's own level of each visit column.

    level of column c = constant_c + statics . weight_c        (ridge, one line per column; patients are its rows)

A patient with atrial fibrillation on the first page has the diagnosis at every second visit, whatever few visits say so
far. Histories hold own levels drawn to a prior of a few records; with the prior of all patients, three visits without a
diagnosis looked alike on both kinds of patient. So the prior is this line's: what a network adds up, linearly, is then
the posterior mean of a patient's level, in which statics count less the more was recorded.

The levels of other columns add to that (`level_ties`). Two devices measure one pressure by turns: a first value from
the cuff hangs on what the arterial line has shown. Such rows are few, and in all others the own last value decides, so
no weight learned from all rows says it. Ties are therefore fitted on first values alone, with what was known of the
other columns by then: a copy that is always written beside the value is as unknown as the value is, and gets no weight.

Each line is shrunk as much as patients left aside ask for, and is a constant where they gain nothing.

References:
    Efron, Morris (1973). Stein's estimation rule and its competitors: an empirical Bayes approach. JASA 68.
"""

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["level_lines", "level_ties"]

RIDGE = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # times the weight of all patients
FOLDS = 4
MOST_PATIENTS = 6_000
MOST_OTHERS = 20
LEAST_GAIN, BY_CHANCE = 0.005, 3.0  # of the variance between patients, and that times the number of patients


def level_lines(
    x: Float[np.ndarray, "patient static"], level: Float[np.ndarray, "patient column"],
    weight: Float[np.ndarray, "patient column"],
) -> Float[np.ndarray, "one_and_static column"]:  # fmt: skip
    """Constants (first row) and weights of the statics.

    Args:
        x: Dense statics.
        level: Mean of each patient's records; anything where the weight is 0.
        weight: Of each patient in each line.
    """
    rows = np.linspace(0, len(x) - 1, min(len(x), MOST_PATIENTS)).astype(int)
    x, level, weight = x[rows].astype(float), level[rows], weight[rows]
    total = np.maximum(weight.sum(0), 1e-9)
    out = np.zeros((1 + x.shape[1], level.shape[1]))
    out[0] = (weight * np.where(weight > 0, level, 0.0)).sum(0) / total
    varied = np.flatnonzero(x.std(0) > 1e-6)
    mean, sd, fold = x[:, varied].mean(0), x[:, varied].std(0), np.arange(len(x)) % FOLDS
    a = np.concatenate([(x[:, varied] - mean) / sd, np.ones((len(x), 1))], 1)
    for c in range(level.shape[1]):
        kept = np.flatnonzero(weight[:, c] > 0)
        if len(kept) < 2 * FOLDS or not len(varied):
            continue
        w, y = weight[kept, c], level[kept, c] - out[0, c]
        mine = [fold[kept] == k for k in range(FOLDS)]
        gram = np.stack([(a[kept[k]] * w[k, None]).T @ a[kept[k]] for k in mine])
        cross = np.stack([a[kept[k]].T @ (w * y)[k] for k in mine])
        rest, right = gram.sum(0) - gram, cross.sum(0) - cross
        best, least = None, -(LEAST_GAIN + BY_CHANCE / len(kept)) * float(w @ y**2)
        for strength in RIDGE:
            line = _solved(rest, right, strength)
            # squared error on the patients left aside, less that of the mean
            loss = np.einsum("ki,kij,kj->", line, gram, line) - 2 * np.einsum("ki,ki->", line, cross)
            if loss < least:
                best, least = strength, loss
        if best is not None:
            line = _solved(gram.sum(0)[None], cross.sum(0)[None], best)[0]
            out[1 + varied, c] = slope = line[:-1] / sd
            out[0, c] += line[-1] - mean @ slope
    return out


def level_ties(
    apart: Float[np.ndarray, "row number"], score: Float[np.ndarray, "row number"],
    first: Bool[np.ndarray, "row number"],
) -> Float[np.ndarray, "number other"]:  # fmt: skip
    """What the levels of the other numbers so far say of the first value of each: weights, 0 on the diagonal.

    Args:
        apart: Own levels before the row, beside what statics say.
        score: Values, beside what statics say.
        first: Is it the first of the patient?
    """
    out = np.zeros((apart.shape[1],) * 2)
    for c in range(len(out)):
        rows = np.flatnonzero(first[:, c])
        if len(rows) < 2 * FOLDS:
            continue
        x, y = apart[rows], score[rows, c]
        match = np.abs(x.T @ (y - y.mean())) / np.maximum(x.std(0), 1e-6)
        match[c] = -1.0
        others = np.sort(np.argsort(-match, kind="stable")[: min(MOST_OTHERS, len(out) - 1)])
        out[c, others] = level_lines(x[:, others], y[:, None], np.ones((len(rows), 1)))[1:, 0]
    return out


def _solved(gram: np.ndarray, cross: np.ndarray, strength: float) -> np.ndarray:
    penalty = strength * np.maximum(gram[:, -1:, -1], 1e-9) * np.append(np.ones(gram.shape[1] - 1), 0.0)
    left = gram.copy()
    left[:, range(gram.shape[1]), range(gram.shape[1])] += penalty + 1e-9
    return np.linalg.solve(left, cross[..., None])[..., 0]
