"""A task as programs and people see it: its row, with ages and the sums over its model calls.

The classes have no slots: the MCP SDK reads the schema of a tool's answer off the class, and takes slots for defaults.
"""

import json
from dataclasses import dataclass
from typing import Any

from tale.records import Task, TokenTotals


@dataclass(frozen=True)
class UsageView:
    """Tokens over all model calls of the task; null where no engine reported them."""

    calls: int
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None


@dataclass(frozen=True)
class TimingsView:
    """Seconds over the calls that did the task's work; the time to first token is the first such call's."""

    queue_s: float | None
    load_s: float | None
    prefill_s: float | None
    decode_s: float | None
    time_to_first_token_s: float | None


@dataclass(frozen=True)
class TaskView:
    """One task. Times are Unix seconds, durations seconds, unknown values null; `waits_for` counts unfinished tasks."""

    id: str
    text: str
    status: str
    priority: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    age_s: float
    duration_s: float | None
    attempt: int
    failures: int
    timeout_s: int
    max_output_tokens: int | None
    expect: dict[str, Any] | None
    deadline_at: float | None
    waits_for: int
    attached_files: int
    model: str | None
    role: str | None
    route_reason: str | None
    result: str | None
    finish_reason: str | None
    error: str | None
    error_class: str | None
    usage: UsageView
    timings: TimingsView


@dataclass(frozen=True)
class TaskList:
    """A page of tasks, newest first; `next` is the cursor of the following page, null on the last one."""

    tasks: list[TaskView]
    next: str | None


@dataclass(frozen=True)
class TaskReceipt:
    """A task that was stored."""

    id: str
    status: str


@dataclass(frozen=True)
class TaskReceipts:
    """The tasks of one call, in its order."""

    tasks: list[TaskReceipt]


@dataclass(frozen=True)
class QueueView:
    """How the queue stands; `paused_at` in Unix seconds, null while tasks are begun."""

    paused_at: float | None
    queued: int
    running: int


def task_view(task: Task, totals: TokenTotals, *, now: float) -> TaskView:
    """Put a task and its totals together; `now` in Unix seconds."""
    started, ended = task.started_at, task.ended_at
    return TaskView(
        id=task.id,
        text=task.text,
        status=task.status.value,
        priority=task.priority,
        created_at=task.created_at,
        started_at=started,
        ended_at=ended,
        age_s=round(max(0.0, now - task.created_at), 3),
        duration_s=None if started is None else round(max(0.0, (ended or now) - started), 3),
        attempt=task.attempt,
        failures=task.failures,
        timeout_s=task.timeout_s,
        max_output_tokens=task.max_output_tokens,
        expect=json.loads(task.expect) if task.expect else None,
        deadline_at=task.deadline_at,
        waits_for=task.open_dependencies,
        attached_files=task.attached_files,
        model=task.model,
        role=task.role,
        route_reason=task.route_reason,
        result=task.result,
        finish_reason=task.finish_reason,
        error=task.error,
        error_class=task.error_class,
        usage=UsageView(totals.calls, totals.input_tokens, totals.output_tokens, totals.cached_tokens),
        timings=TimingsView(
            totals.queue_s, totals.load_s, totals.prefill_s, totals.decode_s, totals.time_to_first_token_s
        ),
    )
