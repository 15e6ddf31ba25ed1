"""The roles as a service wires them, in this process and on ports of their own; only the engine is played."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

from fakes.command_line import free_port
from fakes.scripted_backend import ScriptedBackend

from tale.mcp.http_client import HTTPMCPClient
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.model_pool import ModelPool
from tale.models.pool import Pool
from tale.records import Detection, Intent
from tale.servers.learning_link import LearningLink
from tale.servers.roles import OPENERS, Busy, open_model_server
from tale.servers.shared import Activity, Shared
from tale.settings import Settings, load_settings
from tale.storage.budget_store import BudgetStore
from tale.storage.conversation_store import ConversationStore
from tale.storage.database import Database
from tale.storage.patient_store import PatientCallStore
from tale.storage.task_store import TaskStore

ROLES = ("execution", "ux_agent", "gateway")
PATIENCE_S = 60
LEARNING_PATIENCE_S = 180  # the processes that learn give way to all others
LOOK_INTERVAL_S = 0.005
MOST_PAUSE_S = 0.1


def settings_for(home: Path, **chosen: object) -> Settings:
    """Settings of a home with free ports, and no waits where a test wants none."""
    ports = {f"{role}_port": free_port() for role in (*ROLES, "model", "learning")}
    swift = {
        "retry_delay_s": 0.0,
        "stop_grace_s": 0.0,
        "acknowledge": False,
        "backend": "embedded",
        "monitor_interval_s": 60.0,
        "learning": "off",
        "encoder": "off",
        "prewarm": False,
    }
    return load_settings({"home": str(home), **ports, **swift, **chosen}, environment={}, folder=home)


@dataclass
class Process:
    """What one service process holds."""

    shared: Shared
    backend: ScriptedBackend
    stack: AsyncExitStack
    busy: list[Busy] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.shared.settings

    async def client(self, role: str = "gateway") -> HTTPMCPClient:
        """A client of a role, closed with the process."""
        key = self.settings.api_key
        url = self.settings.url_of(role)
        client = HTTPMCPClient(url, api_key=key.get_secret_value() if key else None)
        return await self.stack.enter_async_context(client)

    async def done(self, text: str, **given: Any) -> dict[str, Any]:
        """Hand a task in and wait for its end."""
        client = await self.client()
        task = await client.call_tool("submit_task", {"text": text, **given})
        return await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S})


class PlayedLearning:
    """Knows what messages ask for that begin with given words."""

    def __init__(self, intents: Mapping[str, Intent]) -> None:
        self._intents = intents
        self.corrections = 0

    async def detect(self, text: str) -> Detection:
        label = next((label for words, label in self._intents.items() if text.startswith(words)), "chat")
        return Detection(label, 0.9, ("it begins so",), "model", {label: 0.9})

    async def corrected(self) -> None:
        self.corrections += 1

    async def ask(self, tool: str, arguments: Mapping[str, Any], *, limit_s: float) -> dict[str, Any] | None:
        return None

    def learnable(self) -> None:
        """Nothing is learned from tasks."""


@asynccontextmanager
async def running(
    settings: Settings,
    roles: Sequence[str] = ROLES,
    *,
    backend: ScriptedBackend | None = None,
    pool: Pool | None = None,
    intents: Mapping[str, Intent] | None = None,
) -> AsyncIterator[Process]:
    """Serve the roles; with `pool` they use that, else one of their own over the played engine.

    With `intents`, messages that begin so are taken for that, and all others for chat.
    """
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        database = Database.open(settings.database)
        stack.push_async_callback(database.close)
        budgets = BudgetStore(database, owner="here", pause=_unpaused)
        calls, played = PatientCallStore(database, budgets), backend or ScriptedBackend()
        stack.push_async_callback(calls.stop)
        recorder = Recorder(calls)
        if pool is None:
            pool = _pool(settings, played, recorder)
            stack.push_async_callback(pool.close)
            await pool.start()
        conversations = ConversationStore(database)
        kept: dict[str, Any] = {
            "tasks": TaskStore(database),
            "calls": calls,
            "conversations": conversations,
            "recorder": recorder,
        }
        kept["budgets"] = budgets
        moments: dict[str, Any] = {"activity": Activity(), "clock": time.time, "started_at": time.time()}
        kept["learning"] = LearningLink(settings) if intents is None else PlayedLearning(intents)
        process = Process(Shared(settings=settings, database=database, pool=pool, **kept, **moments), played, stack)
        if "model" in roles:
            await open_model_server(process.shared, stack, required=True)
        for role, opener in OPENERS.items():
            if role in roles:
                process.busy.append(await opener(process.shared, stack))
        yield process


async def until(condition: Callable[[], Any], *, patience_s: float = PATIENCE_S) -> None:
    """Look until the condition, which may be awaitable, holds; fails when it never does.

    What takes long to look at is looked at less often, so that the looks leave the processor to what they wait for.
    """
    async with asyncio.timeout(patience_s):
        while True:
            began = time.monotonic()
            held = condition()
            if await held if isawaitable(held) else held:
                return
            await asyncio.sleep(min(MOST_PAUSE_S, max(LOOK_INTERVAL_S, 2 * (time.monotonic() - began))))


async def soon(event: asyncio.Event) -> None:
    """Wait for an event; fails when it never comes."""
    async with asyncio.timeout(PATIENCE_S):
        await event.wait()


def rows(settings: Settings, query: str, *values: object) -> list[dict[str, Any]]:
    """What a query finds in the database of a home."""
    connection = sqlite3.connect(settings.database.removeprefix("sqlite:///"))
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(query, values)]
    finally:
        connection.close()


async def _unpaused(_: float) -> None:
    """What has to settle between processes need not within one."""


def _pool(settings: Settings, backend: ScriptedBackend, recorder: Recorder) -> ModelPool:
    return ModelPool(
        backend,
        ux_model="small",
        task_model="large",
        tracker=TokenTracker(recorder),
        memory_limit_bytes=settings.memory_limit_bytes,
        routing=settings.routing,
        monitor_interval_s=settings.monitor_interval_s,
        provider_reason="It is a test.",
        first_retry_s=0.0,
    )
