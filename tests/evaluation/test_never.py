"""The score of pairs that never meet: planted ones fail it alone, second real samples pass, chance is dealt rightly."""

import numpy as np
import polars as pl
import pytest
from ward_codes import ward, with_cells

from cohortloom.evaluation import evaluate
from cohortloom.evaluation.never import JUDGED, REAL, Met, meetings, novel


@pytest.fixture(scope="module")
def wards():
    return ward(600, 1), ward(600, 2), ward(600, 3)


def judged(made, wards, **options):
    report = evaluate(made, train=wards[0], held_out=wards[1], fast=True, only=["association"], **options)
    return report, report.score("association.never")


def with_births(cohort, n):
    """`n` men give birth in their first visit."""
    men = cohort.tables["patients"].filter(pl.col("sex") == "M")["subject_id"]
    first = cohort.tables["visits"]["subject_id"].is_first_distinct() & cohort.tables["visits"]["subject_id"].is_in(
        men[:n].implode()
    )
    return with_cells(cohort, "visits", "code", np.flatnonzero(first), "birth")


def test_a_second_real_sample_passes(wards):
    _, score = judged(wards[2], wards)
    assert score.value == 0
    assert score.floor == 0
    assert score.passed is True
    assert score.anchors["independent"] > 0.5


@pytest.mark.parametrize(("n", "passed"), [(1, True), (6, False)])
def test_six_births_of_men_among_600_patients_fail_it_alone(wards, n, passed):
    report, score = judged(with_births(wards[2], n), wards)
    assert score.value == pytest.approx(n / 600)
    assert score.passed is passed
    assert [s.key for s in report.failed] == ([] if passed else ["association.never"])
    worst = score.details["pairs"][0]
    assert worst["of"] == "patients.sex = M with visits.code = birth"
    assert worst["patients"] == n
    assert score.details["worst"] == worst["of"]
    assert score.name.endswith(f"most often {worst['of']}") is not passed  # the first lines of a report say which


def test_pieces_of_what_is_not_swallowed_fail_it(wards):
    rows = wards[2].tables["visits"].with_row_index().filter(pl.col("pieces").is_not_null())["index"].to_numpy()[:40:5]
    _, score = judged(with_cells(wards[2], "visits", "route", rows, "vein"), wards)
    assert score.passed is False
    assert score.details["worst"] == "visits.route = vein in one row with visits.pieces recorded"


def test_a_pair_that_a_real_patient_has_is_no_fault(wards):
    real = with_births(wards[0], 1)
    report = evaluate(with_births(wards[2], 6), train=real, held_out=wards[1], fast=True, only=["association"])
    assert report.score("association.never").value == 0


def test_patients_who_hold_what_the_others_do_not():
    """Pair 0 is held by 0 and 1, pair 1 by 2 alone, pair 2 by 1 and 3."""
    met = Met(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 2, 1, 3]), ("a", "b", "c"), np.ones(3))
    assert novel(met, np.array([False, True, True, False])).tolist() == [False, False, True, False]
    assert novel(met, np.array([True, True, False, True])).tolist() == [True, True, False, True]
    assert not novel(met, np.zeros(4, bool)).any()


def test_few_real_patients_expect_less(wards):
    """Oracle: `expected` among real patients is their share of what chance gives all; ten are asked for."""
    from cohortloom.cohort.pairs import numbered, read_columns, rulers

    known = rulers(wards[0].schema, [wards[0]])
    columns = read_columns(known, numbered(wards[0], wards[0].subjects))
    many, few = (np.where(np.arange(600) < n, REAL, JUDGED).astype(np.int8) for n in (550, 50))
    found = [meetings(columns, side) for side in (many, few)]
    assert all((met.expected >= 10).all() for met in found)
    more, less = (dict(zip(met.words, met.expected, strict=True)) for met in found)
    both = set(more) & set(less)
    assert both
    assert [less[w] for w in both] == pytest.approx([more[w] * 50 / 550 for w in both])


def test_cohorts_too_small_or_too_plain_say_so(wards):
    _, score = judged(wards[2].select(wards[2].subjects[:30]), tuple(w.select(w.subjects[:12]) for w in wards))
    assert score.passed is None
    from registry import registry

    report = evaluate(registry(300, 3), train=registry(300, 1), held_out=registry(300, 2), only=["association"])
    assert report.score("association.never").passed is None
    assert "even independent columns would pass" in report.score("association.never").reason


@pytest.mark.slow
def test_false_alarms_are_rare():
    """One limit in 4,000 should be broken; of 60 samples with rare pairs none."""
    alarms = 0
    for k in range(60):
        train, held_out, made = (rare(300, 3 * k + i) for i in (1, 2, 3))
        report = evaluate(made, train=train, held_out=held_out, seed=k, fast=True, only=["association"])
        alarms += report.score("association.never").passed is False
    assert alarms == 0


def rare(n, seed):
    """A ward in which one man in sixty gives birth."""
    cohort = ward(n, seed)
    draw = np.random.default_rng(seed)
    men = cohort.tables["patients"].filter(pl.col("sex") == "M")["subject_id"].to_numpy()
    rows = cohort.tables["visits"]["subject_id"].is_first_distinct() & cohort.tables["visits"]["subject_id"].is_in(
        pl.Series(men[draw.random(len(men)) < 1 / 60]).implode()
    )
    return with_cells(cohort, "visits", "code", np.flatnonzero(rows), "birth")
