"""What an attempt asks of a model by what is expected of it, and how an answer that was cut too early goes on; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tale.learning.prompts import instruction_of
from tale.orchestration.plan_keys import asks_for_plan
from tale.orchestration.task_prompt import CHECK_FAILED, TASK_INSTRUCTIONS, route_reason_for
from tale.predictions import Prediction, TaskQuestion
from tale.records import Attempt, CallContext, ChatRequest, Message, Priority, Reply, Task, Usage

GO_ON: Final = "You were cut off. Go on exactly where you stopped, and repeat nothing."
CUT: Final = "length"  # the finish reason of an answer that reached its limit
FENCE: Final = "```"
OPENING_FENCE: Final = re.compile(r"\s*```[^\n`]*\n")
BEGINNING_CHARACTERS: Final = 240  # of what follows a cut: where models repeat themselves
LEAST_OVERLAP: Final = 8  # characters that are no chance
LOOP_CHARACTERS: Final = 60  # of an answer's end, which a model that goes round in circles has written before
LOOP_TIMES: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """The request of an attempt and its context. The answer may have `limit_tokens`, by the user's or tale's limit."""

    request: ChatRequest
    context: CallContext
    limit_tokens: int


def question_of(
    task: Task, request: ChatRequest, *, earlier: Sequence[Attempt], routing: Literal["auto", "off"]
) -> TaskQuestion:
    """What is asked before an attempt; plans, and answers after one that failed its check, are the task model's."""
    is_settled = routing == "off" or asks_for_plan(task) or route_reason_for(earlier) is not None
    return TaskQuestion(
        text=task.text,
        limit_tokens=request.max_tokens or 1,
        has_check=task.expect is not None,
        has_schema=request.json_schema is not None,
        role="task" if is_settled else None,
        again=sum(attempt.error_class == CHECK_FAILED for attempt in earlier) > 1,
    )


def planned(task: Task, request: ChatRequest, prediction: Prediction | None, *, earlier: Sequence[Attempt]) -> Plan:
    """The request, with the limits that were learned, to the model that was chosen; without a prediction as it is."""
    limit = request.max_tokens or 1
    reason = route_reason_for(earlier)
    if prediction is not None:
        cap = limit if request.json_schema else min(limit, prediction.cap_tokens or limit)
        request = replace(request, max_tokens=cap, messages=_instructed(request.messages, prediction))
        reason = reason or (prediction.reason if prediction.role == "ux" else None)
    context = CallContext(
        role="task" if prediction is None else prediction.role,
        operation="execute",
        priority=Priority.TASK,
        task_id=task.id,
        attempt=task.attempt,
        conversation_id=task.conversation_id,
        trace_id=task.trace_id,
        key_name=task.key_name,
        route_reason=reason,
    )
    return Plan(request, context, limit)


def continuation(plan: Plan, reply: Reply) -> ChatRequest | None:
    """What is asked after an answer that was cut at the learned limit; None where there is nothing to go on with.

    An answer that goes round in circles would do so up to the user's limit.
    """
    request = plan.request
    left = plan.limit_tokens - (reply.usage.output_tokens or request.max_tokens or 0)
    if reply.finish_reason != CUT or (request.max_tokens or 0) >= plan.limit_tokens or left <= 0 or not reply.text:
        return None
    if goes_in_circles(reply.text):
        return None
    messages = (*request.messages, Message("assistant", reply.text), Message("user", GO_ON))
    return replace(request, messages=messages, max_tokens=left)


def joined(first: Reply, rest: Reply, text: str) -> Reply:
    """Two replies as one, whose text that is; what one of them did not count is unknown of both."""
    counts = {name: _sum(getattr(first.usage, name), getattr(rest.usage, name)) for name in Usage.__slots__}
    return replace(rest, text=text, usage=Usage(**counts))


class Seam:
    """Joins what follows a cut to what was written before: a block of code goes on, and nothing is said twice."""

    def __init__(self, before: str) -> None:
        self._before = before
        self._held: str | None = ""

    def pass_on(self, piece: str) -> str:
        """What is to be told of the next piece; the beginning is held until it can be judged."""
        if self._held is None:
            return piece
        self._held += piece
        return "" if len(self._held) < BEGINNING_CHARACTERS else self.end()

    def end(self) -> str:
        """What is held still."""
        held, self._held = self._held, None
        return "" if held is None else following(self._before, held)


def following(before: str, beginning: str) -> str:
    """The beginning of what follows, without a second opening of the same block of code, and without an overlap.

    >>> following("```python\\nx = 1\\ny =", "```python\\n 2\\n```")
    ' 2\\n```'
    >>> following("the quick brown fox", "quick brown fox jumps")
    ' jumps'
    """
    if before.count(FENCE) % 2 and (opening := OPENING_FENCE.match(beginning)):
        beginning = beginning[opening.end() :]
    for size in range(min(len(before), len(beginning)), LEAST_OVERLAP - 1, -1):
        if before.endswith(beginning[:size]):
            return beginning[size:]
    return beginning


def goes_in_circles(text: str) -> bool:
    """Whether the end of a text has been written several times before.

    >>> goes_in_circles("It is so. " * 50), goes_in_circles("It is so. And so on. " + "x" * 300)
    (True, True)
    >>> goes_in_circles(" ".join(map(str, range(500)))), goes_in_circles("ha")
    (False, False)
    """
    end = text.rstrip()[-LOOP_CHARACTERS:]
    return len(end) == LOOP_CHARACTERS and text.count(end) >= LOOP_TIMES


def _instructed(messages: Sequence[Message], prediction: Prediction) -> Sequence[Message]:
    """The messages with the instructions that were learned in place of a task's own, which other ones stay beside."""
    told = instruction_of(prediction.variant, prediction.stated_tokens)
    first, *others = messages
    if told is None or not first.content.startswith(TASK_INSTRUCTIONS):
        return messages
    return (replace(first, content=told + first.content.removeprefix(TASK_INSTRUCTIONS)), *others)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
