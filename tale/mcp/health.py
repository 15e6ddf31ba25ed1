"""The health routes of a server: what it says of itself, whether it lives, whether it is ready."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

HEALTH_LIMIT_S: Final = 2.0
READY: Final = ("ok", "degraded")
OK, UNAVAILABLE = 200, 503

Health = Callable[[], Awaitable[Mapping[str, Any]]]

logger = logging.getLogger(__name__)


class HealthRoutes:
    """Answers from `health`, within `limit_s` seconds; one that fails or takes longer reads as degraded.

    `sessions` counts those that MCP clients have open, where they may; GET /health tells it.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str,
        health: Health,
        sessions: Callable[[], int] | None = None,
        limit_s: float = HEALTH_LIMIT_S,
    ) -> None:
        self._name = name
        self._sessions = sessions
        self._version = version
        self._health = health
        self._limit_s = limit_s

    def routes(self) -> list[web.RouteDef]:
        """GET /health, /health/live and /health/ready."""
        return [
            web.get("/health", self._get_health),
            web.get("/health/live", self._get_live),
            web.get("/health/ready", self._get_ready),
        ]

    async def _get_health(self, request: web.Request) -> web.Response:
        sessions = {} if self._sessions is None else {"sessions": self._sessions()}
        return web.json_response({**await self._bounded(), **sessions})

    async def _get_live(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _get_ready(self, request: web.Request) -> web.Response:
        status = (await self._bounded()).get("status")
        return web.json_response({"status": status}, status=OK if status in READY else UNAVAILABLE)

    async def _bounded(self) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._health()
        except TimeoutError:
            logger.warning("%s: its health could not be told within %g s.", self._name, self._limit_s)
        except Exception:  # the edge of a request: whoever asks how a server is must get an answer
            logger.exception("%s: its health could not be told.", self._name)
        return {"name": self._name, "version": self._version, "status": "degraded"}
