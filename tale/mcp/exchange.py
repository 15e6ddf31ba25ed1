"""One inbound message and its HTTP response: the SDK's DispatchContext, written straight to an aiohttp response."""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

import anyio
from aiohttp import web
from mcp import MCPError
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp.types import INTERNAL_ERROR, INVALID_REQUEST, JSONRPCNotification, JSONRPCRequest, LoggingLevel

from tale.mcp.admission import caller_of
from tale.mcp.inbound import JSON_TYPE, accepts_stream
from tale.mcp.wire import EVENT_STREAM, SESSION_HEADER, Message, encode, error_message, event, notification
from tale.traces import TRACE_HEADER, trace_id_of

if TYPE_CHECKING:
    from tale.mcp.sessions import Session
    from tale.mcp.streams import Stream

PING_INTERVAL_S: Final = 15.0  # proxies cut what is silent for 60 s, our own client what is silent for 30 s
PING: Final = b": ping\n\n"
STREAM_HEADERS: Final = {
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
LOG_LEVELS: Final[tuple[LoggingLevel, ...]] = get_args(LoggingLevel)  # by severity
PRIMED_SINCE: Final = "2025-11-25"  # clients of older versions may stumble over an event without data
OK, ACCEPTED = 200, 202

logger = logging.getLogger(__name__)


class Exchange:
    """Serves one message. The response becomes an event stream only when something is sent before the result.

    A request that stays silent for `ping_interval_s` becomes a stream too, of comments that keep the connection alive.
    To a client that takes no streams nothing but the result is sent. In a session the stream outlives its connection:
    the client may come back for it with a GET.
    """

    def __init__(
        self,
        request: web.Request,
        message: JSONRPCRequest | JSONRPCNotification,
        *,
        session: "Session | None" = None,
        ping_interval_s: float = PING_INTERVAL_S,
    ) -> None:
        self._request = request
        self._session = session
        self._progress_token = progress_token_from_params(message.params)
        self.can_stream = isinstance(message, JSONRPCRequest) and accepts_stream(request)
        self._stream: web.StreamResponse | None = None
        self._opening = asyncio.Lock()
        self._events: Stream | None = None  # in a session, once the response is a stream
        self._gone = False  # the connection is lost, or was left to the stream that the client comes back for
        self._ping_interval_s = ping_interval_s
        self._pinger: asyncio.Task[None] | None = None
        self._silence = (
            asyncio.get_running_loop().call_later(ping_interval_s, self._begin_pinging) if self.can_stream else None
        )
        self.request_id = message.id if isinstance(message, JSONRPCRequest) else None
        self.task_id: str | None = None
        self.caller = caller_of(request)
        self.headers: Mapping[str, str] = request.headers
        self.trace_id = trace_id_of(request.headers.get(TRACE_HEADER))
        self._is_traced = TRACE_HEADER in request.headers  # by the client
        self.can_send_request = session is not None and self.can_stream
        self.left: asyncio.Future[None] | None = None  # resolved when the response has ended before the request has

    @property
    def transport(self) -> TransportContext:
        """What the kernel is told of the transport."""
        return TransportContext(kind="streamable-http", can_send_request=self.can_send_request, headers=self.headers)

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        """What the kernel hands on to the handlers."""
        return ServerMessageMetadata(request_context=self)

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: a request is cancelled by cancelling its task."""
        return anyio.Event()

    def concerns(self, task_id: str, trace_id: str | None = None) -> None:
        """Note which task the call turned out to be about, and the task's trace where the client named none."""
        self.task_id = task_id
        if trace_id is not None and not self._is_traced:
            self.trace_id = trace_id

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on this response, if it can be a stream."""
        if self.can_stream:
            await self._send(notification(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Send progress if the client asked for it."""
        if self._progress_token is None:
            return
        params = {"progressToken": self._progress_token, "progress": progress, "total": total, "message": message}
        await self.notify("notifications/progress", {key: value for key, value in params.items() if value is not None})

    def subscribe(self, uri: str) -> None:
        """Have the client told when a resource changes; raises MCPError where it cannot be."""
        if self._session is None:
            raise MCPError(INVALID_REQUEST, "Only a session can subscribe; initialize first")
        self._session.subscribe(uri)

    def unsubscribe(self, uri: str) -> None:
        """Have the client told no more."""
        if self._session is not None:
            self._session.subscriptions.discard(uri)

    def set_log_level(self, level: LoggingLevel) -> None:
        """Send the session's client log messages of this level and above."""
        if self._session is not None:
            self._session.log_level = level

    def wants_log(self, level: LoggingLevel) -> bool:
        """Whether the session's client wants log messages of this level; without a session it wants all."""
        return self._session is None or LOG_LEVELS.index(level) >= LOG_LEVELS.index(self._session.log_level)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> Message:
        """Ask the client something on this response's stream and wait for its answer."""
        if self._session is None or not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._session.ask(self._send, method, params, opts)

    async def close_stream(self) -> None:
        """Send the client away; it comes back for the rest by itself, where its version of the protocol provides it."""
        if self._session is None or not self.can_stream or not is_primed(self._session) or self._gone:
            return
        await self._open()
        self._leave()
        if self._stream is not None:
            await self._end(self._stream)
        if self.left is not None and not self.left.done():
            self.left.set_result(None)

    async def answer(self, message: Message) -> web.StreamResponse:
        """End the exchange with its result or error."""
        self.release()
        if self._stream is not None:
            await self._send(message)
            return await self._finish(self._stream)
        body = self._encoded(message)
        return web.Response(body=body, status=self._status(message), content_type=JSON_TYPE, headers=self._headers())

    async def withdraw(self) -> web.StreamResponse:
        """End the exchange of a request that the client cancelled, which gets no answer."""
        self.release()
        return web.Response(status=ACCEPTED) if self._stream is None else await self._finish(self._stream)

    def ended_response(self) -> web.StreamResponse:
        """What the handler returns when the response has ended before the request has."""
        return self._stream or web.Response(status=ACCEPTED)

    def release(self) -> None:
        """Stop keeping the connection alive; called at the end, whatever it is."""
        if self._silence:
            self._silence.cancel()
        if self._pinger:
            self._pinger.cancel()

    def _headers(self) -> dict[str, str]:
        return {} if self._session is None else {SESSION_HEADER: self._session.id}

    def _status(self, message: Message) -> int:
        if self._session is not None or "error" not in message:
            return OK
        return ERROR_CODE_HTTP_STATUS.get(message["error"]["code"], OK)

    def _encoded(self, message: Message) -> bytes:
        try:
            return encode(message)
        except (ValueError, RecursionError):
            logger.exception("A result cannot be written as JSON.")
            return encode(error_message(self.request_id, INTERNAL_ERROR, "The result cannot be written as JSON"))

    async def _send(self, message: Message) -> None:
        try:
            data = event(message)
        except (ValueError, RecursionError):
            logger.exception("A message cannot be written as JSON.")
            data = event(error_message(self.request_id, INTERNAL_ERROR, "The result cannot be written as JSON"))
        await self._open()
        await self._write(data if self._events is None else self._events.add(data))

    async def _open(self) -> None:
        if self._stream is not None or self._gone:
            return
        async with self._opening:  # several tasks of one tool may send at the same time
            if self._stream is not None or self._gone:
                return
            stream = web.StreamResponse(headers={**STREAM_HEADERS, **self._headers()})
            try:
                await stream.prepare(self._request)
            except ConnectionError:
                self._lose()
                return
            self._stream = stream
            if self._session is not None:
                self._events = self._session.streams.open()
                self._events.carry(self._abandon)
                if is_primed(self._session):
                    await self._write(self._events.prime())

    async def _write(self, data: bytes) -> None:
        if self._stream is None or self._gone:
            return
        try:
            await self._stream.write(data)
        except ConnectionError:  # what a lost connection means to the request is decided where it is run
            self._lose()

    def _lose(self) -> None:
        logger.debug("The client of request %s has gone.", self.request_id)
        self._leave()

    def _leave(self) -> None:
        if self._gone:
            return
        self._gone = True
        self.release()
        if self._events is not None:
            self._events.release()

    def _abandon(self) -> None:
        """Another connection carries the stream now; this one is dead, or might as well be."""
        self._gone = True
        self.release()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _finish(self, stream: web.StreamResponse) -> web.StreamResponse:
        if self._events is not None:
            if not self._gone:
                self._events.release()
            self._events.end()
        return stream if self._gone else await self._end(stream)

    async def _end(self, stream: web.StreamResponse) -> web.StreamResponse:
        try:
            await stream.write_eof()
        except ConnectionError:
            logger.debug("The client of request %s has gone.", self.request_id)
        return stream

    def _begin_pinging(self) -> None:
        self._pinger = asyncio.create_task(self._ping(), name="mcp-ping")

    async def _ping(self) -> None:
        while True:
            await self._open()
            await self._write(PING)
            await asyncio.sleep(self._ping_interval_s)


def is_primed(session: "Session") -> bool:
    """Whether the session's client wants to be told at once where it can take a stream up again."""
    return session.connection.protocol_version >= PRIMED_SINCE
