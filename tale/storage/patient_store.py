"""Stores for databases that go away and come back: ends of attempts and calls are written when there is one again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from sqlalchemy import select

from tale.exceptions import DatabaseException
from tale.records import ModelCall, Task
from tale.storage.budget_store import BudgetStore
from tale.storage.budgets import LONGEST_CALL_S
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.rollups import Rollups
from tale.storage.tables import model_calls
from tale.storage.task_store import TaskStore

PAUSE_S: Final = 0.2  # between two looks whether the database is back, and before the second try of a write
LONGEST_PAUSE_S: Final = 60.0  # between two tries

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
    """Keeps the ends of calls in mind until they can be written: none that has ended stays open, and holds a budget.

    No answer of a task gets lost for a row, and whoever made its call goes on meanwhile: the limits of a task are on
    the model's work. `stop` ends the waiting.
    """

    def __init__(self, database: Database, budgets: BudgetStore | None = None) -> None:
        super().__init__(database, budgets)
        self._opened: set[str] = set()  # ids of calls under way whose rows are there
        self._closing: set[asyncio.Task[None]] = set()

    def open_call(self, call: ModelCall) -> Awaitable[None]:
        """Keep a call that begins, and that no budget can refuse; handed to the database on return."""
        opening = asyncio.ensure_future(super().open_call(call))

        def note(opening: asyncio.Future[None]) -> None:
            if not opening.cancelled() and opening.exception() is None:
                self._opened.add(call.id)

        opening.add_done_callback(note)
        return opening

    async def hold_call(self, call: ModelCall, *, most_tokens: int) -> bool:
        """Keep a call that begins, with so many tokens held; raises BudgetException."""
        is_held = await super().hold_call(call, most_tokens=most_tokens)
        self._opened.add(call.id)
        return is_held

    async def close_call(self, call: ModelCall) -> None:
        """Keep a call that has ended; what cannot be written raises DatabaseException, but is kept in mind, too.

        While the database does not answer, that of a task does not raise, and is durable only when it is back; others
        are kept only if they were opened, as those that an outage refuses may be many. It goes on when cancelled.
        """
        closing = asyncio.ensure_future(self._end_handed_over(call))
        try:
            await asyncio.shield(closing)
            self._opened.discard(call.id)
        except asyncio.CancelledError:
            self._begun(self._closed(closing, call), call)
            raise
        except DatabaseException:
            await asyncio.shield(self._begun(self._closed(closing, call), call))

    async def stop(self) -> None:
        """Wait no more."""
        await asyncio.sleep(0)  # ends that came just now are handed to the database first
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _begun(self, work: Coroutine[Any, Any, None], call: ModelCall) -> asyncio.Task[None]:
        closing = asyncio.create_task(work, name=f"close-{call.id}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing

    async def _closed(self, closing: asyncio.Future[None], call: ModelCall) -> None:
        """Return when an end is written; what could not be is tried again, and then kept in mind."""
        try:
            return await closing
        except DatabaseException as error:
            logger.warning("The end of a model call cannot be written yet: %s", error)
            refusal = error
        finally:
            is_opened = call.id in self._opened
            self._opened.discard(call.id)
        if answers := await _answers(self._database):
            try:
                return await self._close_once(call)
            except DatabaseException as error:
                refusal = error
        is_missed = call.task_id is not None and not answers
        if is_opened or is_missed:
            self._begun(self._close_when_back(call), call)
        if not is_missed:
            raise refusal

    async def _close_when_back(self, call: ModelCall) -> None:
        pause_s, last_at = PAUSE_S, time.monotonic() + LONGEST_CALL_S
        while time.monotonic() < last_at:
            await _back(self._database)
            try:
                await self._close_once(call)
                # The sums have gone on meanwhile, wherever another host had the database.
                return await Rollups(self._database).take_up(call.started_at)
            except DatabaseException as error:
                logger.warning("The end of the model call %s cannot be written yet: %s", call.id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        logger.error("The end of the model call %s was not written.", call.id)

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
