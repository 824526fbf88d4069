"""T waves that come sooner behind a short interval: the power is found where it is planted, and drawn with it."""

import numpy as np
import polars as pl
import pytest

from cohortloom.codec.beats import find_beats
from cohortloom.codec.signals import SignalCodec
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.generators.signal_diffusion import SignalDiffusion
from cohortloom.generators.signal_records import WaveRecords
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.training import Training

FS, SECONDS, LATE = 50.0, 12.0, 0.3


def irregular(n, power, *, seed=0):
    """QRS at intervals that vary by a quarter, T LATE behind it, times (interval before / mean) ** power."""
    draw = np.random.default_rng(seed)
    schema = Schema.model_validate(
        {"name": "af", "clock": "offset",
         "signals": {"ecg": {"kind": "ecg", "channels": ["II"], "fs": FS, "duration": SECONDS}}}
    )  # fmt: skip
    time, x = np.arange(round(SECONDS * FS)) / FS, []
    for _ in range(n):
        mean = draw.uniform(0.8, 1.0)
        rr = mean * np.clip(1 + 0.25 * draw.standard_normal(40), 0.55, 1.6)
        since = time[:, None] - (np.cumsum(rr) - 2 * mean)
        own = np.minimum(since, 0.05) + np.maximum(since - 0.05, 0) / (rr / mean) ** power
        wave = np.exp(-0.5 * np.square(since / 0.025)) + 0.3 * np.exp(-0.5 * np.square((own - LATE) / 0.045))
        x.append(wave.sum(axis=1) + 0.01 * draw.standard_normal(len(time)))
    records = pl.DataFrame({
        "record_id": range(n), "subject_id": range(n), "visit_id": pl.Series([None] * n, dtype=pl.Int64),
        "time": pl.Series([0] * n).cast(pl.Duration("us")), "n_samples": [len(time)] * n,
        "label": pl.Series([None] * n, dtype=pl.String),
    })  # fmt: skip
    waves = SignalSet(schema.signals["ecg"], records, np.array(x, np.float32)[:, None])
    return Cohort.build(schema, {}, signals={"ecg": waves})


def late(cohort):
    """How far behind R the T wave is highest, and the interval before over its record's mean, of every beat."""
    waves = cohort.signals["ecg"]
    found, delay, before = find_beats(SignalSet(waves.spec, waves.records, waves.samples), (0,)), [], []
    for x, place, count in zip(waves.samples[:, 0], found.place, found.count):
        rr = np.diff(place[:count]) / FS
        for k in range(1, count - 1):
            span = np.arange(round(place[k] + 0.16 * FS), round(place[k] + min(0.5, 0.7 * rr[k]) * FS))
            if rr[k] > 0.65 and span[-1] < len(x) - 1:
                delay.append((span[0] + x[span].argmax() - place[k]) / FS)
                before.append(rr[k - 1] / rr.mean())
    return np.array(delay), np.array(before)


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5])
def test_the_power_that_t_waves_follow_with_is_found(power):
    waves = irregular(30, power).signals["ecg"]
    n = len(waves.samples)
    data = WaveRecords(waves, SignalCodec.fit(waves), np.arange(n), np.zeros((n, 0)), np.zeros((n, 0)), np.zeros(n))
    data.describe(True, Rng(0))
    assert data.follow == pytest.approx(power, abs=0.11) and (data.follow > 0) == (power > 0)


def test_drawn_t_waves_come_sooner_behind_a_short_interval():
    # by the law planted, T comes LATE - .05 s sooner or later for each 1 in (interval before / mean) ** power
    real = irregular(60, 0.5, seed=1)
    training = Training(steps=30, batch_size=8, learning_rate=3e-3, warm_up=5, ema_power=18.0, patience=0)
    model = SignalDiffusion(width=8, levels=(1,), training=training).fit(real, seed=0)
    slopes = []
    for cohort in (real, model.sample(60, seed=1)):
        delay, before = late(cohort)
        slopes.append(np.polyfit(np.sqrt(before), delay, 1)[0])
    assert slopes[0] == pytest.approx(LATE - 0.05, rel=0.2)
    assert slopes[1] == pytest.approx(slopes[0], rel=0.35)
