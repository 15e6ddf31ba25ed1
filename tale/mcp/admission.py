"""Who may come in: no foreign hosts and origins (DNS rebinding), and no strangers where a key is set."""

import hmac
import logging
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.mcp.listener import LOOPBACK_NAMES

OPEN_PATHS: Final = frozenset({"/health", "/health/live", "/health/ready"})

logger = logging.getLogger(__name__)


class Admission:
    """Decides on each request of a server that listens on `host`. The health paths ask for no key."""

    def __init__(self, name: str, *, host: str, api_key: str | None) -> None:
        self._name = name
        self._is_local = host in LOOPBACK_NAMES
        self._api_key = api_key.encode() if api_key is not None else None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let the request pass or answer 421, 403 or 401."""
        return self._wrong_place(request) or self._stranger(request) or await handler(request)

    def _wrong_place(self, request: web.Request) -> web.Response | None:
        if not self._is_local:
            return None
        host = request.headers.get("Host", "")
        if _name_of(f"//{host}") not in LOOPBACK_NAMES:
            logger.warning("A request for host %r was refused.", host)
            return web.Response(status=421, text="This server serves only hosts named localhost.\n")
        origin = request.headers.get("Origin")
        if origin is not None and _name_of(origin) not in LOOPBACK_NAMES:
            logger.warning("A request from origin %r was refused.", origin)
            return web.Response(status=403, text="Requests from this origin are not served.\n")
        return None

    def _stranger(self, request: web.Request) -> web.Response | None:
        if self._api_key is None or request.path in OPEN_PATHS:
            return None
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "bearer" and hmac.compare_digest(given, self._api_key):
            return None
        headers = {"WWW-Authenticate": f'Bearer realm="{self._name}"'}
        return web.Response(status=401, headers=headers, text="A key is needed: send Authorization: Bearer KEY.\n")


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
