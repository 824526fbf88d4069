"""The event transformer learns what follows what, when, and with which value; broken ones do not."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.generators import create, redraw
from cohortloom.generators import event_transformer as module
from cohortloom.generators.event_encoding import Classes, GapClasses, StaticClasses
from cohortloom.nets.event_transformer import PatientNet
from cohortloom.rng import Rng
from cohortloom.schema import Schema

DAY = 86_400_000_000
SETTINGS = {
    "width": 32,
    "layers": 1,
    "window": 48,
    "training": {"steps": 220, "evaluate_every": 44, "learning_rate": 5e-3},
}


def ward(n: int = 240, seed: int = 0) -> Cohort:
    """A test "A" is answered by "B" a day later; the severe have "C" in place of "A", and three times as many rows; B
    has a level in each patient that stays."""
    draw = np.random.default_rng(seed)
    schema = Schema.model_validate(
        {"name": "ward", "clock": "offset", "tables": {
            "people": {"role": "static", "columns": {
                "severe": {"kind": "flag"}, "age": {"kind": "number", "decimals": 0}}},
            "labs": {"role": "event", "code": "item", "value": "value", "columns": {
                "item": {"kind": "code", "levels": ["A", "B", "C"]}, "value": {"kind": "number", "decimals": 2}}},
        }}
    )  # fmt: skip
    severe = draw.random(n) < 0.4
    rows = []
    for i in range(n):
        level, time = draw.normal(5 + 3 * severe[i], 1), 0.0
        for _ in range(draw.poisson(9 if severe[i] else 3)):
            time += draw.exponential(10)
            rows.append((i, time, "C" if severe[i] else "A", draw.normal(0, 1)))
            time += draw.uniform(0.9, 1.1)
            rows.append((i, time, "B", level + draw.normal(0, 0.1)))
    frame = pl.DataFrame(rows, schema=["subject_id", "time", "item", "value"], orient="row").with_columns(
        (pl.col("time") * DAY).round().cast(pl.Int64).cast(pl.Duration("us")), pl.col("value").round(2)
    )
    people = pl.DataFrame({"subject_id": np.arange(n), "severe": severe, "age": draw.normal(60, 9, n).round()})
    return Cohort.build(schema, {"people": people, "labs": frame})


def facts(cohort: Cohort) -> dict[str, float]:
    """What was planted, as numbers."""
    labs = cohort.tables["labs"].join(cohort.tables["people"], on="subject_id", how="left")
    labs = labs.with_columns(
        after=pl.col("item").shift(-1).over("subject_id"),
        wait=(pl.col("time").shift(-1) - pl.col("time")).over("subject_id").dt.total_hours() / 24,
        last=pl.col("value").shift(2).over("subject_id"),
    )
    asked = labs.filter(pl.col("item") != "B", pl.col("after").is_not_null())
    b = labs.filter(pl.col("item") == "B", pl.col("last").is_not_null())
    counts = cohort.tables["people"].join(labs.group_by("subject_id").len(), on="subject_id", how="left")
    counts = counts.with_columns(pl.col("len").fill_null(0))
    severe = counts.filter("severe")["len"].mean() or 0.0
    return {
        "answered": asked.select((pl.col("after") == "B").mean()).item() or 0.0,
        "within a day": asked.select(pl.col("wait").is_between(0.85, 1.15).mean()).item() or 0.0,
        "level stays": b.select(pl.corr("value", "last")).item() or 0.0,
        "severe have C": share(labs.filter("severe"), "C"),
        "others have A": share(labs.filter(~pl.col("severe")), "A"),
        "severe have more": severe / max(counts.filter(~pl.col("severe"))["len"].mean() or 0.0, 0.1),
        "lengths differ": float(counts["len"].std() or 0.0),
    }  # fmt: skip


def share(labs: pl.DataFrame, item: str) -> float:
    """Of the questions."""
    return labs.select((pl.col("item") == item).sum() / (pl.col("item") != "B").sum().clip(1)).item()


FLOOR = {"answered": 0.9, "within a day": 0.9, "level stays": 0.8, "severe have C": 0.95, "others have A": 0.95,
         "severe have more": 2.0, "lengths differ": 4.0}  # fmt: skip


def below(drawn: Cohort) -> set[str]:
    """Floors that are missed."""
    found = facts(drawn)
    return {name for name, least in FLOOR.items() if not found[name] >= least}


@pytest.fixture(scope="module")
def real():
    return ward()


@pytest.fixture(scope="module")
def fitted(real):
    return create("event-transformer", **SETTINGS).fit(real, seed=0)


def test_it_learns_what_was_planted(real, fitted):
    assert not below(real)
    assert not below(fitted.sample(300, seed=1))


def _no_gradient(patch):
    return {"training": {**SETTINGS["training"], "learning_rate": 1e-12}}


def _statics_ignored(patch):
    forward = PatientNet.forward
    patch.setattr(PatientNet, "forward", lambda self, ids: 0 * forward(self, ids))
    return {}


def _lengths_constant(patch):
    patch.setattr(StaticClasses, "draw_length", lambda self, ids, draw: np.full(len(ids), 10))
    return {}


def _misaligned(patch):
    build = module.Windows.__init__

    def shifted(self, *args):
        build(self, *args)
        self.gap = self.gap.roll(1)  # the gap of the token before

    patch.setattr(module.Windows, "__init__", shifted)
    return {}


@pytest.mark.parametrize(
    ("breaks", "names"),
    [
        (_no_gradient, {"within a day", "severe have C"}),
        (_statics_ignored, {"others have A"}),
        (_lengths_constant, {"severe have more", "lengths differ"}),
        (_misaligned, {"within a day"}),
    ],
)
def test_a_broken_one_misses_the_floor(real, monkeypatch, breaks, names):
    monkeypatch.setattr(redraw, "AVOIDING", 0)  # what the network says by itself
    settings = {**SETTINGS, **breaks(monkeypatch)}
    drawn = create("event-transformer", **settings).fit(real, seed=0).sample(300, seed=1)
    assert names <= below(drawn)


def test_a_fixed_static_moves_the_stream(fitted):
    items = fitted.sample(120, seed=2, where={"people.severe": True}).tables["labs"]["item"]
    assert (items == "C").sum() > 9 * (items == "A").sum()


def test_score_tells_patients_from_swapped_ones(real, fitted):
    people = real.tables["people"].with_columns(~pl.col("severe"))
    swapped = Cohort.build(real.schema, {**real.tables, "people": people})
    assert fitted.score(real).mean() > fitted.score(swapped).mean() + 3


def test_score_is_the_same_whatever_the_order_of_patients(real, fitted):
    some = real.select(real.subjects.gather([9, 3, 5]))
    whole = dict(zip(real.subjects, fitted.score(real)))
    assert fitted.score(some) == pytest.approx([whole[s] for s in some.subjects], rel=0.02)  # gaps in a class are drawn


def test_classes_keep_the_law():
    x = np.round(np.random.default_rng(0).lognormal(0, 2, 5000), 2) + 0.01
    x[:800] = 1.0
    law = Classes.fit(x, 40, 5, np.arange(5000), log=True)
    back = law.draw(law.of(x), np.random.default_rng(1))
    assert (
        np.abs(np.quantile(np.log(back), np.arange(1, 20) / 20) - np.quantile(np.log(x), np.arange(1, 20) / 20)).max()
        < 0.12
    )
    assert (back == 1.0).mean() == pytest.approx((x == 1.0).mean(), abs=0.01)
    assert np.corrcoef(np.log(x), np.log(back))[0, 1] > 0.99


def test_gap_classes_know_none_before_and_after():
    gap = np.array([0.0, -0.5, -0.1, 0.2, 3.0, 0.0, 40.0] * 20)
    law = GapClasses.from_json(GapClasses.fit(gap, np.arange(len(gap)), 1).to_json())
    found = law.of(gap)
    assert ((found == 0) == (gap == 0)).all() and ((found >= law.positive) == (gap > 0)).all()
    assert (np.sign(law.draw(found, Rng(0).numpy)) == np.sign(gap)).all()


def test_validation_looks_at_no_more_windows_at_once_than_training(monkeypatch):
    """Logits of a window have window x tokens numbers: hundreds of windows of 5,000 codes fill the memory."""
    seen, look = [], module.Windows.log_likelihood
    monkeypatch.setattr(
        module.Windows,
        "log_likelihood",
        lambda self, index, stream: seen.append(len(index)) or look(self, index, stream),
    )
    create("event-transformer", **SETTINGS | {"training": {"steps": 2, "validation": 0.5}}).fit(ward(200), seed=0)
    assert sum(seen) > 64 and max(seen) <= 32


def test_a_row_of_the_last_moment_is_left_out_and_costs_no_redraw(monkeypatch):
    """Three tests at each visit, of which the past holds one: the two others are drawn first, at the same time."""
    schema = Schema.model_validate(
        {"name": "panel", "clock": "offset", "tables": {
            "people": {"role": "static", "columns": {"sex": {"kind": "flag"}}},
            "labs": {"role": "event", "columns": {"x": {"kind": "number", "decimals": 1}}},
        }}
    )  # fmt: skip
    draw = np.random.default_rng(0)
    rows = [(i, 30 * k * DAY, draw.normal()) for i in range(60) for k in range(4) for _ in range(3)]
    frame = pl.DataFrame(rows, schema=["subject_id", "time", "x"], orient="row")
    frame = frame.with_columns(pl.col("time").cast(pl.Duration("us")), pl.col("x").round(1))
    people = pl.DataFrame({"subject_id": np.arange(60), "sex": draw.random(60) < 0.5})
    whole = Cohort.build(schema, {"people": people, "labs": frame})
    past = Cohort.build(schema, {"people": people, "labs": frame.group_by("subject_id", maintain_order=True).head(4)})
    monkeypatch.setattr("cohortloom.generators.extend.REDRAWS", 0)
    longer = create("event-transformer", **SETTINGS).fit(whole, seed=0).extend(past, until=timedelta(days=45), seed=1)
    new = longer.tables["labs"].filter(pl.int_range(pl.len()).over("subject_id") >= 4)
    assert new.height > 60 and (new["time"] > timedelta(days=30)).all()
