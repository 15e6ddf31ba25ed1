"""Keeps the minutes that cannot change any more, so that a page that is looked at again reads only the latest."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from tale.analytics import frames
from tale.storage.budgets import LONGEST_CALL_S
from tale.storage.history_reader import MINUTE_COLUMNS, HistoryReader

HOUR_S: Final = 3_600
DAY_S: Final = 86_400
COARSE_S: Final = 1_800  # of the slots in which days are kept
SETTLED_S: Final = LONGEST_CALL_S + 300.0  # after the end, when no call that began before it can end any more
KEPT_S: Final = 3_600.0  # what is imported or thrown away is seen after that time
FRESH_S: Final = 30.0  # what may still change is read anew after that time
MOST_KEPT: Final = 500  # hours, and days


@dataclass
class KeptMinutes:
    """Minutes of a reader as frames (frames.MINUTES); of hours and days that are settled they are read once an hour.

    Its methods may be called from several threads.
    """

    reader: HistoryReader
    clock: Callable[[], float]
    _hours: dict[int, tuple[float, pl.DataFrame]] = field(default_factory=dict[int, tuple[float, pl.DataFrame]])
    _days: dict[int, tuple[float, pl.DataFrame]] = field(default_factory=dict[int, tuple[float, pl.DataFrame]])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def minutes(self, since: float, until: float) -> pl.DataFrame:
        """What the minutes of [since, until) amount to, in order of time. Raises DatabaseException."""
        now, begin = self.clock(), int(since // HOUR_S)
        settled = max(begin, min(int((now - SETTLED_S) // HOUR_S), int(until // HOUR_S)))
        parts = [*self._settled_hours(begin, settled, now), self._read(settled * HOUR_S, until)]
        return _within(pl.concat(parts), since, until)

    def coarse(self, since: float, until: float) -> pl.DataFrame:
        """The same in slots of half an hour, which `at` tells the beginning of. Raises likewise."""
        days = range(int(since // DAY_S), int(-(-until // DAY_S)))
        return _within(pl.concat([self._day(day) for day in days] or [frames.empty(frames.MINUTES)]), since, until)

    def _day(self, day: int) -> pl.DataFrame:
        now, begin = self.clock(), day * DAY_S
        is_settled = begin + DAY_S + SETTLED_S <= now
        if (kept := self._days.get(day)) is not None and now - kept[0] <= (KEPT_S if is_settled else FRESH_S):
            return kept[1]
        minutes = self._read(begin, begin + DAY_S) if is_settled else self.minutes(begin, min(begin + DAY_S, now))
        frame = frames.coarser(minutes, COARSE_S)
        self._keep(self._days, day, (now, frame))
        return frame

    def _settled_hours(self, begin: int, end: int, now: float) -> list[pl.DataFrame]:
        """The minutes of each of these hours since 1970; what is lacking of them is read in one piece."""
        with self._lock:
            held = {hour: self._hours[hour] for hour in range(begin, end) if hour in self._hours}
        found = {hour: minutes for hour, (at, minutes) in held.items() if now - at <= KEPT_S}
        if lacking := [hour for hour in range(begin, end) if hour not in found]:
            first, last = lacking[0], lacking[-1]
            read = self._read(first * HOUR_S, (last + 1) * HOUR_S)
            for hour in range(first, last + 1):
                found[hour] = _within(read, hour * HOUR_S, (hour + 1) * HOUR_S)
                self._keep(self._hours, hour, (now, found[hour]))
        return [found[hour] for hour in range(begin, end)]

    def _read(self, since: float, until: float) -> pl.DataFrame:
        return frames.minutes_frame(self.reader.minutes(since, until), MINUTE_COLUMNS)

    def _keep(self, kept: dict[int, tuple[float, pl.DataFrame]], place: int, entry: tuple[float, pl.DataFrame]) -> None:
        """Keep an entry, in place of the oldest where there are many."""
        with self._lock:
            kept.pop(place, None)
            kept[place] = entry
            while len(kept) > MOST_KEPT:
                del kept[next(iter(kept))]


def _within(minutes: pl.DataFrame, since: float, until: float) -> pl.DataFrame:
    at = pl.col("at").dt.epoch("us") / frames.SECOND_US
    return minutes.filter(at >= since, at < until)
