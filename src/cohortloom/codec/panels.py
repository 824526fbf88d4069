"""Which codes of a step were recorded at which of its moments.

A step says how many moments it has and at how many of them each code stands. Codes that mostly stand together (a blood
count, the three numbers of a blood pressure) form a *group*, found by average linkage on the share of moments that have
both among those that have either; a group is a unit, and so is every other code. The utility of moment j for unit u is

    v_uj = f_u(b_j) + e_uj,   e_j ~ Normal(0, R),   corr(e_uj, e_uk) = sum over p of w_up exp(-|j - k| / m_p)

f_u is the normal score of the unit's share of the moments of class b (outside a visit; the first of a visit; later
ones by the hour of the day, on the full hour and off it), R the tetrachoric correlation of presence within steps.
What stands at a moment often stands at the next: an arterial line is in for two days, then the cuff measures. The
weights w of parts that last m_p moments (0: one moment) follow from how often a unit stands at two moments of a step
some places apart, beyond what its number of moments in that step gives by chance. The unit takes the n_u moments of
greatest utility, so counts hold exactly. Nobody draws the same blood twice in an hour: moments that no better one
lies near go before all others, near being less than a gap from the lower half of the unit's gaps (in units of the
even gap, the step's span over n_u). A moment nobody took goes to the unit that gives up least. Codes of a group are
dealt over the moments of the group in the same way, by their shares of the group's moments of each class, those that
go together again together.

References:
    Bonett, Price (2005). Inferential methods for the tetrachoric correlation coefficient. Journal of Educational and
    Behavioral Statistics 30.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortloom.codec.clock import DAY
from cohortloom.codec.course import closest_correlation
from cohortloom.codec.laws import remembered

__all__ = ["N_CLASSES", "Panels", "deal", "groups_of", "moment_class", "root_of"]

#: Outside a visit, first of a visit, later ones by the hour of the day, on the full hour and off it.
N_CLASSES = 50
_HOUR = DAY // 24
_MOST_MOMENTS = 50_000
_SHRUNK = 10.0  # moments of the average that count beside those of a class
_ALIKE = 0.5
_AT_ONCE = 4_000_000
_LASTS = (0.0, 6.0, 60.0)  # m_p [moment]
_PLACES = (1, 2, 4, 8, 16, 32)
_MOST_LASTING = 0.98
_LOWER = (0.0, 0.125, 0.25, 0.375, 0.5)
_FEWEST_GAPS = 40
_ABOVE_ALL = 100.0
_ROUNDS = 6
_CHANCE = 30.0  # pairs of moments without memory that count beside those seen


@dataclass(frozen=True)
class Panels:
    """Units of a table's frequent codes and where they like to stand. Make one with `fit`.

    Args:
        unit: Unit of each frequent code.
        favour: Unit x class of moment; the last unit stands for all rare codes.
        inner: Code x class: of the moments of its unit.
        together: Correlation of the units.
        lasting: Unit x part of e: w.
        spacing: Unit x quantile of the lower half of its gaps, in even gaps.
    """

    unit: np.ndarray
    favour: np.ndarray
    inner: np.ndarray
    together: np.ndarray
    lasting: np.ndarray
    spacing: np.ndarray

    @classmethod
    def fit(
        cls,
        unit: np.ndarray,
        moment: np.ndarray,
        code: np.ndarray,
        step: np.ndarray,
        kind: np.ndarray,
        time: np.ndarray,
    ) -> Panels:
        """Learn from rows.

        Args:
            unit: Unit of each frequent code (`groups_of`).
            moment, code: Moment and frequent code of each row; a negative code is a rare one.
            step, kind, time: Step, class and time of each moment, in the order of time within each step.
        """
        n_units = int(unit.max(initial=-1)) + 2
        keep = moment < _MOST_MOMENTS
        n = min(len(step), _MOST_MOMENTS)
        here = np.zeros((n, n_units), np.float32)
        of = np.where(code >= 0, unit[np.maximum(code, 0)] if len(unit) else 0, n_units - 1)
        here[moment[keep], of[keep]] = 1.0
        step, kind = np.unique(step[:n], return_inverse=True)[1].reshape(-1), kind[:n]
        held = np.zeros((n, len(unit)), np.float32)
        own = keep & (code >= 0)
        held[moment[own], code[own]] = 1.0
        among = here[:, unit]
        return cls(unit, _favour(here, np.ones_like(here), kind), _favour(held, among, kind),
                   _together(here, step), _lasting(here, step), _spacing(here, step, kind, time[:n]))  # fmt: skip

    def noise(self, step: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """e: moment x unit. `step`: of each moment, one step after the other in the order of time."""
        n, root, amount = len(step), root_of(self.together), np.sqrt(self.lasting)
        out = np.zeros((n, len(root)), np.float32)
        for part, lasts in enumerate(_LASTS):
            if not amount[:, part].any():
                continue
            fresh = (draw.standard_normal(out.shape) @ root.T).astype(np.float32)
            fresh = remembered(fresh, step, np.float32(np.exp(-1 / lasts)) if lasts else 0.0)
            out += amount[:, part].astype(np.float32) * fresh
        return out

    def least_gaps(
        self, slots: np.ndarray, time: np.ndarray, kind: np.ndarray, owner: np.ndarray, unit: np.ndarray, n: np.ndarray,
        draw: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        """How near a better moment must not lie, of each pair of an owner and a unit with n moments.

        Args:
            slots, time, kind: Number of moments of each owner; time and class of each.
        """
        even = _spans(np.repeat(np.arange(len(slots)), slots), time, kind, len(slots))[owner] / np.maximum(n, 1)
        place = draw.random(len(owner)) * (len(_LOWER) - 1)
        low = np.minimum(place.astype(int), len(_LOWER) - 2)
        ends = self.spacing[unit, low], self.spacing[unit, low + 1]
        return even * (ends[0] + (place - low) * (ends[1] - ends[0]))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        return {name: np.round(value, 4).tolist() for name, value in self.__dict__.items()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Panels:
        favour, inner = (np.asarray(state[name], float).reshape(-1, N_CLASSES) for name in ("favour", "inner"))
        together = np.asarray(state["together"], float).reshape(len(favour), len(favour))
        lasting = np.asarray(state["lasting"], float).reshape(len(favour), len(_LASTS))
        spacing = np.asarray(state["spacing"], float).reshape(len(favour), len(_LOWER))
        return cls(np.asarray(state["unit"], np.int64), favour, inner, together, lasting, spacing)


def _spans(step: np.ndarray, time: np.ndarray, kind: np.ndarray, n: int) -> np.ndarray:
    """Time from the first to the last moment within the visit of each of n steps."""
    at = np.flatnonzero(kind > 0)
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(low, step[at], time[at])
    np.maximum.at(high, step[at], time[at])
    return np.where(high > low, high - low, 0.0)


def _spacing(here: np.ndarray, step: np.ndarray, kind: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Lower half of each unit's gaps within visits, in even gaps: unit x quantile."""
    out, span = np.zeros((here.shape[1], len(_LOWER))), _spans(step, time, kind, int(step.max(initial=-1)) + 1)
    for u in range(here.shape[1] - 1):  # the last one is many codes
        at = np.flatnonzero((here[:, u] > 0) & (kind > 0))
        of, n = step[at], np.bincount(step[at], minlength=len(span))
        next_one = np.flatnonzero((of[1:] == of[:-1]) & (span[of[1:]] > 0))
        if len(next_one) >= _FEWEST_GAPS:
            gap = np.diff(time[at])[next_one] / (span / np.maximum(n, 1))[of[next_one]]
            out[u] = np.quantile(gap, _LOWER)
    return out


def groups_of(moment: np.ndarray, code: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Unit of each code: codes that mostly stand together share one.

    Args:
        moment, code: Of each row; negative codes are not looked at.
        fit: Which codes may share a unit.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # heavy
    from scipy.spatial.distance import squareform

    unit = np.arange(len(fit))
    able = np.flatnonzero(fit)
    if len(able) < 2:
        return unit
    keep = (code >= 0) & (moment < _MOST_MOMENTS)
    here = np.zeros((int(moment[keep].max(initial=-1)) + 1, len(fit)), np.float32)
    here[moment[keep], code[keep]] = 1.0
    here = here[:, able]
    both = here.T @ here
    either = np.diag(both)[:, None] + np.diag(both)[None] - both
    apart = 1 - both / np.maximum(either, 1.0)
    np.fill_diagonal(apart, 0.0)
    found = fcluster(linkage(squareform(apart, checks=False), "average"), 1 - _ALIKE, "distance")
    unit[able] = len(fit) + found
    _, unit = np.unique(unit, return_inverse=True)
    return unit.reshape(-1)


def moment_class(step: np.ndarray, linked: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Class of each moment [ticks], in the order of time within each step."""
    kind = 2 + 2 * (time % DAY // _HOUR) + (time % _HOUR == 0)
    kind[~linked] = 0
    at = np.flatnonzero(linked)
    first = np.ones(len(at), bool)
    first[1:] = step[at][1:] != step[at][:-1]
    kind[at[first]] = 1
    return kind


def _favour(here: np.ndarray, among: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Normal score of the share of the moments of each class, of those `among`; an hour is shrunk towards its four
    hours, these towards all."""
    from scipy.special import ndtri  # heavy

    n, yes = (part.T @ np.eye(N_CLASSES)[kind] for part in (among, here))
    overall = np.clip(yes.sum(1, keepdims=True) / np.maximum(n.sum(1, keepdims=True), 1), 0.002, 0.998)
    hours = np.maximum(np.arange(N_CLASSES) - 2, 0)
    wide = np.where(np.arange(N_CLASSES) < 2, np.arange(N_CLASSES), 2 + 2 * (hours // 8) + hours % 2)
    several = np.eye(wide.max() + 1)[wide]
    share = ((yes @ several + _SHRUNK * overall) / (n @ several + _SHRUNK))[:, wide]
    share = (yes + _SHRUNK * share) / (n + _SHRUNK)
    return ndtri(np.clip(share, 1e-3, 1 - 1e-3))


def _together(here: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Tetrachoric correlation of presence at the moments of steps that hold both."""
    n_units = here.shape[1]
    if not len(here):
        return np.eye(n_units)
    order = np.argsort(step, kind="stable")
    begin = np.flatnonzero(np.concatenate([[True], np.diff(step[order]) != 0]))
    count = np.add.reduceat(here[order], begin).astype(float)  # step x unit
    size = np.diff(np.append(begin, len(step))).astype(float)[:, None]
    held = (count > 0).astype(float)
    total = (held * size).T @ held
    alone = count.T @ held  # moments with the row's unit, in steps that hold both
    both = (here.T @ here).astype(float)
    a, b, c = both + 0.5, alone - both + 0.5, alone.T - both + 0.5
    d = np.maximum(total - alone - alone.T + both, 0.0) + 0.5
    n = a + b + c + d
    odds = a * d / (b * c)
    one, other = (a + b) / n, (a + c) / n
    least = np.minimum(np.minimum(one, 1 - one), np.minimum(other, 1 - other))
    power = (1 - np.abs(one - other) / 5 - (0.5 - least) ** 2) / 2
    r = np.cos(np.pi / (1 + odds**power)) * total / (total + 50.0)
    np.fill_diagonal(r, 1.0)
    return closest_correlation(np.clip((r + r.T) / 2, -0.95, 0.995))


def _lasting(here: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Weights of the parts of e that last, unit by unit; the rest is new at every moment."""
    from scipy.optimize import nnls  # heavy

    n_units = here.shape[1]
    out = np.tile(np.eye(1, len(_LASTS)), (n_units, 1))
    if not len(here):
        return out
    begin = np.flatnonzero(np.append(True, step[1:] != step[:-1]))
    size = np.diff(np.append(begin, len(step))).astype(float)[:, None]
    held = np.add.reduceat(here, begin).astype(float)  # step x unit
    chance = held * (held - 1) / np.maximum(size * (size - 1), 1)
    rho, weight = np.zeros((len(_PLACES), n_units)), np.zeros((len(_PLACES), n_units))
    for i, places in enumerate(_PLACES):
        pairs = np.maximum(size - places, 0)
        both = (here[places:] * here[:-places])[step[places:] == step[:-places]].sum(0)
        expected, most = (pairs * chance).sum(0), (pairs * held / size).sum(0)
        weight[i] = np.maximum(most - expected, 0.0)
        rho[i] = np.sin(np.pi / 2 * np.clip((both - expected) / (weight[i] + _CHANCE), 0, 1))
    design = np.stack([np.exp(-np.array(_PLACES) / lasts) for lasts in _LASTS[1:]], 1)
    for u in np.flatnonzero(weight.any(0)):
        root = np.sqrt(weight[:, u])
        found = nnls(design * root[:, None], rho[:, u] * root)[0]
        found *= min(1.0, _MOST_LASTING / max(found.sum(), 1e-9))
        out[u] = np.append(1 - found.sum(), found)
    return out


def deal(
    slots: np.ndarray,
    owner: np.ndarray,
    n: np.ndarray,
    utility: Callable[[np.ndarray, np.ndarray], np.ndarray],
    time: np.ndarray | None = None,
    least: np.ndarray | None = None,
) -> np.ndarray:
    """Slots of the rows of each pair; no slot stays empty while its owner has rows to spare.

    Args:
        slots: Slots of each owner (at least 1 where it has rows); numbered one owner after the other.
        owner: Owner of each pair, ascending.
        n: Rows of each pair; beyond the number of slots they go round again.
        utility: (slot, pair) -> how much the pair likes the slot.
        time, least: Time of each slot, ascending within an owner; slots of a pair with a better one nearer than this
            come last.

    Returns:
        Slot of each row, pairs one after the other, ascending within each pair.
    """
    first = np.cumsum(slots) - slots
    out = np.empty(int(n.sum()), np.int64)
    begin = np.cumsum(n) - n
    cells = np.cumsum(slots[owner])
    edge = np.searchsorted(cells, np.arange(_AT_ONCE, int(cells[-1]) if len(cells) else 0, _AT_ONCE))
    edge = np.unique(np.searchsorted(owner, owner[np.minimum(edge, len(owner) - 1)])) if len(owner) else edge
    for part in np.split(np.arange(len(owner)), edge):
        if len(part):
            rows = slice(begin[part[0]], begin[part[-1]] + n[part[-1]])
            near = None if time is None or least is None else (time, least[part])
            out[rows] = _deal(slots, first, owner[part], n[part], lambda s, p, at=part[0]: utility(s, p + at), near)
    return out


def _deal(
    slots: np.ndarray, first: np.ndarray, owner: np.ndarray, n: np.ndarray, utility: Callable,
    near: tuple[np.ndarray, np.ndarray] | None,
) -> np.ndarray:  # fmt: skip
    size = slots[owner]
    pair = np.repeat(np.arange(len(owner)), size)
    slot = np.arange(len(pair)) - np.repeat(np.cumsum(size) - size, size) + first[owner][pair]
    like = utility(slot, pair)
    if near is not None:
        like = like + _ABOVE_ALL * _peaks(like, pair, near[0][slot], near[1])
    order = np.lexsort((-like, pair))
    at = np.cumsum(size) - size
    row = np.repeat(np.arange(len(owner)), n)
    place = np.arange(len(row)) - np.repeat(np.cumsum(n) - n, n)
    taken = slot[order[at[row] + place % size[row]]]
    _cover(slots, first, owner[row], row, taken, utility)
    return taken[np.lexsort((taken, row))]


def _peaks(like: np.ndarray, pair: np.ndarray, time: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Slots no two of one pair of which lie nearer than its least gap: the best of their surroundings, then the best of
    those that lie far enough from them, and so on."""
    near = []
    for k in range(1, len(like)):
        close = (pair[k:] == pair[:-k]) & (np.abs(time[k:] - time[:-k]) < least[pair[k:]])
        if not close.any():
            break
        near.append(close)
    out, free = np.zeros(len(like), bool), np.ones(len(like), bool)
    for _ in range(_ROUNDS if near else 1):
        top, left = free.copy(), np.where(free, like, -np.inf)
        for k, close in enumerate(near, 1):
            better = left[k:] > left[:-k]
            top[k:] &= ~close | better
            top[:-k] &= ~close | ~better
        out |= top
        free &= ~top
        for k, close in enumerate(near, 1):
            free[k:] &= ~(close & top[:-k])
            free[:-k] &= ~(close & top[k:])
        if not free.any():
            break
    return out


def _cover(
    slots: np.ndarray, first: np.ndarray, owner: np.ndarray, row: np.ndarray, taken: np.ndarray, utility: Callable
) -> None:
    """Give slots nobody took to the row that gives up least, in place."""
    low = int(first[owner[0]]) if len(owner) else 0
    high = int(first[owner[-1]] + slots[owner[-1]]) if len(owner) else 0
    for _ in range(int(slots[owner].max(initial=0))):  # one slot of each owner a round
        held = np.bincount(taken - low, minlength=high - low)
        empty = np.flatnonzero(held == 0) + low
        if not len(empty):
            return
        whose = np.searchsorted(first, empty, side="right") - 1
        whose, one = np.unique(whose, return_index=True)
        goal = np.full(len(slots), -1)
        goal[whose] = empty[one]
        able = np.flatnonzero((goal[owner] >= 0) & (held[taken - low] > 1))
        if not len(able):
            return
        to = goal[owner[able]]
        loss = utility(taken[able], row[able]) - utility(to, row[able])
        best = able[np.lexsort((loss, owner[able]))]
        best = best[np.unique(owner[best], return_index=True)[1]]
        taken[best] = goal[owner[best]]


def root_of(correlation: np.ndarray) -> np.ndarray:
    """Lower triangular R with R R' = correlation. Rounding on disk can take a correlation a little below what one can
    be (least eigenvalue -.0002 on intensive care panels); so much is added to its diagonal."""
    if not len(correlation):
        return np.zeros((0, 0))
    below = max(-float(np.linalg.eigvalsh(correlation)[0]), 0.0)
    return np.linalg.cholesky(correlation + (1.01 * below + 1e-9) * np.eye(len(correlation)))
