"""Choosing a generator: planted winners, ties, copies, failures."""

import json
from dataclasses import dataclass
from time import sleep
from typing import ClassVar

import pytest

from cohortloom.cli.main import main
from cohortloom.errors import DataError, SettingsError
from cohortloom.generators import load
from cohortloom.generators.base import Ability, Generator
from cohortloom.report import Report, Score
from cohortloom.selection import Candidate, choose, comparison
from cohortloom.selection.comparison import LEAST_DRAWN, TIE, TRIED, _drawn, _excess, _row, _verdict
from cohortloom.testing.checks import small_cohort

STEPS = {"training": {"steps": 60, "evaluate_every": 20}, "members": 1}
LEARNED, APART = Candidate("columnar-ar", STEPS), Candidate("independent")


@pytest.fixture(scope="module")
def cohort():
    return small_cohort(100)


@pytest.fixture
def judged(monkeypatch):
    """Judges that know the answer: generator -> (judge's AUROC, error of autocorrelation, copies)."""
    marks = {"columnar-ar": (0.6, 0.1, 0.0), "independent": (1.0, 0.5, 0.0), "bootstrap": (0.5, 0.05, 1.0)}

    def judge(drawn, **_):
        auc, error, copied = marks[drawn.origin.source]
        copies = Score("copies", "copies", copied, key="copies.patients", limit=0.01)
        scores = (
            score("detection.worst", auc, 0.5, 1.0, 0.5),
            score("temporal.autocorrelation", error, 0.05, 0.5, 0.05),
        )
        return Report("judged", (*scores, copies), (), {})

    monkeypatch.setattr(comparison, "evaluate", judge)


@pytest.fixture(scope="module")
def larger():
    """Judges of 30 patients kept aside say little: of 100 patients the worse is chosen now and then."""
    return small_cohort(300)


@pytest.fixture(scope="module")
def choice(larger):
    return choose(larger, seed=0, candidates=[APART, LEARNED])


@pytest.mark.slow
def test_a_generator_that_learns_beats_columns_drawn_apart(choice, larger):
    assert choice.winner == LEARNED.label and choice.generator.n_fitted_ == larger.n_subjects
    loss = {row["generator"]: row["loss"] for row in choice.rows}
    assert loss[LEARNED.label] < loss["independent"] - 0.1
    assert [row["loss"] for row in choice.rows] == sorted(row["loss"] for row in choice.rows)
    assert "is chosen" in choice.words[0]


def test_copies_are_never_chosen(cohort, judged):
    """Whoever hands out training patients is out, however near they come."""
    found = choose(cohort, seed=0, candidates=[Candidate("bootstrap"), APART])
    rows = [row for row in found.rows if row["generator"] == "bootstrap" and "cpu_s" in row]
    assert "copies" in rows[0]["out"] and found.winner == "independent"
    with pytest.raises(SettingsError, match="copies"):
        choose(cohort, seed=0, candidates=[Candidate("bootstrap")])
    assert "no better than drawing every column apart" in " ".join(found.words)


@pytest.mark.slow
def test_the_same_seed_chooses_the_same(larger, choice):
    again = choose(larger, seed=0, candidates=[APART, LEARNED])
    clock = ("seconds", "cpu_s")
    rows = [[{k: v for k, v in row.items() if k not in clock} for row in c.rows] for c in (choice, again)]
    assert rows[0] == rows[1] and again.words == choice.words
    drawn = [c.generator.sample(20, seed=1) for c in (choice, again)]
    assert all(drawn[0].tables[n].equals(drawn[1].tables[n]) for n in drawn[0].tables)


def test_the_choice_stands_in_the_model(cohort, judged, tmp_path):
    choice = choose(cohort, seed=0, candidates=[APART, LEARNED])
    assert choice.winner == LEARNED.label
    choice.generator.save(tmp_path / "model")
    notes = load(tmp_path / "model").notes_
    assert notes["chosen by"]["winner"] == LEARNED.label
    assert [row["generator"] for row in notes["chosen by"]["rows"]] == [row["generator"] for row in choice.rows]


def test_candidates_for_which_no_time_is_left_are_named(cohort, judged, monkeypatch):
    """Judges take a second each of 1.2 in all: the second candidate would end after the time, so it is not begun."""
    quick = comparison.evaluate

    def slow(drawn, **options):
        sleep(1.0)
        return quick(drawn, **options)

    monkeypatch.setattr(comparison, "evaluate", slow)
    found = choose(cohort, seed=0, minutes=0.02, candidates=[APART, LEARNED])
    assert found.winner == "independent"
    outs = {row["generator"]: row.get("out") for row in found.rows}
    assert outs[LEARNED.label] == comparison.UNTRIED
    assert any(f"No time was left to try {LEARNED.label}" in words for words in found.words)


def test_few_patients_are_not_compared():
    found = choose(small_cohort(20), seed=0, candidates=[APART])
    assert found.rows == () and "too few" in found.words[0] and found.winner == "independent"


@dataclass(kw_only=True)
class Broken(Generator):
    """Always fails."""

    name: ClassVar[str] = "broken"
    abilities: ClassVar[frozenset[Ability]] = frozenset()

    def _learn(self, cohort, rng, run):
        raise DataError("nothing to learn from")

    def _fit(self, data, context, rng, run):
        raise NotImplementedError

    def _draw(self, n, context, rng, where):
        raise NotImplementedError


def test_a_candidate_that_fails_is_told_and_the_others_go_on(cohort, judged, monkeypatch):
    monkeypatch.setattr(comparison, "generator_names", lambda: ["broken", "independent"])
    make = comparison.create
    monkeypatch.setattr(comparison, "create", lambda name, **s: Broken() if name == "broken" else make(name, **s))
    found = choose(cohort, seed=0, candidates=[Candidate("broken"), APART])
    assert found.winner == "independent"
    assert next(r for r in found.rows if r["generator"] == "broken")["out"] == "DataError: nothing to learn from"
    with pytest.raises(SettingsError, match="nothing to learn from"):
        choose(cohort, seed=0, candidates=[Candidate("broken")])


def test_an_empty_cohort_is_refused(cohort):
    empty = cohort.select([])
    with pytest.raises(DataError, match="no row"):
        choose(empty, seed=0)


# --- the scale and the verdict, by hand ---


def score(key: str, value: float, floor: float, apart: float, copied: float = 0.0) -> Score:
    return Score(
        key, key.split(".")[0], value, key=key, floor=floor, anchors={"independent": apart, "bootstrap": copied}
    )


def test_the_scale_runs_from_real_patients_to_columns_apart():
    assert _excess(score("a.b", 0.1, 0.1, 0.5), 0.1) == 0 and _excess(score("a.b", 0, 0.1, 0.5), 0.5) == 1
    assert _excess(score("a.b", 0, 0.1, 0.5), 0.3) == pytest.approx(0.5)
    assert _excess(score("a.b", 0, 0.1, 0.12), 0.3) is None  # drawing apart does no harm: tells nothing
    # for a judge, .55 and .45 are equally far from guessing
    assert _excess(score("a.b", 0, 0.55, 1.0), 0.45, near=True) == pytest.approx(0)
    assert _excess(score("a.b", 0, 0.5, 1.0), 0.75, near=True) == pytest.approx(0.5)
    # columns drawn apart fool the judges: a candidate that does not is still worse than one that does
    assert _excess(score("a.b", 0, 0.5, 0.52), 0.56, near=True) == pytest.approx(0.6)
    assert _excess(score("a.b", 0, 0.5, 0.52), 1.0, near=True) == 1.5


def test_the_loss_is_half_detection_and_half_dependence():
    scores = (
        score("detection.worst", 0.75, 0.5, 1.0, 0.5),
        score("temporal.autocorrelation", 0.1, 0.1, 0.5, 0.1),
        score("association.static_temporal", 0.5, 0.1, 0.5, 0.1),
    )
    report = Report("r", scores, (), {})
    assert _row({}, report, None)["loss"] == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)
    assert _row({}, report, "bootstrap")["loss"] == 0 and _row({}, report, "independent")["loss"] == 1


@pytest.mark.parametrize(
    ("losses", "winner", "said"),
    [
        ((0.20, 0.16), "a", "noise"),  # within .4 / sqrt(50): the first
        ((0.20, 0.10), "b", "b is chosen"),
        ((0.95, 0.99), "a", "no better than drawing"),
        ((0.40, 0.50), "a", "could beat that simplicity"),
    ],
)
def test_what_is_said(losses, winner, said):
    assert TIE < 0.4 / 50**0.5 < 0.1
    candidates = [Candidate("a"), Candidate("b")]
    rows = [{"generator": c.generator, "loss": x} for c, x in zip(candidates, losses)]
    anchors = [
        {"generator": "bootstrap", "loss": 0.0, "out": "-"},
        {"generator": "independent", "loss": 1.0, "out": "-"},
    ]
    chosen, ranked, words = _verdict(candidates, rows, anchors, 50)
    assert chosen.generator == winner and said in " ".join(words)
    assert ranked[0]["generator"] == "bootstrap"


def test_from_the_command_line(tmp_path, capsys, judged, monkeypatch):
    from cohortloom import selection

    small_cohort(60).save(tmp_path / "cohort")
    monkeypatch.setattr(selection, "choose", lambda data, **kw: choose(data, candidates=[APART], **kw))
    arguments = ["fit", str(tmp_path / "cohort"), "-o", str(tmp_path / "model"), "--generator", "auto"]
    for code, more in ((0, ["--json", str(tmp_path / "c.json")]), (2, [])):
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--quiet", *more])
        assert (left.value.code or 0) == code
    assert "independent is chosen" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["winner"] == "independent"
    assert load(tmp_path / "model").notes_["chosen by"]["winner"] == "independent"


def test_a_slow_generator_draws_as_many_as_its_time_allows():
    asked = []

    class Slow:
        def sample(self, n, *, seed):
            asked.append(n)
            sleep(0.001 * n)

    _drawn(Slow(), 2_000, 1, 0.5)
    assert asked[0] == TRIED and LEAST_DRAWN <= asked[1] <= 500  # a thousand a second
    _drawn(Slow(), 2_000, 1, None)
    _drawn(Slow(), 100, 1, 0.01)
    assert asked[2:] == [2_000, 100]
