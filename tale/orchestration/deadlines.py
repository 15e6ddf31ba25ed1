"""Ends tasks that wait, or have lost their runner, when their deadline comes; one timer for all, no polling."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from tale.exceptions import DatabaseException
from tale.records import Task
from tale.storage.task_store import TaskStore

SHORTEST_PAUSE_S: Final = 0.05  # between two looks: a timer may come a little early
AFTER_FAULT_S: Final = 5.0

logger = logging.getLogger(__name__)


class DeadlineWatch:
    """Has the store fail queued tasks that are late, and tells `on_late` of each; then `end_lost` ends the others.

    Where others may queue tasks, too, it looks what deadlines there are every `longest_sleep_s` seconds.
    """

    def __init__(
        self,
        store: TaskStore,
        *,
        clock: Callable[[], float],
        on_late: Callable[[Task], None],
        end_lost: Callable[[float], Awaitable[None]] | None = None,
        longest_sleep_s: float | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_late = on_late
        self._end_lost = end_lost
        self._longest_sleep_s = longest_sleep_s
        self._earlier = asyncio.Event()
        self._next: float | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch, with a look at those tasks that are there already."""
        self._next = self._clock()
        self._watching = asyncio.create_task(self._watch(), name="deadlines")

    def note(self, deadline_at: float | None) -> None:
        """A task with this deadline was queued, or queued again."""
        if deadline_at is not None and (self._next is None or deadline_at < self._next):
            self._next = deadline_at
            self._earlier.set()

    async def stop(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self._earlier.clear()
            try:
                async with asyncio.timeout(self._sleep_s()):
                    await self._earlier.wait()
            except TimeoutError:
                await self._sweep()

    def _sleep_s(self) -> float | None:
        if self._next is None:
            return self._longest_sleep_s
        left_s = max(SHORTEST_PAUSE_S, self._next - self._clock())
        return left_s if self._longest_sleep_s is None else min(left_s, self._longest_sleep_s)

    async def _sweep(self) -> None:
        try:
            now = self._clock()
            for task in await self._store.expire(now):
                logger.info("Task %s was not begun before its deadline.", task.id)
                self._on_late(task)
            if self._end_lost:
                await self._end_lost(now)
            self._next = None
            self.note(await self._store.next_deadline(now))
        except DatabaseException as error:
            logger.error("The deadlines of tasks cannot be looked at: %s", error)
            self._next = self._clock() + AFTER_FAULT_S
