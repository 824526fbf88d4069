"""Numbers to normal scores and back.

The training values of a column have distinct values v_1 < ... < v_m with cumulated shares F_0 = 0 < ... < F_m = 1. Its
quantile function Q is drawn through them: a *spike* (a value recorded at least max(5, 0.5 % of n) times: zero, a
detection limit, a rounded dose) is flat over its interval [F_(j-1), F_j]; all other values are knots at the middle of
their intervals with straight lines between them, so that a decoded value lies between training values and not on one.
Then

    encode: z = Phi^-1(u),  u uniform on the interval of a spike, u = Q^-1(v + half a grid step of noise) elsewhere
    decode: v = Q(Phi(z)), rounded to the decimals of the column

Spikes come back exactly, heavy tails become normal, and z is standard normal whatever the column looks like. The law
ends at the k-th extreme, counted over patients where they are known: what lies beyond is drawn between the last two
knots, so that no patient's extreme is told.

References:
    Yoon et al. (2023). EHR-Safe: generating high-fidelity and privacy-preserving synthetic electronic health records
    (stochastic normalisation).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cohortloom.rng import Rng

__all__ = ["EDGE", "QuantileTransform", "decimals_of"]

#: u is kept inside [EDGE, 1 - EDGE], so |z| stays below 3.72.
EDGE = 1e-4
_MAX_KNOTS = 400


@dataclass(frozen=True)
class QuantileTransform:
    """The learned law of one column of numbers. Make one with `fit`.

    Args:
        u, x: Knots of the quantile function, both non-decreasing; a spike is two knots with one x.
        spikes: Values that come back exactly.
        spike_low, spike_high: Interval of u of each spike.
        tail_low, tail_high: Shares of u at or below the first and at or below the last knot; values at or beyond the
            ends get a uniform u there (0 and 1 if the end is a spike).
        decimals: Grid of the values: 10 ** -decimals; None if they have none.
        step: Coarser grid all spikes share, where they are nearly all of the column (doses of 25, 50, 100); 0: none.
        n: Number of values seen.
    """

    u: Float[np.ndarray, "knot"]
    x: Float[np.ndarray, "knot"]
    spikes: Float[np.ndarray, "spike"]
    spike_low: Float[np.ndarray, "spike"]
    spike_high: Float[np.ndarray, "spike"]
    tail_low: float = 0.0
    tail_high: float = 1.0
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    step: float = 0.0
    n: int = 0

    @classmethod
    def fit(
        cls,
        values: Float[np.ndarray, "row"],
        k: int = 5,
        *,
        decimals: int | None = None,
        low: float | None = None,
        high: float | None = None,
        subject: np.ndarray | None = None,
        usual: np.ndarray | None = None,
    ) -> "QuantileTransform":
        """Learn the law of a column.

        Args:
            values: Recorded values; NaN and infinities are ignored.
            k: Tails end at the k-th extreme (nearer to it where fewer than 30 values or patients are known).
            decimals: As recorded; None: found from the values.
            low, high: Bounds no decoded value may leave.
            subject: Patient of each value (integers); extremes are then counted over patients.
            usual: Values known to be common beyond these rows: spikes however few hold them.
        """
        values = np.asarray(values, dtype=float)
        finite = np.isfinite(values)
        subject = None if subject is None else np.asarray(subject)[finite]
        values = values[finite]
        if decimals is None:
            decimals = decimals_of(values)
        if not len(values):
            none = np.zeros(0)
            return cls(none, none, none, none, none, 0.0, 1.0, decimals, low, high)
        bottom, top = _ends(values, k, subject)
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        distinct, count = ranked[first], np.diff(np.append(first, len(ranked)))
        spike = count >= max(5, 0.005 * len(values))
        if subject is not None and spike.any():  # one patient's habit is no spike
            holder = subject[order]
            spike &= np.minimum.reduceat(holder, first) < np.maximum.reduceat(holder, first)
        if usual is not None:
            spike |= np.isin(distinct, usual)
        step = _common_step(distinct[spike], decimals) if count[spike].sum() >= 0.9 * len(values) else 0.0
        inside = np.clip(distinct, bottom, top)
        keep, at = np.unique(inside, return_inverse=True)
        mass = np.bincount(at, weights=count)
        is_spike = np.zeros(len(keep), bool)
        is_spike[at[spike]] = True
        edges = np.concatenate([[0.0], np.cumsum(mass)]) / len(values)
        edges[-1] = 1.0
        u, x = _knots(keep, edges, is_spike)
        return cls(
            *_thin(u, x, keep[is_spike]), keep[is_spike], edges[:-1][is_spike], edges[1:][is_spike],
            0.0 if is_spike[0] else float(edges[1]), 1.0 if is_spike[-1] else float(edges[-2]),
            decimals, low, high, step, len(values),
        )  # fmt: skip

    def encode(self, values: Float[np.ndarray, "row"], rng: Rng | np.random.Generator) -> Float[np.ndarray, "row"]:
        """Normal scores; NaN stays NaN. Values outside the law get the score of its end."""
        draw = rng.numpy if isinstance(rng, Rng) else rng
        values = np.asarray(values, dtype=float)
        noise = draw.random(len(values))
        if not len(self.u):
            return np.where(np.isnan(values), np.nan, 0.0)
        width = 0.0 if self.decimals is None else 10.0**-self.decimals
        u = np.interp(values + (noise - 0.5) * width * 0.98, self.x, self.u)
        lowest, highest = self.ends
        u = np.where((values <= lowest) & (self.tail_low > 0), noise * self.tail_low, u)
        u = np.where((values >= highest) & (self.tail_high < 1), self.tail_high + noise * (1 - self.tail_high), u)
        if lowest == highest and not len(self.spikes):
            u = noise
        if len(self.spikes):
            at = np.searchsorted(self.spikes, values)
            at = np.minimum(at, len(self.spikes) - 1)
            tolerance = 0.0 if self.decimals is None else 0.25 * width
            before = np.maximum(at - 1, 0)
            at = np.where(np.abs(self.spikes[before] - values) < np.abs(self.spikes[at] - values), before, at)
            hit = np.abs(self.spikes[at] - values) <= tolerance
            u = np.where(hit, self.spike_low[at] + noise * (self.spike_high[at] - self.spike_low[at]), u)
        return np.where(np.isnan(values), np.nan, _score(u))

    def decode(self, z: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
        """Values of normal scores; NaN stays NaN, and a law that has seen no value gives NaN."""
        from scipy.special import ndtr  # heavy

        return self.quantile(ndtr(np.asarray(z, dtype=float)))

    def quantile(self, u: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
        """Q(u) on the grid and inside the bounds; a uniform u draws from the law."""
        u = np.asarray(u, dtype=float)
        if not len(self.u):
            return np.full(len(u), np.nan)
        x = np.interp(u, self.u, self.x)
        if self.step:
            x = np.round(x / self.step) * self.step
        if self.decimals is not None:
            x = np.round(x, self.decimals)
        return np.clip(x, self.low if self.low is not None else -np.inf, self.high if self.high is not None else np.inf)

    def score(self, values: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
        """Normal scores without noise: the middle of a spike's interval (for history features)."""
        values = np.asarray(values, dtype=float)
        if not len(self.u):
            return np.where(np.isnan(values), np.nan, 0.0)
        # a flat piece of Q has its two ends at one x: the mean of the search from the left and from the right
        left = np.interp(values, self.x, self.u)
        right = 1 - np.interp(-values, -self.x[::-1], (1 - self.u)[::-1])
        lowest, highest = self.ends
        left = np.where((values <= lowest) & (self.tail_low > 0), self.tail_low, left)
        right = np.where((values >= highest) & (self.tail_high < 1), self.tail_high, right)
        return np.where(np.isnan(values), np.nan, _score((left + right) / 2))

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest value the law can give; NaN if it has seen none."""
        return (float(self.x[0]), float(self.x[-1])) if len(self.x) else (float("nan"), float("nan"))

    def sane(self, x: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
        """The numbers, those absurdly far outside the law (ten times its width and 1,000 more) moved to that limit."""
        low, high = self.ends
        reach = 10 * (high - low) + 1000
        return np.clip(x, low - reach, high + reach) if self.n else x

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        return {
            "u": [float(v) for v in self.u],
            "x": [float(v) for v in self.x],
            "spikes": [float(v) for v in self.spikes],
            "spike_low": [float(v) for v in self.spike_low],
            "spike_high": [float(v) for v in self.spike_high],
            "tail_low": self.tail_low,
            "tail_high": self.tail_high,
            "decimals": self.decimals,
            "low": self.low,
            "high": self.high,
            "step": self.step,
            "n": self.n,
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "QuantileTransform":
        """The transform of a state written by `to_json`."""
        arrays = {key: np.asarray(state[key], dtype=float) for key in ("u", "x", "spikes", "spike_low", "spike_high")}
        return cls(
            **arrays, **{key: state[key] for key in ("tail_low", "tail_high", "decimals", "low", "high", "step", "n")}
        )


def decimals_of(values: Float[np.ndarray, "row"], most: int = 6) -> int | None:
    """Fewest decimals that hold all values, None if more than `most` are needed (or nothing is known)."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    for decimals in range(most + 1):
        if np.all(np.abs(values - np.round(values, decimals)) <= 1e-9 + 1e-13 * np.abs(values)):
            return decimals
    return None


def _common_step(spikes: np.ndarray, decimals: int | None) -> float:
    """Greatest common divisor of at least three spikes, if it is coarser than the decimals."""
    if decimals is None or len(spikes) < 3:
        return 0.0
    units = int(np.gcd.reduce(np.round(spikes * 10**decimals).astype(np.int64)))
    return units / 10**decimals if units > 1 else 0.0


def _score(u: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri  # heavy

    return ndtri(np.clip(u, EDGE, 1 - EDGE))


def _ends(values: np.ndarray, k: int, subject: np.ndarray | None) -> tuple[float, float]:
    """The k-th smallest and k-th largest value; over patients, of their own smallest and largest ones."""
    lowest = highest = values
    if subject is not None:
        if np.any(subject[1:] < subject[:-1]):
            order = np.argsort(subject, kind="stable")
            values, subject = values[order], subject[order]
        first = np.flatnonzero(np.concatenate([[True], subject[1:] != subject[:-1]]))
        lowest, highest = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
    n = len(lowest)
    k = 1 if n < 3 else max(1, min(k, 2 + n // 10, (n + 1) // 2))
    bottom, top = np.partition(lowest, k - 1)[k - 1], np.partition(highest, n - k)[n - k]
    return (float(bottom), float(top)) if bottom <= top else (float(np.median(values)),) * 2


def _knots(x: np.ndarray, edges: np.ndarray, spike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots of Q: two for a spike, the middle for the rest, and half-way ends where a run of the rest meets a spike.

    The first and the last value of all stand at u = 0 and u = 1: the mass of the clipped tail is spread below them.
    """
    left, right, middle = edges[:-1], edges[1:], (edges[:-1] + edges[1:]) / 2
    step = np.diff(x) / 2
    below = np.concatenate([[np.inf], step])
    above = np.concatenate([step, [np.inf]])
    half = np.minimum(below, above)
    half = np.where(np.isfinite(half), half, 0.0)
    after_spike = np.concatenate([[False], spike[:-1]]) & ~spike
    before_spike = np.concatenate([spike[1:], [False]]) & ~spike
    mid = middle.copy()
    if len(x) > 1:
        mid[0], mid[-1] = (0.0 if not spike[0] else mid[0]), (1.0 if not spike[-1] else mid[-1])
    u = np.column_stack([np.where(spike | after_spike, left, mid), mid, np.where(spike | before_spike, right, mid)])
    v = np.column_stack([np.where(after_spike, x - half, x), x, np.where(before_spike, x + half, x)])
    keep = np.column_stack([spike | after_spike, ~spike, spike | before_spike])
    u, v = u[keep], v[keep]
    if len(x) == 1 and not spike[0]:
        u, v = np.array([0.0, 1.0]), np.repeat(x, 2)
    return u, v


def _thin(u: np.ndarray, x: np.ndarray, spikes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most a few hundred knots: spikes and their neighbours stay, the rest is taken evenly in u and in z."""
    if len(u) <= _MAX_KNOTS + 4 * len(spikes):
        return u, x
    from scipy.special import ndtr  # heavy

    grid = np.concatenate([np.linspace(0, 1, _MAX_KNOTS // 2), ndtr(np.linspace(-3.8, 3.8, _MAX_KNOTS // 2))])
    chosen = np.zeros(len(u), bool)
    chosen[np.searchsorted(u, grid).clip(0, len(u) - 1)] = True
    chosen[[0, -1]] = True
    flat = np.isin(x, spikes)
    chosen |= flat
    chosen[:-1] |= flat[1:]
    chosen[1:] |= flat[:-1]
    return u[chosen], x[chosen]
