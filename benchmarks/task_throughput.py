"""How fast are tasks taken in, begun and done, on SQLite and on PostgreSQL with one, two and three workers?

Nothing is learned meanwhile, and nothing expected of the tasks: prediction_latency.py measures what that takes.
A no-op is a task whose model does nothing (docs/adr/0026-no-op-tasks.md): it is checked, stored, queued, claimed, run,
ended and told of as any other. Whole services bring each task over HTTP to the execution server and to an engine
besides; on PostgreSQL the limit is for that.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvloop
from aiohttp import web
from harness import Row, ServiceUnderTest, free_ports, median, postgres, quantile, running_service, show

from tale.mcp.http_client import HTTPMCPClient
from tale.models.backend import ChatStream
from tale.models.pool import PoolStatus
from tale.orchestration.coordinator import HTTPCoordinator
from tale.orchestration.executor import Progress, TaskExecutor
from tale.orchestration.intake import Submission
from tale.orchestration.task_events import TaskEvent
from tale.records import CallContext, ChatRequest, Dispatched, Reply, TaskStatus, Usage
from tale.settings import load_settings
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.task_store import TaskStore

WARM_UP = 20
BATCH = 500  # tasks a call: as many as one takes
SLOTS = 16  # tasks that a worker runs at the same time
PATIENCE_S = 120.0
RUNS = 3  # of the no-ops
MODEL = "instant"
Tell = Callable[[float, float | None, str | None], None]
WORD = {"choices": [{"delta": {"content": "Done"}, "finish_reason": None}]}
END = {
    "choices": [{"delta": {}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1},
}
ANSWER = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (WORD, END)).encode() + b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Limits:
    """What is promised on one database."""

    submit_ms: float
    start_ms: float
    tasks_per_s: float


SQLITE, POSTGRES = Limits(2.5, 5.0, 600.0), Limits(5.0, 10.0, 150.0)


@dataclass(frozen=True)
class Starts:
    """Of each task, the milliseconds until its handler began to work, by the row of its model call: its attempt was
    claimed by then; and those until its prompt was with the engine.
    """

    begun: Sequence[float]
    asked: Sequence[float]


class InstantEngine:
    """An OpenAI-compatible engine that answers at once; `begun` tells when it was asked last."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.url = ""

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    async def chat(self, request: web.Request) -> web.Response:
        self.begun = time.perf_counter()
        return web.Response(body=ANSWER, content_type="text/event-stream")


@asynccontextmanager
async def instant_engine() -> AsyncIterator[InstantEngine]:
    engine = InstantEngine()
    application = web.Application()
    application.router.add_get("/v1/models", engine.models)
    application.router.add_post("/v1/chat/completions", engine.chat)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    engine.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield engine
    finally:
        await runner.cleanup()


async def submit_ms(client: HTTPMCPClient, count: int) -> list[float]:
    """Milliseconds of each acknowledgement, one call at a time."""
    taken: list[float] = []
    for number in range(WARM_UP + count):
        start = time.perf_counter()
        await client.call_tool("submit_task", {"text": f"Write a haiku about the number {number}"})
        taken.append((time.perf_counter() - start) * 1000)
    return taken[WARM_UP:]


async def start_ms(client: HTTPMCPClient, engine: InstantEngine, url: str, count: int) -> Starts:
    """Milliseconds from handing in a task to its start, one task at a time."""
    handed_in: dict[str, float] = {}
    asked: list[float] = []
    for number in range(WARM_UP + count):
        at, start = time.time(), time.perf_counter()
        task = await client.call_tool("submit_task", {"text": f"Write a haiku about the number {number}"})
        done = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60})
        if done["status"] != "completed":
            raise SystemExit(f"A task stands as {done['status']}: {done['error']}")
        handed_in[task["id"]] = at
        asked.append((engine.begun - start) * 1000)
    database = await asyncio.to_thread(Database.open, url)
    calls = await CallStore(database).calls(limit=count)
    await database.close()
    begun = [(call.started_at - handed_in[str(call.task_id)]) * 1000 for call in calls]
    return Starts(begun, asked[WARM_UP:])


async def tasks_per_s(client: HTTPMCPClient, count: int) -> float:
    """Tasks a second from the first submission to the last completion."""
    await finished(client)
    before = await completed(client)
    start = time.perf_counter()
    for first in range(0, count, BATCH):
        tasks = [{"text": f"Task {number}"} for number in range(first, min(first + BATCH, count))]
        await client.call_tool("submit_tasks", {"tasks": tasks})
    await finished(client)
    taken = time.perf_counter() - start
    if (done := await completed(client) - before) != count:
        raise SystemExit(f"{done} of {count} tasks were completed.")
    return count / taken


async def finished(client: HTTPMCPClient) -> None:
    deadline = time.perf_counter() + PATIENCE_S
    while True:
        queue = (await client.call_tool("get_server_info"))["queue"]
        if not queue["queued"] + queue["running"]:
            return
        if time.perf_counter() > deadline:
            raise SystemExit(f"After {PATIENCE_S:g} s there are still tasks: {queue}")
        await asyncio.sleep(0.02)


async def completed(client: HTTPMCPClient) -> int:
    return (await client.call_tool("get_server_info"))["queue"]["completed"]


class Bench:
    """Services with one engine behind them."""

    def __init__(self, engine: InstantEngine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack

    async def service(self, roles: str, **settings: object) -> ServiceUnderTest:
        chosen = {"backend": "openai", "openai_url": self._engine.url, "ux_model": MODEL, "task_model": MODEL}
        chosen |= {"task_slots": SLOTS, "acknowledge": False, "learning": "off", **settings}
        return await asyncio.to_thread(self._stack.enter_context, running_service(roles=roles, **chosen))


class NoModel:
    """Stands where the pool of models stands, and answers without one."""

    async def chat(self, request: ChatRequest, context: CallContext) -> ChatStream:
        yield Dispatched("none", context.role, None)
        yield Reply("Done", "none", "stop", usage=Usage(input_tokens=9, output_tokens=1))

    async def status(self) -> PoolStatus:
        return PoolStatus("none", "It is a benchmark.", None, ())

    async def count_tokens(self, request: ChatRequest, context: CallContext) -> int | None:
        return None


class Beside:
    """Stands where the client of the execution server stands, and has its executor run the task at once."""

    def __init__(self, executor: TaskExecutor) -> None:
        self._executor = executor

    async def call_tool(self, name: str, arguments: dict[str, Any], *, on_progress: Tell) -> dict[str, Any]:
        def listen(progress: Progress) -> None:
            on_progress(float(progress.output_tokens or 0), None, progress.message)

        task = await self._executor.execute(arguments["task_id"], attempt=arguments["attempt"], listener=listen)
        return {"status": task.status.value}


async def no_ops_per_s(count: int) -> float:
    """Tasks a second through coordinator, engine, database and executor, with no HTTP and no model."""
    ended = asyncio.Semaphore(0)

    def watch(event: TaskEvent) -> None:
        if event.status.is_final:
            ended.release()

    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        settings = load_settings({"home": folder, "task_slots": SLOTS, "acknowledge": False}, environment={})
        database, pool = Database.open(f"sqlite:///{Path(folder) / 'tale.db'}"), cast("Any", NoModel())
        store = TaskStore(database)
        executor = TaskExecutor(store, pool, max_output_tokens=64, max_failures=3, clock=time.time)
        execution = cast("Any", Beside(executor))
        coordinator = HTTPCoordinator(settings, store, execution=execution, pool=pool, clock=time.time)
        coordinator.events.watch(watch)
        await coordinator.start()
        start = time.perf_counter()
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            await coordinator.submit_all([Submission(f"Task {number}") for number in numbers])
        for _ in range(count):
            await ended.acquire()
        taken = time.perf_counter() - start
        completed = (await store.counts())[TaskStatus.COMPLETED]
        await coordinator.stop(0.0)
        await database.close()
    if completed != count:
        raise SystemExit(f"{completed} of {count} no-ops were completed.")
    return count / taken


async def measure_sqlite(calls: int, tasks: int) -> list[Row]:
    async with instant_engine() as engine:
        with ExitStack() as stack:
            bench = Bench(engine, stack)
            gateway = await bench.service("gateway", task_slots=1)
            async with gateway.client() as client:
                await client.call_tool("pause_queue")  # nothing but the acknowledgement is to run
                acknowledged = await submit_ms(client, calls)
        with ExitStack() as stack:
            service = await Bench(engine, stack).service("gateway,execution")
            async with service.client() as client:
                starts = await start_ms(client, engine, f"sqlite:///{service.home / 'tale.db'}", calls)
                rate = await tasks_per_s(client, tasks)
    return [
        *latencies("SQLite", SQLITE, acknowledged, starts),
        rate_row("SQLite, whole service: HTTP and a model call", rate),
    ]


async def measure_postgres(url: str, calls: int, tasks: int, workers: int) -> list[Row]:
    async with instant_engine() as engine:
        with ExitStack() as stack:
            bench = Bench(engine, stack)
            gateway = await bench.service("gateway", database_url=url)
            async with gateway.client() as client:
                acknowledged = await submit_ms(client, calls)
                await bench.service("execution", database_url=url)
                await finished(client)
                starts = await start_ms(client, engine, url, calls)
                found = [await tasks_per_s(client, tasks)]
                for _ in range(1, workers):
                    await bench.service("execution", database_url=url)
                    found.append(await tasks_per_s(client, tasks))
    rows = latencies("PostgreSQL", POSTGRES, acknowledged, starts)
    for number, rate in enumerate(found, start=1):
        what = f"PostgreSQL, whole service: with {number} worker{'s' if number > 1 else ''}"
        rows.append(rate_row(what, rate, POSTGRES.tasks_per_s if number == 1 else None))
    return rows


def latencies(name: str, limits: Limits, acknowledged: Sequence[float], starts: Starts) -> list[Row]:
    return [
        Row(f"{name}: submit, durable on return, median", median(acknowledged), "ms", limits.submit_ms),
        Row(f"{name}: submit, p99", quantile(acknowledged, 0.99), "ms"),
        Row(f"{name}: submit until its handler works, median", median(starts.begun), "ms", limits.start_ms),
        Row(f"{name}: submit until its handler works, p99", quantile(starts.begun, 0.99), "ms"),
        Row(f"{name}: submit until the engine is asked, median", median(starts.asked), "ms"),
    ]


def rate_row(what: str, rate: float, limit: float | None = None) -> Row:
    """As time a task, so that less is better here, too."""
    return Row(f"{what} ({rate:,.0f} tasks/s)", 1000 / rate, "ms", round(1000 / limit, 2) if limit else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of the tasks")
    parser.add_argument("--engine", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--workers", type=int, default=3, help="on PostgreSQL, up to so many")
    given = parser.parse_args()
    calls, tasks = (50, 500) if given.short else (300, 3_000)
    rows: list[Row] = []
    if given.engine != "postgres":
        rows += asyncio.run(measure_sqlite(calls, tasks))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the servers have it
            no_ops = [runner.run(no_ops_per_s(tasks)) for _ in range(RUNS)]
        rows.append(rate_row(f"SQLite: a no-op end to end, median of {RUNS}", median(no_ops), SQLITE.tasks_per_s))
    if given.engine != "sqlite":
        with postgres() as url:
            rows += asyncio.run(measure_postgres(url, calls, tasks, given.workers))
    return show(f"tasks that an engine answers at once ({tasks:,} tasks, {SLOTS} at a time)", rows)


if __name__ == "__main__":
    sys.exit(main())
