"""The processes behind the servers of one home: found by the state files that they leave, and ended."""

import signal
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
    _, alive = psutil.wait_procs(services, limit_s)
    # A watcher to whom its service said goodbye is about to end. The others wait to start theirs again, or would take
    # what follows for a crash.
    watchers = _watchers(settings.home)
    unborn = [child for watcher in watchers for child in _children(watcher) if child not in services]
    _signal(watchers, signal.SIGKILL)
    _signal(unborn, signal.SIGTERM)
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs([*alive, *unborn], KILL_LIMIT_S)
    for state in states:
        remove_state(settings.run_folder, state.pid)
    return bool(states or watchers)


def _process(state: ServiceState) -> psutil.Process | None:
    try:
        process = psutil.Process(state.pid)
        same = abs(process.create_time() - state.process_started_at) < SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _watchers(home: Path) -> list[psutil.Process]:
    """The watchers of this home's services, which tell it by the environment that they were given."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # of other users, or just gone
            if WATCHER_COMMAND[-1] in process.cmdline() and same_folder(Path(process.environ()["TALE_HOME"]), home):
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
