"""Every planted fault is seen by the check or score that is named for it, and good waveforms by none."""

import numbers
from dataclasses import replace

import numpy as np
import pytest
import waveform_faults
from ecg_clinic import ecg_clinic, eeg_clinic

from cohortloom.evaluation import signals_judge, signals_near, signals_record, signals_shape
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.signals_sides import make_side, prepare_signal
from cohortloom.rng import Rng
from cohortloom.rules.waveform import check_records

FAULTS = {"ecg": waveform_faults.ECG, "eeg": waveform_faults.EEG}
ALL = [(kind, name) for kind, table in FAULTS.items() for name in table]
MODULES = {"record": signals_record, "labels": signals_judge, "diversity": signals_near, "copies": signals_near}
N = 120


@pytest.fixture(scope="module")
def clinics():
    """For each kind: context of three samples of the same patients' law, the third of which plays the synthetic one."""
    found = {}
    for kind, make in (("ecg", ecg_clinic), ("eeg", eeg_clinic)):
        train, held_out, third = make(N, 1), make(N, 2), make(N, 3, kind="synthetic")
        ctx = prepare_signal(prepare(third, train=train, held_out=held_out, seed=0, fast=True), kind)
        found[kind] = ctx, third
    return found


def spoiled(cohort, kind, make):
    signal = cohort.signals[kind]
    most = 3000.0 if kind == "eeg" else 10.0
    spec = signal.spec.model_copy(update={"low": -most, "high": most})
    samples = make(np.array(signal.samples, dtype=float), spec.fs, list(spec.channels), np.random.default_rng(0))
    made = replace(signal, spec=spec, samples=samples.astype(np.float32))
    return replace(cohort, signals={kind: made})


def failed_checks(cohort, kind, n=40):
    verdicts = check_records(cohort.signals[kind], rows=range(n))
    return {c.name for c in verdicts.checks if len(verdicts.rows("fail", c.name)) > 0.05 * n}


def failed_scores(ctx, cohort, kind, modules):
    side = make_side(cohort, cohort.signals[kind], N, Rng(0))
    changed = replace(ctx, views={**ctx.views, "synthetic": side})
    with np.errstate(all="ignore"):
        scores = [s for m in modules for s in m.scores(changed)]
    assert all(s.passed in (None, True, False) and type(s.passed) in (bool, type(None)) for s in scores)
    assert all(isinstance(s.value, numbers.Real | None) for s in scores)
    return {s.key for s in scores if s.passed is False}


def seen(clinics, kind, name):
    """Which of the fault's keys see it."""
    make, keys = FAULTS[kind][name]
    ctx, third = clinics[kind]
    cohort = spoiled(third, kind, make)
    checks = [k for k in keys if not k.startswith("signals.")]
    scores = [k for k in keys if k.startswith("signals.")]
    found = failed_checks(cohort, kind) & set(checks) if checks else set()
    if scores and not found:
        modules = {MODULES.get(k.split(".")[2].split("_")[0], signals_shape) for k in scores}
        found |= failed_scores(ctx, cohort, kind, modules) & set(scores)
    return found


@pytest.fixture(scope="module")
def few():
    return {"ecg": ecg_clinic(20, 3), "eeg": eeg_clinic(20, 3)}


VALIDATED = [(k, n) for k, n in ALL if not all(key.startswith("signals.") for key in FAULTS[k][n][1])]


@pytest.mark.parametrize(("kind", "name"), VALIDATED)
def test_a_planted_fault_fails_a_validator_or_is_left_to_the_scores(few, kind, name):
    make, keys = FAULTS[kind][name]
    failed = failed_checks(spoiled(few[kind], kind, make), kind, 20)
    assert failed & set(keys) or any(k.startswith("signals.") for k in keys)


@pytest.mark.parametrize("kind", ["ecg", "eeg"])
def test_good_waveforms_fail_no_validator(few, kind):
    assert failed_checks(spoiled(few[kind], kind, lambda x, *_: x), kind, 20) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_planted_fault_is_seen(clinics, kind, name):
    assert seen(clinics, kind, name), f"none of {FAULTS[kind][name][1]}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ecg", "eeg"])
def test_good_waveforms_pass(clinics, kind):
    ctx, third = clinics[kind]
    cohort = spoiled(third, kind, lambda x, *_: x)
    assert failed_checks(cohort, kind) == set()
    assert failed_scores(ctx, cohort, kind, (signals_shape, signals_record, signals_judge, signals_near)) == set()


def test_there_are_faults_enough():
    assert len(ALL) >= 40
