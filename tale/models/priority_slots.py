"""A model's slots, given out by priority: chat before tasks before background, in order of arrival within one."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tale.records import Priority


class PrioritySlots:
    """`total` slots, of which `reserved` can be taken by chat alone, so that chat never waits behind longer work."""

    def __init__(self, total: int, *, reserved: int = 0) -> None:
        self._open_to_all = total - reserved
        self._total = total
        self._arrivals = itertools.count()
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self.running = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        return sum(not future.done() for _, _, future in self._queue)

    @asynccontextmanager
    async def held(self, priority: int) -> AsyncGenerator[None]:
        """Hold a slot while the block runs; cancelling while waiting is clean."""
        await self._acquire(priority)
        try:
            yield
        finally:
            self.running -= 1
            self._hand_out()

    async def _acquire(self, priority: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, next(self._arrivals), future))
        self._hand_out()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # the slot came just as the caller went away
                self.running -= 1
            self._hand_out()
            raise

    def _hand_out(self) -> None:
        while self._queue:
            priority, _, future = self._queue[0]
            if not future.done():
                if self.running >= (self._total if priority <= Priority.CHAT else self._open_to_all):
                    return
                self.running += 1
                future.set_result(None)
            heapq.heappop(self._queue)
