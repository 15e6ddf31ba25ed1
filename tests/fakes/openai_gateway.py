"""A real gateway over a played engine, as clients of OpenAI's API meet it."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.servers import Process, running, settings_for

from tale.models.openai_backend import OpenAIBackend

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"
SILENCE_S = 30


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The chunks of a stream, which ends with [DONE]."""
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: ")]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    @property
    def words(self) -> str:
        """The text of a stream."""
        choices = [choice for chunk in self.chunks for choice in chunk["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


@dataclass
class Gateway:
    """The gateway's process, the engine behind it, and a connection to it."""

    process: Process
    engine: OpenAIServer
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.process.settings.url_of("gateway")

    async def ask(self, path: str, body: object = None, *, headers: dict[str, str] | None = None) -> Answer:
        """GET without a body, POST with one; text and bytes are sent as they are."""
        data = body if isinstance(body, str | bytes | io.BytesIO | None) else json.dumps(body)
        method = "GET" if body is None else "POST"
        async with self.session.request(method, f"{self.url}{path}", data=data, headers=headers) as response:
            return Answer(response.status, response.headers, await response.text())

    async def chat(self, **given: Any) -> Answer:
        """Ask for a completion."""
        return await self.ask(CHAT, {"model": "small", "messages": MESSAGES, **given})


@asynccontextmanager
async def openai_gateway(home: Path, engine: OpenAIServer, **chosen: object) -> AsyncIterator[Gateway]:
    """Serve the gateway; all its models are the engine's."""
    async with served(engine), aiohttp.ClientSession() as session:
        backend: Any = OpenAIBackend(engine.base_url, timeout_s=SILENCE_S)
        async with running(settings_for(home, **chosen), ("gateway",), backend=backend) as process:
            yield Gateway(process, engine, session)
