"""Tells exactly what model calls used: of a task, a conversation or a time, as a whole and group by group.

UsageLine and Usage have no slots: the MCP SDK reads the schema of a tool's answer off them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Integer, and_, cast, func, select

from tale.storage.database import Database
from tale.storage.tables import model_calls
from tale.validation import validate_day, validate_moment, validate_task_id

By = Literal["model", "engine", "role", "operation", "key", "day"]
GROUPS: Final[tuple[By, ...]] = ("model", "engine", "role", "operation", "key", "day")
TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
TIMES: Final = ("queue_s", "load_s", "prefill_s", "decode_s", "other_s", "total_s")
CANCELLED: Final = "Cancelled"
SLOT_S: Final = 900  # every time zone is a whole number of quarters of an hour off: days are made up of those


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which calls are meant; all limits hold together. Times are Unix seconds, of calls begun in [since, until)."""

    task_id: str | None = None
    conversation_id: str | None = None
    since: float | None = None
    until: float | None = None
    by: By | None = None


@dataclass(frozen=True)
class UsageLine:
    """Counts and sums over calls; a sum is null where no engine reported the figure.

    `calls` are all: those still `running`, the `failed` and `cancelled`, and the `unreported`, which ended without a
    word on their tokens. Cached tokens are part of the input, reasoning tokens part of the output.
    """

    name: str | None = None  # of the group; None for the whole, and for calls that have none
    calls: int = 0
    running: int = 0
    failed: int = 0
    cancelled: int = 0
    unreported: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    queue_s: float | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    other_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True)
class Usage:
    """What was used: as a whole, and by group, the largest first (days in their order).

    `since` and `until` are Unix seconds, null where there was no such limit.
    """

    since: float | None
    until: float | None
    whole: UsageLine
    groups: list[UsageLine] = field(default_factory=list[UsageLine])


def query_of(
    *,
    task_id: str | None = None,
    conversation_id: str | None = None,
    day: str | None = None,
    since: str | None = None,
    until: str | None = None,
    by: By | None = None,
    now: float,
) -> UsageQuery:
    """The query that people's words mean; `now` in Unix seconds. Raises ValidationException."""
    begin = None if since is None else validate_moment(since, now)
    end = None if until is None else validate_moment(until, now)
    if day is not None:
        first, last = validate_day(day, now)
        begin, end = max(first, begin or first), min(last, end or last)
    wanted = None if task_id is None else validate_task_id(task_id)
    return UsageQuery(wanted, conversation_id, begin, end, by)


class UsageStore:
    """Usage as the database of this process tells it; raises DatabaseException."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def usage(self, query: UsageQuery) -> Usage:
        """What the calls used."""
        return await self._database.read(lambda connection: usage_of(connection, query))


def usage_of(connection: Connection, query: UsageQuery) -> Usage:
    """What the calls used, summed up by the database."""
    if query.by is None:
        (whole,) = _lines(connection, query, None)
        return Usage(query.since, query.until, whole)
    groups = _lines(connection, query, _group(connection, query.by))
    if query.by == "day":
        groups = _days(groups)
    else:
        groups.sort(key=lambda line: (-((line.input_tokens or 0) + (line.output_tokens or 0)), -line.calls))
    return Usage(query.since, query.until, merged(groups), groups)


def merged(lines: Iterable[UsageLine], name: str | None = None) -> UsageLine:
    """The sum of several lines.

    >>> both = merged([UsageLine(calls=2, input_tokens=3), UsageLine(calls=1)], "both")
    >>> both.name, both.calls, both.input_tokens, both.output_tokens
    ('both', 3, 3, None)
    """
    sums: dict[str, Any] = asdict(UsageLine())
    for line in lines:
        for figure, value in asdict(line).items():
            if figure != "name" and value is not None:
                sums[figure] = value + (sums[figure] or 0)
    sums["name"] = name
    return UsageLine(**sums)


def floored(connection: Connection, value: ColumnElement[Any]) -> ColumnElement[int]:
    """The whole number below; SQLite may have been built without floor(), and cuts where PostgreSQL rounds."""
    return cast(value if connection.dialect.name == "sqlite" else func.floor(value), Integer)


def _group(connection: Connection, by: By) -> ColumnElement[Any]:
    if by == "day":
        return floored(connection, model_calls.c.started_at / SLOT_S)
    return model_calls.c["key_name" if by == "key" else by]


def _lines(connection: Connection, query: UsageQuery, group: ColumnElement[Any] | None) -> list[UsageLine]:
    call = model_calls.c
    has_ended = call.ended_at.is_not(None)
    counts = [
        func.count(),
        func.count().filter(call.ended_at.is_(None)),
        func.count().filter(call.error_class != CANCELLED),
        func.count().filter(call.error_class == CANCELLED),
        func.count().filter(and_(has_ended, call.input_tokens.is_(None), call.output_tokens.is_(None))),
    ]
    sums = [func.sum(call[name]) for name in (*TOKENS, *TIMES)]
    if group is None:
        statement = select(*counts, *sums).where(*limits_of(query))
        return [UsageLine(None, *connection.execute(statement).one())]
    statement = select(group, *counts, *sums).where(*limits_of(query)).group_by(group)
    return [UsageLine(*row) for row in connection.execute(statement)]


def limits_of(query: UsageQuery) -> Sequence[ColumnElement[bool]]:
    """The conditions that pick the query's calls."""
    call = model_calls.c
    limits: list[ColumnElement[bool]] = []
    if query.task_id is not None:
        limits.append(call.task_id == query.task_id)
    if query.conversation_id is not None:
        limits.append(call.conversation_id == query.conversation_id)
    if query.since is not None:
        limits.append(call.started_at >= query.since)
    if query.until is not None:
        limits.append(call.started_at < query.until)
    return limits


def _days(slots: Iterable[UsageLine]) -> list[UsageLine]:
    """Quarters of an hour, put together to the days of this machine's time zone."""
    days: dict[str, list[UsageLine]] = {}
    for slot in sorted(slots, key=lambda line: int(line.name or 0)):
        day = datetime.fromtimestamp(int(slot.name or 0) * SLOT_S).date().isoformat()
        days.setdefault(day, []).append(slot)
    return [merged(lines, day) for day, lines in days.items()]
