"""What happens to tasks, told to whoever listens in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from tale.records import Task, TaskStatus

LISTENER_BACKLOG = 64  # events a slow listener may lag behind before older ones are dropped for it
QUEUED: Final = "Queued"
PAUSED: Final = "The queue is paused; `tale queue resume` lets it begin"


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One step of a task: its state, the output tokens so far, and one line for people."""

    task_id: str
    status: TaskStatus
    message: str
    output_tokens: int | None = None


class TaskEvents:
    """A board of the latest event of each open task; listeners get the latest at once and then each new one.

    A listener that reads slowly skips to newer events; the last one, a final state, always arrives.
    """

    def __init__(self) -> None:
        self._latest: dict[str, TaskEvent] = {}
        self._listeners: dict[str, set[asyncio.Queue[TaskEvent]]] = {}
        self._watchers: list[Callable[[TaskEvent], None]] = []
        self._taps: list[Callable[[TaskEvent], None]] = []
        self._greeters: list[Callable[[str], None]] = []

    def watch(self, watcher: Callable[[TaskEvent], None]) -> None:
        """Call `watcher`, which must not raise, whenever a task is told of in another status than before."""
        self._watchers.append(watcher)

    def tap(self, tap: Callable[[TaskEvent], None]) -> None:
        """Call `tap`, which must not raise, with every event."""
        self._taps.append(tap)

    def greet(self, greeter: Callable[[str], None]) -> None:
        """Call `greeter`, which must not raise, with the task of each new listener."""
        self._greeters.append(greeter)

    def publish(self, event: TaskEvent) -> None:
        """Hand an event to the task's listeners; a final one closes the task's entry."""
        before = self._latest.pop(event.task_id, None)
        if not event.status.is_final:
            self._latest[event.task_id] = event
        for tap in self._taps:
            tap(event)
        if before is None or before.status is not event.status:
            for watcher in self._watchers:
                watcher(event)
        for queue in self._listeners.get(event.task_id, ()):
            if queue.full():
                with suppress(asyncio.QueueEmpty):
                    queue.get_nowait()
            queue.put_nowait(event)

    def replace(self, message: str, by: str) -> None:
        """Tell `by` of all tasks that were told of with `message` at last."""
        for event in [event for event in self._latest.values() if event.message == message]:
            self.publish(replace(event, message=by))

    def tell_pause(self, is_paused: bool) -> None:
        """Tell the tasks that wait for their turn that the queue is paused, or is so no more."""
        self.replace(*((QUEUED, PAUSED) if is_paused else (PAUSED, QUEUED)))

    def forget(self, task_id: str) -> None:
        """Keep nothing of a task for listeners to come."""
        self._latest.pop(task_id, None)

    def has_listeners(self, task_id: str) -> bool:
        """Whether anybody follows this task."""
        return bool(self._listeners.get(task_id))

    def is_being_written(self, task_id: str) -> bool:
        """Whether the latest that was told of this task counts words of its answer."""
        latest = self._latest.get(task_id)
        return latest is not None and bool(latest.output_tokens)

    def listened_to(self) -> list[str]:
        """The tasks that somebody follows."""
        return list(self._listeners)

    @contextmanager
    def listen(self, task_id: str) -> Generator[AsyncIterator[TaskEvent]]:
        """Register a listener; it yields the latest known event, then new ones, ending after a final state."""
        queue: asyncio.Queue[TaskEvent] = asyncio.Queue(LISTENER_BACKLOG)
        if latest := self._latest.get(task_id):
            queue.put_nowait(latest)
        self._listeners.setdefault(task_id, set()).add(queue)
        for greeter in self._greeters:
            greeter(task_id)
        try:
            yield _read(queue)
        finally:
            listeners = self._listeners[task_id]
            listeners.discard(queue)
            if not listeners:
                del self._listeners[task_id]


async def _read(queue: asyncio.Queue[TaskEvent]) -> AsyncIterator[TaskEvent]:
    while True:
        event = await queue.get()
        yield event
        if event.status.is_final:
            return


def attempt_ended(task: Task) -> TaskEvent:
    """What to tell of a task after an attempt, by its row."""
    if task.status.is_final:
        message = f"Task {task.status.value}"
    elif task.error:
        message = f"Attempt {task.attempt} failed; it will be tried again: {task.error}"
    else:
        message = "The attempt was cut short; the task will be taken up again"
    return TaskEvent(task.id, task.status, message)
