"""Carries progress from where it happens to the client of an MCP call, at a pace a client can take."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from tale.mcp.base_server import ToolContext

PROGRESS_INTERVAL_S: Final = 0.1  # at most this often; counts that come in between are folded into the next
PENDING_LIMIT: Final = 16  # messages kept for a client that takes none; then the oldest is dropped
SMALLEST_STEP: Final = 0.001  # the protocol wants each progress figure larger than the last


class ProgressRelay:
    """Sends progress as the client can take it; its figure is the output tokens, raised a little when they stood.

    Of messages that count tokens only the newest matters; the others say something once and are all sent.
    """

    def __init__(self, context: ToolContext) -> None:
        self._context = context
        self._pending: list[tuple[str, int | None]] = []
        self._arrived = asyncio.Event()
        self._figure = 0.0

    def offer(self, message: str, output_tokens: int | None) -> None:
        """Take note of progress; it is sent soon."""
        if self._pending and self._pending[-1][1] is not None:
            self._pending.pop()
        self._pending.append((message, output_tokens))
        del self._pending[:-PENDING_LIMIT]
        self._arrived.set()

    async def send_all(self) -> None:
        """Send what is offered, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self.send_pending()
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    async def send_pending(self) -> None:
        """Send what was offered and not sent yet."""
        while self._pending:
            message, output_tokens = self._pending.pop(0)
            self._figure = max(self._figure + SMALLEST_STEP, float(output_tokens or 0))
            await self._context.progress(self._figure, message=message)


@asynccontextmanager
async def relay_progress(context: ToolContext) -> AsyncGenerator[ProgressRelay]:
    """A relay that sends while the block runs, and the rest when it has run well."""
    relay = ProgressRelay(context)
    sender = asyncio.create_task(relay.send_all())
    try:
        yield relay
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
    await relay.send_pending()
