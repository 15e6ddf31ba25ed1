"""Sessions of the handshake era: what a client that said `initialize` has open, and when it is forgotten."""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from mcp import MCPError
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.types import ErrorData
from pydantic import ValidationError

from tale.mcp.exchange import Message, notification

QUEUE_LIMIT: Final = 256  # messages that may wait for a client that has no stream open
REAP_INTERVAL_S: Final = 30.0

logger = logging.getLogger(__name__)


class Session:
    """One client; also the Outbound of its standing GET stream."""

    def __init__(self, kernel: Server[Any], lifespan_state: Any) -> None:
        self.id = uuid.uuid4().hex
        self.connection = Connection.for_loop(self, session_id=self.id)
        self.runner: ServerRunner[Any] = ServerRunner(kernel, self.connection, lifespan_state)
        self.outbox: asyncio.Queue[Message] = asyncio.Queue(QUEUE_LIMIT)
        self.listening = False
        self.in_flight: dict[Any, asyncio.Task[Any]] = {}
        self._asked: dict[Any, asyncio.Future[Message]] = {}
        self._last_use = time.monotonic()

    def touch(self) -> None:
        """The client was heard of."""
        self._last_use = time.monotonic()

    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one is in flight or the stream is open."""
        return 0.0 if self.in_flight or self.listening else time.monotonic() - self._last_use

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Queue a notification for the standing stream; one that nobody reads for long is dropped."""
        try:
            self.outbox.put_nowait(notification(method, params))
        except asyncio.QueueFull:
            logger.warning("Session %s does not read its stream; a %s was dropped.", self.id[:8], method)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> Message:
        """Ask the client something on its standing stream."""
        if not self.listening:
            raise NoBackChannelError(method)
        return await self.ask(self.outbox.put, method, params, opts)

    async def ask(
        self,
        send: Callable[[Message], Awaitable[None]],
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None,
    ) -> Message:
        """Send a request of the server's and wait for the client to answer it with a POST."""
        request_id = f"s-{secrets.token_hex(6)}"
        answer = self._asked[request_id] = asyncio.get_running_loop().create_future()
        try:
            await send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": dict(params or {})})
            async with asyncio.timeout((opts or {}).get("timeout")):
                return await answer
        finally:
            del self._asked[request_id]

    def receive_answer(self, message: Message) -> None:
        """Give the client's answer to whoever asked; one that nobody waits for is dropped."""
        waiting = self._asked.get(message.get("id")) if isinstance(message.get("id"), str) else None
        if waiting is None or waiting.done():
            return
        if "error" not in message:
            waiting.set_result(message.get("result") or {})
            return
        try:
            waiting.set_exception(MCPError.from_error_data(ErrorData.model_validate(message["error"])))
        except ValidationError:
            waiting.set_exception(MCPError(-32603, "The client answered with a malformed error."))

    async def close(self) -> None:
        """End what the client has in flight."""
        tasks = list(self.in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await aclose_shielded(self.connection)


class Sessions:
    """The open sessions: at most `limit`; one that was idle for `idle_s` seconds is forgotten."""

    def __init__(self, *, limit: int, idle_s: float) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._open: dict[str, Session] = {}
        self._reaper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def get(self, session_id: str) -> Session | None:
        """The session of that id, if it is open."""
        return self._open.get(session_id)

    async def add(self, session: Session) -> None:
        """Register a session; when there are too many, the one idle for longest has to go."""
        if len(self._open) >= self._limit:
            oldest = max(self._open.values(), key=Session.idle_s)
            logger.warning("There are %d sessions; the one idle for longest is closed.", len(self._open))
            await self.remove(oldest.id)
        self._open[session.id] = session
        if self._reaper is None:
            self._reaper = asyncio.create_task(self._reap(), name="mcp-sessions")

    async def remove(self, session_id: str) -> bool:
        """Close a session; returns whether there was one."""
        session = self._open.pop(session_id, None)
        if session is not None:
            await session.close()
        return session is not None

    async def close(self) -> None:
        """Close all."""
        if self._reaper:
            self._reaper.cancel()
            with suppress(asyncio.CancelledError):
                await self._reaper
            self._reaper = None
        for session_id in list(self._open):
            await self.remove(session_id)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle_s, REAP_INTERVAL_S))
            for session in [held for held in self._open.values() if held.idle_s() >= self._idle_s]:
                await self.remove(session.id)
