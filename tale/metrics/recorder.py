"""Writes down what is measured, durably, before the answer it belongs to goes out."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol

from tale.metrics.call_counts import CallCounts
from tale.records import McpCall, ModelCall
from tale.storage.call_store import CallStore

logger = logging.getLogger(__name__)


class CallObserver(Protocol):
    """Is told of each call of this process once its row is durable; it must be quick. An error of it costs no call."""

    def model_call_ended(self, call: ModelCall) -> None:
        """A model call ended."""
        ...

    def request_answered(self, call: McpCall) -> None:
        """A request was answered."""
        ...


class Recorder:
    """The door from measuring to the database. A call that cannot be written down is refused: DatabaseException.

    `counts` is what was written down since the process began.
    """

    def __init__(self, calls: CallStore) -> None:
        self.counts = CallCounts()
        self._calls = calls
        self._observers: list[CallObserver] = [self.counts]

    def observe(self, observer: CallObserver) -> None:
        """Tell the observer of each call from now on."""
        self._observers.append(observer)

    def open_call(self, call: ModelCall) -> Awaitable[None]:
        """Note that a model call has begun; handed to the database on return, durable when that was awaited."""
        return self._calls.open_call(call)

    @property
    def may_refuse(self) -> bool:
        """Whether a call has to be held of budgets before its engine is asked."""
        return self._calls.may_refuse

    async def hold_call(self, call: ModelCall, *, most_tokens: int) -> bool:
        """Note that a call has begun that holds so many tokens of the budgets there are; raises BudgetException.

        Returns whether a hard budget holds for it.
        """
        return await self._calls.hold_call(call, most_tokens=most_tokens)

    async def close_call(self, call: ModelCall) -> None:
        """Note how a model call ended."""
        try:
            await self._calls.close_call(call)
        except asyncio.CancelledError:
            self._told_of(call)  # what the database has accepted is written even when nobody waits for it
            raise
        self._told_of(call)

    def record_mcp(self, call: McpCall) -> Awaitable[None]:
        """Note an answered MCP request; handed to the database on return, durable when that was awaited."""
        recording = asyncio.ensure_future(self._calls.record_mcp(call))

        def tell(recording: asyncio.Future[None]) -> None:
            if recording.cancelled() or recording.exception() is None:  # what is accepted is written, as above
                self._told_of_request(call)

        recording.add_done_callback(tell)
        return recording

    def _told_of(self, call: ModelCall) -> None:
        for observer in self._observers:
            try:
                observer.model_call_ended(call)
            except Exception:  # the edge of who looks on: the call is made and written down
                logger.exception("An observer of model calls failed.")

    def _told_of_request(self, call: McpCall) -> None:
        for observer in self._observers:
            try:
                observer.request_answered(call)
            except Exception:  # likewise
                logger.exception("An observer of requests failed.")
