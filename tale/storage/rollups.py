"""Keeps sums and histograms by the minute, so that any window of a long history is read in milliseconds.

A watermark says how far they go: the rollup of a minute before it is over the calls that began in that minute and ended
before the watermark. Everything else is the raw tail, which readers add; each call is in exactly one of the two. Calls
whose rows came later than `OVERLAP_S` after their end are found by `take_up` and `backfill`, and missed ones by
`verify`. Where the clock was set back, the watermark goes back with it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, select, tuple_

from tale.storage.database import Database
from tale.storage.rollup_rows import MINUTE_S, Rollup, RollupKey, rollup_of, tallied
from tale.storage.rows import upsert
from tale.storage.tables import meta, model_calls, rollup_minute

WATERMARK: Final = "rollup_watermark"  # Unix time in minutes
PRUNED: Final = "pruned_before"  # Unix seconds: older minutes may have lost rows, their rollups tell more
OVERLAP_S: Final = 120.0
UNNOTICED_MINUTES: Final = 60  # within which it is noticed that the clock was set back
STEP_CALLS: Final = 2_000  # calls that end within one step of a catch-up, about
STEP_MINUTES: Final = 60  # minutes of one step of a backfill or a verification
KEY: Final = tuple(rollup_minute.c[name] for name in ("minute", "model", "role", "operation"))
CLOSE: Final = 1e-6  # relative difference of sums that comes from the order of adding

Pause = Callable[[float], Awaitable[None]]
PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Verified:
    """How many rollups were compared with the calls, and which minutes (Unix time in minutes) are wrong."""

    compared: int
    wrong_minutes: tuple[int, ...]


class Rollups:
    """The keeper of the rollups; a second one on the same database does no harm. All raise DatabaseException."""

    def __init__(self, database: Database, *, pause: Pause = asyncio.sleep) -> None:
        self._database = database
        self._pause = pause

    async def catch_up(self, now: float) -> int:
        """Roll up all minutes that have closed by now, a step at a time; returns how many minutes were told anew.

        A watermark that lies ahead of now goes back first.
        """
        end = int(now // MINUTE_S)
        if (await self._database.read(watermark_of) or 0) > end:
            await self._database.write(lambda connection: _set_back(connection, end))
        return await self.reach(now)

    async def reach(self, moment: float) -> int:
        """Roll up all minutes that had closed by then and are not rolled up; the watermark never goes back."""
        end = int(moment // MINUTE_S)
        count, overlap_s = 0, OVERLAP_S
        while step := await self._database.read(lambda c, overlap_s=overlap_s: _next_step(c, end, overlap_s)):
            count += await self._recompute(step.minutes, step.watermark, step.next_watermark)
            overlap_s = 0.0  # rows that came late are behind the first step
            if step.next_watermark >= end:
                return count
            await self._pause(PAUSE_S)
        return count

    async def backfill(self, since: float | None = None, until: float | None = None) -> int:
        """Compute the rollups before the watermark anew, of all time or of calls begun in [since, until).

        Returns how many minutes were told anew. Where calls were pruned, rollups stay that count no fewer calls.
        """
        count = 0
        async for minutes in self._windows(since, until):
            if (watermark := await self._database.read(watermark_of)) is not None:
                count += await self._recompute(minutes, watermark, watermark)
        return count

    async def take_up(self, began_at: float) -> None:
        """Compute the minute of a call anew whose row came late, if it is before the watermark."""
        minutes = [int(began_at // MINUTE_S)]

        def work(connection: Connection) -> None:
            # Read under the lock: the rows of other calls of that minute may come at the same time.
            watermark = watermark_of(connection, lock=True)
            if watermark is not None and minutes[0] < watermark:
                _tell(connection, minutes, _fresh(connection, minutes, watermark), watermark)

        await self._database.write(work)

    async def verify(self) -> Verified:
        """Compare all rollups with the calls, but for minutes of which calls were pruned."""
        compared, wrong = 0, set[int]()
        async for minutes in self._windows(None, None):
            found, differing = await self._database.read(lambda c, minutes=minutes: _compared(c, minutes))
            compared += found
            wrong |= differing
        return Verified(compared, tuple(sorted(wrong)))

    async def _windows(self, since: float | None, until: float | None) -> AsyncGenerator[range]:
        """Some minutes at a time that have calls or rollups, up to the watermark; gaps are leapt over."""
        begin = 0 if since is None else int(since // MINUTE_S)
        end = None if until is None else -int(-until // MINUTE_S)
        while window := await self._database.read(lambda c, begin=begin: _next_window(c, begin, end)):
            yield window
            begin = window.stop
            await self._pause(PAUSE_S)

    async def _recompute(self, minutes: Sequence[int], watermark: int | None, next_watermark: int) -> int:
        """Tell those minutes anew unless another keeper has moved the watermark meanwhile."""
        fresh = await self._database.read(lambda connection: _fresh(connection, minutes, next_watermark))

        def work(connection: Connection) -> int:
            if watermark_of(connection, lock=True) != watermark:
                return 0
            return _tell(connection, minutes, fresh, next_watermark)

        return await self._database.write(work)


def watermark_of(connection: Connection, *, lock: bool = False) -> int | None:
    """How far the rollups go, in Unix minutes; None before the first."""
    wanted = select(meta.c.value).where(meta.c.key == WATERMARK)
    value = connection.scalar(wanted.with_for_update() if lock else wanted)
    return None if value is None else int(value)


def stragglers(edge_s: float) -> ColumnElement[bool]:
    """Calls that began before the watermark and ended after it: in no rollup yet.

    Found by their end, of which there are few: a further limit of their beginning, or one that an index could be taken
    for, would have SQLite go through all calls that began before.
    """
    return and_(model_calls.c.ended_at >= edge_s, model_calls.c.started_at + 0 < edge_s)


def pruned_before(connection: Connection) -> int:
    """The first minute of which no call can have been pruned."""
    value = connection.scalar(select(meta.c.value).where(meta.c.key == PRUNED))
    return 0 if value is None else -int(-float(value) // MINUTE_S)


def note_pruned(connection: Connection, before: float) -> None:
    """Keep in mind that calls begun before that time may be gone."""
    if before > pruned_before(connection) * MINUTE_S:
        _note(connection, PRUNED, repr(before))


@dataclass(frozen=True, slots=True)
class _Step:
    """Minutes that have to be told anew, as the watermark moves from one place to another."""

    minutes: Sequence[int]
    watermark: int | None
    next_watermark: int


def _note(connection: Connection, key: str, value: str) -> None:
    upsert(connection, meta, {"key": key, "value": value}, keys=["key"])


def _set_back(connection: Connection, end: int) -> None:
    """Put a watermark that is ahead of `end` (a minute) back, so far that all that may be missing is told again.

    Rollups of minutes of which calls were pruned stay, to be read again when the watermark comes by them.
    """
    if (watermark_of(connection, lock=True) or 0) <= end:
        return
    lost, minute = pruned_before(connection), rollup_minute.c.minute
    watermark = min(end, max(end - UNNOTICED_MINUTES, lost))
    connection.execute(delete(rollup_minute).where(minute >= max(watermark, lost)))
    if lost > end:
        # What was pruned lives on in rollups: after the last of them nothing was.
        last = connection.scalar(select(func.max(minute)).where(minute >= end))
        _note(connection, PRUNED, repr(float((end if last is None else last + 1) * MINUTE_S)))
    across = select(model_calls.c.started_at).where(stragglers(watermark * MINUTE_S))
    minutes = sorted({int(at // MINUTE_S) for at in connection.scalars(across)})
    _tell(connection, minutes, _fresh(connection, minutes, watermark), watermark)


def _next_step(connection: Connection, end: int, overlap_s: float) -> _Step | None:
    """What is to be done next on the way to `end` (a minute); None when no call has ended that is not rolled up.

    Rollups that the watermark has yet to come by again are a reason to go on, too.
    """
    watermark = watermark_of(connection)
    ended, began = model_calls.c.ended_at, model_calls.c.started_at
    edge_s = (watermark or 0) * MINUTE_S
    since = 0.0 if watermark is None else edge_s - overlap_s
    if watermark is not None and watermark >= end:
        return None
    first = connection.scalar(select(func.min(ended)).where(ended >= since, ended < end * MINUTE_S))
    if first is None:
        ahead = (rollup_minute.c.minute >= (watermark or 0), rollup_minute.c.minute < end)
        return _Step((), watermark, end) if connection.scalar(select(exists().where(*ahead))) else None
    last = connection.scalar(select(ended).where(ended >= first).order_by(ended).offset(STEP_CALLS).limit(1))
    target = end if last is None else min(end, max(int(last // MINUTE_S), watermark or 0) + 1)
    target_s = target * MINUTE_S
    touched = select(began).where(ended >= since, ended < target_s, began + 0 < target_s)
    # The clock was set back during these, so that they ended before they began.
    backward = select(began).where(began >= edge_s, began < target_s, ended + 0 < since)
    found = [*connection.scalars(touched), *connection.scalars(backward)]
    return _Step(sorted({int(at // MINUTE_S) for at in found}), watermark, target)


def _tell(connection: Connection, minutes: Sequence[int], fresh: Iterable[Rollup], watermark: int) -> int:
    """Put these rollups in place of those of the minutes; where calls were pruned, only where they count more calls."""
    lost = pruned_before(connection)
    whole = [minute for minute in minutes if minute >= lost]
    for part in _runs(whole):
        connection.execute(delete(rollup_minute).where(rollup_minute.c.minute.between(part[0], part[-1])))
    held = _held(connection, minutes[0], min(lost, minutes[-1] + 1)) if minutes else {}
    told = [each for each in fresh if each.calls > held.get(each.key, 0)]
    if outdone := [each.key for each in told if each.key in held]:
        connection.execute(delete(rollup_minute).where(tuple_(*KEY).in_(outdone)))
    if told:
        connection.execute(insert(rollup_minute), [each.row() for each in told])
    _note(connection, WATERMARK, str(watermark))
    return len({*whole, *(each.minute for each in told)})


def _fresh(connection: Connection, minutes: Sequence[int], watermark: int) -> list[Rollup]:
    found: list[Rollup] = []
    began, ended = model_calls.c.started_at, model_calls.c.ended_at
    for part in _runs(minutes):
        within = (began >= part[0] * MINUTE_S, began < (part[-1] + 1) * MINUTE_S)
        found += tallied(connection, *within, ended < watermark * MINUTE_S)
    return found


def _runs(minutes: Sequence[int]) -> Iterable[list[int]]:
    """Minutes beside each other together, so that each run is one range of the index."""
    run: list[int] = []
    for minute in minutes:
        if run and minute != run[-1] + 1:
            yield run
            run = []
        run.append(minute)
    if run:
        yield run


def _held(connection: Connection, first: int, end: int) -> dict[RollupKey, int]:
    """How many calls the rollups of the minutes [first, end) count."""
    sums = rollup_minute.c
    counted = select(sums.minute, sums.model, sums.role, sums.operation, sums.calls)
    found = connection.execute(counted.where(sums.minute >= first, sums.minute < end))
    return {(minute, model, role, operation): calls for minute, model, role, operation, calls in found}


def _next_window(connection: Connection, begin: int, end: int | None) -> range | None:
    watermark = watermark_of(connection) or 0
    stop = watermark if end is None else min(end, watermark)
    minute, began = rollup_minute.c.minute, model_calls.c.started_at
    rollup = connection.scalar(select(func.min(minute)).where(minute >= begin, minute < stop))
    call = connection.scalar(select(func.min(began)).where(began >= begin * MINUTE_S, began < stop * MINUTE_S))
    firsts = [first for first in (rollup, None if call is None else int(call // MINUTE_S)) if first is not None]
    return range(min(firsts), min(min(firsts) + STEP_MINUTES, stop)) if firsts else None


def _compared(connection: Connection, minutes: range) -> tuple[int, set[int]]:
    """How many rollups these minutes should have, and which minutes have others."""
    watermark = watermark_of(connection) or 0
    minutes = range(max(minutes.start, pruned_before(connection)), minutes.stop)
    if not minutes:
        return 0, set()
    expected = {each.key: each for each in _fresh(connection, minutes, watermark)}
    held = select(rollup_minute).where(rollup_minute.c.minute.between(minutes[0], minutes[-1]))
    found = {each.key: each for each in map(rollup_of, connection.execute(held).mappings())}
    keys = expected.keys() | found.keys()
    return len(expected), {key[0] for key in keys if not _alike(expected.get(key), found.get(key))}


def _alike(expected: Rollup | None, found: Rollup | None) -> bool:
    if expected is None or found is None:
        return False
    rows = expected.row(), found.row()
    return all(_same(rows[0][name], rows[1][name]) for name in rows[0])


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return abs(expected - found) <= CLOSE * max(abs(expected), abs(found))
    return expected == found
