"""Laws of single values, and the effects that move them.

Every value comes from three standard normals: b (the patient's own level), u (the process at this time) and e (noise of
this one reading), mixed as z = sqrt(between) b + sqrt(within) u + sqrt(noise) e, so z is standard normal again. A
number is typical + shift + sd z on its scale; a flag or level is cut from P = Phi(z), so that effects are log-odds and
correlations of b and u carry over to mixed kinds (a Gaussian copula).

Numbers are float arrays; levels are integer arrays of positions, -1 where there is none; flags are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cohortloom.schema.priors import ColumnPrior, Effects

__all__ = ["Meta", "Scope", "Variable", "chances", "logistic", "logit", "reading", "true_value"]


@dataclass(frozen=True)
class Meta:
    """How a source enters an effect: its kind, typical value, scale and levels."""

    kind: str
    typical: float = 0.0
    scale: str = "linear"
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variable:
    """One column, or one code of a code column, with its law filled in.

    Args:
        name: "table.column" or "table.CODE".
        prior: The law; typical, sd, scale, between, noise, memory, missing and chance are set.
        low, high: Bounds of a value (-inf, inf if open).
        levels: Level or code names in order; `weights` are their probabilities.
    """

    name: str
    kind: str
    prior: ColumnPrior
    low: float = -np.inf
    high: float = np.inf
    decimals: int | None = None
    levels: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def meta(self) -> Meta:
        typical = self.prior.typical or 0.0
        if self.kind == "ordinal":  # steps count from the level in the middle
            total = np.cumsum(self.weights)
            typical = float(np.searchsorted(total, total[-1] / 2))
        return Meta(self.kind, typical, self.prior.scale or "linear", self.levels)

    @property
    def within(self) -> float:
        return max(1.0 - (self.prior.between or 0) - (self.prior.noise or 0), 0.0)


class Scope:
    """Values by name in one row space, with a wider space behind (rows -> moments -> subjects).

    Recorded values stand beside the true ones under "~name".

    Args:
        size: Number of rows.
        metas: Name -> Meta, shared by all spaces.
        outer, index: The wider space and, for each row, its position there.
    """

    def __init__(
        self, size: int, metas: Mapping[str, Meta], outer: Scope | None = None, index: np.ndarray | None = None
    ) -> None:
        self.size, self.metas, self.outer, self.index = size, metas, outer, index
        self.values: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.values:
            if self.outer is None or self.index is None:
                raise KeyError(name)
            return self.outer[name][self.index]
        return self.values[name]

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self.values[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self.values or (self.outer is not None and name in self.outer)

    def shift(self, effects: Effects, own: np.ndarray | None = None) -> np.ndarray:
        """Sum of effects in each row; `own` is the z-score behind "self". Absent sources add nothing."""
        total = np.zeros(self.size)
        for name, effect in effects.items():
            if name == "self":
                if own is not None and not isinstance(effect, Mapping):
                    total += effect * own
                continue
            if name not in self:
                continue
            value, meta = self[name], self.metas[name]
            if isinstance(effect, Mapping):
                table = np.array([effect.get(level, 0.0) for level in meta.levels] + [0.0])
                total += table[value.astype(np.int64)]
            elif meta.kind == "flag":
                total += effect * (value > 0)
            elif meta.scale == "log":
                total += effect * np.log(np.maximum(value, 1e-12) / meta.typical)
            else:
                total += effect * (value - meta.typical)
        return total


def logit(p: np.ndarray | float) -> np.ndarray:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -700, 700)))


def chances(variable: Variable, shift: np.ndarray, scope: Scope) -> np.ndarray:
    """Cumulative probability of each level, row x level, the last 1 (flags: level 0 is "false")."""
    prior = variable.prior
    if variable.kind == "flag":
        false = 1 - logistic(logit(prior.chance or 0.0) + shift)
        return np.stack([false, np.ones_like(false)], axis=1)
    weights = np.asarray(variable.weights)
    if variable.kind == "ordinal":  # proportional odds
        below = logit(np.cumsum(weights)[:-1] / weights.sum())
        inner = logistic(below[None, :] - shift[:, None])
        return np.concatenate([inner, np.ones((len(shift), 1))], axis=1)
    if not prior.level_effects:
        return np.broadcast_to(np.cumsum(weights) / weights.sum(), (len(shift), len(weights)))
    log_weight = np.repeat(np.log(np.maximum(weights, 1e-300))[None, :], len(shift), axis=0)
    for level, effects in prior.level_effects.items():
        if level in variable.levels:
            log_weight[:, variable.levels.index(level)] += scope.shift(effects)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    total = np.cumsum(weight, axis=1)
    return total / total[:, -1:]


def true_value(variable: Variable, scope: Scope, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value without noise (number, count's mean) and the place on the scale it came from.

    Args:
        own: sqrt(between) b + sqrt(within) u of each row.
    """
    prior = variable.prior
    shift = scope.shift(prior.effects)
    place = _to_scale(variable, np.asarray(prior.typical or 0.0)) + shift + (prior.sd or 0.0) * own
    return _from_scale(variable, place), place


def reading(
    variable: Variable, scope: Scope, own: np.ndarray, noise: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What is true and what is read off, before anything goes missing.

    Args:
        own: sqrt(between) b + sqrt(within) u of each row.
        noise: Standard normal e of each row.

    Returns:
        true value, recorded value (the same for kinds without measurement noise).
    """
    prior = variable.prior
    rough = np.sqrt(prior.noise or 0.0)
    if variable.kind in ("flag", "category", "ordinal", "code"):
        from scipy.special import ndtr  # heavy: scipy

        below = chances(variable, scope.shift(prior.effects), scope)
        level = (ndtr(own + rough * noise)[:, None] > below[:, :-1]).sum(axis=1)
        return level, level
    true, place = true_value(variable, scope, own)
    if variable.kind == "count" and prior.scale == "log":
        # the mean of exp(sd z) is exp(sd^2 / 2): taken off, so that `typical` is the mean of the count
        mean = np.clip(np.exp(place - 0.5 * (prior.sd or 0.0) ** 2), 0, 1e9)
        count = draw.poisson(mean).astype(float)
        return mean, np.clip(count, variable.low, variable.high)
    seen = _as_recorded(variable, _from_scale(variable, place + (prior.sd or 0.0) * rough * noise))
    for name, distance in prior.at_most.items():
        if f"~{name}" in scope:
            seen = np.clip(np.minimum(seen, scope[f"~{name}"] + distance), variable.low, variable.high)
    return true, seen


def _to_scale(variable: Variable, x: np.ndarray) -> np.ndarray:
    if variable.prior.scale == "log":
        return np.log(np.maximum(x, 1e-12))
    if variable.prior.scale == "logit":
        return logit((x - variable.low) / (variable.high - variable.low))
    return x


def _from_scale(variable: Variable, place: np.ndarray) -> np.ndarray:
    if variable.prior.scale == "log":
        return _fold(np.exp(np.clip(place, -700, 700)), variable.low, variable.high)
    if variable.prior.scale == "logit":
        return variable.low + (variable.high - variable.low) * logistic(place)
    return _fold(place, variable.low, variable.high)


def _fold(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Mirror what lies beyond a bound back inside, so that no heap stands on the bound."""
    x = np.where(x < low, 2 * low - x, x)
    x = np.where(x > high, 2 * high - x, x)
    return np.clip(x, low, high)


def _as_recorded(variable: Variable, x: np.ndarray) -> np.ndarray:
    step = variable.prior.round_to
    if step:
        x = np.round(x / step) * step
    if variable.kind == "count":
        x = np.round(x)
    elif variable.decimals is not None:
        x = np.round(x, variable.decimals)
    else:  # no decimals declared: three significant digits of the law's width
        size = 10.0 ** (np.floor(np.log10(max(abs(variable.prior.typical or 0.0), variable.prior.sd or 0.0, 1e-9))) - 3)
        x = np.round(np.round(x / size) * size, 12)
    low = variable.low
    high = variable.high
    if variable.decimals is not None:  # rounding must not leave the bounds
        unit = 10.0**-variable.decimals
        low = np.ceil(low / unit - 1e-9) * unit if np.isfinite(low) else low
        high = np.floor(high / unit + 1e-9) * unit if np.isfinite(high) else high
    return np.clip(x, low, high)
