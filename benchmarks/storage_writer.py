"""What recording costs: rows a second and the wait for one durable row, by group commit and by a commit per row.

    python benchmarks/storage_writer.py [--rows 20000] [--rounds 5] [--folder FOLDER]

The folder decides which disk is measured (default: the system's temporary folder). Every figure is the median of the
rounds; both ways write the same rows into the same tables with the same settings (WAL, synchronous=FULL).
"""

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert

from tale.records import ModelCall
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.engines import make_engine, parse_url
from tale.storage.rows import values_of
from tale.storage.tables import model_calls
from tale.storage.upgrade import upgrade

SINGLE_WRITES = 300
GROUP_ROWS_LIMIT = 10_000  # rows a second, at least
SINGLE_LIMIT_MS = 5.0  # p50 of one durable row, at most


def call(number: int) -> ModelCall:
    """A row as a finished call leaves it."""
    return ModelCall(
        id=str(uuid.uuid4()),
        started_at=1_700_000_000.0 + number,
        role="task",
        operation="execute",
        model="qwen2.5-coder:1.5b",
        provider="embedded",
        task_id=str(uuid.uuid4()),
        attempt=1,
        input_tokens=120,
        output_tokens=350,
        prefill_s=0.8,
        decode_s=12.5,
        time_to_first_token_s=0.9,
        total_s=13.3,
        ended_at=1_700_000_013.0 + number,
        finish_reason="stop",
    )


def group_commit(url: str, rows: int, awaiters: int) -> tuple[float, float]:
    """Rows a second with so many awaiters at once, and the p50 wait of one of them in ms."""

    async def measure() -> tuple[float, float]:
        database = await asyncio.to_thread(Database.open, url)
        store = CallStore(database)
        calls = iter([call(number) for number in range(rows)])
        waits: list[float] = []

        async def write_in_turn() -> None:
            for record in calls:
                started = time.perf_counter()
                await store.open_call(record)
                waits.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(write_in_turn() for _ in range(awaiters)))
        elapsed = time.perf_counter() - started
        await database.close()
        return rows / elapsed, statistics.median(waits) * 1_000

    return asyncio.run(measure())


def commit_per_row(url: str, rows: int) -> tuple[float, float]:
    """The same rows, each in a transaction of its own, on one connection in this thread."""
    upgrade(url)
    engine = make_engine(parse_url(url), "write", busy_timeout_s=10)
    calls = [values_of(call(number)) for number in range(rows)]
    waits: list[float] = []
    started = time.perf_counter()
    for values in calls:
        begun = time.perf_counter()
        with engine.begin() as connection:
            connection.execute(insert(model_calls), values)
        waits.append(time.perf_counter() - begun)
    elapsed = time.perf_counter() - started
    engine.dispose()
    return rows / elapsed, statistics.median(waits) * 1_000


def median_of(rounds: int, folder: Path, measure: Callable[[str], tuple[float, float]]) -> tuple[float, float]:
    """The median of each figure over rounds on fresh databases."""
    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            found.append(measure(f"sqlite:///{fresh}/tale.db"))
    return statistics.median(rate for rate, _ in found), statistics.median(wait for _, wait in found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    ways: list[tuple[str, str, Callable[[str], tuple[float, float]]]] = [
        (
            "group commit, 500 awaiters",
            f">= {GROUP_ROWS_LIMIT:,} rows/s",
            lambda url: group_commit(url, given.rows, 500),
        ),
        ("group commit, 50 awaiters", "", lambda url: group_commit(url, given.rows, 50)),
        ("group commit, 1 awaiter", f"p50 <= {SINGLE_LIMIT_MS:g} ms", lambda url: group_commit(url, SINGLE_WRITES, 1)),
        ("commit per row", "", lambda url: commit_per_row(url, min(given.rows, 2_000))),
    ]
    print(f"{'way':<28} {'rows/s':>10} {'p50 wait':>12}   limit")
    for name, limit, measure in ways:
        rate, wait_ms = median_of(given.rounds, given.folder, measure)
        print(f"{name:<28} {rate:>10,.0f} {wait_ms:>9.2f} ms   {limit}")


if __name__ == "__main__":
    main()
