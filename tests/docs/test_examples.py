"""Every example runs as a person would run it; the README's Python and TOML are real."""

import importlib.util
import re
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


def test_python_of_the_readme_compiles_and_its_toml_parses():
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    kinds = [kind for kind, _ in blocks]
    assert {"python", "toml"} <= set(kinds)
    for kind, text in blocks:
        if kind == "python":
            compile(text, "README.md", "exec")
        elif kind == "toml":
            tomllib.loads(text)


def test_commands_of_the_readme_exist():
    from typer.main import get_command

    from cohortloom.cli import main as cli

    if not cli.app.registered_commands:
        cli._register()
    command = get_command(cli.app)
    used = re.findall(r"^cohortloom (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert used and set(used) <= set(command.commands)


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
