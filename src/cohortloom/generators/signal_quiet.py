"""Fits the size of fine noise between beats (`nets/stillness.py`) of a trained `signal-diffusion`."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cohortloom.codec.beats import Beats
from cohortloom.generators.base import Run
from cohortloom.rng import Rng
from cohortloom.training import drawing_from, few_threads

__all__ = ["STILL_SHARE", "between_beats", "fit_stillness"]

#: Share of a budget of minutes that is kept for it.
STILL_SHARE = 0.05
MOST_REAL, FEWEST_DRAWN, MOST_DRAWN = 512, 96, 192
_BATCH = 32


def fit_stillness(model: Any, data: Any, rng: Rng, run: Run) -> None:
    """Compare training records with records drawn under their conditions; with a budget, what there is time for.

    Args:
        model: A trained `signal-diffusion` of records with a rhythm.
        data: Its training records.
        rng: Stream of what is drawn.
        run: Of which the minutes are looked at.
    """
    net, n = model.net_, int(data.n_samples.max())
    rows = rng.child("rows").numpy.permutation(len(data.shape))
    end = np.inf if run.minutes is None else time.monotonic() + 60 * STILL_SHARE * run.minutes
    with few_threads(net, model.training.threads), torch.no_grad(), drawing_from(rng.child("layers").torch):
        found = []
        for some in np.array_split(rows[:MOST_REAL], -(-min(len(rows), MOST_REAL) // _BATCH)):
            x, seen = data.crop(some, np.zeros(len(some), int), n)
            found.append(net.still.log_power(x, between_beats(net, data.beats.take(some), n)[:, None] * seen))
        many = np.resize(rows[:MOST_DRAWN], max(min(len(rows), MOST_DRAWN), FEWEST_DRAWN))
        drawn = []
        for k, some in enumerate(np.array_split(many, -(-len(many) // _BATCH))):
            if not k or time.monotonic() < end:
                drawn.append(_drawn_power(model, data, some, n, rng.child("drawn", k)))
        net.still.fit(torch.cat(found, dim=1), torch.cat(drawn, dim=1))


def between_beats(net: Any, beats: Beats, n: int) -> Tensor:
    """1 between beats, 0 at them [record sample]."""
    place, real, odd = (torch.from_numpy(a) for a in (beats.place, beats.real, beats.odd))
    return net.still.away(place.float(), real, odd, n)


def _drawn_power(model: Any, data: Any, rows: np.ndarray, n: int, rng: Rng) -> Tensor:
    """Log power [band record channel] of records drawn under the conditions of training records."""
    net, context, observed = model.net_, data.context[rows], data.observed[rows]
    facts = net.prior.draw(context, observed, np.arange(len(rows)), rng.child("facts"))
    beats = model._beats(facts, np.full(len(rows), n), rng.child("rhythm"))
    shown = model._shown(facts, context, observed, beats, np.arange(len(rows)), n)
    shape = (len(rows), net.still.found.shape[1], n)
    x = model._integrate(model._denoise(*shown), shape, rng.child("samples"), shown[2])
    if shown[2] is not None:
        x = shown[2].decode(x, rng.child("rest").torch)
    return net.still.log_power(x, between_beats(net, beats, n)[:, None].expand_as(x))
