"""columnar-ar's time: a span is drawn only where gaps make up for each other, and gaps end where follow-up does."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from scipy.special import logsumexp

from cohortloom.cohort import Cohort
from cohortloom.generators import columnar_encoding, create
from cohortloom.schema.text import parse_schema

SCHEMA = parse_schema(
    'name = "f"\nversion = "1"\nclock = "offset"\n[tables.p]\nrole = "static"\ncolumns.end = { kind = "count" }\n'
    '[tables.v]\nrole = "visit"\nparent = "p"\ncolumns.ill = { kind = "flag", missing = false }\n'
)


def cohort(gaps: list[list[int]], end: list[int]) -> Cohort:
    """Patients with visits after these gaps [d], the first at day 0 (no entry: no visit)."""
    length = [len(g) for g in gaps]
    time = np.concatenate([np.cumsum(g) for g in gaps if len(g)]).astype(np.int64)
    visits = pl.DataFrame(
        {
            "subject_id": np.repeat(np.arange(len(gaps)), length),
            "visit_id": np.arange(len(time)),
            "time": pl.Series(time * 86_400_000_000).cast(pl.Duration("us")),
            "ill": np.arange(len(time)) % 3 == 0,
        }
    )
    return Cohort.build(SCHEMA, {"p": pl.DataFrame({"subject_id": np.arange(len(gaps)), "end": end}), "v": visits})


def planned(n: int, seed: int) -> Cohort:
    """Visits 150 days apart and, one time in four, up to a year later; followed up for less than 300 days more."""
    rng = np.random.default_rng(seed)
    late = lambda k: np.where(rng.random(k) < 0.25, rng.integers(0, 365, k), 0)  # noqa: E731
    gaps = [[0, *(rng.normal(150, 5, k) + late(k)).round().astype(int)] for k in rng.integers(1, 12, n)]
    return cohort(gaps, [sum(g) + int(rng.integers(0, 300)) for g in gaps])


def gaps_of(drawn: Cohort) -> pl.DataFrame:
    """Later visits with their gap [d] and whether it is the last."""
    visits = drawn.tables["v"].with_columns(
        gap=pl.col("time").diff().over("subject_id").dt.total_days(),
        last=pl.col("time") == pl.col("time").max().over("subject_id"),
    )
    return visits.drop_nulls("gap")


def short_last_gaps(spanned: bool | None, monkeypatch: pytest.MonkeyPatch) -> float:
    """Share of last gaps shorter than any planned one."""
    if spanned is not None:
        monkeypatch.setattr(columnar_encoding, "make_up", lambda seq: spanned)
    drawn = (
        create("columnar-ar", members=1, candidates=1, training={"steps": 150})
        .fit(planned(200, 0), seed=0)
        .sample(500, seed=1)
    )
    return gaps_of(drawn).filter("last").select((pl.col("gap") < 137).mean()).item()


def test_the_last_gap_of_a_course_that_grows_visit_by_visit_is_one_like_others(monkeypatch):
    assert short_last_gaps(None, monkeypatch) < 0.03


def test_as_the_rest_of_a_span_it_gathers_the_errors_of_all_others(monkeypatch):
    assert short_last_gaps(True, monkeypatch) > 0.06


def test_gaps_end_with_follow_up_and_the_number_of_visits_is_kept():
    real = planned(300, 0)
    fitted = create("columnar-ar", members=1, candidates=1, training={"steps": 150}).fit(real, seed=0)
    assert not fitted.net_.alphabet.spanned and fitted.net_.alphabet.bounds == [(0, -1)]
    drawn = fitted.sample(600, seed=1)
    ends = drawn.tables["v"].group_by("subject_id").agg(pl.col("time").max().dt.total_days(), pl.len())
    ends = ends.join(drawn.tables["p"], on="subject_id")
    assert (ends["time"] <= ends["end"]).all()
    assert ends["len"].mean() == pytest.approx(real.tables["v"].height / 300, rel=0.1)
    assert (ends["end"] - ends["time"]).median() == pytest.approx(150, abs=60)


def test_probabilities_of_all_gaps_sum_to_one():
    rng = np.random.default_rng(0)
    gaps = [[0, *rng.integers(1, 4, k - 1)] if k else [] for k in rng.integers(0, 4, 300)]
    fitted = create("columnar-ar", members=1, candidates=1, training={"steps": 100}).fit(
        cohort(gaps, [0] * 300), seed=0
    )
    assert not fitted.net_.alphabet.spanned and fitted.net_.alphabet.gap is not None
    everyone = [[], [0], *([0, *more] for k in (1, 2) for more in product((1, 2, 3), repeat=k))]
    every = [(g, ill) for g in everyone for ill in product((False, True), repeat=len(g))]
    records = cohort([g for g, _ in every], [0] * len(every))
    ill = pl.Series("ill", [flag for _, flags in every for flag in flags])
    tables = dict(records.tables) | {"v": records.tables["v"].with_columns(ill)}
    score = fitted.score(Cohort.build(SCHEMA, tables))
    assert logsumexp(score) == pytest.approx(0, abs=1e-4)
