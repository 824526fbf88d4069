"""A budget of minutes holds for the whole fit, preparing included."""

import importlib.util
from pathlib import Path

import pytest

from cohortloom.generators import create, torch_base

_spec = importlib.util.spec_from_file_location("columnar_cohorts", Path(__file__).with_name("columnar_cohorts.py"))
known = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(known)


class Stop(Exception):
    """Carries what training was given."""


@pytest.mark.parametrize(("preparing", "budget", "left"), [(30.0, 2.0, 1.5), (600.0, 2.0, 0.2), (30.0, None, None)])
def test_preparing_counts(monkeypatch, preparing, budget, left):
    clock = iter([100.0, 100.0 + preparing])

    def stop(*args, minutes, **kwargs):
        raise Stop(minutes)

    monkeypatch.setattr(torch_base, "train", stop)
    monkeypatch.setattr(torch_base.time, "monotonic", lambda: next(clock, 1e6))
    with pytest.raises(Stop) as found:
        create("columnar-ar").fit(known.clinic(6, seed=0), seed=0, minutes=budget)
    assert found.value.args[0] == (left if left is None else pytest.approx(left))
