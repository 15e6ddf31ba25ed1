"""Sessions of the handshake era: what a client that said `initialize` has open, and when it is forgotten."""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from mcp import MCPError
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.subscriptions import ServerEvent
from mcp.types import INTERNAL_ERROR, INVALID_REQUEST, ErrorData, LoggingLevel
from pydantic import ValidationError

from tale.mcp.changes import ResourceUpdated, change_message
from tale.mcp.streams import Streams
from tale.mcp.wire import Message, event, notification

MOST_SUBSCRIPTIONS: Final = 256
REAP_INTERVAL_S: Final = 30.0
SHARES: Final = 4  # no key holds more than one part in so many

IsGood = Callable[[str | None], Awaitable[bool]]

logger = logging.getLogger(__name__)


class Session:
    """One client; also the Outbound of its standing stream."""

    def __init__(
        self,
        kernel: Server[Any],
        lifespan_state: Any,
        *,
        owner: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.owner = owner  # id of the key that opened it
        self.connection = Connection.for_loop(self, session_id=self.id)
        self.runner: ServerRunner[Any] = ServerRunner(kernel, self.connection, lifespan_state)
        self.in_flight: dict[str | int, asyncio.Task[Any]] = {}
        self.streams = Streams()
        self.subscriptions: set[str] = set()  # URIs of resources
        self.log_level: LoggingLevel = "info"
        self._clock = clock
        self._readers = 0  # connections that carry one of the streams, but for those of requests
        self._asked: dict[str, asyncio.Future[Message]] = {}
        self._last_use = clock()

    def touch(self) -> None:
        """The client was heard of."""
        self._last_use = self._clock()

    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one is in flight or a stream is read."""
        return 0.0 if self.in_flight or self._readers else self._clock() - self._last_use

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        """The client counts as present within the block."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self.touch()

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on the standing stream, now or when the client opens it."""
        self.tell(notification(method, params))

    def tell(self, message: Message) -> None:
        """Send a message on the standing stream, now or when the client opens it."""
        self.streams.standing.add(event(message))

    def subscribe(self, uri: str) -> None:
        """Have the client told when a resource changes; raises MCPError where it subscribed to too many."""
        if len(self.subscriptions) >= MOST_SUBSCRIPTIONS and uri not in self.subscriptions:
            raise MCPError(INVALID_REQUEST, f"{MOST_SUBSCRIPTIONS} subscriptions are the most; end one first")
        self.subscriptions.add(uri)

    def note_change(self, change: ServerEvent) -> None:
        """Tell the client of a change, if it is one that it is told of."""
        if not isinstance(change, ResourceUpdated) or change.uri in self.subscriptions:
            self.tell(change_message(change))

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> Message:
        """Ask the client something on its standing stream."""
        if not self.streams.standing.is_carried:
            raise NoBackChannelError(method)

        async def send(message: Message) -> None:
            self.tell(message)

        return await self.ask(send, method, params, opts)

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
        waiting = self._asked.get(str(message.get("id")))
        if waiting is None or waiting.done():
            return
        if isinstance(message.get("result"), dict):
            waiting.set_result(message["result"])
            return
        try:
            waiting.set_exception(MCPError.from_error_data(ErrorData.model_validate(message.get("error"))))
        except ValidationError:
            waiting.set_exception(MCPError(INTERNAL_ERROR, "The client answered with what is neither result nor error"))

    def hang_up(self) -> None:
        """End the standing stream."""
        self.streams.standing.end()

    async def close(self) -> None:
        """End what the client has in flight."""
        self.streams.close()
        tasks = list(self.in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await aclose_shielded(self.connection)


class Sessions:
    """The open sessions: at most `limit`; one that was idle for `idle_s` seconds is forgotten.

    So are those of keys that are no good any more, as `is_good` tells.
    """

    def __init__(self, *, limit: int, idle_s: float, is_good: IsGood | None = None) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._is_good = is_good
        self._open: dict[str, Session] = {}
        self._reaper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open.values()))

    def get(self, session_id: str, owner: str | None = None) -> Session | None:
        """The session of that id, if it is open and belongs to that key."""
        session = self._open.get(session_id)
        return session if session is not None and session.owner == owner else None

    async def make_room(self, owner: str | None = None) -> bool:
        """Whether one more session of this key fits; when there are too many, the one idle for longest has to go.

        A key that holds more than its share gives up one of its own.
        """
        rivals = list(self._open.values())
        if len(rivals) < self._limit:
            if owner is None:
                return True
            rivals = [session for session in rivals if session.owner == owner]
            if len(rivals) < max(1, self._limit // SHARES):
                return True
        oldest = max(rivals, key=Session.idle_s)
        if not oldest.idle_s():
            logger.warning("All of %d sessions are busy; another was refused.", len(rivals))
            return False
        logger.warning("There are %d sessions; the one idle for longest is closed.", len(rivals))
        return await self.remove(oldest.id)

    def add(self, session: Session) -> None:
        """Register a session."""
        self._open[session.id] = session
        if self._reaper is None:
            self._reaper = asyncio.create_task(self._reap(), name="mcp-sessions")

    async def remove(self, session_id: str) -> bool:
        """Close a session; returns whether there was one."""
        session = self._open.pop(session_id, None)
        if session is not None:
            await session.close()
        return session is not None

    async def expire(self) -> None:
        """Forget the sessions that were idle for too long, and those whose keys were revoked."""
        for session in list(self._open.values()):
            if session.idle_s() >= self._idle_s or not (self._is_good is None or await self._is_good(session.owner)):
                await self.remove(session.id)

    def hang_up(self) -> None:
        """End all standing streams, which would otherwise last as long as their clients."""
        for session in self._open.values():
            session.hang_up()

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
            await self.expire()
