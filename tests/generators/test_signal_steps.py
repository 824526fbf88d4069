"""Short waveforms through the generators of records: nothing is lost on the way, labels are kept, limits are named."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import DataError, SettingsError
from cohortloom.generators.signal_steps import SignalSteps
from cohortloom.generators.store import load
from cohortloom.schema import Schema
from cohortloom.testing.checks import assert_same

TINY = {"generator": "temporal-vae", "width": 16, "training": {"steps": 10}}
INNER = {
    "columnar-ar": {"training": {"steps": 80}},
    "temporal-vae": {"width": 32, "training": {"steps": 600, "evaluate_every": 100}},
    "timegan": {"width": 24, "training": {"steps": 300, "evaluate_every": 100}},
}


def pulses(n=150, *, length=50, channels=("a", "b"), labelled=True, seed=0):
    """A pulse up or down, by label, of each record's own size; channel b is half of channel a."""
    draw = np.random.default_rng(seed)
    up = draw.random(n) < 0.5
    size = np.where(up, 1.0, -1.0) * draw.uniform(0.8, 1.2, n)
    wave = size[:, None] * np.exp(-0.5 * np.square((np.arange(length) - 20) / 4))
    x = np.stack([wave, wave / 2], axis=1)[:, : len(channels)] + 0.05 * draw.standard_normal((n, len(channels), length))
    signal = {"kind": "ecg", "channels": list(channels), "fs": 50}
    schema = Schema.model_validate(
        {"name": "pulses", "clock": "offset", "signals": {"w": {**signal, "labels": ["up", "down"] * labelled}}}
    )
    records = pl.DataFrame(
        {
            "record_id": np.arange(n), "subject_id": np.arange(1, n + 1),
            "visit_id": pl.Series([None] * n, dtype=pl.Int64), "time": pl.Series([None] * n, dtype=pl.Duration("us")),
            "n_samples": np.full(n, length), "label": pl.Series(np.where(up, "up", "down").tolist()) if labelled
            else pl.Series([None] * n, dtype=pl.String),
        }
    )  # fmt: skip
    return Cohort.build(schema, {}, signals={"w": SignalSet(schema.signals["w"], records, x.astype(np.float32))})


@pytest.fixture(scope="module")
def model():
    return SignalSteps(generator=TINY, patch=10).fit(pulses(20), seed=0)


@pytest.mark.parametrize(("length", "patch", "channels"), [(50, 1, ("a", "b")), (50, 7, ("a", "b")), (5, 9, ("a",))])
def test_records_come_back_from_their_steps(length, patch, channels):
    """Whatever the patch, also one that does not divide the length, and with gaps."""
    waves = pulses(20, length=length, channels=channels).signals["w"]
    samples = waves.samples.copy()
    samples[3, 0, 1:4] = np.nan
    model = SignalSteps(patch=patch)
    model.facts_ = {"signal": "w", "n_samples": length, "channels": len(channels), "patch": patch,
                    "sets": ["down", "up"]}  # fmt: skip
    steps = model._steps(SignalSet(waves.spec, waves.records, samples))
    np.testing.assert_allclose(model._samples(steps), samples, rtol=1e-6)
    assert steps.tables["record"]["label"].cast(pl.String).to_list() == waves.records["label"].to_list()


def test_labels_are_balanced(model):
    drawn = model.sample(8, seed=1, rebalance={"w.label": {"up": 0.25, "down": 0.75}}).signals["w"].records
    assert drawn.unique("subject_id")["label"].value_counts(sort=True).rows() == [("down", 6), ("up", 2)]


@pytest.mark.parametrize(
    "inner", ["columnar-ar", *(pytest.param(n, marks=pytest.mark.slow) for n in ("temporal-vae", "timegan"))]
)
def test_records_have_the_shape_of_their_label(inner):
    model = SignalSteps(generator={"generator": inner, **INNER[inner]}, patch=10).fit(pulses(), seed=0)
    for label, sign in (("up", 1), ("down", -1)):
        drawn = model.sample(400, seed=1, where={"w.label": label}).signals["w"]
        assert set(drawn.records["label"]) == {label} and drawn.samples.shape == (400, 2, 50)
        peak = drawn.samples[:, 0, 18:23].mean(axis=1)
        assert (np.sign(peak) == sign).mean() > 0.85 and abs(abs(np.median(peak)) - 0.95) < 0.35
        # channels drawn apart: 0 with a standard error of .05
        assert np.corrcoef(peak, drawn.samples[:, 1, 18:23].mean(axis=1))[0, 1] > 0.15


def test_it_survives_the_disk(model, tmp_path):
    model.save(tmp_path / "m")
    assert_same(load(tmp_path / "m").sample(10, seed=3), model.sample(10, seed=3))


def test_records_without_labels_are_drawn():
    model = SignalSteps(generator=TINY, patch=10).fit(pulses(30, labelled=False), seed=0)
    drawn = model.sample(5, seed=1)
    assert drawn.signals["w"].records["label"].null_count() == 5


def test_what_it_can_not_take_is_named(model):
    with pytest.raises(DataError, match="at most 512 samples"):
        SignalSteps().fit(pulses(5, length=600), seed=0)
    with pytest.raises(DataError, match="must be one of w"):
        SignalSteps(signal="v").fit(pulses(5), seed=0)
    with pytest.raises(SettingsError, match="no such label"):
        model.sample(2, seed=0, where={"w.label": "sideways"})
    with pytest.raises(SettingsError, match="can't be fixed"):
        model.sample(2, seed=0, where={"w.heart_rate": 60})
    with pytest.raises(SettingsError, match="does not draw whole patients"):
        SignalSteps(generator="signal-diffusion")
