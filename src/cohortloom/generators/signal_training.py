"""How a `signal-diffusion` learns: closed forms of a record's facts and of the Gaussian start, rhythm, the loss."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cohortloom.diffusion.path import PATHS
from cohortloom.generators.signal_events import event_guides
from cohortloom.generators.signal_net import condition_of, level_at, places
from cohortloom.generators.signal_records import rhythm_of, texture_of
from cohortloom.nets.gaussian_start import principal_axes
from cohortloom.nets.record_code import LinearCode
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, Training

__all__ = ["diffusion_loss", "fit_facts", "hidden", "left_over", "rhythm_phase"]

#: Most records that closed forms are fitted to.
_MOST_FITTED = 4000
#: Coordinates of averaged beats behind the code that are not needed to leave this share of the variance are not drawn:
#: each by itself, they would make a tremble.
LEAST_LEFT = 0.02


def fit_facts(model: Any, net: Any, data: Any, rng: Rng) -> None:
    """Everything in closed form: code, facts, their laws."""
    if model.shape_.facts["n_code"]:
        some = np.sort(rng.child("code").numpy.permutation(len(data.shape))[:_MOST_FITTED])
        net.code.fit(data.shape[some])
        data.z, data.z_sd = net.code.encode(data.shape)
    else:
        data.z = data.z_sd = np.zeros((len(data.shape), 0))
    facts = np.concatenate([data.leaning[:, : model.shape_.facts["n_leaning"]], data.z], axis=1)
    if data.beats is not None:
        rhythm, data.log_rr = rhythm_of(data.beats, data.fs)
        everything = np.arange(len(data.shape))
        if data.pulse:  # the level of a pressure is a fact of the record; that of an ECG says nothing
            data.level = np.concatenate([x.mean(axis=2) for x, _ in left_over(model, net, data, everything)])
            size = np.exp(data.log_size)
            net.lean.copy_(torch.from_numpy(np.polyfit(size, data.level, 1)))  # a high pressure has high pulses
        texture = np.concatenate([texture_of(x, data.fs) for x, _ in left_over(model, net, data, everything)])
        level = data.level - (level_at(net, data.log_size) if data.pulse else 0.0)
        facts = np.concatenate([rhythm, texture, level, data.log_size[:, None], data.z], axis=1)
    usual = np.nan_to_num(np.nanmedian(facts, axis=0)) if np.isnan(facts).any() else np.zeros(facts.shape[1])
    facts = np.where(np.isfinite(facts), facts, usual)
    middle, spread = facts.mean(axis=0), np.maximum(facts.std(axis=0), 1e-6)
    net.middle.copy_(torch.from_numpy(middle))
    net.spread.copy_(torch.from_numpy(spread))
    data.facts = (facts - middle) / spread
    if facts.shape[1]:
        drawn = data.facts.copy()
        if data.beats is not None:
            enough = facts.shape[1] - net.code.n_code + net.code.enough(LEAST_LEFT)
            drawn[:, max(enough, model.shape_.facts["n_told"]) :] = 0.0
        telling = _telling(net.code, facts.shape[1]) * spread
        net.prior.fit(data.context, data.observed, drawn, data.subject, rng.child("prior"), telling)
    n_labels = model.codec_.context.n_labels
    rest, seen = data.context[:, n_labels:], data.observed[:, n_labels:]
    if len(model.label_sets_) > 0:
        net.labels.fit(data.label_set, np.where(seen, rest, 0.0))

    if net.start is not None:
        _fit_start(model, net, data, rng.child("start"))


def _fit_start(model: Any, net: Any, data: Any, rng: Rng) -> None:
    """The Gaussian law the denoiser starts from."""
    rows = np.sort(rng.child("rows").numpy.permutation(len(data.shape))[:_MOST_FITTED])
    if net.start.mix is not None:
        if net.start.edges:
            net.start.fit_axes(left_over(model, net, data, rows[:1000]))
        else:
            parts = ((left, np.ones(left.shape, bool)) for left, _ in left_over(model, net, data, rows[:1000]))
            axes = data.axes if data.axes is not None else principal_axes(parts)
            net.start.mix.copy_(torch.from_numpy(np.ascontiguousarray(axes)))
    if net.start.slope is None:
        net.start.fit_shape(left_over(model, net, data, rows))
    else:
        x, _ = data.crop(rows, np.zeros(len(rows), int), int(data.n_samples.max()))
        parts = []
        for k in range(4):  # all that is known, and three times with some of it hidden
            observed = torch.from_numpy(data.observed[rows]).float()
            shown = hidden(model, observed, rng.child("hidden", k).torch) if k else observed
            parts.append(condition_of(torch.from_numpy(data.context[rows]).float(), shown, observed[:, :0]).numpy())
        condition, which = np.concatenate(parts), np.tile(np.arange(len(rows)), len(parts))
        left = net.start.fit_mean(x.numpy(), condition, which)
        net.start.fit_shape([(left, np.zeros((len(left), 0)))])
        if net.start.basis is not None:
            net.start.fit_covariance(left)
    net.start.measure_floor()


def hidden(model: Any, observed: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """What is shown of the context in training."""
    shown = (torch.rand(len(observed), 1, generator=draw) >= model.drop).float()
    return observed * shown * (torch.rand(observed.shape, generator=draw) >= model.drop).float()


def left_over(model: Any, net: Any, data: Any, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(samples minus beat train, log powers in bands), a chunk of records at a time."""
    for some in np.split(rows, range(128, len(rows), 128)):
        n = int(data.n_samples.max())
        x, seen = data.crop(some, np.zeros(len(some), int), n)
        if data.beats is None:
            z = torch.from_numpy(data.z[some])
            if data.events is not None:
                x = x - torch.from_numpy(data.law.train(data.events.take(some), n))
            yield (x * seen).numpy(), net.code.decode(z.float()).reshape(*x.shape[:2], -1).numpy()
            continue
        z = torch.from_numpy(data.z[some]).float()
        train = model._guides(net, z, data.sizes(some), data.beats.take(some), n, data.fs)[:, : x.shape[1]]
        left = ((x - train) * seen).numpy()
        yield left, texture_of(left, data.fs)


def rhythm_phase(model: Any, net: Any, data: Any, rows: np.ndarray, held: np.ndarray) -> Phase:
    mean = data.facts[:, 0] * float(net.spread[0]) + float(net.middle[0])
    spread = np.exp(data.facts[:, 1] * float(net.spread[1]) + float(net.middle[1]))
    u = torch.from_numpy((data.log_rr - mean[:, None]) / spread[:, None]).float()
    odd, real = torch.from_numpy(data.beats.odd[:, 1:]), torch.from_numpy(data.beats.real[:, 1:])
    facts = torch.from_numpy(data.facts[:, : model.shape_.facts["n_told"]]).float()
    enough = data.beats.count >= 3

    def loss(batch: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        return net.rhythm.loss(u[batch], odd[batch], real[batch], facts[batch])

    if not odd.any():
        net.rhythm.forget_odd()
    rows = rows[enough[rows]] if enough[rows].any() else rows
    held = held[enough[held]]
    training = Training(steps=min(1500, model.training.steps or 1500), batch_size=64, learning_rate=5e-3,
                        final_rate=0.02, ema_power=18.0, evaluate_every=50, patience=8)  # fmt: skip
    objective = Objective("rhythm", net.rhythm.parameters(), loss)
    return Phase("rhythm", net.rhythm, rows, [objective], held_out=held, training=training, share=0.05)


def diffusion_loss(model: Any, net: Any, data: Any) -> Any:
    path = PATHS[model.path]()
    if net.start is not None:  # what is left to the network is smaller than the record
        path = replace(path, location=path.location - math.log(net.start.size()))
    n = min(int(data.n_samples.max()), max(round(model.window * data.signals.spec.fs), 16))
    lengths, placed, n_told = data.n_samples, model.shape_.facts["placed"], model.shape_.facts["n_told"]

    def loss(batch: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        rows = batch.numpy()
        free = np.maximum(lengths[rows] - n, 0)
        start = (torch.rand(len(rows), generator=draw).numpy() * (free + 1)).astype(int)
        x, seen = data.crop(rows, start, n)
        noise = torch.randn(len(rows), data.z.shape[1], generator=draw)
        z = torch.from_numpy(data.z[rows]).float() + torch.from_numpy(data.z_sd[rows]).float() * noise
        facts = torch.from_numpy(data.facts[rows]).float()
        code = facts.shape[1] - z.shape[1]
        facts[:, code:] = (z - net.middle[code:].float()) / net.spread[code:].float()
        shown = hidden(model, torch.from_numpy(data.observed[rows]).float(), draw)
        condition = condition_of(torch.from_numpy(data.context[rows]).float(), shown, facts[:, :n_told])
        guide = None
        if data.beats is not None:
            guide = model._guides(net, z, data.sizes(rows), data.beats.take(rows), n, data.fs, start=start)
        elif data.events is not None:
            guide = event_guides(net.law, data.events.take(rows), n, start)
        elif placed:
            guide = places(start, n, int(data.n_samples.max()))
        law = model._start(net, condition, facts, guide, n)
        if law is None:
            return (path.loss(model._network(net, condition, guide), x, draw) * seen).sum() / seen.sum().clamp(min=1)
        x, seen, guide = law.into(torch.where(seen, x, law.whole.mean)), law.seen(seen), law.guides(guide)
        level = path.times(len(x), draw)
        sigma = (-level).exp()
        y = x + sigma[:, None, None] * torch.randn(x.shape, generator=draw)
        error = (model._clean(net, path, condition, guide, law, y, sigma) - x).square()
        return ((error / law.spread(sigma)[:, None, None]) * seen).sum() / seen.sum().clamp(min=1)

    return loss


def _telling(code: LinearCode, n_facts: int) -> np.ndarray:
    """How much of a record's shape a unit of each fact moves; of those that are no axis of the code, nothing."""
    size = np.linalg.norm(code.loading.numpy(), axis=0)
    return np.concatenate([np.zeros(n_facts - len(size)), size])
