"""An aiohttp application on a port of its own: bound or refused with a reason, drained, released."""

import asyncio
import errno
import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.exceptions import ServerException

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
CANCEL_LIMIT_S: Final = 2.0
CLOSE_LIMIT_S: Final = 0.1  # for connections, whose requests have ended by then; aiohttp takes 0 for "no limit"

logger = logging.getLogger(__name__)


class Listener:
    """Serves an application; `port` 0 takes a free one and then tells which.

    `cancel_limit_s` is how long a request that was cancelled gets to tidy up.
    """

    def __init__(
        self,
        name: str,
        application: web.Application,
        *,
        host: str,
        port: int,
        cancel_limit_s: float = CANCEL_LIMIT_S,
    ) -> None:
        self.host = host
        self.port = port
        self._name = name
        self._application = application
        self._cancel_limit_s = cancel_limit_s
        self._runner: web.AppRunner | None = None
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        application.middlewares.insert(0, self._track)

    async def start(self) -> None:
        """Bind the port and serve. Raises ServerException when that cannot be."""
        runner = web.AppRunner(
            self._application, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_LIMIT_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as error:
            await runner.cleanup()
            raise _bind_failure(self._name, self.host, self.port, error) from error
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self, grace_s: float = 0.0) -> None:
        """Close the port; requests in flight get `grace_s` seconds to end, then they are cancelled."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._is_stopping = True
        for site in list(runner.sites):
            await site.stop()
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
        response = await handler(request)
        if self._is_stopping and not response.prepared:
            response.force_close()  # a connection that stays open would bring more requests
        return response


def _bind_failure(name: str, host: str, port: int, error: OSError) -> ServerException:
    context = {"host": host, "port": port}
    if error.errno == errno.EADDRINUSE:
        return ServerException(
            f"Port {port} is in use; stop the program that holds it or choose another port for {name}.", context
        )
    return ServerException(f"{name} cannot listen on {host}:{port}: {error.strerror or error}.", context)
