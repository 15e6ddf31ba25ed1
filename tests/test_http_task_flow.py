"""A task's way over HTTP alone: gateway → execution server → model server, each role on a port of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fakes.scripted_backend import ScriptedBackend
from fakes.servers import PATIENCE_S, Process, rows, running, settings_for, soon, until

from tale.models.remote_pool import RemoteModelPool
from tale.settings import Settings


def apart(tmp_path: Path, **chosen: object) -> Settings:
    """Settings of a home whose roles run in processes of their own, and know each other's ports."""
    return settings_for(tmp_path, api_key="secret", **chosen)


@asynccontextmanager
async def remote_pool(settings: Settings) -> AsyncIterator[RemoteModelPool]:
    assert settings.api_key is not None
    pool = RemoteModelPool(settings.url_of("model"), settings.api_key.get_secret_value())
    yield pool
    await pool.close()


@asynccontextmanager
async def three_processes(settings: Settings, backend: ScriptedBackend) -> AsyncIterator[list[Process]]:
    """Models; gateway and UX agent; execution: three processes' worth of objects that share a database file only."""
    async with (
        running(settings, ("model",), backend=backend) as models,
        remote_pool(settings) as front_pool,
        remote_pool(settings) as execution_pool,
        running(settings, ("execution",), pool=execution_pool) as execution,
        running(settings, ("gateway", "ux_agent"), pool=front_pool) as front,
    ):
        yield [front, execution, models]


async def test_a_task_goes_through_the_three_roles(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as process:
        for role in ("gateway", "execution", "ux_agent"):
            health = await (await process.client(role)).connect()
            assert (health["role"], health["name"]) == (role, f"tale-{role.replace('_', '-')}")
        done = await process.done("Write a haiku")
        assert (done["status"], done["result"]) == ("completed", "Hello world")
        talk = await (await process.client("ux_agent")).call_tool("conversation", {"message": "Hello"})
        assert (talk["reply"], talk["model"]) == ("Hello world", "small")
        roles = {row["role"] for row in rows(process.settings, "SELECT role FROM model_calls")}
        assert roles == {"ux", "task"}


async def test_each_role_may_be_a_process_of_its_own(tmp_path: Path) -> None:
    settings, backend = apart(tmp_path), ScriptedBackend()
    async with three_processes(settings, backend) as (front, _, _):
        done = await front.done("Write a haiku")
        assert (done["status"], done["result"], done["model"]) == ("completed", "Hello world", "large")
        (call,) = rows(settings, "SELECT * FROM model_calls")
        assert (call["task_id"], call["attempt"], call["input_tokens"]) == (done["id"], 1, 10)
        talk = await (await front.client("ux_agent")).call_tool("conversation", {"message": "Hello"})
        assert talk["reply"] == "Hello world"
        health = await (await front.client()).health()
        assert (health["status"], [model["name"] for model in health["models"]]) == ("ok", ["small", "large"])


async def test_a_cancel_reaches_the_engine_through_all_of_them(tmp_path: Path) -> None:
    settings, backend = apart(tmp_path), ScriptedBackend()
    backend.word_gate = asyncio.Event()
    async with three_processes(settings, backend) as (front, _, _):
        client = await front.client()
        task = await client.call_tool("submit_task", {"text": "Write a haiku"})
        await soon(backend.started)
        cancelled = await client.call_tool("cancel_task", {"task_id": task["id"]})
        assert cancelled["status"] == "cancelled"
        await until(lambda: backend.stopped == 1)
        query = "SELECT finish_reason FROM model_calls"
        await until(lambda: rows(settings, query) == [{"finish_reason": "cancelled"}])


async def test_a_gateway_that_goes_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    settings, backend = apart(tmp_path), ScriptedBackend()
    backend.word_gate = gate = asyncio.Event()
    async with (
        running(settings, ("model",), backend=backend),
        remote_pool(settings) as pool,
        running(settings, ("execution",), pool=pool) as execution,
    ):
        async with running(settings, ("gateway",), pool=pool) as gateway:
            client = await gateway.client()
            task = await client.call_tool("submit_task", {"text": "Write a haiku"})
            await soon(backend.started)
        await until(lambda: not execution.busy[0]())
        gate.set()
        async with running(settings, ("gateway",), pool=pool) as gateway:
            wait = {"task_id": task["id"], "timeout_s": PATIENCE_S}
            done = await (await gateway.client()).call_tool("wait_for_task", wait)
        assert (done["status"], done["failures"]) == ("completed", 0)


async def test_while_the_model_server_is_away_a_task_waits_and_can_be_cancelled(tmp_path: Path) -> None:
    settings = apart(tmp_path)
    async with (
        remote_pool(settings) as pool,
        running(settings, ("gateway", "execution"), pool=pool) as process,
    ):
        client = await process.client()
        health = await client.health()
        assert health["status"] == "degraded"
        assert "model server cannot be used" in health["backend"]["reason"]
        said: asyncio.Queue[str | None] = asyncio.Queue()
        task = await client.call_tool("submit_task", {"text": "Write a haiku"})
        wait = {"task_id": task["id"], "timeout_s": PATIENCE_S}

        def heard(_progress: float, _total: float | None, message: str | None) -> None:
            said.put_nowait(message)

        waiting = asyncio.create_task(client.call_tool("wait_for_task", wait, on_progress=heard))
        while "Waiting for the models" not in (await said.get() or ""):
            pass
        await client.call_tool("cancel_task", {"task_id": task["id"]})
        assert ((await waiting)["status"], (await waiting)["failures"]) == ("cancelled", 0)


async def test_ten_tasks_at_once_on_several_slots_all_complete(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, task_slots=4)) as process:
        done = await asyncio.gather(*(process.done(f"Task {number}") for number in range(10)))
        assert {task["status"] for task in done} == {"completed"}
        assert {task["attempt"] for task in done} == {1}
        await until(lambda: not any(busy() for busy in process.busy))
