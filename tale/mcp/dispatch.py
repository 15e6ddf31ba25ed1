"""Has the SDK's kernel serve one request (or, where that does as well, the tool itself), notes it down, answers it.

The SDK calls the seam used here provisional: it is kept in this module, endpoint.py, exchange.py, inbound.py and
sessions.py, and mcp is pinned.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.types import INVALID_PARAMS, JSONRPCNotification, JSONRPCRequest
from pydantic import ValidationError

from tale.mcp.call_record import call_record
from tale.mcp.exchange import Exchange
from tale.mcp.quick_calls import QuickCalls
from tale.mcp.sessions import Session
from tale.mcp.tool_context import CallOrigin
from tale.mcp.wire import Message, error_message
from tale.records import McpCall
from tale.traces import within_trace

Observer = Callable[[McpCall], Awaitable[None]]
Run = Callable[[Exchange], Awaitable[Message]]

logger = logging.getLogger(__name__)


class Dispatch:
    """Serves requests of both eras. `observer` is awaited for each before its answer goes out."""

    def __init__(
        self, kernel: Server[Any], quick_calls: QuickCalls, *, observer: Observer | None, ping_interval_s: float
    ) -> None:
        self._kernel = kernel
        self._quick_calls = quick_calls
        self._observer = observer
        self._ping_interval_s = ping_interval_s
        self._state: Any = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """The kernel's own lifespan, which every request runs within."""
        async with self._kernel.lifespan(self._kernel) as self._state:
            yield

    def new_session(self, owner: str | None) -> Session:
        """A session that is not initialized yet; only the key of that id will find it."""
        return Session(self._kernel, self._state, owner=owner)

    async def alone(
        self, request: web.Request, message: JSONRPCRequest, version: str, connect: Callable[[], Connection]
    ) -> web.StreamResponse:
        """Serve a request that stands alone: its end or the client's disconnect ends everything."""

        async def run(exchange: Exchange) -> Message:
            if tool := self._quick_calls.tool_of(message, version):
                return await self._quick_calls.answer(tool, message.params, version, CallOrigin(exchange))
            return await serve_one(
                self._kernel,
                exchange,
                message.method,
                message.params,
                connection=connect(),
                lifespan_state=self._state,
            )

        exchange = Exchange(request, message, ping_interval_s=self._ping_interval_s)
        return await self._serve(exchange, message, run)

    async def initialize(self, request: web.Request, message: JSONRPCRequest, session: Session) -> web.StreamResponse:
        """Serve the request that opens a session."""

        async def run(exchange: Exchange) -> Message:
            return await session.runner.on_request(exchange, message.method, message.params)

        exchange = Exchange(request, message, session=session, ping_interval_s=self._ping_interval_s)
        return await self._serve(exchange, message, run)

    async def in_session(self, request: web.Request, message: JSONRPCRequest, session: Session) -> web.StreamResponse:
        """Serve a request of a session, which goes on when its connection is lost: only the client cancels it."""

        async def run(exchange: Exchange) -> Message:
            version = session.connection.protocol_version
            if session.connection.initialize_accepted and (tool := self._quick_calls.tool_of(message, version)):
                return await self._quick_calls.answer(tool, message.params, version, CallOrigin(exchange))
            return await session.runner.on_request(exchange, message.method, message.params)

        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(_: asyncio.Task[web.StreamResponse]) -> None:
            del session.in_flight[message.id]
            session.touch()
            if not left.done():
                left.set_result(None)

        exchange = Exchange(request, message, session=session, ping_interval_s=self._ping_interval_s)
        exchange.left = left
        task = asyncio.create_task(self._serve(exchange, message, run), name="mcp-request")
        session.in_flight[message.id] = task
        task.add_done_callback(ended)
        await left
        if not task.done():
            return exchange.ended_response()
        return await exchange.withdraw() if task.cancelled() else task.result()

    async def notified(self, request: web.Request, message: JSONRPCNotification, session: Session) -> None:
        """Pass a notification of a session's client on."""
        await session.runner.on_notify(Exchange(request, message, session=session), message.method, message.params)

    async def _serve(self, exchange: Exchange, message: JSONRPCRequest, run: Run) -> web.StreamResponse:
        start = time.perf_counter()
        try:
            with within_trace(exchange.trace_id):
                answer = await self._answer(exchange, message, run)
        except asyncio.CancelledError:
            exchange.release()
            await asyncio.shield(self._observe(exchange, message, start, None))
            raise
        try:
            await self._observe(exchange, message, start, answer)
            return await exchange.answer(answer)
        finally:
            exchange.release()

    async def _answer(self, exchange: Exchange, message: JSONRPCRequest, run: Run) -> Message:
        try:
            return {"jsonrpc": "2.0", "id": message.id, "result": await run(exchange)}
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return error_message(message.id, INVALID_PARAMS, f"Invalid parameters: {where}: {first['msg']}")
        except Exception as error:  # noqa: BLE001 - the edge of a request: the SDK logs what it does not know
            told = modern_error_data(error)
            return error_message(message.id, told.code, told.message, told.data)

    async def _observe(self, exchange: Exchange, message: JSONRPCRequest, start: float, answer: Message | None) -> None:
        if self._observer is None:
            return
        call = call_record(
            self._kernel.name,
            message.method,
            message.params,
            answer=answer,
            latency_s=time.perf_counter() - start,
            trace_id=exchange.trace_id,
            task_id=exchange.task_id,
            key_name=exchange.caller.name,
        )
        try:
            await self._observer(call)
        except Exception:  # the edge of a request: an answer is not withheld because it could not be noted down
            logger.exception("An MCP call could not be recorded.")
