"""Writes down what a model has written so far, now and then, so that kill -9 leaves a partial result behind."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tale.exceptions import DatabaseException

FIRST_S: Final = 1.0  # between two writings, at first
SHARE: Final = 0.05  # later a twentieth of the time so far: a long text is not written a thousand times over

logger = logging.getLogger(__name__)

Keep = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def kept_as_it_grows(pieces: Sequence[str], keep: Keep, *, first_s: float = FIRST_S) -> AsyncGenerator[None]:
    """While the block runs, hand the text of `pieces` to `keep` whenever it has grown, about once a second.

    What is lost by a sudden death is the last second of it, or the last twentieth. A database that fails is no reason
    to stop writing: the end of the attempt, which has the whole text, will tell.
    """
    keeping = asyncio.create_task(_keep_now_and_then(pieces, keep, first_s), name="partial-text")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep_now_and_then(pieces: Sequence[str], keep: Keep, first_s: float) -> None:
    kept, loop = 0, asyncio.get_running_loop()
    began = loop.time()
    while True:
        await asyncio.sleep(max(first_s, SHARE * (loop.time() - began)))
        if len(pieces) == kept:
            continue
        kept = len(pieces)
        try:
            await keep("".join(pieces))
        except DatabaseException as error:
            logger.warning("What has been written so far could not be kept: %s", error)
