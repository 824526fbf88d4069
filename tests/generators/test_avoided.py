"""Patients with pairs that no training patient has are drawn again: a few times, and without refusing."""

import polars as pl
import pytest
from ward_codes import ward

from cohortloom.cohort.pairs import Never
from cohortloom.generators import create, redraw, store
from cohortloom.generators.columnar_ar import ColumnarAR
from cohortloom.training.settings import Training


@pytest.fixture(scope="module")
def fitted():
    return ColumnarAR(training=Training(steps=60), candidates=1, members=1).fit(ward(400, 1), seed=1)


def test_hardly_any_drawn_patient_holds_such_a_pair(fitted, monkeypatch):
    """Oracle: with redraws a share p becomes at most p^4 where the model gives all patients one chance."""
    never = Never.of(ward(400, 1))
    drawn = fitted.sample(1_000, seed=1)
    kept = never.held_by(drawn).len()
    assert drawn.origin.notes["avoided subjects"] > 20
    assert drawn.origin.notes["avoided subjects"] == drawn.origin.notes["redrawn subjects"]
    monkeypatch.setattr(redraw, "AVOIDING", 0)
    plain = fitted.sample(1_000, seed=1)
    held = never.held_by(plain).len()
    assert "avoided subjects" not in plain.origin.notes
    assert held > 20
    assert kept <= held / 5
    rest = set(plain.subjects) - set(never.held_by(plain))  # whoever was well drawn stays as he was
    same = [c.tables["visits"].filter(pl.col("subject_id").is_in(rest)).drop("visit_id") for c in (plain, drawn)]
    assert same[0].equals(same[1])


def test_the_model_file_holds_the_pairs(fitted, tmp_path):
    store.save(fitted, tmp_path / "m")
    again = store.load(tmp_path / "m")
    assert again.never_ == fitted.never_
    assert again.never_.pairs
    assert again.sample(50, seed=3).tables["visits"].equals(fitted.sample(50, seed=3).tables["visits"])


def test_a_chain_avoids_what_its_links_avoid(monkeypatch):
    """Statics of one link and the course of another never met in training patients either."""
    link = {"generator": "columnar-ar", "training": {"steps": 60}, "candidates": 1, "members": 1}
    chain = create("chain", static=link, events=link).fit(ward(400, 1), seed=1)
    drawn = chain.sample(200, seed=1)
    kept = chain.static.never_.held_by(drawn).len()
    assert drawn.origin.notes["avoided subjects"] > 10
    monkeypatch.setattr(redraw, "AVOIDING", 0)
    assert kept <= chain.static.never_.held_by(chain.sample(200, seed=1)).len() / 4


def test_what_is_asked_for_is_drawn_all_the_same(fitted):
    """A condition that no training patient meets: three redraws, then what the model says."""
    men = fitted.sample(20, seed=1, where={"patients.sex": "M", "visits.code": "birth"})
    assert men.n_subjects == 20
    assert men.origin.notes["avoided subjects"] == 60
