"""A played engine of OpenAI's kind that keeps books of its own: what it was asked, what it reported, what went wrong.

How a generation goes is said by a mark in the last message, so that whoever asks knows how it has to end.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from aiohttp import web

WORDS = ("rain ", "on ", "the ", "old ", "tin ", "roof ", "and ", "a ", "dog ", "asleep. ")
MOST_WORDS = 40
BREAK_AFTER = 1  # word, of a broken answer
WAIT_AFTER = 2  # words, of an endless one


class Mark(StrEnum):
    """What goes otherwise than well."""

    REFUSED = "[refused]"  # an answer of status 500
    BROKEN = "[broken]"  # the connection is lost after the first word
    ENDLESS = "[endless]"  # after two words nothing comes until the client leaves
    SILENT = "[silent]"  # a good answer without usage


class CountingEngine:
    """Serves the models named in `models`; `books` are its own counters."""

    def __init__(self, *, seed: int = 1) -> None:
        self.models = ["small"]
        self.books: Counter[str] = Counter()
        self.open = 0
        self.url = ""
        self._random = random.Random(seed)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        application = web.Application()
        application.router.add_get("/v1/models", self._list)
        application.router.add_post("/v1/chat/completions", self._counted(self._chat))
        application.router.add_post("/v1/embeddings", self._counted(self._embed))
        # An engine stops when its client leaves.
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _counted(
        self, handle: Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def counted(request: web.Request) -> web.StreamResponse:
            self.books["calls"] += 1
            self.open += 1
            try:
                return await handle(request, json.loads(await request.read()))
            except (asyncio.CancelledError, ConnectionError):
                self.books["cancelled"] += 1
                raise
            finally:
                self.open -= 1

        return counted

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def _embed(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        tokens = sum(len(text.split()) for text in body["input"])
        self._book({"input_tokens": tokens})
        rows = [{"index": index, "embedding": [float(len(text))]} for index, text in enumerate(body["input"])]
        return web.json_response({"data": rows, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    async def _chat(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = str(body["messages"][-1]["content"])
        if Mark.REFUSED in said:
            self.books["failed"] += 1
            return web.json_response({"error": {"message": "not now"}}, status=500)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = self._random.randint(WAIT_AFTER + 1, MOST_WORDS)
        for number in range(count):
            if number == BREAK_AFTER and Mark.BROKEN in said:
                self.books["failed"] += 1
                assert request.transport is not None
                request.transport.close()
                return response
            if number == WAIT_AFTER and Mark.ENDLESS in said:
                await asyncio.Event().wait()
            delta = {"content": WORDS[number % len(WORDS)]}
            await _chunk(response, {"choices": [{"delta": delta, "finish_reason": None}]})
        tokens = {} if Mark.SILENT in said else self._tokens(body, count)
        # The books are closed before the last words go out: whoever reads those may look into them at once.
        self._book(tokens)
        await self._end(response, tokens)
        return response

    def _tokens(self, body: dict[str, Any], output_tokens: int) -> dict[str, int]:
        input_tokens = sum(len(str(message["content"]).split()) for message in body["messages"])
        return {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_tokens": self._random.randint(0, input_tokens),
            "reasoning_tokens": self._random.randint(0, output_tokens),
        }

    def _book(self, tokens: dict[str, int]) -> None:
        self.books["completed"] += 1
        self.books["unreported"] += not tokens
        self.books.update(tokens)

    async def _end(self, response: web.StreamResponse, tokens: dict[str, int]) -> None:
        """The last chunks, with the usage where engines put it: on the finish, or on a chunk of its own."""
        told = {"usage": _usage(tokens)} if tokens else {}
        on_the_finish = self._random.choice((True, False))
        ending = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        await _chunk(response, {**ending, **told} if on_the_finish else ending)
        if told and not on_the_finish:
            await _chunk(response, {"choices": [], **told})
        await response.write(b"data: [DONE]\n\n")


def _usage(tokens: dict[str, int]) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens["input_tokens"],
        "completion_tokens": tokens["output_tokens"],
        "prompt_tokens_details": {"cached_tokens": tokens["cached_tokens"]},
        "completion_tokens_details": {"reasoning_tokens": tokens["reasoning_tokens"]},
    }


async def _chunk(response: web.StreamResponse, value: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(value)}\n\n".encode())
