"""The gateway: takes tasks in, tells how they stand, hands out results."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from tale.credentials import Scope
from tale.exceptions import BudgetException, TaskException, ValidationException
from tale.mcp.base_server import BaseMCPServer, CallOrigin, ToolContext
from tale.orchestration.coordinator import HTTPCoordinator
from tale.orchestration.intake import Submission, refuse_bad_priority
from tale.orchestration.task_events import TaskEvent
from tale.orchestration.task_view import QueueView, TaskList, TaskReceipt, TaskReceipts, TaskView, task_view
from tale.records import Task, TaskStatus, TokenTotals
from tale.servers.budget_tools import BudgetGate
from tale.servers.progress import relay_progress
from tale.servers.task_requests import AttachedFile, TaskRequest, submissions_of
from tale.servers.waited_tasks import long_call
from tale.storage.call_store import CallStore
from tale.storage.task_store import TaskStore
from tale.validation import validate_task_id, validate_timeout_seconds

INSTRUCTIONS: Final = (
    "Hands work to language models on this machine. Call submit_task, then wait_for_task with the id it returns "
    "(again, if the task is not finished when it returns); get_task_result gives the text. Each task is a resource "
    "that can be subscribed to, too: tale://tasks/{task_id}."
)
DEFAULT_WAIT_S: Final = 45  # below the 60 s after which common clients give up
MAX_LISTED: Final = 200

Rating = Literal["good", "bad"]
Status = Literal["queued", "running", "completed", "failed", "cancelled"]

logger = logging.getLogger(__name__)


class GatewayTools:
    """The tools of the gateway."""

    def __init__(
        self,
        coordinator: HTTPCoordinator,
        *,
        tasks: TaskStore,
        calls: CallStore,
        gate: BudgetGate,
        clock: Callable[[], float],
        server_info: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._coordinator = coordinator
        self._tasks = tasks
        self._calls = calls
        self._gate = gate
        self._clock = clock
        self._server_info = server_info

    async def submit_task(
        self,
        text: str,
        context: CallOrigin,
        priority: int = 0,
        timeout_s: int | None = None,
        max_output_tokens: int | None = None,
        idempotency_key: str | None = None,
        conversation_id: str | None = None,
        expect: dict[str, Any] | None = None,
        deadline_s: int | None = None,
        after: list[str] | None = None,
        with_results: bool = False,
        attachments: list[AttachedFile] | None = None,
    ) -> TaskView:
        """Hand in a task and return at once; it is stored durably and will be done even if a server dies.

        Args:
            text: What is to be done, in plain words; 1 to 10,000 characters.
            priority: From -100 to 100; more urgent tasks have larger numbers.
            timeout_s: Seconds one attempt may take, 1 to 3600; default 300.
            max_output_tokens: Most tokens the answer may have.
            idempotency_key: A key of the caller's own; the same key returns the task stored first.
            conversation_id: Conversation the task belongs to.
            expect: Checks of the answer: {"regex": "..."}, {"json_schema": {...}}, {"python": true} (its code
                compiles), or several of them. An answer that fails one is a failed attempt, which is made again.
            deadline_s: Seconds from now after which it fails instead of being begun or going on.
            after: Ids of tasks to wait for; it is begun when all of them have completed, and fails if one does not.
            with_results: Whether the model gets to read the results of those tasks.
            attachments: Text files that the model gets to read; at most 50, of 1 MB each, 4 MB in all with the request
                around them, and of no more tokens in all than its context holds.
        """
        given = (text, priority, timeout_s, max_output_tokens, idempotency_key, conversation_id, expect, deadline_s)
        return await self._submitted(TaskRequest(*given, after or [], with_results, attachments or []), context)

    async def submit_tasks(self, tasks: list[TaskRequest], context: CallOrigin) -> TaskReceipts:
        """Hand in several tasks at once: all of them are stored, or none.

        Args:
            tasks: 1 to 500 tasks; each an object with what submit_task takes. `after` may also name earlier ones of the
                same call: #1 is the first.
        """
        submissions = submissions_of(tasks, context.trace_id, context.key_name)
        await self._refuse_used_up(submissions, context)
        stored = await self._coordinator.submit_all(submissions)
        return TaskReceipts([TaskReceipt(task.id, task.status.value) for task in stored])

    async def pause_queue(self) -> QueueView:
        """Begin no more tasks, after a restart either, until the queue is resumed; running tasks go on."""
        await self._coordinator.pause()
        return await self._queue()

    async def resume_queue(self) -> QueueView:
        """Begin tasks again after a pause."""
        await self._coordinator.resume()
        return await self._queue()

    async def get_task_status(self, task_id: str) -> TaskView:
        """Tell how a task stands, without its result text.

        Args:
            task_id: Id of the task, a UUID of version 4.
        """
        return await self._view(await self._coordinator.get(validate_task_id(task_id)), with_result=False)

    async def get_task_result(self, task_id: str) -> TaskView:
        """Return a finished task with its result; of a failed or cancelled one the text it had got to.

        Args:
            task_id: Id of the task, a UUID of version 4.
        """
        task = await self._coordinator.get(validate_task_id(task_id))
        if not task.status.is_final:
            raise TaskException(
                f"The task is still {task.status.value}; wait for it with wait_for_task or `tale status {task.id}`.",
                {"task_id": task.id, "status": task.status.value},
            )
        return await self._view(task)

    async def wait_for_task(self, task_id: str, context: ToolContext, timeout_s: int | None = None) -> TaskView:
        """Wait until a task is finished and return it with its result; progress tells how it goes.

        When the time is up first, the task is returned as it stands: call again to go on waiting. Without a time, a
        client of the protocol's tasks extension gets a task of the protocol at once, and asks after that.

        Args:
            task_id: Id of the task, a UUID of version 4.
            timeout_s: Seconds to wait at most, 1 to 3600; default 45.
        """
        wait_s = DEFAULT_WAIT_S if timeout_s is None else validate_timeout_seconds(timeout_s)
        if context.takes_tasks and timeout_s is None:
            task = await self._coordinator.get(validate_task_id(task_id))
            view = await self._view(task)
            return view if task.status.is_final else context.become_task(long_call(view))
        async with relay_progress(context) as relay:

            async def on_event(event: TaskEvent) -> None:
                relay.offer(event.message, event.output_tokens)

            task = await self._coordinator.wait(validate_task_id(task_id), timeout_s=wait_s, on_event=on_event)
        return await self._view(task)

    async def list_tasks(self, status: Status | None = None, limit: int = 20, before: str | None = None) -> TaskList:
        """List tasks, newest first, without their result texts.

        Args:
            status: Only tasks that stand so.
            limit: How many at most, 1 to 200.
            before: The `next` of an earlier answer, to go on from there.
        """
        if not 1 <= limit <= MAX_LISTED:
            raise ValidationException(f"The limit {limit} is out of range; use 1 to {MAX_LISTED}.")
        found = await self._tasks.list(
            status=TaskStatus(status) if status else None, limit=limit + 1, before=_cursor(before) if before else None
        )
        page, last = found[:limit], found[limit - 1 : limit]
        following = f"{last[0].created_at!r}:{last[0].id}" if len(found) > limit else None
        totals, now = await self._calls.totals_of_tasks([task.id for task in page]), self._clock()
        views = [replace(task_view(task, totals[task.id], now=now), result=None) for task in page]
        return TaskList(views, following)

    async def cancel_task(self, task_id: str) -> TaskView:
        """Stop a task, or a plan with all its steps; what was written so far is kept. A finished task stays as it is.

        Args:
            task_id: Id of the task, a UUID of version 4.
        """
        return await self._view(await self._coordinator.cancel(validate_task_id(task_id)))

    async def set_priority(self, task_id: str, priority: int) -> TaskView:
        """Have a task that waits in the queue go before others, or behind them; it keeps its id and all it has.

        Args:
            task_id: Id of the task, a UUID of version 4.
            priority: From -100 to 100; more urgent tasks have larger numbers.
        """
        refuse_bad_priority(priority)
        return await self._view(await self._coordinator.change_priority(validate_task_id(task_id), priority))

    async def record_feedback(
        self, task_id: str, rating: Literal["good", "bad"], context: CallOrigin, comment: str | None = None
    ) -> TaskView:
        """Keep what the user thinks of a task's result; for the key that handed it in, or one of scope admin.

        Args:
            task_id: Id of the task, a UUID of version 4.
            rating: good or bad.
            comment: A remark in the user's own words.
        """
        task = await self._coordinator.get(validate_task_id(task_id))
        if not context.speaks_for(task.key_name):
            raise TaskException(
                "The task was handed in with another key; only that one, or one of scope admin, can rate its result.",
                {"task_id": task.id},
            )
        await self._tasks.add_feedback(task.id, rating, comment, self._clock(), key_name=context.key_name)
        return await self._view(task, with_result=False)

    async def get_server_info(self) -> dict[str, Any]:
        """Tell the version, the home folder, the database, the models with their state, and the queue."""
        return {**await self._server_info(), "queue_paused_at": await self._tasks.paused_at()}

    async def _submitted(self, request: TaskRequest, context: CallOrigin) -> TaskView:
        submission = request.submission(context.trace_id, context.key_name)
        await self._refuse_used_up([submission], context)
        task = await self._coordinator.submit(submission)
        context.concerns(task.id)
        if request.idempotency_key is None:  # it is new: nothing has been called for it, which need not be read
            return task_view(task, TokenTotals(calls=0), now=self._clock())
        return await self._view(task)

    async def _refuse_used_up(self, submissions: Sequence[Submission], context: CallOrigin) -> None:
        """Refuse tasks for which no budget is left; those that were handed in before are given back all the same."""
        try:
            await self._gate.refuse_used_up(context.key_name)
        except BudgetException:
            if not await self._tasks.has_keys([each.idempotency_key for each in submissions]):
                raise

    async def _queue(self) -> QueueView:
        counts = await self._tasks.counts()
        return QueueView(await self._tasks.paused_at(), counts[TaskStatus.QUEUED], counts[TaskStatus.RUNNING])

    async def _view(self, task: Task, *, with_result: bool = True) -> TaskView:
        totals = await self._calls.totals(task_id=task.id)
        view = task_view(task, totals, now=self._clock())
        return view if with_result else replace(view, result=None)


def add_gateway_tools(server: BaseMCPServer, tools: GatewayTools) -> None:
    """Register the gateway's tools."""
    server.add_tool(tools.submit_task, title="Submit a task")
    server.add_tool(tools.submit_tasks, title="Submit several tasks")
    server.add_tool(tools.get_task_status, title="Status of a task", read_only=True)
    server.add_tool(tools.get_task_result, title="Result of a task", read_only=True)
    server.add_tool(tools.wait_for_task, title="Wait for a task", read_only=True)
    server.add_tool(tools.list_tasks, title="List tasks", read_only=True)
    server.add_tool(tools.cancel_task, title="Cancel a task", destructive=True, idempotent=True)
    server.add_tool(tools.set_priority, title="Change the place of a waiting task", idempotent=True)
    server.add_tool(tools.record_feedback, title="Rate a result", idempotent=True)
    server.add_tool(tools.pause_queue, title="Pause the queue", idempotent=True, scope=Scope.ADMIN)
    server.add_tool(tools.resume_queue, title="Resume the queue", idempotent=True, scope=Scope.ADMIN)
    server.add_tool(tools.get_server_info, title="About the servers", read_only=True)


def _cursor(text: str) -> tuple[float, str]:
    created_at, _, task_id = text.partition(":")
    try:
        return float(created_at), validate_task_id(task_id)
    except ValueError as error:
        raise ValidationException("`before` must be the `next` of an earlier list_tasks answer.") from error


if __name__ == "__main__":
    import sys

    from tale.servers.bootstrap import run_role

    sys.exit(run_role("gateway"))
