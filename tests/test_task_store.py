"""Tasks move only as they may: claimed once, ended once, failed after enough tries, cancelled when asked."""

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from tale.exceptions import DatabaseException, ValidationException
from tale.records import Attempt, Task, TaskStatus
from tale.storage.database import Database
from tale.storage.tables import feedback
from tale.storage.task_store import TaskStore

MAX_FAILURES = 3


def new_task(**values: Any) -> Task:
    return Task(**{"id": str(uuid.uuid4()), "text": "t", "status": TaskStatus.QUEUED, "created_at": 1.0, **values})


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> TaskStore:
    return TaskStore(database)


async def claim(store: TaskStore, task: Task, expected: int | None = None, now: float = 2.0) -> Task | None:
    return await store.claim(task.id, expected_attempt=expected, now=now, max_failures=MAX_FAILURES)


async def test_a_task_is_read_as_it_was_stored(store: TaskStore) -> None:
    task = new_task(text="Grüße 🌍\n", priority=-3, timeout_s=9, max_output_tokens=5, trace_id="t", conversation_id="c")
    assert await store.insert(task) == task
    assert await store.get(task.id) == task
    assert await store.get("unknown") is None


async def test_text_that_no_database_holds_is_mended(store: TaskStore) -> None:
    task = await store.insert(new_task(text="\ud83d\ude00 half \ud83d nul \x00"))
    found = await store.get(task.id)
    assert found is not None
    assert found.text == "😀 half \ufffd nul \ufffd"


async def test_the_same_idempotency_key_gives_the_first_task(store: TaskStore) -> None:
    first = new_task(idempotency_key="k")
    found = await asyncio.gather(store.insert(first), *(store.insert(new_task(idempotency_key="k")) for _ in range(9)))
    assert found == [first] * 10
    assert await store.list() == [first]


async def test_tasks_without_a_key_are_all_stored(store: TaskStore) -> None:
    await asyncio.gather(*(store.insert(new_task()) for _ in range(10)))
    assert len(await store.list()) == 10


async def test_the_same_id_twice_is_refused(store: TaskStore) -> None:
    task = await store.insert(new_task())
    with pytest.raises(DatabaseException, match="refused a row"):
        await store.insert(task)


async def test_a_task_is_claimed_run_and_completed(store: TaskStore) -> None:
    task = await store.insert(new_task())
    running = await claim(store, task)
    assert running == replace(task, status=TaskStatus.RUNNING, attempt=1, started_at=2.0)
    ending = {"result": "r", "model": "m", "role": "task", "route_reason": "why", "finish_reason": "stop"}
    assert await store.finish(task.id, 1, status=TaskStatus.COMPLETED, now=3.0, **ending)
    assert await store.get(task.id) == replace(running, status=TaskStatus.COMPLETED, ended_at=3.0, **ending)
    assert await store.attempts(task.id) == [Attempt(task.id, 1, 2.0, 3.0, "completed", "m")]


async def test_of_many_claims_one_succeeds(store: TaskStore, database: Database, tmp_path: Path) -> None:
    other = Database.open(f"sqlite:///{tmp_path}/tale.db")
    task = await store.insert(new_task())
    claims = await asyncio.gather(*(claim(s, task, 0) for s in [store, TaskStore(other)] * 10))
    assert len([claimed for claimed in claims if claimed]) == 1
    taken = await asyncio.gather(*(claim(s, task, 1) for s in [store, TaskStore(other)] * 10))
    assert [claimed.attempt for claimed in taken if claimed] == [2]
    await other.close()


async def test_only_who_knows_the_attempt_takes_over_a_running_task(store: TaskStore) -> None:
    task = await store.insert(new_task())
    await claim(store, task)
    assert await claim(store, task) is None
    assert await claim(store, task, 0) is None
    taken = await claim(store, task, 1, now=5.0)
    assert taken is not None
    assert (taken.attempt, taken.failures, taken.started_at) == (2, 1, 5.0)
    assert not await store.finish(task.id, 1, status=TaskStatus.COMPLETED, now=6.0, result="late")
    assert await store.finish(task.id, 2, status=TaskStatus.COMPLETED, now=7.0, result="right")
    assert [attempt.outcome for attempt in await store.attempts(task.id)] == ["lost", "completed"]


async def test_a_task_whose_runner_dies_each_time_is_given_up(store: TaskStore) -> None:
    task = await store.insert(new_task())
    for attempt in range(MAX_FAILURES):
        claimed = await claim(store, task, attempt)
        assert claimed is not None
        assert claimed.failures == attempt
    assert await claim(store, task, MAX_FAILURES, now=9.0) is None
    given_up = await store.get(task.id)
    assert given_up is not None
    assert (given_up.status, given_up.error_class, given_up.ended_at) == (TaskStatus.FAILED, "AttemptsExhausted", 9.0)
    assert given_up.failures == MAX_FAILURES
    assert "after 3 attempts" in str(given_up.error)


async def test_a_failed_attempt_queues_the_task_again_until_it_has_failed(store: TaskStore) -> None:
    task = await store.insert(new_task())
    for number in range(1, MAX_FAILURES + 1):
        claimed = await claim(store, task)
        assert claimed is not None
        assert (claimed.result, claimed.error) == ("half" if number > 1 else None, None)
        released = await store.release(
            task.id,
            number,
            outcome="failed",
            now=4.0,
            max_failures=MAX_FAILURES,
            result="half",
            error_class="E",
            error="e",
        )
        assert released is not None
        assert (released.failures, released.result, released.error) == (number, "half", "e")
        assert released.status is (TaskStatus.FAILED if number == MAX_FAILURES else TaskStatus.QUEUED)
        assert released.ended_at == (4.0 if number == MAX_FAILURES else None)
    assert await store.get(task.id) == released
    assert {attempt.outcome for attempt in await store.attempts(task.id)} == {"failed"}


async def test_handing_back_is_no_failure(store: TaskStore) -> None:
    task = await store.insert(new_task())
    for number in range(1, MAX_FAILURES + 3):
        await claim(store, task)
        back = await store.release(task.id, number, outcome="handed_back", now=4.0, max_failures=MAX_FAILURES)
        assert back is not None
        assert (back.status, back.failures) == (TaskStatus.QUEUED, 0)


async def test_a_release_that_comes_late_changes_nothing(store: TaskStore) -> None:
    task = await store.insert(new_task())
    await claim(store, task)
    taken = await claim(store, task, 1)
    assert await store.release(task.id, 1, outcome="failed", now=4.0, max_failures=MAX_FAILURES) is None
    assert await store.get(task.id) == taken
    assert await store.release("unknown", 1, outcome="failed", now=4.0, max_failures=MAX_FAILURES) is None


async def test_a_task_finishes_only_with_a_final_status(store: TaskStore) -> None:
    task = await store.insert(new_task())
    with pytest.raises(ValidationException, match="cannot finish as queued"):
        await store.finish(task.id, 1, status=TaskStatus.QUEUED, now=3.0)


async def test_a_queued_task_is_cancelled_at_once(store: TaskStore) -> None:
    task = await store.insert(new_task())
    cancelled = await store.request_cancel(task.id, 3.0)
    assert cancelled == replace(task, status=TaskStatus.CANCELLED, cancel_requested_at=3.0, ended_at=3.0)
    assert await claim(store, task) is None
    assert await store.request_cancel(task.id, 4.0) == cancelled
    assert await store.request_cancel("unknown", 4.0) is None


async def test_a_running_task_is_marked_and_cancelled_by_its_runner(store: TaskStore) -> None:
    task = await store.insert(new_task())
    running = await claim(store, task)
    assert running is not None
    marked = await store.request_cancel(task.id, 3.0)
    assert marked == replace(running, cancel_requested_at=3.0)
    assert await store.request_cancel(task.id, 4.0) == marked
    back = await store.release(task.id, 1, outcome="handed_back", now=5.0, max_failures=MAX_FAILURES, result="half")
    assert back is not None
    assert (back.status, back.ended_at, back.result) == (TaskStatus.CANCELLED, 5.0, "half")
    assert [attempt.outcome for attempt in await store.attempts(task.id)] == ["cancelled"]


async def test_a_marked_task_whose_runner_died_is_cancelled_by_the_next_claim(store: TaskStore) -> None:
    task = await store.insert(new_task())
    await claim(store, task)
    await store.request_cancel(task.id, 3.0)
    assert await claim(store, task, 1, now=4.0) is None
    settled = await store.get(task.id)
    assert settled is not None
    assert (settled.status, settled.ended_at) == (TaskStatus.CANCELLED, 4.0)
    assert [attempt.outcome for attempt in await store.attempts(task.id)] == ["lost"]


async def test_a_marked_task_that_failed_is_cancelled_and_the_attempt_keeps_its_error(store: TaskStore) -> None:
    task = await store.insert(new_task())
    await claim(store, task)
    await store.request_cancel(task.id, 3.0)
    ended = await store.release(task.id, 1, outcome="failed", now=4.0, max_failures=MAX_FAILURES, error="e")
    assert ended is not None
    assert ended.status is TaskStatus.CANCELLED
    assert [(attempt.outcome, attempt.error) for attempt in await store.attempts(task.id)] == [("failed", "e")]


async def test_pages_follow_one_another_without_gaps(store: TaskStore) -> None:
    stored = [new_task(created_at=float(number // 3)) for number in range(20)]
    await asyncio.gather(*(store.insert(task) for task in stored))
    newest_first = sorted(stored, key=lambda task: (task.created_at, task.id), reverse=True)
    found: list[Task] = []
    while page := await store.list(limit=7, before=(found[-1].created_at, found[-1].id) if found else None):
        found += page
    assert found == newest_first


async def test_tasks_are_listed_and_counted_by_status(store: TaskStore) -> None:
    queued, running, cancelled = [await store.insert(new_task(created_at=3.0 - number)) for number in range(3)]
    await claim(store, running)
    await store.request_cancel(cancelled.id, 5.0)
    assert [task.id for task in await store.list(status=TaskStatus.RUNNING)] == [running.id]
    assert [task.id for task in await store.open_tasks()] == [running.id, queued.id]
    assert await store.counts() == {
        TaskStatus.QUEUED: 1,
        TaskStatus.RUNNING: 1,
        TaskStatus.COMPLETED: 0,
        TaskStatus.FAILED: 0,
        TaskStatus.CANCELLED: 1,
    }


async def test_the_latest_feedback_counts(store: TaskStore, database: Database) -> None:
    task = await store.insert(new_task())
    assert await store.add_feedback(task.id, "good", None, 1.0)
    assert await store.add_feedback(task.id, "bad", "Too long.", 2.0, key_name="ann")
    assert not await store.add_feedback("unknown", "good", None, 3.0)
    rows = await database.read(lambda c: [tuple(row) for row in c.execute(select(feedback))])
    assert rows == [(task.id, "bad", "Too long.", 2.0, "ann")]


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What is sent to any database meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_lists_are_read_from_indexes(store: TaskStore, tmp_path: Path) -> None:
    with statements() as sent:
        await store.list()
        await store.list(before=(1.0, "x"))
        await store.list(status=TaskStatus.FAILED, before=(1.0, "x"))
        await store.open_tasks()
        await store.counts()
    with closing(sqlite3.connect(tmp_path / "tale.db")) as connection:
        for statement, parameters in sent:
            if statement.startswith("SELECT"):
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                assert "USING" in plan[0], (statement, plan)
                assert "INDEX" in plan[0], (statement, plan)
