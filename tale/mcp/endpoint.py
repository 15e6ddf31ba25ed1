"""The MCP endpoint on aiohttp: reads a POST, tells the protocol's eras apart, and has the SDK's kernel serve it.

Handshake era (up to 2025-11-25): a session per client, a standing GET stream, DELETE. Modern era (2026-07-28): each
POST stands alone. A request with neither version nor session, as curl sends it, is served alone too. The SDK calls the
seam used here provisional: it is kept in this module, exchange.py and sessions.py, and mcp is pinned.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, cast

from aiohttp import web
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.inbound import (
    InboundLadderRejection,
    InboundModernRoute,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp.types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCRequest,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError

from tale.mcp.exchange import (
    SESSION_HEADER,
    STREAM_HEADERS,
    Exchange,
    Message,
    error_message,
    frame,
    json_response,
    ping,
)
from tale.mcp.sessions import Session, Sessions

SESSION_LIMIT: Final = 1_000
SESSION_IDLE_S: Final = 1_800.0
VERSION_HEADER: Final = "Mcp-Protocol-Version"
NOT_ONE_MESSAGE: Final = ErrorData(code=INVALID_REQUEST, message="The body must be one JSON-RPC 2.0 message")

Run = Callable[[Exchange], Awaitable[Message]]
Observe = Callable[[Exchange, str, Mapping[str, Any] | None, float, Message | None], Awaitable[None]]

logger = logging.getLogger(__name__)


class Endpoint:
    """The handlers of one MCP path. `observe` is told of each request that was served, before its answer goes out."""

    def __init__(self, kernel: Server[Any], *, observe: Observe) -> None:
        self._kernel = kernel
        self._observe = observe
        self._state: Any = None
        self.sessions = Sessions(limit=SESSION_LIMIT, idle_s=SESSION_IDLE_S)

    async def lifespan(self, application: web.Application) -> AsyncIterator[None]:
        """For aiohttp's cleanup_ctx: opens the kernel's lifespan, closes the sessions at the end."""
        async with self._kernel.lifespan(self._kernel) as self._state:
            yield
            await self.sessions.close()

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Serve one message."""
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            return _refusal(None, ErrorData(code=PARSE_ERROR, message="The body is not JSON"))
        if not isinstance(body, dict):
            return _refusal(None, NOT_ONE_MESSAGE)
        message = _forgiven(cast("Message", body), request)
        if message.get("jsonrpc") != "2.0":
            return _refusal(None, NOT_ONE_MESSAGE)
        version = request.headers.get(VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return await self._modern(request, message, version)
        if SESSION_HEADER in request.headers or message.get("method") == "initialize":
            return await self._in_session(request, message)
        return await self._alone(request, message, version)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Open the standing stream of a session."""
        if request.headers.get(VERSION_HEADER, "") not in ("", *HANDSHAKE_PROTOCOL_VERSIONS):
            raise web.HTTPMethodNotAllowed("GET", ["POST"])
        if SESSION_HEADER not in request.headers:
            raise web.HTTPMethodNotAllowed("GET", ["POST"], text="Only a session has a stream; POST initialize first.")
        session = self.sessions.get(request.headers[SESSION_HEADER])
        if session is None:
            raise web.HTTPNotFound(text="There is no such session; initialize again.")
        if session.listening:
            raise web.HTTPConflict(text="The session has its stream open already.")
        response = web.StreamResponse(headers={**STREAM_HEADERS, SESSION_HEADER: session.id})
        await response.prepare(request)
        session.listening = True
        pinger = asyncio.create_task(ping(response.write))
        try:
            while True:
                await response.write(frame(await session.outbox.get()))
        except ConnectionError:
            return response
        finally:
            pinger.cancel()
            session.listening = False
            session.touch()

    async def delete(self, request: web.Request) -> web.Response:
        """End a session."""
        if not await self.sessions.remove(request.headers.get(SESSION_HEADER, "")):
            raise web.HTTPNotFound(text="There is no such session.")
        return web.Response()

    async def _modern(self, request: web.Request, message: Message, version: str) -> web.StreamResponse:
        if "id" not in message:
            rejection = unsupported_protocol_version_rejection(version)
            return _rejected(None, rejection) if rejection else web.Response(status=202)
        parsed = _parsed(message)
        if parsed is None:
            return _refusal(None, NOT_ONE_MESSAGE)
        route = self._route(request, message, parsed)
        if isinstance(route, InboundLadderRejection):
            return _rejected(parsed.id, route)
        connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
        return await self._serve_alone(request, parsed, connection)

    def _route(
        self, request: web.Request, message: Message, parsed: JSONRPCRequest
    ) -> InboundModernRoute | InboundLadderRejection:
        lines = [(name.lower(), value) for name, value in request.headers.items()]
        if repeated := find_duplicated_routing_header(lines):
            return InboundLadderRejection(code=HEADER_MISMATCH, message=f"{repeated} header appears more than once")
        route = classify_inbound_request(message, headers=request.headers)
        if isinstance(route, InboundLadderRejection) or parsed.method != "tools/call":
            return route
        params = parsed.params or {}
        arguments: object = params.get("arguments") or {}
        find_schema = self._kernel.get_tool_input_schema
        schema = find_schema(str(params.get("name"))) if find_schema else None
        if schema is None or not isinstance(arguments, dict):
            return route
        return validate_mcp_param_headers(schema, cast("Message", arguments), dict(lines)) or route

    async def _alone(self, request: web.Request, message: Message, version: str | None) -> web.StreamResponse:
        if "id" not in message or "method" not in message:
            return web.Response(status=202)
        parsed = _parsed(message)
        if parsed is None:
            return _refusal(None, NOT_ONE_MESSAGE)
        connection = Connection.from_envelope(version or DEFAULT_NEGOTIATED_VERSION, None, None)
        return await self._serve_alone(request, parsed, connection)

    async def _serve_alone(
        self, request: web.Request, parsed: JSONRPCRequest, connection: Connection
    ) -> web.StreamResponse:
        async def run(exchange: Exchange) -> Message:
            return await serve_one(
                self._kernel, exchange, parsed.method, parsed.params, connection=connection, lifespan_state=self._state
            )

        return await self._exchange(request, parsed, run)

    async def _in_session(self, request: web.Request, message: Message) -> web.StreamResponse:
        method = message.get("method")
        if method == "initialize" and SESSION_HEADER not in request.headers:
            return await self._initialize(request, message)
        session = self.sessions.get(request.headers[SESSION_HEADER])
        if session is None:
            unknown = ErrorData(code=INVALID_REQUEST, message="Session not found; initialize again")
            return json_response(error_message(None, unknown), status=404)
        session.touch()
        if method is None:
            session.receive_answer(message)
            return web.Response(status=202)
        if "id" not in message:
            await self._notified(request, session, message)
            return web.Response(status=202)
        parsed = _parsed(message)
        if parsed is None:
            return _refusal(None, NOT_ONE_MESSAGE)
        return await self._serve_in_session(request, session, parsed)

    async def _initialize(self, request: web.Request, message: Message) -> web.StreamResponse:
        parsed = _parsed(message)
        if parsed is None:
            return _refusal(None, NOT_ONE_MESSAGE)
        session = Session(self._kernel, self._state)

        async def run(exchange: Exchange) -> Message:
            return await session.runner.on_request(exchange, parsed.method, parsed.params)

        response = await self._exchange(request, parsed, run, session)
        if session.connection.client_params is not None:  # only a good initialize makes a session
            await self.sessions.add(session)
        return response

    async def _notified(self, request: web.Request, session: Session, message: Message) -> None:
        params = message.get("params")
        params = cast("Message", params) if isinstance(params, dict) else {}
        if message["method"] == "notifications/cancelled":
            wanted = params.get("requestId")
            if isinstance(wanted, str | int) and (task := session.in_flight.get(wanted)):
                task.cancel()
            return
        await session.runner.on_notify(Exchange(request, None, None, session=session), str(message["method"]), params)

    async def _serve_in_session(
        self, request: web.Request, session: Session, parsed: JSONRPCRequest
    ) -> web.StreamResponse:
        async def run(exchange: Exchange) -> Message:
            return await session.runner.on_request(exchange, parsed.method, parsed.params)

        if parsed.id in session.in_flight:
            repeated = ErrorData(code=INVALID_REQUEST, message="A request with this id is in flight already")
            return _refusal(parsed.id, repeated)
        task = asyncio.create_task(self._exchange(request, parsed, run, session))
        session.in_flight[parsed.id] = task

        def ended(_: asyncio.Task[web.StreamResponse]) -> None:
            session.in_flight.pop(parsed.id, None)
            session.touch()

        task.add_done_callback(ended)
        try:
            return await asyncio.shield(task)  # in this era a dropped connection is no cancel
        except asyncio.CancelledError:
            if task.cancelled():  # the client cancelled the request, which then gets no result
                return web.Response(status=202)
            raise

    async def _exchange(
        self, request: web.Request, parsed: JSONRPCRequest, run: Run, session: Session | None = None
    ) -> web.StreamResponse:
        exchange = Exchange(request, parsed.id, parsed.params, session=session)
        start = time.perf_counter()
        try:
            message: Message = {"jsonrpc": "2.0", "id": parsed.id, "result": await run(exchange)}
        except asyncio.CancelledError:
            exchange.abandon()
            await asyncio.shield(self._observe(exchange, parsed.method, parsed.params, start, None))
            raise
        except Exception as error:  # noqa: BLE001 - the edge of a request: the SDK's ladder logs what it does not know
            message = error_message(parsed.id, modern_error_data(error))
        await self._observe(exchange, parsed.method, parsed.params, start, message)
        headers = {SESSION_HEADER: session.id} if session else None
        return await exchange.answer(message, headers=headers)


def _forgiven(message: Message, request: web.Request) -> Message:
    """What people type by hand for tools/list: jsonrpc and id are added, on loopback and without an Origin only."""
    by_hand = message.get("method") == "tools/list" and "Origin" not in request.headers
    if by_hand and request.remote in ("127.0.0.1", "::1"):
        return {"jsonrpc": "2.0", "id": 1, **message}
    return message


def _parsed(message: Message) -> JSONRPCRequest | None:
    try:
        return JSONRPCRequest.model_validate(message)
    except ValidationError:
        return None


def _refusal(request_id: str | int | None, error: ErrorData) -> web.Response:
    return json_response(error_message(request_id, error))


def _rejected(request_id: str | int | None, rejection: InboundLadderRejection) -> web.Response:
    return _refusal(request_id, ErrorData(code=rejection.code, message=rejection.message, data=rejection.data))
