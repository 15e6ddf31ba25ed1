"""Does a long history slow down the recording of calls, or the look at the latest of them?

Calls are recorded as conversations make them, as tasks do, and as clients of the gateway do, through a whole service.
The ids of tasks are random, so that each new one touches another page of its index: what that costs where a thousand
tasks make a call at once is told without a limit.

python benchmarks/growth.py                  databases of 1,000, 100,000 and 1,000,000 calls
python benchmarks/growth.py --full           10,000,000 calls too: about 6 GB in the temporary folder, some minutes
python benchmarks/growth.py --folder FOLDER  measures the disk that FOLDER is on

The histories are alike but for their length: 1,000 calls a day, every other one for a task of its own, the rest in
conversations of ten, with ids that sort by time as the recorder makes them (those of tasks and conversations do not),
and rolled up. All databases are measured in turns, and of the rounds the best one counts for each: whatever else the
machine does only ever adds time. Times of the largest are compared with those of the smallest.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gateway_overhead import KEY, Target, load, upstream
from harness import Row, ServiceUnderTest, median, running_service, show, until_models_ready
from sqlalchemy import Connection, insert, select

from tale.ids import new_call_id
from tale.records import ModelCall
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.history_reader import minute_rows
from tale.storage.rollup_rows import tallied
from tale.storage.rollups import WATERMARK
from tale.storage.rows import upsert, values_of
from tale.storage.tables import meta, model_calls, rollup_minute
from tale.storage.usage import UsageQuery, UsageStore

SIZES, FULL_SIZES = (1_000, 100_000, 1_000_000), (1_000, 100_000, 1_000_000, 10_000_000)
CALLS_A_DAY, EVERY_S, TOOK_S = 1_000, 2.0, 13.3  # so that they come within half an hour
DAY_S, MINUTE_S, MINUTES_A_DAY, DAYS_AT_ONCE = 86_400.0, 60, 1_440, 500
NOW_S = 1_767_225_600.0
BATCH = 20_000
ROUNDS = 7
TURNS = 10  # of a conversation
WRITTEN, AT_ONCE, ALONE = 1_000, 50, 100  # calls of one round
READS = 5
GATEWAY_S, GATEWAY_ROUNDS, GATEWAY_CONNECTIONS = 1.0, 15, 8
LIMIT = 1.2
Measure = Callable[[Database], Awaitable[Any]]


def history(count: int, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of so many finished calls, of the last day the last ones."""
    row = values_of(call("", 0.0))
    base = tuple(row[name] for name in columns)
    own, began, ended = (columns.index(name) for name in ("id", "started_at", "ended_at"))
    task, conversation = columns.index("task_id"), columns.index("conversation_id")
    whose = callers()
    days = count // CALLS_A_DAY
    for number in range(count):
        day, place = divmod(number, CALLS_A_DAY)
        at = NOW_S - (days - day) * DAY_S + place * EVERY_S
        values = list(base)
        values[task], values[conversation] = next(whose)
        values[own], values[began], values[ended] = id_at(at), at, at + TOOK_S
        yield tuple(values)


def callers() -> Iterator[tuple[str | None, str | None]]:
    """Of one call after the other, the task or the conversation that it is for."""
    while True:
        conversation = str(uuid.uuid4())
        for _ in range(TURNS):
            yield str(uuid.uuid4()), None
            yield None, conversation


def id_at(at: float) -> str:
    """An id as the recorder would have made it then: all but its milliseconds are those of one made now."""
    milliseconds = f"{int(at * 1_000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}{new_call_id()[13:]}"


def call(call_id: str, at: float, task_id: str | None = None, conversation_id: str | None = None) -> ModelCall:
    """A finished call."""
    return ModelCall(
        id=call_id,
        started_at=at,
        ended_at=at + TOOK_S,
        role="task",
        operation="execute",
        model="large",
        requested_model="large",
        provider="embedded",
        task_id=task_id,
        conversation_id=conversation_id,
        attempt=1,
        input_tokens=120,
        output_tokens=350,
        queue_s=0.0,
        load_s=0.0,
        prefill_s=0.8,
        decode_s=12.4,
        other_s=0.1,
        time_to_first_token_s=0.9,
        total_s=TOOK_S,
        finish_reason="stop",
    )


def without_indexes(connection: Connection) -> list[str]:
    """Drop the indexes of the calls, which are made faster afterwards; how they are made."""
    wanted = "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'model_calls' AND type = 'index' AND sql IS NOT NULL"
    found = connection.exec_driver_sql(wanted).all()
    for name, _ in found:
        connection.exec_driver_sql(f"DROP INDEX {name}")
    return [sql for _, sql in found]


async def filled(database: Database, count: int) -> None:
    """Give an empty database its history, and the sums by the minute of it, which are alike for all days."""
    columns = [column.name for column in model_calls.columns]
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO model_calls ({', '.join(columns)}) VALUES ({marks})"
    rows = history(count, columns)
    indexes = await database.write(without_indexes)
    while batch := list(itertools.islice(rows, BATCH)):
        await database.write(lambda connection, batch=batch: connection.exec_driver_sql(statement, batch).rowcount)
    for index in indexes:
        await database.write(lambda connection, index=index: connection.exec_driver_sql(index).close())
    last_day = model_calls.c.started_at >= NOW_S - DAY_S
    sums = await database.read(lambda connection: [each.row() for each in tallied(connection, last_day)])
    for first in range(0, count // CALLS_A_DAY, DAYS_AT_ONCE):
        days = range(first, min(first + DAYS_AT_ONCE, count // CALLS_A_DAY))
        shifted = [{**row, "minute": row["minute"] - day * MINUTES_A_DAY} for day in days for row in sums]
        await database.write(lambda connection, rows=shifted: connection.execute(insert(rollup_minute), rows).rowcount)
    mark = {"key": WATERMARK, "value": str(int(NOW_S // MINUTE_S))}
    await database.write(lambda connection: upsert(connection, meta, mark, keys=["key"]))


async def written(database: Database, count: int, *, at_once: int, of_tasks: bool = False) -> None:
    """Record calls, so many at a time, either all of tasks of their own or all of conversations."""
    store = CallStore(database)
    wanted = itertools.islice((each for each in callers() if (each[0] is not None) == of_tasks), count)

    async def record() -> None:
        for task_id, conversation_id in wanted:
            row = call(new_call_id(), next(MOMENTS), task_id, conversation_id)
            await store.open_call(row)
            await store.close_call(row)

    await asyncio.gather(*(record() for _ in range(at_once)))


async def usage_of_a_day(database: Database) -> None:
    await UsageStore(database).usage(UsageQuery(since=NOW_S - DAY_S, until=NOW_S, by="model"))


async def last_calls(database: Database) -> None:
    await CallStore(database).calls(limit=100)


async def usage_of_a_task(database: Database) -> None:
    some = await database.read(
        lambda c: c.scalar(select(model_calls.c.task_id).where(model_calls.c.task_id.is_not(None)).limit(1))
    )
    await UsageStore(database).usage(UsageQuery(task_id=some))


async def sums_of_a_day(database: Database) -> None:
    await database.read(lambda connection: minute_rows(connection, NOW_S - DAY_S, NOW_S))


MOMENTS = itertools.count(NOW_S, 0.001)  # no two calls begin at once, as ties would have to be sorted
OF_TASKS_AT_ONCE = f"{WRITTEN:,} calls of tasks at once"
WRITINGS: dict[str, Measure] = {
    f"{ALONE} calls one by one": partial(written, count=ALONE, at_once=1),
    f"{WRITTEN:,} calls at once": partial(written, count=WRITTEN, at_once=AT_ONCE),
    f"{ALONE} calls of tasks one by one": partial(written, count=ALONE, at_once=1, of_tasks=True),
    OF_TASKS_AT_ONCE: partial(written, count=WRITTEN, at_once=AT_ONCE, of_tasks=True),
}
THROUGH_GATEWAY = f"a call through the gateway, {GATEWAY_CONNECTIONS} at a time"
READINGS: dict[str, Measure] = {
    "usage of a day, by model": usage_of_a_day,
    "the last 100 calls": last_calls,
    "usage of a task": usage_of_a_task,
    "sums by the minute of a day": sums_of_a_day,
}


@contextmanager
def gateway(url: str, engine: Target) -> Iterator[int]:
    """The port of a service that keeps its calls in that database."""
    given = {"backend": "openai", "openai_url": f"http://127.0.0.1:{engine.port}/v1", "ux_model": "fake"}
    with running_service(**given, api_key=KEY, learning="off", database_url=url) as service:
        asyncio.run(until_ready(service))
        yield int(service.environment["TALE_GATEWAY_PORT"])


async def until_ready(service: ServiceUnderTest) -> None:
    """Return when the model of conversations is ready."""
    async with service.client() as client:
        await until_models_ready(client, "ux")


def through_gateway(folder: Path, sizes: tuple[int, ...]) -> dict[int, float]:
    """The median seconds of a call of OpenAI's API by size, of the best round."""
    found: dict[int, float] = {}
    with ExitStack() as stack:
        engine = stack.enter_context(upstream())
        ports = {size: stack.enter_context(gateway(f"sqlite:///{folder}/{size}.db", engine)) for size in sizes}
        for _ in range(GATEWAY_ROUNDS):
            for size, port in ports.items():
                asking = load(port, connections=GATEWAY_CONNECTIONS, seconds=GATEWAY_S, stream=False)
                _, callers = asyncio.run(asking)
                taken = median([latency for caller in callers for latency in caller.latencies])
                found[size] = min(taken, found.get(size, taken))
    return found


async def seconds_of(measure: Measure, database: Database, times: int) -> float:
    """The quickest of some turns."""
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await measure(database)
        taken.append(time.perf_counter() - began)
    return min(taken)


async def measured(folder: Path, sizes: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Seconds by what is measured and by size."""
    databases: dict[int, Database] = {}
    for size in sizes:
        began = time.perf_counter()
        databases[size] = Database.open(f"sqlite:///{folder}/{size}.db")
        await filled(databases[size], size)
        bytes_held = (folder / f"{size}.db").stat().st_size
        print(f"{size:>12,} calls: {bytes_held / 1e6:,.0f} MB, made in {time.perf_counter() - began:.0f} s")
    measures = WRITINGS | READINGS
    found: dict[str, dict[int, float]] = {what: {} for what in measures}
    for _ in range(ROUNDS):
        for what, measure in measures.items():
            for size, database in databases.items():
                taken = await seconds_of(measure, database, 1 if what in WRITINGS else READS)
                found[what][size] = min(taken, found[what].get(size, taken))
    for database in databases.values():
        await database.close()
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--full", action="store_true", help="ten million calls too")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    sizes = FULL_SIZES if given.full else SIZES
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="tale-benchmark-") as folder:
        found = asyncio.run(measured(Path(folder), sizes))
        found[THROUGH_GATEWAY] = through_gateway(Path(folder), (sizes[0], sizes[-1]))
    rows: list[Row] = []
    for what, by_size in found.items():
        rows += [Row(f"{what}, of {size:,}", seconds * 1_000, "ms") for size, seconds in by_size.items()]
        least, most = by_size[sizes[0]], by_size[sizes[-1]]
        limit = None if what == OF_TASKS_AT_ONCE else LIMIT
        rows.append(Row(f"{what}, {sizes[-1]:,} beside {sizes[0]:,}", most / least, "x", limit))
    return show("What a long history costs", rows)


if __name__ == "__main__":
    sys.exit(main())
