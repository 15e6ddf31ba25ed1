"""Finds the answer to one request in the HTTP response to it: JSON, or a stream that may break off and go on."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

import aiohttp

from tale.mcp.wire import EVENT_STREAM, Message

RETRY_S: Final = 1.0  # before a stream is taken up again, unless the server says otherwise
LONGEST_RETRY_S: Final = 30.0
MS: Final = 1000

OnMessage = Callable[[Message], Awaitable[None]]


class NotAMessage(Exception):
    """What came is no MCP message; `text` is what it says instead."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text.strip()


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; `data` is empty where the server only says where its stream can be taken up."""

    data: str
    event_id: str | None
    retry_ms: int | None


class AnswerReader:
    """Reads until the answer to `request_id` comes; other messages go to `on_message`.

    `last_event_id` says where a stream that broke off can be taken up, `retry_s` after how long.
    """

    def __init__(self, request_id: int, on_message: OnMessage) -> None:
        self._request_id = request_id
        self._on_message = on_message
        self.last_event_id: str | None = None
        self.retry_s = RETRY_S

    async def read(self, response: aiohttp.ClientResponse) -> Message | None:
        """The answer; None if a stream that can be taken up ended without it.

        Raises NotAMessage, and aiohttp.ClientError when the connection breaks.
        """
        if response.content_type == EVENT_STREAM:
            return await self._read_stream(response)
        answer = _message_in(await response.text(errors="replace"))
        if answer is None:
            raise NotAMessage(await response.text(errors="replace"))
        return answer

    async def _read_stream(self, response: aiohttp.ClientResponse) -> Message | None:
        async for event in read_events(response.content):
            self.last_event_id = event.event_id or self.last_event_id
            if event.retry_ms is not None:
                self.retry_s = min(event.retry_ms / MS, LONGEST_RETRY_S)
            message = _message_in(event.data) if event.data else None
            if message is None:
                continue
            if message.get("id") == self._request_id and "method" not in message:
                return message
            await self._on_message(message)
        if self.last_event_id is None:
            raise aiohttp.ServerDisconnectedError("the stream ended without an answer")
        return None


async def read_events(lines: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """The events of a stream (WHATWG HTML, 9.2.6); an event that is not whole at its end is dropped.

    Raises NotAMessage for a line beyond the stream's limit.
    """
    data: list[str] = []
    event_id: str | None = None
    retry_ms: int | None = None
    try:
        async for raw in lines:
            field, colon, value = raw.decode("utf-8", "replace").rstrip("\r\n").partition(":")
            value = value.removeprefix(" ")
            if not field and not colon:
                if data:
                    yield Event("\n".join(data), event_id, retry_ms)
                data, event_id, retry_ms = [], None, None
            elif field == "data":
                data.append(value)
            elif field == "id" and value.isprintable():  # it comes back in a header
                event_id = value
            elif field == "retry" and value.isascii() and value.isdigit():
                retry_ms = int(value)
    except ValueError as error:  # how aiohttp says that a line is too long
        raise NotAMessage(str(error)) from error


def _message_in(text: str) -> Message | None:
    """A JSON object; None for a list or a plain value. Raises NotAMessage for what is no JSON."""
    try:
        message: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotAMessage(text) from error
    return cast("Message", message) if isinstance(message, dict) else None
