"""The twelve agreed figures: exactly these, each with its unit and purpose, written in one place only."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import tale
from tale import constants

PACKAGE = Path(tale.__file__).parent
SOURCE = Path(constants.__file__)
AGREED = {
    "DEFAULT_HTTP_TIMEOUT": 30,
    "TASK_EXECUTION_TIMEOUT": 300,
    "GATEWAY_PORT": 8080,
    "EXECUTION_PORT": 8081,
    "POLLING_INTERVAL": 2,
    "SERVER_START_DELAY": 1,
    "MONITOR_INTERVAL": 10,
    "ERROR_RETRY_DELAY": 5,
    "CLI_INIT_DELAY": 2,
    "TASK_TEXT_TRUNCATE": 60,
    "RESTART_DELAY": 2,
    "MAX_TASK_RETRIES": 3,
}
PORTS = {constants.GATEWAY_PORT, constants.EXECUTION_PORT}


def test_there_are_exactly_the_twelve_agreed_figures():
    held = {name: value for name, value in vars(constants).items() if name.isupper()}
    assert held == AGREED
    assert all(type(value) is int for value in held.values())


@pytest.mark.parametrize("name", AGREED)
def test_each_figure_says_its_unit_and_purpose(name: str):
    line = next(line for line in SOURCE.read_text().splitlines() if line.startswith(f"{name}:"))
    assert re.search(r"  # (s|TCP port|characters|attempts)\b.* \w+", line), line


def test_a_star_import_brings_them_all():
    namespace: dict[str, object] = {}
    exec("from tale.constants import *", namespace)
    assert namespace.keys() >= AGREED.keys()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_writes_the_agreed_ports(path: Path):
    if path != SOURCE:
        assert [line for line, value in _figures(path) if value in PORTS] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_gives_an_agreed_figure_a_second_name(path: Path):
    """A module-level `SOMETHING_TIMEOUT = 30` would be the same figure under another name."""
    if path != SOURCE:
        assigned = {
            target.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        assert assigned & AGREED.keys() == set()


def _figures(path: Path) -> Iterator[tuple[int, int]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NUMBER and token.string.replace("_", "").isdigit():
                yield token.start[0], int(token.string.replace("_", ""))
