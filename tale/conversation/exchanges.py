"""Which of tale's messages answers which of the user's; pure.

Several messages may stand before the first of their answers: of one client that does not wait, or of several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tale.conversation.kinds import (
    AMBIGUOUS,
    CHAT,
    CLARIFY,
    CONTROL,
    HAND_OFF,
    RESULT,
    STATUS,
    TASK,
    WHICH,
    WISH,
)
from tale.records import ConversationTurn, Task

ANSWERS: Final[Mapping[str | None, tuple[str, ...]]] = {  # by what a message was taken for
    CHAT: (CHAT, CLARIFY),
    TASK: (HAND_OFF, CLARIFY),
    STATUS: (STATUS,),
    CONTROL: (CONTROL, WHICH, STATUS, CLARIFY),
    WISH: (CONTROL,),
    AMBIGUOUS: (CLARIFY, CHAT),
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message of the user's, and what was said to it; None where nothing was."""

    asked: ConversationTurn
    answer: ConversationTurn | None = None


def exchanges(turns: Sequence[ConversationTurn], tasks: Sequence[Task] = ()) -> list[Exchange]:
    """The user's messages with their answers, both oldest first, as the turns are.

    An answer that tells of a task belongs to the message that the task came of: to none where that is not among `tasks`
    and several may be meant. Another one belongs to the latest unanswered message that was taken for what it answers.
    """
    keys = {task.id: task.idempotency_key for task in tasks}
    found: dict[int, Exchange] = {}
    for turn in turns:
        if turn.role == "user":
            found[turn.position] = Exchange(turn)
        elif turn.kind != RESULT:
            waiting = [each.asked for each in found.values() if each.answer is None]
            asked = _answered(turn, waiting, keys.get(turn.task_id or ""))
            if asked:
                found[asked.position] = Exchange(asked, turn)
    return list(found.values())


def said_before(
    text: str, turns: Sequence[ConversationTurn], tasks: Sequence[Task] = (), *, after: int | None = None
) -> Exchange | None:
    """What came of a message that may have been kept before; None where it was not.

    `after` is the last position that its sender knew by then. Without it an answered message is not the one.
    """
    same = [each for each in exchanges(turns, tasks) if each.asked.content == text]
    if after is not None:
        same = [each for each in same if each.asked.position > after]
    unanswered = [each for each in same if each.answer is None]
    candidates = unanswered if unanswered or after is None else same
    return candidates[-1] if candidates else None


def key_of(asked: ConversationTurn) -> str:
    """The idempotency key of the task that a message asks for."""
    return f"{asked.conversation_id}:{asked.position}"


def _answered(
    answer: ConversationTurn, waiting: Sequence[ConversationTurn], key: str | None
) -> ConversationTurn | None:
    """The message that an answer belongs to, of those that wait for one; `key` is that of the answer's task."""
    if key is not None:
        return next((asked for asked in waiting if key_of(asked) == key), None)
    fitting = [asked for asked in waiting if answer.kind in ANSWERS.get(asked.kind, ())] or waiting
    if answer.task_id and len(fitting) > 1:
        return None
    return fitting[-1] if fitting else None
