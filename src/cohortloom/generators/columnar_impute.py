"""Filling holes with the three column networks: sequential Monte Carlo.

A column model draws a cell given what comes before it; a hole must also fit what comes after. So every subject with
holes is walked through by particles, column by column and visit by visit:

    at a hole            each particle draws a value from p(cell | its past), given that the cell is recorded
    at an observed cell  each particle is weighted by p(cell | its past)

After a row (statics, or a visit) the particles of a subject whose weights have become uneven are drawn anew by weight.
At the end one particle is chosen by weight and its values are read back along its ancestors. As the number of
particles grows, this is a draw from the model's law of the holes given all that is observed, before and after.

    weight(particle) = product over observed cells of p(cell | past) x product over holes of p(recorded | past)

The evidence of the observed cells comes with it (the mean weight); members of an ensemble are chosen by theirs.

References:
    Gordon, Salmond, Smith (1993). Novel approach to nonlinear/non-Gaussian Bayesian state estimation.
    Kitagawa (1996). Monte Carlo filter and smoother for non-Gaussian nonlinear state space models.
    Doucet, Johansen (2009). A tutorial on particle filtering and smoothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cohortloom.codec.tensors import Encoded
from cohortloom.generators.cell_drawing import CellDrawer, one_of, renewed
from cohortloom.generators.cells import Cells, Coder, carry, follows
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.columnar_sampling import (
    Members,
    _with_empty_gap,
    cell_log_prob,
    hidden_token,
    logsumexp,
)
from cohortloom.generators.impute import Holes
from cohortloom.nets.column_cursor import Cursor

__all__ = ["PARTICLES", "fill"]

#: Per subject and member.
PARTICLES = 64
ROWS_AT_ONCE = 16_384


def fill(
    alphabet: Alphabet,
    members: Sequence[Members],
    encoded: Encoded,
    holes: Holes,
    rng: np.random.Generator,
    *,
    particles: int = PARTICLES,
) -> Encoded:
    """The subjects with values in their holes; a hole in a column that was never recorded stays."""
    n, seq = encoded.n_subjects, encoded.sequence
    length = seq.length if seq is not None else np.zeros(n, np.int64)
    chosen = np.flatnonzero(holes.any_of(length))
    static = None if encoded.static is None else _copy(encoded.static)
    sequence = None if seq is None else _copy(seq)
    for rows in np.array_split(chosen, -(-len(chosen) * particles // ROWS_AT_ONCE)) if len(chosen) else []:
        part = encoded.take(rows)
        hole = _take(holes, encoded, rows)
        runs = [_Walk(alphabet, m, part, hole, rng, particles).go() for m in members]
        evidence = np.stack([run.evidence for run in runs], 1)
        pick = one_of(evidence, rng)
        if static is not None:
            value = np.stack([run.static for run in runs])[pick, np.arange(len(rows))]
            _put(static, rows, hole.static, value)
        if sequence is not None and len(seq.gap):
            steps = _rows_of(seq, rows)
            value = np.stack([run.steps for run in runs])[np.repeat(pick, length[rows]), np.arange(len(steps))]
            _put(sequence, steps, hole.sequence, value)
    return Encoded(static, sequence)


def _copy(part):
    return replace(part, values=part.values.copy(), observed=part.observed.copy())


def _take(holes: Holes, encoded: Encoded, rows: np.ndarray) -> Holes:
    sequence = None if holes.sequence is None else holes.sequence[_rows_of(encoded.sequence, rows)]
    return Holes(None if holes.static is None else holes.static[rows], sequence)


def _rows_of(seq, subjects: np.ndarray) -> np.ndarray:
    """Rows of the steps of some subjects."""
    marked = replace(
        seq, values=np.arange(len(seq.gap))[:, None].astype(float), observed=np.ones((len(seq.gap), 1), bool)
    )
    return marked.take(subjects).values[:, 0].astype(np.int64)


def _put(part, rows: np.ndarray, hole: np.ndarray, value: np.ndarray) -> None:
    category = np.array([f.kind == "category" for f in part.features], bool)
    got = hole & np.where(category[None], value > 0, ~np.isnan(value))
    part.values[rows] = np.where(got, value, part.values[rows])
    part.observed[rows] |= got


@dataclass
class _Walk:
    """The particles of some subjects, walked through by one member.

    Rows of particles are subject x particle, flattened.
    """

    alphabet: Alphabet
    members: Members
    encoded: Encoded
    holes: Holes
    rng: np.random.Generator
    particles: int
    static: np.ndarray = field(init=False)
    steps: np.ndarray = field(init=False)
    evidence: np.ndarray = field(init=False)

    def go(self) -> "_Walk":
        a, n, p = self.alphabet, self.encoded.n_subjects, self.particles
        self.draw = CellDrawer(self.rng)
        self.log_weight, self.evidence = np.zeros((n, p)), np.zeros(n)
        self.pasts: list[tuple[np.ndarray, np.ndarray]] = []  # of each row of every subject: values, ancestors
        cells = a.static_cells(self.encoded)
        width = 0 if self.encoded.static is None else self.encoded.static.values.shape[1]
        hole = np.zeros(cells.value.shape, bool)
        if width:
            hole[:, :width] = self.holes.static
        everyone = np.arange(n)
        self.state = Cells(*[np.repeat(part, p, 0) for part in vars(cells).values()])
        if self.members.statics is not None and len(a.statics):
            cursor = Cursor(self.members.statics, torch.ones(n * p, 1), torch.zeros(n * p, 0, dtype=torch.long))
            self.state = self._row(cursor, "statics", self.state, hole, None, everyone)
        ancestor = self._renew(everyone)
        self.state = self.state.take(ancestor)
        trace = [(self.state.value[:, :width], np.arange(n * p), everyone)]
        if a.has_sequence and self.encoded.sequence is not None and len(self.encoded.sequence.gap):
            trace += self._visits(n, p)
        self._read_back(trace, n, p, width)
        return self

    def _visits(self, n: int, p: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Walk through all visits; returns values, ancestors and subjects of each."""
        a, seq = self.alphabet, self.encoded.sequence
        firsts, alls = a.visit_cells(self.encoded)
        trace = []
        alive = np.flatnonzero(seq.length > 0)
        history = last = None
        first_of = np.cumsum(seq.length > 0) - 1  # row of a subject among the first visits
        for position in range(int(seq.length.max(initial=0))):
            stay = seq.length[alive] > position
            if history is not None:
                rows = _particle_rows(np.flatnonzero(stay), p)
                history.keep(rows)
                last = last[rows]
            alive = alive[stay]
            mine = _particle_rows(alive, p)
            step = seq.starts[alive] + position
            first = position == 0
            source = firsts.take(first_of[alive]) if first else alls.take(step)
            name = "first" if first else "later"
            coders = a.coders(name)
            shift = len(coders) - len(a.columns)
            hole = np.zeros(source.value.shape, bool)
            hole[:, shift:] = self.holes.sequence[step]
            cells = Cells(*[np.repeat(part, p, 0) for part in vars(source).values()])
            inputs = a.first_inputs if first else a.static_inputs
            dense, lookups = (torch.from_numpy(part) for part in inputs(self.state.take(mine)))
            net = self.members.first if first else self.members.later
            if net is not None and len(coders):
                if not first:
                    dense = torch.cat([dense, torch.from_numpy(a.standardise(history.features()))], 1)
                    lookups = torch.cat([lookups, torch.from_numpy(history.code)], 1)
                cells = self._row(Cursor(net, dense, lookups), name, cells, hole, last, alive)
            ancestor = self._renew(alive)  # among the rows of the living
            cells = cells.take(ancestor)
            self.state = _with(self.state, mine, mine[ancestor])
            trace.append((cells.value[:, shift:], ancestor, alive))
            if a.spec is None:
                continue
            gap = np.repeat(seq.gap[step], p)
            if first:
                cells = Cells(*[part[:, shift:] for part in vars(cells).values()])
                cells = _with_empty_gap(cells) if a.gap is not None else cells
                total = np.repeat(seq.length[alive], p).astype(float)
                history = a.history(self.state.take(mine), total, gap)
                last = carry(np.nan, cells)
            else:
                history.keep(ancestor)
                last = last[ancestor]
                last = carry(last, cells)
            history.update(a.steps(cells, gap, first))
        return trace

    def _row(
        self,
        cursor: Cursor,
        net: str,
        cells: Cells,
        hole: np.ndarray,
        last: np.ndarray | None,
        subjects: np.ndarray,
    ) -> Cells:
        """Draw the holes of a row and weigh by its observed cells."""
        p, rows, lines = self.particles, len(cells.value), self.alphabet.lines_in(net)
        weight = np.zeros(rows)
        none = np.full(rows, np.nan)
        for j, coder in enumerate(self.alphabet.coders(net)):
            number = coder.kind == "number"
            before = last[:, j] if last is not None and number else none
            before = lines[j].at(coder, cells.value) if j in lines else before
            logits, mixture = cursor.column(j, hidden_token(coder, before))
            logits = logits.numpy()
            value, told = cells.value[:, j], follows(coder, cells.token[:, j])
            is_hole, score = np.repeat(hole[:, j], p), np.zeros(rows)
            for at, drawn in ((np.flatnonzero(~is_hole), False), (np.flatnonzero(is_hole), True)):
                if not len(at):
                    continue
                normals = None if mixture is None else mixture.take(at)
                there, recorded = _present(coder, logits[at]) if drawn else (None, None)
                if there is None:
                    score[at] = cell_log_prob(coder, logits[at], normals, value[at], before[at])
                else:
                    value[at], score[at] = self.draw.cell(coder, there, normals, before[at]), recorded
            weight += np.where(told, 0.0, score)
            token = coder.token(value, before) if number else coder.token(value)
            cells.token[:, j] = np.where(told, cells.token[:, j], token)
            if number:
                cells.score[:, j] = coder.history(value)
            cursor.push(j, torch.from_numpy(cells.token[:, j].copy()), torch.from_numpy(cells.score[:, j].copy()))
        self.log_weight[subjects] += weight.reshape(-1, p)
        return cells

    def _renew(self, subjects: np.ndarray) -> np.ndarray:
        """Ancestors (rows among those of the subjects) after drawing particles anew where weights are uneven."""
        p, n = self.particles, len(subjects)
        weight = self.log_weight[subjects]
        total = logsumexp(weight, axis=1, keepdims=True)
        share = np.exp(weight - total)
        uneven = 1 / (share**2).sum(1) < p / 2
        if not uneven.any():
            return np.arange(n * p)
        pick = renewed(weight, uneven, self.rng)
        self.evidence[subjects[uneven]] += (total[:, 0] - np.log(p))[uneven]
        self.log_weight[subjects[uneven]] = 0.0
        return pick

    def _read_back(self, trace: list, n: int, p: int, width: int) -> None:
        """Choose a particle of each subject and follow its ancestors."""
        total = logsumexp(self.log_weight, axis=1, keepdims=True)
        self.evidence += total[:, 0] - np.log(p)
        place = one_of(self.log_weight, self.rng)
        seq = self.encoded.sequence
        self.steps = np.full((0 if seq is None else len(seq.gap), len(self.alphabet.columns)), np.nan)
        for position in range(len(trace) - 1, 0, -1):
            values, ancestor, alive = trace[position]
            row = np.arange(len(alive)) * p + place[alive]
            self.steps[seq.starts[alive] + position - 1] = values[row]
            place[alive] = ancestor[row] % p
        self.static = trace[0][0][np.arange(n) * p + place]


def _particle_rows(subjects: np.ndarray, p: int) -> np.ndarray:
    return (subjects[:, None] * p + np.arange(p)).ravel()


def _with(cells: Cells, rows: np.ndarray, source: np.ndarray) -> Cells:
    """Cells with some rows replaced by others."""
    order = np.arange(len(cells.value))
    order[rows] = source
    return cells.take(order)


def _present(coder: Coder, logits: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Logits without the token MISSING, and the log-probability of that; None if there is no other token."""
    token = coder.missing_token if coder.kind == "number" else coder.ids.index(0) if 0 in coder.ids else -1
    others = coder.allowed.copy()
    if token >= 0:
        others[token] = False
    if not others.any():
        return None, None
    there = logits.astype(np.float32, copy=True)
    if token >= 0:
        there[:, token] = -np.inf
    return there, logsumexp(there, axis=1) - logsumexp(logits, axis=1)
