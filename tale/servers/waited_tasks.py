"""Waiting for a task as the protocol's own kind of task: a client that knows those need not hold a call open."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tale.mcp.base_server import BaseMCPServer
from tale.mcp.long_calls import LongCall, Status
from tale.orchestration.coordinator import HTTPCoordinator
from tale.orchestration.task_view import TaskView
from tale.records import TaskStatus
from tale.validation import validate_task_id

POLL_INTERVAL_S: Final = 1.0
PROTOCOL_STATUS: Final[dict[str, Status]] = {  # a task that failed has an answer, too: it says so
    TaskStatus.QUEUED.value: "working",
    TaskStatus.RUNNING.value: "working",
    TaskStatus.COMPLETED.value: "completed",
    TaskStatus.FAILED.value: "completed",
    TaskStatus.CANCELLED.value: "cancelled",
}


def long_call(view: TaskView) -> LongCall:
    """A task as the protocol sees it, without its result."""
    return LongCall(
        task_id=view.id,
        status=PROTOCOL_STATUS[view.status],
        created_at=view.created_at,
        updated_at=view.ended_at or view.started_at or view.created_at,
        message=f"The task is {view.status}.",
        poll_interval_s=POLL_INTERVAL_S,
    )


class WaitedTasks:
    """The LongCalls of the gateway. The id is the task's own and its row is the truth, so a restart loses none.

    `view` gives a task with its result, as `tool` of `server` returns it.
    """

    def __init__(
        self,
        server: BaseMCPServer,
        tool: str,
        *,
        view: Callable[[str], Awaitable[TaskView]],
        coordinator: HTTPCoordinator,
    ) -> None:
        self._server = server
        self._tool = tool
        self._view = view
        self._coordinator = coordinator

    async def get(self, task_id: str) -> LongCall:
        """How it stands."""
        view = await self._view(task_id)
        waited = long_call(view)
        if waited.status != "completed":
            return waited
        return replace(waited, result=self._server.tool_result(self._tool, view))

    async def cancel(self, task_id: str) -> None:
        """Stop the task."""
        await self._coordinator.cancel(validate_task_id(task_id))

    async def answer(self, task_id: str, answers: Mapping[str, Any]) -> None:
        """A task asks nothing, so there is nothing to answer; raises TaskException for an id that is unknown."""
        await self._view(task_id)
