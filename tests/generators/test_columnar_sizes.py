"""Defaults on small cohorts, and what a user sees when training diverges."""

import numpy as np
import polars as pl
import pytest
import torch

from cohortloom import rules
from cohortloom.errors import TrainingError
from cohortloom.generators import create
from cohortloom.generators.columnar_training import size_of
from cohortloom.nets.columnar import ColumnNet
from cohortloom.rng import Rng
from cohortloom.testing.checks import small_cohort


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 300])
def test_defaults_give_valid_patients_on_small_cohorts(n):
    """Schema and rules hold, marginals are near; 300 patients are enough for pressure to go with age."""
    real = small_cohort(n, seed=1)
    drawn = create("columnar-ar").fit(real, seed=0).sample(600, seed=1)
    assert drawn.n_subjects == 600 and rules.broken_subjects(drawn).is_empty() and rules.check(drawn) == []

    def facts(cohort):
        count = cohort.tables["visits"].group_by("subject_id").len()
        each = cohort.subjects.to_frame("subject_id").join(count, on="subject_id", how="left")["len"].fill_null(0)
        visits = cohort.tables["visits"].join(cohort.tables["patients"], on="subject_id")
        return {
            "visits": each.mean(),
            "pressure": visits["sbp"].mean(),
            "missing": visits["sbp"].is_null().mean(),
            "age": visits.select(pl.corr("sbp", "age")).item(),
        }

    one, two = facts(real), facts(drawn)
    spread = real.tables["visits"]["sbp"].std()
    within = {"visits": 0.35 * one["visits"], "pressure": 0.4 * spread, "missing": 0.1}
    within |= {"age": 0.3} if n >= 300 else {}
    assert all(abs(one[name] - two[name]) < within[name] for name in within), (one, two)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_divergence_names_the_network_the_cause_and_what_to_do(monkeypatch, what):
    whole = ColumnNet.log_prob

    def broken(self, rows):
        cells = whole(self, rows)
        if what == "loss":
            return cells * np.nan
        return cells + (self.own_bias.sum() - self.own_bias.sum().detach()).abs().sqrt()  # slope of sqrt at 0

    monkeypatch.setattr(ColumnNet, "log_prob", broken)
    model = create("columnar-ar", members=1, training={"steps": 20, "retries": 1})
    with pytest.raises(TrainingError, match=r'"statics 0" diverged 2 times \(likelihood: .*not finite') as error:
        model.fit(small_cohort(40), seed=0)
    assert "learning_rate" in str(error.value) and "cohortloom.validate" in str(error.value)


@pytest.mark.parametrize(
    ("patients", "columns", "low_rank"), [(60, 210, False), (60, 300, True), (5_000, 60, False), (5_000, 61, True)]
)
def test_few_patients_have_the_full_form_up_to_many_columns(patients, columns, low_rank):
    """What columns of a row say of each other starts at a regression in the full form only."""
    assert all(size_of(net, patients, 2 * patients, columns).low_rank == low_rank for net in ("first", "later"))


def test_rows_are_drawn_by_one_thread_however_many_weights_there_are():
    """No product of a row network sees more than a few thousand weights: a second thread waits for the first."""
    model, before = create("columnar-ar"), torch.get_num_threads()
    model.net_ = torch.nn.Linear(1_100, 1_000)
    torch.set_num_threads(2)
    try:
        with model._layers(Rng(0)):
            assert torch.get_num_threads() == 2
        model.net_.row_by_row = True
        with model._layers(Rng(0)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
