"""The clinic and its faults are plain modules beside the tests."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def samples():
    """Three samples of the clinic: training, held-out, and a second real one that plays the synthetic cohort."""
    from clinic import clinic

    return clinic(600, 1), clinic(600, 2), clinic(600, 3)
