"""Work that nobody waits for gives way to all others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tale.background import NICENESS, OF_SESSION

PROBE = """
import os
from pathlib import Path
from tale.background import give_way
before = os.getsid(0)
give_way()
session = Path("/proc/self/autogroup")
print(os.nice(0), os.getsid(0) == os.getpid(), before != os.getsid(0), session.read_text() if session.exists() else "")
"""


def told(**started: bool) -> str:
    return subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, **started).stdout


def test_a_process_that_gives_way_does_so_in_a_session_of_its_own() -> None:
    assert told().startswith(f"{NICENESS} True True")
    assert told(start_new_session=True).startswith(f"{NICENESS} True False")


@pytest.mark.skipif(not OF_SESSION.exists(), reason="this system does not group processes by session")
def test_its_whole_session_gives_way_and_ours_does_not() -> None:
    before = Path(OF_SESSION).read_text()
    assert f"nice {NICENESS}" in told()
    assert OF_SESSION.read_text() == before


def test_what_a_shell_started_leaves_the_shell_s_session_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, process_group=0)
    assert done.stdout.startswith(f"{NICENESS} False False")
