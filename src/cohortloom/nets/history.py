"""What a record remembers: running features of the visits so far.

Instead of a recurrent network the past is summed up by explicit statistics, updated visit by visit by one piece of
code, in training (all subjects of a chunk, longest first, so that the live ones are a prefix) and in sampling (all
live subjects). With r_1, r_2, ... the recorded normal scores of a numeric column:

    last r_k, recorded yet?, log time since (in usual gaps), missing at the last visit?, mean, log spread, smoothed r
    (a running mean that becomes exponential with weight .3, and one with .1), first r_1, log(1 + k), k / visits and
    the same of late, r_k - r_(k-1), share of verbatim repeats, log time between the last two records, is the next one
    due at this pace, is it overdue?, last r_k if recorded at the last visit (it tells more then), log mean absolute
    change, ever and of late, time without any record so far, log odds that a wait of this subject ends now, the
    patient's own level (the sum over k + within-variance / between-variance: a mean of few records is drawn to that
    of all patients), how far the last r_k is from it and from what statics say (what is far from home is seldom
    kept), how many usual gaps ago it was recorded, one-hot (1, 2, 3, 4, 5, 6-7, 8-11): what is measured every four
    hours has odds that rise and fall, which no weight on a time can say; what statics (as the level moves from the
    begin of a course to its end) and the other numbers' levels say of the level (once for all rows, once for those
    without a value so far), and statics of recording, beside the log odds of being recorded that are drawn to it

Spreads are logs because the log of a scale is regressed on them: a power of one's own past spread stays bounded, an
exponential of it runs away when drawn values feed on it. They count four values of the cohort's own, so that two close
values are no proof of a calm patient. A number with few values tells which of them came last, one-hot (a coma score of
6 is kept more often than one of 5).

Per small category: one-hot of the last recorded token, missing at the last visit?, share of every token so far, its
log odds (with one visit of all patients added: never in twenty visits is another thing than never in one), which
tokens were ever seen (a chronic diagnosis is written down at every second visit, but never before the first time), and
with few tokens the time since each (a planned visit is due some time after the last planned one); per large category
the last token alone, as an index to be embedded; and of the record as a whole: visits so far, time, visits left,
distance to the last visit and to known ends of follow-up, whether the visits left just fit in before them, and the pace
that would fill them evenly.

Sums are kept in float64 and every operation is row by row, so a feature doesn't depend on who else is in the chunk.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["NUMBER_FEATURES", "History", "HistorySpec", "Steps", "signed_log", "walk"]

WAITS = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 7), (8, 11))  # usual gaps since the last record
NUMBER_FEATURES = 29 + len(WAITS)  # per numeric column; the first is the last value, the fifth the running mean
TOLD = tuple(NUMBER_FEATURES - place for place in (4, 3, 1))  # what others say of level, first value and recording
CHANGE, LEVEL = 10, 22  # places of the last change and of the own level among them
WAIT_ENDS = np.array([1.5, 2.5, 3.5, 4.5, 5.5, 7.5, 11.5])  # of waits between two records, in usual gaps
SMOOTHING, SLOWLY = 0.3, 0.1
OWN_WORD = 4.0  # a patient's own spread counts as much as the cohort's after so many values
OWN_WAITS = 2.0  # the same of waits between two records
FEW_TOKENS = 6  # of a category that tells the time since each
LONGEST_WAIT = 8.0  # usual gaps
UNLIKELY, MOST_LEVEL = 0.1, 3.0  # what statics say is not believed beyond a tenth of the usual share, or this score


def signed_log(x: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + |x|): a course may begin before its origin."""
    return np.copysign(np.log1p(np.abs(x)), x)


@dataclass(frozen=True)
class HistorySpec:
    """Shape of the features.

    Args:
        n_numbers: Numeric columns (the gap is one of them).
        categories: Tokens of each small category.
        missing: Token of each small category that means missing, -1 if none.
        large: Tokens of each large category.
        large_missing: The same for large ones.
        n_bounds: Known ends of follow-up.
        time_scale: 99 % point of the visits' distance from the origin [d].
        shortest_gap: Least time between two visits [d].
        usual_gap: Median time between two visits [d].
        pull: Of each number, variance within patients over variance between them.
        usual: Share of every token of the small categories, one category after the other.
        usual_spread: Variance of each numeric column's scores within a subject; () for 1.
        usual_change: Mean absolute change of each numeric column's scores; () for 1.
        usual_odds: Of each numeric column and wait, the share of waits at least as long that end there; () for .5.
        levels: Scores of each numeric column that has few, () for one that has many.
        usual_recorded: Share of the visits that record each number; () for .5.
        lines: What statics say of a subject's level of every number, of how often it is recorded, and of every token's
            share: constants, then the weights of each static (`nets.levels`); () for the cohort's own.
        ties: What the levels of the other numbers add to the first value of each: number x other; () for nothing.
        drifts: What statics say of how far the level of every number moves from the begin to the end of a course:
            constants, then the weights of each static; () for no way.
    """

    n_numbers: int
    categories: tuple[int, ...]
    missing: tuple[int, ...]
    large: tuple[int, ...]
    large_missing: tuple[int, ...]
    n_bounds: int
    time_scale: float
    shortest_gap: float = 0.0
    usual_gap: float = 1.0
    pull: tuple[float, ...] = ()
    usual: tuple[float, ...] = ()
    usual_spread: tuple[float, ...] = ()
    usual_change: tuple[float, ...] = ()
    usual_odds: tuple[tuple[float, ...], ...] = ()
    levels: tuple[tuple[float, ...], ...] = ()
    usual_recorded: tuple[float, ...] = ()
    lines: tuple[tuple[float, ...], ...] = ()
    ties: tuple[tuple[float, ...], ...] = ()
    drifts: tuple[tuple[float, ...], ...] = ()

    @property
    def n_global(self) -> int:
        return 9 + 5 * self.n_bounds

    @property
    def n_features(self) -> int:
        return self._before_levels + sum(map(len, self.levels))

    @property
    def _before_levels(self) -> int:
        return self.n_global + NUMBER_FEATURES * self.n_numbers + sum(map(_width, self.categories))

    def priors(self, n: int, statics: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Level of every number, and share of its records and of every token, that n subjects are drawn to: column x
        subject each."""
        recorded, usual = self.usual_recorded or (0.5,) * self.n_numbers, self.usual or (0.5,) * sum(self.categories)
        usual = np.asarray([*recorded, *usual], np.float32)[:, None]
        if not self.lines or statics is None:
            return np.zeros((self.n_numbers, n), np.float32), np.tile(usual, n)
        told = _told(self.lines, statics)
        level, share = told[: self.n_numbers], told[self.n_numbers :]
        return np.clip(level, -MOST_LEVEL, MOST_LEVEL), np.clip(share, UNLIKELY * usual, 1 - UNLIKELY * (1 - usual))

    def way(self, n: int, statics: np.ndarray | None) -> np.ndarray:
        """How far the level of every number moves over the courses of n subjects: number x subject."""
        if not self.drifts or statics is None:
            return np.zeros((self.n_numbers, n), np.float32)
        return np.clip(_told(self.drifts, statics), -MOST_LEVEL, MOST_LEVEL)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict) -> "HistorySpec":
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        nested = ("usual_odds", "levels", "lines", "ties", "drifts")
        return cls(**plain | {name: tuple(map(tuple, content[name])) for name in nested})

    def number_block(self, column: int) -> Int[np.ndarray, "feature"]:
        """Indices of a numeric column's features, those of its levels last."""
        block = self.n_global + column * NUMBER_FEATURES + np.arange(NUMBER_FEATURES)
        if not self.levels:
            return block
        start = self._before_levels + sum(map(len, self.levels[:column]))
        return np.concatenate([block, np.arange(start, start + len(self.levels[column]))])

    def category_block(self, column: int) -> Int[np.ndarray, "feature"]:
        """Indices of a small category's features: last one-hot, missing flag, shares, seen, log odds, since,
        and what statics say."""
        start = self.n_global + NUMBER_FEATURES * self.n_numbers + sum(map(_width, self.categories[:column]))
        return np.arange(start, start + _width(self.categories[column]))


@dataclass(frozen=True)
class Steps:
    """One visit of some subjects, or all visits of all subjects: what history is updated with.

    Args:
        score: Normal scores of the numeric columns, 0 where missing.
        recorded: Which of them are recorded.
        small: Tokens of the small categories.
        large: Tokens of the large ones.
        gap: Time since the previous visit, or since the origin for the first [d].
    """

    score: Float[np.ndarray, "step number"]
    recorded: Bool[np.ndarray, "step number"]
    small: Int[np.ndarray, "step category"]
    large: Int[np.ndarray, "step code"]
    gap: Float[np.ndarray, "step"]

    def take(self, rows: np.ndarray) -> "Steps":
        return Steps(self.score[rows], self.recorded[rows], self.small[rows], self.large[rows], self.gap[rows])


class History:
    """Running statistics of some subjects.

    Inside, subjects run along the last axis: what one feature needs lies side by side in memory.

    Args:
        spec: Shape.
        n_visits: Visits each subject will have.
        bounds: Last visit and known ends of follow-up since the origin [d], NaN where unknown.
        statics: Dense statics; None: levels are drawn to the cohort's.
    """

    def __init__(
        self,
        spec: HistorySpec,
        n_visits: Float[np.ndarray, "subject"],
        bounds: Float[np.ndarray, "subject bound"],
        statics: Float[np.ndarray, "subject static"] | None = None,
    ) -> None:
        n, numbers, tokens = len(n_visits), spec.n_numbers, sum(spec.categories)
        self.spec = spec
        self.n_visits, self.ends = np.asarray(n_visits, float), np.ascontiguousarray(bounds.T)
        self.seen, self.time = np.zeros(n), np.zeros(n)
        self.last, self.change, self.smooth, self.first = (np.zeros((numbers, n), np.float32) for _ in range(4))
        self.slow, self.rate = np.zeros((numbers, n), np.float32), np.zeros((numbers, n), np.float32)
        self.restless = np.tile(self._column(spec.usual_change).astype(np.float32), n)
        self.total, self.squares, self.when, self.between, self.apart = (np.zeros((numbers, n)) for _ in range(5))
        self.count, self.same, self.moved = (np.zeros((numbers, n), np.float32) for _ in range(3))
        self.absent = np.zeros((numbers, n), bool)
        self.waited = np.zeros((len(WAIT_ENDS) + 2, numbers, n), np.float32)  # waits at least so long
        self.token = np.full((len(spec.categories), n), -1)
        self.token_absent = np.zeros((len(spec.categories), n), bool)
        self.shares, self.seen_at = np.zeros((tokens, n), np.float32), np.zeros((tokens, n))
        self.codes = np.full((len(spec.large), n), -1)
        self.prior, self.chance = spec.priors(n, statics)
        self.way = spec.way(n, statics)
        self.told = _log(self.chance) - _log(1 - self.chance)

    def _column(self, values: tuple[float, ...]) -> Float[np.ndarray, "number 1"]:
        return np.asarray(values or (1.0,) * self.spec.n_numbers)[:, None]

    @property
    def code(self) -> Int[np.ndarray, "subject code"]:
        """Last token of each large category, -1 for none."""
        return self.codes.T

    @property
    def bounds(self) -> Float[np.ndarray, "subject bound"]:
        return self.ends.T

    def take(self, rows: np.ndarray | slice) -> "History":
        """Some subjects (once or several times)."""
        out = object.__new__(History)
        for name, value in vars(self).items():
            setattr(out, name, value if name == "spec" else value[..., rows])
        return out

    def keep(self, rows: np.ndarray | slice) -> None:
        """Drop all other subjects (or repeat some)."""
        vars(self).update(vars(self.take(rows)))

    def put(self, rows: np.ndarray, other: "History") -> None:
        """Take some subjects' state from another history that has only them."""
        for name, value in vars(self).items():
            if name != "spec":
                value[..., rows] = getattr(other, name)

    @property
    def told_level(self) -> Float[np.ndarray, "number subject"]:
        """What statics say of the level at the next visit: on its way from the begin to the end of the course."""
        place = (self.seen + 0.5) / np.maximum(self.n_visits, 1) - 0.5
        return self.prior + self.way * np.clip(place, -0.5, 0.5).astype(np.float32)

    def update(self, steps: Steps) -> None:
        """Append one visit of every subject."""
        told = self.told_level
        self.seen, self.time = self.seen + 1, self.time + steps.gap
        recorded, score = np.ascontiguousarray(steps.recorded.T), np.ascontiguousarray(steps.score.T)
        fresh = recorded & (self.count == 0)
        again = recorded & ~fresh
        self.same += again & (score == self.last)
        self.change = np.where(again, score - self.last, np.where(recorded, np.float32(0), self.change))
        size = np.abs(self.change)
        self.moved += np.where(again, size, 0)
        step = 1 / (self.count + 1)  # running means at first, then exponential ones
        quick = np.maximum(step, np.float32(SMOOTHING))
        self.smooth += np.where(recorded, quick * (score - self.smooth), 0)
        self.slow += np.where(recorded, np.maximum(step, np.float32(SLOWLY)) * (score - self.slow), 0)
        self.restless += np.where(again, quick * (size - self.restless), 0)
        self.rate += np.maximum(1 / self.seen, SLOWLY).astype(np.float32) * (recorded - self.rate)
        self.first = np.where(fresh, score, self.first)
        self.last = np.where(recorded, score, self.last)
        self.total += np.where(recorded, score, 0)
        self.apart += np.where(recorded, score - told, 0)
        self.squares += np.where(recorded, score.astype(float) ** 2, 0)
        self.count += recorded
        wait = self.time - self.when
        self.between = np.where(again, wait, self.between)
        self.waited[:-1] += again & (_place(wait / self.spec.usual_gap) >= np.arange(len(WAIT_ENDS) + 1)[:, None, None])
        self.when = np.where(recorded, self.time, self.when)
        self.absent = ~recorded
        if steps.small.shape[1]:
            small = np.ascontiguousarray(steps.small.T)
            self.token_absent = small == np.asarray(self.spec.missing)[:, None]
            self.token = np.where((small >= 0) & ~self.token_absent, small, self.token)
            column, row = np.nonzero(small >= 0)
            place = self._first_token[column] + small[column, row]
            self.shares[place, row] += 1
            self.seen_at[place, row] = self.time[row]
        if steps.large.shape[1]:
            known = (steps.large >= 0) & (steps.large != np.asarray(self.spec.large_missing))
            self.codes = np.where(known.T, steps.large.T, self.codes)

    @property
    def _first_token(self) -> Int[np.ndarray, "category"]:
        return np.concatenate([[0], np.cumsum(self.spec.categories)[:-1]]).astype(int)

    def features(self, out: Float[np.ndarray, "feature subject"] | None = None) -> Float[np.ndarray, "subject feature"]:
        """Features of the next visit, one row per subject; written to `out` if there is one."""
        spec = self.spec
        n, k = len(self.seen), spec.n_numbers
        out = np.empty((spec.n_features, n), np.float32) if out is None else out
        left = self.n_visits - self.seen
        position = [np.log1p(self.seen), self.seen / 20, signed_log(self.time) / 3, self.time / spec.time_scale]
        position += [np.log1p(np.maximum(left, 0)), left / 20, left <= 1, left == 2, left == 3]
        for end in self.ends:
            rest = np.nan_to_num(np.maximum(end - self.time, 0))
            slack = (rest - left * spec.shortest_gap) / max(spec.shortest_gap, 1e-3 * spec.time_scale)
            position += [np.log1p(rest) / 3, rest / spec.time_scale, np.log1p(np.maximum(slack, 0)), slack < 0.5]
            position += [np.log(rest / np.maximum(left, 1) / spec.usual_gap + 0.01)]
        for place, feature in enumerate(position):
            out[place] = feature
        at = spec.n_global + NUMBER_FEATURES * k
        numbers = out[spec.n_global : at].reshape(k, NUMBER_FEATURES, n)
        for place, block in enumerate(self._of_numbers()):
            numbers[:, place] = block
        seen = self.seen.astype(np.float32)
        usual, told = self.chance[k:], self.told[k:]
        share = self.shares / np.maximum(seen, 1)
        odds = _log(self.shares + usual) - _log(seen - self.shares + 1 - usual)
        for column, (start, size) in enumerate(zip(self._first_token, spec.categories)):
            tokens = slice(start, start + size)
            out[at : at + size] = self.token[column] == np.arange(size)[:, None]
            out[at + size] = self.token_absent[column]
            out[at + size + 1 : at + 2 * size + 1] = share[tokens]
            out[at + 2 * size + 1 : at + 3 * size + 1] = self.shares[tokens] > 0
            out[at + 3 * size + 1 : at + 4 * size + 1] = odds[tokens]
            if size <= FEW_TOKENS:
                waited = np.minimum((self.time - self.seen_at[tokens]) / spec.usual_gap, LONGEST_WAIT)
                out[at + 4 * size + 1 : at + 5 * size + 1] = np.where(self.shares[tokens] > 0, waited, LONGEST_WAIT)
            at += _width(size)
            out[at - size : at] = told[tokens]
        for column, levels in enumerate(spec.levels):
            if levels:
                is_level = self.last[column] == np.asarray(levels, np.float32)[:, None]
                out[at : at + len(levels)] = is_level & (self.count[column] > 0)
            at += len(levels)
        return out.T

    def _tied(self, told: np.ndarray) -> Float[np.ndarray, "number subject"]:
        """What the levels of the other numbers so far add to the level of each."""
        if not self.spec.ties:
            return np.zeros_like(told)
        apart = (self.apart / (self.count + self._column(self.spec.pull))).astype(np.float32)
        return np.einsum("ck,kn->cn", np.asarray(self.spec.ties, np.float32), apart)

    def _of_numbers(self) -> Iterator[np.ndarray]:
        """One after the other, each number x subject."""
        spec, count, usual_gap = self.spec, self.count, self.spec.usual_gap
        known, after_first = count > 0, np.maximum(count - 1, 0)
        mean = self.total / np.maximum(count, 1)
        own = np.maximum(self.squares - self.total * mean, 0)
        spread, change = (OWN_WORD * self._column(u).astype(np.float32) for u in (spec.usual_spread, spec.usual_change))
        wait = np.maximum(self.time - self.when, 0) / usual_gap
        following = _place(wait + 1)
        flat = following.ravel() * wait.size + np.arange(wait.size)
        least, longer = (np.take(self.waited, flat + more).reshape(wait.shape) for more in (0, wait.size))
        odds = np.full((spec.n_numbers, len(WAIT_ENDS) + 1), 0.5, np.float32)
        if spec.usual_odds:
            odds = np.asarray(spec.usual_odds, np.float32)
        usual = OWN_WAITS * np.take_along_axis(odds, following, 1)
        between, gaps = self.between / usual_gap, np.where(known, np.round(wait), 0)
        usual_moved = _log(after_first + OWN_WORD)
        yield self.last
        yield known
        yield np.where(known, _log(wait + 1), 0)
        yield self.absent
        yield mean
        yield 0.5 * (_log(own + spread) - usual_moved)
        yield self.smooth
        yield self.first
        yield _log(count + 1)
        yield count / np.maximum(self.seen, 1).astype(np.float32)
        yield self.change
        yield self.same / np.maximum(after_first, 1)
        yield _log(between + 1)
        yield (self.between > 0) & (np.abs(wait + 1 - between) < 0.5)
        yield (self.between > 0) & (wait + 1 > 1.5 * between)
        yield np.where(self.absent, 0, self.last)
        yield _log(self.moved + change) - usual_moved
        yield self.slow
        yield _log(self.restless + 0.02)
        yield self.rate
        yield np.where(known, 0, signed_log(self.time / usual_gap))
        yield np.where(known, _log(least - longer + usual) - _log(longer + OWN_WAITS - usual), 0)
        told, pull = self.told_level, self._column(spec.pull)
        prior = np.clip(told + self._tied(told), -MOST_LEVEL, MOST_LEVEL)
        level = prior + (self.apart - count * (prior - told)) / (count + pull)
        yield level
        yield np.where(known, np.abs(self.last - level), 0)
        yield np.where(known, np.abs(self.last - prior), 0)
        for least_gaps, most_gaps in WAITS:
            yield (gaps >= least_gaps) & (gaps <= most_gaps)
        chance = self.chance[: spec.n_numbers]
        yield prior
        yield np.where(known, 0, prior)
        yield _log(count + chance) - _log(self.seen - count + 1 - chance)
        yield self.told[: spec.n_numbers]


def _told(lines: tuple[tuple[float, ...], ...], statics: np.ndarray) -> Float[np.ndarray, "line subject"]:
    """What lines (constants, then the weights of each static) say of subjects: row by row, whoever else is there."""
    table = np.asarray(lines, np.float32)
    return np.einsum("sc,ns->cn", table[1:], statics) + table[:1].T


def _log(x: np.ndarray) -> np.ndarray:
    return np.log(x.astype(np.float32))


def _place(waits: np.ndarray) -> Int[np.ndarray, "number subject"]:
    """Among `WAIT_ENDS` (what `searchsorted` gives, at a tenth of its price)."""
    out = np.zeros(waits.shape, np.int64)
    for end in WAIT_ENDS:
        out += waits > end
    return out


def _width(size: int) -> int:
    """Features of a category of so many tokens."""
    return (6 if size <= FEW_TOKENS else 5) * size + 1


def walk(
    spec: HistorySpec,
    steps: Steps,
    length: Int[np.ndarray, "subject"],
    bounds: Float[np.ndarray, "subject bound"],
    n_visits: Float[np.ndarray, "subject"] | None = None,
    statics: Float[np.ndarray, "subject static"] | None = None,
) -> Iterator[tuple[Int[np.ndarray, "row"], Float[np.ndarray, "row feature"], Int[np.ndarray, "row code"]]]:
    """Features of every visit but the first: for each position the rows, their features and last codes.

    Subjects are put longest first, so at each position those still alive are a prefix. `n_visits` is what the features
    take for the number of visits, `length` unless given.
    """
    order = np.argsort(-length, kind="stable")
    starts = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64) if len(length) else length
    starts, n_left = starts[order], length[order]
    total = length if n_visits is None else n_visits
    history = History(spec, total[order].astype(float), bounds[order], None if statics is None else statics[order])
    for position in range(int(length.max(initial=0)) - 1):
        alive = int(np.searchsorted(-n_left, -(position + 1)))  # subjects with a visit after this one
        history.keep(slice(0, alive))
        history.update(steps.take(starts[:alive] + position))
        yield starts[:alive] + position + 1, history.features(), history.code
