"""An aiohttp application on a port of its own: bound or refused with a reason, drained, released."""

import asyncio
import errno
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.exceptions import ServerException

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Listener:
    """Serves an application; `port` 0 takes a free one and then tells which."""

    def __init__(self, name: str, application: web.Application, *, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._name = name
        self._application = application
        self._runner: web.AppRunner | None = None
        self._in_flight = 0
        self._drained = asyncio.Event()
        self._drained.set()
        application.middlewares.insert(0, self._count)

    async def start(self) -> None:
        """Bind the port and serve. Raises ServerException when that cannot be."""
        runner = web.AppRunner(self._application, handler_cancellation=True, access_log=None, shutdown_timeout=0)
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
        for site in list(runner.sites):
            await site.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._drained.wait()
        await runner.cleanup()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._in_flight += 1
        self._drained.clear()
        try:
            return await handler(request)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._drained.set()


def _bind_failure(name: str, host: str, port: int, error: OSError) -> ServerException:
    context = {"host": host, "port": port}
    if error.errno == errno.EADDRINUSE:
        return ServerException(
            f"Port {port} is in use; stop the program that holds it or choose another port for {name}.", context
        )
    return ServerException(f"{name} cannot listen on {host}:{port}: {error.strerror or error}.", context)
