"""Sharp waves and spindles drawn as events: how many, when, which way up, by label and patient."""

import numpy as np
import polars as pl
import pytest

import cohortloom.generators.signal_diffusion as signal_diffusion
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.generators import load
from cohortloom.generators.signal_diffusion import SignalDiffusion
from cohortloom.generators.signal_distill import distill
from cohortloom.schema import Schema
from cohortloom.training import Training

FS, N = 64.0, 384
SETTINGS = dict(width=16, levels=(1, 2))
TRAINING = Training(steps=250, batch_size=16, optimizer="muon", learning_rate=3e-3, ema_power=18.0, warm_up=25,
                    evaluate_every=250, validation=0.1)  # fmt: skip
TIMES = np.arange(N) / FS


def clinic(n: int, seed: int) -> Cohort:
    """Records with 2.4 s of discharges every .4 s, up or down as their label says, or asleep with spindles.

    A patient is deeply asleep (1.8 spindles a record) or not (.2).
    """
    draw = np.random.default_rng(seed)
    label = np.array(["up", "down", "asleep"])[np.arange(n) % 3]
    deep = (draw.random(n) < 0.5).astype(float)
    rate = np.fft.rfftfreq(2 * N, 1 / FS)
    x = np.fft.irfft(np.fft.rfft(draw.standard_normal((n, 2 * N))) * np.maximum(rate, 0.5) ** -0.5)[:, :N]
    x /= x.std()
    for r in range(n):
        if label[r] == "asleep":
            for _ in range(draw.poisson(0.2 + 1.6 * deep[r])):
                away = TIMES - draw.uniform(0.8, 5.2)
                window = np.where(np.abs(away) < 0.5, np.cos(np.pi * away) ** 2, 0.0)
                x[r] += 3 * window * np.cos(2 * np.pi * 13 * TIMES + draw.uniform(0, 6))
            continue
        at = draw.uniform(0.4, 2.8)
        for _ in range(6):
            since = TIMES - at
            wave = np.where(since >= 0, np.exp(-since / 0.05), 0.0)
            x[r] += 6 * draw.lognormal(0, 0.1) * (1 if label[r] == "up" else -1) * wave
            at += 0.4 * draw.lognormal(0, 0.06)
    schema = Schema.model_validate(
        {"name": "eeg", "clock": "offset",
         "tables": {"patients": {"role": "static", "columns": {"deep": {"kind": "number", "low": 0, "high": 1}}}},
         "signals": {"eeg": {"kind": "eeg", "channels": ["Cz"], "fs": FS, "duration": N / FS, "unit": "uV",
                             "labels": ["up", "down", "asleep"]}}}
    )  # fmt: skip
    records = pl.DataFrame(
        {
            "record_id": np.arange(n), "subject_id": np.arange(n),
            "visit_id": pl.Series([None] * n, dtype=pl.Int64), "time": pl.Series([None] * n, dtype=pl.Duration("us")),
            "n_samples": np.full(n, N), "label": label,
        }
    )  # fmt: skip
    patients = pl.DataFrame({"subject_id": np.arange(n), "deep": deep})
    waves = SignalSet(schema.signals["eeg"], records, x[:, None].astype(np.float32))
    return Cohort.build(schema, {"patients": patients}, signals={"eeg": waves})


@pytest.fixture(scope="module")
def model() -> SignalDiffusion:
    return SignalDiffusion(**SETTINGS, training=TRAINING).fit(clinic(270, 0), seed=0)


def told(model: SignalDiffusion, cohort: Cohort) -> dict[str, float]:
    """What events of records say: intervals and signs of discharges, spindles and their tie to depth."""
    waves = cohort.signals["eeg"]
    x, _ = model.codec_.samples.encode(np.asarray(waves.samples))
    law = model.net_.law
    found = law.found(x, np.random.default_rng(0))
    label = waves.records["label"].to_numpy()
    deep = waves.records.join(cohort.tables["patients"], on="subject_id", how="left")["deep"].to_numpy()
    sharp, burst = found.real & ~found.burst, found.real & found.burst
    signs = {}
    for which in ("up", "down"):
        top = [
            law.train(found.take(np.array([r])), N)[0, 0, np.rint(found.place[r, sharp[r]]).astype(int)]
            for r in np.flatnonzero(label == which)
        ]
        signs[which] = float((np.concatenate(top) > 0).mean())
    ill = np.flatnonzero(label != "asleep")
    gaps = np.concatenate([np.diff(found.place[r, sharp[r]]) / FS for r in ill])
    near = gaps[gaps < 0.6]
    asleep = label == "asleep"
    spindles = burst[asleep].sum(axis=1)
    return {
        "discharges": float(sharp[ill].sum(axis=1).mean()), "interval": float(np.median(gaps)),
        "variation": float(near.std() / near.mean()), "up": signs["up"], "down": signs["down"],
        "spindles": float(spindles.mean()), "by_depth": float(np.corrcoef(spindles, deep[asleep])[0, 1]),
        "elsewhere": float(burst[ill].sum(axis=1).mean()), "span": float(found.marks[..., 1][burst].mean()),
        "rate": float(np.median(found.marks[..., 2][burst])),
    }  # fmt: skip


@pytest.fixture(scope="module")
def real(model) -> dict[str, float]:
    return told(model, clinic(240, 7))


@pytest.fixture(scope="module")
def drawn(model) -> dict[str, float]:
    return told(model, model.sample(given=clinic(240, 7), seed=1))


def test_discharges_are_as_many_and_as_regular(real, drawn):
    assert drawn["discharges"] == pytest.approx(real["discharges"], rel=0.25)
    assert drawn["interval"] == pytest.approx(real["interval"], rel=0.1)
    assert drawn["variation"] < real["variation"] + 0.1


def test_discharges_point_where_their_label_says(real, drawn):
    assert drawn["up"] > real["up"] - 0.1
    assert drawn["down"] < real["down"] + 0.1


def test_spindles_are_as_many_as_long_and_follow_the_patient(real, drawn):
    assert drawn["spindles"] == pytest.approx(real["spindles"], rel=0.35)
    assert drawn["by_depth"] > 0.3 * real["by_depth"] > 0.15  # 90 sleepers in training tell half of it
    assert drawn["span"] == pytest.approx(real["span"], rel=0.3)
    assert drawn["rate"] == pytest.approx(real["rate"], rel=0.05)
    assert drawn["elsewhere"] < real["elsewhere"] + 0.3


def test_broken_draws_are_seen(model, real, monkeypatch):
    own = signal_diffusion.drawn_events
    given = clinic(150, 7)

    def shuffled(*args):
        events = own(*args)
        place = np.random.default_rng(0).uniform(0, N, events.place.shape)
        return type(events)(np.sort(place, axis=1), events.burst, events.marks, events.count)

    def unsigned(*args):
        events = own(*args)
        sharp = ~events.burst[..., None] & (np.arange(events.marks.shape[2]) < len(model.net_.law.shapes))
        return type(events)(
            events.place, events.burst, np.where(sharp, np.abs(events.marks), events.marks), events.count
        )

    monkeypatch.setattr(signal_diffusion, "drawn_events", shuffled)
    assert told(model, model.sample(given=given, seed=1))["variation"] > real["variation"] + 0.1
    monkeypatch.setattr(signal_diffusion, "drawn_events", unsigned)
    found = told(model, model.sample(given=given, seed=1))
    assert found["up"] < real["up"] - 0.1 or found["down"] > real["down"] + 0.1


def test_a_gap_is_filled_with_discharges(model):
    part = clinic(60, 9)
    waves = part.signals["eeg"]
    samples = np.array(waves.samples)
    samples[:, :, 128:320] = np.nan
    holed = Cohort.build(part.schema, part.tables, signals={"eeg": SignalSet(waves.spec, waves.records, samples)})
    filled = model.impute(holed, seed=1)
    x = np.asarray(filled.signals["eeg"].samples)
    np.testing.assert_allclose(x[:, :, :128], samples[:, :, :128], atol=1e-4)
    ill = waves.records["label"].to_numpy() != "asleep"
    scaled, _ = model.codec_.samples.encode(x)
    found = model.net_.law.found(scaled, np.random.default_rng(0))
    inside = found.real & ~found.burst & (found.place > 128) & (found.place < 320)
    assert inside[ill].sum(axis=1).mean() > 2  # most of them are due


def test_a_loaded_model_and_a_student_draw_events(model, real, tmp_path):
    model.save(tmp_path / "model")
    given = clinic(24, 8)
    both = (model, load(tmp_path / "model"))
    np.testing.assert_array_equal(*(np.asarray(m.sample(given=given, seed=1).signals["eeg"].samples) for m in both))
    student, _, _ = distill(model, steps=4, updates=5, records=32, given=given)
    found = told(model, student.sample(given=clinic(90, 7), seed=1))
    assert found["discharges"] > 0.6 * real["discharges"]
