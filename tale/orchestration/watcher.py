"""The watcher: keeps one background service alive. Standard library only, so that it stays small.

Watcher and service hold the two ends of a socket pair. Each learns by its end-of-file that the other died: the
watcher starts the service again, the service starts a new watcher. A service that ends on purpose says so first.
"""

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

FAREWELL: Final = b"bye"
MISSED_CHECKS_LIMIT: Final = 6  # health checks in a row without an answer, then the service counts as hung
START_CHECKS_LIMIT: Final = 60  # the same before its first answer: it may be upgrading a large database
CRASH_WINDOW_S: Final = 120.0
CRASHES_LIMIT: Final = 8  # crashes within the window, then the watcher gives up
CHECK_TIMEOUT_S: Final = 5.0
PLAN_VARIABLE: Final = "WATCH_PLAN_OF_TALE"  # without the prefix of settings: it is not one
LINK_VARIABLE: Final = "WATCH_LINK_OF_TALE"
ENVIRONMENT_PREFIX: Final = "TALE_"
CANNOT_START: Final = 78  # exit status of a service that cannot start and would not the next time (EX_CONFIG)
# -P: a file of the user's in the working folder must not stand in for a module of the same name.
PYTHON: Final = (sys.executable, "-P")
WATCHER_COMMAND: Final = (*PYTHON, "-m", "tale.orchestration.watcher")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What the watcher needs to know; handed over as JSON in the environment variable WATCH_PLAN_OF_TALE."""

    command: tuple[str, ...]  # that starts the service
    live_url: str  # answers while the service is alive
    interval_s: float
    restart_delay_s: float

    def to_json(self) -> str:
        """For the environment of the watcher and of the service, which may have to start a new watcher."""
        return json.dumps([self.command, self.live_url, self.interval_s, self.restart_delay_s])

    @classmethod
    def from_json(cls, text: str) -> "WatchPlan":
        """The inverse of `to_json`."""
        command, live_url, interval_s, restart_delay_s = json.loads(text)
        return cls(tuple(command), live_url, interval_s, restart_delay_s)


def spawn_watcher(
    plan: WatchPlan, settings: Mapping[str, str], *, log: int, link: socket.socket | None = None
) -> subprocess.Popen[bytes]:
    """Start a watcher in a session of its own; with `link` it adopts the service at the other end.

    `settings` are the TALE_* variables under which the service is to run.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)}
    return _spawn(WATCHER_COMMAND, {**inherited, **settings, PLAN_VARIABLE: plan.to_json()}, log, link)


def hide_link() -> None:
    """Keep the link from children: under uvloop they get it, and one that lives on would hide that its parent died."""
    if number := os.environ.get(LINK_VARIABLE):
        os.set_inheritable(int(number), False)


def take_link() -> socket.socket | None:
    """The end of the socket pair that this process was started with, if any."""
    number = os.environ.pop(LINK_VARIABLE, None)
    return socket.socket(fileno=int(number)) if number else None


def _spawn(
    command: tuple[str, ...], environment: dict[str, str], log: int, link: socket.socket | None
) -> subprocess.Popen[bytes]:
    if link is not None:
        environment[LINK_VARIABLE] = str(link.fileno())
    return subprocess.Popen(  # noqa: S603 - our own module, no shell
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=() if link is None else (link.fileno(),),
    )


class Watcher:
    """Starts the service, waits for its end, and starts it again unless it said goodbye."""

    def __init__(self, plan: WatchPlan, *, link: socket.socket | None, log: int) -> None:
        self._plan = plan
        self._link = link
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._service_pid: int | None = None
        self._crashes: list[float] = []
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our servers

    def run(self) -> int:
        """Watch until the service ends on purpose (0), cannot start (its exit status), or crashes too often (1)."""
        while True:
            if self._link is None:
                self._start()
            on_purpose = self._wait()
            status = self._process.wait() if self._process else None
            if on_purpose:
                return 0
            if status == CANNOT_START:
                return status
            if self._crashed_too_often():
                logger.error("The service crashed %d times in %.0f s; giving up.", CRASHES_LIMIT, CRASH_WINDOW_S)
                return 1
            logger.warning("The service died; starting it again in %g s.", self._plan.restart_delay_s)
            time.sleep(self._plan.restart_delay_s)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, PLAN_VARIABLE: self._plan.to_json()}
        self._process = _spawn(self._plan.command, environment, self._log, theirs)
        theirs.close()
        self._link = ours
        self._service_pid = self._process.pid

    def _wait(self) -> bool:
        """Block until the service is gone; returns whether it said goodbye."""
        assert self._link is not None  # noqa: S101 - set by `_start` or handed in
        missed, limit = 0, START_CHECKS_LIMIT if self._process else MISSED_CHECKS_LIMIT
        self._link.settimeout(self._plan.interval_s)
        said = b""
        while True:
            try:
                received = self._link.recv(64)
            except TimeoutError:
                if self._answers():
                    missed, limit = 0, MISSED_CHECKS_LIMIT
                else:
                    missed += 1
                if missed >= limit:
                    self._kill()
                continue
            except ConnectionError:
                received = b""
            if not received:
                self._link.close()
                self._link = None
                return said.endswith(FAREWELL)
            said += received
            if said.isdigit():  # an adopted service tells its pid first
                self._service_pid = int(said)

    def _answers(self) -> bool:
        try:
            with self._direct.open(self._plan.live_url, timeout=CHECK_TIMEOUT_S):
                return True
        except urllib.error.HTTPError:
            return True  # it answers, if with a refusal
        except (OSError, http.client.HTTPException):
            return False

    def _kill(self) -> None:
        if self._service_pid is not None:
            logger.error("The service (pid %d) does not answer any more; ending it.", self._service_pid)
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self._service_pid, signal.SIGKILL)

    def _crashed_too_often(self) -> bool:
        now = time.monotonic()
        self._crashes = [moment for moment in self._crashes if now - moment < CRASH_WINDOW_S] + [now]
        return len(self._crashes) >= CRASHES_LIMIT


def main() -> int:
    """Entry of `python -m tale.orchestration.watcher`; started by server_manager and by services."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s watcher: %(message)s")
    plan = WatchPlan.from_json(os.environ[PLAN_VARIABLE])
    return Watcher(plan, link=take_link(), log=sys.stderr.fileno()).run()


if __name__ == "__main__":
    sys.exit(main())
