"""Stores for databases that go away and come back: ends of attempts and calls are written when there is one again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from sqlalchemy import select

from tale.exceptions import DatabaseException
from tale.records import ModelCall, Task
from tale.storage.budget_store import BudgetStore
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.rollups import Rollups
from tale.storage.tables import model_calls
from tale.storage.task_store import TaskStore

PAUSE_S: Final = 0.2  # between two looks whether the database is back

T = TypeVar("T")

logger = logging.getLogger(__name__)


class PatientTaskStore(TaskStore):
    """Waits for the database where an answer would get lost that a model took minutes to write.

    Being fenced, an end may be written twice: the second time it finds the task ended and changes nothing.
    """

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
        await _back(self._database)
        return await write()


class PatientCallStore(CallStore):
    """Keeps the end of a task's call in mind while the database is away, so that no answer gets lost for a row.

    Whoever made the call goes on meanwhile: the limits of its task are on the model's work. `stop` ends the waiting.
    """

    def __init__(self, database: Database, budgets: BudgetStore | None = None) -> None:
        super().__init__(database, budgets)
        self._closing: set[asyncio.Task[None]] = set()

    async def close_call(self, call: ModelCall) -> None:
        """Keep a call that has ended; what cannot be written though the database answers raises DatabaseException.

        While it does not answer, that of a task is durable only when it is back; others raise DatabaseException.
        """
        try:
            return await super().close_call(call)
        except DatabaseException as error:
            logger.warning("The end of a model call cannot be written yet: %s", error)
            if not await _answers(self._database):
                if call.task_id is None:
                    raise
                return self._close_later(call)
        await self._close_once(call)

    async def stop(self) -> None:
        """Wait no more."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _close_later(self, call: ModelCall) -> None:
        closing = asyncio.create_task(self._close_when_back(call), name=f"close-{call.id}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close_when_back(self, call: ModelCall) -> None:
        while True:
            await _back(self._database)
            try:
                await self._close_once(call)
                # The sums have gone on meanwhile, wherever another host had the database.
                return await Rollups(self._database).take_up(call.started_at)
            except DatabaseException as error:
                if await _answers(self._database):
                    logger.error("The end of the model call %s cannot be written: %s", call.id, error)
                    return

    async def _close_once(self, call: ModelCall) -> None:
        """Close a call unless that was done just before the connection broke: a budget must not count it twice."""
        ended = select(model_calls.c.ended_at).where(model_calls.c.id == call.id)
        if await self._database.read(lambda connection: connection.scalar(ended)) is None:
            await super().close_call(call)


async def _back(database: Database) -> None:
    """Return when the database answers."""
    while True:
        if await _answers(database):
            return
        await asyncio.sleep(PAUSE_S)


async def _answers(database: Database) -> bool:
    try:
        await database.check()
    except DatabaseException:
        return False
    return True
