"""How soon is a task taken up again after kill -9 of what ran it: under a watcher, by another host, by a restart?"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web
from harness import (
    Row,
    ServiceUnderTest,
    environment_for,
    free_ports,
    median,
    postgres,
    running_service,
    show,
    wait_until_live,
)

from tale.cli.plans import Step, requests_of
from tale.mcp.http_client import HTTPMCPClient
from tale.monitoring.targets import limit_of
from tale.orchestration.server_manager import ServerManager
from tale.orchestration.service_processes import living
from tale.settings import Settings, load_settings

ROUNDS = 3
PATIENCE_S = 60.0
AFTER_DEATH_S = 0.2  # in which the engine notes what the dead process had asked for
QUIET = {"acknowledge": False, "prewarm": False}  # each generation is a task's
WORD = {"choices": [{"delta": {"content": "Hello"}, "finish_reason": None}]}
END = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}


class HeldEngine:
    """An OpenAI-compatible engine that writes one word and ends when `may_end` is set; `begun` counts generations."""

    def __init__(self) -> None:
        self.begun = 0
        self.url = ""
        self.may_end = asyncio.Event()

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"data: {json.dumps(WORD)}\n\n".encode())
        self.begun += 1
        await self.may_end.wait()
        await response.write(f"data: {json.dumps(END)}\n\ndata: [DONE]\n\n".encode())
        return response

    def let_end(self) -> None:
        """End the generations that have begun, and hold those to come."""
        self.may_end.set()
        self.may_end = asyncio.Event()

    async def until_begun(self, count: int) -> float:
        """When so many generations have begun, on the clock of time.perf_counter."""
        deadline = time.perf_counter() + PATIENCE_S
        while self.begun < count:
            if time.perf_counter() > deadline:
                raise SystemExit(f"The task was not taken up within {PATIENCE_S:g} s.")
            await asyncio.sleep(0.01)
        return time.perf_counter()


@asynccontextmanager
async def held_engine() -> AsyncIterator[HeldEngine]:
    engine = HeldEngine()
    application = web.Application()
    application.router.add_get("/v1/models", engine.models)
    application.router.add_post("/v1/chat/completions", engine.chat)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    engine.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield engine
    finally:
        await runner.cleanup()


@asynccontextmanager
async def watched_service(engine: HeldEngine) -> AsyncIterator[Settings]:
    """The servers as a command starts them, in the background and under their watcher."""
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        home = Path(folder)
        chosen = {"backend": "openai", "openai_url": engine.url, "max_task_retries": 99, **QUIET}
        settings = load_settings(environment=environment_for(home, **chosen), folder=home)
        manager = ServerManager(settings)
        try:
            await manager.start()
            yield settings
        finally:
            await manager.stop()


async def begun_task(client: HTTPMCPClient, engine: HeldEngine) -> None:
    before = engine.begun
    await client.call_tool("submit_task", {"text": "Write a novel"})
    await engine.until_begun(before + 1)


async def killed(settings: Settings) -> float:
    """kill -9 of the service; returns when, and itself when nothing that it asked for is on its way any more."""
    (state,) = living(settings.run_folder)
    os.kill(state.pid, signal.SIGKILL)
    start = time.perf_counter()
    await asyncio.sleep(AFTER_DEATH_S)
    return start


async def under_a_watcher(rounds: int) -> list[float]:
    """Seconds from the death of the service to the next attempt, by the process that its watcher has started."""
    taken: list[float] = []
    async with held_engine() as engine, watched_service(engine) as settings:
        async with HTTPMCPClient(settings.url_of("gateway")) as client:
            await begun_task(client, engine)
        for _ in range(rounds):
            start = await killed(settings)
            taken.append(await engine.until_begun(engine.begun + 1) - start)
    return taken


async def between_two_steps(rounds: int) -> list[float]:
    """The same of a plan whose first step has ended, to the beginning of the second.

    A task that is more urgent is under way in between; it is done first after the death, too.
    """
    taken: list[float] = []
    async with held_engine() as engine, watched_service(engine) as settings:
        for number in range(rounds):
            async with HTTPMCPClient(settings.url_of("gateway")) as client:
                requests = requests_of("Compare them", [Step("Gather"), Step("Sort", (1,))], {}, key=str(number))
                before = engine.begun
                stored = (await client.call_tool("submit_tasks", {"tasks": requests}))["tasks"]
                await engine.until_begun(before + 1)
                await client.call_tool("submit_task", {"text": "Write a novel", "priority": 1})
                engine.let_end()
                await engine.until_begun(before + 2)
                if (await client.call_tool("get_task_status", {"task_id": stored[0]["id"]}))["status"] != "completed":
                    raise SystemExit("The first step of the plan has not ended.")
            start, before = await killed(settings), engine.begun
            await engine.until_begun(before + 1)
            engine.let_end()  # of the urgent task
            taken.append(await engine.until_begun(before + 2) - start)
            engine.let_end()  # of the second step
            await engine.until_begun(before + 3)
            engine.let_end()
    return taken


async def by_another_host(url: str, rounds: int) -> list[float]:
    """Seconds from the death of one execution server to the next attempt on another."""
    taken: list[float] = []
    async with held_engine() as engine:
        chosen = {"backend": "openai", "openai_url": engine.url, "database_url": url, "max_task_retries": 99}
        with ExitStack() as stack:
            gateway = await asyncio.to_thread(stack.enter_context, running_service(roles="gateway", **chosen))
            runner = await asyncio.to_thread(stack.enter_context, running_service(roles="execution", **chosen))
            async with gateway.client() as client:
                await begun_task(client, engine)
            for _ in range(rounds):
                heir = await asyncio.to_thread(stack.enter_context, running_service(roles="execution", **chosen))
                count = engine.begun
                runner.process.kill()
                start = time.perf_counter()
                taken.append(await engine.until_begun(count + 1) - start)
                runner = heir
    return taken


async def by_a_restart(rounds: int) -> list[float]:
    """Seconds from the start of a new process to the next attempt, its predecessor killed, on SQLite."""
    taken: list[float] = []
    async with held_engine() as engine:
        chosen = {"backend": "openai", "openai_url": engine.url, "max_task_retries": 99}
        with ExitStack() as stack:
            service = await asyncio.to_thread(stack.enter_context, running_service(**chosen))
            async with service.client() as client:
                await begun_task(client, engine)
            process = service.process
            for _ in range(rounds):
                count = engine.begun
                process.kill()
                process.wait()
                start = time.perf_counter()
                process = subprocess.Popen(
                    process.args, env=service.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                stack.callback(process.wait)
                stack.callback(process.terminate)
                taken.append(await engine.until_begun(count + 1) - start)
                await asyncio.to_thread(
                    wait_until_live, ServiceUnderTest(service.home, service.environment, process), "gateway"
                )
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one death each, and none on PostgreSQL")
    given = parser.parse_args()
    rounds = 1 if given.short else ROUNDS
    watched = asyncio.run(under_a_watcher(rounds))
    plan = asyncio.run(between_two_steps(rounds))
    restart = asyncio.run(by_a_restart(rounds))
    rows = [
        Row("under a watcher (SQLite), longest", max(watched), "s", limit_of("recovery")),
        Row("under a watcher, a plan between two steps, longest", max(plan), "s", limit_of("recovery")),
        Row("by a restart (SQLite), from its start, longest", max(restart), "s", 5.0),
    ]
    if not given.short:
        with postgres() as url:
            takeover = asyncio.run(by_another_host(url, rounds))
        rows += [
            Row("by another host (PostgreSQL), longest", max(takeover), "s", 15.0),
            Row("by another host (PostgreSQL), median", median(takeover), "s"),
        ]
    return show(f"kill -9 of the process that runs a task, until the task runs again ({rounds} times each)", rows)


if __name__ == "__main__":
    sys.exit(main())
