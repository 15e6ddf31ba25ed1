"""Work whose clearing up nothing may interrupt: it runs in a task of its own, which is cancelled once.

httpx closes connections with awaits, which a second cancellation interrupts; the connection then stays open, and the
engine at its other end goes on. Whoever waits for work that is done apart may be cancelled as often as anybody likes.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

AHEAD: Final = 16  # items that may wait for their reader

logger = logging.getLogger(__name__)
_under_way: set[asyncio.Task[Any]] = set()  # the event loop itself holds on to no task


async def read_apart(stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The items of a stream, which is closed whatever happens; none of them may be None."""
    items: asyncio.Queue[T | None] = asyncio.Queue(AHEAD)
    reading = _begun(_read(stream, items))
    try:
        while (item := await items.get()) is not None:
            yield item
        await reading
    finally:
        await _ended(reading)


async def done_apart(work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which clears up after itself whatever happens."""
    task = _begun(work)
    try:
        return await asyncio.shield(task)
    finally:
        await _ended(task)


async def _read(stream: AsyncGenerator[T, None], items: "asyncio.Queue[T | None]") -> None:
    try:
        async for item in stream:
            await items.put(item)
    except Exception:  # no end of its own: it is raised again, for the reader, who learns of it after the items
        await items.put(None)
        raise
    finally:
        await stream.aclose()
    await items.put(None)


def _begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.create_task(work)
    _under_way.add(task)
    task.add_done_callback(_forget)
    return task


def _forget(task: asyncio.Task[Any]) -> None:
    _under_way.discard(task)
    if not task.cancelled() and (error := task.exception()):
        logger.debug("What was done apart ended with: %r", error)  # whoever waits for it gets it, too


async def _ended(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
