"""An MCP server on HTTP: /mcp and /health on one port, with a clean start and stop."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Middleware

from tale.exceptions import ServerException
from tale.mcp.admission import Admission, Entrance
from tale.mcp.base_server import BaseMCPServer
from tale.mcp.connection import ConnectionLimits
from tale.mcp.cross_origin import let_page_read
from tale.mcp.dispatch import Dispatch, Observer
from tale.mcp.endpoint import Endpoint
from tale.mcp.exchange import PING_INTERVAL_S
from tale.mcp.health import HEALTH_LIMIT_S, Health, HealthRoutes
from tale.mcp.listener import Listener
from tale.mcp.places import LOOPBACK_NAMES
from tale.mcp.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a server takes on."""

    body_bytes: int = 4 * 1024 * 1024
    sessions: int = 1_000
    session_idle_s: float = 1_800.0
    ping_interval_s: float = PING_INTERVAL_S
    health_s: float = HEALTH_LIMIT_S
    connection: ConnectionLimits = field(default_factory=ConnectionLimits)


class HTTPMCPServer(BaseMCPServer):
    """Serves its tools on http://host:port/mcp.

    `health` gives what GET /health answers; its `status` (starting, ok, degraded) decides readiness. `observer` is told
    of each MCP request before its answer goes out. `entrance` says who may come in; with `api_key` in its place, all
    but the health paths ask for that key. Port 0 takes a free one; `port` tells which.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str,
        host: str = "127.0.0.1",
        port: int = 0,
        health: Health,
        observer: Observer | None = None,
        api_key: str | None = None,
        entrance: Entrance | None = None,
        instructions: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(name, version=version, instructions=instructions)
        self.host = host
        self.port = port
        self._limits = limits = limits or Limits()
        own_keys = {"api_key": api_key} if api_key else {}
        entrance = entrance or Entrance(own_keys=own_keys, needs_key=bool(own_keys))
        self._admission = Admission(name, host=host, entrance=entrance)
        sessions = Sessions(limit=limits.sessions, idle_s=limits.session_idle_s, is_good=self._admission.keys.is_good)
        self._health = HealthRoutes(
            name, version=version, health=health, sessions=lambda: len(sessions), limit_s=limits.health_s
        )
        self._listener: Listener | None = None
        self._further_routes: list[web.AbstractRouteDef] = []
        self._outer: list[Middleware] = []
        self.endpoint = Endpoint(
            self._kernel,
            Dispatch(self._kernel, self._quick_calls, observer=observer, ping_interval_s=limits.ping_interval_s),
            access=self.access,
            sessions=sessions,
            ping_interval_s=limits.ping_interval_s,
        )
        self.changes.subscribe(self.endpoint.note_change)

    def add_routes(self, routes: Iterable[web.AbstractRouteDef], *, outer: Middleware | None = None) -> None:
        """Serve further paths beside /mcp and /health, under the same rules of admission.

        The middleware `outer` sees every request before admission does, and its refusals.
        """
        self._further_routes.extend(routes)
        if outer is not None:
            self._outer.append(outer)

    def application(self) -> web.Application:
        """A new aiohttp application that serves this server's tools and health."""
        middlewares = [*self._outer, self._admission.middleware]
        application = web.Application(client_max_size=self._limits.body_bytes, middlewares=middlewares)
        application.cleanup_ctx.append(self.endpoint.lifespan)
        application.on_response_prepare.append(let_page_read)
        application.router.add_post("/mcp", self.endpoint.post)
        application.router.add_get("/mcp", self.endpoint.get, allow_head=False)
        application.router.add_delete("/mcp", self.endpoint.delete)
        application.router.add_routes([*self._health.routes(), *self._admission.routes(), *self._further_routes])
        return application

    async def start(self) -> None:
        """Bind the port and serve. Raises ServerException when that cannot be, or would let strangers in."""
        if self.host not in LOOPBACK_NAMES and self._admission.keys.is_empty:
            raise ServerException(
                f"{self.name} on {self.host} is reachable by others: set api_key (TALE_API_KEY) or use 127.0.0.1.",
                {"host": self.host, "port": self.port},
            )
        limits = self._limits.connection
        listener = Listener(self.name, self.application(), host=self.host, port=self.port, limits=limits)
        await listener.start()
        self._listener = listener
        self.port = listener.port

    async def stop(self, grace_s: float = 0.0) -> None:
        """Close the port; requests in flight get `grace_s` seconds to end, then they are cancelled."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self.endpoint.hang_up()
            await listener.stop(grace_s)
