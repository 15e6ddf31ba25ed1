"""A task store for databases that go away and come back: the end of an attempt is written when there is one again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from tale.exceptions import DatabaseException
from tale.records import Task
from tale.storage.database import Database
from tale.storage.task_jobs import TaskJobs
from tale.storage.task_store import TaskStore

PAUSE_S: Final = 0.2  # between two looks whether the database is back

T = TypeVar("T")

logger = logging.getLogger(__name__)


class PatientTaskStore(TaskStore):
    """Waits for the database where an answer would get lost that a model took minutes to write.

    Being fenced, an end may be written twice: the second time it finds the task ended and changes nothing.
    """

    def __init__(self, database: Database, *, jobs: TaskJobs | None = None) -> None:
        super().__init__(database, jobs=jobs)
        self._answers = database.check

    async def finish(self, *args: Any, **kwargs: Any) -> Task | None:
        """End a running task; what cannot be written though the database answers raises DatabaseException."""
        return await self._patiently(lambda: super(PatientTaskStore, self).finish(*args, **kwargs))

    async def release(self, *args: Any, **kwargs: Any) -> Task | None:
        """End an attempt; likewise."""
        return await self._patiently(lambda: super(PatientTaskStore, self).release(*args, **kwargs))

    async def _patiently(self, write: Callable[[], Awaitable[T]]) -> T:
        try:
            return await write()
        except DatabaseException as error:
            logger.warning("The end of an attempt cannot be written yet: %s", error)
        while True:
            if await self._is_back():
                return await write()
            await asyncio.sleep(PAUSE_S)

    async def _is_back(self) -> bool:
        try:
            await self._answers()
        except DatabaseException:
            return False
        return True
