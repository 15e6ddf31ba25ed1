"""A real HTTP server that plays Ollama and an OpenAI-compatible engine at once, each call as its tape has it."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from fakes.engine_script import EngineScript
from fakes.ollama_server import OllamaServer
from fakes.openai_server import OpenAIServer
from fakes.tapes import BOOM, Line, Story, ollama_tape, openai_tape


@dataclass
class Playing:
    """A story, and how far it has been told."""

    story: Story
    sent: list[Line] = field(default_factory=list)  # whole lines, of the last try
    tries: int = 0
    stalled: asyncio.Event = field(default_factory=asyncio.Event)


class TapedEngine:
    """Serves the models `small` and `large`; the last message of a call names the story that is played."""

    def __init__(self) -> None:
        script = EngineScript(models=["small", "large"])
        self.url = ""
        self.playing: dict[str, Playing] = {}
        self.unwell = 0  # so many looks at the engine's health find it ill
        self._openai, self._ollama = OpenAIServer(script), OllamaServer(script)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._health])
        routes = application.router
        routes.add_get("/v1/models", self._openai.models)
        routes.add_post("/v1/chat/completions", self._chat)
        routes.add_get("/api/tags", self._ollama.tags)
        routes.add_get("/api/ps", self._ollama.ps)
        routes.add_post("/api/pull", self._ollama.pull)
        routes.add_post("/api/chat", self._chat)
        return application

    @web.middleware
    async def _health(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.unwell and request.method == "GET":
            self.unwell -= 1
            return web.json_response({"error": "ill"}, status=500)
        return await handler(request)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        is_ollama = request.path.startswith("/api")
        if is_ollama and not body["messages"]:
            return await self._ollama.chat(request)
        playing = self.playing[body["messages"][-1]["content"]]
        playing.tries += 1
        playing.sent.clear()
        story = playing.story
        if story.ending == "refused":
            return web.json_response({"error": BOOM if is_ollama else {"message": BOOM}}, status=500)
        if story.ending == "lost" and playing.tries == 1:
            self.unwell += 1
            self._hang_up(request)
            return web.Response()
        tape = ollama_tape(story, body["model"]) if is_ollama else openai_tape(story)
        kind = "application/x-ndjson" if is_ollama else "text/event-stream"
        response = web.StreamResponse(headers={"Content-Type": kind})
        with suppress(ConnectionError):  # the client went away
            await response.prepare(request)
            await self._play(tape, playing, request, response)
        return response

    async def _play(
        self, tape: list[Line], playing: Playing, request: web.Request, response: web.StreamResponse
    ) -> None:
        story = playing.story
        shown = tape if story.ending in ("well", "lost") else tape[: story.lines]
        for line in shown:
            await self._write(response, line.data, story.piece_bytes)
            playing.sent.append(line)
        if story.ending == "stall":
            playing.stalled.set()
            await asyncio.Event().wait()
        if story.ending == "cut in a line" and len(shown) < len(tape):
            half = tape[len(shown)].data
            await response.write(half[: len(half) // 2])
        if story.ending in ("cut", "cut in a line"):
            self._hang_up(request)
        elif story.ending in ("error", "garbage"):
            told = json.dumps({"error": BOOM}) if story.ending == "error" else '{"choices": nonsense'
            prefix = "" if request.path.startswith("/api") else "data: "
            await response.write(f"{prefix}{told}\n\n".encode())

    async def _write(self, response: web.StreamResponse, data: bytes, piece_bytes: int | None) -> None:
        size = piece_bytes or len(data)
        for start in range(0, len(data), size):
            await response.write(data[start : start + size])

    def _hang_up(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.close()
