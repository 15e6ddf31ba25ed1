"""What Ctrl-C means for many tasks where it is to cancel them."""

import asyncio
from collections.abc import Sequence
from typing import Final

from tale.cli.gateway import running
from tale.exceptions import TaleBaseException
from tale.settings import Settings

AT_ONCE: Final = 16
LIMIT_S: Final = 60.0  # for all of them; a second Ctrl-C ends it, too


def are_cancelled(settings: Settings, task_ids: Sequence[str]) -> bool:
    """Cancel those of the tasks that have not ended, the last first; whether all were reached."""
    if not task_ids:
        return True

    async def cancel() -> None:
        left = list(task_ids)
        async with asyncio.timeout(LIMIT_S), running(settings, lambda _: None) as client:
            while left:
                ids, left = left[-AT_ONCE:], left[:-AT_ONCE]
                calls = [client.call_tool("cancel_task", {"task_id": each}, idempotent=True) for each in reversed(ids)]
                await asyncio.gather(*calls)

    try:
        asyncio.run(cancel())
    except (TaleBaseException, TimeoutError, KeyboardInterrupt):
        return False
    return True
