"""Tasks that wait for others: what the end of one means for those that wait for it, inside one transaction."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from tale.exceptions import ValidationException
from tale.records import Task, TaskStatus
from tale.storage.rows import task_of
from tale.storage.tables import task_dependencies, tasks

DEPENDENCY_FAILED: Final = "DependencyFailed"
LOST: Final = (TaskStatus.FAILED, TaskStatus.CANCELLED)
# Statements are made once: to put one together takes longer than to run it.
WAITING: Final = select(task_dependencies.c.task_id).where(task_dependencies.c.after_id == bindparam("ended"))
CHANGE: Final = update(tasks).where(tasks.c.id == bindparam("of_task"))


def tied(connection: Connection, task: Task, after: Sequence[str], *, now: float) -> Task:
    """The new task as it stands beside those it waits for; it has failed when one of them has.

    Raises ValidationException for an id that is unknown. The tasks it waits for cannot end meanwhile.
    """
    query = select(tasks.c.id, tasks.c.status).where(tasks.c.id.in_(after)).with_for_update(read=True)
    found = {row.id: TaskStatus(row.status) for row in connection.execute(query.order_by(tasks.c.id))}
    if unknown := [task_id for task_id in after if task_id not in found]:
        raise ValidationException(
            f"There is no task {unknown[0]} to wait for; `tale list` shows those there are.", {"after": unknown[0]}
        )
    open_ones = sum(not status.is_final for status in found.values())
    lost = next((task_id for task_id in after if found[task_id] in LOST), None)
    if lost is None:
        return replace(task, open_dependencies=open_ones)
    failed = _failed(replace(task, open_dependencies=open_ones), lost, found[lost])
    return replace(failed, ended_at=now)


def keep(connection: Connection, task_id: str, after: Sequence[str]) -> None:
    """Remember for which tasks a stored one waits, in their order."""
    rows = [{"task_id": task_id, "after_id": after_id, "position": n} for n, after_id in enumerate(after)]
    connection.execute(insert(task_dependencies), rows)


def waiting_for(connection: Connection, task_id: str) -> list[Task]:
    """The queued tasks that wait, or waited, for this one; they are locked."""
    ids = connection.scalars(WAITING, {"ended": task_id}).all()
    if not ids:
        return []
    # Were the status asked for as well, SQLite would look through all that is queued.
    found = select(tasks).where(tasks.c.id.in_(ids)).order_by(tasks.c.id).with_for_update()
    dependents = [task_of(row) for row in connection.execute(found).mappings()]
    return [task for task in dependents if task.status is TaskStatus.QUEUED]


def settle(connection: Connection, ended: Task, *, now: float) -> list[Task]:
    """Free those that waited for a completed task, fail those that waited for another, and who waits for these.

    Returns those that wait for nothing more.
    """
    ends, freed = [ended], list[Task]()
    while ends:
        task = ends.pop()
        for dependent in waiting_for(connection, task.id):
            if task.status is TaskStatus.COMPLETED:
                left = replace(dependent, open_dependencies=dependent.open_dependencies - 1)
                connection.execute(CHANGE, {"of_task": left.id, "open_dependencies": left.open_dependencies})
                if not left.open_dependencies:
                    freed.append(left)
                continue
            failed = _failed(dependent, task.id, task.status)
            values = {"status": failed.status, "error_class": failed.error_class, "error": failed.error}
            connection.execute(CHANGE, {"of_task": failed.id, "ended_at": now, **values})
            ends.append(failed)
    return freed


def _failed(task: Task, lost: str, status: TaskStatus) -> Task:
    how = "was cancelled" if status is TaskStatus.CANCELLED else "failed"
    error = f"Task {lost}, for which this one waited, {how}."
    return replace(task, status=TaskStatus.FAILED, error_class=DEPENDENCY_FAILED, error=error)
