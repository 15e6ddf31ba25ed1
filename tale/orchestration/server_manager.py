"""Starts, stops, restarts and reports the background servers of one TALE_HOME."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import psutil
from filelock import FileLock, Timeout

from tale import __version__, exceptions
from tale.constants import SERVER_START_DELAY
from tale.exceptions import NetworkException, ServerException, TaleBaseException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.run_state import LOG_FILE, ServiceState, read_states, remove_state, take_failure
from tale.orchestration.watcher import WatchPlan, spawn_watcher
from tale.settings import Settings

ROLES: Final = ("gateway", "execution", "ux_agent")
SERVICE_COMMAND: Final = (sys.executable, "-m", "tale.servers.bootstrap")
START_LIMIT_S: Final = 60.0  # for a service to answer; models go on loading after it does
LOOK_INTERVAL_S: Final = SERVER_START_DELAY / 20
STOP_MARGIN_S: Final = 10.0  # beyond the grace for running work, then a process is killed
HEALTH_LIMIT_S: Final = 5.0

State = Literal["running", "starting", "stopped", "foreign"]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server as seen from outside; unknown values are None."""

    role: str
    url: str
    state: State
    pid: int | None = None
    uptime_s: float | None = None
    version: str | None = None
    memory_bytes: int | None = None
    home: str | None = None
    health: dict[str, Any] | None = None


class ServerManager:
    """The background servers of one home. `on_wait` is told in a few words what is being waited for."""

    def __init__(self, settings: Settings, *, on_wait: Callable[[str], None] | None = None) -> None:
        self._settings = settings
        self._on_wait = on_wait or _say_nothing

    async def ensure_running(self) -> None:
        """Return when a gateway of this home and version answers; start the servers if none does.

        Stale servers of another version are restarted. Two commands that come here at once start one set. Raises
        ServerException when the port belongs to somebody else or the start fails.
        """
        status = await self._look("gateway")
        if self._settings.gateway_url and status.state in ("running", "starting", "foreign"):
            return  # a gateway elsewhere was named on purpose: its home is not ours
        if self._usable(status):
            return
        self._settings.run_folder.mkdir(parents=True, exist_ok=True)
        async with _locked(self._settings.run_folder / "start.lock"):
            status = await self._look("gateway")
            if self._usable(status):
                return
            if status.state in ("running", "starting"):
                self._on_wait(f"Restarting the servers of version {status.version}")
                await self._stop_all()
            await self._launch(ROLES)

    async def start(self, roles: Sequence[str] | None = None) -> None:
        """Start the servers, or some roles of them. Raises ServerException when one of them runs already."""
        wanted = tuple(roles or ROLES)
        if unknown := [role for role in wanted if role not in (*ROLES, "model")]:
            raise ServerException(f"There is no role {unknown[0]!r}; choose from {', '.join((*ROLES, 'model'))}.")
        self._settings.run_folder.mkdir(parents=True, exist_ok=True)
        async with _locked(self._settings.run_folder / "start.lock"):
            for role in wanted:
                status = await self._look(role)
                if self._refuse_foreign(status) or status.state != "stopped":
                    raise ServerException(
                        f"The {role} server runs already (pid {status.pid}); `tale servers restart` starts it afresh.",
                        {"url": status.url},
                    )
            await self._launch(wanted)

    async def stop(self) -> bool:
        """End all servers of this home; returns whether there were any. Running tasks go back to the queue."""
        return await self._stop_all()

    async def restart(self) -> None:
        """Stop what runs and start it again, with the same roles."""
        roles = tuple(sorted({role for state in self._living() for role in state.roles})) or ROLES
        await self._stop_all()
        await self.start(roles)

    async def status(self) -> list[ServerStatus]:
        """Every role's server; the model server only where one answers."""
        found = await asyncio.gather(*(self._look(role) for role in (*ROLES, "model")))
        return [status for status in found if status.role != "model" or status.state != "stopped"]

    async def _look(self, role: str) -> ServerStatus:
        url = self._settings.url_of(role)
        key = self._settings.api_key
        async with HTTPMCPClient(
            url, api_key=key.get_secret_value() if key else None, timeout_s=HEALTH_LIMIT_S
        ) as client:
            try:
                health = await client.health()
            except NetworkException as error:
                return ServerStatus(role, url, "foreign" if await _listens(url) else "stopped", health=error.context)
        home = health.get("home")
        ours = isinstance(home, str) and _same_folder(Path(home), self._settings.home)
        state: State = "foreign" if not ours else "starting" if health.get("status") == "starting" else "running"
        pid = health.get("pid")
        return ServerStatus(
            role,
            url,
            state,
            pid=pid,
            uptime_s=health.get("uptime_s"),
            version=health.get("version"),
            memory_bytes=_memory(pid) if ours else None,
            home=home,
            health=health,
        )

    def _usable(self, status: ServerStatus) -> bool:
        self._refuse_foreign(status)
        return status.state in ("running", "starting") and status.version == __version__

    def _refuse_foreign(self, status: ServerStatus) -> bool:
        if status.state != "foreign":
            return False
        port = urlsplit(status.url).port
        owner = f"another tale (home {status.home})" if status.home else "another program"
        raise ServerException(
            f"Port {port} is used by {owner}; stop it, or choose another port with "
            f"TALE_{status.role.upper()}_PORT or in tale.toml.",
            {"url": status.url},
        )

    async def _launch(self, roles: Sequence[str]) -> None:
        settings = self._settings
        settings.run_folder.mkdir(parents=True, exist_ok=True)
        take_failure(settings.run_folder)
        self._on_wait("Starting the servers")
        plan = WatchPlan(
            command=(*SERVICE_COMMAND, "--background", "--roles", ",".join(roles)),
            live_url=f"{settings.url_of(roles[0])}/health/live",
            interval_s=settings.monitor_interval_s,
            restart_delay_s=settings.restart_delay_s,
        )
        log_path = settings.run_folder / LOG_FILE
        with log_path.open("ab") as log:
            watcher = spawn_watcher(plan, settings.environment(), log=log.fileno())
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            ended = watcher.poll() is not None
            if failure := take_failure(settings.run_folder):
                raise _as_exception(failure)
            if ended:
                raise ServerException(f"The servers ended while starting; {log_path} says why.", {"log": str(log_path)})
            statuses = await asyncio.gather(*(self._look(role) for role in roles))
            if all(status.state in ("running", "starting") for status in statuses):
                return
            await asyncio.sleep(LOOK_INTERVAL_S)
        raise ServerException(f"The servers did not answer within {START_LIMIT_S:g} s; see {log_path}.")

    def _living(self) -> list[ServiceState]:
        states = read_states(self._settings.run_folder)
        living = [state for state in states if _process(state) is not None]
        for state in states:
            if state not in living:
                remove_state(self._settings.run_folder, state.pid)
        return living

    async def _stop_all(self) -> bool:
        living = self._living()
        processes = [process for state in living if (process := _process(state))]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        limit_s = self._settings.stop_grace_s + STOP_MARGIN_S
        _, alive = await asyncio.to_thread(psutil.wait_procs, processes, limit_s)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, alive, STOP_MARGIN_S)
        for state in living:
            remove_state(self._settings.run_folder, state.pid)
        return bool(living)


class _locked:
    """Hold a file lock without blocking the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path, thread_local=False)

    async def __aenter__(self) -> None:
        try:
            await asyncio.to_thread(self._lock.acquire, START_LIMIT_S + STOP_MARGIN_S)
        except Timeout as error:
            raise ServerException(
                f"Another command has been starting the servers for too long ({self._path})."
            ) from error

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def _say_nothing(_: str) -> None:
    """For callers who need not know what is being waited for."""


async def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(HEALTH_LIMIT_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _process(state: ServiceState) -> psutil.Process | None:
    try:
        process = psutil.Process(state.pid)
        same = abs(process.create_time() - state.process_started_at) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def _memory(pid: object) -> int | None:
    if not isinstance(pid, int):
        return None
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return None


def _same_folder(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _as_exception(failure: dict[str, Any]) -> TaleBaseException:
    kind = getattr(exceptions, str(failure.get("type")), ServerException)
    return kind(str(failure.get("message")), failure.get("context"))
