"""Group commit: many works a commit, each failing alone, each answered when it is durable."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from tale.exceptions import DatabaseException, TaskException
from tale.storage.engines import make_engine, parse_url
from tale.storage.writer import Writer

INSERT = text("INSERT INTO item VALUES (:id, :value)")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(parse_url(f"sqlite:///{tmp_path}/w.db"), "write", busy_timeout_s=0.05)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE item (id INTEGER PRIMARY KEY, value TEXT)"))
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine: Engine) -> Iterator[Writer]:
    writer = Writer(engine)
    writer.start()
    yield writer
    writer.close()


def inserting(number: int, value: str = "") -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.execute(INSERT, {"id": number, "value": value})
        return number

    return work


def stored(tmp_path: Path) -> list[int]:
    """What another program sees in the file."""
    connection = sqlite3.connect(tmp_path / "w.db")
    rows = connection.execute("SELECT id FROM item ORDER BY id").fetchall()
    connection.close()
    return [row[0] for row in rows]


class Gate:
    """A work that keeps the writer busy until it is opened, so that what is submitted meanwhile makes one batch."""

    def __init__(self, writer: Writer) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()
        self._held = asyncio.create_task(writer.submit(self._work))

    def _work(self, connection: Connection) -> None:
        self._entered.set()
        self._opened.wait()

    async def closed(self) -> None:
        await asyncio.to_thread(self._entered.wait)

    async def open(self) -> None:
        self._opened.set()
        await self._held


async def submitted(writer: Writer, works: Iterable[Callable[[Connection], Any]]) -> list[asyncio.Task[Any]]:
    """Waiters whose works are in the writer's queue: a task runs up to its first wait when the loop turns once."""
    waiting = [asyncio.create_task(writer.submit(work)) for work in works]
    await asyncio.sleep(0)
    return waiting


async def test_a_write_is_seen_by_others_when_it_returns(writer: Writer, tmp_path: Path) -> None:
    assert await writer.submit(inserting(7)) == 7
    assert stored(tmp_path) == [7]


async def test_works_run_in_the_order_in_which_they_came(writer: Writer) -> None:
    seen: list[int] = []
    await asyncio.gather(*(writer.submit(lambda _, number=number: seen.append(number)) for number in range(2_000)))
    assert seen == list(range(2_000))


async def test_what_queued_up_shares_one_commit(writer: Writer, engine: Engine) -> None:
    gate = Gate(writer)
    await gate.closed()
    works = await submitted(writer, (lambda c: c.get_transaction() for _ in range(50)))
    await gate.open()
    assert len({id(transaction) for transaction in await asyncio.gather(*works)}) == 1


async def test_a_batch_has_a_limit(engine: Engine) -> None:
    writer = Writer(engine, batch_limit=10)
    writer.start()
    gate = Gate(writer)
    await gate.closed()
    works = await submitted(writer, (lambda c: c.get_transaction() for _ in range(25)))
    await gate.open()
    transactions = await asyncio.gather(*works)
    assert [transactions.count(found) for found in dict.fromkeys(transactions)] == [10, 10, 5]
    writer.close()


async def test_a_bad_row_fails_alone(writer: Writer, tmp_path: Path) -> None:
    gate = Gate(writer)
    await gate.closed()
    numbers = [1, 2, 2, 3, 1, 4]
    works = await submitted(writer, (inserting(number) for number in numbers))
    await gate.open()
    results = await asyncio.gather(*works, return_exceptions=True)
    assert [number for number in results if isinstance(number, int)] == [1, 2, 3, 4]
    failed = [error for error in results if isinstance(error, DatabaseException)]
    assert [error.message for error in failed] == ["The database refused a row that breaks one of its rules."] * 2
    assert failed[0].context["cause"] == "UNIQUE constraint failed: item.id"
    assert stored(tmp_path) == [1, 2, 3, 4]


async def test_a_work_that_fails_leaves_nothing_behind(writer: Writer, tmp_path: Path) -> None:
    def half(connection: Connection) -> None:
        inserting(1)(connection)
        raise TaskException("no")

    gate = Gate(writer)
    await gate.closed()
    failing, fine = await submitted(writer, [half, inserting(2)])
    await gate.open()
    with pytest.raises(TaskException, match="no"):
        await failing
    assert await fine == 2
    with pytest.raises(TaskException, match="no"):
        await writer.submit(half)
    assert stored(tmp_path) == [2]


async def test_an_accepted_write_is_carried_out_for_a_waiter_that_went_away(writer: Writer, tmp_path: Path) -> None:
    gate = Gate(writer)
    await gate.closed()
    (abandoned,) = await submitted(writer, [inserting(1)])
    abandoned.cancel()
    await gate.open()
    assert await writer.submit(inserting(2)) == 2
    assert abandoned.cancelled()
    assert stored(tmp_path) == [1, 2]


async def test_a_full_queue_is_refused_clearly(engine: Engine) -> None:
    writer = Writer(engine, queue_limit=3)
    writer.start()
    gate = Gate(writer)
    await gate.closed()
    waiting = await submitted(writer, (inserting(number) for number in range(3)))
    with pytest.raises(DatabaseException, match="cannot keep up: 3 writes wait"):
        await writer.submit(inserting(3))
    ending = asyncio.create_task(writer.submit(inserting(4), ends=True))
    await asyncio.sleep(0)  # it is taken, as what it ends was
    await gate.open()
    assert await asyncio.gather(*waiting, ending) == [0, 1, 2, 4]
    assert await writer.submit(inserting(3)) == 3
    writer.close()


async def test_closing_commits_what_waits_and_takes_nothing_more(engine: Engine, tmp_path: Path) -> None:
    writer = Writer(engine)
    writer.start()
    waiting = await submitted(writer, (inserting(number) for number in range(1_200)))
    await asyncio.to_thread(writer.close)
    assert stored(tmp_path) == list(range(1_200))
    assert await asyncio.gather(*waiting) == list(range(1_200))
    with pytest.raises(DatabaseException, match="closed"):
        await writer.submit(inserting(9_999))


def test_waiters_of_several_event_loops_get_their_own_answers(writer: Writer) -> None:
    def run(numbers: range, found: list[int]) -> None:
        async def submit() -> None:
            found.extend(await asyncio.gather(*(writer.submit(inserting(number)) for number in numbers)))

        asyncio.run(submit())

    found: list[list[int]] = [[], []]
    threads = [threading.Thread(target=run, args=(range(n * 100, n * 100 + 100), found[n])) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(100)), list(range(100, 200))]


def test_a_loop_that_ended_early_does_not_stop_the_writer(engine: Engine, tmp_path: Path) -> None:
    writer = Writer(engine)
    held, opened = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        inserting(1)(connection)
        held.set()
        opened.wait()

    async def abandon() -> None:
        waiting = asyncio.create_task(writer.submit(slow))
        await asyncio.to_thread(held.wait)
        waiting.cancel()

    writer.start()
    asyncio.run(abandon())
    opened.set()
    assert asyncio.run(writer.submit(inserting(2))) == 2
    writer.close()
    assert stored(tmp_path) == [1, 2]


async def test_a_locked_database_fails_the_batch_and_the_writer_goes_on(writer: Writer, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "w.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(writer.submit(inserting(n)) for n in range(3)), return_exceptions=True)
    assert {str(type(error).__name__) for error in results} == {"DatabaseException"}
    assert "locked by another program; close it and try again" in str(results[0])
    assert len({id(error) for error in results}) == 3
    other.execute("ROLLBACK")
    other.close()
    assert await writer.submit(inserting(5)) == 5


async def test_a_full_disk_is_named_and_small_rows_still_fit(writer: Writer, engine: Engine, tmp_path: Path) -> None:
    def limit(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")

    await writer.submit(limit)
    gate = Gate(writer)
    await gate.closed()
    works = await submitted(writer, [inserting(1), inserting(2, "x" * 100_000), inserting(3)])
    await gate.open()
    small, large, last = await asyncio.gather(*works, return_exceptions=True)
    assert isinstance(large, DatabaseException)
    assert large.message == "The disk is full; free some space and try again."
    assert (small, last) == (1, 3)
    assert stored(tmp_path) == [1, 3]


async def test_an_error_that_ends_the_whole_transaction_costs_no_other_row(writer: Writer, tmp_path: Path) -> None:
    def end_transaction(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")

    gate = Gate(writer)
    await gate.closed()
    works = await submitted(writer, [inserting(1), end_transaction, inserting(2)])
    await gate.open()
    first, lost, last = await asyncio.gather(*works, return_exceptions=True)
    assert (first, last) == (1, 2)
    assert isinstance(lost, DatabaseException)
    assert "no such table: nowhere" in str(lost)
    assert stored(tmp_path) == [1, 2]


async def test_a_row_that_the_commit_refuses_costs_no_other_row(writer: Writer, tmp_path: Path) -> None:
    def orphan(connection: Connection) -> None:
        connection.execute(text("INSERT INTO part VALUES (99)"))

    def make_table(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE part (item INTEGER REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED)"))

    await writer.submit(make_table)
    with pytest.raises(DatabaseException, match="refused a row"):
        await writer.submit(orphan)
    gate = Gate(writer)
    await gate.closed()
    works = await submitted(writer, [inserting(1), orphan, inserting(2)])
    await gate.open()
    first, refused, last = await asyncio.gather(*works, return_exceptions=True)
    assert (first, last) == (1, 2)
    assert isinstance(refused, DatabaseException)
    assert stored(tmp_path) == [1, 2]


async def test_what_was_committed_before_the_database_was_locked_is_not_called_lost(
    writer: Writer, tmp_path: Path
) -> None:
    """While works are committed one by one, another program takes the lock between two of them."""
    other = sqlite3.connect(tmp_path / "w.db", isolation_level=None, check_same_thread=False)
    runs: list[int] = []

    def end_transaction(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        runs.append(1)
        if len(runs) == 3:
            other.execute("BEGIN IMMEDIATE")
        connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")

    gate = Gate(writer)
    await gate.closed()
    works = await submitted(writer, [inserting(1), end_transaction, inserting(2)])
    await gate.open()
    first, lost, last = await asyncio.gather(*works, return_exceptions=True)
    other.execute("ROLLBACK")
    other.close()
    assert first == 1
    assert "no such table" in str(lost)
    assert "locked" in str(last)
    assert stored(tmp_path) == [1]


async def test_a_surprise_is_told_and_the_writer_goes_on(writer: Writer, engine: Engine) -> None:
    def surprise(connection: Connection) -> None:
        raise RuntimeError("nobody expected this")

    event.listen(engine, "begin", surprise)
    with pytest.raises(RuntimeError, match="nobody expected this"):
        await writer.submit(inserting(1))
    event.remove(engine, "begin", surprise)
    assert await writer.submit(inserting(1)) == 1


@pytest.mark.parametrize("value", [10**30, "\ud83d"])
async def test_a_value_that_no_column_holds_is_refused(writer: Writer, value: object) -> None:
    with pytest.raises(DatabaseException, match="refused a value that it cannot keep"):
        await writer.submit(lambda connection: connection.execute(INSERT, {"id": 1, "value": value}).rowcount)
