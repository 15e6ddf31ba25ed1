"""Finds all that happened for one task or one trace."""

from typing import Any, Final

from sqlalchemy import Connection, Table, select

from tale.records import McpCall, ModelCall, Task, Trace
from tale.storage.rows import task_of
from tale.storage.tables import mcp_calls, model_calls, tasks

MOST_ROWS: Final = 1_000
BEFORE_S, AFTER_S = 1.0, 60.0  # of the task's life in which clients ask about it, clocks and last words included


def trace_of(connection: Connection, wanted: str) -> Trace | None:
    """The trace of a task's id or of a trace's own, its calls in the order of their start; None if there is nothing.

    Clients that wait for a task or ask how it stands make calls of their own; while the task lives, and for a minute
    after, they belong to it by its id. At most 1,000 calls of each kind are read.
    """
    task = _task(connection, wanted)
    trace_id = task.trace_id if task else wanted
    requests = [McpCall(**row) for row in _rows(connection, mcp_calls, trace_id, task)]
    calls = [ModelCall(**row) for row in _rows(connection, model_calls, trace_id, task)]
    if task is None and not requests and not calls:
        return None
    return Trace(trace_id, task, tuple(requests), tuple(calls))


def _task(connection: Connection, wanted: str) -> Task | None:
    for column in (tasks.c.id, tasks.c.trace_id):
        statement = select(tasks).where(column == wanted).order_by(tasks.c.created_at).limit(1)
        if row := connection.execute(statement).mappings().first():
            return task_of(row)
    return None


def _rows(connection: Connection, table: Table, trace_id: str | None, task: Task | None) -> list[dict[str, Any]]:
    """By the trace and by the task apart: each search then has its index, which the two together have not."""
    of_trace, of_task = table.c.trace_id == trace_id, []
    if task is not None:
        of_task = [table.c.task_id == task.id, table.c.started_at >= task.created_at - BEFORE_S]
        if task.ended_at is not None:
            of_task.append(table.c.started_at <= task.ended_at + AFTER_S)
    found: dict[str, dict[str, Any]] = {}
    for belongs in ([of_trace] if trace_id is not None else [], of_task):
        if belongs:
            statement = select(table).where(*belongs).order_by(table.c.started_at, table.c.id).limit(MOST_ROWS)
            found |= {row["id"]: dict(row) for row in connection.execute(statement).mappings()}
    return sorted(found.values(), key=lambda row: (row["started_at"], row["id"]))[:MOST_ROWS]
