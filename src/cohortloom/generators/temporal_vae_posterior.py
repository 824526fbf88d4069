"""Patients of whom a part is known: their latents, and what is drawn beside the part.

See `temporal_vae_drawing` for the weights of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cohortloom.generators.columnar_encoding import Cells as Encodings
from cohortloom.generators.columnar_encoding import cells_of
from cohortloom.generators.temporal_vae_drawing import PARTICLES, Drawer, Fixed, as_cells, segments_kept
from cohortloom.nets.latent_prior import log_normal
from cohortloom.nets.visit_vae import Batch, Latents, Visible

__all__ = ["Known", "draw_known"]

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Known:
    """Fixed cells of statics, and of the first visit (None: none)."""

    static: Fixed
    first: Fixed | None

    def rows(self, index: np.ndarray) -> Known:
        return Known(self.static.rows(index), None if self.first is None else self.first.rows(index))


def draw_known(drawer: Drawer, known: Known, stream: torch.Generator) -> tuple[np.ndarray, ...]:
    """Patients that keep the known cells: (values of statics, values of visits, gaps [d], lengths)."""
    n = len(known.static.value)
    parts = []
    for rows in np.array_split(np.arange(n), max(1, -(-n * PARTICLES // ROWS_AT_ONCE))):
        parts.append(_draw_some(drawer, known.rows(rows), stream))
    return tuple(np.concatenate(part) for part in zip(*parts))


def _draw_some(drawer: Drawer, known: Known, stream: torch.Generator) -> tuple[np.ndarray, ...]:
    n, a = len(known.static.value), drawer.alphabet
    z, weight = propose(drawer, known, stream)
    many = np.repeat(np.arange(n), PARTICLES)
    statics, values, log_p = drawer.statics(z, known.static.rows(many))
    weight = weight + log_p
    if not a.has_sequence:
        keep = drawer.pick(weight.reshape(n, PARTICLES))
        return values[keep], np.zeros((n, 0)), np.zeros(0), np.zeros(n, np.int64)
    length = drawer.length_of(statics)
    if known.first is None:
        keep = drawer.pick(weight.reshape(n, PARTICLES))
        statics, values, length, z = take(statics, keep), values[keep], length[keep], z[keep]
        latents = Latents(z, drawer.net.draw_slow(torch.from_numpy(length), stream))
        plan, latents = drawer.plan(latents, statics, values, length)
        return values, drawer.visits(latents, plan), plan.gap, plan.length
    w = drawer.net.draw_slow(torch.from_numpy(length), stream)
    alive = np.flatnonzero(length > 0)
    gap, (cells, drawn), log_p = drawer.first_visit(Latents(z, w), statics, length, known.first.rows(many[alive]))
    weight[length < 1] = -np.inf
    weight[alive] += log_p
    keep = drawer.pick(weight.reshape(n, PARTICLES))
    place = np.full(len(length), -1)
    place[alive] = np.arange(len(alive))
    kept = place[keep][length[keep] > 0]
    latents = Latents(z[keep], segments_kept(w, length, length, drawer.net.sizes.segment, keep))
    statics, values, length = take(statics, keep), values[keep], length[keep]
    told = np.zeros(int(length.sum()))
    told[(np.cumsum(length) - length)[length > 0]] = gap[kept]
    plan, latents = drawer.plan(latents, statics, values, length, ((length > 0).astype(np.int64), told))
    return values, drawer.visits(latents, plan, (take(cells, kept), drawn[kept])), plan.gap, plan.length


def propose(drawer: Drawer, known: Known, stream: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """Candidates of z, one patient's after the other, and log p(z) - log of their density."""
    net, a = drawer.net, drawer.alphabet
    n = len(known.static.value)
    cells = cells_of(drawer.frame.statics, _filled(drawer.frame.statics, known.static), None)
    token = np.where(known.static.mask, cells.token, -1)
    batch = Batch(as_cells(Encodings(cells.value, cells.last, token, cells.score)), *[None] * 3, *_nothing(net, n))
    visible = Visible(torch.from_numpy(known.static.mask), torch.zeros(0, 0, dtype=torch.bool))
    if known.first is not None:
        first = cells_of(a.columns, _filled(a.columns, known.first), np.arange(n))
        zero = np.zeros(n)
        batch.visits = as_cells(first)
        batch.field = drawer.scale.field(zero, zero + 1, zero, zero, np.full((n, drawer.frame.n_ends), np.nan))
        batch.owner, batch.position = torch.arange(n), torch.zeros(n, dtype=torch.long)
        batch.length = torch.ones(n, dtype=torch.long)
        visible.step = torch.from_numpy(known.first.mask)
    static, rows, alive = net._inputs(batch, visible, net.guide)
    mean, log_var, _, _ = net.guide(static, rows, alive, batch.owner)
    mean, log_var = mean.repeat_interleave(PARTICLES, 0), log_var.repeat_interleave(PARTICLES, 0)
    noise = torch.randn(mean.shape, generator=stream)
    z = mean + torch.exp(0.5 * log_var) * noise
    free = torch.arange(len(z)) % 2 == 1
    z[free] = net.prior.sample(int(free.sum()), stream)
    log_p, log_q = net.prior.log_prob(z), log_normal(z, mean, log_var)
    return z, (log_p - torch.logaddexp(log_p, log_q)).double().numpy()


def _filled(coders: list, fixed: Fixed) -> np.ndarray:
    """Fixed values, and what means missing elsewhere."""
    empty = np.array([np.nan if c.kind == "number" else 0.0 for c in coders])
    return np.where(fixed.mask, fixed.value, empty[None])


def _nothing(net, n: int) -> tuple:
    empty = torch.zeros(0, dtype=torch.long)
    none = torch.zeros(0, net.n_past)
    return none, none, empty, empty, None, None, empty, torch.zeros(n, dtype=torch.long)


def take(cells: Encodings, rows: np.ndarray) -> Encodings:
    return Encodings(*(part[rows] for part in vars(cells).values()))
