"""The moves of a task: how one may get from a status to another, as SQL that runs inside one transaction.

Every move locks the task's row first (SQLite has locked the file already), and moves that end an attempt are fenced:
they do nothing unless the attempt they name is the one in force.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Integer, bindparam, func, insert, or_, select, true, update

from tale.records import Task, TaskStatus
from tale.storage import dependencies
from tale.storage.rows import task_of
from tale.storage.tables import attempts, tasks

EXHAUSTED: Final = "AttemptsExhausted"
DEADLINE_PASSED: Final = "DeadlinePassed"

# Statements are made once: to put one together takes longer than to run it. Columns are changed by their names.
OF_TASK: Final = tasks.c.id == bindparam("of_task")
FIND: Final = select(tasks).where(OF_TASK)
LOCK: Final = FIND.with_for_update()
CHANGE: Final = update(tasks).where(OF_TASK).returning(tasks)
FINISH: Final = CHANGE.where(tasks.c.attempt == bindparam("of_attempt"), tasks.c.status == TaskStatus.RUNNING).values(
    failures=tasks.c.failures + bindparam("failed")
)
MOVE: Final = CHANGE.where(tasks.c.status == TaskStatus.QUEUED, tasks.c.cancel_requested_at.is_(None))
KEEP_TEXT: Final = (
    update(tasks)
    .where(OF_TASK, tasks.c.attempt == bindparam("of_attempt"), tasks.c.status == TaskStatus.RUNNING)
    .values(result=bindparam("so_far"))
)
BEGIN: Final = CHANGE.where(
    tasks.c.status == TaskStatus.QUEUED,
    tasks.c.attempt == func.coalesce(bindparam("expected", type_=Integer), tasks.c.attempt),
    tasks.c.open_dependencies == 0,
    tasks.c.cancel_requested_at.is_(None),
    tasks.c.failures < bindparam("most_failures"),
    func.coalesce(tasks.c.deadline_at > bindparam("now"), true()),
).values(status=TaskStatus.RUNNING, attempt=tasks.c.attempt + 1)
BEGIN_ATTEMPT: Final = insert(attempts)
# The text that an earlier attempt got to stays until this one has some of its own.
FRESH: Final[dict[str, None]] = dict.fromkeys(
    ("model", "role", "route_reason", "finish_reason", "error_class", "error")
)
# Of the open tasks those that do not run are queued. Asked for `queued`, SQLite would look through all of them.
DUE: Final = (
    select(tasks)
    .where(tasks.c.deadline_at <= bindparam("now"), tasks.c.ended_at.is_(None), tasks.c.status != TaskStatus.RUNNING)
    .order_by(tasks.c.deadline_at, tasks.c.id)
    .with_for_update(skip_locked=True)
)
OVERDUE: Final = (
    select(tasks)
    .where(
        tasks.c.status == TaskStatus.RUNNING,
        or_(tasks.c.cancel_requested_at.is_not(None), tasks.c.deadline_at <= bindparam("now")),
    )
    .order_by(tasks.c.created_at, tasks.c.id)
)
END_ATTEMPT: Final = update(attempts).where(
    attempts.c.task_id == bindparam("of_task"), attempts.c.number == bindparam("of_attempt")
)


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known at the end of an attempt."""

    result: str | None = None
    model: str | None = None
    role: str | None = None
    route_reason: str | None = None
    finish_reason: str | None = None
    error_class: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that has ended, and those that waited for it and wait for nothing more."""

    task: Task
    freed: Sequence[Task]


def claim(
    connection: Connection, task_id: str, *, expected_attempt: int | None, now: float, max_failures: int
) -> Task | None:
    """Begin the next attempt, and take a running one from an owner that died; None when there is nothing to run.

    With `expected_attempt` the task must still be at that attempt, without it the task must be queued. A task whose
    cancellation was asked for is cancelled instead, one whose failures reach `max_failures` or whose deadline has
    passed has failed. One that waits for other tasks is left alone.
    """
    which = {"of_task": task_id, "expected": expected_attempt, "most_failures": max_failures, "now": now}
    row = connection.execute(BEGIN, {**which, "started_at": now, **FRESH}).mappings().first()
    if row is None:
        return _settled_or_begun(connection, task_id, expected_attempt, now=now, max_failures=max_failures)
    task = task_of(row)
    connection.execute(BEGIN_ATTEMPT, {"task_id": task_id, "number": task.attempt, "started_at": now})
    return task


def _settled_or_begun(
    connection: Connection, task_id: str, expected_attempt: int | None, *, now: float, max_failures: int
) -> Task | None:
    """What a claim does where the task is not simply queued."""
    task = _locked(connection, task_id)
    if task is None or task.status.is_final or task.open_dependencies:
        return None
    if expected_attempt is None and task.status is not TaskStatus.QUEUED:
        return None
    if expected_attempt is not None and task.attempt != expected_attempt:
        return None
    failures = task.failures
    if task.status is TaskStatus.RUNNING:
        failures += 1
        _end_attempt(connection, task_id, task.attempt, now=now, outcome="lost")
    if task.cancel_requested_at is not None:
        _end(connection, task, status=TaskStatus.CANCELLED, ended_at=now, failures=failures)
        return None
    if failures >= max_failures:
        error = f"The task was given up after {failures} attempts that failed or lost their runner."
        exhausted: dict[str, Any] = {"error_class": EXHAUSTED, "error": error}
        _end(connection, task, status=TaskStatus.FAILED, ended_at=now, failures=failures, **exhausted)
        return None
    if _is_late(task, now):
        _end(connection, task, status=TaskStatus.FAILED, ended_at=now, failures=failures, **_late(task))
        return None
    number = task.attempt + 1
    connection.execute(BEGIN_ATTEMPT, {"task_id": task_id, "number": number, "started_at": now})
    running: dict[str, Any] = {"status": TaskStatus.RUNNING, "attempt": number, "failures": failures}
    return _change(connection, task, started_at=now, **running, **FRESH)


def finish(
    connection: Connection, task_id: str, attempt: int, *, status: TaskStatus, now: float, ending: Ending
) -> Ended | None:
    """End task and attempt for good; None when the attempt is not the one in force."""
    which = {"of_task": task_id, "of_attempt": attempt, "failed": int(status is TaskStatus.FAILED)}
    values = {"status": status, "ended_at": now, **_values(ending, is_whole=status is TaskStatus.COMPLETED)}
    row = connection.execute(FINISH, {**which, **values}).mappings().first()
    if row is None:
        return None
    _end_attempt(connection, task_id, attempt, now=now, outcome=status.value, ending=ending)
    ended = task_of(row)
    return Ended(ended, dependencies.settle(connection, ended, now=now))


def release(
    connection: Connection,
    task_id: str,
    attempt: int,
    *,
    outcome: Literal["failed", "handed_back"],
    now: float,
    max_failures: int,
    ending: Ending,
) -> Task | None:
    """End the attempt, not the task: queue it again; None when the attempt is not the one in force.

    A failed attempt counts, and the one that reaches `max_failures`, or ends after the deadline, fails the task. A task
    whose cancellation was asked for is cancelled.
    """
    task = _in_force(connection, task_id, attempt)
    if task is None:
        return None
    failures = task.failures + (outcome == "failed")
    if task.cancel_requested_at is not None:
        status, attempt_outcome = TaskStatus.CANCELLED, "failed" if outcome == "failed" else "cancelled"
    else:
        exhausted = outcome == "failed" and (failures >= max_failures or _is_late(task, now))
        status, attempt_outcome = TaskStatus.FAILED if exhausted else TaskStatus.QUEUED, outcome
    _end_attempt(connection, task_id, attempt, now=now, outcome=attempt_outcome, ending=ending)
    values: dict[str, Any] = {"status": status, "failures": failures, **_values(ending)}
    if status.is_final:
        return _end(connection, task, ended_at=now, **values)
    return _change(connection, task, ended_at=None, **values)


def keep_text(connection: Connection, task_id: str, attempt: int, text: str) -> None:
    """Keep what an attempt has written so far, as the result should its runner die; nothing unless it is in force."""
    connection.execute(KEEP_TEXT, {"of_task": task_id, "of_attempt": attempt, "so_far": text})


def request_cancel(connection: Connection, task_id: str, *, now: float) -> Task | None:
    """Cancel a queued task at once, and mark a running one for its runner; None for an unknown id."""
    task = _locked(connection, task_id)
    if task is None or task.status.is_final or task.cancel_requested_at is not None:
        return task
    if task.status is TaskStatus.QUEUED:
        return _end(connection, task, status=TaskStatus.CANCELLED, cancel_requested_at=now, ended_at=now)
    return _change(connection, task, cancel_requested_at=now)


def change_priority(connection: Connection, task_id: str, priority: int) -> Task | None:
    """Give a queued task another priority and return it; None unless it waits in the queue."""
    row = connection.execute(MOVE, {"of_task": task_id, "priority": priority}).mappings().first()
    return None if row is None else task_of(row)


def expire(connection: Connection, *, now: float) -> list[Task]:
    """Fail the queued tasks whose deadline has passed; returns them. Running ones are stopped by their runners."""
    found = [task_of(row) for row in connection.execute(DUE, {"now": now}).mappings()]
    return [_end(connection, task, status=TaskStatus.FAILED, ended_at=now, **_late(task)) for task in found]


def _locked(connection: Connection, task_id: str) -> Task | None:
    row = connection.execute(LOCK, {"of_task": task_id}).mappings().first()
    return None if row is None else task_of(row)


def _in_force(connection: Connection, task_id: str, attempt: int) -> Task | None:
    task = _locked(connection, task_id)
    if task is None or task.status is not TaskStatus.RUNNING or task.attempt != attempt:
        return None
    return task


def _change(connection: Connection, task: Task, **values: Any) -> Task:
    """The locked task with these values, as its row then has them."""
    return task_of(connection.execute(CHANGE, {"of_task": task.id, **values}).mappings().one())


def _end(connection: Connection, task: Task, *, ended_at: float, **values: Any) -> Task:
    """The locked task with a final status, of which those that wait for it learn at once."""
    ended = _change(connection, task, ended_at=ended_at, **values)
    dependencies.settle(connection, ended, now=ended_at)
    return ended


def _is_late(task: Task, now: float) -> bool:
    return task.deadline_at is not None and task.deadline_at <= now


def _late(task: Task) -> dict[str, str]:
    waited = "between two attempts" if task.attempt else "while the task waited in the queue"
    return {"error_class": DEADLINE_PASSED, "error": f"The deadline passed {waited}; give it more with --deadline."}


def _end_attempt(
    connection: Connection, task_id: str, number: int, *, now: float, outcome: str, ending: Ending | None = None
) -> None:
    known = ending or Ending()
    values = {"model": known.model, "error_class": known.error_class, "error": known.error}
    which = {"of_task": task_id, "of_attempt": number}
    connection.execute(END_ATTEMPT, {**which, "ended_at": now, "outcome": outcome, **values})


def _values(ending: Ending, *, is_whole: bool = False) -> dict[str, str | None]:
    """What an ending sets. Only a whole answer is put in place of an earlier text though it is empty."""
    values = {name: getattr(ending, name) for name in Ending.__slots__}
    if ending.result is None and not is_whole:
        del values["result"]
    return values
