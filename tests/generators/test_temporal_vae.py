"""What the temporal VAE must have learned, and broken variants that must fail at exactly that."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import torch

from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.generators import create
from cohortloom.generators.temporal_vae_data import Courses
from cohortloom.generators.temporal_vae_drawing import Drawer
from cohortloom.nets.visit_vae import Latents
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.testing.checks import small_cohort

SETTINGS = {"width": 32, "training": {"steps": 130, "evaluate_every": 26}}


@pytest.fixture(scope="module")
def real():
    return small_cohort(300, seed=4)


@pytest.fixture(scope="module")
def vae(real):
    return create("temporal-vae", **SETTINGS).fit(real, seed=0)


def associations(cohort):
    """Correlations that the small cohort has by construction."""
    people, visits = cohort.tables["patients"], cohort.tables["visits"]
    male = people.with_columns(male=(pl.col("sex") == "M").cast(pl.Float64), smokes=pl.col("smoker").cast(pl.Float64))
    counts = visits.group_by("subject_id").len()
    whole = male.join(counts, on="subject_id", how="left").with_columns(pl.col("len").fill_null(0).clip(0, 12))
    rows = visits.sort("subject_id", "time").join(male, on="subject_id", how="inner").with_columns(
        before=pl.col("sbp").shift(1).over("subject_id"),
        rank=pl.col("grade").replace_strict({"I": 0.0, "II": 1.0, "III": 2.0}, default=None),
    )  # fmt: skip
    pairs = {
        "statics": (whole, "male", "smokes"), "number of visits": (whole, "male", "len"),
        "static and visit": (rows, "age", "sbp"), "visit and visit": (rows, "sbp", "before"),
        "within a visit": (rows, "sbp", "rank"),
    }  # fmt: skip
    return {fact: frame.drop_nulls([a, b]).select(pl.corr(a, b)).item() for fact, (frame, a, b) in pairs.items()}


def missed(real, drawn):
    """Facts of which less than half is left, and lengths off (a short training keeps 55 to 60 % of the weakest)."""
    truth, found = associations(real), associations(drawn)
    out = {fact for fact in truth if np.nan_to_num(found[fact]) < 0.5 * truth[fact]}
    lengths = [np.sort(visits_of(c)) for c in (real, drawn)]
    grid = np.linspace(0, 1, 200)
    apart = np.abs(np.quantile(lengths[0], grid) - np.quantile(lengths[1], grid)).mean()
    return out | ({"length"} if apart > 0.5 else set())


def visits_of(cohort):
    counts = cohort.tables["visits"].group_by("subject_id").len()
    return pl.DataFrame({"subject_id": cohort.subjects}).join(counts, on="subject_id", how="left")["len"].fill_null(0)


def test_it_learns_every_kind_of_association(real, vae):
    assert min(associations(real).values()) > 0.3  # the oracle has something to lose
    assert missed(real, create("independent").fit(real, seed=0).sample(800, seed=1)) >= set(associations(real))
    assert missed(real, vae.sample(800, seed=1)) == set()


# -- broken parts are noticed --


def still(monkeypatch):
    """Gradients are zeroed."""
    make = torch.autograd.backward

    def zeroed(loss, *, inputs):
        make(loss, inputs=inputs)
        for p in inputs:
            p.grad = None if p.grad is None else torch.zeros_like(p.grad)

    monkeypatch.setattr(torch.autograd, "backward", zeroed)


def misaligned(monkeypatch):
    """Visits are read from where another patient's begin."""
    make = Courses.of.__func__

    def shifted(cls, frame, encoded):
        made = make(cls, frame, encoded)
        room = len(made.position) - made.length
        made.start = torch.minimum(torch.roll(made.start, 3), room.clamp(min=0))
        return made

    monkeypatch.setattr(Courses, "of", classmethod(shifted))


def statics_ignored(monkeypatch):
    """Courses are drawn from the latents and statics of others."""
    draw = Drawer.statics

    def shuffled(self, z, *args):
        cells, values, weight = draw(self, z, *args)
        if len(z) > 1:
            for name in ("value", "token", "score"):
                part = getattr(cells, name)
                part[:, :-1] = np.roll(part[:, :-1], 7, 0)
            z.copy_(torch.roll(z, 7, 0))
        return cells, values, weight

    monkeypatch.setattr(Drawer, "statics", shuffled)


def lengths_copied(monkeypatch):
    """Lengths are dealt out from a fixed list, whoever the patient is."""
    listed = np.array([2, 2, 3, 4, 5, 1, 7])

    def dealt(self, statics):
        return listed[np.arange(len(statics.value)) % len(listed)]

    monkeypatch.setattr(Drawer, "length_of", dealt)


@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        (still, {"statics"}),  # numbers of a row start at regressions, flags do not
        (misaligned, {"static and visit"}),
        (statics_ignored, {"static and visit"}),
        (lengths_copied, {"number of visits"}),
    ],
)
def test_a_broken_part_is_noticed(real, vae, monkeypatch, fault, fact):
    fault(monkeypatch)
    learns = fault in (still, misaligned)
    broken = create("temporal-vae", **SETTINGS).fit(real, seed=0) if learns else vae
    assert missed(real, broken.sample(800, seed=1)) >= fact


# -- conditions, continuing, filling --


def test_a_fixed_sex_moves_what_depends_on_it(real, vae):
    share = {s: vae.sample(400, seed=2, where={"patients.sex": s}).tables["patients"]["smoker"].mean() for s in "FM"}
    truth = dict(real.tables["patients"].group_by("sex").agg(pl.col("smoker").mean()).iter_rows())
    for sex, mean in truth.items():
        assert share[sex] == pytest.approx(mean, abs=0.13)


def test_a_fixed_first_pressure_moves_age_and_the_visits_after_it(vae):
    drawn = {x: vae.sample(300, seed=2, where={"visits.sbp": x}) for x in (110, 160)}
    second = {}
    for x, cohort in drawn.items():
        rows = cohort.tables["visits"].sort("subject_id", "time").group_by("subject_id", maintain_order=True)
        pressures = rows.agg(pl.col("sbp")).with_columns(second=pl.col("sbp").list.get(1, null_on_oob=True))
        assert pressures["sbp"].list.first().to_list() == [float(x)] * 300
        second[x] = pressures["second"].mean()
    assert second[160] - second[110] > 15
    ages = {x: cohort.tables["patients"]["age"].mean() for x, cohort in drawn.items()}
    assert ages[160] - ages[110] > 6


def test_given_ages_move_the_pressures_drawn_for_them(real, vae):
    young, old = (real.select(real.tables["patients"].filter(keep)["subject_id"]).subjects for keep in
                  (pl.col("age") < 50, pl.col("age") > 70))  # fmt: skip
    means = [vae.sample(given=real.select(ids), seed=3).tables["visits"]["sbp"].mean() for ids in (young, old)]
    truth = [real.select(ids).tables["visits"]["sbp"].mean() for ids in (young, old)]
    assert means[1] - means[0] == pytest.approx(truth[1] - truth[0], rel=0.4)


def test_a_continued_patient_stays_near_the_past(real, vae):
    visits = real.tables["visits"].sort("subject_id", "time")
    place = pl.int_range(pl.len()).over("subject_id")
    begun = visits.filter(place < 2, pl.len().over("subject_id") > 3)
    ids = begun["subject_id"].unique()
    prefix = Cohort.build(real.schema, {
        "patients": real.tables["patients"].filter(pl.col("subject_id").is_in(ids.implode())), "visits": begun,
    })  # fmt: skip
    longer = vae.extend(prefix, until=timedelta(days=2000), seed=0).tables["visits"].sort("subject_id", "time")
    assert longer.filter(place < 2).select(begun.columns).equals(begun)
    both = (
        longer.with_columns(place=place).group_by("subject_id")
        .agg(now=pl.col("sbp").filter(pl.col("place") == 2).first(),
             past=pl.col("sbp").filter(pl.col("place") < 2).mean())
        .drop_nulls()
    )  # fmt: skip
    assert both.height > 20 and both.select(pl.corr("now", "past")).item() > 0.5


def test_a_filled_hole_is_near_what_was_there(real, vae):
    draw = Rng(5).numpy
    visits = real.tables["visits"]
    hide = pl.Series(draw.random(visits.height) < 0.3)
    holes = Cohort.build(real.schema, {**real.tables, "visits": visits.with_columns(
        sbp=pl.when(hide).then(None).otherwise(pl.col("sbp")))})  # fmt: skip
    filled = vae.impute(holes, seed=0).tables["visits"]
    assert filled["sbp"].null_count() == 0
    truth = visits.join(filled, on=["subject_id", "visit_id"], suffix="_drawn").filter(hide).drop_nulls("sbp")
    between = visits["sbp"].std()
    assert truth.select(pl.corr("sbp", "sbp_drawn")).item() > 0.4
    assert truth["sbp_drawn"].std() == pytest.approx(between, rel=0.3)


def test_score_tells_patients_from_shuffled_ones(real, vae):
    people = real.tables["patients"]
    order = Rng(0).numpy.permutation(people.height)
    shuffled = type(real).build(real.schema, {**real.tables, "patients": people.with_columns(
        pl.col("sex").gather(order), pl.col("age").gather(order))})  # fmt: skip
    assert vae.score(real).mean() > vae.score(shuffled).mean() + 0.3


# -- shapes of cohorts --


def long_courses(n, steps, *, n_codes=3, seed=0):
    """Courses of known lengths with a code of many levels."""
    draw = np.random.default_rng(seed)
    levels = [f"c{k}" for k in range(n_codes)]
    schema = Schema.model_validate(
        {"name": "long", "clock": "offset", "tables": {
            "people": {"role": "static", "columns": {"sex": {"kind": "category", "levels": ["F", "M"]}}},
            "visits": {"role": "visit", "columns": {
                "x": {"kind": "number", "decimals": 2}, "code": {"kind": "category", "levels": levels}}}}}
    )  # fmt: skip
    length = draw.integers(steps // 2, steps + 1, n)
    owner = np.repeat(np.arange(n), length)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    hour = place + draw.random(len(owner)) * 0.5
    x = draw.normal(size=n)[owner] + 0.3 * hour / steps
    visits = {"subject_id": owner, "visit_id": np.arange(len(owner)), "x": x,
              "code": draw.choice(levels, len(owner)),
              "time": pl.Series((hour * 3.6e9).astype(np.int64)).cast(pl.Duration("us"))}  # fmt: skip
    people = {"subject_id": np.arange(n), "sex": draw.choice(["F", "M"], n)}
    return Cohort.build(schema, {"people": pl.DataFrame(people), "visits": pl.DataFrame(visits)})


def test_long_courses_are_as_long_as_they_should_be():
    real = long_courses(60, 512)
    model = create("temporal-vae", width=16, training={"steps": 8, "batch_size": 8, "evaluate_every": 8})
    drawn = model.fit(real, seed=0).sample(40, seed=1)
    length = visits_of(drawn)
    assert length.mean() == pytest.approx(visits_of(real).mean(), rel=0.15)
    assert length.max() <= 520 and length.min() >= 200
    span = drawn.tables["visits"].group_by("subject_id").agg(pl.col("time").max().dt.total_hours())["time"]
    assert span.mean() == pytest.approx(visits_of(real).mean(), rel=0.2)


def test_a_column_of_thousands_of_codes_costs_little():
    real = long_courses(40, 6, n_codes=5000)
    codec_free = create("temporal-vae", width=16, training={"steps": 4, "evaluate_every": 4}).fit(real, seed=0)
    largest = max(p.numel() for p in codec_free.net_.parameters())
    assert largest < 5002 * 20
    assert set(codec_free.sample(20, seed=0).tables["visits"]["code"].drop_nulls()) <= {f"c{k}" for k in range(5000)}


def test_training_tells_what_the_latents_carry(vae):
    told = next(r for r in vae.history_.records if r["kind"] == "latents")
    assert told["of"] == 8 and told["components"] >= 1 and told["nats"] >= 8 * vae.free_nats * 0.7
    assert told["collapsed"] == (told["active"] == 0)  # here visits follow from statics: z is hardly needed


def test_a_collapse_is_told(real):
    settings = {**SETTINGS, "beta": 1000.0, "free_nats": 0.0, "training": {"steps": 40, "evaluate_every": 20}}
    told = create("temporal-vae", **settings).fit(real, seed=0).history_.records[-1]
    assert told["kind"] == "latents" and told["collapsed"] and told["nats"] < 0.05


def test_a_planted_trend_is_found_in_the_trend():
    """x rises with time in everyone; levels differ between patients; nothing repeats."""
    draw = np.random.default_rng(0)
    n, steps = 120, 10
    schema = long_courses(2, 4).schema
    owner, place = np.repeat(np.arange(n), steps), np.tile(np.arange(steps), n)
    x = draw.normal(size=n)[owner] + 0.4 * place + 0.2 * draw.normal(size=n * steps)
    codes = draw.choice(["c0", "c1"], n * steps)
    visits = {"subject_id": owner, "visit_id": np.arange(n * steps), "x": x, "code": codes,
              "time": pl.Series((place * 3.6e9).astype(np.int64)).cast(pl.Duration("us"))}  # fmt: skip
    people = {"subject_id": np.arange(n), "sex": draw.choice(["F", "M"], n)}
    cohort = Cohort.build(schema, {"people": pl.DataFrame(people), "visits": pl.DataFrame(visits)})
    settings = {"width": 24, "local_size": 0, "training": {"steps": 120, "evaluate_every": 20}}
    model = create("temporal-vae", decomposed=True, residual=False, **settings).fit(cohort, seed=0)
    shares = next(r for r in model.history_.records if r["kind"] == "latents")["shares"]
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.01)
    assert shares["trend"] > shares["season"] and shares["trend"] + shares["level"] > 0.5
    drawn = model.sample(100, seed=1).tables["visits"].sort("subject_id", "time")
    rise = drawn.group_by("subject_id").agg(rise=pl.col("x").last() - pl.col("x").first())["rise"].mean()
    assert rise == pytest.approx(0.4 * 9, rel=0.35)


def waves(n=100, steps=16, seed=0):
    """Regular courses of two columns, the second follows the first; every tenth number repeats the one before."""
    draw = np.random.default_rng(seed)
    x = np.zeros((n, steps))
    x[:, 0] = draw.normal(size=n)
    for t in range(1, steps):
        x[:, t] = 0.7 * x[:, t - 1] + 0.71 * draw.normal(size=n)
        x[:, t] = np.where(draw.random(n) < 0.1, x[:, t - 1], x[:, t])
    y = x + 0.3 * draw.normal(size=x.shape)
    tables = {"steps": {"role": "visit", "columns": {c: {"kind": "number", "missing": False} for c in "xy"}}}
    schema = Schema.model_validate({"name": "waves", "clock": "order", "tables": tables})
    frame = {"subject_id": np.repeat(np.arange(n), steps), "visit_id": np.arange(n * steps),
             "time": np.tile(np.arange(steps), n), "x": x.ravel(), "y": y.ravel()}  # fmt: skip
    return Cohort.build(schema, {"steps": pl.DataFrame(frame)})


def test_courses_that_spectra_are_taken_of_have_the_law_of_what_is_drawn():
    cohort = waves()
    model = create("temporal-vae", candidates=1, spectral=0.1, width=16, training={"steps": 10}).fit(cohort, seed=0)
    net, n = model.net_, cohort.n_subjects
    batch = Courses.of(model.frame_, model.codec_.encode(cohort, rng=Rng(0))).batch(torch.arange(n), Rng(1).torch)
    free = torch.tensor([True, True])
    with torch.no_grad():
        z = net.prior.sample(n, Rng(2).torch)
        run = net.run(batch, Latents(z, net.draw_slow(batch.length, Rng(3).torch)), free, Rng(4).torch).numpy()
    again = (batch.visits.token == net.laws["later"].columns[0].repeat).view(n, -1, 2)[:, 1:, 0].numpy()
    assert again.mean() > 0.05 and (run[:, 1:, 0] == run[:, :-1, 0])[again].all()
    frame = model.sample(n, seed=1).tables["steps"].sort("subject_id", "time")
    drawn = frame.select("x", "y").to_numpy().reshape(n, -1, 2)
    ties = [[np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in ((x[:, 1:, 0], x[:, :-1, 0]), (x[..., 0], x[..., 1]))]
            for x in (run, drawn)]  # fmt: skip
    assert ties[0] == pytest.approx(ties[1], abs=0.08) and min(ties[0]) > 0.5


def test_spectra_of_irregular_courses_are_refused(real):
    with pytest.raises(SettingsError, match="one length"):
        create("temporal-vae", spectral=0.1, **SETTINGS).fit(real, seed=0)


def test_a_second_fit_forgets_the_first():
    model = create("temporal-vae", width=16, training={"steps": 3, "evaluate_every": 3})
    model.fit(long_courses(20, 6), seed=0).sample(5, seed=0)
    other = small_cohort(60, seed=1)
    again = model.fit(other, seed=0).sample(20, seed=0)
    fresh = create("temporal-vae", width=16, training={"steps": 3, "evaluate_every": 3}).fit(other, seed=0)
    assert again.tables["visits"].equals(fresh.sample(20, seed=0).tables["visits"])
