"""A played engine that dies and comes back at the same address."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class EngineHost:
    """Runs a played engine on a port that it keeps; its server's `url` tells where."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._running: tuple[web.AppRunner, socket.socket] | None = None
        self._port = 0

    async def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        runner = web.AppRunner(self.server.application(), handler_cancellation=True, shutdown_timeout=0.01)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        self._running = runner, listening
        self.server.url = f"http://127.0.0.1:{self._port}"

    async def die(self) -> None:
        """Break off all answers and close the port."""
        running, self._running = self._running, None
        if running is None:
            return
        runner, listening = running
        # asyncio leaks a connection that it has accepted but not set up when the server closes: let it do so first.
        asyncio.get_running_loop().remove_reader(listening)
        for _ in range(3):
            await asyncio.sleep(0)
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
