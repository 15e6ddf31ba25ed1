"""Keeps tasks, their attempts and what users think of them."""

import builtins
from collections.abc import Sequence
from typing import Any, Final, Literal

from sqlalchemy import Connection, delete, func, or_, select, tuple_

from tale.exceptions import ValidationException
from tale.predictions import Outcome
from tale.records import Attachment, Attempt, NewTask, Task, TaskStatus
from tale.storage import new_tasks, task_moves
from tale.storage.content import note_words
from tale.storage.database import Database
from tale.storage.prediction_store import settle
from tale.storage.rows import insert_into, record_of, task_of, upsert, values_of
from tale.storage.tables import attachments, attempts, feedback, meta, task_dependencies, tasks
from tale.storage.task_jobs import TaskJobs
from tale.storage.task_moves import Ending

PAUSED_AT: Final = "queue_paused_at"  # a key of the table meta
OPEN_STATUSES = (TaskStatus.QUEUED, TaskStatus.RUNNING)


class TaskStore:
    """Tasks in the database. Every change is durable on return; all raise DatabaseException when it fails."""

    def __init__(self, database: Database, *, jobs: TaskJobs | None = None) -> None:
        """With `jobs`, each task that is stored is queued there by the same transaction."""
        self._database = database
        self._jobs = jobs

    async def insert(self, task: Task) -> Task:
        """Store a new task and return it; the same idempotency key returns the task that was stored first."""
        (stored,) = await self.insert_all([NewTask(task)])
        return stored

    async def insert_all(self, new: Sequence[NewTask]) -> builtins.list[Task]:
        """Store all of these, or none; returns each as it is stored, in its place the one first stored with its key.

        A task that waits for one that has failed or was cancelled has failed, too. Raises ValidationException where
        one is to wait for a task that is not there.
        """

        if self._jobs is None and len(new) == 1 and new_tasks.is_simple(new[0]) and not new[0].attachments:
            await self._database.insert(tasks, values_of(new[0].task))  # one row, and nothing to look up: quicker so
            return [new[0].task]

        def work(connection: Connection) -> builtins.list[Task]:
            stored = new_tasks.store_all(connection, new)
            if self._jobs:
                self._jobs.add(connection, [task for task, is_new in stored if is_new and not task.status.is_final])
            return [task for task, _ in stored]

        return await self._database.write(work)

    async def has_keys(self, keys: Sequence[str | None]) -> bool:
        """Whether a task is stored with each of these idempotency keys; None is the key of no task."""
        wanted = set(keys)
        if None in wanted:
            return False
        found = select(func.count()).where(tasks.c.idempotency_key.in_(wanted))
        return await self._database.read(lambda connection: connection.scalar(found) == len(wanted))

    async def claim(self, task_id: str, *, expected_attempt: int | None, now: float, max_failures: int) -> Task | None:
        """Begin an attempt; None when the task is not to be run, or is somebody else's.

        `expected_attempt` is the attempt number last seen, with which a task whose owner died may be taken over (that
        counts as a failure); None claims a queued task only. A task to be cancelled is settled as cancelled, one
        whose failures reach `max_failures` as failed with the error class AttemptsExhausted; both return None.
        """
        return await self._database.write(
            lambda connection: task_moves.claim(
                connection, task_id, expected_attempt=expected_attempt, now=now, max_failures=max_failures
            )
        )

    async def finish(
        self,
        task_id: str,
        attempt: int,
        *,
        status: TaskStatus,
        now: float,
        result: str | None = None,
        model: str | None = None,
        role: str | None = None,
        route_reason: str | None = None,
        finish_reason: str | None = None,
        error_class: str | None = None,
        error: str | None = None,
        truth: Outcome | None = None,
    ) -> Task | None:
        """End a running task with a final status and return it; None when another attempt or an end came first.

        The truth is kept beside what was expected of the attempt.
        """
        if not status.is_final:
            raise ValidationException(f"A task cannot finish as {status.value}; use release to queue it again.")
        ending = Ending(result, model, role, route_reason, finish_reason, error_class, error)

        def work(connection: Connection) -> Task | None:
            ended = task_moves.finish(connection, task_id, attempt, status=status, now=now, ending=ending)
            if ended and self._jobs:
                self._jobs.add(connection, ended.freed)
            if ended and truth:
                settle(connection, task_id, attempt, truth, now=now)
            return ended.task if ended else None

        return await self._database.write(work)

    async def release(
        self,
        task_id: str,
        attempt: int,
        *,
        outcome: Literal["failed", "handed_back"],
        now: float,
        max_failures: int,
        result: str | None = None,
        model: str | None = None,
        role: str | None = None,
        route_reason: str | None = None,
        error_class: str | None = None,
        error: str | None = None,
        truth: Outcome | None = None,
    ) -> Task | None:
        """End an attempt and queue the task again, or fail it when its failures reach `max_failures`.

        An attempt that is handed back is no failure. Returns the task as it then stands, None when fenced off.
        """
        ending = Ending(result, model, role, route_reason, error_class=error_class, error=error)

        def work(connection: Connection) -> Task | None:
            released = task_moves.release(
                connection, task_id, attempt, outcome=outcome, now=now, max_failures=max_failures, ending=ending
            )
            if released and truth:
                settle(connection, task_id, attempt, truth, now=now)
            return released

        return await self._database.write(work)

    async def keep_text(self, task_id: str, attempt: int, text: str) -> None:
        """Keep what the attempt in force has written so far: the result of the task, should its runner die."""
        await self._database.write(lambda connection: task_moves.keep_text(connection, task_id, attempt, text))

    async def request_cancel(self, task_id: str, now: float) -> Task | None:
        """Cancel a queued task, mark a running one, leave a final one; None for an unknown id."""
        return await self._database.write(lambda connection: task_moves.request_cancel(connection, task_id, now=now))

    async def change_priority(self, task_id: str, priority: int) -> Task | None:
        """Give a queued task, with its job, another priority and return it; None unless it waits in the queue."""

        def work(connection: Connection) -> Task | None:
            moved = task_moves.change_priority(connection, task_id, priority)
            if moved and self._jobs:
                self._jobs.move(connection, moved)
            return moved

        return await self._database.write(work)

    async def expire(self, now: float) -> builtins.list[Task]:
        """Fail the queued tasks whose deadline has passed, and return them."""
        return await self._database.write(lambda connection: task_moves.expire(connection, now=now))

    async def overdue(self, now: float) -> builtins.list[Task]:
        """The tasks that by their rows run, though they are late or to be cancelled."""
        return await self._database.read(
            lambda connection: [task_of(row) for row in connection.execute(task_moves.OVERDUE, {"now": now}).mappings()]
        )

    async def next_deadline(self, now: float) -> float | None:
        """The earliest deadline of a task that waits in the queue, or may come back to it before its deadline."""
        counts = or_(tasks.c.status != TaskStatus.RUNNING, tasks.c.deadline_at > now)
        unfinished = (tasks.c.deadline_at.is_not(None), tasks.c.ended_at.is_(None))
        earliest = select(func.min(tasks.c.deadline_at)).where(*unfinished, counts)
        return await self._database.read(lambda connection: connection.scalar(earliest))

    async def awaited(self) -> set[str]:
        """The unfinished tasks for which others wait."""
        named = select(task_dependencies.c.after_id).distinct().join(tasks, tasks.c.id == task_dependencies.c.after_id)
        unfinished = named.where(tasks.c.status.in_(OPEN_STATUSES))
        return await self._database.read(lambda connection: set(connection.scalars(unfinished)))

    async def dependents(self, task_id: str) -> builtins.list[Task]:
        """The tasks that wait, or waited, for this one, oldest first."""
        mine = select(task_dependencies.c.task_id).where(task_dependencies.c.after_id == task_id)
        return await self._tasks(select(tasks).where(tasks.c.id.in_(mine)).order_by(tasks.c.created_at, tasks.c.id))

    async def awaited_by(self, task_id: str) -> builtins.list[Task]:
        """The tasks for which this one waits, or waited, in the order they were named."""
        named = select(tasks).join(task_dependencies, task_dependencies.c.after_id == tasks.c.id)
        mine = named.where(task_dependencies.c.task_id == task_id)
        return await self._tasks(mine.order_by(task_dependencies.c.position))

    async def attachments(self, task_id: str) -> builtins.list[Attachment]:
        """The files that came with a task, in their order."""
        mine = select(attachments.c.name, attachments.c.text).where(attachments.c.task_id == task_id)
        files = mine.order_by(attachments.c.position)
        return await self._database.read(
            lambda connection: [Attachment(**row) for row in connection.execute(files).mappings()]
        )

    async def pause(self, now: float) -> None:
        """Remember that the queue is paused since `now`, or since it was before."""

        def work(connection: Connection) -> None:
            row = {"key": PAUSED_AT, "value": repr(now)}
            connection.execute(insert_into(connection, meta).on_conflict_do_nothing(index_elements=["key"]), row)

        await self._database.write(work)

    async def resume(self) -> None:
        """Forget that the queue was paused."""
        await self._database.write(lambda connection: connection.execute(delete(meta).where(meta.c.key == PAUSED_AT)))

    async def paused_at(self) -> float | None:
        """Since when the queue is paused; None while it is not."""
        since = select(meta.c.value).where(meta.c.key == PAUSED_AT)
        found = await self._database.read(lambda connection: connection.scalar(since))
        return None if found is None else float(found)

    async def get(self, task_id: str) -> Task | None:
        """The task as it stands; None for an unknown id."""

        def work(connection: Connection) -> Task | None:
            row = connection.execute(task_moves.FIND, {"of_task": task_id}).mappings().first()
            return None if row is None else task_of(row)

        return await self._database.read(work)

    async def list(
        self, *, status: TaskStatus | None = None, limit: int = 50, before: tuple[float, str] | None = None
    ) -> builtins.list[Task]:
        """Tasks, newest first; `before` is the (created_at, id) of the last task of the page before."""
        statement = select(tasks).order_by(tasks.c.created_at.desc(), tasks.c.id.desc()).limit(limit)
        if status is not None:
            statement = statement.where(tasks.c.status == status)
        if before is not None:
            statement = statement.where(tuple_(tasks.c.created_at, tasks.c.id) < before)
        return await self._tasks(statement)

    async def open_tasks(self) -> builtins.list[Task]:
        """All queued and running tasks, oldest first."""
        unfinished = select(tasks).where(tasks.c.status.in_(OPEN_STATUSES))
        return await self._tasks(unfinished.order_by(tasks.c.created_at, tasks.c.id))

    async def counts(self, *, since: float | None = None) -> dict[TaskStatus, int]:
        """How many tasks, of those handed in since that time, there are in each status; every status is there."""
        statement = select(tasks.c.status, func.count()).group_by(tasks.c.status)
        if since is not None:
            statement = statement.where(tasks.c.created_at >= since)

        def work(connection: Connection) -> dict[str, int]:
            return dict(connection.execute(statement).all())

        found = await self._database.read(work)
        return {status: found.get(status.value, 0) for status in TaskStatus}

    async def attempts(self, task_id: str) -> builtins.list[Attempt]:
        """All attempts at a task, in order."""
        statement = select(attempts).where(attempts.c.task_id == task_id).order_by(attempts.c.number)
        return await self._database.read(
            lambda connection: [record_of(row, Attempt) for row in connection.execute(statement).mappings()]
        )

    async def add_feedback(
        self, task_id: str, rating: str, comment: str | None, now: float, *, key_name: str | None = None
    ) -> bool:
        """Keep what the user of a key thinks of a task, in place of what was said before; False for an unknown id."""
        values = {"task_id": task_id, "rating": rating, "comment": comment, "created_at": now, "key_name": key_name}

        def work(connection: Connection) -> bool:
            task = connection.execute(select(tasks.c.ended_at).where(tasks.c.id == task_id)).first()
            if task is None:
                return False
            upsert(connection, feedback, values, keys=["task_id"])
            if comment is not None and task.ended_at is not None:
                note_words(connection, feedback, since=task.ended_at)
            return True

        return await self._database.write(work)

    async def _tasks(self, statement: Any) -> builtins.list[Task]:
        return await self._database.read(
            lambda connection: [task_of(row) for row in connection.execute(statement).mappings()]
        )
