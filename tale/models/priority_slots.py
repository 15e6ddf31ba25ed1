"""A model's slots on its engines, given out by priority: chat before tasks before background, then by arrival."""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tale.models.engine import Engine, least_expected_delay
from tale.records import Priority


@dataclass(order=True, slots=True)
class _Waiting:
    """A call that waits for its turn; `avoid` is the engine that has failed it, which may recover meanwhile."""

    priority: int
    arrival: int
    turn: asyncio.Future[Engine] = field(compare=False)
    avoid: Engine | None = field(compare=False)
    recoveries: int = field(compare=False)

    def avoids(self, engine: Engine) -> bool:
        return engine is self.avoid and engine.recoveries == self.recoveries


class PrioritySlots:
    """`total` slots on each engine, of which `reserved` are for chat alone, so that it never waits behind longer work.

    One queue for all engines: a call is given its engine when its turn comes, not before, so that none waits for one
    engine while another is free. Engines that rest or lack the model are passed over while others are left.
    """

    def __init__(self, engines: Sequence[Engine], model: str, total: int, *, reserved: int = 0) -> None:
        self._engines = engines
        self._model = model
        self._open_to_all = total - reserved
        self._total = total
        self._arrivals = itertools.count()
        self._queue: list[_Waiting] = []
        self.running = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        return sum(not call.turn.done() for call in self._queue)

    @asynccontextmanager
    async def held(self, priority: int, *, avoid: Engine | None = None) -> AsyncGenerator[Engine]:
        """Hold a slot of an engine while the block runs; cancelling while waiting is clean.

        `avoid` is taken only where no other engine can serve the model, or once it has recovered.
        """
        engine = await self._acquire(priority, avoid)
        try:
            yield engine
        finally:
            self._give_back(engine)
            self.hand_out()

    def hand_out(self) -> None:
        """Give what is free to those whose turn it is; called also when engines have come back."""
        put_off: list[_Waiting] = []
        while self._queue:
            call = self._queue[0]
            if not call.turn.done():
                engine = self._engine_for(call)
                if engine is not None:
                    self._take(engine)
                    call.turn.set_result(engine)
                elif call.avoid is None:
                    break  # whoever is behind may use no slot that this one may not
                else:
                    put_off.append(call)
            heapq.heappop(self._queue)
        for call in put_off:
            heapq.heappush(self._queue, call)

    async def _acquire(self, priority: int, avoid: Engine | None) -> Engine:
        turn: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        recoveries = avoid.recoveries if avoid else 0
        heapq.heappush(self._queue, _Waiting(priority, next(self._arrivals), turn, avoid, recoveries))
        self.hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the slot came just as the caller went away
                self._give_back(turn.result())
            self.hand_out()
            raise

    def _engine_for(self, call: _Waiting) -> Engine | None:
        serving = [engine for engine in self._engines if self._model in engine.ready]
        able = [engine for engine in serving if engine.is_able] or serving or self._engines
        if call.avoid is not None:
            able = [engine for engine in able if not call.avoids(engine)] or able
        limit = self._total if call.priority <= Priority.CHAT else self._open_to_all
        free = [engine for engine in able if engine.in_flight[self._model] < limit]
        return least_expected_delay(free, time.monotonic()) if free else None

    def _take(self, engine: Engine) -> None:
        self.running += 1
        engine.take(self._model)

    def _give_back(self, engine: Engine) -> None:
        self.running -= 1
        engine.give_back(self._model)
