"""Trace ids of W3C's Trace Context: taken over from who asks, sent on with whom we ask."""

import random
import re
from typing import Final

TRACE_HEADER: Final = "traceparent"
TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
NO_TRACE: Final = "0" * 32
TRACE_BITS, SPAN_BITS = 128, 64


def trace_id_of(traceparent: str | None) -> str:
    """The trace that a header names, 32 hexadecimal digits; a new one where it names none.

    >>> trace_id_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    found = TRACEPARENT.match(traceparent or "")
    if found and found[1] != NO_TRACE:
        return found[1]
    return f"{random.getrandbits(TRACE_BITS):032x}"


def traceparent_of(trace_id: str) -> str:
    """The header that has whoever is asked take part in the trace.

    >>> traceparent_of("a" * 32)[:36]
    '00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-'
    """
    return f"00-{trace_id}-{random.getrandbits(SPAN_BITS) or 1:016x}-01"
