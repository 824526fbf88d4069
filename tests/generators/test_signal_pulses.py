"""Arterial pressure drawn pulse by pulse: rhythm, likeness of pulses and level against those of training records."""

import numpy as np
import polars as pl
import pytest

from cohortloom.codec.pulses import find_pulses, pulse_of
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.generators import load
from cohortloom.generators.signal_diffusion import SignalDiffusion
from cohortloom.schema import Schema
from cohortloom.training import Training

FS, SECONDS = 40.0, 15.0


def pressures(n, *, seed=0):
    """Pressure of n patients: pulse 50 to 100 a minute with 3 % variation, pulse pressure .5 times the mean."""
    draw = np.random.default_rng(seed)
    schema = Schema.model_validate(
        {"name": "icu", "clock": "offset", "signals": {"abp": {
            "kind": "other", "channels": ["ABP"], "fs": FS, "duration": SECONDS, "unit": "mm[Hg]"}}}
    )  # fmt: skip
    time, x = np.arange(round(SECONDS * FS)) / FS, []
    for _ in range(n):
        rr, mean = 60 / draw.uniform(50, 100), draw.uniform(60, 120)
        at = np.cumsum(rr * (1 + 0.03 * draw.standard_normal(60))) - 2 * rr
        u = time[:, None] - at
        wave = (np.exp(-0.5 * np.square(u / 0.07)) + 0.5 * np.exp(-0.5 * np.square((u - 0.2) / 0.1))).sum(axis=1)
        x.append(mean + 0.5 * mean * (wave - wave.mean()) + 0.3 * draw.standard_normal(len(time)))
    records = pl.DataFrame({
        "record_id": range(n), "subject_id": range(n), "visit_id": pl.Series([None] * n, dtype=pl.Int64),
        "time": pl.Series([0] * n).cast(pl.Duration("us")), "n_samples": [len(time)] * n,
        "label": pl.Series([None] * n, dtype=pl.String),
    })  # fmt: skip
    waves = SignalSet(schema.signals["abp"], records, np.array(x, np.float32)[:, None])
    return Cohort.build(schema, {}, signals={"abp": waves})


@pytest.fixture(scope="module")
def real():
    return pressures(80)


@pytest.fixture(scope="module")
def model(real):
    training = Training(steps=40, batch_size=8, learning_rate=3e-3, warm_up=5, ema_power=18.0, patience=0)
    return SignalDiffusion(width=8, levels=(1,), training=training).fit(real, seed=0)


def intervals(waves):
    """Mean [s] and coefficient of variation of each record's intervals between pulses."""
    found = find_pulses(waves, (0,), pulse_of(waves, (0,)))
    each = [np.diff(p[:n]) / FS for p, n in zip(found.place, found.count)]
    return np.array([e.mean() for e in each]), np.array([e.std() / e.mean() for e in each])


def test_pulses_are_drawn_one_by_one(real, model):
    assert model.shape_.facts["beats"] and model.shape_.facts["pulse"]["pace"] > 1
    drawn = model.sample(60, seed=1)
    (mean, variation), (ours, varies) = (intervals(c.signals["abp"]) for c in (real, drawn))
    assert np.median(ours) == pytest.approx(np.median(mean), rel=0.12)
    assert np.median(varies) == pytest.approx(np.median(variation), rel=0.35)


def test_the_level_of_a_pressure_goes_with_its_pulses(real, model):
    x = model.sample(60, seed=2).signals["abp"].samples[:, 0]
    level, height = x.mean(axis=1), np.quantile(x, 0.99, axis=1) - np.quantile(x, 0.01, axis=1)
    assert np.corrcoef(level, height)[0, 1] > 0.8  # in training one is a multiple of the other
    known = real.signals["abp"].samples[:, 0].mean(axis=1)
    assert np.quantile(level, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(known, [0.1, 0.5, 0.9]), rel=0.15)


def test_a_pulse_rate_can_be_asked_for(model):
    waves = model.sample(20, seed=3, where={"abp.heart_rate": 90}).signals["abp"]
    assert np.median(60 / intervals(waves)[0]) == pytest.approx(90, rel=0.06)


def test_a_gap_gets_pulses_of_its_record(real, model):
    waves = real.signals["abp"]
    samples = np.array(waves.samples)
    samples[:, :, 200:360] = np.nan
    filled = model.impute(
        Cohort.build(real.schema, {}, signals={"abp": SignalSet(waves.spec, waves.records, samples)}), seed=1
    ).signals["abp"]
    seen = np.isfinite(samples)
    assert np.array_equal(filled.samples[seen], samples[seen])
    before, after = waves.samples[:, 0, 200:360], filled.samples[:, 0, 200:360]
    assert np.isfinite(after).all()
    assert np.abs(after.mean(axis=1) - before.mean(axis=1)).max() < 0.25 * before.mean()
    assert np.median(after.std(axis=1) / before.std(axis=1)) == pytest.approx(1, abs=0.3)


def test_a_saved_model_draws_the_same_pulses(model, tmp_path):
    model.save(tmp_path / "model")
    again = load(tmp_path / "model").sample(5, seed=4)
    assert np.array_equal(again.signals["abp"].samples, model.sample(5, seed=4).signals["abp"].samples)
