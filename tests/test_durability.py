"""What was acknowledged is there after a kill, and a disk that stands still costs neither memory nor clear words."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.killing import kill_after

from tale.exceptions import DatabaseException
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import MeasuredCall, TokenTracker
from tale.records import CallContext, Reply, Usage
from tale.storage.call_store import PROCESS_DIED, CallStore
from tale.storage.database import Database
from tale.storage.writer import BATCH_LIMIT, QUEUE_LIMIT

CALLS_PER_S = 500
FULL_USAGE = (10, 5, 4)
FEW = 4 * BATCH_LIMIT  # that may wait, as the usual limit takes seconds to reach
TOO_MANY = 2 * BATCH_LIMIT  # of which one batch is under way
CHAT = CallContext("ux", "chat")
REPLY = Reply("Hello", "small", "stop", Usage(10, 5))


@contextmanager
def standing_still(path: Path) -> Iterator[None]:
    """Nothing can be written to the database: another program holds its lock, as a disk that hangs would."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def begin(calls: CallStore) -> MeasuredCall:
    return TokenTracker(Recorder(calls)).begin(CHAT, model="small", provider="played", budget_tokens=None)


@pytest.mark.parametrize("acknowledgements", [1, 40, 400])
def test_a_kill_loses_no_call_whose_record_was_acknowledged(tmp_path: Path, acknowledgements: int) -> None:
    killed = kill_after(f"sqlite:///{tmp_path}/tale.db", acknowledgements, calls_per_s=CALLS_PER_S)
    assert len(killed.acknowledged) >= acknowledgements
    assert killed.lost == set()
    assert set(killed.complete.values()) == {FULL_USAGE}


async def test_calls_that_a_kill_left_open_are_closed_by_the_next_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tale.db"
    killed = await asyncio.to_thread(kill_after, url, 100, calls_per_s=CALLS_PER_S)
    database = Database.open(url)
    calls = CallStore(database)
    assert await calls.close_orphans(time.time(), owner="") == len(killed.open)
    rows = await calls.calls(limit=10**6)
    assert len(rows) == len(killed.complete) + len(killed.open)
    assert all(row.ended_at is not None for row in rows)
    assert [row.error_class for row in rows].count(PROCESS_DIED) == len(killed.open)
    await database.close()


async def test_a_call_is_acknowledged_only_when_the_disk_moves_again(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    calls = CallStore(database)
    call = begin(calls)
    await call.opened()
    with standing_still(tmp_path / "tale.db"):
        ending = asyncio.create_task(call.completed(REPLY))
        done, _ = await asyncio.wait([ending], timeout=0.1)
        assert not done
        assert [row.ended_at for row in await calls.calls()] == [None]
    await ending
    assert [(row.finish_reason, row.output_tokens) for row in await calls.calls()] == [("stop", 5)]
    await database.close()


async def test_a_disk_that_stands_still_is_said_so_and_holds_no_more_calls_than_a_limit(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db", busy_timeout_s=60.0)  # so that nothing fails meanwhile
    assert database._writer._queue_limit == QUEUE_LIMIT
    database._writer._queue_limit = FEW
    calls = CallStore(database)
    with standing_still(tmp_path / "tale.db"):
        begun = [begin(calls) for _ in range(FEW + TOO_MANY)]
        await asyncio.sleep(0)  # each call's opening is handed to the writer
        refused: list[str] = []
        for call in begun:
            try:
                call.check()
            except DatabaseException as error:
                refused.append(error.message)
        assert TOO_MANY - BATCH_LIMIT <= len(refused) <= TOO_MANY
        assert set(refused) == {f"The database cannot keep up: {FEW:,} writes wait. Try again in a moment."}
    outcomes = await asyncio.gather(*(call.opened() for call in begun), return_exceptions=True)
    accepted = [outcome for outcome in outcomes if outcome is None]
    assert len(accepted) == len(begun) - len(refused)
    assert len(await calls.calls(limit=10**6)) == len(accepted)  # and what was accepted is there
    await database.close()
