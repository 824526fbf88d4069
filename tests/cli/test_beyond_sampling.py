"""extend, impute and --rebalance from the command line."""

from datetime import timedelta

import pytest

from cohortloom.cli.extend import parse_until
from cohortloom.cli.main import main
from cohortloom.cli.options import parse_levels, parse_where
from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.testing.checks import small_cohort


def run(*arguments):
    """Exit code of one command line."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code or 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("beyond")
    small_cohort(60).save(place / "cohort")
    fit = ["fit", place / "cohort", "-o", place / "model", "--set", "members=1", "--set", "training.steps=20"]
    assert run(*fit, "--quiet") == 0
    return place


def test_extend_writes_the_prefix_and_what_follows(folder):
    arguments = ["extend", folder / "model", folder / "cohort", "--until", "400d", "--seed", 1, "--quiet"]
    assert run(*arguments, "-o", folder / "longer") == 0
    before, after = Cohort.load(folder / "cohort"), Cohort.load(folder / "longer")
    assert after.tables["visits"].height > before.tables["visits"].height
    old = after.tables["visits"].join(before.tables["visits"], on=["subject_id", "visit_id"], how="semi")
    assert old.equals(before.tables["visits"]) and after.origin.kind == "real"
    assert run(*arguments, "--draws", 2, "-o", folder / "twice") == 0
    assert Cohort.load(folder / "twice").n_subjects == 2 * before.n_subjects
    assert run(*arguments, "-o", folder / "longer") == 2, "an existing output was replaced"


def test_impute_fills_and_says_how_much(folder, capsys):
    arguments = ["impute", folder / "model", folder / "cohort", "--seed", 1]
    assert run(*arguments, "--column", "visits.sbp", "-o", folder / "full") == 0
    before, after = (Cohort.load(folder / n).tables["visits"]["sbp"] for n in ("cohort", "full"))
    assert before.null_count() > 0 == after.null_count()
    assert f"{before.null_count()} cells filled" in capsys.readouterr().err
    assert run(*arguments, "--column", "visits.nothing", "-o", folder / "none") == 2


def test_rebalance(folder):
    arguments = ["sample", folder / "model", "-n", 40, "--quiet"]
    assert run(*arguments, "--rebalance", "patients.sex=F:0.25,M:0.75", "-o", folder / "balanced") == 0
    sex = Cohort.load(folder / "balanced").tables["patients"]["sex"]
    assert dict(sex.value_counts().iter_rows()) == {"F": 10, "M": 30}
    assert run(*arguments, "--rebalance", "patients.sex=F:0.25,M:0.7", "-o", folder / "bad") == 2


def test_a_condition_without_a_value_is_an_empty_cell():
    assert parse_where(["p.a=x=y", "p.b="]) == {"p.a": "x=y", "p.b": None}


def test_horizons_and_shares_are_read():
    assert parse_until("365d") == timedelta(days=365) and parse_until("1.5h") == timedelta(minutes=90)
    assert parse_until("2w") == timedelta(weeks=2) and parse_until("3") == 3
    for text in ("", "d", "3 years", "-1d", "1.5"):
        with pytest.raises(SettingsError, match="until"):
            parse_until(text)
    assert parse_levels(["a.b=uniform", "a.c=x:y:0.5,z:0.5"]) == {"a.b": "uniform", "a.c": {"x:y": 0.5, "z": 0.5}}
    for text in ("a=uniform", "a.b=even", "a.b", "a.b=x:much"):
        with pytest.raises(SettingsError, match="rebalance"):
            parse_levels([text])
