"""A task as clients hand it in over MCP.

The classes have no slots: the MCP SDK reads the schema of a tool off the class, and takes slots for defaults.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from pydantic import ConfigDict

from tale.exceptions import ValidationException
from tale.orchestration.intake import Submission
from tale.records import Attachment

MAX_KEY_CHARACTERS: Final = 200
MAX_TASKS: Final = 500  # of one call of submit_tasks


@dataclass(frozen=True)
class AttachedFile:
    """A text file that the model gets to read with the task."""

    name: str
    text: str


@dataclass(frozen=True)
class TaskRequest:
    """One task of several, with what submit_task takes; `after` may name earlier ones of the same call as #1, #2 …"""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    text: str
    priority: int = 0
    timeout_s: int | None = None
    max_output_tokens: int | None = None
    idempotency_key: str | None = None
    conversation_id: str | None = None
    expect: dict[str, Any] | None = None
    deadline_s: int | None = None
    after: list[str] = field(default_factory=list[str])
    with_results: bool = False
    attachments: list[AttachedFile] = field(default_factory=list[AttachedFile])

    def submission(self, trace_id: str | None, key_name: str | None = None) -> Submission:
        """The same for the coordinator; raises ValidationException for a key that cannot be one."""
        key = self.idempotency_key
        if key is not None and not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise ValidationException(f"The idempotency key must have 1 to {MAX_KEY_CHARACTERS} characters.")
        return Submission(
            text=self.text,
            priority=self.priority,
            timeout_s=self.timeout_s,
            max_output_tokens=self.max_output_tokens,
            idempotency_key=key,
            conversation_id=self.conversation_id,
            trace_id=trace_id,
            expect=self.expect,
            deadline_s=self.deadline_s,
            after=self.after,
            with_results=self.with_results,
            attachments=[Attachment(file.name, file.text) for file in self.attachments],
            key_name=key_name,
        )


def submissions_of(
    requests: Sequence[TaskRequest], trace_id: str | None, key_name: str | None = None
) -> list[Submission]:
    """Those of one call; raises ValidationException naming the first that is wrong."""
    if not 1 <= len(requests) <= MAX_TASKS:
        raise ValidationException(f"One call takes 1 to {MAX_TASKS} tasks, not {len(requests)}.")
    return [request.submission(trace_id, key_name) for request in requests]
