"""Patients of whom a part is known: fixed values, the beginning of a course, a course with holes.

Each patient is followed by `PARTICLES` candidates (z, w, statics, visits), a sequential Monte Carlo:

    1  half of the z come from the guide, q(z | what is known), half from the prior, so that none is out of reach
    2  weight p(z) / (half q + half p); the same for w, which comes from the guide where visits are known
    3  statics are drawn around the known ones, weight: probability of each known cell given the cells before it
    4  known visits one after the other: what is open is drawn, weight: probability of what is known given all before
       it; candidates of a patient are drawn anew by weight after each visit that says something
    5  one candidate goes on to what is not known at all

As the number of candidates grows, what is kept follows the model's law given what is known. A hole is filled with a
value, never with "missing".

References:
    Rubin (1988). Using the SIR algorithm to simulate posterior distributions.
    Hesterberg (1995). Weighted average importance sampling and defensive mixture distributions. Technometrics 37.
    Gordon, Salmond, Smith (1993). Novel approach to nonlinear/non-Gaussian Bayesian state estimation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cohortloom.generators.cell_drawing import Fixed, one_of, renewed
from cohortloom.generators.cells import Cells as Encodings
from cohortloom.generators.cells import cells_of
from cohortloom.generators.temporal_vae_data import Courses, Past
from cohortloom.generators.temporal_vae_drawing import Drawer, as_cells, elapsed, segments_kept
from cohortloom.nets.latent_prior import log_normal
from cohortloom.nets.row_law import RowCursor
from cohortloom.nets.visit_vae import Batch, Latents, Segments, Visible

__all__ = ["Known", "Visits", "draw_known"]

STATIC_PARTICLES = 64
PARTICLES = 24
ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Visits:
    """Visits of which something is known, one patient after the other.

    Args:
        length: Known visits of each patient.
        cells: What is known of them [visit column].
        gap: Before each [d]; None: only the first visit, and its time is open.
        whole: These are all the visits there are.
    """

    length: np.ndarray
    cells: Fixed
    gap: np.ndarray | None
    whole: bool

    @property
    def starts(self) -> np.ndarray:
        return np.cumsum(self.length) - self.length

    def rows(self, index: np.ndarray) -> Visits:
        n = self.length[index]
        rows = np.repeat(self.starts[index] - (np.cumsum(n) - n), n) + np.arange(int(n.sum()))
        return Visits(n, self.cells.rows(rows), None if self.gap is None else self.gap[rows], self.whole)


@dataclass(frozen=True)
class Known:
    """What is known: cells of statics (number of visits and span included), and visits (None: nothing)."""

    static: Fixed
    visits: Visits | None = None

    def rows(self, index: np.ndarray) -> Known:
        return Known(self.static.rows(index), None if self.visits is None else self.visits.rows(index))


def draw_known(drawer: Drawer, known: Known, stream: torch.Generator) -> tuple[np.ndarray, ...]:
    """Patients that keep what is known: (values of statics, values of visits, gaps [d], lengths)."""
    n = len(known.static.value)
    each = STATIC_PARTICLES if known.visits is None or known.visits.gap is None else PARTICLES
    size = np.full(n, each) if known.visits is None else each * np.maximum(known.visits.length, 1)
    parts = [_draw_some(drawer, known.rows(rows), each, stream) for rows in _portions(size)]
    return tuple(np.concatenate(part) for part in zip(*parts))


def _portions(size: np.ndarray) -> list[np.ndarray]:
    """Runs of patients of about `ROWS_AT_ONCE` rows."""
    if not len(size):
        return [np.arange(0)]
    number = (np.cumsum(size) - 1) // ROWS_AT_ONCE
    return [np.flatnonzero(number == k) for k in np.unique(number)]


def _draw_some(drawer: Drawer, known: Known, each: int, stream: torch.Generator) -> tuple[np.ndarray, ...]:
    n, visits, net = len(known.static.value), known.visits, drawer.net
    many = np.repeat(np.arange(n), each)
    given = known.rows(many)
    z, w, weight = _propose(drawer, known, each, stream)
    least = elapsed = None
    if visits is not None and not visits.whole:
        least = given.visits.length
        elapsed = _span_so_far(drawer, given.visits) if visits.gap is not None else None
    statics, values, log_p = drawer.statics(z, given.static, least, elapsed)
    weight = weight + log_p
    if not drawer.alphabet.has_sequence:
        keep = _one_of(weight.reshape(n, each), drawer.rng)
        return values[keep], np.zeros((n, 0)), np.zeros(0), np.zeros(n, np.int64)
    length = drawer.length_of(statics)
    if visits is not None:
        length = given.visits.length if visits.whole else np.maximum(length, given.visits.length)
    latents = Latents(z, _lengthened(drawer, w, given, length, stream))
    told = None
    if visits is None:
        keep = _one_of(weight.reshape(n, each), drawer.rng)
    else:
        keep, told = _follow(drawer, given, latents, statics, length, weight, n, each)
    w = segments_kept(latents.w, length, length, net.sizes.segment, keep) if net.sizes.local else latents.w
    latents, statics, values, length = Latents(z[keep], w), take(statics, keep), values[keep], length[keep]
    if told is None:
        plan, latents = drawer.plan(latents, statics, values, length)
        return values, drawer.visits(latents, plan), plan.gap, plan.length
    drawn, gap, n_known = told
    starts, begun = np.cumsum(length) - length, np.cumsum(n_known) - n_known
    rows = np.repeat(starts - begun, n_known) + np.arange(len(gap))
    spread = np.zeros(int(length.sum()))
    spread[rows] = gap
    plan, latents = drawer.plan(latents, statics, values, length, (n_known, spread))
    return values, drawer.visits(latents, plan, (n_known, drawn)), plan.gap, plan.length


def _propose(
    drawer: Drawer, known: Known, each: int, stream: torch.Generator
) -> tuple[Tensor, Tensor | None, np.ndarray]:
    """Candidates of z and of w where visits are known, one patient's after the other, and their weights so far."""
    net, n = drawer.net, len(known.static.value)
    batch, visible = _as_batch(drawer, known)
    static, rows, alive = net._inputs(batch, visible, net.guide)
    mean, log_var, body, read = net.guide(static, rows, alive, batch.owner)
    mean, log_var, body = (x.repeat_interleave(each, 0) for x in (mean, log_var, body))
    z = mean + torch.exp(0.5 * log_var) * torch.randn(mean.shape, generator=stream)
    free = torch.arange(len(z)) % 2 == 1
    z[free] = net.prior.sample(int(free.sum()), stream)
    log_p, log_q = net.prior.log_prob(z), log_normal(z, mean, log_var)
    weight = log_p - torch.logaddexp(log_p, log_q)
    if known.visits is None or not net.sizes.local or not len(batch.owner):
        return z, None, weight.double().numpy()
    many = torch.arange(n).repeat_interleave(each)
    local = Visits(known.visits.length, Fixed(read.numpy(), alive.numpy()[:, None]), None, True).rows(many.numpy())
    length = torch.from_numpy(local.length)
    owner = torch.repeat_interleave(torch.arange(len(length)), length)
    position = torch.arange(len(owner)) - (torch.cumsum(length, 0) - length)[owner]
    segments = Segments.of(length, owner, position, net.sizes.segment)
    read, alive = torch.from_numpy(local.cells.value), torch.from_numpy(local.cells.mask[:, 0])
    centre, spread = net.guide.locals(z, body, read, alive, segments)
    w = centre + torch.exp(0.5 * spread) * torch.randn(centre.shape, generator=stream)
    apart = log_normal(w, *net._slow_law(w, segments)) - log_normal(w, centre, spread)
    return z, w, weight.index_add(0, segments.owner, apart).double().numpy()


def _as_batch(drawer: Drawer, known: Known) -> tuple[Batch, Visible]:
    """What is known, for the guide."""
    frame, net, n = drawer.frame, drawer.net, len(known.static.value)
    statics = cells_of(frame.statics, _filled(frame.statics, known.static), None, frame.alphabet.static_gates)
    empty, none = torch.zeros(0, dtype=torch.long), torch.zeros(0, net.n_past)
    length = torch.zeros(n, dtype=torch.long)
    batch = Batch(as_cells(statics), None, None, None, none, none, empty, empty, None, None, empty, length)
    visible = Visible(torch.from_numpy(known.static.mask), torch.zeros(0, 0, dtype=torch.bool))
    if known.visits is None or not known.visits.length.sum():
        return batch, visible
    visits, coders, gates = known.visits, frame.alphabet.columns, frame.alphabet.gates
    owner = np.repeat(np.arange(n), visits.length)
    position = np.arange(len(owner)) - visits.starts[owner]
    gap = np.zeros(len(owner)) if visits.gap is None else visits.gap
    batch.visits = as_cells(cells_of(coders, _filled(coders, visits.cells), owner, gates))
    unknown = np.full((len(owner), frame.n_ends), np.nan)
    time = elapsed(gap, visits.length)
    batch.field = drawer.scale.field(position.astype(float), position + 1.0, time, gap, unknown)
    batch.owner, batch.position = torch.from_numpy(owner), torch.from_numpy(position)
    batch.length = torch.from_numpy(visits.length)
    visible.step = torch.from_numpy(visits.cells.mask)
    return batch, visible


def _lengthened(drawer: Drawer, w: Tensor | None, given: Known, length: np.ndarray, stream: torch.Generator) -> Tensor:
    """w of whole courses: known segments as proposed, later ones from the prior."""
    net = drawer.net
    whole = net.draw_slow(torch.from_numpy(length), stream)
    if w is None or not net.sizes.local:
        return whole
    size = net.sizes.segment
    count, known = -(-length // size), -(-given.visits.length // size)
    start, begun = np.cumsum(count) - count, np.cumsum(known) - known
    noise = torch.randn(whole.shape, generator=stream)
    a = torch.sigmoid(net.slow)
    for s in range(int(count.max(initial=0))):
        old = s < known
        whole[torch.from_numpy(start[old] + s)] = w[torch.from_numpy(begun[old] + s)]
        rows = torch.from_numpy(start[(count > s) & ~old] + s)
        if s and len(rows):
            whole[rows] = a * whole[rows - 1] + torch.sqrt(1 - a.square()) * noise[rows]
    return whole


def _follow(
    drawer: Drawer,
    given: Known,
    latents: Latents,
    statics: Encodings,
    length: np.ndarray,
    weight: np.ndarray,
    n: int,
    each: int,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Candidates through the known visits.

    Returns:
        (candidate of each patient, (values, gaps [d] and number of its known visits)).
    """  # fmt: skip
    a, net, visits = drawer.alphabet, drawer.net, given.visits
    n_known, starts = visits.length, visits.starts
    owner = np.repeat(np.arange(len(length)), n_known)
    position = np.arange(len(owner)) - starts[owner]
    if visits.gap is None:
        gap = drawer.first_gaps(latents, statics, length, owner)
    else:
        gap = visits.gap
        weight = weight + _gap_weights(drawer, latents, statics, length, owner, position, visits)
    h = drawer.field_at(latents, statics, length, owner, position, gap)
    time = elapsed(gap, n_known) / drawer.scale.usual
    source, at = np.arange(len(length)), np.arange(len(length))  # candidate each one goes back to
    past, parents, trail = Past(a.columns, len(length)), [], []
    for t in range(int(n_known.max(initial=0))):
        alive = at[n_known > t]
        rows = starts[source[alive]] + t
        fixed = visits.cells.rows(rows)
        state, hidden = h[torch.from_numpy(rows)], None
        if t:
            mine = past.taken(alive)
            cursor = RowCursor(net.laws["later"], state, mine.before(time[rows]))
            hidden = mine.value
        else:
            cursor = RowCursor(net.laws["first"], state, None)
        cells, drawn, log_p = drawer.row(cursor, a.columns, hidden, fixed, None, a.gates)
        weight = weight + _scattered(len(weight), alive, log_p)
        base = net.laws["later"].level(state).numpy() if "later" in net.laws else np.zeros(cells.value.shape)
        past.write(alive, cells, time[rows], base)
        values = np.full((len(length), len(a.columns)), np.nan)
        values[alive] = drawn
        pick = at
        if (~fixed.mask).any() or t == int(n_known.max()) - 1 or t % 4 == 3:
            active = n_known.reshape(n, each)[:, 0] > t
            pick = renewed(weight.reshape(n, each), active, drawer.rng)
            weight = np.where(np.repeat(active, each), 0.0, weight)
        trail.append(values)
        parents.append(pick)
        source = source[pick]
        past.keep(pick)
    keep = _one_of(weight.reshape(n, each), drawer.rng)
    chosen, out = keep.copy(), []
    for values, pick in zip(reversed(trail), reversed(parents)):
        chosen = pick[chosen]
        out.append(values[chosen])
    first = source[keep]
    known = n_known[first]
    found = np.stack(out[::-1], 1) if out else np.zeros((n, 0, len(a.columns)))  # patient visit column
    inside = np.arange(found.shape[1])[None] < known[:, None]
    rows = np.repeat(starts[first] - (np.cumsum(known) - known), known) + np.arange(int(known.sum()))
    return first, (found[inside], gap[rows], known)


def _gap_weights(
    drawer: Drawer,
    latents: Latents,
    statics: Encodings,
    length: np.ndarray,
    owner: np.ndarray,
    position: np.ndarray,
    visits: Visits,
) -> np.ndarray:
    """Log-probability of known gaps [candidate]."""  # fmt: skip
    names = [name for name in ("first_gap", "gap") if name in drawer.net.laws]
    if not names or not len(owner):
        return np.zeros(len(length))
    courses = Courses.of_gaps(drawer.frame, visits.gap, visits.length, position, length, statics)
    batch = courses.batch(torch.arange(len(length)), None)
    batch.statics = as_cells(statics)
    w = drawer.slow_at(latents, length, owner, position)
    parts = drawer.net.parts(batch, latents, only=names, w=w)
    return sum(part.double().numpy() for part in parts.values())


def _one_of(log_weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One candidate of each patient by weight: flat places."""
    return np.arange(len(log_weight)) * log_weight.shape[1] + one_of(log_weight, rng)


def _span_so_far(drawer: Drawer, visits: Visits) -> np.ndarray:
    """Time between first and last known visit [unit of the gaps]."""
    owner = np.repeat(np.arange(len(visits.length)), visits.length)
    first = np.zeros(len(owner), bool)
    first[visits.starts[visits.length > 0]] = True
    span = np.bincount(owner, np.where(first, 0.0, visits.gap), minlength=len(visits.length))
    return drawer.alphabet.in_units(span)


def _filled(coders: list, fixed: Fixed) -> np.ndarray:
    """Fixed values, and what means missing elsewhere."""
    empty = np.array([np.nan if c.kind == "number" else 0.0 for c in coders])
    return np.where(fixed.mask, fixed.value, empty[None])


def _scattered(n: int, rows: np.ndarray, value: np.ndarray) -> np.ndarray:
    out = np.zeros(n)
    out[rows] = value
    return out


def take(cells: Encodings, rows: np.ndarray) -> Encodings:
    return Encodings(*(part[rows] for part in vars(cells).values()))
