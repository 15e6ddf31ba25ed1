"""The task engine of many machines: pgqueuer on the PostgreSQL database that holds the tasks."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, cast

import asyncpg
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job

from tale.exceptions import DatabaseException
from tale.orchestration.engines.attempt import (
    delay_before_next_s,
    outcome_of,
    read_until_answered,
    refused_as_full,
)
from tale.orchestration.engines.engine import AttemptEnded, RunAttempt
from tale.orchestration.engines.postgres_worker import DATABASE_FAULTS, LeftAlone, Pace, PostgresWorker, queries
from tale.records import NewTask, Task, TaskStatus
from tale.storage.task_jobs import TaskJobs, job_settings
from tale.storage.task_store import TaskStore

INSTALL_LOCK: Final = 0x7A1E_0B  # one installation of pgqueuer's tables at a time
COUNT_AGE_S: Final = 1.0  # how old the count of waiting tasks may be
REPAIR_INTERVAL_S: Final = 60.0


logger = logging.getLogger(__name__)


class PostgresEngine:
    """Any number of these share one queue. With `run` it takes tasks from it, at most `slots` at a time.

    Tasks of a worker that died are taken over by another one after `pace.heartbeat_s`. `queue_limit` counts the tasks
    of all gateways; they learn of each other's once a second, so that a few more may slip in.
    """

    def __init__(
        self,
        store: TaskStore,
        jobs: TaskJobs,
        dsn: str,
        run: RunAttempt | None = None,
        *,
        slots: int,
        queue_limit: int,
        retry_delay_s: float,
        on_end: AttemptEnded,
        draw: Callable[[], float] = random.random,
        pace: Pace | None = None,
        on_pause: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._dsn = dsn
        self._run = run
        self._queue_limit = queue_limit
        self._retry_delay_s = retry_delay_s
        self._on_end = on_end
        self._draw = draw
        self._on_pause = on_pause
        self._settings = job_settings()
        self._attempts: dict[str, asyncio.Task[Task | None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._queued = self._running_anywhere = 0
        self._counted_at = float("-inf")
        self._counting: asyncio.Task[None] | None = None
        self._pace = pace or Pace()
        self._worker = PostgresWorker(
            dsn, self._settings, self._handle, slots=slots, pace=self._pace, on_connect=self._jobs.repair
        )

    async def start(self) -> None:
        """Make pgqueuer's tables where they are missing; with `run`, begin to take tasks."""
        await self._install()
        if self._run is None:
            return
        self._worker.start()
        self._in_background(self._repair_now_and_then(), "job-repair")

    async def submit(self, task: Task) -> Task:
        """Store and queue a task, in one transaction; durable on return."""
        (stored,) = await self.submit_all([NewTask(task)])
        return stored

    async def submit_all(self, new: Sequence[NewTask]) -> list[Task]:
        """Store and queue all of these, or none; durable on return."""
        await self._count_if_older(COUNT_AGE_S)
        if self._queued + len(new) > self._queue_limit:
            await self._count_if_older(0.0)
        is_full = self._queued + len(new) > self._queue_limit
        if is_full and not await self._store.has_keys([each.task.idempotency_key for each in new]):
            raise refused_as_full(self._queued, self._retry_delay_s)
        self._queued += len(new)
        added = 0
        try:
            stored = await self._store.insert_all(new)
            added = sum(task.id == each.task.id for task, each in zip(stored, new, strict=True))
        finally:
            self._queued -= len(new) - added
        return stored

    def hand_out(self, task: Task) -> None:
        """Nothing: the job of a task that waited for others is added by the transaction that ends the last of them."""

    def move(self, task: Task) -> None:
        """Nothing: the job is moved by the transaction that changes its task's priority."""

    def withdraw(self, task_id: str) -> None:
        """Forget a task that was cancelled while it waited."""
        self._counted_at = float("-inf")
        self._in_background(self._remove(task_id), f"withdraw-{task_id}")

    async def pause(self) -> None:
        """Take no tasks until `resume`, and have `on_pause` tell others."""
        self.obey_pause(True)
        if self._on_pause:
            await self._on_pause(True)

    async def resume(self) -> None:
        """Take tasks again."""
        self.obey_pause(False)
        if self._on_pause:
            await self._on_pause(False)

    def obey_pause(self, is_paused: bool) -> None:
        """Take no tasks, or take them again, as another process has said."""
        if is_paused:
            self._worker.pause()
        else:
            self._worker.resume()

    async def lost(self, now: float) -> list[Task]:
        """While the queue is paused, tasks that run by their rows, are late or to be cancelled, and lost their runner.

        In a queue that goes on, the worker that takes them over settles them.
        """
        if await self._store.paused_at() is None:
            return []
        return await self._jobs.lost(now, silent_s=self._pace.heartbeat_s)

    def waiting(self) -> int:
        """Tasks of all gateways that wait, as last counted; asking has them counted anew."""
        if time.monotonic() - self._counted_at > COUNT_AGE_S:
            self._in_background(self._count_quietly(), "task-count")
        return self._queued

    def running(self) -> int:
        """Attempts under way here; without `run`, those of all hosts as last counted."""
        return len(self._attempts) if self._run else self._running_anywhere

    def running_tasks(self) -> list[str]:
        """The tasks of the attempts under way here."""
        return list(self._attempts)

    async def stop(self, grace_s: float) -> None:
        """Take nothing more; give running attempts `grace_s` seconds, then let go of them and queue them again."""
        self._worker.pick_no_more()
        counting = [self._counting] if self._counting else []
        for task in [*self._background, *counting]:
            task.cancel()
        await asyncio.gather(*self._background, *counting, return_exceptions=True)
        if self._attempts:
            _, late = await asyncio.wait(self._attempts.values(), timeout=grace_s)
            for attempt in late:
                attempt.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._worker.close()

    async def _handle(self, job: Job) -> None:
        """An attempt at a job's task. On return pgqueuer forgets the job, on RetryRequested it queues it again."""
        task_id = (job.payload or b"").decode()
        number = failures = 0
        if not self._is_new(job):
            before = await read_until_answered(self._store, task_id, pause_s=self._retry_delay_s)
            if before is None or before.status.is_final or before.open_dependencies:
                return
            number, failures = before.attempt, before.failures
        attempt = self._attempts.get(task_id)  # after an outage we may be given what still runs here
        if attempt is None:
            making = self._attempt(task_id, number)
            attempt = self._attempts[task_id] = asyncio.create_task(making, name=f"task-{task_id}")
            attempt.add_done_callback(lambda _: self._attempts.pop(task_id))
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise RetryRequested(timedelta(0), "handed back")
        task = attempt.result()
        if task is None or task.status.is_final or task.open_dependencies:
            return  # a job is added when the last of those that it waits for completes
        if task.status is TaskStatus.RUNNING and task.attempt > number + 1:
            raise LeftAlone
        raise RetryRequested(timedelta(seconds=self._delay_s(failures, task)))

    def _is_new(self, job: Job) -> bool:
        """Whether nobody can have had this job before, so that to look at its task's row first would tell nothing.

        A job that a dead worker had is picked again after `heartbeat_s`, and not sooner.
        """
        return job.attempts == 0 and (job.updated - job.created).total_seconds() < self._pace.heartbeat_s

    async def _attempt(self, task_id: str, number: int) -> Task | None:
        assert self._run is not None  # noqa: S101 - only a worker is given jobs
        after = await outcome_of(self._run, self._store, task_id, number, pause_s=self._retry_delay_s)
        if after is not None:
            self._on_end(after)
        return after

    def _delay_s(self, failures_before: int, after: Task) -> float:
        """What was handed back is for the next worker at once; what failed has to wait."""
        if after.status is TaskStatus.QUEUED and after.failures == failures_before:
            return 0.0
        return delay_before_next_s(after, self._retry_delay_s, draw=self._draw())

    async def _install(self) -> None:
        try:
            connection = await cast("Any", asyncpg).connect(self._dsn)  # it has no types
        except DATABASE_FAULTS as error:
            raise DatabaseException(
                "There is no connection to the database server; check that it runs and that the database URL is right.",
                {"cause": str(error)},
            ) from error
        installer = queries(AsyncpgDriver(connection), self._settings)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", INSTALL_LOCK)  # ends with the connection
            if not await installer.schema_is_installed():
                await installer.install()
            elif (await installer.plan_upgrade()).statements:
                await installer.apply_upgrade()
        except asyncpg.PostgresError as error:
            raise DatabaseException(
                "The tables of the queue cannot be made; grant the database user the right to create tables and types.",
                {"cause": str(error)},
            ) from error
        finally:
            await connection.close()

    async def _repair_now_and_then(self) -> None:
        """Queue tasks that have no job, and throw pgqueuer's log away, which would grow for ever."""
        while True:
            await asyncio.sleep(REPAIR_INTERVAL_S)
            try:
                if repaired := await self._jobs.repair():
                    logger.warning("%d tasks had no job and were queued again.", repaired)
                await self._jobs.clear_log()
            except DatabaseException as error:
                logger.warning("The queue could not be looked through: %s", error)

    async def _remove(self, task_id: str) -> None:
        try:
            await self._jobs.remove([task_id])
        except DatabaseException as error:
            logger.info("The job of a cancelled task stays until it is picked: %s", error)

    async def _count_if_older(self, age_s: float) -> None:
        """Count the open tasks unless that was done lately; those who ask meanwhile share the answer."""
        if time.monotonic() - self._counted_at <= age_s:
            return
        if self._counting is None:
            self._counting = asyncio.create_task(self._count())
        counting = self._counting
        await asyncio.wait([counting])
        if not counting.cancelled() and (error := counting.exception()):
            raise error

    async def _count_quietly(self) -> None:
        try:
            await self._count_if_older(COUNT_AGE_S)
        except DatabaseException as error:
            logger.info("The waiting tasks cannot be counted: %s", error)

    async def _count(self) -> None:
        try:
            self._queued, self._running_anywhere = await self._jobs.counts()
            self._counted_at = time.monotonic()
        finally:
            self._counting = None

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
