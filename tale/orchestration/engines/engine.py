"""The port behind which every task queue stands; the task row is the truth in all of them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tale.records import NewTask, Task, TaskStatus


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task whose runner has told that it ended: nothing else of its row matters to a queue, so it is not read."""

    id: str
    status: TaskStatus


RunAttempt = Callable[[str, int], Awaitable[Task | None]]
"""Make one attempt: (task id, attempt number last known) -> the task as its row then stands, None if it is gone.

Raises NetworkException when the runner died or cannot be reached; the row may then still say `running`.
"""

HandOut = Callable[[str, int], Awaitable[Task | EndedTask | None]]
"""The same by a runner elsewhere, which may tell of no more than the end."""

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

    async def submit_all(self, new: Sequence[NewTask]) -> list[Task]:
        """Store and queue all of these, or none; durable on return. Tasks that wait for others are queued later.

        Raises TaskException when the queue has no room for all of them.
        """
        ...

    def hand_out(self, task: Task) -> None:
        """Queue a stored task that waited for others and waits no more; one that is queued already is left alone."""
        ...

    def move(self, task: Task) -> None:
        """Have a waiting task go by the priority that its row has now; one that does not wait is left alone."""
        ...

    async def pause(self) -> None:
        """Begin no attempts until `resume`; those under way go on. May be called before `start`."""
        ...

    async def resume(self) -> None:
        """Begin attempts again."""
        ...

    def withdraw(self, task_id: str) -> None:
        """Forget a task that was cancelled while it waited."""
        ...

    async def lost(self, now: float) -> list[Task]:
        """Tasks that run by their rows, are late or to be cancelled, and have lost their runner.

        Those that the queue soon settles by itself may be left out.
        """
        ...

    def waiting(self) -> int:
        """Tasks that wait for a slot, for their next attempt or for other tasks."""
        ...

    def running(self) -> int:
        """Attempts that were handed out and have not come back."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Hand out nothing more; give running attempts `grace_s` seconds, then let go of them."""
        ...
