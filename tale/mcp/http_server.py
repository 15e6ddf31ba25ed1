"""An MCP server on HTTP: /mcp and /health on one port, who may come in, and a clean start and stop."""

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.mcp.base_server import BaseMCPServer
from tale.mcp.endpoint import Endpoint
from tale.mcp.exchange import Exchange, Message
from tale.mcp.listener import LOOPBACK_NAMES, Listener
from tale.mcp.tools import ERROR_META_KEY
from tale.records import McpCall

BODY_LIMIT_BYTES: Final = 4 * 1024 * 1024
HEALTH_LIMIT_S: Final = 2.0
OPEN_PATHS: Final = ("/health", "/health/live", "/health/ready")

Health = Callable[[], Awaitable[Mapping[str, Any]]]
Observer = Callable[[McpCall], Awaitable[None]]

logger = logging.getLogger(__name__)


class HTTPMCPServer(BaseMCPServer):
    """Serves its tools on http://host:port/mcp.

    `health` gives what GET /health answers; its `status` (starting, ok, degraded) decides readiness. `observer` is told
    of each MCP request before its answer goes out. With `api_key`, all but the health paths ask for it. Port 0 takes
    a free one; `port` tells which.
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
        instructions: str | None = None,
    ) -> None:
        super().__init__(name, version=version, instructions=instructions)
        self.host = host
        self.port = port
        self._health = health
        self._observer = observer
        self._api_key = api_key
        self._listener: Listener | None = None
        self.endpoint = Endpoint(self._kernel, observe=self._observe)

    def application(self) -> web.Application:
        """A new aiohttp application that serves this server's tools and health."""
        application = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guard])
        application.cleanup_ctx.append(self.endpoint.lifespan)
        application.router.add_post("/mcp", self.endpoint.post)
        application.router.add_get("/mcp", self.endpoint.get, allow_head=False)
        application.router.add_delete("/mcp", self.endpoint.delete)
        application.router.add_get("/health", self._get_health)
        application.router.add_get("/health/live", self._get_live)
        application.router.add_get("/health/ready", self._get_ready)
        return application

    async def start(self) -> None:
        """Bind the port and serve. Raises ServerException when that cannot be."""
        listener = Listener(self.name, self.application(), host=self.host, port=self.port)
        await listener.start()
        self._listener = listener
        self.port = listener.port

    async def stop(self, grace_s: float = 0.0) -> None:
        """Close the port; requests in flight get `grace_s` seconds to end, then they are cancelled."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop(grace_s)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse foreign hosts and origins (DNS rebinding) and, where a key is set, strangers."""
        if refusal := self._refusal(request):
            return refusal
        return await handler(request)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.host in LOOPBACK_NAMES:
            if (host := _name_of(f"//{request.host}")) not in LOOPBACK_NAMES:
                logger.warning("A request for host %r was refused.", request.host)
                return web.Response(status=421, text=f"This server does not serve the host {host}.\n")
            origin = request.headers.get("Origin")
            if origin is not None and _name_of(origin) not in LOOPBACK_NAMES:
                logger.warning("A request from origin %r was refused.", origin)
                return web.Response(status=403, text="Requests from this origin are not served.\n")
        if self._api_key is None or request.path in OPEN_PATHS:
            return None
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "bearer" and hmac.compare_digest(given, self._api_key.encode()):
            return None
        headers = {"WWW-Authenticate": f'Bearer realm="{self.name}"'}
        return web.Response(status=401, headers=headers, text="A key is needed: send Authorization: Bearer KEY.\n")

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.json_response(await self._bounded_health())

    async def _get_live(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _get_ready(self, request: web.Request) -> web.Response:
        health = await self._bounded_health()
        ready = health.get("status") in ("ok", "degraded")
        return web.json_response({"status": health.get("status")}, status=200 if ready else 503)

    async def _bounded_health(self) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(HEALTH_LIMIT_S):
                return await self._health()
        except TimeoutError:
            logger.warning("%s: its health could not be told within %g s.", self.name, HEALTH_LIMIT_S)
            return {"name": self.name, "version": self.version, "status": "degraded"}

    async def _observe(
        self,
        exchange: Exchange,
        method: str,
        params: Mapping[str, Any] | None,
        start: float,
        message: Message | None,
    ) -> None:
        if self._observer is None:
            return
        call = _call_of(self.name, exchange, method, params, time.perf_counter() - start, message)
        try:
            await self._observer(call)
        except Exception:  # the edge of a request: an answer is not withheld because it could not be noted down
            logger.exception("An MCP call could not be recorded.")


def _call_of(
    server: str,
    exchange: Exchange,
    method: str,
    params: Mapping[str, Any] | None,
    latency_s: float,
    message: Message | None,
) -> McpCall:
    tool = (params or {}).get("name") if method == "tools/call" else None
    arguments: object = (params or {}).get("arguments")
    result: object = (message or {}).get("result")
    failure = _failure_of(message)
    task_id: object = cast("Message", arguments).get("task_id") if isinstance(arguments, dict) else None
    if task_id is None and tool == "submit_task" and isinstance(result, dict):
        task_id = cast("Message", cast("Message", result).get("structuredContent") or {}).get("id")
    return McpCall(
        id=str(uuid.uuid4()),
        started_at=time.time() - latency_s,
        server=server,
        method=method[:100],
        latency_s=latency_s,
        outcome=failure[0],
        tool=str(tool)[:100] if tool is not None else None,
        task_id=task_id if isinstance(task_id, str) else None,
        trace_id=exchange.trace_id,
        error_class=failure[1],
        error=failure[2],
    )


def _failure_of(message: Message | None) -> tuple[Any, str | None, str | None]:
    if message is None:
        return "cancelled", "Cancelled", None
    if error := message.get("error"):
        return "error", f"JSONRPCError{error['code']}", str(error["message"])
    result = cast("Message", message["result"])
    if not result.get("isError"):
        return "ok", None, None
    described = cast("Message", cast("Message", result.get("_meta") or {}).get(ERROR_META_KEY) or {})
    return "tool_error", described.get("type"), described.get("message")


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
