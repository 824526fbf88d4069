"""The verbs end to end: paths in, paths out, exit codes; no input ends in a traceback."""

import json
import subprocess
import sys

import polars as pl
import pytest

from cohortloom.cli.main import main
from cohortloom.cohort import Cohort
from cohortloom.errors import FileFormatError, Problem


def run(*arguments):
    """Exit code of one command line."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code or 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory, schema_dir):
    """A simulated cohort, its splits, a fitted model and a sample, made by the verbs themselves."""
    place = tmp_path_factory.mktemp("cli")
    assert run("simulate", schema_dir / "pbc.toml", "-n", 80, "--seed", 1, "-o", place / "cohort", "--quiet") == 0
    shares = ["--share", "train=0.6", "--share", "held_out=0.4"]
    assert run("split", place / "cohort", "-o", place / "splits", "--seed", 1, *shares, "--quiet") == 0
    fit = ["fit", place / "splits" / "train", "-o", place / "model", "--generator", "columnar-ar"]
    assert run(*fit, "--set", "members=1", "--seed", 1, "--quiet") == 0
    assert run("sample", place / "model", "-n", 50, "--seed", 1, "-o", place / "synthetic", "--quiet") == 0
    return place


def test_the_main_job_runs_and_the_parts_are_disjoint(folder):
    train, held_out = (Cohort.load(folder / "splits" / name) for name in ("train", "held_out"))
    assert train.n_subjects == 48 and held_out.n_subjects == 32
    assert not set(train.subjects) & set(held_out.subjects)
    synthetic = Cohort.load(folder / "synthetic")
    assert synthetic.n_subjects == 50
    assert synthetic.origin.kind == "synthetic" and synthetic.origin.release == "UNREVIEWED"


def test_a_checkpoint_does_not_stay_after_the_fit(folder):
    assert not list(folder.glob("model.checkpoint*"))


def test_validate_and_evaluate_write_reports(folder, capsys):
    assert run("validate", folder / "synthetic", "--html", folder / "v.html", "--json", folder / "v.json") == 0
    code = run(
        "evaluate", folder / "synthetic", "--train", folder / "splits" / "train", "--held-out",
        folder / "splits" / "held_out", "--only", "marginal", "--fast", "--html", folder / "e.html", "--json",
        folder / "e.json", "--md", folder / "e.md",
    )  # fmt: skip
    assert code in (0, 1)
    scores = json.loads((folder / "e.json").read_text())["scores"]
    assert scores and {s["group"] for s in scores} == {"marginal"}
    # exit code 1 says that a check failed, 0 that none did
    assert (code == 1) == any(s["passed"] is False for s in scores)
    for page in ("v.html", "e.html"):
        text = (folder / page).read_text()
        assert text.startswith("<!doctype html>") or text.startswith("<!DOCTYPE html>")
        assert "http://" not in text.replace("http://www.w3.org", "") and "<script" not in text


def evaluated(folder, *more):
    """The scores of one run, by key."""
    out = folder / "scores.json"
    paths = ["evaluate", folder / "synthetic", "--train", folder / "splits" / "train", "--held-out"]
    assert run(*paths, folder / "splits" / "held_out", "--fast", "--quiet", "--json", out, *more) in (0, 1)
    return {s["key"]: s for s in json.loads(out.read_text())["scores"]}


def test_shift_names_the_column_of_sites(folder):
    assert evaluated(folder, "--only", "shift")["shift.marginal"]["value"] is None
    asked = evaluated(folder, "--only", "shift", "--shift", "patients.treatment")["shift.marginal"]
    assert asked["value"] is not None and "patients.treatment = " in asked["name"]


def test_the_model_is_asked_what_it_remembers(folder):
    assert evaluated(folder, "--only", "likelihood")["likelihood.membership"]["value"] is None
    asked = evaluated(folder, "--only", "likelihood", "--model", folder / "model")["likelihood.membership"]
    assert 0 <= asked["value"] <= 1 and asked["n"] == 48


def test_a_model_that_cannot_score_is_refused_before_any_work(folder, capsys):
    assert run("fit", folder / "splits" / "train", "-o", folder / "copier", "--generator", "bootstrap", "--quiet") == 0
    capsys.readouterr()
    assert run("evaluate", "none", "--train", "none", "--held-out", "none", "--model", folder / "copier") == 2
    assert "--model: bootstrap can't say how likely a patient is" in capsys.readouterr().err


def test_a_report_is_made_again_from_its_json(folder):
    assert (
        run("validate", folder / "synthetic", "--json", folder / "w.json", "--html", folder / "w1.html", "--quiet") == 0
    )
    assert run("report", folder / "w.json", "-o", folder / "w2.html") == 0
    assert (folder / "w1.html").read_text() == (folder / "w2.html").read_text()


def test_where_is_kept_exactly(folder):
    out = folder / "women"
    assert run("sample", folder / "model", "-n", 20, "-o", out, "--where", "patients.sex=f", "--quiet") == 0
    assert Cohort.load(out).tables["patients"]["sex"].unique().to_list() == ["f"]


def test_a_sample_is_written_in_other_formats(folder):
    assert run("sample", folder / "model", "-n", 5, "-o", folder / "csv", "--to", "tabular", "--quiet") == 0
    assert pl.read_csv(folder / "csv" / "patients.csv").height == 5


def test_convert_says_what_it_read(folder, capsys):
    assert run("convert", folder / "cohort", "-o", folder / "meds", "--to", "meds") == 0
    assert "80 patients" in capsys.readouterr().err


def test_patients_are_drawn_one_by_one_only_if_they_are_said_to_be_synthetic(folder, schema_dir):
    real = folder / "splits" / "held_out"
    csv = ["--from", "tabular", "--schema", schema_dir / "pbc.toml"]
    # simulated patients play the real ones: through CSV that no longer says where they are from
    assert run("convert", real, "-o", folder / "files", "--to", "tabular", "--quiet") == 0
    (folder / "files" / "origin.json").unlink()
    assert run("convert", folder / "files", "-o", folder / "back", *csv, "--quiet") == 0
    assert run("convert", folder / "files", "-o", folder / "made", *csv, "--synthetic", "--quiet") == 0
    shown = {}
    for name in ("back", "made", "files"):
        same, out = folder / name, folder / f"{name}.json"
        sides = [same, "--train", same, "--held-out", same, *(csv if name == "files" else [])]
        assert run("evaluate", *sides, "--only", "temporal", "--fast", "--json", out, "--quiet") in (0, 1)
        report = json.loads(out.read_text())
        shown[name] = (
            any(f["kind"] == "timeline" for f in report["figures"]),
            any("origin is real" in line for line in report["not_tested"]),
        )
    assert shown == {"back": (False, True), "made": (True, False), "files": (True, False)}


def test_dry_run_shows_settings_and_fits_nothing(folder, capsys):
    assert run("fit", folder / "splits" / "train", "-o", folder / "none", "--dry-run") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["generator"] == "columnar-ar" and "settings" in shown
    assert not (folder / "none").exists()


@pytest.mark.parametrize("what", ["generators", "formats", "rules"])
def test_list_names_what_there_is(what, capsys):
    assert run("list", what) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 4


def test_schema_check_lists_problems_and_leaves_with_one(tmp_path, schema_dir, capsys):
    assert run("schema", "check", schema_dir / "pbc.toml") == 0
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "x"\n[tables.p]\nrole = "statik"\n')
    assert run("schema", "check", bad) == 1
    assert "static" in capsys.readouterr().out


def test_schema_check_tells_what_would_stop_simulate(tmp_path, capsys):
    people = 'columns.type = { kind = "category", levels = ["1", "2"] }\ncolumns.bmi = { kind = "number", prior = '
    bad = tmp_path / "bad.toml"
    bad.write_text(f'name = "x"\n[tables.p]\nrole = "static"\n{people}{{ effects = {{ type = {{ "1" = -5 }} }} }} }}\n')
    assert run("schema", "check", bad) == 1
    assert 'Did you mean "p.type"?' in capsys.readouterr().out
    bad.write_text(bad.read_text().replace("{ type =", "{ zz =").replace('{ "1" = -5 }', "2"))
    assert run("schema", "check", bad) == 1
    assert "These may stand here: age, frailty" in capsys.readouterr().out


def test_schema_infer_drafts_a_sound_schema(tmp_path):
    pl.DataFrame({"patient": [1, 1, 2, 3], "day": [0, 30, 0, 0], "crp": [1.2, 3.4, 0.5, 9.9]}).write_csv(
        tmp_path / "v.csv"
    )
    assert run("schema", "infer", tmp_path / "v.csv", "-o", tmp_path / "draft.toml", "--name", "study") == 0
    assert run("schema", "check", tmp_path / "draft.toml") == 0


JUDGED = ["evaluate", "{cohort}", "--train", "{cohort}", "--held-out", "{cohort}"]
WRONG = {
    "no such cohort": ["validate", "{tmp}/none"],
    "no such schema": ["simulate", "{tmp}/none.toml", "-o", "{tmp}/x"],
    "not a schema": ["simulate", "{junk}", "-o", "{tmp}/x"],
    "output exists": ["simulate", "{schemas}/pbc.toml", "-o", "{cohort}"],
    "unknown generator": ["fit", "{cohort}", "-o", "{tmp}/m", "--generator", "columnar-arr"],
    "unknown setting": ["fit", "{cohort}", "-o", "{tmp}/m", "--set", "temprature=1"],
    "setting without value": ["fit", "{cohort}", "-o", "{tmp}/m", "--set", "temperature"],
    "config that is not TOML": ["fit", "{cohort}", "-o", "{tmp}/m", "--config", "{junk}"],
    "unknown format": ["convert", "{cohort}", "-o", "{tmp}/x", "--to", "medds"],
    "tabular without schema": ["convert", "{junk}", "-o", "{tmp}/x", "--from", "tabular"],
    "share that is no number": ["split", "{cohort}", "-o", "{tmp}/x", "--share", "train=most"],
    "shares above one": ["split", "{cohort}", "-o", "{tmp}/x", "--share", "a=0.7", "--share", "b=0.7"],
    "group that does not exist": ["split", "{cohort}", "-o", "{tmp}/x", "--group", "patients.family"],
    "where without a table": ["sample", "{model}", "-n", "5", "-o", "{tmp}/x", "--where", "sex=f"],
    "where with an unknown level": ["sample", "{model}", "-n", "5", "-o", "{tmp}/x", "--where", "patients.sex=q"],
    "where with an unknown column": ["sample", "{model}", "-n", "5", "-o", "{tmp}/x", "--where", "patients.sexx=f"],
    "model that is none": ["sample", "{cohort}", "-n", "5", "-o", "{tmp}/x"],
    "unknown group of scores": [*JUDGED, "--only", "x"],
    "shift that is no static column": [*JUDGED, "--shift", "patients.sexx"],
    "model of evaluate that is none": [*JUDGED, "--model", "{cohort}"],
    "report that is not JSON": ["report", "{junk}", "-o", "{tmp}/x.html"],
    "report with an unknown suffix": ["report", "{report}", "-o", "{tmp}/x.docx"],
    "resume without a checkpoint of this cohort": ["fit", "{junk}", "-o", "{tmp}/m", "--resume"],
    "auto has no checkpoint": ["fit", "{cohort}", "-o", "{tmp}/m", "--generator", "auto", "--resume"],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_leaves_with_two_and_a_message(name, folder, tmp_path, schema_dir, capsys):
    junk = tmp_path / "junk.toml"
    junk.write_text("%%% not = [valid")
    run("validate", folder / "synthetic", "--json", tmp_path / "r.json", "--quiet")
    places = {
        "tmp": tmp_path, "junk": junk, "schemas": schema_dir, "cohort": folder / "cohort", "model": folder / "model",
        "report": tmp_path / "r.json",
    }  # fmt: skip
    capsys.readouterr()
    assert run(*[a.format(**places) for a in WRONG[name]]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown and "inside cohortloom" not in shown
    assert len(shown.strip()) > 20


def test_help_is_light():
    """Help must not import torch, polars or pydantic."""
    code = (
        "import sys\nfrom cohortloom.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'polars', 'pydantic', 'sklearn', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_demo_ends_with_the_path_of_its_report(tmp_path, schema_dir, capsys):
    out = tmp_path / "demo"
    code = run("demo", "--schema", schema_dir / "pbc.toml", "-n", 60, "-o", out, "--quiet", "--seed", 3)
    assert code == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == f"report: {out / 'report.html'}" and (out / "report.html").is_file()


@pytest.mark.slow
def test_demo_shows_records_with_an_ecg_each_and_follows_its_seed(tmp_path, schema_dir, monkeypatch, capsys):
    from cohortloom.cli import demo

    monkeypatch.setattr(demo, "WAVES", {"width": 8, "sampling_steps": 4, "training": {"steps": 30, "batch_size": 8}})
    made = []
    for name in ("one", "two"):
        code = run("demo", "--schema", schema_dir / "heart_failure_ecg.toml", "-n", 60, "-o", tmp_path / name,
                   "--quiet", "--seed", 3)  # fmt: skip
        assert code in (0, 1)  # thirty steps do not draw a heart
        made.append(Cohort.load(tmp_path / name / "synthetic"))
    ecg = made[0].signals["ecg"]
    assert ecg.records.height > 20 and ecg.samples.shape[1:] == (12, 1000)
    assert set(ecg.records["visit_id"]) <= set(made[0].tables["visits"]["visit_id"])
    assert ecg.samples.tobytes() == made[1].signals["ecg"].samples.tobytes()
    page = (tmp_path / "one" / "report.html").read_text()
    assert "synthetic records" in page and demo.SHORT[:40] in page


def test_a_single_problem_reads_as_one_sentence():
    error = FileFormatError("", [Problem("no-file", "out/x", "does not exist", "Check the path.")])
    assert str(error) == "[no-file] out/x: does not exist. Check the path."
    two = FileFormatError("", error.problems * 2)
    assert str(two).splitlines() == ["  - [no-file] out/x: does not exist. Check the path."] * 2
