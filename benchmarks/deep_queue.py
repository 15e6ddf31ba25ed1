"""Do 100,000 queued tasks slow handing in and listing, and what does a service cost that has nothing to do?"""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import Row, environment_for, median, postgres, running_service, show
from sqlalchemy import Engine, create_engine, event, text

from tale.mcp.http_client import HTTPMCPClient
from tale.servers.service import Service
from tale.settings import Settings
from tale.storage.engines import parse_url

DEPTH, BATCH = 100_000, 500
CALLS = 100
SETTLE_S, IDLE_S = 3.0, 20.0
MOST_SLOWER = 1.25  # a queue of that depth beside an empty one; more than that is no noise
MOST_CPU_PERCENT, MOST_STATEMENTS_PER_S = 1.0, 1.0
NO_MODELS = {"backend": "openai", "openai_url": "http://127.0.0.1:9/v1", "ux_model": "none", "task_model": "none"}


@dataclass(frozen=True)
class Found:
    """Medians of one service, in milliseconds."""

    submit_ms: float
    list_ms: float


@asynccontextmanager
async def service(home: str, *roles: str, **chosen: object) -> AsyncIterator[None]:
    """A service in this process, whose statements and whose CPU can be counted."""
    ports = environment_for(Path(home))
    named: dict[str, Any] = {
        f"{role}_port": int(ports[f"TALE_{role.upper()}_PORT"]) for role in ("gateway", "execution")
    }
    settings = Settings.model_validate({"home": home, **named, **NO_MODELS, **chosen})
    async with AsyncExitStack() as stack:
        started = Service(settings, roles, background=False)
        stack.push_async_callback(started.stop)
        await started.start()
        yield


async def medians(client: HTTPMCPClient) -> Found:
    submits: list[float] = []
    lists: list[float] = []
    for number in range(CALLS):
        start = time.perf_counter()
        await client.call_tool("submit_task", {"text": f"Write a haiku about the number {number}"})
        submitted = time.perf_counter()
        await client.call_tool("list_tasks", {"status": "queued", "limit": 20})
        submits.append((submitted - start) * 1000)
        lists.append((time.perf_counter() - submitted) * 1000)
    return Found(median(submits), median(lists))


async def deep(name: str, depth: int, **chosen: object) -> list[Row]:
    with running_service(roles="gateway", queue_limit=2 * depth + DEPTH, **NO_MODELS, **chosen) as gateway:
        async with gateway.client() as client:
            await client.call_tool("pause_queue")
            await medians(client)  # so that all is loaded
            shallow = await medians(client)
            for first in range(0, depth, BATCH):
                tasks = [{"text": f"Task {number}"} for number in range(first, first + BATCH)]
                await client.call_tool("submit_tasks", {"tasks": tasks})
            found = await medians(client)
    return [
        Row(f"{name}: submit with an empty queue, median", shallow.submit_ms, "ms"),
        Row(f"{name}: submit with {depth:,} queued, median", found.submit_ms, "ms"),
        Row(f"{name}: submit, deep queue / empty queue", found.submit_ms / shallow.submit_ms, "", MOST_SLOWER),
        Row(f"{name}: list 20 with an empty queue, median", shallow.list_ms, "ms"),
        Row(f"{name}: list 20 with {depth:,} queued, median", found.list_ms, "ms"),
        Row(f"{name}: list 20, deep queue / empty queue", found.list_ms / shallow.list_ms, "", MOST_SLOWER),
    ]


async def idle(name: str, **chosen: object) -> list[Row]:
    """Statements a second and CPU while nobody asks for anything."""
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    url = chosen.get("database_url")
    with TemporaryDirectory(prefix="tale-benchmark-") as home:
        async with service(home, "gateway", "execution", **chosen):
            await asyncio.sleep(SETTLE_S)
            event.listen(Engine, "before_cursor_execute", count)
            committed, used = transactions(url), time.process_time()
            await asyncio.sleep(IDLE_S)
            used = time.process_time() - used
            event.remove(Engine, "before_cursor_execute", count)
            committed = transactions(url) - committed
    rows = [Row(f"{name}: CPU at rest", 100 * used / IDLE_S, "%", MOST_CPU_PERCENT)]
    if url:
        return [*rows, Row(f"{name}: transactions at rest", committed / IDLE_S, "/s")]
    return [*rows, Row(f"{name}: statements at rest", statements / IDLE_S, "/s", MOST_STATEMENTS_PER_S)]


def transactions(url: object) -> int:
    """What the server has carried out so far; 0 where there is none."""
    if not isinstance(url, str):
        return 0
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        found = connection.scalar(text("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"))
    engine.dispose()
    return int(found or 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=DEPTH, help="tasks in the queue, in steps of 500")
    given = parser.parse_args()
    logging.disable()  # the service at rest says that it has no models
    rows = asyncio.run(deep("SQLite", given.depth)) + asyncio.run(idle("SQLite"))
    with postgres() as url:
        rows += asyncio.run(deep("PostgreSQL", given.depth, database_url=url))
    with postgres() as url:
        rows += asyncio.run(idle("PostgreSQL", database_url=url))
    return show(f"a queue of {given.depth:,} tasks, and a service at rest ({IDLE_S:g} s)", rows)


if __name__ == "__main__":
    sys.exit(main())
