"""Stores new tasks with the tasks they wait for and the files that come with them, inside one transaction."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, insert, select

from tale.records import NewTask, Task
from tale.storage import dependencies
from tale.storage.rows import insert_into, task_of, values_of
from tale.storage.tables import attachments, tasks

ADD: Final = insert(tasks)
ADD_FILES: Final = insert(attachments)


def store_all(connection: Connection, new: Sequence[NewTask]) -> list[tuple[Task, bool]]:
    """Each as it is stored, and whether it is new: the same idempotency key gives the one stored first.

    A task may wait for an earlier one of these, also where that was stored long ago.
    """
    simple = [each for each in new if is_simple(each)]
    if simple:
        connection.execute(ADD, [values_of(each.task) for each in simple])
        _add_files(connection, simple)
    added = {each.task.id for each in simple}
    stored: list[tuple[Task, bool]] = []
    known: dict[str, str] = {}
    for each in new:
        if each.task.id in added:
            stored.append((each.task, True))
            continue
        after = tuple(known.get(task_id, task_id) for task_id in each.after)
        stored.append(_store(connection, replace(each, after=after)))
        known[each.task.id] = stored[-1][0].id
    return stored


def is_simple(new: NewTask) -> bool:
    """Whether nothing is to be looked up before the task is stored."""
    return not new.after and new.task.idempotency_key is None


def _store(connection: Connection, new: NewTask) -> tuple[Task, bool]:
    task = new.task
    if new.after:
        if first := _first(connection, task):
            return first, False
        task = dependencies.tied(connection, task, new.after, now=task.created_at)
    once = insert_into(connection, tasks).on_conflict_do_nothing(index_elements=["idempotency_key"])
    if connection.scalar(once.returning(tasks.c.id), values_of(task)) is None:
        first = _first(connection, task)
        assert first is not None  # noqa: S101 - it is what the key was in conflict with
        return first, False
    if new.after:
        dependencies.keep(connection, task.id, new.after)
    _add_files(connection, [new])
    return task, True


def _add_files(connection: Connection, new: Sequence[NewTask]) -> None:
    rows: list[dict[str, Any]] = [
        {"task_id": each.task.id, "position": position, "name": file.name, "text": file.text}
        for each in new
        for position, file in enumerate(each.attachments)
    ]
    if rows:
        connection.execute(ADD_FILES, rows)


def _first(connection: Connection, task: Task) -> Task | None:
    if task.idempotency_key is None:
        return None
    mine = select(tasks).where(tasks.c.idempotency_key == task.idempotency_key)
    row = connection.execute(mine).mappings().first()
    return None if row is None else task_of(row)
