"""The processes behind the servers of one home: found by the state files that they leave, and ended."""

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from tale.orchestration.run_state import ServiceState, read_states, remove_state
from tale.orchestration.server_status import same_folder
from tale.orchestration.watcher import WATCHER_COMMAND
from tale.settings import Settings

KILL_LIMIT_S: Final = 10.0
FAREWELL_LIMIT_S: Final = 0.5
LOOK_INTERVAL_S: Final = 0.02
SAME_START_S: Final = 1.0  # a process whose start differs by more has got the pid of one that is gone


def living(run_folder: Path) -> list[ServiceState]:
    """The service processes that are there; the state files of others are removed."""
    states = read_states(run_folder)
    found = [state for state in states if _process(state) is not None]
    for state in states:
        if state not in found:
            remove_state(run_folder, state.pid)
    return found


def end_all(settings: Settings, *, limit_s: float) -> bool:
    """End the services of a home and their watchers; blocks. Returns whether there were any.

    A service that does not end within `limit_s` seconds is killed.
    """
    states = living(settings.run_folder)
    services = [process for state in states if (process := _process(state))]
    _signal(services, signal.SIGTERM)
    deaf = _outlasting(services, limit_s)
    # A watcher to whom its service said goodbye ends at once. Others wait to start theirs again, or would take what
    # follows for a crash.
    watchers = _outlasting(_watchers(settings.home), FAREWELL_LIMIT_S)
    unborn = [child for watcher in watchers for child in _children(watcher) if child not in services]
    _signal(watchers, signal.SIGKILL)
    _signal(unborn, signal.SIGTERM)
    _signal(deaf, signal.SIGKILL)
    _outlasting([*watchers, *unborn, *deaf], KILL_LIMIT_S)
    for state in states:
        remove_state(settings.run_folder, state.pid)
    return bool(states or watchers)


def _process(state: ServiceState) -> psutil.Process | None:
    try:
        process = psutil.Process(state.pid)
        same = abs(process.create_time() - state.process_started_at) < SAME_START_S
    except psutil.NoSuchProcess:
        return None
    return process if same and _is_alive(process) else None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _outlasting(processes: Sequence[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Wait for processes to end; returns those that did not. One that nobody has collected yet has ended, too."""
    deadline = time.monotonic() + limit_s
    while True:
        alive = [process for process in processes if _is_alive(process)]
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(LOOK_INTERVAL_S)


def _watchers(home: Path) -> list[psutil.Process]:
    """The watchers of this home's services, which tell it by the environment that they were given."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # of other users, or just gone
            # One that is being started, or has ended, has no variables.
            of_home = process.environ().get("TALE_HOME") if WATCHER_COMMAND[-1] in process.cmdline() else None
            if of_home and same_folder(Path(of_home), home):
                found.append(process)
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children()
    return []


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
