"""Pulses of pressures, photoplethysmograms and breathing: at the places planted, and none in noise."""

import numpy as np
import polars as pl
import pytest

from cohortloom.codec.pulses import find_pulses, pulse_of
from cohortloom.cohort import SignalSet
from cohortloom.schema.signals import Signal


def waves(x, fs, kind):
    spec = Signal(kind=kind, channels=tuple(f"c{k}" for k in range(x.shape[1])), fs=fs)
    n = len(x)
    records = pl.DataFrame({"record_id": range(n), "subject_id": range(n), "n_samples": [x.shape[2]] * n})
    return SignalSet(spec, records, x.astype(np.float32))


def pulses(n, fs, seconds, period, *, seed=0):
    """Steep rises, slow falls and a second bump at known times; a slow wave and noise beside them."""
    draw = np.random.default_rng(seed)
    time, places = np.arange(round(seconds * fs)) / fs, []
    x = np.zeros((n, 1, len(time)))
    for i in range(n):
        own = period * draw.uniform(0.8, 1.2)
        at = np.cumsum(own * (1 + 0.04 * draw.standard_normal(int(2 * seconds / period) + 4))) - 2 * own
        for p in at:
            u = (time - p) / own
            x[i, 0] += np.exp(-0.5 * np.square(u / np.where(u < 0, 0.08, 0.2)))
            x[i, 0] += 0.3 * np.exp(-0.5 * np.square((u - 0.45) / 0.06))
        x[i, 0] += 0.3 * np.sin(time * 2 * np.pi * 0.2 / period + i) + 0.02 * draw.standard_normal(len(time))
        places.append((at - 0.08 * own) * fs)  # a Gaussian rises most steeply one deviation before its top
    return x, places


@pytest.mark.parametrize(
    ("kind", "fs", "seconds", "period"), [("ppg", 64.0, 20, 0.8), ("other", 100.0, 20, 0.9), ("resp", 25.0, 60, 4.0)]
)
def test_pulses_are_found_where_they_rise(kind, fs, seconds, period):
    x, places = pulses(30, fs, seconds, period)
    found = waves(x, fs, kind)
    pulse = pulse_of(found, (0,))
    assert pulse is not None and pulse.pace == pytest.approx(1.2 * period / 0.9, rel=0.15)
    beats = find_pulses(found, (0,), pulse)
    met = total = 0
    for i, at in enumerate(places):
        inner = at[(at > 0.3 * period * fs) & (at < (seconds - 0.3 * period) * fs)]
        off = np.abs(inner[:, None] - beats.place[i, : beats.count[i]]).min(axis=1)
        met, total = met + (off < 0.05 * period * fs).sum(), total + len(inner)
        assert beats.count[i] <= len(inner) + 2
    assert met / total > 0.98
    assert not beats.odd.any()


def test_polarity_and_size_of_channels_do_not_matter():
    x, _ = pulses(20, 64.0, 20, 0.8)
    plain, turned = waves(x, 64.0, "ppg"), waves(np.concatenate([-3 * x, x], axis=1), 64.0, "ppg")
    one, two = (find_pulses(w, c, pulse_of(w, c)) for w, c in ((plain, (0,)), (turned, (0, 1))))
    assert np.array_equal(one.count, two.count) and np.abs(one.place - two.place).max() < 0.5


@pytest.mark.parametrize("kind", ["ppg", "other", "ecg", "eeg"])
def test_noise_has_no_pulse(kind):
    draw = np.random.default_rng(0)
    x = np.apply_along_axis(np.convolve, 2, draw.standard_normal((30, 1, 1300)), np.ones(20) / 20, "valid")
    assert pulse_of(waves(x, 64.0, kind), (0,)) is None
