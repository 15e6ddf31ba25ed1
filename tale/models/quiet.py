"""Speculative work: done in moments in which nobody else wants a model, and put off while there are none."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from tale.exceptions import TaleBaseException

logger = logging.getLogger(__name__)


async def in_quiet_moments(
    wanted: asyncio.Event, step: Callable[[], Awaitable[bool]], *, quiet_s: float, longest_s: float
) -> NoReturn:
    """While it is wanted, take a step after each `quiet_s` seconds, until it is cancelled.

    A step returns False where it was not quiet, or where it had to give way: the next one comes after twice the time,
    up to `longest_s`. What it raises is logged, and it is tried again, even where it had taken back that it is wanted.
    """
    pause_s = quiet_s
    while True:
        await wanted.wait()
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)
        try:
            if await step():
                pause_s = quiet_s
        except (TaleBaseException, TimeoutError) as error:
            wanted.set()
            logger.info("Work for a quiet moment failed: %s", str(error) or "it took too long")
        except Exception:  # the edge of what runs beside talk and tasks, which go on without it
            wanted.set()
            logger.exception("Work for a quiet moment broke off.")
