"""How soon is a task taken up again after kill -9 of the process that ran it: by another host, and by a restart?"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from aiohttp import web
from harness import Row, ServiceUnderTest, free_ports, median, postgres, running_service, show, wait_until_live

ROUNDS = 3
PATIENCE_S = 60.0
WORD = {"choices": [{"delta": {"content": "Hello"}, "finish_reason": None}]}


class EndlessEngine:
    """An OpenAI-compatible engine that writes one word and never ends; `begun` counts its generations."""

    def __init__(self) -> None:
        self.begun = 0
        self.url = ""

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"data: {json.dumps(WORD)}\n\n".encode())
        self.begun += 1
        await asyncio.sleep(3_600)
        return response

    async def until_begun(self, count: int) -> float:
        """When so many generations have begun, on the clock of time.perf_counter."""
        deadline = time.perf_counter() + PATIENCE_S
        while self.begun < count:
            if time.perf_counter() > deadline:
                raise SystemExit(f"The task was not taken up within {PATIENCE_S:g} s.")
            await asyncio.sleep(0.01)
        return time.perf_counter()


@asynccontextmanager
async def endless_engine() -> AsyncIterator[EndlessEngine]:
    engine = EndlessEngine()
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


async def begun_task(gateway: ServiceUnderTest, engine: EndlessEngine) -> None:
    before = engine.begun
    async with gateway.client() as client:
        await client.call_tool("submit_task", {"text": "Write a novel"})
    await engine.until_begun(before + 1)


async def by_another_host(url: str) -> list[float]:
    """Seconds from the death of one execution server to the next attempt on another."""
    taken: list[float] = []
    async with endless_engine() as engine:
        chosen = {"backend": "openai", "openai_url": engine.url, "database_url": url, "max_task_retries": 99}
        with ExitStack() as stack:
            gateway = await asyncio.to_thread(stack.enter_context, running_service(roles="gateway", **chosen))
            runner = await asyncio.to_thread(stack.enter_context, running_service(roles="execution", **chosen))
            await begun_task(gateway, engine)
            for _ in range(ROUNDS):
                heir = await asyncio.to_thread(stack.enter_context, running_service(roles="execution", **chosen))
                count = engine.begun
                runner.process.kill()
                start = time.perf_counter()
                taken.append(await engine.until_begun(count + 1) - start)
                runner = heir
    return taken


async def by_a_restart() -> list[float]:
    """Seconds from the start of a new process to the next attempt, its predecessor killed, on SQLite."""
    taken: list[float] = []
    async with endless_engine() as engine:
        chosen = {"backend": "openai", "openai_url": engine.url, "max_task_retries": 99}
        with ExitStack() as stack:
            service = await asyncio.to_thread(stack.enter_context, running_service(**chosen))
            await begun_task(service, engine)
            process = service.process
            for _ in range(ROUNDS):
                count = engine.begun
                process.kill()
                process.wait()
                start = time.perf_counter()
                process = subprocess.Popen(
                    process.args, env=service.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                stack.callback(process.wait)
                stack.callback(process.kill)
                taken.append(await engine.until_begun(count + 1) - start)
                await asyncio.to_thread(
                    wait_until_live, ServiceUnderTest(service.home, service.environment, process), "gateway"
                )
    return taken


def main() -> int:
    restart = asyncio.run(by_a_restart())
    with postgres() as url:
        takeover = asyncio.run(by_another_host(url))
    return show(
        f"kill -9 of the process that runs a task, until the task runs again ({ROUNDS} times each)",
        [
            Row("by another host (PostgreSQL), longest", max(takeover), "s", 15.0),
            Row("by another host (PostgreSQL), median", median(takeover), "s"),
            Row("by a restart (SQLite), from its start, longest", max(restart), "s", 5.0),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
