"""Checks what clients hand in, and makes tasks of it."""

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tale.acceptance import parse_expect
from tale.exceptions import TaleBaseException, ValidationException
from tale.models.pool import Pool
from tale.models.prompt_size import fewest_tokens
from tale.orchestration.checking import refuse_invalid
from tale.orchestration.task_prompt import messages_for
from tale.records import Attachment, CallContext, ChatRequest, NewTask, Task, TaskStatus
from tale.settings import Settings
from tale.validation import validate_task_id, validate_task_text, validate_timeout_seconds

PRIORITY_RANGE: Final = (-100, 100)
MIN_ANSWER_TOKENS: Final = 64  # room for an answer without which a task is not worth starting
MAX_ANSWER_TOKENS: Final = 1_000_000
MAX_DEADLINE_S: Final = 30 * 86_400
MAX_FILES: Final = 50
MAX_FILE_BYTES: Final = 1_000_000
MAX_NAME_CHARACTERS: Final = 255
MAX_AWAITED: Final = 100  # tasks that one may wait for

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
    deadline_s: int | None = None  # from now
    after: Sequence[str] = ()  # ids of tasks to wait for
    with_results: bool = False
    attachments: Sequence[Attachment] = ()
    key_name: str | None = None  # whose key hands it in


def new_task(submission: Submission, settings: Settings, *, now: float) -> NewTask:
    """The task that a submission asks for; raises ValidationException for what no server would take."""
    _refuse_bad_figures(submission)
    timeout, expect, deadline_s = submission.timeout_s, submission.expect, submission.deadline_s
    task = Task(
        id=str(uuid.uuid4()),
        text=validate_task_text(submission.text),
        status=TaskStatus.QUEUED,
        created_at=now,
        priority=submission.priority,
        timeout_s=settings.task_timeout_s if timeout is None else validate_timeout_seconds(timeout),
        max_output_tokens=submission.max_output_tokens or settings.max_output_tokens,
        conversation_id=submission.conversation_id,
        idempotency_key=submission.idempotency_key,
        trace_id=submission.trace_id,
        expect=None if expect is None else json.dumps(parse_expect(expect)),
        deadline_at=None if deadline_s is None else now + deadline_s,
        with_results=submission.with_results,
        attached_files=len(submission.attachments),
        key_name=submission.key_name,
    )
    return NewTask(task, _awaited_ids(submission.after), _checked_files(submission.attachments))


def refuse_bad_priority(priority: int) -> None:
    """Raises ValidationException for a priority that no task may have."""
    low, high = PRIORITY_RANGE
    if not low <= priority <= high:
        raise ValidationException(f"The priority {priority} is out of range; use {low} to {high}.")


def _refuse_bad_figures(submission: Submission) -> None:
    refuse_bad_priority(submission.priority)
    limit, deadline_s = submission.max_output_tokens, submission.deadline_s
    if limit is not None and not 1 <= limit <= MAX_ANSWER_TOKENS:
        raise ValidationException(f"The limit of output tokens must be from 1 to {MAX_ANSWER_TOKENS:,}.")
    if deadline_s is not None and not 1 <= deadline_s <= MAX_DEADLINE_S:
        raise ValidationException(f"The deadline must be from 1 to {MAX_DEADLINE_S:,} seconds from now.")
    if submission.with_results and not submission.after:
        raise ValidationException("There are no results to go with the task: name in `after` what it waits for.")


class Intake:
    """Makes tasks of submissions; raises ValidationException for what cannot be done as it was asked for."""

    def __init__(self, settings: Settings, pool: Pool, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._pool = pool
        self._clock = clock

    async def accept(self, submissions: Sequence[Submission]) -> list[NewTask]:
        """The tasks, if all of them can be done."""
        made: list[NewTask] = []
        for each in submissions:
            named = replace(each, after=[_earlier(name, made) for name in each.after])
            made.append(new_task(named, self._settings, now=self._clock()))
        await refuse_invalid([new.task.expect for new in made if new.task.expect])
        for new in made:
            await self._refuse_oversize(new)
        return made

    async def _refuse_oversize(self, new: NewTask) -> None:
        """Refuse what no context holds. A token is at least one byte, so most prompts need no counting."""
        room = self._settings.task_context_tokens - MIN_ANSWER_TOKENS
        messages = messages_for(new.task, files=new.attachments)
        if sum(len(message.content.encode()) for message in messages) <= room // 2:
            return
        request = ChatRequest(model="", messages=messages)
        counted, told = await self._counted(request), await self._told_context_tokens()
        if counted is None and told is None:
            return
        tokens = fewest_tokens(request) if counted is None else counted
        context_tokens = told or self._settings.task_context_tokens
        room = context_tokens - MIN_ANSWER_TOKENS
        if tokens > room:
            raise ValidationException(
                f"The task has {'at least about ' if counted is None else ''}{tokens:,} tokens"
                f"{' with its files' if new.attachments else ''}; "
                f"the model's context holds {room:,} beside an answer. Shorten it.",
                {"input_tokens": tokens, "context_tokens": context_tokens},
            )

    async def _counted(self, request: ChatRequest) -> int | None:
        """The tokens of a prompt; None where the engine cannot tell, or cannot tell now."""
        try:
            return await self._pool.count_tokens(request, CallContext(role="task", operation="count"))
        except (TaleBaseException, TimeoutError):
            logger.info("The prompt could not be counted now; it will be when the model is ready.")
            return None

    async def _told_context_tokens(self) -> int | None:
        """What the context of the task model holds as far as its engine tells; the settings may know nothing of it."""
        models = (await self._pool.status()).models
        task = next((model for model in models if model.role == "task"), models[0] if models else None)
        return task.context_tokens if task else None


def _earlier(name: str, made: Sequence[NewTask]) -> str:
    """The id of a task that is named by its place among those handed in together (#1 is the first), or the name."""
    if not name.startswith("#"):
        return name
    number = int(name[1:]) if name[1:].isdecimal() else 0
    if not 1 <= number <= len(made):
        raise ValidationException(f"{name[:20]!r} names no task that comes earlier in the same call.")
    return made[number - 1].task.id


def _awaited_ids(after: Sequence[str]) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(validate_task_id(task_id) for task_id in after))
    if len(ids) > MAX_AWAITED:
        raise ValidationException(f"A task can wait for {MAX_AWAITED} others at most, not for {len(ids)}.")
    return ids


def _checked_files(files: Sequence[Attachment]) -> tuple[Attachment, ...]:
    if len(files) > MAX_FILES:
        raise ValidationException(f"A task can have {MAX_FILES} files at most, not {len(files)}.")
    for file in files:
        if not 0 < len(file.name) <= MAX_NAME_CHARACTERS or not file.name.isprintable():
            raise ValidationException(
                f"The name of an attached file must have 1 to {MAX_NAME_CHARACTERS} printable characters."
            )
        if "\x00" in file.text:
            raise ValidationException(f"{file.name} is no text: it holds NUL bytes; only text files can be attached.")
        if (size := len(file.text.encode("utf-8", "surrogatepass"))) > MAX_FILE_BYTES:
            raise ValidationException(
                f"{file.name} has {size:,} bytes; a file of at most {MAX_FILE_BYTES:,} can be attached.",
                {"bytes": size, "limit": MAX_FILE_BYTES},
            )
    return tuple(files)
