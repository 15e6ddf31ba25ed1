"""What tasks ask for holds on several hosts, too: one gateway, and an execution server elsewhere, on one PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fakes.engine_script import EngineScript
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.servers import PATIENCE_S, settings_for, until

from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.task_events import PAUSED, QUEUED
from tale.servers.service import Service

pytestmark = pytest.mark.postgres


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    async with served(OpenAIServer(EngineScript(models=["m"]))) as engine:
        yield engine


@pytest.fixture
async def client(tmp_path: Path, postgres_url: str, engine: OpenAIServer) -> AsyncIterator[HTTPMCPClient]:
    """A client of the gateway."""
    async with AsyncExitStack() as stack:
        for role in ("gateway", "execution"):
            settings = settings_for(
                tmp_path / role,
                backend="openai",
                openai_url=engine.base_url,
                database_url=postgres_url,
                max_task_retries=1,
            )
            service = Service(settings, (role,), background=False)
            stack.push_async_callback(service.stop)
            await service.start()
            if role == "gateway":
                url = settings.url_of(role)
        yield await stack.enter_async_context(HTTPMCPClient(url))


async def ended(client: HTTPMCPClient, task_id: str) -> tuple[str, str | None]:
    done = await client.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S})
    return done["status"], done["error_class"]


async def test_a_pause_a_chain_a_check_and_a_deadline(client: HTTPMCPClient, engine: OpenAIServer) -> None:
    await client.call_tool("pause_queue")
    first = (await client.call_tool("submit_task", {"text": "first"}))["id"]
    tasks = [
        {"text": "second", "after": [first], "with_results": True, "expect": {"regex": "^Hello"}},
        {"text": "unfit", "after": [first], "expect": {"regex": "^Bye"}},
        {"text": "late", "deadline_s": 1},
    ]
    receipts = (await client.call_tool("submit_tasks", {"tasks": tasks}))["tasks"]
    second, unfit, late = (receipt["id"] for receipt in receipts)
    last = (await client.call_tool("submit_task", {"text": "last", "after": [unfit]}))["id"]
    assert await ended(client, late) == ("failed", "DeadlinePassed")
    assert engine.script.requests == []
    await client.call_tool("resume_queue")
    async with asyncio.timeout(PATIENCE_S):
        assert await ended(client, first) == ("completed", None)
        assert await ended(client, second) == ("completed", None)
        assert await ended(client, unfit) == ("failed", "CheckFailed")
        assert await ended(client, last) == ("failed", "DependencyFailed")
    prompts = [request["messages"][-1]["content"] for request in engine.script.requests]
    assert "<result>\n<task>first</task>\nHello world!\n</result>\n\nsecond" in prompts


async def test_a_pause_holds_in_the_process_in_which_it_was_said(
    tmp_path: Path, postgres_url: str, engine: OpenAIServer
) -> None:
    settings = settings_for(tmp_path, backend="openai", openai_url=engine.base_url, database_url=postgres_url)
    service = Service(settings, ("gateway", "execution"), background=False)
    try:
        await service.start()
        async with HTTPMCPClient(settings.url_of("gateway")) as client:
            await client.call_tool("pause_queue")
            task_id = (await client.call_tool("submit_task", {"text": "first"}))["id"]
            waited = await client.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": 1})
            assert (waited["status"], engine.script.requests) == ("queued", [])
            await client.call_tool("resume_queue")
            assert await ended(client, task_id) == ("completed", None)
    finally:
        await service.stop()


async def test_those_who_wait_at_another_gateway_hear_that_the_queue_goes_on(
    tmp_path: Path, postgres_url: str, engine: OpenAIServer
) -> None:
    heard: list[str | None] = []
    async with AsyncExitStack() as stack:
        clients: list[HTTPMCPClient] = []
        for name in ("here", "there"):
            given = {"backend": "openai", "openai_url": engine.base_url, "database_url": postgres_url}
            settings = settings_for(tmp_path / name, **given)
            service = Service(settings, ("gateway",), background=False)
            stack.push_async_callback(service.stop)
            await service.start()
            clients.append(await stack.enter_async_context(HTTPMCPClient(settings.url_of("gateway"))))
        here, there = clients
        await here.call_tool("pause_queue")
        wait = {"task_id": (await here.call_tool("submit_task", {"text": "x"}))["id"], "timeout_s": PATIENCE_S}
        listen = there.call_tool("wait_for_task", wait, on_progress=lambda _, __, message: heard.append(message))
        waiting = asyncio.create_task(listen)
        await until(lambda: heard[-1:] == [PAUSED])
        await here.call_tool("resume_queue")
        await until(lambda: heard[-1:] == [QUEUED])
        waiting.cancel()
        await asyncio.wait([waiting])
