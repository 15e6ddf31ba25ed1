"""Event streams of a session: each event has an id, and what a lost connection missed is sent again on the next."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final

KEPT_EVENTS: Final = 256  # of all streams of one session together
KEPT_BYTES: Final = 128 * 1024  # the same; with a thousand sessions at most 128 MiB
RETRY_MS: Final = 500  # when a client should come back after its stream was closed
STANDING: Final = 0  # number of the stream that a GET opens
EVENT_ID: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)


class Streams:
    """The streams of one session. Of their events the newest are kept, within both limits, and the last one always."""

    def __init__(self, *, kept_events: int = KEPT_EVENTS, kept_bytes: int = KEPT_BYTES) -> None:
        self._limits = kept_events, kept_bytes
        self._kept: deque[Stream] = deque()  # whose events are kept, by age
        self._kept_bytes = 0
        self._streams: dict[int, Stream] = {}
        self._next_number = STANDING
        self.standing = self.open()

    def __len__(self) -> int:
        return len(self._streams)

    def open(self) -> "Stream":
        """A new stream."""
        stream = self._streams[self._next_number] = Stream(self._next_number, self)
        self._next_number += 1
        return stream

    def find(self, event_id: str) -> "tuple[Stream, int] | None":
        """The stream of an event and the event's number; None when nothing of that stream is left."""
        found = EVENT_ID.fullmatch(event_id)
        stream = self._streams.get(int(found[1])) if found else None
        return None if found is None or stream is None else (stream, int(found[2]))

    def keep(self, stream: "Stream", size: int) -> None:
        """Count a new event; the oldest ones give way."""
        most_events, most_bytes = self._limits
        self._kept.append(stream)
        self._kept_bytes += size
        while len(self._kept) > 1 and (len(self._kept) > most_events or self._kept_bytes > most_bytes):
            oldest = self._kept.popleft()
            self._kept_bytes -= oldest.drop_oldest()
            self.forget_if_over(oldest)

    def forget_if_over(self, stream: "Stream") -> None:
        """Let go of a stream that has ended and of which nothing is kept."""
        if stream.is_over:
            self._streams.pop(stream.number, None)

    def close(self) -> None:
        """End all streams."""
        for stream in list(self._streams.values()):
            stream.end()


class Stream:
    """One stream. At most one connection carries it: a new one takes over from the last."""

    def __init__(self, number: int, streams: Streams) -> None:
        self.number = number
        self._streams = streams
        self._events: deque[bytes] = deque()  # the newest
        self._count = 0  # events there were, which is the number of the latest
        self._sent = 0  # number of the latest event that a connection took
        self._ended = False
        self._changed = asyncio.Event()
        self._carrier: object = None
        self._leave: Callable[[], None] | None = None

    @property
    def is_carried(self) -> bool:
        """Whether a connection carries the stream."""
        return self._carrier is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to send or to send again."""
        return self._ended and not self._events

    def add(self, data: bytes) -> bytes:
        """Give an event its id and keep it for whoever carries the stream; returns it as it is sent."""
        self._count += 1
        event = b"id: %d-%d\n" % (self.number, self._count) + data
        self._events.append(event)
        self._streams.keep(self, len(event))
        self._changed.set()
        return event

    def prime(self, after: int | None = None) -> bytes:
        """What tells a client at once where it is, and when to come back should the stream be cut."""
        position = self._sent if after is None else after
        return b"id: %d-%d\nretry: %d\ndata: \n\n" % (self.number, position, RETRY_MS)

    def carry(self, leave: Callable[[], None]) -> None:
        """Say that the caller sends what it adds; `leave` is called when another connection takes over."""
        self._carrier, self._leave = leave, leave

    def release(self) -> None:
        """The connection is gone; the stream goes on and waits for the next."""
        self._carrier = self._leave = None

    async def follow(self, after: int | None = None) -> AsyncGenerator[bytes, None]:
        """Take the stream over: the events after that number (None: those that were not sent yet), until it ends."""
        if self._leave is not None:
            self._leave()
        carrier = self._carrier = object()
        self._leave = None
        self._changed.set()  # whoever followed until now notices that it is not the carrier any more
        position = self._sent if after is None else after
        try:
            while self._carrier is carrier:
                event = self._next_event(position)
                if event is not None:
                    position, data = event
                    self._sent = max(self._sent, position)
                    yield data
                elif self._ended:
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            if self._carrier is carrier:
                self._carrier = None

    def end(self) -> None:
        """Nothing more will be added."""
        self._ended = True
        self._changed.set()
        self._streams.forget_if_over(self)

    def drop_oldest(self) -> int:
        """Make room; returns how many bytes that gave."""
        return len(self._events.popleft())

    def _next_event(self, position: int) -> tuple[int, bytes] | None:
        first = self._count - len(self._events) + 1
        number = max(position + 1, first)
        return (number, self._events[number - first]) if number <= self._count else None
