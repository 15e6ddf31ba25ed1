"""One service process: starts its roles, watches over its idleness and its watcher, and stops in good order."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Final

import psutil

from tale import __version__
from tale.exceptions import ServerException, TaleBaseException
from tale.orchestration.run_state import LOG_FILE, ServiceState, prepare_folder, remove_state, write_state
from tale.orchestration.watcher import hide_link
from tale.orchestration.watcher_link import WatcherLink
from tale.servers.shared import Shared, open_shared
from tale.settings import Settings

IDLE_LOOKS: Final = 10  # looks within the idle time
ASKS_WHAT_IS_LEARNED: Final = frozenset({"gateway", "execution", "ux_agent"})

logger = logging.getLogger(__name__)


class Service:
    """The roles of one process."""

    def __init__(self, settings: Settings, roles: Sequence[str], *, background: bool) -> None:
        self._settings = settings
        self._roles = tuple(roles)
        self._background = background
        self._stack = AsyncExitStack()
        self._stop_requested = asyncio.Event()
        self._shared: Shared | None = None
        self._link: WatcherLink | None = None
        self._busy: list[Callable[[], bool]] = []

    async def start(self) -> None:
        """Open what the roles share, then the roles. Raises TaleBaseException when that cannot be."""
        settings = self._settings
        prepare_folder(settings.run_folder)
        self._write_state()  # first of all: who stops the servers must find those that are still starting
        hide_link()
        self._shared = shared = await open_shared(settings, self._roles, self._stack)
        if settings.telemetry_url:
            from tale.servers.task_spans import open_telemetry

            await open_telemetry(shared, self._stack)
        # The models' processes load while the MCP SDK is imported, which takes a second.
        roles = await asyncio.to_thread(import_module, "tale.servers.roles")
        if unknown := [role for role in self._roles if role not in roles.OPENERS and role != "model"]:
            raise ServerException(f"There is no role {unknown[0]!r}; choose from {', '.join(roles.OPENERS)}, model.")
        await roles.open_model_server(shared, self._stack, required="model" in self._roles)
        for role, opener in roles.OPENERS.items():
            if role in self._roles:
                self._busy.append(await opener(shared, self._stack))
        self._link = WatcherLink.inherited(settings, log_path=settings.run_folder / LOG_FILE)
        if self._link:
            self._link.attach()
        if self._background and settings.idle_stop_s:
            idle = asyncio.create_task(self._stop_when_idle(shared), name="idle-watch")
            self._stack.callback(idle.cancel)
        logger.info("Serving %s on %s", ", ".join(self._roles), settings.host)
        if ASKS_WHAT_IS_LEARNED.intersection(self._roles):  # last of all: it delays nobody
            self._stack.push_async_callback(shared.learning.stop)
            await shared.learning.start()

    def request_stop(self, reason: str) -> None:
        """Have `wait` return; safe to call from a signal handler of the event loop."""
        logger.info("Stopping: %s", reason)
        self._stop_requested.set()

    async def wait(self) -> None:
        """Return when a stop is requested."""
        await self._stop_requested.wait()

    async def stop(self) -> None:
        """Close the roles and what they share, newest first, and tell the watcher that this was meant."""
        if self._shared:
            self._shared.activity.is_stopping = True  # who looks for servers now has to wait for the next ones
        try:
            await self._stack.aclose()
        finally:
            remove_state(self._settings.run_folder, os.getpid())
            if self._link:
                self._link.farewell()

    def _write_state(self) -> None:
        started = psutil.Process().create_time()
        settings = self._settings
        state = ServiceState(os.getpid(), started, self._roles, __version__, self._background, settings.shown())
        write_state(settings.run_folder, state)

    async def _stop_when_idle(self, shared: Shared) -> None:
        limit_s = self._settings.idle_stop_s
        while True:
            await asyncio.sleep(limit_s / IDLE_LOOKS)
            if any(busy() for busy in self._busy) or await _models_at_work(shared):
                shared.activity.note()
            elif time.monotonic() - shared.activity.last_use >= limit_s:
                self.request_stop(f"idle for {limit_s:g} s")
                return


async def _models_at_work(shared: Shared) -> bool:
    try:
        status = await shared.pool.status()
    except TaleBaseException as error:
        logger.warning("How the models stand is not known: %s", error)
        return False
    return any(model.running or model.waiting or model.state == "downloading" for model in status.models)
