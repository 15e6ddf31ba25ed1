"""What tasks ask for is settled by their rows, alike on both kinds of database."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tale.exceptions import ValidationException
from tale.records import Attachment, NewTask, Task, TaskStatus
from tale.storage.database import Database
from tale.storage.dependencies import DEPENDENCY_FAILED
from tale.storage.task_moves import DEADLINE_PASSED
from tale.storage.task_store import TaskStore


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TaskStore]:
    on_file = request.param == "sqlite"
    database = Database.open(
        f"sqlite:///{tmp_path / 'tale.db'}" if on_file else request.getfixturevalue("postgres_url")
    )
    yield TaskStore(database)
    await database.close()


def task(text: str = "Work", *, deadline_at: float | None = None, key: str | None = None) -> Task:
    return Task(
        str(uuid.uuid4()), text, TaskStatus.QUEUED, 1.0, timeout_s=10, deadline_at=deadline_at, idempotency_key=key
    )


async def begun(store: TaskStore, task_id: str, now: float = 2.0) -> Task | None:
    return await store.claim(task_id, expected_attempt=None, now=now, max_failures=3)


async def done(store: TaskStore, task_id: str, status: TaskStatus = TaskStatus.COMPLETED) -> None:
    assert await begun(store, task_id)
    assert await store.finish(task_id, 1, status=status, now=3.0, result=f"result of {task_id}")


async def got(store: TaskStore, task_id: str) -> Task:
    found = await store.get(task_id)
    assert found is not None
    return found


async def test_a_task_cannot_be_begun_before_all_that_it_waits_for_have_completed(store: TaskStore) -> None:
    one, two, last = task("one"), task("two"), task("last")
    await store.insert_all([NewTask(one), NewTask(two)])
    (stored,) = await store.insert_all([NewTask(last, after=(two.id, one.id))])
    assert stored.open_dependencies == 2
    assert await store.awaited() == {one.id, two.id}
    assert await begun(store, last.id) is None
    await done(store, one.id)
    assert (await got(store, last.id)).open_dependencies == 1
    assert await begun(store, last.id) is None
    await done(store, two.id)
    assert await store.awaited() == set()
    assert [each.id for each in await store.dependents(one.id)] == [last.id]
    assert [each.id for each in await store.awaited_by(last.id)] == [two.id, one.id]
    assert (await begun(store, last.id) or one).status is TaskStatus.RUNNING


async def test_ends_at_the_same_moment_are_all_counted(store: TaskStore) -> None:
    first = [task() for _ in range(8)]
    last = task("last")
    await store.insert_all([*map(NewTask, first), NewTask(last, after=tuple(each.id for each in first))])
    await asyncio.gather(*(done(store, each.id) for each in first))
    assert (await got(store, last.id)).open_dependencies == 0


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.CANCELLED])
async def test_the_end_of_one_is_the_end_of_all_that_wait_for_it(store: TaskStore, status: TaskStatus) -> None:
    first, middle, last, other = task("first"), task("middle"), task("last"), task("other")
    await store.insert_all(
        [NewTask(first), NewTask(other), NewTask(middle, (first.id, other.id)), NewTask(last, (middle.id,))]
    )
    await done(store, first.id, status)
    ended = await got(store, middle.id)
    how = "failed" if status is TaskStatus.FAILED else "was cancelled"
    assert (ended.status, ended.error_class, ended.ended_at) == (TaskStatus.FAILED, DEPENDENCY_FAILED, 3.0)
    assert ended.error == f"Task {first.id}, for which this one waited, {how}."
    assert (await got(store, last.id)).status is TaskStatus.FAILED
    await done(store, other.id)
    assert (await got(store, middle.id)).status is TaskStatus.FAILED
    (late,) = await store.insert_all([NewTask(task("late"), after=(first.id,))])
    assert (late.status, late.error_class) == (TaskStatus.FAILED, DEPENDENCY_FAILED)


async def test_a_task_may_wait_for_one_that_has_completed_and_not_for_one_that_never_was(store: TaskStore) -> None:
    first = task()
    await store.insert(first)
    await done(store, first.id)
    (stored,) = await store.insert_all([NewTask(task("next"), after=(first.id,))])
    assert (stored.status, stored.open_dependencies) == (TaskStatus.QUEUED, 0)
    with pytest.raises(ValidationException, match="to wait for"):
        await store.insert_all([NewTask(task("stays out")), NewTask(task(), after=(str(uuid.uuid4()),))])
    assert {each.text for each in await store.list()} == {"Work", "next"}


async def test_a_task_that_waited_too_long_fails_wherever_it_is_met(store: TaskStore) -> None:
    queued, later, claimed, retried = (task(deadline_at=moment) for moment in (5.0, 9.0, 6.0, 7.0))
    waits = task("waits for one that is late")
    await store.insert_all([NewTask(each) for each in (queued, later, claimed, retried, task())])
    await store.insert_all([NewTask(waits, (queued.id,))])
    assert await store.next_deadline(1.0) == 5.0
    assert await begun(store, retried.id)
    assert await begun(store, claimed.id, now=6.0) is None
    assert (await got(store, claimed.id)).error_class == DEADLINE_PASSED
    assert [each.id for each in await store.expire(5.5)] == [queued.id]
    assert (await got(store, waits.id)).error_class == DEPENDENCY_FAILED
    assert await store.next_deadline(6.5) == 7.0  # it runs, and may come back to the queue before
    assert await store.next_deadline(7.0) == 9.0
    released = await store.release(retried.id, 1, outcome="failed", now=7.5, max_failures=3, error="It broke.")
    assert (released or task()).status is TaskStatus.FAILED
    assert await store.next_deadline(7.5) == 9.0


async def test_a_pause_is_kept_from_its_first_moment(store: TaskStore) -> None:
    assert await store.paused_at() is None
    await store.pause(1700000000.25)
    await store.pause(1700000009.0)
    assert await store.paused_at() == 1700000000.25
    await store.resume()
    await store.resume()
    assert await store.paused_at() is None


async def test_files_are_kept_in_order_and_once(store: TaskStore) -> None:
    files = (Attachment("b.txt", "beta"), Attachment("a.txt", "älpha"))
    first = task(key="k")
    again = task("again", key="k")
    await store.insert_all([NewTask(first, attachments=files)])
    (stored,) = await store.insert_all([NewTask(again, after=(first.id,), attachments=files)])
    assert stored.id == first.id
    assert await store.attachments(first.id) == list(files)
    assert await store.attachments(again.id) == []
