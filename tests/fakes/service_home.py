"""A home whose servers run as real background processes, as commands start them."""

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from fakes.servers import PATIENCE_S, settings_for, until

from tale.exceptions import NetworkException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.server_manager import ServerManager
from tale.orchestration.service_processes import living
from tale.servers.learning_link import PLACE_FILE
from tale.settings import Settings


class ServiceHome:
    """One home and the commands that use it; `close` ends everything."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.said: list[str] = []
        self._managers: list[ServerManager] = []

    def manager(self, settings: Settings | None = None, **chosen: Any) -> ServerManager:
        """What a command would make."""
        manager = ServerManager(settings or self.settings, on_wait=self.said.append, **chosen)
        self._managers.append(manager)
        return manager

    def client(self, role: str = "gateway") -> HTTPMCPClient:
        return HTTPMCPClient(self.settings.url_of(role))

    def pid(self, role: str = "gateway") -> int:
        """The process that plays a role."""
        if role == "learning":  # a child of another role's process
            return json.loads((self.settings.run_folder / PLACE_FILE).read_text("utf-8"))["pid"]
        (state,) = [state for state in living(self.settings.run_folder) if role in state.roles]
        return state.pid

    def watchers(self) -> list[psutil.Process]:
        """The watchers of this home that are alive."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_watcher = "tale.orchestration.watcher" in process.cmdline()
                if is_watcher and process.environ().get("TALE_HOME") == str(self.settings.home):
                    found.append(process)
        return found

    def kill(self, role: str = "gateway") -> int:
        """kill -9 of the process that plays a role; returns what was its pid."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def back(self, role: str, *, instead_of: int) -> int:
        """Return the pid of the process that plays the role in place of another, once it answers."""
        pid = None

        async def answers() -> bool:
            nonlocal pid
            with suppress(NetworkException):
                async with self.client(role) as client:
                    pid = (await client.health())["pid"]
            return pid not in (None, instead_of)

        await until(answers)
        assert pid is not None
        return pid

    async def submitted(self, text: str, **given: Any) -> str:
        """The id of a task that was handed in."""
        async with self.client() as client:
            return (await client.call_tool("submit_task", {"text": text, **given}))["id"]

    async def ended(self, task_id: str, on_progress: Callable[..., None] | None = None) -> dict[str, Any]:
        """The task at its end, waited for through deaths of the servers."""
        task: dict[str, Any] = {}

        async def is_final() -> bool:
            nonlocal task
            with suppress(NetworkException):
                async with self.client() as client:
                    wait = {"task_id": task_id, "timeout_s": PATIENCE_S}
                    task = await client.call_tool("wait_for_task", wait, on_progress=on_progress)
            return task.get("status") in ("completed", "failed", "cancelled")

        await until(is_final)
        return task

    async def close(self) -> None:
        """End all servers and watchers of this home, and let go of those that were started here."""
        for manager in [self.manager(), *self._managers]:
            await manager.stop()


@asynccontextmanager
async def service_home(home: Path, **chosen: object) -> AsyncIterator[ServiceHome]:
    """A home for a test, whose servers are ended with it."""
    held = ServiceHome(settings_for(home, **{"restart_delay_s": 0.0, **chosen}))
    try:
        yield held
    finally:
        await held.close()
