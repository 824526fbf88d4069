"""Columns of a record as tokens and normal scores.

A number x in a record is rarely one smooth quantity: it may be absent, sit on a favourite value (0, a detection limit),
or simply repeat what was written last time. So a number becomes a token and, for the token CONT only, a real z:

    token in {CONT, spike 1..S, REPEAT, MISSING},   z = Phi^-1(u),   u = F(x) among the CONT values

Each value of a grid owns an interval of u, and z is drawn uniformly (in u) from it: ties become density instead of
spikes in z, and the way back is exact: any z inside the interval gives x again. Every value has one token (REPEAT if it
is the last value, else a spike's own, else CONT), so the probability of a value is that of its token, for CONT times

    mass of the interval of x / (1 - mass of the intervals of values that have another token)

A spike is a value that stands out: many records have it and its neighbours have few. A common value among common
neighbours (a sodium of 138) stays on the scale, where the order of values is not lost.

Numbers without a grid (decimals unknown) have a density with respect to z instead. A category is its token alone.

A value leaves the model in one of two ways. *Table*: few distinct values, those that at least `k_min` subjects share
come back exactly. What lies between and beyond them is spread evenly over the usual steps, twenty values (of subjects)
at a time: of a skewed column's upper tail hardly any value is shared. Where there is no usual step (doses of 12.5, 25
and 50) it goes to the nearest shared value. *Curve*: many distinct values, u is interpolated between knots and rounded
to the grid, so that no single observation is a target. Tails are clipped where fewer than `k_min` subjects lie beyond.

What other columns and later visits are told about a value is its mid-rank normal score over all recorded values,
a fixed function of the value: the model stays a proper distribution over records.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["CONT", "CategoryCoder", "NumberCoder", "carried"]

CONT = 0
MAX_KNOTS = 1000
KNOT_VALUES = 20  # values per knot: a knot per value would follow every single patient
MAX_SPIKES = 12
MOST = 0.8
MAX_POINTS = 200  # of a table, in place of `KNOT_VALUES` records


def carried(values: Float[np.ndarray, "step"], subject: Int[np.ndarray, "step"]) -> Float[np.ndarray, "step"]:
    """Last recorded value of the same subject before each step, NaN where there is none yet.

    Args:
        values: One column, subjects one after the other, NaN where missing.
        subject: Subject of each step.
    """
    n = len(values)
    if n == 0:
        return np.zeros(0)
    row = np.where(np.isnan(values), -1, np.arange(n))
    before = np.concatenate([[-1], np.maximum.accumulate(row)[:-1]])
    first = np.concatenate([[True], subject[1:] != subject[:-1]])
    start = np.maximum.accumulate(np.where(first, np.arange(n), 0))
    known = before >= start
    return np.where(known, values[np.maximum(before, 0)], np.nan)


@dataclass(frozen=True)
class NumberCoder:
    """Token and normal score of one numeric column.

    Args:
        decimals: Grid of the values, None if they have none.
        spikes: Values with a token of their own.
        repeat: REPEAT may be used.
        missing: MISSING may be used.
        exact: Values come back from a table (else from a curve).
        x, u: Table: values and their cumulative shares F(x). Curve: knots and their mid-ranks.
        history_x, history_z: Knots of the normal score over all recorded values.
    """

    decimals: int | None
    spikes: tuple[float, ...]
    repeat: bool
    missing: bool
    exact: bool
    x: np.ndarray
    u: np.ndarray
    history_x: np.ndarray
    history_z: np.ndarray

    kind = "number"

    @classmethod
    def fit(
        cls,
        values: Float[np.ndarray, "step"],
        subject: Int[np.ndarray, "step"],
        *,
        decimals: int | None = None,
        low: float | None = None,
        high: float | None = None,
        always: bool = False,
        repeat: bool = True,
        k_min: int = 5,
        spike_share: float = 0.08,
    ) -> "NumberCoder":
        """Learn tokens and curve from the training rows (NaN where missing, subjects one after the other).

        Args:
            low, high: Bounds of the column; rounding never leaves them.
            always: The value is never missing.
            repeat: Look for verbatim repeats.
            k_min: A value comes back exactly, and a tail is followed, only if so many subjects share it.
            spike_share: A value with this share of the recorded ones (and five of them) gets its own token.
        """
        known = ~np.isnan(values)
        x, who = values[known].astype(float), subject[known]
        missing = (not always and not known.all()) or not known.any()
        if decimals is None:
            decimals = _grid(x)
        if decimals is not None:
            x = np.round(x, decimals)
        x = _clip_tails(x, who, k_min, low, high)
        distinct, index, count = np.unique(x, return_inverse=True, return_counts=True)
        holders = np.bincount(np.unique(np.stack([index, who]), axis=1)[0], minlength=len(distinct))
        spike = (count >= max(5, spike_share * len(x))) & (holders >= k_min) & _stands_out(count)
        if spike.sum() > MAX_SPIKES:
            spike[:] = False
        if len(distinct) <= 2:
            spike[:] = True
        shared = (holders >= k_min) & ~spike
        rest = count * ~spike
        exact = rest.sum() > 0 and (~spike).sum() < rest.sum() / 2 and (count * shared).sum() >= 0.9 * rest.sum()
        if exact:
            table, weight = distinct[shared], rest[shared].astype(float)
            loose = (rest > 0) & ~shared
            step = None if decimals is None else _usual_step(distinct, count, table, decimals)
            if step is not None and holders[loose].sum() >= KNOT_VALUES:
                piece = (np.cumsum(holders[loose]) - holders[loose]) // KNOT_VALUES
                piece = np.minimum(piece, holders[loose].sum() // KNOT_VALUES - 1)
                more, added = _spread_out(distinct[loose], rest[loose], piece, step, decimals, distinct[shared | spike])
                order = np.argsort(np.concatenate([table, more]))
                table, weight = (np.concatenate(pair)[order] for pair in ((table, more), (weight, added)))
            else:
                weight += np.bincount(_nearest(table, distinct[loose]), weights=rest[loose], minlength=len(table))
            knots, level = table, np.cumsum(weight) / weight.sum()
        else:
            n_knots = int(np.clip(rest.sum() / KNOT_VALUES, 20, MAX_KNOTS))
            knots, level = _midranks(distinct[~spike], count[~spike], n_knots)
            if len(level) > 1:  # the clipped tails are spread over the outermost piece, not piled on its end
                level[0], level[-1] = 0.0, 1.0
        history_x, middle = _midranks(distinct, count, MAX_KNOTS, always=spike)
        coder = cls(
            decimals,
            tuple(distinct[spike].tolist()),
            False,
            missing,
            bool(exact),
            knots,
            level,
            history_x,
            _score(middle),
        )
        if not repeat:
            return coder
        snapped = coder.snap(values)
        return cls(**{**coder.__dict__, "repeat": _repeats(snapped, carried(snapped, subject), coder)})

    @property
    def n_tokens(self) -> int:
        return len(self.spikes) + 3

    @property
    def repeat_token(self) -> int:
        return len(self.spikes) + 1

    @property
    def missing_token(self) -> int:
        return len(self.spikes) + 2

    @property
    def allowed(self) -> Bool[np.ndarray, "token"]:
        """Tokens that can ever be drawn."""
        return np.array([len(self.x) > 0, *[True] * len(self.spikes), self.repeat, self.missing])

    @property
    def step(self) -> float:
        """Width of the grid, 0 without one."""
        return 0.0 if self.decimals is None else 10.0**-self.decimals

    def snap(self, values: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
        """Values as the model can write them: on the grid, inside the tails, in the table. NaN stays."""
        values = np.asarray(values, dtype=float)
        if self.decimals is not None:
            values = np.round(values, self.decimals)
        support = [a for a in (np.asarray(self.spikes), self.x) if len(a)]
        if not support:
            return np.full_like(values, np.nan)
        if self.exact or len(self.x) == 0:
            table = np.sort(np.concatenate(support))
            return np.where(np.isnan(values), np.nan, table[_nearest(table, np.nan_to_num(values))])
        out = np.clip(values, self.x[0], self.x[-1])
        for spike in self.spikes:  # a spike may lie outside the curve
            out[values == spike] = spike
        return out

    def hidden(self, last: Float[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
        """The token that can't be drawn after this last value, -1 if all can: REPEAT where nothing was recorded yet, a
        spike that would be a repeat."""
        if not self.repeat:
            return np.full(len(last), -1)
        out = np.where(np.isnan(last), self.repeat_token, -1)
        for number, spike in enumerate(self.spikes, 1):
            out[last == spike] = number
        return out

    def token(self, values: Float[np.ndarray, "row"], last: Float[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
        """Token of snapped values. REPEAT goes before a spike, a spike before CONT."""
        token = np.full(len(values), CONT, dtype=np.int64)
        for number, spike in enumerate(self.spikes, 1):
            token[values == spike] = number
        if self.repeat:
            token[values == last] = self.repeat_token
        token[np.isnan(values)] = self.missing_token
        return token

    def history(self, values: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
        """Normal score over all recorded values, 0 where missing."""
        if len(self.history_x) == 0:
            return np.zeros(len(values), np.float32)
        return np.nan_to_num(np.interp(values, self.history_x, self.history_z)).astype(np.float32)

    def interval(self, values: Float[np.ndarray, "row"]) -> tuple[Float[np.ndarray, "row"], Float[np.ndarray, "row"]]:
        """Ends in u of the interval whose points decode to each snapped value (equal ends: no grid)."""
        if len(self.x) == 0:
            return np.zeros(len(values)), np.ones(len(values))
        if self.exact:
            j = _nearest(self.x, np.nan_to_num(values))
            return np.where(j > 0, self.u[j - 1], 0.0), self.u[j]
        half = self.step / 2
        left, right = (np.interp(values + h, self.x, self.u) for h in (-half, half))
        if half:
            left = np.where(values - half <= self.x[0], 0.0, left)
            right = np.where(values + half >= self.x[-1], 1.0, right)
        return left, right

    def barred(self, last: Float[np.ndarray, "row"]) -> tuple[Float[np.ndarray, "row"], Float[np.ndarray, "row"]]:
        """Ends in u of the interval that CONT can't use because it says REPEAT; equal ends where there is none."""
        left, right = self.interval(last)
        there = self.repeat & ~np.isnan(last) & ~np.isin(last, self.spikes)
        return np.where(there, left, 0.5), np.where(there, right, 0.5)

    def decode(
        self, token: Int[np.ndarray, "row"], z: Float[np.ndarray, "row"] | None, last: Float[np.ndarray, "row"]
    ) -> Float[np.ndarray, "row"]:
        """Values of tokens: the way back. Without CONT among them no z is needed."""
        from scipy.special import ndtr

        out = np.full(len(token), np.nan)
        if len(self.x) and z is not None:
            cont = token == CONT
            u = ndtr(z[cont].astype(float))
            if self.exact:
                out[cont] = self.x[np.minimum(np.searchsorted(self.u, u), len(self.x) - 1)]
            else:
                x = np.interp(u, self.u, self.x)
                out[cont] = x if self.decimals is None else np.clip(np.round(x, self.decimals), self.x[0], self.x[-1])
        known = (token > 0) & (token <= len(self.spikes))
        if known.any():
            out[known] = np.asarray(self.spikes)[token[known] - 1]
        return np.where(token == self.repeat_token, last, out)

    def to_json(self) -> dict:
        """Plain numbers and lists."""
        return {"kind": "number"} | {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, content: dict) -> "NumberCoder":
        arrays = {k: np.asarray(content[k], dtype=float) for k in ("x", "u", "history_x", "history_z")}
        plain = {k: content[k] for k in ("decimals", "repeat", "missing", "exact")}
        return cls(**plain, **arrays, spikes=tuple(content["spikes"]))


@dataclass(frozen=True)
class CategoryCoder:
    """Token of one categorical column: the ids seen in training, numbered.

    Args:
        ids: Ids with a token, ascending. Id 0 means missing, id 1 means rare.
    """

    ids: tuple[int, ...]

    kind = "category"

    @classmethod
    def fit(cls, values: Int[np.ndarray, "row"]) -> "CategoryCoder":
        ids = np.unique(values).astype(int)
        return cls(tuple(ids.tolist()) or (0,))

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    @property
    def allowed(self) -> Bool[np.ndarray, "token"]:
        return np.ones(len(self.ids), bool)

    def token(self, values: Int[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
        """Token of each id; an id never seen counts as rare if that was seen, else it is -1."""
        ids = np.asarray(self.ids)
        values = np.asarray(values, dtype=np.int64)
        at = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
        rare = self.ids.index(1) if 1 in self.ids else -1
        return np.where(ids[at] == values, at, rare)

    def decode(self, token: Int[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
        return np.asarray(self.ids)[token]

    def to_json(self) -> dict:
        return {"kind": "category", "ids": list(self.ids)}

    @classmethod
    def from_json(cls, content: dict) -> "CategoryCoder":
        return cls(tuple(content["ids"]))


def _stands_out(count: np.ndarray) -> np.ndarray:
    """Values three times as frequent as the mean of their four nearest neighbours; counts in order of the values."""
    if len(count) <= 2:
        return np.ones(len(count), bool)
    padded = np.concatenate([np.full(2, np.nan), count, np.full(2, np.nan)])
    near = np.stack([padded[:-4], padded[1:-3], padded[3:-1], padded[4:]])
    return count > 3 * np.nanmean(near, axis=0)


def _usual_step(x: np.ndarray, count: np.ndarray, table: np.ndarray, decimals: int) -> float | None:
    """Coarsest step (1, 2, 5 times a power of ten) of which most records are multiples and whose multiples are mostly
    in the table, None if there is none: hourly means of whole numbers are whole numbers, mostly."""
    known = np.round(table * 10.0**decimals)
    for power in range(decimals + 3, -1, -1):
        for step in (5 * 10**power, 2 * 10**power, 10**power):
            mine = known[known % step == 0]
            inner = mine[int(0.05 * len(mine)) : int(np.ceil(0.95 * len(mine)))]
            dense = len(inner) > 1 and len(inner) > 0.5 * ((inner[-1] - inner[0]) / step + 1)
            if dense and count[np.round(x * 10.0**decimals) % step == 0].sum() > MOST * count.sum():
                return step / 10.0**decimals
    return None


def _spread_out(
    x: np.ndarray, count: np.ndarray, piece: np.ndarray, step: float, decimals: int, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Multiples of a step that share out the records of some values, piece by piece.

    Args:
        x, count, piece: Distinct values in order, their records, and which piece each belongs to.
        taken: Values that get no more.

    Returns:
        Values in order and their records.
    """
    points, shares = [np.zeros(0)], [np.zeros(0)]
    for number in np.unique(piece):
        mine = piece == number
        low, high = np.ceil(x[mine][0] / step - 1e-6), np.floor(x[mine][-1] / step + 1e-6)
        grid = np.linspace(low, high, int(np.clip(high - low + 1, 0, MAX_POINTS))).round() * step
        grid = np.setdiff1d(np.round(grid, decimals), taken)
        grid = grid if len(grid) else x[mine][:1]
        points.append(grid)
        shares.append(np.full(len(grid), count[mine].sum() / len(grid)))
    return np.concatenate(points), np.concatenate(shares)


def _grid(x: np.ndarray) -> int | None:
    """Fewest decimals that hold all values exactly, None beyond six."""
    for decimals in range(7):
        if np.all(np.abs(np.round(x, decimals) - x) <= 1e-9 * np.maximum(1.0, np.abs(x))):
            return decimals
    return None


def _clip_tails(x: np.ndarray, who: np.ndarray, k: int, low: float | None, high: float | None) -> np.ndarray:
    """Values between the k-th lowest and the k-th highest subject (per tail: the subject's own extreme)."""
    if len(x) == 0:
        return x
    order = np.argsort(who, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(who[order]) != 0]))
    k = min(k, (len(starts) + 1) // 2)
    lowest = np.sort(np.minimum.reduceat(x[order], starts))[k - 1]
    highest = np.sort(np.maximum.reduceat(x[order], starts))[-k]
    lowest, highest = min(lowest, highest), max(lowest, highest)
    return np.clip(x, max(lowest, -np.inf if low is None else low), min(highest, np.inf if high is None else high))


def _midranks(
    x: np.ndarray, count: np.ndarray, n_knots: int, always: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mid-rank of each distinct value; thinned to about `n_knots`, ends and `always` kept."""
    if len(x) == 0:
        return np.zeros(0), np.zeros(0)
    u = (np.cumsum(count) - count / 2) / count.sum()
    if len(x) > n_knots:
        keep = np.unique(np.minimum(np.searchsorted(u, np.linspace(u[0], u[-1], n_knots)), len(x) - 1))
        keep = np.union1d(keep, [0, len(x) - 1])
        if always is not None:
            keep = np.union1d(keep, np.flatnonzero(always))
        x, u = x[keep], u[keep]
    return x, u


def _score(u: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(np.clip(u, 1e-4, 1 - 1e-4))


def _nearest(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the nearest entry of an ascending table."""
    right = np.clip(np.searchsorted(table, values), 0, len(table) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(values - table[left]) <= np.abs(table[right] - values), left, right)


def _repeats(values: np.ndarray, last: np.ndarray, coder: NumberCoder) -> bool:
    """Do values repeat more often than the grid makes them do by chance?"""
    both = ~np.isnan(values) & ~np.isnan(last)
    from_spike = both & np.isin(last, coder.spikes)
    if len(coder.x) and from_spike.sum() >= 20:
        known = values[~np.isnan(values)]
        share = {spike: np.mean(known == spike) for spike in coder.spikes}
        by_chance = np.mean([share[x] for x in last[from_spike]])
        if np.mean(values[from_spike] == last[from_spike]) > by_chance + 0.1:
            return True
    both &= ~np.isin(values, coder.spikes)
    if both.sum() < 20:
        return False
    change = np.abs(values[both] - last[both])
    same = np.mean(change == 0)
    by_chance = 0.0
    if coder.step:  # as often as the most frequent change up, or down: a pressure written in even numbers moves by 2
        steps = np.round(change[change > 0] / coder.step).astype(np.int64)
        by_chance = np.bincount(steps[steps < 1000]).max(initial=0) / len(change) / 2
    return bool(same > 0.02 and same > 1.25 * by_chance)
