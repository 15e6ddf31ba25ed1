"""Finds all that happened for one task or one trace."""

from typing import Any

from sqlalchemy import Connection, Select, or_, select

from tale.records import McpCall, ModelCall, Task, Trace
from tale.storage.rows import task_of
from tale.storage.tables import mcp_calls, model_calls, tasks

MOST_ROWS = 1_000


def trace_of(connection: Connection, wanted: str) -> Trace | None:
    """The trace of a task's id or of a trace's own, its calls in the order of their start; None if there is nothing.

    Clients that wait for a task or ask how it stands make calls of their own; they belong to it by its id. At most
    1,000 calls of each kind are read.
    """
    task = _task(connection, wanted)
    trace_id = task.trace_id if task else wanted
    requests = [McpCall(**row) for row in _rows(connection, select(mcp_calls), trace_id, task)]
    calls = [ModelCall(**row) for row in _rows(connection, select(model_calls), trace_id, task)]
    if task is None and not requests and not calls:
        return None
    return Trace(trace_id, task, tuple(requests), tuple(calls))


def _task(connection: Connection, wanted: str) -> Task | None:
    statement = select(tasks).where(or_(tasks.c.id == wanted, tasks.c.trace_id == wanted)).order_by(tasks.c.created_at)
    row = connection.execute(statement.limit(1)).mappings().first()
    return None if row is None else task_of(row)


def _rows(connection: Connection, statement: Select[Any], trace_id: str | None, task: Task | None) -> list[Any]:
    table = statement.get_final_froms()[0].c
    belongs = [table.trace_id == trace_id] if trace_id is not None else []
    if task is not None:
        belongs.append(table.task_id == task.id)
    found = statement.where(or_(*belongs)).order_by(table.started_at, table.id).limit(MOST_ROWS)
    if task is not None:  # whatever belongs to a task comes after it; the index on the start narrows the search
        found = found.where(table.started_at >= task.created_at - 1)
    return list(connection.execute(found).mappings())
