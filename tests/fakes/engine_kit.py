"""Both task engines as tests take them: over a store that fails on demand, with runners that tell what they ran."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from tale.exceptions import DatabaseException, NetworkException
from tale.orchestration.engines.embedded_engine import EmbeddedEngine
from tale.orchestration.engines.engine import RunAttempt, TaskEngine
from tale.records import Task, TaskStatus
from tale.storage.database import Database
from tale.storage.engines import postgresql_dsn
from tale.storage.task_store import TaskStore

MAX_FAILURES = 3


class FaultyStore(TaskStore):
    """Cannot be read so many times."""

    faults = 0

    async def get(self, task_id: str) -> Task | None:
        if self.faults:
            self.faults -= 1
            raise DatabaseException("The disk does not answer.")
        return await super().get(task_id)


@dataclass
class Kit:
    """A database with its store, and engines on it, of one kind."""

    url: str
    database: Database
    store: FaultyStore

    def engine(
        self,
        run: RunAttempt | None,
        *,
        slots: int = 1,
        queue_limit: int = 100,
        retry_delay_s: float = 0.0,
        ended: Callable[[Task], None] | None = None,
    ) -> TaskEngine:
        on_end = ended or (lambda _: None)
        if self.url.startswith("sqlite"):
            return EmbeddedEngine(
                self.store,
                run or nothing,
                slots=slots,
                queue_limit=queue_limit,
                retry_delay_s=retry_delay_s,
                on_end=on_end,
                draw=lambda: 0.0,
            )
        from tale.orchestration.engines.postgres_engine import PostgresEngine
        from tale.orchestration.engines.postgres_worker import Pace
        from tale.storage.task_jobs import TaskJobs

        dsn = postgresql_dsn(self.url)
        assert dsn is not None
        return PostgresEngine(
            self.store,
            TaskJobs(self.database),
            dsn,
            run,
            slots=slots,
            queue_limit=queue_limit,
            retry_delay_s=retry_delay_s,
            on_end=on_end,
            draw=lambda: 0.0,
            pace=Pace(heartbeat_s=0.6, poll_s=0.2),
        )


def new_task(text: str, *, priority: int = 0, created_at: float = 1.0, key: str | None = None) -> Task:
    return Task(
        str(uuid.uuid4()), text, TaskStatus.QUEUED, created_at, priority=priority, timeout_s=10, idempotency_key=key
    )


async def nothing(task_id: str, attempt: int) -> Task | None:
    raise AssertionError("This engine is not to run anything.")


class Runner:
    """Claims and completes each task, in the order it is handed them; the first attempts fail, or lose their runner."""

    def __init__(self, store: TaskStore, total: int, failures: int = 0, lost: int = 0) -> None:
        self.store, self.left, self.failures, self.lost = store, total, failures, lost
        self.order: list[str] = []
        self.done = asyncio.Event()

    async def __call__(self, task_id: str, attempt: int) -> Task | None:
        task = await self.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=MAX_FAILURES)
        if task is None:
            return await self._ended(task_id)
        self.order.append(task.text)
        if self.lost:
            self.lost -= 1
            raise NetworkException("The runner died.")
        if self.failures:
            self.failures -= 1
            await self.store.release(task.id, task.attempt, outcome="failed", now=2.0, max_failures=MAX_FAILURES)
        else:
            await self.store.finish(task.id, task.attempt, status=TaskStatus.COMPLETED, now=2.0, result="ok")
        return await self._ended(task_id)

    async def _ended(self, task_id: str) -> Task | None:
        task = await self.store.get(task_id)
        if task is not None and task.status.is_final:
            self.left -= 1
            if not self.left:
                self.done.set()
        return task
