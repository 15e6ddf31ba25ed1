"""What the gateways of one database hear of each other's tasks, and that they keep nothing of those that ended."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.postgres import run_on
from fakes.scripted_pool import ScriptedPool
from fakes.servers import until
from test_orchestration import DirectClient
from test_postgres_engine import Host, new_task

from tale.models.pool import ModelState
from tale.orchestration.coordinator import HTTPCoordinator
from tale.orchestration.engines.embedded_engine import EmbeddedEngine
from tale.orchestration.engines.postgres_worker import Pace
from tale.orchestration.executor import TaskExecutor
from tale.orchestration.intake import Submission
from tale.orchestration.task_events import PAUSED, QUEUED, TaskEvent, TaskEvents
from tale.orchestration.task_relay import TaskRelay
from tale.orchestration.task_texts import TaskTexts
from tale.records import Task, TaskStatus
from tale.settings import load_settings
from tale.storage.database import Database
from tale.storage.engines import postgresql_dsn
from tale.storage.task_store import TaskStore


class Side:
    """One process's share in the news, and all that it heard or said of the task "t"."""

    def __init__(self, url: str) -> None:
        dsn = postgresql_dsn(url)
        assert dsn is not None
        self.events, self.heard = TaskEvents(), list[str]()
        self.events.tap(lambda event: self.heard.append(event.message) if event.task_id == "t" else None)
        self.relay = TaskRelay(
            dsn,
            self.events,
            TaskTexts(),
            read=self.read,
            on_pause=lambda _: None,
            is_paused=self.is_paused,
        )

    async def read(self, task_id: str) -> Task | None:
        """No row matters here."""
        return None

    async def is_paused(self) -> bool:
        """It is not."""
        return False

    def tell(self, task_id: str, status: TaskStatus, message: str) -> None:
        self.events.publish(TaskEvent(task_id, status, message))

    async def hears(self, message: str) -> None:
        """Return when the latest of "t" is that."""
        await until(lambda: self.heard[-1:] == [message])


async def sides(stack: AsyncExitStack, url: str) -> list[Side]:
    made = [Side(url), Side(url)]
    for side in made:
        await side.relay.start()
        stack.push_async_callback(side.relay.stop)
    return made


@pytest.mark.postgres
async def test_word_of_the_wait_that_was_kept_is_not_told_of_a_task_that_runs_elsewhere(postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        here, there = await sides(stack, postgres_url)
        for task_id in ("t", "other"):
            here.tell(task_id, TaskStatus.QUEUED, QUEUED)
            here.tell(task_id, TaskStatus.QUEUED, PAUSED)  # no change: told when somebody asks
        await there.hears(QUEUED)
        there.tell("t", TaskStatus.RUNNING, "Running")
        await here.hears("Running")
        with there.events.listen("t"), there.events.listen("other") as news:
            async for event in news:
                if event.message == PAUSED:  # what was kept has been told
                    break
        assert there.heard == [QUEUED, "Running"]


@pytest.mark.postgres
async def test_in_a_paused_queue_a_task_of_a_dead_worker_ends_where_it_is_late_or_to_be_cancelled(
    tmp_path: Path, postgres_url: str
) -> None:
    host, pool = Host(postgres_url), ScriptedPool()
    store, engine = host.store, host.engine(pace=Pace())
    await engine.start()
    tasks = [new_task("to be cancelled"), replace(new_task("late"), deadline_at=3.0), new_task("to be taken over")]
    for task in tasks:
        await store.insert(task)
        assert await store.claim(task.id, expected_attempt=None, now=2.0, max_failures=3)  # by a worker that dies
    await store.request_cancel(tasks[0].id, 2.0)
    run_on(postgres_url, "UPDATE tale_pgqueuer SET status = 'picked', heartbeat = NOW()")
    await store.pause(2.0)
    assert await engine.lost(4.0) == []  # it may live still
    run_on(postgres_url, "UPDATE tale_pgqueuer SET heartbeat = NOW() - INTERVAL '11 seconds'")
    await store.resume()
    assert await engine.lost(4.0) == []  # another worker takes them over
    await store.pause(2.0)
    executor = TaskExecutor(store, pool, max_output_tokens=64, max_failures=3, clock=lambda: 4.0)
    settings = load_settings({"home": str(tmp_path), "acknowledge": False}, environment={})
    coordinator = HTTPCoordinator(
        settings, store, execution=DirectClient(executor), pool=pool, clock=lambda: 4.0, engine=engine
    )
    await coordinator.start()
    done = [await coordinator.wait(task.id, timeout_s=20) for task in tasks[:2]]
    assert [(task.status, task.error_class) for task in done] == [
        (TaskStatus.CANCELLED, None),
        (TaskStatus.FAILED, "DeadlinePassed"),
    ]
    assert (await coordinator.get(tasks[2].id)).status is TaskStatus.RUNNING
    await coordinator.stop(0.0)
    await host.database.close()


async def test_an_acknowledgement_ends_with_its_task_though_that_ended_elsewhere_and_nobody_waits(
    tmp_path: Path,
) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    store, pool = TaskStore(database), ScriptedPool(["Working", asyncio.Event()])
    pool.states = (ModelState("small", "ux", "ready"), ModelState("large", "task", "ready"))

    async def elsewhere(task_id: str, attempt: int) -> Task | None:
        await asyncio.Event().wait()

    engine = EmbeddedEngine(store, elsewhere, slots=1, queue_limit=9, retry_delay_s=0.0, on_end=lambda _: None)
    coordinator = HTTPCoordinator(
        load_settings({"home": str(tmp_path)}, environment={}),
        store,
        execution=DirectClient(TaskExecutor(store, pool, max_output_tokens=64, max_failures=3, clock=lambda: 1.0)),
        pool=pool,
        clock=lambda: 1.0,
        engine=engine,
        acknowledge_after_s=0.0,
    )
    await coordinator.start()
    task = await coordinator.submit(Submission("Write a haiku"))
    await coordinator.submit(Submission("Then another", after=(task.id,)))
    waiting = asyncio.create_task(coordinator.wait(task.id, timeout_s=60))
    await pool.started.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    coordinator.events.publish(TaskEvent(task.id, TaskStatus.COMPLETED, "Task completed"))  # as it is heard of
    await until(lambda: pool.stopped == 1)
    assert not coordinator._awaited  # what ends elsewhere would stay there for ever
    await coordinator.stop(0.0)
    await database.close()
