"""Drawing from, and scoring with, the three column networks.

Subjects are drawn together, visit by visit; those that are finished leave. Every drawn value is decoded and encoded
again before anything else sees it, so the features here are those of training, made by the same code.

*Fixed values.* Columns come in a fixed order, so a fixed column tells about the columns before it too. For each subject
with fixed values `PARTICLES` candidates of the earlier columns are drawn; at a fixed column each candidate is weighted
by the probability of the fixed value given what it has drawn, and candidates are redrawn by weight. One survivor goes
on after the last fixed column. This is sequential importance resampling: as the number of candidates grows, the joint
becomes the model's conditional given the fixed values.

*Limits.* The span of a record is drawn again while it can't hold its visits or goes beyond the end of follow-up, a gap
while it leaves no room for the visits after it, before the span is used up or follow-up ends. What still doesn't fit
after `TRIES` draws is put at the limit; without span, a visit after the end of follow-up ends the record instead. The
score leaves these rare corrections out.

*Score.* Every value has one token: REPEAT if it is the last value again, else a spike's own, else CONT. So a CONT draw
that lands on a spike or on the last value is drawn again, and the mass of the others is scaled up. A value on a grid
has a mass, a number without grid a density with respect to z = Phi^-1(F(x)); records are scored as the model can write
them (on the grid, within the tails). A cell it cannot write at all (a missing value in a column that was never missing,
a level never seen) counts `IMPOSSIBLE` nats.

References:
    Gordon, Salmond, Smith (1993). Novel approach to nonlinear/non-Gaussian Bayesian state estimation.
    IEE Proceedings F.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_ndtr

from cohortloom.codec.gates import Gates
from cohortloom.codec.tensors import Encoded
from cohortloom.generators.cell_drawing import CellDrawer, Fixed, Limits, renewed
from cohortloom.generators.cells import ABSENT, NOTHING, Cells, Coder, carry, follows, is_shut
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.row_lines import Lines
from cohortloom.nets.column_cursor import Cursor
from cohortloom.nets.columnar import ColumnNet
from cohortloom.nets.history import History
from cohortloom.nets.normals import Mixture, Normals
from cohortloom.nets.tokens import CONT

__all__ = ["Fixed", "Members", "Records", "draw_records", "log_likelihood"]

PARTICLES = 256
IMPOSSIBLE = -30.0


@dataclass(frozen=True)
class Members:
    """The networks of one model; None where there is nothing to draw."""

    statics: ColumnNet | None
    first: ColumnNet | None
    later: ColumnNet | None


@dataclass(frozen=True)
class Records:
    """Drawn subjects: statics (without the number of visits), and visits one subject after the other."""

    statics: np.ndarray
    values: np.ndarray
    gap: np.ndarray
    length: np.ndarray


def draw_records(
    alphabet: Alphabet,
    members: Sequence[Members],
    member: np.ndarray,
    rng: np.random.Generator,
    *,
    fixed_statics: Fixed | None = None,
    fixed_first: Fixed | None = None,
    temperature: float = 1.0,
    chunk: int = 16_384,
) -> Records:
    """Subjects. Fixed cells hold exactly; the rest is drawn given them.

    Args:
        members: The networks of each member of the ensemble.
        member: Number of the member that draws each subject, ascending.
    """
    n = len(member)
    weighted = fixed_first is not None or (fixed_statics is not None and fixed_statics.tells_back)
    size = max(1, chunk // PARTICLES) if weighted else chunk
    parts = []
    for start in range(0, max(n, 1), size):
        rows = np.arange(start, min(n, start + size))
        fixed = [None if f is None else f.rows(rows) for f in (fixed_statics, fixed_first)]
        draw = _Draw(alphabet, members, rng, temperature, *fixed, member[rows])
        parts.append(draw.go(len(rows), PARTICLES if weighted else 1))
    return Records(*[np.concatenate([getattr(p, name) for p in parts]) for name in Records.__dataclass_fields__])


class _Draw(CellDrawer):
    """One chunk of subjects."""

    def __init__(
        self,
        alphabet: Alphabet,
        members: Sequence[Members],
        rng: np.random.Generator,
        temperature: float,
        fixed_statics: Fixed | None,
        fixed_first: Fixed | None,
        member: np.ndarray,
    ) -> None:
        super().__init__(rng, temperature)
        self.alphabet, self.members, self.member = alphabet, members, member
        self.fixed_statics, self.fixed_first = fixed_statics, fixed_first

    def knows(self, name: str) -> bool:
        """Is there anything to draw?"""
        return getattr(self.members[0], name) is not None

    def _cursor(self, name: str, subjects: np.ndarray, features: torch.Tensor, lookups: torch.Tensor) -> Cursor:
        """Rows of subjects, whose members ascend."""
        counts = np.bincount(self.member[subjects], minlength=len(self.members))
        return Cursor([getattr(member, name) for member in self.members], features, lookups, counts)

    def go(self, n: int, particles: int) -> Records:
        a = self.alphabet
        statics, raw = self._statics(n, particles)
        if not a.has_sequence:
            return Records(raw, np.zeros((n, 0)), np.zeros(0), np.zeros(n, np.int64))
        visits = statics.value[:, a.n_visits_at]
        first, first_raw, alive, statics, raw = self._first(statics, raw, visits, n, particles)
        return self._later(statics, raw[:, : a.n_visits_at], first, first_raw, alive)

    def _statics(self, n: int, particles: int) -> tuple[Cells, np.ndarray]:
        if not self.knows("statics"):
            empty = np.zeros((n * particles, 0))
            return Cells(empty, empty, empty.astype(int), empty), empty
        rows = np.repeat(np.arange(n), particles)
        cursor = self._cursor("statics", rows, torch.ones(len(rows), 1), torch.zeros(len(rows), 0, dtype=torch.long))
        cells, raw, _ = self._columns(
            cursor, self.alphabet.row("statics"), None, self.fixed_statics, particles, self._span_limits
        )
        if particles > 1 and self.fixed_first is None:  # equal weights: any one stands for the subject
            return cells.take(np.arange(0, n * particles, particles)), raw[::particles]
        return cells, raw

    def _span_limits(self, j: int, value: np.ndarray) -> Limits | None:
        """Of the span: room for the visits, and the ends of follow-up; no span with fewer than two visits."""
        a = self.alphabet
        if not a.spanned or j != a.n_visits_at + 1:
            return None
        visits = value[:, j - 1]
        low = (visits - 1) * a.least_gap
        ends = a.ends(value)
        high = np.full(len(value), np.inf)
        if ends.shape[1]:
            high = np.nan_to_num(np.fmin.reduce(ends, 1), nan=np.inf) / a.unit + 1e-9
            high = np.where(high < low, np.inf, np.floor(high) if a.whole else high)
        return Limits(low, high, np.where(visits < 2, np.nan, np.inf))

    def _first(self, statics: Cells, raw: np.ndarray, visits: np.ndarray, n: int, particles: int):
        """First visits of the subjects that have one, with the surviving candidate of each subject."""
        a = self.alphabet
        rows = len(statics.value)
        if rows > n:  # candidates are still in the race: whoever has a first visit is left
            wants = self.fixed_first.mask.any(1)
            log_weight = np.where(np.repeat(wants, particles) & (visits < 1), -np.inf, 0.0).reshape(n, particles)
            pick = renewed(log_weight, wants, self.rng, systematic=False)
            statics, raw, visits = statics.take(pick), raw[pick], visits[pick]
        has = np.ones(rows, bool) if rows > n else visits >= 1
        alive = np.flatnonzero(has)
        if not self.knows("first"):
            empty = a.coders("first")
            none = np.zeros((0, len(empty)))
            return Cells(none, none, none.astype(int), none), none, alive[:0], statics, raw
        dense, lookups = a.first_inputs(statics.take(alive))
        subjects = alive // (rows // n) if n else alive
        cursor = self._cursor("first", subjects, torch.from_numpy(dense), torch.from_numpy(lookups))
        fixed = None if self.fixed_first is None else self._fixed_first_rows(alive, rows > n)
        cells, out, order = self._columns(cursor, a.row("first"), None, fixed, particles if rows > n else 1)
        if rows > n:
            pick = np.arange(0, rows, particles)
            statics, raw = statics.take(order[pick]), raw[order[pick]]
            cells, out = cells.take(pick), out[pick]
            alive = np.flatnonzero(statics.value[:, a.n_visits_at] >= 1)
            cells, out = cells.take(alive), out[alive]
        return cells, out, alive, statics, raw

    def _fixed_first_rows(self, alive: np.ndarray, candidates: bool) -> Fixed:
        """Fixed cells of the first visit with the gap's column in front."""
        fixed = self.fixed_first if candidates else self.fixed_first.rows(alive)
        if self.alphabet.first_gap is None:
            return fixed
        n = len(fixed.value)
        return Fixed(
            np.concatenate([np.zeros((n, 1)), fixed.value], 1), np.concatenate([np.zeros((n, 1), bool), fixed.mask], 1)
        )

    def _later(
        self, statics: Cells, raw_statics: np.ndarray, first: Cells, first_raw: np.ndarray, alive: np.ndarray
    ) -> Records:
        a = self.alphabet
        shift = int(a.first_gap is not None)
        gap = first_raw[:, 0] * a.unit if shift else np.zeros(len(alive))
        owner, values, gaps = [alive], [first_raw[:, shift:]], [gap]
        n = len(statics.value)
        if self.knows("later") and len(alive):
            visits = statics.value[:, a.n_visits_at]
            history = a.history(statics.take(alive), visits[alive], gap)
            cells = Cells(*[part[:, shift:] for part in vars(first).values()])
            if a.gap is not None:
                cells = _with_empty_gap(cells)
            history.update(a.steps(cells, gap, True))
            longest = np.lexsort((-history.n_visits, self.member[alive]))  # first: the others leave from the end
            history.keep(longest)
            later = self.visits(history, *a.static_inputs(statics), alive[longest], carry(np.nan, cells)[longest])
            owner, values, gaps = (x + y for x, y in zip((owner, values, gaps), later))
        owner = np.concatenate(owner)
        order = np.argsort(owner, kind="stable")
        return Records(
            raw_statics, np.concatenate(values)[order], np.concatenate(gaps)[order], np.bincount(owner, minlength=n)
        )

    def visits(
        self,
        history: History,
        dense: np.ndarray,
        lookups: np.ndarray,
        alive: np.ndarray,
        last: np.ndarray,
        stop: np.ndarray | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Visit after visit, until every subject has its number of them.

        Args:
            history: Of the subjects `alive`.
            dense, lookups: Statics as inputs, of all subjects.
            last: Last recorded value of each column of `later`.
            stop: Time after which visits no longer matter [d]; one visit beyond it may be drawn.

        Returns:
            Subject, values and gap [d] of the visits, in batches.
        """
        a = self.alphabet
        row, owner, values, gaps = a.row("later"), [], [], []
        stop = np.full(len(alive), np.inf) if stop is None else stop
        dense, lookups = np.ascontiguousarray(dense[alive].T), lookups[alive]
        while True:
            stay = (history.seen < history.n_visits) & (history.time <= stop)
            if not stay.any():
                return owner, values, gaps
            if not stay.all():
                n = int(stay.sum())
                stay = slice(n) if stay[:n].all() else stay  # a slice costs nothing
                history.keep(stay)
                alive, last, stop = alive[stay], last[stay], stop[stay]
                dense, lookups = dense[:, stay], lookups[stay]
            features = np.empty((len(dense) + a.spec.n_features, len(alive)), np.float32)  # the net's own layout
            features[: len(dense)] = dense
            a.standardise(history.features(features[len(dense) :]))
            codes = np.concatenate([lookups, history.code], 1)
            cursor = self._cursor("later", alive, torch.from_numpy(features.T), torch.from_numpy(codes))
            rest, limits = self._gap_limits(history)
            cells, drawn, _ = self._columns(cursor, row, last, None, 1, limits)
            gap = drawn[:, 0] * a.unit if a.gap is not None else np.full(len(alive), a.even_gap)
            if limits is not None and not a.spanned and (drawn[:, 0] > rest).any():
                stay = drawn[:, 0] <= rest
                history.keep(stay)
                cells, drawn = cells.take(stay), drawn[stay]
                alive, last, stop, gap = alive[stay], last[stay], stop[stay], gap[stay]
                dense, lookups = dense[:, stay], lookups[stay]
            last = carry(last, cells)
            owner.append(alive), values.append(drawn[:, int(a.gap is not None) :]), gaps.append(gap)
            history.update(a.steps(cells, gap, False))

    def _gap_limits(self, history: History) -> tuple[np.ndarray, Callable[[int, np.ndarray], Limits | None] | None]:
        """Time left of the span, or up to the end of follow-up [unit], and what it means for the next gap."""
        a = self.alphabet
        if a.gap is None or not (a.spanned or a.bounds):
            return np.full(len(history.time), np.inf), None
        left = history.n_visits - history.seen
        end = history.bounds[:, 0] if a.spanned else np.fmin.reduce(history.bounds, 1)
        rest = (end - history.time) / a.unit
        if a.spanned:
            rest = np.maximum(np.round(rest) if a.whole else rest, 0.0)
        else:
            rest = np.nan_to_num(np.floor(rest + 1e-6) if a.whole else rest + 1e-6, nan=np.inf)
        high = np.maximum(rest - (left - 1) * a.least_gap, 0.0) + 1e-9 * (not a.whole)
        known = np.where((left <= 1) & a.spanned, rest, np.inf)
        found = Limits(np.zeros(len(rest)), high, known, soft=not a.spanned)
        return rest, lambda j, value: found if j == 0 else None

    # --- one row ---

    def _columns(
        self,
        cursor: Cursor,
        row: tuple[list[Coder], Gates, Lines],
        last: np.ndarray | None,
        fixed: Fixed | None,
        particles: int,
        limits: Callable[[int, np.ndarray], Limits | None] | None = None,
    ) -> tuple[Cells, np.ndarray, np.ndarray]:
        """Draw all columns; returns cells, the values to hand out, and where each row came from."""
        coders, gates, lines = row
        rows, c = len(cursor.lookups), len(coders)
        none = np.full(rows, np.nan)
        out = _blank(rows, c)
        raw, order = np.zeros((rows, c)), np.arange(rows)
        for j, coder in enumerate(coders):
            before = none if last is None or coder.kind == "category" else last[:, j]
            before = lines[j].at(coder, out.value) if j in lines else before
            logits, mixture = cursor.column(j, hidden_token(coder, before))
            logits = logits.numpy()
            value = self.cell(coder, logits, mixture, before)
            limit = limits(j, out.value) if limits is not None else None
            if limit is not None:
                value = self.within(value, limit, coder, logits, mixture, before)
            shut = is_shut(gates[j], out) if j in gates else None
            if shut is not None:
                value = np.where(shut, gates[j].absent, value)
            given = value
            weight = None
            if fixed is not None and fixed.mask[:, j].any():
                mask = np.repeat(fixed.mask[:, j], particles)
                wanted = np.repeat(fixed.value[:, j], particles)
                snapped = wanted if coder.kind == "category" else coder.snap(wanted)
                value, given = np.where(mask, snapped, value), np.where(mask, wanted, value)
                if particles > 1:
                    weight = np.where(mask, cell_log_prob(coder, logits, mixture, snapped, before), 0.0)
            out.value[:, j], raw[:, j] = value, given
            if coder.kind == "category":
                out.token[:, j] = coder.token(value)
            else:
                snapped = value if limit is None else coder.snap(value)
                out.token[:, j], out.score[:, j] = coder.token(value, before), coder.history(snapped)
            if limit is not None:
                out.token[~np.isinf(limit.known), j] = NOTHING
            if shut is not None:
                out.token[shut, j] = ABSENT
            if j + 1 < c or weight is not None:
                cursor.push(
                    j, torch.from_numpy(out.token[:, j]), torch.from_numpy(np.ascontiguousarray(out.score[:, j]))
                )
            if weight is not None:
                pick = renewed(weight.reshape(-1, particles), fixed.mask[:, j], self.rng, systematic=False)
                cursor.take(torch.from_numpy(pick))
                out, raw, order = out.take(pick), raw[pick], order[pick]
        return out, raw, order


def logsumexp(x: np.ndarray, axis: int, keepdims: bool = False) -> np.ndarray:
    """Log of the sum of exponentials; scipy's does the same at ten times the price for the narrow arrays here."""
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        out = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return out if keepdims else np.squeeze(out, axis)


def _with_empty_gap(cells: Cells) -> Cells:
    pairs = zip(vars(_blank(len(cells.value), 1)).values(), vars(cells).values())
    return Cells(*[np.concatenate(pair, 1) for pair in pairs])


def _blank(rows: int, columns: int) -> Cells:
    value, last = (np.full((columns, rows), np.nan).T for _ in range(2))  # columns are what is asked for
    return Cells(value, last, np.zeros((columns, rows), np.int64).T, np.zeros((columns, rows), np.float32).T)


def hidden_token(coder: Coder, last: np.ndarray) -> torch.Tensor:
    """The token each row can't draw, -1 for none."""
    return torch.from_numpy(coder.hidden(last)) if coder.kind == "number" else torch.full((len(last),), -1)


# --- likelihood ---


def cell_log_prob(
    coder: Coder, logits: np.ndarray, mixture: Mixture | Normals | None, value: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Log-probability of snapped values."""
    logits = logits.astype(float)
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    rows = np.arange(len(value))
    if coder.kind == "category":
        token = coder.token(value)
        return np.maximum(np.where(token >= 0, log_p[rows, np.maximum(token, 0)], -np.inf), IMPOSSIBLE)
    token = coder.token(value, last)
    cell = np.where(token >= 0, log_p[rows, token], -np.inf)
    if len(coder.x):
        cont = token == CONT
        if coder.exact:
            cont &= np.isin(value, coder.x)
        mass = np.where(cont, _log_mass(coder, mixture, value) - _log_free_mass(coder, mixture, last), -np.inf)
        cell = np.where(token == CONT, cell + mass, cell)
    return np.maximum(cell, IMPOSSIBLE)


def _log_free_mass(coder: Coder, mixture: Mixture | Normals, last: np.ndarray) -> np.ndarray:
    """Log of what is left to CONT when values with a token of their own (spikes, the last value) are drawn again."""
    taken = np.zeros(len(last))
    if not coder.exact and coder.decimals is None:
        return taken
    if not coder.exact:  # a curve on a grid may round to a spike
        for spike in coder.spikes:
            taken += np.exp(_log_mass(coder, mixture, np.full(len(last), spike)))
    if coder.repeat:
        hit = ~np.isnan(last) & ~np.isin(last, coder.spikes)
        taken += np.where(hit, np.exp(_log_mass(coder, mixture, np.where(hit, last, coder.x[0]))), 0.0)
    return np.log(np.maximum(1 - taken, 1e-6))


def _log_mass(coder: Coder, mixture: Mixture | Normals, value: np.ndarray) -> np.ndarray:
    """Log mass of each value's interval under its mixture; the density at z where the interval is a point."""
    from scipy.special import ndtri

    weight, mean, log_sd = (part.astype(float) for part in mixture)
    weight = weight - logsumexp(weight, axis=1, keepdims=True)
    left, right = coder.interval(value)
    if not coder.exact and coder.decimals is None:
        z = ndtri(np.clip(left, 1e-4, 1 - 1e-4))[:, None]
        normal = -0.5 * ((z - mean) / np.exp(log_sd)) ** 2 - log_sd - 0.5 * np.log(2 * np.pi)
        return logsumexp(weight + normal, axis=1)
    low, high = ((ndtri(end)[:, None] - mean) / np.exp(log_sd) for end in (left, right))
    flip = low > 0  # the right tail is the left one of -z
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    upper, lower = log_ndtr(high), log_ndtr(low)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = upper + np.log1p(-np.exp(np.minimum(lower - upper, 0.0)))
    return logsumexp(weight + np.where(high > low, inside, -np.inf), axis=1)


def log_likelihood(alphabet: Alphabet, members: Members, encoded: Encoded) -> np.ndarray:
    """Log-likelihood of each subject [nat]."""
    statics, seq = alphabet.static_cells(encoded), encoded.sequence
    n = encoded.n_subjects
    total = np.zeros(n)
    if members.statics is not None:
        cursor = Cursor(members.statics, torch.ones(n, 1), torch.zeros(n, 0, dtype=torch.long))
        total += _row_log_prob(cursor, alphabet.statics, statics)
    if not alphabet.has_sequence or not alphabet.coders("first"):
        return total
    firsts, alls = alphabet.visit_cells(encoded)
    dense, lookups = (torch.from_numpy(part) for part in alphabet.static_inputs(statics))
    has = np.flatnonzero(seq.length > 0)
    if members.first is None:
        total[has] += IMPOSSIBLE
    elif len(has):
        begun = (torch.from_numpy(part) for part in alphabet.first_inputs(statics.take(has)))
        total[has] += _row_log_prob(Cursor(members.first, *begun), alphabet.coders("first"), firsts)
    if members.later is None:
        return total + IMPOSSIBLE * np.maximum(seq.length - 1, 0)
    rows = alphabet.later_rows(statics, alls, seq)
    for block in np.array_split(np.arange(len(rows.step)), len(rows.step) // 8192 + 1):
        who = rows.subject[block]
        features = torch.cat([dense[who], torch.from_numpy(rows.features[block])], 1)
        codes = torch.cat([lookups[who], torch.from_numpy(rows.codes[block])], 1)
        cursor = Cursor(members.later, features, codes)
        part = _row_log_prob(cursor, alphabet.coders("later"), alls.take(rows.step[block]))
        total += np.bincount(who, weights=part, minlength=n)
    return total


def _row_log_prob(cursor: Cursor, coders: Sequence[Coder], cells: Cells) -> np.ndarray:
    total = np.zeros(len(cells.value))
    for j, coder in enumerate(coders):
        logits, mixture = cursor.column(j, hidden_token(coder, cells.last[:, j]))
        cell = cell_log_prob(coder, logits.numpy(), mixture, cells.value[:, j], cells.last[:, j])
        total += np.where(follows(coder, cells.token[:, j]), 0.0, cell)
        cursor.push(j, torch.from_numpy(cells.token[:, j].copy()), torch.from_numpy(cells.score[:, j].copy()))
    return total
