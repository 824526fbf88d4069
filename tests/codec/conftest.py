"""Shared by the codec's tests."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def hospital():
    """The function that builds the five-table cohort of `hospital.py`."""
    spec = importlib.util.spec_from_file_location("codec_hospital", Path(__file__).with_name("hospital.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.hospital
