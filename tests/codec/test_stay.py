"""Facts of numbers of rows that grow with the length of their visit."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from cohortloom.codec import Codec
from cohortloom.codec.tensors import Encoded, Layout
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.schema import Code, Number, Schema, Table, Timestamp

RAW = Layout(scale="raw")
SCHEMA = Schema(
    name="ward",
    tables={
        "stays": Table(role="visit", columns={"left": Timestamp(missing=False), "seen": Timestamp()}),
        "charts": Table(
            role="event", parent="stays", columns={"item": Code(), "value": Number()}, code="item", value="value"
        ),
    },
)


def ward(rows_of, n=200, seed=0):
    """Stays of half a day to three weeks that begin within an hour; `rows_of(days)` entries each, on the full hour or
    after it; "seen" has nothing to do with anything."""
    draw = np.random.default_rng(seed)
    start = [datetime(2024, 1, 1) + timedelta(days=30 * i, minutes=int(draw.integers(0, 1440))) for i in range(n)]
    days = np.exp(draw.uniform(np.log(0.5), np.log(21), n))
    left = [t + timedelta(minutes=int(d * 1440)) for t, d in zip(start, days)]
    seen = [t + timedelta(days=float(draw.uniform(0.1, 9))) for t in start]
    stays = {"subject_id": range(n), "visit_id": range(n), "time": start, "left": left, "seen": seen}
    rows = []
    for i, (t, d) in enumerate(zip(start, days)):
        for _ in range(int(rows_of(d, draw))):
            at = t + timedelta(minutes=int(draw.uniform(0, d) * 1440))
            whole = at.replace(minute=0)
            rows.append((i, i, whole if whole >= t and draw.random() < 0.8 else at, draw.choice(["A", "B"]), 1.0))
    names = ["subject_id", "visit_id", "time", "item", "value"]
    return Cohort.build(SCHEMA, {"stays": pl.DataFrame(stays), "charts": pl.DataFrame(rows, names, orient="row")})


def by_day(days, draw):
    return 1 + draw.poisson(6 * days)


def test_rows_follow_the_length_of_a_visit_drawn_apart_from_it():
    """Numbers per day dealt to other visits: rows still grow with their visit, which numbers as such would not."""
    cohort = ward(by_day)
    codec = Codec.fit(cohort, RAW)
    (fold,) = codec.folds
    assert fold.paced == ("charts#n",) and fold.stay.end == "left"
    encoded = codec.encode(cohort, rng=Rng(0))
    at = {f.name: j for j, f in enumerate(encoded.sequence.features)}
    assert np.std(np.log(encoded.sequence.values[:, at["charts#n"]])) < 0.5
    values, observed = encoded.sequence.values.copy(), encoded.sequence.observed.copy()
    events = [j for name, j in at.items() if name.startswith("charts")]
    dealt = np.random.default_rng(1).permutation(len(values))
    for array in (values, observed):
        array[:, events] = array[dealt][:, events]
    sequence = replace(encoded.sequence, values=values, observed=observed)
    made = codec.decode(Encoded(encoded.static, sequence), Rng(1), ids=np.arange(200)).tables
    assert correlation(cohort.tables) > 0.9
    assert correlation(made) > 0.85


def correlation(tables):
    """Of the logarithms of moments and length of a stay."""
    n = tables["charts"].group_by("visit_id").agg(pl.col("time").n_unique().alias("n"))
    both = tables["stays"].join(n, on="visit_id").filter(pl.col("left") > pl.col("time"))
    days = (both["left"] - both["time"]).dt.total_minutes().to_numpy() / 1440
    return np.corrcoef(np.log(days), np.log(both["n"].to_numpy()))[0, 1]


def test_numbers_come_back():
    cohort = ward(by_day)
    codec = Codec.fit(cohort, RAW)
    made = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(200)).tables["charts"]
    for code in "AB":
        there = cohort.tables["charts"].filter(item=code)["visit_id"].value_counts().sort("visit_id")
        back = made.filter(item=code)["visit_id"].value_counts().sort("visit_id")
        assert abs(there["count"].to_numpy() - back["count"].to_numpy()).mean() < 0.02 * there["count"].mean()
    assert codec.to_json() == Codec.from_json(SCHEMA, codec.to_json()).to_json()


def test_numbers_that_do_not_grow_are_told_as_they_are():
    (fold,) = Codec.fit(ward(lambda days, draw: 1 + draw.poisson(8)), RAW).folds
    assert fold.paced == () and fold.stay is None


def test_no_entry_lies_before_the_visit_whose_hour_has_begun():
    """Charts kept by the hour: no entry of training is before its stay, and none after decoding."""
    cohort = ward(lambda days, draw: 1 + draw.poisson(40 * days))
    codec = Codec.fit(cohort, RAW)
    assert codec.folds[0].times.full > 0.5
    for tables in (cohort.tables, codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(200)).tables):
        rows = tables["charts"].join(tables["stays"].select("visit_id", begun="time"), on="visit_id")
        assert (rows["time"] < rows["begun"]).sum() == 0
