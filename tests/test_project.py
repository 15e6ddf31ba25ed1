"""The project keeps its own rules: layout, size, documents that are true, names that stay out."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tale

ROOT = Path(__file__).parent.parent
CODE_FOLDERS = ("tale", "tests", "scripts", "benchmarks", "dashboard")
LEFT_OUT = re.compile(
    r"(^|/)(\.(?!ci|github)[^/]+|__pycache__|node_modules|build|dist|venv|htmlcov|[^/]+\.egg-info)(/|$)"
)
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".ini", ".cfg", ".mako", ".sh", ".yml", ".yaml", ".ipynb", ".json", ""}
MOST_LINES, MOST_FUNCTION_LINES = 400, 40
# Written so that this file does not hold the names that it looks for.
REGISTRY_HOSTS = re.compile(r"\b(?:pypi|pythonhosted|npmjs|npmmirror|anaconda|crates)\.[a-z]{2,}", re.IGNORECASE)
PLACES = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+)/|/tmp/w/")
IGNORED_RULE = re.compile(r"#\s*(noqa|type: ignore|pyright: ignore)")
REASONED = re.compile(r"# noqa: [A-Z0-9, ]+ - \w|# (type|pyright): ignore\[[\w-]+(, ?[\w-]+)*\]\s+(#|-) \w")
EXACT_PINS = {"pydantic", "mcp", "aiohttp", "sqlalchemy", "click"}


@cache
def _files() -> list[Path]:
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not LEFT_OUT.search(name)]
        found += [Path(folder, name) for name in names if not LEFT_OUT.search(name)]
    return sorted(path for path in found if path.suffix in TEXT_SUFFIXES and path.is_file())


def _modules(*folders: str) -> list[Path]:
    return [path for path in _files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


@cache
def _trees() -> dict[str, ast.Module]:
    return {_name(path): ast.parse(path.read_text()) for path in _modules("tale")}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _requirements() -> list[Requirement]:
    project = _project()
    extras = project["optional-dependencies"].values()
    found = [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]
    return [item for item in found if item.name != project["name"]]  # an extra may bring another one along


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_no_module_grows_beyond_what_one_reads_at_a_sitting():
    lengths = {_name(path): len(path.read_text().splitlines()) for path in _modules(*CODE_FOLDERS)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_a_module_opens_with_its_purpose():
    written = {name: tree for name, tree in _trees().items() if tree.body}
    told = {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in written.items()}
    assert [name for name, first_line in told.items() if not first_line.endswith((".", ":"))] == []


def test_functions_are_short():
    long = [
        f"{name}: {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, tree in _trees().items()
        if "migrations/versions" not in name  # a table is one statement, however long
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
        if node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert long == []


def test_each_ignored_rule_says_why():
    """`# noqa: X - reason`, `# type: ignore[x]  # reason` and `# pyright: ignore[x]  # reason`."""
    bare = [
        f"{_name(path)}: {line.strip()}"
        for path in _modules(*CODE_FOLDERS)
        if path != Path(__file__)
        for line in path.read_text().splitlines()
        if IGNORED_RULE.search(line) and not REASONED.search(line)
    ]
    assert bare == []


def test_the_files_of_tests_that_are_to_come_first_are_there():
    told = re.findall(r'^    "(test_\w+)",$', (ROOT / "tests/conftest.py").read_text(), re.MULTILINE)
    assert told and [name for name in told if not (ROOT / "tests" / f"{name}.py").is_file()] == []


def test_neither_a_registry_nor_a_place_on_somebodys_machine_is_named():
    found = [
        f"{_name(path)}:{number}: {line.strip()[:80]}"
        for path in _files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (REGISTRY_HOSTS.search(line) or PLACES.search(line)) and path != Path(__file__)
    ]
    assert found == []


def test_the_five_pins_are_exact_and_the_rest_are_lower_bounds():
    exact = {item.name for item in _requirements() if any(part.operator == "==" for part in item.specifier)}
    assert exact == EXACT_PINS
    assert all(
        [part.operator for part in item.specifier] == [">="] for item in _requirements() if item.name not in exact
    )


def test_the_rationale_explains_each_pin_at_its_version():
    table = (ROOT / "docs/pinning-rationale.md").read_text()
    for item in _requirements():
        if item.name in EXACT_PINS:
            assert f"| {item.name} | {str(item.specifier).removeprefix('==')} |" in table


def test_the_constraints_hold_names_and_versions_only_and_fit_what_the_project_asks_for():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    assert [line for line in lines[1:] if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line)] == []
    held = _constraints()
    assert list(held) == sorted(held)
    for item in _requirements():
        assert item.specifier.contains(held[canonicalize_name(item.name)]), item


def test_the_rules_of_the_house_name_every_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [set(layer.split(" | ")) for layer in contracts[0]["layers"]]
    block = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layers")[2].split("```")[1]
    told = [set(re.findall(r"tale\.(\w+)", line)) for line in block.splitlines()]
    assert [names for names in told if names] == layers


def test_the_changelog_speaks_of_this_version():
    assert f"## [{tale.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def _links() -> Iterator[tuple[Path, str]]:
    for path in _files():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
                if "://" not in target and not target.startswith(("#", "mailto:")):
                    yield path, target.partition("#")[0]


def test_every_link_between_documents_leads_somewhere():
    assert [f"{_name(path)}: {target}" for path, target in _links() if not (path.parent / target).exists()] == []


def test_every_decision_has_its_four_parts_and_its_line_in_the_index():
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    index = (ROOT / "docs/adr/README.md").read_text()
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text()
        title = text.partition("\n")[0].partition(". ")[2]
        assert re.match(rf"# {int(path.name[:4])}\. .+\n\nStatus: \w+", text)
        assert all(f"\n## {part}\n" in text for part in ("Context", "Decision", "Consequences"))
        assert f"[{title}]({path.name})" in index


def test_the_table_of_benchmarks_names_each_of_them():
    listed = re.findall(r"^\| (\w+\.py) \|", (ROOT / "benchmarks/README.md").read_text(), re.MULTILINE)
    questions = [path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name != "harness.py"]
    assert sorted(listed) == sorted(questions)


def test_importing_tale_brings_nothing_else_along():
    probe = "import sys; before = set(sys.modules); import tale; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['tale']"


@pytest.mark.parametrize("prefix", ["pip install -e . && tale submit ", "pip install -e '.[dev]' && pytest"])
def test_the_readme_shows_each_of_its_two_commands_once(prefix: str):
    command = [sys.executable, "scripts/readme_command.py", prefix]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(prefix)
