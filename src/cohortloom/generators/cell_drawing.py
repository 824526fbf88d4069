"""Drawing cells column by column, and choosing among candidates by weight: what drawers of cells share.

A cell is a token, and for the token CONT a normal out of a mixture (`columnar_encoding`). Values with a token of their
own (spikes, the last value again) are not CONT's to draw, so a CONT draw that lands on one is drawn again.

Candidates of a patient lie side by side [patient candidate] and are weighed by what is known of the patient; a flat
place is patient * candidates + candidate.

References:
    Kitagawa (1996). Monte Carlo filter and smoother for non-Gaussian nonlinear state space models.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cohortloom.generators.cells import Coder
from cohortloom.nets.normals import Mixture, Normals
from cohortloom.nets.tokens import CONT

__all__ = ["CellDrawer", "Fixed", "Limits", "one_of", "renewed"]

TRIES = 8


@dataclass(frozen=True)
class Fixed:
    """Values to keep [row column].

    Args:
        value: NaN (0 for a category) is missing.
        mask: Cells that are fixed.
        present: Cells that must hold a value (holes to fill); None: none of the open ones need to.
    """

    value: np.ndarray
    mask: np.ndarray
    present: np.ndarray | None = None

    def rows(self, index: np.ndarray) -> "Fixed":
        return Fixed(self.value[index], self.mask[index], None if self.present is None else self.present[index])

    @property
    def tells_back(self) -> bool:
        """Is a column fixed that has a free one before it?"""
        free_before = np.cumsum(~self.mask, 1)[:, :-1] > 0
        return bool((free_before & self.mask[:, 1:]).any())


@dataclass(frozen=True)
class Limits:
    """Of one column, per row.

    Args:
        low, high: What lies beyond is drawn again.
        known: The value where it follows from others, NaN for none; infinite elsewhere.
        tail: The probability of being at least `low` counts as a weight (something is known that makes it so).
        soft: What is still beyond after `TRIES` draws stays there, instead of being put at the limit.
    """

    low: np.ndarray
    high: np.ndarray
    known: np.ndarray
    tail: bool = False
    soft: bool = False


class CellDrawer:
    """Draws cells from logits and mixtures.

    Args:
        rng: Source of noise.
        temperature: Below 1 draws nearer to the typical value, above 1 further away; 1 is the law itself.
    """

    cont_tries: ClassVar[int] = 8

    def __init__(self, rng: np.random.Generator, temperature: float = 1.0) -> None:
        self.rng, self.temperature = rng, temperature

    def cell(
        self, coder: Coder, logits: np.ndarray, mixture: Mixture | Normals | None, before: np.ndarray
    ) -> np.ndarray:
        """Values of one column [row], given its last recorded values; NaN (0 for a category) is missing."""
        token = self._choose(logits)
        if coder.kind == "category":
            return coder.decode(token).astype(float)
        value, cont = np.full(len(token), np.nan), np.flatnonzero(token == CONT)
        if len(cont) < len(token):
            rest = np.flatnonzero(token != CONT)
            value[rest] = coder.decode(token[rest], None, before[rest])
        for _ in range(self.cont_tries if len(cont) else 0):
            weight = mixture.weight
            k = self._choose(weight if len(cont) == len(weight) else weight.T[:, cont].T)
            noise = self.rng.standard_normal(len(cont), dtype=np.float32) * np.float32(self.temperature)
            mean, log_sd = mixture.of(cont, k)
            z = mean + np.exp(log_sd) * noise
            value[cont] = coder.decode(token[cont], z, before[cont])
            if not (coder.repeat or coder.spikes):
                break
            cont = cont[coder.token(value[cont], before[cont]) != CONT]  # these values have a token of their own
            if not len(cont):
                break
        return value

    def within(
        self,
        value: np.ndarray,
        limit: Limits,
        coder: Coder,
        logits: np.ndarray,
        mixture: Mixture | Normals | None,
        before: np.ndarray,
    ) -> np.ndarray:
        """The values, drawn again where they lie beyond their limits; after `TRIES` draws put at the limit."""
        free = np.isinf(limit.known)
        for _ in range(TRIES):
            over = np.flatnonzero(free & ((value > limit.high) | (value < limit.low)))
            if not len(over):
                break
            value[over] = self.cell(coder, logits[over], mixture.take(over), before[over])
        if limit.soft:
            return value
        return np.where(free, np.clip(value, limit.low, np.maximum(limit.high, limit.low)), limit.known)

    def _choose(self, logits: np.ndarray) -> np.ndarray:
        """One category per row."""
        if logits.shape[1] == 1:
            return np.zeros(len(logits), np.int64)
        return one_of(logits if self.temperature == 1 else logits / self.temperature, self.rng, np.float32)


def one_of(log_weight: np.ndarray, rng: np.random.Generator, dtype: type = np.float64) -> np.ndarray:
    """One option of each row by weight [row option] -> [row]; any of them where all weights are 0."""
    mass = _weights(log_weight)
    for option in range(1, mass.shape[1]):  # options are few, rows many
        mass[:, option] += mass[:, option - 1]
    u = rng.random(len(mass), dtype=dtype) * mass[:, -1]  # below it even after rounding: 1 - u is half an ulp at least
    out = np.zeros(len(mass), np.int64)
    for option in range(mass.shape[1] - 1):
        out += mass[:, option] <= u
    return out


def renewed(
    log_weight: np.ndarray, active: np.ndarray, rng: np.random.Generator, *, systematic: bool = True
) -> np.ndarray:
    """Candidates of each active patient drawn anew by weight, the others as they are: flat places.

    Args:
        log_weight: [patient candidate]; where all weights of a patient are 0 they count as equal.
        active: [patient].
        systematic: One uniform number per patient, its candidates in even steps (less noise), in place of one each.
    """
    n, k = log_weight.shape
    offset = np.arange(n)[:, None]  # all patients on one line: patient i owns (i, i + 1]
    mass = np.cumsum(_weights(log_weight), 1)
    u = (np.arange(k)[None] + rng.random((n, 1))) / k if systematic else rng.random((n, k))
    place = np.searchsorted((mass / mass[:, -1:] + offset).ravel(), (u + offset).ravel(), side="right")
    place = np.minimum(place.reshape(n, k), (offset + 1) * k - 1)
    return np.where(active[:, None], place, np.arange(n * k).reshape(n, k)).ravel()


def _weights(log_weight: np.ndarray) -> np.ndarray:
    """Weights up to a factor of each row."""
    top = log_weight.max(1, keepdims=True)
    possible = np.isfinite(top)
    if not possible.all():
        log_weight, top = np.where(possible, log_weight, 0.0), np.where(possible, top, 0.0)
    return np.exp(log_weight - top)
