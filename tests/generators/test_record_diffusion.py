"""Record diffusion: floors that broken variants miss, both directions of conditioning, imputation, repeats, windows."""

from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch

from cohortloom.cohort import Cohort
from cohortloom.diffusion.path import EDM
from cohortloom.generators import create, record_courses, record_training
from cohortloom.generators.record_drawing import Draw, sources
from cohortloom.generators.record_tensors import Records, cells_from
from cohortloom.nets.record_cells import CellColumn, Columns
from cohortloom.nets.record_denoiser import NUMBERS, TOKENS
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.testing.checks import LONGEST, small_cohort

SETTINGS = {"width": 32, "sampling_steps": 8, "training": {"steps": 240, "evaluate_every": 40}}


def made(cohort, **settings):
    return create("record-diffusion", **{**SETTINGS, **settings}).fit(cohort, seed=0)


@pytest.fixture(scope="module")
def real():
    return small_cohort(250, seed=4)


@pytest.fixture(scope="module")
def model(real):
    return made(real)


# --- floors ---


def associations(cohort):
    """Correlations that the small cohort has by construction, all of them above .25."""
    people, visits = cohort.tables["patients"], cohort.tables["visits"]
    male = people.with_columns(male=(pl.col("sex") == "M").cast(pl.Float64), smokes=pl.col("smoker").cast(pl.Float64))
    whole = male.join(visits.group_by("subject_id").len(), on="subject_id", how="left")
    whole = whole.with_columns(pl.col("len").fill_null(0).clip(0, 12))
    rows = visits.join(male, on="subject_id").with_columns(
        before=pl.col("sbp").shift(1).over("subject_id"),
        rank=pl.col("grade").replace_strict({"I": 0.0, "II": 1.0, "III": 2.0}, default=None),
    )
    pairs = {
        "static-static": (whole, "male", "smokes"), "static-length": (whole, "male", "len"),
        "static-course": (rows, "age", "sbp"), "course": (rows, "sbp", "before"), "columns": (rows, "sbp", "rank"),
    }  # fmt: skip
    return {n: f.drop_nulls([a, b]).select(pl.corr(a, b)).item() for n, (f, a, b) in pairs.items()}


def floor_training_lowers_the_validation_loss(generator, real):
    found = [r["validation"] for r in generator.history_.records if r.get("validation") is not None]
    assert min(found) < found[0] - 0.015


def floor_associations_are_kept(generator, real):
    truth, drawn = associations(real), associations(generator.sample(500, seed=1))
    for name, value in truth.items():
        assert drawn[name] > 0.45 * value, f"{name}: {drawn[name]:.2f} of {value:.2f}"


def floor_no_length_is_copied(generator, real):
    length = generator.sample(800, seed=1).tables["visits"].group_by("subject_id").len()["len"]
    assert (length == LONGEST).sum() == 0


FLOORS = [floor_training_lowers_the_validation_loss, floor_associations_are_kept, floor_no_length_is_copied]


@pytest.mark.parametrize("floor", FLOORS)
def test_floor(floor, model, real):
    floor(model, real)


def without_gradient(real):
    total = record_training.Losses.total
    none = lambda self, counts: total(self, counts).detach() + 0 * total(self, counts)  # noqa: E731
    with mock.patch.object(record_training.Losses, "total", none):
        return made(real), mock.MagicMock()


def with_misaligned_padding(real):
    window = Records.window

    def shifted(self, index, begin, n_steps):
        _, present = window(self, index, begin, n_steps)
        other, _ = window(self, index.roll(1), begin, n_steps)
        return other, present

    with mock.patch.object(Records, "window", shifted):
        return made(real), mock.MagicMock()


def without_statics(real):
    still = Draw._still

    def blind(self, cells, present):
        if present is None:
            cells = cells.take(torch.arange(len(cells.token)))
            cells.known[:, : -self.n_last] = False
        return still(self, cells, present)

    return made(real, training={"steps": 100}), mock.patch.object(Draw, "_still", blind)


def with_copied_lengths(real):
    length = real.tables["visits"].group_by("subject_id").len()["len"].to_numpy()
    limit = record_courses.Courses._limit

    def copied(self, value, past, span):
        limit(self, value, past, span)
        value[:, self.alphabet.n_visits_at] = self.rng.child("copied").numpy.choice(length, len(value))

    return made(real, training={"steps": 1}), mock.patch.object(record_courses.Courses, "_limit", copied)


@pytest.mark.parametrize(
    ("broken", "floor"),
    [
        (without_gradient, floor_training_lowers_the_validation_loss),
        pytest.param(with_misaligned_padding, floor_associations_are_kept, marks=pytest.mark.slow),
        pytest.param(without_statics, floor_associations_are_kept, marks=pytest.mark.slow),
        (with_copied_lengths, floor_no_length_is_copied),
    ],
)
def test_a_broken_variant_misses_its_floor(broken, floor, real):
    generator, patch = broken(real)
    with patch, pytest.raises(AssertionError):
        floor(generator, real)


# --- conditioning ---


def test_a_fixed_sex_moves_what_depends_on_it(real, model):
    share = {s: model.sample(400, seed=2, where={"patients.sex": s}).tables["patients"]["smoker"].mean() for s in "FM"}
    truth = dict(real.tables["patients"].group_by("sex").agg(pl.col("smoker").mean()).iter_rows())
    assert share["M"] - share["F"] > 0.4 * (truth["M"] - truth["F"])


def test_statics_are_drawn_given_the_course(real, model):
    # the age is taken away; what is drawn for it must go with the blood pressures that stayed
    people = real.tables["patients"]
    blank = people.with_columns(pl.lit(None, dtype=pl.Float64).alias("age"))
    full = model.impute(Cohort.build(real.schema, {**real.tables, "patients": blank}), seed=3).tables["patients"]
    pressure = real.tables["visits"].group_by("subject_id").agg(pl.col("sbp").mean())
    both = full.join(pressure, on="subject_id").join(people.select("subject_id", truth="age"), on="subject_id")
    both = both.drop_nulls(["age", "sbp", "truth"])
    wanted, found = (both.select(pl.corr(name, "sbp")).item() for name in ("truth", "age"))
    assert wanted > 0.4 and found > 0.4 * wanted


def test_score_tells_patients_from_shuffled_ones(real, model):
    people = real.tables["patients"]
    order = Rng(0).numpy.permutation(people.height)
    shuffled = people.with_columns(pl.col("sex").gather(order), pl.col("age").gather(order))
    other = Cohort.build(real.schema, {**real.tables, "patients": shuffled})
    assert model.score(real).mean() > model.score(other).mean() + 0.01


# --- courses of known law ---


def autoregressive(n, steps, rng, *, rho=0.8, missing=0.0, repeat=0.0, levels=0):
    """Patients on the clock "order" with one AR(1) column, some cells missing, some repeated, a column of codes."""
    columns = {"x": {"kind": "number", "unit": "1", "low": -50, "high": 50, "decimals": 2}}
    if levels:
        columns["code"] = {"kind": "category", "levels": [f"c{k}" for k in range(levels)]}
    schema = Schema.model_validate(
        {"name": "ar", "clock": "order", "tables": {"visits": {"role": "visit", "columns": columns}}}
    )
    x = np.zeros((n, steps))
    x[:, 0] = rng.normal(0, 1, n)
    for t in range(1, steps):
        fresh = rho * x[:, t - 1] + rng.normal(0, np.sqrt(1 - rho**2), n)
        x[:, t] = np.where(rng.random(n) < repeat, x[:, t - 1], fresh)
    x = x.round(2)
    hole = rng.random(x.shape) < missing
    rows = {
        "subject_id": np.repeat(np.arange(n), steps), "visit_id": np.arange(n * steps),
        "time": np.tile(np.arange(steps), n),
        "x": pl.Series(x.ravel()).set(pl.Series(hole.ravel()), None),
    }  # fmt: skip
    if levels:
        share = 1 / np.arange(1, levels + 1)
        rows["code"] = [f"c{k}" for k in rng.choice(levels, n * steps, p=share / share.sum())]
    return Cohort.build(schema, {"visits": pl.DataFrame(rows)}), x, hole


def lagged(cohort, lag=1, at=None):
    rows = cohort.tables["visits"].with_columns(
        before=pl.col("x").shift(lag).over("subject_id"), i=pl.int_range(pl.len()).over("subject_id")
    )
    rows = rows if at is None else rows.filter(pl.col("i") == at)
    return rows.drop_nulls(["x", "before"]).select(pl.corr("x", "before")).item()


def test_courses_longer_than_the_window_go_on_across_its_edge():
    cohort, _, _ = autoregressive(80, 40, Rng(0).numpy, rho=0.9)
    drawn = made(cohort, window=16, training={"steps": 20}).sample(200, seed=1)
    assert (drawn.tables["visits"].group_by("subject_id").len()["len"] == 40).all()
    # standard error of a correlation of .9 at n = 200 is .013
    assert lagged(drawn, at=16) > 0.8 and lagged(drawn, at=28) > 0.8 and lagged(drawn) == pytest.approx(0.9, abs=0.05)


def test_repeats_are_exact_and_as_frequent_as_in_training():
    cohort, x, _ = autoregressive(150, 8, Rng(1).numpy, repeat=0.3)
    rows = made(cohort, training={"steps": 120}).sample(300, seed=1).tables["visits"]
    same = rows.select((pl.col("x") == pl.col("x").shift(1).over("subject_id")).mean()).item()
    assert same == pytest.approx((x[:, 1:] == x[:, :-1]).mean(), abs=0.06)


def test_many_codes_keep_their_shares():
    cohort, _, _ = autoregressive(150, 6, Rng(2).numpy, levels=400)
    model = made(cohort, training={"steps": 40})
    drawn, seen = (c.tables["visits"]["code"].value_counts(normalize=True) for c in (model.sample(300, seed=1), cohort))
    both = seen.join(drawn, on="code", how="left", suffix="_drawn").fill_null(0).sort("proportion", descending=True)
    top = both.head(5)
    assert np.abs(top["proportion"] - top["proportion_drawn"]).max() < 0.06
    assert model.net_.series.large == [1]


@pytest.mark.slow
def test_imputed_values_have_the_law_of_the_smoother():
    steps, rho, draws = 8, 0.8, 40
    cohort, x, hole = autoregressive(400, steps, Rng(3).numpy, rho=rho, missing=0.3)
    model = made(cohort, sampling_steps=20, training={"steps": 500})
    part = cohort.select(cohort.subjects.slice(0, 60))
    full = model.impute(part, seed=1, draws=draws).tables["visits"]["x"].to_numpy().reshape(60, draws, steps)
    covariance = rho ** np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    errors, ratios = [], []
    for i in range(60):
        o, h = np.flatnonzero(~hole[i]), np.flatnonzero(hole[i])
        if not len(h) or not len(o):
            continue
        gain = covariance[np.ix_(h, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        sd = np.sqrt(np.diag(covariance[np.ix_(h, h)] - gain @ covariance[np.ix_(o, h)]))
        errors += list((full[i][:, h].mean(0) - gain @ x[i, o]) / sd)
        ratios += list(full[i][:, h].var(0) / sd**2)
    # the mean of 40 draws is off by 1 / sqrt(40) = .16 sd, a variance of 40 draws by 22 %; learned: a little more
    assert np.sqrt(np.mean(np.square(errors))) < 0.35
    assert np.mean(ratios) == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_continued_courses_start_from_where_they_stood():
    cohort, x, _ = autoregressive(300, 8, Rng(4).numpy, rho=0.9)
    model = made(cohort, training={"steps": 300})
    first = cohort.tables["visits"].filter(pl.col("time") < 4)
    prefix = Cohort.build(cohort.schema, {"visits": first})
    longer = model.extend(prefix, until=2, seed=1).tables["visits"]
    then = longer.filter(pl.col("time") == 4).sort("subject_id")
    here = x[then["subject_id"].to_numpy(), 3]
    assert then.height > 250
    assert np.corrcoef(here, then["x"].to_numpy())[0, 1] == pytest.approx(0.9, abs=0.06)


# --- parts ---


def test_what_is_asked_of_the_network_is_what_it_says_of_everything(real, model):
    net, n = model.net_, 20
    encoded = model.codec_.encode(real.select(real.subjects.head(n)), rng=Rng(0))
    read = cells_from(model._alphabet, encoded)
    made = record_training.batch(net, read, torch.arange(n), model._n_last, EDM(), 128, Rng(1).torch)
    inputs = made[0].shown, made[1].shown, *made[3:5], (made[0].clock, made[1].clock), made[5]
    with torch.no_grad():
        whole = net(*inputs)
        for part in (0, 1):
            tokens, numbers = net(*inputs, part, TOKENS)[part], net(*inputs, part, NUMBERS)[part]
            assert torch.allclose(tokens.small, whole[part].small, atol=1e-4)
            assert torch.allclose(numbers.clean, whole[part].clean, atol=1e-4)


def test_patients_are_drawn_with_others_of_their_length(model):
    length = np.array([40, 1, 3, *[1] * 300, *[2] * 100, 0, 41])
    parts = list(model._courses(Rng(0))._chunks(np.argsort(length, kind="stable"), length))
    assert sorted(np.concatenate(parts)) == list(range(len(length)))
    padding = sum(len(p) * length[p].max() for p in parts) - length.sum()
    assert padding <= 64 * len(parts) and len(parts) <= 6


def test_sources_are_the_last_recorded_visits():
    column = CellColumn("number", (True, True, True, True), (0.25,) * 4, spikes=(0.5,), repeat=2)
    token = torch.from_numpy(Rng(5).numpy.integers(0, 4, (20, 9, 1)))
    found = sources(Columns((column,)), token)
    for i in range(20):
        last = None
        for t in range(9):
            now = int(token[i, t, 0])
            wanted = last if now == 2 and last is not None else t
            assert found[i, t, 0] == wanted
            last = t if now in (0, 1) else last


def test_gaps_are_shortened_to_the_end_and_else_left_alone():
    gap = np.array([[0.0, 10, 20, 30], [0, 10, 20, 30]])
    inside = np.array([[False, True, True, True]] * 2)
    free = inside & np.array([[True, True, False, True]])
    out = record_courses.shortened(gap, free, inside, np.array([40.0, 100.0]), 1.0, True)
    assert out[1].tolist() == [0, 10, 20, 30]
    assert out[0, 2] == 20 and out[0].sum() <= 40 and out[0, 1] == 5
