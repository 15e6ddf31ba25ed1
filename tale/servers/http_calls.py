"""One HTTP request of a client as the row that is kept of it, in the table of the MCP calls.

No rows are kept of looks (health, metrics), of requests to the model server, which are those of tale's own roles and
leave the rows of their model calls, and of the calls of the learning server (see there).
"""

import asyncio
import logging
import time
import uuid
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
        self.id = new_call_id().replace("-", "")
        self.trace_id = trace_id_of(request.headers.get(TRACE_HEADER))
        self.key_name = caller_of(request).name
        self.task_id: str | None = None
        self.started_at = time.time()
        self._began = time.perf_counter()
        self._method = f"{request.method} {path or request.path}"
        self._server = server
        self._record = record
        self._is_ended = False

    async def ended(self, error: BaseException | None = None) -> None:
        """Keep how it ended; durable on return. Where it cannot be kept, that is logged and the answer goes out."""
        if self._is_ended:
            return
        self._is_ended = True
        try:
            await self._record(self._row(error))
        except Exception:  # the edge of a request: an answer is not withheld because it could not be noted down
            logger.exception("An HTTP call could not be recorded.")

    def _row(self, error: BaseException | None) -> McpCall:
        left = isinstance(error, asyncio.CancelledError | ConnectionError)
        told: dict[str, Any] = {}
        if left:
            told = {"error_class": "Cancelled"}
        elif error is not None:
            message = error.message if isinstance(error, TaleBaseException) else str(error)
            told = {"error_class": type(error).__name__, "error": message}
        return McpCall(
            id=str(uuid.UUID(self.id)),
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
