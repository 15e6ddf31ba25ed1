"""Tools of the conformance suite that become tasks of the protocol's extension, and the store that they are kept in."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mcp import MCPError
from mcp.types import INTERNAL_ERROR, CallToolResult, ErrorData, TextContent
from mcp.types import InputRequest as Question

from conformance.asking_tools import NAME, fields, filled
from tale.exceptions import TaleBaseException, TaskException
from tale.mcp.base_server import BaseMCPServer, ToolContext
from tale.mcp.long_calls import LongCall
from tale.mcp.tool_context import form

KEPT_S: Final = 600.0
POLL_INTERVAL_S: Final = 0.1


@dataclass
class Running:
    """A long call with what it waits for."""

    call: LongCall
    task: asyncio.Task[None] | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def become(self, **changes: Any) -> None:
        """Take another state, unless it has ended."""
        if self.call.status in ("working", "input_required"):
            self.call = replace(self.call, updated_at=time.time(), **changes)

    async def ask(self, questions: Mapping[str, Question]) -> dict[str, Any]:
        """Wait for the client to answer all questions by tasks/update."""
        self.become(status="input_required", questions=dict(questions))
        while self.call.questions:
            self.answered.clear()
            await self.answered.wait()
        self.become(status="working")
        return self.answers


Work = Callable[[Running], Awaitable[str]]


class LongCallsInMemory:
    """The long calls of the fixture server."""

    def __init__(self) -> None:
        self._calls: dict[str, Running] = {}

    def start(self, work: Work) -> LongCall:
        """Begin a long call."""
        now, task_id = time.time(), str(uuid.uuid4())
        call = LongCall(
            task_id=task_id,
            status="working",
            created_at=now,
            updated_at=now,
            kept_s=KEPT_S,
            poll_interval_s=POLL_INTERVAL_S,
        )
        running = self._calls[task_id] = Running(call)
        running.task = asyncio.create_task(self._run(running, work))
        return call

    async def get(self, task_id: str) -> LongCall:
        """How it stands."""
        return self._running(task_id).call

    async def cancel(self, task_id: str) -> None:
        """End it."""
        running = self._running(task_id)
        running.become(status="cancelled")
        if running.task is not None:
            running.task.cancel()

    async def answer(self, task_id: str, answers: Mapping[str, Any]) -> None:
        """Take the answers to open questions."""
        running = self._running(task_id)
        known = {key: value for key, value in answers.items() if key in running.call.questions}
        running.answers |= known
        running.become(questions={key: each for key, each in running.call.questions.items() if key not in known})
        running.answered.set()

    def _running(self, task_id: str) -> Running:
        if task_id not in self._calls:
            raise TaskException("There is no such task.")
        return self._calls[task_id]

    async def _run(self, running: Running, work: Work) -> None:
        try:
            result = CallToolResult(content=[TextContent(text=await work(running))])
        except TaleBaseException as error:
            result = CallToolResult(content=[TextContent(text=error.message)], is_error=True)
        except MCPError as error:
            running.become(status="failed", error=ErrorData(code=error.code, message=error.message))
            return
        running.become(status="completed", result=result)


class TaskTools:
    """The tools."""

    def __init__(self, calls: LongCallsInMemory) -> None:
        self._calls = calls

    async def greet(self, name: str) -> TextContent:
        """Greet at once."""
        return TextContent(text=f"Hello, {name}!")

    async def slow_compute(self, seconds: float, context: ToolContext, label: str = "") -> TextContent:
        """Take some seconds; where the client takes no tasks, it waits for them."""

        async def work(_: Running) -> str:
            await asyncio.sleep(seconds)
            return f"Computed {label} in {seconds} s."

        if context.takes_tasks:
            context.become_task(self._calls.start(work))
        await asyncio.sleep(seconds)
        return TextContent(text=f"Computed {label} in {seconds} s.")

    async def failing_job(self, context: ToolContext) -> TextContent:
        """Fail as a tool does, a little later."""

        async def work(_: Running) -> str:
            await asyncio.sleep(POLL_INTERVAL_S)
            raise TaskException("This job fails.")

        return self._begin(work, context)

    async def protocol_error_job(self, context: ToolContext) -> TextContent:
        """Fail as a server does."""

        async def work(_: Running) -> str:
            raise MCPError(INTERNAL_ERROR, "This server fails.")

        return self._begin(work, context)

    async def confirm_delete(self, filename: str, context: ToolContext) -> TextContent:
        """Ask before it goes on."""

        async def work(running: Running) -> str:
            await running.ask({"confirm": form(f"Delete {filename}?", fields(confirm={"type": "boolean"}))})
            return f"Deleted {filename}."

        return self._begin(work, context)

    async def multi_input(self, context: ToolContext) -> TextContent:
        """Ask two things at once."""

        async def work(running: Running) -> str:
            return ", ".join(await running.ask({"first": NAME, "second": NAME}))

        return self._begin(work, context)

    async def test_tool_with_task(self, context: ToolContext) -> TextContent:
        """Ask in the call itself, then go on as a task."""
        name = filled(await context.ask(NAME, "user_name")).get("name")

        async def work(_: Running) -> str:
            return f"Hello, {name}!"

        return self._begin(work, context)

    def _begin(self, work: Work, context: ToolContext) -> TextContent:
        context.require_tasks()
        context.become_task(self._calls.start(work))


def add_task_tools(server: BaseMCPServer) -> None:
    """Register them."""
    calls = LongCallsInMemory()
    tools = TaskTools(calls)
    server.add_tasks(calls)
    for tool in (tools.greet, tools.slow_compute, tools.failing_job, tools.protocol_error_job):
        server.add_tool(tool)
    for tool in (tools.confirm_delete, tools.multi_input, tools.test_tool_with_task):
        server.add_tool(tool)
