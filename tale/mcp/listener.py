"""An aiohttp application on a port of its own: bound or refused with a reason, drained, released."""

import asyncio
import errno
import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.exceptions import ServerException
from tale.mcp.connection import Connection, ConnectionLimits
from tale.mcp.refusal import refusal

CANCEL_LIMIT_S: Final = 2.0
CLOSE_LIMIT_S: Final = 0.1  # for connections, whose requests have ended by then; aiohttp takes 0 for "no limit"
BAD_REQUEST, TIMED_OUT, TOO_LARGE = 400, 408, 413

logger = logging.getLogger(__name__)


class Listener:
    """Serves an application; `port` 0 takes a free one and then tells which.

    Handlers find the body of a request read already: those that come too slowly, are too large or are not what their
    headers say are refused before. `cancel_limit_s` is how long a request that was cancelled gets to tidy up.
    """

    def __init__(
        self,
        name: str,
        application: web.Application,
        *,
        host: str,
        port: int,
        limits: ConnectionLimits | None = None,
        cancel_limit_s: float = CANCEL_LIMIT_S,
    ) -> None:
        self.host = host
        self.port = port
        self._name = name
        self._application = application
        self._limits = limits or ConnectionLimits()
        self._cancel_limit_s = cancel_limit_s
        self._runner: web.AppRunner | None = None
        self._socket: asyncio.Server | None = None
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        application.middlewares.insert(0, self._track)
        application.middlewares.append(self._read_body)  # after the others, so that strangers are not read

    async def start(self) -> None:
        """Bind the port and serve. Raises ServerException when that cannot be."""
        runner = web.AppRunner(
            self._application, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_LIMIT_S
        )
        await runner.setup()
        server = runner.server
        assert server is not None  # noqa: S101 - there is one after setup; this tells the type checker
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(server, loop=loop, limits=self._limits, is_too_many=is_too_many)

        def is_too_many() -> bool:
            return len(server.connections) > self._limits.connections

        try:
            self._socket = await loop.create_server(connect, self.host, self.port, backlog=self._limits.connections)
        except OSError as error:
            await runner.cleanup()
            raise _bind_failure(self._name, self.host, self.port, error) from error
        self._runner = runner
        self.port = self._socket.sockets[0].getsockname()[1]

    async def stop(self, grace_s: float = 0.0) -> None:
        """Close the port; requests in flight get `grace_s` seconds to end, then they are cancelled."""
        runner, self._runner = self._runner, None
        if runner is None or self._socket is None:
            return
        self._is_stopping = True
        self._socket.close()
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace_s)
        await self._cancel_rest()
        await runner.cleanup()

    async def _cancel_rest(self) -> None:
        for task in self._in_flight:
            task.cancel()
        if self._in_flight:
            _, deaf = await asyncio.wait(self._in_flight, timeout=self._cancel_limit_s)
            if deaf:
                logger.warning("%s: %d requests did not end when they were cancelled.", self._name, len(deaf))

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has its task; this tells the type checker
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        connection = request.protocol
        if not isinstance(connection, Connection):  # the application is served by other means
            return await handler(request)
        connection.begin()
        try:
            response = await handler(request)
        finally:
            connection.finish()
        if self._is_stopping and not response.prepared:
            response.force_close()  # a connection that stays open would bring more requests
        return response

    @web.middleware
    async def _read_body(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.content.is_eof():  # it came along with the headers
                await request.read()
            else:
                async with asyncio.timeout(self._limits.body_s):
                    await request.read()
        except TimeoutError:
            refused = refusal(TIMED_OUT, f"The body did not come within {self._limits.body_s:g} s")
        except web.HTTPRequestEntityTooLarge:
            limit = f"{request.client_max_size:,} bytes"
            refused = refusal(TOO_LARGE, f"The body is larger than the {limit} that are taken")
        except web.RequestPayloadError:
            refused = refusal(BAD_REQUEST, "The body cannot be read as its headers describe it")
        else:
            return await handler(request)
        refused.force_close()  # what is left of the body would be taken for the next request
        return refused


def _bind_failure(name: str, host: str, port: int, error: OSError) -> ServerException:
    context = {"host": host, "port": port}
    if error.errno == errno.EADDRINUSE:
        return ServerException(
            f"Port {port} is in use; stop the program that holds it or choose another port for {name}.", context
        )
    if error.errno in (None, errno.EADDRNOTAVAIL):  # asyncio drops the number where no address can be taken
        return ServerException(
            f"{name} cannot listen on {host}:{port}: this machine has no such address; choose another host.", context
        )
    return ServerException(f"{name} cannot listen on {host}:{port}: {error.strerror or error}.", context)
