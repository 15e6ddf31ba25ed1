"""What a model is told of a task, and why it is the one that is asked; pure."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tale.records import Attachment, Attempt, ChatRequest, Message, Task

TASK_INSTRUCTIONS: Final = (
    "You carry out the user's task completely and at once. When the task asks for code, answer with the code, "
    "in a fenced block. Keep explanations short."
)
JSON_INSTRUCTIONS: Final = "You carry out the user's task. Answer with JSON alone, which fits this JSON schema:\n"
CHECK_FAILED: Final = "CheckFailed"  # the error class of an attempt whose answer failed a check
SECOND_TRY: Final = "An earlier answer to this task was not accepted. Take care to get it right."
TASK_TEMPERATURE: Final = 0.2  # small models wander off at their engines' defaults


def request_for(
    task: Task,
    *,
    max_output_tokens: int,
    earlier: Sequence[Attempt] = (),
    files: Sequence[Attachment] = (),
    results: Sequence[Task] = (),
) -> ChatRequest:
    """The request of an attempt: `earlier` are the attempts before it, `results` the tasks that it waited for."""
    return ChatRequest(
        model="",
        messages=messages_for(task, earlier=earlier, files=files, results=results),
        max_tokens=task.max_output_tokens or max_output_tokens,
        temperature=TASK_TEMPERATURE,
        json_schema=schema_of(task),
    )


def messages_for(
    task: Task,
    *,
    earlier: Sequence[Attempt] = (),
    files: Sequence[Attachment] = (),
    results: Sequence[Task] = (),
) -> tuple[Message, ...]:
    """The instructions, then what comes with the task, then the task.

    A pattern that the answer has to match is not told: it may be the answer.
    """
    schema = schema_of(task)
    instructions = [TASK_INSTRUCTIONS if schema is None else f"{JSON_INSTRUCTIONS}{json.dumps(schema)}"]
    if failed := _failed_checks(earlier):
        reason = failed[-1].error or ""
        instructions.append(SECOND_TRY if ": regex:" in reason else f"{SECOND_TRY} {reason}")
    given = [f'<file name="{file.name}">\n{file.text}\n</file>' for file in files]
    given += [f"<result>\n<task>{done.text}</task>\n{done.result or ''}\n</result>" for done in results]
    return (Message("system", "\n".join(instructions)), Message("user", "\n\n".join([*given, task.text])))


def schema_of(task: Task) -> dict[str, Any] | None:
    """The JSON schema that the answer has to fit, if any."""
    return json.loads(task.expect).get("json_schema") if task.expect else None


def route_reason_for(earlier: Sequence[Attempt]) -> str | None:
    """Why the larger model is asked again, where that is because of a check."""
    failed = _failed_checks(earlier)
    return f"the answer of {failed[-1].model or 'another model'} failed its check" if failed else None


def _failed_checks(earlier: Sequence[Attempt]) -> list[Attempt]:
    return [attempt for attempt in earlier if attempt.error_class == CHECK_FAILED]
