"""One HTTP request of a client as the row that is kept of it, in the table of the MCP calls.

No rows are kept of looks (health, metrics), of requests to the model server, which are those of tale's own roles and
leave the rows of their model calls, and of the calls of the learning server (see there).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tale.exceptions import TaleBaseException
from tale.ids import new_call_id
from tale.mcp.admission import caller_of
from tale.records import McpCall
from tale.traces import TRACE_HEADER, trace_id_of

Record = Callable[[McpCall], Awaitable[None]]

logger = logging.getLogger(__name__)


class HttpCall:
    """A request under way. Its row is written once, when it is `ended` for the first time.

    `path` stands for the request's own where that names a thing; `task_id` may be told before it is ended.
    """

    def __init__(self, request: web.Request, server: str, record: Record, *, path: str | None = None) -> None:
        self._row_id = new_call_id()
        self.id = self._row_id.replace("-", "")
        self.trace_id = trace_id_of(request.headers.get(TRACE_HEADER))
        self.key_name = caller_of(request).name
        self.task_id: str | None = None
        self.started_at = time.time()
        self._began = time.perf_counter()
        self._method = f"{request.method} {path or request.path}"
        self._server = server
        self._record = record
        self._is_ended = False

    def ended(self, error: BaseException | None = None) -> Awaitable[None]:
        """Keep how it ended; handed to the database on return, durable when what is returned has been awaited.

        Where it cannot be kept, that is logged and the answer goes out.
        """
        if self._is_ended:
            return _kept(None)
        self._is_ended = True
        try:
            return _kept(self._record(self._row(error)))
        except Exception:  # the edge of a request: an answer is not withheld because it could not be noted down
            logger.exception("An HTTP call could not be recorded.")
            return _kept(None)

    def _row(self, error: BaseException | None) -> McpCall:
        left = isinstance(error, asyncio.CancelledError | ConnectionError)
        told: dict[str, Any] = {}
        if left:
            told = {"error_class": "Cancelled"}
        elif error is not None:
            message = error.message if isinstance(error, TaleBaseException) else str(error)
            told = {"error_class": type(error).__name__, "error": message}
        return McpCall(
            id=self._row_id,
            started_at=self.started_at,
            server=self._server,
            method=self._method,
            latency_s=time.perf_counter() - self._began,
            outcome="ok" if error is None else "cancelled" if left else "error",
            task_id=self.task_id,
            trace_id=self.trace_id,
            key_name=self.key_name,
            **told,
        )


async def _kept(recording: Awaitable[None] | None) -> None:
    if recording is None:
        return
    try:
        await recording
    except Exception:  # likewise
        logger.exception("An HTTP call could not be recorded.")
