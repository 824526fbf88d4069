"""Events of records without a rhythm, as `signal-diffusion` learns and draws them.

`codec/wave_events.py` finds events and lays them, `nets/event_series.py` is the law of their sequence. A sharp wave is
told by the log of its size over the record's level and its direction among the shapes, a burst by logs of size (over
the level), span and frequency. The level is half the mean log power of the bands that the record's code tells; phases
of bursts are uniform.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cohortloom.codec.signals import SignalCodec
from cohortloom.codec.wave_events import BAND, MARGIN, MOST_RECORDS, N_BURST, SPANS, EventLaw, Events
from cohortloom.nets.event_series import EventNet
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, Training

__all__ = [
    "aligned",
    "bridged_events",
    "drawn_events",
    "event_guides",
    "event_law",
    "event_net",
    "event_phase",
    "lit_of",
    "together",
]

#: Marks of a burst that are told: all but its phase.
_BURST = N_BURST - 1
#: Longest record that is told where it is [samples].
LONGEST_PLACED = 512


def event_law(samples: Any, codec: SignalCodec, fs: float, axes: np.ndarray | None, rng: Rng) -> EventLaw | None:
    """How events of training records are found; None if there are none beyond chance.

    Only records seen throughout are looked at: with gaps, noise at random signs is no draw of the same law.
    """
    some = np.sort(rng.child("records").numpy.permutation(len(samples))[:MOST_RECORDS])
    x, seen = codec.encode(np.asarray(samples[some]))
    whole = seen.all(axis=(1, 2))
    if whole.sum() < 0.5 * len(some):
        return None
    axes = np.eye(x.shape[1]) if axes is None else axes
    return EventLaw.fit(x[whole], fs, axes, rng.child("signs").numpy)


def aligned(data: Any) -> bool:
    """Are records short, of one length and cut at one point? Then their mean is not flat: a tenth of the variance."""
    n = int(data.n_samples.max())
    if n > LONGEST_PLACED or len(np.unique(data.n_samples)) > 1:
        return False
    rows = np.arange(min(len(data.n_samples), 1000))
    x, _ = data.crop(rows, np.zeros(len(rows), int), n)
    return bool(x.mean(0).var() > 0.1 * x.var() and len(rows) >= 10)


def together(parts: list[Events]) -> Events:
    """Events of consecutive records."""
    listed, first = [], 0
    for part in parts:
        at = np.nonzero(part.real)
        listed.append((at[0] + first, part.place[at], part.burst[at], part.marks[at]))
        first += len(part.count)
    return Events.of(first, *(np.concatenate(v) for v in zip(*listed)))


def lit_of(seen: np.ndarray, fs: float) -> np.ndarray:
    """Samples [record sample] so far from any that is not seen in some channel that an event there counts."""
    from scipy.ndimage import minimum_filter1d  # heavy

    return minimum_filter1d(seen.all(axis=1).astype(np.uint8), 2 * round(MARGIN * fs) + 1, axis=1, mode="nearest") > 0


def event_net(law: EventLaw, n_condition: int, n_facts: int) -> EventNet:
    """Room for the law of sequences."""
    return EventNet(n_condition, (1 + len(law.shapes), _BURST), n_facts=n_facts)


def event_phase(model: Any, net: Any, data: Any, rows: np.ndarray, held: np.ndarray) -> Phase:
    """Training of the law of sequences."""
    from cohortloom.generators.signal_net import condition_of
    from cohortloom.generators.signal_training import hidden

    events, n_told = data.events, model.shape_.facts["n_told"]
    time = torch.from_numpy(events.place / data.fs).float()
    gap = torch.diff(time, dim=1, prepend=torch.zeros(len(time), 1))
    real, burst = torch.from_numpy(events.real), torch.from_numpy(events.burst)
    left = torch.from_numpy(data.n_samples / data.fs).float() - (time * real).amax(dim=1)
    marks = torch.from_numpy(_told(events, _level(net, torch.from_numpy(data.z)), net.law)).float()
    net.events.measure(gap, marks, burst, real)
    context, observed = (torch.from_numpy(v).float() for v in (data.context, data.observed))
    facts = torch.from_numpy(data.facts[:, :n_told]).float()

    def loss(batch: Tensor, draw: torch.Generator) -> Tensor:
        told = condition_of(context[batch], hidden(model, observed[batch], draw), facts[batch])
        return net.events.loss(gap[batch], marks[batch], burst[batch], real[batch], left[batch], told)

    training = Training(steps=min(1500, 3 * (model.training.steps or 500)), batch_size=64, learning_rate=3e-3,
                        final_rate=0.02, ema_power=18.0, evaluate_every=50, patience=8)  # fmt: skip
    objective = Objective("events", net.events.parameters(), loss)
    return Phase("events", net.events, rows, [objective], held_out=held, training=training, share=0.05)


def drawn_events(model: Any, drawn: np.ndarray, context: np.ndarray, observed: np.ndarray, n_samples: np.ndarray,
                 rng: Rng) -> Events:  # fmt: skip
    """Events of records with these standardised facts."""
    from cohortloom.generators.signal_net import condition_of

    net, fs, law = model.net_, model.shape_.facts["fs"], model.net_.law
    facts = torch.from_numpy(drawn).float()
    told = condition_of(torch.from_numpy(context).float(), torch.from_numpy(observed).float(),
                        facts[:, : model.shape_.facts["n_told"]])  # fmt: skip
    if not len(drawn):
        return Events.of(0, np.zeros(0, int), np.zeros(0), np.zeros(0, bool), np.zeros((0, law.n_marks)))
    length = torch.from_numpy(np.asarray(n_samples) / fs).float()
    time, marks, burst, real = (v.numpy() for v in net.events.draw(told, length, rng.torch))
    k = model.shape_.facts["n_code"]
    level = _level(net, (facts * net.spread.float() + net.middle.float())[:, -k:])
    phase = rng.child("phase").numpy.uniform(-np.pi, np.pi, time.shape)
    own = _marks(marks.astype(float), burst, level, phase, law)
    row, column = np.nonzero(real)
    return Events.of(len(drawn), row, np.rint(time[row, column] * fs), burst[row, column], own[row, column])


def bridged_events(found: Events, drawn: Events, lit: np.ndarray) -> Events:
    """Events found in what is seen, and those drawn that fall outside of it."""
    at = np.clip(np.rint(drawn.place).astype(int), 0, lit.shape[1] - 1)
    dark = drawn.real & ~np.take_along_axis(lit, at, axis=1)
    parts = [(np.nonzero(found.real), found), (np.nonzero(dark), drawn)]
    listed = [(at[0], e.place[at], e.burst[at], e.marks[at]) for at, e in parts]
    return Events.of(len(found.count), *(np.concatenate(v) for v in zip(*listed)))


def event_guides(law: EventLaw, events: Events, n: int, start: np.ndarray | None = None) -> Tensor:
    """The event train of each channel, bumps at sharp waves, windows of bursts."""
    return torch.from_numpy(np.concatenate([law.train(events, n, start), law.bumps(events, n, start)], axis=1))


def _level(net: Any, z: Tensor) -> np.ndarray:
    bands = net.code.decode(z.float()).numpy()
    return 0.5 * bands.reshape(len(bands), len(net.law.axes), -1)[:, 0].mean(axis=1)


def _told(events: Events, level: np.ndarray, law: EventLaw) -> np.ndarray:
    """Marks as the net is shown them: of sharp waves, then of bursts."""
    k = len(law.shapes)
    along, burst = events.marks[..., :k], events.marks[..., :_BURST]
    size = np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-6)
    sharp = np.concatenate([np.log(size) - level[:, None, None], along / size], axis=2)
    burst = np.log(np.maximum(burst, 1e-6))
    burst[..., 0] -= level[:, None]
    return np.concatenate([sharp * ~events.burst[..., None], burst * events.burst[..., None]], axis=2)


def _marks(told: np.ndarray, burst: np.ndarray, level: np.ndarray, phase: np.ndarray, law: EventLaw) -> np.ndarray:
    """The way back."""
    k = len(law.shapes)
    out = np.zeros((*told.shape[:2], law.n_marks))
    size = np.exp(np.minimum(told[..., :1] + level[:, None, None], np.log(12.0)))
    along = told[..., 1 : 1 + k]
    sharp = size * along / np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-6)
    size, span, rate = np.exp(np.clip(told[..., 1 + k :], -8, 8)).transpose(2, 0, 1)
    size = np.minimum(size * np.exp(level[:, None]), 12.0)
    span, rate = np.clip(span, 0.7 * SPANS[0], 1.4 * SPANS[-1]), np.clip(rate, BAND[0], min(BAND[1], 0.4 * law.fs))
    out[..., :k] = np.where(burst[..., None], 0.0, sharp)
    wave = np.stack([size, span, rate, phase], axis=2)
    out[..., :N_BURST] = np.where(burst[..., None], wave, out[..., :N_BURST])
    return out
