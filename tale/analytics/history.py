"""A history opened for analysis: its rows as frames."""

import time
from collections.abc import Callable, Hashable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import polars as pl

from tale.analytics import frames
from tale.analytics.kept_minutes import COARSE_S, DAY_S, FRESH_S, HOUR_S, KEPT_S, SETTLED_S, KeptMinutes
from tale.analytics.windows import Window, last_hours, slot_length
from tale.storage.call_pages import CALL_COLUMNS, CallFilter
from tale.storage.history_reader import (
    ATTEMPT_COLUMNS,
    FEEDBACK_COLUMNS,
    SAMPLE_COLUMNS,
    TASK_COLUMNS,
    VIOLATION_COLUMNS,
    FileId,
    HistoryReader,
    Rows,
)

DAY_HOURS: Final = 24.0
MOST_CALLS: Final = 1_000_000  # of one frame
SAMPLED_AT: Final = SAMPLE_COLUMNS.index("at")

T = TypeVar("T")


class History:
    """The history of one database, which is only looked at. Made by `open_history`.

    `reader` gives the bare rows. Windows are the latest `hours` (24) or a Window. Where there is no database yet, all
    frames are empty. Methods raise DatabaseException for a database that cannot be read.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.reader = HistoryReader(url)
        self._clock = clock
        self._kept = KeptMinutes(self.reader, clock)
        self._computed: dict[Hashable, tuple[float, Any]] = {}
        self._file: FileId | None = None  # of which that is

    def __enter__(self) -> "History":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def now(self) -> float:
        """The time in Unix seconds."""
        return self._clock()

    def window(self, hours: float = DAY_HOURS) -> Window:
        """The latest whole slots of so many hours."""
        return last_hours(hours, self._clock())

    def minutes(self, hours: float = DAY_HOURS, *, window: Window | None = None) -> pl.DataFrame:
        """What the calls of each minute, model, role and operation amount to (frames.MINUTES).

        Where the window's slots are longer than some minutes the rows are of such slots: thirty days are told in few.
        """
        self._notice()
        window = window or self.window(hours)
        read = self._kept.coarse if window.slot_s >= COARSE_S else self._kept.minutes
        return read(window.since, window.until)

    def calls(self, hours: float = DAY_HOURS, *, window: Window | None = None, limit: int = MOST_CALLS) -> pl.DataFrame:
        """The newest calls one by one (frames.CALLS), of the latest hours up to now."""
        since, until = (window.since, window.until) if window else (self._clock() - hours * 3_600, None)
        return self.page(CallFilter(since, until, limit=limit))

    def page(self, wanted: CallFilter) -> pl.DataFrame:
        """The newest calls that fulfil a filter (frames.CALLS)."""
        return frames.frame_of(self.reader.calls(wanted), frames.CALLS, CALL_COLUMNS)

    def slowest(self, window: Window, *, model: str | None = None, limit: int = 20) -> pl.DataFrame:
        """The calls of the window that took longest (frames.CALLS), the longest first."""
        rows = self.reader.slowest(window.since, window.until, model=model, limit=limit)
        return frames.frame_of(rows, frames.CALLS, CALL_COLUMNS)

    def tasks(
        self, hours: float = DAY_HOURS, *, window: Window | None = None, status: str | None = None, limit: int = 10_000
    ) -> pl.DataFrame:
        """The newest tasks handed in (frames.TASKS), of the latest hours up to now."""
        since, until = self._limits(hours, window)
        rows = self.reader.tasks(since, until, status=status, limit=limit)
        return frames.frame_of(rows, frames.TASKS, TASK_COLUMNS)

    def task_times(self, window: Window) -> pl.DataFrame:
        """In which slots the tasks that were open in the window were handed in, begun and ended (frames.TASK_TIMES)."""
        rows = self.reader.task_times(window.since, window.until, slot_s=window.slot_s)
        slots = pl.DataFrame(rows, schema=dict.fromkeys(frames.TASK_TIMES, pl.Int64), orient="row")
        return slots.with_columns(
            (pl.col(name) * (window.slot_s * frames.SECOND_US)).cast(frames.UTC_TIME)
            for name, kind in frames.TASK_TIMES.items()
            if kind == frames.UTC_TIME
        )

    def attempts(self, hours: float = DAY_HOURS, *, window: Window | None = None) -> pl.DataFrame:
        """The attempts of tasks that needed more than one (frames.ATTEMPTS)."""
        since, until = self._limits(hours, window)
        return frames.frame_of(self.reader.retried(since, until), frames.ATTEMPTS, ATTEMPT_COLUMNS)

    def feedback(self, hours: float = DAY_HOURS, *, window: Window | None = None) -> pl.DataFrame:
        """What people thought of results (frames.FEEDBACK)."""
        since, until = self._limits(hours, window)
        return frames.frame_of(self.reader.feedback(since, until), frames.FEEDBACK, FEEDBACK_COLUMNS)

    def samples(self, hours: float = DAY_HOURS, *, window: Window | None = None) -> pl.DataFrame:
        """What the monitor measured of the machine (frames.SAMPLES): the last of each slot and service.

        The processor's share is the mean of the slot.
        """
        since, until = self._limits(hours, window)
        slot_s = window.slot_s if window else slot_length(hours * HOUR_S)
        rows = self._samples(since, until, slot_s)
        return frames.frame_of(
            [row for row in rows if since <= row[SAMPLED_AT] < until], frames.SAMPLES, SAMPLE_COLUMNS
        )

    def violations(self, hours: float = DAY_HOURS, *, window: Window | None = None) -> pl.DataFrame:
        """When targets were missed (frames.VIOLATIONS)."""
        since, until = self._limits(hours, window)
        return frames.frame_of(self.reader.violations(since, until), frames.VIOLATIONS, VIOLATION_COLUMNS)

    def budgets(self) -> pl.DataFrame:
        """The budgets as they stand in the period that runs (frames.BUDGETS)."""
        found = self.reader.budgets(self._clock()).budgets
        return frames.frame_of([tuple(asdict(each).values()) for each in found], frames.BUDGETS)

    def alerts(self) -> pl.DataFrame:
        """The latest alerts of budgets that nobody has acknowledged (frames.ALERTS)."""
        found = self.reader.budgets(self._clock()).alerts
        return frames.frame_of([tuple(asdict(each).values()) for each in found], frames.ALERTS)

    def kept(self, key: Hashable, end: float, compute: Callable[[], T]) -> T:
        """What was computed of a time that ended then: an hour ago at most where it is settled, else half a minute."""
        self._notice()
        now, computed = self._clock(), self._computed
        if (held := computed.get(key)) and now - held[0] <= (KEPT_S if end + SETTLED_S <= now else FRESH_S):
            return held[1]
        value = compute()
        computed[key] = (now, value)
        return value

    def close(self) -> None:
        """Close the connections."""
        self.reader.close()

    def _notice(self) -> None:
        """Forget what is kept of a database whose place another one has taken."""
        if (file := self.reader.file_id()) != self._file:
            self._file = file
            self._kept = KeptMinutes(self.reader, self._clock)
            self._computed = {}

    def _samples(self, since: float, until: float, slot_s: int) -> Rows:
        """The samples, read day by day where slots are long: those of a day that is over do not change."""
        if slot_s < COARSE_S:
            return self.reader.samples(since, until, slot_s=slot_s)
        rows: Rows = []
        for day in range(int(since // DAY_S), int(-(-until // DAY_S))):
            begin, end = day * DAY_S, (day + 1) * DAY_S
            read = partial(self.reader.samples, begin, end, slot_s=slot_s)
            rows += self.kept(("samples", day, slot_s), end, read)
        return rows

    def _limits(self, hours: float, window: Window | None) -> tuple[float, float]:
        now = self._clock()
        return (window.since, window.until) if window else (now - hours * 3_600, now + 1)


def open_history(source: str | Path | None = None, *, clock: Callable[[], float] = time.time) -> History:
    """The history of a database: a SQLAlchemy URL, the path of a SQLite file, or (None) that of the user's settings.

    Raises ValidationException for settings that cannot be read.
    """
    if source is None:
        from tale.settings import load_settings

        source = load_settings().database
    text = str(source)
    return History(text if "://" in text else f"sqlite:///{Path(text).expanduser().absolute()}", clock=clock)
