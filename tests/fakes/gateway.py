"""A gateway as a command sees it: the real MCP server with tools that answer as they were told to."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from fakes.in_thread import in_thread

from tale import __version__
from tale.exceptions import TaleBaseException, TaskException, ValidationException
from tale.mcp.base_server import ToolContext
from tale.mcp.http_server import HTTPMCPServer

Step = tuple[int, str]
READY_MODELS = (("small-model", "ux"), ("large-model", "task"))


def model(name: str, role: str, state: str = "ready", **known: Any) -> dict[str, Any]:
    """One model's state as /health tells it."""
    empty = dict.fromkeys(
        ("memory_bytes", "size_bytes", "done_bytes", "total_bytes", "source", "licence", "error", "load_s")
    )
    return {"name": name, "role": role, "state": state, **empty, "waiting": 0, "running": 0, **known}


def task(text: str, **known: Any) -> dict[str, Any]:
    """A task's view, completed unless told otherwise."""
    now = time.time()
    view: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "text": text,
        "status": "completed",
        "priority": 0,
        "created_at": now - 3,
        "started_at": now - 2,
        "ended_at": now,
        "age_s": 3.0,
        "duration_s": 2.0,
        "attempt": 1,
        "failures": 0,
        "timeout_s": 300,
        "max_output_tokens": 2048,
        "expect": None,
        "deadline_at": None,
        "waits_for": 0,
        "attached_files": 0,
        "model": "large-model",
        "role": "task",
        "route_reason": "tasks go to the task model",
        "result": "# Answer\n\n```python\nprint('hello')\n```\n",
        "finish_reason": "stop",
        "error": None,
        "error_class": None,
        "usage": {"calls": 1, "input_tokens": 120, "output_tokens": 34, "cached_tokens": 40},
        "timings": {
            "queue_s": 0.01,
            "load_s": None,
            "prefill_s": 0.5,
            "decode_s": 1.2,
            "time_to_first_token_s": 0.6,
        },
    }
    return {**view, **known}


@dataclass
class FakeGateway:
    """What the tools answer, and what they were asked; its methods are the tools."""

    home: str
    version: str = __version__
    outcome: dict[str, Any] = field(default_factory=dict)  # of a submitted task, on top of a completed one
    steps: list[Step | Callable[[], None]] = field(default_factory=list)  # progress, or something done in between
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=lambda: [model(*pair) for pair in READY_MODELS])
    engines: list[dict[str, Any]] = field(default_factory=list)
    reason: str = "No Ollama answers; the embedded models are used."
    words: tuple[str, ...] = ("Hel", "lo", " there")  # that stream
    reply: str = "Hello there"
    conversations: dict[str, list[str]] = field(default_factory=dict)
    left: threading.Event = field(default_factory=threading.Event)  # whoever was talked to went away
    refusal: TaleBaseException | None = None
    refusals: list[TaleBaseException] = field(default_factory=list)  # of submit_tasks, one a call
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the text of a task
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    paused_at: float | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    waiting: threading.Event = field(default_factory=threading.Event)  # set when a wait has told all its steps
    finish: threading.Event = field(default_factory=threading.Event)  # a wait ends when this is set
    cancels: bool = True  # else a running task only hears of it
    sent: threading.Event = field(default_factory=threading.Event)  # set when several tasks have come
    answers: threading.Event = field(default_factory=threading.Event)  # submit_tasks answers when this is set
    looks: int = 0  # at /health
    looked: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def __post_init__(self) -> None:
        self.finish.set()
        self.answers.set()

    async def submit_task(
        self,
        text: str,
        priority: int = 0,
        timeout_s: int | None = None,
        max_output_tokens: int | None = None,
        idempotency_key: str | None = None,
        conversation_id: str | None = None,
        expect: dict[str, Any] | None = None,
        deadline_s: int | None = None,
        after: list[str] | None = None,
        with_results: bool = False,
        attachments: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Store a task."""
        given = {"priority": priority, "timeout_s": timeout_s, "max_output_tokens": max_output_tokens, "expect": expect}
        more = {"deadline_s": deadline_s, "after": after, "with_results": with_results, "attachments": attachments}
        given |= {name: value for name, value in more.items() if value}
        self.calls.append(("submit_task", {"text": text, "idempotency_key": idempotency_key, **given}))
        if self.refusal:
            raise self.refusal
        stored = task(text, **(self.outcome | self.outcomes.get(text, {})))
        self.tasks[stored["id"]] = stored
        return {**stored, "status": "queued", "result": None}

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        """Store several tasks; the same key gives the one stored first."""
        self.calls.append(("submit_tasks", {"tasks": tasks}))
        if self.refusals:
            raise self.refusals.pop(0)
        stored: list[dict[str, Any]] = []
        for given in tasks:
            key = given["idempotency_key"]
            if key not in self.keys:
                made = task(given["text"], **(self.outcome | self.outcomes.get(given["text"], {})))
                self.tasks[made["id"]] = self.keys[key] = made
            stored.append({"id": self.keys[key]["id"], "status": "queued"})
        self.sent.set()
        while not self.answers.is_set():
            await asyncio.sleep(0.01)
        return {"tasks": stored}

    async def pause_queue(self) -> dict[str, Any]:
        """Pause."""
        self.paused_at = time.time()
        return {"paused_at": self.paused_at, "queued": 3, "running": 1}

    async def resume_queue(self) -> dict[str, Any]:
        """Go on."""
        self.paused_at = None
        return {"paused_at": None, "queued": 3, "running": 1}

    async def wait_for_task(self, task_id: str, context: ToolContext, timeout_s: int | None = None) -> dict[str, Any]:
        """Tell the steps, then the end."""
        self.calls.append(("wait_for_task", {"task_id": task_id, "timeout_s": timeout_s}))
        for number, step in enumerate(self.steps):
            if callable(step):
                step()
            else:
                await context.progress(step[0] or (number + 1) / 1000, message=step[1])
        self.waiting.set()
        while not self.finish.is_set():
            await asyncio.sleep(0.01)
        return self._task(task_id)

    async def get_task_status(self, task_id: str) -> dict[str, Any]:
        """A task without its result."""
        return {**self._task(task_id), "result": None}

    async def get_task_result(self, task_id: str) -> dict[str, Any]:
        """A finished task."""
        found = self._task(task_id)
        if found["status"] in ("queued", "running"):
            raise TaskException("The task is still running; wait for it.", {"task_id": task_id})
        return found

    async def list_tasks(
        self,
        status: Literal["queued", "running", "completed", "failed", "cancelled"] | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> dict[str, Any]:
        """The tasks, newest first."""
        self.calls.append(("list_tasks", {"status": status, "limit": limit, "before": before}))
        found = [view for view in reversed(self.tasks.values()) if status in (None, view["status"])]
        return {"tasks": found[:limit], "next": "17.5:cursor" if len(found) > limit else None}

    async def cancel_task(self, task_id: str) -> dict[str, Any]:
        """Stop a task that has not ended."""
        self.calls.append(("cancel_task", {"task_id": task_id}))
        found = self._task(task_id)
        if self.cancels and (not self.finish.is_set() or found["status"] in ("queued", "running")):
            found["status"] = "cancelled"
        return found

    async def record_feedback(
        self, task_id: str, rating: Literal["good", "bad"], comment: str | None = None
    ) -> dict[str, Any]:
        """Keep what is thought of a task."""
        self.calls.append(("record_feedback", {"task_id": task_id, "rating": rating, "comment": comment}))
        return {**self._task(task_id), "result": None}

    async def get_server_info(self) -> dict[str, Any]:
        """About the servers."""
        health = await self.health()
        counts = dict.fromkeys(("queued", "running", "completed", "failed", "cancelled"), 0)
        for view in self.tasks.values():
            counts[view["status"]] += 1
        paused = {"queue_paused_at": self.paused_at}
        return {**health, "database": {"id": "db", "url": "sqlite:///tale.db"}, "queue": counts, **paused}

    async def conversation(
        self, message: str, context: ToolContext, conversation_id: str | None = None
    ) -> dict[str, Any]:
        """Answer in words."""
        self.calls.append(("conversation", {"message": message, "conversation_id": conversation_id}))
        if self.refusal:
            raise self.refusal
        for number, word in enumerate(self.words):
            await context.progress(number + 1, message=word)
        self.waiting.set()
        try:
            while not self.finish.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.left.set()
            raise
        conversation = conversation_id or str(uuid.uuid4())
        self.conversations[conversation] = [message, self.reply]
        return {"conversation_id": conversation, "reply": self.reply, "model": "small-model"}

    async def get_history(self, conversation_id: str | None = None, limit: int = 50) -> dict[str, Any]:
        """A conversation, or the latest."""
        wanted = conversation_id or next(reversed(self.conversations), None)
        if wanted is None:
            raise ValidationException("There is no conversation yet; begin one with the conversation tool.")
        return {"conversation_id": wanted, "turns": self.conversations.get(wanted, [])}

    async def health(self) -> dict[str, Any]:
        """What GET /health answers."""
        self.looks += 1
        self.looked.set()
        return {
            "name": "tale",
            "role": "gateway",
            "version": self.version,
            "status": "ok",
            "uptime_s": 12.5,
            "pid": None,
            "home": self.home,
            "database": {"id": "db", "state": "ok"},
            "backend": {"provider": "embedded", "reason": self.reason, "url": None},
            "models": self.models,
            "engines": self.engines,
        }

    def server(self, port: int = 0) -> HTTPMCPServer:
        """The server with all the tools."""
        server = HTTPMCPServer("tale-fake", version=self.version, port=port, health=self.health)
        for tool in (self.submit_task, self.wait_for_task, self.get_task_status, self.get_task_result):
            server.add_tool(tool)
        for tool in (self.submit_tasks, self.pause_queue, self.resume_queue, self.record_feedback):
            server.add_tool(tool)
        for tool in (self.list_tasks, self.cancel_task, self.get_server_info, self.conversation, self.get_history):
            server.add_tool(tool)
        return server

    def asked(self, tool: str) -> list[dict[str, Any]]:
        """The arguments of every call of a tool."""
        return [arguments for name, arguments in self.calls if name == tool]

    def _task(self, task_id: str) -> dict[str, Any]:
        if task_id not in self.tasks:
            raise TaskException("No such task; `tale list` shows those there are.", {"task_id": task_id})
        return self.tasks[task_id]


@contextmanager
def serving(gateway: FakeGateway, port: int = 0) -> Iterator[int]:
    """Serve in a thread; yields the port."""
    with in_thread(_started(gateway, port)) as server:
        gateway.url = f"http://127.0.0.1:{server.port}"
        yield server.port


@asynccontextmanager
async def _started(gateway: FakeGateway, port: int) -> AsyncIterator[HTTPMCPServer]:
    server = gateway.server(port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
