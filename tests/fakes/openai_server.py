"""A real HTTP server that plays an OpenAI-compatible engine, llama.cpp's among them."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web
from fakes.engine_script import EngineScript


@dataclass
class Habits:
    """What engines do differently."""

    usage: Literal["last", "own chunk", "every", "none"] = "own chunk"
    newline: str = "\n"
    done: bool = True  # whether [DONE] ends the stream
    piece: int | None = None  # bytes written at a time, so that characters and lines are split
    timings: bool = True  # llama.cpp's
    prompt_progress: bool = False


class OpenAIServer:
    """An engine; `api_key` is asked for when it is given."""

    def __init__(
        self, script: EngineScript | None = None, habits: Habits | None = None, *, api_key: str | None = None
    ) -> None:
        self.script = script or EngineScript()
        self.habits = habits or Habits()
        self.api_key = api_key
        self.counts_chats = True  # as vLLM does at an address at which llama.cpp counts plain text
        self.counted: list[dict[str, Any]] = []  # the prompts whose tokens were asked for
        self.url = ""

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard])
        routes = application.router
        routes.add_get("/v1/models", self.models)
        routes.add_post("/v1/chat/completions", self.chat)
        routes.add_post("/v1/embeddings", self.embeddings)
        routes.add_post("/apply-template", self.template)
        routes.add_post("/tokenize", self.tokenize)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": "Invalid API key", "type": "auth"}}, status=401)
        return await handler(request)

    async def models(self, request: web.Request) -> web.Response:
        length = {"max_model_len": self.script.context_tokens} if self.script.context_tokens else {}
        return web.json_response({"data": [{"id": name, **length} for name in self.script.models]})

    async def template(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.counted.append(body)
        return web.json_response({"prompt": " ".join(message["content"] for message in body["messages"])})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" not in body:
            return web.json_response({"tokens": body["content"].split()})
        self.counted.append(body)
        if not self.counts_chats:
            return web.json_response({"error": "prompt: field required"}, status=422)
        return web.json_response({"count": sum(len(message["content"].split()) for message in body["messages"])})

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        rows = [{"index": index, "embedding": [float(len(text))]} for index, text in enumerate(body["input"])]
        tokens = sum(len(text.split()) for text in body["input"])
        return web.json_response({"data": rows[::-1], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.script.requests.append(body)
        self.script.traces.append(request.headers.get("traceparent"))
        if self.script.refuse:
            status, told = self.script.refuse
            return web.Response(status=status, text=told if isinstance(told, str) else json.dumps(told))
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(self.script.words), **self._beside()}
            choice = {"index": 0, "message": message, "finish_reason": self._finish_reason}
            return web.json_response({"choices": [choice], **self._usage(), **self._timings()})
        return await self._stream(request)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._write(response, ": a comment")
            if self.habits.prompt_progress:
                await self._chunk(response, {"choices": [], "prompt_progress": {"processed": 4, "total": 11}})
            if self.script.reasoning:
                await self._delta(response, {"reasoning_content": self.script.reasoning})
            for number, word in enumerate(self.script.words):
                if number == self.script.break_after:
                    assert request.transport is not None
                    request.transport.close()
                    return response
                await self.script.between_words(number)
                extra = self._usage() if self.habits.usage == "every" else {}
                await self._chunk(response, {"choices": [{"delta": {"content": word}, "finish_reason": None}], **extra})
            await self._finish(response)
        except (asyncio.CancelledError, ConnectionError):
            self.script.left.set()
            raise
        return response

    async def _finish(self, response: web.StreamResponse) -> None:
        for index, (call_id, name, arguments) in enumerate(self.script.calls):
            begin = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
            await self._delta(response, {"tool_calls": [begin]})
            for piece in (arguments[:5], arguments[5:]):
                await self._delta(response, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        ending: dict[str, Any] = {"choices": [{"delta": {}, "finish_reason": self._finish_reason}]}
        last = self._usage() if self.habits.usage in ("last", "every") else {}
        await self._chunk(response, {**ending, **last, **self._timings()})
        if self.habits.usage == "own chunk":
            await self._chunk(response, {"choices": [], **self._usage()})
        if self.habits.done:
            await self._write(response, "data: [DONE]")

    @property
    def _finish_reason(self) -> str:
        return "tool_calls" if self.script.calls else "stop"

    def _beside(self) -> dict[str, Any]:
        """What an unstreamed message holds beside its text."""
        calls = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call_id, name, arguments in self.script.calls
        ]
        reasoning = {"reasoning_content": self.script.reasoning} if self.script.reasoning else {}
        return {**reasoning, **({"tool_calls": calls} if calls else {})}

    async def _delta(self, response: web.StreamResponse, delta: dict[str, Any]) -> None:
        await self._chunk(response, {"choices": [{"delta": delta, "finish_reason": None}]})

    async def _chunk(self, response: web.StreamResponse, value: dict[str, Any]) -> None:
        await self._write(response, f"data: {json.dumps(value, ensure_ascii=False)}")

    async def _write(self, response: web.StreamResponse, line: str) -> None:
        data = f"{line}{self.habits.newline * 2}".encode()
        size = self.habits.piece or len(data)
        for start in range(0, len(data), size):
            await response.write(data[start : start + size])

    def _usage(self) -> dict[str, Any]:
        tokens, words = self.script.input_tokens, len(self.script.words)
        usage = {
            "prompt_tokens": tokens,
            "completion_tokens": words,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 1},
        }
        return {} if self.habits.usage == "none" else {"usage": usage}

    def _timings(self) -> dict[str, Any]:
        return {"timings": {"prompt_ms": 200.0, "predicted_ms": 300.0}} if self.habits.timings else {}
