"""A budget of minutes holds for the whole fit, preparing included."""

import columnar_cohorts as known
import pytest

from cohortloom.generators import create, torch_base


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
