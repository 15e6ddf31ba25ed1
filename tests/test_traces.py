"""One trace id goes from the first request through every server to each model call."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, rows, running, settings_for, until

from tale.models.remote_pool import RemoteModelPool
from tale.settings import Settings

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
