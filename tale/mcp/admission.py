"""Who may come in: no foreign hosts and origins, no strangers where a key is needed, and nobody too often."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.credentials import Scope
from tale.mcp.cross_origin import PAGE, preflight_answer
from tale.mcp.keys import ANYBODY, Caller, KeyRing, LoadKeys
from tale.mcp.places import LOOPBACK_NAMES, Places
from tale.mcp.rate_limit import TokenBuckets
from tale.mcp.refusal import refusal

MCP_PATH: Final = "/mcp"
METADATA_PATH: Final = "/.well-known/oauth-protected-resource"  # RFC 9728
OPEN_PATHS: Final = frozenset({"/health", "/health/live", "/health/ready", METADATA_PATH, METADATA_PATH + MCP_PATH})
UNAUTHORIZED, FORBIDDEN, MISDIRECTED, TOO_MANY = 401, 403, 421, 429
LOOKING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entrance:
    """Who may come in, and how often.

    `own_keys` open everything, by name; `load_keys` reads the others. `rate_per_s` and `burst` limit each of those
    others; a rate of 0 means no limit. `hosts` and `origins` are allowed beside the server's own (see Places).
    """

    own_keys: Mapping[str, str] = field(default_factory=dict[str, str])
    load_keys: LoadKeys | None = None
    needs_key: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    rate_per_s: float = 0.0
    burst: int = 1


class Admission:
    """Decides on each request of a server that listens on `host`. The health paths ask for no key."""

    def __init__(self, name: str, *, host: str, entrance: Entrance) -> None:
        self._name = name
        self._places = Places(host, hosts=entrance.hosts, origins=entrance.origins)
        required = entrance.needs_key or host not in LOOPBACK_NAMES
        self._buckets = TokenBuckets(entrance.rate_per_s, entrance.burst) if entrance.rate_per_s else None
        self.keys = KeyRing(entrance.own_keys, entrance.load_keys, required=required)

    def routes(self) -> list[web.RouteDef]:
        """What the protocol wants to be told of a server that asks for keys."""
        return [web.get(path, self._get_metadata) for path in (METADATA_PATH, METADATA_PATH + MCP_PATH)]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let the request pass or answer 421, 403, 401 or 429; and tell browsers what pages may send."""
        answer = self._wrong_place(request)
        if answer is None:
            if origin := request.headers.get("Origin"):
                request[PAGE] = origin
            answer = preflight_answer(request)
        if answer is None and request.path not in OPEN_PATHS:
            answer = await self._unwelcome(request)
        return answer or await handler(request)

    def _wrong_place(self, request: web.Request) -> web.Response | None:
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not self._places.allows_host(host):
            logger.warning("A request for host %r was refused; allowed_hosts names those that are served.", host)
            return refusal(MISDIRECTED, "This server is not served under this host name")
        if origin is not None and not self._places.allows_origin(origin, host):
            logger.warning("A request from origin %r was refused; allowed_origins names those that may ask.", origin)
            return refusal(FORBIDDEN, "Requests from this origin are not served")
        return None

    async def _unwelcome(self, request: web.Request) -> web.Response | None:
        caller = await self.keys.caller_of(_key_in(request))
        if caller is None:
            headers = {"WWW-Authenticate": _challenge(self._name, request)}
            return refusal(UNAUTHORIZED, "A key is needed: send Authorization: Bearer KEY", headers)
        if self._buckets is not None and caller.is_limited and caller.key_id is not None:
            wait_s = math.ceil(self._buckets.wait_s(caller.key_id))
            if wait_s:
                logger.info("The key %r asks too often.", caller.name)
                return refusal(TOO_MANY, f"Too many requests; try again in {wait_s} s", {"Retry-After": str(wait_s)})
        request[CALLER] = caller
        if request.path != MCP_PATH:  # there it depends on what is asked
            return forbidden(request, Scope.READ if request.method in LOOKING else Scope.SUBMIT)
        return None

    async def _get_metadata(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "resource": f"{_origin_of(request)}{MCP_PATH}",
                "resource_name": self._name,
                "bearer_methods_supported": ["header"],
                "scopes_supported": [scope.value for scope in Scope],
            }
        )


CALLER: Final = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """Who sent a request that was let in."""
    return request.get(CALLER, ANYBODY)


def forbidden(request: web.Request, needed: Scope) -> web.Response | None:
    """The refusal of a request whose caller may not do what needs this scope; None if it may."""
    caller = caller_of(request)
    if caller.scope.allows(needed):
        return None
    logger.info("The key %r of scope %s asked for what needs %s.", caller.name, caller.scope, needed)
    challenge = _challenge(None, request, f'error="insufficient_scope", scope="{needed}"')
    text = f"The key {caller.name!r} has the scope {caller.scope}; this needs {needed}"
    return refusal(FORBIDDEN, text, {"WWW-Authenticate": challenge})


def _key_in(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _challenge(realm: str | None, request: web.Request, more: str = "") -> str:
    parts = [
        f'realm="{realm}"' if realm else "",
        more,
        f'resource_metadata="{_origin_of(request)}{METADATA_PATH}{MCP_PATH}"',
    ]
    return f"Bearer {', '.join(filter(None, parts))}"


def _origin_of(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"
