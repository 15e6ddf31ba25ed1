"""Serves GET /metrics: the figures of this process in the text format of Prometheus, made when they are asked for."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from aiohttp import web

from tale.exceptions import DatabaseException
from tale.metrics.call_counts import CallCounts
from tale.models.model_pool import ModelPool
from tale.models.pool import Pool, PoolStatus
from tale.records import TaskStatus
from tale.storage.task_store import TaskStore

PATH: Final = "/metrics"
NO_TASKS: Final[Mapping[TaskStatus, int]] = {}
COUNTING_SHARE: Final = 0.01  # of the time may go into counting the tasks of a large database

logger = logging.getLogger(__name__)


class TaskGauge:
    """Counts the tasks in the database, less often the longer it takes."""

    def __init__(self, tasks: TaskStore, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._tasks = tasks
        self._timer = timer
        self._counts: Mapping[TaskStatus, int] = {}
        self._due_at: float | None = None

    async def counts(self) -> Mapping[TaskStatus, int]:
        """How many tasks there are in each status; nothing while the database does not answer."""
        began = self._timer()
        if self._due_at is not None and began < self._due_at:
            return self._counts
        try:
            self._counts = await self._tasks.counts()
        except DatabaseException as error:
            logger.warning("The tasks could not be counted: %s", error)
            return {}
        ended = self._timer()
        self._due_at = ended + (ended - began) / COUNTING_SHARE
        return self._counts


class MetricsPage:
    """The page of one server. Calls are those of the whole process; the models are told by the process that holds them.

    `tasks` is given where the tasks of the database are to be told, too.
    """

    def __init__(self, counts: CallCounts, pool: Pool, *, tasks: TaskStore | None = None) -> None:
        self._counts = counts
        self._pool = pool if isinstance(pool, ModelPool) else None
        self._tasks = TaskGauge(tasks) if tasks is not None else None

    def routes(self) -> list[web.RouteDef]:
        """GET /metrics."""
        return [web.get(PATH, self._get)]

    async def _get(self, request: web.Request) -> web.Response:
        # prometheus_client is imported by the first who asks: most processes are never asked.
        families = await asyncio.to_thread(import_module, "tale.servers.metrics_families")
        pool: PoolStatus | None = await self._pool.status() if self._pool else None
        tasks = await self._tasks.counts() if self._tasks else NO_TASKS
        accepted = request.headers.get("Accept", "")
        body, content_type = families.rendered(self._counts, pool=pool, tasks=tasks, accepted=accepted)
        return web.Response(body=body, headers={"Content-Type": content_type})
