"""A real MCP server with tools for every way a call can go, and a caller that speaks to it as bare HTTP clients do."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tale.exceptions import TaskException
from tale.mcp.base_server import BaseMCPServer, CallOrigin, ToolContext
from tale.mcp.http_server import HTTPMCPServer
from tale.records import McpCall

MODERN, HANDSHAKE = "2026-07-28", "2025-11-25"
META = "io.modelcontextprotocol"
BOTH = "application/json, text/event-stream"
MOST_COUNTED = 1_000  # whatever is asked: random figures are large


@dataclass
class Workshop:
    """What the tools did; its methods are the tools."""

    started: asyncio.Event = field(default_factory=asyncio.Event)  # of `wait`
    release: asyncio.Event = field(default_factory=asyncio.Event)  # lets `wait` and `stall` end
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)  # `wait` was
    calls: list[McpCall] = field(default_factory=list)
    status: str = "ok"
    echoed: int = 0

    async def echo(self, text: str) -> dict[str, Any]:
        """Give the text back."""
        self.echoed += 1
        return {"text": text}

    async def repeat(self, text: str, times: int = 2, *, loud: bool | None = None) -> list[str]:
        """Say it several times.

        It is said in full.

        Args:
            text: What to say.
            times: How often.
        """
        return [text.upper() if loud else text] * times

    async def refuse(self, task_id: str) -> str:
        """Refuse in so many words."""
        raise TaskException("No such task; look at the list.", {"task_id": task_id, "path": self.started})

    async def crash(self) -> str:
        """Fail as no tool should."""
        raise RuntimeError("secret detail")

    async def count(self, to: int, context: ToolContext) -> int:
        """Count aloud, to 1,000 at most."""
        if to > 1_000:
            raise TaskException("That is too far; count to 1,000 at most.")
        for number in range(1, min(to, MOST_COUNTED) + 1):
            await context.progress(number, to, f"now {number}")
        return to

    async def wait(self, context: ToolContext) -> str:
        """Wait until told to end."""
        self.started.set()
        try:
            await context.progress(0, message="waiting")
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "waited"

    async def stall(self) -> str:
        """Wait without a word."""
        self.started.set()
        await self.release.wait()
        return "stalled"

    async def ignore(self) -> str:
        """Take no notice of being cancelled."""
        self.started.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
        return "ignored"

    async def surrogate(self) -> str:
        """Return text that UTF-8 cannot hold."""
        return "half \ud800"

    async def infinite(self) -> dict[str, Any]:
        """Return a number that JSON cannot hold."""
        return {"value": float("inf")}

    async def who(self, context: CallOrigin) -> dict[str, Any]:
        """Tell what the call brought along, and note a task."""
        context.concerns("task-of-the-call")
        return {"trace_id": context.trace_id, "header": context.headers.get("X-Test")}

    async def note(self, call: McpCall) -> None:
        """The observer of the server."""
        self.calls.append(call)

    async def health(self) -> dict[str, Any]:
        """What GET /health answers."""
        return {"name": "workshop", "status": self.status}

    def add_tools(self, server: BaseMCPServer) -> None:
        """Register all tools."""
        for tool in (self.echo, self.repeat, self.refuse, self.crash, self.count, self.wait, self.stall, self.ignore):
            server.add_tool(tool)
        for tool in (self.surrogate, self.infinite, self.who):
            server.add_tool(tool, title="Curious", read_only=True)

    def server(self, **options: Any) -> HTTPMCPServer:
        """A server with the tools, on a free port."""
        given = {"health": self.health, "observer": self.note, **options}
        server = HTTPMCPServer("workshop", version="1.2.3", instructions="Try the tools.", **given)
        self.add_tools(server)
        return server


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; `messages` are the JSON bodies or events in it."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        if self.headers.get("Content-Type", "").startswith("text/event-stream"):
            return events_of(self.text)
        return [json.loads(self.text)] if self.text else []

    @property
    def result(self) -> dict[str, Any]:
        return self.messages[-1]["result"]

    @property
    def error(self) -> dict[str, Any]:
        return self.messages[-1]["error"]


@dataclass
class Caller:
    """Posts messages as they are given, to one server."""

    http: aiohttp.ClientSession
    url: str
    session_id: str | None = None

    async def post(self, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """Post a body, bytes as they are and other things as JSON."""
        sent = {"Content-Type": "application/json", "Accept": BOTH, **(headers or {})}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http.post(f"{self.url}/mcp", data=data, headers=sent) as response:
            return Answer(response.status, response.headers.copy(), await response.text())

    async def plain(self, method: str, params: dict[str, Any] | None = None) -> Answer:
        """A request without a handshake, as curl sends it."""
        return await self.post(request(method, params))

    async def modern(self, method: str, params: dict[str, Any] | None = None, **headers: str) -> Answer:
        """A request of the modern era."""
        return await self.post(*modern_request(method, params, **headers))

    async def open_session(self) -> Answer:
        """Shake hands; further messages of `in_session` belong to the session."""
        answer = await self.post(initialize())
        self.session_id = answer.headers.get("Mcp-Session-Id")
        assert (await self.in_session({"jsonrpc": "2.0", "method": "notifications/initialized"})).status == 202
        return answer

    async def in_session(self, body: object) -> Answer:
        """A message of the session."""
        return await self.post(body, self.session_headers())

    def session_headers(self) -> dict[str, str]:
        """What names the session."""
        return {"Mcp-Session-Id": self.session_id or "", "Mcp-Protocol-Version": HANDSHAKE}


def request(method: str, params: dict[str, Any] | None = None, request_id: int | str = 1) -> dict[str, Any]:
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, **({} if params is None else {"params": params})}


def call(tool: str, arguments: dict[str, Any] | None = None, token: int | None = None) -> dict[str, Any]:
    """The params of tools/call; with a progress token when one is given."""
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    return {"name": tool, "arguments": arguments or {}, **meta}


def initialize(version: str = HANDSHAKE) -> dict[str, Any]:
    """The request that opens a session."""
    client = {"name": "test", "version": "1"}
    return request("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": client}, 0)


def modern_request(
    method: str, params: dict[str, Any] | None = None, **headers: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers of a request of the modern era."""
    params = dict(params or {})
    envelope = {f"{META}/protocolVersion": MODERN, f"{META}/clientCapabilities": {}}
    params["_meta"] = {**envelope, **params.get("_meta", {})}
    named = {"Mcp-Name": str(params["name"])} if method == "tools/call" else {}
    return request(method, params), {"Mcp-Protocol-Version": MODERN, "Mcp-Method": method, **named, **headers}


def events_of(text: str) -> list[dict[str, Any]]:
    """The messages of an event stream; comments are left out."""
    blocks = [block.splitlines() for block in text.replace("\r\n", "\n").split("\n\n")]
    data = ["".join(line[5:] for line in lines if line.startswith("data:")) for lines in blocks]
    return [json.loads(each) for each in data if each.strip()]


@asynccontextmanager
async def calling(server: HTTPMCPServer) -> AsyncIterator[Caller]:
    """Serve, and have a caller for it."""
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Caller(http, f"http://127.0.0.1:{server.port}")
    finally:
        await server.stop()
