"""One inbound message and its HTTP response: the SDK's DispatchContext, written straight to an aiohttp response."""

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
from aiohttp import web
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp.types import ErrorData

if TYPE_CHECKING:
    from tale.mcp.sessions import Session

SESSION_HEADER: Final = "Mcp-Session-Id"
PING_INTERVAL_S: Final = 15.0  # proxies cut streams that are silent for 60 s
PING: Final = b": ping\n\n"
STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
NO_TRACE: Final = "0" * 32
OK_STATUS: Final = 200

Message = dict[str, Any]
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

logger = logging.getLogger(__name__)


def frame(message: Message) -> bytes:
    """A message as one server-sent event."""
    return f"event: message\ndata: {_encode(message)}\n\n".encode("utf-8", "replace")


def json_response(
    message: Message, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A message as a JSON body; the status of an error follows from its code unless given."""
    if status is None:
        status = ERROR_CODE_HTTP_STATUS.get(message["error"]["code"], OK_STATUS) if "error" in message else OK_STATUS
    body = _encode(message).encode("utf-8", "replace")
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def error_message(request_id: str | int | None, error: ErrorData) -> Message:
    """A JSON-RPC error answer."""
    return {
        "jsonrpc": "2.0",
        "id": request_id,
        "error": error.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def notification(method: str, params: Mapping[str, Any] | None) -> Message:
    """A JSON-RPC notification."""
    return {"jsonrpc": "2.0", "method": method, **({"params": dict(params)} if params else {})}


class Exchange:
    """Serves one message. The response becomes an event stream only when something is sent before the result."""

    def __init__(
        self,
        request: web.Request,
        request_id: str | int | None,
        params: Mapping[str, Any] | None,
        *,
        session: "Session | None" = None,
    ) -> None:
        self._request = request
        self._session = session
        self._progress_token = progress_token_from_params(params)
        self._stream: web.StreamResponse | None = None
        self._pinger: asyncio.Task[None] | None = None
        self.request_id = request_id
        self.headers: Mapping[str, str] = request.headers
        self.trace_id = _trace_of(request.headers.get("traceparent"))
        self.can_send_request = session is not None and request_id is not None
        self.transport = TransportContext(
            kind="streamable-http", can_send_request=self.can_send_request, headers=request.headers
        )
        self.message_metadata = ServerMessageMetadata(request_context=self)
        self.cancel_requested = anyio.Event()

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on this response; a notification's own exchange has none and drops it."""
        if self.request_id is not None:
            await self._send(notification(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Send progress if the client asked for it."""
        if self._progress_token is None:
            return
        params = {"progressToken": self._progress_token, "progress": progress, "total": total, "message": message}
        await self.notify("notifications/progress", {key: value for key, value in params.items() if value is not None})

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> Message:
        """Ask the client something on this response's stream and wait for its answer."""
        if self._session is None or not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._session.ask(self._send, method, params, opts)

    async def answer(self, message: Message, *, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """End the exchange with its result or error."""
        if self._stream is None:
            return json_response(message, headers=headers, status=None if self._session is None else OK_STATUS)
        await self._send(message)
        return await self.close(self._stream)

    async def close(self, stream: web.StreamResponse) -> web.StreamResponse:
        """End the event stream."""
        if self._pinger:
            self._pinger.cancel()
            self._pinger = None
        with suppress(ConnectionError):  # the client has gone: nobody is left to tell
            await stream.write_eof()
        return stream

    def abandon(self) -> None:
        """Stop what the exchange has running when it ends without an answer."""
        if self._pinger:
            self._pinger.cancel()
            self._pinger = None

    async def _send(self, message: Message) -> None:
        if self._stream is None:
            headers = {**STREAM_HEADERS, SESSION_HEADER: self._session.id} if self._session else STREAM_HEADERS
            self._stream = web.StreamResponse(headers=headers)
            await self._stream.prepare(self._request)
            self._pinger = asyncio.create_task(ping(self._stream.write), name="mcp-ping")
        with suppress(ConnectionError):  # the client has gone; its disconnect is dealt with where requests are run
            await self._stream.write(frame(message))


async def ping(write: Callable[[bytes], Awaitable[None]]) -> None:
    """Keep a stream from looking dead to proxies, until cancelled or the client has gone."""
    with suppress(ConnectionError):
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            await write(PING)


def _trace_of(traceparent: str | None) -> str:
    found = TRACEPARENT.match(traceparent or "")
    return found[1] if found and found[1] != NO_TRACE else secrets.token_hex(16)
