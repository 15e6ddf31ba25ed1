"""Tasks that wait in the queue end at their deadlines, also those that another gateway has taken in."""

import asyncio
import uuid
from pathlib import Path

from fakes.scripted_pool import ScriptedPool
from fakes.servers import until
from test_orchestration import DirectClient

from tale.orchestration.coordinator import HTTPCoordinator
from tale.orchestration.deadlines import DeadlineWatch
from tale.orchestration.executor import TaskExecutor
from tale.orchestration.intake import Submission
from tale.records import NewTask, Task, TaskStatus
from tale.settings import load_settings
from tale.storage.database import Database
from tale.storage.task_store import TaskStore


async def test_deadlines_that_came_in_elsewhere_are_found_after_the_longest_sleep(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    store = TaskStore(database)
    late: asyncio.Queue[Task] = asyncio.Queue()
    watch = DeadlineWatch(store, clock=lambda: 1000.0, on_late=late.put_nowait, longest_sleep_s=0.02)
    await watch.start()
    task = Task(str(uuid.uuid4()), "x", TaskStatus.QUEUED, 1.0, timeout_s=10, deadline_at=999.0)
    await store.insert(task)  # and nobody notes it here
    assert (await late.get()).id == task.id
    await watch.stop()
    await database.close()


async def test_a_task_that_runs_while_deadlines_are_looked_at_and_comes_back_ends_at_its_own(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    store, now = TaskStore(database), [1000.0]
    late: asyncio.Queue[Task] = asyncio.Queue()
    watch = DeadlineWatch(store, clock=lambda: now[0], on_late=late.put_nowait)
    waits, runs = (
        Task(str(uuid.uuid4()), "x", TaskStatus.QUEUED, 1.0, timeout_s=10, deadline_at=at) for at in (999.0, 1000.1)
    )
    for task in (waits, runs):
        await store.insert(task)
    assert await store.claim(runs.id, expected_attempt=None, now=998.0, max_failures=3)
    await watch.start()
    assert (await late.get()).id == waits.id
    assert await store.release(runs.id, 1, outcome="failed", now=1000.0, max_failures=3, error="It broke.")
    now[0] = 1001.0
    async with asyncio.timeout(20):
        assert (await late.get()).id == runs.id
    await watch.stop()
    await database.close()


async def test_a_task_that_is_handed_back_after_its_deadline_fails_though_the_queue_is_paused(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    store, pool, now = TaskStore(database), ScriptedPool([asyncio.Event()]), [1000.0]
    executor = TaskExecutor(store, pool, max_output_tokens=64, max_failures=3, clock=lambda: now[0])
    settings = load_settings({"home": str(tmp_path), "acknowledge": False}, environment={})
    coordinator = HTTPCoordinator(settings, store, execution=DirectClient(executor), pool=pool, clock=lambda: now[0])
    await coordinator.start()
    runs = await coordinator.submit(Submission("runs", deadline_s=100))
    await pool.started.wait()
    await coordinator.pause()
    waits = await coordinator.submit(Submission("waits", deadline_s=1))
    now[0] = 2000.0
    assert (await coordinator.wait(waits.id, timeout_s=20)).error_class == "DeadlinePassed"
    await executor.stop()  # as when its process stops
    done = await coordinator.wait(runs.id, timeout_s=20)
    assert (done.status, done.error_class, done.attempt) == (TaskStatus.FAILED, "DeadlinePassed", 1)
    await coordinator.stop(0.0)
    await database.close()


async def test_a_task_whose_runner_died_ends_at_its_deadline_though_the_queue_is_paused(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    store, pool, now = TaskStore(database), ScriptedPool(), [1000.0]
    lost, past, waits = (
        Task(str(uuid.uuid4()), "x", TaskStatus.QUEUED, 1.0, timeout_s=10, deadline_at=at)
        for at in (1000.2, 999.0, None)
    )
    await store.insert_all([NewTask(lost), NewTask(past), NewTask(waits, after=(lost.id,))])
    for task in (lost, past):
        assert await store.claim(task.id, expected_attempt=None, now=998.0, max_failures=3)  # by one that dies
    await store.pause(998.0)
    executor = TaskExecutor(store, pool, max_output_tokens=64, max_failures=3, clock=lambda: now[0])
    settings = load_settings({"home": str(tmp_path), "acknowledge": False}, environment={})
    coordinator = HTTPCoordinator(settings, store, execution=DirectClient(executor), pool=pool, clock=lambda: now[0])
    await coordinator.start()
    assert (await coordinator.wait(past.id, timeout_s=20)).error_class == "DeadlinePassed"  # while it was stopped
    assert (await coordinator.get(lost.id)).status is TaskStatus.RUNNING
    now[0] = 1001.0
    done = await coordinator.wait(lost.id, timeout_s=20)
    assert (done.status, done.error_class, done.attempt) == (TaskStatus.FAILED, "DeadlinePassed", 1)
    assert [attempt.outcome for attempt in await store.attempts(lost.id)] == ["lost"]
    assert (await coordinator.wait(waits.id, timeout_s=20)).error_class == "DependencyFailed"
    await until(lambda: coordinator.engine.waiting() == 0)
    assert pool.calls == []
    await coordinator.stop(0.0)
    await database.close()


async def test_a_task_that_runs_here_is_left_to_its_runner_at_its_deadline(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    store, pool, now = TaskStore(database), ScriptedPool([asyncio.Event()]), [1000.0]
    executor = TaskExecutor(store, pool, max_output_tokens=64, max_failures=3, clock=lambda: 1000.0)
    settings = load_settings({"home": str(tmp_path), "acknowledge": False}, environment={})
    coordinator = HTTPCoordinator(settings, store, execution=DirectClient(executor), pool=pool, clock=lambda: now[0])
    await coordinator.start()
    runs = await coordinator.submit(Submission("runs", deadline_s=100))
    await pool.started.wait()
    now[0] = 2000.0
    assert await coordinator.engine.lost(now[0]) == []
    assert [task.id for task in await store.overdue(now[0])] == [runs.id]
    await coordinator.stop(0.0)
    await database.close()
