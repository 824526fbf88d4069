"""What is missing in a waveform, drawn given what is there: gaps, leads, or the rest of a record.

Rhythm first: beats come from the samples that are seen; a gap without any lead gets beats whose intervals are drawn for
this record and then scaled so that the beats on both sides meet. The record's code is drawn from its posterior given
the leads that are seen. Then the samples: at every noise level what is seen is put back with its noise (replacement),
and a sampler that adds fresh noise at each step lets the seams settle. What was seen comes back unchanged.

Several draws of the same record: `impute(draws=...)`. To continue a record, lengthen it with NaN.

Super-resolution is the same with another projection: of a record of a lower rate the first K cosines are seen, in place
of some samples. They come back unchanged; what is faster is drawn.

References:
    Lugmayr et al. (2022). RePaint. arXiv:2201.09865.
"""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float

from cohortloom.codec.beats import Beats, averaged_beats
from cohortloom.codec.pulses import Pulse
from cohortloom.codec.wave_events import Events
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.diffusion.sampler import stochastic
from cohortloom.errors import DataError, Problem, SettingsError
from cohortloom.generators.signal_events import bridged_events, drawn_events, lit_of
from cohortloom.generators.signal_records import (
    N_RHYTHM,
    along,
    found_beats,
    in_core,
    leaning_of,
    rhythm_of,
    sized,
    spectrum_centres,
    spectrum_of,
    stretches_of,
    texture_centres,
    texture_of,
)
from cohortloom.rng import Rng

if TYPE_CHECKING:
    from cohortloom.generators.signal_diffusion import SignalDiffusion

__all__ = ["bridged", "inpaint", "recoded", "refined"]

_BATCH = 32
#: A gap shorter than this holds no beat of its own [s].
_SHORT = 0.25


def inpaint(model: "SignalDiffusion", cohort: Cohort, rng: Rng) -> Cohort:
    """The cohort with unseen samples of the model's signal drawn."""
    from cohortloom.training import drawing_from, few_threads

    name = model.codec_.signal
    signals = cohort.signals.get(name)
    if signals is None or not signals.records.height:
        return cohort
    n_samples = signals.records["n_samples"].to_numpy()
    within = np.arange(signals.samples.shape[2]) < n_samples[:, None]
    holes = np.array([(~np.isfinite(x) & w).any() for x, w in zip(signals.samples, within)])
    if not holes.any():
        return cohort
    samples = np.array(signals.samples, dtype=np.float32)
    with few_threads(model.net_, model.training.threads), torch.no_grad(), drawing_from(rng.child("layers").torch):
        for k, rows in enumerate(np.split(np.flatnonzero(holes), range(_BATCH, int(holes.sum()), _BATCH))):
            samples[rows] = _filled(model, cohort, signals, rows, rng.child(k))
    return replace(cohort, signals={**cohort.signals, name: replace(signals, samples=samples)})


def _filled(model: Any, cohort: Cohort, signals: SignalSet, rows: np.ndarray, rng: Rng) -> np.ndarray:
    """Samples of some records with their holes drawn."""
    records = signals.records[rows]
    notes = signals.annotations
    if notes is not None:
        notes = notes.join(records.select("record_id"), on="record_id", how="semi")
    part = SignalSet(signals.spec, records, np.asarray(signals.samples[rows]), notes)
    x, seen = model.codec_.samples.encode(part.samples)
    known, where = torch.from_numpy(x), torch.from_numpy(seen)
    found = _drawn(model, cohort, part, (x, seen), lambda new, old: torch.where(where, new, old), known, rng)
    return np.where(np.isfinite(part.samples), part.samples, found)


def _drawn(
    model: Any, cohort: Cohort, part: SignalSet, scaled: tuple[np.ndarray, np.ndarray], put: Any, known: torch.Tensor,
    rng: Rng, *, cut: float | None = None,
) -> np.ndarray:  # fmt: skip
    """Physical samples of records of which a projection is known: put(a, b) is b with the projection of a."""
    x = scaled[0]
    shown = _shown(model, cohort, part, scaled, rng, cut=cut)
    denoise, law, scale = model._denoise(*shown), shown[2], 1.0
    if law is not None:
        denoise, law, scale = law.lifted(denoise), law.whole, law.scale
    noise = torch.randn(x.shape, generator=rng.child("noise").torch)

    def held(y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        y = put(known + sigma[:, None, None] * noise, y)
        return put(known, denoise(y, sigma))

    levels = model._levels(2 * model.sampling_steps) / scale
    start = levels[0] * noise if law is None else law.noisy(noise, levels[0])
    found = stochastic(held, start, levels, generator=rng.child("churn").torch, churn=0.5)
    return model.codec_.samples.decode(found.numpy(), part.records["n_samples"].to_numpy())


def _shown(
    model: Any, cohort: Cohort, part: SignalSet, scaled: tuple[np.ndarray, np.ndarray], rng: Rng, *,
    cut: float | None = None,
) -> Any:  # fmt: skip
    """Condition, guides and law of records of which something is seen."""
    x, seen = scaled
    records = part.records
    context, observed = model.codec_.context.encode(cohort, records)
    _, subject = np.unique(records["subject_id"].to_numpy(), return_inverse=True)
    drawn = model.net_.prior.draw(context, observed, subject, rng.child("facts"))
    drawn, beats = _facts(model, part, x, seen, drawn, records["n_samples"].to_numpy(), rng, context, observed, cut=cut)
    return model._shown(drawn, context, observed, beats, np.arange(len(x)), x.shape[2])


def recoded(model: "SignalDiffusion", cohort: Cohort, rng: Rng) -> Cohort:
    """The cohort with each record coded and decoded: what latents keep is its own, the rest is drawn.

    The network takes no part, so this tells how much of a record's likeness the latents alone cost.

    Args:
        model: Fitted model with latents.
        cohort: Patients and records.
        rng: Random stream.

    Raises:
        SettingsError: the model has no latents.
    """
    if not model.latent:
        raise SettingsError(f"{model.name}: there are no latents; set latent to 4 or 8.")
    name, codec = model.codec_.signal, model.codec_.samples
    waves = cohort.signals[name]
    samples = np.array(waves.samples, dtype=np.float32)
    with torch.no_grad():
        for k, rows in enumerate(np.split(np.arange(len(samples)), range(_BATCH, len(samples), _BATCH))):
            notes = waves.annotations
            if notes is not None:
                notes = notes.join(waves.records[rows].select("record_id"), on="record_id", how="semi")
            part = SignalSet(waves.spec, waves.records[rows], samples[rows], notes)
            scaled = codec.encode(part.samples)
            law = _shown(model, cohort, part, scaled, rng.child(k))[2]
            x = law.decode(law.into(torch.from_numpy(scaled[0])), rng.child(k, "rest").torch)
            samples[rows] = codec.decode(x.numpy(), part.records["n_samples"].to_numpy())
    return replace(cohort, signals={name: replace(waves, samples=samples)})


#: Share of a low rate's own range that is taken as known: above it lies the slope of whatever filter was used.
KNOWN = 0.8


def refined(model: "SignalDiffusion", cohort: Cohort, rng: Rng) -> Cohort:
    """Records of a lower sampling rate, drawn at the model's.

    Args:
        model: Fitted model.
        cohort: As the model's, but for a lower `fs` of the signal.
        rng: Random stream.

    Raises:
        DataError: the cohort lacks the signal, or its channels or rate do not fit.
    """
    from cohortloom.training import drawing_from, few_threads

    name, wanted = model.codec_.signal, model.schema_.signals[model.codec_.signal]
    low = cohort.signals.get(name)
    if low is None or low.spec.channels != wanted.channels or not low.spec.fs < wanted.fs:
        what = f"needs records of the channels {', '.join(wanted.channels)} at less than {wanted.fs:g} Hz"
        raise DataError("", [Problem("other-signal", name, what, "Rename or resample the signal.")])
    whole, n_samples = _upsampled(np.asarray(low.samples), low.records["n_samples"].to_numpy(), low.spec.fs, wanted.fs)
    cut = KNOWN * low.spec.fs / 2
    out = np.full((len(whole), len(wanted.channels), int(n_samples.max(initial=0))), np.nan, np.float32)
    records = low.records.with_columns(pl.Series("n_samples", n_samples, dtype=low.records["n_samples"].dtype))
    people = Cohort.build(model.schema_, cohort.tables)
    with few_threads(model.net_, model.training.threads), torch.no_grad(), drawing_from(rng.child("layers").torch):
        for length in np.unique(n_samples):  # cosines belong to a length
            same = np.flatnonzero(n_samples == length)
            for rows in np.split(same, range(_BATCH, len(same), _BATCH)):
                part = SignalSet(wanted, records[rows], whole[rows, :, :length])
                out[rows, :, :length] = _finer(model, people, part, cut, rng.child(int(rows[0])))
    waves = SignalSet(wanted, records, out)
    return Cohort.build(model.schema_, cohort.tables, signals={name: waves}, origin=cohort.origin)


def _finer(model: Any, people: Cohort, part: SignalSet, cut: float, rng: Rng) -> np.ndarray:
    x, seen = model.codec_.samples.encode(part.samples)
    known = torch.from_numpy(x)
    keep = torch.arange(x.shape[2] + 1) < 2 * x.shape[2] * cut / part.spec.fs

    def put(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        c = torch.fft.rfft(torch.cat([new - old, (new - old).flip(-1)], dim=-1))
        return old + torch.fft.irfft(c * keep, n=2 * old.shape[-1])[..., : old.shape[-1]]

    return _drawn(model, people, part, (x, seen), put, known, rng, cut=cut)


def _upsampled(x: np.ndarray, n_samples: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Records at the higher rate, first sample at first sample, and their lengths."""
    from fractions import Fraction

    from scipy.signal import resample_poly  # heavy

    ratio = Fraction(high / low).limit_denominator(1000)
    within = np.arange(x.shape[2]) < n_samples[:, None]
    last = np.take_along_axis(x, np.maximum(n_samples - 1, 0)[:, None, None], axis=2)
    held = np.nan_to_num(np.where(within[:, None], x, last))  # what follows the end does not ring into it
    fine = resample_poly(held, ratio.numerator, ratio.denominator, axis=2, padtype="edge")
    length = np.ceil(n_samples * float(ratio) - 1e-9).astype(int)
    return fine.astype(np.float32), np.minimum(length, fine.shape[2])


def _facts(
    model: Any, part: SignalSet, x: np.ndarray, seen: np.ndarray, drawn: np.ndarray, n_samples: np.ndarray, rng: Rng,
    context: np.ndarray, observed: np.ndarray, *, cut: float | None = None,
) -> tuple[np.ndarray, Beats | Events | None]:  # fmt: skip
    """Facts of records from what is seen (of frequencies below `cut`), and from the prior where nothing is."""
    net, fs = model.net_, model.shape_.facts["fs"]
    middle, spread = net.middle.numpy(), net.spread.numpy()
    draw = rng.child("code").numpy
    anything = seen.any(axis=(1, 2))
    if not model.shape_.facts["n_code"]:
        return drawn, None
    if not model.shape_.facts["beats"]:
        below = np.tile(np.array(spectrum_centres(x.shape[2], fs)) < (cut or fs), x.shape[1])
        axes = None if net.start is None or net.start.mix is None else net.start.mix.numpy()
        events, law, leaning = None, net.law, leaning_of(*along(x, seen, axes), fs)
        if law is not None:
            lit = lit_of(seen, fs)
            events = law.found(x, rng.child("signs").numpy, lit=lit, cut=cut)
            x = (x - law.train(events, x.shape[2])) * seen
        turned = along(x, seen, axes)
        mean, sd = net.code.encode(spectrum_of(*turned, fs), np.broadcast_to(below, (len(x), len(below))))
        z = mean + sd * draw.standard_normal(mean.shape)
        k = model.shape_.facts["n_leaning"]
        told = np.concatenate([leaning[:, :k], z], axis=1)
        known = np.broadcast_to(anything[:, None], told.shape).copy()
        known[:, :k] &= (seen.mean(axis=(1, 2)) > 0.5)[:, None] & (cut is None)
        drawn = np.where(known, (told - middle) / spread, drawn)
        if events is not None:
            more = drawn_events(model, drawn, context, observed, n_samples, rng.child("bridge"))
            events = bridged_events(events, more, lit)
        return drawn, events
    facts = model.shape_.facts
    pulse = Pulse(**facts["pulse"]) if facts["pulse"] else None
    cut = None if cut is None else cut * model._pace
    beats = found_beats(part, model.codec_.samples.modelled, pulse)
    stretches = stretches_of(beats.place, beats.real, fs, facts["follow"], pulse)
    shapes, ok = averaged_beats(x, seen, beats, fs, stretches)
    ok &= (beats.count > 0)[:, None]
    points = shapes.shape[2]
    flat = np.repeat(ok, points, axis=1)
    wave = np.where(flat, shapes.reshape(len(x), -1), 0.0)
    code = net.code if cut is None else _blurred(net.code, points, min(fs, 125.0), cut)
    core = in_core(fs, pulse is not None)
    qrs = np.resize(core, flat.shape[1])
    usual = np.where(flat, code.centre.numpy(), 0.0)[:, qrs]  # of the leads that are seen
    seen_qrs = np.linalg.norm(wave[:, qrs], axis=1)
    log_size = np.log(np.maximum(seen_qrs, 1e-3) / np.maximum(np.linalg.norm(usual, axis=1), 1e-3))
    log_size = np.where(flat.all(axis=1) & (cut is None), sized(wave, core)[1], log_size)
    mean, sd = code.encode(wave / np.exp(log_size)[:, None], flat)
    z = mean + sd * draw.standard_normal(mean.shape)
    k = z.shape[1]
    known = ok.any(axis=1)
    drawn = drawn.copy()
    drawn[known, -k - 1] = ((log_size - middle[-k - 1]) / spread[-k - 1])[known]
    drawn[known, -k:] = ((z - middle[-k:]) / spread[-k:])[known]
    rhythm, _ = rhythm_of(beats, fs, seen.any(axis=1))
    usable = np.isfinite(rhythm).all(axis=1)
    drawn[usable, :3] = ((rhythm - middle[:3]) / spread[:3])[usable]
    beats = bridged(model, beats, drawn, seen.any(axis=1), n_samples, rng.child("bridge"))
    _, guide, law = model._shown(drawn, np.zeros((len(x), model.shape_.facts["n_context"])),
                            np.zeros((len(x), model.shape_.facts["n_context"])), beats, np.arange(len(x)),
                            x.shape[2])  # fmt: skip
    train = guide[:, : x.shape[1]] if law is None else law.whole.mean
    left = (x - train.numpy()) * seen
    if n_levels := model.shape_.facts.get("n_levels", 0):
        off, at = left.sum(axis=2) / np.maximum(seen.sum(axis=2), 1), slice(-k - 1 - n_levels, -k - 1)
        drawn[:, at] += off / spread[at]
        left = left - off[..., None] * seen
    share = np.maximum(seen.mean(axis=(1, 2)), 1e-3)
    texture = texture_of(left, fs) - np.log(share)[:, None]
    told = N_RHYTHM + np.flatnonzero(np.array(texture_centres(fs)) < (cut or fs))
    found = np.clip((texture[:, told - N_RHYTHM] - middle[told]) / spread[told], -3, 3)
    drawn[:, told] = np.where((share > 0.2)[:, None], found, drawn[:, told])
    return drawn, beats


def _blurred(code: Any, points: int, rate: float, cut: float) -> Any:
    """The code of averaged beats that have lost all above `cut`."""
    k, t = np.meshgrid(np.arange(points), np.arange(points))
    cosine = np.cos(np.pi * k * (t + 0.5) / points) * np.sqrt(np.where(k == 0, 1, 2) / points)
    smooth = cosine[:, : int(2 * points * cut / rate) + 1]
    smooth = torch.from_numpy(smooth @ smooth.T)
    found = copy.deepcopy(code)
    found.centre.copy_((code.centre.reshape(-1, points) @ smooth).reshape(-1))
    wide = code.loading.T.reshape(code.loading.shape[1], -1, points) @ smooth
    found.loading.copy_(wide.reshape(code.loading.shape[1], -1).T)
    return found


def bridged(
    model: Any,
    beats: Beats,
    drawn: Float[np.ndarray, "record fact"],
    lit: Bool[np.ndarray, "record sample"],
    n_samples: np.ndarray,
    rng: Rng,
) -> Beats:
    """Beats with those in dark spans drawn.

    Args:
        model: Fitted model.
        beats: Beats in what is seen.
        drawn: Standardised facts of the records.
        lit: Samples at which any channel is seen.
        n_samples: Length of each record.
        rng: Random stream.
    """
    fs = model.shape_.facts["fs"]
    middle, spread = model.net_.middle.numpy(), model.net_.spread.numpy()
    mean = np.exp(np.clip(drawn[:, 0] * spread[0] + middle[0], np.log(0.2), np.log(3.0)))
    scale = np.exp(np.clip(drawn[:, 1] * spread[1] + middle[1], -7, 0))
    n_spare = int(2 * (n_samples / fs / mean).max(initial=1)) + 4
    told = torch.from_numpy(drawn[:, : model.shape_.facts["n_told"]]).float()
    u, _ = model.net_.rhythm.draw(told, n_spare, rng.torch)
    rr = np.maximum(mean[:, None] * np.exp(np.clip(u.numpy() * scale[:, None], -1.2, 1.2)), 0.2) * fs
    phase = rng.child("phase").numpy.random(len(mean))
    places, odds = [], []
    for i in range(len(mean)):
        at, odd = beats.place[i, : beats.count[i]], beats.odd[i, : beats.count[i]]
        new = _in_gaps(at, lit[i, : n_samples[i]], rr[i], mean[i] * fs, phase[i], fs)
        order = np.argsort(np.append(at, new), kind="stable")
        places.append(np.append(at, new)[order])
        odds.append(np.append(odd, np.zeros(len(new), bool))[order])
    count = np.array([len(p) for p in places], dtype=int)
    width = max(int(count.max(initial=1)), 1)
    place, odd = np.zeros((len(places), width)), np.zeros((len(places), width), bool)
    for i, (p, o) in enumerate(zip(places, odds)):
        place[i, : len(p)], odd[i, : len(p)] = p, o
    return Beats(place, odd, count)


def _in_gaps(at: np.ndarray, lit: np.ndarray, rr: np.ndarray, mean: float, phase: float, fs: float) -> np.ndarray:
    """New R peaks of one record [samples]; `rr` are intervals to use up [samples]."""
    edge = np.flatnonzero(np.diff(np.concatenate([[1], lit.astype(int), [1]])))
    new: list[float] = []
    used = 0
    for a, b in zip(edge[::2], edge[1::2]):
        if b - a < _SHORT * fs:
            continue
        before, after = at[at < a], at[at >= b]
        if len(before) and len(after):
            span = after[0] - before[-1]
            k = max(round(span / mean) - 1, 0)
            steps = rr[(used + np.arange(k + 1)) % len(rr)]
            found = before[-1] + np.cumsum(steps)[:-1] * (span / steps.sum())
        elif len(after):
            steps = rr[(used + np.arange(int((b - a) / rr.min()) + 2)) % len(rr)]
            found = after[0] - np.cumsum(steps)
        else:
            first = before[-1] if len(before) else a - phase * mean
            steps = rr[(used + np.arange(int((b - a) / rr.min()) + 2)) % len(rr)]
            found = first + np.cumsum(steps)
        used += len(found) + 1
        new += [float(f) for f in found if a <= f < b]
    return np.array(sorted(new))
