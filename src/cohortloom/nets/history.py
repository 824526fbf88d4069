"""What a record remembers: running features of the visits so far.

Instead of a recurrent network the past is summed up by explicit statistics, updated visit by visit by one piece of
code, in training (all subjects of a chunk, longest first, so that the live ones are a prefix) and in sampling (all
live subjects). With r_1, r_2, ... the recorded normal scores of a numeric column:

    last r_k, recorded yet?, log time since (in usual gaps), missing at the last visit?, mean, log spread, smoothed r (a
    running mean that becomes exponential with weight .3, and one with .1), first r_1, log(1 + k), k / visits and the
    same of late, r_k - r_(k-1), share of verbatim repeats, log time between the last two records, is the next one due
    at this pace, is it overdue?, last r_k if recorded at the last visit (it tells more then), log mean absolute change,
    ever and of late, time without any record so far, log odds that a wait of this subject ends now, the patient's own
    level (the sum over k + within-variance / between-variance: a mean of few records is drawn to that of all patients),
    and how many usual gaps ago it was recorded, one-hot (1, 2, 3, 4, 5, 6-7, 8-11): what is measured every four hours
    has odds that rise and fall, which no weight on a time can say

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
NUMBER_FEATURES = 23 + len(WAITS)  # per numeric column; the first is the last value, the fifth the running mean
CHANGE = 10  # the place of the last change among them
WAIT_ENDS = np.array([1.5, 2.5, 3.5, 4.5, 5.5, 7.5, 11.5])  # of waits between two records, in usual gaps
SMOOTHING, SLOWLY = 0.3, 0.1
OWN_WORD = 4.0  # a patient's own spread counts as much as the cohort's after so many values
OWN_WAITS = 2.0  # the same of waits between two records
FEW_TOKENS = 6  # of a category that tells the time since each
LONGEST_WAIT = 8.0  # usual gaps


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

    @property
    def n_global(self) -> int:
        return 9 + 5 * self.n_bounds

    @property
    def n_features(self) -> int:
        return self._before_levels + sum(map(len, self.levels))

    @property
    def _before_levels(self) -> int:
        return self.n_global + NUMBER_FEATURES * self.n_numbers + sum(map(_width, self.categories))

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict) -> "HistorySpec":
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**plain | {name: tuple(map(tuple, content[name])) for name in ("usual_odds", "levels")})

    def number_block(self, column: int) -> Int[np.ndarray, "feature"]:
        """Indices of a numeric column's features, those of its levels last."""
        block = self.n_global + np.arange(NUMBER_FEATURES) * self.n_numbers + column
        if not self.levels:
            return block
        start = self._before_levels + sum(map(len, self.levels[:column]))
        return np.concatenate([block, np.arange(start, start + len(self.levels[column]))])

    def category_block(self, column: int) -> Int[np.ndarray, "feature"]:
        """Indices of a small category's features: last one-hot, missing flag, shares, seen, since."""
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

    Args:
        spec: Shape.
        n_visits: Visits each subject will have.
        bounds: Last visit and known ends of follow-up since the origin [d], NaN where unknown.
    """

    def __init__(
        self,
        spec: HistorySpec,
        n_visits: Float[np.ndarray, "subject"],
        bounds: Float[np.ndarray, "subject bound"],
    ) -> None:
        n, numbers = len(n_visits), spec.n_numbers
        self.spec = spec
        self.n_visits, self.bounds = np.asarray(n_visits, float), bounds
        self.seen = np.zeros(n)
        self.time = np.zeros(n)
        self.last, self.change, self.smooth, self.first = (np.zeros((n, numbers), np.float32) for _ in range(4))
        self.slow, self.rate = np.zeros((n, numbers), np.float32), np.zeros((n, numbers), np.float32)
        self.restless = np.tile(np.asarray(self._usual(spec.usual_change), np.float32), (n, 1))
        self.total, self.squares, self.count, self.when, self.same = (np.zeros((n, numbers)) for _ in range(5))
        self.between, self.moved = np.zeros((n, numbers)), np.zeros((n, numbers))
        self.absent = np.zeros((n, numbers), bool)
        self.waits = np.zeros((n, numbers, len(WAIT_ENDS) + 1), np.float32)
        self.token = np.full((n, len(spec.categories)), -1)
        self.token_absent = np.zeros((n, len(spec.categories)), bool)
        self.shares = np.zeros((n, sum(spec.categories)))
        self.seen_at = np.zeros((n, sum(spec.categories)))
        self.code = np.full((n, len(spec.large)), -1)
        self._first_token = np.concatenate([[0], np.cumsum(spec.categories)[:-1]]).astype(int)

    def _usual(self, values: tuple[float, ...]) -> tuple[float, ...]:
        return values or (1.0,) * self.spec.n_numbers

    def keep(self, rows: np.ndarray | slice) -> None:
        """Drop all other subjects (or repeat some)."""
        for name, value in vars(self).items():
            if name not in ("spec", "_first_token"):
                setattr(self, name, value[rows])

    def put(self, rows: np.ndarray, other: "History") -> None:
        """Take some subjects' state from another history that has only them."""
        for name, value in vars(self).items():
            if name not in ("spec", "_first_token"):
                setattr(self, name, value := value.copy())
                value[rows] = getattr(other, name)

    def update(self, steps: Steps) -> None:
        """Append one visit of every subject."""
        self.seen = self.seen + 1
        self.time = self.time + steps.gap
        recorded, score = steps.recorded, steps.score
        fresh = recorded & (self.count == 0)
        again = recorded & ~fresh
        self.same = self.same + (again & (score == self.last))
        self.change = np.where(again, score - self.last, np.where(recorded, 0, self.change)).astype(np.float32)
        self.moved = self.moved + np.where(again, np.abs(self.change), 0)
        step = 1 / (self.count + 1)  # running means at first, then exponential ones
        for name, rate in (("smooth", SMOOTHING), ("slow", SLOWLY)):
            old = getattr(self, name)
            new = old + np.maximum(step, rate) * (score - old)
            setattr(self, name, np.where(recorded, new, old).astype(np.float32))
        calm = self.restless + np.maximum(1 / (self.count + 1), SMOOTHING) * (np.abs(self.change) - self.restless)
        self.restless = np.where(again, calm, self.restless).astype(np.float32)
        rate = np.maximum(1 / self.seen, SLOWLY)[:, None]
        self.rate = (self.rate + rate * (recorded - self.rate)).astype(np.float32)
        self.first = np.where(fresh, score, self.first)
        self.last = np.where(recorded, score, self.last)
        self.total = self.total + np.where(recorded, score, 0)
        self.squares = self.squares + np.where(recorded, score.astype(float) ** 2, 0)
        self.count = self.count + recorded
        wait = self.time[:, None] - self.when
        self.between = np.where(again, wait, self.between)
        row, column = np.nonzero(again)
        self.waits = self.waits.copy()
        self.waits[row, column, np.searchsorted(WAIT_ENDS, wait[row, column] / self.spec.usual_gap)] += 1
        self.when = np.where(recorded, self.time[:, None], self.when)
        self.absent = ~recorded
        if steps.small.shape[1]:
            self.token_absent = steps.small == np.asarray(self.spec.missing)
            known = (steps.small >= 0) & ~self.token_absent
            self.token = np.where(known, steps.small, self.token)
            row, column = np.nonzero(steps.small >= 0)
            self.shares = self.shares.copy()
            place = self._first_token[column] + steps.small[row, column]
            self.shares[row, place] += 1
            self.seen_at = self.seen_at.copy()
            self.seen_at[row, place] = self.time[row]
        if steps.large.shape[1]:
            known = (steps.large >= 0) & (steps.large != np.asarray(self.spec.large_missing))
            self.code = np.where(known, steps.large, self.code)

    def features(self) -> Float[np.ndarray, "subject feature"]:
        """Features of the next visit, one row per subject."""
        spec = self.spec
        n, k = len(self.seen), spec.n_numbers
        out = np.empty((n, spec.n_features), np.float32, order="F")
        left = self.n_visits - self.seen
        position = [np.log1p(self.seen), self.seen / 20, signed_log(self.time) / 3, self.time / spec.time_scale]
        position += [np.log1p(np.maximum(left, 0)), left / 20, left <= 1, left == 2, left == 3]
        for b in range(spec.n_bounds):
            rest = np.nan_to_num(np.maximum(self.bounds[:, b] - self.time, 0))
            slack = (rest - left * spec.shortest_gap) / max(spec.shortest_gap, 1e-3 * spec.time_scale)
            position += [np.log1p(rest) / 3, rest / spec.time_scale, np.log1p(np.maximum(slack, 0)), slack < 0.5]
            position += [np.log(rest / np.maximum(left, 1) / spec.usual_gap + 0.01)]
        for column, feature in enumerate(position):
            out[:, column] = feature
        known = self.count > 0
        safe = np.maximum(self.count, 1)
        mean = self.total / safe
        own = np.maximum(self.squares - self.total**2 / safe, 0)
        usual_spread, usual_change = (np.asarray(self._usual(u)) for u in (spec.usual_spread, spec.usual_change))
        spread = 0.5 * np.log((own + OWN_WORD * usual_spread) / (np.maximum(self.count - 1, 0) + OWN_WORD))
        moved = np.log((self.moved + OWN_WORD * usual_change) / (np.maximum(self.count - 1, 0) + OWN_WORD))
        usual = spec.usual_gap
        wait = np.maximum(self.time[:, None] - self.when, 0)
        since = np.where(known, np.log1p(wait / usual), 0)
        never = np.where(known, 0, signed_log(self.time / usual)[:, None])
        usual_odds = np.asarray(spec.usual_odds or [[0.5] * self.waits.shape[2]] * k)
        following = np.searchsorted(WAIT_ENDS, wait / usual + 1)[..., None]
        at_least = np.cumsum(self.waits[..., ::-1], 2)[..., ::-1]
        mine, least = (np.take_along_axis(part, following, 2)[..., 0] for part in (self.waits, at_least))
        chance = (mine + OWN_WAITS * usual_odds[np.arange(k), following[..., 0]]) / (least + OWN_WAITS)
        due = (self.between > 0) & (np.abs(wait + usual - self.between) < 0.5 * usual)
        overdue = (self.between > 0) & (wait + usual > 1.5 * self.between)
        gaps = np.where(known, np.round(wait / usual), 0)
        blocks = [self.last, known, since, self.absent, mean, spread, self.smooth, self.first]
        blocks += [np.log1p(self.count), self.count / np.maximum(self.seen, 1)[:, None], self.change]
        blocks += [self.same / np.maximum(self.count - 1, 1), np.log1p(self.between / usual), due]
        blocks += [overdue, np.where(self.absent, 0, self.last), moved]
        blocks += [self.slow, np.log(self.restless + 0.02), self.rate, never]
        blocks += [np.where(known, np.log(chance / (1 - chance)), 0)]
        blocks += [self.total / (self.count + np.asarray(spec.pull or 1.0))]
        blocks += [(gaps >= least) & (gaps <= most) for least, most in WAITS]
        at = spec.n_global
        for block in blocks:
            out[:, at : at + k] = block
            at += k
        share = self.shares / np.maximum(self.seen, 1)[:, None]
        usual = np.asarray(spec.usual or [0.5] * self.shares.shape[1])
        odds = np.log((self.shares + usual) / (self.seen[:, None] - self.shares + 1 - usual))
        for column, size in enumerate(spec.categories):
            start = self._first_token[column]
            out[:, at : at + size] = self.token[:, column, None] == np.arange(size)
            out[:, at + size] = self.token_absent[:, column]
            tokens = slice(start, start + size)
            out[:, at + size + 1 : at + 2 * size + 1] = share[:, tokens]
            out[:, at + 2 * size + 1 : at + 3 * size + 1] = self.shares[:, tokens] > 0
            out[:, at + 3 * size + 1 : at + 4 * size + 1] = odds[:, tokens]
            if size <= FEW_TOKENS:
                waited = (self.time[:, None] - self.seen_at[:, tokens]) / spec.usual_gap
                waited = np.where(self.shares[:, tokens] > 0, np.minimum(waited, LONGEST_WAIT), LONGEST_WAIT)
                out[:, at + 4 * size + 1 : at + 5 * size + 1] = waited
            at += _width(size)
        for column, levels in enumerate(spec.levels):
            if levels:
                is_level = self.last[:, column, None] == np.asarray(levels, np.float32)
                out[:, at : at + len(levels)] = is_level & known[:, column, None]
            at += len(levels)
        return out


def _width(size: int) -> int:
    """Features of a category of so many tokens."""
    return (5 if size <= FEW_TOKENS else 4) * size + 1


def walk(
    spec: HistorySpec,
    steps: Steps,
    length: Int[np.ndarray, "subject"],
    bounds: Float[np.ndarray, "subject bound"],
    n_visits: Float[np.ndarray, "subject"] | None = None,
) -> Iterator[tuple[Int[np.ndarray, "row"], Float[np.ndarray, "row feature"], Int[np.ndarray, "row code"]]]:
    """Features of every visit but the first: for each position the rows, their features and last codes.

    Subjects are put longest first, so at each position those still alive are a prefix. `n_visits` is what the features
    take for the number of visits, `length` unless given.
    """
    order = np.argsort(-length, kind="stable")
    starts = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64) if len(length) else length
    starts, n_left = starts[order], length[order]
    total = length if n_visits is None else n_visits
    history = History(spec, total[order].astype(float), bounds[order])
    for position in range(int(length.max(initial=0)) - 1):
        alive = int(np.searchsorted(-n_left, -(position + 1)))  # subjects with a visit after this one
        history.keep(slice(0, alive))
        history.update(steps.take(starts[:alive] + position))
        yield starts[:alive] + position + 1, history.features(), history.code
