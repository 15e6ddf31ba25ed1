"""Writes down what is measured, durably, before the answer it belongs to goes out."""

import logging

from tale.records import McpCall, ModelCall
from tale.storage.call_store import CallStore

logger = logging.getLogger(__name__)


class Recorder:
    """The door from measuring to the database. A call that cannot be written down is refused: DatabaseException."""

    def __init__(self, calls: CallStore) -> None:
        self._calls = calls

    async def open_call(self, call: ModelCall) -> None:
        """Note that a model call has begun."""
        await self._calls.open_call(call)

    async def close_call(self, call: ModelCall) -> None:
        """Note how a model call ended."""
        await self._calls.close_call(call)

    async def record_mcp(self, call: McpCall) -> None:
        """Note an answered MCP request."""
        await self._calls.record_mcp(call)
