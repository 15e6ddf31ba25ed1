"""A worker that claims a task, says so, and never ends: to be killed. Its argument is the URL of the database."""

import asyncio
import sys

from tale.orchestration.engines.postgres_engine import PostgresEngine
from tale.orchestration.engines.postgres_worker import Pace
from tale.records import Task
from tale.storage.database import Database
from tale.storage.engines import postgresql_dsn
from tale.storage.task_jobs import TaskJobs
from tale.storage.task_store import TaskStore


async def main(url: str) -> None:
    database = Database.open(url)
    jobs = TaskJobs(database)
    store = TaskStore(database, jobs=jobs)

    async def run(task_id: str, attempt: int) -> Task | None:
        task = await store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=3)
        assert task is not None
        print("running", task_id, task.attempt, flush=True)
        await asyncio.Event().wait()
        return None

    engine = PostgresEngine(
        store,
        jobs,
        postgresql_dsn(url) or "",
        run,
        slots=1,
        queue_limit=100,
        retry_delay_s=0.0,
        on_end=lambda _: None,
        pace=Pace(heartbeat_s=0.6, poll_s=0.2),
    )
    await engine.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
