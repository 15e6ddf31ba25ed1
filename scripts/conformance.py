"""Runs the protocol's official conformance suite against our server and our client, in both eras.

python scripts/conformance.py [--keep FOLDER]

Every failed check and every warning fails the run. tests/conformance/not_applicable.toml lists what cannot apply.
"""

import argparse
import fnmatch
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from node_tools import Node, NodeMissing, find_node

SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
VERSIONS = ("2025-11-25", "2026-07-28")
EXTENSIONS = ("tasks-",)  # that we offer, by how their scenarios' names begin; they belong to no version
TESTS = Path(__file__).parent.parent / "tests"
MOST_EXCEPTIONS = 3
START_LIMIT_S, SUITE_LIMIT_S, SCENARIO_LIMIT_S = 30, 300, 60
BAD = ("FAILURE", "WARNING")


@dataclass
class Outcome:
    """What the checks of one run came to."""

    scenarios: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, folder: Path) -> None:
        """Count the checks in each checks.json below a folder."""
        for path in sorted(folder.rglob("checks.json")):
            checks = json.loads(path.read_text(encoding="utf-8"))
            name = re.sub(r"^server-(?=.*-\d{4})|-\d{4}-\d\d-\d\dT.*$", "", path.parent.name)
            self.scenarios += 1
            self.statuses.update(check["status"] for check in checks)
            self.wrong += [
                f"{name}: {check['id']}: {check['status']}: {check.get('errorMessage') or check['description']}"
                for check in checks
                if check["status"] in BAD
            ]
            if not any(check["status"] == "SUCCESS" for check in checks):
                self.wrong.append(f"{name}: not one check passed")

    def add_one(self, folder: Path, name: str, done: subprocess.CompletedProcess[str]) -> None:
        """Count the checks of one scenario, which must have some."""
        before = self.scenarios
        self.add(folder)
        if done.returncode or self.scenarios == before:
            self.wrong.append(f"{name}: the suite says no (exit {done.returncode})\n{done.stderr[-2000:]}")

    def told(self, name: str) -> str:
        """One line."""
        return (
            f"{name}: {self.scenarios} scenarios, {self.statuses['SUCCESS']} checks passed, "
            f"{self.statuses['FAILURE']} failed, {self.statuses['WARNING']} warnings "
            f"({self.statuses['SKIPPED']} skipped by the suite itself)"
        )


@dataclass(frozen=True)
class Suite:
    """The installed suite."""

    node: Node
    program: Path
    results: Path

    def run(self, *arguments: str, limit_s: int) -> subprocess.CompletedProcess[str]:
        """Run it with our tests importable, so that it can start our client."""
        environment = {**self.node.environment(), "PYTHONPATH": str(TESTS)}
        command = [str(self.node.node), "--no-deprecation", str(self.program), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s)

    def scenarios(self, side: str, version: str) -> list[str]:
        """The names of a side's scenarios for a version of the protocol."""
        listed = self.run("list", f"--{side}", "--spec-version", version, limit_s=SCENARIO_LIMIT_S).stdout
        return re.findall(r"^\s+- (\S+) \[", listed, re.MULTILINE)

    def extension_scenarios(self) -> list[str]:
        """The names of the server scenarios of the extensions that we offer."""
        listed = self.run("list", "--server", limit_s=SCENARIO_LIMIT_S).stdout
        names = re.findall(r"^\s+- (\S+) \[extension", listed, re.MULTILINE)
        return [name for name in names if name.startswith(EXTENSIONS)]


def exceptions() -> dict[str, str]:
    """What cannot apply: patterns of names, each with its reason."""
    listed = tomllib.loads((TESTS / "conformance/not_applicable.toml").read_text(encoding="utf-8"))["scenario"]
    if len(listed) > MOST_EXCEPTIONS:
        raise SystemExit(f"not_applicable.toml has {len(listed)} entries; {MOST_EXCEPTIONS} are the most.")
    return {entry["name"]: entry["reason"] for entry in listed}


@contextmanager
def serving() -> Iterator[str]:
    """Our server with the suite's fixtures, in a process of its own; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "conformance.server", str(port)]
    with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("The fixture server did not start.")
            yield url
        finally:
            process.terminate()
            process.wait(START_LIMIT_S)


def run_server(suite: Suite, version: str) -> Outcome:
    """All server scenarios of a version."""
    folder = suite.results / f"server-{version}"
    with serving() as url:
        given = ("server", "--url", url, "--spec-version", version, "--output-dir", str(folder))
        suite.run(*given, "--suite", "all", limit_s=SUITE_LIMIT_S)
    outcome = Outcome()
    outcome.add(folder)
    expected = len(suite.scenarios("server", version))
    if outcome.scenarios != expected:
        outcome.wrong.append(f"{outcome.scenarios} scenarios ran, not {expected}")
    return outcome


def run_extensions(suite: Suite, left_out: dict[str, str]) -> Outcome:
    """The server scenarios of the extensions that we offer."""
    outcome = Outcome()
    with serving() as url:
        for name in suite.extension_scenarios():
            if is_left_out(name, left_out):
                continue
            folder = suite.results / "extensions" / name
            given = ("server", "--url", url, "--scenario", name, "--spec-version", VERSIONS[-1], "--force")
            done = suite.run(*given, "--output-dir", str(folder), limit_s=SCENARIO_LIMIT_S)
            outcome.add_one(folder, name, done)
    return outcome


def run_client(suite: Suite, version: str, left_out: dict[str, str]) -> Outcome:
    """The client scenarios of a version, one by one: side by side they time out on two cores."""
    outcome = Outcome()
    for name in suite.scenarios("client", version):
        if is_left_out(name, left_out):
            continue
        folder = suite.results / f"client-{version}" / name
        command = f"{sys.executable} -m conformance.client"
        given = ("client", "--command", command, "--scenario", name, "--spec-version", version)
        done = suite.run(*given, "--output-dir", str(folder), limit_s=SCENARIO_LIMIT_S)
        outcome.add_one(folder, name, done)
    return outcome


def is_left_out(name: str, left_out: dict[str, str]) -> bool:
    """Whether a scenario cannot apply."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in left_out)


def main() -> int:
    """Print the totals; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--keep", type=Path, help="folder for the suite and its results, used again when it has them")
    folder: Path | None = parser.parse_args().keep
    with tempfile.TemporaryDirectory(prefix="tale-conformance-") as temporary:
        place = (folder or Path(temporary)).resolve()
        node = find_node()
        program = place / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
        if not program.exists():
            node.install(place, SUITE)
        suite = Suite(node, program, place / f"results-{os.getpid()}")
        left_out = exceptions()
        outcomes: dict[str, Outcome] = {}
        for version in VERSIONS:
            outcomes[f"server {version}"] = run_server(suite, version)
            outcomes[f"client {version}"] = run_client(suite, version, left_out)
        outcomes["server extensions"] = run_extensions(suite, left_out)
    for name, outcome in outcomes.items():
        print(outcome.told(name))
    for pattern, reason in left_out.items():
        print(f"not applicable: {pattern}: {reason}")
    wrong = [f"{name}: {line}" for name, outcome in outcomes.items() for line in outcome.wrong]
    print("\n".join(wrong) or "Every check passes, without a warning.")
    return 1 if wrong else 0


if __name__ == "__main__":
    start = time.monotonic()
    try:
        status = main()
    except NodeMissing as missing:
        print(missing, file=sys.stderr)
        status = 1
    print(f"{time.monotonic() - start:.0f} s")
    sys.exit(status)
