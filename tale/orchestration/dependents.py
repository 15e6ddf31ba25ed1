"""What the end of a task means for those that waited for it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from tale.records import Task
from tale.storage.dependencies import DEPENDENCY_FAILED

Read = Callable[[str], Awaitable[Sequence[Task]]]
"""The tasks that wait, or waited, for the one with this id."""


async def touched_by(task_id: str, read: Read) -> AsyncGenerator[Task]:
    """The tasks that waited for one that has ended, and for those that ended with it; each once."""
    seen, ended = {task_id}, [task_id]
    while ended:
        for task in await read(ended.pop()):
            if task.id in seen:
                continue
            seen.add(task.id)
            if task.error_class == DEPENDENCY_FAILED:
                ended.append(task.id)
            yield task
