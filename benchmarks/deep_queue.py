"""Do 100,000 queued tasks slow handing in and listing, and what does a service cost that has nothing to do?"""

import argparse
import asyncio
import logging
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import (
    Row,
    cpu_s,
    environment_for,
    file_calls,
    learning_server_of,
    median,
    postgres,
    running_service,
    show,
    until_learned,
    until_told,
)
from sqlalchemy import Engine, create_engine, event, text

from tale.mcp.http_client import HTTPMCPClient
from tale.servers.service import Service
from tale.settings import Settings
from tale.storage.engines import parse_url

DEPTH, BATCH = 100_000, 500
CALLS = 100
IDLE_S = 60.0  # all chores of a minute come once
MOST_SLOWER = 1.25  # a queue of that depth beside an empty one; more than that is no noise
MOST_CPU_PERCENT, MOST_BUSY_PERCENT = 1.0, 15.0
MOST_STATEMENTS_PER_S, MOST_FILE_CALLS_PER_S = 2.0, 0.1  # BEGIN and COMMIT are statements, too
ROLES = ("gateway", "execution", "ux_agent")
NO_MODELS = {"backend": "openai", "openai_url": "http://127.0.0.1:9/v1", "ux_model": "none", "task_model": "none"}


@dataclass(frozen=True)
class Found:
    """Medians of one service, in milliseconds."""

    submit_ms: float
    list_ms: float


@asynccontextmanager
async def service_here(home: str, *roles: str, **chosen: object) -> AsyncIterator[Settings]:
    """A service in this process, whose statements and whose CPU can be counted."""
    environment = environment_for(Path(home))
    ports: dict[str, Any] = {f"{role}_port": int(environment[f"TALE_{role.upper()}_PORT"]) for role in roles}
    settings = Settings.model_validate({"home": home, **ports, **NO_MODELS, **chosen})
    async with AsyncExitStack() as stack:
        started = Service(settings, roles, background=False)
        stack.push_async_callback(started.stop)
        await started.start()
        yield settings


@contextmanager
def sqlite_statements() -> Iterator[list[float]]:
    """When statements are run in this process on connections to SQLite that are made meanwhile, by time.monotonic."""
    moments: list[float] = []

    def follow(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(lambda _: moments.append(time.monotonic()))

    event.listen(Engine, "connect", follow)
    try:
        yield moments
    finally:
        event.remove(Engine, "connect", follow)


async def hand_in_and_list(client: HTTPMCPClient, number: int) -> tuple[float, float]:
    """Milliseconds of one task handed in, and of twenty listed."""
    start = time.perf_counter()
    await client.call_tool("submit_task", {"text": f"Write a haiku about the number {number}"})
    submitted = time.perf_counter()
    await client.call_tool("list_tasks", {"status": "queued", "limit": 20})
    return (submitted - start) * 1000, (time.perf_counter() - submitted) * 1000


async def medians(*clients: HTTPMCPClient) -> list[Found]:
    """Of each service, ten calls in turns: the machine's pace is the same for all of them."""
    times: list[list[tuple[float, float]]] = [[] for _ in clients]
    for first in range(0, CALLS, 10):
        for client, found in zip(clients, times, strict=True):
            found += [await hand_in_and_list(client, number) for number in range(first, first + 10)]
    return [Found(*(median(column) for column in zip(*found, strict=True))) for found in times]


async def deep(name: str, depth: int, urls: Sequence[str | None]) -> list[Row]:
    """Two services that differ in the length of their queues alone; `urls` are their databases."""
    async with AsyncExitStack() as stack:
        services = []
        for url in urls:
            chosen = {"queue_limit": 2 * depth + DEPTH, **NO_MODELS, **({"database_url": url} if url else {})}
            services.append(stack.enter_context(running_service(roles="gateway,ux_agent", **chosen)))
        await asyncio.gather(*(until_learned(service) for service in services))
        clients = [await stack.enter_async_context(service.client()) for service in services]
        for client in clients:
            await client.call_tool("pause_queue")
        for first in range(0, depth, BATCH):
            tasks = [{"text": f"Task {number}"} for number in range(first, first + BATCH)]
            await clients[-1].call_tool("submit_tasks", {"tasks": tasks})
        await medians(*clients)  # so that all is loaded
        empty, found = await medians(*clients)
    return [
        Row(f"{name}: submit with an empty queue, median", empty.submit_ms, "ms"),
        Row(f"{name}: submit with {depth:,} queued, median", found.submit_ms, "ms"),
        Row(f"{name}: submit, deep queue / empty queue", found.submit_ms / empty.submit_ms, "", MOST_SLOWER),
        Row(f"{name}: list 20 with an empty queue, median", empty.list_ms, "ms"),
        Row(f"{name}: list 20 with {depth:,} queued, median", found.list_ms, "ms"),
        Row(f"{name}: list 20, deep queue / empty queue", found.list_ms / empty.list_ms, "", MOST_SLOWER),
    ]


async def idle(name: str, **chosen: object) -> list[Row]:
    """What the service does while nobody asks for anything, when it has learned all that it can."""
    url = chosen.get("database_url")
    with TemporaryDirectory(prefix="tale-benchmark-") as home, sqlite_statements() as moments:
        async with service_here(home, *ROLES, **chosen) as settings:
            async with (
                HTTPMCPClient(settings.url_of("ux_agent")) as talk,
                HTTPMCPClient(settings.url_of("gateway")) as gateway,
            ):
                await until_told(talk, gateway, os.getpid())
            learning = learning_server_of(os.getpid())
            moments.clear()
            before = (time.process_time() + cpu_s(learning), transactions(url), file_calls(learning))
            await asyncio.sleep(IDLE_S)
            after = (time.process_time() + cpu_s(learning), transactions(url), file_calls(learning))
            seconds = len({int(moment) for moment in moments})
            statements = len(moments)
    cpu, committed, asked = ((then - now) / IDLE_S for now, then in zip(before, after, strict=True))
    rows = [
        Row(f"{name}: CPU at rest, learning server included", 100 * cpu, "%", MOST_CPU_PERCENT),
        Row(f"{name}: reads and writes of the learning server", asked, "/s", MOST_FILE_CALLS_PER_S),
    ]
    if url:
        return [*rows, Row(f"{name}: transactions at rest", committed, "/s")]
    return [
        *rows,
        Row(f"{name}: seconds at rest with a statement", 100 * seconds / IDLE_S, "%", MOST_BUSY_PERCENT),
        Row(f"{name}: statements at rest", statements / IDLE_S, "/s", MOST_STATEMENTS_PER_S),
    ]


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
    parser.add_argument("--rest", action="store_true", help="look at the service at rest alone")
    given = parser.parse_args()
    logging.disable()  # the service at rest says that it has no models
    rows: list[Row] = []
    if not given.rest:
        rows += asyncio.run(deep("SQLite", given.depth, (None, None)))
        with postgres() as first, postgres() as second:
            rows += asyncio.run(deep("PostgreSQL", given.depth, (first, second)))
    rows += asyncio.run(idle("SQLite"))
    with postgres() as url:
        rows += asyncio.run(idle("PostgreSQL", database_url=url))
    return show(f"a queue of {given.depth:,} tasks, and a service at rest ({IDLE_S:g} s)", rows)


if __name__ == "__main__":
    sys.exit(main())
