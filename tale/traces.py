"""Trace ids of W3C's Trace Context: taken over from who asks, sent on with whom we ask."""

import random
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

TRACE_HEADER: Final = "traceparent"
TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
NO_TRACE: Final = "0" * 32
NS_PER_MS: Final = 1_000_000
RANDOM_BITS, SPAN_BITS = 80, 64

# Of the request or the attempt that is being served, so that whatever is asked of other servers meanwhile says so.
current_trace: Final[ContextVar[str | None]] = ContextVar("current_trace", default=None)


def trace_id_of(traceparent: str | None) -> str:
    """The trace that a header names, 32 hexadecimal digits; a new one where it names none.

    >>> trace_id_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    found = TRACEPARENT.match(traceparent or "")
    if found and found[1] != NO_TRACE:
        return found[1]
    return new_trace_id()


def new_trace_id() -> str:
    """Milliseconds and 80 random bits: the specification asks for 56, and the index of ids that sort by time is cheap.

    >>> len(new_trace_id())
    32
    """
    return f"{time.time_ns() // NS_PER_MS:012x}{random.getrandbits(RANDOM_BITS):020x}"


@contextmanager
def within_trace(trace_id: str | None) -> Generator[None]:
    """Have what is done within belong to a trace."""
    before = current_trace.set(trace_id)
    try:
        yield
    finally:
        current_trace.reset(before)


def traceparent_of(trace_id: str) -> str:
    """The header that has whoever is asked take part in the trace.

    >>> traceparent_of("a" * 32)[:36]
    '00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-'
    """
    return f"00-{trace_id}-{random.getrandbits(SPAN_BITS) or 1:016x}-01"
