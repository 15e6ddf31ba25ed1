"""GET /tasks/{id}/events: states and text as they come, from where a listener left off, until the task has ended."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.engine_script import EngineScript
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.servers import rows, settings_for, until

from tale.exceptions import DatabaseException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.task_events import TaskEvents
from tale.orchestration.task_feed import TaskFeed
from tale.orchestration.task_texts import TaskTexts
from tale.records import McpCall, Task, TaskStatus
from tale.servers.service import Service
from tale.servers.task_stream import task_routes
from tale.settings import Settings

ROLES = ("gateway", "execution")


@dataclass(frozen=True)
class Told:
    """One event as it came over the line."""

    id: str
    kind: str
    data: dict[str, Any]


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    """An engine that writes one word and then waits for the script's gate."""
    async with served(OpenAIServer(EngineScript(models=["m"], gate=asyncio.Event()))) as engine:
        yield engine


@pytest.fixture
async def settings(tmp_path: Path, engine: OpenAIServer) -> AsyncIterator[Settings]:
    settings = settings_for(tmp_path, backend="openai", openai_url=engine.base_url)
    service = Service(settings, ROLES, background=False)
    try:
        await service.start()
        yield settings
    finally:
        await service.stop()


async def submitted(settings: Settings) -> str:
    async with HTTPMCPClient(settings.url_of("gateway")) as client:
        return (await client.call_tool("submit_task", {"text": "Write a haiku"}))["id"]


@asynccontextmanager
async def stream(settings: Settings, task_id: str, last_id: str | None = None) -> AsyncIterator[AsyncIterator[Told]]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    url = f"{settings.url_of('gateway')}/tasks/{task_id}/events"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield events_of(response)


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[Told]:
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield Told(fields["id"], fields["event"], json.loads(fields["data"]))
        fields = {}


def assembled(events: list[Told]) -> str:
    """The text of the last attempt, put together as a client does."""
    text = ""
    for event in events:
        if event.kind == "text":
            text = text[: event.data["offset"]] + event.data["text"]
    return text


def open_gate(engine: OpenAIServer) -> None:
    assert engine.script.gate is not None
    engine.script.gate.set()


async def test_states_and_text_come_as_they_happen_and_the_stream_ends_with_the_task(
    settings: Settings, engine: OpenAIServer
) -> None:
    task_id = await submitted(settings)
    told: list[Told] = []
    async with stream(settings, task_id) as events:
        async for event in events:
            told.append(event)
            if event.kind == "text" and event.data["offset"] == 0:
                assert event.data == {"task_id": task_id, "attempt": 1, "offset": 0, "text": "Hello"}
                open_gate(engine)
    assert assembled(told) == "Hello world!"
    states = [event.data["status"] for event in told if event.kind == "state"]
    assert states[-2:] == ["running", "completed"]
    assert told[-1].data["result"] == "Hello world!"


async def test_a_listener_that_lost_its_connection_misses_nothing_and_hears_nothing_twice(
    settings: Settings, engine: OpenAIServer
) -> None:
    task_id = await submitted(settings)
    before: list[Told] = []
    async with stream(settings, task_id) as events:
        async for event in events:
            before.append(event)
            if event.kind == "text":
                break
    open_gate(engine)
    after: list[Told] = []
    async with stream(settings, task_id, before[-1].id) as events:
        after.extend([event async for event in events])
    assert assembled(before) == "Hello"
    assert assembled([*before, *after]) == "Hello world!"
    assert next(event.data["offset"] for event in after if event.kind == "text") == len("Hello")
    states = [event.data["status"] for event in (*before, *after) if event.kind == "state"]
    assert len(states) == len(set(states))
    assert states[-1] == "completed"


async def test_several_listeners_hear_the_same(settings: Settings, engine: OpenAIServer) -> None:
    task_id = await submitted(settings)
    both_here = asyncio.Barrier(3)

    async def listener() -> str:
        told: list[Told] = []
        async with stream(settings, task_id) as events:
            async for event in events:
                if not any(earlier.kind == "text" for earlier in told) and event.kind == "text":
                    told.append(event)
                    await both_here.wait()
                else:
                    told.append(event)
        return assembled(told)

    listeners = [asyncio.create_task(listener()) for _ in range(2)]
    await both_here.wait()
    open_gate(engine)
    assert await asyncio.gather(*listeners) == ["Hello world!"] * 2


async def test_of_a_task_that_has_ended_all_that_is_known_is_told(settings: Settings, engine: OpenAIServer) -> None:
    open_gate(engine)
    task_id = await submitted(settings)
    async with stream(settings, task_id) as events:
        first = [event async for event in events]
    async with stream(settings, task_id) as events:
        again = [event async for event in events]
    assert [(event.kind, event.data.get("text")) for event in again] == [("text", "Hello world!"), ("state", None)]
    assert again[-1] == first[-1]
    async with stream(settings, task_id, again[-1].id) as events:
        assert [event async for event in events] == []
    async with stream(settings, task_id, "no id of ours") as events:
        assert [event async for event in events] == again


async def test_a_cancelled_task_ends_its_stream_with_what_was_written(settings: Settings, engine: OpenAIServer) -> None:
    task_id = await submitted(settings)
    told: list[Told] = []
    async with stream(settings, task_id) as events:
        async for event in events:
            told.append(event)
            if event.kind == "text":
                async with HTTPMCPClient(settings.url_of("gateway")) as client:
                    await client.call_tool("cancel_task", {"task_id": task_id})
    assert told[-1].data["status"] == "cancelled"
    assert told[-1].data["result"] == assembled(told) == "Hello"


@pytest.mark.parametrize(("task_id", "status"), [("563d2e83-e819-4ef1-b30f-c024a0d43054", 404), ("nonsense", 400)])
async def test_an_id_that_there_is_not_is_told_in_a_sentence(settings: Settings, task_id: str, status: int) -> None:
    url = f"{settings.url_of('gateway')}/tasks/{task_id}/events"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == status
        assert (await response.json())["error"].endswith(".")


async def test_each_request_is_kept_as_a_row_before_its_last_byte(settings: Settings, engine: OpenAIServer) -> None:
    kept = "SELECT * FROM mcp_calls WHERE method LIKE 'GET %' ORDER BY started_at"
    task_id, unknown = await submitted(settings), str(uuid.uuid4())
    async with stream(settings, task_id) as events:
        async for event in events:
            if event.kind == "text":
                break
    await until(lambda: rows(settings, kept))  # who leaves does not wait for it
    open_gate(engine)
    async with stream(settings, task_id) as events:
        assert [event async for event in events]
    url = f"{settings.url_of('gateway')}/tasks/{unknown}/events"
    async with aiohttp.ClientSession() as session, session.get(url):
        found = rows(settings, kept)
    assert {(row["server"], row["method"]) for row in found} == {("tale-gateway", "GET /tasks/{task_id}/events")}
    assert [(row["outcome"], row["error_class"], row["task_id"]) for row in found] == [
        ("cancelled", "Cancelled", task_id),
        ("ok", None, task_id),
        ("error", "TaskException", unknown),
    ]


async def test_who_may_not_read_hears_nothing(tmp_path: Path, engine: OpenAIServer) -> None:
    chosen = {"backend": "openai", "openai_url": engine.base_url, "api_key": "a-key-of-some-length"}
    settings = settings_for(tmp_path, **chosen)
    service = Service(settings, ROLES, background=False)
    try:
        await service.start()
        url = f"{settings.url_of('gateway')}/tasks/{uuid.uuid4()}/events"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 401
    finally:
        await service.stop()


async def test_while_the_database_is_away_the_stream_ends_so_that_it_is_asked_for_again() -> None:
    faults = [DatabaseException("There is no connection to the database server.")]
    kept: list[tuple[str, str | None]] = []

    async def read(task_id: str) -> Task:
        if faults:
            raise faults.pop()
        return Task(task_id, "x", TaskStatus.COMPLETED, 1.0, attempt=1, result="Hello")

    async def record(call: McpCall) -> None:
        kept.append((call.outcome, call.error_class))

    application = web.Application()
    application.add_routes(task_routes(TaskFeed(TaskEvents(), TaskTexts(), read), server="a gateway", record=record))
    async with TestServer(application) as server, aiohttp.ClientSession() as session:
        url = server.make_url(f"/tasks/{uuid.uuid4()}/events")
        async with session.get(url) as response:  # an EventSource comes again after that alone
            assert (response.status, response.content_type) == (200, "text/event-stream")
            assert (await response.text()).startswith("retry: 1000\n\n: the database does not answer")
        async with session.get(url) as response:
            assert [event.kind async for event in events_of(response)] == ["text", "state"]
    assert kept == [("error", "DatabaseException"), ("ok", None)]
