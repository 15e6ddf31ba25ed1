"""The protocol's Python SDK at work on a real gateway, in both eras."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes.servers import Process, running, settings_for
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result, TextContent

BOTH = pytest.mark.parametrize("mode", ["legacy", "auto"])
GIVE_UP_S = 0.05


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path)) as process:
        yield process


@pytest.fixture
def held(service: Process) -> asyncio.Event:
    """Models stop after their first word until this is set."""
    gate = service.backend.word_gate = asyncio.Event()
    return gate


def connecting(service: Process, mode: Any) -> Client:
    """A client to enter within the test: it has to be left by the task that entered it."""
    return Client(f"{service.settings.url_of('gateway')}/mcp", mode=mode)


async def submitted(client: Client) -> str:
    answer = await client.call_tool("submit_task", {"text": "greet"})
    assert answer.structured_content["status"] == "queued"
    return answer.structured_content["id"]


@BOTH
async def test_it_lists_the_tools_and_reads_the_result_of_a_task(service: Process, mode: str) -> None:
    async with connecting(service, mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        assert client.instructions and "submit_task" in client.instructions
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"submit_task", "wait_for_task", "cancel_task"} <= set(tools)
        assert tools["wait_for_task"].annotations and tools["wait_for_task"].annotations.read_only_hint
        told: list[str | None] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            told.append(message)

        waited = await client.call_tool(
            "wait_for_task", {"task_id": await submitted(client)}, progress_callback=on_progress
        )
        assert waited.structured_content["result"] == "Hello world"
        assert isinstance(waited.content[0], TextContent) and "Hello world" in waited.content[0].text


@BOTH
async def test_progress_reaches_it_while_it_waits(service: Process, mode: str, held: asyncio.Event) -> None:
    async with connecting(service, mode) as client:
        told: list[str | None] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            told.append(message)
            held.set()

        task_id = await submitted(client)
        await service.backend.started.wait()
        waited = await client.call_tool("wait_for_task", {"task_id": task_id}, progress_callback=on_progress)
        assert waited.structured_content["status"] == "completed"
        assert told and all(told)


@BOTH
async def test_a_wait_that_it_gives_up_or_cancels_can_be_taken_up_again(
    service: Process, mode: str, held: asyncio.Event
) -> None:
    async with connecting(service, mode) as client:
        task_id = await submitted(client)
        await service.backend.started.wait()
        with pytest.raises(MCPError, match=r"(?i)timed? ?out"):
            await client.call_tool("wait_for_task", {"task_id": task_id}, read_timeout_seconds=GIVE_UP_S)
        heard = asyncio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            heard.set()

        waiting = asyncio.create_task(
            client.call_tool("wait_for_task", {"task_id": task_id}, progress_callback=on_progress)
        )
        await heard.wait()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        status = await client.call_tool("get_task_status", {"task_id": task_id})
        assert status.structured_content["status"] == "running"
        held.set()
        assert (await client.call_tool("wait_for_task", {"task_id": task_id})).structured_content[
            "result"
        ] == "Hello world"


@BOTH
async def test_it_cancels_a_task(service: Process, mode: str, held: asyncio.Event) -> None:
    async with connecting(service, mode) as client:
        task_id = await submitted(client)
        await service.backend.started.wait()
        assert (await client.call_tool("cancel_task", {"task_id": task_id})).structured_content["status"] == "cancelled"
        assert service.backend.stopped == 1


@BOTH
async def test_a_refusal_reaches_it_in_words(service: Process, mode: str) -> None:
    async with connecting(service, mode) as client:
        refused = await client.call_tool("submit_task", {"text": " "})
        assert refused.is_error
        assert isinstance(refused.content[0], TextContent) and "task" in refused.content[0].text
        with pytest.raises(MCPError, match="Resource not found"):
            await client.read_resource("tale://nothing")


@BOTH
async def test_it_reads_resources_and_prompts(service: Process, mode: str) -> None:
    async with connecting(service, mode) as client:
        task_id = await submitted(client)
        await client.call_tool("wait_for_task", {"task_id": task_id})
        (content,) = (await client.read_resource(f"tale://tasks/{task_id}")).contents
        assert json.loads(content.text)["result"] == "Hello world"  # type: ignore[union-attr]  # it is text
        filled = await client.get_prompt("delegate_work", {"goal": "Tidy up."})
        assert isinstance(filled.messages[0].content, TextContent) and "Tidy up." in filled.messages[0].content.text


@pytest.mark.parametrize("mode", ["auto"])
async def test_it_listens_for_the_changes_of_a_task(service: Process, mode: str, held: asyncio.Event) -> None:
    async with connecting(service, mode) as client:
        task_id = await submitted(client)
        await service.backend.started.wait()
        async with client.listen(resource_subscriptions=[f"tale://tasks/{task_id}"]) as changes:
            held.set()
            async for change in changes:
                assert change.uri == f"tale://tasks/{task_id}"  # type: ignore[union-attr]  # nothing else was asked for
                break


class Task(Result):
    """A call that became a task of the protocol."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    poll_interval_ms: int


class TaskState(Task):
    """The same, asked after."""

    result_type: Literal["complete"] = "complete"  # type: ignore[assignment]  # that of the asking, not of the task
    result: CallToolResult | None = None


class TaskParams(RequestParams):
    """Which one."""

    task_id: str


class GetTask(Request[TaskParams, Literal["tasks/get"]]):
    """Asks after one."""

    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams
    name_param = "taskId"


class Tasks(ClientExtension):
    """The client's side of the tasks extension, as a host would write it."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self) -> None:
        self.asked = 0

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Task, resolve=self.finish)]

    async def finish(self, task: Task, context: ClaimContext) -> CallToolResult:
        while True:
            request = GetTask(params=TaskParams(task_id=task.task_id))
            state = await context.session.send_request(request, TaskState)
            self.asked += 1
            if state.result is not None:
                return state.result
            await asyncio.sleep(0)


async def test_a_host_with_the_tasks_extension_waits_without_holding_a_call_open(
    service: Process, held: asyncio.Event
) -> None:
    tasks = Tasks()
    async with AsyncExitStack() as stack:
        url = f"{service.settings.url_of('gateway')}/mcp"
        client = await stack.enter_async_context(Client(url, extensions=[tasks]))
        task_id = await submitted(client)
        await service.backend.started.wait()
        waiting = asyncio.create_task(client.call_tool("wait_for_task", {"task_id": task_id}))
        async with asyncio.timeout(30):
            while tasks.asked < 2:
                await asyncio.sleep(0)
        held.set()
        assert (await waiting).structured_content["result"] == "Hello world"
