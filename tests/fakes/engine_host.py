"""A played engine that dies and comes back at the same address."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class EngineHost:
    """Runs a played engine on a port that it keeps; its server's `url` tells where."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        self._runner = web.AppRunner(self.server.application(), handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.server.url = f"http://127.0.0.1:{self._port}"

    async def die(self) -> None:
        """Break off all answers and close the port."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


@asynccontextmanager
async def hosted(*servers: Any) -> AsyncIterator[list[EngineHost]]:
    """Run played engines, each on a port of its own."""
    hosts = [EngineHost(server) for server in servers]
    try:
        for host in hosts:
            await host.start()
        yield hosts
    finally:
        for host in hosts:
            await host.die()
