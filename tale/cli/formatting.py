"""Figures and texts as people read them; pure."""

import re
from typing import Any, Final

MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
TENTHS_FROM_S: Final = 10
KILO: Final = 1_000
CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
UNKNOWN: Final = "-"


def printable(text: str) -> str:
    """The text without control characters but for newlines and tabs, so that none of it can steer a terminal.

    >>> printable("a\\x1b[2Jb")
    'a[2Jb'
    """
    return CONTROL.sub("", text)


def one_line(text: str, width: int) -> str:
    """The text on one line of at most `width` characters.

    >>> one_line("Write a haiku\\nabout rain", 16)
    'Write a haiku a…'
    """
    line = " ".join(printable(text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def size(count: float | None) -> str:
    """Bytes in decimal units.

    >>> size(397_808_192), size(12), size(None)
    ('398 MB', '12 B', '-')
    """
    if count is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB"):
        if count < KILO:
            return f"{count:.0f} {unit}"
        count /= KILO
    return f"{count:.1f} GB"


def seconds(duration_s: float | None) -> str:
    """A duration, as exact as its length deserves.

    >>> seconds(0.034), seconds(12.34), seconds(95), seconds(7_260), seconds(200_000), seconds(None)
    ('0.03 s', '12.3 s', '1 min 35 s', '2 h 1 min', '2 d 7 h', '-')
    """
    if duration_s is None:
        return UNKNOWN
    if duration_s < TENTHS_FROM_S:
        return f"{duration_s:.2f} s"
    if duration_s < MINUTE_S:
        return f"{duration_s:.1f} s"
    if duration_s < HOUR_S:
        return f"{int(duration_s // MINUTE_S)} min {int(duration_s % MINUTE_S)} s"
    if duration_s < DAY_S:
        return f"{int(duration_s // HOUR_S)} h {int(duration_s % HOUR_S // MINUTE_S)} min"
    return f"{int(duration_s // DAY_S)} d {int(duration_s % DAY_S // HOUR_S)} h"


def paused_line(paused_at: float, *, now: float) -> str:
    """Since when no tasks are begun, and how that ends.

    >>> paused_line(100.0, now=220.0)
    'The queue has been paused for 2 min 0 s; `tale queue resume` lets tasks begin again.'
    """
    since = seconds(max(0.0, now - paused_at))
    return f"The queue has been paused for {since}; `tale queue resume` lets tasks begin again."


def elapsed(duration_s: float) -> str:
    """A running clock, in whole seconds.

    >>> elapsed(9.7), elapsed(75)
    ('9 s', '1 min 15 s')
    """
    return f"{int(duration_s)} s" if duration_s < MINUTE_S else seconds(float(int(duration_s)))


def token_line(view: dict[str, Any]) -> str:
    """What all calls for a task read and wrote; unknown figures are left out.

    >>> token_line({"usage": {"calls": 2, "input_tokens": 1200, "cached_tokens": 40, "output_tokens": 7}})
    'tokens: 1,200 in (40 cached), 7 out; 2 calls'
    """
    usage = view["usage"]
    parts: list[str] = []
    if usage["input_tokens"] is not None:
        cached = f" ({usage['cached_tokens']:,} cached)" if usage["cached_tokens"] is not None else ""
        parts.append(f"{usage['input_tokens']:,} in{cached}")
    if usage["output_tokens"] is not None:
        parts.append(f"{usage['output_tokens']:,} out")
    calls = f"; {usage['calls']} calls" if usage["calls"] > 1 else ""
    return f"tokens: {', '.join(parts)}{calls}" if parts else "tokens: not reported by the engine"


def timing_line(view: dict[str, Any]) -> str:
    """Where a task's time went; unknown figures are left out."""
    timings = view["timings"]
    total_s = view["ended_at"] - view["created_at"] if view["ended_at"] is not None else view["age_s"]
    named = (
        ("first token", timings["time_to_first_token_s"]),
        ("prefill", timings["prefill_s"]),
        ("decode", timings["decode_s"]),
        ("queue", timings["queue_s"]),
        ("load", timings["load_s"]),
        ("total", total_s),
    )
    return "time: " + ", ".join(f"{name} {seconds(value)}" for name, value in named if value is not None)
