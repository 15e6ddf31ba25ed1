"""What checks tale says so where it cannot tell, or where something is missing."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
LICENCES = ("tale.dist-info/licenses/LICENSE", "tale.dist-info/licenses/NOTICE")


@pytest.fixture(scope="module")
def check_wheel() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "scripts/check_wheel.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel_of(path: Path, names: set[str]) -> zipfile.ZipFile:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, "")
    return zipfile.ZipFile(path)


def test_a_wheel_has_to_hold_every_file_of_the_package_and_of_the_dashboard(
    check_wheel: ModuleType, tmp_path: Path
) -> None:
    with wheel_of(tmp_path / "bare.whl", set(LICENCES)) as bare:
        wanted = set(check_wheel.missing_from(bare))
    assert {"tale/cli/main.py", "tale/dashboard/views/calls.py", "tale/dashboard/static/icon.svg"} <= wanted
    assert not any("__pycache__" in name for name in wanted)
    with wheel_of(tmp_path / "lacking.whl", {*wanted, *LICENCES} - {"tale/dashboard/feed.py"}) as lacking:
        assert check_wheel.missing_from(lacking) == ["tale/dashboard/feed.py"]
    with wheel_of(tmp_path / "whole.whl", {*wanted, *LICENCES}) as whole:
        assert check_wheel.missing_from(whole) == []


def test_without_a_browser_the_benchmark_of_the_dashboard_says_what_to_install_and_measures_nothing() -> None:
    told = subprocess.run(
        [sys.executable, "benchmarks/dashboard.py"],
        cwd=ROOT,
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1
    assert told.stdout == ""
    assert "apt-get install chromium" in told.stderr and "--no-browser" in told.stderr
