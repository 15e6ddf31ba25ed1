"""How fast are the figures of an hour, a day and a whole history read from sums by the minute, beside the calls?

python benchmarks/rollup_reads.py [--calls 200000]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from harness import Row, median, show
from sqlalchemy import Connection, insert

from tale.records import ModelCall
from tale.storage.database import Database
from tale.storage.history_reader import minute_rows
from tale.storage.reader import reading
from tale.storage.rollup_rows import tallied
from tale.storage.rollups import Rollups
from tale.storage.rows import values_of
from tale.storage.tables import model_calls

START = 1_700_000_040.0  # the beginning of a minute
PERIOD_S = 30 * 86_400.0
BATCH = 5_000
ROUNDS = 5
HOUR_S, DAY_S = 3_600.0, 86_400.0
HOUR_LIMIT_MS, DAY_LIMIT_MS = 30.0, 500.0


def call(chance: random.Random, at: float) -> ModelCall:
    """A finished call of one of two models."""
    total_s = chance.lognormvariate(0.5, 0.8)
    model, role = chance.choice((("small", "ux"), ("large", "task")))
    return ModelCall(
        id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
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


async def filled(url: str, count: int) -> float:
    """Make a history of so many calls; returns the seconds that summing it up took."""
    chance = random.Random(7)
    database = Database.open(url)
    moments = sorted(chance.uniform(START, START + PERIOD_S) for _ in range(count))
    for first in range(0, count, BATCH):
        rows = [values_of(call(chance, at)) for at in moments[first : first + BATCH]]
        await database.write(lambda connection, rows=rows: connection.execute(insert(model_calls), rows).rowcount)
    began = time.perf_counter()
    await Rollups(database).catch_up(START + PERIOD_S)
    taken_s = time.perf_counter() - began
    await database.close()
    return taken_s


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
    parser.add_argument("--calls", type=int, default=200_000)
    given = parser.parse_args()
    end = START + PERIOD_S
    hour_of_calls = model_calls.c.started_at >= end - HOUR_S
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/tale.db"
        taken_s = asyncio.run(filled(url, given.calls))
        rows = [
            Row("last hour", timed(url, lambda c: minute_rows(c, end - HOUR_S, end)), "ms", HOUR_LIMIT_MS),
            Row("last day", timed(url, lambda c: minute_rows(c, end - DAY_S, end)), "ms", DAY_LIMIT_MS),
            Row("all 30 days", timed(url, lambda c: minute_rows(c, START, end), 1), "ms"),
            Row("last hour, from the calls", timed(url, lambda c: tallied(c, hour_of_calls)), "ms"),
            Row("all 30 days, from the calls", timed(url, tallied, 1), "ms"),
            Row("calls summed up", given.calls / taken_s, "/s"),
        ]
    return show(f"Figures by minute, model and operation over {given.calls:,} calls", rows)


if __name__ == "__main__":
    sys.exit(main())
