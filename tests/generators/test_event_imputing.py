"""Filling holes with the event transformer: weights against the likelihood, draws against the model's own patients."""

import columnar_cohorts as known
import numpy as np
import polars as pl
import pytest
import torch

from cohortloom.cohort import Cohort
from cohortloom.generators import create
from cohortloom.generators.event_imputing import _Walk, _with_slots
from cohortloom.rng import Rng


@pytest.fixture(scope="module")
def model():
    training = {"steps": 60}
    return create("event-transformer", width=16, layers=1, training=training).fit(known.clinic(80, seed=0), seed=0)


def holed(cohort: Cohort, share: float) -> tuple[Cohort, np.ndarray]:
    """States of the visits hidden at random, and which."""
    visits = cohort.tables["visits"]
    hide = np.random.default_rng(1).random(visits.height) < share
    visits = visits.with_columns(pl.when(pl.Series(hide)).then(None).otherwise("state").alias("state"))
    return Cohort.build(cohort.schema, {**cohort.tables, "visits": visits}), hide


def test_without_holes_the_weight_of_a_particle_is_the_likelihood(model):
    cohort = model.sample(10, seed=3)
    encoded = model.codec_.encode(
        cohort,
        rng=Rng(0)
        .child(
            "score",
        )
        .child("encode"),
    )
    stream, column = _with_slots(model._drawing, encoded.sequence, np.zeros((len(encoded.sequence.gap), 5), bool))
    order = np.argsort(-stream.length, kind="stable")
    nothing = np.zeros((10, encoded.static.values.shape[1]), bool)
    walk = _Walk(model.net_, model._drawing, encoded.static.take(order), stream, order, column, nothing, Rng(1), 2)
    walk._renew = lambda alive: np.arange(alive * 2)
    with torch.no_grad():
        statics, _, tokens = walk.go()
    # the law of drawing leaves out values that can't be, so it lies a little above
    per_token = (walk.log_weight[:, 0] - model.score(cohort)[order]) / np.maximum(stream.length[order], 1)
    assert (per_token > -1e-3).all() and (per_token < 0.05).all()
    np.testing.assert_array_equal(statics, encoded.static.values[order])
    longest = encoded.sequence.take(order[:1])
    np.testing.assert_allclose(tokens[0, : len(longest.values)], longest.values)


def test_observed_cells_stay_and_holes_are_filled(model):
    real = known.clinic(25, seed=1)
    part, hide = holed(real, 0.4)
    people = part.tables["patients"].with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("sex").alias("sex"))
    part = Cohort.build(part.schema, {**part.tables, "patients": people})
    full = model.impute(part, seed=0)
    before, after = part.tables["visits"], full.tables["visits"]
    for column in before.columns:
        seen = before[column].is_not_null()
        assert after[column].filter(seen).equals(before[column].filter(seen)) and after[column].null_count() == 0
    sex = people["sex"].is_not_null()
    assert full.tables["patients"]["sex"].filter(sex).equals(people["sex"].filter(sex))
    assert full.tables["patients"]["sex"].null_count() == 0 and hide.any()
    assert model.impute(part, seed=0).tables["visits"].equals(after)
    only = model.impute(part, seed=0, columns=["visits.state"]).tables["visits"]
    assert only["state"].null_count() == 0 and only["patchy"].equals(before["patchy"])


@pytest.mark.slow
def test_hidden_states_of_drawn_patients_are_as_likely_as_their_draws():
    """The model's own patients: a hidden state agrees with a draw of it as often as two draws with each other."""
    real = known.clinic(400, seed=0)
    nothing = [pl.lit(None, pl.Float64).alias(column) for column in ("x", "repeated", "dose")]
    real = Cohort.build(real.schema, {**real.tables, "visits": real.tables["visits"].with_columns(nothing)})
    model = create("event-transformer", width=32, training={"steps": 300}).fit(real, seed=0)
    whole = model.sample(150, seed=5)
    part, hide = holed(whole, 0.3)
    full = model.impute(part, draws=2, seed=0, columns=["visits.state"])
    place = [pl.int_range(pl.len()).over("subject_id").alias("place")]
    drawn = full.tables["visits"].with_columns(*place, pl.col("subject_id").str.split("#").alias("name"))
    drawn = drawn.with_columns(
        pl.col("name").list.get(0).cast(pl.Int64).alias("subject_id"), pl.col("name").list.get(1).alias("draw")
    ).pivot("draw", index=["subject_id", "place"], values="state")
    truth = whole.tables["visits"].with_columns(*place, pl.Series("hide", hide)).drop_nulls("state").filter("hide")
    both = truth.join(drawn, on=["subject_id", "place"], how="left")
    assert both.height > 100
    one, two = (both["state"] == both["1"]).mean(), (both["1"] == both["2"]).mean()
    assert one > 0.6, "a state that stays tells about the hidden one"
    assert one == pytest.approx(two, abs=3 * np.sqrt(0.5 / both.height))
