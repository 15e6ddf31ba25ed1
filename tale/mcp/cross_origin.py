"""What a browser has to be told before a page of another site may ask, and read what it is answered (CORS)."""

from typing import Final

from aiohttp import web

from tale.mcp.wire import SESSION_HEADER

NO_CONTENT: Final = 204
METHODS: Final = "GET, POST, DELETE"
READABLE: Final = f"{SESSION_HEADER}, X-Request-Id, Retry-After, WWW-Authenticate"
PREFLIGHT_AGE_S: Final = 600  # so long a browser need not ask again
PAGE: Final = web.RequestKey("page", str)


def preflight_answer(request: web.Request) -> web.Response | None:
    """The answer to a browser that asks beforehand, without a key, what a page may send; None for other requests."""
    asked = request.headers
    if request.method != "OPTIONS" or PAGE not in request or "Access-Control-Request-Method" not in asked:
        return None
    told = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": str(PREFLIGHT_AGE_S)}
    if names := asked.get("Access-Control-Request-Headers"):
        told["Access-Control-Allow-Headers"] = names
    return web.Response(status=NO_CONTENT, headers=told)


async def let_page_read(request: web.Request, response: web.StreamResponse) -> None:
    """For aiohttp's on_response_prepare: a page that may ask may read the answer, streams and refusals too."""
    page = request.get(PAGE)
    if page is not None:
        response.headers["Access-Control-Allow-Origin"] = page
        response.headers["Access-Control-Expose-Headers"] = READABLE
        response.headers["Vary"] = "Origin"
