"""Carries progress from where it happens to the client of an MCP call, at a pace a client can take."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from tale.mcp.base_server import ToolContext

PROGRESS_INTERVAL_S: Final = 0.1  # at most this often; what comes in between is folded into the next
SMALLEST_STEP: Final = 0.001  # the protocol wants each progress figure larger than the last


class ProgressRelay:
    """Keeps the newest progress and sends it; its figure is the output tokens, raised a little when they stood."""

    def __init__(self, context: ToolContext) -> None:
        self._context = context
        self._newest: tuple[str, int | None] | None = None
        self._arrived = asyncio.Event()
        self._figure = 0.0

    def offer(self, message: str, output_tokens: int | None) -> None:
        """Take note of progress; it is sent soon unless something newer comes first."""
        self._newest = (message, output_tokens)
        self._arrived.set()

    async def send_all(self) -> None:
        """Send what is offered, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._newest is not None:
                message, output_tokens = self._newest
                self._figure = max(self._figure + SMALLEST_STEP, float(output_tokens or 0))
                await self._context.progress(self._figure, message=message)
            await asyncio.sleep(PROGRESS_INTERVAL_S)


@asynccontextmanager
async def relay_progress(context: ToolContext) -> AsyncGenerator[ProgressRelay]:
    """A relay that sends while the block runs."""
    relay = ProgressRelay(context)
    sender = asyncio.create_task(relay.send_all())
    try:
        yield relay
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
