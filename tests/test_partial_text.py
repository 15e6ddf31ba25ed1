"""What a model wrote before its runner died is the partial result of the task; what comes late changes nothing."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.scripted_pool import ScriptedPool
from fakes.servers import until

from tale.exceptions import DatabaseException
from tale.orchestration.executor import TaskExecutor
from tale.orchestration.partial_text import kept_as_it_grows
from tale.records import Task, TaskStatus
from tale.storage.database import Database
from tale.storage.task_store import TaskStore


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TaskStore]:
    is_postgres = request.param == "postgres"
    database = Database.open(request.getfixturevalue("postgres_url") if is_postgres else f"sqlite:///{tmp_path}/t.db")
    yield TaskStore(database)
    await database.close()


def executor(store: TaskStore, pool: ScriptedPool, *, max_failures: int = 3) -> TaskExecutor:
    figures = {"max_output_tokens": 64, "max_failures": max_failures}
    return TaskExecutor(store, pool, clock=lambda: 1000.0, keep_text_s=0.0, **figures)


async def queued(store: TaskStore) -> Task:
    return await store.insert(Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0, timeout_s=300))


async def row_of(store: TaskStore, task: Task) -> Task:
    row = await store.get(task.id)
    assert row is not None
    return row


async def broken_off_after(store: TaskStore, task: Task, *texts: str) -> None:
    """Make an attempt that is given back to the queue once these texts have been kept."""
    runner = asyncio.create_task(executor(store, ScriptedPool([*texts, asyncio.Event()])).execute(task.id))

    async def is_kept() -> bool:
        return (await row_of(store, task)).result == "".join(texts)

    await until(is_kept)
    assert (await row_of(store, task)).status is TaskStatus.RUNNING
    runner.cancel()
    await asyncio.wait([runner])
    assert (await row_of(store, task)).status is TaskStatus.QUEUED


async def test_the_text_of_a_runner_that_died_is_the_result_of_a_task_that_is_given_up(store: TaskStore) -> None:
    task = await queued(store)
    await store.claim(task.id, expected_attempt=0, now=1.0, max_failures=1)
    await store.keep_text(task.id, 1, "An old")
    await store.keep_text(task.id, 1, "An old pond")  # here it died
    given_up = await executor(store, ScriptedPool(), max_failures=1).execute(task.id, attempt=1)
    assert (given_up.status, given_up.error_class) == (TaskStatus.FAILED, "AttemptsExhausted")
    assert given_up.result == "An old pond"


async def test_a_text_is_kept_while_it_grows_and_stays_until_the_next_attempt_has_one(store: TaskStore) -> None:
    task = await queued(store)
    await broken_off_after(store, task, "An old", " pond")
    waiting = asyncio.Event()
    running = asyncio.create_task(executor(store, ScriptedPool([waiting, "A frog"])).execute(task.id))

    async def is_running() -> bool:
        return (await row_of(store, task)).status is TaskStatus.RUNNING

    await until(is_running)
    assert (await row_of(store, task)).result == "An old pond"
    waiting.set()
    assert ((await running).status, (await running).result) == (TaskStatus.COMPLETED, "A frog")


async def test_an_attempt_that_ends_without_a_word_leaves_the_earlier_text(store: TaskStore) -> None:
    task = await queued(store)
    await broken_off_after(store, task, "An old pond")
    pool = ScriptedPool([asyncio.Event()])
    runner = executor(store, pool)
    running = asyncio.create_task(runner.execute(task.id))
    await asyncio.wait_for(pool.started.wait(), 60)
    await store.request_cancel(task.id, 5.0)
    await runner.stop_task(task.id)
    assert ((await running).status, (await running).result) == (TaskStatus.CANCELLED, "An old pond")


async def test_an_answer_without_a_word_is_none(store: TaskStore) -> None:
    task = await queued(store)
    await broken_off_after(store, task, "An old pond")
    done = await executor(store, ScriptedPool([""])).execute(task.id)
    assert (done.status, done.result) == (TaskStatus.COMPLETED, None)


async def test_a_late_text_changes_neither_an_end_nor_the_attempt_in_force(store: TaskStore) -> None:
    task = await queued(store)
    await store.claim(task.id, expected_attempt=0, now=1.0, max_failures=3)
    await store.claim(task.id, expected_attempt=1, now=2.0, max_failures=3)
    await store.keep_text(task.id, 1, "late")
    assert (await row_of(store, task)).result is None
    await store.finish(task.id, 2, status=TaskStatus.COMPLETED, now=3.0, result="done")
    await store.keep_text(task.id, 2, "later")
    assert (await row_of(store, task)).result == "done"


async def test_a_database_that_fails_stops_no_writing() -> None:
    kept: list[str] = []

    async def keep(text: str) -> None:
        kept.append(text)
        if len(kept) == 1:
            raise DatabaseException("The disk is full.")

    pieces = ["An old"]
    async with kept_as_it_grows(pieces, keep, first_s=0.0):
        await until(lambda: len(kept) == 1)
        pieces.append(" pond")
        await until(lambda: len(kept) == 2)
    assert kept == ["An old", "An old pond"]
