"""Tasks that wait in the queue end at their deadlines, also those that another gateway has taken in."""

import asyncio
import uuid
from pathlib import Path

from tale.orchestration.deadlines import DeadlineWatch
from tale.records import Task, TaskStatus
from tale.storage.database import Database
from tale.storage.task_store import TaskStore


async def test_deadlines_that_came_in_elsewhere_are_found_after_the_longest_sleep(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    store = TaskStore(database)
    late: asyncio.Queue[Task] = asyncio.Queue()
    watch = DeadlineWatch(store, clock=lambda: 1000.0, on_late=late.put_nowait, longest_sleep_s=0.02)
    await watch.start()
    task = Task(str(uuid.uuid4()), "x", TaskStatus.QUEUED, 1.0, timeout_s=10, deadline_at=999.0)
    await store.insert(task)  # and nobody notes it here
    assert (await late.get()).id == task.id
    await watch.stop()
    await database.close()
