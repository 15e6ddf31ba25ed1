"""One trace id goes from the first request through every server to each model call."""

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, rows, running, settings_for, soon, until

from tale.exceptions import ModelException
from tale.mcp.http_client import HTTPMCPClient
from tale.models.remote_pool import RemoteModelPool
from tale.settings import Settings
from tale.storage.upgrade import upgrade
from tale.traces import new_trace_id, trace_id_of, traceparent_of, within_trace

ORDER = {"tasks": "created_at", "model_calls": "started_at, id", "mcp_calls": "started_at, id"}

KEY, TRACE = "secret", "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {
    "Authorization": f"Bearer {KEY}",
    "Accept": "application/json, text/event-stream",
    "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
}


async def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=HEADERS) as response:
        return await response.json()


async def call_tool(settings: Settings, name: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return (await ask(f"{settings.url_of('gateway')}/mcp", body))["result"]["structuredContent"]


async def test_a_task_carries_the_trace_of_who_handed_it_in_through_all_processes(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, api_key=KEY)
    backend = ScriptedBackend()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(settings, ("model",), backend=backend))
        for roles in (("execution",), ("gateway",)):
            pool = RemoteModelPool(settings.url_of("model"), KEY)
            stack.push_async_callback(pool.close)
            process: Process = await stack.enter_async_context(running(settings, roles, pool=pool))
        task = await call_tool(settings, "submit_task", text="Write a haiku")
        client = await process.client()
        await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60})
        executed = "SELECT trace_id FROM mcp_calls WHERE tool = 'execute_task'"
        await until(lambda: rows(settings, executed))
        found = {
            "task": rows(settings, "SELECT trace_id FROM tasks"),
            "submit": rows(settings, "SELECT trace_id FROM mcp_calls WHERE tool = 'submit_task'"),
            "execute": rows(settings, executed),
            "model": rows(settings, "SELECT trace_id FROM model_calls"),
        }
    assert found == {name: [{"trace_id": TRACE}] for name in found}
    assert [request.trace_id for request in backend.requests] == [TRACE]


async def test_what_a_request_has_other_servers_do_belongs_to_its_trace(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, api_key=KEY)
    backend = ScriptedBackend()
    backend.word_gate = asyncio.Event()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(settings, ("model",), backend=backend))
        for roles in (("execution",), ("gateway",)):
            pool = RemoteModelPool(settings.url_of("model"), KEY)
            stack.push_async_callback(pool.close)
            await stack.enter_async_context(running(settings, roles, pool=pool))
        task = await call_tool(settings, "submit_task", text="Write a haiku")
        await soon(backend.started)
        await call_tool(settings, "cancel_task", task_id=task["id"])
        told = "SELECT tool, trace_id FROM mcp_calls WHERE server = 'tale-execution' ORDER BY tool"
        await until(lambda: len(rows(settings, told)) == 2)
        assert rows(settings, told) == [{"tool": tool, "trace_id": TRACE} for tool in ("execute_task", "stop_task")]


async def test_the_attempts_at_a_task_belong_to_its_trace_though_they_fail(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, api_key=KEY, max_task_retries=2)
    backend = ScriptedBackend()
    backend.chat_failures = [ModelException("Not today."), ModelException("Nor tomorrow.")]
    async with running(settings, backend=backend) as process:
        task = await call_tool(settings, "submit_task", text="Write a haiku")
        client = await process.client()
        await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60})
        told = "SELECT trace_id FROM mcp_calls WHERE tool = 'execute_task'"
        await until(lambda: len(rows(settings, told)) == 2)
        assert rows(settings, told) == rows(settings, "SELECT trace_id FROM model_calls") == [{"trace_id": TRACE}] * 2


async def test_a_client_within_a_trace_says_so_in_both_eras(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings, ("gateway",)):
        for modern in (True, False):
            async with HTTPMCPClient(settings.url_of("gateway"), modern=modern) as client:
                with within_trace(TRACE):
                    await client.list_tools()
                await client.call_tool("list_tasks", {})
        found = rows(settings, "SELECT trace_id FROM mcp_calls WHERE method = 'tools/list'")
        assert found == [{"trace_id": TRACE}] * 2
        others = rows(settings, "SELECT DISTINCT trace_id FROM mcp_calls WHERE tool = 'list_tasks'")
        assert len(others) == 2 and {"trace_id": TRACE} not in others


def test_new_traces_sort_by_the_time_at_which_they_began() -> None:
    now_ms = time.time_ns() // 1_000_000
    ids = [new_trace_id() for _ in range(200)]
    begun = [int(trace_id[:12], 16) for trace_id in ids]
    assert begun == sorted(begun) and now_ms <= begun[0] <= begun[-1] <= time.time_ns() // 1_000_000
    assert len({trace_id[12:] for trace_id in ids}) == len(ids)
    assert all(trace_id_of(traceparent_of(trace_id)) == trace_id for trace_id in ids)


@pytest.mark.parametrize("table", ["tasks", "model_calls", "mcp_calls"])
def test_a_trace_is_found_by_an_index(tmp_path: Path, table: str) -> None:
    upgrade(f"sqlite:///{tmp_path}/tale.db")
    query = f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE trace_id = 'a' ORDER BY {ORDER[table]} LIMIT 1000"
    with closing(sqlite3.connect(tmp_path / "tale.db")) as connection:
        plan = " ".join(str(step) for step in connection.execute(query))
    assert f"USING INDEX ix_{table}_trace_id" in plan
