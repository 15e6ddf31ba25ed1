"""One answer as OpenAI's stream of chunks, which begins with its first piece: what fails before still has a status."""

import asyncio
import json
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from tale.records import Delta, Reply
from tale.servers.openai_answers import DONE, PING, delta_of, event, finish_reason_of, usage_of
from tale.servers.openai_failures import Failure

STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

Json = dict[str, Any]


class StreamedAnswer:
    """The response to one request. While nothing is said for `ping_interval_s`, comments keep the connection alive."""

    def __init__(self, request: web.Request, head: Json, headers: dict[str, str], *, ping_interval_s: float) -> None:
        self.response = web.StreamResponse(headers={**STREAM_HEADERS, **headers})
        self._request = request
        self._head = head  # of every chunk
        self._ping_interval_s = ping_interval_s
        self._opening = asyncio.Lock()
        self._pinger: asyncio.Task[None] | None = None
        self._silence = asyncio.get_running_loop().call_later(ping_interval_s, self._begin_pinging)
        self._frame: tuple[bytes, bytes] | None = None  # around the text of a plain chunk

    async def piece(self, delta: Delta, model: str) -> None:
        """Send what is new."""
        if self._frame is None:
            self._head["model"] = model
            self._frame = self._framed()
            told = {"role": "assistant", "content": "", **delta_of(delta)}
            await self._write(self._chunk(told, delta))
        elif delta.reasoning or delta.tool_calls or delta.logprobs is not None:
            await self._write(self._chunk(delta_of(delta), delta))
        else:
            before, after = self._frame
            await self._write(before + json.dumps(delta.text).encode() + after)

    async def end(self, reply: Reply, include_usage: bool | None) -> None:
        """Send why it ended and its tokens: in a chunk of their own where that was asked for, else with the last one.

        `include_usage` False leaves them out.
        """
        if self._frame is None:
            await self.piece(Delta(""), reply.model)
        usage = usage_of(reply.usage)
        choice: Json = {"index": 0, "delta": {}, "finish_reason": finish_reason_of(reply)}
        ending = {**self._head, "choices": [choice]}
        if include_usage is None:
            ending["usage"] = usage
        last = event(ending)
        if include_usage:
            last += event({**self._head, "choices": [], "usage": usage})
        await self._write(last + DONE)

    async def fail(self, failure: Failure) -> None:
        """Tell a failure in the stream, whose status is out already."""
        await self._write(event(failure.body()) + DONE)

    def close(self) -> None:
        """Ping no more."""
        self._silence.cancel()
        if self._pinger is not None:
            self._pinger.cancel()

    def _chunk(self, told: Json, delta: Delta) -> bytes:
        choice: Json = {"index": 0, "delta": told, "finish_reason": None}
        if delta.logprobs is not None:
            choice["logprobs"] = delta.logprobs
        return event({**self._head, "choices": [choice]})

    def _framed(self) -> tuple[bytes, bytes]:
        mark = "\u0000"  # which json escapes, and no head holds
        whole = self._chunk({"content": mark}, Delta(""))
        before, _, after = whole.partition(json.dumps(mark).encode())
        return before, after

    async def _write(self, data: bytes) -> None:
        if not self.response.prepared:
            async with self._opening:
                if not self.response.prepared:
                    await self.response.prepare(self._request)
        await self.response.write(data)

    def _begin_pinging(self) -> None:
        self._pinger = asyncio.create_task(self._ping(), name="openai-ping")

    async def _ping(self) -> None:
        with suppress(ConnectionError):  # what a lost connection means is decided where the answer is written
            while True:
                await self._write(PING)
                await asyncio.sleep(self._ping_interval_s)
