"""The port behind which every task queue stands; the task row is the truth in all of them."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from tale.records import Task

RunAttempt = Callable[[str, int], Awaitable[Task | None]]
"""Make one attempt: (task id, attempt number last known) -> the task as its row then stands, None if it is gone.

Raises NetworkException when the runner died or cannot be reached; the row may then still say `running`.
"""

AttemptEnded = Callable[[Task], None]
"""Is told of each task that an attempt was made at, as its row then stands, however the attempt went."""


class TaskEngine(Protocol):
    """Keeps accepted tasks, hands them to a runner by priority, and tries again what failed."""

    async def start(self) -> None:
        """Take up what was left behind and begin handing out."""
        ...

    async def submit(self, task: Task) -> Task:
        """Store and queue a task; durable on return. The same idempotency key gives the task stored first.

        Raises TaskException when the queue is full.
        """
        ...

    def withdraw(self, task_id: str) -> None:
        """Forget a task that was cancelled while it waited."""
        ...

    def waiting(self) -> int:
        """Tasks that wait for a slot or for their next attempt."""
        ...

    def running(self) -> int:
        """Attempts that were handed out and have not come back."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Hand out nothing more; give running attempts `grace_s` seconds, then let go of them."""
        ...
