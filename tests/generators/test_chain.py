"""A chain continues patients and fills holes as the link that draws the course does, given the statics."""

from datetime import timedelta
from itertools import product

import columnar_cohorts as known
import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.generators import create
from cohortloom.generators.base import Ability
from cohortloom.generators.chain import Chain, completed
from cohortloom.generators.columnar_ar import ColumnarAR
from cohortloom.schema import Schema
from cohortloom.testing.checks import assert_same
from cohortloom.training import Training

LINK = {"generator": "columnar-ar", "members": 1, "training": {"steps": 150}}


@pytest.fixture(scope="module")
def chain():
    return create("chain", static="independent", events=LINK).fit(known.holed_patients(), seed=0)


def test_holes_of_the_course_follow_bayes_given_the_statics(chain):
    """All ways to fill the holes are listed and weighed by the likelihood of the link that draws the course."""
    start = (None, None, 1, "b", None)
    options = [["a", "b"], range(4)]
    ways = [(None, stage, 1, "b", points) for stage, points in product(*options)]
    exact = np.exp(chain.events.score(known.tiny_patients(ways)))
    exact /= exact.sum()
    draws = 1_500
    full = chain.impute(known.tiny_patients([start]), draws=draws, seed=0)
    assert full.tables["patients"]["sex"].null_count() == draws  # statics are given, this one is not known
    visits = full.tables["visits"].select("stage", "points").rows()
    found = [(None, *visits[2 * i], *visits[2 * i + 1]) for i in range(draws)]
    np.testing.assert_allclose([found.count(way) / draws for way in ways], exact, atol=0.05)
    assert np.abs(exact - 1 / len(ways)).max() > 0.05
    assert full.origin.notes["imputed by"] == "chain"


def test_a_course_goes_on_as_its_link_goes_on(chain):
    """The next visit after one visit, against the likelihood of all second visits."""
    prefix = known.tiny_patients([(True, "b", 3)] * 400)
    longer = chain.extend(prefix, until=1, seed=0)
    assert longer.tables["patients"].equals(prefix.tables["patients"])
    second = longer.tables["visits"].filter(pl.col("time") == 1)
    assert second.height > 300
    ways = [(True, "b", 3, *way) for way in product(["a", "b"], range(4))]
    exact = np.exp(chain.events.score(known.tiny_patients(ways)))
    stage_b = exact[4:].sum() / exact.sum()
    assert abs((second["stage"] == "b").sum() / (second["stage"].is_not_null()).sum() - stage_b) < 0.08
    assert longer.origin.source.endswith("continued by chain")
    assert chain.extend(prefix, until=1, draws=2, seed=0).n_subjects == 800


def test_one_link_for_both_fills_statics_too():
    joint = create("chain", static=LINK, events="joint").fit(known.holed_patients(100), seed=0)
    holed = known.holed_patients(30)
    full = joint.impute(holed, seed=3)
    assert full.tables["patients"]["sex"].null_count() == 0
    assert_same(full, joint.impute(holed, seed=3))


class OnlyDraws(ColumnarAR):
    """Draws courses and can do nothing else."""

    abilities = frozenset({Ability.GIVEN})


def test_what_cannot_be_is_refused_by_name(chain):
    holed = known.holed_patients(10)
    with pytest.raises(SettingsError, match=r"patients\.sex can't be filled given the course"):
        chain.impute(holed, columns=["patients.sex", "visits.stage"], seed=0)
    only = chain.impute(holed, columns=["visits.stage"], seed=0).tables["visits"]
    assert only["stage"].null_count() == 0 and only["points"].null_count() > 0
    poor = Chain(events=OnlyDraws(members=1, training=Training(steps=10))).fit(known.holed_patients(60), seed=0)
    assert poor.abilities == {Ability.CONDITION}
    with pytest.raises(SettingsError, match='link events, columnar-ar, lacks the ability "impute"'):
        poor.impute(holed, seed=0)


def test_abilities_are_those_of_the_link(chain):
    assert {Ability.EXTEND, Ability.IMPUTE, Ability.CONDITION} == chain.abilities
    alone = create("chain", static=LINK, events=None).fit(known.holed_patients(60), seed=0)
    assert Ability.EXTEND not in alone.abilities
    with pytest.raises(SettingsError, match="it has no course"):
        alone.extend(known.holed_patients(5), until=1, seed=0)
    with pytest.raises(SettingsError, match="until is a number of visits"):
        chain.extend(known.holed_patients(5), until=timedelta(days=1), seed=0)


def test_without_statics_there_is_nothing_to_continue_from():
    """The second link would draw nobody; one link for both draws the course."""
    schema = Schema.model_validate(
        {
            "name": "visits",
            "clock": "order",
            "tables": {"visits": {"role": "visit", "columns": {"x": {"kind": "flag"}}}},
        }
    )
    visits = pl.DataFrame({"subject_id": np.arange(40), "visit_id": np.arange(40), "time": 0, "x": [True, False] * 20})
    cohort = Cohort.build(schema, {"visits": visits})
    with pytest.raises(SettingsError, match="no static table"):
        create("chain", static="independent", events=LINK).fit(cohort, seed=0)
    drawn = create("chain", static="independent", events="joint").fit(cohort, seed=0).sample(30, seed=0)
    assert drawn.tables["visits"].height == 30


def test_a_model_of_waveforms_alone_is_put_behind_one_of_the_tables():
    wave = {"kind": "ecg", "channels": ["I"], "fs": 100, "duration": 2}
    bare = Schema.model_validate({"name": "bare", "clock": "offset", "signals": {"ecg": wave}})
    tables = {"patients": {"role": "static", "columns": {"age": {"kind": "number", "unit": "a"}}}}
    whole = Schema.model_validate({"name": "whole", "clock": "offset", "tables": tables, "signals": {"ecg": wave}})
    waves, table = create("signal-diffusion"), create("columnar-ar")
    assert completed(waves, bare) is waves and completed(table, whole) is table
    made = completed(waves, whole)
    assert made.name == "chain" and made.signals is waves and made.events == "joint" and Ability.GIVEN in made.abilities
    assert Ability.GIVEN not in create("chain", static="columnar-ar", events="joint").abilities


def test_a_chain_is_stored_only_if_all_links_are():
    assert create("chain").storable and create("chain").static.name == "columnar-ar"
    assert not create("chain", static="sdv-static").storable
