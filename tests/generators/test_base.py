"""Settings, redraw, repair and conditions of the generator base, on generators whose output is known."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from cohortloom.codec.tensors import Encoded, SequenceArrays, StaticArrays
from cohortloom.cohort import Cohort
from cohortloom.errors import FileFormatError, SamplingError, SettingsError
from cohortloom.generators import create, load
from cohortloom.generators.base import Ability, Generator
from cohortloom.registry import with_settings
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.training import Training


def cohort(n=30, rules=()):
    schema = Schema.model_validate(
        {"name": "tiny", "clock": "offset", "rules": rules, "tables": {
            "people": {"role": "static", "columns": {
                "sex": {"kind": "category", "levels": ["F", "M"]}, "ill": {"kind": "flag"},
                "weight": {"kind": "number", "low": 30, "high": 200}}},
            "visits": {"role": "visit", "columns": {"pain": {"kind": "count", "high": 10}}}}}
    )  # fmt: skip
    draw = np.random.default_rng(0)
    people = {"subject_id": np.arange(n), "sex": draw.choice(["F", "M"], n), "ill": draw.random(n) < 0.5,
              "weight": draw.normal(80, 10, n)}  # fmt: skip
    visits = {"subject_id": np.arange(n), "visit_id": np.arange(n), "pain": draw.integers(0, 11, n),
              "time": pl.Series(draw.integers(0, 99, n) * 86_400_000_000).cast(pl.Duration("us"))}  # fmt: skip
    return Cohort.build(schema, {"people": pl.DataFrame(people), "visits": pl.DataFrame(visits)})


@dataclass(kw_only=True)
class Coin(Generator):
    """Sex, illness and weight drawn apart, one visit each."""

    name: ClassVar[str] = "coin"
    ill: float = 0.5
    weight: float = 0.0

    def _fit(self, data, context, rng, run):
        self.seen_ = data

    def _draw(self, n, context, rng, where):
        draw, seen = rng.numpy, self.seen_
        static = np.column_stack([draw.integers(2, 4, n), 2 + (draw.random(n) < self.ill), np.full(n, self.weight)])
        return Encoded(
            StaticArrays(seen.static.features, static.astype(float), np.ones_like(static, bool)),
            SequenceArrays(
                seen.sequence.features, np.zeros((n, 1)), np.ones((n, 1), bool), np.ones(n), np.ones(n, int)
            ),
        )


def test_patients_that_break_a_rule_are_drawn_again(monkeypatch):
    """P(ill and M) = 1/4 in a draw; after redraws it is 0 and the others keep their odds: P(ill) = 1/3."""
    _break_if(monkeypatch, lambda people: people.filter((pl.col("sex") == "M") & pl.col("ill")))
    drawn = Coin().fit(cohort(), seed=0).sample(3000, seed=1)
    people = drawn.tables["people"]
    assert drawn.subjects.to_list() == list(range(1, 3001))
    assert people.filter((pl.col("sex") == "M") & pl.col("ill")).height == 0
    assert people["ill"].mean() == pytest.approx(1 / 3, abs=4 * (2 / 9 / 3000) ** 0.5)
    redrawn = drawn.origin.notes["redrawn subjects"]  # 1/4 + 1/16 + ... = 1/3 redraws per patient
    assert redrawn == pytest.approx(1000, abs=120)


def test_a_rule_that_can_not_be_met_is_an_error_with_counts(monkeypatch):
    _break_if(monkeypatch, lambda people: people.filter(pl.col("ill")))
    with pytest.raises(SamplingError, match=r"50 of 50 subjects of shard 0 .* after 20 redraws"):
        Coin(ill=1.0).fit(cohort(), seed=0).sample(50, seed=1)


def test_repaired_patients_are_counted(monkeypatch):
    from cohortloom import rules

    def heavy_to_light(drawn, rng):
        people = drawn.tables["people"]
        mended = people.with_columns(sex=pl.when(pl.col("ill")).then(pl.lit("F")).otherwise(pl.col("sex")))
        return Cohort(drawn.schema, {**drawn.tables, "people": mended}, drawn.signals, drawn.origin)

    model = Coin().fit(cohort(), seed=0)
    plain = model.sample(400, seed=1).tables["people"]
    monkeypatch.setattr(rules, "repair", heavy_to_light)
    drawn = model.sample(400, seed=1)
    expected = plain.filter((pl.col("sex") == "M") & pl.col("ill")).height
    assert expected > 50 and drawn.origin.notes == {"repaired subjects": expected}


def test_unknown_settings_name_the_nearest():
    with pytest.raises(SettingsError, match='Did you mean "latent_size"'):
        create("temporal-vae", latent_sise=3)
    with pytest.raises(SettingsError, match='Did you mean "learning_rate"'):
        create("temporal-vae", training={"learning_rat": 0.1})
    with pytest.raises(SettingsError, match=r"coin.ill.*valid number"):
        Coin(ill="often")
    with pytest.raises(SettingsError, match="epochs or steps"):
        Training(epochs=3, steps=4)
    with pytest.raises(SettingsError, match="batch_size out of range"):
        Training(batch_size=0)


def test_settings_come_back_from_json():
    vae = create("temporal-vae", latent_size=3, training={"steps": 7, "betas": [0.5, 0.9]})
    assert vae.training.betas == (0.5, 0.9) and with_settings(type(vae), vae.settings()) == vae
    assert vae != create("temporal-vae") and "latent_size=3" in repr(vae)


def test_number_of_patients_is_checked():
    model = Coin().fit(cohort(), seed=0)
    for n in (-1, None, True):
        with pytest.raises(SettingsError):
            model.sample(n, seed=0)


def test_only_models_are_loaded(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileFormatError, match="not a model folder"):
        load(tmp_path / "folder")
    (tmp_path / "folder" / "model.json").write_text('{"format": 99}')
    with pytest.raises(FileFormatError, match="format"):
        load(tmp_path / "folder")


def test_a_class_refuses_the_folder_of_another(tmp_path):
    from cohortloom.generators.independent import Independent

    create("bootstrap").fit(cohort(), seed=0).save(tmp_path / "model")
    with pytest.raises(SettingsError, match="holds a bootstrap"):
        Independent.load(tmp_path / "model")


def test_an_ability_is_named_when_it_is_lacking():
    model = Coin().fit(cohort(), seed=0)
    with pytest.raises(SettingsError, match=Ability.SCORE):
        model.score(cohort())
    with pytest.raises(SettingsError, match=Ability.IMPUTE):
        model.impute(cohort(), seed=0)


def test_one_stream_per_shard_whatever_the_sample_size():
    model = Coin().fit(cohort(), seed=0)
    small, large = model.sample(1024, seed=1), model.sample(2048, seed=1)
    assert large.select(range(1, 1025)).tables["people"].equals(small.tables["people"])
    second = large.select(range(1025, 2049)).tables["people"]["sex"]
    assert not second.equals(small.tables["people"]["sex"])
    assert Rng(1).child("shard", 0).path != Rng(1).child("shard", 1).path


def _break_if(monkeypatch, choose):
    """A rule that can't be repaired, put where the rules of a schema are."""
    from cohortloom import rules

    monkeypatch.setattr(rules, "broken_subjects", lambda drawn: choose(drawn.tables["people"])["subject_id"])
    monkeypatch.setattr(rules, "compile_rules", lambda schema: [])
