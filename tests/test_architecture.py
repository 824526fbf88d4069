"""Which package may import which, and what nobody may import: docs/contributing/architecture.md as code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "cohortloom"

#: Package or module -> level. A package imports only lower levels, and itself.
LEVELS = {
    "version": 0, "errors": 0, "rng": 0, "files": 0, "registry": 0,
    "schema": 1, "report": 1,
    "cohort": 2,
    "rules": 3, "formats": 3, "nets": 3, "diffusion": 3, "dp": 3, "sharding": 3,
    "codec": 4, "simulation": 4, "training": 4,
    "generators": 5, "evaluation": 5, "privacy": 5,
    "augmentation": 6, "explanation": 6, "feedback": 6, "selection": 6,
    "testing": 7, "cli": 7, "__init__": 7, "__main__": 7,
}  # fmt: skip

#: What a package of torch code may know besides its level, and what evaluation never knows.
NEVER = {
    "nets": {"schema", "cohort", "rules", "formats", "codec"},
    "diffusion": {"schema", "cohort", "rules", "formats", "codec"},
    "dp": {"schema", "cohort", "rules", "formats", "codec"},
    "training": {"schema", "cohort", "rules", "formats", "codec", "simulation"},
    "evaluation": {"generators", "codec", "simulation", "training", "nets", "diffusion"},
    "privacy": {"generators", "codec"},
}

BANNED_MODULES = {
    "pickle",
    "cloudpickle",
    "joblib",
    "dill",
    "requests",
    "urllib",
    "http",
    "socket",
    "ftplib",
    "lightning",
}
BANNED_CALLS = re.compile(
    r"torch\.(load|save)\(|np\.random\.seed\(|torch\.manual_seed\(|allow_pickle=True|\beval\(|\bexec\("
)


def files():
    return sorted(SOURCE.rglob("*.py"))


def part(path):
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports(path):
    """Every module a file imports, inside functions too: (name, line)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.module, node.lineno
            for alias in node.names:  # from cohortloom import rules
                if node.module == "cohortloom":
                    yield f"cohortloom.{alias.name}", node.lineno


def wrong_arrows(source):
    """Imports that point upwards or into a forbidden package."""
    found = []
    for path in source:
        here = part(path)
        for module, line in imports(path):
            names = module.split(".")
            if names[0] != "cohortloom" or len(names) < 2 or names[1] not in LEVELS:
                continue
            there = names[1]
            if there in (here, "errors", "version"):
                continue
            upward = LEVELS[there] >= LEVELS[here] and here not in ("__init__", "testing", "cli", "__main__")
            if upward or there in NEVER.get(here, ()):
                found.append(f"{path.relative_to(SOURCE)}:{line}: {here} imports {there}")
    return found


def test_every_package_has_a_level():
    assert {part(path) for path in files()} <= set(LEVELS)


def test_imports_point_downwards():
    assert wrong_arrows(files()) == []


def test_a_planted_upward_import_is_seen(tmp_path, monkeypatch):
    planted = SOURCE / "schema" / "column.py"
    monkeypatch.setattr(sys.modules[__name__], "imports", lambda path: [("cohortloom.cohort", 1)])
    assert wrong_arrows([planted]) == ["schema/column.py:1: schema imports cohort"]


def test_there_is_no_cycle_between_packages():
    graph = {name: set() for name in LEVELS}
    for path in files():
        for module, _ in imports(path):
            names = module.split(".")
            if names[0] == "cohortloom" and len(names) > 1 and names[1] in LEVELS and names[1] != part(path):
                graph[part(path)].add(names[1])
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, f"cycle: {' -> '.join([*above, name])}"
        if name not in done:
            for below in graph[name]:
                visit(below, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_dangerous_is_imported_or_called(path):
    for module, line in imports(path):
        assert module.split(".")[0] not in BANNED_MODULES, f"{path.name}:{line} imports {module}"
    code = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
    tree = ast.parse(path.read_text())
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    for text in texts:
        code = code.replace(text, "")
    hit = next(
        (m.group() for m in BANNED_CALLS.finditer(code) if not m.group().startswith("eval") or ".eval(" not in code),
        None,
    )
    assert hit is None, f"{path.name}: {hit}"


def test_sdv_is_imported_by_its_two_generators_alone():
    users = {path.stem for path in files() if any(m.split(".")[0] == "sdv" for m, _ in imports(path))}
    assert users <= {"sdv_frames", "sdv_par", "sdv_static"}


@pytest.mark.parametrize(
    "modules", ["cohortloom", "cohortloom.schema", "cohortloom.schema.text", "cohortloom.cli.main"]
)
def test_light_imports_stay_light(modules):
    heavy = ["torch", "sdv", "tslearn", "wfdb", "scipy", "sklearn", "matplotlib", "pandas"]
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_documented_tree_is_the_one_there_is():
    text = (SOURCE.parents[1] / "docs" / "contributing" / "architecture.md").read_text()
    tree = text.split("src/cohortloom/\n", 1)[1].split("\ntests/", 1)[0]
    packages, named, here = set(), [], ""
    for line in tree.splitlines():
        if found := re.match(r"  (\w+)/ ", line):
            here = found[1] + "/"
            packages.add(found[1])
        elif re.match(r"  \w+\.py ", line):
            here = ""
        named += [here + name for name in re.findall(r"\b[a-z]\w*\.py\b|__init__\.py", line)]
    assert packages == {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    missing = [name for name in named if not (SOURCE / name).exists()]
    assert len(named) > 80 and not missing
