"""Every example runs as a person would run it; commands, Python and TOML of the documents are real."""

import ast
import importlib.util
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / name / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_icu_replica_without_data_ends_in_a_judged_replica(tmp_path, capsys):
    scores = example("icu_replica").main(["--subjects", "150", "--fast", "--out", str(tmp_path)])
    assert (tmp_path / "replica" / "manifest.json").is_file()
    assert (tmp_path / "report.html").is_file()
    assert scores["copies.patients"] == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.real
def test_icu_replica_reads_the_real_folder(real_data, tmp_path):
    import cohortloom as cl

    schema = cl.Schema.from_file(ROOT / "schemas" / "icu_48h.toml")
    cohort = cl.read(real_data / "physionet2012-set-a", format="tabular", schema=schema)
    assert cohort.n_subjects == 4000


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language ("" for none) and text of each block of code."""
    return re.findall(r"```(\w*)\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Words of each command line of ours, without its comment; lines broken by a backslash are joined."""
    text = "\n".join(block for kind, block in blocks(page) if kind in ("", "sh", "bash"))
    lines = re.findall(r"^cohortloom (.+)$", text.replace("\\\n", " "), flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_the_documents_compiles_and_names_what_exists(page):
    """Imports are carried out, and `cl.name` must be there; TOML must parse."""
    for kind, text in blocks(page):
        if kind == "toml":
            tomllib.loads(text)
        if kind != "python":
            continue
        tree = ast.parse(text, page.name)
        known: dict = {}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(compile(ast.Module([node], []), page.name, "exec"), known)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cl":
                assert hasattr(importlib.import_module("cohortloom"), node.attr), f"{page.name}: cl.{node.attr}"


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.stem)
def test_commands_of_the_documents_are_understood(page):
    """Every command, argument and option exists; nothing is run."""
    from typer.main import get_command

    from cohortloom.cli import main as cli

    if not cli.app.registered_commands:
        cli._register()
    whole = get_command(cli.app)
    for words in commands(page):
        command, name = whole, "cohortloom"
        while hasattr(command, "commands"):
            assert words[0] in command.commands, f"{page.name}: {' '.join(words)}"
            name, words = words[0], words[1:]
            command = command.commands[name]
        command.make_context(name, list(words))


@pytest.mark.slow
def test_the_first_job_of_the_readme_runs_as_written(tmp_path, monkeypatch):
    """Its commands one after the other, then its Python, on a folder that somebody exported."""
    import cohortloom as cl
    from cohortloom.cli.main import main
    from cohortloom.simulation import simulate

    schema = cl.Schema.from_file(ROOT / "schemas" / "pbc.toml")
    cl.write(simulate(schema, 150, seed=1), tmp_path / "my_export", format="tabular")
    (tmp_path / "my_export" / "schema.json").unlink()
    people = tmp_path / "my_export" / "patients.csv"
    people.write_text(people.read_text().replace(",f,", ",F,").replace(",m,", ",M,"))
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas")
    monkeypatch.chdir(tmp_path)
    part = (ROOT / "README.md").read_text().split("### 1. ")[1].split("### 2. ")[0]
    lines = re.findall(r"^cohortloom (.+)$", part, flags=re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        words = ["1" if w == "10" else "100" if w in ("2000", "4000") else w for w in shlex.split(line, comments=True)]
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code in (0, 1), line  # 1: a score or rule failed
    (python,) = re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)
    exec(compile(python.replace("draws=20", "draws=2").replace("draws=10", "draws=2"), "README.md", "exec"), {})
    assert (tmp_path / "report.html").is_file() and (tmp_path / "out" / "report.html").is_file()


def test_every_generator_has_a_page():
    from cohortloom.generators import generator_names

    pages = {page.stem for page in (ROOT / "docs" / "methods").glob("*.md")}
    assert set(generator_names()) <= pages


def test_every_local_link_of_the_documents_leads_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_rules_of_the_page_compile_and_the_clinic_keeps_them(small_cohort):
    import cohortloom as cl
    from cohortloom.rules import check, compile_rules
    from cohortloom.schema import RuleSpec

    page = (ROOT / "docs" / "concepts" / "rules.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    specs = [RuleSpec(**rule) for block in blocks for rule in tomllib.loads(block)["rules"]]
    assert len(specs) >= 7
    schema = small_cohort.schema.model_copy(update={"rules": tuple(specs)})
    assert len(compile_rules(schema)) > len(specs)
    assert check(cl.Cohort.build(schema, small_cohort.tables)) == []


def test_every_kind_of_rule_is_on_the_page():
    from cohortloom.rules import KINDS

    page = (ROOT / "docs" / "concepts" / "rules.md").read_text()
    implied = {"items", "one_row", "parent"}  # never written by people
    assert all(f"`{kind}`" in page for kind in set(KINDS) - implied)


def test_the_example_without_data_finds_the_known_effect(capsys):
    found = example("cohort_without_data").main(400)
    assert found["broken"] == 0
    assert -15 < found["adjusted"] < -5  # the truth is -10 per minute
