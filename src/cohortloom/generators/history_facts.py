"""What is usual in a cohort: the facts that features of the past (`nets.history`) are measured against.

How often each number is recorded and how far it moves, what statics say of a patient's levels, and what the levels of
numbers say of each other.
"""

from typing import TYPE_CHECKING

import numpy as np

from cohortloom.codec.tensors import Encoded, SequenceArrays
from cohortloom.generators.cells import raw_values
from cohortloom.nets.columnar import LARGE
from cohortloom.nets.history import WAIT_ENDS, HistorySpec
from cohortloom.nets.levels import level_lines, level_ties
from cohortloom.nets.tokens import NumberCoder

if TYPE_CHECKING:
    from cohortloom.generators.columnar_encoding import Alphabet

__all__ = ["history_spec"]

PULLS = (0.05, 20.0)
OWN_RECORDS = 5.0  # so many of a patient weigh half as much as any number of them
RECORDS_OF_A_WAY = 12.0  # over their sum of squares about their middle, where they are spread evenly over a course
MOST_LEVELS = 16
MOST_TIED = 6_000  # patients to learn from what levels say of each other
LEAST_USUAL = 0.02  # spread and change of a score that hardly varies


def history_spec(a: "Alphabet", encoded: Encoded) -> HistorySpec:
    """Shape and usual values of a cohort's histories; there are later visits."""
    seq = encoded.sequence
    later_gaps = seq.gap[seq.position > 0]
    small = [c for c in a.categories if c.n_tokens <= LARGE]
    large = [c for c in a.categories if c.n_tokens > LARGE]
    usual_gap = max(float(np.median(later_gaps)), 1e-6)
    spreads, changes, odds = _manners(a, seq, usual_gap)
    usual = _usual(a, seq)
    recorded, told = _levels(a, encoded, len(usual))
    return HistorySpec(
        n_numbers=len(a.numbers) + (a.gap is not None),
        categories=tuple(c.n_tokens for c in small),
        missing=tuple(c.ids.index(0) if 0 in c.ids else -1 for c in small),
        large=tuple(c.n_tokens for c in large),
        large_missing=tuple(c.ids.index(0) if 0 in c.ids else -1 for c in large),
        n_bounds=len(a.bounds) + a.spanned,
        time_scale=max(float(np.quantile(np.abs(seq.time), 0.99)), 1e-6),
        shortest_gap=a.least_gap * a.unit,
        usual_gap=usual_gap,
        usual=usual,
        usual_spread=spreads,
        usual_change=changes,
        usual_odds=odds,
        levels=((),) * (a.gap is not None) + tuple(_few(a.columns[j]) for j in a.numbers),
        usual_recorded=recorded,
        **told,
    )


def _levels(a: "Alphabet", encoded: Encoded, n_tokens: int) -> tuple[tuple, dict[str, tuple]]:
    """The share of visits that record each number, and of `HistorySpec` what statics say (of levels of numbers, the
    gap first, of how often they are recorded, and of shares of tokens), what other numbers add to the levels, and
    the variance within patients over that between them beside each."""
    seq, values = encoded.sequence, a.there(encoded.sequence)
    x, _ = a.static_inputs(a.static_cells(encoded))
    n, first = len(seq.length), int(a.gap is not None)
    numbers = first + len(a.numbers)
    level, count = (np.zeros((n, 2 * numbers + n_tokens)) for _ in range(2))
    within, at, place = np.ones(numbers), first, _place(seq)
    way, steady, middle = (np.zeros((n, numbers)) for _ in range(3))
    for j in a.numbers:
        row = np.flatnonzero(~np.isnan(values[:, j]))
        score, who = a.columns[j].history(a.columns[j].snap(values[row, j])).astype(float), seq.subject[row]
        count[:, at] = np.bincount(who, minlength=n)
        level[:, at], middle[:, at] = (
            np.bincount(who, part, minlength=n) / np.maximum(count[:, at], 1) for part in (score, place[row])
        )
        within[at] = ((score - level[who, at]) ** 2).sum() / max(len(score) - (count[:, at] > 0).sum(), 1)
        along = place[row] - middle[who, at]
        steady[:, at] = np.bincount(who, along**2, minlength=n)
        way[:, at] = np.bincount(who, along * score, minlength=n) / np.maximum(steady[:, at], 1e-9)
        level[:, numbers + at] = count[:, at] / np.maximum(seq.length, 1)
        count[:, numbers + at] = seq.length
        at += 1
    at += numbers
    for j, c in enumerate(a.columns):
        if c.kind == "category" and c.n_tokens <= LARGE:
            token, places = c.token(values[:, j]), slice(at, at := at + c.n_tokens)
            np.add.at(level[:, places], (seq.subject[token >= 0], token[token >= 0]), 1.0)
            count[:, places] = level[:, places].sum(1, keepdims=True)
            level[:, places] /= np.maximum(count[:, places], 1)
    spread = steady * RECORDS_OF_A_WAY
    drifts = level_lines(x, way, spread / (1 + spread / OWN_RECORDS))
    ways = (drifts[0] + x @ drifts[1:])[:, first:]
    level[:, first:numbers] -= ways * middle[:, first:]
    lines = level_lines(x, level, count / (1 + count / OWN_RECORDS))
    prior, pulls = lines[0] + x @ lines[1:], [1.0] * first
    rest = level - prior
    for at in range(first, numbers):
        known = count[:, at] > 0
        between = np.var(rest[known, at]) - within[at] * np.mean(1 / count[known, at]) if known.sum() > 1 else 0.0
        pulls.append(float(np.clip(within[at] / max(between, 1e-3), *PULLS)))
    recorded = (count[:, :numbers].sum(0) + 0.5) / (len(seq.gap) + 1.0)
    ties = np.zeros((numbers, numbers))
    ties[first:, first:] = _ties(a, seq, prior[:, first:numbers], ways, np.asarray(pulls[first:]))
    parts = (("lines", lines), ("ties", ties), ("drifts", drifts))
    told = {name: tuple(map(tuple, part.tolist())) for name, part in parts}
    return tuple(recorded.tolist()), told | {"pull": tuple(pulls)}


def _place(seq: SequenceArrays) -> np.ndarray:
    """Of each visit in its course, from -.5 to .5."""
    return (seq.position + 0.5) / np.maximum(seq.length[seq.subject], 1) - 0.5


def _ties(a: "Alphabet", seq: SequenceArrays, prior: np.ndarray, way: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """What the levels of the other numbers so far say of each one's first value."""
    picks = np.linspace(0, len(seq.length) - 1, min(len(seq.length), MOST_TIED)).astype(int)
    seq, prior, way = seq.take(picks), prior[picks].astype(np.float32), way[picks].astype(np.float32)
    values, who = a.there(seq), seq.subject
    there = ~np.isnan(values[:, a.numbers])
    coders = [a.columns[j] for j in a.numbers]
    score = [c.history(c.snap(values[:, j])) for j, c in zip(a.numbers, coders)]
    score = (np.stack(score, 1) if score else np.zeros(there.shape, np.float32)) - prior[who]
    score = (score - way[who] * _place(seq)[:, None]).astype(np.float32)
    total, count = (_before(part, seq) for part in (np.where(there, score, 0), there))
    return level_ties(total / (count + pull), score, there & (count == 0) & (seq.position > 0)[:, None])


def _usual(a: "Alphabet", seq: SequenceArrays) -> tuple[float, ...]:
    """Share of every token of the small categories."""
    values, out = raw_values(seq), []
    for j, c in enumerate(a.columns):
        if c.kind == "category" and c.n_tokens <= LARGE:
            token = c.token(values[:, j])
            count = np.bincount(token[token >= 0], minlength=c.n_tokens)
            out += ((count + 0.5) / (count.sum() + 0.5 * c.n_tokens + 0.5)).tolist()
    return tuple(out)


def _manners(a: "Alphabet", seq: SequenceArrays, usual_gap: float) -> tuple[tuple, tuple, tuple]:
    """Of every number, the gap first: variance within subjects and mean absolute change of its scores, and of the
    waits between two records the share of those at least as long that end at each length."""
    values, spreads, changes, odds = a.there(seq), [], [], []
    columns = [(a.columns[j], values[:, j]) for j in a.numbers]
    if a.gap is not None:
        columns.insert(0, (a.gap, np.where(seq.position > 0, a.in_units(seq.gap), np.nan)))
    for coder, x in columns:
        row = np.flatnonzero(~np.isnan(x))
        score, who = coder.history(coder.snap(x[row])).astype(float), seq.subject[row]
        count = np.bincount(who, minlength=1)
        mean = np.bincount(who, weights=score, minlength=1) / np.maximum(count, 1)
        freedom, same = np.maximum(count - 1, 0).sum(), who[1:] == who[:-1]
        spread = np.sum((score - mean[who]) ** 2) / freedom if freedom else 1.0
        change = np.abs(np.diff(score))[same].mean() if same.any() else 1.0
        spreads.append(max(float(spread), LEAST_USUAL**2))
        changes.append(max(float(change), LEAST_USUAL))
        wait = np.searchsorted(WAIT_ENDS, np.diff(seq.time[row])[same] / usual_gap)
        ended = np.bincount(wait, minlength=len(WAIT_ENDS) + 1)
        at_least = np.cumsum(ended[::-1])[::-1]
        odds.append(tuple(((ended + 0.5) / (at_least + 1.0)).tolist()))
    return tuple(spreads), tuple(changes), tuple(odds)


def _few(coder: NumberCoder) -> tuple[float, ...]:
    """Scores of all values of a number that has few."""
    values = np.union1d(coder.spikes, coder.x)
    if len(values) > MOST_LEVELS or not (coder.exact or len(coder.x) == 0):
        return ()
    return tuple(coder.history(values).tolist())


def _before(x: np.ndarray, seq: SequenceArrays) -> np.ndarray:
    """Sums over the visits of the same subject before each."""
    total = np.cumsum(x, 0, dtype=np.float64) - x
    return (total - total[seq.starts[seq.subject]]).astype(np.float32)
