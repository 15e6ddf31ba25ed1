"""How fast are the figures of an hour, a day and a whole history read from sums by the minute, beside the calls?

python benchmarks/rollup_reads.py           200,000 calls
python benchmarks/rollup_reads.py --full    10,000,000: about 4 GB in the temporary folder, a quarter of an hour

How long it takes to make the sums, to make them anew and to hold them against the calls is told beside.
"""

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from harness import Row, median, show
from sqlalchemy import Connection

from tale.records import ModelCall
from tale.storage.database import Database
from tale.storage.history_reader import minute_rows
from tale.storage.reader import reading
from tale.storage.rollup_rows import tallied
from tale.storage.rollups import Rollups
from tale.storage.rows import values_of
from tale.storage.tables import model_calls

CALLS, FULL_CALLS = 200_000, 10_000_000
START = 1_700_000_040.0  # the beginning of a minute
PERIOD_S = 30 * 86_400.0
END = START + PERIOD_S
BATCH = 20_000
ROUNDS = 5
HOUR_S, DAY_S = 3_600.0, 86_400.0
HOUR_LIMIT_MS, DAY_LIMIT_MS = 30.0, 500.0


def call(number: int, chance: random.Random, at: float) -> ModelCall:
    """A finished call of one of two models."""
    total_s = chance.lognormvariate(0.5, 0.8)
    model, role = chance.choice((("small", "ux"), ("large", "task")))
    return ModelCall(
        id=str(uuid.UUID(int=number)),  # they sort by time, as those of the recorder do
        started_at=at,
        ended_at=at + total_s,
        role=role,
        operation="execute",
        model=model,
        provider="embedded",
        input_tokens=chance.randrange(1_000),
        output_tokens=chance.randrange(400),
        decode_s=total_s * 0.8,
        time_to_first_token_s=total_s * 0.2,
        total_s=total_s,
    )


def history(count: int) -> Iterator[tuple[Any, ...]]:
    """The rows of so many calls, spread over the whole time."""
    chance = random.Random(7)
    for number in range(count):
        at = START + PERIOD_S * (number + chance.random()) / count
        yield tuple(values_of(call(number, chance, at)).values())


async def filled(database: Database, count: int) -> None:
    """Give an empty database its history."""
    columns = list(values_of(call(0, random.Random(7), START)))
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO model_calls ({', '.join(columns)}) VALUES ({marks})"
    rows = history(count)
    while batch := list(itertools.islice(rows, BATCH)):
        await database.write(lambda connection, batch=batch: connection.exec_driver_sql(statement, batch).rowcount)


async def summed(url: str, count: int) -> list[Row]:
    """Make a history of so many calls, and its sums in each way that there is."""
    database = Database.open(url)
    await filled(database, count)
    rollups = Rollups(database)
    rows = [
        Row("calls summed up", count / await seconds_of(rollups.catch_up(END)), "/s"),
        Row("calls summed up anew (backfill)", count / await seconds_of(rollups.backfill()), "/s"),
    ]
    began = time.perf_counter()
    verified = await rollups.verify()
    rows.append(Row("calls held against their sums (verify)", count / (time.perf_counter() - began), "/s"))
    if verified.wrong_minutes:
        raise SystemExit(f"The sums of {len(verified.wrong_minutes):,} minutes are wrong.")
    await database.close()
    return rows


async def seconds_of(work: Awaitable[object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def timed(url: str, read: Callable[[Connection], object], rounds: int = ROUNDS) -> float:
    """The median of some readings, in milliseconds."""
    taken: list[float] = []
    with reading(url) as reader:
        assert reader is not None
        for _ in range(rounds):
            began = time.perf_counter()
            reader.read(read)
            taken.append((time.perf_counter() - began) * 1_000)
    return median(taken)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--full", action="store_true", help=f"{FULL_CALLS:,} calls")
    given = parser.parse_args()
    count = FULL_CALLS if given.full else given.calls
    hour_of_calls = model_calls.c.started_at >= END - HOUR_S
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        url = f"sqlite:///{Path(folder)}/tale.db"
        sums = asyncio.run(summed(url, count))
        rows = [
            Row("last hour", timed(url, lambda c: minute_rows(c, END - HOUR_S, END)), "ms", HOUR_LIMIT_MS),
            Row("last day", timed(url, lambda c: minute_rows(c, END - DAY_S, END)), "ms", DAY_LIMIT_MS),
            Row("all 30 days", timed(url, lambda c: minute_rows(c, START, END), 1), "ms"),
            Row("last hour, from the calls", timed(url, lambda c: tallied(c, hour_of_calls)), "ms"),
            Row("all 30 days, from the calls", timed(url, tallied, 1), "ms"),
            *sums,
        ]
    return show(f"Figures by minute, model and operation over {count:,} calls", rows)


if __name__ == "__main__":
    sys.exit(main())
