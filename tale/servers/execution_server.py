"""The execution server: runs tasks that the gateway hands out, one attempt a call."""

from collections.abc import Callable

from tale.credentials import Scope
from tale.mcp.base_server import BaseMCPServer, ToolContext
from tale.orchestration.executor import Progress, TaskExecutor
from tale.orchestration.task_view import TaskView, task_view
from tale.records import Task
from tale.servers.progress import relay_progress
from tale.storage.call_store import CallStore
from tale.validation import validate_task_id

INSTRUCTIONS = "Runs tasks of the tale gateway. To have work done, call submit_task on the gateway instead."


class ExecutionTools:
    """The tools of the execution server."""

    def __init__(self, executor: TaskExecutor, calls: CallStore, *, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._calls = calls
        self._clock = clock

    async def execute_task(self, task_id: str, context: ToolContext, attempt: int | None = None) -> TaskView:
        """Make one attempt at a stored task and return the task as it then stands.

        The attempt runs until it completes, fails or is cancelled; progress tells what the model is doing. A task that
        runs here already is joined. After a failure the task is queued again until its attempts are used up.

        Args:
            task_id: Id of the task, a UUID of version 4.
            attempt: Number of the attempt last known; with it a task whose runner died is taken over.
        """
        async with relay_progress(context) as relay:

            def listen(progress: Progress) -> None:
                relay.offer(progress.message, progress.output_tokens)

            task = await self._executor.execute(validate_task_id(task_id), attempt=attempt, listener=listen)
        context.concerns(task.id, task.trace_id)
        return await self._view(task)

    async def stop_task(self, task_id: str) -> TaskView | None:
        """End the attempt at a task that runs here, and return the task as it then stands; null if it is unknown.

        Args:
            task_id: Id of the task, a UUID of version 4.
        """
        task = await self._executor.stop_task(validate_task_id(task_id))
        return None if task is None else await self._view(task)

    async def _view(self, task: Task) -> TaskView:
        return task_view(task, await self._calls.totals(task_id=task.id), now=self._clock())


def add_execution_tools(server: BaseMCPServer, tools: ExecutionTools) -> None:
    """Register the execution server's tools."""
    server.add_tool(tools.execute_task, title="Execute a task", scope=Scope.ADMIN)
    server.add_tool(tools.stop_task, title="Stop a task", destructive=True, idempotent=True, scope=Scope.ADMIN)


if __name__ == "__main__":
    import sys

    from tale.servers.bootstrap import run_role

    sys.exit(run_role("execution"))
