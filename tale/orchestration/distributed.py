"""The tasks of many machines: one process's share in the queue, the runs and the news of a PostgreSQL database."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from tale.exceptions import DatabaseException, ServerException
from tale.orchestration.dependents import touched_by
from tale.orchestration.engines.engine import RunAttempt
from tale.orchestration.engines.postgres_engine import PostgresEngine
from tale.orchestration.executor import Progress, TaskExecutor
from tale.orchestration.task_events import QUEUED, TaskEvent, TaskEvents, attempt_ended
from tale.orchestration.task_relay import TaskRelay
from tale.orchestration.task_texts import TaskTexts
from tale.records import Task, TaskStatus
from tale.settings import Settings
from tale.storage.task_jobs import TaskJobs
from tale.storage.task_store import TaskStore

LONGEST_STOP_S: Final = 5.0  # within which a runner that lives has ended an attempt

logger = logging.getLogger(__name__)


class Distributed:
    """What gateways and execution servers of one process need where their tasks are on PostgreSQL."""

    def __init__(
        self, settings: Settings, tasks: TaskStore, jobs: TaskJobs, *, dsn: str, events: TaskEvents, texts: TaskTexts
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._jobs = jobs
        self._dsn = dsn
        self._events = events
        self._worker: PostgresEngine | None = None
        self._steps: set[asyncio.Task[None]] = set()
        self._relay = TaskRelay(
            dsn, events, texts, read=tasks.get, on_pause=self._obey_pause, is_paused=self._is_paused
        )

    async def start(self) -> None:
        """Make the queue's tables where they are missing, before anybody can hand in; begin to hear other processes."""
        await self.gateway_engine().start()
        await self._relay.start()

    async def stop(self) -> None:
        """Say and hear nothing more."""
        await asyncio.gather(*self._steps, return_exceptions=True)
        await self._relay.stop()

    def gateway_engine(self) -> PostgresEngine:
        """An engine that hands tasks in, for workers anywhere to take."""
        return self._engine(None, on_pause=self._tell_pause)

    async def start_worker(self, executor: TaskExecutor) -> PostgresEngine:
        """Begin to take tasks from the queue and to run them by `executor`; the engine is the caller's to stop."""

        async def run(task_id: str, attempt: int) -> Task | None:
            def listener(progress: Progress) -> None:
                event = TaskEvent(task_id, TaskStatus.RUNNING, progress.message, progress.output_tokens)
                self._events.publish(event)

            return await executor.execute(task_id, attempt=attempt, listener=listener)

        self._worker = worker = self._engine(run)
        self._relay.run_attempts(executor.stop_task, worker.running_tasks)
        self._pause_worker(await self._is_paused())
        await worker.start()
        return worker

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        on_progress: Callable[[float, float | None, str | None], None] | None = None,
        timeout_s: float | None = None,
        idempotent: bool = False,
    ) -> dict[str, Any]:
        """Have an attempt stopped, on whichever host it runs: the one thing a gateway asks of execution servers here.

        Raises NetworkException when nobody does.
        """
        del on_progress, idempotent
        if name != "stop_task" or arguments is None:
            raise ServerException(f"Hosts that share a database are not asked for {name}; they stop attempts alone.")
        await self._relay.end_attempt(arguments["task_id"], patience_s=timeout_s or LONGEST_STOP_S)
        return {}

    def _engine(
        self, run: RunAttempt | None, *, on_pause: Callable[[bool], Awaitable[None]] | None = None
    ) -> PostgresEngine:
        return PostgresEngine(
            self._tasks,
            self._jobs,
            self._dsn,
            run,
            slots=self._settings.task_slots,
            queue_limit=self._settings.queue_limit,
            retry_delay_s=self._settings.retry_delay_s,
            on_end=self._attempt_ended,
            on_pause=on_pause,
        )

    def _attempt_ended(self, task: Task) -> None:
        self._events.publish(attempt_ended(task))
        if task.status.is_final:
            self._take(self._tell_dependents(task.id))

    async def _tell_dependents(self, task_id: str) -> None:
        """Tell of the tasks that waited for this one: they are queued now, or ended with it."""
        try:
            async for task in touched_by(task_id, self._tasks.dependents):
                if task.status.is_final:
                    self._events.publish(attempt_ended(task))
                elif not task.open_dependencies:
                    self._events.publish(TaskEvent(task.id, task.status, QUEUED))
        except DatabaseException as error:
            logger.warning("The tasks that waited for %s cannot be read: %s", task_id, error)

    async def _tell_pause(self, is_paused: bool) -> None:
        """What this process says, it does not hear."""
        self._pause_worker(is_paused)
        await self._relay.tell_pause(is_paused)

    def _obey_pause(self, is_paused: bool) -> None:
        self._pause_worker(is_paused)
        self._events.tell_pause(is_paused)

    def _pause_worker(self, is_paused: bool) -> None:
        if self._worker is not None:
            self._worker.obey_pause(is_paused)

    async def _is_paused(self) -> bool:
        return await self._tasks.paused_at() is not None

    def _take(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
