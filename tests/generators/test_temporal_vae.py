"""The temporal VAE keeps associations that `independent` loses, and conditions change what they should."""

import numpy as np
import polars as pl
import pytest

from cohortloom.generators import create
from cohortloom.rng import Rng
from cohortloom.testing.checks import small_cohort


@pytest.fixture(scope="module")
def real():
    return small_cohort(500, seed=4)


@pytest.fixture(scope="module")
def vae(real):
    return create("temporal-vae", training={"epochs": 60}).fit(real, seed=0)


def associations(cohort):
    """Correlations that the small cohort has by construction: static-static, static-temporal, temporal, counts."""
    people, visits = cohort.tables["patients"], cohort.tables["visits"]
    male = people.with_columns(male=(pl.col("sex") == "M").cast(pl.Float64), smokes=pl.col("smoker").cast(pl.Float64))
    counts = visits.group_by("subject_id").len()
    whole = male.join(counts, on="subject_id", how="left").with_columns(pl.col("len").fill_null(0).clip(0, 12))
    rows = visits.join(male, on="subject_id", how="inner").with_columns(
        before=pl.col("sbp").shift(1).over("subject_id"),
        rank=pl.col("grade").replace_strict({"I": 0.0, "II": 1.0, "III": 2.0}, default=None),
    )
    pairs = (
        (whole, "male", "smokes"), (whole, "male", "len"), (rows, "age", "sbp"), (rows, "sbp", "before"),
        (rows, "sbp", "rank"),
    )  # fmt: skip
    return np.array([frame.select(pl.corr(a, b)).item() for frame, a, b in pairs
                     for frame in [frame.drop_nulls([a, b])]])  # fmt: skip


def test_it_beats_independent_on_every_kind_of_association(real, vae):
    truth = associations(real)
    independent = associations(create("independent").fit(real, seed=0).sample(1000, seed=1))
    drawn = associations(vae.sample(1000, seed=1))
    assert (np.abs(truth) > 0.3).all() and (np.abs(independent) < 0.2).all()  # the oracle has something to lose
    assert (np.abs(drawn - truth) < np.abs(independent - truth)).all()
    assert np.abs(drawn - truth).mean() < 0.4 * np.abs(independent - truth).mean()


def test_a_fixed_sex_moves_what_depends_on_it(real, vae):
    share = {s: vae.sample(600, seed=2, where={"patients.sex": s}).tables["patients"]["smoker"].mean() for s in "FM"}
    truth = real.tables["patients"].group_by("sex").agg(pl.col("smoker").mean())
    for sex, mean in truth.iter_rows():
        assert share[sex] == pytest.approx(mean, abs=0.12)


def test_given_ages_move_the_pressures_drawn_for_them(real, vae):
    young, old = (real.select(real.tables["patients"].filter(keep)["subject_id"]).subjects for keep in
                  (pl.col("age") < 50, pl.col("age") > 70))  # fmt: skip
    means = [vae.sample(given=real.select(ids), seed=3).tables["visits"]["sbp"].mean() for ids in (young, old)]
    truth = [real.select(ids).tables["visits"]["sbp"].mean() for ids in (young, old)]
    assert means[1] - means[0] == pytest.approx(truth[1] - truth[0], rel=0.4)


def test_score_tells_patients_from_shuffled_ones(real, vae):
    people = real.tables["patients"]
    order = Rng(0).numpy.permutation(people.height)
    shuffled = type(real).build(real.schema, {**real.tables, "patients": people.with_columns(
        pl.col("sex").gather(order), pl.col("age").gather(order))})  # fmt: skip
    assert vae.score(real).mean() > vae.score(shuffled).mean() + 0.3
