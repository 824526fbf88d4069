"""Cells within something that is not there: every record generator leaves them out of its loss and of what it draws.

Networks that have hardly been trained draw by the shares of the training rows. A cell that counts only where it is
there comes there as often as in training. One that counts everywhere, "absent" included, is drawn half as often where
its gate is shut half of the time, and those rows are lost.
"""

from unittest import mock

import numpy as np
import pytest
import torch
from test_columnar_gates import NO, YES, cohort, continues_fills_and_comes_back

from cohortloom.codec import gates
from cohortloom.generators import columnar_encoding, create, record_diffusion, timegan_records
from cohortloom.generators.base import Generator
from cohortloom.generators.cells import raw_values
from cohortloom.rng import Rng

LEARNERS = ("temporal-vae", "timegan", "record-diffusion")
BARELY = {"temporal-vae": {}, "timegan": {"adversarial": False}, "record-diffusion": {"sampling_steps": 8}}


def barely(name: str) -> Generator:
    """A single step of training, and no regression before it: that would learn what a gate says."""
    with mock.patch.object(record_diffusion, "fit_tokens"):
        return create(name, training={"steps": 1, "batch_size": 8}, **BARELY[name]).fit(cohort(), seed=0)


def faults(name: str) -> set[str]:
    """What is wrong with the findings of drawn visits."""
    fitted = barely(name)
    drawn = fitted.sample(800, seed=1)
    encoded = fitted.codec_.encode(drawn, rng=Rng(0))
    values = raw_values(encoded.sequence)
    there = values[:, 1] == YES
    found = {
        "visits with findings": (there.mean(), 0.5, 0.2),
        "B among them": ((~np.isnan(values[there, 2])).mean(), 0.92, 0.08),
        "A among them": ((values[there, 3] == YES).mean(), 0.95, 0.08),
    }
    return {what for what, (is_, should, by) in found.items() if not abs(is_ - should) < by}


@pytest.mark.parametrize("name", LEARNERS)
def test_rows_are_as_many_as_their_law_says(name):
    assert not faults(name)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_generator_that_does_not_see_gates_loses_rows(name):
    with (
        mock.patch.object(columnar_encoding, "gates_of", lambda features: {}),
        mock.patch.object(timegan_records, "gates_of", lambda features: {}),
    ):
        assert faults(name)


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_not_there_is_not_drawn(name):
    fitted = barely(name)
    with torch.no_grad():
        part = fitted._draw(300, None, Rng(1), {}).sequence
    shut = part.values[:, 1] == NO
    assert shut.any() and not part.observed[shut, 2].any()
    assert not (part.observed[shut, 3] & (part.values[shut, 3] == YES)).any()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_gated_model_scores_continues_fills_and_comes_back_from_disk(name, tmp_path):
    fitted, real = barely(name), cohort(60)
    assert np.isfinite(fitted.score(real)).all()
    continues_fills_and_comes_back(fitted, real, 2, tmp_path / "model")


def test_a_chain_of_gates_shuts_together():
    chain = {1: gates.Gate(0, 2.0, 2.0), 2: gates.Gate(1, 2.0, np.nan)}
    shut = gates.shut_of([np.array([2.0, 3, 3]), np.array([3.0, 2, 3])], chain)
    assert shut[1].tolist() == [True, False, False] and shut[2].tolist() == [True, True, False]
    assert gates.gates_from_json(gates.gates_to_json(chain))[1] == chain[1]
