"""The MCP endpoint on aiohttp: POST, GET and DELETE of one path, in both eras of the protocol.

Handshake era (up to 2025-11-25): a session per client, a standing GET stream, DELETE. Modern era (2026-07-28): each
POST stands alone. A request with neither version nor session, as curl sends it, is served alone too.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import web
from mcp.server.connection import Connection
from mcp.shared.subscriptions import ServerEvent
from mcp.types import DEFAULT_NEGOTIATED_VERSION, JSONRPCNotification, JSONRPCRequest

from tale.mcp.access import Access
from tale.mcp.admission import caller_of, forbidden
from tale.mcp.dispatch import Dispatch
from tale.mcp.exchange import ACCEPTED, PING, STREAM_HEADERS, is_primed
from tale.mcp.inbound import (
    Refusal,
    accepts_stream,
    is_modern,
    modern_route,
    parse,
    read_message,
    require_modern_version,
)
from tale.mcp.kernel import Kernel
from tale.mcp.refusal import refusal
from tale.mcp.sessions import Session, Sessions
from tale.mcp.streams import Stream
from tale.mcp.wire import LAST_EVENT_HEADER, SESSION_HEADER, VERSION_HEADER, Message

BAD_REQUEST, NOT_FOUND, NOT_ALLOWED, NOT_ACCEPTABLE, CONFLICT, UNAVAILABLE = 400, 404, 405, 406, 409, 503
CANCELLED: Final = "notifications/cancelled"
NO_SESSION: Final = "Session not found; initialize again"


class Endpoint:
    """The handlers of one MCP path."""

    def __init__(
        self, kernel: Kernel, dispatch: Dispatch, *, access: Access, sessions: Sessions, ping_interval_s: float
    ) -> None:
        self._kernel = kernel
        self._access = access
        self._dispatch = dispatch
        self._ping_interval_s = ping_interval_s
        self._is_open = False
        self.sessions = sessions

    async def lifespan(self, application: web.Application) -> AsyncIterator[None]:
        """For aiohttp's cleanup_ctx: serves until the application is cleaned up."""
        async with self._dispatch.lifespan():
            self._is_open = True
            yield
            await self.sessions.close()

    def note_change(self, change: ServerEvent) -> None:
        """Tell the sessions of a change; clients of the modern era subscribe by a request."""
        for session in self.sessions:
            session.note_change(change)

    def hang_up(self) -> None:
        """End the standing streams and open no more."""
        self._is_open = False
        self._kernel.listeners.close()
        self.sessions.hang_up()

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Serve one message."""
        try:
            message = await read_message(request)
            parsed = parse(message)
            if isinstance(parsed, JSONRPCRequest):
                refused = forbidden(request, self._access.needed(parsed.method, parsed.params))
                if refused is not None:
                    return refused
            version = request.headers.get(VERSION_HEADER)
            if is_modern(version, message):
                return await self._modern(request, message, parsed, version)
            if SESSION_HEADER in request.headers:
                return await self._in_session(request, message, parsed)
            if isinstance(parsed, JSONRPCRequest):
                return await self._without_session(request, parsed, version)
            return web.Response(status=ACCEPTED)
        except Refusal as told:
            return told.response()

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Open the standing stream of a session."""
        if is_modern(request.headers.get(VERSION_HEADER), {}) or SESSION_HEADER not in request.headers:
            text = "Only a session has a stream; POST initialize first"
            return refusal(NOT_ALLOWED, text, {"Allow": "POST"})
        if not accepts_stream(request):
            return refusal(NOT_ACCEPTABLE, "The stream is of type text/event-stream; accept it")
        session = self._session_of(request)
        if session is None:
            return refusal(NOT_FOUND, NO_SESSION)
        if not self._is_open:
            return refusal(UNAVAILABLE, "The server is stopping")
        event_id = request.headers.get(LAST_EVENT_HEADER)
        if event_id is not None:
            found = session.streams.find(event_id)
            if found is None:
                return refusal(BAD_REQUEST, "The events after this one are not kept any more; ask again")
            return await self._listen(request, session, *found)
        if session.streams.standing.is_carried:
            return refusal(CONFLICT, "The session has its stream open already")
        return await self._listen(request, session, session.streams.standing, None)

    async def delete(self, request: web.Request) -> web.Response:
        """End a session."""
        session = self._session_of(request)
        if session is None or not await self.sessions.remove(session.id):
            return refusal(NOT_FOUND, NO_SESSION)
        return web.Response()

    async def _modern(
        self,
        request: web.Request,
        message: Message,
        parsed: JSONRPCRequest | JSONRPCNotification | None,
        version: str | None,
    ) -> web.StreamResponse:
        if isinstance(parsed, JSONRPCNotification):
            require_modern_version(version)
            return web.Response(status=ACCEPTED)
        if parsed is None:
            raise Refusal("In this version of the protocol a client has nothing to answer")
        route = modern_route(self._kernel, request, message, parsed)
        connect = partial(
            Connection.from_envelope, route.protocol_version, route.client_info, route.client_capabilities
        )
        return await self._dispatch.alone(request, parsed, route.protocol_version, connect)

    async def _without_session(
        self, request: web.Request, parsed: JSONRPCRequest, version: str | None
    ) -> web.StreamResponse:
        if parsed.method != "initialize":
            version = version or DEFAULT_NEGOTIATED_VERSION
            connect = partial(Connection.from_envelope, version, None, None)
            return await self._dispatch.alone(request, parsed, version, connect)
        if not await self.sessions.make_room(caller_of(request).key_id):
            raise Refusal("There are too many sessions; try again later", status=UNAVAILABLE, request_id=parsed.id)
        session = self._dispatch.new_session(caller_of(request).key_id)
        response = await self._dispatch.initialize(request, parsed, session)
        if session.connection.client_params is None:  # only a good initialize makes a session
            response.headers.popall(SESSION_HEADER, None)
            await session.close()
        else:
            self.sessions.add(session)
        return response

    async def _in_session(
        self, request: web.Request, message: Message, parsed: JSONRPCRequest | JSONRPCNotification | None
    ) -> web.StreamResponse:
        session = self._session_of(request)
        if session is None:
            request_id = parsed.id if isinstance(parsed, JSONRPCRequest) else None
            raise Refusal(NO_SESSION, status=NOT_FOUND, request_id=request_id)
        session.touch()
        if isinstance(parsed, JSONRPCRequest):
            if parsed.id in session.in_flight:
                raise Refusal("A request with this id is in flight already", request_id=parsed.id)
            return await self._dispatch.in_session(request, parsed, session)
        if parsed is None:
            session.receive_answer(message)
        elif parsed.method == CANCELLED:
            _cancel(session, (parsed.params or {}).get("requestId"))
        else:
            await self._dispatch.notified(request, parsed, session)
        return web.Response(status=ACCEPTED)

    def _session_of(self, request: web.Request) -> Session | None:
        """The session a request names, if it is the caller's own."""
        return self.sessions.get(request.headers.get(SESSION_HEADER, ""), caller_of(request).key_id)

    async def _listen(
        self, request: web.Request, session: Session, stream: Stream, after: int | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**STREAM_HEADERS, SESSION_HEADER: session.id})
        pinger = asyncio.create_task(self._ping(response), name="mcp-ping")
        events = stream.follow(after)
        with session.reading(), suppress(ConnectionError):  # the client may go and open another stream
            try:
                await response.prepare(request)
                if is_primed(session):
                    await response.write(stream.prime(after))
                async for data in events:
                    await response.write(data)
            finally:
                pinger.cancel()
                await events.aclose()
        return response

    async def _ping(self, response: web.StreamResponse) -> None:
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(self._ping_interval_s)
                await response.write(PING)


def _cancel(session: Session, request_id: object) -> None:
    if isinstance(request_id, str | int) and (task := session.in_flight.get(request_id)):
        task.cancel()
