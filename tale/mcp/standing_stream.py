"""Reads what a server of the handshake era says outside of any call: its questions, and what changed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import aiohttp

from tale.mcp.answers import AnswerReader, NotAMessage
from tale.mcp.envelopes import ClientSession
from tale.mcp.wire import EVENT_STREAM, LAST_EVENT_HEADER, Message

NO_REQUEST: Final = -1  # the standing stream brings the answer to none
OPEN_LIMIT_S: Final = 5.0
BREAKS: Final = 3  # in a row, after which the server is taken to have no such stream

OnMessage = Callable[[Message], Awaitable[None]]

logger = logging.getLogger(__name__)


class StandingStream:
    """Keeps the stream of a session open in the background, from `open` to `close`. A server may do without it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, session: ClientSession, on_message: OnMessage) -> None:
        self._http = http
        self._url = url
        self._session = session
        self._reader = AnswerReader(NO_REQUEST, on_message)
        self._task: asyncio.Task[None] | None = None
        self._is_there = asyncio.Event()

    async def open(self) -> None:
        """Return when the server has opened the stream, has refused it, or has not said a word for some seconds."""
        self._task = asyncio.create_task(self._read_on(), name="mcp-standing-stream")
        with suppress(TimeoutError):
            async with asyncio.timeout(OPEN_LIMIT_S):
                await self._is_there.wait()

    async def close(self) -> None:
        """Leave the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read_on(self) -> None:
        breaks = 0
        try:
            while breaks < BREAKS:
                try:
                    if not await self._read():
                        return
                    breaks = 0
                except (aiohttp.ClientError, TimeoutError, NotAMessage) as error:
                    breaks += 1
                    logger.debug("The standing stream of %s broke off: %s", self._url, error)
                await asyncio.sleep(self._reader.retry_s)
        finally:
            self._is_there.set()

    async def _read(self) -> bool:
        """Read until the stream ends; returns whether there is one."""
        headers = {**self._session.headers, "Accept": EVENT_STREAM}
        if self._reader.last_event_id is not None:
            headers[LAST_EVENT_HEADER] = self._reader.last_event_id
        patient = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with self._http.get(self._url, headers=headers, timeout=patient) as response:
            self._is_there.set()
            if response.content_type != EVENT_STREAM:
                return False
            await self._reader.read(response)
        return True
