"""Folders: whole or not at all, and never in the place of what is no result of ours."""

from pathlib import Path

import pytest

from cohortloom.cli.main import main
from cohortloom.errors import FileFormatError
from cohortloom.files import new_folder, write_json
from cohortloom.formats import FORMATS, write
from cohortloom.schema import Schema
from cohortloom.simulation import simulate

SCHEMAS = Path(__file__).parents[2] / "schemas"


@pytest.fixture(scope="module")
def cohort():
    return simulate(Schema.from_file(SCHEMAS / "pbc.toml"), 12, seed=1)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


@pytest.mark.parametrize("files", [["notes.txt"], ["patients.csv", "visits.csv"], ["manifest.json"], ["a/b.csv"]])
def test_a_folder_of_the_user_stays_whatever_force_says(tmp_path, cohort, files):
    place = tmp_path / "mine"
    for name in files:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("{}")
    before = listing(place)
    for format in ("native", "tabular", "parquet", "meds"):
        with pytest.raises(FileFormatError, match="not-ours"):
            write(cohort, place, format=format, force=True)
    assert listing(place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["mine"], "nothing is left beside it"


@pytest.mark.parametrize("old", ["native", "tabular", "parquet", "meds"])
def test_force_replaces_a_cohort_of_any_format(tmp_path, cohort, old):
    assert old in FORMATS
    write(cohort, tmp_path / "c", format=old)
    (tmp_path / "c" / ".DS_Store").write_text("")  # a file manager looked at it
    write(cohort, tmp_path / "c", force=True)
    write(cohort, tmp_path / "fresh")
    assert listing(tmp_path / "c") == listing(tmp_path / "fresh")


def test_a_cohort_with_a_foreign_file_is_kept(tmp_path, cohort):
    cohort.save(tmp_path / "c")
    (tmp_path / "c" / "analysis.R").write_text("x")
    with pytest.raises(FileFormatError, match="not-ours"):
        cohort.save(tmp_path / "c", force=True)
    assert (tmp_path / "c" / "analysis.R").exists()


def test_split_keeps_its_source_and_its_neighbours(tmp_path, cohort):
    cohort.save(tmp_path / "out" / "real")
    before = listing(tmp_path / "out")
    assert run("split", tmp_path / "out/real", "-o", tmp_path / "out", "--force") == 2  # the source lies in it
    cohort.save(tmp_path / "elsewhere")
    assert run("split", tmp_path / "elsewhere", "-o", tmp_path / "out", "--force") == 2  # no part of a split
    assert listing(tmp_path / "out") == before

    parts = tmp_path / "parts"
    assert run("split", tmp_path / "elsewhere", "-o", parts, "--seed", 1) == 0
    first = listing(parts)
    assert run("split", tmp_path / "elsewhere", "-o", parts, "--seed", 2, "--force") == 0
    assert listing(parts).keys() == first.keys() and listing(parts) != first


@pytest.mark.parametrize("verb", ["convert", "fit"])
def test_no_result_in_the_place_of_its_input(tmp_path, cohort, verb, capsys):
    cohort.save(tmp_path / "c")
    before = listing(tmp_path / "c")
    assert run(verb, tmp_path / "c", "-o", tmp_path / "c", "--force") == 2
    assert "over-source" in capsys.readouterr().err
    assert listing(tmp_path / "c") == before


def test_a_broken_replacement_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "m" / "model.json", {"generator": "x", "format": 1})
    with pytest.raises(RuntimeError), new_folder(tmp_path / "m", force=True) as work:
        (work / "half").write_text("")
        raise RuntimeError
    assert listing(tmp_path).keys() == {"m/model.json"}
