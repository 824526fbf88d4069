"""Continuing records with columnar-ar: against enumeration, against the model's own law, against a closed form."""

from datetime import timedelta
from itertools import product

import columnar_cohorts as known
import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.generators import columnar_ar, columnar_continue, create
from cohortloom.generators.columnar_continue import draw_between
from cohortloom.nets.tokens import NumberCoder

EVER = timedelta(days=100_000)


def head(cohort: Cohort, n: int) -> Cohort:
    """The first n visits of everybody."""
    visits = cohort.tables["visits"].filter(pl.int_range(pl.len()).over("subject_id") < n)
    return Cohort.build(cohort.schema, {**cohort.tables, "visits": visits})


@pytest.fixture(scope="module")
def clinic():
    real = known.clinic(600, seed=0)
    return create("columnar-ar", training={"steps": 150}).fit(real, seed=0)


@pytest.mark.parametrize("members", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_whether_the_course_goes_on_follows_bayes(members):
    """With at most two visits everything that can follow a first visit can be listed."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        row = [bool(rng.random() < 0.5)]
        for _ in range(rng.integers(0, 3)):
            points = int(rng.integers(0, 4))
            row += ["b" if rng.random() < 0.2 + 0.6 * row[0] else "a", points]
        # who starts with many points comes again more often
        rows.append(tuple(row[:3] if len(row) == 5 and row[2] < 2 and rng.random() < 0.7 else row))
    fitted = create("columnar-ar", members=members, training={"steps": 100}).fit(known.tiny_patients(rows), seed=0)
    cells = list(product(["a", "b"], range(4)))
    for start in [(True, "a", 0), (True, "b", 3)]:
        prefix = known.tiny_patients([start])
        ends = [start, *((*start, *cell) for cell in cells)]
        exact = np.exp(fitted.score(known.tiny_patients(ends)))
        exact /= exact.sum()
        longer = fitted.extend(prefix, until=3, draws=2_000, seed=0).tables["visits"]
        second = longer.filter(pl.col("time") == 1)
        count = {(s, p): k for s, p, k in second.group_by("stage", "points").len().iter_rows()}
        found = [1 - second.height / 2_000]
        found += [count.get(cell, 0) / 2_000 for cell in cells]
        np.testing.assert_allclose(found, exact, atol=0.035)
    assert 0.05 < exact[0] < 0.95, "the example must leave it open"


def facts(cohort: Cohort) -> np.ndarray:
    """Number of visits, days, last x, share of ill: of those with at least two visits."""
    visits = cohort.tables["visits"].with_columns(pl.col("time").dt.total_days().alias("day"))
    each = visits.group_by("subject_id", maintain_order=True).agg(
        pl.len().alias("n"), pl.col("day").last(), pl.col("x").last(), (pl.col("state") == "ill").mean()
    )
    each = each.filter(pl.col("n") >= 2)
    return each.select("n", "day", "x", "state").to_numpy().astype(float)


def test_cut_and_continued_records_are_those_of_the_model(clinic):
    """Drawn patients cut after two visits and continued have the law of drawn patients."""
    whole = clinic.sample(1_500, seed=1)
    keep = whole.tables["visits"].group_by("subject_id").len().filter(pl.col("len") >= 2)["subject_id"]
    whole = whole.select(keep)
    longer = clinic.extend(head(whole, 2), until=EVER, seed=2)
    one, two = facts(whole), facts(longer)
    assert len(one) == len(two)
    error = np.sqrt((one.var(0) + two.var(0)) / len(one))
    assert (np.abs(one.mean(0) - two.mean(0)) < 3.5 * error).all(), (one.mean(0), two.mean(0), error)
    # and the continuation belongs to the patient: x at the end goes with x at the cut as in whole records
    second = head(whole, 2).tables["visits"].group_by("subject_id", maintain_order=True).last()["x"].to_numpy()
    apart = [np.corrcoef(second, end[:, 2])[0, 1] for end in (one, two)]
    assert abs(apart[0] - apart[1]) < 0.08 and apart[0] > 0.4


def test_short_horizons_are_the_beginning_of_long_ones(clinic):
    prefix = head(known.clinic(40, seed=3), 2)
    short = clinic.extend(prefix, until=timedelta(days=40), seed=5).tables["visits"]
    last = prefix.tables["visits"].group_by("subject_id").agg(pl.col("time").max().alias("last"))
    new = short.join(prefix.tables["visits"], on=["subject_id", "visit_id"], how="anti").join(last, on="subject_id")
    assert new.height and ((new["time"] - new["last"]) <= timedelta(days=40)).all()


def test_patients_without_visits_get_courses_of_their_statics(clinic):
    prefix = head(known.clinic(400, seed=3), 0)
    longer = clinic.extend(prefix, until=EVER, seed=5)
    assert longer.tables["patients"].equals(prefix.tables["patients"])
    both = longer.tables["visits"].join(longer.tables["patients"], on="subject_id")
    assert both.select(pl.corr("x", "severity")).item() > 0.3
    share = both["subject_id"].n_unique() / 400
    assert 0.8 < share < 0.97  # one in ten has none


@pytest.mark.slow
def test_forecasts_of_an_autoregression():
    """E(x_(t+1) | x_t) = m + PHI (x_t - m) and its spread sqrt(1 - PHI^2), with m the severity."""
    model = create("columnar-ar", training={"steps": 600}).fit(known.ordered(1_500, seed=0), seed=0)
    prefix = head(known.ordered(200, seed=7), 2)
    longer = model.extend(prefix, until=1, draws=8, seed=1)
    visits = longer.tables["visits"].with_columns(last=pl.col("x").shift(1).over("subject_id"))
    third = visits.filter(pl.col("time") == 2).join(longer.tables["patients"], on="subject_id")
    mean = third["severity"] + known.PHI * (third["last"] - third["severity"])
    rest = third["x"] - mean
    assert third.height > 800
    assert abs(rest.mean()) < 0.12 and rest.std() == pytest.approx(np.sqrt(1 - known.PHI**2), rel=0.12)
    assert abs(np.corrcoef(rest, third["last"])[0, 1]) < 0.2


def test_a_record_longer_than_any_seen_is_over():
    real = known.ordered(100, seed=0)
    model = create("columnar-ar", members=1, training={"steps": 20}).fit(real, seed=0)
    long = known.ordered(1, seed=0).tables["visits"].head(1).select(pl.exclude("time", "visit_id"))
    visits = pl.concat([long] * 60).with_columns(time=pl.int_range(60), visit_id=pl.int_range(60))
    prefix = Cohort.build(real.schema, {"patients": real.tables["patients"].head(1), "visits": visits})
    assert model.extend(prefix, until=5, seed=0).tables["visits"].height == 60


@pytest.mark.parametrize("low", [-3.0, 0.0, 2.0, 7.0, 11.0])
def test_a_number_drawn_above_a_limit(low):
    """Against drawing freely and throwing away what is below."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random(4_000) < 0.3, 0, rng.poisson(4, 4_000)).astype(float)
    coder = NumberCoder.fit(x, np.arange(4_000), decimals=0, repeat=False, always=True)
    n = 20_000
    logits = np.tile(np.array([1.0, *[0.3] * len(coder.spikes), -30, -30], np.float32), (n, 1))
    mixture = tuple(np.tile(np.array(v, np.float32), (n, 1)) for v in ([0.0, 0.5], [-0.5, 0.8], [-0.2, -0.6]))
    value, log_p = draw_between(coder, logits, mixture, np.full(n, low), rng)
    free, _ = draw_between(coder, logits, mixture, np.full(n, -np.inf), rng)
    above = free[free >= low]
    if low > coder.x[-1]:
        assert np.isnan(value).all() and (log_p == -np.inf).all()
        return
    assert np.exp(log_p[0]) == pytest.approx((free >= low).mean(), abs=0.012)
    assert (value >= low).all()
    levels = np.unique(above)
    shares = [[(part == v).mean() for v in levels] for part in (value, above)]
    np.testing.assert_allclose(*shares, atol=0.03 if len(above) > 4_000 else 0.12)


def test_draws_of_one_record_share_candidates(clinic, monkeypatch):
    """25 draws look at the prefix under five times the candidates of one draw, not under 25 times."""
    seen, look = [], columnar_continue._prefix_log_prob
    monkeypatch.setattr(columnar_continue, "_prefix_log_prob", lambda *a: seen.append(a[2].n_subjects) or look(*a))
    prefix = head(known.clinic(6, seed=3), 2)
    n = prefix.tables["visits"]["subject_id"].n_unique()
    for draws, factor in ((1, 1), (25, 5)):
        seen.clear()
        clinic.extend(prefix, until=EVER, draws=draws, seed=5)
        assert seen[0] == n * factor * columnar_continue.CANDIDATES


def test_long_prefixes_are_continued_in_parts(clinic, monkeypatch):
    """Candidates' features are held for a part of the subjects at a time; nobody is lost or swapped."""
    prefix = head(known.clinic(60, seed=3), 3)
    monkeypatch.setattr(columnar_ar, "HISTORY_BYTES", 50_000)
    longer = clinic.extend(prefix, until=EVER, seed=5)
    old = longer.tables["visits"].join(prefix.tables["visits"], on=["subject_id", "visit_id"], how="semi")
    assert old.equals(prefix.tables["visits"]) and longer.tables["visits"].height > old.height
    parts = columnar_ar._groups(np.arange(10), np.full(10, 20_000))
    assert [len(p) for p in parts] == [2, 2, 3, 2, 1] and np.array_equal(np.concatenate(parts), np.arange(10))
