"""A line between all processes of one PostgreSQL database: what one says by NOTIFY, all others hear."""

import asyncio
import json
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import asyncpg

CHANNEL: Final = "tale_tasks"
LONGEST_BYTES: Final = 7_900  # PostgreSQL takes less than 8,000
KEPT_MESSAGES: Final = 10_000  # while the database is away; then the oldest are dropped
BATCH: Final = 200  # messages of one statement
RECONNECT_S: Final = 1.0
PATIENCE_S: Final = 2.0
# What is said is not kept, so nobody waits for a disk; while one commits, all others who have something to say wait.
IN_PASSING: Final = {"synchronous_commit": "off"}
FAULTS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
SEND: Final = "SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message"

logger = logging.getLogger(__name__)

Message = dict[str, Any]


class TaskWire:
    """Sends and hears messages, in order, without waiting. A broken connection is made again.

    `hear` is called with each message of another process. `on_gap` is called when messages may have been missed.
    """

    def __init__(self, dsn: str, *, hear: Callable[[Message], None], on_gap: Callable[[], None]) -> None:
        self._dsn = dsn
        self._hear = hear
        self._on_gap = on_gap
        self._self = uuid.uuid4().hex
        self._outbox: deque[str] = deque(maxlen=KEPT_MESSAGES)
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._connected = asyncio.Event()
        self._line: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect; what is said from now on is heard."""
        self._line = asyncio.create_task(self._hold_the_line(), name="task-wire")
        await self._connected.wait()

    async def stop(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.cancel()
            await asyncio.gather(self._line, return_exceptions=True)

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell all others; one that is too long for PostgreSQL is dropped."""
        text = json.dumps({**message, "from": self._self})  # ASCII: a character is a byte
        if len(text) > LONGEST_BYTES:
            logger.error("A message of %d bytes about a task is too long to be told.", len(text))
            return
        self._outbox.append(text)
        self._drained.clear()
        self._filled.set()

    async def said(self) -> None:
        """Return when all has been said that was to be, or after some time in which that was not possible."""
        if self._outbox:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._drained.wait()

    async def _hold_the_line(self) -> None:
        is_first = True
        while True:
            try:
                connection = await cast("Any", asyncpg).connect(  # it has no types
                    self._dsn, server_settings=IN_PASSING
                )
            except FAULTS as error:
                logger.error("Other processes cannot be told of tasks: %s", error)
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                await self._talk(connection, is_first=is_first)
            except FAULTS as error:
                logger.warning("The line to the other processes broke: %s", error)
            finally:
                connection.terminate()
            is_first = False
            await asyncio.sleep(RECONNECT_S)

    async def _talk(self, connection: Any, *, is_first: bool) -> None:
        """Hear and send until the connection breaks."""

        def on_break(_: object) -> None:
            self._filled.set()

        connection.add_termination_listener(on_break)
        await connection.add_listener(CHANNEL, self._receive)
        self._connected.set()
        if not is_first:
            self._on_gap()
        while not connection.is_closed():
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                batch = [self._outbox[number] for number in range(min(BATCH, len(self._outbox)))]
                await connection.execute(SEND, CHANNEL, batch)
                for _ in batch:  # they are kept until they are sent
                    if self._outbox:
                        self._outbox.popleft()
            self._drained.set()

    def _receive(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        try:
            message = json.loads(payload)
        except ValueError:
            logger.warning("Something on the channel %s is not ours: %.100s", CHANNEL, payload)
            return
        if isinstance(message, dict) and cast("Message", message).get("from") != self._self:
            self._hear(cast("Message", message))
