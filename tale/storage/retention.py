"""Throws away history beyond an age, in small batches, so that neither memory nor other writers suffer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Column, ColumnElement, Connection, FromClause, and_, delete, exists, func, select

from tale.storage.database import Database
from tale.storage.rollup_rows import MINUTE_S
from tale.storage.rollups import Rollups, note_pruned
from tale.storage.tables import conversations, corrections, mcp_calls, model_calls, task_dependencies, tasks

BATCH_ROWS: Final = 500
LONGEST_PAUSE_S: Final = 1.0

Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows went, or would go: tasks and conversations with all that belongs to them."""

    tasks: int = 0
    model_calls: int = 0
    mcp_calls: int = 0
    conversations: int = 0
    corrections: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to throw away."""
        return self == Pruned()


async def prune(database: Database, before: float, *, pause: Pause = asyncio.sleep) -> Pruned:
    """Delete what ended before the minute of that time (Unix seconds); returns how much that was.

    Open tasks stay, and so do the tasks, calls and conversations that they build upon; calls go after the task they
    were made for. The sums by the minute stay. After each batch it pauses for as long as the batch took. Raises
    DatabaseException.
    """
    before = _full_minute(before)
    await Rollups(database).reach(before)  # what goes lives on in the sums
    await database.write(lambda connection: note_pruned(connection, before))
    counts: list[int] = []
    for column, moment, condition in _due(before):
        counts.append(await _emptied(database, column, moment, condition, pause))
    return Pruned(*counts)


def prunable(connection: Connection, before: float) -> Pruned:
    """How much `prune` would delete."""
    counts = [
        connection.scalar(select(func.count()).select_from(column.table).where(condition)) or 0
        for column, _, condition in _due(_full_minute(before))
    ]
    return Pruned(*counts)


def is_needed(table: FromClause) -> ColumnElement[bool]:
    """Whether an open task waits for the result of this one; `table` is that of the tasks, or an alias of it."""
    waiting = tasks.alias()
    return exists().where(
        task_dependencies.c.after_id == table.c.id,
        task_dependencies.c.task_id == waiting.c.id,
        waiting.c.ended_at.is_(None),
    )


def _full_minute(before: float) -> float:
    """The beginning of that minute: so far the sums can tell of all that goes."""
    return before // MINUTE_S * MINUTE_S


def _due(before: float) -> list[tuple[Column[str], Column[float], ColumnElement[bool]]]:
    """What goes of each table, in the order in which it has to go: the table's key, its time, and the condition."""
    goes = _task_goes(tasks, before)
    kept = tasks.alias()
    has_kept_task = exists().where(kept.c.id == model_calls.c.task_id, ~_task_goes(kept, before))
    open_tasks = select(tasks.c.conversation_id).where(tasks.c.ended_at.is_(None), tasks.c.conversation_id.is_not(None))
    call_goes = and_(model_calls.c.started_at < before, model_calls.c.ended_at < before, ~has_kept_task)
    conversation_goes = and_(conversations.c.updated_at < before, conversations.c.id.not_in(open_tasks))
    return [
        (tasks.c.id, tasks.c.created_at, goes),
        (model_calls.c.id, model_calls.c.started_at, call_goes),
        (mcp_calls.c.id, mcp_calls.c.started_at, mcp_calls.c.started_at < before),
        (conversations.c.id, conversations.c.updated_at, conversation_goes),
        (corrections.c.id, corrections.c.created_at, corrections.c.created_at < before),
    ]


def _task_goes(table: FromClause, before: float) -> ColumnElement[bool]:
    """Whether a task has ended so long ago, and no open task waits for its result; never unknown."""
    # What ended before was made before, and by when they were made there is an index.
    has_ended = func.coalesce(table.c.ended_at, before) < before
    return and_(table.c.created_at < before, has_ended, ~is_needed(table))


async def _emptied(
    database: Database, key: Column[str], moment: Column[float], condition: ColumnElement[bool], pause: Pause
) -> int:
    oldest = select(key).where(condition).order_by(moment).limit(BATCH_ROWS)
    statement = delete(key.table).where(key.in_(oldest))
    count = 0
    while True:
        began = time.perf_counter()
        deleted = await database.write(lambda connection: connection.execute(statement).rowcount)
        count += deleted
        if deleted < BATCH_ROWS:
            return count
        await pause(min(time.perf_counter() - began, LONGEST_PAUSE_S))
