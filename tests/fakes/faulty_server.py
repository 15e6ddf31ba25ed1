"""Servers on real sockets that misbehave: bytes as written down, a break in the middle, one era of MCP alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.mcp.http_server import HTTPMCPServer
from tale.mcp.listener import Listener


@dataclass
class RawServer:
    """Answers each request with the next of the texts and closes the connection; keeps to the last one."""

    answers: Sequence[bytes]
    requests: list[bytes] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0)
            self.requests.append(head + await reader.readexactly(length))
            writer.write(self.answers[min(len(self.requests), len(self.answers)) - 1])
            await writer.drain()
        writer.close()


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncIterator[RawServer]:
    """Serve the answers."""
    server = RawServer(answers)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


def http(
    body: str,
    *,
    status: str = "200 OK",
    content_type: str = "application/json",
    length: int | None = None,
    headers: str = "",
) -> bytes:
    """A whole answer; `length` lies about the body."""
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length or len(data)}\r\n"
    return f"{head}{headers}Connection: close\r\n\r\n".encode() + data


def result(value: dict[str, Any], request_id: int = 1) -> str:
    """The JSON-RPC answer to a request."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": value})


def error(code: int, text: str) -> str:
    """A JSON-RPC error."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": text}})


@asynccontextmanager
async def handshake_only(server: HTTPMCPServer, *, code: int, text: str) -> AsyncIterator[str]:
    """Serve as one does that knows no modern era and says so with this error; yields its URL."""

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and request.headers.get("Mcp-Protocol-Version", "").startswith("2026"):
            error: dict[str, Any] = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}
            return web.json_response(error, status=400)
        return await handler(request)

    application = server.application()
    application.middlewares.append(refuse)
    listener = Listener("old", application, host="127.0.0.1", port=0)
    await listener.start()
    try:
        yield f"http://127.0.0.1:{listener.port}"
    finally:
        await listener.stop()
