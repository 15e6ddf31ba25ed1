"""Picks jobs from pgqueuer's queue for as long as the process lives, whatever becomes of the database meanwhile."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, cast

import asyncpg
from pgqueuer.adapters.drivers.asyncpg import AsyncpgPoolDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.buffers import JobStatusLogBuffer
from pgqueuer.core.executors import AbstractEntrypointExecutor
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain import models, types
from pgqueuer.domain.settings import DBSettings
from pgqueuer.ports.driver import Driver
from pgqueuer.ports.repository import EntrypointExecutionParameter

from tale.storage.task_jobs import ENTRYPOINT

CONNECTIONS: Final = 4  # of one worker: one listens, the others claim, beat and report
RECONNECT_S: Final = 1.0
NEVER: Final = timedelta(0)  # as pgqueuer reads it
LOOK_AGAIN: Final = timedelta(milliseconds=10)  # after a job was seen that is due, and was not got
DATABASE_FAULTS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

logger = logging.getLogger(__name__)

Handler = Callable[[models.Job], Awaitable[None]]
JobEnd = tuple[models.Job, types.JOB_STATUS, models.TracebackRecord | None]


class LeftAlone(Exception):
    """The job is another worker's by now; its row is none of our business."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon a dead worker is noticed: its jobs are taken over `heartbeat_s` after its last beat.

    Workers look at least every `poll_s` seconds; new jobs are told of at once. A worker beats twice in `heartbeat_s`.
    """

    heartbeat_s: float = 10.0
    poll_s: float = 5.0


def queries(driver: Driver, settings: DBSettings) -> Queries:
    """pgqueuer's statements with our names."""
    return Queries(
        driver, QueryBuilderEnvironment(settings), QueryQueueBuilder(settings), QuerySchedulerBuilder(settings)
    )


class _Jobs(Queries):
    """pgqueuer's statements; a job that is put back is told of, as a new one is, and ends are written many at once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ended: list[JobEnd] = []
        self._writing_ends = asyncio.Lock()

    async def log_jobs(self, job_status: list[JobEnd]) -> None:
        """Remove the jobs that have ended, together with those that ended while the last were being removed."""
        self._ended += job_status
        async with self._writing_ends:
            ended, self._ended = self._ended, []
            if not ended:
                return
            try:
                await super().log_jobs(ended)
            except BaseException:
                self._ended += ended  # for whoever is next: to remove a job twice does no harm
                raise

    async def retry_job(
        self, job: models.Job, delay: timedelta, traceback_record: models.TracebackRecord | None
    ) -> None:
        """Queue a job again, its priority kept. Its history is in our own table of attempts."""
        del traceback_record
        await super().retry_job(job, delay, None)
        await self.tell_of_jobs()

    async def due_in(self) -> timedelta | None:
        """Until the next queued job is due, not above zero when one is already; None when none is queued."""
        table = self.qbq.qualified.queue_table
        (found,) = await self.driver.fetch(
            f"SELECT MIN(execute_after) - NOW() AS due_in FROM {table} WHERE status = 'queued' AND entrypoint = $1",  # noqa: S608 - our constant
            ENTRYPOINT,
        )
        return cast("timedelta | None", found["due_in"])

    async def tell_of_jobs(self) -> None:
        """Have all workers look for jobs now."""
        settings = self.qbq.settings
        changed = models.TableChangedEvent(
            channel=settings.channel,
            sent_at=models.utc_now(),
            type="table_changed_event",
            operation="update",
            table=settings.queue_table,
        )
        await self.driver.notify(settings.channel, changed.model_dump_json())


@dataclass
class _Manager(QueueManager):
    """pgqueuer's loop with as many jobs at a time as there are free slots, which never gives a job up.

    pgqueuer itself wants at least two jobs at a time, and deletes a job whose handler failed.
    """

    jobs: _Jobs = field(kw_only=True)  # what `queries` is
    free_slots: Callable[[], int] = field(kw_only=True)

    async def look_now(self) -> None:
        """Look for jobs before the time is up."""
        with suppress(*DATABASE_FAULTS):  # then they are looked for when the time is up, or by the next manager
            await self.jobs.tell_of_jobs()

    async def fetch_jobs(
        self, batch_size: int, global_concurrency_limit: int | None, heartbeat_timeout: timedelta
    ) -> AsyncGenerator[models.Job, None]:
        """Jobs for the free slots."""
        del batch_size, global_concurrency_limit
        entrypoints = {name: EntrypointExecutionParameter(concurrency_limit=0) for name in self.entrypoint_registry}
        while not self.shutdown.is_set() and (free := self.free_slots()) > 0:
            with self._told_when_broken():
                jobs = await self.queries.dequeue(free, entrypoints, self.queue_manager_id, None, heartbeat_timeout)
            for job in jobs:
                yield job
            if len(jobs) < free:
                return

    async def _effective_dequeue_timeout(self, dequeue_timeout: timedelta) -> timedelta:
        """Until a queued job is due, asked for at once. With all slots taken the end of a job is waited for."""
        if self.free_slots() <= 0:
            return dequeue_timeout
        with self._told_when_broken():
            due = await self.jobs.due_in()
        return dequeue_timeout if due is None else min(max(due, LOOK_AGAIN), dequeue_timeout)

    @contextmanager
    def _told_when_broken(self) -> Generator[None]:
        """Have the supervisor know at once: `run` itself only returns when all that runs has ended."""
        try:
            yield
        except Exception:  # raised again: what runs into it only makes it known sooner
            self.shutdown.set()
            raise

    async def log_failure(
        self, job: models.Job, executor: AbstractEntrypointExecutor, exc: Exception, jbuff: JobStatusLogBuffer
    ) -> None:
        """Leave the job as it is: without heartbeats it is soon taken up again, by us or by another worker."""
        del executor, jbuff
        if not isinstance(exc, LeftAlone):
            logger.error("Job %s could not be put back; it will be taken up again.", job.id, exc_info=exc)


class PostgresWorker:
    """Hands jobs to `handle`, at most `slots` at a time. When the database was away it begins anew by itself.

    `on_connect` is awaited whenever it has connected, before jobs are picked.
    """

    def __init__(
        self,
        dsn: str,
        settings: DBSettings,
        handle: Handler,
        *,
        slots: int,
        pace: Pace,
        on_connect: Callable[[], Awaitable[object]],
    ) -> None:
        self._dsn = dsn
        self._settings = settings
        self._handle = handle
        self._slots = slots
        self._pace = pace
        self._on_connect = on_connect
        self._managers: list[_Manager] = []
        self._runs: set[asyncio.Task[None]] = set()
        self._stopping = self._is_paused = False
        self._supervisor: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to pick jobs."""
        self._supervisor = asyncio.create_task(self._supervise(), name="postgres-worker")

    def pick_no_more(self) -> None:
        """Leave what is queued to others; what runs goes on."""
        self._stopping = True
        for manager in self._managers:
            manager.shutdown.set()

    def pause(self) -> None:
        """Pick no jobs until `resume`; what runs goes on."""
        self._is_paused = True

    def resume(self) -> None:
        """Pick jobs again."""
        self._is_paused = False
        for manager in self._managers:
            self._keep(asyncio.create_task(manager.look_now()))

    async def close(self) -> None:
        """End when what runs has ended."""
        self.pick_no_more()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        await asyncio.gather(*self._runs, return_exceptions=True)

    def _free_slots(self) -> int:
        if self._is_paused:
            return 0
        return self._slots - sum(len(manager.job_context) for manager in self._managers)

    async def _supervise(self) -> None:
        """Keep one manager picking. One whose connection broke finishes what runs, while the next one begins."""
        while not self._stopping:
            try:
                await self._on_connect()
                pool = await self._connections()
            except Exception as error:  # the edge of the worker: whatever it is, try again
                logger.error("The queue is out of reach: %s", error, exc_info=not isinstance(error, DATABASE_FAULTS))
                await asyncio.sleep(RECONNECT_S)
                continue
            manager = self._manager(pool)
            self._keep(asyncio.create_task(self._run(manager, pool)))
            await manager.shutdown.wait()
            if not self._stopping:
                await asyncio.sleep(RECONNECT_S)

    def _keep(self, run: asyncio.Task[None]) -> None:
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _connections(self) -> asyncpg.Pool:
        """Connections whose commits wait for no disk.

        Should the server lose the last of them with its power, a job is picked once more, and its task's row says what
        there is to do; a claim, which is made durable, makes all durable that was committed before.
        """

        async def leave(_: object) -> None:
            """What asyncpg clears up after each use, pgqueuer does not leave behind."""

        pool: asyncpg.Pool = await asyncpg.create_pool(
            self._dsn,
            min_size=1,
            max_size=CONNECTIONS,
            reset=leave,
            server_settings={"synchronous_commit": "off"},
        )
        return pool

    def _manager(self, pool: asyncpg.Pool) -> _Manager:
        jobs = _Jobs(
            AsyncpgPoolDriver(pool),
            QueryBuilderEnvironment(self._settings),
            QueryQueueBuilder(self._settings),
            QuerySchedulerBuilder(self._settings),
        )
        channel = types.Channel(self._settings.channel)
        manager = _Manager(jobs, channel=channel, jobs=jobs, free_slots=self._free_slots)

        @manager.entrypoint(ENTRYPOINT)
        async def handle(job: models.Job) -> None:  # pyright: ignore[reportUnusedFunction] - registered by its decorator
            await self._handle(job)

        self._managers.append(manager)
        return manager

    async def _run(self, manager: _Manager, pool: asyncpg.Pool) -> None:
        try:
            await manager.run(
                dequeue_timeout=timedelta(seconds=self._pace.poll_s),
                batch_size=1,  # of what is reported at once, too: an end must not wait for others
                shutdown_on_listener_failure=True,
                heartbeat_timeout=timedelta(seconds=self._pace.heartbeat_s),
                log_aggregation_interval=NEVER,  # nothing reads its statistics
            )
        except Exception as error:  # the edge of the worker: the supervisor begins anew
            logger.error(
                "The connection to the queue broke: %s", error, exc_info=not isinstance(error, DATABASE_FAULTS)
            )
        finally:
            manager.shutdown.set()
            self._managers.remove(manager)
            with suppress(*DATABASE_FAULTS):
                pool.terminate()
