"""columnar-ar recovers known laws, scores exactly, conditions truly, and notices broken parts."""

from itertools import product

import columnar_cohorts as known
import numpy as np
import polars as pl
import pytest
from scipy.special import logsumexp

from cohortloom.cohort import Cohort
from cohortloom.generators import columnar_encoding, columnar_sampling, columnar_training, create, load
from cohortloom.schema import Schema
from cohortloom.schema.text import parse_schema

SHORT = {"steps": 30}
#: Limits of `recovered`: sampling error of 600 fitted and 2,000 drawn patients, with room for a short training.
LIMITS = {
    "autocorrelation": 0.08,
    "static effect": 0.08,
    "sex effect": 0.2,
    "missing": 0.03,
    "missing elsewhere": 0.001,
    "repeat": 0.04,
    "spike": 0.03,
    "sticky": 0.05,
    "no visit": 0.03,
    "visits": 0.05,
    "spread of visits": 0.05,
}


def model(**settings):
    return create("columnar-ar", **settings)  # by name, as the command line does


def missed(real: Cohort, drawn: Cohort) -> dict[str, float]:
    found = known.recovered(real, drawn)
    return {name: value for name, value in found.items() if not value <= LIMITS[name]}


@pytest.fixture(scope="module")
def real() -> Cohort:
    return known.clinic(600, seed=0)


@pytest.fixture(scope="module")
def fitted(real):
    return model().fit(real, seed=0)


@pytest.fixture(scope="module")
def drawn(fitted):
    return fitted.sample(2_000, seed=1)


# --- known laws ---


@pytest.mark.parametrize("fact", LIMITS)
def test_law_is_recovered(real, drawn, fact):
    assert known.recovered(real, drawn)[fact] <= LIMITS[fact]


def test_likelihood_of_new_patients_is_near_the_closed_form():
    train, test = known.ordered(1_000, seed=0), known.ordered(1_000, seed=1)
    truth = known.true_log_likelihood(test)
    gap = truth - model(training={"steps": 800}).fit(train, seed=0).score(test)
    cells = 2 + test.tables["visits"].height / 1_000
    # the model can't beat the truth but by the noise of 1,000 patients; 0.04 nat per cell is what it may lose
    assert -0.01 < gap.mean() / cells < 0.04
    shuffled = known.ordered(1_000, seed=0, shuffled=True)
    worse = truth - model(training={"steps": 400}).fit(shuffled, seed=0).score(test)
    assert worse.mean() / cells > 0.04, "the floor doesn't notice a shuffled order of visits"


# --- broken parts are noticed ---


def _ignore_statics(monkeypatch):
    plain = columnar_encoding.Alphabet.static_inputs
    monkeypatch.setattr(
        columnar_encoding.Alphabet, "static_inputs", lambda self, cells: tuple(0 * part for part in plain(self, cells))
    )


def _shuffle_history(monkeypatch):
    plain = columnar_encoding.Alphabet.later_rows

    def shuffled(self, *args, **kwargs):
        rows = plain(self, *args, **kwargs)
        order = np.random.default_rng(0).permutation(len(rows.features))
        return columnar_encoding.LaterRows(rows.step, rows.subject, rows.features[order], rows.codes[order])

    monkeypatch.setattr(columnar_encoding.Alphabet, "later_rows", shuffled)


def _misalign_rows(monkeypatch):
    plain = columnar_encoding.Alphabet.later_rows

    def misaligned(self, *args, **kwargs):
        rows = plain(self, *args, **kwargs)
        return columnar_encoding.LaterRows(
            rows.step, np.roll(rows.subject, 7), np.roll(rows.features, 7, 0), rows.codes
        )

    monkeypatch.setattr(columnar_encoding.Alphabet, "later_rows", misaligned)


def _no_start_and_no_gradient(monkeypatch):
    monkeypatch.setattr(columnar_training, "start_at_lines", lambda *_: None)
    plain = columnar_training.ColumnNet.log_prob
    monkeypatch.setattr(
        columnar_training.ColumnNet,
        "log_prob",
        lambda self, rows: plain(self, rows) - (part := plain(self, rows)) + part.detach(),
    )


@pytest.mark.parametrize(
    "fault, fact",
    [
        (_ignore_statics, "static effect"),
        (_shuffle_history, "autocorrelation"),
        (_misalign_rows, "autocorrelation"),
        (_no_start_and_no_gradient, "sex effect"),
    ],
    ids=["statics ignored", "history shuffled", "rows misaligned", "neither start nor gradient"],
)
def test_a_broken_part_is_noticed(real, monkeypatch, fault, fact):
    fault(monkeypatch)
    broken = model(members=1, candidates=1, training={"steps": 250}).fit(real, seed=0)
    assert fact in missed(real, broken.sample(1_000, seed=1))


# --- the likelihood is one ---


def test_probabilities_of_all_possible_patients_sum_to_one():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        row = [bool(rng.random() < 0.5) if rng.random() < 0.9 else None]
        for visit in range(rng.integers(0, 3)):
            points = int(rng.integers(0, 14))
            if visit and rng.random() < 0.4 and row[2] is not None:
                points = row[2]
            row += [rng.choice(["a", "b"]) if rng.random() < 0.9 else None, points if rng.random() < 0.9 else None]
        rows.append(tuple(row))
    fitted = model(members=2, training={"steps": 200}).fit(known.tiny_patients(rows), seed=0)
    points = next(c for c in fitted.net_.alphabet.columns if c.kind == "number")
    assert points.repeat and points.exact, "the example must have a REPEAT token and a table"
    cells = list(product(["a", "b", None], [*range(14), None]))
    everyone = [(sex,) for sex in (True, False, None)]
    everyone += [(sex, *one) for sex in (True, False, None) for one in cells]
    everyone += [(sex, *one, *two) for sex in (True, False, None) for one in cells for two in cells]
    assert logsumexp(fitted.score(known.tiny_patients(everyone))) == pytest.approx(0, abs=1e-4)


def test_score_has_one_number_per_patient_and_falls_for_odd_ones(fitted, real):
    score = fitted.score(real)
    assert score.shape == (real.n_subjects,) and np.isfinite(score).all()
    far = real.tables["visits"].with_columns(pl.col("x") * -1)
    odd = Cohort.build(real.schema, {**real.tables, "visits": far})
    assert fitted.score(odd).mean() < score.mean() - 1


# --- conditions ---

GROUPS = parse_schema(
    """
name = "groups"
version = "1"
clock = "order"
[tables.patients]
role = "static"
columns.group = { kind = "category", levels = ["a", "b", "c"] }
columns.level = { kind = "number", decimals = 1 }
[tables.visits]
role = "visit"
parent = "patients"
columns.flag = { kind = "flag" }
"""
)


@pytest.fixture(scope="module")
def groups():
    rng, n = np.random.default_rng(0), 1_500
    group = rng.integers(0, 3, n)
    flag = rng.random(n) < np.array([0.1, 0.5, 0.9])[group]
    level = rng.normal(group * 1.5, 1).round(1)
    patients = pl.DataFrame({"subject_id": np.arange(n), "group": np.array(["a", "b", "c"])[group], "level": level})
    visits = pl.DataFrame(
        {"subject_id": np.arange(n), "visit_id": np.arange(n), "time": np.zeros(n, int), "flag": flag}
    )
    cohort = Cohort.build(GROUPS, {"patients": patients, "visits": visits})
    return model(training={"steps": 600}).fit(cohort, seed=0)


def shares(cohort: Cohort) -> np.ndarray:
    group = cohort.tables["patients"]["group"]
    return np.array([(group == g).mean() for g in "abc"])


def test_columns_before_a_fixed_static_follow_bayes(groups):
    wanted = groups.sample(4_000, seed=1, where={"patients.level": 2.0})
    assert (wanted.tables["patients"]["level"] == 2.0).all()
    people = pl.DataFrame({"subject_id": range(6), "group": list("abc") * 2, "level": [2.0] * 6})
    visits = pl.DataFrame(
        {"subject_id": range(6), "visit_id": range(6), "time": [0] * 6, "flag": [True] * 3 + [False] * 3}
    )
    joint = np.exp(groups.score(Cohort.build(GROUPS, {"patients": people, "visits": visits})))
    exact = joint.reshape(2, 3).sum(0) / joint.sum()
    np.testing.assert_allclose(shares(wanted), exact, atol=0.03)
    assert np.abs(exact - 1 / 3).max() > 0.15, "the example must tell conditioning from overwriting"


def test_statics_follow_a_fixed_first_visit(groups):
    wanted = groups.sample(3_000, seed=2, where={"visits.flag": True})
    assert wanted.tables["visits"]["flag"].all() and wanted.tables["visits"].height >= 3_000
    free = groups.sample(6_000, seed=3)
    flagged = free.tables["visits"].filter("flag")["subject_id"]
    accepted = free.select(flagged)  # rejection sampling: the model's own conditional
    np.testing.assert_allclose(shares(wanted), shares(accepted), atol=0.04)


def test_statics_of_given_patients_are_kept(fitted):
    given = known.clinic(50, seed=9)
    course = fitted.sample(given=given, seed=1)
    columns = ["sex", "severity"]
    assert course.tables["patients"].select(columns).equals(given.tables["patients"].select(columns))
    by_sex = course.tables["visits"].join(course.tables["patients"], on="subject_id").select(pl.corr("x", "severity"))
    assert by_sex.item() > 0.2


# --- settings, disk, sizes ---


def test_same_seed_same_cohort_and_a_loaded_model_draws_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    one, two, other = fitted.sample(40, seed=5), load(tmp_path / "model").sample(40, seed=5), fitted.sample(40, seed=6)
    assert all(one.tables[name].equals(two.tables[name]) for name in one.tables)
    assert not one.tables["visits"].equals(other.tables["visits"])


def test_low_temperature_draws_typical_patients(fitted):
    fitted.temperature = 0.3
    cold = fitted.sample(500, seed=1)
    fitted.temperature = 1.0
    warm = fitted.sample(500, seed=1)
    spread = [c.tables["patients"]["severity"].std() for c in (cold, warm)]
    assert spread[0] < 0.85 * spread[1]


def test_what_hardly_changes_stays_though_its_levels_are_rare():
    """60 patients of 9 groups, told at each visit, one visit in 40 contradicts: drawn patients keep theirs as well."""
    draw = np.random.default_rng(0)
    share = np.array([0.4, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05])
    subject = np.repeat(np.arange(1, 61), draw.integers(1, 6, 60))
    group = draw.choice(9, 60, p=share)[subject - 1]
    group = np.where(draw.random(len(group)) < 1 / 40, draw.choice(9, len(group), p=share), group)
    schema = Schema.model_validate(
        {
            "name": "groups",
            "clock": "offset",
            "tables": {
                "patients": {"role": "static", "columns": {"age": {"kind": "number", "decimals": 0}}},
                "visits": {"role": "visit", "parent": "patients", "columns": {
                    "group": {"kind": "category", "levels": list("abcdefghi")}, "pulse": {"kind": "number"},
                }},
            },
        }
    )  # fmt: skip
    place = np.arange(len(subject)) - np.searchsorted(subject, subject)
    tables = {
        "patients": pl.DataFrame({"subject_id": np.arange(1, 61), "age": draw.normal(60, 9, 60).round()}),
        "visits": pl.DataFrame({
            "subject_id": subject, "visit_id": np.arange(len(subject)), "time": place * 30 * 86_400_000_000,
            "group": [("abcdefghi")[g] for g in group], "pulse": draw.normal(80, 9, len(subject)).round(),
        }).with_columns(pl.col("time").cast(pl.Duration("us"))),
    }  # fmt: skip
    drawn = (
        create("columnar-ar", candidates=1)
        .fit(Cohort.build(schema, tables), seed=0)
        .sample(300, seed=1)
        .tables["visits"]
    )
    changed = drawn.select((pl.col("group") != pl.col("group").shift().over("subject_id")).mean()).item()
    assert changed < 0.12  # .79 before there was a common wish to stay


def test_small_cohorts_get_four_members_with_other_validation_patients():
    small = model(training=SHORT).fit(known.clinic(60, seed=0), seed=0)
    assert small.net_.n_members == 4
    assert len({float(small.net_.member(k).later.heads[0].detach().sum()) for k in range(4)}) == 4


def follow_up(n: int, seed: int) -> Cohort:
    rng = np.random.default_rng(seed)
    end, length = rng.integers(200, 1000, n), rng.integers(2, 6, n)
    subject = np.repeat(np.arange(n), length)
    time = np.concatenate([np.sort(np.r_[0, rng.integers(1, e + 1, k - 1)]) for e, k in zip(end, length)])
    visits = {"subject_id": subject, "visit_id": np.arange(len(subject)), "x": rng.normal(size=len(subject)).round(2)}
    visits = pl.DataFrame(visits).with_columns(pl.Series("time", time * 86_400_000_000).cast(pl.Duration("us")))
    schema = parse_schema(
        'name = "f"\nversion = "1"\nclock = "offset"\n[tables.p]\nrole = "static"\ncolumns.end = { kind = "count" }\n'
        '[tables.v]\nrole = "visit"\nparent = "p"\ncolumns.x = { kind = "number", decimals = 2 }\n'
    )
    return Cohort.build(schema, {"p": pl.DataFrame({"subject_id": np.arange(n), "end": end}), "v": visits})


def test_no_visit_lies_beyond_the_end_of_follow_up_that_was_found():
    fitted = model(members=1, training={"steps": 100}).fit(follow_up(300, 0), seed=0)
    assert fitted.net_.alphabet.bounds == [(0, -1)]
    drawn = fitted.sample(400, seed=1)
    late = (
        drawn.tables["v"]
        .join(drawn.tables["p"], on="subject_id")
        .filter(pl.col("time").dt.total_days() > pl.col("end"))
    )
    assert late.height == 0 and drawn.tables["v"].height > 700


def hours(n: int, seed: int) -> Cohort:
    """Stays of 24 hours, 20 of them recorded; one stay in ten ends at hour 30."""
    rng = np.random.default_rng(seed)
    time = np.stack([np.r_[0, np.sort(rng.permutation(np.arange(1, 23))[:18]), 23] for _ in range(n)])
    time[rng.random(n) < 0.1, -1] = 30
    visits = {"subject_id": np.repeat(np.arange(n), 20), "visit_id": np.arange(20 * n), "x": rng.normal(size=20 * n)}
    visits = pl.DataFrame(visits).with_columns(pl.Series("time", time.ravel() * 3_600_000_000).cast(pl.Duration("us")))
    schema = parse_schema(
        'name = "h"\nversion = "1"\nclock = "offset"\n[tables.p]\nrole = "static"\ncolumns.s = { kind = "flag" }\n'
        '[tables.v]\nrole = "visit"\nparent = "p"\ncolumns.x = { kind = "number" }\n'
    )
    return Cohort.build(schema, {"p": pl.DataFrame({"subject_id": range(n), "s": rng.random(n) < 0.5}), "v": visits})


def test_a_record_ends_when_its_span_is_over_and_has_its_number_of_visits():
    fitted = model(members=1, training={"steps": 60}).fit(hours(150, 0), seed=0)
    drawn = fitted.sample(300, seed=1).tables["v"].with_columns(hour=pl.col("time").dt.total_minutes() / 60)
    assert (drawn["hour"] % 1 == 0).all()
    stays = drawn.group_by("subject_id").agg(
        pl.len(), pl.col("hour").max(), pl.col("hour").is_duplicated().any().alias("tie")
    )
    assert (stays["len"] == 20).all() and not stays["tie"].any()
    assert set(stays["hour"]) <= {23.0, 30.0} and (stays["hour"] == 30).mean() == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("n", [1, 2, 12])
def test_very_few_patients(n):
    drawn = model(training=SHORT).fit(known.clinic(n, seed=3), seed=0).sample(20, seed=0)
    assert drawn.n_subjects == 20


def test_patients_without_any_visit():
    cohort = known.clinic(40, seed=0)
    empty = Cohort.build(cohort.schema, {**cohort.tables, "visits": cohort.tables["visits"].head(0)})
    drawn = model(training=SHORT).fit(empty, seed=0).sample(10, seed=0)
    assert drawn.n_subjects == 10 and drawn.tables["visits"].height == 0


def test_one_visit_each_needs_no_later_network():
    cohort = known.clinic(80, seed=0)
    first = (
        cohort.tables["visits"]
        .group_by("subject_id", maintain_order=True)
        .first()
        .select(cohort.tables["visits"].columns)
    )
    fitted = model(training=SHORT).fit(Cohort.build(cohort.schema, {**cohort.tables, "visits": first}), seed=0)
    assert fitted.net_.member(0).later is None
    assert fitted.sample(30, seed=0).tables["visits"]["subject_id"].is_unique().all()


def test_columns_that_are_empty_constant_or_have_many_levels():
    rng, n = np.random.default_rng(0), 300
    code = [f"C{k:02d}" for k in rng.integers(0, 60, 2 * n)]
    code[1::2] = [last if rng.random() < 0.8 else new for last, new in zip(code[::2], code[1::2])]
    schema = parse_schema(
        'name = "o"\nversion = "1"\nclock = "order"\n[tables.p]\nrole = "static"\ncolumns.s = { kind = "number" }\n'
        '[tables.v]\nrole = "visit"\nparent = "p"\ncolumns.code = { kind = "code" }\n'
        'columns.empty = { kind = "number" }\ncolumns.constant = { kind = "number" }\n'
    )
    visits = pl.DataFrame(
        {"subject_id": np.repeat(np.arange(n), 2), "visit_id": range(2 * n), "time": [0, 1] * n, "code": code}
    ).with_columns(empty=pl.lit(None, pl.Float64), constant=pl.lit(7.0))
    patients = pl.DataFrame({"subject_id": range(n), "s": rng.normal(size=n)})
    fitted = model(members=1, training={"steps": 600}).fit(Cohort.build(schema, {"p": patients, "v": visits}), seed=0)
    drawn = fitted.sample(600, seed=1).tables["v"]
    assert drawn["empty"].is_null().all() and (drawn["constant"] == 7.0).all()
    repeats = drawn.with_columns(last=pl.col("code").shift(1).over("subject_id")).drop_nulls("last")
    assert (repeats["code"] == repeats["last"]).mean() == pytest.approx(0.75, abs=0.15)
    assert drawn["code"].n_unique() > 30


def test_visits_of_words_alone():
    """Stages of an exercise test, in order, and no number anywhere: each patient goes through all of them."""
    stages, n = ["rest", "slow", "fast"], 80
    schema = parse_schema(
        'name = "e"\nversion = "1"\nclock = "order"\n[tables.v]\nrole = "visit"\n'
        f'columns.stage = {{ kind = "category", levels = {stages} }}\n'.replace("'", '"')
    )
    who, place = np.repeat(np.arange(n), 3), np.tile(np.arange(3), n)
    visits = pl.DataFrame({"subject_id": who, "visit_id": range(3 * n), "time": place, "stage": stages * n})
    fitted = model(members=1, training={"steps": 300}).fit(Cohort.build(schema, {"v": visits}), seed=0)
    drawn = fitted.sample(100, seed=1).tables["v"].group_by("subject_id", maintain_order=True).agg("stage")
    assert np.mean([row == stages for row in drawn["stage"].to_list()]) > 0.9


def test_impossible_cells_have_a_finite_price():
    fitted = model(training=SHORT).fit(known.tiny_patients([(True, "a", 3)] * 20 + [(False, "a", 4)] * 20), seed=0)
    odd = known.tiny_patients([(None, "b", None)])
    assert columnar_sampling.IMPOSSIBLE * 4 < fitted.score(odd)[0] < columnar_sampling.IMPOSSIBLE


@pytest.mark.parametrize("settings", [{"hidden": 0}, {"members": 0}, {"temperature": 0.0}])
def test_senseless_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        model(**settings)
