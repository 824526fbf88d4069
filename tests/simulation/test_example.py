"""The example runs and finds the effect that was put in."""

import importlib.util
from pathlib import Path

import pytest


def test_the_example_recovers_the_effect_of_the_beta_blocker(capsys):
    path = Path(__file__).parents[2] / "examples/cohort_without_data/run.py"
    spec = importlib.util.spec_from_file_location("cohort_without_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.main(400)
    assert found["broken"] == 0
    assert found["adjusted"] == pytest.approx(-10, abs=1.5)  # less than put in: withheld where the rate is low
    assert "heart_failure_clinic: 400 subjects" in capsys.readouterr().out
