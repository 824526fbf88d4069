"""Fixtures every package uses."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def schema_dir() -> Path:
    """Folder of the committed schemas."""
    return Path(__file__).parents[1] / "schemas"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real, open data sets beside the repository; tests marked `real` are skipped without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not here")
    return folder


@pytest.fixture(scope="session")
def small_cohort(schema_dir):
    """60 simulated patients of the heart failure clinic."""
    from cohortloom.schema.text import read_schema
    from cohortloom.simulation import simulate

    return simulate(read_schema(schema_dir / "heart_failure_clinic.toml"), 60, seed=1)
