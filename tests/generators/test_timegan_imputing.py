"""Filling holes with timegan: against the law it draws from."""

import columnar_cohorts as known
import numpy as np
import polars as pl
import pytest
import torch

from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.generators import create
from cohortloom.nets.gan_law import RowLaw
from cohortloom.nets.gan_rows import Rows
from cohortloom.rng import Rng
from cohortloom.training import drawing_from


def test_a_row_is_filled_from_its_law_given_that_it_is_recorded():
    """Two numbers and a category, one of each a hole, against the densities written out."""
    with drawing_from(Rng(0).torch):
        rows = Rows([0, 0, 4])
        law = RowLaw(rows, 3, [[0.3], [-0.2], [0.1, -1.0, 0.0, 0.5]], [False, False, False], tied=False)
    h = torch.tensor([[0.5, -1.0, 2.0]]).expand(40_000, 3)
    values, seen = torch.tensor([[0.0, 1.5, 0.0]]).expand(len(h), 3), torch.tensor([[False, True, False]])
    holes = torch.tensor([[True, False, True]]).expand(len(h), 3)
    with torch.no_grad():
        told = values, seen.expand(len(h), 3) | holes, ~holes
        x, has, log_p = law.filled(h, rows, Rng(1).torch, known=told, holes=holes)
        dense = rows(x[:1], has[:1])
        (mean, log_sd), at = law.numbers_of(h[:1], dense), law.laws(h[:1], dense)
        mark, few, own = at.seen, at.few, law.terms(h[:1], x[:1], has[:1], dense)
    assert has.all() and (x[:, 1] == 1.5).all()
    assert x[:, 0].mean().item() == pytest.approx(mean[0, 0].item(), abs=0.03)
    assert x[:, 0].std().item() == pytest.approx(log_sd[0, 0].exp().item(), rel=0.03)
    share = few[0, 0].exp()
    found = torch.bincount(x[:, 2].long(), minlength=4) / len(x)
    np.testing.assert_allclose(found[1:], share[1:] / share[1:].sum(), atol=0.012)
    assert found[0] == 0
    recorded = torch.nn.functional.logsigmoid(mark[0, 0]) + own[0, 1] + (1 - share[0]).log()
    np.testing.assert_allclose(log_p, recorded.item(), atol=1e-5)


def holed(cohort: Cohort, columns: list[str], share: float) -> tuple[Cohort, dict[str, np.ndarray]]:
    """Cells of the visits hidden at random, and which."""
    rng, visits = np.random.default_rng(1), cohort.tables["visits"]
    hide = {c: rng.random(visits.height) < share for c in columns}
    visits = visits.with_columns(pl.when(pl.Series(hide[c])).then(None).otherwise(c).alias(c) for c in columns)
    return Cohort.build(cohort.schema, {**cohort.tables, "visits": visits}), hide


def ranks(whole: Cohort, full: Cohort, column: str, hide: np.ndarray, draws: int) -> np.ndarray:
    """How many draws of each hidden value lie below it; equal ones count half."""
    truth = whole.tables["visits"].with_columns(hide=pl.Series(hide)).group_by("subject_id", maintain_order=True)
    truth = truth.agg(column, "hide")
    drawn = full.tables["visits"].group_by("subject_id", maintain_order=True).agg(column)[column].to_list()
    out = []
    place = {s: i for i, s in enumerate(full.subjects.to_list())}
    names = full.tables["visits"]["subject_id"].unique(maintain_order=True).to_list()
    lists = {place[name]: values for name, values in zip(names, drawn)}
    order = {s: i for i, s in enumerate(whole.subjects.to_list())}
    for subject, values, hidden in truth.iter_rows():
        for k in np.flatnonzero(hidden):
            if values[k] is not None:
                own = np.array([lists[order[subject] * draws + d][k] for d in range(draws)])
                out.append((own < values[k]).sum() + 0.5 * (own == values[k]).sum())
    return np.array(out)


@pytest.mark.slow
def test_hidden_values_of_drawn_patients_are_as_likely_as_their_draws():
    """The model's own patients, some cells hidden: truth and draws come from one law, so every rank is as frequent.

    This holds however well the model is trained; courses with five columns, whose values repeat and depend on each
    other, and latents that a wrong proposal would pin to the line between neighbours.
    """
    columns, draws = ["x", "repeated", "patchy"], 4
    model = create("timegan", candidates=1, adversarial=False, training={"steps": 400}).fit(
        known.clinic(500, seed=0), seed=0
    )
    whole = model.sample(150, seed=5)
    part, hide = holed(whole, columns, 0.25)
    full = model.impute(part, draws=draws, seed=0)
    for column in columns:
        found = ranks(whole, full, column, hide[column], draws)
        assert len(found) > 120
        inside = np.mean((found > 0.25) & (found < draws - 0.25))  # 3 of 5 places
        assert inside == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / len(found))), column
        assert found.mean() == pytest.approx(draws / 2, abs=4 * np.sqrt(2 / len(found))), column


@pytest.fixture(scope="module")
def model():
    real = known.clinic(60, seed=1)
    visits = real.tables["visits"].with_columns(pl.lit(None, pl.String).alias("state"))
    real = Cohort.build(real.schema, {**real.tables, "visits": visits})
    return create("timegan", width=12, adversarial=False, training={"steps": 15}).fit(real, seed=0), real


def test_observed_cells_stay_and_holes_are_filled(model):
    model, real = model
    people = real.tables["patients"].with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("sex").alias("sex"))
    part, hide = holed(Cohort.build(real.schema, {**real.tables, "patients": people}), ["x", "repeated"], 0.3)
    full = model.impute(part, seed=0)
    before, after = part.tables["visits"], full.tables["visits"]
    for column in ("x", "repeated", "patchy"):
        seen = before[column].is_not_null()
        assert after[column].filter(seen).equals(before[column].filter(seen)) and after[column].null_count() == 0
    assert full.tables["patients"]["sex"].null_count() == 0
    assert after["state"].null_count() == after.height, "a column that was never recorded is no hole"
    assert model.impute(part, seed=0).tables["visits"].equals(after)
    assert not model.impute(part, seed=1).tables["visits"].equals(after)
    assert hide["x"].any()


@pytest.mark.parametrize("settings", [{"objective": "original"}, {"normalise": True}])
def test_variants_without_a_law_of_holes_say_so(settings):
    real = known.clinic(40, seed=1)
    model = create("timegan", width=8, training={"steps": 3}, **settings).fit(real, seed=0)
    with pytest.raises(SettingsError, match="holes have no law"):
        model.impute(real, seed=0)
