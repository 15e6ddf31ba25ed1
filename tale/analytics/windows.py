"""A stretch of time, and the slots into which a chart divides it. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import polars as pl

HOUR_S: Final = 3_600
MOST_SLOTS: Final = 150
SLOTS_S: Final = (60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 86_400)  # what people read off an axis


@dataclass(frozen=True, slots=True)
class Window:
    """The time [since, until) in Unix seconds, in whole slots of `slot_s` seconds.

    What is not a whole slot is left out: an unfinished minute looks like a fall.
    """

    since: float
    until: float
    slot_s: int

    @property
    def begin(self) -> datetime:
        """The beginning."""
        return datetime.fromtimestamp(self.since, UTC)

    @property
    def end(self) -> datetime:
        """The end, which does not belong to it."""
        return datetime.fromtimestamp(self.until, UTC)

    @property
    def slots(self) -> pl.Series:
        """The beginnings of the slots, as a column `slot`."""
        end = max(self.since, self.until - self.slot_s)
        moments = pl.datetime_range(
            self.begin, datetime.fromtimestamp(end, UTC), f"{self.slot_s}s", time_unit="us", eager=True
        )
        return moments.alias("slot")


def last_hours(hours: float, now: float) -> Window:
    """The latest whole slots of so many hours, at least one.

    >>> last_hours(1, 7_290.0)
    Window(since=3660, until=7260, slot_s=60)
    """
    slot_s = slot_length(hours * HOUR_S)
    until = int(now // slot_s) * slot_s
    return Window(until - max(1, round(hours * HOUR_S / slot_s)) * slot_s, until, slot_s)


def slot_length(seconds: float) -> int:
    """The shortest slots, in seconds, of which not too many fill that time.

    >>> slot_length(3_600), slot_length(86_400), slot_length(30 * 86_400)
    (60, 600, 21600)
    """
    return next((slot_s for slot_s in SLOTS_S if seconds <= slot_s * MOST_SLOTS), SLOTS_S[-1])


def window_of(minutes: pl.DataFrame) -> Window:
    """The window that a frame of minutes fills."""
    first, last = minutes["at"].min(), minutes["at"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return Window(0, SLOTS_S[0], SLOTS_S[0])
    span_s = last.timestamp() - first.timestamp() + SLOTS_S[0]
    slot_s = slot_length(span_s)
    since = int(first.timestamp() // slot_s) * slot_s
    return Window(since, int(last.timestamp() // slot_s) * slot_s + slot_s, slot_s)
