"""Choosing among draws by a density ratio: closed forms of two normals, and planted faults of a model."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest

from cohortloom import rules
from cohortloom.cohort import Cohort
from cohortloom.errors import FileFormatError, SettingsError
from cohortloom.generators import density_ratio, load
from cohortloom.generators.columnar_ar import ColumnarAR
from cohortloom.generators.condition import Condition
from cohortloom.generators.density_ratio import DRAWS, MASS, DensityRatio, Trees, _boosting, _bound, _scale, chosen
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.testing.checks import assert_same, small_cohort

SHIFT = 0.8


def patients(n, mean, seed, holes=0.0) -> Cohort:
    """One normal number each, and one that says nothing."""
    draw = np.random.default_rng(seed)
    schema = Schema.model_validate(
        {
            "name": "plain",
            "clock": "order",
            "tables": {"patients": {"role": "static", "columns": {
                "x": {"kind": "number"}, "noise": {"kind": "number"},
            }}},
        }
    )  # fmt: skip
    x = np.where(draw.random(n) < holes, np.nan, draw.normal(mean, 1, n))
    frame = pl.DataFrame({"subject_id": np.arange(1, n + 1), "x": x, "noise": draw.normal(size=n)})
    return Cohort.build(schema, {"patients": frame.with_columns(pl.col("x").fill_nan(None))})


@pytest.fixture(scope="module")
def ratio():
    found = DensityRatio.fit(patients(1500, SHIFT, 1), patients(3000, 0, 2), Rng(0))
    assert found is not None
    return found


def test_trees_say_what_scikit_learn_says():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2000, 4))
    y = (x[:, 0] * x[:, 1] + draw.normal(size=2000) > 0).astype(float)
    x[draw.random(x.shape) < 0.2] = np.nan
    for n in (400, 2000):
        model = _boosting(0, n).fit(x[:n], y[:n])
        off = model.decision_function(x) - Trees.of(model, np.arange(4))(x)
        assert np.ptp(off) < 1e-9  # a constant, their start


def test_log_ratio_of_two_normals(ratio):
    """log N(x; .8, 1) / N(x; 0, 1) = .8 x - .32; the other column says nothing."""
    fresh = patients(2000, 0, 3)
    x = fresh.tables["patients"]["x"].to_numpy()
    found = ratio.log_ratio(fresh)
    within = np.abs(x) < 1.5
    slope, _ = np.polyfit(x[within], found[within], 1)
    assert slope == pytest.approx(SHIFT, abs=0.2)
    assert np.corrcoef(x, found)[0, 1] > 0.93
    assert ratio.auc == pytest.approx(0.714, abs=0.03)  # Phi(.8 / sqrt 2)


@dataclass
class Exact:
    """The ratio of the two normals in closed form."""

    bound: float
    candidates: int = 16

    def log_ratio(self, cohort):
        return SHIFT * cohort.tables["patients"]["x"].to_numpy() - SHIFT**2 / 2


def test_accepted_patients_have_the_law_of_the_smaller_of_ratio_and_bound():
    x = np.linspace(-6, 6, 4001)
    density, odds = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), np.exp(SHIFT * x - SHIFT**2 / 2)
    bound = 2.5
    law = density * np.minimum(odds, bound)
    mean = (x * law).sum() / law.sum()
    drawn, counts = accepted(Exact(np.log(bound), 30), lambda k, n: patients(n, 0, 10 + k))
    found = drawn.tables["patients"]["x"].to_numpy()
    assert found.mean() == pytest.approx(mean, abs=0.06)
    assert found.std() == pytest.approx(np.sqrt(((x - mean) ** 2 * law).sum() / law.sum()), abs=0.05)
    assert drawn.tables["patients"]["noise"].mean() == pytest.approx(0, abs=0.06)
    assert counts == sorted(counts, reverse=True)
    draws = bound / (law.sum() * (x[1] - x[0]))
    assert sum(counts) / counts[0] == pytest.approx(draws, rel=0.06)


def test_bound_leaves_as_much_weight_above_as_it_says():
    odds = np.exp(np.random.default_rng(0).normal(size=20_000))
    assert np.minimum(odds, _bound(odds)).sum() == pytest.approx(MASS * odds.sum(), rel=1e-3)
    assert _bound(np.ones(5)) == 1


def test_bound_takes_no_more_draws_than_it_says():
    odds = np.exp(2.5 * np.random.default_rng(0).standard_normal(20_000))
    bound = _bound(odds)
    assert bound / np.minimum(odds, bound).mean() == pytest.approx(DRAWS, rel=1e-2)
    assert np.minimum(odds, bound).sum() < 0.9 * MASS * odds.sum()


def test_patients_never_accepted_are_chosen_by_their_odds():
    """A bound far above all odds accepts nobody: the reference chooses among as many draws."""
    drawn, counts = accepted(Exact(40.0, 4), lambda k, n: patients(n, 0, 10 + k))
    assert counts == [3000] * 4
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200_000, 4))
    exact = x[np.arange(len(x)), (SHIFT * x + draw.gumbel(size=x.shape)).argmax(1)]
    found = drawn.tables["patients"]["x"].to_numpy()
    assert found.mean() == pytest.approx(exact.mean(), abs=0.06)
    assert found.std() == pytest.approx(exact.std(), abs=0.05)


def test_a_learned_ratio_moves_patients_most_of_the_way(ratio):
    """From a mean of 0 towards .8; draws as the ratio foresees."""
    drawn, counts = accepted(ratio, lambda k, n: patients(n, 0, 10 + k))
    assert 0.5 < drawn.tables["patients"]["x"].mean() < 0.9
    assert drawn.tables["patients"]["noise"].mean() == pytest.approx(0, abs=0.08)
    assert 2 < sum(counts) / counts[0] < 5


def accepted(ratio, drawn) -> tuple[Cohort, list[int]]:
    """3,000 chosen patients, and how many were drawn in every round; ids 1, 3, 5, ..."""
    ids, counts = np.arange(1, 6001, 2), []

    def draw(k, left):
        counts.append(len(left))
        cohort = drawn(k, len(left))
        names = pl.DataFrame({"subject_id": ids[left]})
        return replace(cohort, tables={"patients": cohort.tables["patients"].with_columns(names["subject_id"])})

    found = chosen(ratio, ids, draw, Rng(1))
    assert found.subjects.to_list() == ids.tolist()
    return found, counts


def test_missing_values_are_chosen_too():
    found = DensityRatio.fit(patients(1500, 0, 1, holes=0.4), patients(3000, 0, 2, holes=0.1), Rng(0))
    assert found is not None
    drawn, _ = accepted(found, lambda k, n: patients(n, 0, 10 + k, holes=0.1))
    assert drawn.tables["patients"]["x"].null_count() > 750  # 300 before


def test_one_law_has_no_ratio():
    found = [DensityRatio.fit(patients(400, 0, seed), patients(800, 0, 100 + seed), Rng(seed)) for seed in range(8)]
    assert sum(f is not None for f in found) <= 1


def courses(n, seed, *, lasting) -> Cohort:
    """Visits with a number that lasts (to .7 of its spread) or is drawn anew at each; statics tell how many."""
    draw = np.random.default_rng(seed)
    schema = Schema.model_validate(
        {
            "name": "plain",
            "clock": "order",
            "tables": {
                "patients": {"role": "static", "columns": {name: {"kind": "number"} for name in "abcdef"}},
                "visits": {"role": "visit", "parent": "patients", "columns": {"x": {"kind": "number"}}},
            },
        }
    )
    length = 2 + np.exp(draw.normal(1.5, 0.8, n)).astype(int)
    subject = np.repeat(np.arange(1, n + 1), length)
    x = draw.normal(size=len(subject)) * (0.7 if lasting else 1.0)
    x = x + 0.7 * draw.normal(size=n)[subject - 1] * lasting
    place = np.arange(len(subject)) - np.repeat(np.cumsum(length) - length, length)
    visits = pl.DataFrame({"subject_id": subject, "visit_id": np.arange(len(subject)), "time": place, "x": x})
    stages = {name: np.log(length) + 0.3 * draw.normal(size=n) for name in "abcdef"}
    patients = pl.DataFrame({"subject_id": np.arange(1, n + 1), **stages})
    return Cohort.build(schema, {"patients": patients, "visits": visits})


def test_chosen_courses_are_as_long_as_those_of_patients(monkeypatch):
    """The longer a course the surer it shows that its numbers do not last, so bounded weights alone shorten courses."""
    real, drawn, fresh = (
        courses(300, 21, lasting=True),
        courses(600, 22, lasting=False),
        courses(600, 23, lasting=False),
    )
    length = fresh.tables["visits"].group_by("subject_id", maintain_order=True).len()["len"].to_numpy()

    def shortened() -> float:
        ratio = DensityRatio.fit(real, drawn, Rng(0))
        weight = np.exp(np.minimum(ratio.log_ratio(fresh), ratio.bound))
        return float(np.log(length).mean() - np.average(np.log(length), weights=weight))

    assert abs(shortened()) < 0.12  # standard error .02 without weights
    monkeypatch.setattr(density_ratio, "SIZES", 1)
    assert shortened() > 0.2


@pytest.mark.parametrize(("right", "scale"), [(20, 0.0), (0, 1.0)])
def test_weights_count_as_far_as_they_bring_summaries_nearer(right, scale):
    """One summary is wrong in all draws, and least so in some; 20 others have the right law and go with it. Weights
    that choose these draws bend what is right. Where nothing else is there to bend, they are kept whole."""
    draw = np.random.default_rng(0)
    y = np.repeat([0.0, 1.0], [500, 1000])
    wrong = draw.normal(size=1500) + (4.0 if right else 1.0) * y
    others = 0.8 * (wrong - (4.0 if right else 1.0) * y)[:, None] + 0.6 * draw.normal(size=(1500, right))
    log_odds = -3.0 * (wrong[y == 1] - 4.0) if right else 0.5 - wrong[y == 1]
    same_length = [np.zeros(500), np.zeros(1000)]
    assert _scale(np.column_stack([wrong, others]), y, log_odds, same_length)[0] == scale


@pytest.mark.parametrize(("several", "scale"), [(True, 1.0), (False, 0.0)])
def test_odds_are_not_held_back_for_lengths_that_a_term_mends(several, scale, monkeypatch):
    """One summary is wrong and long courses are suspected of it; thirty others go with the length, which has its law.
    Odds alone would shorten courses, so none of them counted; with a term of the length all of them can."""
    if not several:
        monkeypatch.setattr(density_ratio, "SIZES", 1)
    draw = np.random.default_rng(0)
    y, length = np.repeat([0.0, 1.0], [800, 1600]), draw.normal(size=2400)
    wrong = draw.normal(size=2400) + 1.5 * y
    others = length[:, None] + 0.3 * draw.normal(size=(2400, 30))
    log_odds = -1.5 * (wrong[y == 1] - 0.75) - 1.0 * length[y == 1]
    x = np.column_stack([wrong, others])
    assert _scale(x, y, log_odds, [length[y == 0], length[y == 1]])[0] == scale


def test_harder_to_tell_fewer_draws():
    near = DensityRatio.fit(patients(1500, 0.6, 1), patients(3000, 0, 2), Rng(0))
    far = DensityRatio.fit(patients(1500, 1.5, 1), patients(3000, 0, 2), Rng(0))
    assert near is not None and far is not None
    assert 2 <= near.candidates < far.candidates <= 16
    assert DensityRatio.fit(patients(500, 1, 1), patients(900, 0, 2), Rng(0), candidates=3).candidates == 3


@pytest.fixture(scope="module")
def dull():
    """A model whose patients are too alike."""
    return ColumnarAR(temperature=0.4, members=1).fit(small_cohort(300), seed=0)


def test_a_planted_fault_is_seen_and_lessened(dull):
    """Temperature .4 draws patients too alike; chosen ones are harder to tell from patients nobody has seen."""
    assert dull.ratio_ is not None and dull.ratio_.auc > 0.7
    real = small_cohort(600, seed=77)
    better = DensityRatio.fit(real, dull.sample(600, seed=5), Rng(1))
    kept, dull.ratio_ = dull.ratio_, None
    try:
        plain = DensityRatio.fit(real, dull.sample(600, seed=5), Rng(1))
    finally:
        dull.ratio_ = kept
    assert better is not None and plain is not None
    assert better.auc < plain.auc - 0.03


def test_courses_are_chosen_and_statics_stay_as_they_were_drawn(dull):
    """The same patients with and without the choice differ in their courses, not in their statics."""
    chosen = dull.sample(60, seed=5)
    kept, dull.ratio_ = dull.ratio_, None
    try:  # the first candidate, which gives the statics
        rng = Rng(5).child("shard", 0).child(0).child("make").child("candidates", 0)
        first = dull._make(np.arange(1, 61), None, rng, Condition())
    finally:
        dull.ratio_ = kept
    assert chosen.tables["patients"].equals(first.tables["patients"])
    assert not chosen.tables["visits"].equals(first.tables["visits"])


def test_saved_sharded_and_conditioned(dull, tmp_path):
    dull.save(tmp_path / "model")
    again = load(tmp_path / "model")
    whole = dull.sample(40, seed=3)
    assert_same(again.sample(40, seed=3), whole)
    assert again.notes == dull.notes and again.notes["draws of a patient, at most"] >= 2
    assert not rules.broken_subjects(whole).len()
    assert dull._make(np.arange(0), None, Rng(0), Condition()).n_subjects == 0  # a chain may have nobody to continue
    fixed = dull.sample(20, seed=3, where={"patients.sex": "F"})
    assert set(fixed.tables["patients"]["sex"]) == {"F"}
    given = small_cohort(30, seed=9)
    kept = dull.sample(given=given, seed=3).tables["patients"]
    assert kept.drop("subject_id").equals(given.tables["patients"].drop("subject_id"))
    (tmp_path / "model" / "density_ratio.safetensors").unlink()
    with pytest.raises(FileFormatError):
        load(tmp_path / "model")


def test_no_comparison_where_it_is_not_wanted():
    assert ColumnarAR(temperature=0.4, members=1, candidates=1).fit(small_cohort(120), seed=0).ratio_ is None
    assert ColumnarAR(temperature=0.4, members=1).fit(small_cohort(35), seed=0).ratio_ is None
    with pytest.raises(SettingsError):
        ColumnarAR(candidates=0)
