"""Checks what clients hand in, and makes tasks of it."""

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tale.acceptance import parse_expect
from tale.exceptions import TaleBaseException, ValidationException
from tale.models.pool import Pool
from tale.orchestration.checking import refuse_invalid
from tale.orchestration.task_prompt import messages_for
from tale.records import CallContext, ChatRequest, Task, TaskStatus
from tale.settings import Settings
from tale.validation import validate_task_text, validate_timeout_seconds

PRIORITY_RANGE: Final = (-100, 100)
MIN_ANSWER_TOKENS: Final = 64  # room for an answer without which a task is not worth starting
MAX_ANSWER_TOKENS: Final = 1_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks for when it hands in a task."""

    text: str
    priority: int = 0
    timeout_s: int | None = None
    max_output_tokens: int | None = None
    idempotency_key: str | None = None
    conversation_id: str | None = None
    trace_id: str | None = None
    expect: Mapping[str, Any] | None = None


class Intake:
    """Makes tasks of submissions; raises ValidationException for what cannot be done as it was asked for."""

    def __init__(self, settings: Settings, pool: Pool, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._pool = pool
        self._clock = clock

    async def accept(self, submissions: Sequence[Submission]) -> list[Task]:
        """The tasks, if all of them can be done."""
        made = [self._task(submission) for submission in submissions]
        await refuse_invalid([task.expect for task in made if task.expect])
        for task in made:
            await self._refuse_oversize(task)
        return made

    def _task(self, submission: Submission) -> Task:
        settings = self._settings
        low, high = PRIORITY_RANGE
        if not low <= submission.priority <= high:
            raise ValidationException(f"The priority {submission.priority} is out of range; use {low} to {high}.")
        limit = submission.max_output_tokens
        if limit is not None and not 1 <= limit <= MAX_ANSWER_TOKENS:
            raise ValidationException(f"The limit of output tokens must be from 1 to {MAX_ANSWER_TOKENS:,}.")
        timeout, expect = submission.timeout_s, submission.expect
        return Task(
            id=str(uuid.uuid4()),
            text=validate_task_text(submission.text),
            status=TaskStatus.QUEUED,
            created_at=self._clock(),
            priority=submission.priority,
            timeout_s=settings.task_timeout_s if timeout is None else validate_timeout_seconds(timeout),
            max_output_tokens=submission.max_output_tokens or settings.max_output_tokens,
            conversation_id=submission.conversation_id,
            idempotency_key=submission.idempotency_key,
            trace_id=submission.trace_id,
            expect=None if expect is None else json.dumps(parse_expect(expect)),
        )

    async def _refuse_oversize(self, task: Task) -> None:
        """Refuse what no context holds. A token is at least one byte, so most prompts need no counting."""
        room = self._settings.task_context_tokens - MIN_ANSWER_TOKENS
        messages = messages_for(task)
        if sum(len(message.content.encode()) for message in messages) <= room // 2:
            return
        request = ChatRequest(model="", messages=messages)
        try:
            tokens = await self._pool.count_tokens(request, CallContext(role="task", operation="count"))
        except (TaleBaseException, TimeoutError):
            logger.info("The prompt could not be counted now; it will be when the model is ready.")
            return
        if tokens is not None and tokens > room:
            raise ValidationException(
                f"The task has {tokens:,} tokens; the model's context holds {room:,} beside an answer. Shorten it.",
                {"input_tokens": tokens, "context_tokens": self._settings.task_context_tokens},
            )
