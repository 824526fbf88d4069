"""Latents of waveforms: what coding and decoding costs a record by itself, and plants the same measures must see."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.signal import resample_poly

from cohortloom.codec.beats import find_beats, template_grid
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import SettingsError
from cohortloom.evaluation.detection import auc
from cohortloom.evaluation.signals_judge import Kernels
from cohortloom.generators.signal_diffusion import SignalDiffusion
from cohortloom.generators.signal_distill import distill
from cohortloom.generators.signal_inpaint import recoded
from cohortloom.generators.signal_records import guides
from cohortloom.generators.store import load
from cohortloom.nets import gaussian_start
from cohortloom.nets.gaussian_start import LatentStart
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.simulation.ecg import draw_traits, simulate_ecg
from cohortloom.testing.checks import assert_same
from cohortloom.training import Training

FS, LEADS = 250.0, ("I", "II", "V2", "V5")
SETTINGS = {"latent": 2, "width": 8, "levels": (1,), "sampling_steps": 4, "precision": "float32",
            "training": Training(steps=4, batch_size=4, evaluate_every=4)}  # fmt: skip


def ecgs(n, seed=0, seconds=3.0):
    """Simulated leads without a record beside them."""
    samples, _ = simulate_ecg(draw_traits(n, Rng(seed)), fs=FS, duration=seconds, rng=Rng(seed), leads=LEADS)
    schema = Schema.model_validate(
        {"name": "ecgs", "clock": "offset", "signals": {"ecg": {
            "kind": "ecg", "channels": list(LEADS), "fs": FS, "duration": seconds}}}
    )  # fmt: skip
    ids = np.arange(n)
    records = pl.DataFrame({
        "record_id": ids, "subject_id": ids, "visit_id": pl.Series([None] * n, dtype=pl.Int64),
        "time": pl.Series([None] * n, dtype=pl.Duration("us")), "n_samples": np.full(n, samples.shape[2]),
        "label": pl.Series([None] * n, dtype=pl.String),
    })  # fmt: skip
    return Cohort.build(schema, {}, signals={"ecg": SignalSet(schema.signals["ecg"], records, samples)})


@pytest.fixture(scope="module")
def model():
    return SignalDiffusion(**SETTINGS).fit(ecgs(80), seed=0)


@pytest.fixture(scope="module")
def others():
    return ecgs(80, seed=1)


def cost(model, cohort):
    """(95 % of R peaks' shifts [s], mean relative error of R heights, AUC of recoded against other real records)."""
    real, made = cohort.signals["ecg"], recoded(model, cohort, Rng(0)).signals["ecg"]
    before, after = find_beats(real, (0, 1, 2, 3)), find_beats(made, (0, 1, 2, 3))
    shifts, errors, reach = [], [], round(0.05 * FS)
    for i in range(len(real.samples)):
        found = after.place[i, : after.count[i]]
        for r in before.place[i, : before.count[i]]:
            shifts.append(np.abs(found - r).min(initial=FS) / FS)
            near = slice(max(round(r) - reach, 0), round(r) + reach)
            heights = [np.ptp(np.asarray(w.samples)[i][:, near], axis=1) for w in (real, made)]
            lead = heights[0].argmax()
            errors.append(abs(heights[1][lead] / heights[0][lead] - 1))
    x, y = (np.asarray(w.samples) for w in (real, made))
    odd = np.arange(len(x)) % 2 == 1  # each record is judged in one of its forms only
    judged = [told_apart(np.concatenate([x[part], y[~part]]), np.repeat([0, 1], part.sum())) for part in (odd, ~odd)]
    return np.quantile(shifts, 0.95), np.mean(errors), np.mean(judged)


def told_apart(x, label):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seen = Kernels.fit(x, 40, np.random.default_rng(0)).transform(x)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return auc(cross_val_predict(judge, seen, label, cv=3, method="decision_function"), label)


def accepted(found):
    shift, height, judged = found
    return shift < 0.01 and height < 0.05 and judged < 0.65


def test_coding_and_decoding_alone_costs_no_beat_its_place_or_height(model, others):
    assert accepted(cost(model, others))


def test_too_long_a_stride_is_seen(others):
    assert not accepted(cost(SignalDiffusion(**{**SETTINGS, "latent": 16}).fit(ecgs(80), seed=0), others))


def shuffled(into):
    return lambda self, x: into(self, x)[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def late(into):
    return lambda self, x: into(self, x).roll(1, -1)  # by one stride


@pytest.mark.parametrize("plant", [shuffled, late])
def test_latents_that_are_shuffled_or_out_of_step_are_seen(model, others, monkeypatch, plant):
    right = LatentStart.into
    monkeypatch.setattr(LatentStart, "into", plant(right))
    monkeypatch.setattr(LatentStart, "_put", lambda self, u, x: x + self._out(u - right(self, x)))
    assert not accepted(cost(model, others))


def test_a_decoder_that_draws_nothing_is_seen(model, others, monkeypatch):
    monkeypatch.setattr(gaussian_start.Start, "noisy", lambda self, noise, sigma: self.mean)
    assert cost(model, others)[2] > 0.8


def test_a_beat_train_at_a_high_rate_is_its_averaged_beat_and_no_image():
    def beat(t):
        return np.exp(-0.5 * (t / 0.012) ** 2) - 0.3 * np.exp(-0.5 * ((t - 0.03) / 0.012) ** 2)

    template = torch.from_numpy(beat(template_grid(500.0))).float()[None, None]
    place, real = torch.tensor([[300.3, 800.7]]), torch.ones(1, 2, dtype=torch.bool)
    train = guides(template, place, real, ~real, 1200, 500.0)[0, 0].numpy()
    t = np.arange(1200)
    assert np.abs(train - beat((t - 300.3) / 500) - beat((t - 800.7) / 500)).max() < 1e-3


def test_records_drawn_by_latents_are_whole_and_repeat(model, tmp_path):
    drawn = model.sample(10, seed=1)
    assert_same(drawn, model.sample(10, seed=1))
    model.save(tmp_path / "m")
    assert_same(drawn, load(tmp_path / "m").sample(10, seed=1))
    x = drawn.signals["ecg"].samples
    assert x.shape == (10, 4, 750) and np.isfinite(x).all()
    assert model.net_.denoiser.n_channels == 4 and model.net_.denoiser.patch == 5


def test_few_axes_stand_for_many_channels(others):
    waves = others.signals["ecg"]
    twins = np.concatenate([waves.samples, waves.samples], axis=1)
    names = [*LEADS, *(f"{n}b" for n in LEADS)]
    spec = waves.spec.model_copy(update={"channels": tuple(names)})
    schema = others.schema.model_copy(update={"signals": {"ecg": spec}})
    cohort = Cohort.build(schema, {}, signals={"ecg": SignalSet(spec, waves.records, twins)})
    model = SignalDiffusion(**SETTINGS, latent_channels=4).fit(cohort, seed=0)
    assert model.net_.denoiser.n_channels == 4
    x = model.sample(20, seed=1).signals["ecg"].samples
    assert np.abs(x[:, :4] - x[:, 4:]).max() < 0.05 * x.std()  # what is the same in training stays the same


def test_a_gap_is_filled_around_what_was_seen(model, others):
    few = others.select(others.subjects.head(8))
    waves = few.signals["ecg"]
    holed = waves.samples.copy()
    holed[:, :, 400:600] = np.nan
    holed[:, 3] = np.nan
    cohort = replace(few, signals={"ecg": replace(waves, samples=holed)})
    filled = model.impute(cohort, seed=1).signals["ecg"].samples
    seen = np.isfinite(holed)
    assert np.array_equal(filled[seen], waves.samples[seen]) and np.isfinite(filled).all()
    lead = [np.corrcoef(a[3], b[3])[0, 1] for a, b in zip(filled, waves.samples)]
    assert np.median(lead) > 0.6


def test_records_of_a_lower_rate_are_refined(model, others):
    few = others.select(others.subjects.head(6))
    waves = few.signals["ecg"]
    spec = waves.spec.model_copy(update={"fs": FS / 2})
    low = resample_poly(waves.samples, 1, 2, axis=2, padtype="edge").astype(np.float32)
    records = waves.records.with_columns(n_samples=pl.lit(low.shape[2], pl.Int64))
    schema = few.schema.model_copy(update={"signals": {"ecg": spec}})
    fine = model.refine(Cohort.build(schema, {}, signals={"ecg": SignalSet(spec, records, low)}), seed=1)
    off = fine.signals["ecg"].samples[:, :, 10:740] - waves.samples[:, :, 10:740]
    assert off.std() < 0.15 * waves.samples.std()


def test_a_student_of_latents_draws_records(model):
    student, _, prices = distill(model, steps=8, updates=2, records=8, seed=0)
    assert student.sample(3, seed=1).signals["ecg"].samples.shape == (3, 4, 750)
    assert prices[0].distance == 0.0 and prices[-1].distance > 0


def test_what_latents_can_not_do_is_said(others):
    with pytest.raises(SettingsError, match="start"):
        SignalDiffusion(latent=4, start=False)
    plain = SignalDiffusion(**{**SETTINGS, "latent": 0}).fit(others, seed=0)
    with pytest.raises(SettingsError, match="no latents"):
        recoded(plain, others, Rng(0))
