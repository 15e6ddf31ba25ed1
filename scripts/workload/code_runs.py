"""Runs code that models wrote, with tests, in processes that are limited.

This file is also the program that does it: started with `python -I`, it reads a JSON list of [code, tests] from stdin
and writes a list of booleans. Each pair gets a process and an empty folder of its own; it has no network, starts no
other programs, writes nowhere else, and ends after a few seconds or at 512 MB. That contains mistakes, not attackers.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

CPU_LIMIT_S = 2
WALL_LIMIT_S = 20  # for a machine that does much else
MEMORY_LIMIT_BYTES = 512 * 2**20
FILE_LIMIT_BYTES = 2**20
PASSED_STATUS = 77  # code that ends by itself before its tests does not get here
REFUSED_EVENTS = (
    *("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "ctypes."),
    *("os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil."),
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Job(NamedTuple):
    """Code, and the tests that are run after it in the same namespace."""

    code: str
    tests: str


def passed(jobs: Sequence[Job]) -> list[bool]:
    """For each job whether its code ran and its tests held."""
    if not jobs:
        return []
    done = subprocess.run(
        [sys.executable, "-I", __file__], input=json.dumps(jobs), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Run what stdin names, one after the other."""
    jobs = json.load(sys.stdin)
    print(json.dumps([_passes(code, tests) for code, tests in jobs]))


def _passes(code: str, tests: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            try:
                _confine(folder)
                sys.modules["answer"] = module = ModuleType("answer")  # dataclasses look their module up
                exec(compile(code, "answer", "exec", dont_inherit=True), vars(module))
                exec(compile(tests, "tests", "exec", dont_inherit=True), vars(module))
                os._exit(PASSED_STATUS)
            except BaseException:  # noqa: BLE001 - whatever the code raises, SystemExit too, it has not passed
                os._exit(1)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == PASSED_STATUS


def _confine(folder: str) -> None:
    """Limit this process for good."""
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    for kind, limit in (
        (resource.RLIMIT_CPU, CPU_LIMIT_S),
        (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_FSIZE, FILE_LIMIT_BYTES),
    ):
        resource.setrlimit(kind, (limit, limit))
    signal.alarm(WALL_LIMIT_S)
    inside = os.path.realpath(folder) + os.sep

    def refuse(event: str, values: tuple[Any, ...]) -> None:
        if event.startswith(REFUSED_EVENTS):
            raise PermissionError(event)
        if event == "open" and isinstance(values[2], int) and values[2] & WRITES:
            path = values[0]
            if not isinstance(path, str | bytes) or not os.path.realpath(os.fsdecode(path)).startswith(inside):
                raise PermissionError(event)

    sys.addaudithook(refuse)


if __name__ == "__main__":
    main()
