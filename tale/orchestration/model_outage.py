"""Waits for models that are out of reach, so that a restart of their server costs no task an attempt."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tale.exceptions import NetworkException
from tale.models.backend import ChatStream

PAUSE_S: Final = 0.5
LONGEST_OUTAGE_S: Final = 120.0  # then the attempt has failed: what asks may be what brings the server down

logger = logging.getLogger(__name__)


async def once_in_reach(
    chat: Callable[[], ChatStream],
    *,
    on_wait: Callable[[str], None],
    pause_s: float = PAUSE_S,
    limit_s: float = LONGEST_OUTAGE_S,
) -> ChatStream:
    """The stream of `chat`, begun again while the models cannot be reached; `on_wait` is told once what is waited for.

    A stream that breaks after its first event has had an engine at work: that is the caller's to judge. Raises
    NetworkException when an outage lasts longer than `limit_s` seconds.
    """
    loop = asyncio.get_running_loop()
    ends_at: float | None = None
    while True:
        has_begun = False
        stream = chat()
        try:
            async for event in stream:
                has_begun = True
                yield event
            return
        except NetworkException as error:
            if ends_at is None:
                ends_at = loop.time() + limit_s
                if not has_begun:
                    logger.warning("Waiting for the models: %s", error)
                    on_wait("Waiting for the models, which do not answer")
            if has_begun or loop.time() >= ends_at:
                raise
        finally:
            await stream.aclose()
        await asyncio.sleep(pause_s)
