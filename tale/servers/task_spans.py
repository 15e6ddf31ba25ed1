"""Has a collector told of what this process records, and of tasks that ended, beside the work and after it."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from tale.exceptions import DatabaseException, ServerException
from tale.orchestration.task_events import TaskEvent, TaskEvents
from tale.servers.shared import Shared
from tale.storage.task_store import TaskStore

if TYPE_CHECKING:
    from tale.telemetry import Telemetry

REMEMBERED: Final = 1_000  # the latest ends: one may be told twice, by who cancelled and by who ran

logger = logging.getLogger(__name__)


async def open_telemetry(shared: Shared, stack: AsyncExitStack) -> None:
    """Send spans to the collector that the settings name, if they do; OpenTelemetry is imported here alone."""
    url = shared.settings.telemetry_url
    if url is None:
        return
    try:
        from tale.telemetry import Telemetry
    except ImportError as error:
        raise ServerException(
            "telemetry_url needs the packages of OpenTelemetry; install them with: pip install 'tale[telemetry]'"
        ) from error
    telemetry = Telemetry(url)
    stack.push_async_callback(telemetry.close)
    shared.recorder.observe(telemetry)
    stack.push_async_callback(TaskSpans(telemetry, shared.tasks, shared.events).stop)


class TaskSpans:
    """Listens to the ends of tasks that are told of in this process."""

    def __init__(self, telemetry: "Telemetry", tasks: TaskStore, events: TaskEvents) -> None:
        self._telemetry = telemetry
        self._tasks = tasks
        self._told: dict[str, None] = {}
        self._reading: set[asyncio.Task[None]] = set()
        events.watch(self._note)

    async def stop(self) -> None:
        """Let what is being read be told."""
        await asyncio.gather(*self._reading)

    def _note(self, event: TaskEvent) -> None:
        if not event.status.is_final or event.task_id in self._told:
            return
        self._told[event.task_id] = None
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        reading = asyncio.create_task(self._tell(event.task_id), name="task-span")
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)

    async def _tell(self, task_id: str) -> None:
        try:
            task = await self._tasks.get(task_id)
            if task is not None and task.status.is_final:
                self._telemetry.task_ended(task, await self._tasks.attempts(task_id))
        except DatabaseException as error:
            logger.warning("Task %s is missing in its trace: %s", task_id, error)
