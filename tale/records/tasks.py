"""Tasks, the attempts at them, and the files that come with them."""

from dataclasses import dataclass
from enum import StrEnum


class TaskStatus(StrEnum):
    """Where a task stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the task will never change again."""
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class Task:
    """A task as its row tells it; times are Unix seconds."""

    id: str
    text: str
    status: TaskStatus
    created_at: float
    priority: int = 0  # larger is more urgent
    timeout_s: int = 0
    max_output_tokens: int | None = None
    attempt: int = 0  # of the claim in force; fences late completions
    failures: int = 0  # attempts that failed or died
    conversation_id: str | None = None
    idempotency_key: str | None = None
    trace_id: str | None = None
    started_at: float | None = None  # of the latest attempt
    ended_at: float | None = None
    cancel_requested_at: float | None = None
    model: str | None = None
    role: str | None = None
    route_reason: str | None = None
    result: str | None = None  # whole when completed, partial otherwise
    finish_reason: str | None = None
    error_class: str | None = None
    error: str | None = None
    expect: str | None = None  # JSON: what the answer is checked against
    deadline_at: float | None = None
    open_dependencies: int = 0  # tasks it waits for that have not completed
    with_results: bool = False  # the results of those tasks are part of its prompt
    attached_files: int = 0
    key_name: str | None = None  # whose key handed it in


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of text that comes with a task."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that is to be stored, the ids of those it waits for, and the files that come with it."""

    task: Task
    after: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a task."""

    task_id: str
    number: int
    started_at: float
    ended_at: float | None = None
    outcome: str | None = None  # completed, failed, cancelled, handed_back, lost; None while it runs
    model: str | None = None
    error_class: str | None = None
    error: str | None = None
