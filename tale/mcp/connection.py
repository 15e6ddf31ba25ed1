"""One HTTP connection that wastes nobody's time: headers have to come soon, bad ones are answered in a line."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from tale.mcp.refusal import refusal

BAD_REQUEST, TIMED_OUT, HEADERS_TOO_LARGE, UNAVAILABLE = 400, 408, 431, 503
BEFORE_HTTP: Final = "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"
ROUNDS: Final = 3  # of the event loop, until what has been read has reached its handler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may take.

    `header_bytes` is for one header or the first line, `headers_s` for all headers of a request, `linger_s` for the
    rest of a body that was refused.
    """

    header_bytes: int = 8_190
    headers_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    linger_s: float = 2.0
    connections: int = 512  # at a time


class Connection(web.RequestHandler):
    """Served by aiohttp. `is_too_many` tells whether there are more of them than there may be."""

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        is_too_many: Callable[[], bool],
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # pyright: ignore[reportArgumentType]  - aiohttp takes None for "no log"
            keepalive_timeout=limits.idle_s,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            lingering_time=limits.linger_s,
        )
        self._clock = loop
        self._headers_s = limits.headers_s
        self._is_too_many = is_too_many
        self._due: float | None = None  # when the headers that are awaited have to be there
        self._check: asyncio.TimerHandle | None = None  # one timer for many requests
        self._is_serving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the first request has to be there soon."""
        super().connection_made(transport)
        if self._is_too_many():
            logger.warning("There are too many connections; one more was refused.")
            self._end(UNAVAILABLE, "Service Unavailable", "Retry-After: 1\r\n")
        else:
            self._await_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request; the rest of its headers has to come soon."""
        if not self._is_serving and self._due is None:
            self._await_headers()
        super().data_received(data)

    def begin(self) -> None:
        """The headers of a request are complete, and it is served now."""
        self._is_serving = True
        self._due = None

    def finish(self) -> None:
        """The request has been served."""
        self._is_serving = False

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no good HTTP in one line, without the traceback that aiohttp would log."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        logger.info("A request from %s is no good HTTP: %s", request.remote, type(exc).__name__)
        if isinstance(exc, LineTooLong) or "Too many" in exc.message:
            response = refusal(HEADERS_TOO_LARGE, "The headers are too large")
        else:
            response = refusal(BAD_REQUEST, "The request is not HTTP as this server reads it")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log what went wrong in serving, but for bodies that are not what their headers say: that is the sender's."""
        if isinstance(options.get("exc_info"), web.RequestPayloadError):
            logger.info("The rest of a body that was refused could not be read.")
        else:
            super().log_exception(*args, **options)

    def _await_headers(self) -> None:
        self._due = self._clock.time() + self._headers_s
        if self._check is None:
            self._check = self._clock.call_at(self._due, self._give_up_when_late, ROUNDS)

    def _give_up_when_late(self, rounds: int) -> None:
        self._check = None
        if self._due is None:
            return
        if self._due > self._clock.time():
            self._check = self._clock.call_at(self._due, self._give_up_when_late, ROUNDS)
        elif rounds:  # where the loop was busy, the request may be there and only have to be begun
            self._check = self._clock.call_later(0, self._give_up_when_late, rounds - 1)
        else:
            logger.info("A request whose headers did not come within %g s was given up.", self._headers_s)
            self._end(TIMED_OUT, "Request Timeout")

    def _end(self, status: int, reason: str, headers: str = "") -> None:
        if self.transport is not None:
            self.transport.write(BEFORE_HTTP.format(status=status, reason=reason, headers=headers).encode())
        self.force_close()
