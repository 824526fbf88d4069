"""Sharp waves: odd moments of records without beats, and that drawn records keep polarity and direction in time."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.generators.signal_diffusion import SignalDiffusion
from cohortloom.generators.signal_records import N_LEANING, leaning_of
from cohortloom.schema import Schema
from cohortloom.training import Training

FS, N = 64.0, 256


def waves(n: int, seed: int, *, spikes: bool = True) -> np.ndarray:
    """Noise, and sharp waves that rise at once and fall in .12 s, two a second, all upwards [record channel sample]."""
    draw = np.random.default_rng(seed)
    noise = draw.standard_normal((n, N))
    train = (draw.random((n, N)) < 2 / FS) * draw.lognormal(0, 0.3, (n, N))
    fall = np.exp(-np.arange(48) / (0.12 * FS))
    sharp = np.stack([np.convolve(t, fall)[:N] for t in train])
    return (noise + 4 * sharp * spikes)[:, None]


def epilepsy(n: int, seed: int) -> Cohort:
    """Records whose sharp waves point up or down, as their label says."""
    draw = np.random.default_rng(seed + 100)
    up = draw.random(n) < 0.5
    x = waves(n, seed) * np.where(up, 1, -1)[:, None, None]
    x = x - x.mean(axis=2, keepdims=True)
    schema = Schema.model_validate(
        {"name": "eeg", "clock": "offset", "signals": {"eeg": {
            "kind": "eeg", "channels": ["O1"], "fs": FS, "duration": N / FS, "unit": "uV", "labels": ["up", "down"]}}}
    )  # fmt: skip
    records = pl.DataFrame(
        {
            "record_id": np.arange(n), "subject_id": np.arange(n),
            "visit_id": pl.Series([None] * n, dtype=pl.Int64), "time": pl.Series([None] * n, dtype=pl.Duration("us")),
            "n_samples": np.full(n, N), "label": pl.Series(np.where(up, "up", "down").tolist()),
        }
    )  # fmt: skip
    return Cohort.build(schema, {}, signals={"eeg": SignalSet(schema.signals["eeg"], records, x.astype(np.float32))})


def skewness(x: np.ndarray) -> float:
    x = x - x.mean(axis=-1, keepdims=True)
    return float(np.mean((x**3).mean(axis=-1) / np.square(x).mean(axis=-1) ** 1.5))


def test_moments_change_sign_with_the_record_and_what_tells_time_with_its_direction():
    x = waves(40, 0)
    seen = np.ones(x.shape, bool)
    found, down, back = (leaning_of(v, seen, FS) for v in (x, -x, x[..., ::-1]))
    assert found.shape == (40, N_LEANING)
    np.testing.assert_allclose(down, -found, atol=1e-9)
    in_time = np.r_[False, True, np.tile([False, True], 6)]
    np.testing.assert_allclose(back[:, [0]], found[:, [0]], atol=1e-9)
    np.testing.assert_allclose(back[:, [1]], -found[:, [1]], atol=1e-9)
    np.testing.assert_allclose(back[:, 2:], np.where(in_time, -1, 1)[2:] * found[:, 2:], atol=0.5)  # ends are mirrored


def test_sharp_waves_lean_and_noise_does_not():
    seen = np.ones((200, 1, N), bool)
    sharp, noise = (leaning_of(waves(200, 1, spikes=s), seen, FS) for s in (True, False))
    error = noise.std(axis=0) / np.sqrt(200)
    assert (np.abs(noise.mean(axis=0)) < 4 * error).all()
    assert sharp[:, 0].mean() > 1  # they point up
    assert sharp[:, 1].mean() > 0.5  # and rise faster than they fall
    assert sharp[:, 6].mean() > 0.2  # fast waves ride on the slow wave's top


@pytest.fixture(scope="module")
def model() -> SignalDiffusion:
    training = Training(steps=400, batch_size=32, optimizer="muon", learning_rate=3e-3, ema_power=18.0, warm_up=25,
                        evaluate_every=400, validation=0.1)  # fmt: skip
    return SignalDiffusion(width=16, levels=(1, 2), training=training).fit(epilepsy(160, 0), seed=0)


def test_drawn_sharp_waves_point_where_their_label_says(model):
    real = epilepsy(200, 5).signals["eeg"]
    labels = real.records["label"].to_numpy()
    for label in ("up", "down"):
        drawn = np.asarray(model.sample(60, seed=1, where={"eeg.label": label}).signals["eeg"].samples)
        assert 0.35 < skewness(drawn) / skewness(np.asarray(real.samples)[labels == label]) < 1.3


def test_a_gap_is_filled_and_what_is_seen_stays(model):
    part = epilepsy(6, 9)
    waves = part.signals["eeg"]
    samples = np.array(waves.samples)
    samples[:, :, 100:140] = np.nan
    gaps = Cohort.build(part.schema, {}, signals={"eeg": SignalSet(waves.spec, waves.records, samples)})
    filled = np.asarray(model.impute(gaps, seed=1).signals["eeg"].samples)
    assert np.isfinite(filled).all()
    np.testing.assert_allclose(filled[:, :, :100], samples[:, :, :100], atol=1e-4)
