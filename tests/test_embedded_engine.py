"""The embedded engine hands tasks out by priority, tries again what failed, and takes up what was left behind."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tale.exceptions import DatabaseException, NetworkException, TaskException
from tale.orchestration.engines.embedded_engine import EmbeddedEngine
from tale.orchestration.engines.engine import RunAttempt
from tale.records import Task, TaskStatus
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
    """Claims and completes each task, in the order it is handed them; the first attempts fail as told."""

    def __init__(self, store: TaskStore, total: int, failures: int = 0, lost: int = 0) -> None:
        self.store, self.left, self.failures, self.lost = store, total, failures, lost
        self.order: list[str] = []
        self.done = asyncio.Event()

    async def __call__(self, task_id: str, attempt: int) -> Task | None:
        task = await self.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=9)
        assert task is not None
        self.order.append(task.text)
        if self.lost:
            self.lost -= 1
            raise NetworkException("The runner died.")
        if self.failures:
            self.failures -= 1
            return await self.store.release(task.id, task.attempt, outcome="failed", now=2.0, max_failures=9)
        await self.store.finish(task.id, task.attempt, status=TaskStatus.COMPLETED, now=2.0, result="ok")
        self.left -= 1
        if not self.left:
            self.done.set()
        return await self.store.get(task_id)


async def test_urgent_tasks_go_first_and_equals_in_order_of_submission(store: TaskStore) -> None:
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


async def test_a_failed_attempt_is_made_again(store: TaskStore) -> None:
    runner = Runner(store, 1, failures=2)
    queue = engine(store, runner)
    await queue.start()
    task = await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["x"] * 3
    row = await store.get(task.id)
    assert row is not None
    assert (row.status, row.failures) == (TaskStatus.COMPLETED, 2)


async def test_a_task_whose_runner_is_lost_is_taken_up_again(store: TaskStore) -> None:
    runner = Runner(store, 1, lost=1)
    queue = engine(store, runner)
    await queue.start()
    task = await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert [past.outcome for past in await store.attempts(task.id)] == ["lost", "completed"]


async def test_a_running_task_of_a_dead_process_is_taken_up_at_the_start(store: TaskStore) -> None:
    task = await store.insert(new_task("x"))
    await store.claim(task.id, expected_attempt=0, now=1.0, max_failures=9)
    runner = Runner(store, 1)
    queue = engine(store, runner)
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert [past.outcome for past in await store.attempts(task.id)] == ["lost", "completed"]


async def test_the_same_key_gives_the_task_stored_first_and_queues_nothing(store: TaskStore) -> None:
    queue = engine(store, Runner(store, 1))
    first = await queue.submit(new_task("x", key="k"))
    assert await queue.submit(new_task("y", key="k")) == first
    assert queue.waiting() == 1


async def test_a_full_queue_refuses_and_says_when_to_come_back(store: TaskStore) -> None:
    queue = engine(store, Runner(store, 1), queue_limit=2)
    await queue.submit(new_task("a"))
    await queue.submit(new_task("b"))
    with pytest.raises(TaskException, match="The queue is full") as caught:
        await queue.submit(new_task("c"))
    assert caught.value.context["waiting"] == 2


async def test_a_stop_lets_go_of_attempts_that_do_not_end_in_time(store: TaskStore) -> None:
    started, let_go = asyncio.Event(), asyncio.Event()

    async def run(task_id: str, attempt: int) -> Task | None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            let_go.set()
        return None

    queue = engine(store, run)
    await queue.start()
    await queue.submit(new_task("x"))
    await started.wait()
    await queue.stop(0.01)
    assert let_go.is_set()


async def test_slots_limit_what_runs_at_the_same_time(store: TaskStore) -> None:
    running = most = 0
    pair, finished = asyncio.Barrier(2), asyncio.Event()
    ended = 0

    async def run(task_id: str, attempt: int) -> Task | None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await pair.wait()  # opens only when two are here at the same time
        running -= 1
        ended += 1
        if ended == 6:
            finished.set()
        return None

    queue = engine(store, run, slots=2)
    await queue.start()
    for number in range(6):
        await queue.submit(new_task(str(number)))
    await finished.wait()
    await queue.stop(1.0)
    assert most == 2


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


async def test_an_error_of_our_own_does_not_lose_the_task(store: TaskStore) -> None:
    runner = Runner(store, 1)
    broken = True

    async def run(task_id: str, attempt: int) -> Task | None:
        nonlocal broken
        if broken:
            broken = False
            raise KeyError("not foreseen")
        return await runner(task_id, attempt)

    queue = engine(store, run)
    await queue.start()
    await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["x"]


async def test_the_end_of_a_task_is_told_even_when_its_runner_s_answer_was_lost(store: TaskStore) -> None:
    told: asyncio.Queue[Task] = asyncio.Queue()

    async def run(task_id: str, attempt: int) -> Task | None:
        await store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=9)
        await store.finish(task_id, 1, status=TaskStatus.COMPLETED, now=2.0, result="ok")
        raise NetworkException("The connection broke just then.")

    queue = engine(store, run, ended=told.put_nowait)
    await queue.start()
    await queue.submit(new_task("x"))
    assert (await told.get()).status is TaskStatus.COMPLETED
    assert queue.waiting() == 0
    await queue.stop(1.0)


async def test_a_withdrawn_task_makes_room_at_once_and_is_not_handed_out(store: TaskStore) -> None:
    runner = Runner(store, 1)
    queue = engine(store, runner, queue_limit=1)
    withdrawn = await queue.submit(new_task("withdrawn"))
    queue.withdraw(withdrawn.id)
    await queue.submit(new_task("kept"))
    queue.withdraw(str(uuid.uuid4()))
    await store.request_cancel(withdrawn.id, 1.0)
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["kept"]


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


class FaultyStore(TaskStore):
    """Cannot be read so many times."""

    faults = 0

    async def get(self, task_id: str) -> Task | None:
        if self.faults:
            self.faults -= 1
            raise DatabaseException("The disk does not answer.")
        return await super().get(task_id)


async def test_a_database_that_does_not_answer_for_a_while_costs_no_task(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'faulty.db'}")
    store = FaultyStore(database)
    runner = Runner(store, 1, lost=1)
    queue = engine(store, runner)
    await queue.start()
    store.faults = 2
    await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    await database.close()
    assert runner.order == ["x", "x"]
