"""Fine noise between beats of drawn records: as large as in training records, or as planted."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from cohortloom.codec.beats import find_beats
from cohortloom.cohort import SignalSet
from cohortloom.generators.signal_diffusion import SignalDiffusion
from cohortloom.generators.signal_quiet import between_beats
from cohortloom.training import Training

_spec = importlib.util.spec_from_file_location("wave_cohorts", Path(__file__).with_name("wave_cohorts.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
clinic = _module.clinic


@pytest.fixture(scope="module")
def real():
    return clinic(120, seconds=5.0)


@pytest.fixture(scope="module")
def model(real):
    training = Training(steps=5, evaluate_every=5)
    return SignalDiffusion(width=8, levels=(1, 2), code=6, sampling_steps=4, training=training).fit(real, seed=0)


def noise(model, waves):
    """Log power between beats [band record channel], beats found in the samples alone."""
    bare = SignalSet(waves.spec, waves.records, waves.samples)
    beats = find_beats(bare, tuple(range(len(waves.spec.channels))))
    x, seen = model.codec_.samples.encode(waves.samples)
    away = between_beats(model.net_, beats, x.shape[2])[:, None] * torch.from_numpy(seen)
    return model.net_.still.log_power(torch.from_numpy(x), away)


def test_noise_is_as_large_as_in_training_records(model, real):
    """Quartiles of log power within .35 (amplitude within a fifth), a network of five steps notwithstanding."""
    want = noise(model, real.signals["ecg"])
    got = noise(model, model.sample(given=real, seed=1).signals["ecg"])
    levels = torch.tensor([0.25, 0.5, 0.75])
    assert (torch.quantile(got, levels, dim=1) - torch.quantile(want, levels, dim=1)).abs().max() < 0.35


def test_what_is_planted_is_drawn(model, real):
    """Were training records twice as loud between beats (log power higher by 1.4), drawn ones would be."""
    before = noise(model, model.sample(given=real, seed=1).signals["ecg"])
    with torch.no_grad():
        model.net_.still.found += 2 * np.log(2)
    try:
        after = noise(model, model.sample(given=real, seed=1).signals["ecg"])
    finally:
        model.net_.still.found -= 2 * np.log(2)
    # soft edges of beats are scaled less
    assert (after - before).median().item() == pytest.approx(2 * np.log(2), abs=0.5)
