"""What the gateway offers beside its tools: tasks and today's figures as resources, and prompts."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tale.mcp.base_server import BaseMCPServer
from tale.monitoring.evaluation import standings
from tale.monitoring.evidence import Evidence
from tale.monitoring.targets import Standing, Target
from tale.orchestration.task_events import TaskEvent, TaskEvents
from tale.orchestration.task_view import TaskView, UsageView, task_view
from tale.records import Task
from tale.storage.call_store import CallStore
from tale.storage.task_store import TaskStore
from tale.validation import validate_task_id

TASK_URI: Final = "tale://tasks/{task_id}"
TODAY_URI: Final = "tale://stats/today"
TARGETS_URI: Final = "tale://targets"
SUGGESTED: Final = 20  # ids of tasks, the newest

DELEGATE: Final = """\
{goal}

Have this done by tale, which runs language models on the user's own machine:
1. Cut it into tasks that can be done one by one, each with all it needs in its own words: a task sees nothing of this
   conversation and uses no tools.
2. Hand in each with submit_task, and give it an idempotency_key of your own, so that a repeated call does not do it
   twice.
3. Call wait_for_task with each id until the task is completed, failed or cancelled.
4. Check each result yourself before you rely on it, say so with record_feedback, and put the results together."""

REVIEW: Final = """\
A language model was given this task:

<task>
{text}
</task>

Its answer ({status}):

<answer>
{answer}
</answer>

Check the answer against the task: is it right, is it complete, does it keep to what was asked? Name each fault with the
words that it is about. Then call record_feedback for the task {task_id} with `good` or `bad` and one sentence of
comment."""

Lookup = Callable[[str], Awaitable[Task]]


@dataclass(frozen=True)
class Today:
    """The figures of a day; `since` is its local midnight in Unix seconds."""

    date: str
    since: float
    tasks: Mapping[str, int]  # handed in today, by how they stand now
    usage: UsageView


@dataclass(frozen=True)
class Targets:
    """All targets at a moment, in Unix seconds."""

    at: float
    targets: Sequence[Standing]


class GatewayResources:
    """The functions behind the gateway's resources and prompts.

    `lookup` gives a task or raises TaskException, `targets` those of this machine; `evidence` is read in a thread.
    """

    def __init__(
        self,
        lookup: Lookup,
        *,
        tasks: TaskStore,
        calls: CallStore,
        evidence: Evidence,
        targets: Callable[[], Awaitable[Sequence[Target]]],
        clock: Callable[[], float],
    ) -> None:
        self._lookup = lookup
        self._tasks = tasks
        self._calls = calls
        self._evidence = evidence
        self._targets = targets
        self._clock = clock

    async def task(self, task_id: str) -> TaskView:
        """A task as it stands, with its result once there is one. Subscribers are told of each change of its status."""
        task = await self._lookup(validate_task_id(task_id))
        return task_view(task, await self._calls.totals(task_id=task.id), now=self._clock())

    async def stats_today(self) -> Today:
        """Today's tasks by status and the tokens used, from midnight on the server's clock."""
        midnight = datetime.fromtimestamp(self._clock()).replace(hour=0, minute=0, second=0, microsecond=0)
        since = midnight.timestamp()
        counts = await self._tasks.counts(since=since)
        totals = await self._calls.totals(since=since)
        usage = UsageView(totals.calls, totals.input_tokens, totals.output_tokens, totals.cached_tokens)
        return Today(midnight.date().isoformat(), since, {key.value: count for key, count in counts.items()}, usage)

    async def targets(self) -> Targets:
        """What the service is measured against, and how each target stands by the values of its window."""
        now, wanted = self._clock(), await self._targets()
        return Targets(now, await asyncio.to_thread(standings, self._evidence, wanted, now=now))

    async def delegate_work(self, goal: str) -> str:
        """Have work done by the models of this machine, task by task.

        Args:
            goal: What is to be reached, in plain words.
        """
        return DELEGATE.format(goal=goal)

    async def review_result(self, task_id: str) -> str:
        """Check the result of a task against what was asked, and rate it.

        Args:
            task_id: Id of the task, a UUID of version 4.
        """
        view = await self.task(task_id)
        answer = view.result or view.error or "(none)"
        return REVIEW.format(text=view.text, status=view.status, answer=answer, task_id=view.id)

    async def suggest_task_ids(self, typed: str) -> list[str]:
        """Ids of the newest tasks that begin with what was typed."""
        return [task.id for task in await self._tasks.list(limit=SUGGESTED) if task.id.startswith(typed)]


def add_gateway_resources(server: BaseMCPServer, resources: GatewayResources) -> None:
    """Register the gateway's resources, prompts and suggestions."""
    server.add_resource(TASK_URI, resources.task, title="A task")
    server.add_resource(TODAY_URI, resources.stats_today, title="Figures of today")
    server.add_resource(TARGETS_URI, resources.targets, title="Targets and how they stand")
    server.add_prompt(resources.delegate_work, title="Have work done by tale")
    server.add_prompt(resources.review_result, title="Check a task's result")
    server.add_completion(TASK_URI, "task_id", resources.suggest_task_ids)
    server.add_completion("review_result", "task_id", resources.suggest_task_ids)


def tell_changes(server: BaseMCPServer, events: TaskEvents) -> None:
    """Tell the clients that subscribed to a task, or to today's figures, when a task takes another status."""

    def tell(event: TaskEvent) -> None:
        server.resource_updated(TASK_URI.format(task_id=event.task_id))
        server.resource_updated(TODAY_URI)

    events.watch(tell)
