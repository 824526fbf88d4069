"""Where a column network starts: at the best straight lines.

A cohort of a few hundred patients ends training near where it starts (early stopping), so the start is a prior and
deserves care. For each column the wide part begins at a linear model fitted in closed form, with as much shrinkage as
patients left aside ask for:

    number    ridge regression of z on the features; a regression of the log of the residuals' size on the same, which
              weighs the rows of a second ridge regression; the mixture starts as the law of the scaled residuals on
              patients left aside, so a column that hardly moves between visits starts hardly moving, and one that was
              never measured starts wide
    tokens    softmax regression with a ridge, by L-BFGS in coordinates in which the curvature of every token, of a rare
              one too, is about one

A ridge for eighty inputs shrinks one that decides a token as much as those that say nothing: of cells that are missing
together in 3 % of the rows, half were drawn without each other. So each regression is fitted again with penalties that
fall with what each input weighs (adaptive ridge), and kept if patients left aside ask for it.

Members of an ensemble see nearly the same patients, and nearly all the work is in choosing how strong penalties are:
the first member chooses for all (`Choices`). Which inputs enter and what they weigh stays each member's own.

Only features that correlate with the column enter, at most one per ten rows, the column's own history first; the rest
of the places is shared by the past and the columns of the same row, whose few inputs would be crowded out by the many
copies of time that a history holds.

The network learns from there what is not linear.

References:
    Liu, Nocedal (1989). On the limited memory BFGS method for large scale optimization. Math. Programming 45.
    Frommlet, Nuel (2016). An adaptive ridge procedure for L0 regularization. PLoS ONE 11.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from cohortloom.nets.columnar import ColumnNet, Rows
from cohortloom.nets.normals import LOG_SD

__all__ = ["Choices", "start_at_lines"]

MOST_ROWS = 8_000
MOST_FEATURES = 80
MOST_OWN = 0.75  # of all inputs: a longer own history shares the places with others
FEWEST_ROWS = 30
FOLDS = 4
RIDGE = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # times the number of rows
OTHERS = (1.0, 5.0, 30.0)  # penalty of what is not the column's own history, relative to that
LAST = 0.01  # the same of its last value: what is shrunk is shrunk towards "as last time"
TOLD = 20.0  # the same of what statics say, times the number of patients that say it, and no less than `LAST`
SOFTMAX_RIDGE = (3200.0, 800.0, 200.0, 50.0, 12.0, 3.0)  # so strong that one true input pays for 79 others
SOFTMAX_STEPS = 30
SOFTMAX_ROWS = 6_000
CROSSED = 2_000  # rows up to which two folds are left aside in turn; above, one is enough
ROUNDS = 3  # one with equal penalties, then adaptive ones
LEAST_WEIGHT = 0.05  # of an input, relative to the mean, when penalties are set by it
LOG_SCALE = (-3.0, 2.0)
SPREAD_RIDGE = (1.0, 0.3, 0.1, 0.03, 0.01)
SPREAD_STEPS = 12
HEAD_SCALE = 0.3
REACH, LEAST_REACH = 4.0, 0.5  # how far log scales may lie from their mean, in their standard deviations and at least
_NOTHING = np.empty(0, int)

#: Of a regression, named by its column and what it is of, the strengths of its penalties.
Key = tuple[int, str]
Choices = dict[Key, Any]


@torch.no_grad()
def start_at_lines(
    net: ColumnNet, rows: Callable[[torch.Tensor], Rows], token: np.ndarray, subject: np.ndarray, items: np.ndarray,
    rng: np.random.Generator, choices: Choices | None = None,
) -> None:  # fmt: skip
    """Put the wide part and the mixtures of a fresh network at linear models of its columns, in place.

    Args:
        net: A fresh network.
        rows: Looks up training rows by number.
        token: Tokens of all rows, row x column.
        subject: Subject of each row; folds are made of subjects.
        items: Rows to learn from.
        rng: Draws the rows and folds.
        choices: Strengths of penalties; what is missing is searched for and put there, for another member to share.
    """
    for head in net.heads:
        head.mul_(HEAD_SCALE)
    choices = {} if choices is None else choices
    fold_of = rng.integers(0, FOLDS, int(subject.max(initial=0)) + 1)
    some = _some(items, rng, SOFTMAX_ROWS)
    batch = rows(torch.from_numpy(some))
    shared = _inputs(net, batch)
    fold, told = fold_of[subject[some]], min(max(LAST, TOLD / len(np.unique(subject[items]))), 1.0)
    beside = np.arange(shared.shape[1]) >= net.n_features
    whole = _Table.of(shared, np.zeros_like(beside), beside, fold)
    for number, group in enumerate(net.small):
        index = net.groups.index(group)
        for row, j in enumerate(group.columns):
            shape, usable = net.columns[j], _usable(net, j)
            t = token[some, j]
            kept = t >= 0
            if shape.n_tokens > 1 and kept.sum() >= FEWEST_ROWS and len(np.unique(t[kept])) > 1:
                here = whole if kept.all() else _Table.of(shared[kept], whole.own, beside, fold[kept])
                here, ease = here.only(usable, _own(net, j, usable)), np.where(np.isin(usable, shape.told), told, 1.0)
                told_last = shape.kind == "category" and len(shape.own) > shape.n_tokens
                last = np.searchsorted(usable, shape.own[: shape.n_tokens]) if told_last else _NOTHING
                found = _softmax(here, t[kept], shape.n_tokens, ease, choices, (j, "tokens"), last)
                if found is not None:
                    chosen, weight, bias = found
                    for k in range(shape.n_tokens):
                        _write(net, number, row, j, k, usable[chosen], weight[:, k])
                    net.head_bias[index][row, : shape.n_tokens] = torch.from_numpy(bias).float()
            if not group.mixture:
                continue
            cont = items[token[items, j] == 0]
            if len(cont) < FEWEST_ROWS:
                continue
            cont = _some(cont, rng)
            part = rows(torch.from_numpy(cont))
            z, at = part.target[:, j].numpy().astype(float), group.n_tokens
            ease = np.where(usable == shape.last, LAST, np.where(np.isin(usable, shape.told), told, 1.0))
            x, own = _inputs(net, part)[:, usable], _own(net, j, usable)
            table = _Table.of(x, own, beside[usable], fold_of[subject[cont]])
            line = _ridge(table, z, ease, choices, (j, "number"))
            scale = _spread(table, line.residual, choices, (j, "scale"))
            size = np.exp(np.clip(scale.at(table.x), *LOG_SCALE))
            if scale.weight.any():
                line = _ridge(table, z, ease, choices, (j, "weighed"), 1 / size**2)
            for output, found in ((at, line), (at + 1, scale)):
                _write(net, number, row, j, output, usable[found.chosen], found.weight)
                net.wide_bias[group.first_wide + row * group.wide + output] = found.constant
            log_size = np.log(size)
            reach = max(REACH * float(log_size.std()), LEAST_REACH)
            getattr(net, f"scale_{index}")[row] = torch.tensor([float(log_size.mean()), reach])
            first = net.first_values(part.features)[:, j].numpy().astype(int)
            residual = np.tile((line.residual / size)[:, None], net.n_normals)
            anchored = net.is_anchored & (shape.last >= 0) & bool((first == 0).any())
            if anchored.any():
                constant, slope = _through(part.score[:, j].numpy().astype(float), z)
                line_of_last = constant + slope * shape.last_mean, slope * shape.last_sd
                net.anchor[str(index)][row] = torch.tensor(line_of_last)
                last = part.features[:, shape.last].numpy()
                residual[:, anchored] = ((z - line_of_last[0] - line_of_last[1] * last) / size)[:, None]
            *law, fresh = _mixture(residual, anchored, first)
            net.fresh[str(index)][row] = torch.from_numpy(fresh).float()
            for part_of_law in law:
                net.head_bias[index][row, at : at + net.n_normals] = torch.from_numpy(part_of_law).float()
                at += net.n_normals
    net.keep_wide_support()


def _some(items: np.ndarray, rng: np.random.Generator, most: int = MOST_ROWS) -> np.ndarray:
    return items if len(items) <= most else np.sort(rng.choice(items, most, replace=False))


def _inputs(net: ColumnNet, rows: Rows) -> np.ndarray:
    """Features, then what earlier columns of the row say: row x (feature + input)."""
    e = net.encode(rows.token, rows.score, rows.features)
    for name in net.tables:
        start = net.start[int(name)]
        e[:, start : start + net.columns[int(name)].width] = 0.0
    return torch.cat([rows.features, e], 1).numpy()


def _usable(net: ColumnNet, j: int) -> np.ndarray:
    """Inputs that the wide part of column j can hold."""
    if net.low_rank:
        return np.asarray(net.columns[j].own, int)
    return np.arange(net.n_features + net.start[j])


def _own(net: ColumnNet, j: int, usable: np.ndarray) -> np.ndarray:
    return np.isin(usable, np.asarray(net.columns[j].own, int))


def _write(net: ColumnNet, number: int, row: int, j: int, output: int, inputs: np.ndarray, weight: np.ndarray) -> None:
    """Set one output's weights of the wide part; others become zero."""
    group = net.small[number]
    values = torch.from_numpy(np.ascontiguousarray(weight)).float()
    if net.low_rank:
        net.own_wide[number][row, :, output] = 0.0
        own = {feature: place for place, feature in enumerate(net.columns[j].own)}
        for feature, value in zip(inputs.tolist(), values):
            net.own_wide[number][row, own[feature], output] = value
        return
    at = group.first_wide + row * group.wide + output
    net.wide[at] = 0.0
    net.mix_wide[at] = 0.0
    is_feature = inputs < net.n_features
    net.wide[at, torch.from_numpy(inputs[is_feature])] = values[torch.from_numpy(is_feature)]
    net.mix_wide[at, torch.from_numpy(inputs[~is_feature] - net.n_features)] = values[torch.from_numpy(~is_feature)]


@dataclass(frozen=True)
class _Table:
    """Inputs of some rows with their means and spreads, and the fold of each row.

    Args:
        own: Which inputs tell the column's own history.
        beside: Which are other columns of the same row.
    """

    x: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    own: np.ndarray
    beside: np.ndarray
    fold: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, own: np.ndarray, beside: np.ndarray, fold: np.ndarray) -> "_Table":
        mean = np.ones(len(x), np.float32) @ x / len(x)
        centred = x - mean
        sd = np.sqrt(np.einsum("ri,ri->i", centred, centred) / len(x)).astype(float)
        return cls(x, mean.astype(float), sd, own, beside, fold)

    def only(self, inputs: np.ndarray, own: np.ndarray) -> "_Table":
        """Some of the inputs."""
        usable = slice(0, len(inputs)) if len(inputs) and inputs[-1] == len(inputs) - 1 else inputs
        return _Table(self.x[:, usable], self.mean[usable], self.sd[usable], own, self.beside[usable], self.fold)

    def standardised(self, chosen: np.ndarray) -> np.ndarray:
        """Chosen inputs with mean 0 and spread 1, and a column of ones."""
        a = (self.x[:, chosen] - self.mean[chosen]) / self.sd[chosen]
        return np.concatenate([a, np.ones((len(a), 1))], 1)


def _screen(table: _Table, y: np.ndarray) -> np.ndarray:
    """Inputs worth a weight: own history that varies, then by turns the best correlated with any column of y of the
    past and of the row. Where rows are few the own history would leave no place for the others, and the number of a
    stay's samples would hang on that of the last stay, not on how long this one is: then it takes every other place."""
    x, own, sd = table.x, table.own, table.sd
    y = (y - y.mean(0)) / np.maximum(y.std(0), 1e-9)
    match = np.abs(x.T @ y.astype(np.float32) / len(x)).max(1) / np.maximum(sd, 1e-6)
    varies = sd > 1e-3
    most = int(min(MOST_FEATURES, max(len(x) // 10, 3), varies.sum()))
    parts = [(~own & table.beside, 1), (~own & ~table.beside, 1)]
    parts += [(own, 2)] if (own & varies).sum() > MOST_OWN * most else []
    worth = 2 + match
    for part, each in parts:
        place = np.flatnonzero(part)
        worth[place[np.argsort(-match[place], kind="stable")]] = 1 / (1 + np.arange(len(place)) // each)
    worth = np.where(varies, worth, -1.0)
    return np.sort(np.argsort(-worth, kind="stable")[:most])


def _by_weight(size: np.ndarray) -> np.ndarray:
    """Penalties that fall with the weight of each input."""
    return 1 / np.maximum(size / max(size.mean(), 1e-12), LEAST_WEIGHT)


@dataclass(frozen=True)
class _Line:
    """constant + inputs[chosen] @ weight; `residual`: what is left of rows under the weights of the other folds."""

    chosen: np.ndarray
    weight: np.ndarray
    constant: float
    residual: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        return self.constant + x[:, self.chosen] @ self.weight


def _ridge(
    table: _Table, z: np.ndarray, ease: np.ndarray, choices: Choices, key: Key, importance: np.ndarray | float = 1.0
) -> _Line:
    """Ridge regression of z on the inputs worth it, shrunk as patients left aside ask for.

    Args:
        ease: Penalty of inputs that are hardly shrunk, 1 for others.
        importance: Of each row.
    """
    importance = np.broadcast_to(importance, z.shape) / np.mean(importance)
    chosen = _screen(table, z[:, None])
    a, mean, sd = table.standardised(chosen), table.mean[chosen], table.sd[chosen]
    rows = [np.flatnonzero(table.fold == k) for k in np.unique(table.fold)]
    heavy = a * importance[:, None]
    gram = np.stack([a[k].T @ heavy[k] for k in rows])
    cross = np.stack([heavy[k].T @ z[k] for k in rows])
    whole_gram, whole_cross = gram.sum(0), cross.sum(0)
    rest = whole_gram - gram if len(rows) > 1 else gram
    right = whole_cross - cross if len(rows) > 1 else cross
    n, tiny = np.maximum(rest[:, -1, -1], 1.0)[:, None], 1e-6

    def solved(penalty: np.ndarray) -> np.ndarray:
        left = rest.copy()
        left[:, range(len(penalty)), range(len(penalty))] += n * penalty + tiny
        return np.linalg.solve(left, right[..., None])[..., 0]

    def loss(weight: np.ndarray) -> float:
        """Squared error on the rows left aside, but for the sum of their z^2."""
        return np.einsum("ki,kij,kj->", weight, gram, weight) - 2 * np.einsum("ki,ki->", weight, cross)

    def penalty_of(others: float, strength: float, weight: np.ndarray | None) -> np.ndarray:
        equal = weight is None
        scale = np.where(table.own[chosen], 1.0, others) if equal else _by_weight(np.abs(weight[:, :-1]).mean(0))
        return strength * np.append(np.where(ease[chosen] < 1, ease[chosen], scale), 0.0)

    if key not in choices:
        rounds, least, weight = [], np.inf, None
        for turn in range(ROUNDS if len(chosen) else 1):
            tried = product(OTHERS if not turn else OTHERS[:1], RIDGE)
            found = {trial: (loss(w := solved(penalty_of(*trial, weight))), w) for trial in tried}
            best = min(found, key=lambda trial: found[trial][0])
            if not found[best][0] < least:
                break
            least, weight = found[best]
            rounds.append(best)
        choices[key] = rounds
    weights, penalty = None, None
    for trial in choices[key]:
        weights = solved(penalty := penalty_of(*trial, weights))
    residual = np.empty(len(z))
    for k, weight in zip(rows, weights):
        residual[k] = z[k] - a[k] @ weight
    whole_gram[range(len(penalty)), range(len(penalty))] += whole_gram[-1, -1] * penalty + tiny
    weight = np.linalg.solve(whole_gram, whole_cross)
    slope = weight[:-1] / sd
    return _Line(chosen, slope, float(weight[-1] - mean @ slope), residual - np.average(residual, weights=importance))


def _spread(table: _Table, residual: np.ndarray, choices: Choices, key: Key) -> _Line:
    """Regression of the log of the size of residuals: |r| / size is exponential with mean 1 (Laplace); Fisher steps."""
    size = np.abs(residual)
    size = (np.minimum(size, 8 * max(np.median(size), 1e-3)) + 1e-3).astype(np.float32)
    constant = float(np.log(size.mean()))
    chosen = _screen(table, np.log(size + 0.1 * size.mean())[:, None])
    a, mean, sd = table.standardised(chosen).astype(np.float32), table.mean[chosen], table.sd[chosen]
    null = np.append(np.zeros(len(chosen)), constant)

    @np.errstate(over="ignore", invalid="ignore")  # a climb that runs away is no gain, and says so by its loss
    def loss(rows: np.ndarray, b: np.ndarray) -> float:
        eta = a[rows] @ b.astype(np.float32)
        return float(np.mean(eta + size[rows] * np.exp(-eta)))

    @np.errstate(over="ignore", invalid="ignore")
    def climb(rows: np.ndarray, b: np.ndarray, strength: float) -> np.ndarray:
        part, s = a[rows], size[rows]
        shrink = np.append(np.full(len(chosen), strength), 0.0)
        step = np.linalg.inv((part.T @ part).astype(float) / len(part) + np.diag(shrink + 1e-6))
        for _ in range(SPREAD_STEPS):
            excess = np.clip(s * np.exp(-part @ b.astype(np.float32)) - 1, -1.0, 4.0)
            move = step @ (part.T @ excess / len(part) - shrink * b)
            b = b + move
            if np.abs(move).max() < 0.005:
                break
        return b

    train, test = table.fold != 0, table.fold == 0
    best, b = choices.get(key), null
    if key not in choices and len(chosen) and train.any() and test.any():
        least = loss(test, null) - 1e-3
        for strength in SPREAD_RIDGE:
            b = climb(train, b, strength)
            if not (found := loss(test, b)) < least:  # no number is no gain either
                break
            best, least = strength, found
    choices[key] = best
    if best is None or not len(chosen):
        return _Line(chosen, np.zeros(len(chosen)), constant, residual)
    everyone = np.ones(len(a), bool)
    b = climb(everyone, null, best)
    if not loss(everyone, b) < loss(everyone, null):  # strengths chosen on other patients
        b = null
    slope = b[:-1] / sd
    return _Line(chosen, slope, float(b[-1] - mean @ slope), residual)


def _softmax(
    table: _Table,
    token: np.ndarray,
    n_tokens: int,
    ease: np.ndarray,
    choices: Choices,
    key: Key,
    last: np.ndarray = _NOTHING,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Chosen inputs, weights (input x token) and constants of a softmax regression, None if it says nothing.

    Args:
        ease: What the penalty of each input is multiplied by.
        last: Inputs that say which token was the last one [token], or none. Their weights are shrunk towards one common
            wish to stay: a level of a single patient could not show that levels last.
    """
    y = (token[:, None] == np.arange(n_tokens)).astype(np.float32)
    share = (y.sum(0) + 0.1) / (len(y) + 0.1 * n_tokens)
    same = np.flatnonzero(table.sd[last] > 1e-3)
    chosen = np.union1d(_screen(table, y), last[same])
    if not len(chosen):
        return None
    a, mean, sd = table.standardised(chosen).astype(np.float32), table.mean[chosen], table.sd[chosen]
    null, ease = np.zeros((a.shape[1], n_tokens)), ease[chosen]
    null[-1] = np.log(share)
    if len(same):
        place = np.searchsorted(chosen, last[same])
        was = a[:, place] > 0
        wish = _wish_to_stay(was, y[:, same] > 0, share[same])
        null[place, same] = wish * was.std(0)
        null[-1, same] += wish * was.mean(0)
    if key not in choices:
        choices[key] = _softmax_rounds(a, y, null, table.fold, ease)
    weight, scale = null, ease
    for strength in choices[key]:
        weight = _climb(a, y, weight, null, strength * scale)
        scale = ease * _by_total(weight)
    if not weight[:-1].any():
        return None
    slope = weight[:-1] / sd[:, None]
    return chosen, slope, weight[-1] - mean @ slope


def _wish_to_stay(was: np.ndarray, now: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What being the last token adds to the logit of each token.

    Log odds of staying are a line in the log odds of the token's share (slope 1: nothing lasts; slope 0: all last
    equally), a logistic regression with half a row of either outcome added.

    Args:
        was, now: Is it the last token, and this one? [row token]
    """
    share = np.clip(share, 1e-6, 1 - 1e-6)
    usual = np.log(share / (1 - share))
    row, token = np.nonzero(was)
    x = np.append(usual[token], [usual.mean()] * 2)
    stayed, n = np.append(now[row, token], [1.0, 0.0]), np.append(np.ones(len(row)), [0.5, 0.5])
    design, b = np.stack([np.ones(len(x)), x], 1), np.array([0.0, 1.0])
    for _ in range(25):
        p = 1 / (1 + np.exp(-design @ b))
        slope = design.T @ (n * (stayed - p)) - np.array([0.0, b[1]])
        curve = (design * (n * p * (1 - p))[:, None]).T @ design + np.diag([1e-6, 1.0])
        b = b + np.clip(np.linalg.solve(curve, slope), -2, 2)
    return np.stack([np.ones(len(usual)), usual], 1) @ b - usual


def _softmax_rounds(a: np.ndarray, y: np.ndarray, null: np.ndarray, fold: np.ndarray, ease: np.ndarray) -> list[float]:
    """Strength of the penalty in each round, as patients left aside ask for; none if they gain nothing from weights."""
    folds = [fold == k for k in range(1 + (len(y) <= CROSSED))]
    folds = [aside for aside in folds if aside.any() and not aside.all()]
    if not folds:
        return []
    fits, tests = [(a[~aside], y[~aside]) for aside in folds], [(a[aside], y[aside].argmax(1)) for aside in folds]

    def mean_loss(weights: list[np.ndarray]) -> float:
        losses = [_loss(*test, weight) for test, weight in zip(tests, weights)]
        return np.average(losses, weights=[len(t) for _, t in tests])

    rounds, least, scale = [], mean_loss([null] * len(folds)) - 1e-4, ease
    for _ in range(ROUNDS):
        weights, better = [null] * len(folds), None
        for strength in SOFTMAX_RIDGE:
            weights = [_climb(*fit, w, null, strength * scale) for fit, w in zip(fits, weights)]
            if (loss := mean_loss(weights)) < least:
                best, least, better = strength, loss, weights
            elif better is not None:
                break
        if better is None:
            break
        rounds.append(best)
        scale = ease * np.mean([_by_total(w) for w in better], 0)
    return rounds


def _by_total(weight: np.ndarray) -> np.ndarray:
    """Penalties that fall with the weights of each input on all tokens together."""
    return _by_weight(np.sqrt((weight[:-1] ** 2).sum(1)))


def _climb(a: np.ndarray, y: np.ndarray, start: np.ndarray, centre: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Weights that minimise the cross-entropy of all rows + penalty / 2 (weight - centre)^2."""
    from scipy.optimize import minimize  # heavy

    shrink = np.append(penalty, 0.1)[:, None]
    gram, share = (a.T @ a).astype(float), y.mean(0)
    curvature = np.maximum(share * (1 - share), 1e-3)
    roots = np.stack([np.linalg.inv(np.linalg.cholesky(c * gram + np.diag(shrink[:, 0]))).T for c in curvature])

    def at(x: np.ndarray) -> np.ndarray:
        return start + np.einsum("kij,kj->ik", roots, x.reshape(len(roots), -1))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        weight = at(x)
        logits = a @ weight.astype(np.float32)
        top = logits.max(1, keepdims=True)
        mass = np.exp(logits - top)
        total = mass.sum(1, keepdims=True)
        away = weight - centre
        value = float((np.log(total) + top).sum() - (logits * y).sum() + 0.5 * (shrink * away**2).sum())
        slope = a.T @ (mass / total - y) + shrink * away
        return value, np.einsum("kij,ik->kj", roots, slope).ravel()

    options = {"maxiter": SOFTMAX_STEPS, "ftol": 1e-5, "maxcor": 8}
    return at(minimize(loss, np.zeros(roots[:, 0].size), jac=True, method="L-BFGS-B", options=options).x)


def _shares(logits: np.ndarray) -> np.ndarray:
    mass = np.exp(logits - logits.max(1, keepdims=True))
    return mass / mass.sum(1, keepdims=True)


def _loss(a: np.ndarray, token: np.ndarray, weight: np.ndarray) -> float:
    p = _shares(a @ weight)
    return float(-np.mean(np.log(np.maximum(p[np.arange(len(p)), token], 1e-12))))


def _through(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Constant and slope of a straight line."""
    if x.std() < 1e-6:
        return float(y.mean() - x.mean()), 1.0
    slope = float(np.mean((x - x.mean()) * (y - y.mean())) / x.var())
    return float(y.mean() - slope * x.mean()), slope


def _mixture(residual: np.ndarray, anchored: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, ...]:
    """Logits, means and log sd of normals fitted to residuals, and what is added to the logits for first values.

    EM from quantiles, spreads drawn to the common one; first values (`first` 1) and later ones (0) share the normals
    and have weights of their own.

    Args:
        residual: row x normal; those of an anchored normal are distances from the last value.
    """
    k, free = len(anchored), ~anchored
    origin = np.where(anchored, 0.0, residual[:, free].mean())
    sd = max(float(residual[:, free].std()), 0.06)
    r = (residual - origin) / sd
    centre, spread, share = np.zeros(k), np.full(k, 0.7), np.full((2, k), 1 / k)
    centre[free] = np.linspace(-1.0, 1.0, free.sum()) if free.sum() > 1 else 0.0
    spread[np.flatnonzero(free)[free.sum() // 2]] = 0.3
    spread[np.flatnonzero(anchored)[:1]] = 0.1
    share[1, anchored] = 1e-3
    prior = 10.0
    for _ in range(25):
        log = np.log(share)[first] - 0.5 * ((r - centre) / spread) ** 2 - np.log(spread)
        p = _shares(log)
        n = p.sum(0)
        centre = ((p * r).sum(0) + prior * centre) / (n + prior)
        variance = ((p * (r - centre) ** 2).sum(0) + prior * np.where(anchored, spread**2, 0.3)) / (n + prior)
        spread, common = np.sqrt(variance), (n + prior / 2) / (n + prior / 2).sum()
        for group in (0, 1):
            mine = p[first == group].sum(0) + prior * np.where(anchored & (group == 1), 1e-3, common)
            share[group] = mine / mine.sum()
    added = np.log(share[1] / share[0]) if (first == 0).any() and (first == 1).any() else np.zeros(k)
    base = share[0] if (first == 0).any() else share[1]
    return np.log(base), origin + sd * centre, np.clip(np.log(sd * spread), *LOG_SD), added
