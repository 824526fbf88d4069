"""Dates, months and weekdays against the standard library; perplexity by hand; what has no room is named."""

from datetime import datetime
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from clinic import clinic

from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate
from cohortloom.evaluation.codes import log_perplexity, successions
from cohortloom.evaluation.context import prepare
from cohortloom.evaluation.dates import ticks
from cohortloom.schema import Schema


def test_moments_are_those_of_the_cohort():
    train, held_out, good = (clinic(30, k) for k in (1, 2, 3))
    view = prepare(good, train=train, held_out=held_out, fast=True).views["synthetic"]
    patient, found = ticks(view, "visits", None)
    ids = view.subjects.to_numpy()[patient]
    real = good.tables["visits"].select("subject_id", pl.col("time").cast(pl.Int64))
    assert sorted(zip(ids.tolist(), found.tolist(), strict=True)) == sorted(real.rows())


@pytest.mark.parametrize("day", [datetime(2024, 2, 29, 23, 59, 59), datetime(1969, 12, 31, 1), datetime(1999, 1, 1)])
def test_months_weekdays_and_hours_are_those_of_the_calendar(day):
    t = int(np.datetime64(day, "us").astype(np.int64))
    date = t // 86_400_000_000
    assert (date + 3) % 7 == day.weekday()
    assert np.int64(date).astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 + 1 == day.month
    assert t % 86_400_000_000 // 3_600_000_000 == day.hour


def test_the_law_of_weekdays_is_compared_as_it_is():
    # real visits on every weekday, synthetic ones on Mondays only: the total variation distance is 6/7
    n = 700
    visits = {"role": "visit", "columns": {"weight": {"kind": "number"}}}
    schema = Schema.model_validate({"name": "days", "tables": {"visits": visits}})
    monday = np.datetime64("2024-01-01", "us").astype(np.int64)

    def cohort(days):
        time = pl.Series(monday + 86_400_000_000 * days).cast(pl.Datetime("us"))
        visits = {"subject_id": np.arange(n), "visit_id": np.arange(n), "time": time, "weight": np.ones(n)}
        return Cohort.build(schema, {"visits": pl.DataFrame(visits)})

    even = np.arange(n) % 7
    report = evaluate(cohort(7 * (even // 4)), train=cohort(even), held_out=cohort(even), only="marginal")
    found = {c["of"]: c["value"] for c in report.score("marginal.calendar_worst").details["components"]}
    assert found["time of visits: weekday"] == pytest.approx(6 / 7)
    assert found["time of visits: month"] == 0
    assert "time of visits: hour" not in found


def test_perplexity_by_hand():
    # one code, seen at 6 of 9 visits; of 5 pairs of visits 3 had it first, 4 later, 2 at both
    model = np.array([9.0, 6, 5, 3, 4, 2])
    # held out: at 1 of 2 visits; one pair, which had it later only
    held = np.array([2.0, 1, 1, 0, 1, 0])
    alone = -(np.log(6.5 / 10) + np.log(3.5 / 10))
    assert log_perplexity(model, held) == pytest.approx([alone, -np.log(2.5 / 3)])
    # a fair coin at every visit: two equally likely visits for each half code held
    coin = np.array([2e6, 1e6, 1e6, 5e5, 5e5, 2.5e5])
    assert np.exp(log_perplexity(coin, coin)) == pytest.approx([4, 4], rel=1e-4)


def test_successions_are_those_of_a_slow_count():
    train, held_out, good = (clinic(40, k) for k in (1, 2, 3))
    ctx = prepare(good, train=train, held_out=held_out, fast=True)
    f = next(f for f in ctx.fields if f.name == "events.code")
    baskets = (
        good.tables["events"].group_by("subject_id", "time", "visit_id").agg("code").sort("subject_id", "time").rows()
    )
    codes = f.levels[:-1]
    slow = np.zeros((3, len(codes)))
    pairs = 0
    for (one, _, _, a), (two, _, _, b) in pairwise(baskets):
        if one == two:
            pairs += 1
            slow += [[c in a for c in codes], [c in b for c in codes], [c in a and c in b for c in codes]]
    found = successions(ctx.views["synthetic"], f).sum(0)
    k = len(codes)
    assert found[0] == len(baskets)
    assert found[k + 1] == pairs
    assert (found[k + 2 :].reshape(3, k) == slow).all()


def test_columns_without_room_are_named():
    columns = {f"x{i:02d}": {"kind": "number"} for i in range(60)}
    schema = Schema.model_validate({"name": "wide", "tables": {"p": {"role": "static", "columns": columns}}})

    def cohort(seed):
        draw = np.random.default_rng(seed)
        frame = {"subject_id": np.arange(40), **{c: draw.normal(size=40) for c in columns}}
        return Cohort.build(schema, {"p": pl.DataFrame(frame)})

    report = evaluate(cohort(3), train=cohort(1), held_out=cohort(2), only=["association", "marginal"], fast=True)
    said = " ".join(report.not_tested)
    assert "Association of static columns: 160 features a side at most. Left out: p.x53, p.x54" in said
    assert 'The figure "Association between patients" shows 20 of 60. Left out: p.x20' in said
    figure = next(f for f in report.figures if f.title == "Association between patients")
    assert "Not shown: p.x20, p.x21" in figure.note and "and 28 more" in figure.note
