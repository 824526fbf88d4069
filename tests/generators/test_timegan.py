"""What `timegan` must have learned, and broken variants that must fail at exactly that."""

import contextlib
from datetime import timedelta
from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch

from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.generators import create
from cohortloom.generators.timegan import TimeGAN
from cohortloom.generators.timegan_original import moment_loss
from cohortloom.generators.timegan_records import Records, _filled, _scaled, _written_again
from cohortloom.nets.gan_autoencoder import Batch
from cohortloom.nets.length_law import LengthLaw
from cohortloom.nets.recurrent_gan import LatentGenerator
from cohortloom.rng import Rng
from cohortloom.schema.text import parse_schema
from cohortloom.testing.checks import LONGEST, small_cohort

SMALL = {"width": 24, "training": {"steps": 130, "evaluate_every": 26, "learning_rate": 1e-2, "batch_size": 64}}


@pytest.fixture(scope="module")
def real():
    cohort = small_cohort(300, seed=4)
    length = cohort.tables["visits"].group_by("subject_id").len()
    long = length.filter(pl.col("len") == LONGEST)["subject_id"]
    return cohort.select(cohort.subjects.filter(~cohort.subjects.is_in(long.implode())))


@pytest.fixture(scope="module")
def fitted(real):
    return create("timegan", **SMALL).fit(real, seed=0)


def facts(cohort: Cohort) -> dict[str, float]:
    """What the small cohort has by construction."""
    people = cohort.tables["patients"].with_columns(male=(pl.col("sex") == "M").cast(pl.Float64))
    visits = cohort.tables["visits"].join(people, on="subject_id", how="left")
    visits = visits.with_columns(before=pl.col("sbp").shift(1).over("subject_id"))
    length = people.join(visits.group_by("subject_id").len(), on="subject_id", how="left").fill_null(0)
    first = visits.unique("subject_id", keep="first", maintain_order=True)
    corr = lambda frame, a, b: frame.drop_nulls([a, b]).select(pl.corr(a, b)).item()  # noqa: E731
    return {
        "static-temporal": corr(visits, "age", "sbp"),
        "memory": corr(visits, "sbp", "before"),
        "lengths": length["len"].std(),
        "lengths by sex": corr(length, "male", "len"),
        "first visit": first["sbp"].null_count() / first.height,
        "spread": visits["sbp"].std(),
    }


def floors(real: Cohort, drawn: Cohort) -> set[str]:
    """Names of the facts a sample misses: below .7 of the real size, or above 1.4 times.

    Recoveries know the rows before, so courses keep half of their memory and of their ties without a generator."""
    truth, found = facts(real), facts(drawn)
    return {k for k, v in truth.items() if not 0.7 * v < np.nan_to_num(found[k] or 0.0) < 1.4 * v}


@contextlib.contextmanager
def broken(how: str):
    """A fault planted in the networks or the data path."""
    if how == "generator gradient zeroed":
        likelihood, draw = LatentGenerator.log_prob, LatentGenerator.course
        with (
            mock.patch.object(LatentGenerator, "log_prob", lambda self, *a: still_of(self, likelihood(self, *a))),
            mock.patch.object(LatentGenerator, "course", lambda self, *a: still_of(self, draw(self, *a))),
        ):
            yield
    elif how == "padding misaligned":
        batch = Records.batch

        def late(x):
            return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)

        def padded_in_front(self, index, window=None):
            one = batch(self, index, window)
            return Batch(one.static, one.static_seen, late(one.step), late(one.step_seen), one.length)

        with mock.patch.object(Records, "batch", padded_in_front):
            yield
    elif how == "lengths constant":
        with mock.patch.object(LengthLaw, "draw", lambda self, c, stream, least=0: torch.full((len(c),), 3)):
            yield
    else:
        yield


def still_of(net, parts):
    """The same values; gradients of the generator are zero."""
    zero = 0.0 * sum(p.sum() for p in net.parameters())
    return tuple(x.detach() + zero for x in parts)


def test_it_learns_what_the_cohort_has(real, fitted):
    truth = facts(real)
    assert truth["static-temporal"] > 0.3 and truth["memory"] > 0.3 and truth["lengths by sex"] > 0.3
    assert floors(real, fitted.sample(800, seed=1)) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "fails"),
    [
        ("generator gradient zeroed", "memory"),
        ("padding misaligned", "first visit"),
        ("statics ignored", "static-temporal"),
        ("lengths constant", "lengths"),
    ],
)
def test_a_broken_variant_fails(real, how, fails):
    settings = SMALL | ({"static_embedding": False} if how == "statics ignored" else {})
    with broken(how):
        assert fails in floors(real, create("timegan", **settings).fit(real, seed=0).sample(800, seed=1))


def test_given_ages_move_the_pressures_drawn_for_them(real, fitted):
    people = real.tables["patients"]
    young, old = (real.select(people.filter(keep)["subject_id"]) for keep in (pl.col("age") < 50, pl.col("age") > 70))
    drawn = [fitted.sample(given=c, seed=3).tables["visits"]["sbp"].mean() for c in (young, old)]
    truth = [c.tables["visits"]["sbp"].mean() for c in (young, old)]
    assert drawn[1] - drawn[0] > 0.5 * (truth[1] - truth[0])


def test_a_fixed_first_pressure_is_kept_and_carried_on(fitted):
    second = []
    for value in (105, 145):
        drawn = fitted.sample(300, seed=5, where={"visits.sbp": value}).tables["visits"]
        assert drawn.unique("subject_id", keep="first", maintain_order=True)["sbp"].to_list() == [value] * 300
        place = pl.int_range(pl.len()).over("subject_id")
        second.append(drawn.filter(place == 1)["sbp"].mean())
    assert second[1] - second[0] > 8


def test_the_joint_phase_leaves_nothing_worse_behind(fitted):
    seen = [r["validation"] for r in fitted.history_.of("evaluation", "joint")]
    end = fitted.history_.of("end", "joint")[0]
    assert end["best"] == min(seen) <= seen[0] and fitted.history_.of("evaluation", "joint")[0]["step"] == 0


def test_a_collapse_is_rolled_back_and_named(real):
    """Without noise all patients are one: every evaluation sees it, and the phase ends without error."""
    model = create("timegan", width=8, training={"steps": 8, "evaluate_every": 4})
    quiet = lambda *shape, **how: torch.zeros(*shape)  # noqa: E731
    with (
        mock.patch("cohortloom.nets.recurrent_gan.torch.randn", quiet),
        mock.patch("cohortloom.nets.gan_law.RowLaw.filled", _most_likely),
        mock.patch.object(LengthLaw, "draw", lambda self, c, stream, least=0: torch.full((len(c),), 3)),
    ):
        model.fit(real, seed=0)
    back = model.history_.of("rollback", "joint")
    assert back and all("all alike" in r["why"] for r in back)
    assert "all alike" in model.history_.of("end", "joint")[0]["why"]


def _most_likely(self, h, *_, **how):
    """Every cell the mean of its column, none recorded."""
    values = torch.zeros(*h.shape[:-1], len(self.levels))
    return values, values.bool(), torch.zeros(len(h))


def test_settings_out_of_range_are_refused_together():
    with pytest.raises(SettingsError, match="width, beta"):
        TimeGAN(width=1, beta=-1.0)
    with pytest.raises(SettingsError):
        TimeGAN(objective="best")


def test_the_original_objective_runs_and_has_no_likelihood(real):
    part = real.select(real.subjects.slice(0, 60))
    model = create("timegan", objective="original", width=8, training={"steps": 6, "evaluate_every": 3})
    model.fit(part, seed=0)
    assert {r["phase"] for r in model.history_.of("end")} == {"embed", "length", "supervise", "joint"}
    assert model.sample(10, seed=1).n_subjects == 10
    with pytest.raises(SettingsError, match="likelihood"):
        model.score(part)


# -- the data path ---------------------------------------------------------------------------------------------------


def test_numbers_between_records_lie_on_the_line_between_them():
    value = np.array([[0.0], [1.0], [0.0], [0.0], [4.0], [0.0], [9.0], [9.0]])
    seen = np.array([0, 1, 0, 0, 1, 0, 0, 0], bool)[:, None]
    subject = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    filled = _filled(value, seen, subject, [0])[:, 0]
    np.testing.assert_allclose(filled, [1, 1, 2, 3, 4, 4, np.nan, np.nan])


def test_a_repeat_takes_the_last_value_of_its_own_patient():
    values, has = np.array([5.0, 7.0, 8.0, 1.0, 2.0]), np.array([1, 1, 0, 1, 1], bool)
    again, owner = np.array([0, 1, 1, 1, 1], bool), np.array([0, 0, 0, 1, 1])
    # the second of patient 0 repeats 5; patient 1 has nothing to repeat, so its values stay
    assert _written_again(values, has, again, owner)[0].tolist() == [5, 5, 8, 1, 2]


def test_normalised_courses_come_back():
    class Steps:
        length, subject = np.array([3, 1, 2]), np.array([0, 0, 0, 1, 2, 2])

    values, seen = Rng(0).numpy.normal(size=(6, 1)), np.array([1, 1, 1, 1, 0, 0], bool)[:, None]
    extra, there, scaled = _scaled(Steps, values, seen, [0])
    assert there.tolist() == [[True, True], [True, False], [False, False]]  # centre of all, width of one who varies
    assert np.abs(scaled).max() == pytest.approx(1) and scaled[3:].tolist() == [[0.0]] * 3
    back = extra[Steps.subject, :1] + scaled * np.where(there[:, 1:], np.exp(extra[:, 1:]), 0)[Steps.subject]
    np.testing.assert_allclose(back[:4], values[:4])


def test_moment_loss_by_hand():
    drawn, real = torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[0.0]], [[0.0]]])
    yes = torch.ones(2, 1).bool()
    assert moment_loss(drawn, real, yes, yes).item() == pytest.approx(2 + 1, abs=2e-3)  # means 2 and 0, sds 1 and 0
    one = torch.tensor([[True], [False]])
    assert moment_loss(drawn, real, one, yes).item() == pytest.approx(1, abs=2e-3)  # the padded patient does not count


def test_a_continued_patient_goes_on_from_where_he_was(real, fitted):
    visits = real.tables["visits"].drop_nulls("sbp")
    levels = visits.group_by("subject_id").agg(pl.col("sbp").mean(), n=pl.len()).filter(pl.col("n") > 1)
    cut = levels["sbp"].median()
    after = []
    for high in (False, True):
        ids = levels.filter((pl.col("sbp") > cut) == high)["subject_id"].sort().head(60)
        prefix = real.select(ids)
        longer = fitted.extend(prefix, until=timedelta(days=200), seed=1).tables["visits"]
        place = pl.int_range(pl.len()).over("subject_id")
        known = prefix.tables["visits"].group_by("subject_id").agg(known=pl.len())
        new = longer.with_columns(place=place).join(known, on="subject_id").filter(pl.col("place") >= pl.col("known"))
        assert 0 < new.height < 60 * 12
        after.append(new["sbp"].mean())
    assert after[1] - after[0] > 8


def test_a_cohort_without_statics_is_learned():
    """Windows of a series belong to nobody: visits alone, eight each."""
    schema = parse_schema(
        'name = "w"\nversion = "1"\nclock = "order"\n[tables.v]\nrole = "visit"\n'
        'columns.x = { kind = "number", decimals = 3 }\n'
    )
    x = np.random.default_rng(0).normal(size=(60, 8)).cumsum(1)
    rows = {"subject_id": np.repeat(np.arange(60), 8), "visit_id": np.arange(480), "time": np.tile(np.arange(8), 60)}
    cohort = Cohort.build(schema, {"v": pl.DataFrame(rows | {"x": x.ravel().round(3)})})
    model = create("timegan", width=8, training={"steps": 20, "evaluate_every": 10}).fit(cohort, seed=0)
    drawn = model.sample(50, seed=1)
    assert drawn.tables["v"].group_by("subject_id").len()["len"].to_list() == [8] * 50
    assert drawn.tables["v"]["x"].std() > 0.3
    third = pl.int_range(pl.len()) % 3 == 0
    visits = pl.DataFrame(rows | {"x": x.ravel().round(3)})
    holed = Cohort.build(schema, {"v": visits.with_columns(x=pl.when(third).then(None).otherwise(pl.col("x")))})
    assert model.impute(holed, draws=1, seed=2).tables["v"]["x"].null_count() == 0
    assert np.isfinite(model.score(cohort)).all()
