"""What only the embedded engine does: one scan at the start, and waits of its own; test_engines.py has the rest."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.servers import until

from tale.exceptions import NetworkException
from tale.orchestration.engines.embedded_engine import EmbeddedEngine
from tale.orchestration.engines.engine import EndedTask, RunAttempt
from tale.records import NewTask, Task, TaskStatus
from tale.storage.database import Database
from tale.storage.task_store import TaskStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TaskStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield TaskStore(database)
    await database.close()


def engine(
    store: TaskStore,
    run: RunAttempt,
    *,
    slots: int = 1,
    queue_limit: int = 100,
    ended: Callable[[Task], None] | None = None,
) -> EmbeddedEngine:
    return EmbeddedEngine(
        store,
        run,
        slots=slots,
        queue_limit=queue_limit,
        retry_delay_s=0.0,
        on_end=ended or (lambda _: None),
        draw=lambda: 0.0,
    )


def new_task(text: str, *, priority: int = 0, created_at: float = 1.0, key: str | None = None) -> Task:
    return Task(
        str(uuid.uuid4()), text, TaskStatus.QUEUED, created_at, priority=priority, timeout_s=10, idempotency_key=key
    )


class Runner:
    """Claims and completes each task, in the order it is handed them."""

    def __init__(self, store: TaskStore, total: int) -> None:
        self.store, self.left = store, total
        self.order: list[str] = []
        self.done = asyncio.Event()

    async def __call__(self, task_id: str, attempt: int) -> Task | None:
        task = await self.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=9)
        assert task is not None
        self.order.append(task.text)
        await self.store.finish(task.id, task.attempt, status=TaskStatus.COMPLETED, now=2.0, result="ok")
        self.left -= 1
        if not self.left:
            self.done.set()
        return await self.store.get(task_id)


async def test_equals_go_in_the_order_in_which_they_were_made_and_none_twice(
    store: TaskStore,
) -> None:
    runner = Runner(store, 4)
    queue = engine(store, runner)
    for text, priority, moment in [("late", 0, 2.0), ("early", 0, 1.0), ("urgent", 5, 3.0), ("idle", -5, 0.0)]:
        await queue.submit(new_task(text, priority=priority, created_at=moment))
    assert queue.waiting() == 4
    # What was submitted before the start is read from the rows too: each task must still run once.
    restarted = engine(store, runner)
    await restarted.start()
    await runner.done.wait()
    await restarted.stop(1.0)
    assert runner.order == ["urgent", "early", "late", "idle"]


async def test_a_task_that_is_submitted_during_the_start_is_handed_out_once(store: TaskStore) -> None:
    pair, gate = asyncio.Event(), asyncio.Event()
    handed: list[str] = []

    async def run(task_id: str, attempt: int) -> Task | None:
        handed.append(task_id)
        if len(handed) == 2:
            pair.set()
        await gate.wait()
        return None

    queue = engine(store, run, slots=3)
    first, second = await queue.submit(new_task("a")), await queue.submit(new_task("b"))
    await queue.start()  # the scan meets both again
    await pair.wait()
    assert sorted(handed) == sorted([first.id, second.id])
    assert (queue.waiting(), queue.running()) == (0, 2)
    gate.set()
    await queue.stop(1.0)


async def test_a_task_withdrawn_before_its_next_attempt_does_not_come_back(store: TaskStore) -> None:
    failed = asyncio.Event()
    attempts = 0

    async def run(task_id: str, attempt: int) -> Task | None:
        nonlocal attempts
        attempts += 1
        return await store.get(task_id)

    queue = EmbeddedEngine(
        store, run, slots=1, queue_limit=9, retry_delay_s=3_600.0, on_end=lambda _: failed.set(), draw=lambda: 0.0
    )
    await queue.start()
    task = await queue.submit(new_task("x"))
    await failed.wait()
    assert queue.waiting() == 1
    queue.withdraw(task.id)
    assert (queue.waiting(), attempts) == (0, 1)
    await queue.stop(1.0)


async def test_a_task_that_waits_for_its_next_attempt_goes_by_its_new_priority(store: TaskStore) -> None:
    runner = Runner(store, 3)

    async def run(task_id: str, attempt: int) -> Task | None:
        if attempt or task_id != failing.id:
            return await runner(task_id, attempt)
        await store.claim(task_id, expected_attempt=0, now=1.0, max_failures=9)
        return await store.release(task_id, 1, outcome="failed", now=2.0, max_failures=9)

    def put_last(task: Task) -> None:
        if not task.status.is_final:
            queue.move(replace(task, priority=-1))

    queue = engine(store, run, ended=put_last)
    failing, *_ = [await queue.submit(new_task(text, created_at=n)) for n, text in enumerate(("fails", "b", "c"))]
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["b", "c", "fails"]


async def test_while_the_runner_is_out_of_reach_only_the_first_task_is_tried_and_all_keep_their_places(
    store: TaskStore,
) -> None:
    runner = Runner(store, 3)
    handed: list[str] = []
    is_away = True

    async def run(task_id: str, attempt: int) -> Task | None:
        handed.append(task_id)
        if is_away:
            raise NetworkException("The runner does not answer.")
        return await runner(task_id, attempt)

    queue = EmbeddedEngine(
        store, run, slots=1, queue_limit=9, retry_delay_s=0.02, on_end=lambda _: None, draw=lambda: 0.0
    )
    first, *_ = [await queue.submit(new_task(text, created_at=float(text))) for text in ("1", "2", "3")]
    await queue.start()
    while len(handed) < 4:
        await asyncio.sleep(0.005)
    assert set(handed) == {first.id}
    assert queue.waiting() + queue.running() == 3
    is_away = False
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["1", "2", "3"]


async def test_a_pause_holds_while_the_runner_is_out_of_reach(store: TaskStore) -> None:
    handed: list[str] = []

    async def run(task_id: str, attempt: int) -> Task | None:
        handed.append(task_id)
        await queue.pause()
        raise NetworkException("The runner does not answer.")

    queue = engine(store, run)
    await queue.submit(new_task("x"))
    await queue.start()
    while not handed:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert (len(handed), queue.waiting()) == (1, 1)
    await queue.stop(1.0)


async def test_what_a_task_waits_for_may_end_while_it_is_still_being_handed_in(tmp_path: Path) -> None:
    class SlowStore(TaskStore):
        stored, gate = asyncio.Event(), asyncio.Event()

        async def insert_all(self, new: Sequence[NewTask]) -> list[Task]:
            inserted = await super().insert_all(new)
            if new[0].after:
                self.stored.set()
                await self.gate.wait()
            return inserted

    database = Database.open(f"sqlite:///{tmp_path / 'slow.db'}")
    store = SlowStore(database)
    runner = Runner(store, 1)
    queue = engine(store, runner)
    first = await store.insert(new_task("first"))
    second = new_task("second")
    handing_in = asyncio.create_task(queue.submit_all([NewTask(second, after=(first.id,))]))
    await store.stored.wait()  # its row is there and waits for the first task, which ends just now
    await store.claim(first.id, expected_attempt=0, now=1.0, max_failures=9)
    await store.finish(first.id, 1, status=TaskStatus.COMPLETED, now=2.0)
    (freed,) = await store.dependents(first.id)
    queue.hand_out(freed)
    await queue.start()
    await runner.done.wait()
    while queue.running():
        await asyncio.sleep(0)
    store.gate.set()
    await handing_in
    await queue.stop(1.0)
    await database.close()
    assert (runner.order, queue.waiting()) == (["second"], 0)


async def test_a_task_that_is_moved_just_as_it_waits_no_more_goes_by_its_new_priority(store: TaskStore) -> None:
    runner = Runner(store, 2)
    queue = engine(store, runner)
    first = await store.insert(new_task("first"))
    (freed,) = await queue.submit_all([NewTask(new_task("freed"), after=(first.id,))])
    await queue.submit(new_task("other", priority=3))
    await store.claim(first.id, expected_attempt=0, now=1.0, max_failures=9)
    await store.finish(first.id, 1, status=TaskStatus.COMPLETED, now=2.0)
    (as_read,) = await store.dependents(first.id)
    queue.move(await store.change_priority(freed.id, 9) or freed)
    queue.hand_out(as_read)
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["freed", "other"]


async def test_a_task_whose_runner_tells_its_end_is_told_without_a_look_at_its_row(store: TaskStore) -> None:
    told: list[EndedTask | Task] = []
    task = new_task("one")

    async def elsewhere(task_id: str, attempt: int) -> EndedTask:
        return EndedTask(task_id, TaskStatus.COMPLETED)

    queue = EmbeddedEngine(store, elsewhere, slots=1, queue_limit=9, retry_delay_s=0.0, on_end=told.append)
    await queue.start()
    await queue.submit(task)
    await until(lambda: bool(told))
    assert (told, queue.waiting(), queue.running()) == ([EndedTask(task.id, TaskStatus.COMPLETED)], 0, 0)
    await queue.stop(0.0)
