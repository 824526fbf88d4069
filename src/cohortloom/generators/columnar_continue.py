"""Continuing a record with the three column networks.

Number of visits N and span S are drawn before the visits and every visit knows them, so a prefix of k visits tells
about both. They are drawn from

    p(N, S | prefix)  ~  p(N, S | statics) product over the k visits p(visit | statics, past, N, S),   N >= k

by importance: candidates of (N, S) from the law given statics, cut off below what the prefix has used up, weighted by
the likelihood of the prefix. One candidate has N = k (the course is over; S is then the span of the prefix), the others
share N > k. Candidates of all members of an ensemble compete, so members that explain the patient better go on more
often. Then the history is rebuilt from the prefix and visits are drawn as ever.

Looking at the prefix under each candidate is nearly all the work, so draws of one record choose among the same ones; of
n draws, sqrt(n) bring candidates.

A prefix without visits is a record with known statics.

References:
    Doucet, Johansen (2009). A tutorial on particle filtering and smoothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from cohortloom.codec.tensors import Encoded, SequenceArrays, StaticArrays
from cohortloom.generators.cell_drawing import one_of
from cohortloom.generators.cells import NOTHING, Cells, Coder, carry, cells_of, follows, raw_values
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.columnar_sampling import (
    IMPOSSIBLE,
    Members,
    _Draw,
    _log_mass,
    _row_log_prob,
    cell_log_prob,
    hidden_token,
    logsumexp,
)
from cohortloom.nets.column_cursor import Cursor
from cohortloom.nets.history import History
from cohortloom.nets.normals import Normals
from cohortloom.nets.tokens import CONT

__all__ = ["CANDIDATES", "More", "continue_visits", "draw_between", "joined", "lengthened"]

#: Candidates of (N, S) per subject and member.
CANDIDATES = 16
TRIES = 8


@dataclass(frozen=True)
class More:
    """Visits after a prefix, one subject after the other: subject, values (visit column) and gap [d] of each."""

    subject: np.ndarray
    values: np.ndarray
    gap: np.ndarray


def continue_visits(
    alphabet: Alphabet,
    members: Sequence[Members],
    encoded: Encoded,
    until: Float[np.ndarray, "subject"],
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    candidates: int = CANDIDATES,
) -> More:
    """Visits of subjects who have some already.

    Args:
        until: How far after the last visit to go [d]; one visit beyond may come out.
        candidates: Of number and span, per member. Draws of one record choose among the same ones.
    """
    first, same = _distinct(encoded)
    size = candidates * math.ceil(math.sqrt(np.bincount(same, minlength=1).max()))
    found = [_candidates(alphabet, m, encoded.take(first), size, rng, temperature) for m in members]
    weight = np.concatenate([f.log_weight for f in found], 1)  # distinct record x (member, candidate)
    pick = one_of(weight[same], rng)
    parts = []
    for number, (member, plan) in enumerate(zip(members, found)):
        rows = np.flatnonzero(pick // size == number)
        which = pick[rows] % size
        draw = _Draw(alphabet, [member], rng, temperature, None, None, np.zeros(len(rows), int))
        part = _go_on(alphabet, draw, encoded.take(rows), plan.at(same[rows], which), until[rows])
        parts.append(More(rows[part.subject], part.values, part.gap))
    subject = np.concatenate([p.subject for p in parts])
    order = np.argsort(subject, kind="stable")
    return More(
        subject[order], np.concatenate([p.values for p in parts])[order], np.concatenate([p.gap for p in parts])[order]
    )


def lengthened(encoded: Encoded, more: More, cells: tuple[np.ndarray, np.ndarray]) -> Encoded:
    """The subjects with their visits and then the new ones. `cells`: values and observed flags of the new visits."""
    seq = encoded.sequence
    order = np.argsort(np.concatenate([seq.subject, more.subject]), kind="stable")
    parts = (seq.values, cells[0]), (seq.observed, cells[1]), (seq.gap, more.gap)
    values, observed, gap = (np.concatenate(pair)[order] for pair in parts)
    length = seq.length + np.bincount(more.subject, minlength=encoded.n_subjects)
    return Encoded(encoded.static, SequenceArrays(seq.features, values, observed, gap, length))


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Subjects of all parts, one part after the other."""
    statics, sequences = [p.static for p in parts], [p.sequence for p in parts]
    names = ("values", "observed", "gap", "length")
    sequence = SequenceArrays(
        sequences[0].features, *[np.concatenate([getattr(s, name) for s in sequences]) for name in names]
    )
    if statics[0] is None:
        return Encoded(None, sequence)
    arrays = [np.concatenate([getattr(s, name) for s in statics]) for name in names[:2]]
    return Encoded(StaticArrays(statics[0].features, *arrays), sequence)


def _distinct(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """(one subject of each distinct record, which of them each subject is)."""
    seq, static = encoded.sequence, encoded.static
    rows = [seq.values, seq.observed, seq.gap]
    own = [] if static is None else [static.values, static.observed]
    ends = np.cumsum(seq.length)
    known: dict[tuple[bytes, ...], int] = {}
    first, same = [], np.zeros(encoded.n_subjects, int)
    for i, (start, end) in enumerate(zip(ends - seq.length, ends)):
        key = (*(x[start:end].tobytes() for x in rows), *(x[i].tobytes() for x in own))
        if key not in known:
            known[key] = len(first)
            first.append(i)
        same[i] = known[key]
    return np.array(first, int), same


@dataclass(frozen=True)
class _Plan:
    """Number of visits and span [unit] of each candidate, with weights; subject x candidate."""

    n_visits: np.ndarray
    span: np.ndarray
    log_weight: np.ndarray

    def at(self, rows: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.n_visits[rows, which], self.span[rows, which]


def _candidates(
    a: Alphabet, members: Members, encoded: Encoded, size: int, rng: np.random.Generator, temperature: float
) -> _Plan:
    n, seq = encoded.n_subjects, encoded.sequence
    k = seq.length.astype(float)
    last = seq.starts + seq.length - 1
    elapsed = a.in_units(seq.gap)
    elapsed[seq.starts] = 0.0
    used = np.add.reduceat(elapsed, seq.starts) if n else np.zeros(0)
    rows = encoded.take(np.repeat(np.arange(n), size))
    is_over = np.tile(np.arange(size) == 0, n)
    k, used = np.repeat(k, size), np.repeat(used, size)
    n_visits, span, log_weight = _draw_plan(a, members, rows, k, used, is_over, rng, temperature)
    log_weight -= np.where(is_over, 0.0, np.log(max(size - 1, 1)))
    statics = plan_cells(a, rows, n_visits, span)
    log_weight += _prefix_log_prob(a, members, rows, statics, n_visits, ~is_over)
    if a.spanned and not a.whole:  # densities of the last gap and of the span, both per unit of time
        slope = _log_slope(a.gap, np.repeat(elapsed[last], size)) * ((k > 1) & ~is_over)
        log_weight += slope
    shape = n, size
    return _Plan(n_visits.reshape(shape), span.reshape(shape), log_weight.reshape(shape))


def _draw_plan(
    a: Alphabet,
    members: Members,
    encoded: Encoded,
    k: np.ndarray,
    used: np.ndarray,
    is_over: np.ndarray,
    rng: np.random.Generator,
    temperature: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, span and log-probability of what was asked of them, statics included."""
    cells = plan_cells(a, encoded, k, used)
    rows, coders = len(k), a.statics
    total, n_visits, span = np.zeros(rows), k.copy(), used.copy()
    cursor = Cursor(members.statics, torch.ones(rows, 1), torch.zeros(rows, 0, dtype=torch.long))
    for j, coder in enumerate(coders):
        none = np.full(rows, np.nan)
        logits, mixture = cursor.column(j, hidden_token(coder, none))
        logits = logits.numpy()
        if j < a.n_visits_at:
            here = cell_log_prob(coder, logits, mixture, cells.value[:, j], none)
            total += np.where(follows(coder, cells.token[:, j]), 0.0, here)
            cursor.push(j, torch.from_numpy(cells.token[:, j].copy()), torch.from_numpy(cells.score[:, j].copy()))
            continue
        at_count = j == a.n_visits_at
        low = k + 1 if at_count else used + (n_visits - k) * max(a.least_gap, 1e-9 if not a.whole else 0.0)
        value, log_p = draw_between(coder, logits, mixture, low, rng, temperature)
        exact = k if at_count else used
        stays = is_over | np.isnan(value)
        here = cell_log_prob(coder, logits, mixture, coder.snap(exact), none)
        if at_count:  # a number of visits that nobody has is not the nearest one that somebody has
            here = np.where(coder.snap(exact) == exact, here, IMPOSSIBLE)
        if not at_count and not a.whole:
            here = here + _log_slope(coder, exact)
        none_yet = ~np.bool_(at_count) & (n_visits < 2)  # one visit: no span
        total += np.where(none_yet, 0.0, np.where(is_over, here, log_p))
        value = np.where(stays, exact, value)
        if at_count:
            n_visits = value
            token, score = coder.token(coder.snap(value), none), coder.history(coder.snap(value))
        else:
            span = np.where(none_yet, np.nan, value)
            break
        cursor.push(j, torch.from_numpy(token), torch.from_numpy(score))
    return n_visits, span, total


def plan_cells(a: Alphabet, encoded: Encoded, n_visits: np.ndarray, span: np.ndarray) -> Cells:
    """Statics with another number of visits and span than those that are there."""
    parts = [raw_values(encoded.static)] if encoded.static is not None else []
    parts.append(n_visits[:, None])
    if a.spanned:
        parts.append(np.where(n_visits > 1, span, np.nan)[:, None])
    values = np.concatenate(parts, 1)
    cells = cells_of(a.statics, values, None, a.static_gates)
    if a.spanned:
        cells.token[np.isnan(values[:, -1]), -1] = NOTHING
        cells.value[:, -1] = values[:, -1]
    cells.value[:, a.n_visits_at] = n_visits
    return cells


def _prefix_log_prob(
    a: Alphabet, members: Members, encoded: Encoded, statics: Cells, n_visits: np.ndarray, goes_on: np.ndarray
) -> np.ndarray:
    """Log-likelihood of the visits that are there, given number and span."""
    seq = encoded.sequence
    firsts, alls = a.visit_cells(encoded, goes_on)
    dense, lookups = (torch.from_numpy(part) for part in a.static_inputs(statics))
    total = np.zeros(encoded.n_subjects)
    if members.first is not None:
        begun = (torch.from_numpy(part) for part in a.first_inputs(statics))
        total += _row_log_prob(Cursor(members.first, *begun), a.coders("first"), firsts)
    if members.later is None:
        return total
    rows = a.later_rows(statics, alls, seq, n_visits=n_visits)
    for block in np.array_split(np.arange(len(rows.step)), len(rows.step) // 8192 + 1):
        if not len(block):
            continue
        who = rows.subject[block]
        features = torch.cat([dense[who], torch.from_numpy(rows.features[block])], 1)
        codes = torch.cat([lookups[who], torch.from_numpy(rows.codes[block])], 1)
        cursor = Cursor(members.later, features, codes)
        part = _row_log_prob(cursor, a.coders("later"), alls.take(rows.step[block]))
        total += np.bincount(who, weights=part, minlength=len(total))
    return total


def _go_on(a: Alphabet, draw: _Draw, encoded: Encoded, plan: tuple[np.ndarray, np.ndarray], until: np.ndarray) -> More:
    """Visits after the prefix, given number and span."""
    n, seq = encoded.n_subjects, encoded.sequence
    empty = More(np.zeros(0, int), np.zeros((0, len(a.columns))), np.zeros(0))
    if not n or not draw.knows("later"):
        return empty
    statics = plan_cells(a, encoded, *plan)
    _, alls = a.visit_cells(encoded, goes_on=True)
    history = replayed(a, statics, alls, seq, plan[0])
    last = carry(np.nan, alls)
    before = seq.position > 0
    carried = alls.last  # last recorded before each visit: what the visit itself lacks
    last = np.where(np.isnan(last), np.where(before[:, None], carried, np.nan), last)[seq.starts + seq.length - 1]
    owner, values, gap = draw.visits(history, *a.static_inputs(statics), np.arange(n), last, history.time + until)
    if not owner:
        return empty
    owner = np.concatenate(owner)
    order = np.argsort(owner, kind="stable")
    return More(owner[order], np.concatenate(values)[order], np.concatenate(gap)[order])


def replayed(a: Alphabet, statics: Cells, alls: Cells, seq: SequenceArrays, n_visits: np.ndarray) -> History:
    """The history after all visits of every subject."""
    start = seq.gap[seq.starts] if len(seq.length) else seq.gap
    history = a.history(statics, n_visits, start)
    steps = a.steps(alls, seq.gap, seq.position == 0)
    for position in range(int(seq.length.max(initial=0))):
        rows = np.flatnonzero(seq.length > position)
        part = history.take(rows)
        part.update(steps.take(seq.starts[rows] + position))
        history.put(rows, part)
    return history


def draw_between(
    coder: Coder,
    logits: np.ndarray,
    mixture: Normals | None,
    low: np.ndarray,
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A number of at least `low` (on its grid), and the log-probability that it is one; NaN and -inf if none can be."""
    n, rows = len(low), np.arange(len(low))
    logits = logits.astype(float) / temperature
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    spikes = np.asarray(coder.spikes)
    options = np.full((n, len(spikes) + 1), -np.inf)
    options[:, 1:] = np.where(spikes[None] >= low[:, None], log_p[:, 1 : len(spikes) + 1], -np.inf)
    value = np.full(n, np.nan)
    if len(coder.x):
        edge = np.minimum(low, coder.x[-1])
        if coder.exact:
            edge = coder.x[np.minimum(np.searchsorted(coder.x, low), len(coder.x) - 1)]
        left, _ = coder.interval(np.maximum(edge, coder.x[0]))
        left = np.where(low <= coder.x[0], 0.0, left)
        can = low <= coder.x[-1]
        weight, mean, log_sd = (part.astype(float) for part in mixture)
        weight = weight / temperature
        share = np.exp(weight - logsumexp(weight, axis=1, keepdims=True))
        sd = np.exp(log_sd) * temperature
        below = ndtr((ndtri(left)[:, None] - mean) / sd)  # of each normal
        tail = share * (1 - below)
        mass, taken = tail.sum(1), np.zeros((n, 2))
        for spike in spikes if not coder.exact else []:
            piece = np.exp(_log_mass(coder, mixture, np.full(n, spike)))
            taken += np.stack([piece, piece * (spike >= low)], 1)
        mass = np.maximum(mass - taken[:, 1], 1e-300) / np.maximum(1 - taken[:, 0], 1e-6)
        options[:, 0] = np.where(can, log_p[:, CONT] + np.log(np.minimum(mass, 1.0)), -np.inf)
    total = logsumexp(options, axis=1)
    impossible = ~np.isfinite(total)
    safe = np.where(impossible[:, None], 0.0, options - np.where(impossible, 0.0, total)[:, None])
    token = one_of(safe, rng)
    if len(spikes):
        value = np.where(token > 0, spikes[np.maximum(token - 1, 0)], value)
    todo = np.flatnonzero((token == 0) & ~impossible) if len(coder.x) else rows[:0]
    for _ in range(TRIES):
        if not len(todo):
            break
        cut = np.cumsum(tail[todo], 1)
        normal = np.minimum((cut <= rng.random((len(todo), 1)) * cut[:, -1:]).sum(1), tail.shape[1] - 1)
        u = below[todo, normal] + (1 - below[todo, normal]) * rng.random(len(todo))
        z = mean[todo, normal] + sd[todo, normal] * ndtri(np.clip(u, 1e-12, 1 - 1e-12))
        drawn = coder.decode(np.zeros(len(todo), np.int64), z.astype(np.float32), np.full(len(todo), np.nan))
        value[todo] = np.maximum(drawn, low[todo])
        todo = todo[np.isin(value[todo], spikes)]
    return np.where(impossible, np.nan, value), total


def _log_slope(coder: Coder, value: np.ndarray) -> np.ndarray:
    """Log of dz/dx where a number has a density rather than a mass, 0 elsewhere."""
    if coder.exact or coder.decimals is not None or len(coder.x) < 2:
        return np.zeros(len(value))
    width = 1e-3 * (coder.x[-1] - coder.x[0])
    z = [ndtri(np.clip(coder.interval(value + h)[0], 1e-4, 1 - 1e-4)) for h in (-width, width)]
    return np.log(np.maximum(z[1] - z[0], 1e-9) / (2 * width))
