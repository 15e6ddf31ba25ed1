"""The jobs of tasks in pgqueuer's tables on PostgreSQL: each is added by the transaction that stores its task."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy import ARRAY, Connection, String, bindparam, func, select, text

from tale.exceptions import DatabaseException
from tale.records import Task, TaskStatus
from tale.storage.database import Database
from tale.storage.rows import task_of
from tale.storage.tables import tasks
from tale.storage.task_moves import OVERDUE

if TYPE_CHECKING:
    from pgqueuer.domain.settings import DBSettings

ENTRYPOINT: Final = "tale_task"
PREFIX: Final = "tale_"
OPEN_STATUSES: Final = (TaskStatus.QUEUED.value, TaskStatus.RUNNING.value)
PLACE: Final = re.compile(r"\$[0-9]+::(\w+)\[\]")  # of an array in pgqueuer's statement, each used once and in order
REPAIR_BATCH: Final = 1_000  # jobs that one repair adds


def job_settings() -> "DBSettings":
    """The names of pgqueuer's objects: the same on every host, whatever its environment says.

    The queue itself is as durable as the tasks. Its log and its statistics, which tale does not read, need not be.
    Raises DatabaseException where pgqueuer is not installed.
    """
    try:
        from pgqueuer.domain.settings import DBSettings, Durability
    except ModuleNotFoundError as error:
        raise DatabaseException(
            "Tasks on PostgreSQL need the package pgqueuer; install it with: pip install 'tale[postgres]'"
        ) from error
    names = {
        "channel": "ch_pgqueuer",
        "function": "fn_pgqueuer_changed",
        "statistics_table": "pgqueuer_statistics",
        "queue_status_type": "pgqueuer_status",
        "queue_table": "pgqueuer",
        "queue_table_log": "pgqueuer_log",
        "trigger": "tg_pgqueuer_changed",
        "schedules_table": "pgqueuer_schedules",
    }
    prefixed = {name: f"{PREFIX}{value}" for name, value in names.items()}
    return DBSettings.model_validate({"prefix": PREFIX, "durability": Durability.balanced, **prefixed})


class TaskJobs:
    """Adds and removes jobs. A task has at most one, whose key is the task's id."""

    def __init__(self, database: Database) -> None:
        from pgqueuer.adapters.persistence.qb import QueryQueueBuilder

        settings = job_settings()
        self._database = database
        self._table, self._log = settings.queue_table, settings.queue_table_log
        # Through SQLAlchemy's cursor, so that a fault of the database is named and mended as every other is.
        insert = QueryQueueBuilder(settings).build_enqueue_query("skip")
        self._insert = PLACE.sub(r"%s::\1[]", insert)
        self._insert_one = PLACE.sub(r"ARRAY[%s::\1]", insert)  # lists are slow to hand over

    def add(self, connection: Connection, added: Sequence[Task]) -> None:
        """Queue the tasks, within the caller's transaction; those that wait for others are not ready yet."""
        ready = [task for task in added if not task.open_dependencies]
        if not ready:
            return
        rows = [(task.priority, ENTRYPOINT, task.id.encode(), "0", task.id, "{}") for task in ready]
        if len(rows) == 1:
            connection.exec_driver_sql(self._insert_one, rows[0])
        else:
            connection.exec_driver_sql(self._insert, tuple(list(column) for column in zip(*rows, strict=True)))

    def move(self, connection: Connection, task: Task) -> None:
        """Give the job of a queued task the task's priority, within the caller's transaction.

        Of a task whose attempt has just failed it is still picked, and keeps its priority when it is put back.
        """
        statement = text(
            f"UPDATE {self._table} SET priority = :priority "  # noqa: S608 - our constant
            "WHERE dedupe_key = :id AND status IN ('queued', 'picked')"
        )
        connection.execute(statement, {"priority": task.priority, "id": task.id})

    async def repair(self) -> int:
        """Queue unfinished tasks that have no job, though they should; returns how many there were."""
        has_no_job = text(
            f"NOT EXISTS (SELECT 1 FROM {self._table} AS job WHERE job.dedupe_key = tasks.id "  # noqa: S608 - our constant
            "AND job.status IN ('queued', 'picked'))"
        )
        missing = (
            select(tasks)
            .where(tasks.c.status.in_(OPEN_STATUSES), tasks.c.open_dependencies == 0, has_no_job)
            .order_by(tasks.c.created_at, tasks.c.id)
            .limit(REPAIR_BATCH)
        )

        def work(connection: Connection) -> int:
            found = [task_of(row) for row in connection.execute(missing).mappings()]
            self.add(connection, found)
            return len(found)

        return await self._database.write(work)

    async def lost(self, now: float, *, silent_s: float) -> list[Task]:
        """The tasks that are late or to be cancelled, run by their rows, and of which no worker told for that long."""
        is_held = (
            f"EXISTS (SELECT 1 FROM {self._table} AS job WHERE job.dedupe_key = tasks.id "  # noqa: S608 - our constant
            "AND job.status = 'picked' AND job.heartbeat >= NOW() - make_interval(secs => :silent_s))"
        )
        statement = OVERDUE.where(text(f"NOT {is_held}"))
        which = {"now": now, "silent_s": silent_s}
        return await self._database.read(
            lambda connection: [task_of(row) for row in connection.execute(statement, which).mappings()]
        )

    async def remove(self, task_ids: Sequence[str]) -> None:
        """Forget the jobs of tasks that were cancelled while they waited; those that were picked are left."""
        statement = text(
            f"DELETE FROM {self._table} WHERE dedupe_key = ANY(:ids) AND status = 'queued'"  # noqa: S608 - as above
        ).bindparams(bindparam("ids", list(task_ids), ARRAY(String)))
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def clear_log(self) -> None:
        """Throw away what pgqueuer logs of each job; our own table of attempts is the history."""
        statement = text(f"DELETE FROM {self._log}")  # noqa: S608 - our constant
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def counts(self) -> tuple[int, int]:
        """How many tasks are queued, and how many run, on all hosts."""
        statement = select(tasks.c.status, func.count()).where(tasks.c.status.in_(OPEN_STATUSES))

        def work(connection: Connection) -> dict[str, int]:
            return dict(connection.execute(statement.group_by(tasks.c.status)).all())

        found = await self._database.read(work)
        return found.get(TaskStatus.QUEUED.value, 0), found.get(TaskStatus.RUNNING.value, 0)
