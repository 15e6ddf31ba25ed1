"""Histories go out while others write: whatever comes, goes or is gone on with meanwhile, they go in elsewhere."""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, delete

from tale.records import Task, TaskStatus
from tale.storage.conversation_store import ConversationStore
from tale.storage.database import Database
from tale.storage.engines import make_engine, parse_url
from tale.storage.reader import Reader
from tale.storage.tables import tasks
from tale.storage.task_store import TaskStore
from tale.storage.transfer import Period, export_all, files_of, import_file
from tale.storage.upgrade import BUSY_TIMEOUT_S

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("migrated")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/here/tale.db")
    yield database
    await database.close()


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/elsewhere/tale.db")
    yield database
    await database.close()


def new_task(number: int, at: float) -> Task:
    return Task(str(uuid.UUID(int=number, version=4)), "t", TaskStatus.COMPLETED, at, ended_at=at)


class Disturbed(Reader):
    """After each page that it reads, others write."""

    def __init__(self, url: str, meanwhile: Callable[[], None]) -> None:
        super().__init__(parse_url(url), make_engine(parse_url(url), "read", busy_timeout_s=BUSY_TIMEOUT_S))
        self._meanwhile = meanwhile

    def read(self, work: Callable[[Connection], T]) -> T:
        found = super().read(work)
        self._meanwhile()
        return found

    def close(self) -> None:
        self._engine.dispose()


async def test_what_ends_while_a_history_goes_out_does_not_keep_it_from_going_in(
    database: Database, elsewhere: Database, tmp_path: Path
) -> None:
    numbers, loop = itertools.count(1), asyncio.get_running_loop()

    async def go_on() -> None:
        number, now = next(numbers), time.time()
        await TaskStore(database).insert(new_task(number, now))
        await TaskStore(database).add_feedback(new_task(number, now).id, "good", None, now)
        await ConversationStore(database).append(f"c{number}", "user", "Hello", now=now)

    reader = Disturbed(database.url, lambda: asyncio.run_coroutine_threadsafe(go_on(), loop).result())
    await go_on()
    await asyncio.to_thread(export_all, reader, tmp_path / "out", Period(), "parquet")
    reader.close()
    moved = {table.name: await import_file(elsewhere, table, path) for table, path in files_of(tmp_path / "out")}
    assert moved["tasks"].rows >= moved["feedback"].rows > 0
    assert moved["conversations"].rows >= moved["messages"].rows > 0


@pytest.mark.parametrize("period", [{}, {"until": 1_000.0}, {"since": 1_000.0}], ids=["whole", "until", "since"])
async def test_what_goes_or_is_gone_on_with_while_a_history_goes_out_does_not_keep_it_from_going_in(
    database: Database, elsewhere: Database, tmp_path: Path, period: dict[str, float]
) -> None:
    numbers, loop = itertools.count(), asyncio.get_running_loop()

    async def go_on() -> None:
        number = next(numbers)
        gone = delete(tasks).where(tasks.c.id == new_task(number, 0.0).id)
        await database.write(lambda connection: connection.execute(gone).rowcount)
        await ConversationStore(database).append(f"c{number}", "user", "Hello again", now=time.time())

    for number in range(30):
        await TaskStore(database).insert(new_task(number, float(number)))
        await TaskStore(database).add_feedback(new_task(number, 0.0).id, "good", None, 99.0)
        await ConversationStore(database).append(f"c{number}", "user", "Hello", now=float(number))
    reader = Disturbed(database.url, lambda: asyncio.run_coroutine_threadsafe(go_on(), loop).result())
    await asyncio.to_thread(export_all, reader, tmp_path / "out", Period(**period), "parquet")
    reader.close()
    moved = {table.name: await import_file(elsewhere, table, path) for table, path in files_of(tmp_path / "out")}
    assert next(numbers) < 30
    for parent, child in (("tasks", "feedback"), ("conversations", "messages")):
        assert (moved[parent].rows > 0) is (moved[child].rows > 0) is ("since" not in period)
