"""Training records as a network is shown them, and the facts of each record that are drawn before its samples.

A record with beats (an ECG; pressure, photoplethysmogram or breathing, whose time runs faster) is described by

    its averaged beat               log of the QRS's root mean square, and the shape (divided by it), by `LinearCode`
    rhythm                          log mean RR, log spread of log RR, log share of odd beats
    texture                         log power of what the beat train leaves over, in up to eight bands

any other record (EEG) by its spectrum: log power in 16 bands along each principal axis of the channels, coded likewise,
and by its odd moments (`leaning_of`), which tell sharp waves that point up from those that point down.
Short records cut at one point (single beats) have no facts: the network is shown where in the record it is, and draws
them whole.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from cohortloom.codec.beats import (
    Beats,
    averaged_beats,
    band_passed,
    find_beats,
    pulse_stretches,
    recovery_stretches,
    template_grid,
)
from cohortloom.codec.pulses import Pulse, find_pulses, pulse_of
from cohortloom.codec.signals import SignalCodec
from cohortloom.codec.wave_events import EventLaw, Events
from cohortloom.cohort import SignalSet
from cohortloom.generators.signal_events import aligned, event_law, lit_of, together
from cohortloom.nets.beat_train import bumps, render
from cohortloom.nets.gaussian_start import cosine_power, principal_axes, resampled
from cohortloom.rng import Rng

__all__ = [
    "N_LEANING", "N_RHYTHM", "WaveRecords", "along", "found_beats", "guides", "in_core", "leaning_of", "rhythm_of",
    "sized", "spectrum_centres", "spectrum_of", "stretches_of", "texture_centres", "texture_edges", "texture_of",
]  # fmt: skip

N_RHYTHM, N_BANDS = 3, 16
_TEXTURE_EDGES = (0.0, 0.7, 3.0, 8.0, 15.0, 25.0, 40.0, 70.0)
_CHUNK = 256
#: Share of the middle frequencies that averaged pulses must tell, else records are drawn by their spectrum.
ALIKE = 0.5
#: Powers of the interval that pulses and T waves may stretch with; those of T waves must leave so much less over [log].
FOLLOWS, RECOVERIES, WORTH = (0.0, 0.5, 1.0), (0.0, 0.2, 0.3, 0.4, 0.5), 0.05
#: Odd moments of an axis, and the most axes that have them.
N_LEANING, MOST_LEANING = 14, 2
#: Records that are looked at for it.
_SOME = 128


@dataclass
class WaveRecords:
    """Training records.

    Args:
        signals: The records.
        codec: Scales.
        subject: Number of each record's patient.
        context, observed: What the patients' records say.
        label_set: Place of each record's set of labels in the list of sets.
        beats: R peaks; None for records without a rhythm.
        law, events: Of records without beats, how events are found, and those found; None if there are none.
        leaning: Of records without beats, their odd moments.
        shape: Averaged beats of size 1, or log spectra, flat [record, coordinate].
        log_size: Log of the size of each averaged beat.
        level: Of pulses, the mean of what their train leaves over; without columns for an ECG.
        log_rr: Log of each RR interval [s], one column fewer than beats.
        axes: Principal axes of the channels in columns, of records without beats and several channels.
        pulse: Of records with a rhythm that are no ECG.
        follow: Power of the intervals that beats stretch with, see `stretches_of`.
        facts, z, z_sd: Standardised facts and code, filled when the code has been fitted.
    """

    signals: SignalSet
    codec: SignalCodec
    subject: Int[np.ndarray, "record"]
    context: Float[np.ndarray, "record feature"]
    observed: np.ndarray
    label_set: Int[np.ndarray, "record"]
    beats: Beats | None = None
    law: EventLaw | None = None
    events: Events | None = None
    leaning: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    shape: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    log_size: np.ndarray = field(default_factory=lambda: np.zeros(0))
    level: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    log_rr: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    axes: np.ndarray | None = None
    pulse: Pulse | None = None
    follow: float = 0.0
    facts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    z: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    z_sd: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def n_subjects(self) -> int:
        return int(self.subject.max()) + 1 if len(self.subject) else 0

    @property
    def fs(self) -> float:
        """Sampling frequency [Hz], of pulses in time that runs at their pace."""
        return self.signals.spec.fs * (self.pulse.pace if self.pulse else 1.0)

    @property
    def n_samples(self) -> Int[np.ndarray, "record"]:
        return self.signals.records["n_samples"].to_numpy()

    def describe(self, top_down: bool, rng: Rng, *, turned: bool = True) -> None:
        """Find beats or pulses (if there is a rhythm) and form averaged beats, or events and spectra.

        Args:
            top_down: Look for beats, pulses and events.
            rng: Of what noise does by chance.
            turned: Spectra are those along the axes of the channels.
        """
        self.pulse = pulse_of(self.signals, self.codec.modelled) if top_down else None
        if top_down and (self.signals.spec.kind == "ecg" or self.pulse):
            beats = found_beats(self.signals, self.codec.modelled, self.pulse)
            if np.median(beats.count) >= 3:
                self.beats = beats
            if self.pulse and self.beats is not None:
                told = [self._told(follow) for follow in FOLLOWS]
                self.follow = FOLLOWS[int(np.argmax(told))]
                self.pulse = self.pulse if max(told) > ALIKE else None
            elif self.beats is not None:
                left = np.array([self._left(follow) for follow in RECOVERIES])
                self.follow = RECOVERIES[int(left.argmin())] if left.min() < left[0] - WORTH else 0.0
            self.beats = self.beats if self.pulse or self.signals.spec.kind == "ecg" else None
            self.pulse = self.pulse if self.beats is not None else None
        parts, leaning, n = [], [], len(self.signals.samples)
        chunks = [np.arange(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]
        if turned and self.beats is None and self.codec.n_modelled > 1:
            self.axes = principal_axes(self.codec.encode(self.signals.samples[rows]) for rows in chunks)
        found: list[Events] = []
        if top_down and self.beats is None and not aligned(self):
            self.law = event_law(self.signals.samples, self.codec, self.fs, self.axes, rng)
        for rows in chunks:
            x, seen = self.codec.encode(self.signals.samples[rows])
            if self.beats is None:
                leaning.append(leaning_of(*along(x, seen, self.axes), self.fs))
                if self.law is not None:
                    lit, signs = lit_of(seen, self.fs), rng.child("found", int(rows[0])).numpy
                    found.append(self.law.found(x, signs, lit=lit))
                    x = (x - self.law.train(found[-1], x.shape[2])) * seen
                parts.append(spectrum_of(*along(x, seen, self.axes), self.fs))
            else:
                beats = self.beats.take(rows)
                stretches = stretches_of(beats.place, beats.real, self.fs, self.follow, self.pulse)
                parts.append(averaged_beats(x, seen, beats, self.fs, stretches)[0])
        self.shape = np.concatenate(parts).reshape(len(self.signals.samples), -1)
        self.events = together(found) if found else None
        self.leaning = np.concatenate(leaning) if leaning else np.zeros((n, 0))
        if self.beats is not None:
            self.shape, self.log_size = sized(self.shape, in_core(self.fs, self.pulse is not None))
            self.level = np.zeros((len(self.shape), self.codec.n_modelled if self.pulse else 0))

    def sizes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log sizes and levels of some records."""
        return self.log_size[rows], self.level[rows]

    def _told(self, follow: float) -> float:
        """Share of what records do between .4 and 15 Hz that averaged pulses tell, less what means tell of noise."""
        x, train, count = self._and_train(follow, 64, 0.4, 15.0)
        told = 1 - np.square(x - train).sum(axis=(1, 2)) / np.maximum(np.square(x).sum(axis=(1, 2)), 1e-9)
        return float(np.median(told - 1 / np.maximum(count, 1)))

    def _left(self, follow: float) -> float:
        """Log power that the beat train leaves over between 1 and 8 Hz, where T waves are; mean over records."""
        x, train, _ = self._and_train(follow, _SOME, 1.0, 8.0)
        return float(np.log(np.square(x - train).mean(axis=(1, 2)) + 1e-9).mean())

    def _and_train(self, follow: float, most: int, low: float, high: float) -> tuple[np.ndarray, ...]:
        """Some records and their beat trains between two frequencies [Hz], and how many beats they have."""
        n = len(self.signals.samples)
        rows = np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))
        x, seen = self.codec.encode(self.signals.samples[rows])
        beats = self.beats.take(rows)  # type: ignore[union-attr]
        stretches = stretches_of(beats.place, beats.real, self.fs, follow, self.pulse)
        shape = torch.from_numpy(averaged_beats(x, seen, beats, self.fs, stretches)[0])
        marks = (torch.from_numpy(beats.place).float(), torch.from_numpy(beats.real), torch.from_numpy(beats.odd))
        train = guides(shape, *marks, x.shape[2], self.fs, stretches)[:, : x.shape[1]].numpy()
        x, train = (band_passed(v * seen, self.fs, low, high) for v in (x, train))
        return x, train, beats.count

    def crop(self, rows: np.ndarray, start: np.ndarray, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled pieces of n samples from `start` on, and which samples are observed."""
        piece = np.full((len(rows), len(self.signals.spec.channels), n), np.nan, dtype=np.float32)
        for i, (row, s) in enumerate(zip(rows, start)):
            found = self.signals.samples[row, :, s : s + n]
            piece[i, :, : found.shape[1]] = found
        x, seen = self.codec.encode(piece)
        return torch.from_numpy(x), torch.from_numpy(seen)


def found_beats(signals: SignalSet, channels: tuple[int, ...], pulse: Pulse | None) -> Beats:
    """R peaks of an ECG, or pulses."""
    return find_beats(signals, channels) if pulse is None else find_pulses(signals, channels, pulse)


def stretches_of(
    place: Float[np.ndarray, "record beat"], real: Bool[np.ndarray, "record beat"], fs: float, follow: float,
    pulse: Pulse | None,
) -> tuple[Float[np.ndarray, "record beat"], Float[np.ndarray, "record beat"]] | None:  # fmt: skip
    """How far beats stretch before and behind R: pulses with both intervals, T waves with the one before."""
    if not follow:
        return None
    return (pulse_stretches if pulse else recovery_stretches)(place, real, fs, follow)


def guides(
    template: torch.Tensor, place: torch.Tensor, real: torch.Tensor, odd: torch.Tensor, n_samples: int, fs: float,
    stretches: tuple[np.ndarray, np.ndarray] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Guide channels: the beat train of each modelled channel, bumps at beats, bumps at odd beats."""
    rate, before = min(fs, 125.0), -float(template_grid(fs)[0])
    finer = round(2 * fs / rate)  # else the interpolation blurs a QRS, and leaves images of it above 62 Hz
    template = resampled(template, finer * template.shape[2]) * finer**0.5
    rate, before = finer * rate, before + (1 - 1 / finer) / (2 * rate)
    grown = None
    if stretches is not None:
        grown = torch.from_numpy(stretches[0]).to(place.dtype), torch.from_numpy(stretches[1]).to(place.dtype)
    train = render(template, place, real, odd, n_samples, fs, rate, before, grown)
    marks = torch.stack([bumps(place, real, n_samples, fs), bumps(place, real & odd, n_samples, fs)], dim=1)
    return torch.cat([train, marks], dim=1)


def in_core(fs: float, pulse: bool) -> Bool[np.ndarray, "point"]:
    """Points of an averaged beat's grid that its size is measured at: within 80 ms of R, of a pulse all."""
    grid = template_grid(fs)
    return np.ones(len(grid), bool) if pulse else np.abs(grid) <= 0.08


def sized(
    flat: Float[np.ndarray, "record coordinate"], qrs: Bool[np.ndarray, "point"]
) -> tuple[Float[np.ndarray, "record coordinate"], Float[np.ndarray, "record"]]:
    """Averaged beats whose QRS has root mean square 1, and the log of what they were divided by.

    What scales all deflections (effusion, a thick chest) is then one number that the context can shift. Of the whole
    beat's size a higher T wave (potassium) would be a part, and R would have to shrink by as much in the shape.
    """
    size, whole = (np.sqrt(np.square(x).mean(axis=1)) for x in (flat[:, np.resize(qrs, flat.shape[1])], flat))
    size = np.maximum(np.maximum(size, 0.3 * whole), 1e-3)
    return flat / size[:, None], np.log(size)


def rhythm_of(
    beats: Beats, fs: float, lit: Bool[np.ndarray, "record sample"] | None = None
) -> tuple[Float[np.ndarray, "record 3"], Float[np.ndarray, "record beat"]]:
    """Facts of each rhythm (NaN below two intervals), and log RR of each interval [s].

    An interval across samples that are not `lit` is none: beats may have gone unseen.
    """
    rr = np.diff(beats.place, axis=1) / fs
    real = beats.real[:, 1:]
    if lit is not None:
        dark = np.cumsum(~lit, axis=1)
        at = np.take_along_axis(dark, np.clip(np.rint(beats.place).astype(int), 0, lit.shape[1] - 1), axis=1)
        real = real & (np.diff(at, axis=1) == 0)
    log_rr = np.log(np.clip(np.where(real, rr, 1.0), 0.15, 10.0))
    n = np.maximum(real.sum(axis=1), 1)
    mean = np.where(real, log_rr, 0.0).sum(axis=1) / n
    spread = np.sqrt(np.where(real, np.square(log_rr - mean[:, None]), 0.0).sum(axis=1) / n)
    odd = (beats.odd & beats.real).sum(axis=1)
    facts = np.stack([mean, np.log(spread + 0.003), np.log((odd + 0.2) / np.maximum(beats.count, 1))], axis=1)
    facts[real.sum(axis=1) < 2] = np.nan
    return facts, log_rr


def texture_edges(fs: float) -> tuple[float, ...]:
    """Where the bands of texture begin [Hz]: those below .45 fs."""
    return tuple(e for e in _TEXTURE_EDGES if e < 0.45 * fs)


def texture_centres(fs: float) -> tuple[float, ...]:
    """Middles of the bands of texture [Hz]."""
    edges = texture_edges(fs)
    return tuple(float(np.sqrt(max(a, 0.2) * b)) for a, b in zip(edges, [*edges[1:], fs / 2]))


def texture_of(left: Float[np.ndarray, "record channel sample"], fs: float) -> Float[np.ndarray, "record band"]:
    """Log power in bands, mean over channels, of what a beat train leaves over."""
    power = cosine_power(left).mean(axis=1)
    n_bands = len(texture_centres(fs))
    rate = np.arange(power.shape[1]) * fs / (2 * left.shape[-1])
    band = np.minimum(np.digitize(rate, _TEXTURE_EDGES), n_bands) - 1
    mean = np.stack([power[:, band == k].sum(axis=1) / max((band == k).sum(), 1) for k in range(n_bands)], axis=1)
    return np.log(mean + 1e-7)


def _spectrum_edges(n: int, fs: float) -> np.ndarray:
    return np.geomspace(max(2 * fs / n, 0.5), max(0.45 * fs, 4 * fs / n), N_BANDS)


def spectrum_centres(n: int, fs: float) -> tuple[float, ...]:
    """Middles of the bands of a spectrum [Hz]."""
    edges = _spectrum_edges(n, fs)
    return (float(edges[0] / 1.5), *np.sqrt(edges[1:] * edges[:-1]).tolist())


def along(
    x: Float[np.ndarray, "record channel sample"],
    seen: Bool[np.ndarray, "record channel sample"],
    axes: Float[np.ndarray, "channel axis"] | None,
) -> tuple[Float[np.ndarray, "record axis sample"], Bool[np.ndarray, "record axis sample"]]:
    """Records along the axes, and at which samples; what some channels lack, the axes they share with others tell."""
    if axes is None:
        return x, seen
    if seen.all():
        return axes.T @ x, seen
    some = seen.any(axis=1, keepdims=True)
    weight = np.maximum(seen.mean(axis=1, keepdims=True), 1e-3)  # as much power as the whole would have
    return axes.T @ (x * seen) / np.sqrt(weight), np.broadcast_to(some, x.shape)


def spectrum_of(
    x: Float[np.ndarray, "record channel sample"], seen: np.ndarray, fs: float
) -> Float[np.ndarray, "record band"]:
    """Log power of each channel or axis in 16 bands, evenly spaced in the logarithm, two cycles a record to .45 fs."""
    n = x.shape[-1]
    power = cosine_power(x * seen) * (n / np.maximum(seen.sum(axis=-1, keepdims=True), 1))
    band = np.digitize(np.arange(n + 1) * fs / (2 * n), _spectrum_edges(n, fs))
    total = np.stack([power[..., band == k].sum(axis=-1) / max((band == k).sum(), 1) for k in range(N_BANDS)], axis=-1)
    return np.log(total + 1e-6).reshape(len(x), -1)


def leaning_of(
    x: Float[np.ndarray, "record channel sample"], seen: np.ndarray, fs: float
) -> Float[np.ndarray, "record moment"]:
    """Odd moments of the strongest axes: sharp waves point up or down, and rise faster than they fall or slower.

    Records are cut into three bands of the frequency's logarithm, y_k analytic and of unit variance. For each band

        mean y_k |y_k|^2      (real part: it points up; imaginary: forward or back in time; slow cosines of a wave)
        mean y_j |y_k|^2      for j < k: the faster waves stand where the slower one is up, or where it rises

    and the skewness of the record and of its slope; each through arcsinh, as all are heavy-tailed. 14 an axis, which
    are 0 in any law that does not change with the sign.
    """
    found = []
    for axis in range(min(x.shape[1], MOST_LEANING)):
        y = np.where(seen[:, axis], x[:, axis], 0.0)
        y = y - y.mean(axis=1, keepdims=True)
        found += [_skewness(y), _skewness(np.diff(y, axis=1))]
        waves = _analytic(y, fs)
        for j, slow in enumerate(waves):
            for fast in waves[j:]:
                both = (slow * np.square(np.abs(fast))).mean(axis=1)
                found += [both.real, both.imag]
    return np.arcsinh(2 * np.stack(found, axis=1))


def _skewness(y: Float[np.ndarray, "record sample"]) -> Float[np.ndarray, "record"]:
    return (y**3).mean(axis=1) / np.maximum(np.square(y).mean(axis=1), 1e-9) ** 1.5


def _analytic(y: Float[np.ndarray, "record sample"], fs: float) -> list[np.ndarray]:
    """Analytic signals of unit variance in three bands, of the record as it is mirrored at its end."""
    n = y.shape[1]
    edges = np.geomspace(max(2 * fs / n, 0.5), 0.45 * fs, 4)
    both = np.fft.fft(np.concatenate([y, y[:, ::-1]], axis=1))
    rate = np.fft.fftfreq(2 * n, 1 / fs)
    bands = [(rate >= a) & (rate < b) for a, b in pairwise(edges)]
    waves = [np.fft.ifft(2 * both * band)[:, :n] for band in bands]
    return [w / np.maximum(np.sqrt(np.square(w.real).mean(axis=1, keepdims=True)), 1e-9) for w in waves]
