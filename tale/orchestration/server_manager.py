"""Starts, stops, restarts and reports the background servers of one TALE_HOME."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from tale import __version__, exceptions
from tale.constants import SERVER_START_DELAY
from tale.exceptions import NetworkException, ServerException, TaleBaseException
from tale.orchestration.run_state import LOCK, LOG_FILE, ServiceState, prepare_folder, take_failure, unusable
from tale.orchestration.server_status import ServerStatus, look_at, taken
from tale.orchestration.service_processes import end_all, living
from tale.orchestration.watcher import PYTHON, WatchPlan, spawn_watcher
from tale.settings import Settings

__all__ = ["ServerManager", "ServerStatus"]

ROLES: Final = ("gateway", "execution", "ux_agent")
OF_THE_WAY: Final = frozenset(  # settings of how a command finds the servers, not of what these do
    {"home", "host", "api_key", "http_timeout_s"}
    | {f"{role}_{place}" for role in (*ROLES, "model", "learning") for place in ("port", "url")}
)
SERVICE_COMMAND: Final = (*PYTHON, "-m", "tale.servers.bootstrap")
START_LIMIT_S: Final = 60.0  # for a service to answer; models go on loading after it does
LOOK_INTERVAL_S: Final = SERVER_START_DELAY / 20
STOP_MARGIN_S: Final = 10.0  # beyond the grace for running work, then a process is killed
WATCHER_LIMIT_S: Final = 5.0  # for a watcher to end after its service
FULL_BELOW_BYTES: Final = 1_000_000  # free bytes of a disk on which no server can begin


class ServerManager:
    """The background servers of one home. `on_wait` is told in a few words what is being waited for."""

    def __init__(
        self,
        settings: Settings,
        *,
        on_wait: Callable[[str], None] | None = None,
        stop_margin_s: float = STOP_MARGIN_S,
    ) -> None:
        self._settings = settings
        self._stop_limit_s = settings.stop_grace_s + stop_margin_s
        self._on_wait = on_wait or _say_nothing
        self._watcher: subprocess.Popen[bytes] | None = None  # the one started last

    async def ensure_running(self, role: str = "gateway") -> None:
        """Return when a gateway of this home and version answers, what runs its tasks is there, and so is `role`.

        What is missing is started; stale servers of another version are restarted. Two commands that come here at once
        start one set. Raises ServerException when the port belongs to somebody else or the start fails,
        NetworkException when a gateway elsewhere, which was named on purpose, or `role` beside it does not answer.
        """
        status = await self._look("gateway")
        if self._settings.gateway_url:
            _require_gateway(status)
            if role != "gateway":
                _require_beside(await self._look(role))
            return
        needed = self._needed_beside(role)
        if self._usable(status) and not self._is_without(needed):
            return
        async with self._alone():
            roles = self._own_roles()
            await self._let_settle(roles)
            statuses = [await self._look(role) for role in roles]
            missing = [status for status in statuses if not self._usable(status)]
            if self._usable(statuses[0]):
                missing = [status for status in missing if status.role in needed]
            if not missing:
                return
            is_lasting = False
            if stale := next((status for status in missing if status.state != "stopped"), None):
                self._on_wait(f"Restarting the servers of version {stale.version}")
                is_lasting = self._is_lasting()
                await self._end_all()
                missing = statuses
            await self._launch([status.role for status in missing], is_lasting=is_lasting)

    async def start(self, roles: Sequence[str] | None = None, *, is_lasting: bool = False) -> None:
        """Start the servers, or some roles of them; lasting ones do not end for want of use.

        Raises ServerException when one of them runs already.
        """
        wanted = tuple(roles or self._own_roles())
        if unknown := [role for role in wanted if role not in (*ROLES, "model")]:
            raise ServerException(f"There is no role {unknown[0]!r}; choose from {', '.join((*ROLES, 'model'))}.")
        async with self._alone():
            await self._let_settle(wanted)
            for role in wanted:
                status = await self._look(role)
                if self._refuse_foreign(status) or status.state != "stopped":
                    raise ServerException(
                        f"The {role} server runs already (pid {status.pid}); `tale servers restart` starts it afresh.",
                        {"url": status.url},
                    )
            await self._launch(wanted, is_lasting=is_lasting)

    async def stop(self) -> bool:
        """End all servers of this home; returns whether there were any. Running tasks go back to the queue."""
        if not self._settings.run_folder.is_dir():
            return False
        async with self._alone():  # a command that is starting them comes first: then all are found
            return await self._end_all()

    async def restart(self) -> None:
        """Stop what runs and start it again, with the same roles; what was to last in the foreground lasts on."""
        roles = sorted({role for state in living(self._settings.run_folder) for role in state.roles})
        is_lasting = self._is_lasting()
        await self.stop()
        await self.start(roles, is_lasting=is_lasting)

    async def status(self) -> list[ServerStatus]:
        """Every role's server; the model and the learning server only where one answers.

        Beside a gateway elsewhere, which was named on purpose, that goes for all roles that are not named.
        """
        expected = set(ROLES) - set(self._own_roles()) if self._settings.gateway_url else set(ROLES)
        found = await asyncio.gather(*(self._look(role) for role in (*ROLES, "model", "learning")))
        return [status for status in found if status.role in expected or status.state not in ("stopped", "foreign")]

    def unheeded(self) -> list[str]:
        """The settings chosen for this command that a server of this home, which runs, began without."""
        if self._settings.gateway_url:
            return []
        shown = self._settings.shown()
        chosen = {name: shown[name] for name in self._settings.model_fields_set - OF_THE_WAY}
        begun = [state.settings for state in living(self._settings.run_folder)]
        return sorted(name for name, value in chosen.items() if any(had.get(name, value) != value for had in begun))

    async def _look(self, role: str) -> ServerStatus:
        return await look_at(self._settings, role)

    def _usable(self, status: ServerStatus) -> bool:
        self._refuse_foreign(status)
        return _is_up(status)

    def _refuse_foreign(self, status: ServerStatus) -> bool:
        if status.state != "foreign":
            return False
        if not status.home and (ours := self._holding([status.role])):
            raise _deaf(status, ours[0])
        raise taken(status)

    def _own_roles(self) -> tuple[str, ...]:
        """The roles that are played here: a server elsewhere, named by its URL, is not ours to start."""
        return tuple(role for role in ROLES if getattr(self._settings, f"{role}_url") is None)

    def _needed_beside(self, role: str) -> set[str]:
        """The roles that a command needs here, besides the gateway, to use `role`.

        Tasks of a shared database may be run on any host, so that none need be run on this one.
        """
        is_shared = not self._settings.database.startswith("sqlite")
        needed = {role} if is_shared else {role, "execution"}
        return needed & set(self._own_roles()) - {"gateway"}

    def _is_without(self, needed: set[str]) -> bool:
        """Whether the gateway's process is known, and none that plays each of the needed roles."""
        played = {role for state in living(self._settings.run_folder) for role in state.roles}
        return "gateway" in played and not needed <= played

    def _is_lasting(self) -> bool:
        """Whether a service of this home was to run until somebody ends it, as `tale serve` does."""
        return not all(state.background for state in living(self._settings.run_folder))

    def _holding(self, roles: Sequence[str]) -> list[ServiceState]:
        """The service processes of this home that hold one of these roles."""
        return [state for state in living(self._settings.run_folder) if set(state.roles) & set(roles)]

    def _alone(self) -> "_locked":
        """No other command starts or stops the servers of this home meanwhile."""
        prepare_folder(self._settings.run_folder)
        return _locked(self._settings.run_folder / "start.lock")

    async def _let_settle(self, roles: Sequence[str]) -> None:
        """Wait while a process of these roles is starting or stopping: it holds what its successor needs."""
        deadline = time.monotonic() + self._stop_limit_s
        while True:
            holding = self._holding(roles)
            held = {role for state in holding for role in state.roles if role in roles}
            statuses = await asyncio.gather(*(self._look(role) for role in held))
            silent = [status for status in statuses if status.state == "stopped"]
            if not silent:
                return
            if time.monotonic() >= deadline:
                raise _deaf(silent[0], holding[0])
            self._on_wait("Waiting for servers that are starting or stopping")
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _launch(self, roles: Sequence[str], *, is_lasting: bool) -> None:
        settings = self._settings
        options = ("--background", "--lasting") if is_lasting else ("--background",)
        take_failure(settings.run_folder)
        self._on_wait("Starting the servers")
        plan = WatchPlan(
            command=(*SERVICE_COMMAND, *options, "--roles", ",".join(roles)),
            live_url=f"{settings.url_of(roles[0])}/health/live",
            interval_s=settings.monitor_interval_s,
            restart_delay_s=settings.restart_delay_s,
        )
        log_path = settings.run_folder / LOG_FILE
        with log_path.open("ab") as log:
            self._watcher = spawn_watcher(plan, settings.environment(), log=log.fileno())
        failure: dict[str, Any] | None = None
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            ended = self._watcher.poll() is not None
            failure = take_failure(settings.run_folder) or failure
            statuses = await asyncio.gather(*(self._look(role) for role in roles))
            if all(map(_is_up, statuses)):
                return
            # Who holds the lock may be what another watcher brings back at this moment, and will do then.
            if failure and not (LOCK in failure["context"] and self._holding(roles)):
                raise _as_exception(failure)
            if ended and not failure:
                raise _unexplained(settings.home, log_path)
            await asyncio.sleep(LOOK_INTERVAL_S)
        raise ServerException(f"The servers did not answer within {START_LIMIT_S:g} s; see {log_path}.")

    async def _end_all(self) -> bool:
        found = await asyncio.to_thread(end_all, self._settings, limit_s=self._stop_limit_s)
        if self._watcher is not None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._watcher.wait, WATCHER_LIMIT_S)
        return found


def _is_up(status: ServerStatus) -> bool:
    return status.state in ("running", "starting") and status.version == __version__


class _locked:
    """Hold a file lock without blocking the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path, thread_local=False)

    async def __aenter__(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S + STOP_MARGIN_S
        while True:
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                if time.monotonic() >= deadline:
                    raise ServerException(
                        f"Another command has been starting the servers for too long ({self._path})."
                    ) from error
                await asyncio.sleep(LOOK_INTERVAL_S)
            except OSError as error:
                raise unusable(self._path, error) from error
            else:
                return

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def _require_gateway(status: ServerStatus) -> None:
    if status.state == "stopped":
        raise NetworkException(
            f"The gateway at {status.url} does not answer; start it there, or leave gateway_url out.",
            {"url": status.url},
        )


def _require_beside(status: ServerStatus) -> None:
    """A server that is to be used with a gateway elsewhere has to answer as well."""
    if status.state == "stopped":
        raise NetworkException(
            f"The {status.role} server at {status.url} does not answer; name the one beside the gateway "
            f"with TALE_{status.role.upper()}_URL or in tale.toml.",
            {"url": status.url},
        )


def _say_nothing(_: str) -> None:
    """For callers who need not know what is being waited for."""


def _deaf(status: ServerStatus, state: ServiceState) -> ServerException:
    return ServerException(
        f"The {status.role} server of this home (pid {state.pid}) does not answer at {status.url}; "
        "`tale servers restart` starts it afresh.",
        {"url": status.url, "pid": state.pid},
    )


def _unexplained(home: Path, log_path: Path) -> ServerException:
    """Why servers ended that left no word of it; on a full disk the log has none either."""
    if shutil.disk_usage(home).free < FULL_BELOW_BYTES:
        return ServerException(
            f"The disk of {home} is full; make room on it, or choose another home with --home or TALE_HOME.",
            {"path": str(home)},
        )
    return ServerException(f"The servers ended while starting; {log_path} says why.", {"log": str(log_path)})


def _as_exception(failure: dict[str, Any]) -> TaleBaseException:
    kind = getattr(exceptions, str(failure.get("type")), ServerException)
    return kind(str(failure.get("message")), failure.get("context"))
